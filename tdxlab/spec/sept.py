"""Secure-EPT states, their encodings, and what each leaf makes of an entry in each state.

States: [S01:sept_state_lookup.c].  Rules: allowed sets from the same table, results from the leaves' own files.
A (leaf, state) without a rule is refused with TDX_EPT_ENTRY_STATE_INCORRECT.
"""

# ruff: noqa: E501
from __future__ import annotations

from dataclasses import dataclass

from tdxlab.spec import leaves
from tdxlab.spec.bits import SeptEntry
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.status import TDX_EPT_ENTRY_STATE_INCORRECT, TDX_GPA_RANGE_ALREADY_BLOCKED, Status


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """bits: the state bits of the raw entry.  code: what RDX and the exit qualification call it.

    access: what the guest may do ("", "r", "rwx").  tracked: do blocking leaves need TLB tracking from it?
    """

    name: str
    bits: int
    code: int
    leaf: bool
    pending: bool
    blocked: bool
    access: str
    tracked: bool

    def __str__(self) -> str:
        return self.name


STATE_BITS = (SeptEntry.D, SeptEntry.EX, SeptEntry.BW, SeptEntry.B, SeptEntry.P, SeptEntry.IPAT, SeptEntry.PS)
STATE_MASK = sum(STATE_BITS)
RWX = SeptEntry.R | SeptEntry.W | SeptEntry.X
WRITE_BACK = 6 * (SeptEntry.MT & -SeptEntry.MT)

STATES: dict[str, State] = {}
BY_BITS: dict[int, State] = {}


def state(name: str, enc: int, code: int, flags: str = "", access: str = "", tracked: bool = True) -> State:
    """A row.  enc: {PS, IPAT, P, B, BW, EX, D} as the module's table writes it.  flags: l(eaf) p(ending) b(locked)."""
    bits = sum(mask for n, mask in enumerate(STATE_BITS) if enc >> n & 1)
    row = State(name, bits, code, "l" in flags, "p" in flags, "b" in flags, access, tracked)
    assert name not in STATES and bits not in BY_BITS, f"{name} is there twice"
    STATES[name] = BY_BITS[bits] = row
    return row


# fmt: off
FREE                            = state("FREE",                            0x0E,   0, tracked=False)
REMOVED                         = state("REMOVED",                         0x0C,   5, tracked=False)  # import only
NL_MAPPED                       = state("NL_MAPPED",                       0x00, 132)
NL_BLOCKED                      = state("NL_BLOCKED",                      0x08, 129, "b")
MAPPED                          = state("MAPPED",                          0x60,   4, "l", "rwx")
BLOCKED                         = state("BLOCKED",                         0x68,   1, "lb")
BLOCKEDW                        = state("BLOCKEDW",                        0x64,   8, "l", "r")
EXPORTED_BLOCKEDW               = state("EXPORTED_BLOCKEDW",               0x66,   9, "l", "r", tracked=False)
EXPORTED_DIRTY                  = state("EXPORTED_DIRTY",                  0x63,  11, "l", "rwx")
EXPORTED_DIRTY_BLOCKEDW         = state("EXPORTED_DIRTY_BLOCKEDW",         0x67,  12, "l", "r")
PENDING                         = state("PENDING",                         0x70,   2, "lp")
PENDING_BLOCKED                 = state("PENDING_BLOCKED",                 0x78,   3, "lpb")
PENDING_BLOCKEDW                = state("PENDING_BLOCKEDW",                0x74,  16, "lp")
PENDING_EXPORTED_BLOCKEDW       = state("PENDING_EXPORTED_BLOCKEDW",       0x76,  17, "lp", tracked=False)
PENDING_EXPORTED_DIRTY          = state("PENDING_EXPORTED_DIRTY",          0x73,  19, "lp")
PENDING_EXPORTED_DIRTY_BLOCKEDW = state("PENDING_EXPORTED_DIRTY_BLOCKEDW", 0x77,  20, "lp")
# fmt: on

FREE_ENTRY = SeptEntry.SVE | FREE.bits  # 0x80E0000000000000 [oracle]


@dataclass(frozen=True, slots=True)
class Rule:
    """leaf on an entry in `state` gives `result` (None: unchanged).

    needs: "tracked" = if the TD may run, the range must be blocked and tracked; else "".
    """

    leaf: Leaf
    state: State
    result: State | None
    needs: str
    source: str


RULES: dict[tuple[Leaf, State], Rule] = {}


def rule(leaf: Leaf, before: State, result: State | None, needs: str = "", source: str = "S01") -> None:
    """A row."""
    assert (leaf, before) not in RULES, f"{leaf} on {before} is there twice"
    RULES[leaf, before] = Rule(leaf, before, result, needs, source)


REFUSED: dict[tuple[Leaf, State], Status] = {}
"""Where the refusal is another one than TDX_EPT_ENTRY_STATE_INCORRECT."""

# fmt: off
rule(leaves.TDH_MEM_SEPT_ADD, FREE, NL_MAPPED, source="S01:tdh_mem_sept_add.c")
rule(leaves.TDH_MEM_SEPT_ADD, NL_MAPPED, None, source="S01:tdh_mem_sept_add.c, only with allow_existing or version 1")
rule(leaves.TDH_MEM_PAGE_ADD, FREE, MAPPED, source="S01:tdh_mem_page_add.c")
rule(leaves.TDH_MEM_PAGE_AUG, FREE, PENDING, source="S01:tdh_mem_page_aug.c")
rule(leaves.TDH_MEM_PAGE_AUG, REMOVED, PENDING, source="S01:tdh_mem_page_aug.c")
rule(leaves.TDH_MEM_RANGE_BLOCK, NL_MAPPED, NL_BLOCKED, source="S01:tdh_mem_range_block.c")
rule(leaves.TDH_MEM_RANGE_BLOCK, MAPPED, BLOCKED, source="S01:tdh_mem_range_block.c")
rule(leaves.TDH_MEM_RANGE_BLOCK, BLOCKEDW, BLOCKED, source="S01:tdh_mem_range_block.c")
rule(leaves.TDH_MEM_RANGE_BLOCK, PENDING, PENDING_BLOCKED, source="S01:tdh_mem_range_block.c")
rule(leaves.TDH_MEM_RANGE_BLOCK, PENDING_BLOCKEDW, PENDING_BLOCKED, source="S01:tdh_mem_range_block.c")
rule(leaves.TDH_MEM_RANGE_UNBLOCK, NL_BLOCKED, NL_MAPPED, "tracked", "S01:tdh_mem_range_unblock.c")
rule(leaves.TDH_MEM_RANGE_UNBLOCK, BLOCKED, MAPPED, "tracked", "S01:tdh_mem_range_unblock.c")
rule(leaves.TDH_MEM_RANGE_UNBLOCK, PENDING_BLOCKED, PENDING, "tracked", "S01:tdh_mem_range_unblock.c")
for before in (MAPPED, BLOCKED, BLOCKEDW, PENDING, PENDING_BLOCKED, PENDING_BLOCKEDW):
    rule(leaves.TDH_MEM_PAGE_REMOVE, before, FREE, "tracked", "S01:tdh_mem_page_remove.c; REMOVED while an import runs")
for before in (NL_BLOCKED, BLOCKED, PENDING_BLOCKED):
    REFUSED[leaves.TDH_MEM_RANGE_BLOCK, before] = TDX_GPA_RANGE_ALREADY_BLOCKED  # S01:tdh_mem_range_block.c
for before in (NL_MAPPED, NL_BLOCKED):
    rule(leaves.TDH_MEM_SEPT_REMOVE, before, FREE, "tracked", "S01:tdh_mem_sept_remove.c")
    rule(leaves.TDH_MEM_PAGE_PROMOTE, before, None, "tracked", "S01:tdh_mem_page_promote.c; becomes as its children are")
for before in (MAPPED, BLOCKED, PENDING, PENDING_BLOCKED):
    rule(leaves.TDH_MEM_PAGE_DEMOTE, before, NL_MAPPED, "tracked", "S01:tdh_mem_page_demote.c; at once in `blockless` (assumed)")
rule(leaves.TDH_MEM_PAGE_RELOCATE, MAPPED, MAPPED, "tracked", "S01:tdh_mem_page_relocate.c")
rule(leaves.TDH_MEM_PAGE_RELOCATE, BLOCKED, MAPPED, "tracked", "S01:tdh_mem_page_relocate.c")
rule(leaves.TDH_MEM_PAGE_RELOCATE, PENDING, PENDING, "tracked", "S01:tdh_mem_page_relocate.c")
rule(leaves.TDH_MEM_PAGE_RELOCATE, PENDING_BLOCKED, PENDING, "tracked", "S01:tdh_mem_page_relocate.c")
for before in (BLOCKEDW, PENDING_BLOCKEDW, EXPORTED_BLOCKEDW, EXPORTED_DIRTY, EXPORTED_DIRTY_BLOCKEDW,
               PENDING_EXPORTED_BLOCKEDW, PENDING_EXPORTED_DIRTY, PENDING_EXPORTED_DIRTY_BLOCKEDW):
    rule(leaves.TDH_MEM_PAGE_RELOCATE, before, before, "tracked", "S01:tdh_mem_page_relocate.c")
for before in (MAPPED, BLOCKEDW, EXPORTED_BLOCKEDW, EXPORTED_DIRTY, EXPORTED_DIRTY_BLOCKEDW):
    rule(leaves.TDH_MEM_RD, before, None, source="S01:tdh_mem_rd.c")
for before in (MAPPED, EXPORTED_DIRTY):
    rule(leaves.TDH_MEM_WR, before, None, source="S01:tdh_mem_wr.c")
rule(leaves.TDH_MR_EXTEND, MAPPED, None, source="S01:tdh_mr_extend.c")
for before in STATES.values():
    rule(leaves.TDH_MEM_SEPT_RD, before, None, source="S01:tdh_mem_sept_rd.c")
rule(leaves.TDG_MEM_PAGE_ACCEPT, PENDING, MAPPED, source="S01:tdg_mem_page_accept.c")
rule(leaves.TDG_MEM_PAGE_ACCEPT, PENDING_EXPORTED_DIRTY, EXPORTED_DIRTY, source="S01:tdg_mem_page_accept.c")
for before in (MAPPED, BLOCKEDW, EXPORTED_BLOCKEDW, EXPORTED_DIRTY, EXPORTED_DIRTY_BLOCKEDW, PENDING, PENDING_BLOCKEDW,
               PENDING_EXPORTED_BLOCKEDW, PENDING_EXPORTED_DIRTY, PENDING_EXPORTED_DIRTY_BLOCKEDW):
    rule(leaves.TDG_MEM_PAGE_ATTR_RD, before, None, source="S01:sept_state_lookup.c")
for before in (MAPPED, EXPORTED_DIRTY, PENDING, PENDING_EXPORTED_DIRTY):
    rule(leaves.TDG_MEM_PAGE_ATTR_WR, before, None, source="S01:sept_state_lookup.c")
rule(leaves.TDH_EXPORT_BLOCKW, MAPPED, BLOCKEDW, source="S01:sept_state_lookup.c")
rule(leaves.TDH_EXPORT_BLOCKW, PENDING, PENDING_BLOCKEDW, source="S01:sept_state_lookup.c")
rule(leaves.TDH_EXPORT_UNBLOCKW, BLOCKEDW, MAPPED, source="S01:sept_state_lookup.c")
rule(leaves.TDH_EXPORT_UNBLOCKW, PENDING_BLOCKEDW, PENDING, source="S01:sept_state_lookup.c")
# fmt: on

ACCEPTABLE = frozenset(before for leaf, before in RULES if leaf is leaves.TDG_MEM_PAGE_ACCEPT)
"""The states of a page that waits for its guest."""


def refusal(leaf: Leaf, before: State) -> Status:
    """What a leaf without a rule for the state answers."""
    return REFUSED.get((leaf, before), TDX_EPT_ENTRY_STATE_INCORRECT)
