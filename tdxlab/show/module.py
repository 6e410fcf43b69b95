"""What the rows of `spec` say of the TDX module by name: leaves, statuses, S-EPT and operation states, page types."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from tdxlab.spec import leaves, sept, status
from tdxlab.spec.bits import Layout, SeptEntry, bits
from tdxlab.spec.checks import CHECKS, Check, allows
from tdxlab.spec.effects import EFFECTS, Effect
from tdxlab.spec.features import PROFILES
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.levels import LEVEL_1G, LEVEL_2M, LEVEL_4K
from tdxlab.spec.operands import Operand
from tdxlab.spec.outputs import LAYOUTS, OUTPUTS, REFUSED, Registers
from tdxlab.spec.pamt import PageType
from tdxlab.spec.status import TAKES_OPERAND, Status
from tdxlab.spec.tdstate import RUNS_IN, TRACKS_TLB, ExitReason, OpState, VcpuState

Entry = dict[str, Any]
MODES = {"S": "shared", "X": "exclusive", "S->X": "the share becomes exclusive"}
LEVELS = {LEVEL_4K: "4K", LEVEL_2M: "2M", LEVEL_1G: "1G"}
DETAILS: dict[str, dict[int, str]] = {
    "level": LEVELS,
    "operation state": {n.value: n.name for n in OpState},
    "vCPU state": {n.value: n.name for n in VcpuState},
    "exit reason": {n.value: n.name for n in ExitReason},
}
"""What a number in bits 31:0 is called, by the kind of the detail."""
NOT_TOLD = {"operation state", "vCPU state"}  # by 1.5.01, which has 0 there [oracle]
RESERVED = bits(59, 48)  # of a status
TRACKED = " (where the TD may run, only after BLOCK and TRACK)"


def names() -> Iterator[str]:
    """Whatever can be asked for here."""
    yield from leaves.BY_NAME
    yield from status.NAMES.values()
    yield from sept.STATES
    yield from PROFILES
    for words in (PageType, OpState, Operand):
        yield from words.__members__


# --- leaves ---


def leaf(name: str) -> Iterator[Entry]:
    """A leaf by its name or how that ends, as PAGE.AUG; the leaves whose names end so, if there are several."""
    ending = f".{name.upper().replace('_', '.')}"
    found = [one for full, one in leaves.BY_NAME.items() if f".{full}".endswith(ending)]
    if len(found) == 1:
        yield leaf_entry(found[0])
    elif found:
        yield {"leaves": {one.name: one.purpose for one in found}}


def leaf_entry(of: Leaf) -> Entry:
    """Operands, then in order what it locks and what it refuses, then what it changes and gives back."""
    rows = list(enumerate(CHECKS.get(of, ()), 1))
    sources = [of.source, *(key for _, row in rows for key in row.source.split("; "))]
    return {
        "leaf": f"{of.name} ({'SEAMCALL' if of.side == 'host' else 'TDCALL'} {of.number})",
        "purpose": of.purpose,
        "operands": {register.upper(): operand_text(meaning) for register, meaning in of.operands},
        "outputs": upper(OUTPUTS.get(of, {})),
        "outputs where it is refused": upper(REFUSED.get(of, {})),
        "runs in": [state.name for state in sorted(RUNS_IN.get(of, ()))],
        "locks": {f"{n} {row.what}": lock_text(row) for n, row in rows if row.lock},
        "checks": {f"{n} {row.what}": check_text(row) for n, row in rows if not row.lock},
        "S-EPT": sept_rules(of),
        "PAMT": dict(map(effect_text, EFFECTS.get(of, ()))),
        "statuses": {row.refuses.name: row.refuses.sentence for _, row in rows if row.refuses is not None},
        "source": "; ".join(dict.fromkeys(sources)),
    }


def operand_text(meaning: str) -> str:
    """What an operand is, and which of its bits mean what."""
    return f"{meaning}: {bits_text(LAYOUTS[meaning])}" if meaning in LAYOUTS else meaning


def bits_text(layout: type[Layout]) -> str:
    """ "LEVEL 2:0, GPA 51:12", without what is reserved."""
    told = {name: mask for name, mask in layout.fields().items() if not name.startswith("_")}
    return ", ".join(f"{name} {' '.join(runs(mask))}" for name, mask in told.items())


def runs(mask: int) -> Iterator[str]:
    """The runs of set bits, lowest first: "3:2", "15:6"."""
    while mask:
        low = (mask & -mask).bit_length() - 1
        above = mask + (1 << low)
        high = (above & -above).bit_length() - 2
        yield f"{high}:{low}" if high > low else f"{low}"
        mask &= above


def upper(registers: Registers) -> dict[str, str]:
    """Registers as people write them."""
    return {register.upper(): meaning for register, meaning in registers.items()}


def lock_text(row: Check) -> str:
    """How it is taken, and what a call that does not get it answers."""
    assert row.lock is not None
    parts = [MODES[row.lock.mode], "implicit" if row.lock.implicit else "", f"else {answer(row)}", condition(row)]
    return ", ".join(filter(None, parts))


def check_text(row: Check) -> str:
    """What a call that does not pass it answers."""
    parts = [f"else {answer(row)}" if row.refuses is not None else "", condition(row)]
    return ", ".join(filter(None, parts))


def condition(row: Check) -> str:
    """When it applies, if not always."""
    return f"if: {row.when}" if row.when else ""


def answer(row: Check) -> str:
    """The status with its operand, or with what the detail is instead: `TDX_OPERAND_BUSY|RDX`."""
    assert row.refuses is not None
    return f"{row.refuses.name}|{row.detail}" if row.detail else status_text(row.refuses)


def status_text(value: Status) -> str:
    """As `repr`, but with the operand whose id is 0 too."""
    return f"{value.name}|{Operand(value.detail).name}" if value.code in TAKES_OPERAND else repr(value)


def effect_text(effect: Effect) -> tuple[str, str]:
    """(whose page, what it was and becomes)."""
    kind = {True: ", Dynamic PAMT and 2M", False: ", static PAMT or 1G", None: ""}[effect.dynamic]
    before = "any use" if effect.before is None else effect.before.name
    return effect.of + kind, f"{before} -> {effect.after.name}"


def sept_rules(of: Leaf) -> dict[str, str]:
    """{state: what becomes of it}; "any other" is refused."""
    found = {str(rule.state): result_text(rule) for rule in sept.RULES.values() if rule.leaf is of}
    found |= {str(state): other.name for (refused, state), other in sept.REFUSED.items() if refused is of}
    if found and of.side == "host" and len(found) < len(sept.STATES):
        found["any other"] = status.TDX_EPT_ENTRY_STATE_INCORRECT.name
    return found


def result_text(rule: sept.Rule) -> str:
    """The state afterwards, and what else the row says."""
    note = rule.source.partition("; ")[2]
    result = str(rule.result) if rule.result else "" if note else "unchanged"
    return "; ".join(filter(None, (result, note))) + (TRACKED if rule.needs else "")


# --- statuses ---


def status_value(name: str) -> Iterator[Entry]:
    """A status by its value, or by its name with or without what bits 31:0 say: TDX_OPERAND_BUSY|RCX, OPERAND_BUSY."""
    value = status_called(name)
    if value is None or not value.sentence:
        if value is not None and value.error and value.family and not value & RESERVED:
            yield {**told(value), "meaning": f"a status without a name here; bits 31:0 are {value.detail:#x}"}
        return
    by: dict[str, str] | list[str]
    if not value:
        yield {**told(value), "answered by": "every leaf that has done its work"}
    elif value.detail or name[0].isdigit() or "|" in name:
        by = [str(leaf) for leaf in CHECKS if allows(leaf, value)]
        yield {**told(value), **details(value), "answered by": by}
    else:
        by = {str(leaf): " ".join(dict.fromkeys(operand(row) for row in answering(leaf, value))) for leaf in CHECKS}
        yield {**told(value), "answered by": {leaf: operands for leaf, operands in by.items() if operands}}


def status_called(name: str) -> Status | None:
    """The value that a name, or a name and a detail, or a number stands for."""
    word, _, detail = name.upper().partition("|")
    try:
        if word.startswith("0X") and word[2:].isalnum():
            return Status(int(word, 16))
        code = status.BY_NAME.get(word, status.BY_NAME.get(f"TDX_{word}"))
        named = Operand.__members__.get(detail)
        return None if code is None else code.at(int(detail or "0", 16) if named is None else named)
    except ValueError:
        return None


def told(value: Status) -> Entry:
    """What a status says whoever answers it."""
    return {
        "status": repr(value),
        "value": f"{int(value):#018x}",
        "class": value.family,
        "flags": value.flags or ["none"],
        "meaning": value.sentence,
    }


def answering(leaf: Leaf, value: Status) -> list[Check]:
    """The rows in which a leaf answers this code."""
    return [row for row in CHECKS[leaf] if row.refuses is not None and row.refuses.code == value.code]


def operand(row: Check) -> str:
    """What bits 31:0 name in a row's refusal."""
    return answer(row).partition("|")[2] or "no operand"


def details(value: Status) -> dict[str, str]:
    """What bits 31:0 of a value say: {"operand": "RCX"}, or {"level": "2M"}."""
    kinds = {row.detail for leaf in CHECKS for row in answering(leaf, value) if value.detail in row.details} - {""}
    if not kinds and value.code in TAKES_OPERAND and value.detail in Operand._value2member_map_:
        return {"operand": Operand(value.detail).name}
    names = {kind: DETAILS.get(kind, {}).get(value.detail, f"{value.detail:#x}") for kind in sorted(kinds)}
    any_in_01 = {kind: f"{names[kind]}; in 1.5.01 any" for kind in NOT_TOLD & names.keys() if not value.detail}
    return names | any_in_01


# --- module versions, operands, states, page types ---


def version(name: str) -> Iterator[Entry]:
    """A version of the module that is modelled, by what differs between versions."""
    if name in PROFILES:
        switches = {switch: value for switch, value in asdict(PROFILES[name]).items() if switch != "release"}
        yield {"module": switches.pop("version")} | {
            switch.replace("_", " "): switch_text(value) for switch, value in switches.items()
        }


def switch_text(value: bool | int) -> str:
    """How a version differs: yes or no, an operand, bits."""
    if isinstance(value, Operand):
        return value.name
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else f"{value:#x}"


def operand_id(name: str) -> Iterator[Entry]:
    """What bits 31:0 of a refusal can name: {leaf: statuses}."""
    wanted = name.upper()
    if wanted in Operand.__members__:
        named: dict[str, list[str]] = {}
        for leaf, rows in CHECKS.items():
            for row in rows:
                if row.refuses is not None and operand(row) == wanted:
                    named.setdefault(str(leaf), []).append(row.refuses.name)
        by = {leaf: " ".join(dict.fromkeys(statuses)) for leaf, statuses in named.items()}
        yield {"operand": wanted, "id": int(Operand[wanted]), "named by": by}


def sept_state(name: str) -> Iterator[Entry]:
    """A state of an S-EPT entry, or all of them."""
    if name.upper() in ("SEPT", "S-EPT"):
        yield {"S-EPT states": {state.name: state_text(state) for state in sept.STATES.values()}}
    state = sept.STATES.get(name.upper())
    if state is not None:
        rules = [rule for rule in sept.RULES.values() if rule.state is state]
        yield {
            "S-EPT state": state.name,
            "is": state_text(state),
            "entry bits": SeptEntry.show(state.bits),
            "made by": list(dict.fromkeys(str(rule.leaf) for rule in sept.RULES.values() if rule.result is state)),
            "leaves": {str(rule.leaf): result_text(rule) for rule in rules},
        }


def state_text(state: sept.State) -> str:
    """What kind of entry it is, what the guest may do, what RDX calls it."""
    kinds = {"leaf": state.leaf, "pending": state.pending, "blocked": state.blocked}
    kind = ", ".join(word for word, holds in kinds.items() if holds) or "no leaf"
    return f"{kind}; guest access {state.access or 'none'}; code {state.code}"


def page_type(name: str) -> Iterator[Entry]:
    """What the module uses a page for."""
    if name.upper() in PageType.__members__:
        type = PageType[name.upper()]
        effects = [(str(leaf), effect) for leaf, rows in EFFECTS.items() for effect in rows]
        yield {
            "page type": type.name,
            "code": int(type),
            "given by": list(dict.fromkeys(leaf for leaf, effect in effects if effect.after is type)),
            "taken by": list(dict.fromkeys(leaf for leaf, effect in effects if effect.before is type)),
        }


def op_state(name: str) -> Iterator[Entry]:
    """A TD's operation state."""
    if name.upper() in OpState.__members__:
        state = OpState[name.upper()]
        yield {
            "operation state": state.name,
            "code": int(state),
            "the TD may run": "yes: changes of its S-EPT need BLOCK and TRACK" if state in TRACKS_TLB else "no",
            "leaves": [str(leaf) for leaf, states in RUNS_IN.items() if state in states],
        }


LOOKS = (version, status_value, sept_state, page_type, op_state, operand_id)
