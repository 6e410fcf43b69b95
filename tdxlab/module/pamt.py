"""The PAMT: what each frame of physical memory is used for, at three levels.

An entry is two words, {type, owner} and BEPOCH, and its lock is a word of its own.  One page of PAMT holds 256 of
them; an entry that nobody has written is PT_NDA.  With Dynamic PAMT there are no 4K entries but in the page pairs
that the host gives: the 2M entry is then a node, {PT_PAMT, page 0} and page 1, with a count of the 4K pages in use
(a word of its own here), and a bitmap tells which pages serve as PAMT pages themselves.
Left out: where in the PAMT areas an entry or a bit lies.  [S01:pamt_manager.c, S25:pamt_manager.c]
"""

from __future__ import annotations

from functools import partial

from tdxlab.engine.cells import Journal, Record, Table, Words
from tdxlab.engine.run import MachineDead
from tdxlab.engine.step import ADD, READ, WRITE, Touch, step
from tdxlab.hw.memory import OnDemand
from tdxlab.hw.sharex import Held, Sharex
from tdxlab.spec.bits import PamtEntry, PamtNode, field, place
from tdxlab.spec.levels import ENTRIES, LEVEL_1G, LEVEL_2M, LEVEL_4K, PAGE_SHIFT, PAGE_SIZE, SHIFTS, shift
from tdxlab.spec.pamt import ENTRY_BYTES, LAST_PAGE_HINT, PT_NDA, PT_PAMT, PT_RSVD, PageType

PER_PAGE = PAGE_SIZE // ENTRY_BYTES
NAMES = ("4k", "2m", "1g")
LAST = PER_PAGE - 1
UNUSED = [0] * PER_PAGE
TYPE = PamtEntry.TYPE
TYPES = {place(type, PamtEntry.TYPE): type for type in PageType}
UNSET, NODE = place(PT_NDA, PamtEntry.TYPE), place(PT_PAMT, PamtNode.TYPE)
NODE_SHIFT = 16  # from an HPA to its frame number's place in a node
PAIR_SHIFT = 20  # page 0 of a pair has the entries of the range's first MiB


class Chunk:
    """One page of PAMT.  Neither word has a guard: both are also accessed without the lock."""

    __slots__ = ("bepochs", "entries", "locks")

    def __init__(self, journal: Journal, where: str) -> None:
        self.entries = Words(journal, f"pamt:{where}", UNUSED)
        self.bepochs = Words(journal, f"bepoch:{where}", UNUSED)
        self.locks = Sharex(journal, f"pamt_lock:{where}", PER_PAGE)

    def touches(self, mode: str, *, locks: bool = False) -> tuple[Touch, ...]:
        """Touches of all entries, and of their locks where the page is a new one."""
        told = (self.entries, None, mode), (self.bepochs, None, mode)
        return (*told, (self.locks, None, mode)) if locks else told

    def clear(self) -> None:
        """Make it a new page of PAMT, whoever still holds a lock in it."""
        self.entries.fill(UNUSED)
        self.bepochs.fill(UNUSED)
        self.locks.fill(UNUSED)

    def assign(self, type: PageType, owner: int) -> None:
        """Give all pages one use; BEPOCH starts at 0.  The step touches all entries, but no lock."""
        self.entries.fill([packed(type, owner)] * PER_PAGE)
        self.bepochs.fill(UNUSED)


class PamtPage:
    """A PAMT entry that a walk or an HPA led to, and what it held when it was read."""

    __slots__ = ("chunk", "hpa", "i", "level", "word")

    def __init__(self, chunk: Chunk, i: int, hpa: int, level: int, word: int = 0) -> None:
        self.chunk, self.i, self.hpa, self.level, self.word = chunk, i, hpa, level, word

    def read(self) -> PamtPage:
        """Look at {type, owner}."""
        self.word = self.chunk.entries[self.i]
        return self

    @property
    def type(self) -> PageType:
        """What the page was used for."""
        return TYPES[self.word & PamtEntry.TYPE]

    @property
    def owner(self) -> int:
        """HPA of the TDR that owned it."""
        return field(self.word, PamtEntry.OWNER) << PAGE_SHIFT

    @property
    def lock(self) -> tuple[Sharex, int]:
        """The entry's lock."""
        return self.chunk.locks, self.i

    def entry(self, mode: str) -> Touch:
        """A touch of {type, owner}."""
        return self.chunk.entries, self.i, mode

    def bepoch(self, mode: str) -> Touch:
        """A touch of BEPOCH, which is page 1 in a node."""
        return self.chunk.bepochs, self.i, mode

    def pair(self) -> tuple[int, int]:
        """HPAs of the pages that a node leads to.  The step touches both words."""
        return page_in(self.word), page_in(self.chunk.bepochs[self.i])

    def lead_to(self, page_0: int, page_1: int) -> None:
        """Make the entry a node.  The step touches both words."""
        self.chunk.entries.put(self.i, NODE | page_0 << NODE_SHIFT)
        self.chunk.bepochs.put(self.i, page_1 << NODE_SHIFT)

    def assign(self, type: PageType, owner: int) -> None:
        """Give the page a use; BEPOCH starts at 0.  The step touches both words."""
        self.chunk.entries.put(self.i, packed(type, owner))
        self.chunk.bepochs.put(self.i, 0)

    def free(self) -> None:
        """PT_NDA; the rest stays behind.  [oracle: RDMD of a freed page names the old TDR, statement 72]"""
        self.chunk.entries.put(self.i, self.word & ~PamtEntry.TYPE)


def packed(type: PageType, owner: int) -> int:
    """The first word of an entry."""
    return place(type, PamtEntry.TYPE) | place(owner >> PAGE_SHIFT, PamtEntry.OWNER)


def page_in(word: int) -> int:
    """HPA of the page that a word of a node names."""
    return (word & PamtNode.PAGE) >> NODE_SHIFT


def _new_page(journal: Journal, level: int, n: int) -> Chunk:
    return Chunk(journal, f"{NAMES[level]}:{n * PER_PAGE << SHIFTS[level]:#x}")


class Pamt(Record):
    """All entries of all TDMRs.

    pages: by level, {number of the PAMT page: its entries}; pairs: {HPA: entries in a page that the host gave}.
    bits: {2M range: 512 bits, one a page that serves as PAMT page or is reserved}.  counts: {2M range: 4K pages in
    use}, changed atomically.  dynamic: written once, before any other leaf can run.
    """

    dynamic: bool
    pages: tuple[OnDemand[int, Chunk], ...]
    pairs: OnDemand[int, Chunk]
    bits: OnDemand[int, Words]
    counts: Table
    __slots__ = ("bits", "counts", "dynamic", "pages", "pairs")
    FIXED = Record.FIXED | frozenset(__slots__)

    def __init__(self, journal: Journal) -> None:
        super().__init__(journal, "pamt_mode")
        values = {
            "dynamic": False,
            "pages": tuple(OnDemand(partial(_new_page, journal, level)) for level in range(len(NAMES))),
            "pairs": OnDemand(lambda hpa: Chunk(journal, f"pair:{hpa:#x}")),
            "bits": OnDemand(lambda n: Words(journal, f"pamt_bitmap:{n << shift(LEVEL_2M):#x}", [0] * ENTRIES)),
            "counts": Table(journal, "page_count"),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    # --- a new one ---

    def chunks(self) -> list[Chunk]:
        """All entries that were ever looked at."""
        return [chunk for pages in (*self.pages, self.pairs) for chunk in pages.values()]

    def cells(self) -> list[Touch]:
        """All that was ever looked at, to be written."""
        touches = [touch for chunk in self.chunks() for touch in chunk.touches(WRITE, locks=True)]
        return [
            (self, None, WRITE),
            (self.counts, None, WRITE),
            *((bits, None, WRITE) for bits in self.bits.values()),
            *touches,
        ]

    def begin(self, dynamic: bool) -> None:
        """No page is in use, reserved or locked, whatever was before.  The step touches all cells."""
        self.dynamic = dynamic
        for chunk in self.chunks():
            chunk.clear()
        for bits in self.bits.values():
            bits.fill([0] * ENTRIES)
        for n in list(self.counts):
            self.counts.put(n, 0)

    # --- where an entry is ---

    def page(self, hpa: int, level: int) -> PamtPage:
        """The entry of `hpa` at `level`; {type, owner} is not read yet.

        With Dynamic PAMT a 4K entry is found through the node of its range, which the step touches.
        Raises MachineDead where there is no pair.
        """
        i = hpa >> SHIFTS[level]
        if level != LEVEL_4K or not self.dynamic:
            return PamtPage(self.pages[level][i >> 8], i & LAST, hpa, level)
        pair = self.pair(hpa)
        if pair is None:
            raise MachineDead(f"the module uses {hpa:#x}, but its 2M range has no PAMT page pair")
        return PamtPage(self.pairs[pair[hpa >> PAIR_SHIFT & 1]], i & LAST, hpa, level)

    def node(self, hpa: int) -> tuple[Touch, ...]:
        """What is read to find the 4K entry of `hpa`."""
        if not self.dynamic:
            return ()
        node, i = self.pages[LEVEL_2M][hpa >> 29], hpa >> 21 & LAST
        return (node.entries, i, READ), (node.bepochs, i, READ)

    def pair(self, hpa: int) -> tuple[int, int] | None:
        """HPAs of the pair that the 2M range of `hpa` has, or None."""
        node, i = self.pages[LEVEL_2M][hpa >> 29], hpa >> 21 & LAST
        word = node.entries[i]
        return (page_in(word), page_in(node.bepochs[i])) if word & TYPE == NODE else None

    def paired(self) -> dict[int, tuple[int, int]]:
        """{2M range: its pair}, of the ranges that have one.  All are looked at: not for a step."""
        nodes = self.pages[LEVEL_2M].items() if self.dynamic else ()
        return {
            n * PER_PAGE + i << SHIFTS[LEVEL_2M]: (page_in(word), page_in(chunk.bepochs[i]))
            for n, chunk in nodes
            for i, word in enumerate(chunk.entries)
            if word & TYPE == NODE
        }

    def lock_of(self, hpa: int) -> tuple[Sharex, int] | None:
        """The lock of a 4K page's entry, or None where there is no such entry."""
        return None if self.dynamic and self.pair(hpa) is None else self.page(hpa, LEVEL_4K).lock

    def below(self, hpa: int, level: int) -> list[Chunk]:
        """The two pages with the 512 entries at `level` that make up the page at `hpa` one level above."""
        second = hpa + (PER_PAGE << shift(level))
        return [self.page(hpa, level).chunk, self.page(second, level).chunk]

    def given(self, *pages: int) -> list[Chunk]:
        """The entries in pages of the host that are PAMT pages, or are about to be."""
        return [self.pairs[page] for page in pages]

    def bit(self, hpa: int) -> tuple[Words, int]:
        """Where a page's bit is."""
        return self.bits[hpa >> shift(LEVEL_2M)], hpa >> PAGE_SHIFT & ENTRIES - 1

    def serves(self, hpa: int) -> bool:
        """Is the page a PAMT page itself, or reserved?  The step touches its bit."""
        words, i = self.bit(hpa)
        return self.dynamic and bool(words[i])

    def mark(self, hpa: int, serves: int) -> None:
        """Say whether the page is a PAMT page.  The step touches its bit."""
        words, i = self.bit(hpa)
        words.put(i, serves)

    # --- locked ---

    async def walk(self, held: Held, hpa: int, level: int, exclusive: bool, operand: int, *reads: Touch) -> PamtPage:
        """Lock from the root to `level`, or to where entries lead no further: parents shared, the last as asked for.

        A parent that turns out to be the last is taken shared and then upgraded, which its only reader can do.
        Without a pair the 2M entry is the last.  reads: what else is looked at with the last entries.
        """
        pages, at_once = self.pages, held.at_once
        chunk, i, at = pages[LEVEL_1G][hpa >> 38], hpa >> 30 & LAST, LEVEL_1G
        if not at_once(chunk.locks, i):
            await held.shared(chunk.locks, i, operand, (chunk.entries, i, READ))
        word = chunk.entries[i]
        if level < at and word & TYPE == UNSET:
            chunk, i, at = pages[LEVEL_2M][hpa >> 29], hpa >> 21 & LAST, LEVEL_2M
            if not at_once(chunk.locks, i):
                node = ((chunk.bepochs, i, READ), *reads) if self.dynamic else ()
                await held.shared(chunk.locks, i, operand, (chunk.entries, i, READ), *node)
            word = chunk.entries[i]
            if level < at and word & TYPE == (NODE if self.dynamic else UNSET):
                if self.dynamic:
                    chunk = self.pairs[page_in(chunk.bepochs[i] if hpa >> PAIR_SHIFT & 1 else word)]
                else:
                    chunk = pages[LEVEL_4K][hpa >> 20]
                i, at = hpa >> PAGE_SHIFT & LAST, LEVEL_4K
                if exclusive:
                    at_once = held.alone_at_once
                if not at_once(chunk.locks, i):
                    take = held.exclusive if exclusive else held.shared
                    await take(chunk.locks, i, operand, (chunk.entries, i, READ), *reads)
                word = chunk.entries[i]
        if exclusive and at != LEVEL_4K:
            await held.upgrade(chunk.locks, i, operand)
        return PamtPage(chunk, i, hpa, at, word)

    async def known(self, hpa: int, level: int) -> PamtPage:
        """The entry of a page that the module knows from an S-EPT entry or an owner field (an *implicit* access).

        No lock is taken.  With Dynamic PAMT the node is read first, also without its lock.
        """
        if level == LEVEL_4K and self.dynamic:
            await step(*self.node(hpa), at="PAMT node")
        return self.page(hpa, level)

    async def implicit(
        self, held: Held, hpa: int, level: int, exclusive: bool, operand: int, *, merged: bool = False
    ) -> PamtPage:
        """Lock only the entry itself: the module knows the page already.

        merged: the page is about to come into being from 512 small ones, so that its entry is no page's yet.
        Raises MachineDead where the entry contradicts what led to it.
        """
        found = await self.known(hpa, level)
        take = held.exclusive if exclusive else held.shared
        await take(*found.lock, operand, found.entry(READ))
        if found.read().type in (PT_NDA, PT_RSVD) and not merged:
            raise MachineDead(f"the PAMT entry of {hpa:#x} is {found.type.name}, but the module uses the page")
        return found

    # --- how many pages of a range are in use ---

    async def count_in(self, page: PamtPage) -> None:
        """One more 4K page of its range is in use."""
        if self.dynamic and page.level == LEVEL_4K:
            n = page.hpa >> shift(LEVEL_2M)
            await step((self.counts, n, ADD), at="inc")
            self.counts.put(n, self.counts[n] + 1)

    async def count_out(self, page: PamtPage) -> int:
        """One less.  Returns the page's HPA, with the hint if none is left.

        The 2M entry is not locked: another CPU may have taken a page of the range before the caller sees the hint,
        and before the count moves the entry says free already.  [statements 76 to 81]
        """
        if not (self.dynamic and page.level == LEVEL_4K):
            return page.hpa
        n = page.hpa >> shift(LEVEL_2M)
        await step((self.counts, n, WRITE), at="dec")
        left = self.counts[n] - 1
        self.counts.put(n, left)
        await step(at="decd")
        return page.hpa if left else page.hpa | LAST_PAGE_HINT
