"""Every execution of a program once: optimal dynamic partial order reduction with wakeup trees.

Two executions are the same if one comes of the other by swapping neighbouring steps that commute.  At the end of each
run all its races are looked at: where two steps could have come the other way round, the beginning that does so is owed
at the state before the first of them, unless it is covered already.
Abdulla, Aronis, Jonsson, Sagonas: Optimal dynamic partial order reduction (POPL 2014, JACM 2017).

Left out: weak memory order.  A step whose accesses are known only afterwards (a leaf as one step) is taken to access
everything where it comes earlier: no execution is lost, but some may be run twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tdxlab.engine.access import EVERYTHING, Access, Parts, given_back
from tdxlab.engine.cells import Cell, Key, Lock
from tdxlab.engine.claims import Claim
from tdxlab.engine.history import History, Step, Waited, bits
from tdxlab.engine.identity import standing
from tdxlab.engine.rounds import Place, alike, place
from tdxlab.engine.run import Execution, Program
from tdxlab.engine.step import OTHERS, READ, WRITE, Touch
from tdxlab.engine.wakeup import Branch, Moved, insert, without


@dataclass(slots=True)
class State:
    """What is owed at the state before a step.

    asleep: CPUs whose next step has been tried here, or commutes with all since, and what it accesses; states share it.
    tree: the branches still to be run; the first is being run.  tried: how many have been.
    """

    asleep: Mapping[int, Access]
    tree: list[Branch] = field(default_factory=list)
    tried: int = 0


AUDITED = 20  # first runs of a search in which it is seen what actors do before their first step, and wait for
RETRIES = 10


def claimed_by(claim: Claim) -> tuple[str, Key, str]:
    """What a step accesses that writes what this claim looks at."""
    return f"claim {claim.id}", None, WRITE


class Search:
    """The executions of a program, each handed out at its end, before it is rewound.

    A CPU that lets others go first (`OTHERS`: a loop that tries again) goes on when what it looked at in its last round
    has been changed, when that round has changed something itself, or when the loop's rounds are not alike (one that
    counts them); else another round would come to the same.
    retries: how often it does, in all; then its run is cut.
    redundant: runs that came to nothing new.  begun_again: is called where all that was handed out does not count,
    since two writes that were thought to commute do not, or rounds that were thought to be alike are not.
    """

    def __init__(
        self,
        program: Program,
        begun_again: Callable[[], None] = lambda: None,
        retries: int = RETRIES,
        *,
        check_reads: bool = False,
    ) -> None:
        self.program, self.begun_again, self.retries, self.check_reads = program, begun_again, retries, check_reads
        self.claims = [claim for claim in program.claims if claim.over]
        self.alike: set[tuple[tuple[int, ...], int]] = set()  # (schedule, CPU): its next round is in vain, as the last
        self.counting: set[Place] = set()  # where another round is not
        self._begin(set())

    def _begin(self, waited: set[str]) -> None:
        self.history = History(self.program.journal, tuple(claimed_by(claim) for claim in self.claims), waited)
        # all that tells what a step accesses, and whether it may: what it does, and do claims look at what it wrote?
        self.judged: dict[Hashable, tuple[Access, bool]] = {}
        self.states = [State({})]
        self.again: list[int | None] = []  # of each step: the CPU, if it let others go first
        self.stood: list[Hashable] = []  # of each step ... how it stood before that
        self.stands: dict[int, tuple[int, Hashable]] = {}  # of a CPU that lets others go first: since when, and how
        self.unsure: dict[tuple[tuple[int, ...], int], Place] = {}  # as `alike`, where nobody has looked yet
        self.redundant = 0
        self.runs = 0

    @property
    def left_out(self) -> bool:
        """Was a CPU kept from trying again where nobody knows whether that would have been in vain?"""
        return bool(self.unsure)

    @property
    def left(self) -> float:
        """An estimate of the runs still to be made, at the end of one: as if all branches of a state were as large.

        Early it is far too low, since what is owed at the first states shows only in later runs.
        """
        done, share = 0.0, 1.0
        for state in self.states:
            branches = state.tried + len(state.tree)
            if branches > 1:
                share /= branches
                done += share * state.tried
        return self.runs / (done + share) - self.runs

    def executions(self) -> Iterator[Execution]:
        """One run after another.  What is taken from it must be read before the next is asked for."""
        earlier: Execution | None = None
        for n in itertools.count():
            trusted = n >= AUDITED and earlier is not None
            execution = Execution(self.program, check_reads=self.check_reads, trusted=trusted)
            prefix = [step.cpu for step in self.history.steps]
            wrong = False
            try:
                if earlier is not None:
                    execution.replay(prefix, earlier.watch)
                del self.again[len(prefix) :], self.stood[len(prefix) :]
                self.stands.clear()
                new = self._run(execution)
                self._look_at_races(execution)
                if new:
                    self.runs += 1
                    yield execution
                else:
                    self.redundant += 1
            except Waited:
                wrong = True
            finally:
                execution.abandon()
            if wrong or self._rounds_differ():
                self._begin(self.history.waited)
                self.begun_again()
                earlier = None
                continue
            earlier = execution
            if not self._back():
                return

    def follow(self, schedule: Iterable[int]) -> History:
        """The steps of one schedule, with what happens before each and with which others it races."""
        execution = Execution(self.program)
        try:
            for cpu in schedule:
                self._step(execution, cpu)
            return self.history
        except Waited:
            self._begin(self.history.waited)
        finally:
            execution.abandon()
        return self.follow(schedule)

    def _run(self, execution: Execution) -> bool:
        # From the last state on.  False if it comes to nothing new.
        states, most = self.states, self.program.max_steps
        while len(states) <= most and not execution.fatal:
            state = states[-1]
            if state.tree:
                branch = state.tree[0]
                if not self._can_go(execution, branch.cpu):
                    raise AssertionError(f"CPU {branch.cpu} is owed a step that it can not make")
                branch.access = self._step(execution, branch.cpu, branch.step)
            else:
                awake, waking = self._awake(execution, state.asleep)
                if awake is None:
                    execution.spinning = [cpu for cpu in execution.unfinished if self._spins(execution, cpu)]
                    return not waking
                branch = Branch(awake, self._step(execution, awake))
                state.tree.append(branch)
            asleep, rivals = state.asleep, branch.access.rivals
            if not rivals.isdisjoint(asleep.values()) or branch.cpu in asleep:
                asleep = {cpu: its for cpu, its in asleep.items() if cpu != branch.cpu and its not in rivals}
            states.append(State(asleep, branch.then))
        return True

    def _can_go(self, execution: Execution, cpu: int) -> bool:
        pause = execution.pauses[cpu]
        if pause is None or pause[2] != OTHERS:
            return execution.can_go(cpu)
        if self.again.count(cpu) >= self.retries:
            return False
        return self._is_new(cpu) or self._woken_by(cpu) != 0 or not self._is_alike(execution, cpu)

    def _spins(self, execution: Execution, cpu: int) -> bool:
        # would it try for ever, always in vain?
        pause = execution.pauses[cpu]
        return pause is not None and pause[2] == OTHERS and self.again.count(cpu) < self.retries

    def _round(self, cpu: int) -> int:
        # the steps of a CPU since it last tried again
        first = next((n for n in range(len(self.again) - 1, -1, -1) if self.again[n] == cpu), 0)
        return self.history.of_round(cpu, first)

    def _is_new(self, cpu: int) -> bool:
        mine = self._round(cpu)
        return not mine or self.history.left_something(mine)

    def _is_alike(self, execution: Execution, cpu: int) -> bool:
        # the round that would follow to the last; where that is not known, it is asked at the end of the run
        if self.counting and place(execution.coroutines[cpu]) in self.counting:
            return False
        at = execution.yielded[cpu]
        began = next((n for n in range(at - 1, -1, -1) if self.again[n] == cpu), None)
        if began is not None and self.stood[began] == self._stands(execution, cpu):
            return True
        schedule = self._unwoken(cpu, at)
        if schedule is not None and (schedule, cpu) not in self.alike:
            self.unsure[schedule, cpu] = place(execution.coroutines[cpu])
        return True

    def _stands(self, execution: Execution, cpu: int) -> Hashable:
        # how a CPU stands that lets others go first, looked up once; it may have begun with that
        at = execution.yielded.get(cpu, 0)
        if self.stands.get(cpu, (-1,))[0] != at:
            self.stands[cpu] = at, standing(execution.coroutines[cpu])
        return self.stands[cpu][1]

    def _unwoken(self, cpu: int, at: int) -> tuple[int, ...] | None:
        # The steps up to where it lets others go first, without those that changed what its last round had looked at.
        # None if it would not come there without them.
        gone, mine = 0, self._round(cpu)
        for n in bits(self.history.changed_since(mine) & (1 << at) - 1):
            gone |= self.history.gone(n)
        if gone & self.history.of.get(cpu, 0):
            return None
        return tuple(step.cpu for n, step in enumerate(self.history.steps[:at]) if not gone >> n & 1)

    def _rounds_differ(self) -> bool:
        # where they were taken to be alike?
        for (schedule, cpu), at in [*self.unsure.items()]:
            found = alike(self.program, schedule, cpu)
            if found is False:
                self.counting.add(at)
                return True
            if found:
                self.alike.add((schedule, cpu))
                del self.unsure[schedule, cpu]
        return False

    def _woken_by(self, cpu: int) -> int:
        return self.history.changed_since(self._round(cpu))

    def _awake(self, execution: Execution, asleep: Container[int]) -> tuple[int | None, bool]:
        # Who goes on, the last one if it can; and if nobody does, would somebody who is asleep?
        schedule = execution.schedule
        if schedule and schedule[-1] not in asleep and self._can_go(execution, schedule[-1]):
            return schedule[-1], True
        waking = False
        for cpu in range(len(execution.pauses)):
            if self._can_go(execution, cpu):
                if cpu not in asleep:
                    return cpu, True
                waking = True
        return None, waking

    def _step(self, execution: Execution, cpu: int, known: Step | None = None) -> Access:
        # known: this step, as an earlier run has made it
        pause = execution.pauses[cpu]
        assert pause is not None
        history, journal = self.history, execution.journal
        _, told, ready = pause
        mark = len(journal.log or ())
        held: Sequence[Lock] = ()
        looked_at: Parts = ()
        woken_by = 0
        again = stood = None
        if ready == OTHERS:
            again, stood = cpu, self._stands(execution, cpu)
            if not self._is_new(cpu) and self._is_alike(execution, cpu):
                looked_at, woken_by = history.looked_at(self._round(cpu)), self._woken_by(cpu)
        if known is not None:
            execution.again(cpu)
            did, held = known.did, known.held
        else:
            for _, _, mode in told:
                if type(mode) is not str:
                    held = journal.locks_of(cpu)
            did = self._go(execution, cpu)
        self.again.append(again)
        self.stood.append(stood)
        condition = ready if callable(ready) else None
        return history.add(cpu, did, told, mark, condition, held, looked_at, woken_by).access

    def _go(self, execution: Execution, cpu: int) -> Access:
        touches, written = execution.make(cpu)
        n, journal = len(execution.schedule) - 1, execution.journal
        if execution.fatal:
            execution.watch.after(written, n)
            return self.history.access(EVERYTHING)
        # steps that do the same, with the same locks, are judged once
        start = len(journal.log or ()) - len(written)
        given = [(*locks, writes - start) for locks, writes, _ in journal.released]
        guards = [cell.guard(key) for cell, key in written if cell.guard is not None]
        like = (cpu, *touches, *written, *journal.locks_of(cpu), *given, *guards)
        did, claimed = self.judged.get(like) or self._judge(execution, like, touches, written)
        if claimed:
            execution.watch.after(written, n)
        return did

    def _judge(
        self, execution: Execution, like: Hashable, touches: list[Touch], written: Sequence[tuple[Cell, Key]]
    ) -> tuple[Access, bool]:
        # the last step, if none has been like it
        journal = execution.journal
        execution.audit(journal.cpu, touches, written)
        for locks, *_ in journal.released:
            touches += given_back(locks)
        for n, (cell, key) in enumerate(written, len(journal.log or ()) - len(written)):
            # what was written under a lock may be looked at without it, and what was written without it under a share
            for touched, at, mode in touches:
                if touched is cell and mode != READ and (at is None or at == key):
                    break
            else:
                touches.append((cell, key, WRITE))
                continue
            if cell.guard is not None:
                guard = cell.guard(key)
                if isinstance(guard, tuple) and not journal.holds(*guard, True, write=n):
                    touches.append((*guard, WRITE))
        claimed = self._claimed({cell for cell, _ in written})
        did = self.history.access(self.history.parts_of(touches) + claimed)
        self.judged[like] = did, bool(claimed)
        return self.judged[like]

    def _claimed(self, written: Iterable[Cell]) -> Parts:
        # who writes what a claim looks at between steps does not commute with others who do
        return tuple(claimed_by(claim) for claim in self.claims if any(map(claim.names, written)))

    def racing(self, execution: Execution) -> list[Step]:
        """The steps whose races are looked at: all, and those that CPUs wait to make.

        All of them at each end, since races of old steps owe more when other steps follow.
        """
        steps = list(self.history.steps)
        mark = len(execution.journal.log or ())
        for cpu in execution.unfinished:
            pause = execution.pauses[cpu]
            assert pause is not None
            if pause[2] == OTHERS:
                continue  # it has tried often enough
            steps.append(self.history.waiting(cpu, pause[1], pause[2] if callable(pause[2]) else None, mark))
        return steps

    def _look_at_races(self, execution: Execution) -> None:
        every = (1 << len(self.history.steps)) - 1
        for step in self.racing(execution):
            for i, others in step.races:
                self._owe(i, step, every & ~((2 << i) - 1) & ~self.history.gone(i, others))

    def _owe(self, i: int, j: Step, rest: int) -> None:
        # The steps after i that do not happen after it, and then j.
        state, history = self.states[i], self.history
        owed = rest, Moved(history, j, i)
        for cpu, access in state.asleep.items():
            if without(history, owed, cpu, access) is not None:
                return
        insert(state.tree, history, owed)

    def _back(self) -> bool:
        # To the last state at which something is owed.
        states, steps = self.states, self.history.steps
        states.pop()
        while states:
            state = states[-1]
            if len(state.tree) > 1:
                tried = state.tree.pop(0)
                state.tried += 1
                state.asleep = {**state.asleep, tried.cpu: steps[len(states) - 1].access}
                self.history.truncate(len(states) - 1)
                return True
            states.pop()
        return False
