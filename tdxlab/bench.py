"""Benchmarks, as ratios measured in one run: seconds alone would tell of the computer.

python -m tdxlab.bench replay FILE...
"""

from __future__ import annotations

import gzip
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tdxlab.replay import replay

REPEATS = 5
REPLAY_LIMIT = 6.0


def measure(ours: Callable[[], object], yardstick: Callable[[], object], repeats: int = REPEATS) -> dict[str, float]:
    """Processor seconds of both, in turns so that both have the same neighbours: the medians, and of their ratios."""
    pairs = [(_seconds(yardstick), _seconds(ours)) for _ in range(repeats)]
    return {
        "yardstick": statistics.median(theirs for theirs, _ in pairs),
        "ours": statistics.median(mine for _, mine in pairs),
        "ratio": statistics.median(mine / theirs for theirs, mine in pairs),
    }


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def parsed(files: Sequence[Path]) -> list[Any]:
    """The yardstick of a replay: its lines as JSON, one by one, and the operands of its calls as numbers."""
    numbers = []
    for file in files:
        raw = file.read_bytes()
        for text in (gzip.decompress(raw) if file.suffix == ".gz" else raw).decode().splitlines():
            word, *operands = str(json.loads(text).get("cmd", "-")).split()
            if word.startswith(("TDH.", "TDG.")):
                numbers.append([int(operand, 16) for operand in operands])
    return numbers


def bench_replay(files: Sequence[Path], repeats: int = REPEATS) -> dict[str, float]:
    """A whole replay against reading the same lines."""
    return measure(lambda: replay(files), lambda: parsed(files), repeats) | {"limit": REPLAY_LIMIT}


def main(argv: Sequence[str]) -> int:
    """Print one benchmark as JSON.  1 if it is over its limit."""
    if len(argv) < 2 or argv[0] != "replay":
        print(__doc__, file=sys.stderr)
        return 2
    row = bench_replay([Path(file) for file in argv[1:]])
    print(json.dumps({"benchmark": argv[0], "files": argv[1:], **row}))
    return int(row["ratio"] > row["limit"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
