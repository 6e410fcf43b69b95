"""KVM: virt/kvm and arch/x86/kvm, as of the series under discussion (RFC v2 of S-EPT huge pages, on 6.16).

Read in this order: `kvm_main` (a VM, its locks and vCPUs), `lpage_info`, `spte`, `mmu` (a fault), `tdp_mmu`,
`tdp_mmu_split`, `tdx` (the exit), `tdx_sept` (mirror to S-EPT), `tdx_build`.  The open questions: `accept_level`,
`inhibit_lock`, `prefault`, `max_level`, `split`.
"""
