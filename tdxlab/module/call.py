"""One call into the module: its registers, its locks, its handler."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from tdxlab.hw.cpu import Cpu, Regs
from tdxlab.hw.sharex import Held, Refuse
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.operands import RAX
from tdxlab.spec.status import Status

if TYPE_CHECKING:
    from tdxlab.module.dispatch import TdxModule
    from tdxlab.module.state import Td, Vcpu

Handler = Callable[..., Coroutine[Any, Any, "Status | None"]]
HANDLERS: dict[Leaf, Handler] = {}


def handles(leaf: Leaf) -> Callable[[Handler], Handler]:
    """The decorated function is the leaf.  It gets the call and the operands of the leaf's row, in order."""

    def register(handler: Handler) -> Handler:
        assert leaf not in HANDLERS, f"{leaf} has a handler"
        HANDLERS[leaf] = handler
        return handler

    return register


class Call:
    """One SEAMCALL or TDCALL: its registers, its locks, and the machine."""

    __slots__ = (
        "busy_since", "cpu", "features", "held", "leaf", "memory", "module", "pamt", "regs", "td", "tdmrs", "usable",
        "vcpu", "version",
    )  # fmt: skip

    def __init__(self, module: TdxModule, cpu: Cpu, regs: Regs, leaf: Leaf, version: int) -> None:
        self.module, self.cpu, self.regs, self.leaf, self.version = module, cpu, regs, leaf, version
        self.memory, self.pamt, self.features = module.memory, module.pamt, module.features
        self.held = Held(cpu.journal, host=leaf.side == "host")
        self.tdmrs: tuple[Any, ...] = ()
        self.usable: tuple[tuple[int, int], ...] = ()
        # of a TDCALL: the TD, the vCPU, and since when it has been kept off a lock
        self.td: Td
        self.vcpu: Vcpu
        self.busy_since: int | None = None

    async def answer(self) -> Status | None:
        """Run the handler on its operands.  A refusal goes to RAX, and the locks are given back either way."""
        regs, leaf = self.regs, self.leaf
        operands = [getattr(regs, register) for register in leaf.registers]
        for register in leaf.clears:
            setattr(regs, register, 0)
        try:
            if self.version:
                for register in leaf.nulls:
                    setattr(regs, register, leaves.NULL_PA)
                if self.version > self.module.highest_version(leaf):
                    raise Refuse(st.TDX_OPERAND_INVALID.at(RAX))
            status = await HANDLERS[leaf](self, *operands)
        except Refuse as refusal:
            status = refusal.status
            for register, value in refusal.outputs.items():
                setattr(self.regs, register, value)
        await self.held.release()
        return status
