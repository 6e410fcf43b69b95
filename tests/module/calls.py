"""One call of each leaf that takes locks, with what stands where before it: it succeeds in each kind of module."""

# ruff: noqa: E501
from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from tdxlab.hw.cpu import Regs
from tdxlab.module.sys_shutdown import seamldr_install
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.checks.check import (
    ENDS_AT_2M,
    IN_ANOTHER_RANGE,
    NO_TDR,
    PAGE_2M,
    SPLIT_2M,
    SUSPECTED,
)
from tdxlab.spec.features import V1_5_01, V1_5_25, ModuleFeatures
from tdxlab.spec.fields import BY_NAME, Attributes
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.levels import LEVEL_2M, LEVEL_4K, PAGE_SIZE, SIZE_2M
from tests.module.cases import GPA_2M, GPA_4K, NEW_TABLE
from tests.module.machine import (
    BASE,
    DONORS,
    HOST,
    LARGE,
    MODULE_HKID,
    PAGES,
    SEPT_VE_DISABLE,
    SOURCE,
    TDR,
    TDVPRS,
    Machine,
    built,
    donors,
)

MODES: dict[str, tuple[ModuleFeatures, bool]] = {
    "1.5.01": (V1_5_01, False),
    "1.5.25": (V1_5_25, False),
    "dynamic": (V1_5_25, True),
}
FREE = PAGES + PAGE_SIZE  # the first of many free pages
NO_PAIR = DONORS + SIZE_2M  # in a range that has none

Call = tuple[Any, ...]
Act = Callable[[Machine], Coroutine[Any, Any, Any]]


@dataclass
class Case:
    """A call that succeeds, and what stands where: of = {whose page: (HPA, level)}, gpa = whose S-EPT entry.

    ends: where the walk to a page ends, if not at its 4K entry.  where: further conditions that hold.
    """

    leaf: Leaf
    operands: Call
    of: dict[str, tuple[int, int]] = field(default_factory=dict)
    before: tuple[Call, ...] = ()
    gpa: int = 0
    ends: dict[str, str] = field(default_factory=dict)
    where: tuple[str, ...] = ()
    parts: int = 4
    version: int = 0
    attributes: int = SEPT_VE_DISABLE
    modes: tuple[str, ...] = tuple(MODES)
    act: Act | None = None


def small(hpa: int) -> tuple[int, int]:
    return hpa, LEVEL_4K


def large(hpa: int) -> tuple[int, int]:
    return hpa, LEVEL_2M


async def enter(machine: Machine) -> Regs:
    """TDH.VP.ENTER; the LP is in the TD afterwards."""
    regs = Regs(leaves.TDH_VP_ENTER.number, rcx=TDVPRS[0])
    await machine.module.seamcall(machine.cpus[0], regs)
    return regs


async def suspected(machine: Machine) -> None:
    """Seven faults at one instruction."""
    for _ in range(7):
        await machine.module.ept_violation(machine.cpus[0], await enter(machine), GPA_4K, 1)


async def reloaded(machine: Machine) -> None:
    """Another module is loaded."""
    await seamldr_install(machine.module)


def tdcall(leaf: Leaf, **operands: int) -> Act:
    """A TDCALL by the vCPU that runs."""

    async def act(machine: Machine) -> None:
        regs = Regs(leaf.number, **operands)
        await machine.module.tdcall(machine.cpus[0], regs)
        assert regs.rax == st.TDX_SUCCESS

    return act


def guest(leaf: Leaf, gpa: int, *before: Call, **operands: int) -> Case:
    """A case of a TDCALL."""
    return Case(leaf, (), before=(*before, (enter,)), gpa=gpa, act=tdcall(leaf, **operands))


def aug(gpa_level: int, hpa: int) -> Call:
    return leaves.TDH_MEM_PAGE_AUG, gpa_level, TDR, hpa


def blocked(gpa_level: int) -> tuple[Call, Call]:
    return (leaves.TDH_MEM_RANGE_BLOCK, gpa_level, TDR), (leaves.TDH_MEM_TRACK, TDR)


# --- set-ups ---

# fmt: off
TD, VCPU = {"TDR": small(TDR)}, {"TDVPR": small(TDVPRS[0]), "TDR": small(TDR)}
TD_2, TD_2_PAGE = {"TDR": small(FREE)}, FREE + PAGE_SIZE
CREATED: tuple[Call, ...] = ((leaves.TDH_MNG_CREATE, FREE, 34),)
KEYED = (*CREATED, (leaves.TDH_MNG_KEY_CONFIG, FREE))
WITH_PAGES = (*KEYED, *((leaves.TDH_MNG_ADDCX, FREE + n * PAGE_SIZE, FREE) for n in range(1, 7)))
FLUSHED = (*WITH_PAGES, (leaves.TDH_MNG_VPFLUSHDONE, FREE))
WRITTEN_BACK = (*FLUSHED, (leaves.TDH_PHYMEM_CACHE_WB, 0))
TEARDOWN = (*WRITTEN_BACK, (leaves.TDH_MNG_KEY_FREEID, FREE))
NEW_VCPU: tuple[Call, ...] = ((leaves.TDH_VP_CREATE, FREE, TDR),)
FULL_VCPU = (*NEW_VCPU, *((leaves.TDH_VP_ADDCX, FREE + n * PAGE_SIZE, FREE) for n in range(1, 6)))
VCPU_2 = {"TDVPR": small(FREE), "TDR": small(TDR)}
INITIALISED: tuple[Call, ...] = ((leaves.TDH_SYS_INIT,), (leaves.TDH_SYS_LP_INIT,))
TABLE_2M = leaves.TDH_MEM_SEPT_ADD, GPA_2M, TDR, NEW_TABLE
SMALL = (TABLE_2M, aug(SIZE_2M, FREE), *blocked(SIZE_2M))
LARGE_2M = (aug(GPA_2M, LARGE), *blocked(GPA_2M))
R12, R13 = FREE, FREE + PAGE_SIZE
DEMOTE = leaves.TDH_MEM_PAGE_DEMOTE, GPA_2M, TDR, NEW_TABLE, 0, 0, 0, R12, R13
SPLIT = {**TD, "new page": small(NEW_TABLE), "large page": large(LARGE), "R12 page": small(R12), "R13 page": small(R13)}
DYNAMIC = ("dynamic",)
DEBUG, FULL = Attributes.DEBUG | SEPT_VE_DISABLE, (1 << 64) - 1

CASES = {
    "SYS.INIT": Case(leaves.TDH_SYS_INIT, (), parts=0),
    "SYS.SHUTDOWN": Case(leaves.TDH_SYS_SHUTDOWN, (0,)),
    "SYS.UPDATE": Case(leaves.TDH_SYS_UPDATE, (), before=((leaves.TDH_SYS_SHUTDOWN, 0), (reloaded,), *INITIALISED)),
    "SYS.LP.INIT": Case(leaves.TDH_SYS_LP_INIT, (), before=INITIALISED[:1], parts=0),
    "SYS.CONFIG": Case(leaves.TDH_SYS_CONFIG, (HOST, 1, MODULE_HKID), before=INITIALISED, parts=0),
    "SYS.KEY.CONFIG": Case(leaves.TDH_SYS_KEY_CONFIG, (), before=(*INITIALISED, (leaves.TDH_SYS_CONFIG, HOST, 1, MODULE_HKID)), parts=0),
    "SYS.TDMR.INIT": Case(leaves.TDH_SYS_TDMR_INIT, (BASE,), parts=1),
    "MNG.CREATE": Case(leaves.TDH_MNG_CREATE, (FREE, 34), {"new page": small(FREE)}),
    "MNG.KEY.CONFIG": Case(leaves.TDH_MNG_KEY_CONFIG, (FREE,), TD_2, CREATED),
    "MNG.ADDCX": Case(leaves.TDH_MNG_ADDCX, (TD_2_PAGE, FREE), {**TD_2, "new page": small(TD_2_PAGE)}, KEYED),
    "MNG.INIT": Case(leaves.TDH_MNG_INIT, (FREE, HOST + 2 * PAGE_SIZE), TD_2, WITH_PAGES),
    "MNG.VPFLUSHDONE": Case(leaves.TDH_MNG_VPFLUSHDONE, (FREE,), TD_2, WITH_PAGES),
    "MNG.KEY.FREEID": Case(leaves.TDH_MNG_KEY_FREEID, (FREE,), TD_2, WRITTEN_BACK),
    "MNG.RD": Case(leaves.TDH_MNG_RD, (TDR, BY_NAME["TD_EPOCH"].id), TD),
    "MNG.WR": Case(leaves.TDH_MNG_WR, (TDR, BY_NAME["HP_LOCK_TIMEOUT"].id, 1_000_000, FULL), TD),
    "MR.EXTEND": Case(leaves.TDH_MR_EXTEND, (0, TDR), TD, ((leaves.TDH_MEM_PAGE_ADD, 0, TDR, PAGES, SOURCE),), parts=3),
    "MR.FINALIZE": Case(leaves.TDH_MR_FINALIZE, (TDR,), TD, parts=3),
    "VP.CREATE": Case(leaves.TDH_VP_CREATE, (FREE, TDR), {**TD, "new page": small(FREE)}, parts=3),
    "VP.ADDCX": Case(leaves.TDH_VP_ADDCX, (FREE + PAGE_SIZE, FREE), {**VCPU_2, "new page": small(FREE + PAGE_SIZE)}, NEW_VCPU, parts=3),
    "VP.INIT": Case(leaves.TDH_VP_INIT, (FREE, 0), VCPU_2, FULL_VCPU, parts=3),
    "VP.INIT:1": Case(leaves.TDH_VP_INIT, (FREE, 0, 7), VCPU_2, FULL_VCPU, parts=3, version=1, modes=("1.5.25", "dynamic")),
    "VP.FLUSH": Case(leaves.TDH_VP_FLUSH, (TDVPRS[0],), VCPU),
    "VP.RD": Case(leaves.TDH_VP_RD, (TDVPRS[0], BY_NAME["VCPU_INDEX"].id), VCPU),
    "VP.WR": Case(leaves.TDH_VP_WR, (TDVPRS[0], BY_NAME["RBX"].id, 7, FULL), VCPU, attributes=DEBUG),
    "VP.ENTER": Case(leaves.TDH_VP_ENTER, (TDVPRS[0],), VCPU, act=enter),
    "VP.ENTER, suspected": Case(leaves.TDH_VP_ENTER, (TDVPRS[0],), VCPU, ((suspected,),), where=(SUSPECTED,), act=enter),
    "MEM.SEPT.ADD": Case(*TABLE_2M[:1], TABLE_2M[1:], {**TD, "new page": small(NEW_TABLE)}, gpa=GPA_2M),
    "MEM.SEPT.REMOVE": Case(leaves.TDH_MEM_SEPT_REMOVE, (GPA_2M, TDR), {**TD, "SEPT page": small(NEW_TABLE)}, (TABLE_2M, *blocked(GPA_2M)), GPA_2M),
    "MEM.SEPT.RD": Case(leaves.TDH_MEM_SEPT_RD, (0, TDR), TD),
    "MEM.PAGE.ADD": Case(leaves.TDH_MEM_PAGE_ADD, (GPA_4K, TDR, FREE, SOURCE), {**TD, "new page": small(FREE)}, parts=3),
    "MEM.PAGE.AUG": Case(leaves.TDH_MEM_PAGE_AUG, (GPA_4K, TDR, FREE), {**TD, "new page": small(FREE)}, gpa=GPA_4K),
    "MEM.PAGE.AUG 2M": Case(leaves.TDH_MEM_PAGE_AUG, (GPA_2M, TDR, LARGE), {**TD, "new page": large(LARGE)}, gpa=GPA_2M, ends={"new page": ENDS_AT_2M}, where=(PAGE_2M,)),
    "MEM.PAGE.REMOVE": Case(leaves.TDH_MEM_PAGE_REMOVE, (SIZE_2M, TDR), {**TD, "page": small(FREE)}, SMALL, SIZE_2M),
    "MEM.PAGE.REMOVE 2M": Case(leaves.TDH_MEM_PAGE_REMOVE, (GPA_2M, TDR), {**TD, "page": large(LARGE)}, LARGE_2M, GPA_2M),
    "MEM.PAGE.RELOCATE": Case(leaves.TDH_MEM_PAGE_RELOCATE, (SIZE_2M, TDR, FREE + PAGE_SIZE), {**TD, "old page": small(FREE), "new page": small(FREE + PAGE_SIZE)}, SMALL, SIZE_2M),
    "MEM.PAGE.DEMOTE": Case(*DEMOTE[:1], DEMOTE[1:], SPLIT, LARGE_2M, GPA_2M, where=(SPLIT_2M,)),
    "MEM.PAGE.PROMOTE": Case(leaves.TDH_MEM_PAGE_PROMOTE, (GPA_2M, TDR), {**TD, "SEPT page": small(NEW_TABLE), "large page": large(LARGE)}, (*LARGE_2M, DEMOTE, *blocked(GPA_2M)), GPA_2M),
    "MEM.RANGE.BLOCK": Case(leaves.TDH_MEM_RANGE_BLOCK, (0, TDR), TD),
    "MEM.RANGE.UNBLOCK": Case(leaves.TDH_MEM_RANGE_UNBLOCK, (SIZE_2M, TDR), TD, SMALL, SIZE_2M),
    "MEM.RD": Case(leaves.TDH_MEM_RD, (0, TDR), TD, attributes=DEBUG),
    "MEM.WR": Case(leaves.TDH_MEM_WR, (0, TDR, 7), TD, attributes=DEBUG),
    "MEM.TRACK": Case(leaves.TDH_MEM_TRACK, (TDR,), TD),
    "PHYMEM.PAGE.RDMD": Case(leaves.TDH_PHYMEM_PAGE_RDMD, (PAGES,), {"page": small(PAGES)}),
    "PHYMEM.PAGE.WBINVD": Case(leaves.TDH_PHYMEM_PAGE_WBINVD, (FREE,), {"page": small(FREE)}),
    "PHYMEM.PAGE.RECLAIM": Case(leaves.TDH_PHYMEM_PAGE_RECLAIM, (TD_2_PAGE,), {**TD_2, "page": small(TD_2_PAGE)}, TEARDOWN, where=(NO_TDR,)),
    "PHYMEM.CACHE.WB": Case(leaves.TDH_PHYMEM_CACHE_WB, (0,), before=FLUSHED),
    "PHYMEM.PAMT.ADD": Case(leaves.TDH_PHYMEM_PAMT_ADD, (LARGE | 1, R12, R13), {"range": large(LARGE), "RDX page": small(R12), "R8 page": small(R13)}, where=(IN_ANOTHER_RANGE,), modes=DYNAMIC),
    "PHYMEM.PAMT.ADD, donors without a pair": Case(leaves.TDH_PHYMEM_PAMT_ADD, (LARGE | 1, NO_PAIR, NO_PAIR + PAGE_SIZE), {"range": large(LARGE), "RDX page": small(NO_PAIR), "R8 page": small(NO_PAIR)}, ends=dict.fromkeys(("RDX page", "R8 page"), ""), where=(IN_ANOTHER_RANGE,), modes=DYNAMIC),
    "PHYMEM.PAMT.ADD, donors in the range": Case(leaves.TDH_PHYMEM_PAMT_ADD, (LARGE | 1, LARGE, LARGE + PAGE_SIZE), {"range": large(LARGE)}, modes=DYNAMIC),
    "PHYMEM.PAMT.REMOVE": Case(leaves.TDH_PHYMEM_PAMT_REMOVE, (LARGE | 1,), {"range": large(LARGE)}, ((leaves.TDH_PHYMEM_PAMT_ADD, LARGE | 1, *donors(9)),), modes=DYNAMIC),
    "TDG.MEM.PAGE.ACCEPT": guest(leaves.TDG_MEM_PAGE_ACCEPT, GPA_4K, aug(GPA_4K, FREE), rcx=GPA_4K),
    "TDG.MEM.PAGE.ATTR.RD": guest(leaves.TDG_MEM_PAGE_ATTR_RD, 0, rcx=0),
    "TDG.MEM.PAGE.ATTR.WR": guest(leaves.TDG_MEM_PAGE_ATTR_WR, 0, rcx=0),
    "TDG.MR.RTMR.EXTEND": guest(leaves.TDG_MR_RTMR_EXTEND, 0, rcx=0),
    "TDG.MR.REPORT": guest(leaves.TDG_MR_REPORT, 0, rcx=0x400),
}
# fmt: on


def prepared(case: Case, mode: str) -> Machine:
    """A machine where the call is next."""
    features, dpamt = MODES[mode]
    machine = built(case.attributes, parts=case.parts, features=features, cpus=1, dpamt=dpamt)
    for leaf, *operands in case.before:
        machine.alone(machine.call(leaf, *operands) if isinstance(leaf, Leaf) else leaf(machine))
    return machine
