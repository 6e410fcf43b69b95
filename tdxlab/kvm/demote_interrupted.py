"""An interrupt comes in when the module is about to split a page: what does KVM do about it?

Up to 1.5.25 DEMOTE polls for interrupts before its changes, and answers TDX_INTERRUPTED_RESTARTABLE: no work is kept.
The host takes the interrupt, with mmu_lock held for write meanwhile, and can only call again.

A variant is one function: demote(kvm, call) -> (err, ext_err1, ext_err2), where `call` makes the SEAMCALL once.
Source: the cover letter of RFC v2, "Open 3", and the thread on v3.  What v3 and v5 do is another question: they map no
huge page unless the module does not poll there, see `huge_pages`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tdxlab.engine.step import WRITE, step
from tdxlab.host.seamcall import Answer
from tdxlab.kvm.kvm_main import Kvm
from tdxlab.spec.design import Question
from tdxlab.spec.status import TDX_INTERRUPTED_RESTARTABLE

question = Question("demote_interrupted", __doc__)

Call = Callable[[], Awaitable[Answer]]


async def take_interrupt(kvm: Kvm) -> None:
    """Interrupts are on here: the handler runs before the next SEAMCALL."""
    lp = kvm.host.cpu.lp
    await step((lp, "interrupt", WRITE), at="the interrupt is taken")
    lp.interrupt = 0


# --- not_handled: it is an error like any other, and so a KVM bug ---


async def call_once(kvm: Kvm, call: Call) -> Answer:
    """Right for a module that does not poll there."""
    return await call()


question.variant("not_handled", demote=call_once, source="RFC v2, which takes such a module for granted")


# --- for_ever: until it is done ---


async def call_until_done(kvm: Kvm, call: Call) -> Answer:
    """A storm of interrupts keeps it here, and everybody else out of the MMU."""
    while True:
        answer = await call()
        if answer[0].code != TDX_INTERRUPTED_RESTARTABLE:
            return answer
        await take_interrupt(kvm)


question.variant("for_ever", demote=call_until_done, source="before RFC v2, and its test branch")


# --- bounded: so many times ---

TRIES = 10_000


async def call_so_often(kvm: Kvm, call: Call) -> Answer:
    """After that it is a KVM bug, as if it had never been tried again."""
    answer = await call()
    for _ in range(TRIES - 1):
        if answer[0].code != TDX_INTERRUPTED_RESTARTABLE:
            break
        await take_interrupt(kvm)
        answer = await call()
    return answer


question.variant("bounded", demote=call_so_often, source="Sagi Shahar, in the thread of v3")
