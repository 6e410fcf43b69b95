"""One boot, made twice: call by call at register level, and in runs.  Every fault and every lock has to be the same."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from tdxlab.engine.timed import Total
from tdxlab.guest.accept import GuestProgram, accept_page, map_gpa
from tdxlab.hw.guest import Guest
from tdxlab.lab import BASE
from tdxlab.scale.clock import Clock
from tdxlab.scale.giving import TEARDOWNS, life
from tdxlab.scale.jitter import Jitter
from tdxlab.scale.machine import Machine, Op, Td, Vcpu
from tdxlab.scale.placement import Given
from tdxlab.scale.prices import at_level, prices
from tdxlab.scale.ranges import DESIGNS, Ranges
from tdxlab.scale.registers import Booted, Frame, Setup, boot, machine
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M

PAGES = SIZE_2M // PAGE_SIZE
VIOLATION = "ept_violation"


@dataclass(frozen=True)
class Case:
    """programs: by TD and vCPU.  known: {name of a cost: ns}.  jitter_ns: of each violation."""

    lock: str
    teardown: str | None
    vcpus: int
    memory: int
    folio: str
    grain: str
    order: Sequence[Frame] | None
    pages: str
    programs: Sequence[Sequence[Sequence[Op]]]
    starts_ns: Sequence[int]
    known: dict[str, int]
    jitter_ns: int
    seed: int

    @property
    def tds(self) -> int:
        return len(self.programs)

    @property
    def keeps(self) -> bool:
        shares = any(op.what == "share" for td in self.programs for program in td for op in program)
        return not self.teardown and not shares

    def setup(self) -> Setup:
        get_put, lock = DESIGNS[self.lock]
        return Setup(
            f"seed,pamt_get_put={get_put},pamt_lock={lock},teardown={self.teardown or 'fast'}",
            tds=self.tds, vcpus=self.vcpus, memory=self.memory, folio=self.folio, order=self.order, pages=self.pages,
            grain=self.grain,
            program=lambda td, vcpu: guest(self.programs[td][vcpu]),
            teardown=bool(self.teardown), starts_ns=self.starts_ns,
        )  # fmt: skip


def guest(program: Sequence[Op]) -> GuestProgram:
    """The ops, as a guest makes them."""

    async def runs(guest: Guest) -> None:
        for op in program:
            if op.what == "accept":
                for gfn in range(op.gfn, op.gfn + op.pages, PAGES if op.level == PG_LEVEL_2M else 1):
                    await accept_page(guest, gfn * PAGE_SIZE, op.level)
            else:
                await map_gpa(guest, op.gfn * PAGE_SIZE, op.pages * PAGE_SIZE, shared=op.what == "share")

    return runs


def by_registers(case: Case) -> Booted:
    """Call by call."""
    jitter, seen = Jitter(case.jitter_ns, case.seed), Counter[int]()

    def price(name: str, cpu: int) -> int:
        more = 0
        if name == VIOLATION:
            more = jitter.of(cpu, seen[cpu])
            seen[cpu] += 1
        return case.known[name] + more

    return boot(case.setup(), price)


class Used:
    """The kernel's pages, as the other boot took them."""

    shared = True

    def __init__(self, booted: Booted) -> None:
        self.tables: defaultdict[int, list[int]] = defaultdict(list)
        self.pairs: defaultdict[int, list[tuple[int, ...]]] = defaultdict(list)
        for cpu, page in reversed(booted.tables):
            self.tables[cpu].append(number(page))
        for cpu, *pages in reversed(booted.pairs):
            self.pairs[cpu].append(tuple(map(number, pages)))

    def table(self, cpu: int) -> int:
        return self.tables[cpu].pop()

    def next_table(self, cpu: int) -> None:
        return None

    def pair(self, cpu: int) -> tuple[int, ...]:
        return self.pairs[cpu].pop()


def number(hpa: int) -> int:
    """Of a 2M range."""
    return (hpa - BASE) // SIZE_2M


def by_runs(case: Case, booted: Booted) -> Machine:
    """The same in runs."""
    lab, tds = machine(case.setup())
    frames = []
    for td in tds:
        folios, size = td.slot.gmem.folios, PAGES if case.folio == "2M" else 1
        frames.append([
            (folios.peek(gfn - gfn % size) - BASE) // PAGE_SIZE + gfn % size for gfn in range(case.memory // PAGE_SIZE)
        ])  # fmt: skip
    count = max(number(hpa) for hpa in (lab.memory.platform.cmrs[0][1] + BASE,)) + 1
    clock, cost = Clock(), prices(case.known)
    ranges = Ranges(clock, count, cost, case.lock, keeps=case.keeps, whole=case.grain == "seamcall")
    for n, users in booted.before.items():
        ranges.users[n - BASE // SIZE_2M], ranges.paired[n - BASE // SIZE_2M] = users, 1
    made = Machine(clock, cost, ranges, Given(frames, count), Used(booted), Jitter(case.jitter_ns, case.seed))
    cpus = []
    for t, td in enumerate(tds):
        vcpus = [page for vcpu in td.kvm.vcpus for page in (*vcpu.tdcx_hpas, vcpu.tdvpr_hpa)]
        control = [number(page) for page in vcpus], [number(page) for page in (*td.kvm.tdcs_hpas, td.kvm.tdr_hpa)]
        run = Td(made, t, control, case.keeps)
        for v in range(case.vcpus):
            vcpu = Vcpu(run, t * case.vcpus + v, case.vcpus > 1)
            if not case.keeps:
                vcpu.held.update([*control[0], *control[1]])
            cpus.append(life(vcpu, [*case.programs[t][v]], case.teardown))
    clock.go(cpus, case.starts_ns)
    return made


def faults(made: Machine, vcpus: int) -> Iterator[tuple[int, int, int, int, int]]:
    """(ns, CPU, GFN, PFN, level) of each fault that the log stands for."""
    log, cost, jitter = made.log, made.cost, made.jitter
    for ns, cpu, gfn, _, pages, first in zip(*log.columns().values(), strict=True):
        for n in range(pages or 1):
            at = ns + n * cost.fault + jitter.between(cpu, first + 1, first + n + 1)
            page = made.placement.here(cpu, cpu // vcpus, gfn + n, 1)[0]
            yield at, cpu, gfn + n, page, PG_LEVEL_4K if pages else PG_LEVEL_2M


def kind(lock: str) -> str:
    """All locks of a kind count together."""
    if lock.startswith("pamt_range_lock"):
        return "pamt_range_lock"
    return lock.partition(":")[0]


COMPARED = ("pamt_lock (host)", "pamt_range_lock", "pamt_rwlock", "mmu_lock")


def totals(booted: Booted) -> dict[str, Total]:
    """Of the locks that both have."""
    found = {name: Total() for name in COMPARED}
    for name, total in booted.timed.totals().items():
        if kind(name) in found and not name.startswith("pamt_lock:"):
            into = found[kind(name)]
            into.holds += total.holds
            into.hold_ns += total.hold_ns
            into.contentions += total.contentions
            into.wait_ns += total.wait_ns
    return found


def compare(case: Case) -> None:
    """Raises AssertionError where they differ."""
    one = by_registers(case)
    assert one.timed.ended == "done", one.timed.ended
    two = by_runs(case, one)
    mine = sorted(faults(two, case.vcpus))
    theirs = sorted(
        (
            fault.ns,
            fault.td * case.vcpus + fault.vcpu,
            fault.gpa // PAGE_SIZE,
            (fault.hpa - BASE) // PAGE_SIZE,
            fault.level,
        )
        for fault in one.faults
    )
    for a, b in zip(theirs, mine, strict=False):
        assert a == b
    assert len(mine) == len(theirs)
    assert totals(one) == {**two.ranges.totals, "mmu_lock": two.mmu}
    users: dict[Any, int] = {n + BASE // SIZE_2M: count for n, count in enumerate(two.ranges.users) if count}
    assert users == dict(one.refcounts)
    assert two.clock.now_ns == one.timed.end_ns
    assert two.ranges.added == one.seamcalls["TDH.PHYMEM.PAMT.ADD", "TDX_SUCCESS"]
    assert two.ranges.removed == one.seamcalls["TDH.PHYMEM.PAMT.REMOVE", "TDX_SUCCESS"]
    assert not one.seamcalls["TDH.PHYMEM.PAMT.ADD", "TDX_HPA_RANGE_NOT_FREE"]
    busy = [count for (leaf, status), count in one.seamcalls.items() if ".PAMT." in leaf and "BUSY" in status]
    assert two.ranges.busy == sum(busy)


def random_case(seed: int) -> Case:
    """TDs whose pages lie among each other's, and who give some of them back."""
    dice = Random(seed)
    tds = dice.choice([1, 2, 2, 3])
    gives = dice.random() < 0.6
    vcpus = 1 if gives else dice.choice([1, 2, 2, 3])
    memory = dice.choice([1, 1, 2] if vcpus == 1 else [2, 4, 6]) * SIZE_2M
    folio = dice.choice(["4K", "4K", "2M"])
    known, jitter_ns = random_costs(dice), dice.choice([0, 0, 3, 500])
    known[VIOLATION] += jitter_ns  # nothing takes less than no time
    return Case(
        lock=dice.choice(list(DESIGNS)),
        teardown=dice.choice([None, *TEARDOWNS]) if gives else None,
        vcpus=vcpus,
        memory=memory,
        folio=folio,
        grain=dice.choice(["seamcall", "lock"]) if vcpus == 1 else "seamcall",
        order=random_order(dice, tds, memory, folio),
        pages=dice.choice(["own", "shared", "scattered"]),
        programs=[random_td(dice, vcpus, memory // PAGE_SIZE, folio, gives) for _ in range(tds)],
        starts_ns=[dice.choice([0, dice.randrange(30_000)]) for _ in range(tds * vcpus)],
        known=known,
        jitter_ns=jitter_ns,
        seed=seed,
    )


def random_order(dice: Random, tds: int, memory: int, folio: str) -> list[Frame] | None:
    """As the TDs come, page by page in turn, in pieces, or anyhow."""
    size = PAGES if folio == "2M" else 1
    frames = [(td, index) for td in range(tds) for index in range(0, memory // PAGE_SIZE, size)]
    match dice.choice(["huge", "in turn", "pieces", "shuffled"]):
        case "huge":
            return None
        case "in turn":
            return sorted(frames, key=lambda frame: (frame[1], frame[0]))
        case "pieces":
            pieces = [frames[n : n + 64] for n in range(0, len(frames), 64)]
            dice.shuffle(pieces)
            return [frame for piece in pieces for frame in piece]
    dice.shuffle(frames)
    return frames


def random_td(dice: Random, vcpus: int, pages: int, folio: str, gives: bool) -> list[list[Op]]:
    """What its vCPUs do: each page is accepted by one of them."""
    whole = [gfn for gfn in range(0, pages, PAGES) if folio == "2M" and dice.random() < 0.5]
    small = [gfn for gfn in range(pages) if gfn - gfn % PAGES not in whole]
    programs: list[list[Op]] = [[] for _ in range(vcpus)]
    for program in programs:
        for _ in range(dice.randint(1, 4) if vcpus == 1 else 5):
            gfn, most = dice.choice(small or [0]), dice.choice([1, 3, 30] if vcpus == 1 else [2, 9])
            for page in range(gfn, gfn + most):
                if page in small:
                    small.remove(page)
                    if program and program[-1].gfn + program[-1].pages == page and program[-1].what == "accept":
                        program[-1] = program[-1]._replace(pages=program[-1].pages + 1)
                    else:
                        program.append(Op("accept", page, 1))
            if gives and program and dice.random() < 0.4:
                last = program[-1]
                part = last.gfn + dice.randrange(last.pages)
                program.append(Op("share", part, last.gfn + last.pages - part))
                if dice.random() < 0.5:
                    program += [program[-1]._replace(what=what) for what in ("private", "accept")]
    for gfn in whole:
        dice.choice(programs).insert(0, Op("accept", gfn, PAGES, PG_LEVEL_2M))
    return programs


def random_costs(dice: Random) -> dict[str, int]:
    """Typical, or anything: small ones make many things happen at one instant."""
    known = at_level("typical")
    if dice.random() < 0.5:
        most = dice.choice([4, 40, 4_000])
        known = {name: dice.randint(1, most) for name in known}
    return known


def crowded_case(seed: int) -> Case:
    """Nothing but gets and puts: TDs whose every page is the only one of its range, or whose pages come and go."""
    dice = Random(seed)
    known, jitter_ns = random_costs(dice), dice.choice([0, 500])
    known[VIOLATION] += jitter_ns
    known["pamt_add"] += dice.choice([0, 50_000])
    tds, comes_and_goes = dice.choice([2, 3]), dice.random() < 0.5
    programs: list[list[list[Op]]] = []
    for _ in range(tds):
        page = dice.randrange(300, 330)
        rounds = [Op(what, page, 1) for _ in range(12) for what in ("accept", "share", "private")]
        programs.append([rounds if comes_and_goes else [Op("accept", dice.randrange(200), 250)]])
    return Case(
        lock=dice.choice([*DESIGNS] if comes_and_goes else ["rwlock"]),
        teardown=dice.choice([None, *TEARDOWNS]) if comes_and_goes else None,
        vcpus=1,
        memory=SIZE_2M,
        folio="4K",
        grain="lock",
        order=random_order(dice, tds, SIZE_2M, "4K"),
        pages="own" if comes_and_goes else "scattered",
        programs=programs,
        starts_ns=[dice.randrange(30_000) for _ in range(tds)],
        known=known,
        jitter_ns=jitter_ns,
        seed=seed,
    )
