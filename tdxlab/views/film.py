"""A run with the machine's picture after every step: what figures of moments, and a slider over a run, are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tdxlab.engine.stepper import Stepper
from tdxlab.engine.trace import Trace
from tdxlab.views import rows
from tdxlab.views.frames import names
from tdxlab.views.strips import regions, summary

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Film:
    """trace: the whole run.  pictures: (steps + 1,), `pictures[n]` after `n` steps.  names: what each CPU is."""

    trace: Trace
    pictures: tuple[dict[str, Any], ...]
    names: tuple[str, ...]

    def after(self, text: str, nth: int = 1) -> int:
        """How many steps are done when `text` has stood in a step's label or notes for the `nth` time.

        Raises ValueError with a sentence if it never does.
        """
        seen = 0
        for event in self.trace.events:
            seen += any(text in line for line in (event.label, *map(rows.note_text, event.notes)))
            if seen == nth:
                return event.n + 1
        raise ValueError(f"{text!r} stands {seen} times in this run, not {nth} times")

    def moments(self, **steps: int | str) -> dict[str, dict[str, Any]]:
        """Pictures by name: `film.moments(before=0, after_the_split="DEMOTE: TDX_SUCCESS", at_the_end=-1)`."""
        at = {name: self.after(step) if isinstance(step, str) else step for name, step in steps.items()}
        return {name.replace("_", " "): self.pictures[n] for name, n in at.items()}

    def rows(self, base: int | None = None) -> list[rows.Row]:
        """One row for each step after which the S-EPT, mirror or lpage_info of a 2M region is another.

        base: of this region alone, which is then not named in each row.
        """
        out: list[rows.Row] = []
        last: dict[int, tuple[str, str, str]] = {}
        for n, picture in enumerate(self.pictures):
            for region in regions(picture):
                now = summary(region["sept"]), summary(region["mirror"]), region["lpage"] or "-"
                if last.get(region["base"]) == now or base not in (None, region["base"]):
                    continue
                last[region["base"]] = now
                event = self.trace.events[n - 1] if n else None
                out.append(
                    {
                        "step": str(event.n) if event else "-",
                        "cpu": str(event.cpu) if event else "-",
                        "what": event.label if event else "set-up",
                        **({"GPA": f"{region['base']:#x}"} if base is None else {}),
                        "S-EPT": now[0],
                        "mirror": now[1],
                        "lpage_info": now[2],
                    }
                )
        return out

    def outcome(self) -> dict[str, Any]:
        """`rows.outcome` of this run, and how many 2M mappings there are at its end."""
        return {"pages_2m": self.pictures[-1].get("pages_2m", "-"), **rows.outcome(self.trace)}

    def to_frame(self) -> pd.DataFrame:
        """`rows()` as a `pandas.DataFrame`."""
        return rows.to_frame(self.rows())


def film(stepper: Stepper, schedule: list[int] | None = None) -> Film:
    """Run a stepper from the start to its end, along `schedule` as far as it goes; it is left at the end."""
    stepper.jump(0)
    stepper.path = list(schedule or [])
    pictures = [stepper.picture()]
    while stepper.runnable and stepper.n < stepper.program.max_steps:
        stepper.step()
        pictures.append(stepper.picture())
    stepper.execution.finish()
    return Film(stepper.trace, tuple(pictures), tuple(names(stepper)))
