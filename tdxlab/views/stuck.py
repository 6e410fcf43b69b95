"""Where CPUs did not get on: deadlocks with holders and waiters, orders of locks that may lead there, storms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from tdxlab.engine.deadlock import Deadlock, Wait
from tdxlab.engine.lock_order import Edge, Place
from tdxlab.engine.result import Result
from tdxlab.engine.schedule import show_schedule
from tdxlab.views.frames import short
from tdxlab.views.rows import status_text
from tdxlab.views.text import counted

Show = Callable[[list[int]], str]


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
    round_ = " -> ".join(f"CPU {cpu}" for cpu in (*deadlock.cycle, *deadlock.cycle[:1]))
    head = f"deadlock ({counted(deadlock.executions, 'execution')}): {round_ or 'no circle'}"
    return "\n".join([head, *map(_waits, deadlock.waits), f"  {show(deadlock.schedule)}"])


def _waits(wait: Wait) -> str:
    where = f" in {_place(wait.place)}" if wait.place else ""
    held = "; ".join(
        f"CPU {holder.cpu} holds it {'alone' if holder.exclusive else 'shared'}, taken in {_place(holder.place)}"
        for holder in wait.holders
    )
    return f"  CPU {wait.cpu} waits for {', '.join(wait.what) or wait.step}{where}: {held or 'nobody holds it'}"


def order_text(cycle: Sequence[Edge]) -> str:
    """One line an edge."""
    return "\n".join(
        f"  {edge.held.lock}, taken in {_place(edge.held.place)}; then {edge.taken.lock} in {_place(edge.taken.place)}"
        for edge in cycle
    )


def _place(place: Place) -> str:
    function, file, line = place
    return f"{function.rsplit('.', 1)[-1]} ({short(file).removeprefix('tdxlab/')}:{line})"
