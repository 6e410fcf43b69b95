"""Designs with names: which answers each gives, and what it is.  Rows only.

Source: kvm-host reference 5.2, the cover letters of the series.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# the answers of RFC v2, which the seed documents describe
SEED = {
    "accept_level": "guest_inhibit",
    "inhibit_lock": "test_first",
    "demote": "one_pair",
    "demote_interrupted": "not_handled",
    "huge_pages": "always",
    "pamt_cache": "generic",
    "pamt_get_put": "v2",
    "pamt_guest_page": "at_map",
    "pamt_lock": "global",
    "pamt_refcounts": "sparse",
    "pamt_sept_page": "at_link",
    "pamt_split_cache": "vm_generic",
    "prefault": "as_large_as_allowed",
    "max_mapping_level": "at_faultin",
    "invalid_slot": "retry",
    "split": "cross_boundary_flush",
    "guest_memfd": "thp",
    "page_reference": "none",
    "teardown": "fast",
    "external_spte": "by_kind",
    "build_path": "decoupled",
    "vm_state_guard": "none",
}
LINUX_618 = {"max_mapping_level": "under_lock", "invalid_slot": "leave", "teardown": "slow"}
LINUX_619 = {**LINUX_618, "build_path": "page_add_src", "vm_state_guard": "all_the_locks"}
ONLY_4K = {"accept_level": "only_4k", "split": "none"}
WITHOUT_DPAMT = {"pamt_get_put": "none", "pamt_cache": "tdx_owned"}


@dataclass(frozen=True)
class Preset:
    """about: what it is, for people.  choices: {question: variant}, where it differs from `seed`."""

    about: str
    choices: Mapping[str, str]


PRESETS = {
    "seed": Preset(
        "RFC v2 of the huge-page series (2025-08-07), with which the discussion starts",
        {},
    ),
    "rfc_v1": Preset(
        "RFC v1 (2025-04-24): the accept level belongs to a vCPU, pre-faults map 4K",
        {"accept_level": "per_vcpu", "prefault": "force_4k"},
    ),
    "error_code": Preset(
        "before RFC v1: the accept level travels in the fault's error code",
        {"accept_level": "error_code"},
    ),
    "force_4k": Preset(
        "4K until the guest has said at which level it accepts",
        {"accept_level": "force_4k"},
    ),
    "ignore": Preset(
        "nobody looks at the accept level",
        {"accept_level": "ignore"},
    ),
    "inhibit_write": Preset(
        "RFC v2 without the look at GUEST_INHIBIT before mmu_lock is taken",
        {"inhibit_lock": "write"},
    ),
    "inhibit_read": Preset(
        "GUEST_INHIBIT is set under mmu_lock for read, after the split",
        {"inhibit_lock": "read"},
    ),
    "inhibit_read_upgrade": Preset(
        "GUEST_INHIBIT is set under mmu_lock for read, before the split",
        {"inhibit_lock": "read_upgrade"},
    ),
    "seed_nak": Preset(
        "the huge-page series v3 (2026-01-06), attributes and shared memory in guest_memfd; DPAMT v4",
        {
            **LINUX_619,
            "accept_level": "guest_inhibit_v3",
            "split": "cross_boundary",
            "guest_memfd": "hugetlb_in_place",
            "demote": "pair_each_try",
            "huge_pages": "uninterrupted_demote",
            "pamt_cache": "mixed",
            "pamt_get_put": "v4",
            "pamt_split_cache": "vm_list",
        },
    ),
    "y2026": Preset(
        "RFC v5 (2026-01-28): what a conversion splits is its first and its last block; DPAMT v6 (2026-05-25)",
        {
            **LINUX_619,
            "accept_level": "guest_inhibit_v5",
            "split": "head_tail",
            "guest_memfd": "hugetlb_in_place",
            "demote": "under_pamt_lock",
            "huge_pages": "uninterrupted_demote",
            "pamt_cache": "tdx_owned",
            "pamt_get_put": "v6",
            "pamt_refcounts": "flat",
            "pamt_split_cache": "vcpu_or_vm",
            "external_spte": "one",
        },
    ),
    "rfc_v5": Preset(
        "RFC v5 (2026-01-28) with its Dynamic PAMT as posted: an S-EPT page has its pair from the cache on",
        {
            **LINUX_619,
            "accept_level": "guest_inhibit_v5",
            "split": "head_tail",
            "guest_memfd": "hugetlb_in_place",
            "demote": "get_first",
            "huge_pages": "uninterrupted_demote",
            "pamt_cache": "tdx_owned",
            "pamt_get_put": "v5",
            "pamt_sept_page": "at_allocation",
            "pamt_split_cache": "vcpu_or_vm_one_pair",
            "external_spte": "one_as_posted",
        },
    ),
    "mainline_616": Preset(
        "Linux 6.16: private memory is mapped at 4K only",
        {
            **ONLY_4K,
            **WITHOUT_DPAMT,
            "page_reference": "per_leaf",
            "teardown": "slow",
            "build_path": "premap",
        },
    ),
    "dpamt_v4": Preset(
        "DPAMT v4 (2025-11-20) alone: Linux 6.19 with Dynamic PAMT, private memory at 4K only",
        {**LINUX_619, **ONLY_4K, "pamt_get_put": "v4", "pamt_cache": "mixed"},
    ),
    "dpamt_v6": Preset(
        "DPAMT v6 (2026-05-25) alone: Linux 7.2 with Dynamic PAMT, private memory at 4K only",
        {
            **LINUX_619,
            **ONLY_4K,
            "pamt_get_put": "v6",
            "pamt_cache": "tdx_owned",
            "pamt_refcounts": "flat",
            "external_spte": "one",
        },
    ),
    "mainline_72": Preset(
        "Linux 7.2: as 6.16, without a reference for each page that is mapped",
        {**LINUX_619, **ONLY_4K, **WITHOUT_DPAMT, "external_spte": "one"},
    ),
}
