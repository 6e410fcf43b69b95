"""One entry into the module: its registers, its locks, and of a call its handler."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from tdxlab.hw.cpu import Cpu, NotModelled, Regs
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
OPERANDS: dict[Leaf, Callable[[Regs], tuple[int, ...]]] = {}  # what a leaf's registers hold, in order


def together(registers: Sequence[str]) -> Callable[[Regs], tuple[int, ...]]:
    """What reads all of these at once.  (`attrgetter` gives no tuple of one, nor an empty one.)"""
    if not registers:
        return lambda regs: ()
    read: Callable[[Regs], Any] = attrgetter(*registers)
    return read if len(registers) > 1 else lambda regs: (read(regs),)


def handles(leaf: Leaf) -> Callable[[Handler], Handler]:
    """The decorated function is the leaf.  It gets the call and the operands of the leaf's row, in order."""

    def register(handler: Handler) -> Handler:
        assert leaf not in HANDLERS, f"{leaf} has a handler"
        HANDLERS[leaf] = handler
        OPERANDS[leaf] = together(leaf.registers)
        return handler

    return register


class VmExit:
    """The module is entered, because of what a guest did, or for a call: the registers, the locks, the machine.

    Inside a guest there are also its vCPU, and its TD where the TDR has been read.
    """

    __slots__ = ("cpu", "features", "held", "memory", "module", "pamt", "regs", "td", "vcpu")

    def __init__(self, module: TdxModule, cpu: Cpu, regs: Regs, *, host: bool) -> None:
        self.module, self.cpu, self.regs = module, cpu, regs
        self.memory, self.pamt, self.features = module.memory, module.pamt, module.features
        self.held = Held(cpu.journal, host)
        self.td: Td
        self.vcpu: Vcpu


class Call(VmExit):
    """One SEAMCALL or TDCALL.

    tdmrs, usable: of a SEAMCALL: what the module had at its first step; what becomes usable later, it does not see.
    busy_since: of a TDCALL: when it was first kept off a lock.
    """

    __slots__ = ("busy_since", "leaf", "tdmrs", "usable", "version")

    def __init__(self, module: TdxModule, cpu: Cpu, regs: Regs, leaf: Leaf, version: int) -> None:
        super().__init__(module, cpu, regs, host=leaf.side == "host")
        self.leaf, self.version = leaf, version
        self.tdmrs: tuple[Any, ...]
        self.usable: frozenset[int]
        self.busy_since: int | None

    async def answer(self) -> Status | None:
        """Run the handler on its operands.  A refusal goes to RAX, and the locks are given back either way.

        Raises NotModelled: nothing has been done then.
        """
        regs, leaf = self.regs, self.leaf
        operands = OPERANDS[leaf](regs)
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
        except NotModelled:
            await self.held.release()
            raise
        if not self.held.forgotten():
            await self.held.release()
        return status
