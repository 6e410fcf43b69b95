"""A VM that goes gives every page back, in the order of its design."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from tdxlab.engine.run import run
from tdxlab.guest.programs import touches, touches_then_accepts
from tdxlab.host import seamcall
from tdxlab.kvm.gmem_invalidate import kvm_gmem_punch_hole
from tdxlab.kvm.kvm_main import EINVAL, EIO
from tdxlab.kvm.teardown import kvm_destroy_vm, tdx_flush_vp_on_cpu
from tdxlab.lab import Lab
from tdxlab.spec.levels import PG_LEVEL_4K, SIZE_2M
from tdxlab.spec.status import TDX_OPERAND_BUSY


@pytest.mark.parametrize("design", ["seed", "seed,teardown=slow"])
@pytest.mark.parametrize("grain", ["lock", "seamcall"])
def test_a_cpu_may_tear_down_what_ran_on_another(design, grain):
    lab = Lab(design=design, grain=grain)
    td = lab.create_td(memory="2M", folio="4K")
    lab.alone(td.vcpu(1, touches(0x5000)), 1)
    lab.tds.clear()  # the invariants speak of TDs that live
    program = lab.program(lambda: [kvm_destroy_vm(td.kvm)])
    trace = run(program, check_reads=True)
    assert trace.ended == "done" and not trace.notes("warn") and not trace.notes("kvm_bug_on")
    assert [note["status"] for note in trace.notes("seamcall") if note["leaf"] == "TDH.VP.FLUSH"] == ["TDX_SUCCESS"] * 2


def test_a_terminated_vm_runs_no_more_and_each_page_costs_one_reclaim():
    lab = Lab()
    td = lab.create_td(memory="4M", vcpus=1)
    lab.must(td.vcpu(0, touches(0)))
    lab.must(td.kvm.design.teardown.terminate(td.kvm))
    assert lab.alone(td.vcpu(0, touches(SIZE_2M))) == -EIO
    lab.journal.notes.clear()
    lab.must(kvm_gmem_punch_hole(td.slot.gmem, 0, 512))
    assert [note["leaf"] for note in lab.journal.notes if note["kind"] == "seamcall"] == ["TDH.PHYMEM.PAGE.RECLAIM"]
    lab.alone(kvm_destroy_vm(td.kvm))
    assert not td.kvm.vm_bugged and not any(lab.host.hkids.values())


def test_linux_knows_no_terminate():
    td = Lab("mainline_72").create_td(memory="4M")
    assert td.lab.alone(td.kvm.design.teardown.terminate(td.kvm)) == -EINVAL


def test_a_refused_flush_bugs_the_vm():
    lab = Lab()
    td = lab.create_td()

    async def refused(*_):
        return TDX_OPERAND_BUSY.at(1)

    with patch.object(seamcall, "tdh_vp_flush", refused):
        lab.alone(tdx_flush_vp_on_cpu(td.kvm.vcpus[1]))
    assert td.kvm.vm_bugged


@pytest.mark.parametrize(("design", "removes"), [("seed", 0), ("seed,teardown=slow", 513)])
def test_everything_comes_back(design, removes):
    lab = Lab(design=design)
    before = lab.host.allocator.handed_out()
    td = lab.create_td(memory="4M", image=2)
    lab.journal.notes.clear()
    lab.alone(td.vcpu(0, touches_then_accepts(SIZE_2M, (SIZE_2M, PG_LEVEL_4K))))
    lab.alone(td.vcpu(1, touches(0x5000)), 1)
    lab.journal.notes.clear()
    lab.alone(kvm_destroy_vm(td.kvm))
    assert not [note for note in lab.journal.notes if note["kind"] in ("warn", "kvm_bug_on")]
    assert lab.host.allocator.handed_out() == before
    assert not any(lab.host.hkids.values()) and td.kvm.stat["pages_4k"] == 0
    leaves = [note["leaf"] for note in lab.journal.notes if note["kind"] == "seamcall"]
    assert leaves.count("TDH.MEM.PAGE.REMOVE") == (removes + 2 if removes else 0)
    assert leaves[-2:] == ["TDH.PHYMEM.PAGE.RECLAIM", "TDH.PHYMEM.PAGE.WBINVD"]
