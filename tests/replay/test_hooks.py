"""Calls in the midst of a call."""

from typing import Any

import pytest

from tdxlab.engine.run import MachineDead
from tdxlab.engine.step import step
from tdxlab.hw.cpu import Regs
from tdxlab.replay.hooks import Hook
from tdxlab.replay.lines import run
from tdxlab.replay.machine import Machine
from tdxlab.replay.reading import NO_HANDLER, NO_LINE, Unbuilt


class Toy:
    """A machine whose next call is a walk through named points."""

    def __init__(self) -> None:
        self.machine, self.seen = Machine("1.5.01"), []

    async def call(self, *points: str) -> None:
        for point in points:
            await step(at=point)
            self.seen.append(point)

    def go(self, *points: str) -> list[Any]:
        self.machine.go(self.call(*points), self.machine.cpu, Regs())
        return self.seen

    def hook(self, text: str, *marks: str) -> None:
        self.machine.hook = Hook(text)
        self.machine.hook.calls = [lambda mark=mark: self.seen.append(mark) for mark in marks]  # type: ignore[misc]


@pytest.mark.parametrize(
    "hook, order",
    [
        ("poll", ["begin", "HERE", "poll", "dec", "poll", "poll"]),
        ("poll+1", ["begin", "poll", "dec", "HERE", "poll", "poll"]),
        ("poll+2", ["begin", "poll", "dec", "poll", "HERE", "poll"]),
        ("dec", ["begin", "poll", "HERE", "dec", "poll", "poll"]),
        ("inc", ["begin", "poll", "dec", "poll", "poll"]),
    ],
)
def test_a_hook_comes_before_its_step_once(hook: str, order: list[str]) -> None:
    toy = Toy()
    toy.hook(hook, "HERE")
    assert toy.go("begin", "poll", "dec", "poll", "poll") == order
    assert (toy.machine.hook is None) == ("HERE" in order)


def test_a_hook_waits_for_the_next_call_that_gets_there_and_counts_on() -> None:
    toy = Toy()
    toy.hook("poll+1", "HERE", "AND HERE")
    assert toy.go("poll") == ["poll"]
    assert toy.go("dec", "poll") == ["poll", "dec", "HERE", "AND HERE", "poll"]


def test_a_machine_that_dies_in_a_hook_abandons_the_call_around_it() -> None:
    toy = Toy()

    def dies() -> None:
        raise MachineDead("worn out")

    toy.hook("poll")
    assert toy.machine.hook is not None
    toy.machine.hook.calls = [dies]
    outer = toy.call("poll")
    with pytest.raises(MachineDead):
        toy.machine.go(outer, toy.machine.cpu, Regs())
    assert outer.cr_frame is None and toy.seen == []


def test_the_calls_of_hook_and_hookadd_are_made_by_their_lps_and_tell_what_came() -> None:
    toy = Toy()
    run(toy.machine, "hook dec+1 3 TDH.SYS.INIT 0")
    run(toy.machine, "hookadd 2 TDH.SYS.LP.INIT")
    run(toy.machine, "hookadd 2 TDH.SYS.LP.INIT")
    run(toy.machine, "lp 1")
    toy.go("dec", "dec")
    assert [hex(came.registers[0]) for came in toy.machine.hooked] == ["0x0", "0x0", "0xc000050300000000"]
    assert toy.machine.module.sys.lps == {2} and toy.machine.lp == toy.machine.journal.cpu == 1


@pytest.mark.parametrize(
    "line, reason",
    [("hook elsewhere 3 TDH.SYS.INIT", NO_LINE), ("hook poll 3 TDH.MNG.RDM", NO_HANDLER)],
)
def test_a_hook_that_can_not_be_made_is_not_armed(line: str, reason: str) -> None:
    with pytest.raises(Unbuilt, match=reason):
        run(Machine("1.5.01"), line)


@pytest.mark.parametrize("line", ["hook poll+x 3 TDH.SYS.INIT", "hook poll 9 TDH.SYS.INIT", "hookadd 3 TDH.SYS.INIT"])
def test_a_hook_that_makes_no_sense_is_a_sentence(line: str) -> None:
    with pytest.raises(ValueError, match=r"\w+"):
        run(Machine("1.5.01"), line)
