"""What a reviewer asks of a run is in its trace, with the kernel's functions above it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from tdxlab.engine.run import run as run_program
from tdxlab.engine.schedule import story
from tdxlab.guest.programs import accepts
from tdxlab.lab import Lab
from tdxlab.scenarios.play import run
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_4K
from tdxlab.views.export import write
from tdxlab.views.happened import happened

SPLIT = "tdp_mmu_split_huge_page > tdp_mmu_set_spte > tdx_sept_split_private_spt"
ASKED: list[tuple[str, str, str, str]] = [  # scenario, design, how the event begins, what is in its stack
    ("busy-and-kick", "seed", "SEAMCALL TDH.MEM.RANGE.BLOCK: TDX_OPERAND_BUSY|RCX", SPLIT),
    ("busy-and-kick", "seed", "kick ipis=1", "tdh_do_no_vcpus > tdx_no_vcpus_enter_start > kvm_make_all_cpus_request"),
    ("busy-and-kick", "seed", "SEAMCALL TDH.MEM.PAGE.DEMOTE: TDX_SUCCESS", SPLIT),
    ("busy-and-kick", "seed", "write_lock mmu_lock:td0", "inhibit_if_not_yet > kvm_mmu_write_lock"),
    ("conversion", "seed", "SEAMCALL TDH.MEM.PAGE.REMOVE: TDX_SUCCESS", "kvm_vm_set_mem_attributes"),
    ("conversion", "seed", "tlb_flush", "kvm_vm_set_mem_attributes"),
    ("interrupted-demote", "seed", "kvm_bug_on what=tdh_mem_page_demote: TDX_INTERRUPTED_RESTARTABLE", SPLIT),
    ("accept-level", "error_code", "warn what=split of a private leaf", "kvm_tdp_mmu_map > tdp_mmu_set_spte_atomic"),
    ("accept-level", "error_code", "retry gpa=0x0", "tdx_handle_ept_violation"),
]


@pytest.mark.parametrize(("scenario", "design", "event", "stack"), ASKED)
def test_each_event_of_a_run_is_there_with_its_stack(scenario: str, design: str, event: str, stack: str) -> None:
    rows = happened(run(scenario, design=design))
    assert any(row["event"].startswith(event) and stack in row["stack"] for row in rows)


def test_a_lock_that_was_waited_for_says_so(tmp_path: Path) -> None:
    lab = Lab()
    td = lab.create_td(memory="2M")
    program = lab.program(lambda: [td.vcpu(n, accepts((n * PAGE_SIZE, PG_LEVEL_4K))) for n in (0, 1)])
    # vCPU 1 wants mmu_lock while vCPU 0 has it for write
    trace = run_program(program, story([(1, "write_lock mmu_lock:td0"), (0, "hugepage_set_guest_inhibit"), (1, None)]))
    waited = [row for row in happened(trace) if "waited" in row["event"]]
    assert next(row["event"].split(",")[0] for row in waited if row["cpu"] == 1) == "write_lock mmu_lock:td0"
    write(trace, tmp_path / "trace.csv")
    with (tmp_path / "trace.csv").open() as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if int(row["waited"])] == [row["step"] for row in waited]
    assert all("run_vcpu" in row["stack"] for row in rows[1:])
