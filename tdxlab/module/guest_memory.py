"""What a guest's use of its memory comes to where its page tables do not allow it: an exception, or a TD exit.

[S01:td_ept_violation.c, td_vmexit.h, helpers.c]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tdxlab.engine.step import WRITE, Touch, step
from tdxlab.hw.sharex import Refuse
from tdxlab.module import sept, zero_step
from tdxlab.module.exits import Interrupted, TdExit, begin, inject_ve, leave, takes_no_ve, violation_exit
from tdxlab.spec import status as st
from tdxlab.spec.bits import EptViolation, SeptEntry, place
from tdxlab.spec.fields import ConfigFlags
from tdxlab.spec.levels import LEVEL_4K, size
from tdxlab.spec.sept import ACCEPTABLE, RWX
from tdxlab.spec.tdstate import ExitReason, ExtendedExit, Vector

if TYPE_CHECKING:
    from tdxlab.module.call import Call, VmExit


async def ept_violation(vm_exit: VmExit, gpa: int, qualification: int) -> None:
    """A load or store of the guest, or an instruction's fetch, that its page tables do not allow.

    A GPA with bits above the SHARED bit gives #PF, or #VE if the TD's parameters say so.  What gives no exception is a
    TD exit, and the zero-step filter keeps the private ones in mind.
    Left out: the error code of #PF, CR2; GPAs reserved by a lower MAXPA that the guest is shown.
    """
    touches = await begin(vm_exit, ExitReason.EPT_VIOLATION, "EPT violation", rcx=qualification)
    if touches is None:
        return
    vcpu, td = vm_exit.vcpu, vm_exit.td
    if gpa >= 2 * td.shared_bit and qualification & EptViolation.GLA_VALID:
        if td.config_flags & ConfigFlags.MAXGPA_VIRT:
            inject_ve(vm_exit, vcpu, gpa, qualification)
        else:
            vm_exit.cpu.lp.exception = Vector.PF
        return
    exit = violation(vm_exit, gpa, qualification, touches)
    if exit is None:
        return
    if gpa & td.shared_bit:
        await leave(vm_exit, exit)
    else:
        zero_step.log(vcpu, vm_exit.regs.rip, gpa)
        await leave(vm_exit, exit, violation=(qualification, gpa))


def violation(vm_exit: VmExit, gpa: int, qualification: int, touches: list[Touch]) -> TdExit | None:
    """The TD exit of an EPT violation, or None: the guest gets an exception instead.

    A PENDING page gives #VE if the TD wants that.  So does a shared page whose entry does not suppress it; that #VE is
    the processor's own, which it makes only when the last one has been asked about.  The step touches the vCPU.
    Left out: an operand of a TDCALL in such a shared page before that (it would be #DF), EPT misconfigurations.
    """
    td, vcpu = vm_exit.td, vm_exit.vcpu
    if gpa & td.shared_bit:
        _, word, _ = vm_exit.cpu.walk(gpa, touches)
        if word & SeptEntry.SVE or vcpu.ve_info:
            return violation_exit(gpa, qualification)
        inject_ve(vm_exit, vcpu, gpa, qualification)
        return None
    if sept.walk(vm_exit.memory, td, gpa, LEVEL_4K, touches).state not in ACCEPTABLE:
        return violation_exit(gpa, qualification)
    if takes_no_ve(td, touches):
        return violation_exit(gpa, qualification, ExtendedExit.PENDING_EPT_VIOLATION)
    inject_ve(vm_exit, vcpu, gpa, qualification)
    return None


async def operand_page(call: Call, gpa: int, operand: int, *, write: bool = False, shared: bool = False) -> int:
    """The HPA and HKID behind a memory operand of a TDCALL, which is private unless it may be `shared`.

    Faults as the guest's own access would, but for the zero-step filter; the guest then executes the TDCALL again.
    The caller's next step touches the page.
    """
    td = call.td
    if gpa >= 2 * td.shared_bit or (gpa & td.shared_bit and not shared):
        raise Refuse(st.TDX_OPERAND_INVALID.at(operand))
    touches = await step((call.vcpu, None, WRITE), at="walk", more=True)
    if gpa & td.shared_bit:
        (level, word, _), key = call.cpu.walk(gpa, touches), 0
    else:
        entry = sept.walk(call.memory, td, gpa, LEVEL_4K, touches)
        word, level, key = entry.word, entry.level, td.key
    missing = (SeptEntry.R | SeptEntry.W * write) & ~word
    if not missing:
        return word & call.memory.hpas | key | gpa & size(level) - 1
    exit = violation(call, gpa, missing | place(word & RWX, EptViolation.ENTRY_RWX), touches)
    raise exit or Interrupted
