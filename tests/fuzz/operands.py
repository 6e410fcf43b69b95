"""Operands that make sense at this moment, by their meaning in the leaf's row, and what spoils them."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TypeVar

from tdxlab.module import sept
from tdxlab.module.state import Td, Vcpu
from tdxlab.spec import leaves
from tdxlab.spec.bits import GpaLevel, SysConfig
from tdxlab.spec.fields import FIELDS, NO_FIELD, Context
from tdxlab.spec.leaves import NULL_PA, Leaf
from tdxlab.spec.levels import (
    ENTRIES,
    LEVEL_1G,
    LEVEL_2M,
    LEVEL_4K,
    LEVEL_256T,
    LEVEL_512G,
    PAGE_SIZE,
    SIZE_1G,
    SIZE_2M,
    shift,
    size,
)
from tdxlab.spec.pamt import PT_NDA, PT_RSVD, PT_TDR, PT_TDVPR
from tdxlab.spec.sept import FREE_ENTRY, MAPPED, NL_BLOCKED, NL_MAPPED, RULES
from tdxlab.spec.tdstate import TRACKS_TLB, KeyState, LifeCycle, OpState, VcpuState
from tests.fuzz import machine as at
from tests.fuzz.machine import Machine

T = TypeVar("T")
GPAS = (
    *(region * SIZE_2M + page * PAGE_SIZE for region in range(5) for page in (0, 1, 2, 511)),
    *(SIZE_1G + offset for offset in (0, PAGE_SIZE, SIZE_2M, SIZE_1G - PAGE_SIZE, SIZE_1G)),
    size(LEVEL_512G),
)
TRIES = 12  # to find what the leaf wants
LEVELS = {
    leaves.TDH_MEM_SEPT_ADD: (LEVEL_2M, LEVEL_256T),
    leaves.TDH_MEM_SEPT_REMOVE: (LEVEL_2M, LEVEL_256T),
    leaves.TDH_MEM_PAGE_ADD: (LEVEL_4K, LEVEL_4K),
    leaves.TDH_MEM_PAGE_AUG: (LEVEL_4K, LEVEL_2M),
    leaves.TDH_MEM_PAGE_REMOVE: (LEVEL_4K, LEVEL_1G),
    leaves.TDH_MEM_PAGE_RELOCATE: (LEVEL_4K, LEVEL_4K),
    leaves.TDH_MEM_PAGE_DEMOTE: (LEVEL_2M, LEVEL_1G),
    leaves.TDH_MEM_PAGE_PROMOTE: (LEVEL_2M, LEVEL_1G),
    leaves.TDH_MR_EXTEND: (LEVEL_4K, LEVEL_4K),
    leaves.TDG_MEM_PAGE_ACCEPT: (LEVEL_4K, LEVEL_2M),
}
"""The lowest and the highest that a leaf takes; others take any."""
TABLES, LAST = (NL_MAPPED, NL_BLOCKED), ENTRIES - 1
HAVE_RULES = {leaf for leaf, _ in RULES}
CONTEXTS = {"TDH.SYS": Context.SYS, "TDG.SYS": Context.SYS, "TDH.MNG": Context.TD, "TDG.VM.": Context.TD}


def happens(dice: Random, share: float) -> bool:
    """Does what happens so often happen now?  (Not where the dice show 0, which is what hypothesis shrinks to.)"""
    return dice.random() >= 1 - share


class Draw:
    """The operands of one call on LP `cpu`: whose, then where, then each register by its meaning.

    td: the TD at `tdr`, where there may be none now.  beside: GPA and level that another call is at.  fits: is there an
    entry, or a vCPU, for the leaf?
    """

    def __init__(
        self, machine: Machine, dice: Random, leaf: Leaf, cpu: int, tdr: int, beside: int | None = None
    ) -> None:
        self.machine, self.dice, self.leaf, self.cpu, self.tdr = machine, dice, leaf, cpu, tdr
        self.version = dice.randrange(leaf.versions + 1)
        self.td: Td = machine.module.tds[tdr]
        self.gpa = self.level = 0
        self.vcpu, self.fits = tdr + 0x1_0000, True
        if beside is not None:
            self.gpa, self.level = beside & GpaLevel.GPA, beside & GpaLevel.LEVEL
        elif leaf in HAVE_RULES or leaf.side == "guest":
            self.gpa, self.level = self.where()
        if leaf in HAVE_RULES:
            self.fits = self.suits((self.gpa, self.level))
        elif leaf.name.startswith("TDH.VP."):
            self.vcpu = self.found(lambda: tdr + dice.randrange(1, 4) * 0x1_0000, self.ready)
            self.fits = self.ready(self.vcpu)
        self.entry = self.walk(self.gpa, self.level)

    def registers(self) -> dict[str, int]:
        """A value for each operand."""
        return {register: MEANINGS[meaning](self) for register, meaning in self.leaf.operands}

    # --- choices ---

    def one_in(self, n: int) -> bool:
        """Once in so many times, and not where the dice show 0."""
        return self.dice.randrange(n) == n - 1

    def found(self, make: Callable[[], T], good: Callable[[T], bool]) -> T:
        """The first good one of some tries, or the last."""
        for _ in range(TRIES):
            made = make()
            if good(made):
                break
        return made

    def walk(self, gpa: int, level: int) -> sept.Entry | None:
        """The entry where a walk to `level` ends, if the TD has a tree."""
        if self.td.op_state is OpState.UNINITIALIZED or level > self.td.top_level:
            return None
        return sept.walk(self.machine.memory, self.td, gpa, level, [])

    def where(self) -> tuple[int, int]:
        """A GPA and level whose entry is in a state that the leaf wants."""

        def somewhere() -> tuple[int, int]:
            gpa, level = self.dice.choice(GPAS), self.dice.choice((LEVEL_4K, LEVEL_4K, LEVEL_2M, LEVEL_2M, LEVEL_1G))
            end = self.walk(gpa, LEVEL_4K)
            if end and not self.one_in(10):
                level = end.level + self.one_in(5) * (end.level < self.td.top_level)
            return gpa & -size(level), level

        return self.found(somewhere, self.suits)

    def suits(self, where: tuple[int, int]) -> bool:
        """Is there what the leaf wants: by its rules, or else something that the guest can use?"""
        gpa, level = where
        entry = self.walk(gpa, level)
        low, high = LEVELS.get(self.leaf, (LEVEL_4K, LEVEL_256T))
        if entry is None or entry.level != level or not low <= level <= high:
            return False
        if self.leaf not in HAVE_RULES:
            return entry.state is MAPPED
        rule = RULES.get((self.leaf, entry.state))
        if rule is None or (entry.state in TABLES and not self.wanted(entry)):
            return False
        return not rule.needs or self.td.op_state not in TRACKS_TLB or entry.state.blocked

    def wanted(self, entry: sept.Entry) -> bool:
        """An empty table can be removed, one with 512 pages alike can become one; others are seldom blocked."""
        table, page = self.machine.memory.sept_page(entry.hpa), size(entry.level - 1)
        empty, alike = table.count(FREE_ENTRY) == ENTRIES, table[LAST] - table[0] == LAST * page
        seldom = self.one_in(6 if entry.level == LEVEL_2M else 40)
        wants = {leaves.TDH_MEM_SEPT_REMOVE: empty, leaves.TDH_MEM_PAGE_PROMOTE: alike}
        return seldom or wants.get(self.leaf, empty or alike or self.leaf is not leaves.TDH_MEM_RANGE_BLOCK)

    def private(self) -> int:
        """A private GPA, seldom a shared one."""
        return self.gpa | (self.one_in(12) and self.td.shared_bit)

    def free(self) -> int:
        """A 4K page that nobody uses, seldom in a range of which no other page is used."""
        return self.one_of(at.LONE if self.one_in(8) else at.SMALL)

    def one_of(self, pages: tuple[int, ...]) -> int:
        """One of these pages that nobody uses."""
        return self.found(lambda: self.dice.choice(pages), self.machine.free)

    def large(self) -> int:
        """A 2M page that nobody uses; small pages in it may be in use."""
        pages, pamt = at.RANGES if self.one_in(4) else at.LARGE, self.machine.module.pamt
        return self.found(lambda: self.dice.choice(pages), lambda hpa: pamt.page(hpa, LEVEL_2M).read().type is PT_NDA)

    def new_table(self) -> int:
        """A page for the Secure EPT, or none where one is there already and L2 VMs can get theirs."""
        there = self.version and self.entry and self.entry.state is NL_MAPPED
        return NULL_PA if there else self.free()

    def to_reclaim(self) -> int:
        """A page of the TD that its teardown has left."""
        pages = self.near() if self.td.lifecycle is LifeCycle.TEARDOWN else ()
        return self.dice.choice([hpa for hpa in pages if self.to_be_reclaimed(hpa)] or [self.any_page()])

    def to_be_reclaimed(self, hpa: int) -> bool:
        """Is it a page of a TD in teardown, the TDR only when it is the last one?"""
        page = self.machine.page(hpa)
        if page is None or not page.type or hpa % size(page.level) or page.type is PT_RSVD:
            return False
        td = self.machine.module.tds[hpa if page.type is PT_TDR else page.owner]
        return td.lifecycle is LifeCycle.TEARDOWN and not (page.type is PT_TDR and td.chldcnt)

    def near(self) -> tuple[int, ...]:
        """Pages that the TD can have."""
        return (*(self.tdr + n * PAGE_SIZE for n in range(64)), *at.SMALL, *at.LARGE, at.HUGE)

    def any_page(self) -> int:
        """A page that a TD may have."""
        near = self.tdr + self.dice.randrange(64) * PAGE_SIZE
        mapped = self.entry.hpa if self.entry else at.HUGE
        return self.pick(near, near, self.dice.choice(at.SMALL), self.dice.choice(at.LARGE), mapped)

    def l2_page(self, vm: int) -> int:
        """A page for an L2 VM, of version 1."""
        there = vm <= self.td.num_l2_vms
        return self.free() if self.version and there and not self.one_in(3) else NULL_PA

    def ready(self, tdvpr: int) -> bool:
        """Is it a vCPU that the leaf can use from this LP?"""
        if self.leaf is leaves.TDH_VP_CREATE:
            return self.machine.free(tdvpr)
        vcpu: Vcpu = self.machine.module.vcpus[tdvpr]
        if self.machine.use(tdvpr) is not PT_TDVPR or vcpu.assoc_lp not in (None, self.cpu):
            return False
        if self.leaf in (leaves.TDH_VP_ADDCX, leaves.TDH_VP_INIT):
            enough = vcpu.tdcx >= 5 + 3 * self.td.num_l2_vms
            return vcpu.state is VcpuState.UNINITIALIZED and enough == (self.leaf is leaves.TDH_VP_INIT)
        return vcpu.state is VcpuState.READY

    def field(self) -> int:
        """The id of a field; for a leaf that writes mostly one that somebody can write."""
        rows = FIELDS[CONTEXTS.get(self.leaf.name[:7], Context.VP)]
        if self.leaf.name.endswith(".WR") and not self.one_in(4):
            rows = [row for row in rows if row.writers]
        return self.dice.choice([row.id for row in rows] + [NO_FIELD])

    def hkid(self) -> int:
        """One that no TD has."""
        kot = self.machine.module.kot
        return self.found(lambda: self.dice.choice(at.HKIDS), lambda hkid: kot[hkid] is KeyState.HKID_FREE)

    def donor(self) -> int:
        """A page that is to become a PAMT page; seldom one in use."""
        if self.one_in(20):
            return self.any_page()
        return self.found(lambda: self.dice.choice(at.SPARE), lambda hpa: not self.machine.module.pamt.serves(hpa))

    def range_2m(self) -> int:
        """A 2M range: without a pair for PAMT.ADD, with one that is hardly used for PAMT.REMOVE."""
        pamt, remove = self.machine.module.pamt, self.leaf is leaves.TDH_PHYMEM_PAMT_REMOVE

        def good(hpa: int) -> bool:
            return (pamt.pair(hpa) is not None) == remove and pamt.counts[hpa >> shift(LEVEL_2M)] <= remove

        return self.found(lambda: self.dice.choice(at.RANGES), good) | LEVEL_2M

    def pick(self, *values: int) -> int:
        """Any of them."""
        return self.dice.choice(values)


# fmt: off
PAGES: dict[Leaf, Callable[[Draw], int]] = {
    leaves.TDH_MEM_PAGE_AUG:        lambda d: d.large() if d.level == LEVEL_2M else d.free(),
    leaves.TDH_MEM_SEPT_ADD:        Draw.new_table,
    leaves.TDH_MNG_ADDCX:           lambda d: d.one_of(tuple(d.tdr + n * PAGE_SIZE for n in range(1, 12))),
    leaves.TDH_VP_ADDCX:            lambda d: d.one_of(tuple(d.tdr + n * PAGE_SIZE for n in range(17, 64))),
    leaves.TDH_PHYMEM_PAGE_RDMD:    lambda d: d.any_page() | d.pick(0, 0, 0, 1, 2),
    leaves.TDH_PHYMEM_PAGE_RECLAIM: Draw.to_reclaim,
    leaves.TDH_PHYMEM_PAGE_WBINVD:  lambda d: d.free() | d.pick(0, 33, 63) << d.machine.memory.hkid_start,
}
"""What some leaves call a page; for the others it is a free one."""

MEANINGS: dict[str, Callable[[Draw], int]] = {
    "tdr":             lambda d: d.one_of(at.TDRS) if d.leaf is leaves.TDH_MNG_CREATE else d.tdr,
    "tdr_flags":       lambda d: d.tdr | d.one_in(2),
    "tdvpr":           lambda d: d.vcpu,
    "tdvpr_flags":     lambda d: d.vcpu | d.one_in(25) << 52 | d.one_in(30) << 53,
    "page":            lambda d: PAGES.get(d.leaf, Draw.free)(d),
    "gpa_level":       lambda d: d.gpa | d.level,
    "gpa":             lambda d: d.gpa + d.pick(0, 8, 0x100, 0x40, 0xF00),
    "report_gpa":      lambda d: d.private() + d.pick(0, 0x400),
    "data_gpa":        lambda d: d.private() + d.pick(0, 0x40),
    "source":          lambda d: at.SOURCE,
    "l2_page_1":       lambda d: d.l2_page(1),
    "l2_page_2":       lambda d: d.l2_page(2),
    "l2_page_3":       lambda d: d.l2_page(3),
    "pamt_page_0":     Draw.donor,
    "pamt_page_1":     Draw.donor,
    "page_0":          Draw.donor,
    "page_1":          Draw.donor,
    "hpa_level":       Draw.range_2m,
    "hkid":            Draw.hkid,
    "td_params":       lambda d: at.parameters(d.pick(0, 1, 2, 3, d.dice.randrange(len(at.PARAMETERS)))),
    "guest_rcx":       lambda d: d.dice.getrandbits(64),
    "x2apic_id":       lambda d: d.pick(0, 1, 2, 3, 1 << 32),
    "field":           Draw.field,
    "data":            lambda d: d.pick(0, 1, 20_000, d.dice.getrandbits(64)),
    "mask":            lambda d: d.pick(1, NO_FIELD, NO_FIELD, d.dice.getrandbits(64)),
    "resume":          lambda d: d.pick(0, 1),
    "base":            lambda d: d.pick(*at.TDMRS),
    "attributes":      lambda d: d.pick(0, 0, 0x8000_0000 | d.dice.getrandbits(12) << 16) * (d.leaf.side == "guest"),
    "flags":           lambda d: d.pick(0, 0, 0xFFF_0000),
    "buffer":          lambda d: d.private() if d.leaf.side == "guest" else at.BUFFER,
    "cmr_buffer":      lambda d: at.BUFFER + PAGE_SIZE,
    "size":            lambda d: d.pick(1024, 4096),
    "cmr_count":       lambda d: d.pick(32, 33),
    "tdmr_info_array": lambda d: at.HOST,
    "count":           lambda d: len(at.TDMRS),
    "hkid_flags":      lambda d: at.MODULE_HKID | SysConfig.DYNAMIC_PAMT * d.machine.kind.dynamic,
    "handoff_version": lambda d: d.pick(0, 0, 1 << 16),
    "register_bitmap": lambda d: d.dice.getrandbits(16) & ~0b10011,
    "index":           lambda d: d.dice.randrange(5),
    "subtype":         lambda d: d.pick(0, 0, 0, 1),
    "control":         lambda d: d.dice.randrange(4),
    "td":              lambda d: 0,
    "vcpu":            lambda d: 0,
}
"""{what a row calls an operand: a value that may do}"""

CORRUPTIONS: tuple[Callable[[int, Random], int], ...] = (
    lambda value, dice: value ^ 1 << dice.randrange(12),    # misaligned, another level, another flag
    lambda value, dice: value | dice.choice((33, 63)) << 46,  # an HKID
    lambda value, dice: value | 1 << dice.randrange(52, 64),  # reserved, beyond MAXPA
    lambda value, dice: value | 1 << dice.choice((47, 48, 51)),  # the SHARED bit, beyond GPAW
    lambda value, dice: value & -8 | dice.randrange(8),     # a level
    lambda value, dice: value ^ 1 << dice.randrange(12, 32),  # a page near by
    lambda value, dice: dice.getrandbits(64),
    lambda value, dice: dice.choice((0, NULL_PA, 1)),
    lambda value, dice: dice.choice(at.TDRS),
    lambda value, dice: dice.choice(at.TDRS) + 0x1_0000,
    lambda value, dice: dice.choice(at.SMALL),
    lambda value, dice: dice.choice(at.SPARE),
    lambda value, dice: dice.choice(at.RANGES),
    lambda value, dice: dice.choice((at.HOST, at.HUGE, at.RESERVED + PAGE_SIZE)),
    lambda value, dice: at.NOT_READY + dice.choice((0, PAGE_SIZE, SIZE_2M)),
)
IN_TDMR_INFO: tuple[Callable[[int, Random], int], ...] = (
    lambda word, dice: word ^ 1 << dice.randrange(64),
    lambda word, dice: word + dice.choice((-1, 1)) * dice.choice((PAGE_SIZE, SIZE_2M, SIZE_1G)),
    lambda word, dice: dice.choice((0, PAGE_SIZE, SIZE_2M, SIZE_1G, 1 << 46, NULL_PA)),
    lambda word, dice: dice.choice((*at.TDMRS, at.PAMTS, at.PAMTS + 0x100_0000, at.HOST, at.RESERVED)),
)
"""The host can get it wrong."""
# fmt: on


def tdmrs(dice: Random, spoilt: int) -> tuple[list[int], list[list[int]]]:
    """Pointers to TDMR_INFOs and the words of each: as they should be, but for so many words."""
    pointers, infos = [*at.INFOS], [at.tdmr_info(n) for n in range(len(at.INFOS))]
    for _ in range(spoilt):
        words = dice.choice((pointers, *infos, *infos))
        n = dice.randrange(len(words))
        words[n] = dice.choice(IN_TDMR_INFO)(words[n], dice) % (1 << 64)
    return pointers, infos


def corrupted(registers: dict[str, int], dice: Random) -> dict[str, int]:
    """The same operands, one of them spoilt."""
    if not registers:
        return registers
    register = dice.choice(sorted(registers))
    return registers | {register: dice.choice(CORRUPTIONS)(registers[register], dice)}
