"""Which answers the emulated module gives while something runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tdxlab.hw.cpu import Cpu, Regs
from tdxlab.module import TdxModule
from tdxlab.spec import leaves
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.status import TDX_SUCCESS, Status

LEAF = 0xFFFF
EXITS = ("ept_violation", "external_interrupt", "vm_exit")
Answer = tuple[Leaf, Status]


@contextmanager
def watched() -> Iterator[set[Answer]]:
    """The (leaf, RAX) of each call that ends meanwhile.  A TD exit is an answer of TDH.VP.ENTER, whatever led to it."""
    seen: set[Answer] = set()
    originals = {name: getattr(TdxModule, name) for name in ("seamcall", "tdcall", *EXITS)}
    try:
        for name, original in originals.items():
            setattr(TdxModule, name, watch(original, {"seamcall": leaves.HOST, "tdcall": leaves.GUEST}.get(name), seen))
        yield seen
    finally:
        for name, original in originals.items():
            setattr(TdxModule, name, original)


def watch(original: Callable[..., Awaitable[Any]], numbers: dict[int, Leaf] | None, seen: set[Answer]) -> Any:
    """The method, and afterwards a look at RAX: by the host, or by the guest that goes on with it."""

    async def call(module: TdxModule, cpu: Cpu, regs: Regs, *rest: Any) -> Any:
        leaf, rip = (numbers or {}).get(regs.rax & LEAF), regs.rip
        answer = await original(module, cpu, regs, *rest)
        if not cpu.lp.vcpu:
            seen.add((leaf if numbers is leaves.HOST and leaf else leaves.TDH_VP_ENTER, regs.status))
            if leaf is leaves.TDG_VP_VMCALL:  # which succeeds by the TD exit
                seen.add((leaf, TDX_SUCCESS))
        elif numbers is leaves.GUEST and leaf and regs.rip != rip:  # else the guest calls again
            seen.add((leaf, regs.status))
        return answer

    return call
