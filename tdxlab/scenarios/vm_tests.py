"""Further selftests of tdx_vm_test: ReportFatalError, TDG.VP.INFO, a host that reads private memory."""

from __future__ import annotations

from typing import Any

from tdxlab.engine.claims import of_history
from tdxlab.engine.run import Program
from tdxlab.guest.accept import touch
from tdxlab.guest.vmcall import tdvmcall
from tdxlab.hw.cpu import Guest
from tdxlab.lab import Lab
from tdxlab.scenarios.registry import Control, scenario
from tdxlab.scenarios.shared_memory import PRIVATE, all_right, check, sync
from tdxlab.spec.fields import Attributes
from tdxlab.spec.leaves import TDG_VP_INFO
from tdxlab.spec.levels import PAGE_SHIFT
from tdxlab.spec.vmcall import TDVMCALL_REPORT_FATAL_ERROR

CODE, MESSAGE = 0xBAAD_0001, 0x5000
GPAW_48 = 48


@scenario(
    "report-fatal-error",
    claims={"ST23": "ReportFatalError reaches userspace with the registers that the guest gave, and is the end."},
    breaks={"seed": ()},
    machine={"cpus": 1},
    controls=(Control("ST23", "userspace is not told", without="tdxlab.kvm.tdvmcall.to_userspace"),),
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

    claim = of_history("ST23", lambda h: all_right(h, 1))
    return lab.program(lambda: [td.vcpu(0, guest, userspace)], [claim], ["vCPU 0"])


def _vp_info(lab: Lab, attributes: int) -> Program:
    td = lab.create_td(memory="2M", vcpus=2, attributes=attributes)

    async def guest(guest: Guest) -> None:
        regs = await guest.tdcall(TDG_VP_INFO)
        found = (regs.rcx, regs.rdx, regs.r8, regs.r9)
        right = found == (GPAW_48, Attributes.SEPT_VE_DISABLE, 2 | 2 << 32, guest.cpu.n)
        check(lab.journal, f"TDG.VP.INFO on vCPU {guest.cpu.n}", found[3], right)

    claim = of_history("ST24", lambda h: all_right(h, 2))
    return lab.program(lambda: [td.vcpu(n, guest) for n in (0, 1)], [claim], ["vCPU 0", "vCPU 1"])


@scenario(
    "vp-info",
    claims={"ST24": "TDG.VP.INFO tells the GPA width, the attributes, how many vCPUs there are and which one this is."},
    breaks={"seed": ()},
    controls=(Control("ST24", "the TD is made with other attributes", build=lambda lab: _vp_info(lab, 0)),),
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

    claim = of_history("ST25", lambda h: all_right(h, 2))
    return lab.program(lambda: [td.vcpu(0, guest, userspace)], [claim], ["vCPU 0"])


def without_encryption(lab: Lab) -> Program:
    """The same on a machine whose memory reads the same through every HKID."""
    lab.memory.keyed = lab.memory.hpas
    return _host_reads(lab)


@scenario(
    "host-reads-private-memory",
    claims={"ST25": "A host that reads a private page does not find the guest's data, which the guest still does."},
    breaks={"seed": ()},
    machine={"cpus": 1},
    controls=(Control("ST25", "memory is not encrypted", build=without_encryption),),
)
def host_reads_private_memory(lab: Lab) -> Program:
    """What does a host find in a private page of a TD?"""
    return _host_reads(lab)
