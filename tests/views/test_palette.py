"""The palette keeps its promise: colours that stay apart under colour blindness, and letters for those who see none."""

from itertools import combinations, pairwise

import pytest

from tdxlab.views import palette
from tdxlab.views.palette import CPUS, DOES, FALLS, FIELDS, PAGES, STATES, ink, legend, look, ramp, tint

# Linear-RGB models of full red-green blindness: Viénot, Brettel and Mollon, "Digital video colourmaps", 1999.
VISION = {
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protan": ((0.11238, 0.88762, 0), (0.11238, 0.88762, 0), (0.00401, -0.00401, 1)),
    "deutan": ((0.29275, 0.70725, 0), (0.29275, 0.70725, 0), (-0.02234, 0.02234, 1)),
}


GROUPS = {
    "states": [state.fill for state in STATES.values()],
    "pages": [page.fill for page in PAGES.values()],
    "does": [look.fill for look in DOES.values()],
    "fields": list(FIELDS.values()),
    "cpus": list(CPUS),
    "falls": list(FALLS.values()),
    "boot": [*palette.BOOT.values(), palette.NOTHING],
    "fill map": [palette.NOTHING, palette.ABSENT, *palette.FILLING, palette.FULL, palette.HUGE],
    "heat map": [palette.NOTHING, *palette.HEAT],
    "tornado": [palette.SURE, palette.GUESSED, "#000000"],
}


def linear(colour: str) -> tuple[float, ...]:
    """Linear RGB of "#RRGGBB"."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return tuple(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)


def lab(rgb: tuple[float, ...]) -> tuple[float, ...]:
    """CIE L*a*b* of linear RGB, D65."""
    r, g, b = rgb
    xyz = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    )
    x, y, z = (c ** (1 / 3) if c > 0.008856 else 7.787 * c + 16 / 116 for c in map(lambda c: max(c, 0.0), xyz))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def seen(colour: str, vision: str) -> tuple[float, ...]:
    """The colour as L*a*b* in somebody's eyes."""
    rgb = linear(colour)
    return lab(tuple(sum(m * c for m, c in zip(row, rgb, strict=True)) for row in VISION[vision]))


def distance(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """CIE76 colour difference; 2.3 is just noticeable."""
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5


def contrast(a: str, b: str) -> float:
    """WCAG contrast ratio."""
    light = sorted(0.2126 * r + 0.7152 * g + 0.0722 * bl + 0.05 for r, g, bl in (linear(a), linear(b)))
    return light[1] / light[0]


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("group", GROUPS)
def test_colours_stay_apart(vision: str, group: str) -> None:
    colours = GROUPS[group]
    nearest = min((distance(seen(a, vision), seen(b, vision)), a, b) for a, b in combinations(colours, 2))
    assert nearest[0] > 12, nearest


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("colours", [palette.HEAT, (*palette.FILLING, palette.FULL)])
def test_what_is_more_is_darker(vision: str, colours: tuple[str, ...]) -> None:
    light = [seen(colour, vision)[0] for colour in ramp(colours, 40)]
    assert all(before > after for before, after in pairwise(light))


def test_a_ramp_goes_evenly_through_its_colours() -> None:
    assert ramp(("#000000", "#0A0A0A", "#1E1E00"), 5) == ["#000000", "#050505", "#0A0A0A", "#141405", "#1E1E00"]
    assert ramp(("#000000", "#FF0080"), 2) == ["#000000", "#FF0080"]


def test_letters_are_readable_on_their_fill_and_differ() -> None:
    assert all(contrast(s.ink, s.fill) >= 4.5 for s in [*STATES.values(), *PAGES.values(), *DOES.values()])
    assert all(contrast("#FFFFFF", colour) >= 4.5 for colour in CPUS)
    assert len({s.letter for s in STATES.values()}) == len(STATES)
    assert len({s.letter for s in DOES.values()}) == len(DOES)
    assert len({s.letter for s in PAGES.values()}) == len(PAGES)


@pytest.mark.parametrize("fill", [*FIELDS.values(), *map(tint, FIELDS.values())])
def test_ink_is_readable_on_fields_whether_strong_or_pale(fill: str) -> None:
    assert contrast(ink(fill), fill) >= 4.5


def test_a_legend_keeps_the_order_and_shows_the_unknown() -> None:
    assert [state for state, _ in legend(["MAPPED", "odd", "FREE"])] == ["FREE", "MAPPED", "odd"]
    assert look("odd").letter == "?"
