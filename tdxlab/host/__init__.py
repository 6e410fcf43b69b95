"""The host kernel's TDX code beside KVM: arch/x86/virt/vmx/tdx.  It reaches the module through registers only."""
