"""Each status of the memory leaves, provoked by one call.

A row says what the call answers, what came before it, and why.  `meet` makes the calls and returns the real answer;
whether it is the row's is for the caller to see.
"""

# ruff: noqa: E501
from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from tdxlab.engine.run import run
from tdxlab.engine.schedule import story
from tdxlab.hw.cpu import Regs
from tdxlab.lab import Lab
from tdxlab.lessons.leaves import Leaves
from tdxlab.lessons.td import (
    IMAGE,
    LARGE,
    PAGE,
    PAGE_IN_MIB_1,
    PAGES,
    PAIR,
    PT_2M,
    SOURCE,
    SPARE,
    TDR,
    TDVPR,
    TDVPR_1,
    Row,
    build,
    lp_of,
)
from tdxlab.module.exits import MSMI
from tdxlab.module.sys_shutdown import seamldr_install
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.fields import Attributes
from tdxlab.spec.leaves import Leaf, named
from tdxlab.spec.levels import LEVEL_1G, LEVEL_2M, LEVEL_4K, PAGE_SIZE, SIZE_2M
from tdxlab.spec.operands import R8, RCX, RDX, Operand
from tdxlab.spec.status import Status
from tdxlab.spec.tdstate import ExitReason, OpState

MODULE = "1.5.25"
OUTSIDE = 1 << 40  # no TDMR is there
Event = Callable[[Lab], Coroutine[Any, Any, Any]]
"""What comes before a call and is none."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """call answers `status` after `before`.  because: what is wrong, in a few words.

    statement: its number in data/statements.csv; 0 for none.  dpamt: with Dynamic PAMT.  attributes: of the TD.
    until: the leaf before which its building stops.
    meanwhile: (step, call): LP 1 makes this call when the other one stands before this step.
    """

    status: Status
    call: Row
    because: str
    before: tuple[Row | Event, ...] = ()
    statement: int = 0
    dpamt: bool = False
    attributes: int = Attributes.SEPT_VE_DISABLE
    until: str = ""
    meanwhile: tuple[str, Row] | None = None


async def interrupt(lab: Lab) -> None:
    """An interrupt for the host is pending on LP 0."""
    lab.cpus[0].lp.interrupt = 1


async def machine_check(lab: Lab) -> None:
    """An SMI with a machine check while LP 0 is in the guest."""
    await lab.module.vm_exit(lab.cpus[0], Regs(), ExitReason.SMI_OTHER, MSMI)


async def new_module(lab: Lab) -> None:
    """SEAMLDR.INSTALL of another module, which has not been initialised."""
    await seamldr_install(lab.module)


# fmt: off
GPA_4K, GPA_2M = 0x1000 | LEVEL_4K, SIZE_2M | LEVEL_2M
TRACK: Row      = ("TDH.MEM.TRACK", TDR)
ENTER: Row      = ("TDH.VP.ENTER", TDVPR)
ENTER_1: Row    = ("TDH.VP.ENTER", TDVPR_1)
AUG: Row        = ("TDH.MEM.PAGE.AUG", GPA_4K, TDR, PAGE)
AUG_2M: Row     = ("TDH.MEM.PAGE.AUG", GPA_2M, TDR, LARGE)
BLOCK: Row      = ("TDH.MEM.RANGE.BLOCK", GPA_4K, TDR)
BLOCK_2M: Row   = ("TDH.MEM.RANGE.BLOCK", GPA_2M, TDR)
BLOCK_PT: Row   = ("TDH.MEM.RANGE.BLOCK", 0 | LEVEL_2M, TDR)
REMOVE: Row     = ("TDH.MEM.PAGE.REMOVE", GPA_4K, TDR)
DEMOTE: Row     = ("TDH.MEM.PAGE.DEMOTE", GPA_2M, TDR, PT_2M)
ADD_PAIR: Row   = ("TDH.PHYMEM.PAMT.ADD", PAGES | LEVEL_2M, *PAIR)
DROP_PAIR: Row  = ("TDH.PHYMEM.PAMT.REMOVE", PAGES | LEVEL_2M)
ACCEPT: Row     = ("TDG.MEM.PAGE.ACCEPT", 0 | LEVEL_4K)
ACCEPT_2M: Row  = ("TDG.MEM.PAGE.ACCEPT", 0 | LEVEL_2M)

REFUSALS = (
    # operands
    Refusal(st.TDX_OPERAND_INVALID.at(RCX), ("TDH.MEM.PAGE.AUG", 0 | LEVEL_1G, TDR, PAGE), "no page of 1G can be added", statement=32),
    Refusal(st.TDX_OPERAND_INVALID.at(R8), ("TDH.MEM.PAGE.AUG", GPA_4K, TDR, PAGE + 8), "the page is not aligned"),
    Refusal(st.TDX_OPERAND_ADDR_RANGE_ERROR.at(R8), ("TDH.MEM.PAGE.AUG", GPA_4K, TDR, OUTSIDE), "the page is in no TDMR"),
    # busy
    Refusal(st.TDX_OPERAND_BUSY.at(RDX), ("TDH.MEM.PAGE.ADD", GPA_4K, TDR, PAGE, SOURCE), "wants the TDR alone, a vCPU inside shares it", (ENTER_1,), 123),
    Refusal(st.TDX_PREVIOUS_TLB_EPOCH_BUSY, TRACK, "a vCPU entered before the last TRACK and is inside", (ENTER_1, TRACK), 126),
    Refusal(st.TDX_INTERRUPTED_RESTARTABLE, DEMOTE, "an interrupt is pending at its poll", (AUG_2M, BLOCK_2M, TRACK, interrupt), 89),
    Refusal(st.TDX_INTERRUPTED_BUSY, DEMOTE, "a BLOCK was refused the tree before its poll", (AUG_2M, BLOCK_2M, TRACK), 103, meanwhile=("poll", BLOCK)),
    # pages
    Refusal(st.TDX_PAGE_METADATA_INCORRECT.at(R8), ("TDH.MEM.PAGE.AUG", GPA_4K, TDR, IMAGE), "the page is in use"),
    Refusal(st.TDX_PAGE_METADATA_INCORRECT.at(RCX), ("TDH.MEM.TRACK", PAGE), "the page is no TDR", statement=21, dpamt=True),
    # the TD and the module
    Refusal(st.TDX_TD_KEYS_NOT_CONFIGURED, TRACK, "the TD has no key yet", until="TDH.MNG.KEY.CONFIG"),
    Refusal(st.TDX_TDCS_NOT_ALLOCATED, TRACK, "the TD has no control page yet", until="TDH.MNG.ADDCX"),
    Refusal(st.TDX_OP_STATE_INCORRECT.at(OpState.RUNNABLE), ("TDH.MEM.PAGE.ADD", GPA_4K, TDR, PAGE, SOURCE), "no content after MR.FINALIZE", statement=150),
    Refusal(st.TDX_TD_NON_DEBUG, ("TDH.MEM.RD", 0, TDR), "the TD is no debuggable one"),
    Refusal(st.TDX_TD_FATAL, TRACK, "a machine check hit the guest", (ENTER, machine_check)),
    Refusal(st.TDX_SYS_SHUTDOWN, TRACK, "the module has been shut down", (("TDH.SYS.SHUTDOWN", 0),)),
    Refusal(st.TDX_SYS_NOT_READY, ADD_PAIR, "a new module is loaded and not initialised", (("TDH.SYS.SHUTDOWN", 0), new_module), 3),
    # Secure EPT
    Refusal(st.TDX_EPT_WALK_FAILED.at(RCX), ("TDH.MEM.PAGE.AUG", SIZE_2M | LEVEL_4K, TDR, PAGE), "a 2M leaf is in the way", (AUG_2M,), 85),
    Refusal(st.TDX_EPT_ENTRY_STATE_INCORRECT.at(RCX), ("TDH.MEM.PAGE.AUG", 0 | LEVEL_2M, TDR, LARGE), "a page table is there", statement=86),
    Refusal(st.TDX_EPT_ENTRY_NOT_PRESENT.at(RCX), ("TDH.MEM.RD", 0x1000, TDR), "nothing is mapped there", attributes=Attributes.SEPT_VE_DISABLE | Attributes.DEBUG),
    Refusal(st.TDX_GPA_RANGE_NOT_BLOCKED.at(RCX), DEMOTE, "the TD may run, and no BLOCK", (AUG_2M,), 91),
    Refusal(st.TDX_GPA_RANGE_ALREADY_BLOCKED.at(RCX), BLOCK, "a second BLOCK; bit 63 is 0: no error", (AUG, BLOCK)),
    Refusal(st.TDX_TLB_TRACKING_NOT_DONE.at(RCX), REMOVE, "a BLOCK, and no TRACK since", (AUG, BLOCK), 87),
    Refusal(st.TDX_EPT_PAGE_NOT_FREE.at(RCX), ("TDH.MEM.SEPT.REMOVE", 0 | LEVEL_2M, TDR), "one of the table's 512 entries maps IMAGE", (BLOCK_PT, TRACK)),
    Refusal(st.TDX_EPT_INVALID_PROMOTE_CONDITIONS.at(RCX), ("TDH.MEM.PAGE.PROMOTE", 0 | LEVEL_2M, TDR), "the 512 entries are not alike", (BLOCK_PT, TRACK)),
    # the guest
    Refusal(st.TDX_PAGE_ALREADY_ACCEPTED, ACCEPT, "IMAGE was mapped at build time; bit 63 is 0", (ENTER,), 100),
    Refusal(st.TDX_PAGE_SIZE_MISMATCH.at(LEVEL_2M), ACCEPT_2M, "the region is mapped in 4K pages", (ENTER,), 129),
    # Dynamic PAMT
    Refusal(st.TDX_MISSING_PAMT_PAGE_PAIR.at(R8), AUG, "the page's range has no pair", statement=12, dpamt=True),
    Refusal(st.TDX_HPA_RANGE_NOT_FREE.at(RCX), ("TDH.PHYMEM.PAMT.ADD", PAGES | LEVEL_2M, *SPARE), "the range has a pair already", (ADD_PAIR,), 49, True),
    Refusal(st.TDX_PAGE_NOT_FREE.at(RDX), ("TDH.PHYMEM.PAMT.ADD", PAGES | LEVEL_2M, TDR, PAIR[1]), "RDX names a page in use", statement=51, dpamt=True),
    Refusal(st.TDX_PAMT_PAGE_NOT_EMPTY.at(1), DROP_PAIR, "a page of the second MiB is in use", (ADD_PAIR, ("TDH.MEM.PAGE.AUG", GPA_4K, TDR, PAGE_IN_MIB_1)), 11, True),
    Refusal(st.TDX_NO_PAMT_PAGE_PAIR.at(RCX), DROP_PAIR, "the range has none", statement=70, dpamt=True),
    Refusal(st.TDX_OPERAND_BUSY.at(Operand.R12), (*DEMOTE, 0, 0, 0, LARGE, LARGE + PAGE_SIZE), "R12 lies in the range that is split", (AUG_2M, BLOCK_2M, TRACK), 96, True),
)
# fmt: on

LEFT_OUT = {
    st.TDX_INTERRUPTED_RESUMABLE: "SEPT.ADD of pages for L2 VMs",
    st.TDX_L2_SEPT_WALK_FAILED: "L2 VMs",
    st.TDX_L2_SEPT_ENTRY_NOT_FREE: "L2 VMs",
    st.TDX_L2_SEPT_PAGE_NOT_PROVIDED: "L2 VMs",
}
"""Statuses of these leaves that no row provokes."""


def memory_leaves() -> list[Leaf]:
    """The leaves that a TD's memory, its S-EPT and its PAMT are made with."""
    begins = ("TDH.MEM.", "TDH.PHYMEM.PAMT.", "TDG.MEM.PAGE.ACCEPT")
    return [leaf for name, leaf in leaves.BY_NAME.items() if name.startswith(begins) and leaf.emulated]


def prepared(refusal: Refusal) -> Leaves:
    """A fresh machine, and what came before."""
    call = build(Lab(module=MODULE, dpamt=refusal.dpamt), attributes=refusal.attributes, until=refusal.until)
    for row in refusal.before:
        if callable(row):
            call.lab.alone(row(call.lab))
        else:
            call(*row, lp=lp_of(row))
    return call


def meet(refusal: Refusal) -> Status:
    """The call, on a machine that is prepared: what it really answers."""
    call = prepared(refusal)
    if refusal.meanwhile:
        step, other = refusal.meanwhile
        return stopped_at(step, call.lab, refusal.call, other)
    return call(*refusal.call).status


def stopped_at(step: str, lab: Lab, call: Row, other: Row) -> Status:
    """What `call` answers on LP 0 when LP 1 makes the other one while it stands before `step`."""
    program = lab.program(lambda: [seamcall(lab, 0, call), seamcall(lab, 1, other)])
    trace = run(program, story(((0, step), (1, None))))
    said = next(note for note in trace.notes("seamcall") if note["cpu"] == 0)
    return st.BY_NAME[said["status"]].at(said["detail"])


async def seamcall(lab: Lab, lp: int, row: Row) -> Status:
    """One call as an actor, or as a part of one.  Returns what it answered."""
    leaf = named(row[0])
    return (await lab.cpus[lp].seamcall(leaf, **dict(zip(leaf.registers, row[1:], strict=False)))).status
