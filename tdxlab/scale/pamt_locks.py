"""PAMT.ADD and PAMT.REMOVE of several CPUs in time: one workload under each lock of the question `pamt_lock`.

Each CPU gives a 2M range its pair and takes it back, and does nothing else: no host is that busy.  The module's locks
are taken in an instant, as in `delays`; of the host's each takes one atomic, so that another CPU can come in between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tdxlab.engine.run import Program
from tdxlab.engine.step import Pause, Steps, Touch, step
from tdxlab.engine.storm import longest
from tdxlab.engine.timed import Hold, Note, Timed, Total, Wait, timed
from tdxlab.host.dpamt import tdx_pamt_get, tdx_pamt_put
from tdxlab.host.dpamt.pair import FromAllocator
from tdxlab.lab import Lab
from tdxlab.scale.costs import ns
from tdxlab.scale.delays import Delays, prices
from tdxlab.spec.design import Question
from tdxlab.spec.leaves import TDH_PHYMEM_PAMT_ADD, TDH_PHYMEM_PAMT_REMOVE
from tdxlab.spec.levels import PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M
from tdxlab.spec.status import TDX_OPERAND_BUSY

VARIANTS = tuple(Question.all["pamt_lock"].variants)
LETTERS = "ABCDEFGH"
DONE = "all done"
LIMIT_NS = 1_000_000
"""A run that has not ended by then never does, or may not."""

LIE: Mapping[str, Callable[[int, int], int | None]] = {
    "in a circle": lambda cpu, cpus: (cpu - 1) % cpus,
    "in a line": lambda cpu, cpus: cpu - 1 if cpu else None,
    "apart": lambda cpu, cpus: None,
}
"""{how the ranges lie: whose pages a CPU's range holds, None for nobody's}, of so many CPUs."""

HOST = ("pamt_lock (host)", "pamt_range_lock:", "pamt_rwlock")
"""How the names of the host's locks begin.  The module's are `pamt_lock:`, level and range."""
TAKES = ("lock ", "read_lock ", "write_lock ")
"""How a step begins that takes one, for which `ATOMIC` is paid."""
ATOMIC = "lock_atomic"
CALLS = (TDH_PHYMEM_PAMT_ADD.name, TDH_PHYMEM_PAMT_REMOVE.name)


@dataclass(frozen=True)
class Work:
    """CPU 0 gives and takes the pair of range A, CPU 1 that of B, so many rounds; `lie`: a key of `LIE`.

    In a circle each takes its pages from the range of the next CPU, the last one from A.  In a line the last one has
    a range for them, apart all have.  starts_ns: of each CPU, if not all at 0.  Raises ValueError with a sentence.
    """

    cpus: int = 2
    rounds: int = 1
    lie: str = "in a circle"
    starts_ns: Sequence[int] = ()

    def __post_init__(self) -> None:
        if not 2 <= self.cpus <= len(LETTERS):
            raise ValueError(f"2 to {len(LETTERS)} CPUs meet, not {self.cpus}")
        if self.rounds < 1:
            raise ValueError(f"a CPU makes at least 1 round, not {self.rounds}")
        if self.lie not in LIE:
            raise ValueError(f"ranges lie {', '.join(LIE)}, not {self.lie!r}")

    def program(self, lab: Lab) -> tuple[Program, dict[int, str]]:
        """It, and {2M range: its letter}."""
        pages = [self._page(lab, cpu) for cpu in range(self.cpus)]
        lab.journal.notes.clear()

        def actors() -> Sequence[Steps]:
            return [self._rounds(lab, page) for page in pages]

        return lab.program(actors), {page & -SIZE_2M: letter for page, letter in zip(pages, LETTERS, strict=False)}

    def _page(self, lab: Lab, cpu: int) -> int:
        # one in the CPU's range
        other = LIE[self.lie](cpu, self.cpus)
        return lab.host.must_alloc(PG_LEVEL_2M) if other is None else lab.alone(_own(lab), other)

    async def _rounds(self, lab: Lab, page: int) -> None:
        for _ in range(self.rounds):
            await step(at="a fault")
            if not await tdx_pamt_get(lab.host, page, PG_LEVEL_4K, FromAllocator(lab.host, "td0")):
                await step(at="a zap")
                await tdx_pamt_put(lab.host, page, PG_LEVEL_4K, last=True)


async def _own(lab: Lab) -> int:
    return lab.host.must_alloc()


@dataclass(frozen=True)
class Contended:
    """What a lock came to.  ranges: {2M range: its letter}.  costs: the rows of `data/costs.csv` that counted."""

    variant: str
    timed: Timed
    ranges: Mapping[int, str]
    costs: frozenset[str]

    @property
    def host(self) -> Total:
        """What the host's locks cost together."""
        found, seen = Total(), list[Hold | Wait]([*self.timed.holds, *self.timed.waits])
        for what in seen:
            if what.lock.startswith(HOST):
                found.add(what)
        return found

    @property
    def calls(self) -> Counter[str]:
        """{status: how many PAMT.ADD and PAMT.REMOVE}."""
        return Counter(note["status"] for note in self.timed.notes if note.get("leaf") in CALLS)

    @property
    def busy(self) -> int:
        """How many were refused as busy."""
        return self.calls[TDX_OPERAND_BUSY.name]

    @property
    def longest(self) -> int:
        """How often one CPU was, in a row."""
        mine = ([note for note in self.timed.notes if note["cpu"] == cpu] for cpu in range(self.timed.cpus))
        return max(len(longest(notes, refused)) for notes in mine)

    @property
    def failed(self) -> int:
        """How many gets and puts gave up."""
        return sum(note["kind"] == "warn" for note in self.timed.notes)

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.timed.ended != "done":
            return self.timed.ended
        return f"{self.failed} failed" if self.failed else DONE


def refused(note: Note) -> bool | None:
    """Is a call busy?  None of what is no call for a pair."""
    return note["status"] == TDX_OPERAND_BUSY.name if note.get("leaf") in CALLS else None


def contend(variant: str, work: Work | None = None, level: str = "typical", limit_ns: int = LIMIT_NS) -> Contended:
    """Run `work` in time under a lock.  level: of all guesses.  Raises ValueError with a sentence."""
    work = work or Work()
    lab = Lab(f"seed,pamt_get_put=v6,pamt_lock={variant}", dpamt=True, cpus=work.cpus, grain="lock")
    program, ranges = work.program(lab)
    delays, atomic = Delays(lab, prices(level)), ns(ATOMIC, level)

    def delay(cpu: int, pause: Pause, touched: Sequence[Touch], notes: Sequence[Note]) -> tuple[int, str]:
        way, does = delays(cpu, pause, touched, notes)
        return (way + atomic, "take a lock") if (pause[0] or "").startswith(TAKES) else (way, does)

    ran = timed(program, delay, starts_ns=work.starts_ns, limit_ns=limit_ns)
    return Contended(variant, ran, ranges, frozenset({*delays.used, ATOMIC}))
