"""The state that a stepping view draws, as plain data, read between two steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tdxlab.engine.cells import Words
from tdxlab.hw.memory import Memory
from tdxlab.kvm.kvm_main import Kvm
from tdxlab.kvm.lpage_info import KVM_LPAGE_GUEST_INHIBIT_FLAG, KVM_LPAGE_MIXED_FLAG
from tdxlab.kvm.spte import FROZEN_SPTE, TableSpte, is_shadow_present_pte
from tdxlab.kvm.tdp_iter import KvmMmuPage, spte_index
from tdxlab.spec.bits import SeptEntry
from tdxlab.spec.levels import LEVEL_2M, PAGE_SHIFT, PG_LEVEL_2M, SIZE_2M, index
from tdxlab.spec.sept import BY_BITS, STATE_MASK

if TYPE_CHECKING:
    from tdxlab.lab import Lab

States = str | list[str]
MODES = ("outside", "in guest", "exiting")
NAMES = {bits: state.name for bits, state in BY_BITS.items()}


def picture(lab: Lab) -> dict[str, Any]:
    """sept and mirror: {base of a 2M region: one state, or 512}; lpage_info, locks, vcpus, pages_2m.

    Of the first TD; a region in which neither S-EPT nor mirror holds anything is left out of both.
    """
    kvm = lab.tds[0].kvm if lab.tds else None
    if kvm is None or kvm.tdr_hpa not in lab.module.tds:
        return {}
    td = lab.module.tds[kvm.tdr_hpa]
    sept = {gpa: sept_states(lab.memory, td.root, td.top_level, gpa) for gpa in regions(kvm)}
    mirror = {gpa: mirror_states(kvm, gpa) for gpa in regions(kvm)}
    return {
        "sept": {gpa: states for gpa, states in sept.items() if not states == mirror[gpa] == "FREE"},
        "mirror": {gpa: states for gpa, states in mirror.items() if not states == sept[gpa] == "FREE"},
        "lpage_info": {gpa: bits for gpa in regions(kvm) if (bits := lpage_bits(kvm, gpa))},
        "locks": locks(kvm),
        "vcpus": [f"{MODES[vcpu.mode]}" for vcpu in kvm.vcpus],
        "pages_2m": kvm.stat["pages_2m"],
    }


def outcome(lab: Lab) -> dict[str, str]:
    """The picture in a few words, without what a vCPU or a lock is at just now."""
    now = picture(lab)
    told = {
        f"{side} {gpa:#x}": states if isinstance(states, str) else ", ".join(f"{n} {s}" for s, n in counted(states))
        for side, name in (("S-EPT", "sept"), ("mirror", "mirror"))
        for gpa, states in now.get(name, {}).items()
    }
    told |= {f"lpage_info {gpa:#x}": ", ".join(bits) for gpa, bits in now.get("lpage_info", {}).items()}
    return told


def counted(states: list[str]) -> list[tuple[str, int]]:
    """(state, how many entries)."""
    return list(Counter(states).items())


def regions(kvm: Kvm) -> Iterator[int]:
    """The GPAs of the 2M regions that its memslots reach."""
    for slot in kvm.memslots:
        first, end = slot.base_gfn << PAGE_SHIFT, slot.base_gfn + slot.npages << PAGE_SHIFT
        yield from range(first // SIZE_2M * SIZE_2M, end, SIZE_2M)


def state_name(word: int) -> str:
    """The state of a S-EPT entry."""
    return NAMES[word & STATE_MASK]


def sept_states(memory: Memory, table: int, level: int, gpa: int) -> States:
    """What the module's tables hold for a 2M region, from the root `table` at its `level` on."""
    while True:
        word = memory.sept_page(table)[index(gpa, level)]
        leads_on = not word & SeptEntry.PS and state_name(word) != "FREE"
        if not leads_on or level < LEVEL_2M:
            return state_name(word)
        table, level = word & memory.hpas, level - 1
        if level < LEVEL_2M:
            return [NAMES[entry & STATE_MASK] for entry in memory.sept_page(table)]


def mirror_states(kvm: Kvm, gpa: int) -> States:
    """What KVM's mirror holds for a 2M region.  It does not know what the guest has accepted."""
    sp: KvmMmuPage | None = kvm.mirror_root
    while sp:
        spte = sp.spt[spte_index(gpa >> PAGE_SHIFT, sp.level)]
        if not isinstance(spte, TableSpte):
            return spte_name(spte)
        sp = spte.child
        if sp.level < PG_LEVEL_2M:
            return [spte_name(small) for small in sp.spt]
    return "FREE"  # no vCPU has loaded a root


def spte_name(spte: int) -> str:
    """FREE, FROZEN, MAPPED or NL_MAPPED."""
    if spte == FROZEN_SPTE:
        return "FROZEN"
    if not is_shadow_present_pte(spte):
        return "FREE"
    return "NL_MAPPED" if isinstance(spte, TableSpte) else "MAPPED"


def lpage_bits(kvm: Kvm, gpa: int) -> list[str]:
    """Why a 2M region may not be mapped by one leaf."""
    slot = kvm.gfn_to_memslot(gpa >> PAGE_SHIFT)
    value = slot.lpage_info[slot.lpage_info.key(gpa >> PAGE_SHIFT, PG_LEVEL_2M)] if slot else 0
    flags = {"GUEST_INHIBIT": KVM_LPAGE_GUEST_INHIBIT_FLAG, "MIXED": KVM_LPAGE_MIXED_FLAG}
    names = [name for name, flag in flags.items() if value & flag]
    count = value & ~sum(flags.values())
    return [*names, f"count {count}"] if count else names


def locks(kvm: Kvm) -> dict[str, str]:
    """Who holds mmu_lock."""
    writer, readers = Words.peek(kvm.mmu_lock, None)
    return {"mmu_lock": f"write, CPU {writer - 1}" if writer else f"read by {readers}" if readers else "free"}
