"""Each leaf takes its locks in the order of its rows: the same words, shared or exclusive, in each kind of module."""

from __future__ import annotations

from typing import Any

import pytest

from tdxlab.engine.cells import Cell, Key
from tdxlab.hw.sharex import Held
from tdxlab.module import HANDLERS, sept
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.bits import GpaLevel
from tdxlab.spec.checks import CHECKS, locks_of
from tdxlab.spec.checks.check import (
    AT_4K,
    DPAMT,
    FROM_1_5_08,
    FROM_1_5_20,
    IN_1_5_01,
    PAGE_2M,
    PAGE_4K,
    UNTIL_1_5_16,
    VERSION_0,
    VERSION_1,
    Lock,
)
from tdxlab.spec.features import V1_5_01, V1_5_25
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.levels import LEVEL_1G, LEVEL_2M, LEVEL_4K
from tdxlab.spec.operands import R8, RCX
from tests.module.calls import CASES, MODES, NO_PAIR, Call, Case, prepared
from tests.module.cases import GPA_4K
from tests.module.machine import TDR, Machine, built

LEVELS = {"4K": LEVEL_4K, "2M": LEVEL_2M, "1G": LEVEL_1G}
Took = tuple[Cell, Key, bool]


# --- what a row means on a machine ---


def word(machine: Machine, case: Case, lock: Lock) -> tuple[Cell, Key]:
    """The lock word that a row speaks of."""
    module = machine.module
    if lock.kind.startswith("PAMT"):
        hpa, level = case.of[lock.of]
        return module.pamt.page(hpa, LEVELS.get(lock.kind.removeprefix("PAMT "), level)).lock
    td = module.tds[TDR]
    if lock.kind == "SEPT entry":
        entry = sept.walk(machine.memory, td, case.gpa & GpaLevel.GPA, case.gpa & GpaLevel.LEVEL, [])
        return (machine.memory.sept_page(entry.hpa), ("entry", None)) if lock.of else (entry.page, ("entry", entry.i))
    words = {
        "OP_STATE": td.op_state_lock, "SEPT tree": td.sept_tree, "TD epoch": td.epoch_lock, "RTMR": td.rtmr_lock,
        "KOT": module.kot_lock, "WBCACHE": module.wbcache_lock, "global lock": module.sys.lock,
    }  # fmt: skip
    return (module.sys.tdmrs[0].lock if lock.kind == "TDMR" else words[lock.kind]), 0


def conditions(case: Case, mode: str, of: str) -> set[str]:
    """What holds for the locks of one page in a case."""
    features, dpamt = MODES[mode]
    where = {*case.where, VERSION_1 if case.version else VERSION_0, *((DPAMT,) if dpamt else ())}
    where |= {IN_1_5_01, UNTIL_1_5_16} if features is V1_5_01 else {FROM_1_5_08, FROM_1_5_20}
    where |= set() if PAGE_2M in where else {PAGE_4K}
    return {*where, case.ends.get(of, AT_4K)}


def expected(machine: Machine, case: Case, mode: str) -> list[Took]:
    """The locks that the rows name, in order.  A share that is made exclusive was taken before."""
    rows = [(row, row.lock) for row in locks_of(case.leaf) if row.lock]
    locks = [lock for row, lock in rows if row.applies(*conditions(case, mode, lock.of))]
    return [(*word(machine, case, lock), lock.mode != "S") for lock in locks]


@pytest.fixture
def took(monkeypatch: pytest.MonkeyPatch) -> list[Took]:
    """What is locked from now on, in whichever way."""
    seen: list[Took] = []

    def watched(name: str) -> Any:
        original = getattr(Held, name)

        async def attempt(held: Held, lock: Cell, *rest: Any, **named: Any) -> Any:
            answer = await original(held, lock, *rest, **named)
            key = {"entry": ("entry", rest[0]), "all_entries": ("entry", None)}.get(name, rest[0])
            seen.append((lock, key, name != "shared"))
            return answer

        return attempt

    for name in ("shared", "exclusive", "upgrade", "entry", "all_entries"):
        monkeypatch.setattr(Held, name, watched(name))
    return seen


def told(locks: list[Took]) -> list[tuple[str, Key, bool]]:
    """Locks as a failed assertion shows them."""
    return [(lock.name, key, exclusive) for lock, key, exclusive in locks]


@pytest.mark.parametrize(("name", "mode"), [(name, mode) for name, case in CASES.items() for mode in case.modes])
def test_locks_are_taken_in_the_order_of_the_rows(name: str, mode: str, took: list[Took]) -> None:
    case = CASES[name]
    machine = prepared(case, mode)
    wanted = expected(machine, case, mode)
    took.clear()
    call = case.act(machine) if case.act else machine.call(case.leaf, *case.operands, version=case.version)
    machine.alone(call)
    assert told(took) == told(wanted) and took == wanted


def test_every_leaf_that_takes_locks_is_tried() -> None:
    assert {case.leaf for case in CASES.values()} == {leaf for leaf in HANDLERS if locks_of(leaf)}


@pytest.mark.parametrize(
    ("leaf", "operands", "operand"),
    [(leaves.TDH_MEM_PAGE_AUG, (GPA_4K, TDR, NO_PAIR), R8), (leaves.TDH_MNG_CREATE, (NO_PAIR, 34), RCX)],
    ids=str,
)
def test_without_a_pair_the_2m_entry_is_upgraded_before_the_refusal(
    leaf: Leaf, operands: Call, operand: int, took: list[Took]
) -> None:
    machine = built(features=V1_5_25, cpus=1, dpamt=True)
    took.clear()
    machine.alone(machine.call(leaf, *operands, gives=st.TDX_MISSING_PAMT_PAGE_PAIR.at(operand)))
    range_2m = machine.module.pamt.page(NO_PAIR, LEVEL_2M).lock
    assert took[-2:] == [(*range_2m, False), (*range_2m, True)]
    rows = [row for row in CHECKS[leaf] if row.when != AT_4K]
    upgrade = next(i for i, row in enumerate(rows) if row.lock == Lock("PAMT 2M", "new page", "S->X"))
    assert rows[upgrade + 1].refuses == st.TDX_MISSING_PAMT_PAGE_PAIR.at(operand)
