"""A range of guest memory is converted or punched out, under any design, with or without a failure on purpose.

The TD has three blocks that its guest has accepted at 2M: pages 0 to 1535.  Nobody runs beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from errno import errorcode
from typing import Any

from tdxlab.engine.claims import History
from tdxlab.guest.programs import accepts
from tdxlab.invariants import Sweep
from tdxlab.kvm.gmem_invalidate import kvm_gmem_punch_hole
from tdxlab.lab import Lab
from tdxlab.picture import picture
from tdxlab.spec.levels import ENTRIES, PAGE_SIZE, PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M
from tdxlab.spec.status import Status
from tdxlab.td import Td

BLOCKS = 3
ERRNO = {**errorcode, 95: "EOPNOTSUPP"}  # which C libraries also call ENOTSUP
PAGES = BLOCKS * ENTRIES
Failure = tuple[str, int, Status | None]
"""(site, which use of it fails, what a leaf answers in the module's place)."""


FAILURES: dict[str, Failure] = {
    "no memory for the table": ("tdp_mmu_alloc_sp_for_split", 1, None),
    "BLOCK is refused": ("TDH.MEM.RANGE.BLOCK", 1, None),
    "TRACK is refused": ("TDH.MEM.TRACK", 1, None),
    "DEMOTE is refused": ("TDH.MEM.PAGE.DEMOTE", 1, None),
}
"""Where a split can fail."""


def share(td: Td, start: int, end: int) -> Coroutine[Any, Any, int]:
    """Userspace makes pages [start, end) shared."""
    converted: Coroutine[Any, Any, int] = td.kvm.design.guest_memfd.convert(td.kvm, start, end, private=False)
    return converted


def punch(td: Td, start: int, end: int) -> Coroutine[Any, Any, int]:
    """fallocate(PUNCH_HOLE) of pages [start, end) of the file."""
    return kvm_gmem_punch_hole(td.slot.gmem, start, end)


ACTIONS: dict[str, Callable[[Td, int, int], Coroutine[Any, Any, int]]] = {"share": share, "punch hole": punch}


@dataclass(frozen=True)
class Outcome:
    """What one call to KVM did.

    ret: 0 or -errno.  history: its notes.  before, after: pictures of the machine.  lost: pages outside the range that
    the guest had and has no more.  bugged: is the VM dead?  stray: bytes that are neither used nor free.
    pairs: how many PAMT page pairs the host has installed, before and after.  users: how many references of the host
    keep the pairs of the three blocks.
    """

    ret: int
    history: History
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    lost: frozenset[int]
    bugged: bool
    stray: int
    pairs: tuple[int, int]
    users: tuple[int, ...]

    def count(self, kind: str) -> int:
        """How many notes of a kind."""
        return sum(note["kind"] == kind for note in self.history)

    def removed(self, level: int) -> int:
        """How many leaves of a PG_LEVEL were removed."""
        leaf = "TDH.MEM.PAGE.REMOVE"
        return sum(note.get("leaf") == leaf and note.get("level") == level for note in self.history)

    @property
    def returned(self) -> str:
        """`0`, or `-ENOMEM`."""
        return f"-{ERRNO[-self.ret]}" if self.ret else "0"

    @property
    def calls(self) -> list[str]:
        """The SEAMCALLs, kicks and flushes in order, a call that was refused with its status."""
        return [told(note) for note in self.history if note["kind"] in ("seamcall", "kick", "tlb_flush")]


def told(note: Mapping[str, Any]) -> str:
    """`RANGE.BLOCK`, `PAGE.DEMOTE: OPERAND_BUSY`, `kick`."""
    if note["kind"] != "seamcall":
        return str(note["kind"]).replace("_", " ")
    leaf, status = note["leaf"].split(".", 2)[2], note["status"].removeprefix("TDX_")
    if note.get("injected"):
        status = "made to fail"
    return leaf if status == "SUCCESS" else f"{leaf}: {status}"


def perform(
    action: str,
    start: int,
    end: int,
    design: str = "seed",
    *,
    dpamt: bool = False,
    pages: str = "own",
    failure: Failure | None = None,
) -> Outcome:
    """Do it on a machine of its own.  pages: as of a Lab.  Raises ValueError with a sentence."""
    if action not in ACTIONS:
        raise ValueError(f"a range can be made to {' or '.join(ACTIONS)}, not {action!r}")
    if not 0 <= start < end <= PAGES:
        raise ValueError(f"pages are 0 to {PAGES}, so a range can not be {start} to {end}")
    lab = Lab(design, dpamt=dpamt, cpus=1, grain="seamcall", pages=pages)
    td = lab.create_td(memory=f"{BLOCKS * SIZE_2M >> 20}M")
    lab.must(td.vcpu(0, accepts(*((n * SIZE_2M, PG_LEVEL_2M) for n in range(BLOCKS)))))
    lab.journal.notes.clear()
    sweep, before = Sweep(lab), picture(lab)
    had, stray, pairs = usable(before), sweep.without_use(), len(lab.module.pamt.paired())
    if failure:
        site, nth, status = failure
        lab.fail(site, nth, status=status)
    ret = int(lab.alone(ACTIONS[action](td, start, end)))
    after = picture(lab)
    return Outcome(
        ret,
        list(lab.journal.notes),
        before,
        after,
        frozenset(had - usable(after) - set(range(start, end))),
        bool(td.kvm.vm_bugged),
        sweep.without_use() - stray,
        (pairs, len(lab.module.pamt.paired())),
        tuple(references(lab, td)) if dpamt else (),
    )


def references(lab: Lab, td: Td) -> Iterator[int]:
    """The host's count for each block's range; 0 where nobody has counted, or there is no folio."""
    for n in range(BLOCKS):
        refcount = lab.host.pamt_refcounts.get(td.slot.gmem.folios.peek(n * ENTRIES) // SIZE_2M)
        yield refcount.peek(0) if refcount else 0


def usable(shown: Mapping[str, Any]) -> set[int]:
    """The pages that the guest can use, by the S-EPT."""
    pages = set()
    for gpa, states in shown["sept"].items():
        entries = [states] * ENTRIES if isinstance(states, str) else states
        pages |= {gpa // PAGE_SIZE + i for i, state in enumerate(entries) if state == "MAPPED"}
    return pages


def summary(done: Outcome) -> dict[str, str]:
    """A row for a table."""
    return {
        "splits": str(done.count("split")),
        "REMOVE 2M": str(done.removed(PG_LEVEL_2M)),
        "REMOVE 4K": str(done.removed(PG_LEVEL_4K)),
        "kicks": str(done.count("kick")),
        "flushes": str(done.count("tlb_flush")),
        "pages lost": str(len(done.lost)),
        "pages_2m": f"{done.before['pages_2m']} -> {done.after['pages_2m']}",
    }


def folded(calls: list[str]) -> list[str]:
    """Equal neighbours as one: `PHYMEM.PAGE.WBINVD x512`."""
    out: list[str] = []
    times: Counter[int] = Counter()
    for call in calls:
        if not out or out[-1] != call:
            out.append(call)
        times[len(out) - 1] += 1
    return [call if times[n] == 1 else f"{call} x{times[n]}" for n, call in enumerate(out)]
