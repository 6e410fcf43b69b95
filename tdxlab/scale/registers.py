"""TDs side by side at register level, in time: small, and exact in every call, lock and page.

What is counted in runs of faults has to come to the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tdxlab.engine.step import Pause, Steps, Touch
from tdxlab.engine.timed import Note, Timed, timed
from tdxlab.guest.accept import GuestProgram
from tdxlab.guest.programs import accepts
from tdxlab.kvm.userspace import kvm_set_memory_region
from tdxlab.lab import Lab
from tdxlab.scale.delays import Delays, Price
from tdxlab.spec.design import Design
from tdxlab.spec.leaves import TDH_MEM_PAGE_AUG, TDH_MEM_SEPT_ADD, TDH_PHYMEM_PAMT_ADD
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_4K, SIZE_1G, SIZE_2M
from tdxlab.spec.status import TDX_SUCCESS
from tdxlab.td import Td, order_of

SPARE = 32 << 20
"""Bytes of each CPU's memory that are for control pages, tables and pairs."""

Frame = tuple[int, int]
"""(TD, index of a folio in its memory)."""


@dataclass(frozen=True)
class Setup:
    """Some TDs that are about to boot.  vCPU v of TD t runs on CPU t * vcpus + v, from `starts_ns[CPU]` on.

    memory: of each TD, whole 2M.  folio: what guest_memfd hands out, "4K" or "2M".
    order: in which the host hands its folios out, one after the other; by TD and index if None.
    pages: where it takes 4K pages from, as of a `Lab`: with "own" one after the other in physical memory.
    program: of a vCPU, given (TD, vCPU); if None it accepts its share of the TD's memory, in 4K.
    teardown: a TD, which has one vCPU then, is torn down as soon as that has ended.
    """

    design: str | Design = "seed"
    tds: int = 2
    vcpus: int = 1
    memory: int = SIZE_2M
    folio: str = "4K"
    order: Sequence[Frame] | None = None
    pages: str = "own"
    program: Callable[[int, int], GuestProgram] | None = None
    teardown: bool = False
    starts_ns: Sequence[int] = ()
    grain: str = "seamcall"
    dpamt: bool = True

    @property
    def cpus(self) -> int:
        """Of the machine."""
        return self.tds * self.vcpus

    def guest(self, td: int, vcpu: int) -> GuestProgram:
        """What a vCPU runs."""
        if self.program is not None:
            return self.program(td, vcpu)
        share = self.memory // self.vcpus
        return accepts(*((gpa, PG_LEVEL_4K) for gpa in range(vcpu * share, (vcpu + 1) * share, PAGE_SIZE)))


@dataclass(frozen=True)
class Mapped:
    """A TDH.MEM.PAGE.AUG that worked.  ns: when it had.  hpa: the page behind `gpa`.  level: PG_LEVEL."""

    ns: int
    td: int
    vcpu: int
    gpa: int
    hpa: int
    level: int


@dataclass(frozen=True)
class Booted:
    """faults: in the order of time.  seamcalls: {(leaf, status): how often}, of the run alone.

    tables, pairs: (CPU, pages) of each that was given to the module as a table, or as a page pair.
    before, refcounts: {2M range: users at 4K}, of those that have any, when the TDs were ready and at the end.
    costs: the rows of `data/costs.csv` that counted.
    """

    timed: Timed
    faults: tuple[Mapped, ...]
    seamcalls: Mapping[tuple[str, str], int]
    tables: tuple[tuple[int, int], ...]
    pairs: tuple[tuple[int, int, int], ...]
    before: Mapping[int, int]
    refcounts: Mapping[int, int]
    costs: frozenset[str]


def boot(setup: Setup, price: Price | None = None, *, limit_ns: int | None = None) -> Booted:
    """Run all vCPUs side by side to their ends.  price: of each step, if not typical.

    Raises ValueError with a sentence, AssertionError by an invariant.
    """
    lab, tds = machine(setup)
    delays = Delays(lab, price)
    before = counts(lab)
    frames: list[int] = []
    tables: list[tuple[int, int]] = []
    pairs: list[tuple[int, int, int]] = []

    def delay(cpu: int, pause: Pause, touched: Sequence[Touch], notes: Sequence[Note]) -> tuple[int, str]:
        for note in notes:
            regs = lab.cpus[cpu].regs
            if maps(note):
                frames.append(regs.r8)
            elif note.get("leaf") == TDH_MEM_SEPT_ADD.name:
                tables.append((cpu, regs.r8))
            elif note.get("leaf") == TDH_PHYMEM_PAMT_ADD.name and note["status"] == TDX_SUCCESS.name:
                pairs.append((cpu, regs.rdx, regs.r8))
        return delays(cpu, pause, touched, notes)

    async def life(t: int, v: int) -> int:
        ret = await tds[t].vcpu(v, setup.guest(t, v))
        return await tds[t].destroy() if setup.teardown else ret

    def actors() -> Sequence[Steps]:
        return [life(t, v) for t in range(setup.tds) for v in range(setup.vcpus)]

    program = lab.program(actors)
    ran = timed(program, delay, starts_ns=setup.starts_ns, limit_ns=limit_ns)
    if ran.ended == "done":
        wrong = program.violations()
        assert not wrong, "; ".join(wrong)
    seamcalls = Counter((note["leaf"], note["status"]) for note in ran.notes if note["kind"] == "seamcall")
    faults = tuple(mapped(ran.notes, frames, setup.vcpus))
    return Booted(ran, faults, seamcalls, tuple(tables), tuple(pairs), before, counts(lab), frozenset(delays.used))


def mapped(notes: Sequence[Note], frames: Sequence[int], vcpus: int) -> Iterator[Mapped]:
    """The AUGs that worked.  frames: the page of each."""
    for note, hpa in zip(filter(maps, notes), frames, strict=True):
        td, vcpu = divmod(note["cpu"], vcpus)
        yield Mapped(note["ns"], td, vcpu, note["gpa"], hpa, note["level"])


def machine(setup: Setup) -> tuple[Lab, list[Td]]:
    """The machine, and TDs that are ready.  Raises ValueError with a sentence."""
    if setup.memory % SIZE_2M or not setup.memory:
        raise ValueError(f"a TD has whole 2M of memory, not {setup.memory} bytes")
    order = order_of(setup.folio)
    if setup.teardown and setup.vcpus > 1:
        raise ValueError(f"a TD that is torn down when its vCPU has ended has one of them, not {setup.vcpus}")
    size = setup.cpus * (setup.tds * setup.memory + SPARE) * (1 if setup.pages == "own" else 2)
    lab = Lab(
        setup.design,
        dpamt=setup.dpamt,
        cpus=setup.cpus,
        memory=f"{-(-size // SIZE_1G)}G",
        grain=setup.grain,
        pages=setup.pages,
    )
    tds = [ready(lab, range(t * setup.vcpus, (t + 1) * setup.vcpus), setup.memory, order) for t in range(setup.tds)]
    indexes = range(0, setup.memory // PAGE_SIZE, 1 << order)
    for t, index in setup.order or [(t, index) for t in range(setup.tds) for index in indexes]:
        lab.alone(tds[t].slot.gmem.alloc_folio(index))
    lab.journal.notes.clear()
    return lab, tds


def ready(lab: Lab, cpus: Sequence[int], memory: int, order: int) -> Td:
    """A TD that can run, its vCPUs on these CPUs, but no folio is handed out yet."""
    td = lab.new_td()
    lab.must(td.init_vm())
    kvm_set_memory_region(td.kvm, 0, memory, order=order)
    td.add_vcpus(cpus)
    td.finalize()
    return td


def maps(note: Note) -> bool:
    """Does a note tell of an AUG that worked?"""
    return note.items() >= {"kind": "seamcall", "leaf": TDH_MEM_PAGE_AUG.name, "status": TDX_SUCCESS.name}.items()


def counts(lab: Lab) -> dict[int, int]:
    """{number of a 2M range: its users at 4K}."""
    return {n: count for n, atomic in sorted(lab.host.pamt_refcounts.items()) if (count := atomic.peek(0))}
