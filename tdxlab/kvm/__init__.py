"""KVM: virt/kvm and arch/x86/kvm, as of the series under discussion (RFC v2 of S-EPT huge pages, on 6.16).

Read in this order: `kvm_main` (a VM, its locks and vCPUs), `lpage_info`, `spte`, `tdp_iter`, `mmu` (a fault), `tdp_mmu`
(the tables under mmu_lock for read), `tdp_mmu_write` (and for write), `tdx_sept` (the S-EPT follows), `direct_root`,
`mmu_load`, `user_memory` and `dirty_log` (shared memory), `tdx` (a vCPU's entries and exits), `tdvmcall`, `ioctl`,
`tdx_build`; then what goes away: `mmu_invalidate`, `mem_attributes`, `gmem_invalidate`, `memslots`, `rcu`.

The open questions: `accept_level`, `inhibit_lock`, `prefault`, `max_mapping_level`, `huge_pages`, `invalid_slot`,
`external_spte`, `split`, `demote_interrupted`, `gmem_convert`, `page_reference`, `teardown`, `build_path`,
`vm_state_guard`; with Dynamic PAMT
`sept_page_pamt`, `guest_page_pamt`, `pamt_cache`, `pamt_split_cache`, `demote`, and those of `host.dpamt`.
"""

from tdxlab.host import dpamt
from tdxlab.kvm import (
    accept_level,
    build_path,
    demote,
    demote_interrupted,
    external_spte,
    gmem_convert,
    guest_page_pamt,
    huge_pages,
    inhibit_lock,
    invalid_slot,
    max_mapping_level,
    page_reference,
    pamt_cache,
    pamt_split_cache,
    prefault,
    sept_page_pamt,
    split,
    teardown,
    vm_state_guard,
)

FAULTS = (accept_level, inhibit_lock, prefault, max_mapping_level, huge_pages, invalid_slot, external_spte)
LIFE = (teardown, build_path, vm_state_guard)
QUESTIONS = (
    *(file.question for file in (*FAULTS, split, demote_interrupted, gmem_convert, page_reference, *LIFE)),
    *(file.question for file in (sept_page_pamt, guest_page_pamt, pamt_cache, pamt_split_cache, demote)),
    *dpamt.QUESTIONS,
)
