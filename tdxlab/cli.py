"""The command line: how the answer of a command, or its failure, is told.

Every command gives a result as data (`--json`) and as text, and an exit code: see `parser.EXITS`.  What takes time to
load is loaded by `main`, which hears Ctrl-C.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from argparse import Namespace

    from tdxlab.commands import Answer

PATIENCE_S = 3.0
"""So long nobody wonders."""
INTERRUPTED = 130
"""What a shell tells of whoever ends by Ctrl-C."""


@contextmanager
def _says_that_it_works(args: Namespace) -> Iterator[None]:
    """One line on stderr after a while, where a command that takes its time has said nothing yet."""
    import threading

    told = f"tdxlab: {args.command} is at work ({args.takes}) ..."
    timer = threading.Timer(PATIENCE_S, lambda: print(told, file=sys.stderr, flush=True))
    timer.daemon = True
    if args.takes and not (args.bar and sys.stderr.isatty()):
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _in_own_file(wrong: BaseException) -> str | None:
    """Where a reader's own design, which lies outside the package, went wrong; None for an error of the lab."""
    import traceback

    ours = os.path.dirname(__file__)
    frames = [f for f in traceback.extract_tb(wrong.__traceback__) if f.filename.endswith(".py")]
    own = [f for f in frames if not f.filename.startswith((ours, sys.prefix, sys.base_prefix))]
    return f"{own[-1].filename} line {own[-1].lineno}" if own else None


def _of_own_design(args: Namespace, wrong: BaseException) -> str | None:
    """Where the lab went wrong with a reader's own design, which then is why; None without one."""
    import traceback

    texts = [text for text in vars(args).values() if isinstance(text, str)]
    own = [part for text in texts for part in text.split(",") if part.endswith(".py")]
    if not own:
        return None
    last = traceback.extract_tb(wrong.__traceback__)[-1]
    return f"what {', '.join(own)} registers does not work, at {last.filename} line {last.lineno}"


def main(argv: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        return _run(argv, out or sys.stdout)
    except KeyboardInterrupt:
        print("tdxlab: interrupted", file=sys.stderr)
        return INTERRUPTED


def _run(argv: Sequence[str] | None, out: TextIO) -> int:
    import json

    from tdxlab.parser import check_use, parser

    # where a run ends early, what was about to run is not awaited any more
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    try:
        args = parser().parse_args(argv)
        with _says_that_it_works(args):
            check_use(args)
            answer: Answer = args.run(args)
        data, text, code = answer
        print(json.dumps(data, default=str) if args.json else text, file=out, flush=True)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as wrong:
        print(f"tdxlab: {wrong.filename or 'output'}: {wrong.strerror or wrong}", file=sys.stderr)
        return 2
    except MemoryError:
        print("tdxlab: that takes more memory than this process may have; ask for less at a time", file=sys.stderr)
        return 2
    except ValueError as wrong:
        place = _in_own_file(wrong)
        print(f"tdxlab: {place + ': ' if place else ''}{wrong}", file=sys.stderr)
        return 2
    except Exception as wrong:
        place = _in_own_file(wrong) or _of_own_design(args, wrong)
        if place is None:
            raise
        hint = " (an `await` is missing?)" if "coroutine" in str(wrong) else ""
        print(f"tdxlab: {place}: {type(wrong).__name__}: {' '.join(str(wrong).split())}{hint}", file=sys.stderr)
        return 2
    return code


if __name__ == "__main__":
    sys.exit(main())
