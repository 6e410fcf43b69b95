"""What is true of a whole machine when no call is in progress: a function each, with its sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from tdxlab.engine.cells import Cell, Key
from tdxlab.hw.sharex import ENTRY_HP, ENTRY_LOCK, HP, READER, Sharex
from tdxlab.module import sept
from tdxlab.module.gates import MIN_TDCX
from tdxlab.module.pamt import PER_PAGE, TYPE, TYPES
from tdxlab.module.sept import PROGRESS
from tdxlab.module.state import Td, refcount_of
from tdxlab.spec.bits import PamtEntry, SeptEntry, field, place
from tdxlab.spec.levels import (
    ENTRIES,
    LEVEL_1G,
    LEVEL_2M,
    LEVEL_4K,
    LEVEL_256T,
    PAGE_SHIFT,
    PAGE_SIZE,
    SHIFTS,
    SIZE_1G,
    SIZE_2M,
    size,
)
from tdxlab.spec.pamt import PT_EPT, PT_PAMT, PT_REG, PT_RSVD, PT_TDCX, PT_TDR, PT_TDVPR, PageType
from tdxlab.spec.sept import FREE, FREE_ENTRY, NL_BLOCKED, NL_MAPPED, PENDING, STATE_MASK, STATES, State
from tdxlab.spec.tdstate import KeyState, LifeCycle, OpState, SysState, VcpuState
from tests.fuzz.machine import MODULE_HKID, Machine

Texts = Iterator[str]
Where = tuple[int, int]
"""(HPA, level)"""
Use = tuple[PageType, int]
"""(type, owner)"""
TABLES = NL_MAPPED, NL_BLOCKED
EXAMPLES = 2
WITHOUT_MIGRATION = ("FREE", "NL_MAPPED", "NL_BLOCKED", "MAPPED", "BLOCKED", "PENDING", "PENDING_BLOCKED")
IN_USE = {STATES[name].bits: STATES[name] for name in WITHOUT_MIGRATION}
LEAVES, NODES = range(LEVEL_4K, LEVEL_1G + 1), range(LEVEL_2M, LEVEL_256T + 1)


class Seen(NamedTuple):
    """An S-EPT entry that is not free.  state: FREE if its bits are none without migration."""

    gpa: int
    level: int
    word: int
    state: State
    hpa: int


class Sight:
    """What there is to see of a machine, gathered once for all invariants.

    used: the PAMT entries of TDs' pages.  nodes: {2M range: its page pair}.  tds, vcpus: those that are there; whole:
    TDs whose pages nobody has begun to take back.  tree: S-EPT entries that are not free, [TDR, VM], VM 0 is L1.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine, self.module, self.pamt = machine, machine.module, machine.module.pamt
        self.used: dict[Where, Use] = {}
        self.reserved: set[int] = set()
        self.nodes: dict[int, tuple[int, int]] = {}
        for level, of_level in enumerate(self.pamt.pages):
            for n, chunk in of_level.items():
                if any(chunk.entries):
                    self.read(chunk.entries, n * PER_PAGE << SHIFTS[level], level)
        for hpa, pages in self.nodes.items():
            for n, chunk in enumerate(self.pamt.given(*pages)):
                self.read(chunk.entries, hpa + n * SIZE_2M // 2, LEVEL_4K)
        self.tds = [self.module.tds[hpa] for (hpa, _), (type, _) in self.used.items() if type is PT_TDR]
        self.whole = [td for td in self.tds if td.lifecycle is not LifeCycle.TEARDOWN]
        tdrs = {td.tdr for td in self.whole}
        self.vcpus = [
            self.module.vcpus[hpa]
            for (hpa, _), (type, owner) in self.used.items()
            if type is PT_TDVPR and owner in tdrs
        ]
        self.tree: dict[tuple[int, int], list[Seen]] = {}
        for td in self.whole:
            if td.op_state is not OpState.UNINITIALIZED:
                roots = (td.root, *td.tdcx[MIN_TDCX : MIN_TDCX + td.num_l2_vms])
                self.tree |= {(td.tdr, vm): list(self.walk(td, root)) for vm, root in enumerate(roots)}

    def read(self, words: Sequence[int], start: int, level: int) -> None:
        """Note the entries of a page of PAMT that say something."""
        for i, word in enumerate(words):
            if word & TYPE:
                hpa, type = start + (i << SHIFTS[level]), TYPES[word & TYPE]
                if type is PT_RSVD:
                    self.reserved.add(hpa)
                elif self.pamt.dynamic and type is PT_PAMT:
                    self.nodes[hpa] = self.pamt.page(hpa, level).read().pair()
                else:
                    self.used[hpa, level] = type, field(word, PamtEntry.OWNER) << PAGE_SHIFT

    def walk(self, td: Td, root: int) -> Iterator[Seen]:
        """All entries below a root that are not free."""
        memory, todo = self.machine.memory, [(root, td.top_level, 0)]
        for table, level, gpa in todo:
            for i, word in enumerate(memory.sept_page(table)):
                if word == FREE_ENTRY:
                    continue
                state, at = IN_USE.get(word & STATE_MASK, FREE), gpa + (i << SHIFTS[level])
                hpa = word & memory.hpas & ~(PROGRESS if level == LEVEL_2M and state is PENDING else 0)
                yield Seen(at, level, word, state, hpa)
                if state in TABLES and level > LEVEL_4K:
                    todo.append((hpa, level - 1, at))

    def users(self) -> Iterator[tuple[Where, Use]]:
        """What TDs that are whole use, from their own point of view, but for the control pages of vCPUs."""
        for td in self.tds:
            yield (td.tdr, LEVEL_4K), (PT_TDR, 0)
        for td in self.whole:
            yield from (((hpa, LEVEL_4K), (PT_TDCX, td.tdr)) for hpa in td.tdcx)
        for vcpu in self.vcpus:
            yield (vcpu.tdvpr, LEVEL_4K), (PT_TDVPR, vcpu.tdr)
        for (tdr, _), entries in self.tree.items():
            mapped, table = (PT_REG, tdr), (PT_EPT, tdr)
            for _, level, _, state, hpa in entries:
                if state.leaf:
                    yield (hpa, level), mapped
                elif state in TABLES:
                    yield (hpa, LEVEL_4K), table


# --- the PAMT ---


def a_page_in_use_has_one_user(sight: Sight) -> Texts:
    """A page in use has one user, which the PAMT knows by type, size and owner; a page without one is free there."""
    users = Counter(where for where, _ in sight.users())
    yield from (f"{hpa:#x} has {n} users" for (hpa, _), n in users.items() if n > 1)
    for where, use in sight.users():
        if sight.used.get(where) != use:
            yield f"{where[0]:#x} at level {where[1]} is {use}, in the PAMT {sight.used.get(where)}"
    whole, of_vcpus = {td.tdr for td in sight.whole}, Counter[int]()
    for where, (type, owner) in sight.used.items():
        if where in users or owner not in whole:
            continue
        if type is PT_TDCX:
            of_vcpus[owner] += 1
        else:
            yield f"{where[0]:#x} at level {where[1]} is {type.name} of {owner:#x} in the PAMT, but nobody uses it"
    for td in sight.whole:
        pages = sum(vcpu.tdcx for vcpu in sight.vcpus if vcpu.tdr == td.tdr)
        if of_vcpus[td.tdr] != pages:
            yield f"the vCPUs of {td.tdr:#x} have {pages} control pages, in the PAMT {of_vcpus[td.tdr]}"


def a_page_in_use_can_be_used(sight: Sight) -> Texts:
    """A page in use lies in a block of a TDMR whose PAMT is initialised."""
    usable = sight.module.sys.usable
    for hpa, _ in sight.used:
        if hpa & -SIZE_1G not in usable:
            yield f"{hpa:#x}"


def an_owner_is_a_td(sight: Sight) -> Texts:
    """Who owns a page is a TD."""
    tdrs = {td.tdr for td in sight.tds}
    for (hpa, _), (type, owner) in sight.used.items():
        if type is not PT_TDR and owner not in tdrs:
            yield f"{hpa:#x} is {type.name} of {owner:#x}"


def chldcnt_counts_pages(sight: Sight) -> Texts:
    """CHLDCNT is the number of 4K pages that the PAMT says a TD owns."""
    pages = Counter[int]()
    for (_, level), (type, owner) in sight.used.items():
        pages[owner] += 0 if type is PT_TDR else ENTRIES**level
    for td in sight.tds:
        if td.chldcnt != pages[td.tdr]:
            yield f"CHLDCNT of {td.tdr:#x} is {td.chldcnt}, it owns {pages[td.tdr]}"


def nothing_below_a_large_page(sight: Sight) -> Texts:
    """Below the PAMT entry of a large page all entries are free, and none of its 4K pages is reserved or serves."""
    large = [(hpa, level) for hpa, level in sight.used if level > LEVEL_4K]
    small = [*sight.used, *((hpa, LEVEL_4K) for hpa in (*sight.reserved, *serving(sight)))]
    for level in (LEVEL_2M, LEVEL_1G):
        pages = {hpa >> SHIFTS[level] for hpa, at in large if at == level}
        for hpa, below in small:
            if hpa >> SHIFTS[level] in pages and below < level:
                yield f"{hpa:#x} at level {below} is below a page of level {level}"


def serving(sight: Sight) -> list[int]:
    """The 4K pages whose bit is set."""
    return [
        (n << SHIFTS[LEVEL_2M]) + i * PAGE_SIZE
        for n, words in sight.pamt.bits.items()
        if any(words)
        for i, serves in enumerate(words)
        if serves
    ]


def bits_are_those_of_pairs(sight: Sight) -> Texts:
    """With Dynamic PAMT a page's bit is set if it is reserved or in one page pair, and only then; no TD has it."""
    if not sight.pamt.dynamic:
        return
    pairs = Counter(page for pages in sight.nodes.values() for page in pages)
    yield from (f"{page:#x} is in {n} pairs" for page, n in pairs.items() if n > 1)
    there, reserved = set(serving(sight)), reserved_pages(sight)
    yield from (f"the bit of {page:#x} is {int(page in there)}" for page in there ^ (set(pairs) | reserved))
    yield from (f"{page:#x} serves and is used as {sight.used[page, 0]}" for page in there if (page, 0) in sight.used)


def reserved_pages(sight: Sight) -> set[int]:
    """The reserved pages whose PAMT is there."""
    areas = ((base, min(end, tdmr.next)) for tdmr in sight.module.sys.tdmrs for base, end in tdmr.reserved)
    return {page for base, end in areas for page in range(base, end, PAGE_SIZE)}


def reserved_pages_stay(sight: Sight) -> Texts:
    """With a static PAMT the reserved pages are PT_RSVD, and no others."""
    reserved = set() if sight.pamt.dynamic else reserved_pages(sight)
    yield from (f"{page:#x} is or is not" for page in sight.reserved ^ reserved)


def counts_are_exact(sight: Sight) -> Texts:
    """With Dynamic PAMT the count of a 2M range is the number of its 4K pages in use."""
    used = Counter(hpa >> SHIFTS[LEVEL_2M] for hpa, level in sight.used if level == LEVEL_4K)
    for n in used.keys() | sight.pamt.counts.keys() if sight.pamt.dynamic else ():
        if used[n] != sight.pamt.counts[n]:
            yield f"the count of {n << SHIFTS[LEVEL_2M]:#x} is {sight.pamt.counts[n]}, {used[n]} are in use"


# --- the Secure EPT ---


def entries_are_well_formed(sight: Sight) -> Texts:
    """An S-EPT entry has the bits of its state, which its level can have, and its page is aligned."""
    hpas = sight.machine.memory.hpas
    for (tdr, vm), entries in sight.tree.items():
        td = sight.module.tds[tdr]
        bits = {state: (sept.leaf if state.leaf else sept.non_leaf)(td, 0, state) for state in IN_USE.values()}
        bits[FREE] = FREE_ENTRY
        for gpa, level, word, state, hpa in entries:
            told = f"{tdr:#x} VM {vm} GPA {gpa:#x} level {level}: {word:#x}"
            if (word ^ bits[state]) & ~(hpas | ENTRY_HP | SeptEntry.L2_ALIAS):
                yield f"{told} is no {state}"
            elif state is FREE:
                yield from [f"{told} has a page"] if word & hpas else []
            elif (
                level not in (LEAVES if state.leaf else NODES) or hpa % size(level * state.leaf) or gpa >= td.shared_bit
            ):
                yield f"{told} is misplaced"


def aliases_say_who_has_a_table(sight: Sight) -> Texts:
    """An L1 entry's alias bits say which L2 VMs have a page there."""
    for (tdr, vm), entries in sight.tree.items():
        if vm:
            alias = place(1 << vm - 1, SeptEntry.L2_ALIAS)
            there = {(entry.gpa, entry.level) for entry in entries}
            told = {(entry.gpa, entry.level) for entry in sight.tree[tdr, 0] if entry.word & alias}
            yield from (f"VM {vm} of {tdr:#x}: {gpa:#x} level {level}" for gpa, level in there ^ told)


# --- TDs and vCPUs ---


def the_key_table_knows_tds(sight: Sight) -> Texts:
    """An HKID is in the key table as its TD's life cycle says, free without a TD, and never two TDs'."""
    keys = {MODULE_HKID: KeyState.HKID_RESERVED}
    for td in sight.whole:
        if td.hkid in keys:
            yield f"HKID {td.hkid} is {td.tdr:#x}'s and another's"
        keys[td.hkid] = KeyState.HKID_FLUSHED if td.lifecycle is LifeCycle.BLOCKED else KeyState.HKID_ASSIGNED
    for hkid in keys.keys() | sight.module.kot.keys():
        if sight.module.kot[hkid] is not keys.get(hkid, KeyState.HKID_FREE):
            yield f"HKID {hkid} is {sight.module.kot[hkid].name}"
    for hkid in sight.module.unwritten:
        if keys.get(hkid) is not KeyState.HKID_FLUSHED:
            yield f"HKID {hkid} waits for a write-back"


def epochs_count_vcpus_inside(sight: Sight) -> Texts:
    """The two counts of an epoch are the vCPUs inside that entered in it, which is this one or the one before."""
    inside = Counter[tuple[int, str]]()
    for cpu in sight.machine.cpus:
        if cpu.lp.vcpu:
            vcpu = sight.module.vcpus[cpu.lp.vcpu]
            inside[vcpu.tdr, refcount_of(vcpu.epoch)] += 1
            if sight.module.tds[vcpu.tdr].td_epoch - vcpu.epoch not in (0, 1):
                yield f"LP {cpu.n} is in epoch {vcpu.epoch}"
    for td in sight.tds:
        for count in ("refcount0", "refcount1"):
            # a vCPU that a machine check has ended stays counted [oracle tour N]
            if getattr(td, count) != inside[td.tdr, count] and not (td.fatal and getattr(td, count) > 0):
                yield f"{count} of {td.tdr:#x} is {getattr(td, count)}, inside are {inside[td.tdr, count]}"


def vcpus_are_where_they_say(sight: Sight) -> Texts:
    """A vCPU is ACTIVE where it runs, on the LP that it is associated with; a TD counts its vCPUs and associations."""
    runs_on = {cpu.lp.vcpu: cpu.n for cpu in sight.machine.cpus if cpu.lp.vcpu}
    for vcpu in sight.vcpus:
        lp = runs_on.pop(vcpu.tdvpr, None)
        if (vcpu.state is VcpuState.ACTIVE) != (lp is not None) or lp not in (None, vcpu.assoc_lp):
            yield f"{vcpu.tdvpr:#x} is {vcpu.state.name} on {lp}, associated with {vcpu.assoc_lp}"
    yield from (f"LP {lp} runs {tdvpr:#x}, which is no vCPU" for tdvpr, lp in runs_on.items())
    for td in sight.tds:
        if td.lifecycle in (LifeCycle.BLOCKED, LifeCycle.TEARDOWN) and td.num_assoc_vcpus:
            yield f"{td.tdr:#x} will not run again, but has {td.num_assoc_vcpus} vCPUs on LPs"
    for td in sight.whole:
        mine = [vcpu for vcpu in sight.vcpus if vcpu.tdr == td.tdr]
        ready = [vcpu.index for vcpu in mine if vcpu.state is not VcpuState.UNINITIALIZED]
        associated = sum(vcpu.assoc_lp is not None for vcpu in mine)
        if sorted(ready) != list(range(td.num_vcpus)) or td.num_assoc_vcpus != associated:
            yield f"{td.tdr:#x} has vCPUs {ready}, {associated} associated, counts {td.num_vcpus}, {td.num_assoc_vcpus}"
        if td.num_vcpus > td.max_vcpus or len(set(td.x2apic_ids)) != len(td.x2apic_ids):
            yield f"{td.tdr:#x} has {td.num_vcpus} vCPUs of {td.max_vcpus}, x2APIC ids {td.x2apic_ids}"


# --- locks ---


def locks_are_held_by_somebody(sight: Sight) -> Texts:
    """A lock word is what the vCPUs inside hold of it, and perhaps a host-priority bit."""
    module, readers = sight.module, Counter[tuple[Cell, Key]]()
    for cpu in range(len(sight.machine.cpus)):
        readers.update((lock, key) for lock, key, _ in sight.machine.journal.locks_of(cpu))
    locks: list[Sharex] = [module.sys.lock, module.kot_lock, module.wbcache_lock]
    locks += [tdmr.lock for tdmr in module.sys.tdmrs]
    locks += [lock for td in sight.tds for lock in (td.op_state_lock, td.sept_tree, td.epoch_lock, td.rtmr_lock)]
    locks += [chunk.locks for chunk in sight.pamt.chunks()]
    for lock in locks:
        for i, word in enumerate(lock) if any(lock) else ():
            if word & ~HP != READER * readers[lock, i]:
                yield f"{lock.name}[{i}] is {word:#x}, held by {readers[lock, i]}"
    for entries in sight.tree.values():
        yield from (f"the entry of {entry.gpa:#x} is locked" for entry in entries if entry.word & ENTRY_LOCK)


INVARIANTS: tuple[Callable[[Sight], Texts], ...] = (
    a_page_in_use_has_one_user,
    a_page_in_use_can_be_used,
    an_owner_is_a_td,
    chldcnt_counts_pages,
    nothing_below_a_large_page,
    bits_are_those_of_pairs,
    reserved_pages_stay,
    counts_are_exact,
    entries_are_well_formed,
    aliases_say_who_has_a_table,
    the_key_table_knows_tds,
    epochs_count_vcpus_inside,
    vcpus_are_where_they_say,
    locks_are_held_by_somebody,
)


def of_the_machine(machine: Machine) -> Texts:
    """What is wrong, with some examples of each.  Not while one module takes over from another."""
    if machine.module.sys.state not in (SysState.SYS_READY, SysState.SYSCONFIG_DONE):
        return
    sight = Sight(machine)
    for holds in INVARIANTS:
        yield from (f"{holds.__doc__} {text}" for text in islice(holds(sight), EXAMPLES))
