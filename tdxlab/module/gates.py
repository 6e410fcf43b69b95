"""The checks that many leaves share, each in the module's order.  [S01:helpers.c]"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tdxlab.engine.step import READ, step
from tdxlab.hw.sharex import ENTRY_HP, ENTRY_LOCK, HP, Refuse
from tdxlab.module import sept
from tdxlab.module.pamt import PamtPage
from tdxlab.module.sept import Entry
from tdxlab.module.state import Td, refcount_of
from tdxlab.spec import status as st
from tdxlab.spec.bits import GpaLevel, TdrFlags
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.levels import LEVEL_2M, LEVEL_4K, PAGE_SIZE, SHIFTS, SIZE_1G
from tdxlab.spec.operands import RCX, Operand
from tdxlab.spec.pamt import PT_NDA, PageType
from tdxlab.spec.sept import RULES, Rule, refusal
from tdxlab.spec.status import Status
from tdxlab.spec.tdstate import RUNS_IN, TRACKS_TLB, LifeCycle

if TYPE_CHECKING:
    from tdxlab.module.call import Call

GPA_RESERVED = ~(GpaLevel.LEVEL | GpaLevel.GPA)
MIN_TDCX, MAX_TDCX = 6, 9  # control pages of a TD [S01:td_control_structures.h]


# --- physical pages ---


def check_hpa(call: Call, hpa: int, operand: int, align: int = PAGE_SIZE) -> None:
    """`hpa` is aligned, without HKID, below the physical address width."""
    if hpa & (align - 1) or hpa >> call.memory.hkid_start:
        raise Refuse(st.TDX_OPERAND_INVALID.at(operand))


def check_host_hpa(call: Call, hpa: int, operand: int, align: int = PAGE_SIZE) -> None:
    """`hpa` is aligned, without a private HKID, below the physical address width: memory of the host's.

    Left out: SEAMRR, which is no memory of the host's.
    """
    platform = call.memory.platform
    if hpa & (align - 1) or hpa >> platform.max_pa or hpa >> platform.hkid_start >= platform.private_hkids.start:
        raise Refuse(st.TDX_OPERAND_INVALID.at(operand))


def check_in_tdmr(call: Call, hpa: int, operand: int) -> None:
    """`hpa` lies in a block of a TDMR whose PAMT is initialised."""
    if hpa & -SIZE_1G not in call.usable:
        raise Refuse(st.TDX_OPERAND_ADDR_RANGE_ERROR.at(operand))


async def hold_page(
    call: Call, hpa: int, expected: PageType, operand: int, *, exclusive: bool = True, level: int = LEVEL_4K
) -> PamtPage:
    """A page operand: valid, and locked in the PAMT with the type and size that the leaf expects.

    Without a pair there are no 4K entries: who wants a free page is told that.  [statements 12 to 25]
    """
    check_hpa(call, hpa, operand, 1 << SHIFTS[level])
    check_in_tdmr(call, hpa, operand)
    pamt, new = call.pamt, call.pamt.dynamic and expected is PT_NDA and level == LEVEL_4K
    reads = ((*pamt.bit(hpa), READ),) if new else ()
    page = await pamt.walk(call.held, hpa, level, exclusive, operand, *reads)
    if new and page.type is PT_NDA and page.level == LEVEL_2M:
        raise Refuse(st.TDX_MISSING_PAMT_PAGE_PAIR.at(operand))
    if page.level != level or page.type is not expected or (new and pamt.serves(hpa)):
        raise Refuse(st.TDX_PAGE_METADATA_INCORRECT.at(operand))
    return page


# --- TDs ---


async def hold_tdr(call: Call, tdr: int, operand: int, *, exclusive: bool = False, dead: bool = False) -> Td:
    """A TDR operand: valid, of type PT_TDR, locked.  A TD in a fatal state is refused, but by teardown (`dead`)."""
    await hold_page(call, tdr, PageType.PT_TDR, operand, exclusive=exclusive)
    td = call.module.tds[tdr]
    if td.fatal and not dead:
        raise Refuse(st.TDX_TD_FATAL)
    return td


def check_keys(td: Td) -> None:
    """The TD has a key on every package."""
    if td.lifecycle is not LifeCycle.KEYS_CONFIGURED:
        raise Refuse(st.TDX_TD_KEYS_NOT_CONFIGURED)


def check_tdcs(td: Td) -> None:
    """The TD has a key, and control pages enough."""
    check_keys(td)
    if len(td.tdcx) < MIN_TDCX:
        raise Refuse(st.TDX_TDCS_NOT_ALLOCATED)


def check_op_state(call: Call, td: Td) -> None:
    """The TD's operation state allows the leaf."""
    if td.op_state not in RUNS_IN[call.leaf]:
        detail = int(td.op_state) if call.features.state_in_detail else 0
        raise Refuse(st.TDX_OP_STATE_INCORRECT.at(detail))


async def hold_td(call: Call, tdr: int, operand: int) -> Td:
    """TDR shared, OP_STATE shared, and all that lets a leaf use the TD at run time."""
    td = await hold_tdr(call, tdr, operand)
    check_tdcs(td)
    if not call.held.at_once(td.op_state_lock, 0):
        await call.held.shared(td.op_state_lock, 0, Operand.OP_STATE)
    check_op_state(call, td)
    return td


# --- Secure EPT ---


def split_gpa_level(td: Td, gpa_level: int, lowest: int, highest: int) -> tuple[int, int]:
    """(GPA, level) of an operand that is in range, aligned and private."""
    level, gpa = gpa_level & GpaLevel.LEVEL, gpa_level & GpaLevel.GPA
    if not lowest <= level <= highest or gpa_level & GPA_RESERVED or gpa & (1 << SHIFTS[level]) - 1:
        raise Refuse(st.TDX_OPERAND_INVALID.at(RCX))
    if gpa >= td.shared_bit:  # a private GPA has neither this bit nor one above
        raise Refuse(st.TDX_OPERAND_INVALID.at(RCX))
    return gpa, level


async def hold_entry(call: Call, td: Td, gpa: int, level: int, *, tree_exclusive: bool = False) -> tuple[Entry, Rule]:
    """The tree's lock, the walk to `level`, the entry's lock: what the leaf may do in its state."""
    take = call.held.exclusive if tree_exclusive else call.held.shared
    touches = await take(td.sept_tree, 0, Operand.SEPT_TREE, more=True)
    entry = sept.walk(call.memory, td, gpa, level, touches)
    check_reached(entry, level)
    return entry, await lock_entry(call, entry)


async def lock_entry(call: Call, entry: Entry) -> Rule:
    """The lock of an entry that the walk got to, the entry read again: what the leaf may do in its state."""
    try:
        entry.word = await call.held.entry(entry.page, entry.i, RCX)
    except Refuse as busy:
        raise Refuse(busy.status, entry.view()) from None
    return allowed(call.leaf, entry)


async def walk_alone(call: Call, td: Td, gpa: int) -> Entry:
    """The walk to a 4K entry for a leaf that has the TD to itself (TDR exclusive) and locks nothing of the tree."""
    touches = await step(at="walk", more=True)
    return sept.walk(call.memory, td, gpa, LEVEL_4K, touches)


def check_reached(entry: Entry, level: int) -> None:
    """The walk got to the level asked for."""
    if entry.level != level:
        raise Refuse(st.TDX_EPT_WALK_FAILED.at(RCX), entry.view())


def allowed(leaf: Leaf, entry: Entry) -> Rule:
    """The rule for the entry's state, or a refusal."""
    found = RULES.get((leaf, entry.state))
    if found is None:
        raise Refuse(refusal(leaf, entry.state).at(RCX), entry.view())
    return found


def must_track(td: Td, entry: Entry) -> bool:
    """Does the leaf need BLOCK and TRACK first?  Refuses an entry that is not blocked, if so.

    A half-accepted page's progress is forgotten before [oracle random 3: not in the refusal's RCX].
    """
    entry.forget_progress()
    if td.op_state not in TRACKS_TLB or not entry.state.tracked:
        return False
    if not entry.state.blocked:
        raise Refuse(st.TDX_GPA_RANGE_NOT_BLOCKED.at(RCX), entry.view())
    return True


async def check_tracked(td: Td, page: PamtPage, operand: int = RCX) -> None:
    """No vCPU can still use a translation from before the page was blocked.

    One TRACK after the BLOCK is enough, once every vCPU that entered in the old epoch has left.  The epoch and
    its counts are read at once.
    """
    await step(
        page.bepoch(READ),
        (td, "td_epoch", READ),
        (td, "refcount0", READ),
        (td, "refcount1", READ),
        at="tracked?",
    )
    blocked_in = page.chunk.bepochs[page.i]
    if blocked_in < td.td_epoch - 1:
        return
    if blocked_in == td.td_epoch - 1 and getattr(td, refcount_of(blocked_in)) == 0:
        return
    raise Refuse(st.TDX_TLB_TRACKING_NOT_DONE.at(operand))


def write_entry(call: Call, entry: Entry, word: int) -> None:
    """Replace an entry whose lock the call holds.  The step touches it."""
    keeps = ENTRY_LOCK | ENTRY_HP if call.features.keeps_entry_priority or not call.held.host else ENTRY_LOCK
    entry.page.put(entry.i, word | entry.page[entry.i] & keeps)


async def backing(call: Call, entry: Entry) -> PamtPage:
    """The PAMT entry behind an S-EPT entry, not locked: of the page it maps, or of the table it leads to."""
    return await call.pamt.known(entry.hpa, entry.level if entry.state.leaf else LEVEL_4K)


async def poll(call: Call, td: Td, interrupted: Status = st.TDX_INTERRUPTED_RESTARTABLE, **operands: int) -> None:
    """Give up before the changes if an interrupt is pending, or another host call waits for the tree.

    The caller finds its operands as they were.  INFERRED: interrupts are looked for first.
    """
    await step((call.cpu.lp, "interrupt", READ), (td.sept_tree, 0, READ), at="poll")
    if call.cpu.interrupt_pending():
        raise Refuse(interrupted, operands)
    if call.features.yields_to_host and td.sept_tree[0] & HP:
        raise Refuse(st.TDX_INTERRUPTED_BUSY, operands)


def tdr_of(flags: int) -> int:
    """The TDR in an operand that has a flag in bit 0."""
    return flags & ~TdrFlags.FLAG
