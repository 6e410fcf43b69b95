"""Entries as fields: which bits belong together, what they are about, what their value says.

A word is drawn by `bits`; here it is plain data.  Layouts come from `spec.bits`, colours by group from the palette.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from tdxlab import data
from tdxlab.lessons.entries import PamtAt, SeptAt
from tdxlab.spec.bits import Layout, PamtEntry, PamtNode, PamtNodeTail, SeptEntry, SharexWord, bits, field
from tdxlab.spec.levels import LEVEL_1G, LEVEL_2M, LEVEL_4K, LEVEL_256T, LEVEL_512G, PAGE_SHIFT
from tdxlab.spec.pamt import PT_NDA, PT_PAMT, PageType
from tdxlab.spec.sept import STATES

# fmt: off
GROUPS = {
    "R": "access", "W": "access", "X": "access", "XU": "access",
    "MT": "memory type",
    "IPAT": "state", "PS": "state", "D": "state", "EX": "state", "BW": "state", "B": "state", "P": "state",
    "TYPE": "state",
    "HKID": "page", "HPA": "page", "OWNER": "page", "PAGE": "page",
    "LOCK": "lock", "HP": "lock",
    "BEPOCH": "epoch", "COUNT": "epoch",
}
"""What each field is about; those that are not named are "other"."""
LEVELS = {LEVEL_4K: "4K", LEVEL_2M: "2M", LEVEL_1G: "1G", LEVEL_512G: "512G", LEVEL_256T: "256T"}
# fmt: on
WRITE_BACK = 6
STALE = "stale"
"""What stands for a field of a free page's PAMT entry: what was there before.  [statement 72]"""


class Bepoch(Layout):
    """The second word of a PAMT entry that is no node.  [S01:pamt_manager.h]"""

    MIG = bits(63, 63)  # the page is being exported
    BEPOCH = bits(62, 0)


@dataclass(frozen=True, slots=True)
class Part:
    """One field of a word: bits msb:lsb, its value, and what that says to people."""

    name: str
    msb: int
    lsb: int
    group: str
    value: int
    text: str

    @property
    def width(self) -> int:
        """Bits."""
        return self.msb - self.lsb + 1


@dataclass(frozen=True, slots=True)
class Word:
    """A word of an entry: what it is, its value, its fields from the highest bit down."""

    title: str
    value: int
    parts: tuple[Part, ...]


def word(title: str, layout: type[Layout], value: int) -> Word:
    """A word by its layout."""
    parts = [
        Part(
            name.strip("_") if not name.startswith("_") else "",
            mask.bit_length() - 1,
            (mask & -mask).bit_length() - 1,
            GROUPS.get(name, "other"),
            field(value, mask),
            TEXTS.get(name, plain)(field(value, mask), layout),
        )
        for name, mask in layout.fields().items()
    ]
    return Word(title, value, tuple(sorted(parts, key=lambda part: -part.msb)))


Say = Callable[[int, type[Layout]], str]


def plain(value: int, _: type[Layout]) -> str:
    """A number."""
    return f"{value:#x}" if value > 9 else str(value)


def count(value: int, _: type[Layout]) -> str:
    """A number of pages, or of an epoch."""
    return str(value)


def address(value: int, layout: type[Layout]) -> str:
    """A frame number as an HPA."""
    return f"{value << PAGE_SHIFT:#x}"


def memory_type(value: int, _: type[Layout]) -> str:
    """6 is write-back, on leaves; on other entries the field is 0 and says nothing."""
    return f"{value} WB" if value == WRITE_BACK else str(value)


def use(value: int, _: type[Layout]) -> str:
    """A page's use by name."""
    return f"{value} {PageType(value).name}"


def lock(value: int, layout: type[Layout]) -> str:
    """An S-EPT entry has one bit; a lock of the PAMT has readers as well."""
    return plain(value, layout) if layout is SeptEntry else lock_text(value)


def lock_text(value: int) -> str:
    """Who holds a lock of the PAMT."""
    readers = field(value, SharexWord.READERS)
    held = "exclusive" if value & SharexWord.EXCLUSIVE else f"{readers} shared" if readers else "free"
    return held + (", host priority" if value & SharexWord.HP else "")


TEXTS: dict[str, Say] = {
    "HPA": address,
    "OWNER": address,
    "PAGE": address,
    "MT": memory_type,
    "TYPE": use,
    "LOCK": lock,
    "COUNT": count,
    "BEPOCH": count,
}
"""How a field's value is told; the others are numbers."""


def sept_word(at: SeptAt) -> Word:
    """An S-EPT entry.  Its HPA is told apart from the HKID that the module puts in front from 1.5.25 on."""
    title = f"S-EPT entry [{at.index}] at level {LEVELS[at.level]}, {at.state.name}"
    found = word(title, SeptEntry, at.word)
    parts: list[Part] = []
    for part in found.parts:
        if part.name != "HPA":
            parts.append(part)
            continue
        hkid = at.word >> at.hkid_start & (1 << part.msb + 1 - at.hkid_start) - 1
        parts.append(Part("HKID", part.msb, at.hkid_start, part.group, hkid, str(hkid)))
        hpa = at.hpa >> PAGE_SHIFT
        parts.append(Part("HPA", at.hkid_start - 1, part.lsb, part.group, hpa, address(hpa, SeptEntry)))
    return replace(found, parts=tuple(parts))


def pamt_words(at: PamtAt) -> tuple[Word, Word]:
    """A PAMT entry: both words, in the form of a leaf or of a node."""
    where = f"PAMT entry of {at.hpa:#x} at {LEVELS[at.level]}"
    if at.type is PT_PAMT:
        first = word(f"{where}, a node", PamtNode, at.first)
        return numbered(first, 0), numbered(word("its second word", PamtNodeTail, at.second), 1)
    first, second = word(f"{where}, {at.type.name}", PamtEntry, at.first), word("its second word", Bepoch, at.second)
    return (stale(first), stale(second)) if at.type is PT_NDA else (first, second)


ENTRIES = {"S-EPT": (SeptEntry,), "PAMT": (PamtEntry, Bepoch), "PAMT, node": (PamtNode, PamtNodeTail)}


def fields() -> list[dict[str, str]]:
    """A row for each field of an entry: its bits, and what the glossary says of it."""
    means = {row["word"]: row["means"] for row in data.rows("glossary")}
    parts = {
        part.name: (entry, part)
        for entry, layouts in reversed(ENTRIES.items())
        for n, layout in enumerate(layouts)
        for part in numbered(word("", layout, 0), n).parts
        if part.name
    }
    return [
        {
            "entry": entry,
            "field": part.name,
            "bits": f"{part.msb}:{part.lsb}" if part.width > 1 else str(part.msb),
            "what it says": re.sub(r"^((bit|field) of|of an entry)[^:]*: ", "", means[part.name]),
        }
        for entry, part in sorted(parts.values(), key=lambda found: ([*ENTRIES].index(found[0]), -found[1].msb))
    ]


def states() -> list[dict[str, str]]:
    """A row for each state of an S-EPT entry: which of its bits are 1.  Left out: states that only migration makes."""
    return [
        {
            "state": state.name,
            "bits that are 1": " ".join(name for name, bit in SeptEntry.fields().items() if bit & state.bits) or "none",
            "maps a page": "yes" if state.leaf else "no",
            "the guest may": (state.access or "nothing") if state.leaf else "-",
        }
        for state in STATES.values()
        if not state.name.endswith(("BLOCKEDW", "DIRTY", "REMOVED"))
    ]


def stale(free: Word) -> Word:
    """Whose page and since when: a free entry still has it from before, and it means nothing any more."""
    return replace(free, parts=tuple(replace(p, text=STALE) if p.value and p.name != "LOCK" else p for p in free.parts))


def numbered(node: Word, n: int) -> Word:
    """The two words of a node tell of page 0 and of page 1."""
    parts = (replace(part, name=f"PAGE {n}") if part.name == "PAGE" else part for part in node.parts)
    return replace(node, parts=tuple(parts))
