"""Every version of tdx_pamt_get and tdx_pamt_put: alone, and two CPUs under every schedule."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tdxlab.engine.claims import at_end, of_history
from tdxlab.engine.explore import Result, explore
from tdxlab.engine.run import Program
from tdxlab.engine.step import READ, step
from tdxlab.host.dpamt import get_put, lock, refcount, tdx_pamt_get, tdx_pamt_put
from tdxlab.host.dpamt.pair import FromAllocator
from tdxlab.host.dpamt.refcount import tdx_find_pamt_refcount
from tdxlab.lab import Lab
from tdxlab.spec.levels import LEVEL_2M, PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M
from tdxlab.spec.pamt import PT_PAMT
from tdxlab.spec.status import TDX_OPERAND_BUSY

VERSIONS = tuple(name for name in get_put.question.variants if name != "none")
PAGE = (4 << 30) + 100 * SIZE_2M  # of a range that nobody else uses


def machine(version: str) -> Lab:
    return Lab(design=f"seed,pamt_get_put={version}", dpamt=True, grain="seamcall")


async def get(lab: Lab, hpa: int = PAGE, level: int = PG_LEVEL_4K) -> int:
    return await tdx_pamt_get(lab.host, hpa, level, FromAllocator(lab.host, "td0"))


async def put(lab: Lab, hpa: int = PAGE) -> None:
    await tdx_pamt_put(lab.host, hpa, PG_LEVEL_4K)


def backed(lab: Lab) -> bool:
    node = lab.module.pamt.page(PAGE, LEVEL_2M)
    return node.read().type is PT_PAMT


# --- alone ---


@pytest.mark.parametrize("version", VERSIONS)
def test_the_first_get_gives_a_pair_and_the_last_put_takes_it_back(version: str) -> None:
    lab = machine(version)
    free = lab.host.allocator.handed_out()
    assert [lab.alone(get(lab)) for _ in range(3)] == [0, 0, 0]
    assert backed(lab) and lab.host.charged("td0") == 2
    counted = version != "hints"
    for left in (2, 1, 0):
        assert tdx_find_pamt_refcount(lab.host, PAGE)[0] == counted * (left + 1)
        lab.alone(put(lab))
    assert not backed(lab) and lab.host.charged("td0") == 0 and lab.host.allocator.handed_out() == free


def test_nothing_is_done_for_large_pages_or_without_dynamic_pamt() -> None:
    lab = machine("v6")
    assert lab.alone(get(lab, level=PG_LEVEL_2M)) == 0 and not backed(lab)
    static = Lab()
    assert static.alone(get(static)) == 0 and not static.journal.notes[-1]["leaf"].endswith("PAMT.ADD")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_get_without_memory_changes_nothing(version: str) -> None:
    lab = machine(version)
    free = lab.host.allocator.handed_out()
    lab.host.fail_nth.plan("tdx_alloc_pamt_pages", 2)
    assert lab.alone(get(lab)) == -12
    assert not backed(lab) and tdx_find_pamt_refcount(lab.host, PAGE)[0] == 0
    assert lab.host.allocator.handed_out() == free


@pytest.mark.parametrize(
    ("version", "answer"), [("hints", -5), ("v1", -5), ("v2", -5), ("v3", 0), ("v4", 0), ("v5", -5), ("v6", -5)]
)
def test_a_refused_pamt_add_is_success_in_v3_and_v4(version: str, answer: int) -> None:
    lab = machine(version)
    free = lab.host.allocator.handed_out()
    lab.host.fail_nth.plan("TDH.PHYMEM.PAMT.ADD", 1, status=TDX_OPERAND_BUSY.at(1))
    assert lab.alone(get(lab)) == answer
    assert tdx_find_pamt_refcount(lab.host, PAGE)[0] == 0 and lab.host.allocator.handed_out() == free


@pytest.mark.parametrize(("version", "count"), [("v1", 0), ("v2", 1), ("v3", 1), ("v4", 1), ("v5", 1), ("v6", 1)])
def test_a_refused_pamt_remove_leaves_the_pair_and_the_count_of_its_version(version: str, count: int) -> None:
    lab = machine(version)
    lab.alone(get(lab))
    lab.host.fail_nth.plan("TDH.PHYMEM.PAMT.REMOVE", 1, status=TDX_OPERAND_BUSY.at(1))
    lab.alone(put(lab))
    assert backed(lab) and tdx_find_pamt_refcount(lab.host, PAGE)[0] == count
    assert lab.host.charged("td0") == 2, "the pair is still the module's"


def test_v3_takes_two_pages_at_every_get() -> None:
    pages = {}
    for version in ("v3", "v4"):
        lab = machine(version)
        lab.alone(get(lab))
        lab.host.fail_nth.plan("tdx_alloc_pamt_pages", 1)
        pages[version] = lab.alone(get(lab))
    assert pages == {"v3": -12, "v4": 0}


def test_counts_cost_2_mib_for_a_tib_and_8_gib_up_to_52_bits() -> None:
    sparse, flat = (refcount.question.variants[name].parts.nbytes for name in ("sparse", "flat"))
    tib = 1 << 40
    assert sparse([(0, tib)], tib >> 12) == flat([(0, tib)], tib >> 12) == 2 << 20
    assert flat([(0, tib)], 1 << 40) == 8 << 30
    assert sparse([((1 << 52) - tib, tib)], 1 << 40) == 2 << 20


# --- two CPUs ---


def races(version: str, rounds: tuple[int, int], bound: int | None = None) -> Result:
    """Two CPUs get, use and put pages of one range."""
    lab = machine(version)
    node = lab.module.pamt.page(PAGE, LEVEL_2M)

    async def user(rounds: int) -> None:
        for _ in range(rounds):
            await step(at="a fault")
            if await get(lab):
                continue
            await step(node.entry(READ), at="use")
            if node.read().type is not PT_PAMT:
                lab.journal.note("unbacked")
            await put(lab)

    def never(*kinds: str) -> Callable[[list[dict[str, str]]], bool]:
        return lambda history: not any(note["kind"] in kinds for note in history)

    def accepted(history: list[dict[str, str]]) -> bool:
        return all(note["status"] == "TDX_SUCCESS" for note in history if note["kind"] == "seamcall")

    program = Program(
        lab.journal,
        lambda: [user(n) for n in rounds],
        (
            of_history("backed while used", never("unbacked")),
            of_history("no SEAMCALL refused", accepted),
            of_history("no warning", never("warn")),
            at_end("nothing left", lambda: tdx_find_pamt_refcount(lab.host, PAGE)[0] == 0 and not backed(lab)),
        ),
    )
    return explore(program, bound=bound, max_executions=20_000)


def broken(result: Result) -> set[str]:
    return {name for name, verdict in result.claims.items() if not verdict.holds}


TWO_PUTS_AT_ZERO = {"no SEAMCALL refused", "no warning", "nothing left"}


RACES = {
    "hints": {"no SEAMCALL refused", "backed while used"},
    "v1": {"no SEAMCALL refused", "no warning"},  # its failed PAMT.REMOVE does not count up
    **{version: TWO_PUTS_AT_ZERO for version in ("v2", "v3", "v4", "v5")},
    "v6": set(),
}


@pytest.mark.parametrize("version", VERSIONS)
def test_which_races_a_version_has(version: str) -> None:
    """Two CPUs with one get and one put each, up to three preemptions."""
    assert broken(races(version, (1, 1), bound=3)) == RACES[version]


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_which_races_a_version_has_under_every_schedule(version: str) -> None:
    result = races(version, (1, 1))
    assert result.complete and broken(result) == RACES[version]


# --- locks ---

OTHER = PAGE + SIZE_2M


def crossed(variant: str) -> Result:
    """Two CPUs back two ranges with pairs that lie in each other's range."""
    lab = Lab(design=f"y2026,pamt_lock={variant}", dpamt=True)

    class Given:
        def __init__(self, page: int) -> None:
            self.pages = [page, page + 0x1000]

        def take(self) -> int:
            return self.pages.pop()

    async def user(hpa: int, pages_in: int) -> None:
        await step(at="a fault")
        if await tdx_pamt_get(lab.host, hpa, PG_LEVEL_4K, Given(pages_in + 0x10000)):
            lab.journal.note("failed")

    def never(kind: str, **what: str) -> Callable[[list[dict[str, str]]], bool]:
        return lambda history: (
            not any(note["kind"] == kind and all(note[k] == v for k, v in what.items()) for note in history)
        )

    program = Program(
        lab.journal,
        lambda: [user(PAGE, OTHER), user(OTHER, PAGE)],
        (of_history("never busy", never("seamcall", status="TDX_OPERAND_BUSY")), of_history("works", never("failed"))),
    )
    return explore(program, bound=1, max_executions=2_000, check_reads=True)


@pytest.mark.parametrize(
    ("variant", "expected", "deadlock"),
    [
        ("global", set(), False),
        ("exclusive_2m", {"never busy", "works"}, False),
        ("rwlock_2m", {"never busy", "works"}, True),  # a run that does not end breaks both
        ("rwlock_2m_in_order", set(), False),
        ("pool", set(), False),
        ("rwlock_retry", {"never busy"}, False),
        ("spin", {"never busy"}, False),
    ],
)
def test_which_lock_keeps_two_calls_off_that_use_pages_of_each_others_range(
    variant: str, expected: set[str], deadlock: bool
) -> None:
    result = crossed(variant)
    assert broken(result) == expected and ("deadlock" in result.outcomes) == deadlock


@pytest.mark.parametrize("variant", lock.question.variants)
def test_under_each_lock_the_pair_comes_and_goes(variant: str) -> None:
    lab = Lab(design=f"y2026,pamt_lock={variant}", dpamt=True, grain="seamcall")
    lab.alone(get(lab))
    assert backed(lab)
    lab.alone(put(lab))
    assert not backed(lab) and not lab.journal.locks_of(0)


@pytest.mark.parametrize(("version", "believed"), [("v1", False), ("v2", True), ("v5", True), ("v6", False)])
def test_a_count_of_1_without_a_pair_is_believed_by_the_next_get(version: str, believed: bool) -> None:
    """One more round: the count that the second of two racing puts left behind."""
    result = races(version, (2, 1), bound=2)
    assert ("backed while used" in broken(result)) == believed
