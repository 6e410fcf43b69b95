"""Every test of the TDX selftests v8, and tdx_vm_huge_page, is a scenario."""

from __future__ import annotations

from tdxlab.scenarios.registry import load_all

TDX_VM_TEST = (
    "lifecycle",
    "report-fatal-error",
    "port-io",
    "basic-cpuid",
    "get-td-vmcall-info",
    "io-writes",
    "io-reads",
    "msr-reads",
    "msr-writes",
    "hlt-exit",
    "mmio-reads",
    "mmio-writes",
    "cpuid-tdvmcall",
    "host-consumes-td-private-memory",
    "tdg-vp-info",
    "log-dirty-pages",
)
OTHERS = (
    "shared-memory",  # tdx_shared_mem_test
    "upm-explicit",  # tdx_upm_test
    "upm-implicit",
    "attribute-validation",  # patches without a file of their own
    "accept-and-veinfo",
    "tdx-vm-huge-page",  # of the huge-page series, in two forms
    "tdx-vm-huge-page-rfc-v2",
)


def test_every_selftest_is_a_scenario_of_its_name() -> None:
    scenarios = load_all()
    assert not {*TDX_VM_TEST, *OTHERS} - set(scenarios)
    on_selftests = {name for name, it in scenarios.items() if any(claim.startswith("ST") for claim in it.claims)}
    assert on_selftests == {*TDX_VM_TEST, *OTHERS}
