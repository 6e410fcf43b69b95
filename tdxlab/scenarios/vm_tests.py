"""Further selftests of tdx_vm_test: ReportFatalError, basic CPUID, TDG.VP.INFO, a host that reads private memory."""

from __future__ import annotations

from typing import Any

from tdxlab.engine.claims import of_history
from tdxlab.engine.run import Program
from tdxlab.guest.accept import touch
from tdxlab.guest.vmcall import tdvmcall
from tdxlab.hw.guest import Guest
from tdxlab.lab import Lab
from tdxlab.scenarios.registry import Control, scenario
from tdxlab.scenarios.shared_memory import PRIVATE, all_right, check, sync
from tdxlab.spec.fields import Attributes
from tdxlab.spec.leaves import TDG_VP_INFO
from tdxlab.spec.levels import PAGE_SHIFT
from tdxlab.spec.vmcall import EXIT_REASON_CPUID, TDVMCALL_REPORT_FATAL_ERROR

CODE, MESSAGE = 0xBAAD_0001, 0x5000
GPAW_48 = 48
LEAF_1 = 1, 0


@scenario(
    "report-fatal-error",
    claims={"ST06": "ReportFatalError reaches userspace with the registers that the guest gave, and is the end."},
    breaks={"seed": ()},
    machine={"cpus": 1},
    controls=(Control("ST06", "userspace is not told", without="tdxlab.kvm.tdvmcall.to_userspace"),),
)
def report_fatal_error(lab: Lab) -> Program:
    """Does userspace learn why a guest gives up?"""
    td = lab.create_td(memory="2M", vcpus=1)

    async def guest(guest: Guest) -> None:
        await tdvmcall(guest, TDVMCALL_REPORT_FATAL_ERROR, CODE, MESSAGE)
        check(lab.journal, "the guest goes on", 1, False)

    async def userspace(run: tuple[Any, ...]) -> None:
        told = run[2:] and (run[1], run[2]["r12"], run[2]["r13"])
        right = told == ("KVM_SYSTEM_EVENT_TDX_FATAL", CODE, MESSAGE)
        check(lab.journal, "the event", CODE, right)

    claim = of_history("ST06", lambda h: all_right(h, 1))
    return lab.program(lambda: [td.vcpu(0, guest, userspace)], [claim], ["vCPU 0"])


def _basic_cpuid(lab: Lab, eax: int) -> Program:
    td = lab.create_td(memory="2M", vcpus=1)
    td.kvm.cpuid = {LEAF_1: (eax, 0, 0, 0)}

    async def guest(guest: Guest) -> None:
        model = guest.regs.rdx
        check(lab.journal, "RDX where the guest begins", model, model == lab.memory.platform.cpuid_1_eax)
        _, _, told, *_ = await tdvmcall(guest, EXIT_REASON_CPUID, *LEAF_1)
        check(lab.journal, "EAX of leaf 1, from the host", told, told == model)

    return lab.program(lambda: [td.vcpu(0, guest)], [of_history("ST08", lambda h: all_right(h, 2))], ["vCPU 0"])


@scenario(
    "basic-cpuid",
    claims={"ST08": "What a guest learns of its processor from the module agrees with what userspace has configured."},
    breaks={"seed": ()},
    machine={"cpus": 1},
    controls=(Control("ST08", "userspace has configured another model", build=lambda lab: _basic_cpuid(lab, 0x806F9)),),
)
def basic_cpuid(lab: Lab) -> Program:
    """Do module and host tell a guest the same of its processor?

    Left out: the CPUID instruction, which the module answers, and most of what it would; RDX where the vCPU begins
    stands in for its leaf 1.
    """
    return _basic_cpuid(lab, lab.memory.platform.cpuid_1_eax)


def _vp_info(lab: Lab, attributes: int) -> Program:
    td = lab.create_td(memory="2M", vcpus=2, attributes=attributes)

    async def guest(guest: Guest) -> None:
        regs = await guest.tdcall(TDG_VP_INFO)
        found = (regs.rcx, regs.rdx, regs.r8, regs.r9)
        right = found == (GPAW_48, Attributes.SEPT_VE_DISABLE, 2 | 2 << 32, guest.cpu.n)
        check(lab.journal, f"TDG.VP.INFO on vCPU {guest.cpu.n}", found[3], right)

    claim = of_history("ST14", lambda h: all_right(h, 2))
    return lab.program(lambda: [td.vcpu(n, guest) for n in (0, 1)], [claim], ["vCPU 0", "vCPU 1"])


@scenario(
    "tdg-vp-info",
    claims={"ST14": "TDG.VP.INFO tells the GPA width, the attributes, how many vCPUs there are and which one this is."},
    breaks={"seed": ()},
    controls=(Control("ST14", "the TD is made with other attributes", build=lambda lab: _vp_info(lab, 0)),),
)
def vp_info(lab: Lab) -> Program:
    """Does a guest learn from the module what its TD was made with?"""
    return _vp_info(lab, Attributes.SEPT_VE_DISABLE)


def _host_reads(lab: Lab) -> Program:
    td = lab.create_td(memory="2M", vcpus=1)

    async def guest(guest: Guest) -> None:
        await touch(guest, 0)
        await guest.store(0, PRIVATE)
        await sync(guest)
        found = await guest.load(0)
        check(lab.journal, "the guest's view", found, found == PRIVATE)

    async def userspace(run: tuple[Any, ...]) -> int:
        folio = td.slot.gmem.folios.peek(0)
        found = lab.memory.page(folio).peek(0)
        check(lab.journal, f"the host's view of frame {folio >> PAGE_SHIFT:#x}", found, found != PRIVATE)
        return 0

    claim = of_history("ST13", lambda h: all_right(h, 2))
    return lab.program(lambda: [td.vcpu(0, guest, userspace)], [claim], ["vCPU 0"])


def without_encryption(lab: Lab) -> Program:
    """The same on a machine whose memory reads the same through every HKID."""
    lab.memory.keyed = lab.memory.hpas
    return _host_reads(lab)


@scenario(
    "host-consumes-td-private-memory",
    claims={"ST13": "A host that reads a private page does not find the guest's data, which the guest still does."},
    breaks={"seed": ()},
    machine={"cpus": 1},
    controls=(Control("ST13", "memory is not encrypted", build=without_encryption),),
)
def host_reads_private_memory(lab: Lab) -> Program:
    """What does a host find in a private page of a TD?"""
    return _host_reads(lab)
