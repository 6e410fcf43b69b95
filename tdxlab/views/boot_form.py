"""A form of all that a boot assumes: a few TDs boot again whenever something is changed, all of them on demand."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, replace

import ipywidgets as w
from tabulate import tabulate

from tdxlab.scale.boot import COSTS, Boot, Options, boot
from tdxlab.scale.giving import TEARDOWNS
from tdxlab.scale.placement import KERNEL_PAGES, PAGES, POLICIES
from tdxlab.scale.ranges import DESIGNS
from tdxlab.scale.runs import column
from tdxlab.views.boot_rows import published, row
from tdxlab.views.booted import title, used
from tdxlab.views.choose import LABEL, framed
from tdxlab.views.contention import lengths
from tdxlab.views.later import Later
from tdxlab.views.planner import THIRD
from tdxlab.views.rows import Row
from tdxlab.views.svg import Svg
from tdxlab.views.text import counted

AT_ONCE = 16_384
"""Steps of a boot that is made while the reader changes something: of two TDs of 16 GB.  Far less than a second."""
KEPT = 4
"""Boots in the table."""
HEIGHT = 130
"""Pixels of the axes, so that all is seen at once on a projector."""
TALLEST = "275px"
"""Of the pictures, so that nothing moves below a smaller one."""
OLD = "tdx-old"
STYLE = f"""<style>
.tdx-boots {{ height: 10.5em; overflow: auto; font: 13px/1.25 var(--jp-code-font-family, monospace); }}
.tdx-boots :is(th, td) {{ padding: 0 0 0 14px; text-align: left; vertical-align: top; white-space: nowrap; }}
.tdx-boots :is(th, td):first-child {{ padding: 0; white-space: normal; }}
.{OLD} {{ opacity: 0.35; }}
</style>"""
"""A table whose first column is as wide as the others leave room; and what another boot is about to follow."""


class BootForm(w.VBox):  # type: ignore[misc]
    """Controls, a table of the last boots below the published one, and how long the waits of the last one were."""

    def __init__(self) -> None:
        self.controls = controls()
        self.button = w.Button(description="Run all TDs", button_style="primary", layout=THIRD)
        self.card, self.table, self.picture = w.HTML(), w.HTML(), w.HTML(layout=w.Layout(min_height=TALLEST))
        self.below = w.VBox([self.table, self.picture])
        self.rows: deque[Row] = deque(maxlen=KEPT)
        self.later = Later(self.few)
        for control in self.controls.values():
            control.observe(lambda _: self.changed(), "value")
        self.button.on_click(lambda _: self.all())
        self.few()
        thirds = [*self.controls.values(), self.button]
        columns = w.HBox([w.VBox(thirds[n::3]) for n in range(3)])
        super().__init__([columns, self.card, self.below])

    def asked(self, whole: bool = False) -> Options | None:
        """What will boot: all TDs, or as many as are quick.  The card says so, or why nothing will; the rest is old."""
        self.below.add_class(OLD)
        try:
            asked = Options(**{name: control.value for name, control in self.controls.items()})
        except ValueError as wrong:
            self.card.value = framed("Not done", f"{wrong}.", bad=True)
            return None
        tds = asked.tds if whole else min(asked.tds, AT_ONCE // steps(asked))
        if not tds:
            self.card.value = framed("Not run yet", f"One TD takes {steps(asked):,} steps; the button makes them.")
            return None
        few = replace(asked, tds=tds)
        self.tell(few, " boot ...")
        return few

    def changed(self) -> None:
        """Something is: a few TDs will boot."""
        if self.asked():
            self.later()

    def few(self) -> None:
        """As many TDs boot as are quick."""
        if asked := self.asked():
            self.show(asked)

    def all(self) -> None:
        """All TDs boot."""
        self.later.drop()
        if asked := self.asked(whole=True):
            self.show(asked)

    def show(self, asked: Options) -> None:
        """Boot and tell."""
        booted, self.picture.value = rerun(asked)
        self.rows.appendleft(row(booted))
        told = [published(), *self.rows]
        align = ["left", *["right"] * (len(told[0]) - 1)]
        made = tabulate(told, "keys", "html", disable_numparse=True, colalign=align)
        self.table.value = f"{STYLE}<div class='tdx-boots'>{made}</div>"
        self.tell(asked)
        self.below.remove_class(OLD)

    def tell(self, few: Options, more: str = "") -> None:
        """What boots, and how many of the TDs that were asked for."""
        self.card.value = framed(f"{few.tds} of {counted(self.controls['tds'].value, 'TD')}{more}", f"{title(few)}.")


def controls() -> dict[str, w.ValueWidget]:
    """{option of a boot: its control}."""
    given = {"style": LABEL, "layout": THIRD}
    spreads = [(f"{ms:,} ms", float(ms)) for ms in (0, 1, 10, 100, 1_000, 3_000, 10_000)]
    return {
        "tds": w.IntSlider(10, 1, 20, description="TDs", **given),
        "memory": w.SelectionSlider(options=SIZES, value="16G", description="each of", **given),
        "vcpus": w.SelectionSlider(options=(1, 2, 4, 8, 16), description="vCPUs each", **given),
        "huge_share": w.FloatSlider(0, min=0, max=1, step=0.01, readout_format=".0%", description="at 2M", **given),
        "dpamt_lock": w.Dropdown(options=list(DESIGNS), description="lock design", **given),
        "policy": w.Dropdown(options=list(POLICIES), description="memory policy", **given),
        "kernel_pages": w.Dropdown(options=KERNEL_PAGES, description="kernel pages", **given),
        "start_spread_ms": w.SelectionSlider(options=spreads, value=1.0, description="start within", **given),
        "jitter_percent": w.IntSlider(10, 0, 100, description="jitter, %", **given),
        "costs": w.Dropdown(options=COSTS, description="costs", **given),
        "convert": w.SelectionSlider(options=("0M", *SIZES), description="convert", **given),
        "teardown": w.Dropdown(options=("none", *TEARDOWNS), description="tear-down", **given),
        "seed": w.IntSlider(0, 0, 19, description="seed", **given),
    }


SIZES = ("64M", "256M", "1G", "2G", "4G", "8G", "16G", "32G")


def steps(asked: Options) -> int:
    """Of a TD, about: one for each 2M, or for each fault where all of them take the lock."""
    return asked.blocks * (PAGES if asked.dpamt_lock == "always" else 1)


def rerun(asked: Options) -> tuple[Boot, str]:
    """A boot, and how long its waits were as SVG."""
    booted = boot(**asdict(asked))
    made = lengths(column(booted.waits.wait_ns), costs=used(booted), title="How long the waits for the lock were")
    return booted, str(Svg(replace(made, height=HEIGHT)))
