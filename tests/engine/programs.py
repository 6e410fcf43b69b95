"""Random programs, as operations for the brute force and as coroutines over the engine's own cells and locks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from tdxlab.engine.cells import Journal, Words
from tdxlab.engine.locks import Atomic, RwLock, SpinLock, Srcu
from tdxlab.engine.run import Program
from tdxlab.engine.step import OTHERS, READ, WRITE, Tried, step
from tdxlab.hw.sharex import Held, Refuse, Sharex
from tests.engine.brute import Operation, period
from tests.engine.brute import Program as Listing

PLAIN, SPINS, RWLOCKS, SRCUS, TRIES, MODULE = ("x", "y"), ("L",), ("rw",), ("S",), ("T",), ("M", "N")


class Machine:
    """The objects that the operations name."""

    def __init__(self) -> None:
        self.journal = journal = Journal()
        self.words = {x: Atomic(journal, x) for x in PLAIN}
        self.spins = {x: SpinLock(journal, x) for x in SPINS}
        self.rwlocks = {x: RwLock(journal, x) for x in RWLOCKS}
        self.srcus = {x: Srcu(journal, x) for x in SRCUS}
        self.tries = {x: Words(journal, x, [0]) for x in TRIES}
        self.module = {x: Sharex(journal, x, marks=x == "M") for x in MODULE}
        self.results: Words = Words(journal, "results", [0] * 8)  # not read by anybody before the end

    def program(self, listing: Listing) -> Program:
        return Program(self.journal, lambda: [Actor(self, me).run(code) for me, code in enumerate(listing)])

    def outcome(self, unfinished: Sequence[int]) -> tuple[Any, ...]:
        """As the brute force tells it."""
        memory = {x: word.peek(0) for x, word in self.words.items()}
        memory |= {x: int(lock.peek(0) != 0) for x, lock in self.spins.items()}
        memory |= {x: -1 if lock.peek(0) else lock.peek(1) for x, lock in self.rwlocks.items()}
        memory |= {x: lock.peek(0) for x, lock in (self.tries | self.module | self.srcus).items()}
        memory |= {f"{x}{n}": srcu.peek(1 + n) for x, srcu in self.srcus.items() for n in (0, 1)}
        memory |= {period(x): srcu.peek(3) for x, srcu in self.srcus.items()}
        return tuple(sorted((x, v) for x, v in memory.items() if v)), tuple(unfinished)


class Actor:
    """One thread."""

    def __init__(self, machine: Machine, me: int) -> None:
        self.machine, self.me, self.r = machine, me, 0
        self.held: dict[bool, Held] = {}

    async def run(self, code: Sequence[Operation]) -> None:
        rest = list(code)
        while rest:
            kind, *parts = rest.pop(0)
            if kind == "enter":
                out = rest.index(("leave", *parts))
                await self.machine.srcus[parts[0]].reading(self.run(rest[:out]))
                del rest[: out + 1]
                continue
            if kind == "again":
                x, value = parts
                if self.r != value:
                    await step(ready=OTHERS)
                    rest[:0] = [("load", x), ("again", x, value)]
                continue
            if kind == "if":
                if not self.r:
                    continue
                kind, *parts = parts[0]
            await getattr(self, f"_{kind.replace(' ', '_')}")(*parts)

    async def _load(self, x: str) -> None:
        self.r = await self.machine.words[x].read()

    async def _store(self, x: str, value: int) -> None:
        await self.machine.words[x].set(value)

    async def _store_r(self, x: str) -> None:
        await self.machine.words[x].set(self.r + 1)

    async def _add(self, x: str, n: int) -> None:
        await self.machine.words[x].add(n)

    async def _faa(self, x: str, n: int) -> None:
        self.r = await self.machine.words[x].add_return(n) - n

    async def _cas(self, x: str, old: int, new: int) -> None:
        self.r = int(await self.machine.words[x].cmpxchg(old, new))

    async def _await(self, x: str, value: int) -> None:
        word = self.machine.words[x]
        await step((word, 0, READ), ready=lambda: word.peek(0) == value)

    async def _spin(self, x: str) -> None:
        await self.machine.spins[x].lock()

    async def _unspin(self, x: str) -> None:
        self.machine.spins[x].unlock()

    async def _read(self, x: str) -> None:
        await self.machine.rwlocks[x].read_lock()

    async def _unread(self, x: str) -> None:
        self.machine.rwlocks[x].read_unlock()

    async def _write(self, x: str) -> None:
        await self.machine.rwlocks[x].write_lock()

    async def _unwrite(self, x: str) -> None:
        self.machine.rwlocks[x].write_unlock()

    async def _flip(self, x: str) -> None:
        await self.machine.srcus[x].synchronize()

    async def _drain(self, x: str) -> None:
        """The second step of `synchronize`."""

    async def _lock(self, x: str) -> None:
        lock = self.machine.tries[x]
        await step((lock, 0, WRITE), ready=lambda: lock.peek(0) == 0)
        lock.put(0, 1)

    async def _try(self, x: str) -> None:
        lock = self.machine.tries[x]
        await step((lock, 0, Tried(WRITE, lambda *_: READ if lock.peek(0) else WRITE)))
        self.r = int(lock[0] == 0)
        if self.r:
            lock.put(0, 1)

    async def _unlock(self, x: str) -> None:
        lock = self.machine.tries[x]
        await step((lock, 0, WRITE))
        lock.put(0, 0)

    async def _share(self, x: str, host: bool) -> None:
        await self._take(x, host, alone=False)

    async def _alone(self, x: str, host: bool) -> None:
        await self._take(x, host, alone=True)

    async def _take(self, x: str, host: bool, *, alone: bool) -> None:
        held = self.held.setdefault(host, Held(self.machine.journal, host))
        take = held.exclusive if alone else held.shared
        try:
            await take(self.machine.module[x], 0, 0)
            self.r = 1
        except Refuse:
            self.r = 0

    async def _give(self) -> None:
        for held in self.held.values():
            await held.release()


async def adds(x: Words) -> None:
    """Add 1 to a word without a lock: read in one step, write in the next."""
    await step((x, 0, READ))
    seen = x[0]
    await step((x, 0, WRITE))
    x.put(0, seen + 1)


def listing(dice: random.Random) -> Listing:
    """Two to four threads, with up to nine operations in all, and now and then a lock that is not given back.

    Under a kernel lock nothing is tried: whether such a step gives the lock back as well would hang on what it comes
    to, and an execution may then be run twice.
    """
    threads = dice.randint(2, 4)
    total = dice.randint(threads, 9)
    longest = [total // threads + (n < total % threads) for n in range(threads)]
    made = [_thread(dice, length) for length in longest]
    dice.shuffle(made)
    return made


def _thread(dice: random.Random, length: int) -> list[Operation]:
    code: list[Operation] = []
    open_: list[Operation] = []
    host = dice.random() < 0.5
    taken = False
    while len(code) < length:
        roll = dice.random()
        x = dice.choice(PLAIN)
        if roll < 0.5:
            op = dice.choice([op for op in _plain(dice, x) if op[0] != "cas" or not under(open_)])
            code.append(("if", op) if dice.random() < 0.2 else op)
        elif roll < 0.65 and not open_:
            kind, lock = dice.choice((("spin", "L"), ("read", "rw"), ("write", "rw"), ("lock", "T")))
            code.append((kind, lock))
            open_.append((f"un{kind}", lock))
        elif roll < 0.75 and not under(open_):
            code += [("try", "T"), ("if", dice.choice(_plain(dice, x)))]
            if dice.random() < 0.8 and code[-2][0] == "try":
                code[-1] = ("if", ("unlock", "T"))
        elif roll < 0.9 and not under(open_):
            code.append((dice.choice(("share", "alone")), dice.choice(MODULE), host))
            taken = True
        elif open_ and dice.random() < 0.8:
            code.append(open_.pop())
    if open_ and dice.random() < 0.8:
        code.append(open_.pop())
    if taken and dice.random() < 0.8:
        code.append(("give",))
    return code


def under(open_: Sequence[Operation]) -> bool:
    """Is a lock held whose release is no step?"""
    return any(kind in ("unspin", "unread", "unwrite") for kind, _ in open_)


def _plain(dice: random.Random, x: str) -> list[Operation]:
    one = dice.randint(0, 1)
    return [
        ("load", x), ("store", x, one + 1), ("store r", x), ("add", x, 1), ("faa", x, 1), ("cas", x, one, one + 1),
        ("await", x, one),
    ]  # fmt: skip


def sections(dice: random.Random) -> Listing:
    """Two threads with up to two sections each, or three with one: as readers, or alone."""
    threads = dice.randint(2, 3)
    return [[op for _ in range(dice.randint(1, 4 - threads)) for op in _section(dice)] for _ in range(threads)]


def _section(dice: random.Random) -> list[Operation]:
    into, out = dice.choice([("enter", "leave")] * 3 + [("read", "unread")] * 3 + [("write", "unwrite")])
    lock = "S" if into == "enter" else "rw"
    after: list[Operation] = [("flip", "S"), ("drain", "S")] if dice.random() < 0.2 else []
    return [(into, lock), *_inside(dice, 0, 1), (out, lock), *after]


def readers(dice: random.Random) -> Listing:
    """A writer of an rwlock and two or three readers, who see each other's steps inside."""
    threads = [[("write", "rw"), *_inside(dice, 0, 1), ("unwrite", "rw")]]
    for _ in range(dice.randint(2, 3)):
        threads.append([("read", "rw"), *_inside(dice, 1, 2), ("unread", "rw")])
    dice.shuffle(threads)
    return threads


def _inside(dice: random.Random, least: int, most: int) -> list[Operation]:
    return [dice.choice(_plain(dice, dice.choice(PLAIN))[:5]) for _ in range(dice.randint(least, most))]


def retrying(dice: random.Random) -> Listing:
    """Two or three threads of which some begin with a loop that looks at a word until it has a value."""
    return [
        [*dice.choice(LOOPS), *(dice.choice(_plain(dice, dice.choice(PLAIN))[:6]) for _ in range(dice.randint(0, 2)))]
        for _ in range(dice.randint(2, 3))
    ]


LOOPS: list[list[Operation]] = [[], *([("load", x), ("again", x, value)] for x in PLAIN for value in (0, 1, 2))]


def crowded(dice: random.Random) -> Listing:
    """Three or four threads with up to three operations each, nearly all on one word: many fail, and change how."""
    return [[op for _ in range(dice.randint(1, 3)) for op in _on_one_word(dice)] for _ in range(dice.randint(3, 4))]


def _on_one_word(dice: random.Random) -> list[Operation]:
    a, b = dice.randint(0, 2), dice.randint(0, 2)
    kinds: list[list[Operation]] = [
        [("cas", "x", a, b)],
        [("load", "x")],
        [("store", "x", a)],
        [("try", "T"), ("if", dice.choice([("unlock", "T"), ("store", "x", a), ("cas", "x", a, 1)]))],
        [dice.choice([("load", "y"), ("store", "y", 1)])],
    ]
    return dice.choices(kinds, weights=(45, 15, 15, 15, 10))[0]
