"""One execution of a program under one schedule.

A `Program` is a machine that has been set up, and a function that gives the coroutines of its concurrent part anew
for each execution.  `Execution` steps them; `run` drives one to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from tdxlab.engine.cells import Cell, Journal, Key, reading
from tdxlab.engine.claims import Claim, Invariant, Watch
from tdxlab.engine.schedule import ScheduleError, Scheduler, stay
from tdxlab.engine.step import OTHERS, READ, Open, Pause, Steps, Touch, covers, mode_now
from tdxlab.engine.storm import Busy
from tdxlab.engine.trace import Event, Trace, placed, plain

ENGINE = __file__.rsplit("/", 1)[0]


class Undeclared(AssertionError):
    """A step used a cell that neither its touches nor a held lock covers: a search would lose traces silently."""


class MachineDead(Exception):
    """A module fatal error: the machine has stopped."""


@dataclass(frozen=True)
class Program:
    """What runs concurrently on a machine that is set up.

    actors: called anew for each execution; actor i runs on CPU i.  names: what each of them is, for people.
    picture: the state that a stepping view draws, as plain data, read between steps.
    outcome: what of the state tells one end from another, {what: how it is}.
    meta: scenario, design, grain, module version: what a schedule's string carries.
    busy: which notes tell of calls that were refused as busy, and which of progress.
    """

    journal: Journal
    actors: Callable[[], Sequence[Steps]]
    claims: tuple[Claim, ...] = ()
    invariants: tuple[Invariant, ...] = ()
    names: tuple[str, ...] = ()
    picture: Callable[[], dict[str, Any]] = dict
    outcome: Callable[[], Mapping[str, Any]] = dict
    meta: Mapping[str, str] = field(default_factory=dict)
    busy: Busy = lambda note: None
    max_steps: int = 20_000

    def violations(self) -> list[str]:
        """What the invariants say now, where nothing is in flight on what they read."""
        return [f"{i.id}: {text}" for i in self.invariants if i.quiet() for text in i.violations()]


def undeclared(
    accesses: Sequence[tuple[Cell, Key]], touches: Sequence[Touch], journal: Journal, writing: bool, start: int = 0
) -> list[tuple[str, Key]]:
    """The accesses of a step that neither its touches nor a lock of this CPU cover.  Must be empty.

    start: which entry of `journal.log` (or `reads`) the first access is; a lock that was given back before it does not
    cover it.
    """
    stray = []
    for n, (cell, key) in enumerate(accesses, start):
        for touch in touches:
            if covers(touch, cell, key) and (touch[2] != READ or not writing):
                break
        else:
            if not _guarded(cell, key, journal, writing, n):
                stray.append((cell.name, key))
    return stray


def _guarded(cell: Cell, key: Key, journal: Journal, writing: bool, n: int) -> bool:
    # does a lock of this CPU cover its access n?
    given = (lock for locks, *_ in journal.released for lock in locks)
    if writing and any(lock is cell and (k is None or k == key) for lock, k, _ in given):
        return True  # giving a lock back: its next taker orders it
    guard = cell.guard(key) if cell.guard is not None else None
    if guard is None or isinstance(guard, int):
        return guard == journal.cpu
    when = {"write": n} if writing else {"read": n}
    return journal.holds(guard[0], guard[1], writing, **when)


class Execution:
    """One run in progress.  `check_reads` also audits reads (a test build); `tracing` builds `Event`s.

    trusted: earlier runs of the same program have shown that its actors use nothing before their first steps, and wait
    for nothing but what their steps touch.
    """

    def __init__(
        self, program: Program, *, tracing: bool = False, check_reads: bool = False, trusted: bool = False
    ) -> None:
        self.program = program
        self.journal = program.journal
        self.mark = self.journal.mark()
        self.tracing, self.check_reads, self.trusted = tracing, check_reads, trusted
        self.schedule: list[int] = []
        self.runnables: list[list[int]] = []
        self.trace = Trace(schedule=self.schedule, meta=dict(program.meta))
        self.coroutines = list(program.actors())
        self.pauses: list[Pause | None] = []
        self.yielded: dict[int, int] = {}  # CPU -> length of the schedule when it let others go first
        self.polite = False  # did a CPU let others go first where it could have gone on?
        self.fatal: str | None = None
        self.spinning: list[int] = []  # who tries again for ever: nobody is left who could change what it looks at
        for cpu in range(len(self.coroutines)):
            self.journal.cpu = cpu
            if trusted:
                self.pauses.append(self._advance(cpu, None))
            else:
                self._begin(cpu)
        self.watch = Watch(program.claims, self.journal, known=trusted)

    def _begin(self, cpu: int) -> None:
        # what stands before an actor's first step is run here and is no step: it must not use the machine
        journal = self.journal
        journal.notes.clear()
        with reading(journal) as used:
            self.pauses.append(self._advance(cpu, None))
        assert journal.log is not None
        used += [(cell, key) for cell, key, _ in journal.log[self.mark :]]
        if used or journal.notes:
            what = sorted({cell.name for cell, _ in used} | {note["kind"] for note in journal.notes})
            raise Undeclared(f"CPU {cpu} uses {', '.join(what)} before its first step")

    def _advance(self, cpu: int, reply: Any) -> Pause | None:
        try:
            return self.coroutines[cpu].send(reply)
        except StopIteration:
            return None
        except MachineDead as dead:
            self.fatal = str(dead)
            return None

    def runnable(self) -> list[int]:
        """The CPUs that can make a step now, in order; not who lets others go first, if one can."""
        if self.fatal is not None:
            return []
        ready, polite = [], []
        for cpu, pause in enumerate(self.pauses):
            if pause is None:
                continue
            condition = pause[2]
            if condition == OTHERS and self.yielded.get(cpu) == len(self.schedule):
                polite.append(cpu)
            elif condition is None or condition == OTHERS or condition():  # type: ignore[operator]
                ready.append(cpu)
        self.polite = self.polite or bool(ready and polite)
        return ready or polite

    def can_go(self, cpu: int) -> bool:
        """Does `cpu` wait for nothing?  Who lets others go first does not."""
        pause = self.pauses[cpu]
        return pause is not None and (pause[2] is None or pause[2] == OTHERS or pause[2]())  # type: ignore[operator]

    def able(self, cpu: int) -> bool:
        """Can this CPU make a step now, even if it would let others go first?"""
        return self.fatal is None and cpu in self.unfinished and self.can_go(cpu)

    @property
    def unfinished(self) -> list[int]:
        """The CPUs whose actor has not returned."""
        return [cpu for cpu, pause in enumerate(self.pauses) if pause is not None]

    @property
    def ended(self) -> str:
        """How it stands: running, done, deadlock, livelock, or fatal with the reason."""
        if self.fatal is not None:
            return f"fatal: {self.fatal}"
        if not self.unfinished:
            return "done"
        if self.spinning:
            return "livelock"
        return "running" if self.runnable() else "deadlock"

    def step(self, cpu: int) -> None:
        """Let `cpu` go from where it is parked to its next step, even if it would let others go first."""
        runnable = self.runnable()
        if not self.able(cpu):
            raise ScheduleError(f"CPU {cpu} can not run at step {len(self.schedule)}; these can: {runnable}")
        self.go(cpu, runnable)

    def replay(self, schedule: Sequence[int], watched: Watch) -> None:
        """Begin as an earlier run of the same program.  watched: what that run saw of the claims, and its notes."""
        self.journal.known = True
        try:
            self._repeat(schedule)
        finally:
            self.journal.known = False
        self.watch.carry_on(watched, len(schedule))

    def again(self, cpu: int) -> None:
        """Make a step that an earlier run has made too, if not after the same steps: only claims are looked at."""
        journal, n = self.journal, len(self.schedule)
        assert journal.log is not None
        mark = len(journal.log)
        journal.notes.clear()
        self._repeat([cpu])
        self.watch.history += placed(n, cpu, journal.notes)
        self.watch.after([(cell, key) for cell, key, _ in journal.log[mark:]], n)

    def _repeat(self, schedule: Sequence[int]) -> None:
        # steps of which all is known: nothing is checked
        journal, pauses, steps = self.journal, self.pauses, self.schedule
        for cpu in schedule:
            pause = pauses[cpu]
            assert pause is not None
            journal.cpu = cpu
            after = pauses[cpu] = self._advance(cpu, [*pause[1]])
            steps.append(cpu)
            if after is not None and after[2] == OTHERS:
                self.yielded[cpu] = len(steps)

    def go(self, cpu: int, runnable: list[int] | None = None) -> list[Touch]:
        """Let `cpu`, one of those that can run, make its step; audit it, look at claims.  Returns what it touched."""
        touches, written = self.make(cpu, runnable)
        self.audit(cpu, touches, written)
        self.watch.after(written, len(self.schedule) - 1)
        return touches

    def make(self, cpu: int, runnable: list[int] | None = None) -> tuple[list[Touch], list[tuple[Cell, Key]]]:
        """... without an audit of its writes or a look at claims.  Returns what it touched, and what it wrote."""
        pause = self.pauses[cpu]
        assert pause is not None
        journal, log = self.journal, self.journal.log
        assert log is not None
        journal.cpu = cpu
        journal.released.clear()
        journal.notes.clear()
        mark = len(log)
        stack = _stack(self.coroutines[cpu]) if self.tracing else []
        touches = [*pause[1]]
        for at, (cell, key, mode) in enumerate(touches):
            if type(mode) is not str:
                touches[at] = cell, key, mode_now(cell, key, mode)
        n = len(self.schedule)
        self.schedule.append(cpu)
        if runnable is not None:
            self.runnables.append(runnable)
        if not self.trusted and callable(pause[2]):
            with reading(journal) as reads:
                pause[2]()
            self._complain(undeclared(reads, touches, journal, False), "waits for", n, cpu)
        if self.check_reads:
            with reading(journal) as reads:
                after = self.pauses[cpu] = self._advance(cpu, touches)
            self._complain(undeclared(reads, touches, journal, False), "reads", n, cpu)
        else:
            after = self.pauses[cpu] = self._advance(cpu, touches)
        if len(touches) > len(pause[1]) and not isinstance(pause[1], Open):
            raise Undeclared(f"step {n} of CPU {cpu}, {pause[0]}, adds touches and has not said so (more=True)")
        if after is not None and after[2] == OTHERS:
            self.yielded[cpu] = len(self.schedule)
        if self.tracing:
            self.trace.events.append(self._event(n, cpu, pause, stack, touches, mark, runnable or []))
        if journal.notes:
            self.watch.history += placed(n, cpu, journal.notes)
        return touches, [(cell, key) for cell, key, _ in log[mark:]] if len(log) > mark else []

    def audit(self, cpu: int, touches: Sequence[Touch], written: Sequence[tuple[Cell, Key]]) -> None:
        """Raises Undeclared where touches and locks do not cover what the step that was just made has written."""
        log = self.journal.log
        assert log is not None
        stray = undeclared(written, touches, self.journal, True, len(log) - len(written))
        self._complain(stray, "writes", len(self.schedule) - 1, cpu)

    def _complain(self, stray: list[tuple[str, Key]], verb: str, n: int, cpu: int) -> None:
        if stray and self.fatal is None:
            pause = self.pauses[cpu]
            where = _stack(self.coroutines[cpu])[-1:] if pause is not None else [("its end", "", 0)]
            raise Undeclared(f"step {n} of CPU {cpu} {verb} {stray[:4]} without a touch or a lock, before {where}")

    def _event(
        self,
        n: int,
        cpu: int,
        pause: Pause,
        stack: list[tuple[str, str, int]],
        touches: list[Touch],
        mark: int,
        runnable: list[int],
    ) -> Event:
        journal = self.journal
        return Event(
            n=n,
            cpu=cpu,
            at=pause[0],
            stack=stack,
            touches=[(cell.name, key, mode) for cell, key, mode in touches],
            delta=[(name, key, plain(old), plain(new)) for (name, key), (old, new) in journal.net(mark).items()],
            held=[(cell.name, key, exclusive) for cell, key, exclusive in journal.locks_of(cpu)],
            notes=list(journal.notes),
            runnable=runnable,
        )

    def parked(self, cpu: int) -> tuple[str, str, int] | None:
        """(function, file, line) of the step that `cpu` will make next, or None if its actor has returned."""
        stack = self.stack(cpu)
        return stack[-1] if stack else None

    def stack(self, cpu: int) -> list[tuple[str, str, int]]:
        """(function, file, line) of each model frame of `cpu`, outermost first; empty when its actor has returned."""
        return _stack(self.coroutines[cpu]) if self.pauses[cpu] is not None else []

    def label(self, cpu: int) -> str | None:
        """The name of the step that `cpu` will make next, if it has one."""
        pause = self.pauses[cpu]
        return pause[0] if pause is not None else None

    def finish(self) -> None:
        """Give the verdicts."""
        self.trace.ended = self.ended if self.ended != "running" else "cut"
        self.watch.finish(len(self.schedule), self.trace.ended == "done")
        self.trace.claims = {c.id: self.watch.holds(c) for c in self.program.claims}

    def violations(self) -> list[str]:
        """What the invariants say now; nothing of a machine that has stopped."""
        if self.fatal is not None:
            return []
        return self.program.violations()

    def abandon(self) -> None:
        """Close all coroutines, then rewind to the set-up.  In this order."""
        for cpu in self.unfinished:
            with suppress(RuntimeError):  # a coroutine may have failed in an earlier step
                self.coroutines[cpu].close()
        self.journal.rewind(self.mark)
        self.journal.cpu = 0


def suspended(coroutine: Any, *, driven: bool = False) -> Iterator[tuple[Any, FrameType]]:
    """The coroutines that are suspended in each other, outermost first, each with its frame.

    driven: also one that one of them runs by hand, as its local variable of that name.
    """
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is None:
            return
        yield coroutine, frame
        inner = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
        coroutine = inner or (frame.f_locals.get("driven") if driven else None)


def _stack(coroutine: Steps) -> list[tuple[str, str, int]]:
    """(function, file, line) of each model frame that is suspended in `coroutine`, outermost first."""
    return [
        (frame.f_code.co_qualname, frame.f_code.co_filename, frame.f_lineno)
        for _, frame in suspended(coroutine, driven=True)
        if not frame.f_code.co_filename.startswith(ENGINE)
    ]


def run(program: Program, scheduler: Scheduler = stay, *, check_reads: bool = False) -> Trace:
    """Run `program` once, to its end, and rewind.  Raises what an invariant finds as AssertionError.

    The trace's claims are the verdicts on this one execution.
    """
    execution = Execution(program, tracing=True, check_reads=check_reads)
    try:
        while (runnable := execution.runnable()) and len(execution.schedule) < program.max_steps:
            execution.step(scheduler(execution, runnable))
            if wrong := execution.violations():
                raise AssertionError(f"after step {len(execution.schedule) - 1}: {'; '.join(wrong)}")
        execution.finish()
        return execution.trace
    finally:
        execution.abandon()
