"""What a reviewer asks of a run: each SEAMCALL, lock and wait, kick, retry, WARN and KVM_BUG_ON, with its stack.

A stack is the kernel's functions from the outermost to the innermost, as `bpftrace` would print it upside down; what
the module does inside a SEAMCALL is left out of it.
"""

from __future__ import annotations

from collections.abc import Iterator

from tdxlab.engine.trace import Event, Trace
from tdxlab.views.rows import Row, note_text

TAKES = ("lock ", "read_lock ", "write_lock ", "srcu_read_lock ", "synchronize_srcu ")
KERNEL = ("/tdxlab/kvm/", "/tdxlab/host/")


def happened(trace: Trace) -> list[Row]:
    """One row an event of the kernel: step, cpu, event, stack."""
    return [
        {"step": event.n, "cpu": event.cpu, "event": text, "stack": stack_text(event)}
        for event, waited in waits(trace)
        for text in [*taken(event, waited), *map(note_text, event.notes)]
        if stack_text(event)
    ]


def stack_text(event: Event) -> str:
    """`tdx_handle_ept_violation > kvm_mmu_do_page_fault > ...`; "" if no kernel code runs in this step."""
    return " > ".join(name for name, file, _ in event.stack if any(room in file for room in KERNEL))


def taken(event: Event, waited: int) -> list[str]:
    """The lock that this step takes, and how many steps of others its CPU had to wait for it."""
    if not (event.at or "").startswith(TAKES):
        return []
    return [f"{event.at}, waited {waited} steps" if waited else str(event.at)]


def waits(trace: Trace) -> Iterator[tuple[Event, int]]:
    """(event, how many steps its CPU could not make before it)."""
    stuck: dict[int, int] = {}
    for event in trace.events:
        yield event, stuck.pop(event.cpu, 0)
        for cpu in {e.cpu for e in trace.events} - set(event.runnable):
            stuck[cpu] = stuck.get(cpu, 0) + 1
