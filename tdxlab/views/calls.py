"""Calls as text: operands by name, the answer and why, what really changed, the locks in the order taken."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tdxlab.hw.sharex import HP
from tdxlab.lessons.leaves import Call, answer
from tdxlab.lessons.locks import Taken
from tdxlab.lessons.refusals import Refusal
from tdxlab.lessons.refusing import answering
from tdxlab.spec.bits import ExtendedQualification, GpaLevel, HpaLevel, PamtEntry, field
from tdxlab.spec.leaves import NULL_PA, named
from tdxlab.spec.levels import LEVEL_2M, shift
from tdxlab.spec.pamt import LAST_PAGE_HINT, PageType
from tdxlab.spec.sept import BY_BITS, STATE_MASK, STATES
from tdxlab.spec.status import Status
from tdxlab.spec.tdstate import ExtendedExit
from tdxlab.views import text
from tdxlab.views.rows import Row
from tdxlab.views.words import LEVELS

UNTOLD = ("tdr", "tdr_flags", "register_bitmap")
"""Operands that are the same in each call of a lesson."""
NO_EPOCH = 1 << 16
"""The second word of a PAMT entry holds a page's address from here on, and an epoch below."""
CARD = 10  # characters before the text of a card
RETURNED = ("rcx", "rdx", "r8", "r9", "r12", "r13")


# --- operands ---


def operands(call: Call) -> str:
    """`GPA 0x1000 4K, PAGE`: in order, without the TD and without zeros."""
    meanings = dict(call.leaf.operands)
    told = [operand(meanings[name], value, call.names) for name, value in call.operands.items()]
    return ", ".join(filter(None, told))


def operand(meaning: str, value: int, names: Mapping[int, str]) -> str:
    """One operand for people; "" if it says nothing."""
    if meaning in UNTOLD:
        return ""
    if meaning == "gpa_level":
        return f"GPA {value & ~GpaLevel.LEVEL:#x} {LEVELS.get(value & GpaLevel.LEVEL, '?')}"
    if meaning == "hpa_level":
        return f"{short(value & ~HpaLevel.LEVEL, names)} {LEVELS.get(value & HpaLevel.LEVEL, '?')}"
    if meaning == "hkid":
        return f"HKID {value}"
    return short(value, names) if value else ""


def short(hpa: int, names: Mapping[int, str]) -> str:
    """An address by its name alone, if it has one."""
    return "no page" if hpa == NULL_PA else names.get(hpa, f"{hpa:#x}")


# --- what changed ---


def changes(*calls: Call) -> list[str]:
    """A line each: states of S-EPT entries, uses of pages, fields of the TD, counts; what came back in registers.

    Of several calls: what they changed together.
    """
    net: dict[tuple[str, Any], tuple[Any, Any]] = {}
    for call in calls:
        for where, (old, new) in call.changes.items():
            net[where] = net.get(where, (old, new))[0], new
    words: Counter[str] = Counter()
    for (cell, key), (old, new) in sorted(net.items(), key=lambda item: place(item[0][0])):
        if said := change(cell, key, old, new, calls[-1].names):
            words[said] += 1
    return [*(f"{said} (x{n})" if n > 1 else said for said, n in words.items()), *returned(calls[-1])]


ORDER = ("sept", "pamt", "bepoch", "pamt_bitmap", "page_count", "td", "pamt_lock")
"""Kinds of cells in the order in which they are told of."""


def place(cell: str) -> int:
    """Where in that order."""
    kind = cell.partition(":")[0]
    return ORDER.index(kind) if kind in ORDER else len(ORDER)


def change(cell: str, key: Any, old: Any, new: Any, names: Mapping[int, str]) -> str:
    """One word that changed; "" for one that is not told of."""
    kind, _, where = cell.partition(":")
    if kind == "sept" and state(old) != state(new):
        return f"S-EPT {state(old)} -> {state(new)}"
    if kind == "pamt" and use(old) != use(new):
        return f"PAMT {use(old)} -> {use(new)}"
    if kind == "pamt_bitmap":
        return "bitmap bit set" if new else "bitmap bit cleared"
    if kind == "bepoch" and max(old, new) < NO_EPOCH:
        return f"BEPOCH {old} -> {new}"
    if kind == "page_count":
        return f"count of {short(key << shift(LEVEL_2M), names)} {old} -> {new}"
    if kind == "td" and key in FIELDS:
        return f"{FIELDS[key]} {number(old)} -> {number(new)}"
    if kind == "pamt_lock" and where.startswith("2m"):
        return lock_change(old, new)
    return ""


def lock_change(old: int, new: int) -> str:
    """What stays of a lock after the call: a running vCPU's shares, a host call's mark."""
    if (old ^ new) & HP:
        return "host priority left on a 2M entry" if new & HP else "host priority cleared on a 2M entry"
    return "locks of TDVPR and TDR kept" if new > old else "locks of TDVPR and TDR given back"


FIELDS = {
    "lifecycle": "life cycle",
    "op_state": "OP_STATE",
    "chldcnt": "CHLDCNT",
    "td_epoch": "TD_EPOCH",
    "refcount0": "inside, even epoch:",
    "refcount1": "inside, odd epoch:",
    "num_vcpus": "vCPUs",
}
"""Fields of a TD that are told of."""


def number(value: Any) -> str:
    """A count, or a state by its name."""
    return str(getattr(value, "name", value))


def state(word: int) -> str:
    """The state of an S-EPT word."""
    return BY_BITS[word & STATE_MASK].name


def use(word: int) -> str:
    """What a PAMT word says of its page, without the prefix."""
    return PageType(field(word, PamtEntry.TYPE)).name.removeprefix("PT_")


def returned(call: Call) -> list[str]:
    """Pages that came back in registers, and the hint that one was the last of its range."""
    if call.status.error or call.crossed:
        return []
    out = []
    for register in RETURNED:
        if value := call.outputs.get(register, 0):
            hint = " with the hint, bit 62" if value & LAST_PAGE_HINT else ""
            out.append(f"{register.upper()} = {short(value & ~LAST_PAGE_HINT, call.names)}{hint}")
    return out


# --- locks ---


@dataclass(frozen=True, slots=True)
class Walk:
    """Locks that belong together: those of a walk of the PAMT from the 1G entry down, or any other lock alone."""

    name: str
    locks: tuple[Taken, ...]

    @property
    def how(self) -> str:
        """`1G S  2M S  4K X`, or the mode of the lock."""
        if len(self.locks) == 1 and not self.locks[0].kind.startswith("PAMT"):
            return self.locks[0].how
        return "  ".join(f"{lock.kind.removeprefix('PAMT ')} {lock.how}" for lock in self.locks)


def walks(call: Call) -> list[Walk]:
    """The locks in the order taken."""
    groups: list[list[Taken]] = []
    for lock in call.locks:
        above = groups[-1][-1].kind if groups else ""
        if lock.kind in GOES_ON and above in GOES_ON[lock.kind]:
            groups[-1].append(lock)
        else:
            groups.append([lock])
    return [Walk(lock_name(group[-1], call.names), tuple(group)) for group in groups]


GOES_ON = {"PAMT 2M": ("PAMT 1G", "PAMT 2M"), "PAMT 4K": ("PAMT 2M",)}
"""What a walk comes from.  A share that becomes exclusive is the same entry again."""


def lock_name(lock: Taken, names: Mapping[int, str]) -> str:
    """`TDR`, `OP_STATE`, `SEPT entry [3]`."""
    if lock.kind.startswith("PAMT"):
        return short(lock.where, names)
    return f"{lock.kind} [{lock.where}]" if lock.kind == "SEPT entry" else lock.kind


# --- one call, many calls ---


def card(call: Call) -> str:
    """All about one call, in lines."""
    told = {
        "call": f"LP {call.lp}: {call.leaf.name} {operands(call)}",
        "answer": call.answer,
        "why": "; ".join(why(call)),
        "changed": "; ".join(changes(call)) or "nothing",
        "locks": " > ".join(f"{walk.name} ({walk.how})" for walk in walks(call)) or "none",
    }
    indent = " " * CARD
    lines = [f"{name:{CARD}}{said}" for name, said in told.items() if said]
    return "\n".join(textwrap.fill(line, 104, subsequent_indent=indent) for line in lines) + "\n"


def why(call: Call) -> list[str]:
    """Which of the leaf's checks failed, or may have; where that is not known, what the status means; why it exited."""
    if call.crossed:
        return asked_for(call)
    if not call.status:
        return []
    rows = list(dict.fromkeys(row.what for row in call.refused_by))
    head = "one of these checks failed: " if len(rows) > 1 else "check failed: "
    return [head + "; or ".join(rows)] if rows else [call.status.sentence]


def asked_for(call: Call) -> list[str]:
    """Of a TDCALL that exits because the entry is another one than it needs: what the host reads in RDX."""
    told = ExtendedQualification
    extended = call.outputs.get("rdx", 0) if call.leaf.side == "guest" else 0
    if field(extended, told.TYPE) not in (ExtendedExit.ACCEPT, ExtendedExit.ATTR_WR):
        return []
    asked, found = (LEVELS[field(extended, level)] for level in (told.REQUESTED, told.LEVEL))
    there = next(state.name for state in STATES.values() if state.code == field(extended, told.STATE))
    kind = "leaf" if extended & told.LEAF else "entry"
    return [f"RDX tells the host: {asked} were asked for, and the walk ended at a {found} {kind}, {there}"]


def table(calls: Sequence[Call], fold: bool = False) -> str:
    """A line each: call, answer, what changed.  fold: neighbours with the same leaf and answer are one line."""
    groups = [[call] for call in calls]
    if fold:
        groups = [list(group) for _, group in groupby(calls, lambda call: (call.leaf.name, call.answer))]
    rows: list[Row] = [
        {
            "LP": str(group[0].lp),
            "call": textwrap.fill(told(group), 38, subsequent_indent="  "),
            "answer": textwrap.fill(group[0].answer.removeprefix("TDX_"), 26),
            "what changed, what came back": textwrap.fill("; ".join(changes(*group)) or "-", 32),
        }
        for group in groups
    ]
    return text.table(rows)


def told(group: Sequence[Call]) -> str:
    """A call with its operands; of several, how many."""
    name = group[0].leaf.name
    return f"{name} {operands(group[0])}".rstrip() if len(group) == 1 else f"{name}, {len(group)} times"


def met(answers: Sequence[tuple[Refusal, Status]]) -> str:
    """The refusals that were met: a line each, with what the call really answered."""
    rows = [
        {
            "answer": answer(named(refusal.call[0]), status).removeprefix("TDX_"),
            "from": refusal.call[0],
            "because": textwrap.fill(refusal.because, 27),
            "source": source(refusal),
        }
        for refusal, status in answers
    ]
    return text.table(rows)


def source(refusal: Refusal) -> str:
    """The statement that was checked on the module, else where the leaf's row comes from."""
    if refusal.statement:
        return f"statement {refusal.statement}"
    return answering(named(refusal.call[0]), refusal.status)[0].source.split(":")[0]
