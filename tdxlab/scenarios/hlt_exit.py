"""The selftest of HLT: a vCPU that has nothing to do sleeps in KVM."""

from __future__ import annotations

from collections.abc import Sequence

from tdxlab.engine.cells import Table
from tdxlab.engine.claims import History, of_history
from tdxlab.engine.run import Program
from tdxlab.engine.step import OTHERS, READ, WRITE, Steps, step
from tdxlab.guest.vmcall import tdvmcall
from tdxlab.hw.guest import Guest
from tdxlab.kvm.tdx import tdx_deliver_interrupt
from tdxlab.lab import Lab
from tdxlab.scenarios.registry import Control, scenario
from tdxlab.spec.vmcall import EXIT_REASON_HLT

VECTOR = 0x30


def sleeps_and_wakes(history: History) -> bool:
    """The vCPU sleeps, an interrupt is posted, and only then does the guest go on.  (Another may still come after.)"""
    kinds = [h["kind"] for h in history if h["kind"] in ("halt", "posted_interrupt", "awake")]
    before = kinds[: kinds.index("awake") + 1] if "awake" in kinds else []
    return before.count("halt") == 1 and before[-2:] == ["posted_interrupt", "awake"]


def _hlt(lab: Lab, with_timer: bool) -> Program:
    td = lab.create_td(memory="2M", vcpus=1)
    timer = Table(lab.journal, "timer", "on")

    async def guest(guest: Guest) -> None:
        await tdvmcall(guest, EXIT_REASON_HLT, 0)
        await step((timer, 0, WRITE), at="guest: stop the timer")
        timer.put(0, "off")
        lab.journal.note("awake")

    async def ticks() -> None:
        while True:
            await step((timer, 0, READ), at="is the timer on?", ready=OTHERS)
            if timer[0] == "off":
                return
            await tdx_deliver_interrupt(td.kvm.vcpus[0], VECTOR)

    def actors() -> Sequence[Steps]:
        return [td.vcpu(0, guest), *([ticks()] if with_timer else [])]

    claim = of_history("ST11", sleeps_and_wakes)
    return lab.program(actors, [claim], ["vCPU 0: HLT", *(["a timer"] if with_timer else [])], max_steps=400)


@scenario(
    "hlt-exit",
    claims={"ST11": "HLT lets the vCPU sleep in KVM until an interrupt is posted for it; then the guest goes on."},
    breaks={"seed": ()},
    controls=(Control("ST11", "there is no interrupt", build=lambda lab: _hlt(lab, with_timer=False)),),
)
def hlt_exit(lab: Lab) -> Program:
    """What wakes a guest that has executed HLT?

    A timer of the host's posts interrupts until the guest stops it, for one that comes before HLT is lost.
    """
    return _hlt(lab, with_timer=True)
