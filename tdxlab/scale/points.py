"""The points of a sweep, from a file that names options of a boot with one value each, or with a list of them.

    memory = "64M"                        # for all
    tds = [1, 4, 10]                      # each of these
    dpamt_lock = ["opportunistic", "v6"]
    seeds = 100                           # seed 0 to 99; "100..199" are the next hundred

The points are all combinations, in the order of the lines: the last line's values change fastest.
"""

from __future__ import annotations

import inspect
import itertools
import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

Scalar = str | int | float | bool
Point = dict[str, Scalar]
Kinds = Mapping[str, tuple[type, ...]]
"""{option: the types that it takes}"""

MOST = 1_000_000
"""More points are a mistake."""
WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
SEEDS = f"seeds is a number from 1 to {MOST:,}, or the first and the last, of 9 digits at most, as in '100..199'"


def read(path: Path, options: Callable[..., Any]) -> list[Point]:
    """The points of a file.  options: takes those of a point, or raises ValueError with a sentence.

    Raises OSError, and ValueError with a sentence.
    """
    try:
        found = points(tomllib.loads(path.read_text(encoding="utf-8")), kinds(options))
        for point in found:
            options(**point)
        return found
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text") from None
    except (ValueError, RecursionError) as wrong:
        raise ValueError(f"{path}: {wrong}") from None


def kinds(options: Callable[..., Any]) -> Kinds:
    """What it takes, by the hints of its parameters."""
    hints = get_type_hints(options)
    return {name: get_args(hints[name]) or (hints[name],) for name in inspect.signature(options).parameters}


def points(spec: Mapping[str, Any], kinds: Kinds) -> list[Point]:
    """All combinations of what a spec says.  Raises ValueError with a sentence."""
    axes: dict[str, Sequence[Scalar]] = {}
    for key, given in spec.items():
        name = "seed" if key == "seeds" else key
        if name not in kinds:
            raise ValueError(f"{key!r} is no option of a sweep, which are {', '.join(kinds)} and seeds")
        if name in axes:
            raise ValueError("seed and seeds are the same option")
        axes[name] = _seeds(given) if key == "seeds" else given if isinstance(given, list) else [given]
    if not axes:
        raise ValueError("no option is given; one is enough, as in seeds = 100")
    if math.prod(map(len, axes.values())) > MOST:
        raise ValueError(f"these are more than {MOST:,} points")
    for name, values in axes.items():
        _check(name, values, kinds[name])
    return [dict(zip(axes, chosen, strict=True)) for chosen in itertools.product(*axes.values())]


def _seeds(given: object) -> range:
    found = re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", given) if isinstance(given, str) else None
    first, last = map(int, found.groups()) if found else (0, given - 1 if type(given) is int else -1)
    if last < first or not (found or last < MOST):
        raise ValueError(f"{SEEDS}, not {given!r}")
    return range(first, last + 1)


def _check(name: str, values: Sequence[Scalar], kinds: tuple[type, ...]) -> None:
    if not values:
        raise ValueError(f"{name} is an empty list")
    for value in values:
        whole_for_any = type(value) is int and float in kinds
        if not (type(value) in kinds or whole_for_any) or not str(value).isprintable():
            takes = " or ".join(WORDS[kind] for kind in kinds if kind in WORDS)
            raise ValueError(f"{name} takes {takes}, not {value!r}")
    if len(set(values)) < len(values):
        raise ValueError(f"{name} has a value twice")
