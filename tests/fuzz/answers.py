"""What a call has come to, and what is true after every call: a function each, with its sentence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from tdxlab.engine.cells import Lock
from tdxlab.hw.sharex import ENTRY_HP, EXCLUSIVE, HP, Sharex
from tdxlab.module import sept
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.bits import GpaLevel
from tdxlab.spec.checks import CHECKS
from tdxlab.spec.checks.check import (
    AND,
    DPAMT,
    FROM_1_5_08,
    FROM_1_5_20,
    IN_1_5_01,
    UNTIL_1_5_16,
    VERSION_0,
    VERSION_1,
    WITH_BLOCK,
)
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.levels import LEVEL_1G, LEVEL_2M, LEVEL_4K, PAGE_SIZE, shift, size
from tdxlab.spec.operands import RAX
from tdxlab.spec.pamt import PT_REG, PT_TDVPR
from tdxlab.spec.sept import MAPPED, PENDING, RULES
from tdxlab.spec.status import Status
from tdxlab.spec.tdstate import RUNS_IN, ExitReason, LifeCycle, OpState, Vector
from tests.fuzz.in_progress import INTERRUPT, InProgress
from tests.fuzz.machine import Kind, Machine

Texts = Iterator[str]
EXITS = {INTERRUPT, ExitReason.TRIPLE_FAULT.name, ExitReason.SMI_OTHER.name}
INTERRUPTED, NOT_ENTERED, LEFT_OUT = "interrupted", "not entered", "left out"


@dataclass(frozen=True)
class Answer:
    """status: None where RAX is none.  leaf: whose rows must have it; after a TD exit it is TDH.VP.ENTER."""

    what: str
    status: Status | None = None
    leaf: Leaf | None = None

    @property
    def refused(self) -> bool:
        """Nothing was done: no success, and no partial work."""
        done = {st.TDX_SUCCESS, st.TDX_INTERRUPTED_RESUMABLE}  # [tdx-module.md 1.3]
        if self.leaf is leaves.TDH_MEM_SEPT_ADD:
            done.add(st.TDX_INTERRUPTED_BUSY)  # which keeps the pages that are added, as the other [INFERRED]
        return self.what in (NOT_ENTERED, LEFT_OUT) or (self.status is not None and self.status.code not in done)

    @property
    def in_vain(self) -> bool:
        """Would the guest do the same again?  Its instruction was not executed, or a lock was taken."""
        return self.what in (INTERRUPTED, "TD exit EPT_VIOLATION", "TDX_OPERAND_BUSY")


def answered(machine: Machine, call: InProgress) -> Answer:
    """What has become of a call, or of something else that a guest did."""
    lp, status = machine.cpus[call.cpu].lp, call.regs.status
    if call.vcpu and not lp.vcpu:
        reason = ExitReason(status.detail).name if status.code == st.TDX_SUCCESS else status.name
        return Answer(f"TD exit {reason}", status, leaves.TDH_VP_ENTER)
    if call.left_out:
        return Answer(LEFT_OUT)
    if lp.exception:
        return Answer(f"#{Vector(lp.exception).name}")
    if not call.is_call or (lp.vcpu and not call.vcpu):
        return Answer("done")
    if call.vcpu and call.regs.rip == call.asked["rip"]:
        return Answer(INTERRUPTED)
    not_entered = call.leaf is leaves.TDH_VP_ENTER and status.code == st.TDX_SUCCESS
    return Answer(NOT_ENTERED if not_entered else status.name, status, call.leaf)


# --- what must hold ---


@cache
def possible(leaf: Leaf, version: int, kind: Kind) -> frozenset[tuple[Status, range]]:
    """What the leaf's rows allow in this kind of module: (code, details)."""
    release = kind.features.release
    known = {
        DPAMT: kind.dynamic,
        IN_1_5_01: release == (1, 5, 1),
        UNTIL_1_5_16: release <= (1, 5, 16),
        FROM_1_5_08: release >= (1, 5, 8),
        FROM_1_5_20: release >= (1, 5, 20),
        WITH_BLOCK: kind.features.demote_needs_block,
        VERSION_0: version == 0,
        VERSION_1: version > 0,
    }
    rows = [row for row in CHECKS[leaf] if all(known.get(condition, True) for condition in row.when.split(AND))]
    told = {(row.refuses.code, row.details) for row in rows if row.refuses is not None}
    return frozenset({(st.TDX_SUCCESS, range(1)), *told})


NO_LEAF = {(status, range(1)) for status in (st.TDX_OPERAND_INVALID.at(RAX), st.TDX_SYS_SHUTDOWN, st.TDX_SYS_NOT_READY)}


def a_row_allows_it(machine: Machine, call: InProgress, answer: Answer) -> Texts:
    """Every RAX is a status that a row of the leaf allows in this kind of module."""
    leaf, status = answer.leaf, answer.status
    if status is None:
        return
    version = call.asked["rax"] >> 16 & 0xFF if leaf is call.leaf else 0
    allowed = possible(leaf, version, machine.kind) if leaf in CHECKS else NO_LEAF
    if not any(status.code == code and status.detail in details for code, details in allowed):
        yield f"{leaf} answers {status}"


def no_lock_is_left(machine: Machine, call: InProgress, answer: Answer) -> Texts:
    """A call gives all its locks back; a vCPU that runs keeps TDVPR with its parents, and the TDR's entry."""
    held = machine.journal.locks_of(call.cpu)
    if sorted(names(held)) != sorted(names(kept(machine, call.cpu))) or machine.journal.calls.get(call.cpu):
        yield f"LP {call.cpu} holds {names(held)}"


def kept(machine: Machine, cpu: int) -> list[Lock]:
    """What a vCPU that runs there keeps.  [statement 151]"""
    tdvpr, page = machine.cpus[cpu].lp.vcpu, machine.module.pamt.page
    if not tdvpr:
        return []
    pages = [page(tdvpr, level) for level in (LEVEL_1G, LEVEL_2M, LEVEL_4K)]
    pages.append(page(machine.module.vcpus[tdvpr].tdr, LEVEL_4K))
    return [(*page.lock, False) for page in pages]


def names(locks: list[Lock]) -> list[tuple[str, str, bool]]:
    return [(lock.name, str(key), exclusive) for lock, key, exclusive in locks]


ASSOCIATION = {"assoc_lp", "num_assoc_vcpus"}
STAYS: dict[Leaf | None, set[str]] = {
    # the compare-exchange of the association is not undone  [tdx-module.md 5.1; S01:tdh_vp_enter.c, tdh_vp_rd_wr.c]
    leaves.TDH_VP_RD: ASSOCIATION,
    leaves.TDH_VP_WR: ASSOCIATION,
    # the count of vCPUs in the epoch is reverted, that the vCPU is in it and has flushed is not; an EPT violation that
    # is told without entering is a TD exit that is not trap-like  [tdx-module.md 6, 10]
    leaves.TDH_VP_ENTER: {*ASSOCIATION, "epoch", "tlb_of", "tlb", "trap_exit"},
}
# since when a TDCALL has been kept off a lock, and when the VM exit was  [tdx-module.md 5.3; S01:tdx_td_dispatcher.c]
GUEST_STAYS = {"first_busy_tsc", "last_exit_tsc"}
"""Attributes and cells that a refused call may have changed."""


def refused_means_unchanged(machine: Machine, call: InProgress, answer: Answer) -> Texts:
    """A refused call changed nothing but host-priority bits of locks and S-EPT entries."""
    if not answer.refused or not call.alone or answer.leaf not in (call.leaf, None):
        return
    stays = GUEST_STAYS if call.vcpu else STAYS.get(call.leaf, set())
    assert machine.journal.log is not None
    cells = {cell.name: cell for cell, *_ in machine.journal.log[call.mark :]}
    for (name, key), (old, new) in machine.journal.net(call.mark).items():
        if key in stays or name.partition(":")[0] in stays:
            continue
        if isinstance(cells[name], Sharex):
            # who wanted a share of a lock that is held alone stays counted until that is given back [oracle]
            old, new = (word & (EXCLUSIVE if new & EXCLUSIVE else ~HP) for word in (old, new))
        elif name.startswith("sept:"):
            old, new = old & ~ENTRY_HP, new & ~ENTRY_HP
        if old != new:
            yield f"{call.what} answers {answer.status}, but {name}[{key}] was {shown(old)} and is {shown(new)}"


def shown(value: object) -> str:
    return f"{value:#x}" if isinstance(value, int) else str(value)


def states_allow_it(machine: Machine, call: InProgress, answer: Answer) -> Texts:
    """What succeeds was allowed in the TD's state, and takes an S-EPT entry from state to state, as the rules say."""
    leaf, before, after = call.leaf, call.before, call.look()
    if answer.what not in ("TDX_SUCCESS", "done") or leaf is None or before is None or after is None or not call.alone:
        return
    if before.op_state not in RUNS_IN.get(leaf, OpState):
        yield f"{call}: in {before.op_state.name}"
    if leaf in RUNS_IN and before.lifecycle is not LifeCycle.KEYS_CONFIGURED:
        yield f"{call}: in {before.lifecycle.name}"
    if call.where is None:
        return
    rule = RULES.get((leaf, before.entry)) if before.entry else None
    result = rule and (rule.result or before.entry)
    if leaf is leaves.TDH_MEM_PAGE_PROMOTE and rule and after.entry in (MAPPED, PENDING):
        return
    if result is None or after.entry is not result:
        yield f"{call}: from {before.entry} to {after.entry}"


def it_has_an_end(machine: Machine, call: InProgress, answer: Answer) -> Texts:
    """An interrupt, a triple fault and a machine check make the guest leave; only an interrupt stops a TDCALL."""
    lp = machine.cpus[call.cpu].lp
    if call.what in EXITS and lp.vcpu:
        yield f"{call} did not."
    if answer.what == INTERRUPTED and not lp.interrupt:
        yield f"{call} was stopped."


def a_guest_reaches_its_own_pages(machine: Machine, call: InProgress, answer: Answer) -> Texts:
    """What a vCPU can still use of a TLB is a page of its TD."""
    assert machine.journal.log is not None
    changed = any(cell.name.startswith("pamt:") for cell, *_ in machine.journal.log[call.mark :])
    if not changed and call.leaf is not leaves.TDH_VP_ENTER:
        return
    for cpu in machine.cpus:
        vcpu = machine.module.vcpus[cpu.lp.vcpu or cpu.lp.tlb_of]
        td, there = machine.module.tds[vcpu.tdr], machine.use(vcpu.tdvpr) is PT_TDVPR
        if not there or (not cpu.lp.vcpu and (vcpu.assoc_lp != cpu.n or vcpu.epoch != td.td_epoch)):
            continue  # it flushes before it runs again, if it does
        for (level, frame), (hpa, _) in cpu.tlb.items():
            shared = frame << shift(level) >= td.shared_bit
            for page in () if shared else machine.pages(hpa, level):
                if page is None or (page.type, page.owner) != (PT_REG, td.tdr):
                    yield f"On LP {cpu.n} the GPA {frame << shift(level):#x} of {td.tdr:#x} leads to {hpa:#x}."


def accepted_means_zero(machine: Machine, call: InProgress, answer: Answer) -> Texts:
    """A page that a guest has just accepted is full of zeros."""
    if call.leaf is not leaves.TDG_MEM_PAGE_ACCEPT or answer.status != st.TDX_SUCCESS or not call.alone:
        return
    level, td = call.asked["rcx"] & GpaLevel.LEVEL, machine.module.tds[machine.module.vcpus[call.vcpu].tdr]
    first = sept.walk(machine.memory, td, call.asked["rcx"] & GpaLevel.GPA, level, []).hpa
    for hpa in range(first, first + size(level), PAGE_SIZE):
        if any(machine.memory.pages.get(hpa, ())):
            yield f"{call}: {hpa:#x} is not."


AFTER_A_CALL = (
    a_row_allows_it,
    no_lock_is_left,
    refused_means_unchanged,
    states_allow_it,
    it_has_an_end,
    a_guest_reaches_its_own_pages,
    accepted_means_zero,
)


def after_a_call(machine: Machine, call: InProgress, answer: Answer) -> Texts:
    """What is wrong."""
    for holds in AFTER_A_CALL:
        yield from (f"{holds.__doc__} {text}" for text in holds(machine, call, answer))
