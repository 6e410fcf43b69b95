"""Where CPUs did not get on: deadlocks with holders and waiters, orders of locks that may lead there, storms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from tdxlab.engine.deadlock import Deadlock, Holder, Wait
from tdxlab.engine.livelock import Livelock
from tdxlab.engine.lock_order import Edge, Place
from tdxlab.engine.result import Result
from tdxlab.engine.schedule import show_schedule
from tdxlab.engine.trace import Event, Trace
from tdxlab.views.frames import short
from tdxlab.views.rows import status_text
from tdxlab.views.text import counted

Show = Callable[[list[int]], str]
NOBODY = "nobody holds it"


def stuck_data(found: Result, show: Show = show_schedule) -> dict[str, Any]:
    """For `--json`.  show: how a schedule is written."""
    return {
        "deadlocks": [
            {
                "waits": [asdict(wait) for wait in deadlock.waits],
                "cycle": deadlock.cycle,
                "executions": deadlock.executions,
                "schedule": show(deadlock.schedule),
            }
            for deadlock in found.deadlocks
        ],
        "livelock": found.livelock and {**asdict(found.livelock), "schedule": show(found.livelock.schedule)},
        "storm": found.storm
        and {"length": found.storm.length, "calls": found.storm.calls, "schedule": show(found.storm.schedule)},
        "lock_order": [
            {"held": edge.held.lock, "taken": edge.taken.lock, "exclusive": [edge.held.exclusive, edge.taken.exclusive]}
            for edge in found.lock_order
        ],
        "order_cycles": [[edge.held.lock for edge in cycle] for cycle in found.order_cycles],
    }


def stuck_text(found: Result, show: Show = show_schedule) -> str:
    """For people; "" where nobody was stuck."""
    parts = [deadlock_text(deadlock, show) for deadlock in found.deadlocks]
    if found.livelock:
        cycle = found.livelock
        parts.append(
            f"livelock ({counted(cycle.states, 'state')} looked at): after {show(cycle.schedule)}\n"
            f"  these steps lead back to the same state: {show_schedule(cycle.cycle)}"
        )
    if found.storm:
        calls = "\n".join(f"  CPU {note['cpu']} {note['leaf']}: {status_text(note)}" for note in found.storm.calls[:3])
        parts.append(
            f"refused as busy in a row: {counted(found.storm.length, 'call')}, of {show(found.storm.schedule)}\n{calls}"
        )
    parts += [f"locks are taken in orders that may deadlock:\n{order_text(cycle)}" for cycle in found.order_cycles]
    return "\n\n".join(parts)


def deadlock_text(deadlock: Deadlock, show: Show = show_schedule) -> str:
    """Who waits for what, who holds it, and both lines."""
    head = f"deadlock ({counted(deadlock.executions, 'execution')}): {circle_text(deadlock)}"
    return "\n".join([head, *map(_waits, deadlock.waits), f"  {show(deadlock.schedule)}"])


def _waits(wait: Wait) -> str:
    held = "; ".join(f"{holder_text(holder)}, taken in {_place(holder.place)}" for holder in wait.holders)
    return f"  CPU {wait.cpu} waits for {wants_text(wait)}: {held or NOBODY}"


def circle_text(deadlock: Deadlock) -> str:
    """`CPU 0 -> CPU 1 -> CPU 0`, of which each waits for the next."""
    return " -> ".join(f"CPU {cpu}" for cpu in (*deadlock.cycle, *deadlock.cycle[:1])) or "no circle"


def wants_text(wait: Wait) -> str:
    """For what, and where."""
    where = f" in {_place(wait.place)}" if wait.place else ""
    return f"{', '.join(wait.what) or wait.step}{where}"


def holder_text(holder: Holder) -> str:
    """`CPU 1 holds it alone`."""
    return f"CPU {holder.cpu} holds it {'alone' if holder.exclusive else 'shared'}"


def taken_at(trace: Trace, deadlock: Deadlock) -> dict[tuple[int, int], int]:
    """{(who waits, who holds what it waits for): the step that took it}, in a run that ends in this deadlock."""
    return {
        (wait.cpu, holder.cpu): max(e.n for e in trace.events if e.cpu == holder.cpu and _takes(trace, e, wait))
        for wait in deadlock.waits
        for holder in wait.holders
    }


def _takes(trace: Trace, event: Event, wait: Wait) -> bool:
    before = next((e.held for e in reversed(trace.events[: event.n]) if e.cpu == event.cpu), [])
    return any(lock[0] in wait.what and lock not in before for lock in event.held)


def round_text(livelock: Livelock) -> str:
    """Which steps come again and again."""
    begins = len(livelock.schedule)
    return f"from step {begins} on {show_schedule(livelock.cycle)} leads back to the same state, again and again"


def order_text(cycle: Sequence[Edge]) -> str:
    """One line an edge."""
    return "\n".join(
        f"  {edge.held.lock}, taken in {_place(edge.held.place)}; then {edge.taken.lock} in {_place(edge.taken.place)}"
        for edge in cycle
    )


def _place(place: Place) -> str:
    function, file, line = place
    return f"{function.rsplit('.', 1)[-1]} ({short(file).removeprefix('tdxlab/')}:{line})"
