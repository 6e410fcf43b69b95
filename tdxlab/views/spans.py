"""What lasts in a trace: locks that are held and functions on the stack, from one step to another."""

from __future__ import annotations

from dataclasses import dataclass

from tdxlab.engine.trace import Trace
from tdxlab.views.rows import lock_text


@dataclass(frozen=True)
class Span:
    """Something that lasts: a lock held or a function on the stack, from step `first` to step `last`, both included.

    open: it still lasted when the trace ended.
    """

    name: str
    cpu: int
    first: int
    last: int
    depth: int = 0
    exclusive: bool = False
    open: bool = False


def lock_spans(trace: Trace) -> list[Span]:
    """Locks held over at least one switch point.  Taken and given back within one step leaves no span."""
    begun: dict[tuple[int, str, bool], int] = {}
    spans = []
    for e in trace.events:
        now = {(e.cpu, lock_text(*held), held[2]) for held in e.held}
        for lock in [k for k in begun if k[0] == e.cpu and k not in now]:
            spans.append(Span(lock[1], lock[0], begun.pop(lock), e.n, exclusive=lock[2]))
        for lock in sorted(now - begun.keys()):
            begun[lock] = e.n
    last = trace.events[-1].n if trace.events else 0
    spans += [Span(name, cpu, n, last, exclusive=ex, open=True) for (cpu, name, ex), n in begun.items()]
    return sorted(spans, key=lambda s: (s.first, s.cpu, s.name))


def function_spans(trace: Trace) -> list[Span]:
    """Functions on each CPU's stack, properly nested, from their first step to their last.

    Left out: two calls from one source line with no step of the caller between are one span.
    """
    stacks: dict[int, list[tuple[tuple[str, str], int, int]]] = {}  # cpu -> [(function, line, first step)]
    last: dict[int, int] = {}
    spans: list[Span] = []

    def close(cpu: int, depth: int) -> None:
        while len(stacks[cpu]) > depth:
            (function, _), _, first = stacks[cpu].pop()
            spans.append(Span(function.rsplit(".", 1)[-1], cpu, first, last[cpu], depth=len(stacks[cpu])))

    for e in trace.events:
        frames = stacks.setdefault(e.cpu, [])
        same = 0
        for (name, line, _), (function, file, now) in zip(frames, e.stack, strict=False):
            if name != (function, file):
                break
            same += 1
            if line != now:  # the caller went on, so what it called before has returned
                break
        close(e.cpu, same)
        for depth, (function, file, line) in enumerate(e.stack):
            if depth < same:
                frames[depth] = (frames[depth][0], line, frames[depth][2])
            else:
                frames.append(((function, file), line, e.n))
        last[e.cpu] = e.n
    for cpu in sorted(stacks):
        close(cpu, 0)
    return sorted(spans, key=lambda s: (s.cpu, s.first, s.depth))
