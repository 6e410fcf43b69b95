"""TDH.SYS.*: from a loaded module to one that can build TDs."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tdxlab.engine.cells import Journal, Record, Words
from tdxlab.engine.step import READ, WRITE, step
from tdxlab.hw.sharex import Refuse, Sharex
from tdxlab.module import tdmr_info
from tdxlab.module.call import Call, handles
from tdxlab.module.gates import check_host_hpa
from tdxlab.module.pamt import PER_PAGE, packed
from tdxlab.module.tdmr_info import TDMR_INFO_BYTES, Area, TdmrInfo
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.bits import SysConfig
from tdxlab.spec.levels import ENTRIES, LEVEL_4K, PAGE_SIZE, SIZE_1G, SIZE_2M
from tdxlab.spec.operands import R8, RCX, RDX
from tdxlab.spec.pamt import PT_RSVD
from tdxlab.spec.status import Status
from tdxlab.spec.tdstate import KeyState, SysState

MAX_TDMRS = 64
MAX_NODE_PA = 48
CHUNK_BYTES, BITMAP_CHUNK_BYTES = 1024 * PAGE_SIZE, 4096 * PAGE_SIZE  # what one TDH.SYS.TDMR.INIT does


class Tdmr(Record):
    """A TDMR as configured, and how far its PAMT is initialised.  next: guarded by its lock."""

    base: int
    end: int
    lock: Sharex
    next: int
    reserved: tuple[Area, ...]
    __slots__ = ("base", "end", "lock", "next", "reserved")
    FIXED = Record.FIXED | {"base", "end", "lock", "reserved"}

    def __init__(self, journal: Journal, info: TdmrInfo) -> None:
        lock = Sharex(journal, f"tdmr_lock:{info.base:#x}", marks=False)
        super().__init__(journal, f"tdmr:{info.base:#x}", lambda key: (lock, 0))
        values = {"base": info.base, "end": info.end, "lock": lock, "next": info.base, "reserved": info.reserved}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def reserved_in(self, start: int, stop: int) -> list[Area]:
        """The reserved parts of [start, stop)."""
        return [(max(base, start), min(end, stop)) for base, end in self.reserved if base < stop and start < end]


async def hold_global(call: Call, exclusive: bool = True) -> None:
    """The global lock, whose refusal has a status of its own."""
    take = call.held.exclusive if exclusive else call.held.shared
    try:
        await take(call.module.sys.lock, 0, 0, (call.module.sys, None, WRITE))
    except Refuse:
        raise Refuse(st.TDX_SYS_BUSY) from None


@handles(leaves.TDH_SYS_INIT)
async def tdh_sys_init(call: Call, attributes: int) -> None:
    """Begin.  Left out: enumeration of the platform, its checks; version 1 (1.5.24).  Source: [S01:tdh_sys_init.c]"""
    await hold_global(call)
    if attributes:
        raise Refuse(st.TDX_OPERAND_INVALID.at(RCX))
    if call.module.sys.state is not SysState.SYSINIT_PENDING:
        raise Refuse(st.TDX_SYS_INIT_NOT_PENDING)

    # --- all checks passed ---
    call.module.sys.state = SysState.SYSINIT_DONE


@handles(leaves.TDH_SYS_LP_INIT)
async def tdh_sys_lp_init(call: Call) -> None:
    """Initialise this logical processor.  Source: [S01:tdh_sys_lp_init.c]"""
    await hold_global(call, exclusive=False)
    sys = call.module.sys
    if sys.state is not SysState.SYSINIT_DONE:
        raise Refuse(st.TDX_SYS_LP_INIT_NOT_PENDING)
    if call.cpu.n in sys.lps:
        raise Refuse(st.TDX_SYS_LP_INIT_DONE)

    # --- all checks passed ---
    sys.lps = sys.lps | {call.cpu.n}


@handles(leaves.TDH_SYS_CONFIG)
async def tdh_sys_config(call: Call, array: int, count: int, hkid_flags: int) -> None:
    """Take the TDMRs and the module's own HKID, and begin the PAMT, which may be one that another module left.

    Bit 16 of R8 turns Dynamic PAMT on, whose third area is the bitmap.

    A node of Dynamic PAMT has 36 bits for a frame number, so HKIDs must begin at bit 48 or below.
    Left out: that the HKID stays reserved if a TDMR is refused.  Source: [S01:tdh_sys_config.c, S25:tdh_sys_config.c]
    """
    await hold_global(call)
    sys = call.module.sys
    if sys.state is not SysState.SYSINIT_DONE or len(sys.lps) < call.memory.platform.lps:
        raise Refuse(st.TDX_SYS_CONFIG_NOT_PENDING)
    check_host_hpa(call, array, RCX, TDMR_INFO_BYTES)
    if not 0 < count <= MAX_TDMRS:
        raise Refuse(st.TDX_OPERAND_INVALID.at(RDX))
    hkid, dynamic = hkid_flags & SysConfig.HKID, bool(hkid_flags & SysConfig.DYNAMIC_PAMT)
    if hkid_flags & ~(SysConfig.HKID | SysConfig.DYNAMIC_PAMT) or hkid not in call.memory.platform.private_hkids:
        raise Refuse(st.TDX_OPERAND_INVALID.at(R8))
    if dynamic and (not call.features.dynamic_pamt or call.memory.hkid_start > MAX_NODE_PA):
        raise Refuse(st.TDX_OPERAND_INVALID.at(R8))
    await step((call.memory.page(array), None, READ), at="TDMR_INFO array")
    pointers = struct.unpack(f"<{count}Q", call.memory.read(array, 8 * count))
    tdmrs: list[TdmrInfo] = []
    for pointer in pointers:
        check_host_hpa(call, pointer, RCX, TDMR_INFO_BYTES)
        await step((call.memory.page(pointer), None, READ), at="TDMR_INFO")
        tdmrs.append(tdmr_info.parse(call.memory.read(pointer, TDMR_INFO_BYTES)))
        tdmr_info.check(tdmrs, call.memory.platform, dynamic)

    # --- all checks passed ---
    await step((sys, None, WRITE), (call.module.kot, hkid, WRITE), *call.pamt.cells(), at="update")
    sys.tdmrs, sys.hkid = tuple(Tdmr(call.cpu.journal, tdmr) for tdmr in tdmrs), hkid
    call.pamt.begin(dynamic)
    call.module.kot.put(hkid, KeyState.HKID_RESERVED)
    sys.state = SysState.SYSCONFIG_DONE


@handles(leaves.TDH_SYS_KEY_CONFIG)
async def tdh_sys_key_config(call: Call) -> None:
    """Program the module's key on this package, the only one.  Source: [S01:tdh_sys_key_config.c]"""
    await hold_global(call)
    if call.module.sys.state is not SysState.SYSCONFIG_DONE:
        raise Refuse(st.TDX_SYS_KEY_CONFIG_NOT_PENDING)

    # --- all checks passed ---
    call.module.sys.state = SysState.SYS_READY


@handles(leaves.TDH_SYS_TDMR_INIT)
async def tdh_sys_tdmr_init(call: Call, base: int) -> Status | None:
    """Initialise the PAMT of the next 4 MiB of a TDMR, or with Dynamic PAMT the bitmap of the next 16 MiB.

    RDX: up to where the TDMR can be used, in whole GiB.
    Only entries or bits of reserved areas are written: the others are 0 from TDH.SYS.CONFIG on, and no leaf gets
    to them before.
    Source: [S01:tdh_sys_tdmr_init.c, S25:tdh_sys_tdmr_init.c]
    """
    sys = call.module.sys
    tdmr = next((t for t in call.tdmrs if t.base == base), None)
    if tdmr is None:
        raise Refuse(st.TDX_OPERAND_INVALID.at(RCX))
    await call.held.exclusive(tdmr.lock, 0, RCX)
    if tdmr.next == tdmr.end:
        return st.TDX_TDMR_ALREADY_INITIALIZED

    # --- all checks passed ---
    start, end = tdmr.next, tdmr.next + (BITMAP_CHUNK_BYTES if call.pamt.dynamic else CHUNK_BYTES)
    written = [cell for hpa in range(start, end, SIZE_2M) for cell in _reserve(call, tdmr, hpa)]
    touches = await step(*((cell, None, WRITE) for cell, _ in written), at="update", more=True)
    for cell, values in written:
        cell.fill(values)
    tdmr.next = end
    if end % SIZE_1G == 0:
        touches.append((sys, "usable", WRITE))
        sys.usable |= {end - SIZE_1G}
    call.regs.rdx = end - end % SIZE_1G
    return None


def _reserve(call: Call, tdmr: Tdmr, hpa: int) -> Iterator[tuple[Words, list[int]]]:
    # what tells that pages of a 2M range are reserved: (cell, its values)
    areas = tdmr.reserved_in(hpa, hpa + SIZE_2M)
    if not areas:
        return
    words, mark = [0] * ENTRIES, 1 if call.pamt.dynamic else packed(PT_RSVD, 0)
    for first, end in areas:
        pages = slice((first - hpa) // PAGE_SIZE, (end - hpa) // PAGE_SIZE)
        words[pages] = [mark] * len(words[pages])
    if call.pamt.dynamic:
        yield call.pamt.bit(hpa)[0], words
    else:
        for n, chunk in enumerate(call.pamt.below(hpa, LEVEL_4K)):
            yield chunk.entries, words[n * PER_PAGE : (n + 1) * PER_PAGE]
