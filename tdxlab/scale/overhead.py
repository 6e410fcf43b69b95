"""How much memory TDX takes of a host: static PAMT or Dynamic PAMT, and what TDs take besides.

    overhead(ram="1T", tds="16Gx10", huge_share=0.9).dynamic["pairs"]

Closed forms in whole bytes.  P is the memory in the TDMR, M that of a TD, s the share of it that is mapped at 2M:

    static PAMT     16 bytes for each page of P, at 4K, 2M and 1G
    Dynamic PAMT    a bit for each 4K page, 16 bytes at 2M and 1G, a count for each 2M range, two pages for each in use,
                    and the pages that vCPUs keep ready for such pairs
    tables of a TD  (1-s) M/2M + M/1G + M/512G, each rounded up; the S-EPT's root is a control page
    4K pages, n     (1-s) M/4K + tables of the S-EPT + control pages, over all TDs
    ranges in use   n/512 where pages lie side by side, f times as many where not, or what is expected by chance

Where pages lie is up to the host's allocator, and an assumption here.  Chance puts each page into any range, whatever
lies there already; that a range can be full makes less than a thousandth.
Left out: holes in memory, and TDMRs beyond the first, each of which rounds its 1G level up to a page; holes in a TD's
memory; the EPT for shared memory; headers of KVM's tables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from tdxlab.host.dpamt.pair import TDX_DPAMT_ENTRY_PAGE_CNT
from tdxlab.host.dpamt.refcount import around_tdmrs, up_to_max_pfn
from tdxlab.host.dpamt.refcount import nbytes as table_bytes
from tdxlab.kvm.memory_cache import KVM_ARCH_NR_OBJS_PER_MEMORY_CACHE
from tdxlab.kvm.pamt_cache import PAMT_PAGES
from tdxlab.kvm.tdx_build import TDCS_PAGES, TDVPS_PAGES
from tdxlab.lab import PRIVATE_GPAS, nbytes
from tdxlab.module.td_params import MAX_VCPUS_PER_TD
from tdxlab.spec.levels import ENTRIES, LEVEL_512G, PAGE_SHIFT, PAGE_SIZE, SIZE_1G, SIZE_2M, SIZE_4K, size
from tdxlab.spec.pamt import ENTRY_BYTES

MAX_PA = 1 << 52
RANDOM = "random"
Number = str | int | float

# fmt: off
WHAT = {
    "pamt_1g":      "PAMT entries for 1G pages",
    "pamt_2m":      "PAMT entries for 2M pages",
    "pamt_4k":      "PAMT entries for 4K pages",
    "bitmap":       "a bit for each 4K page",
    "refcounts":    "the host's count for each 2M range",
    "pairs":        "PAMT page pairs of the 2M ranges in use at 4K",
    "sept":         "tables of the S-EPT",
    "mirror":       "KVM's mirror of them",
    "pamt_caches":  "pages that vCPUs keep ready for pairs, at most",
    "control":      "control pages of TDs and vCPUs",
    "table_caches": "pages that vCPUs keep ready for tables, at most",
}
"""The parts of an overhead."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the module's metadata and the kernel's sources say.  Other numbers are what-ifs."""

    entry_bytes: int = ENTRY_BYTES              # PAMT_4K_ENTRY_SIZE and its like  [S01:pamt_manager.h]
    bits_a_page: int = 1                        # PAMT_PAGE_BITMAP_ENTRY_BITS  [S25:pamt_manager.h]
    pair_pages: int = TDX_DPAMT_ENTRY_PAGE_CNT  # for 512 entries; DPAMT v3 to v6
    td_pages: int = 1 + TDCS_PAGES              # TDR and TDCS
    vcpu_pages: int = TDVPS_PAGES               # TDVPR and TDCXs
    table_cache: int = 2 * KVM_ARCH_NR_OBJS_PER_MEMORY_CACHE  # a vCPU's, for mirror and S-EPT
    pamt_cache: int = PAMT_PAGES                # a vCPU's; DPAMT v6, with 40 in v1 and v2
# fmt: on


KNOWN = Sizes()


@dataclass(frozen=True, slots=True)
class Tds:
    """So many TDs of one size in bytes."""

    memory: int
    count: int

    def small(self, huge_share: Fraction) -> int:
        """Of each: the bytes that are not mapped at 2M."""
        return self.memory - round(huge_share * (self.memory // SIZE_2M)) * SIZE_2M

    def tables(self, huge_share: Fraction) -> int:
        """Of each: the tables without the root."""
        above = (SIZE_1G, size(LEVEL_512G))
        return -(-self.small(huge_share) // SIZE_2M) + sum(-(-self.memory // covers) for covers in above)


@dataclass(frozen=True, slots=True)
class Overhead:
    """A host with one TDMR from address 0 to `ram`, and its TDs; all parts are bytes by name.

    max_pa: None where the counts are a sparse array, as in DPAMT v2 to v5; else they are one up to there, as in v6.
    vcpus: of each TD.
    """

    ram: int
    tds: tuple[Tds, ...]
    max_pa: int | None
    huge_share: Fraction
    fragmentation: Fraction | str
    vcpus: int
    sizes: Sizes

    @property
    def static(self) -> dict[str, int]:
        """Static PAMT: all of it from the start, whether there are TDs or not."""
        entry = self.sizes.entry_bytes
        levels = {"pamt_1g": SIZE_1G, "pamt_2m": SIZE_2M, "pamt_4k": SIZE_4K}
        return {name: _whole_pages(self.ram // covers * entry) for name, covers in levels.items()}

    @property
    def fixed(self) -> dict[str, int]:
        """What Dynamic PAMT takes from the start."""
        large = {name: self.static[name] for name in ("pamt_1g", "pamt_2m")}
        bitmap = _whole_pages(self.ram // SIZE_4K * self.sizes.bits_a_page // 8)
        return {**large, "bitmap": bitmap, "refcounts": self._refcounts}

    @property
    def _refcounts(self) -> int:
        tdmrs = [(0, self.ram)]
        if self.max_pa is None:
            return table_bytes(around_tdmrs(tdmrs, self.ram >> PAGE_SHIFT))
        return table_bytes(up_to_max_pfn(tdmrs, self.max_pa >> PAGE_SHIFT))

    @property
    def installed(self) -> dict[str, int]:
        """Dynamic PAMT with these TDs, while no vCPU keeps pages ready."""
        return {**self.fixed, "pairs": self.in_use * self._pair}

    @property
    def dynamic(self) -> dict[str, int]:
        """Dynamic PAMT with these TDs and full caches."""
        return {**self.installed, "pamt_caches": self._vcpus * self.sizes.pamt_cache * PAGE_SIZE}

    @property
    def _pair(self) -> int:
        return self.sizes.pair_pages * PAGE_SIZE

    @property
    def besides(self) -> dict[str, int]:
        """What TDs take besides, the same with either PAMT."""
        pages = {
            "sept": self._tables,
            "mirror": self._tables + self._count,
            "control": self._control,
            "table_caches": self._vcpus * self.sizes.table_cache,
        }
        return {name: n * PAGE_SIZE for name, n in pages.items()}

    @property
    def totals(self) -> dict[str, int]:
        """All that TDX takes, with one PAMT and with the other."""
        besides = sum(self.besides.values())
        return {"static": sum(self.static.values()) + besides, "dpamt": sum(self.dynamic.values()) + besides}

    @property
    def fits(self) -> dict[str, bool]:
        """Do the TDs fit into memory beside all that?"""
        return {name: self.guests + taken <= self.ram for name, taken in self.totals.items()}

    @property
    def guests(self) -> int:
        """Memory of all TDs, in bytes."""
        return sum(tds.memory * tds.count for tds in self.tds)

    @property
    def _count(self) -> int:
        return sum(tds.count for tds in self.tds)

    @property
    def _vcpus(self) -> int:
        return self._count * self.vcpus

    @property
    def _tables(self) -> int:
        return sum(tds.count * tds.tables(self.huge_share) for tds in self.tds)

    @property
    def _control(self) -> int:
        return self._count * self.sizes.td_pages + self._vcpus * self.sizes.vcpu_pages

    @property
    def pages(self) -> int:
        """4K pages that the module has of all TDs: each needs a pair for its 2M range."""
        guests = sum(tds.count * tds.small(self.huge_share) for tds in self.tds)
        return guests // SIZE_4K + self._tables + self._control

    @property
    def ranges(self) -> int:
        """2M ranges of memory."""
        return self.ram // SIZE_2M

    @property
    def in_use(self) -> int:
        """2M ranges in which those pages lie: none of those that are mapped at 2M."""
        room = self.room
        if self.fragmentation == RANDOM:
            drawn = -room * math.expm1(self.pages * math.log1p(-1 / room)) if room > 1 else room
            return round(drawn)
        return min(self._wanted, room)

    @property
    def capped(self) -> bool:
        """Does `fragmentation` ask for more ranges than there is room in?"""
        return self.fragmentation != RANDOM and self._wanted > self.room

    @property
    def _wanted(self) -> int:
        return math.ceil(Fraction(self.fragmentation) * self.pages / ENTRIES)

    @property
    def room(self) -> int:
        """2M ranges in which those pages could lie."""
        least = math.ceil(Fraction(self.pages, ENTRIES))
        large = sum(tds.count * (tds.memory - tds.small(self.huge_share)) for tds in self.tds) // SIZE_2M
        return min(max(self.ranges - large, least), self.ranges)

    @property
    def break_even(self) -> Fraction:
        """With a larger share of the ranges in use Dynamic PAMT takes more than static PAMT: 0 where it always does."""
        spared = sum(self.static.values()) - sum(self.dynamic.values()) + self.dynamic["pairs"]
        return max(Fraction(0), Fraction(spared, self.ranges * self._pair))

    @property
    def saved(self) -> Fraction:
        """The share of static PAMT that is spared; below 0 where Dynamic PAMT takes more."""
        return 1 - Fraction(sum(self.dynamic.values()), sum(self.static.values()))


def _whole_pages(nbytes: int) -> int:
    return -(-nbytes // PAGE_SIZE) * PAGE_SIZE


# --- what was published ---


@dataclass(frozen=True, slots=True)
class Published:
    """A share of memory that a cover letter tells, in percent.  rounding: why it is not the exact one."""

    text: str
    percent: str
    parts: tuple[str, ...]
    rounding: str

    def exact(self, host: Overhead) -> Fraction:
        """The same of 1 TiB, in percent; the counts in a sparse array, as there."""
        there = replace(host, ram=1 << 40, max_pa=None)
        parts = {**there.static, **there.fixed}
        return Fraction(100 * sum(parts[part] for part in self.parts), there.ram)

    def why(self, host: Overhead) -> str:
        """It is not the exact one."""
        return self.rounding if host.sizes == KNOWN else "published of the sizes as they are; here others are tried"


LARGE = "pamt_1g", "pamt_2m"
PUBLISHED = (  # DPAMT v3 cover letter, 2025-09-18
    Published("static PAMT", "0.4", (*LARGE, "pamt_4k"), "rounded up; 16 bytes for a 4K page alone are 0.390625 %"),
    Published("Dynamic PAMT", "0.004", (*LARGE, "bitmap"), "rounded up; counts and pairs in use come on top"),
    Published("the host's counts", "0.0002", ("refcounts",), "rounded up; 4 bytes for 2 MiB, in pages for 2 GiB"),
)


# --- what is asked for ---


def overhead(
    ram: str = "1T",
    tds: str | Sequence[str] = "16Gx10",
    *,
    max_pa: str | None = None,
    huge_share: Number = 0,
    fragmentation: Number = 1,
    vcpus: int = 1,
    sizes: Sizes = KNOWN,
) -> Overhead:
    """The overhead of TDs, as "16Gx10" or several of these, on a host with so much memory.

    max_pa: where an array of all counts ends, as in DPAMT v6 (without: a sparse one).  huge_share: of each TD's memory,
    0 to 1, mapped at 2M.  fragmentation: how many times as many 2M ranges as need be hold the 4K pages, or "random".
    Raises ValueError with a sentence.
    """
    total, end = nbytes(ram), None if max_pa is None else nbytes(max_pa)
    if not total or total % SIZE_1G or total > MAX_PA:
        raise ValueError(f"the TDX module is given memory in multiples of 1G, {MAX_PA >> 40}T at most, not {ram}")
    if end is not None and not total <= end <= MAX_PA:
        raise ValueError(f"physical addresses end between {ram} and {MAX_PA >> 40}T, so not at {max_pa}")
    guests = tuple(map(_tds, [tds] if isinstance(tds, str) else tds))
    if type(vcpus) is not int or not 1 <= vcpus <= MAX_VCPUS_PER_TD:
        raise ValueError(f"a TD has 1 to {MAX_VCPUS_PER_TD} vCPUs, not {vcpus!r}")
    share = _number("a share at 2M is 0 to 1", huge_share, 0, 1)
    spread: Fraction | str = RANDOM
    if fragmentation != RANDOM:
        spread = _number(f"fragmentation is 1 to {ENTRIES}, or {RANDOM}", fragmentation, 1, ENTRIES)
    host = Overhead(total, guests, end, share, spread, vcpus, sizes)
    if not any(host.fits.values()):
        taken = -(-min(host.totals.values()) >> 20)
        raise ValueError(f"TDs of {host.guests / SIZE_1G:g}G do not fit into {ram} with the {taken:,}M that TDX takes")
    return host


def _tds(text: str) -> Tds:
    memory, times, count = text.partition("x")
    number = int(count) if count.isdecimal() else 0 if times else 1
    if not memory or not number:
        raise ValueError(f"TDs are a size and how many there are, as 16Gx10, not {text!r}")
    tds = Tds(nbytes(memory), number)
    if not tds.memory or tds.memory % SIZE_2M or tds.memory > PRIVATE_GPAS:
        raise ValueError(f"a TD has 2M blocks, up to {PRIVATE_GPAS >> 40}T, so its memory can not be {memory}")
    return tds


def _number(rule: str, text: Number, least: int, most: int) -> Fraction:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        raise ValueError(f"{rule}, not {text}")
    return Fraction(str(number))  # 0.9 is nine tenths
