"""How a guest leaves: TD exits, the #VE that spares one, and the end of a TDCALL.

[S01:td_exit.c, td_other_exits.c, td_vmexit.h, tdx_td_dispatcher.c]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tdxlab.engine.cells import Lock
from tdxlab.engine.step import ADD, READ, WRITE, Touch, step
from tdxlab.module.sept import Entry
from tdxlab.module.state import Td, Vcpu, refcount_of
from tdxlab.spec import status as st
from tdxlab.spec.bits import EptViolation, ExtendedQualification, bits, place
from tdxlab.spec.fields import TdCtls
from tdxlab.spec.levels import LEVEL_1G, LEVEL_2M, LEVEL_4K, PAGE_SIZE
from tdxlab.spec.status import Status
from tdxlab.spec.tdstate import ExitReason, ExtendedExit, VcpuState, Vector

if TYPE_CHECKING:
    from tdxlab.module.call import Call, VmExit

INTERRUPT_INFO = 0x8000_0020  # valid, external, vector 0x20; left out: which one it was
TRAPS = (st.TDX_HOST_PRIORITY_BUSY_TIMEOUT, st.TDX_CROSS_TD_TRAP)  # exits after the instruction
MSMI = 1  # of the qualification of an SMI: it is for a machine check
TSC_BITS = 64
NOT_TOLD = bits(12, 7)  # of the qualification of an EPT violation: what is about linear addresses


class TdExit(Exception):
    """The guest leaves.  outputs: what the host finds in its registers beside RAX."""

    def __init__(self, status: Status, **outputs: int) -> None:
        super().__init__(status)
        self.status, self.outputs = status, outputs


class Interrupted(Exception):
    """An interrupt is pending, or the guest takes an exception: RAX and RIP stay.

    So the guest executes the TDCALL again afterwards.
    """


def exit_for(reason: ExitReason, **outputs: int) -> TdExit:
    """A normal exit: success, and the VMX exit reason in the low bits."""
    return TdExit(Status(reason), **outputs)


def violation_exit(gpa: int, qualification: int, extended: int = 0) -> TdExit:
    """The TD exit of an EPT violation."""
    return exit_for(ExitReason.EPT_VIOLATION, rcx=qualification & ~NOT_TOLD, rdx=extended, r8=gpa & -PAGE_SIZE)


def details_exit(kind: ExtendedExit, gpa: int, level: int, entry: Entry) -> TdExit:
    """The TD exit of a TDCALL that finds another entry than it needs: what it asked for, and what is there."""
    told = ExtendedQualification
    extended = (
        kind
        | place(level, told.REQUESTED)
        | place(entry.level, told.LEVEL)
        | place(entry.state.code, told.STATE)
        | (told.LEAF if entry.state.leaf else 0)
    )
    qualification = EptViolation.WRITE | place(entry.word & 0b111, EptViolation.ENTRY_RWX)
    return violation_exit(gpa, qualification, extended)


def takes_no_ve(td: Td, touches: list[Touch]) -> bool:
    """Has the TD chosen TD exits where it uses a PENDING page?  Adds the read to `touches`."""
    touches.append((td, "td_ctls", READ))
    return bool(td.td_ctls & TdCtls.PENDING_VE_DISABLE)


def inject_ve(vm_exit: VmExit, vcpu: Vcpu, gpa: int, qualification: int) -> None:
    """#VE, or #DF if the guest has not yet asked what the last #VE was about.  The step touches the vCPU."""
    if vcpu.ve_info is None:
        vcpu.ve_info = ExitReason.EPT_VIOLATION, qualification, gpa
        vm_exit.cpu.lp.exception = Vector.VE
    else:
        vm_exit.cpu.lp.exception = Vector.DF


async def begin(vm_exit: VmExit, reason: ExitReason, at: str, **outputs: int) -> list[Touch] | None:
    """What every VM exit begins with: the time is kept, and a vCPU of a TD that is dead has made its TD exit.

    Returns the touches of the step, which touches the vCPU, or None: the guest has left.
    """
    vcpu = vm_exit.vcpu
    touches = await step((vcpu, None, WRITE), at=at, more=True)
    vm_exit.td = td = vm_exit.module.tds[vcpu.tdr]
    touches.append((td, "fatal", READ))
    vcpu.last_exit_tsc = vm_exit.cpu.tsc()
    if not td.fatal:
        return touches
    exit = TdExit(st.TDX_NON_RECOVERABLE_TD_NON_ACCESSIBLE.at(reason), **outputs)
    await leave(vm_exit, exit, VcpuState.DISABLED, counted=False, touches=touches)
    return None


async def leave(
    vm_exit: VmExit,
    exit: TdExit,
    state: VcpuState = VcpuState.READY,
    *,
    counted: bool = True,
    violation: tuple[int, int] | None = None,
    touches: list[Touch] | None = None,
) -> None:
    """A TD exit: keep the guest's registers, count the vCPU out of its epoch, give TDVPR and TDR back.

    violation: (qualification, GPA) of a private EPT violation, which the zero-step filter has seen already.
    touches: of the step in which this happens, if it is the one that the VM exit began with.
    """
    vcpu, lp, regs = vm_exit.vcpu, vm_exit.cpu.lp, vm_exit.regs
    if touches is None:
        touches = await step((vcpu, None, WRITE), at="TD exit", more=True)
    td = vm_exit.module.tds[vcpu.tdr]
    count = refcount_of(vcpu.epoch)
    touches += ((td, count, ADD), *vm_exit.pamt.node(vcpu.tdvpr), *vm_exit.pamt.node(td.tdr))
    setattr(td, count, getattr(td, count) - counted)
    if violation is None and regs.rip != vcpu.entry_rip:
        vcpu.epf_count, vcpu.epf_gpas = 0, ()
    vcpu.violation = violation
    vcpu.gprs, vcpu.trap_exit = regs.as_dict(), exit.status.code in TRAPS
    vcpu.state = state
    lp.vcpu, lp.exception = 0, Vector.NONE
    regs.load({"rax": exit.status, **exit.outputs})
    vm_exit.held.take_over(kept_locks(vm_exit, vcpu, td))
    await vm_exit.held.release()


def kept_locks(vm_exit: VmExit, vcpu: Vcpu, td: Td) -> list[Lock]:
    """What TDH.VP.ENTER left locked: TDVPR with its parents, then the TDR's entry."""
    pages = [vm_exit.pamt.page(vcpu.tdvpr, level) for level in (LEVEL_1G, LEVEL_2M, LEVEL_4K)]
    pages.append(vm_exit.pamt.page(td.tdr, LEVEL_4K))
    return [(*page.lock, False) for page in pages]


async def complete(call: Call, status: Status | None) -> None:
    """The end of a TDCALL: RAX and RIP, and for how long the guest has been kept off a lock.

    A guest is told OPERAND_BUSY where the lock is kept for the host; when that has lasted for too long, the host
    gets a TD exit as well, and the time begins anew.
    """
    regs = call.regs
    regs.rax = status or st.TDX_SUCCESS
    regs.rip += 1
    if status is None or status.code != st.TDX_OPERAND_BUSY_HOST_PRIORITY:
        return
    regs.rax = st.TDX_OPERAND_BUSY.at(status.detail)
    now = call.cpu.tsc()
    since = now if call.busy_since is None else call.busy_since
    await step((call.vcpu, "first_busy_tsc", WRITE), (call.td, "hp_lock_timeout", READ), at="kept off for the host")
    timeout = call.td.hp_lock_timeout * call.memory.platform.tsc_mhz
    if call.busy_since is None or cycles(since, now) < timeout:
        call.vcpu.first_busy_tsc = since
    else:
        await leave(call, TdExit(st.TDX_HOST_PRIORITY_BUSY_TIMEOUT))


async def end_in_exit(call: Call, exit: TdExit) -> None:
    """A TDCALL ends in a TD exit, before anybody looks at for how long the guest has been kept off a lock."""
    await call.held.release()
    touches = await step((call.vcpu, None, WRITE), at="TD exit", more=True)
    call.vcpu.first_busy_tsc = call.busy_since
    await leave(call, exit, touches=touches)


def cycles(since: int, now: int) -> int:
    """How far the TSC, which has 64 bits, has got."""
    return (now - since) % (1 << TSC_BITS)


async def external_interrupt(vm_exit: VmExit) -> None:
    """An interrupt for the host."""
    told = {"r9": INTERRUPT_INFO}
    if touches := await begin(vm_exit, ExitReason.EXTERNAL_INTERRUPT, "TD exit", **told):
        await leave(vm_exit, exit_for(ExitReason.EXTERNAL_INTERRUPT, **told), touches=touches)


async def triple_fault(vm_exit: VmExit, qualification: int) -> None:
    """This vCPU can not run again; the TD lives."""
    if touches := await begin(vm_exit, ExitReason.TRIPLE_FAULT, "TD exit", rcx=qualification):
        exit = TdExit(st.TDX_NON_RECOVERABLE_VCPU.at(ExitReason.TRIPLE_FAULT), rcx=qualification)
        await leave(vm_exit, exit, VcpuState.DISABLED, touches=touches)


async def smi(vm_exit: VmExit, qualification: int) -> None:
    """An SMI: a normal TD exit; but if it is for a machine check, the TD can only be torn down.

    The vCPU stays counted in its epoch then [oracle tour N], and every other vCPU of the TD leaves at its next VM exit.
    Left out: races.  The flag is read under the TDR's lock, which this does not have.
    """
    touches = await begin(vm_exit, ExitReason.SMI_OTHER, "SMI", rcx=qualification)
    if touches is None:
        return
    if not qualification & MSMI:
        await leave(vm_exit, exit_for(ExitReason.SMI_OTHER, rcx=qualification), touches=touches)
        return
    touches.append((vm_exit.td, "fatal", WRITE))
    vm_exit.td.fatal = True
    status = st.TDX_NON_RECOVERABLE_TD_NON_ACCESSIBLE.at(ExitReason.SMI_OTHER)
    await leave(vm_exit, TdExit(status, rcx=qualification), VcpuState.DISABLED, counted=False, touches=touches)


OTHERS = {ExitReason.TRIPLE_FAULT: triple_fault, ExitReason.SMI_OTHER: smi}
