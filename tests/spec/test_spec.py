"""Checks on the data: no row twice, nothing unreachable, every bit accounted for."""

import pytest

from tdxlab.spec import bits, leaves, levels, sept, status, tdstate
from tdxlab.spec.features import PROFILES
from tdxlab.spec.operands import RCX, Operand
from tdxlab.spec.status import Status

LAYOUTS = [layout for layout in vars(bits).values() if isinstance(layout, type) and issubclass(layout, bits.Layout)]


# --- statuses ---


def test_a_status_is_found_by_name_and_value() -> None:
    busy = status.TDX_OPERAND_BUSY
    assert status.BY_NAME["TDX_OPERAND_BUSY"] == busy == 0x8000_0200_0000_0000
    assert repr(busy.at(RCX)) == "TDX_OPERAND_BUSY|RCX"
    assert repr(status.TDX_PAGE_SIZE_MISMATCH.at(1)) == "TDX_PAGE_SIZE_MISMATCH|0x1"


def test_a_status_with_an_operand_is_not_the_bare_code() -> None:
    busy = status.TDX_OPERAND_BUSY
    assert busy.at(RCX) != busy and busy.at(RCX).code == busy and busy.at(RCX).detail == RCX


def test_every_status_has_a_sentence_and_no_detail() -> None:
    for name, value in status.BY_NAME.items():
        assert value.detail == 0, name
        assert len(value.sentence) > 10, name
    assert len(status.BY_NAME) == len(status.SENTENCES)


def test_only_bit_63_is_an_error() -> None:
    assert not status.TDX_GPA_RANGE_ALREADY_BLOCKED.error
    assert status.TDX_EPT_WALK_FAILED.error
    assert Status(0x1234_5678_0000_0000).name.startswith("0x")


# --- leaves ---


def test_leaves_have_operands_in_register_order() -> None:
    for leaf in leaves.BY_NAME.values():
        order = [leaves.REGISTERS.index(register) for register in leaf.registers]
        assert order == sorted(set(order)), leaf


def test_a_leaf_is_found_by_both_of_its_spellings() -> None:
    assert leaves.named("TDH.MEM.PAGE.AUG") is leaves.named("tdh_mem_page_aug") is leaves.HOST[6]
    with pytest.raises(ValueError, match="there is no leaf"):
        leaves.named("TDH.NO")


# --- levels ---


def test_levels_of_kvm_and_of_the_module() -> None:
    assert levels.pg_level_to_tdx_sept_level(levels.PG_LEVEL_2M) == levels.LEVEL_2M
    assert levels.tdx_level_to_pg_level(levels.LEVEL_1G) == levels.PG_LEVEL_1G
    assert [levels.size(n) for n in range(3)] == [levels.SIZE_4K, levels.SIZE_2M, levels.SIZE_1G]
    assert levels.index(0x40_3000, levels.LEVEL_4K) == 3


# --- layouts ---


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_bit_of_a_layout_is_in_one_field(layout: type[bits.Layout]) -> None:
    masks = list(layout.fields().values())
    width = 16 if layout is bits.SharexWord else 64
    assert sum(masks) == (1 << width) - 1 or not masks
    assert all(a & b == 0 for i, a in enumerate(masks) for b in masks[:i])


def test_a_field_is_read_and_placed() -> None:
    assert bits.field(0x1_0200_1000, bits.SeptEntry.HPA) == 0x10_2001
    assert bits.place(0x10_2001, bits.SeptEntry.HPA) == 0x1_0200_1000
    assert bits.SeptEntry.show(0x87) == "R=0x1 W=0x1 X=0x1 PS=0x1"


# --- Secure EPT ---


def test_encodings_and_codes_are_distinct_and_the_free_entry_is_the_recorded_one() -> None:
    assert len({state.bits for state in sept.STATES.values()}) == len(sept.STATES) == 16
    assert len({state.code for state in sept.STATES.values()}) == len(sept.STATES)
    assert sept.FREE_ENTRY == 0x80E0_0000_0000_0000


def test_every_leaf_and_state_is_a_rule_or_a_refusal() -> None:
    for leaf in {leaf for leaf, _ in sept.RULES}:
        for state in sept.STATES.values():
            assert ((leaf, state) in sept.RULES) or sept.refusal(leaf, state).name.startswith("TDX_")
    assert not sept.RULES.keys() & sept.REFUSED.keys()


def test_every_state_that_built_leaves_make_is_reached_from_free() -> None:
    reached, todo = set(), [sept.FREE]
    while todo:
        state = todo.pop()
        if state not in reached:
            reached.add(state)
            todo += [rule.result for (_, before), rule in sept.RULES.items() if before is state and rule.result]
    made = {rule.result for rule in sept.RULES.values() if rule.result}
    only_by_migration = {state for state in made if "EXPORTED" in state.name}
    assert made - reached <= only_by_migration
    assert len(reached) == 9


def test_no_guest_uses_what_is_pending_or_blocked() -> None:
    for state in sept.STATES.values():
        assert not (state.access and (state.pending or state.blocked or not state.leaf)), state


def test_rules_carry_their_source() -> None:
    assert all(rule.source.startswith("S01") for rule in sept.RULES.values())


# --- the rest ---


def test_the_td_may_run_exactly_where_tlb_tracking_is_needed() -> None:
    assert tdstate.RUNS_IN[leaves.TDH_VP_ENTER] == tdstate.TRACKS_TLB


def test_profiles_are_named_by_their_version() -> None:
    assert all(features.version == version for version, features in PROFILES.items())
    assert PROFILES["1.5.01"].unblock_tracking_operand is Operand.SEPT_TREE
