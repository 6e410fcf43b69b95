"""One page through a row of calls: a line for each call, with the fields of its S-EPT and PAMT entries.

A field of one bit is a cell with 0 or 1, a wider one a cell with its value.  What a call changed has an orange frame; a
refusal that changed nothing is told across the line.  Left out: fields that no call of the scene changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tdxlab.lessons.entries import Picture
from tdxlab.lessons.leaves import Call, Scene
from tdxlab.spec.pamt import LAST_PAGE_HINT
from tdxlab.views import palette, sheets
from tdxlab.views.calls import operands
from tdxlab.views.text import table
from tdxlab.views.words import LEVELS, STALE, Part, pamt_words, sept_word

LINE, HEAD, FOOT, GAP = 0.38, 0.6, 0.3, 0.14
"""Inches."""
STATE = "state"
HINT = "hint"
TOLD = (STATE, "TYPE", "BEPOCH", "COUNT", "EPOCH", "in, even", "in, odd", HINT)
"""Fields that the text form has."""
CAPTION = "Left out: fields that no call here changes."


@dataclass(frozen=True, slots=True)
class Field:
    """A cell: its value, what stands in it, and its colour."""

    value: int | str
    text: str
    fill: str


@dataclass(frozen=True, slots=True)
class Column:
    """A heading, and its cell for each picture (None: there is no such field then)."""

    name: str
    cells: tuple[Field | None, ...]

    @property
    def width(self) -> float:
        """Inches that its texts need."""
        return 0.14 + max(0.2, *map(sheets.inches, [self.name, *(cell.text for cell in self.cells if cell)]))

    @property
    def constant(self) -> bool:
        """Does no call change it?  A field that one form of an entry has not is 0."""
        return len({cell.value if cell else 0 for cell in self.cells}) == 1


Read = Callable[[Picture], Sequence[Part]]
Names = Mapping[int, str]


def columns(scene: Scene, read: Read, names: Names) -> list[Column]:
    """The fields of entries through the scene, from the highest bit down."""
    lines = [{part.name: part for part in read(picture) if part.name} for picture in scene.pictures]
    order = dict.fromkeys(name for line in lines for name in line)
    found = [Column(name, tuple(_field(line.get(name), names) for line in lines)) for name in order]
    return [column for column in found if not column.constant]


def _field(part: Part | None, names: Names) -> Field | None:
    if part is None:
        return None
    if part.text == STALE:
        return Field(part.value, STALE, palette.tint(palette.FIELDS["other"]))
    colour = palette.FIELDS[part.group]
    text = part.text.removeprefix(f"{part.value} PT_")  # a page's use without its number
    if text.startswith("0x"):
        text = names.get(int(text, 16), text)
    return Field(part.value, text, colour if part.value else palette.tint(colour))


def sept_columns(scene: Scene, level: int, names: Names) -> list[Column]:
    """Of the S-EPT entry at a level, and its state."""

    def read(picture: Picture) -> Sequence[Part]:
        at = picture.entry(level)
        return sept_word(at).parts if at else ()

    states = [at.state.name if (at := picture.entry(level)) else "" for picture in scene.pictures]
    cells = tuple(Field(name, name, palette.look(name).fill) if name else None for name in states)
    return [*columns(scene, read, names), Column(STATE, cells)]


def pamt_columns(scene: Scene, level: int, names: Names) -> list[Column]:
    """Of the PAMT entry at a level, both words."""

    def read(picture: Picture) -> Sequence[Part]:
        at = picture.page(level)
        return [part for word in pamt_words(at) for part in word.parts] if at else ()

    return columns(scene, read, names)


def td_columns(scene: Scene) -> list[Column]:
    """TD_EPOCH, and how many vCPUs are inside that entered in an even or an odd one."""
    colour = palette.FIELDS["epoch"]
    told = {
        "EPOCH": [picture.epoch for picture in scene.pictures],
        "in, even": [picture.inside[0] for picture in scene.pictures],
        "in, odd": [picture.inside[1] for picture in scene.pictures],
    }
    return [
        Column(name, tuple(Field(n, str(n), palette.tint(colour, 0.6 if n else 0.2)) for n in numbers))
        for name, numbers in told.items()
    ]


def hint_column(scene: Scene) -> Column:
    """Bit 62 of RCX, where a page came back in it."""
    colour = palette.FIELDS["epoch"]
    bits: list[Field | None] = [None]
    for call in scene.calls:
        page = 0 if call.status.error else call.outputs.get("rcx", 0)
        bit = int(bool(page & LAST_PAGE_HINT))
        bits.append(Field(bit, str(bit), colour if bit else palette.tint(colour)) if page else None)
    return Column(HINT, tuple(bits))


def groups(scene: Scene, sept: int | None, pamt: int | None) -> dict[str, list[Column]]:
    """The columns under their titles: of the entries at these levels, of the TD, of what came back."""
    found: dict[str, list[Column]] = {}
    if sept is not None:
        found[f"S-EPT entry at {LEVELS[sept]}"] = sept_columns(scene, sept, scene.names)
    if pamt is not None:
        found[f"PAMT entry at {LEVELS[pamt]}"] = pamt_columns(scene, pamt, scene.names)
    found["TD"] = [column for column in td_columns(scene) if not column.constant]
    found["RCX, bit 62"] = [column for column in [hint_column(scene)] if scene.dynamic and not column.constant]
    return {title: columns for title, columns in found.items() if columns}


def told(scene: Scene, sept: int | None = None, pamt: int | None = None) -> str:
    """The reel as text: calls and answers, and the fields that TOLD names."""
    shown = [column for group in groups(scene, sept, pamt).values() for column in group if column.name in TOLD]
    answers = ["", *(call.answer.removeprefix("TDX_") for call in scene.calls)]
    calls = ["before", *map(label, scene.calls)]
    rows = [
        {"call": call, "answer": answer}
        | {column.name: cell.text if (cell := column.cells[n]) else "" for column in shown}
        for n, (call, answer) in enumerate(zip(calls, answers, strict=True))
    ]
    return table(rows)


def reel(
    scene: Scene, sept: int | None = None, pamt: int | None = None, source: str = "", states: bool = False
) -> Figure:
    """The entries at these levels through the scene.

    source: of what it shows, for the caption.  states: of the S-EPT entry its state alone.
    """
    columns = groups(scene, sept, pamt)
    if states:
        columns = {
            title: [c for c in group if c.name == STATE or "S-EPT" not in title] for title, group in columns.items()
        }
    return _drawn(lines(scene), columns, source)


@dataclass(frozen=True, slots=True)
class Line:
    """label: which call.  refused: was it?  across: told in place of cells that are as in the line before."""

    label: str
    refused: bool = False
    across: str = ""


def lines(scene: Scene) -> list[Line]:
    """One for what was there before, and one for each call."""
    out = [Line("before")]
    for call, old, new in zip(scene.calls, scene.pictures, scene.pictures[1:], strict=False):
        refused = f"refused: {call.answer.removeprefix('TDX_')}" if call.refused else ""
        if refused and old == new:
            out.append(Line(label(call), True, refused))
        else:
            out.append(Line(refused.replace("refused", label(call).split()[0]) or label(call), bool(refused)))
    return out


def label(call: Call) -> str:
    """A call in a few words: the scene tells of one GPA."""
    name = call.leaf.name
    for prefix in ("TDH.", "TDG.", "MEM.", "PHYMEM."):
        name = name.removeprefix(prefix)
    pages = [word for word in operands(call).split(", ") if word and word.split()[0] not in ("GPA", "PAGES")]
    return " ".join([f"LP {call.lp}: {name}" if call.lp else name, *pages[:1]])


def _drawn(calls: Sequence[Line], columns: Mapping[str, list[Column]], source: str) -> Figure:
    lead = 0.15 + max(sheets.inches(line.label, 12) for line in calls)
    cells = {title: sum(column.width + 0.04 for column in group) for title, group in columns.items()}
    widths = {title: max(width, sheets.inches(title, **sheets.HEADING)) for title, width in cells.items()}
    right = lead + sum(widths.values()) + GAP * (len(columns) - 1)
    fig, axes = sheets.sheet(right, LINE * len(calls) + HEAD + FOOT)
    x = lead
    for title, group in columns.items():
        sheets.heading(axes, x + widths[title] / 2, title)
        at = x + (widths[title] - cells[title]) / 2
        for column in group:
            _column(axes, at, column, calls)
            at += column.width + 0.04
        x += widths[title] + GAP
    for n, line in enumerate(calls):
        colour = palette.FAILS if line.refused else "black"
        axes.text(0, _y(n) + LINE / 2, line.label, va="center", fontsize=12, color=colour)
        if line.across:
            where = lead + 0.1, _y(n) + LINE / 2
            axes.text(*where, line.across, va="center", fontsize=12, color=palette.FAILS, weight="bold")
    sheets.caption(axes, f"{CAPTION} {source}".rstrip())
    return fig


def _y(n: int) -> float:
    return HEAD + LINE * n


def _column(axes: Axes, x: float, column: Column, calls: Sequence[Line]) -> None:
    axes.text(x + column.width / 2, HEAD - 0.04, column.name, ha="center", va="bottom", fontsize=11)
    for n, cell in enumerate(column.cells):
        if cell is not None and not calls[n].across:
            before = column.cells[n - 1] if n else cell
            changed = before is None or cell.value != before.value
            sheets.cell(axes, x, _y(n) + 0.04, column.width, LINE - 0.08, cell.text, cell.fill, changed)
