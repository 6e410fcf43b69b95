"""Which tdxlab this is, to the letter: results of two of them are not put into one table."""

from __future__ import annotations

import hashlib
from functools import cache

from tdxlab.data import HERE, folder


@cache
def version() -> str:
    """The begin of a digest of all code, and of the facts in data/: "sha256:1f3a90bc"."""
    digest = hashlib.sha256()
    for place, ending in ((HERE, "py"), (folder("data"), "csv")):
        for path in sorted(place.rglob(f"*.{ending}")):
            digest.update(path.relative_to(place).as_posix().encode() + b"\0" + path.read_bytes())
    return f"sha256:{digest.hexdigest()[:8]}"
