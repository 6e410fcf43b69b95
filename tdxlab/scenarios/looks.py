"""What claims look at: the S-EPT and `lpage_info` of a TD, and the SEAMCALLs in a run's history."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tdxlab.engine.claims import History
from tdxlab.host.dpamt.refcount import tdx_find_pamt_refcount
from tdxlab.kvm.lpage_info import hugepage_test_guest_inhibit
from tdxlab.lab import Lab
from tdxlab.module.pamt import PamtPage
from tdxlab.picture import States, sept_states
from tdxlab.spec.levels import LEVEL_2M, PAGE_SHIFT
from tdxlab.spec.pamt import PT_PAMT
from tdxlab.td import Td

TABLES = ("sept",)
"""The kind of cell that `sept_of` and `leaf_2m` read."""


def sept_of(td: Td) -> Callable[[int], States]:
    """A function: what does the S-EPT hold for the 2M region at this GPA?  One state, or 512."""
    module_td = td.lab.module.tds[td.kvm.tdr_hpa]
    # looked up here: neither changes while the TD lives, and a claim must read no more than it names
    memory, root, level = td.lab.memory, module_td.root, module_td.top_level
    return lambda gpa: sept_states(memory, root, level, gpa)


def leaf_2m(td: Td) -> Callable[[int], bool]:
    """A function: is the 2M region at this GPA mapped by one leaf of the S-EPT?"""
    sept = sept_of(td)
    return lambda gpa: isinstance(states := sept(gpa), str) and states not in ("FREE", "NL_MAPPED")


def inhibited(td: Td, gpa: int, level: int) -> bool:
    """Is GUEST_INHIBIT set for `gpa` at `level`?"""
    return hugepage_test_guest_inhibit(td.slot.lpage_info, gpa >> PAGE_SHIFT, level)


def calls(history: History, kind: str = "seamcall", *, cpu: int | None = None, of: Iterable[str] = ()) -> list[str]:
    """The SEAMCALLs (or TDCALLs) in order, as "LEAF STATUS"; `of` picks leaves."""
    return [
        f"{h['leaf']} {h['status']}"
        for h in history
        if h["kind"] == kind and (cpu is None or h["cpu"] == cpu) and (not of or h["leaf"] in of)
    ]


def count(history: History, kind: str, **data: object) -> int:
    """How many notes of this kind have these values."""
    return sum(h["kind"] == kind and all(h.get(k) == v for k, v in data.items()) for h in history)


def node_of(lab: Lab, hpa: int) -> PamtPage:
    """The PAMT entry of the 2M range of `hpa`, which leads to its page pair if it has one."""
    return lab.module.pamt.page(hpa, LEVEL_2M)


def paired(lab: Lab, hpa: int) -> bool:
    """Has the 2M range of `hpa` its PAMT page pair?  Reads `node_of(...).chunk.entries`."""
    return node_of(lab, hpa).read().type is PT_PAMT


def users(lab: Lab, hpa: int) -> int:
    """How many users of the range does the host count?  Reads `tdx_find_pamt_refcount`."""
    return tdx_find_pamt_refcount(lab.host, hpa)[0]
