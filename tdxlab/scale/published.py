"""All that was published of whole TDs in time, made again: boots, starts and stops, tear-downs; and what counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tdxlab.scale.cases import CASES, FEW, Case, Counted, measured
from tdxlab.scale.depends import INPUTS, Ends, depends
from tdxlab.scale.start_stop import ACCEPTED, StartStop, start_stop
from tdxlab.scale.torn_down import PUBLISHED, TornDown, torn_down

SEEDS = 8


@dataclass
class Found:
    """complete: False where somebody has had enough before the end; what there was until then is here."""

    seeds: int
    cases: list[tuple[Case, list[Counted]]] = field(default_factory=list)
    starts: list[StartStop] = field(default_factory=list)
    torn_down: list[TornDown] = field(default_factory=list)
    depends: list[Ends] = field(default_factory=list)
    complete: bool = False

    @property
    def assumed(self) -> list[int]:
        """Contentions of the boots with all inputs as they are assumed: those that `depends` begins with."""
        return [one.contentions for _, counts in self.cases[:1] for one in counts]


def published(seeds: int = SEEDS, told: Callable[[int], object] = lambda done: None) -> Found:
    """All of it, in some minutes.  told: is called with the number of rows that are done, of `rows`.

    Ctrl-C ends it early.  Raises ValueError with a sentence.
    """
    if not 1 <= seeds <= 1_000:
        raise ValueError(f"1 to 1000 seeds, not {seeds}")
    found = Found(seeds)
    try:
        for done, _ in enumerate(_rows(found), 1):
            told(done)
    except KeyboardInterrupt:
        return found
    found.complete = True
    return found


def rows(seeds: int) -> int:
    """How many there are."""
    boots = sum(min(seeds, case.most) for case in CASES)
    return boots + len(ACCEPTED) + 2 * len(PUBLISHED) + len(INPUTS) + 1


def _rows(found: Found) -> Iterator[None]:
    few = min(found.seeds, FEW)
    for case in CASES:
        counts: list[Counted] = []
        found.cases.append((case, counts))
        for one in measured(case, found.seeds):
            counts.append(one)
            yield
    for start in start_stop(few):
        found.starts.append(start)
        yield
    for end in torn_down():
        found.torn_down.append(end)
        yield
    for ends in depends(found.assumed, few):
        found.depends.append(ends)
        yield
