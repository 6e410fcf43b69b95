"""Every design that the threads argued about is a variant that can be run, or its question says why it is not."""

from __future__ import annotations

import pytest

from tdxlab.kvm import QUESTIONS
from tdxlab.lab import Lab
from tdxlab.spec.design import Design
from tdxlab.spec.presets import PRESETS

BY_NAME = {question.name: question for question in QUESTIONS}
RUN = [  # (number in the list of debated designs, question, variant)
    # guest's accept level to KVM's mapping level
    ("A1", "accept_level", "error_code"), ("A2", "accept_level", "per_vcpu"), ("A3", "accept_level", "guest_inhibit"),
    ("A3", "accept_level", "guest_inhibit_v3"), ("A3", "accept_level", "guest_inhibit_v5"),
    ("A5", "inhibit_lock", "read"), ("A6", "inhibit_lock", "read_upgrade"), ("A7", "inhibit_lock", "test_first"),
    ("A7", "inhibit_lock", "write"), ("A8", "prefault", "force_4k"), ("A9", "accept_level", "ignore"),
    ("A10", "inhibit_lock", "clear_on_zap"), ("A11", "accept_level", "zap"), ("A12", "accept_level", "guest_inhibit"),
    ("A16", "accept_level", "force_4k"),
    # splitting
    ("B1", "split", "cross_boundary_flush"), ("B2", "split", "read"), ("B3", "accept_level", "blockless"),
    ("B4", "split", "cross_boundary"), ("B5", "split", "head_tail"), ("B6", "split", "everything"),
    ("B7", "demote_interrupted", "for_ever"), ("B8", "demote_interrupted", "bounded"),
    ("B9", "huge_pages", "uninterrupted_demote"), ("B10", "demote", "under_pamt_lock"),
    ("B11", "demote", "pamt_lock_if_busy"), ("B12", "huge_pages", "with_dpamt"),
    ("B13", "split", "cross_boundary_flush"),
    # a page that cannot be unmapped
    ("C1", "page_reference", "per_leaf"), ("C2", "page_reference", "on_failure"), ("C4", "page_reference", "page_flag"),
    ("C5", "page_reference", "hwpoison"), ("C6", "page_reference", "none"),
    # Dynamic PAMT
    ("D-1", "pamt_get_put", "hints"), ("D-2", "pamt_get_put", "locked"), ("D-3", "pamt_get_put", "v2"),
    ("D-4", "pamt_get_put", "v6"), ("D-5", "pamt_lock", "exclusive_2m"), ("D-6", "pamt_lock", "rwlock_2m"),
    ("D-7", "pamt_lock", "rwlock_2m_in_order"), ("D-8", "pamt_lock", "pool"), ("D-11", "pamt_lock", "rwlock_retry"),
    ("D-12", "pamt_lock", "spin"), ("D-13", "pamt_guest_page", "guest_memfd"),
    ("D-14", "pamt_sept_page", "at_allocation"), ("D-15", "pamt_sept_page", "at_allocation"),
    ("D-20", "pamt_refcounts", "sparse"), ("D-20", "pamt_refcounts", "flat"),
    # where pages wait
    ("E1", "pamt_cache", "generic"), ("E2", "pamt_cache", "mixed"), ("E3", "pamt_cache", "tdx_owned"),
    ("E4", "pamt_split_cache", "vm_list"), ("E5", "pamt_split_cache", "vcpu_or_vm"),
    ("E6", "pamt_split_cache", "vm_generic"),
]  # fmt: skip
NOT_RUN = [  # (number, question, what its text says)
    ("A4", "accept_level", "the same bits kept in tdx.c instead of lpage_info, which would act the same"),
    ("A13", "accept_level", "asks for another module or another guest than there is"),
    ("A13", "accept_level", "an ACCEPT of less than what is mapped that fails"),
    ("A14", "accept_level", "a TD attribute by which ACCEPT takes what the VMM has mapped"),
    ("A15", "accept_level", "a TDCALL to give back 4K"),
    ("C3", "page_reference", "most callers of an unmap have no way to fail"),
    ("D-9", "pamt_lock", "nobody can tell slab from which 2M range to take them"),
    ("D-10", "pamt_lock", "hashed locks, which fail as exclusive_2m does"),
    ("D-16", "pamt_guest_page", "under the lock the level would have to be looked at again"),
    ("D-17", "pamt_guest_page", "then no range could be mapped at 2M"),
    ("D-18", "pamt_lock", "a mempool_t for emergencies, rejected in review of v4"),
    ("D-19", "pamt_sept_page", "would wait there for pamt_lock"),
]
NUMBERS = [
    *(f"A{n}" for n in range(1, 17)), *(f"B{n}" for n in range(1, 14)), *(f"C{n}" for n in range(1, 7)),
    *(f"D-{n}" for n in range(1, 21)), *(f"E{n}" for n in range(1, 7)),
]  # fmt: skip


def test_each_is_here():
    assert {number for number, _, _ in (*RUN, *NOT_RUN)} == set(NUMBERS)


@pytest.mark.parametrize(("number", "question", "variant"), RUN)
def test_what_can_be_run_is_a_variant_with_its_source(number, question, variant):
    assert BY_NAME[question].variants[variant].source
    assert Design("mine", **{question: variant}).choices[question] == variant


@pytest.mark.parametrize(("number", "question", "reason"), NOT_RUN)
def test_of_what_can_not_be_run_its_question_says_why(number, question, reason):
    assert reason in " ".join(BY_NAME[question].text.split())


ROWS = [  # what the presets choose, as posted: question, then seed, seed_nak, y2026, mainline_616, mainline_72
    ("accept_level", "guest_inhibit", "guest_inhibit_v3", "guest_inhibit_v5", "only_4k", "only_4k"),
    ("inhibit_lock", *["test_first"] * 5),
    ("huge_pages", "always", "uninterrupted_demote", "uninterrupted_demote", None, None),
    ("split", "cross_boundary_flush", "cross_boundary", "head_tail", "none", "none"),
    ("pamt_cache", "generic", "mixed", "tdx_owned", "tdx_owned", "tdx_owned"),
    ("pamt_split_cache", "vm_generic", "vm_list", "vcpu_or_vm", None, None),
    ("pamt_get_put", "v2", "v4", "v6", "none", "none"),
    ("pamt_refcounts", "sparse", "sparse", "flat", None, None),
    ("external_spte", "by_kind", "by_kind", "one", "by_kind", "one"),
    ("demote", "one_pair", "pair_each_try", "under_pamt_lock", None, None),
    ("page_reference", "none", "none", "none", "per_leaf", "none"),
    ("teardown", "fast", "slow", "slow", "slow", "slow"),
    ("invalid_slot", "retry", "leave", "leave", "retry", "leave"),
]


MODULES = {"seed": "1.5.25", "seed_nak": "1.5.28", "y2026": "1.5.28", "rfc_v5": "1.5.28", "mainline_72": "1.5.25"}


def test_a_design_that_wants_a_demote_without_interrupts_has_the_module_for_it():
    assert {name: Lab(name).module.features.version for name in MODULES} == MODULES
    assert Lab("y2026,accept_level=blockless").module.features.version == "blockless"
    assert Lab("y2026", module="1.5.25").module.features.version == "1.5.25", "it is told, and at 4K"


def test_what_another_module_comes_to_is_one_sentence():
    said = Design.preset("y2026").with_module
    assert "huge_pages=uninterrupted_demote is made for module 1.5.28; with 1.5.25 KVM maps" in said("1.5.25")
    assert not said("1.5.28") and not said("blockless") and not Design.preset("seed").with_module("1.5.01")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_presets_choose_what_their_series_did(row):
    question, *chosen = row
    for preset, variant in zip(("seed", "seed_nak", "y2026", "mainline_616", "mainline_72"), chosen, strict=True):
        assert preset in PRESETS and variant in (None, Design.preset(preset).choices[question])
