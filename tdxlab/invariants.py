"""What is true of a machine whenever nothing is in flight: S-EPT, mirror, guest_memfd and PAMT tell one story.

One sweep over the tables serves all invariants; it is made again only after a step that wrote into them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tdxlab.engine.claims import Invariant
from tdxlab.engine.step import Steps
from tdxlab.kvm.kvm_main import Kvm
from tdxlab.kvm.levels import KVM_PAGES_PER_HPAGE
from tdxlab.kvm.spte import FROZEN_SPTE, SHADOW_NONPRESENT_VALUE, TableSpte, is_shadow_present_pte, spte_to_pfn
from tdxlab.kvm.tdp_iter import KvmMmuPage
from tdxlab.ledger import Ledger, free, owned_twice, pamt_pages, size_of, uses
from tdxlab.module.sept import Entry
from tdxlab.module.state import Td as ModuleTd
from tdxlab.spec.levels import LEVEL_2M, LEVEL_4K, PAGE_SHIFT, PAGE_SIZE, PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M, shift
from tdxlab.spec.pamt import PT_EPT, PT_REG
from tdxlab.spec.sept import FREE, FREE_ENTRY

if TYPE_CHECKING:
    from tdxlab.lab import Lab

KINDS = ("sept", "mirror", "gmem", "stat", "pamt", "mmu_lock", "mem_attr_array")


@dataclass(frozen=True, slots=True)
class Pair:
    """An entry of the S-EPT and the mirror's SPTE for the same GPA; `entry` is None where the S-EPT has no table."""

    gpa: int
    entry: Entry | None
    spte: int
    sp: KvmMmuPage


def mirror_tables(kvm: Kvm) -> list[KvmMmuPage]:
    """The tables of the mirror, top down."""
    tables = [kvm.mirror_root] if kvm.mirror_root else []
    for sp in tables:
        if sp.level > PG_LEVEL_4K:
            tables += [spte.child for spte in sp.spt if isinstance(spte, TableSpte)]
    return tables


def tables(kvm: Kvm, pairs: Iterable[Pair]) -> Iterator[KvmMmuPage]:
    """The tables of the mirror, of which these are the entries."""
    if kvm.mirror_root:
        yield kvm.mirror_root
    yield from (pair.spte.child for pair in pairs if isinstance(pair.spte, TableSpte))


class Sweep:
    """The invariants of a lab.  It remembers what it has looked at, which is no state of the machine."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.actors: Sequence[Steps] = ()
        self.seen = self.at_start = 0
        self.log: object = None  # where at_start was counted: in this log, after this entry
        self.last: object = None
        self.dirty = True
        self.pairs: dict[str, list[Pair]] = {}

    def watch(self, actors: Sequence[Steps]) -> Sequence[Steps]:
        """Know the actors of this execution, to see when it has ended."""
        self.actors, self.dirty = actors, True
        log = self.lab.journal.log
        last = log[-1] if log else None
        if log is None or log is not self.log or last is not self.last:  # else it is where the last execution began
            self.at_start, self.log, self.last = self.without_use(), log, last
        return actors

    def invariants(self) -> tuple[Invariant, ...]:
        """All of them."""
        checks: dict[str, Callable[[Kvm, ModuleTd, list[Pair]], Iterator[str]]] = {
            "S-EPT and mirror": self.sept_against_mirror,
            "mirror and guest_memfd": self.mirror_against_gmem,
            "PAMT behind S-EPT": self.pamt_against_sept,
            "pages_2m": self.pages_2m,
            "no leaf covers a shared gfn": self.no_leaf_covers_shared,
        }
        tables = [
            Invariant(name, lambda check=check: self._all(check), self.quiet)  # type: ignore[misc]
            for name, check in checks.items()
        ]
        owners = Invariant("one owner for each page", lambda: list(self.owners()), self.quiet)
        leaked = Invariant("no page leaked", self.leaked, self.ended)
        pairs = Invariant("PAMT pairs behind counts", self.pamt_pairs, self.no_pair_changes)
        counts = Invariant("PAMT counts are references", self.miscounted, self.ended)
        return (*tables, owners, leaked, pairs, counts, Invariant("no lock leaked", self.locks, self.ended))

    def ended(self) -> bool:
        """Have all actors returned?"""
        return all(inspect.getcoroutinestate(actor) == inspect.CORO_CLOSED for actor in self.actors)

    def quiet(self) -> bool:
        """Has something changed since the last sweep, and is nothing in flight?  Sweeps if so."""
        log = self.lab.journal.log or []
        start = min(self.seen, len(log))
        if self.seen == len(log) and not self.dirty:
            return bool(self.pairs)
        self.dirty = self.dirty or any(cell.name.split(":", 1)[0] in KINDS for cell, _, _ in log[start:])
        self.seen, self.pairs = len(log), {}
        kvms = self.kvms()
        if not self.dirty or any(kvm.mmu_lock.peek(0) for kvm in kvms):
            return False
        if any(FROZEN_SPTE in sp.spt for kvm in kvms for sp in mirror_tables(kvm)):
            return False
        self.pairs = {kvm.name: list(self.walk(kvm)) for kvm in kvms}
        self.dirty = False
        return True

    def _all(self, check: Callable[[Kvm, ModuleTd, list[Pair]], Iterator[str]]) -> list[str]:
        found = []
        for kvm in self.kvms():
            td = self.lab.module.tds[kvm.tdr_hpa]
            found += [f"{kvm.name}: {text}" for text in check(kvm, td, self.pairs[kvm.name])]
        return found

    def kvms(self) -> list[Kvm]:
        """The VMs that the module knows: neither before INIT_VM nor after the end."""
        return [td.kvm for td in self.lab.tds if td.kvm.peek("tdr_hpa") in self.lab.module.tds]

    def walk(self, kvm: Kvm) -> Iterator[Pair]:
        """Every entry of the mirror that holds something, or whose S-EPT entry does, top down."""
        td = self.lab.module.tds[kvm.tdr_hpa]
        todo: list[tuple[KvmMmuPage, int | None]] = [(kvm.mirror_root, td.root)] if kvm.mirror_root else []
        for sp, table in todo:
            page = self.lab.memory.sept_page(table) if table is not None else None
            words: Sequence[int | None] = page if page is not None else [None] * len(sp.spt)
            for i, (spte, word) in enumerate(zip(sp.spt, words, strict=True)):
                if spte == SHADOW_NONPRESENT_VALUE and word in (None, FREE_ENTRY):
                    continue
                entry = (
                    Entry(page, i, sp.level - 1, word, self.lab.memory.hpas)
                    if page is not None and word is not None
                    else None
                )
                gpa = (sp.gfn << PAGE_SHIFT) + (i << shift(sp.level - 1))
                yield Pair(gpa, entry, spte, sp)
                if isinstance(spte, TableSpte):
                    leads_on = entry is not None and entry.state is not FREE and not entry.state.leaf
                    todo.append((spte.child, entry.hpa if leads_on and entry is not None else None))

    # --- the invariants ---

    def sept_against_mirror(self, kvm: Kvm, td: ModuleTd, pairs: list[Pair]) -> Iterator[str]:
        """Entry by entry the same: nothing, a table with the page that KVM gave, or a leaf with the same frame.

        While a TD is built the mirror may be ahead by as many leaves as KVM counts.
        """
        ahead = kvm.nr_premapped.peek(0)
        for pair in pairs:
            state = pair.entry.state.name if pair.entry else "no table"
            if pair.entry is None or pair.entry.state.blocked:
                agree = False
            elif isinstance(pair.spte, TableSpte):
                agree = not pair.entry.state.leaf and pair.entry.hpa == pair.spte.child.external_spt
            elif is_shadow_present_pte(pair.spte):
                agree = pair.entry.state.leaf and pair.entry.hpa >> PAGE_SHIFT == spte_to_pfn(pair.spte)
                if not agree and pair.entry.state is FREE and ahead:
                    agree, ahead = True, ahead - 1
            else:
                agree = pair.entry.state is FREE
            if not agree:
                yield f"{pair.gpa:#x} level {pair.sp.level}: S-EPT {state}, mirror {pair.spte:#x}"

    def mirror_against_gmem(self, kvm: Kvm, td: ModuleTd, pairs: list[Pair]) -> Iterator[str]:
        """Each leaf maps the folio that guest_memfd has there, and is no larger than it."""
        for pair in pairs:
            if not is_shadow_present_pte(pair.spte) or isinstance(pair.spte, TableSpte):
                continue
            gfn = pair.gpa >> PAGE_SHIFT
            slot = kvm.gfn_to_memslot(gfn)
            index = gfn - slot.base_gfn + slot.gmem_pgoff if slot else 0
            first = slot.gmem.first_of(index) if slot else 0
            folio = slot.gmem.folios[first] if slot else 0
            if not folio or (folio >> PAGE_SHIFT) + index - first != spte_to_pfn(pair.spte):
                yield f"{pair.gpa:#x} maps frame {spte_to_pfn(pair.spte):#x}, the folio is {folio:#x}"
            elif slot and pair.sp.level == PG_LEVEL_2M and slot.gmem.folio_order(index) < 9:
                yield f"{pair.gpa:#x} is mapped by a leaf larger than its folio"

    def pamt_against_sept(self, kvm: Kvm, td: ModuleTd, pairs: list[Pair]) -> Iterator[str]:
        """Each page in the S-EPT is this TD's in the PAMT: a guest's page, or a table."""
        for pair in pairs:
            if pair.entry is None or pair.entry.state is FREE:
                continue
            leaf = pair.entry.state.leaf
            page = self.lab.module.pamt.page(pair.entry.hpa, pair.entry.level if leaf else LEVEL_4K)
            page.word = page.chunk.entries[page.i]
            if page.type != (PT_REG if leaf else PT_EPT) or page.owner != kvm.tdr_hpa:
                yield f"{pair.gpa:#x}: the PAMT says {page.type.name} of {page.owner:#x} for {pair.entry.hpa:#x}"

    def pages_2m(self, kvm: Kvm, td: ModuleTd, pairs: list[Pair]) -> Iterator[str]:
        """The statistic is the number of 2M leaves in the S-EPT."""
        leaves = sum(1 for p in pairs if p.entry and p.entry.level == LEVEL_2M and p.entry.state.leaf)
        if leaves != kvm.stat["pages_2m"]:
            yield f"pages_2m is {kvm.stat['pages_2m']}, the S-EPT has {leaves}"

    def no_leaf_covers_shared(self, kvm: Kvm, td: ModuleTd, pairs: list[Pair]) -> Iterator[str]:
        """What is shared is mapped by no leaf, unless it is being converted."""
        if kvm.mmu_invalidate_in_progress:
            return
        shared = [gfn for gfn in kvm.mem_attr_array if not kvm.mem_attr_array[gfn]]
        for pair in pairs if shared else ():
            if is_shadow_present_pte(pair.spte) and not isinstance(pair.spte, TableSpte):
                first = pair.gpa >> PAGE_SHIFT
                covered = [gfn for gfn in shared if first <= gfn < first + KVM_PAGES_PER_HPAGE(pair.sp.level)]
                if covered:
                    yield f"{pair.gpa:#x} is mapped at level {pair.sp.level}, frame {covered[0]:#x} is shared"

    def owners(self) -> Iterator[str]:
        """No page is used for two things, by one TD or by two, or used and free; nor is a part of a 2M page."""
        used = [use for kvm in self.kvms() for use in uses(kvm, tables(kvm, self.pairs[kvm.name]))]
        return owned_twice([*used, *free(self.lab), *pamt_pages(self.lab)])

    def leaked(self) -> list[str]:
        """No more pages than at the start are handed out without a use.

        A bugged VM may leave pages behind; the pages of a TD that was built leaf by leaf are not the allocator's.
        """
        if not self.lab.tds or any(td.kvm.vm_bugged for td in self.lab.tds):
            return []
        lost = self.without_use() - self.at_start
        return [f"{lost // PAGE_SIZE} pages are neither used nor free"] if lost > 0 else []

    def without_use(self) -> int:
        """Bytes handed out, less what the TDs use: what somebody else holds."""
        used = [use for kvm in self.kvms() for use in uses(kvm, tables(kvm, self.walk(kvm)))]
        used += pamt_pages(self.lab)
        return self.lab.host.allocator.handed_out() - sum(size_of(use) for hpa, use in used if hpa)

    def no_pair_changes(self) -> bool:
        """Is nobody between a count and its pair?"""
        host = self.lab.host
        return not any(lock.peek(0) for lock in (host.pamt_lock, *host.pamt_range_locks.values()))

    def pamt_pairs(self) -> list[str]:
        """A range that is counted has its pair.  (The other way round holds only for v6: before, a put may be late.)"""
        pairs = self.lab.module.pamt.paired()
        found = []
        for n, refcount in self.lab.host.pamt_refcounts.items():
            users, hpa = refcount.peek(0), n * SIZE_2M
            if users < 0 or (users and hpa not in pairs):
                found.append(f"range {hpa:#x} has {users} users and {'a' if hpa in pairs else 'no'} pair")
        return found

    def miscounted(self) -> list[str]:
        """A page counts for its range's pair as often as the module has a 4K of it.  In a bugged VM it may not."""
        return [] if any(td.kvm.vm_bugged for td in self.lab.tds) else list(Ledger(self.lab).miscounted())

    def locks(self) -> list[str]:
        """Every lock that was taken has been given back."""
        return [
            f"CPU {cpu} holds {cell.name}"
            for cpu in range(len(self.lab.cpus))
            for cell, _, _ in self.lab.journal.locks_of(cpu)
        ]
