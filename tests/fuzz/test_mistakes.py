"""A mistake in the module turns the fuzzer red, each at the sentence that it breaks."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from tdxlab.engine.run import MachineDead
from tdxlab.engine.step import WRITE, step
from tdxlab.hw.sharex import READER, Held, Refuse
from tdxlab.module import HANDLERS, exits, gates, l2_sept, mem_page, mem_range, tdg_mem
from tdxlab.module.call import Call
from tdxlab.module.pamt import Pamt, PamtPage, packed
from tdxlab.module.sept import Entry
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.bits import SeptEntry
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.levels import PAGE_SIZE
from tdxlab.spec.operands import RCX
from tdxlab.spec.pamt import PT_RSVD, PT_TDCX
from tdxlab.spec.tdstate import RUNS_IN, KeyState, OpState
from tests.fuzz import answers, invariants
from tests.fuzz.fuzzer import Fuzzer, go_on
from tests.fuzz.machine import Machine

STATIC, DYNAMIC = "1.5.25", "1.5.25 with Dynamic PAMT"
SEED, AT_MOST = 1, 8_000

Patch = pytest.MonkeyPatch
Change = Callable[..., Any]


async def nothing(*_: Any, **__: Any) -> None:
    """In place of something that a leaf does."""


def with_change(patch: Patch, leaf: Leaf, change: Change, *, first: bool = False) -> None:
    """The leaf also makes a change, before all else or behind."""
    handler = HANDLERS[leaf]

    async def changed(call: Call, *operands: int) -> Any:
        if first:
            await change(call, *operands)
        status = await handler(call, *operands)
        if not first:
            await change(call, *operands)
        return status

    patch.setitem(HANDLERS, leaf, changed)


# --- the mistakes ---


def page_is_not_counted(patch: Patch) -> None:
    patch.setattr(Pamt, "count_in", nothing)


def page_stays_in_the_pamt(patch: Patch) -> None:
    patch.setattr(PamtPage, "free", lambda page: None)


def page_gets_a_wrong_owner(patch: Patch) -> None:
    assign = PamtPage.assign
    patch.setattr(
        PamtPage, "assign", lambda page, type, owner: assign(page, type, owner + PAGE_SIZE * (type is PT_TDCX))
    )


def large_page_counts_as_one(patch: Patch) -> None:
    patch.setattr(mem_page, "ENTRIES", 1)


def small_pages_are_not_looked_at(patch: Patch) -> None:
    patch.setattr(mem_page, "check_small_pages_free", nothing)


def donor_is_not_marked(patch: Patch) -> None:
    patch.setattr(Pamt, "mark", lambda pamt, hpa, serves: None)


def freed_page_is_reserved(patch: Patch) -> None:
    patch.setattr(PamtPage, "free", lambda page: page.chunk.entries.put(page.i, packed(PT_RSVD, 0)))


def entry_loses_a_bit(patch: Patch) -> None:
    def write(call: Call, entry: Entry, word: int) -> None:
        gates.write_entry(call, entry, word & ~SeptEntry.SVE)

    patch.setattr(mem_range, "write_entry", write)


def alias_is_not_set(patch: Patch) -> None:
    patch.setattr(l2_sept, "alias", lambda vm: 0)


def tdmr_is_not_looked_at(patch: Patch) -> None:
    patch.setattr(gates, "check_in_tdmr", lambda call, hpa, operand: None)


def state_is_not_looked_at(patch: Patch) -> None:
    patch.setattr(gates, "RUNS_IN", dict.fromkeys(RUNS_IN, OpState))


def block_does_nothing(patch: Patch) -> None:
    patch.setattr(mem_range, "write_entry", lambda call, entry, word: None)


def interrupt_does_nothing(patch: Patch) -> None:
    patch.setattr(exits, "external_interrupt", nothing)


def nobody_tracks(patch: Patch) -> None:
    patch.setattr(mem_page, "check_tracked", nothing)


def accept_clears_nothing(patch: Patch) -> None:
    patch.setattr(tdg_mem, "clear", lambda page, touches: None)


def hkid_stays_flushed(patch: Patch) -> None:
    async def change(call: Call, tdr: int) -> None:
        call.module.kot.put(call.module.tds[tdr].hkid, KeyState.HKID_FLUSHED)

    with_change(patch, leaves.TDH_MNG_KEY_FREEID, change)


def exit_counts_in_the_wrong_epoch(patch: Patch) -> None:
    patch.setattr(exits, "refcount_of", lambda epoch: "refcount0")


def vcpu_stays_associated(patch: Patch) -> None:
    async def change(call: Call, tdvpr: int) -> None:
        call.module.vcpus[tdvpr].assoc_lp = call.cpu.n

    with_change(patch, leaves.TDH_VP_FLUSH, change)


def lock_word_stays(patch: Patch) -> None:
    async def change(call: Call, tdr: int) -> None:
        lock = call.module.tds[tdr].rtmr_lock
        await step((lock, 0, WRITE))
        lock.put(0, READER)

    with_change(patch, leaves.TDH_MEM_TRACK, change)


def call_does_not_release(patch: Patch) -> None:
    patch.setattr(Held, "release", nothing)


def epoch_begins_before_the_checks(patch: Patch) -> None:
    async def change(call: Call, tdr: int) -> None:
        td = call.module.tds[tdr]
        await step((td, "td_epoch", WRITE))
        td.td_epoch += 1

    with_change(patch, leaves.TDH_MEM_TRACK, change, first=True)


def write_is_not_declared(patch: Patch) -> None:
    async def change(call: Call, tdr: int) -> None:
        call.module.tds[tdr].hp_lock_timeout += 1

    with_change(patch, leaves.TDH_MEM_TRACK, change)


def answer_is_another_leafs(patch: Patch) -> None:
    async def change(call: Call, *_: int) -> None:
        raise Refuse(st.TDX_PAGE_NOT_FREE.at(RCX))

    with_change(patch, leaves.TDH_MEM_SEPT_RD, change)


def leaf_raises(patch: Patch) -> None:
    async def change(call: Call, *_: int) -> None:
        raise KeyError("an entry that is not there")

    with_change(patch, leaves.TDH_MEM_SEPT_RD, change)


def leaf_kills_the_module(patch: Patch) -> None:
    async def change(call: Call, *_: int) -> None:
        raise MachineDead("for no reason")

    with_change(patch, leaves.TDH_MEM_SEPT_RD, change)


MISTAKES: dict[Change, tuple[str, Any]] = {
    page_is_not_counted: (DYNAMIC, invariants.counts_are_exact),
    page_stays_in_the_pamt: (STATIC, invariants.a_page_in_use_has_one_user),
    tdmr_is_not_looked_at: (STATIC, invariants.a_page_in_use_can_be_used),
    page_gets_a_wrong_owner: (STATIC, invariants.an_owner_is_a_td),
    large_page_counts_as_one: (STATIC, invariants.chldcnt_counts_pages),
    small_pages_are_not_looked_at: (DYNAMIC, invariants.nothing_below_a_large_page),
    donor_is_not_marked: (DYNAMIC, invariants.bits_are_those_of_pairs),
    freed_page_is_reserved: (STATIC, invariants.reserved_pages_stay),
    entry_loses_a_bit: (STATIC, invariants.entries_are_well_formed),
    alias_is_not_set: (STATIC, invariants.aliases_say_who_has_a_table),
    state_is_not_looked_at: (STATIC, answers.states_allow_it),
    block_does_nothing: (STATIC, answers.states_allow_it),
    interrupt_does_nothing: (STATIC, answers.it_has_an_end),
    nobody_tracks: (STATIC, answers.a_guest_reaches_its_own_pages),
    accept_clears_nothing: (STATIC, answers.accepted_means_zero),
    hkid_stays_flushed: (STATIC, invariants.the_key_table_knows_tds),
    exit_counts_in_the_wrong_epoch: (STATIC, invariants.epochs_count_vcpus_inside),
    vcpu_stays_associated: (STATIC, invariants.vcpus_are_where_they_say),
    lock_word_stays: (STATIC, invariants.locks_are_held_by_somebody),
    call_does_not_release: (STATIC, answers.no_lock_is_left),
    epoch_begins_before_the_checks: (STATIC, answers.refused_means_unchanged),
    answer_is_another_leafs: (STATIC, answers.a_row_allows_it),
    write_is_not_declared: (STATIC, "without a touch or a lock"),
    leaf_raises: (STATIC, "No call raises."),
    leaf_kills_the_module: (STATIC, "The module dies only"),
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_is_found(mistake: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, broken = MISTAKES[mistake]
    fuzzer = Fuzzer(Machine(kind), Random(SEED), every=25)
    mistake(monkeypatch)
    with pytest.raises(AssertionError, match=re.escape(broken if isinstance(broken, str) else broken.__doc__)):
        go_on(fuzzer, AT_MOST)


def test_every_invariant_is_broken_by_one() -> None:
    assert {*invariants.INVARIANTS, *answers.AFTER_A_CALL} <= {broken for _, broken in MISTAKES.values()}
