"""Who holds which lock over the steps of a run: a line for each lock, a bar for each holder, the calls above.

The x axis counts steps; it is not time.  A lock taken and given back within one step leaves no bar.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from tdxlab.engine.trace import Trace
from tdxlab.views import palette, rows, text
from tdxlab.views.plots import FONT, figure
from tdxlab.views.spans import Span, lock_spans

KERNEL = {
    "mmu_lock": "mmu_lock",
    "slots_lock": "slots_lock",
    "filemap_invalidate_lock": "filemap_invalidate_lock",
    "pamt_cache_lock": "pamt_cache_lock",
}
"""{what the line is called: how the lock's name begins}."""
MODULE = {"S-EPT tree": "sept_tree", "S-EPT entry": "sept:"}
NAMED = {"TDH.VP.ENTER": "TD exit"}
"""A call is named where it ends."""
MARKS = {"fault": ("v", "fault"), "split": ("D", "split"), "kick": ("X", "kick"), "kvm_bug_on": ("*", "KVM_BUG_ON")}
INCHES, HEAD, FOOT = 0.5, 2.0, 1.0
"""Of a line, above the first one, below the last one."""
WAITS = "#C8C8C8"


def since(trace: Trace, kind: str, steps: int = 6) -> int:
    """The step so many before the first note of a kind: where a figure may begin."""
    return max(0, int(trace.notes(kind)[0]["n"]) - steps)


def after(trace: Trace, leaf: str, steps: int = 4) -> int:
    """The step so many after the last call of a leaf: where it may end."""
    calls = [int(note["n"]) for note in trace.notes("seamcall") if note["leaf"] == leaf]
    return min(calls[-1] + steps, len(trace.events) - 1)


def spans(
    trace: Trace, locks: Mapping[str, str] = KERNEL, first: int = 0, last: int | None = None
) -> list[tuple[str, Span]]:
    """(line, span) of the locks named, cut to steps [first, last]."""
    end = len(trace.events) - 1 if last is None else last
    found = []
    for span in lock_spans(trace):
        line = next((line for line, begins in locks.items() if span.name.startswith(begins)), None)
        if line is not None and span.first <= end and span.last >= first:
            found.append((line, replace(span, first=max(span.first, first), last=min(span.last, end))))
    return found


def waits(trace: Trace, first: int = 0, last: int | None = None) -> list[tuple[int, int, int]]:
    """(CPU, from, to): stretches of steps in which a CPU could not go on, though it goes on later."""
    end = len(trace.events) - 1 if last is None else last
    found: list[tuple[int, int, int]] = []
    for cpu in sorted({event.cpu for event in trace.events}):
        final = max(event.n for event in trace.events if event.cpu == cpu)
        for event in trace.events[first : min(end, final) + 1]:
            if cpu in event.runnable:
                continue
            if found and found[-1][0] == cpu and found[-1][2] == event.n - 1:
                found[-1] = cpu, found[-1][1], event.n
            else:
                found.append((cpu, event.n, event.n))
    return found


def holds(
    trace: Trace,
    locks: Mapping[str, str] = KERNEL,
    names: Sequence[str] = (),
    *,
    first: int = 0,
    last: int | None = None,
    title: str = "",
) -> Figure:
    """Draw steps [first, last].  A lock that nobody holds there gets no line."""
    end = len(trace.events) - 1 if last is None else last
    held = spans(trace, locks, first, end)
    lines = [line for line in locks if any(line == named for named, _ in held)]
    cpus = sorted({event.cpu for event in trace.events[first : end + 1]})
    fig, axes = figure(12, HEAD + INCHES * (len(cpus) + len(lines)) + FOOT)
    with plt.rc_context(FONT):
        for n, cpu in enumerate(cpus):
            _steps(axes, trace, cpu, -n, first, end)
        for line, span in held:
            _bar(axes, span, -len(cpus) - lines.index(line))
        for cpu, begin, until in waits(trace, first, end):
            axes.broken_barh([(begin, until - begin + 1)], (-cpus.index(cpu) - 0.08, 0.16), color=WAITS, zorder=1)
        told = [text.head(cpu, names) for cpu in cpus]
        axes.set_yticks([-n for n in range(len(cpus) + len(lines))], [*told, *lines])
        axes.set_ylim(-len(cpus) - len(lines) + 0.4, 0.6 + 1.5 * (HEAD - 0.6))
        axes.set_xlim(first, end + 1 + 0.06 * (end - first))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("step (steps are not time)")
        axes.set_title(title or f"{trace.meta.get('scenario', 'a run')} · design {trace.meta.get('design', '-')}")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        fig.legend(
            handles=_legend(trace, first, end, any(not span.exclusive for _, span in held)),
            loc="outside lower center",
            ncols=4,
            frameon=False,
        )
    return fig


def _steps(axes: Axes, trace: Trace, cpu: int, y: float, first: int, end: int) -> None:
    calls = {row["step"]: row for row in rows.calls(trace) if row["cpu"] == cpu and first <= row["step"] <= end}
    colour = palette.cpu_colour(cpu)
    mine = [e.n for e in trace.events[first : end + 1] if e.cpu == cpu]
    axes.broken_barh([(n, 1) for n in mine if n not in calls], (y - 0.12, 0.24), color=colour, alpha=0.45, zorder=2)
    axes.broken_barh([(n, 1) for n in calls], (y - 0.3, 0.6), facecolor=colour, edgecolor="white", zorder=3)
    for kind, (marker, _) in MARKS.items():
        at = [note["n"] + 0.5 for note in trace.notes(kind) if note["cpu"] == cpu and first <= note["n"] <= end]
        axes.plot(at, [y] * len(at), marker, color="white", markeredgecolor="black", markersize=10, zorder=4)
    # names stand above all lanes, so that a lane below does not hide them
    apart, at_x = (end - first) / 42, float("-inf")
    for n, call in calls.items():
        at_x = max(n + 0.5, at_x + apart)
        worked = call["status"].startswith("TDX_SUCCESS")
        label = NAMED.get(call["leaf"], call["leaf"].split(".", 1)[1]) + ("" if worked else " ✗")
        axes.plot([n + 0.5, at_x], [y + 0.3, 0.62], color=colour, linewidth=0.7, alpha=0.7, zorder=1)
        axes.text(
            at_x, 0.66, label, rotation=40, rotation_mode="anchor", fontsize=10, color=colour, ha="left", va="bottom"
        )


def _bar(axes: Axes, span: Span, y: float) -> None:
    colour = palette.cpu_colour(span.cpu)
    face = colour if span.exclusive else palette.tint(colour, 0.25)
    hatch = "" if span.exclusive else "//"
    axes.broken_barh(
        [(span.first, span.last - span.first + 1)],
        (y - 0.28, 0.56),
        facecolor=face,
        edgecolor="white" if span.exclusive else colour,
        hatch=hatch,
        zorder=2,
    )
    axes.text(
        span.first + 0.2, y, str(span.cpu), fontsize=10, va="center", color=palette.ink(face), zorder=5, clip_on=True
    )


def _legend(trace: Trace, first: int, end: int, shared: bool) -> list[Line2D | Patch]:
    kinds = {note["kind"] for event in trace.events[first : end + 1] for note in event.notes}
    handles: list[Line2D | Patch] = [Patch(facecolor="#777777", label="holds alone (number: CPU)")]
    if shared:
        handles.append(
            Patch(facecolor=palette.tint("#777777", 0.25), edgecolor="#777777", hatch="//", label="holds shared")
        )
    if waits(trace, first, end):
        handles.append(Patch(facecolor=WAITS, label="can not go on"))
    return handles + [
        Line2D([], [], marker=marker, color="white", markeredgecolor="black", markersize=10, linestyle="", label=name)
        for kind, (marker, name) in MARKS.items()
        if kind in kinds
    ]


def table(trace: Trace, locks: Mapping[str, str] = KERNEL, first: int = 0, last: int | None = None) -> str:
    """The same as text, without numbers of steps: what for, and which calls and kicks its holder made under it."""
    found = [
        {
            "lock": line,
            "CPU": str(span.cpu),
            "how": "alone" if span.exclusive else "shared",
            "what for": _reason(trace, span),
            "under it": textwrap.fill(", ".join(_made(trace, span)) or "-", 44),
        }
        for line, span in spans(trace, locks, first, last)
    ]
    return text.table(found, "no lock held across a step")


def _reason(trace: Trace, span: Span) -> str:
    event = trace.events[span.first]
    said = [str(note["why"]) for note in event.notes if "why" in note]
    return said[0] if said else rows.function_text(event)


def _made(trace: Trace, span: Span) -> list[str]:
    out = []
    for event in trace.events[span.first : span.last + 1]:
        for note in event.notes if event.cpu == span.cpu else ():
            if note["kind"] in rows.CALLS:
                out.append(note["leaf"].split(".", 2)[2] + ("" if note["status"] == "TDX_SUCCESS" else " ✗"))
            elif note["kind"] == "kick":
                out.append("kick")
    return out
