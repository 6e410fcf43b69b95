"""The zero-step filter: a host that lets a guest fault again and again at one instruction could single-step it.

[S01:td_exit_stepping.c]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tdxlab.engine.step import ADD, WRITE, step
from tdxlab.hw.sharex import Refuse
from tdxlab.module import exits, sept
from tdxlab.module.state import Td, Vcpu, refcount_of
from tdxlab.module.td_params import SEPT_VE_DISABLE
from tdxlab.spec.levels import LEVEL_4K
from tdxlab.spec.operands import Operand

if TYPE_CHECKING:
    from tdxlab.module.call import Call

THRESHOLD, MAX_GPAS = 6, 32


def count(vcpu: Vcpu, rip: int, gpa: int, qualification: int) -> None:
    """A private EPT violation exits.  From the seventh at an unchanged RIP on, its GPA is kept."""
    if rip != vcpu.entry_rip:
        return
    vcpu.epf_count += 1
    if vcpu.epf_count > THRESHOLD and len(vcpu.epf_gpas) < MAX_GPAS and gpa not in dict(vcpu.epf_gpas):
        vcpu.epf_gpas = (*vcpu.epf_gpas, (gpa, qualification))


async def check(call: Call, td: Td, vcpu: Vcpu) -> None:
    """TDH.VP.ENTER's look at the GPAs that were kept: one that would still fault is told again, without entering."""
    take = call.held.exclusive if call.features.zero_step_tree_exclusive else call.held.shared
    try:
        touches = await take(td.sept_tree, 0, Operand.SEPT_TREE, (vcpu, None, WRITE))
    except Refuse:
        await count_out(td, vcpu)
        raise
    for gpa, qualification in vcpu.epf_gpas:
        entry = sept.walk(call.memory, td, gpa, LEVEL_4K, touches)
        resolved = call.features.pending_resolves_zero_step and not td.attributes & SEPT_VE_DISABLE
        if entry.state.access or (resolved and entry.state in exits.ACCEPTABLE):
            continue
        await count_out(td, vcpu)
        told = exits.violation_exit(gpa, qualification)
        raise Refuse(told.status, {**dict.fromkeys(("rdx", "r9"), 0), **told.outputs})


async def count_out(td: Td, vcpu: Vcpu) -> None:
    """The vCPU is not entered after all: it leaves its epoch again."""
    touches = await step((vcpu, "epoch", WRITE), at="not entered")
    name = refcount_of(vcpu.epoch)
    touches.append((td, name, ADD))
    setattr(td, name, getattr(td, name) - 1)
