"""What the rows say of the PAMT is what the leaves make of it."""

import pytest

from tdxlab.spec.effects import EFFECTS, Effect
from tdxlab.spec.levels import LEVEL_4K, PAGE_SIZE
from tdxlab.spec.pamt import PageType
from tests.module.calls import CASES, MODES, Case, prepared
from tests.module.machine import Machine

TRIED = [(name, mode) for name, case in CASES.items() if case.leaf in EFFECTS for mode in case.modes]
PARTS = "its 512 parts"


def uses(machine: Machine, case: Case, effects: list[Effect]) -> dict[str, PageType | None]:
    """What the pages that the rows speak of are used for.  None: there is no such entry."""
    found = {}
    for of in {effect.of for effect in effects}:
        hpa, level = case.of[of] if of != PARTS else (case.of["large page"][0] + 511 * PAGE_SIZE, LEVEL_4K)
        there = level != LEVEL_4K or machine.module.pamt.lock_of(hpa) is not None
        found[of] = machine.module.pamt.page(hpa, level).read().type if there else None
    return found


@pytest.mark.parametrize(("name", "mode"), TRIED)
def test_pages_come_into_use_and_go_as_the_rows_say(name: str, mode: str) -> None:
    case, dynamic = CASES[name], MODES[mode][1]
    effects = [effect for effect in EFFECTS[case.leaf] if effect.dynamic in (None, dynamic)]
    machine = prepared(case, mode)
    before = uses(machine, case, effects)
    machine.alone(machine.call(case.leaf, *case.operands, version=case.version))
    after = uses(machine, case, effects)
    assert all(effect.before in (None, before[effect.of]) for effect in effects)
    assert {effect.of: effect.after for effect in effects} == after


def test_every_row_is_tried() -> None:
    assert {CASES[name].leaf for name, _ in TRIED} == set(EFFECTS)
