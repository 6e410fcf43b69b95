"""MRTD while a TD is built: a running SHA-384, as a value."""

from __future__ import annotations

import hashlib

BLOCK_BYTES = 128


class Measurement:
    """What has been measured so far.  Never changed: `extended` gives a new one.  Equal if the digests are."""

    __slots__ = ("_hasher", "name")

    def __init__(self, hasher: hashlib._Hash | None = None) -> None:
        self._hasher = hasher if hasher is not None else hashlib.sha384()
        self.name = self._hasher.hexdigest()  # how a trace shows it

    def extended(self, operation: bytes, gpa: int, data: bytes = b"") -> Measurement:
        """With one more block, the operation's name at 0 and the GPA at 16, and the data behind it."""
        hasher = self._hasher.copy()
        hasher.update((operation.ljust(16, b"\0") + gpa.to_bytes(8, "little")).ljust(BLOCK_BYTES, b"\0") + data)
        return Measurement(hasher)

    def digest(self) -> bytes:
        """48 bytes."""
        return self._hasher.digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Measurement) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)
