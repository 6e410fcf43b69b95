"""The 2M ranges of the host's memory: users of each at 4K, its page pair, and the locks of `host.dpamt` in short.

A get or put is written out as there, step by step where another CPU may look.  A CPU that has a page of its own in a
range, which nobody but itself gives back, meets nobody there and goes on in its own time.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Generator, Iterator

from tdxlab.engine.timed import Total
from tdxlab.scale.clock import Clock, Wanted
from tdxlab.scale.locks import Lock, RwLock, Waits
from tdxlab.scale.prices import Prices

Steps = Iterator[int | Wanted]

DESIGNS = {
    "opportunistic": ("v3", "global"),
    "always": ("locked", "global"),
    "per-2M": ("v3", "exclusive_2m"),
    "rwlock": ("v3", "rwlock_retry"),
    "v6": ("v6", "global"),
}
"""{name of a lock design: (`pamt_get_put`, `pamt_lock`), as the questions of these names have them}."""


class User:
    """A CPU that gets and puts.  ns: its own time, which may be ahead.  held: its pages in each range, for good.

    pairs: in which ranges lie the pages of its next pair?
    """

    def __init__(self, clock: Clock, n: int, pairs: Callable[[], tuple[int, ...]]) -> None:
        self.clock, self.n, self.pairs = clock, n, pairs
        self.ns = 0
        self.held: Counter[int] = Counter()


class Ranges:
    """users: at 4K, of each range.  paired: has it its pair?

    keeps: does nobody ever give a page back?  whole: is a call of the module one step, and so never busy?
    exclusive, shared: ranges that calls have locked in the module.
    added, removed, busy: pairs, and calls that met BUSY.  busy_ns: from where these began to where they began again.
    """

    def __init__(self, clock: Clock, count: int, cost: Prices, design: str, *, keeps: bool, whole: bool) -> None:
        self.clock, self.cost, self.keeps, self.whole = clock, cost, keeps, whole
        self.users, self.paired = array("i", [0]) * count, bytearray(count)
        get_put, self.lock_design = DESIGNS[design]
        self.get, self.put = GET_PUT[get_put]
        self.looks = get_put != "locked"
        self.totals = {"pamt_lock (host)": Total(), "pamt_range_lock": Total(), "pamt_rwlock": Total()}
        self.waits = Waits()
        self.pamt_lock = Lock(clock, self.totals["pamt_lock (host)"], self.waits)
        self.pamt_range_locks: dict[int, Lock] = {}
        self.pamt_rwlock = RwLock(clock, self.totals["pamt_rwlock"], self.waits)
        self.exclusive: set[int] = set()
        self.shared: Counter[int] = Counter()
        self.added = self.removed = self.busy = self.busy_ns = 0

    def settled(self, user: User, n: int) -> bool:
        """Is a range's count above 0 whatever others do, and can it be raised without the lock?"""
        return self.looks and bool(self.users[n] if self.keeps else user.held[n])

    def more(self, user: User, n: int) -> None:
        """A user more of such a range."""
        user.ns += self.cost.count
        self.users[n] += 1

    def lock(self, n: int) -> Lock:
        """The one for a range."""
        if self.lock_design == "global":
            return self.pamt_lock
        if n not in self.pamt_range_locks:
            self.pamt_range_locks[n] = Lock(self.clock, self.totals["pamt_range_lock"], self.waits)
        return self.pamt_range_locks[n]

    def add(self, user: User, n: int) -> Steps:
        """PAMT.ADD.

        The pair is never still there, as it may be in v3: a put that has counted to 0 is first at the lock, since
        nothing passes between the two.
        """
        assert not self.paired[n]
        yield from self._call(user, n, user.pairs(), self.cost.pamt_add)
        self.paired[n] = 1
        self.added += 1

    def remove(self, user: User, n: int) -> Steps:
        """PAMT.REMOVE."""
        yield from self._call(user, n, (), self.cost.pamt_remove)
        self.paired[n] = 0
        self.removed += 1

    def _call(self, user: User, n: int, donors: tuple[int, ...], own_ns: int) -> Steps:
        if self.lock_design != "rwlock_retry":
            user.ns += self.cost.seamcall + own_ns
            if not user.clock.ahead(user.n, user.ns):
                yield user.ns
            return
        if not self.pamt_rwlock.take_read(user.n):
            yield self.pamt_rwlock.read_wanted(n)
        user.ns = began_ns = user.clock.now_ns
        done = yield from self._try(user, n, donors, own_ns)
        self.pamt_rwlock.read_unlock(user.n)
        if not done:
            self.busy += 1
            yield user.ns  # whoever waits for the lock comes first
            if not self.pamt_rwlock.take_write(user.n):
                yield self.pamt_rwlock.write_wanted(n)
            user.ns = user.clock.now_ns
            self.busy_ns += user.ns - began_ns
            yield from self._try(user, n, donors, own_ns)
            self.pamt_rwlock.write_unlock()

    def _try(self, user: User, n: int, donors: tuple[int, ...], own_ns: int) -> Generator[int, None, bool]:
        # the module has the range exclusively and those of the pair shared; False: BUSY
        user.ns += self.cost.seamcall
        if self.whole:
            user.ns += own_ns
            if not user.clock.ahead(user.n, user.ns):
                yield user.ns
            return True
        if not user.clock.ahead(user.n, user.ns):
            yield user.ns
        others = [donor for donor in donors if donor != n]
        if n in self.exclusive or self.shared[n] or any(donor in self.exclusive for donor in others):
            return False
        self.exclusive.add(n)
        self.shared.update(others)
        user.ns += own_ns
        if not user.clock.ahead(user.n, user.ns):
            yield user.ns
        self.exclusive.remove(n)
        self.shared.subtract(others)
        return True


# --- v3, and what v6 changed ---


def get(ranges: Ranges, user: User, n: int) -> Steps:
    """A user more; the first brings the pair."""
    if ranges.settled(user, n):
        ranges.more(user, n)
        return
    user.ns += ranges.cost.count
    if not user.clock.ahead(user.n, user.ns):
        yield user.ns
    if ranges.users[n]:
        ranges.users[n] += 1
        return
    if not (lock := ranges.lock(n)).take(user.n):
        yield lock.wanted(n)
    user.ns = user.clock.now_ns + ranges.cost.look
    if not user.clock.ahead(user.n, user.ns):
        yield user.ns
    if not ranges.users[n]:
        yield from ranges.add(user, n)
    ranges.users[n] += 1
    lock.unlock()


def put(ranges: Ranges, user: User, n: int) -> Steps:
    """A user less; after the last the pair goes, unless there is one again."""
    user.ns += ranges.cost.count
    if ranges.settled(user, n):
        ranges.users[n] -= 1
        return
    if not user.clock.ahead(user.n, user.ns):
        yield user.ns
    ranges.users[n] -= 1
    if ranges.users[n]:
        return
    if not (lock := ranges.lock(n)).take(user.n):
        yield lock.wanted(n)
    user.ns = user.clock.now_ns + ranges.cost.look
    if not user.clock.ahead(user.n, user.ns):
        yield user.ns
    if not ranges.users[n]:
        yield from ranges.remove(user, n)
    lock.unlock()


def put_v6(ranges: Ranges, user: User, n: int) -> Steps:
    """The last user goes only under the lock."""
    user.ns += ranges.cost.count
    if ranges.settled(user, n):
        ranges.users[n] -= 1
        return
    if not user.clock.ahead(user.n, user.ns):
        yield user.ns
    if ranges.users[n] > 1:
        ranges.users[n] -= 1
        return
    if not (lock := ranges.lock(n)).take(user.n):
        yield lock.wanted(n)
    user.ns = user.clock.now_ns + ranges.cost.count
    if not user.clock.ahead(user.n, user.ns):
        yield user.ns
    ranges.users[n] -= 1
    if not ranges.users[n]:
        yield from ranges.remove(user, n)
    lock.unlock()


# --- locked ---


def get_locked(ranges: Ranges, user: User, n: int) -> Steps:
    """Every look is under the lock."""
    if not user.clock.ahead(user.n, user.ns):
        yield user.ns
    if not (lock := ranges.lock(n)).take(user.n):
        yield lock.wanted(n)
    user.ns = user.clock.now_ns + ranges.cost.look
    if not user.clock.ahead(user.n, user.ns):
        yield user.ns
    if not ranges.users[n]:
        yield from ranges.add(user, n)
    ranges.users[n] += 1
    lock.unlock()


def put_locked(ranges: Ranges, user: User, n: int) -> Steps:
    """The count comes to 0 after PAMT.REMOVE."""
    if not user.clock.ahead(user.n, user.ns):
        yield user.ns
    if not (lock := ranges.lock(n)).take(user.n):
        yield lock.wanted(n)
    user.ns = user.clock.now_ns + ranges.cost.look
    if not user.clock.ahead(user.n, user.ns):
        yield user.ns
    if ranges.users[n] == 1:
        yield from ranges.remove(user, n)
    ranges.users[n] -= 1
    lock.unlock()


GET_PUT = {"v3": (get, put), "v6": (get, put_v6), "locked": (get_locked, put_locked)}
"""{variant of `pamt_get_put`: (get, put)}."""
