"""Every leaf in some sequence of calls, for the audit of touches: alone, and against a second call."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from tdxlab.engine.cells import Journal
from tdxlab.engine.explore import explore
from tdxlab.engine.run import Program, run
from tdxlab.engine.step import WRITE, step
from tdxlab.hw.cpu import Regs
from tdxlab.hw.guest import Guest
from tdxlab.hw.sharex import Held, Refuse, Sharex
from tdxlab.module.exits import MSMI
from tdxlab.module.sys_shutdown import seamldr_install
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.bits import SeptEntry
from tdxlab.spec.features import V1_5_25
from tdxlab.spec.fields import BY_NAME, FIELDS, NO_FIELD, Attributes, Context
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.levels import PAGE_SIZE, SIZE_2M
from tdxlab.spec.operands import R8, RCX, RDX
from tdxlab.spec.tdstate import ExitReason
from tests.module.guests import guest_calls_all, told_of_faults, updated
from tests.module.machine import (
    LARGE,
    PAGES,
    SOURCE,
    TABLES,
    TDR,
    TDVPRS,
    Machine,
    built,
    donors,
    send_ipi,
    take_interrupt,
)

NEW_TABLE = TABLES + 0x10_000
GPA_4K, GPA_2M = 0x1000, SIZE_2M | 1
DEBUGGABLE = Attributes.DEBUG | Attributes.SEPT_VE_DISABLE
PAIR = LARGE | 1, *donors(9)
DEMOTE = leaves.TDH_MEM_PAGE_DEMOTE, GPA_2M, TDR, NEW_TABLE, 0, 0, 0, *donors(8)
DYNAMIC: dict[str, Any] = {"features": V1_5_25, "dpamt": True}
ID = {name: row.id for name, row in BY_NAME.items()}
ALL_BITS = (1 << 64) - 1
Case = Callable[[Machine], Coroutine[Any, Any, Any]]


async def bring_up(machine: Machine) -> None:
    await machine.bring_up()
    await machine.init_tdmr()


async def life(machine: Machine) -> None:
    await machine.create()
    await machine.finalize()


async def large_page(machine: Machine) -> None:
    """AUG, split, merge and remove a 2M page of a TD that may run."""
    await machine.call(leaves.TDH_MEM_PAGE_AUG, GPA_2M, TDR, LARGE)
    await blocked_and_tracked(machine, GPA_2M)
    await machine.call(*DEMOTE)
    await blocked_and_tracked(machine, GPA_2M)
    await machine.call(leaves.TDH_MEM_PAGE_PROMOTE, GPA_2M, TDR)
    await blocked_and_tracked(machine, GPA_2M)
    await machine.call(leaves.TDH_MEM_RANGE_UNBLOCK, GPA_2M, TDR)
    await blocked_and_tracked(machine, GPA_2M)
    await machine.call(leaves.TDH_MEM_PAGE_REMOVE, GPA_2M, TDR)
    await machine.call(leaves.TDH_PHYMEM_PAGE_WBINVD, LARGE)


async def small_page(machine: Machine) -> None:
    """AUG, read, move and remove a 4K page, then its table."""
    await machine.call(leaves.TDH_MEM_SEPT_ADD, GPA_2M, TDR, NEW_TABLE)
    await machine.call(leaves.TDH_MEM_PAGE_AUG, SIZE_2M, TDR, PAGES + PAGE_SIZE)
    await machine.call(leaves.TDH_MEM_SEPT_RD, SIZE_2M, TDR)
    await blocked_and_tracked(machine, SIZE_2M)
    await machine.call(leaves.TDH_MEM_PAGE_RELOCATE, SIZE_2M, TDR, PAGES + 2 * PAGE_SIZE)
    await machine.call(leaves.TDH_PHYMEM_PAGE_RDMD, PAGES + 2 * PAGE_SIZE)
    await blocked_and_tracked(machine, SIZE_2M)
    await machine.call(leaves.TDH_MEM_PAGE_REMOVE, SIZE_2M, TDR)
    await blocked_and_tracked(machine, GPA_2M)
    await machine.call(leaves.TDH_MEM_SEPT_REMOVE, GPA_2M, TDR)


async def blocked_and_tracked(machine: Machine, gpa_level: int) -> None:
    await machine.call(leaves.TDH_MEM_RANGE_BLOCK, gpa_level, TDR)
    await machine.call(leaves.TDH_MEM_TRACK, TDR)


async def page_pair(machine: Machine) -> None:
    """A 2M range gets a page pair, is used, told, and gives it back; what can not be given is refused."""
    await machine.call(leaves.TDH_PHYMEM_PAMT_ADD, *PAIR)
    await machine.call(leaves.TDH_PHYMEM_PAMT_ADD, *PAIR, gives=st.TDX_HPA_RANGE_NOT_FREE.at(RCX))
    half_free = LARGE + SIZE_2M | 1, donors(10)[0], PAIR[1]
    await machine.call(leaves.TDH_PHYMEM_PAMT_ADD, *half_free, gives=st.TDX_PAGE_NOT_FREE.at(R8))
    await machine.call(leaves.TDH_MEM_PAGE_AUG, GPA_4K, TDR, LARGE)
    await machine.call(leaves.TDH_PHYMEM_PAGE_RDMD, LARGE | 1)
    await machine.call(leaves.TDH_PHYMEM_PAGE_RDMD, PAIR[1])
    await machine.call(leaves.TDH_PHYMEM_PAMT_REMOVE, PAIR[0], gives=st.TDX_PAMT_PAGE_NOT_EMPTY)
    await blocked_and_tracked(machine, GPA_4K)
    hinted = await machine.call(leaves.TDH_MEM_PAGE_REMOVE, GPA_4K, TDR)
    assert hinted.rcx == LARGE | 1 << 62
    removed = await machine.call(leaves.TDH_PHYMEM_PAMT_REMOVE, PAIR[0])
    assert (removed.rdx, removed.r8) == PAIR[1:]
    first, used = PAIR[1], PAGES
    for pages, operand in (((first, first), R8), ((used, first), RDX), ((first, used), R8)):
        gives = st.TDX_PAGE_NOT_FREE.at(operand)
        await machine.call(leaves.TDH_PHYMEM_PAMT_ADD, PAIR[0], *pages, gives=gives)


async def l2_pages(machine: Machine) -> None:
    """A TD with an L2 VM, whose S-EPT pages come where the TD has its own, and go with them."""
    td = machine.module.tds[TDR]
    await step((td, "num_l2_vms", WRITE))
    td.num_l2_vms = 1
    none = leaves.NULL_PA
    for n, (gpa_level, own) in enumerate(((3, none), (2, none), (GPA_2M, NEW_TABLE)), 1):
        operands = gpa_level, TDR, own, NEW_TABLE + n * PAGE_SIZE, none, none
        await machine.call(leaves.TDH_MEM_SEPT_ADD, *operands, version=1)
    await blocked_and_tracked(machine, GPA_2M)
    await machine.call(leaves.TDH_MEM_SEPT_REMOVE, GPA_2M, TDR)


async def teardown(machine: Machine) -> None:
    await machine.call(leaves.TDH_MNG_KEY_RECLAIMID, TDR)
    for tdvpr in TDVPRS:
        await machine.call(leaves.TDH_VP_FLUSH, tdvpr)
    await machine.call(leaves.TDH_MNG_VPFLUSHDONE, TDR)
    await send_ipi(machine.cpus[0])
    polls = machine.module.features.cache_wb_polls_after_last
    await machine.call(leaves.TDH_PHYMEM_CACHE_WB, 0, gives=st.TDX_INTERRUPTED_RESUMABLE if polls else st.TDX_SUCCESS)
    await take_interrupt(machine.cpus[0])
    await machine.call(leaves.TDH_PHYMEM_CACHE_WB, 1, gives=st.TDX_SUCCESS if polls else st.TDX_WBCACHE_RESUME_ERROR)
    await machine.call(leaves.TDH_MNG_KEY_FREEID, TDR)
    pages = [TDR + n * PAGE_SIZE for n in range(1, 8)]
    pages += [tdvpr + n * PAGE_SIZE for tdvpr in TDVPRS for n in range(6)]
    pages += [TABLES + n * PAGE_SIZE for n in range(3)] + [PAGES]
    await machine.call(leaves.TDH_PHYMEM_PAGE_RECLAIM, TDR, gives=st.TDX_TD_ASSOCIATED_PAGES_EXIST)
    for page in [*pages, TDR]:
        await machine.call(leaves.TDH_PHYMEM_PAGE_RECLAIM, page)


async def configured_again(machine: Machine) -> None:
    """A new module in place of one whose TDs it does not take over."""
    await machine.call(leaves.TDH_SYS_SHUTDOWN)
    await seamldr_install(machine.module)
    await machine.bring_up()


async def accepts(guest: Guest) -> None:
    """A guest that accepts, uses and asks."""
    await guest.tdcall(leaves.TDG_MEM_PAGE_ACCEPT, rcx=GPA_2M)
    await guest.access(SIZE_2M, write=True)
    await guest.access(SIZE_2M + PAGE_SIZE)
    await guest.tdcall(leaves.TDG_MEM_PAGE_ACCEPT, rcx=GPA_2M)
    await guest.tdcall(leaves.TDG_VP_VEINFO_GET)
    await guest.tdcall(leaves.TDG_VP_VMCALL, rcx=1 << 10, r10=7)


async def accepted(machine: Machine) -> None:
    await machine.call(leaves.TDH_VP_FLUSH, TDVPRS[0])
    await machine.call(leaves.TDH_MEM_PAGE_AUG, GPA_2M, TDR, LARGE)
    await send_ipi(machine.cpus[0])
    await machine.enter(accepts)()


async def faults(machine: Machine) -> None:
    """Eight faults at one instruction, of which the last is told without entering; then the page is there."""

    async def touches(guest: Guest) -> None:
        await guest.access(GPA_4K)

    guest = Guest(touches)
    for _ in range(8):
        regs = await machine.cpus[0].vp_enter(TDVPRS[0], guest)
        assert regs.rax == 48 and regs.r8 == GPA_4K
    await machine.call(leaves.TDH_MEM_PAGE_AUG, GPA_4K, TDR, PAGES + PAGE_SIZE)
    await machine.enter(lambda guest: guest.tdcall(leaves.TDG_MEM_PAGE_ACCEPT, rcx=GPA_4K), vcpu=1)()
    while not guest.done:
        await machine.cpus[0].vp_enter(TDVPRS[0], guest)


async def ve(machine: Machine) -> None:
    """A TD that takes #VE on PENDING pages."""

    async def program(guest: Guest) -> None:
        assert not await guest.access(GPA_4K)
        info = await guest.tdcall(leaves.TDG_VP_VEINFO_GET)
        assert (info.rcx, info.r9) == (48, GPA_4K)
        await guest.tdcall(leaves.TDG_MEM_PAGE_ACCEPT, rcx=GPA_4K)
        assert await guest.access(GPA_4K)

    await machine.call(leaves.TDH_MEM_PAGE_AUG, GPA_4K, TDR, PAGES + PAGE_SIZE)
    await machine.enter(program)()


async def kept_off(machine: Machine) -> None:
    """A guest that is kept off an entry for the host, until the host is told."""
    await machine.call(leaves.TDH_MEM_PAGE_AUG, GPA_4K, TDR, PAGES + PAGE_SIZE)
    page = machine.memory.sept_page(TABLES + 2 * PAGE_SIZE)
    await step((page, 1, WRITE))
    page.put(1, page[1] | SeptEntry.HP)
    guest = Guest(accepts_twice)
    for _ in range(2):
        await machine.cpus[0].vp_enter(TDVPRS[0], guest)


async def accepts_twice(guest: Guest) -> None:
    for _ in range(2):
        regs = await guest.tdcall(leaves.TDG_MEM_PAGE_ACCEPT, rcx=GPA_4K)
        assert regs.rax == st.TDX_OPERAND_BUSY.at(RCX)


async def two_ranges(machine: Machine) -> None:
    """A vCPU whose pages lie in another 2M range than the TDR."""
    tdvpr = PAGES + PAGE_SIZE
    await machine.call(leaves.TDH_VP_CREATE, tdvpr, TDR)
    for n in range(1, 6):
        await machine.call(leaves.TDH_VP_ADDCX, tdvpr + n * PAGE_SIZE, tdvpr)
    await machine.call(leaves.TDH_VP_INIT, tdvpr, 0)
    await machine.finalize()
    await machine.cpus[0].vp_enter(tdvpr, Guest(idles))


async def fatal(machine: Machine) -> None:
    """A triple fault ends a vCPU, a machine check ends the TD."""
    cpu = machine.cpus[0]
    for tdvpr, reason in zip(TDVPRS, (2, 6), strict=True):
        regs = Regs(leaves.TDH_VP_ENTER.number, rcx=tdvpr)
        await machine.module.seamcall(cpu, regs)
        await machine.module.vm_exit(cpu, regs, reason, MSMI)
        assert regs.status.detail == reason
    await machine.call(leaves.TDH_MEM_TRACK, TDR, gives=st.TDX_TD_FATAL)


async def read_and_written(machine: Machine) -> None:
    """Fields of everything, and memory, by the host of a debuggable TD."""
    cpu, tdvpr = machine.cpus[0], TDVPRS[0]
    await cpu.seamcall(leaves.TDH_SYS_RD, rdx=ID["TDX_FEATURES0"])
    await cpu.seamcall(leaves.TDH_SYS_RDALL, rdx=SOURCE, r8=NO_FIELD)
    await cpu.seamcall(leaves.TDH_SYS_INFO, rcx=SOURCE, rdx=PAGE_SIZE, r8=SOURCE + PAGE_SIZE, r9=32)
    for leaf, of, context in ((leaves.TDH_MNG_RD, TDR, Context.TD), (leaves.TDH_VP_RD, tdvpr, Context.VP)):
        for row in FIELDS[context]:
            await cpu.seamcall(leaf, rcx=of, rdx=row.id)
    await machine.call(leaves.TDH_MNG_WR, TDR, ID["HP_LOCK_TIMEOUT"], 20_000, ALL_BITS)
    await machine.call(leaves.TDH_MNG_WR, TDR, ID["NOTIFY_ENABLES"], 1, 1)
    await machine.call(leaves.TDH_VP_WR, tdvpr, ID["R12"], 7, ALL_BITS)
    await machine.call(leaves.TDH_MEM_WR, 8, TDR, 7)
    assert (await machine.call(leaves.TDH_MEM_RD, 8, TDR)).r8 == 7


async def reads_and_writes(guest: Guest) -> None:
    """Fields of everything, by the guest."""
    await guest.tdcall(leaves.TDG_SYS_RD, rdx=ID["TDX_FEATURES0"])
    await guest.tdcall(leaves.TDG_SYS_RDALL, rdx=0, r8=NO_FIELD)
    for leaf, context in ((leaves.TDG_VM_RD, Context.TD), (leaves.TDG_VP_RD, Context.VP)):
        for row in FIELDS[context]:
            await guest.tdcall(leaf, rcx=0, rdx=row.id)
    for leaf, name in ((leaves.TDG_VM_WR, "NOTIFY_ENABLES"), (leaves.TDG_VP_WR, "CPUID_USER_VE")):
        regs = await guest.tdcall(leaf, rcx=0, rdx=ID[name], r8=1, r9=1)
        assert regs.rax == st.TDX_SUCCESS


async def fields(machine: Machine) -> None:
    await read_and_written(machine)
    await machine.enter(reads_and_writes)()


ALONE: dict[str, tuple[Case, dict[str, Any]]] = {
    "bring_up": (bring_up, {"parts": 0}),
    "life": (life, {"parts": 2}),
    "large_page": (large_page, {}),
    "large_page 1.5.25": (large_page, {"features": V1_5_25}),
    "small_page": (small_page, {}),
    "teardown": (teardown, {}),
    "bring_up, dynamic": (bring_up, DYNAMIC | {"parts": 0}),
    "life, dynamic": (life, DYNAMIC | {"parts": 2}),
    "large_page, dynamic": (large_page, DYNAMIC),
    "small_page, dynamic": (small_page, DYNAMIC),
    "page_pair": (page_pair, DYNAMIC),
    "teardown, dynamic": (teardown, DYNAMIC),
    "accepted, dynamic": (accepted, DYNAMIC),
    "accepted": (accepted, {}),
    "two_ranges": (two_ranges, DYNAMIC | {"parts": 3}),
    "faults": (faults, {}),
    "faults 1.5.25": (faults, {"features": V1_5_25}),
    "ve": (ve, {"attributes": 0}),
    "kept_off": (kept_off, {}),
    "fatal": (fatal, {}),
    "fields": (fields, {"attributes": DEBUGGABLE}),
    "guest": (guest_calls_all, {"attributes": 0}),
    "told of faults": (told_of_faults, {}),
    "update": (updated, {"features": V1_5_25}),
    "configured again, dynamic": (configured_again, DYNAMIC),
    "l2_pages": (l2_pages, {"features": V1_5_25}),
    "l2_pages, dynamic": (l2_pages, DYNAMIC),
}


def check_alone(name: str) -> None:
    """Run a case under the audit of reads and writes."""
    case, options = ALONE[name]
    machine = built(cpus=1, **options)
    trace = run(machine.program(lambda: case(machine)), check_reads=True)
    assert trace.ended == "done"


# --- two calls at once: (what the set-up adds, the two actors) ---


def seamcalls(cpu: int, *calls: tuple[Any, ...]) -> Callable[[Machine], Callable[[], Any]]:
    """An actor that makes some SEAMCALLs, whatever they answer."""

    def actor(machine: Machine) -> Callable[[], Any]:
        async def go() -> list[st.Status]:
            return [await machine.any(leaf, *operands, cpu=cpu) for leaf, *operands in calls]

        return go

    return actor


def guest_accepts(cpu: int, gpa_level: int) -> Callable[[Machine], Callable[[], Any]]:
    """An actor that enters a vCPU, which accepts a page.  It gives up after some TD exits."""
    return guest_calls(cpu, leaves.TDG_MEM_PAGE_ACCEPT, rcx=gpa_level)


def guest_calls(cpu: int, leaf: Leaf, **operands: int) -> Callable[[Machine], Callable[[], Any]]:
    """An actor that enters a vCPU, which makes a call."""

    async def once(guest: Guest) -> None:
        await guest.tdcall(leaf, **operands)

    def actor(machine: Machine) -> Callable[[], Any]:
        async def go() -> None:
            guest = Guest(once)
            await machine.cpus[cpu].vp_enter(TDVPRS[cpu], guest)

        return go

    return actor


def kicks(machine: Machine) -> Callable[[], Any]:
    """An actor on CPU 0 that gets the guest on CPU 1 out."""

    async def go() -> None:
        await send_ipi(machine.cpus[1])
        await machine.cpus[0].wait_ipi(machine.cpus[1])

    return go


def guest_runs(machine: Machine) -> Callable[[], Any]:
    """An actor on CPU 1 whose guest does nothing, and which takes the kick whenever it comes."""

    async def go() -> None:
        cpu = machine.cpus[1]
        await cpu.vp_enter(TDVPRS[1], Guest(idles))
        await step((cpu.lp, "interrupt", WRITE), ready=lambda: bool(cpu.lp.peek("interrupt")))
        await take_interrupt(cpu)

    return go


async def idles(guest: Guest) -> None:
    """Does nothing."""


def check_locks() -> None:
    """A host call and a guest call that try for one lock in every way, in every order."""
    journal = Journal()
    lock = Sharex(journal, "lock")

    async def tries(host: bool) -> None:
        held = Held(journal, host=host)
        for exclusive in (False, True, False):
            with suppress(Refuse):
                await (held.exclusive if exclusive else held.shared)(lock, 0, RCX)
                if host and not exclusive:
                    await held.upgrade(lock, 0, RCX)
            await held.release()

    result = explore(Program(journal, lambda: [tries(True), tries(False)]), check_reads=True)
    assert result.complete and set(result.outcomes) == {"done"}


AUG_4K = leaves.TDH_MEM_PAGE_AUG, GPA_4K, TDR, PAGES + PAGE_SIZE
AUG_2M = leaves.TDH_MEM_PAGE_AUG, GPA_2M, TDR, LARGE
BLOCK_4K, BLOCK_2M = (leaves.TDH_MEM_RANGE_BLOCK, GPA_4K, TDR), (leaves.TDH_MEM_RANGE_BLOCK, GPA_2M, TDR)
TRACK = leaves.TDH_MEM_TRACK, TDR
TIMEOUT = leaves.TDH_MNG_WR, TDR, ID["HP_LOCK_TIMEOUT"]
NOTIFY = {"rcx": 0, "rdx": ID["NOTIFY_ENABLES"], "r8": 1, "r9": 1}
READ_VCPU = leaves.TDH_VP_RD, TDVPRS[1], ID["VCPU_INDEX"]
WRITE_WORD = leaves.TDH_MEM_WR, 8, TDR, 7

PAIRS: dict[str, tuple[tuple[tuple[Any, ...], ...], Any, Any]] = {
    "AUG, AUG": ((), seamcalls(0, AUG_4K), seamcalls(1, AUG_4K)),
    "AUG 4K, AUG 2M of one frame": (
        (),
        seamcalls(0, (leaves.TDH_MEM_PAGE_AUG, GPA_4K, TDR, LARGE + PAGE_SIZE)),
        seamcalls(1, AUG_2M),
    ),
    "AUG, ACCEPT": ((), seamcalls(0, AUG_4K), guest_accepts(1, GPA_4K)),
    "BLOCK, ACCEPT": ((AUG_4K,), seamcalls(0, BLOCK_4K), guest_accepts(1, GPA_4K)),
    "REMOVE, ACCEPT": (
        (AUG_4K, BLOCK_4K, TRACK),
        seamcalls(0, (leaves.TDH_MEM_PAGE_REMOVE, GPA_4K, TDR)),
        guest_accepts(1, GPA_4K),
    ),
    "DEMOTE, ACCEPT": ((AUG_2M, BLOCK_2M, TRACK), seamcalls(0, DEMOTE), guest_accepts(1, SIZE_2M)),
    "DEMOTE, DEMOTE": ((AUG_2M, BLOCK_2M, TRACK), seamcalls(0, DEMOTE), seamcalls(1, DEMOTE)),
    "TRACK, VP.ENTER": ((), seamcalls(0, TRACK, TRACK), guest_accepts(1, GPA_4K)),
    "kick, VP.ENTER": ((), kicks, guest_runs),
    "TRACK, TRACK": ((), seamcalls(0, TRACK), seamcalls(1, TRACK)),
    "FLUSH, VP.ENTER": ((), seamcalls(0, (leaves.TDH_VP_FLUSH, TDVPRS[1])), guest_accepts(1, GPA_4K)),
    "SEPT.ADD, SEPT.ADD": (
        (),
        seamcalls(0, (leaves.TDH_MEM_SEPT_ADD, GPA_2M, TDR, NEW_TABLE)),
        seamcalls(1, (leaves.TDH_MEM_SEPT_ADD, GPA_2M, TDR, NEW_TABLE + PAGE_SIZE)),
    ),
    "MNG.WR, MNG.RD": ((), seamcalls(0, (*TIMEOUT, 20_000, ALL_BITS)), seamcalls(1, (leaves.TDH_MNG_RD, *TIMEOUT[1:]))),
    "MNG.WR, MNG.WR": ((), seamcalls(0, (*TIMEOUT, 20_000, ALL_BITS)), seamcalls(1, (*TIMEOUT, 30_000, ALL_BITS))),
    "VM.WR, VM.WR": ((), guest_calls(0, leaves.TDG_VM_WR, **NOTIFY), guest_calls(1, leaves.TDG_VM_WR, **NOTIFY)),
    "VP.RD, VP.RD": ((), seamcalls(0, READ_VCPU), seamcalls(1, (leaves.TDH_VP_FLUSH, TDVPRS[1]), READ_VCPU)),
    "VP.RD, VP.ENTER": ((), seamcalls(0, READ_VCPU), guest_accepts(1, GPA_4K)),
    "MEM.WR, MEM.RD": ((), seamcalls(0, WRITE_WORD), seamcalls(1, (leaves.TDH_MEM_RD, 8, TDR))),
    "MEM.WR, BLOCK": ((), seamcalls(0, WRITE_WORD), seamcalls(1, (leaves.TDH_MEM_RANGE_BLOCK, 0, TDR))),
}
ADD_PAIR = leaves.TDH_PHYMEM_PAMT_ADD, *PAIR
REMOVE_PAIR = leaves.TDH_PHYMEM_PAMT_REMOVE, PAIR[0]
AUG_IN_PAIR = leaves.TDH_MEM_PAGE_AUG, GPA_4K, TDR, LARGE
OTHER_PAIR = leaves.TDH_PHYMEM_PAMT_ADD, LARGE + SIZE_2M | 1, *donors(9)

DYNAMIC_PAIRS: dict[str, tuple[tuple[tuple[Any, ...], ...], Any, Any]] = {
    "PAMT.ADD, PAMT.ADD of one range": ((), seamcalls(0, ADD_PAIR), seamcalls(1, ADD_PAIR)),
    "PAMT.ADD, PAMT.ADD of one pair": ((), seamcalls(0, ADD_PAIR), seamcalls(1, OTHER_PAIR)),
    "PAMT.ADD, AUG": ((), seamcalls(0, ADD_PAIR), seamcalls(1, AUG_IN_PAIR)),
    "PAMT.REMOVE, AUG": ((ADD_PAIR,), seamcalls(0, REMOVE_PAIR), seamcalls(1, AUG_IN_PAIR)),
    "AUG, AUG in one range": (
        (ADD_PAIR,),
        seamcalls(0, AUG_IN_PAIR),
        seamcalls(1, (leaves.TDH_MEM_PAGE_AUG, 2 * GPA_4K, TDR, LARGE + PAGE_SIZE)),
    ),
    "DEMOTE, PAMT.ADD of its pair": (
        (AUG_2M, BLOCK_2M, TRACK),
        seamcalls(0, DEMOTE),
        seamcalls(1, (leaves.TDH_PHYMEM_PAMT_ADD, LARGE + SIZE_2M | 1, *donors(8))),
    ),
    "VP.ENTER, PAMT.REMOVE of the TDVPR's range": (
        (),
        guest_accepts(0, GPA_4K),
        seamcalls(1, (leaves.TDH_PHYMEM_PAMT_REMOVE, TDVPRS[0] & -SIZE_2M | 1)),
    ),
}
BOUND, MAX_EXECUTIONS = 1, 400


def check_pair(name: str, bound: int | None = BOUND) -> Any:
    """Search the schedules of two calls under the audit; returns the result."""
    dynamic = name in DYNAMIC_PAIRS
    before, first, second = (DYNAMIC_PAIRS if dynamic else PAIRS)[name]
    machine = built(DEBUGGABLE, **(DYNAMIC if dynamic else {}))
    for leaf, *operands in before:
        machine.alone(machine.call(leaf, *operands))
    program = machine.program(first(machine), second(machine))
    return explore(program, bound=bound, max_executions=MAX_EXECUTIONS, check_reads=True)


SPLIT_WITH_PAIR = *DEMOTE[:-2], *PAIR[1:]
WINDOW = {"PAMT.ADD": OTHER_PAIR, "DEMOTE": SPLIT_WITH_PAIR}


def check_window(second_use: str) -> Any:
    """PAGE.REMOVE of a range's last page against PAMT.REMOVE and another use of the same two pages, audited."""
    machine = built(DEBUGGABLE, **DYNAMIC)
    split = leaves.TDH_MEM_PAGE_AUG, GPA_2M, TDR, LARGE + 2 * SIZE_2M
    for leaf, *operands in (ADD_PAIR, AUG_IN_PAIR, split, BLOCK_4K, BLOCK_2M, TRACK):
        machine.alone(machine.call(leaf, *operands))
    remove = seamcalls(0, (leaves.TDH_MEM_PAGE_REMOVE, GPA_4K, TDR))
    program = machine.program(remove(machine), seamcalls(1, REMOVE_PAIR, WINDOW[second_use])(machine))
    return explore(program, bound=2, max_executions=MAX_EXECUTIONS, check_reads=True)


def check_last_exit() -> None:
    """A vCPU's exit beside a machine check of another: a search that swaps no two steps in vain tries both orders."""
    machine = built()
    ends: set[bool] = set()

    async def enter(vcpu: int) -> Regs:
        regs = Regs(leaves.TDH_VP_ENTER.number, rcx=TDVPRS[vcpu])
        await step(at="enter")
        await machine.module.seamcall(machine.cpus[vcpu], regs)
        return regs

    async def dies() -> None:
        regs = await enter(0)
        await machine.module.vm_exit(machine.cpus[0], regs, ExitReason.SMI_OTHER, MSMI)

    async def leaves_the_guest() -> None:
        regs = await enter(1)
        if machine.cpus[1].lp.vcpu:
            await machine.module.external_interrupt(machine.cpus[1], regs)
            ends.add(regs.status.code == st.TDX_NON_RECOVERABLE_TD_NON_ACCESSIBLE.code)

    explore(machine.program(dies, leaves_the_guest), algorithm="dpor", max_executions=MAX_EXECUTIONS)
    assert ends == {False, True}
