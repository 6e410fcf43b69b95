"""The way to one page, twice: Secure-EPT entries for a GPA, PAMT entries for an HPA, level by level side by side."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch

from tdxlab.lessons.entries import PamtAt, Picture, SeptAt
from tdxlab.spec.bits import PamtNode, PamtNodeTail, field
from tdxlab.spec.levels import LEVEL_1G, LEVEL_2M, LEVEL_4K, LEVEL_512G, PAGE_SHIFT
from tdxlab.spec.pamt import PT_PAMT
from tdxlab.views import palette, sheets
from tdxlab.views.words import LEVELS

TABLES = {LEVEL_512G: "PML4", LEVEL_1G: "PDPT", LEVEL_2M: "PD", LEVEL_4K: "PT"}
"""What the page is called in which the S-EPT entries of a level stand."""
LEFT, RIGHT, WIDTH, HEIGHT = 0.9, 6.0, 4.1, 0.72
"""Where the two columns of boxes begin, and the size of a box; a level is one unit high."""
Names = Mapping[int, str]


def draw(axes: Axes, picture: Picture, names: Names, before: Picture | None = None) -> None:
    """Draw both ways.  names: of addresses.  before: what changed since has a frame."""
    axes.set_xlim(0, 10.2)
    axes.set_ylim(-0.1, 4.5)
    axes.axis("off")
    sheets.heading(axes, LEFT + WIDTH / 2, f"Secure EPT, GPA {picture.gpa:#x}", 4.48)
    sheets.heading(axes, RIGHT + WIDTH / 2, f"PAMT, {named(picture.hpa, names)}", 4.48)
    was = before or picture
    for level, table in TABLES.items():
        axes.text(0.75, level + 0.46, LEVELS[level], ha="right", va="center", fontsize=12)
        at = picture.entry(level)
        look = palette.look(at.state.name) if at else None
        _box(axes, LEFT, level, sept_text(at, names) if at else f"no {table}", look, at != was.entry(level))
    for level in range(LEVEL_512G):
        page = picture.page(level)
        look = palette.PAGES[page.type.name] if page else None
        _box(axes, RIGHT, level, pamt_text(page, names) if page else "not reached", look, page != was.page(level))
    _arrows(axes, picture)


def sept_text(at: SeptAt, names: Names) -> str:
    """`PD[1] NL_MAPPED`, and where it leads."""
    where = f"{TABLES[at.level]}[{at.index}]  {at.state.name}"
    return where if at.state.name == "FREE" else f"{where}\nto {named(at.hpa, names)}"


def pamt_text(at: PamtAt, names: Names) -> str:
    """What the entry says of the page; of a node, its pair and its count."""
    if at.type is not PT_PAMT:
        return at.type.name
    pages = field(at.first, PamtNode.PAGE), field(at.second, PamtNodeTail.PAGE)
    said = " ".join(names.get(page << PAGE_SHIFT, f"{page << PAGE_SHIFT:#x}") for page in pages)
    return f"node, {field(at.second, PamtNodeTail.COUNT)} in use\n{said}"


def named(hpa: int, names: Names) -> str:
    """An address with its name."""
    return f"{names[hpa]} {hpa:#x}" if hpa in names else f"{hpa:#x}"


def _box(axes: Axes, x: float, y: float, text: str, look: palette.Look | None, changed: bool) -> None:
    # look: None for an entry that is not there
    edge, line, _ = sheets.FRAME if changed and look else sheets.PLAIN
    style = {"facecolor": look.fill if look else "none", "edgecolor": edge, "linestyle": "-" if look else ":"}
    sheets.round_box(axes, x, y + 0.1, WIDTH, HEIGHT, linewidth=max(line, 1.2), **style)
    ink = look.ink if look else "#808080"
    axes.text(x + WIDTH / 2, y + 0.1 + HEIGHT / 2, text, fontsize=11.5, color=ink, **sheets.MIDDLE)


def _arrows(axes: Axes, picture: Picture) -> None:
    for column, reached in ((LEFT, picture.sept), (RIGHT, picture.pamt)):
        for at in reached[1:]:
            _arrow(axes, (column + WIDTH / 2, at.level + 1.1), (column + WIDTH / 2, at.level + 0.1 + HEIGHT))
    last = picture.sept[-1] if picture.sept else None
    if last and last.state.leaf and picture.hpa - last.hpa in range(1 << (12 + 9 * last.level)):
        level = picture.pamt[-1].level
        _arrow(axes, (LEFT + WIDTH, last.level + 0.46), (RIGHT, level + 0.46), "--")


def _arrow(axes: Axes, begin: tuple[float, float], end: tuple[float, float], style: str = "-") -> None:
    arrow = FancyArrowPatch(begin, end, arrowstyle="-|>", mutation_scale=14, color="#202020", shrinkA=0, shrinkB=0)
    arrow.set(linestyle=style, linewidth=1.8)
    axes.add_patch(arrow)
