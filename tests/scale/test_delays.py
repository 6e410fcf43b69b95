"""What steps of the machine take: sums made by hand, BUSY where two calls overlap, kicks side by side."""

from __future__ import annotations

from functools import partial

import pytest

from tdxlab.engine.timed import Span, Wait, timed
from tdxlab.guest.accept import GuestProgram, accept_page, map_gpa
from tdxlab.guest.programs import accepts, linux
from tdxlab.hw.guest import Guest
from tdxlab.lab import Lab
from tdxlab.scale.costs import costs, ns
from tdxlab.scale.delays import LEAVES, NAMES, Delays, prices
from tdxlab.scale.registers import Booted, Setup, boot
from tdxlab.scenarios.pamt_contention import busy, crossed
from tdxlab.spec.leaves import BY_NAME
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M

FAULT = 700 + 1_500 + 20 + 1_500 + 3_500 + 700 + 500
"""ACCEPT that exits, EPT violation, count, AUG, exit and entry, ACCEPT again and its own time."""


def one_vcpu(program: GuestProgram, **how: str) -> Booted:
    return boot(Setup(tds=1, program=lambda td, vcpu: program, **how))  # type: ignore[arg-type]


def test_every_cost_is_a_row_of_the_table_and_every_leaf_is_one() -> None:
    assert set(costs()) >= NAMES
    assert all(costs()[name].unit == "us" for name in NAMES)
    assert {leaf for leaf, _ in LEAVES} <= set(BY_NAME)


@pytest.mark.parametrize("grain", ["seamcall", "lock"])
def test_three_pages_take_what_their_parts_take(grain: str) -> None:
    found = one_vcpu(accepts(*((n * PAGE_SIZE, PG_LEVEL_4K) for n in range(3))), grain=grain)
    tables = 3 * (20 + 2_000)  # counts and SEPT.ADDs, once
    assert found.timed.end_ns == 3_500 + 3 * FAULT + tables
    assert [fault.ns for fault in found.faults] == [3_500 + tables + 3_720 + n * FAULT for n in range(3)]


def test_one_control_moves_all_guesses() -> None:
    ends = [boot(Setup(tds=1, program=lambda td, vcpu: accepts((0, PG_LEVEL_4K))), prices(level)).timed.end_ns
            for level in ("low", "typical", "high")]  # fmt: skip
    tables = (3 * (5 + 1_000), 3 * (20 + 2_000), 3 * (100 + 4_000))
    faults = (300 + 800 + 5 + 800 + 2_000 + 300 + 400, FAULT, 1_500 + 3_000 + 100 + 3_000 + 6_000 + 1_500 + 1_000)
    assert ends == [entry + t + f for entry, t, f in zip((2_000, 3_500, 6_000), tables, faults, strict=True)]


@pytest.mark.parametrize("grain", ["seamcall", "lock"])
def test_a_block_is_cleared_as_a_whole_or_page_by_page(grain: str) -> None:
    whole = one_vcpu(linux(0, SIZE_2M), grain=grain, folio="2M").timed
    accepted = [span for span in whole.spans if span.what == "TDG.MEM.PAGE.ACCEPT"]
    assert max(span.end_ns - span.start_ns for span in accepted) == ns("mem_page_accept_2m") - ns("tdcall")
    pieces = one_vcpu(linux(0, SIZE_2M), grain=grain).timed
    assert not any(span.end_ns - span.start_ns > 2_000 for span in pieces.spans if span.what == "TDG.MEM.PAGE.ACCEPT")


@pytest.mark.parametrize(
    ("starts_ns", "refused"),
    [
        ((0, 0), [1]),
        ((0, 1), [1]),
        ((1_000, 0), [0]),
        ((0, 3_299), [1]),
        ((0, 3_300), []),  # given back and asked for at the same instant, in the order of the CPUs
        ((3_300, 0), [0]),
        ((3_301, 0), []),
        ((0, 9_000), []),
    ],
)
def test_busy_is_met_where_two_calls_overlap_and_only_there(starts_ns: tuple[int, int], refused: list[int]) -> None:
    """PAMT.ADD, each with pages from the other's range: 700 ns until its locks, and 3300 with them."""
    lab = Lab("seed,pamt_lock=exclusive_2m", dpamt=True)
    found = timed(crossed(lab), Delays(lab), starts_ns=starts_ns)
    assert found.ended == "done"
    assert [note["cpu"] for note in found.notes if note["kind"] == "seamcall" and busy([note])] == refused
    assert [miss.cpu for miss in found.misses] == refused
    held = {hold.end_ns - hold.start_ns for hold in found.holds if hold.lock.startswith("pamt_lock:2m")}
    assert held == {0, 3_300}  # shared at first, then alone; who is refused gives back at once
    finished = [found.finished_ns[cpu] for cpu in refused]
    assert finished == [starts_ns[cpu] + 20 + 150 + 700 for cpu in refused]  # nothing of its own was done


def test_whole_calls_do_not_meet() -> None:
    lab = Lab("seed,pamt_lock=exclusive_2m", dpamt=True, grain="seamcall")
    assert not busy(timed(crossed(lab), Delays(lab)).notes)


def shares(td: int, vcpu: int) -> GuestProgram:
    """vCPU 0 accepts pages and gives one away, while the others clear 2M each."""

    async def gives(guest: Guest) -> None:
        for gpa in range(0, 8 * PAGE_SIZE, PAGE_SIZE):
            await accept_page(guest, gpa, PG_LEVEL_4K)
        await map_gpa(guest, PAGE_SIZE, PAGE_SIZE, shared=True)

    return gives if vcpu == 0 else accepts((SIZE_2M * vcpu, PG_LEVEL_2M))


def test_several_guests_are_kicked_side_by_side() -> None:
    prices = {"mem_page_accept_2m": 250_000, "ipi_kick": 4_000}
    setup = Setup(tds=1, vcpus=3, memory=3 * SIZE_2M, folio="2M", program=shares, starts_ns=(1_000, 0, 0))
    found = boot(setup, lambda name, cpu: prices.get(name, 0)).timed
    assert [span for span in found.spans if span.what == "kick"] == [
        Span(1, "kick", 250_000, 254_000),
        Span(2, "kick", 250_000, 254_000),
    ]
    assert [wait for wait in found.waits if wait.lock.startswith("lp:")] == [
        Wait(0, "lp:1", "interrupt", 1_000, 254_000),
        Wait(0, "lp:2", "interrupt", 254_000, 254_000),
    ]


def test_costs_may_depend_on_the_cpu_and_be_asked_for_one_by_one() -> None:
    asked: list[tuple[str, int]] = []

    def price(name: str, cpu: int) -> int:
        asked.append((name, cpu))
        return 0 if name == "td_exit_entry" else 10 * (cpu + 1)

    found = boot(Setup(tds=2, program=lambda td, vcpu: accepts((0, PG_LEVEL_4K))), price)
    assert found.costs == {name for name, _ in asked}
    assert asked.count(("mem_page_aug_4k", 0)) == asked.count(("mem_page_aug_4k", 1)) == 1
    assert {span.end_ns - span.start_ns for span in found.timed.spans if span.cpu == 1} == {20}


def test_what_has_no_row_is_an_empty_call() -> None:
    lab = Lab(grain="seamcall", cpus=1)
    td = lab.create_td(memory="2M")
    prefault = partial(td.prefault, 0, 0, SIZE_2M)
    found = timed(lab.program(lambda: [prefault()]), Delays(lab))
    assert found.ended == "done"
    assert {span.what for span in found.spans} == {"TDH.MEM.SEPT.ADD", "TDH.MEM.PAGE.AUG"}
