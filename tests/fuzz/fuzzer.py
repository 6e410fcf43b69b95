"""The loop: what happens on three processors, and what is looked at afterwards.

Most calls run to their end at once.  Some stop before a step, so that others meet the locks that they hold and come
between their updates; later they go on.  What is found tells how to see it again: `fuzz(seed, count)`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from random import Random

from tdxlab.engine.cells import audit
from tdxlab.engine.run import MachineDead
from tdxlab.spec import leaves
from tests.fuzz import actions
from tests.fuzz.answers import after_a_call, answered
from tests.fuzz.in_progress import InProgress, Wrong
from tests.fuzz.invariants import of_the_machine
from tests.fuzz.machine import KINDS, Machine
from tests.fuzz.operands import happens

HOOKS = {"poll", "inc", "dec", "decd", "bitset", "update", "release"}  # where it is worth while to stop
PAMT_PAIRS = {leaves.TDH_PHYMEM_PAMT_ADD, leaves.TDH_PHYMEM_PAMT_REMOVE}
STOPS, AT_A_HOOK, MOST_STEPS = 0.1, 0.5, 30
SUCCESS = {"TDX_SUCCESS", "done", "TD exit TDCALL"}
LIFE, EVERY, KEPT_LINES, TELLS = 1_500, 150, 30, 10_000


class Fuzzer:
    """every: after so many actions the whole machine is looked at; from action `closely` on after each.

    looked: at which action it was last looked at.  fatal: the module may die now: PAMT.REMOVE or ADD was called while a
    page of the range was being freed [statements 76 to 78].
    """

    def __init__(
        self,
        machine: Machine,
        dice: Random,
        *,
        every: int = EVERY,
        closely: float = float("inf"),
        check_reads: bool = False,
    ) -> None:
        self.machine, self.dice, self.every, self.closely, self.check_reads = machine, dice, every, closely, check_reads
        self.running: dict[int, InProgress] = {}
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.seen: Counter[tuple[str, str]] = Counter()
        self.actions = self.calls = 0
        self.begin()

    def begin(self) -> None:
        """The machine as it was set up."""
        for call in self.running.values():
            call.coroutine.close()
        self.running.clear()
        self.machine.restart()
        self.looked, self.born, self.fatal = self.actions, self.actions, False
        self.lines.append("--- as it was set up")

    def act(self) -> None:
        """Something happens on one of the processors."""
        self.actions += 1
        if self.actions - self.born > LIFE and not self.running:
            self.begin()
        cpu = self.dice.randrange(len(self.machine.cpus))
        call = self.running.pop(cpu, None)
        for other in self.running.values():
            other.alone = False
        call = call or actions.begun(self, cpu)
        if call is None:
            return
        try:
            self.drive(call)
        except MachineDead as dead:
            self.died(call, dead)
            return
        except Wrong:
            raise
        except Exception as failed:
            raise Wrong(f"No call raises.  {call} raised {failed!r}") from failed
        if call.ended:
            self.finish(call)
        else:
            self.running[cpu] = call
            self.lines.append(f"{call} stops before {call.at!r}")
        if not self.running and (self.actions - self.looked >= self.every or self.actions >= self.closely):
            self.look()

    def drive(self, call: InProgress) -> None:
        """To the end, or to some step on the way."""
        call.alone = call.alone and not self.running
        rest = self.dice.randrange(1, MOST_STEPS) if happens(self.dice, STOPS) else 0
        stops = rest > 0
        while True:
            if call.leaf in PAMT_PAIRS:
                self.fatal = self.fatal or any(other.frees_a_page() for other in self.running.values())
            call.step(self.check_reads)
            rest -= 1
            if call.ended or rest == 0 or (stops and call.at in HOOKS and happens(self.dice, AT_A_HOOK)):
                return

    def died(self, call: InProgress, why: MachineDead) -> None:
        """The module has died, which it may in one window only."""
        if not self.fatal:
            raise Wrong(f"The module dies only of a page pair that is taken while a page is freed.  {call}: {why}")
        self.lines.append(f"{call}: {why}")
        self.seen[call.what, "dead"] += 1
        call.coroutine.close()
        self.begin()

    def finish(self, call: InProgress) -> None:
        """Look at a call that has ended."""
        machine = self.machine
        if not self.running:
            self.fatal = False
        answer = answered(machine, call)
        if call.again and answer.in_vain:
            machine.in_vain[call.vcpu] = call.again
        self.calls += call.is_call
        self.seen[call.what, answer.what] += 1
        self.lines.append(f"{call} -> {answer.what if answer.status is None else answer.status}")
        self.complain(after_a_call(machine, call, answer))
        machine.cpus[call.cpu].keep(call.regs)

    def look(self) -> None:
        """At the whole machine.  Nothing is in progress."""
        self.complain(of_the_machine(self.machine))
        self.looked = self.actions

    def complain(self, found: Iterable[str]) -> None:
        """Raise what was found."""
        if texts := list(found):
            raise Wrong("\n".join(texts))


def nobody(fuzzer: Fuzzer) -> None:
    """Is told nothing."""


def go_on(fuzzer: Fuzzer, count: int, told: Callable[[Fuzzer], None] = nobody) -> None:
    """So many calls more; then all that is in progress ends.  told: called now and then."""
    end = fuzzer.calls + count
    with audit() if fuzzer.check_reads else nullcontext():
        while fuzzer.calls < end or fuzzer.running:
            before = fuzzer.calls
            fuzzer.act()
            if fuzzer.calls // TELLS > before // TELLS:
                told(fuzzer)
    fuzzer.look()


def fuzz(seed: int, count: int, *, check_reads: bool = False, told: Callable[[Fuzzer], None] = nobody) -> Fuzzer:
    """So many calls, on the kind of module that the seed says.

    Raises Wrong with the last actions.  What the look at the whole machine found is looked for again after each action.
    """
    kind, closely = list(KINDS)[seed % len(KINDS)], float("inf")
    while True:
        fuzzer = Fuzzer(Machine(kind), Random(seed), closely=closely, check_reads=check_reads)
        try:
            go_on(fuzzer, count, told)
        except Wrong as wrong:
            if fuzzer.looked < min(fuzzer.actions - 1, closely):
                closely = fuzzer.looked
                continue
            last = "\n".join(fuzzer.lines)
            raise Wrong(f"{last}\n{wrong}\nfuzz({seed}, {count}): {kind}, action {fuzzer.actions}") from wrong.__cause__
        return fuzzer


def coverage(seen: Counter[tuple[str, str]]) -> str:
    """How often each call came to each answer, and which share of the host's calls was not refused."""
    lines = [f"{count:7} {what:24} {answer}" for (what, answer), count in sorted(seen.items())]
    return "\n".join([*lines, f"{done(seen):.0%} of the {sum(host(seen).values())} SEAMCALLs succeed"])


def host(seen: Counter[tuple[str, str]]) -> Counter[tuple[str, str]]:
    """The host's calls alone."""
    return Counter({(what, answer): count for (what, answer), count in seen.items() if what.startswith("TDH.")})


def done(seen: Counter[tuple[str, str]]) -> float:
    """The share of the host's calls that succeed."""
    calls = host(seen)
    return sum(count for (_, answer), count in calls.items() if answer in SUCCESS) / calls.total()
