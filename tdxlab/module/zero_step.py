"""The zero-step filter: a host that lets a guest fault again and again at one instruction could single-step it.

[S01:td_exit_stepping.c, tdh_vp_enter.c]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tdxlab.engine.step import ADD, READ, WRITE, step
from tdxlab.hw.sharex import Refuse
from tdxlab.module import sept
from tdxlab.module.exits import inject_ve, takes_no_ve, violation_exit
from tdxlab.module.state import Td, Vcpu, refcount_of
from tdxlab.spec.bits import EptViolation
from tdxlab.spec.fields import NotifyEnables
from tdxlab.spec.levels import LEVEL_4K
from tdxlab.spec.operands import Operand
from tdxlab.spec.sept import ACCEPTABLE

if TYPE_CHECKING:
    from tdxlab.module.call import Call

THRESHOLD, MAX_GPAS = 6, 32


def log(vcpu: Vcpu, rip: int, gpa: int) -> None:
    """A private EPT violation exits.  From the seventh at one RIP on, its GPA is kept, byte for byte.

    The first one after the guest has moved on counts too.
    """
    if rip != vcpu.entry_rip:
        vcpu.epf_count, vcpu.epf_gpas = 0, ()
    if vcpu.epf_count < THRESHOLD:
        vcpu.epf_count += 1
    elif gpa not in vcpu.epf_gpas and len(vcpu.epf_gpas) < MAX_GPAS:
        vcpu.epf_gpas = (*vcpu.epf_gpas, gpa)


async def check(call: Call, td: Td, vcpu: Vcpu) -> None:
    """TDH.VP.ENTER's look at the GPAs that were kept: one that would still fault is told again, without entering.

    It is told as a write, whatever it was.  A TD that wants to know about such faults gets #VE when all are resolved,
    unless the last VM exit was another one or an earlier #VE has not been asked about.
    """
    take = call.held.exclusive if call.features.zero_step_tree_exclusive else call.held.shared
    try:
        touches = await take(
            td.sept_tree, 0, Operand.SEPT_TREE, (vcpu, None, WRITE), (td, "notify_enables", READ), more=True
        )
    except Refuse:
        await count_out(td, vcpu)
        raise
    for gpa in vcpu.epf_gpas:
        state = sept.walk(call.memory, td, gpa, LEVEL_4K, touches).state
        gives_ve = call.features.pending_resolves_zero_step and state in ACCEPTABLE
        if state.access == "rwx" or (gives_ve and not takes_no_ve(td, touches)):
            continue
        await count_out(td, vcpu)
        vcpu.trap_exit = False
        told = violation_exit(gpa, EptViolation.WRITE)
        raise Refuse(told.status, {**dict.fromkeys(("rdx", "r9"), 0), **told.outputs})
    if td.notify_enables & NotifyEnables.EPT_FAULTS and vcpu.violation and vcpu.ve_info is None:
        qualification, gpa = vcpu.violation
        inject_ve(call, vcpu, gpa, qualification)


async def count_out(td: Td, vcpu: Vcpu) -> None:
    """The vCPU is not entered after all: it leaves its epoch again."""
    touches = await step((vcpu, None, WRITE), at="not entered", more=True)
    name = refcount_of(vcpu.epoch)
    touches.append((td, name, ADD))
    setattr(td, name, getattr(td, name) - 1)
