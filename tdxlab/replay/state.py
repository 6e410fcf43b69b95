"""The lines that show state: S-EPT entries, PAMT entries, fields of a TD, locks, memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tdxlab.module.pamt import PamtPage
from tdxlab.replay.reading import number
from tdxlab.spec.levels import LEVEL_1G, LEVEL_2M, LEVEL_4K, PAGE_SIZE, shift
from tdxlab.spec.pamt import PT_PAMT

if TYPE_CHECKING:
    from tdxlab.replay.machine import Machine

State = dict[str, Any]
SAME_NAME = ("lifecycle", "hkid", "chldcnt", "fatal", "op_state", "td_epoch", "num_vcpus", "num_assoc_vcpus", "gpaw")
IN_HEX = ("pkg_config_bitmap", "eptp", "attributes", "xfam")


def platform(machine: Machine) -> State:
    """What a `boot` line tells of the machine."""
    hkids = machine.platform.private_hkids
    return {
        "dpamt": int(machine.module.pamt.dynamic),
        "sys_state": machine.module.sys.state,
        "private_hkid": [hkids.start, hkids.stop - 1],
        "hkid_start_bit": machine.platform.hkid_start,
        "max_pa": machine.platform.max_pa,
    }


def dump(machine: Machine, tdr: str, gpa: str, level: str) -> State:
    """A raw Secure-EPT entry."""
    entry = machine.locks.entry(tdr, gpa, level)
    return {"reached": entry.level, "raw": hex(entry.word), "state": entry.state.name}


def pamt(machine: Machine, hpa_text: str) -> State:
    """The three PAMT entries of a page.  With Dynamic PAMT a 2M entry may be a node, and a 4K entry missing."""
    hpa, entries = number(hpa_text), machine.module.pamt
    if not any(tdmr.base <= hpa < tdmr.end for tdmr in machine.module.sys.tdmrs):
        return {"err": "no tdmr"}
    there = entries.lock_of(hpa) is not None
    rows = {
        "1g": _entry(entries.page(hpa, LEVEL_1G)),
        "2m": _entry(entries.page(hpa, LEVEL_2M)),
        "4k": _entry(entries.page(hpa, LEVEL_4K)) if there else None,
    }
    if rows["2m"]["pt"] == PT_PAMT:
        rows["2m"]["count"] = entries.counts[hpa >> shift(LEVEL_2M)]
    return rows | ({"bit": int(entries.serves(hpa))} if entries.dynamic else {})


def _entry(page: PamtPage) -> Any:
    lock, i = page.read().lock
    row = {"pt": int(page.type), "lock": hex(lock[i])}
    if page.type is PT_PAMT:
        page_0, page_1 = page.pair()
        return row | {"page0": hex(page_0), "page1": hex(page_1)}
    return row | {"owner": hex(page.owner), "bepoch": hex(page.chunk.bepochs[page.i])}


def tdinfo(machine: Machine, tdr: str) -> State:
    """Fields of TDR and TDCS."""
    td = machine.module.tds[number(tdr)]
    return (
        {name: int(getattr(td, name)) for name in SAME_NAME}
        | {name: hex(getattr(td, name)) for name in IN_HEX}
        | {"num_tdcx": len(td.tdcx), "refcount": [td.refcount0, td.refcount1], "mrtd": td.mrtd.hex()}
    )


def locks(machine: Machine, tdr: str) -> State:
    """The locks of a TD: its page's, OP_STATE's, the S-EPT tree's and the epoch's."""
    word = machine.locks.word
    rest = {name: word((name, tdr)) for name in ("opstate", "sept", "epoch")}
    return {"tdr": word(("pamt", tdr, "0"))} | rest


def memr(machine: Machine, hpa: str, nbytes: str) -> State:
    """Bytes of memory."""
    return {"hex": machine.memory.read(number(hpa), number(nbytes, PAGE_SIZE + 1)).hex()}
