"""The cells of both tables are the rows of `spec`."""

import pytest

pytest.importorskip("matplotlib")

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from tdxlab.spec import leaves, sept, status
from tdxlab.spec.checks import CHECKS, locks_of
from tdxlab.spec.checks.check import L2_VM
from tdxlab.views import matrix, palette

LOCKS = {(leaf, row.lock) for leaf in CHECKS for row in locks_of(leaf) if row.lock and L2_VM not in row.when}


def cells(axes: Axes) -> dict[tuple[str, str], tuple[str, str]]:
    """{(leaf, column): (text, fill)} as drawn."""
    columns, rows = (
        [label.get_text() for label in labels] for labels in (axes.get_xticklabels(), axes.get_yticklabels())
    )
    fills = axes.images[0].get_array()
    places = ((text, *map(round, text.get_position())) for text in axes.texts)
    return {(rows[y], columns[x]): (text.get_text(), to_hex(fills[y][x]).upper()) for text, x, y in places}


def said(figure: Figure) -> list[str]:
    """Title and legend."""
    [legend] = figure.legends
    return [figure.get_suptitle(), legend.get_title().get_text(), *(text.get_text() for text in legend.get_texts())]


def test_each_cell_of_the_states_is_the_rule_or_the_refusal() -> None:
    figure = matrix.sept_matrix()
    drawn = cells(figure.axes[0])
    tried = set()
    for (name, column), (text, fill) in drawn.items():
        leaf, state = leaves.BY_NAME.get(f"TDH.{name}") or leaves.BY_NAME[name], sept.STATES[column.replace("\n", "_")]
        rule = sept.RULES.get((leaf, state))
        if rule is None:
            refused = "!" if sept.refusal(leaf, state) == status.TDX_GPA_RANGE_ALREADY_BLOCKED else ""
            assert (text, fill) == (refused, "#FFFFFF")
        else:
            tried.add((leaf, state))
            assert text.endswith("*") == bool(rule.needs)
            if rule.result not in (None, state):
                assert fill == palette.look(str(rule.result)).fill
    shown = {(leaf, state) for leaf, state in sept.RULES if leaf.emulated and "EXPORTED" not in state.name}
    assert tried == shown and len(drawn) == len({leaf for leaf, _ in shown}) * len(matrix.STATES)


def test_each_lock_is_in_one_column_and_each_leaf_that_locks_in_one_panel() -> None:
    for _, lock in LOCKS:
        assert sum(column(lock) for column in matrix.COLUMNS.values()) == 1, lock
    figure = matrix.lock_matrix()
    drawn = [name for axes in figure.axes for name in {leaf for leaf, _ in cells(axes)}]
    assert sorted(drawn) == sorted(leaf.name.removeprefix("TDH.") for leaf in CHECKS if locks_of(leaf))


def test_each_cell_of_the_locks_is_how_the_rows_take_them() -> None:
    figure = matrix.lock_matrix()
    drawn = {key: cell for axes in figure.axes for key, cell in cells(axes).items()}
    for leaf in {leaf for leaf, _ in LOCKS}:
        for column, holds in matrix.COLUMNS.items():
            locks = {lock for of, lock in LOCKS if of is leaf and holds(lock)}
            text, fill = drawn.get((leaf.name.removeprefix("TDH."), column), ("", "#FFFFFF"))
            assert bool(text) == bool(locks) == (fill != "#FFFFFF")
            own = {lock for lock in locks if lock.kind not in matrix.PARENTS}
            assert {*text.strip("()°").split("/")} - {"", "S>X"} == {lock.mode for lock in own}
            assert text.startswith("(") == bool(own and all(lock.implicit for lock in own))


def test_both_say_what_they_are_and_where_they_come_from() -> None:
    for figure in (matrix.sept_matrix(), matrix.lock_matrix()):
        title, source, *marks = said(figure)
        assert title and "1.5.25" in source and len(marks) >= 6
        sizes = [label.get_fontsize() for axes in figure.axes for label in (*axes.get_xticklabels(), *axes.texts)]
        assert min(sizes) >= 12
