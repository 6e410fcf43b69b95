"""The machines that are fuzzed: what lies where in their memory, and the SEAMCALLs that set them up."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tdxlab.engine.cells import Journal
from tdxlab.engine.drive import alone
from tdxlab.hw import cpu as hw
from tdxlab.hw.memory import Memory
from tdxlab.hw.platform import Platform
from tdxlab.module import TdxModule
from tdxlab.module.pamt import PamtPage
from tdxlab.spec import leaves
from tdxlab.spec.bits import SysConfig
from tdxlab.spec.features import BLOCKLESS, V1_5_01, V1_5_25, V1_5_28, ModuleFeatures
from tdxlab.spec.fields import Attributes
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.levels import LEVEL_1G, LEVEL_2M, LEVEL_4K, PAGE_SIZE, SIZE_1G, SIZE_2M, size
from tdxlab.spec.pamt import PT_NDA, PT_PAMT, PageType

if TYPE_CHECKING:
    from tests.fuzz.in_progress import InProgress

LPS = 3
BASE = 4 * SIZE_1G
PAMTS, HOST = BASE + SIZE_1G, BASE + SIZE_1G + SIZE_1G // 2  # behind the first TDMR: no TD's memory
TDMRS = BASE, BASE + 2 * SIZE_1G, BASE + 3 * SIZE_1G
HUGE, NOT_READY = TDMRS[1:]  # a page of 1G; a TDMR whose PAMT is never complete
CMRS = ((BASE, 4 * SIZE_1G),)
INFOS = tuple(HOST + 0x1000 + n * 512 for n in range(len(TDMRS)))
RESERVED = BASE + SIZE_2M

TDRS = tuple(BASE + 0x4_0000 * n for n in range(1, 5))
"""Where TDs begin.  A TD's control pages follow its TDR, and each of its vCPUs begins 64K behind the one before."""
TABLES, PAGES = BASE + 8 * SIZE_2M, BASE + 16 * SIZE_2M
LARGE = tuple(BASE + (64 + n) * SIZE_2M for n in range(6))
DONORS = BASE + 256 * SIZE_2M
SMALL = tuple(start + n * PAGE_SIZE for start in (TABLES, PAGES) for n in range(96))
LONE = LARGE[3:]  # used as 4K pages too
RANGES = (BASE, TABLES, PAGES, *LARGE, DONORS, RESERVED)
SPARE = tuple(DONORS + n * PAGE_SIZE for n in range(64))  # for the PAMT

MODULE_HKID, HKIDS = 32, (33, 34, 35, 36)
SOURCE, BUFFER = HOST + 0x10_0000, HOST + 0x20_0000
TD_PARAMS = struct.Struct("<QQHBB4sQQH")
FIVE_LEVELS, FOUR_LEVELS = 0x26, 0x1E
VE_OFF, DEBUG = Attributes.SEPT_VE_DISABLE, Attributes.DEBUG
# ATTRIBUTES, XFAM, MAX_VCPUS, NUM_L2_VMS, EPTP_CONTROLS, CONFIG_FLAGS, TSC_FREQUENCY: four good ones, then bad ones
# fmt: off
PARAMETERS = (
    (DEBUG | VE_OFF, 0xE7, 4, 0, FOUR_LEVELS, 0, 40),
    (DEBUG,          0x03, 3, 1, FOUR_LEVELS, 2, 40),
    (0,              0xE7, 2, 3, FIVE_LEVELS, 1, 40),
    (VE_OFF,         0xE7, 9, 0, FIVE_LEVELS, 0, 40),
    (2,              0xE7, 4, 0, FOUR_LEVELS, 0, 40),
    (0,              0xE4, 4, 0, FOUR_LEVELS, 0, 40),
    (0,              0xE7, 0, 0, FOUR_LEVELS, 0, 40),
    (0,              0xE7, 4, 4, FOUR_LEVELS, 0, 40),
    (0,              0xE7, 4, 0, FOUR_LEVELS, 1, 40),
    (0,              0xE7, 4, 0, FOUR_LEVELS, 32, 40),
    (0,              0xE7, 4, 0, FOUR_LEVELS, 0, 3),
)
# fmt: on


def parameters(n: int) -> int:
    """HPA of the nth TD_PARAMS."""
    return HOST + 0x2000 + n * PAGE_SIZE


def tdmr_info(n: int) -> list[int]:
    """The words of the nth TDMR_INFO, with room for three reserved areas; the first TDMR has one."""
    pamt = PAMTS + n * 0x100_0000
    areas = pamt, 0x1000, pamt + 0x1000, 0x2000, pamt + 0x4000, 0x40_0000
    reserved = [RESERVED - BASE, SIZE_2M] if n == 0 else [0, 0]
    return [TDMRS[n], SIZE_1G, *areas, *reserved, 0, 0, 0, 0]


@dataclass(frozen=True)
class Kind:
    """A kind of module."""

    features: ModuleFeatures
    dynamic: bool = False


KINDS = {
    "1.5.01": Kind(V1_5_01),
    "1.5.25": Kind(V1_5_25),
    "1.5.25 with Dynamic PAMT": Kind(V1_5_25, dynamic=True),
    "1.5.28": Kind(V1_5_28),
    "blockless with Dynamic PAMT": Kind(BLOCKLESS, dynamic=True),
}


class Cpu(hw.Cpu):
    """Its time goes on by 0.1 s whenever somebody looks at it."""

    __slots__ = ("ticks",)

    def tsc(self) -> int:
        self.ticks = getattr(self, "ticks", 0) + 200_000_000
        return self.ticks


class Machine:
    """Two TDs: one that may run, with pages of all sizes, and one that is being built, with an L2 VM.

    in_vain: what each vCPU does again when it can.  configured: without it the set-up ends before TDH.SYS.CONFIG.
    """

    def __init__(self, name: str, *, configured: bool = True) -> None:
        self.name, self.kind = name, KINDS[name]
        self.journal = Journal()
        self.memory = Memory(self.journal, Platform(cmrs=CMRS, lps=LPS, wb_sub_blocks=2))
        self.module = TdxModule(self.memory, self.kind.features)
        self.cpus = [Cpu(n, self.memory, self.module, "lock") for n in range(LPS)]
        self.in_vain: dict[int, Callable[[Machine, int], InProgress]] = {}
        self.write_parameters()
        self.call(leaves.TDH_SYS_INIT)
        for cpu in range(LPS):
            self.call(leaves.TDH_SYS_LP_INIT, cpu=cpu)
        for leaf, *operands in set_up(self.kind.dynamic) if configured else ():
            self.call(leaf, *operands)
        self.mark = self.journal.mark()

    def call(self, leaf: Leaf, *operands: int, cpu: int = 0) -> None:
        """A SEAMCALL that must succeed."""
        named: dict[str, Any] = dict(zip(leaf.registers, operands, strict=False))
        regs = alone(self.journal, self.cpus[cpu].seamcall(leaf, **named), cpu)
        assert regs.rax == 0, f"{leaf} gave {regs.status}"

    def restart(self) -> None:
        """Back to the set-up."""
        self.journal.rewind(self.mark)
        self.in_vain.clear()

    def write_parameters(self) -> None:
        """What the host tells in memory: TDMR_INFOs, TD_PARAMS; and what it does not care about."""
        self.tell_tdmrs(INFOS, [tdmr_info(n) for n in range(len(TDMRS))])
        for n, (attributes, xfam, vcpus, l2_vms, eptp, flags, tsc) in enumerate(PARAMETERS):
            packed = TD_PARAMS.pack(attributes, xfam, vcpus, l2_vms, 0, bytes(4), eptp, flags, tsc)
            self.memory.write(parameters(n), packed)
        for hpa in (*SMALL, *LARGE):
            self.memory.write(hpa, b"left behind")

    def tell_tdmrs(self, pointers: Sequence[int], infos: Sequence[Sequence[int]]) -> None:
        """TDMR_INFOs, each where it belongs, and the pointers by which the module is to find them."""
        self.memory.write(HOST, struct.pack(f"<{len(pointers)}Q", *pointers))
        for at, words in zip(INFOS, infos, strict=True):
            self.memory.write(at, struct.pack(f"<{len(words)}Q", *words))

    # --- what a page is used for, as an onlooker sees it ---

    def use(self, hpa: int) -> PageType | None:
        """What a 4K page is used for; None where there are no such entries."""
        pamt = self.module.pamt
        return None if pamt.lock_of(hpa) is None else pamt.page(hpa, LEVEL_4K).read().type

    def page(self, hpa: int) -> PamtPage | None:
        """The PAMT entry of the page that `hpa` lies in, of whatever size."""
        pamt = self.module.pamt
        for level in (LEVEL_1G, LEVEL_2M):
            page = pamt.page(hpa, level).read()
            if page.type not in (PT_NDA, PT_PAMT):
                return page
        return None if pamt.lock_of(hpa) is None else pamt.page(hpa, LEVEL_4K).read()

    def pages(self, hpa: int, level: int) -> Iterator[PamtPage | None]:
        """The PAMT entries of what lies in the large page at `hpa`: its own, or those of smaller pages."""
        at = hpa
        while at < hpa + size(level):
            page = self.page(at)
            yield page
            at += size(page.level if page else LEVEL_4K)

    def free(self, hpa: int) -> bool:
        """Can a TD get the page?"""
        return self.use(hpa) is PT_NDA and not self.module.pamt.serves(hpa)


def set_up(dynamic: bool) -> Iterator[tuple[Any, ...]]:
    """The calls on LP 0, from TDH.SYS.CONFIG on."""
    yield leaves.TDH_SYS_CONFIG, HOST, len(TDMRS), MODULE_HKID | SysConfig.DYNAMIC_PAMT * dynamic
    yield (leaves.TDH_SYS_KEY_CONFIG,)
    for base in (BASE, HUGE):
        yield from ((leaves.TDH_SYS_TDMR_INIT, base) for _ in range(SIZE_1G >> (24 if dynamic else 22)))
    if dynamic:
        spare = iter(SPARE)
        yield from ((leaves.TDH_PHYMEM_PAMT_ADD, at | 1, next(spare), next(spare)) for at in (BASE, TABLES, PAGES))
    yield from td(TDRS[0], HKIDS[0], 0, 2, TABLES)
    yield leaves.TDH_MEM_PAGE_ADD, 0, TDRS[0], PAGES, SOURCE
    yield leaves.TDH_MEM_SEPT_ADD, SIZE_1G | LEVEL_1G, TDRS[0], TABLES + 5 * PAGE_SIZE
    for offset in range(0, SIZE_1G, SIZE_2M):
        yield leaves.TDH_MEM_PAGE_AUG, SIZE_1G + offset | LEVEL_2M, TDRS[0], HUGE + offset
    yield leaves.TDH_MEM_PAGE_PROMOTE, SIZE_1G | LEVEL_1G, TDRS[0]
    yield leaves.TDH_MR_FINALIZE, TDRS[0]
    yield leaves.TDH_MEM_PAGE_AUG, SIZE_2M | LEVEL_2M, TDRS[0], LARGE[0]
    yield from td(TDRS[1], HKIDS[1], 1, 1, TABLES + 16 * PAGE_SIZE)


def td(tdr: int, hkid: int, variant: int, vcpus: int, tables: int) -> Iterator[tuple[Any, ...]]:
    """A TD up to its page tables for GPA 0 to 2M."""
    l2_vms, levels = PARAMETERS[variant][3], 4 if PARAMETERS[variant][4] == FIVE_LEVELS else 3
    yield leaves.TDH_MNG_CREATE, tdr, hkid
    yield leaves.TDH_MNG_KEY_CONFIG, tdr
    yield from ((leaves.TDH_MNG_ADDCX, tdr + n * PAGE_SIZE, tdr) for n in range(1, 7 + l2_vms))
    yield leaves.TDH_MNG_INIT, tdr, parameters(variant)
    for n in range(1, vcpus + 1):
        tdvpr = tdr + 0x1_0000 * n
        yield leaves.TDH_VP_CREATE, tdvpr, tdr
        yield from ((leaves.TDH_VP_ADDCX, tdvpr + m * PAGE_SIZE, tdvpr) for m in range(1, 6 + 3 * l2_vms))
        yield leaves.TDH_VP_INIT, tdvpr, 0
    yield from ((leaves.TDH_MEM_SEPT_ADD, n, tdr, tables + n * PAGE_SIZE) for n in range(levels, 0, -1))
