"""How a guest asks its host for a service: TDG.VP.VMCALL with R10 to R15, and what it finds in them afterwards."""

from __future__ import annotations

from tdxlab.hw.guest import Guest
from tdxlab.spec.leaves import TDG_VP_VMCALL

R10_TO_R15 = ("r10", "r11", "r12", "r13", "r14", "r15")
BITMAP = sum(1 << n for n in range(10, 16))


async def tdvmcall(guest: Guest, function: int, *operands: int) -> tuple[int, ...]:
    """The sub-function, with its operands from R12 on.  Returns R10 to R15."""
    values = (0, function, *operands, 0, 0, 0, 0)
    regs = await guest.tdcall(TDG_VP_VMCALL, rcx=BITMAP, **dict(zip(R10_TO_R15, values, strict=False)))
    return tuple(getattr(regs, name) for name in R10_TO_R15)
