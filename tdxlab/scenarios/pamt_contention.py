"""PAMT.ADD meets PAMT.ADD or PAMT.REMOVE in the module: which lock of the host's keeps BUSY away, and at what price?

The module locks 2M ranges: exclusively the one that gets its pair, shared those that the two pages lie in.
Nothing runs here but `tdx_pamt_get` and `tdx_pamt_put`.  Each CPU takes the pages of its pairs from a range of its own;
which ranges meet depends on the page that a pair is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from tdxlab.engine.claims import Claim, History, at_end, of_history
from tdxlab.engine.run import Program
from tdxlab.engine.schedule import Story
from tdxlab.engine.step import Steps, step
from tdxlab.host.dpamt import tdx_pamt_get, tdx_pamt_put
from tdxlab.host.dpamt.pair import FromAllocator
from tdxlab.lab import Lab
from tdxlab.scenarios.looks import calls, paired
from tdxlab.scenarios.registry import scenario
from tdxlab.spec.levels import PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M
from tdxlab.spec.operands import RCX

ADD, REMOVE = "TDH.PHYMEM.PAMT.ADD", "TDH.PHYMEM.PAMT.REMOVE"
HINTS = "seed,pamt_get_put=hints"
EXCLUSIVE, MIRRORED, IN_ORDER, POOL, RETRY, SPIN = (
    f"seed,pamt_lock={variant}"
    for variant in ("exclusive_2m", "rwlock_2m", "rwlock_2m_in_order", "pool", "rwlock_retry", "spin")
)
INSIDE_ADD: Story = ((0, "bitset"), (1, None), (0, None))  # CPU 0 holds all its ranges in the module
LOCKSTEP: Story = ((0, ""), (1, "")) * 100  # step by step in turn
BOTH_WAIT: Story = ((0, "read_lock"), (1, "read_lock"))  # each has its own range's lock


def never_busy(history: History) -> bool:
    """No call is refused as busy."""
    return not busy(history)


def busy(history: History) -> list[tuple[str, int]]:
    """The leaf of each call that is, and the operand that it names."""
    return [(h["leaf"], h["detail"]) for h in history if h["kind"] == "seamcall" and h["status"] == "TDX_OPERAND_BUSY"]


async def get(lab: Lab, page: int) -> None:
    """A pair for the range of `page`, made of pages of the running CPU's."""
    await step(at="a fault")
    if ret := await tdx_pamt_get(lab.host, page, PG_LEVEL_4K, FromAllocator(lab.host, "td0")):
        lab.journal.note("fault_failed", ret=ret)


async def put(lab: Lab, page: int) -> None:
    """The range of `page` has no user any more."""
    await step(at="a zap")
    await tdx_pamt_put(lab.host, page, PG_LEVEL_4K, last=True)


def elsewhere(lab: Lab) -> int:
    """A page in a range that no CPU takes pages from."""
    return lab.host.must_alloc(PG_LEVEL_2M)


def among_those_of(lab: Lab, cpu: int) -> int:
    """A page in the range that `cpu` takes its pages from."""

    async def alloc() -> int:
        return lab.host.must_alloc()

    return lab.alone(alloc(), cpu)


def program(
    lab: Lab, pages: Sequence[int], actors: Callable[[], Sequence[Steps]], names: Iterable[str], *claims: Claim
) -> Program:
    """No invariants: nobody has the references that are counted here.  pages: of the ranges that may have a pair."""

    def pairs() -> dict[str, str]:
        ranges = {page & -SIZE_2M for page in pages}
        return {f"pair of range {base:#x}": "there" if paired(lab, base) else "none" for base in sorted(ranges)}

    return replace(lab.program(actors, claims, names, max_steps=200), invariants=(), picture=pairs)


def crossed(lab: Lab, *claims: str) -> Program:
    """Each CPU needs a pair for the range from which the other one takes its pages."""
    first, second = among_those_of(lab, 1), among_those_of(lab, 0)

    def both_have_it() -> bool:
        return paired(lab, first) and paired(lab, second)

    known = at_end("DP17", both_have_it), at_end("DP18", both_have_it), of_history("DP19", never_busy)
    return two_gets(lab, first, second, *(claim for claim in known if claim.id in claims))


def two_gets(lab: Lab, first: int, second: int, *claims: Claim) -> Program:
    """CPU 0 needs a pair for the range of the page `first`, CPU 1 for that of `second`."""
    names = [f"CPU {n}: a pair for the range of {page:#x}" for n, page in enumerate((first, second))]
    return program(lab, (first, second), lambda: [get(lab, first), get(lab, second)], names, *claims)


@scenario(
    "pamt-same-range",
    claims={
        "DP14": "Of two CPUs that give one 2M range its pair none is refused as busy.  (A lock of the host's keeps "
        "them apart, since the module lets one of them in.)"
    },
    breaks={"seed": (), HINTS: ("DP14",), EXCLUSIVE: ()},
    machine={"dpamt": True},
    stories={HINTS: INSIDE_ADD},
    shows={HINTS: lambda h: busy(h) == [(ADD, RCX)]},
)
def pamt_same_range(lab: Lab) -> Program:
    """What if two CPUs give a pair to the same 2M range at the same time?"""
    page = elsewhere(lab)
    return two_gets(lab, page, page, of_history("DP14", never_busy))


@scenario(
    "pamt-contention",
    claims={
        "DP15": "No PAMT.ADD is refused as busy by one of another range.  (With a lock for each range instead of the "
        "global one it is, where a page of one's pair lies in the other's range.)",
        "DP21": "Whoever is refused may take a global lock for writing, under which all others read, and succeed.",
    },
    breaks={
        "seed": (),
        EXCLUSIVE: ("DP15", "DP21"),
        MIRRORED: (),
        IN_ORDER: (),
        POOL: (),
        RETRY: ("DP15",),
    },
    machine={"dpamt": True},
    stories=dict.fromkeys((EXCLUSIVE, RETRY), INSIDE_ADD),
    shows=dict.fromkeys((EXCLUSIVE, RETRY), lambda h: busy(h) == [(ADD, RCX)]),
)
def pamt_contention(lab: Lab) -> Program:
    """Two CPUs give pairs to different 2M ranges at the same time: can they meet?

    CPU 0 takes the pages of its pair from the range that CPU 1 gives a pair to.
    """
    apart, shared = elsewhere(lab), among_those_of(lab, 0)
    return two_gets(
        lab,
        apart,
        shared,
        of_history("DP15", never_busy),
        at_end("DP21", lambda: paired(lab, apart) and paired(lab, shared)),
    )


@scenario(
    "pamt-abba",
    claims={
        "DP18": "Both ranges get their pairs.  (With locks that mirror the module's, the own range's for writing and "
        "those of the pages for reading, two CPUs can wait for each other for ever; in order of frames they do not.)",
        "DP19": "No call is refused as busy.  (Locks that mirror the module's and are taken in the order of frames are "
        "enough for that.)",
    },
    breaks={"seed": (), MIRRORED: ("DP18", "DP19"), IN_ORDER: (), POOL: (), RETRY: ("DP19",)},
    machine={"dpamt": True},
    stories={MIRRORED: BOTH_WAIT, RETRY: INSIDE_ADD},
    shows={MIRRORED: lambda h: not calls(h)},
)
def pamt_abba(lab: Lab) -> Program:
    """Two CPUs give pairs to ranges from which the other one takes its pages: does each wait for the other?"""
    return crossed(lab, "DP18", "DP19")


@scenario(
    "pamt-spin",
    claims={
        "DP17": "Both ranges get their pairs.  (A host that just tries again until it succeeds may never get on: each "
        "of two CPUs is refused as busy by what the other one holds, again and again.)"
    },
    breaks={"seed": (), IN_ORDER: (), POOL: (), RETRY: (), SPIN: ("DP17",)},
    machine={"dpamt": True},
    stories={SPIN: LOCKSTEP},
    shows={SPIN: lambda h: len(busy(h)) == len(calls(h)) > 10},
)
def pamt_spin(lab: Lab) -> Program:
    """Two CPUs try until they succeed: do they?

    As `pamt-abba`.  The stored schedule lets them go step by step in turn, which nobody could call unfair.
    """
    return crossed(lab, "DP17")


@scenario(
    "pamt-put-contention",
    claims={
        "DP29": "A put, which cannot fail, is never refused as busy.  (All TDs share the PAMT: without a lock for all "
        "of them another TD's PAMT.ADD may hold the range shared, and no kick of the own vCPUs cures that.)"
    },
    breaks={"seed": (), EXCLUSIVE: ("DP29",), MIRRORED: (), IN_ORDER: (), POOL: (), RETRY: ("DP29",)},
    machine={"dpamt": True},
    stories=dict.fromkeys((EXCLUSIVE, RETRY), ((1, "bitset"), (0, None), (1, None))),
    shows={EXCLUSIVE: lambda h: (REMOVE, RCX) in busy(h)},
)
def pamt_put_contention(lab: Lab) -> Program:
    """A range loses its last user while a page of it becomes a PAMT page for another TD: can its pair be taken back?"""
    going, coming = among_those_of(lab, 1), elsewhere(lab)
    lab.alone(get(lab, going))
    lab.journal.notes.clear()
    return program(
        lab,
        (going, coming),
        lambda: [put(lab, going), get(lab, coming)],
        ["CPU 0: the last put of a range", "CPU 1: a pair made of pages in that range"],
        of_history("DP29", never_busy),
    )


@scenario(
    "pamt-pool",
    claims={
        "DP20": "As long as pages are left a range can get its pair.  (A pool takes whole 2M blocks, so that pairs "
        "never share a range with what gets one; where memory is fragmented there is none, and TDX is unusable.)"
    },
    breaks={"seed": (), POOL: ("DP20",)},
    machine={"dpamt": True, "cpus": 1},
)
def pamt_pool(lab: Lab) -> Program:
    """A pair is needed, and no 2M block is free as a whole any more: is there one?"""
    page = among_those_of(lab, 0)
    while lab.host.alloc_page(PG_LEVEL_2M) is not None:
        pass
    return program(lab, (page,), lambda: [get(lab, page)], ["CPU 0: a pair"], at_end("DP20", lambda: paired(lab, page)))
