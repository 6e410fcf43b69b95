"""A brute force over small programs, which shares nothing with the search: no cells, no coroutines, no partial order.

A program is a list of threads, a thread a list of operations; r is the thread's register, the result of its last
operation that has one.  What two orders of the same steps have in common is told by vector clocks: every beginning of
an execution is known by the clocks of its steps, and is gone on from only once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Operation = tuple[Any, ...]
Program = Sequence[Sequence[Operation]]
Memory = dict[str, int]
Clock = tuple[int, ...]

READ, WRITE, ADD, SHARE, FAIL = "read", "write", "add", "share", "fail"
TAKEN, MARK, READER = 1, 2, 4  # of a module lock's word
PLAIN = "N"  # the module lock that is never marked
SILENT = "unspin", "unread", "unwrite", "leave"


@dataclass
class Thread:
    """Where a thread is: its next operation, its register, the module locks that it holds."""

    at: int = 0
    r: int = 0
    held: list[tuple[str, str]] = field(default_factory=list)
    inside: tuple[str, ...] = ()  # the counters of an SRCU in which it counts, or for which it waits
    saw: int = 0  # how often the word had been written that it loaded last

    def copy(self) -> Thread:
        return Thread(self.at, self.r, list(self.held), self.inside, self.saw)


Access = list[tuple[str, str]]
"""(object, mode)"""


def enabled(memory: Memory, op: Operation, thread: Thread) -> bool:
    kind, x = op[0], op[1] if len(op) > 1 else ""
    value = memory.get(x, 0)
    if kind in ("spin", "lock"):
        return value == 0
    if kind == "read":
        return value >= 0
    if kind == "write":
        return value == 0
    if kind == "await":
        return value == op[2]
    if kind == "again":
        return memory.get(writes_of(x), 0) != thread.saw
    if kind == "flip":
        return memory.get(period(x), 0) == 0
    if kind == "drain":
        return memory.get(thread.inside[-1], 0) == 0
    return True


def writes_of(x: str) -> str:
    """The object that counts how often x was written."""
    return f"writes of {x}"


def period(x: str) -> str:
    """Is a grace period of the SRCU x under way?"""
    return f"period of {x}"


def perform(memory: Memory, thread: Thread, op: Operation) -> Access:
    """One operation.  Readers of an rwlock count up, its writer is -1."""
    kind, x = op[0], op[1] if len(op) > 1 else ""
    value = memory.get(x, 0)
    if kind == "load":
        thread.r, thread.saw = value, memory.get(writes_of(x), 0)
        return [(x, READ)]
    if kind == "again":
        thread.at -= 2  # to the load before it
        return [(x, READ)]
    if kind == "await":
        return [(x, READ)]
    if kind == "store":
        memory[x] = op[2]
    elif kind == "store r":
        memory[x] = thread.r + 1
    elif kind == "add":
        memory[x] = value + op[2]
        return [(x, ADD)]
    elif kind == "faa":
        thread.r, memory[x] = value, value + op[2]
    elif kind == "cas":
        thread.r = int(value == op[2])
        if not thread.r:
            return [(x, READ)]
        memory[x] = op[3]
    elif kind in ("spin", "lock"):
        memory[x] = 1
    elif kind == "try":
        thread.r = int(value == 0)
        if not thread.r:
            return [(x, READ)]
        memory[x] = 1
    elif kind in ("unspin", "unlock"):
        memory[x] = 0
    elif kind in ("read", "unread"):
        memory[x] = value + (1 if kind == "read" else -1)
        return [(x, SHARE)]
    elif kind == "write":
        memory[x] = -1
    elif kind == "unwrite":
        memory[x] = 0
    elif kind in ("enter", "flip"):
        thread.inside += (f"{x}{value}",)
        if kind == "flip":
            memory[x], memory[period(x)] = 1 - value, 1
        else:
            memory[thread.inside[-1]] = memory.get(thread.inside[-1], 0) + 1
            return [(x, SHARE)]
    elif kind in ("leave", "drain"):
        *inside, last = thread.inside
        thread.inside = tuple(inside)
        if kind == "leave":
            memory[last] -= 1
            return [(x, SHARE)]
        memory[period(x)] = 0
    elif kind in ("share", "alone"):
        return [(x, module_try(memory, thread, kind, x, op[2]))]
    elif kind == "give":
        return give(memory, thread)
    else:
        raise AssertionError(kind)
    return [(x, WRITE)]


def module_try(memory: Memory, thread: Thread, kind: str, x: str, host: bool) -> str:
    """A try-lock of the module: who is refused as a host marks it, and counts as a reader if it wanted a share."""
    value = memory.get(x, 0)
    mark = 0 if x == PLAIN else MARK
    thread.r = 0
    if kind == "share":
        if value & TAKEN or (value & MARK and not host):
            if host:
                memory[x] = (value | mark) + READER
            return FAIL if host else READ
        memory[x] = (value & ~MARK) + READER
    else:
        if value and not (value == MARK and host):
            if host:
                memory[x] = value | mark
            return FAIL if host and mark else READ
        memory[x] = TAKEN
    thread.r = 1
    thread.held.append((x, kind))
    return SHARE if kind == "share" else WRITE


def give(memory: Memory, thread: Thread) -> Access:
    """All module locks of the call, in one step; an exclusive release forgets who was counted meanwhile."""
    access = []
    for x, kind in reversed(thread.held):
        memory[x] = memory[x] - READER if kind == "share" else memory[x] & MARK
        access.append((x, SHARE if kind == "share" else WRITE))
    thread.held.clear()
    return access


def next_step(code: Sequence[Operation], thread: Thread) -> Operation | None:
    """Where the thread stands: at an operation that is a step.  What is conditional and not to be done is passed."""
    while thread.at < len(code):
        op = code[thread.at]
        if op[0] == "if":
            if thread.r:
                return op[1]  # type: ignore[no-any-return]
        elif op[0] == "again":
            if thread.r != op[2]:
                return op
        elif op[0] != "give" or thread.held:
            return op
        thread.at += 1
    return None


def make_step(code: Sequence[Operation], memory: Memory, thread: Thread) -> Access:
    """The operation where the thread stands, and the releases right after it, which are no steps of their own."""
    op = next_step(code, thread)
    assert op is not None
    access = perform(memory, thread, op)
    thread.at += 1
    while (op := next_step(code, thread)) is not None and op[0] in SILENT:
        access += perform(memory, thread, op)
        thread.at += 1
    for x, mode in access:
        if mode != READ:
            memory[writes_of(x)] = memory.get(writes_of(x), 0) + 1
    return access


@dataclass
class Prefix:
    """The beginning of an execution."""

    memory: Memory
    threads: list[Thread]
    clocks: list[list[Clock]]  # of each thread's steps
    accesses: dict[str, list[tuple[Clock, str]]]
    waited: frozenset[str]  # words that somebody waits for: what adds to them does not commute

    def copy(self) -> Prefix:
        return Prefix(
            dict(self.memory),
            [thread.copy() for thread in self.threads],
            [list(clocks) for clocks in self.clocks],
            {x: list(past) for x, past in self.accesses.items()},
            self.waited,
        )

    @property
    def key(self) -> tuple[tuple[Clock, ...], ...]:
        """What equal beginnings have in common."""
        return tuple(tuple(clocks) for clocks in self.clocks)


def begin(program: Program, waited: frozenset[str]) -> Prefix:
    return Prefix({}, [Thread() for _ in program], [[] for _ in program], {}, waited)


def runnable(program: Program, now: Prefix) -> list[int]:
    ready = []
    for me, code in enumerate(program):
        op = next_step(code, now.threads[me])
        if op is not None and enabled(now.memory, op, now.threads[me]):
            ready.append(me)
    return ready


def go(program: Program, now: Prefix, me: int) -> None:
    """One step of a thread, and its clock: after all that it does not commute with."""
    access = make_step(program[me], now.memory, now.threads[me])
    clock = list(now.clocks[me][-1] if now.clocks[me] else (0,) * len(program))
    access = [(x, WRITE if mode == ADD and x in now.waited else mode) for x, mode in access]
    for x, mode in access:
        for other, there in now.accesses.get(x, ()):
            if mode != there or mode == WRITE:
                clock = [max(a, b) for a, b in zip(clock, other, strict=True)]
    clock[me] = len(now.clocks[me]) + 1
    now.clocks[me].append(tuple(clock))
    for x, mode in access:
        now.accesses.setdefault(x, []).append((tuple(clock), mode))


def outcome(program: Program, now: Prefix) -> tuple[Any, ...]:
    """Memory, registers, and who is stuck."""
    stuck = tuple(me for me, code in enumerate(program) if next_step(code, now.threads[me]) is not None)
    memory = tuple(sorted((x, value) for x, value in now.memory.items() if value and not x.startswith(writes_of(""))))
    return memory, tuple(thread.r for thread in now.threads), stuck


Key = tuple[tuple[Clock, ...], ...]


@dataclass
class Found:
    """All executions of a program: {what one is known by: its outcome}; and the words that somebody waits for."""

    outcomes: dict[Key, tuple[Any, ...]] = field(default_factory=dict)
    waited: frozenset[str] = frozenset()


def executions(program: Program, limit: int, waited: frozenset[str] = frozenset()) -> Found | None:
    """All, or None if there are more beginnings than `limit`."""
    found = Found(waited=waited)
    seen = set()
    awaited = set()
    todo = [begin(program, waited)]
    while todo:
        now = todo.pop()
        standing = [next_step(code, thread) for code, thread in zip(program, now.threads, strict=True)]
        awaited |= {op[1] for op in standing if op is not None and op[0] == "await"}
        ready = runnable(program, now)
        if not ready:
            found.outcomes[now.key] = outcome(program, now)
        for me in ready:
            after = now.copy()
            go(program, after, me)
            if after.key not in seen:
                seen.add(after.key)
                todo.append(after)
        if len(seen) > limit:
            return None
    return found if awaited <= waited else executions(program, limit, frozenset(awaited))


def follow(program: Program, schedule: Sequence[int], waited: frozenset[str]) -> Prefix:
    """What a schedule comes to."""
    now = begin(program, waited)
    for me in schedule:
        go(program, now, me)
    return now
