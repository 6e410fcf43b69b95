"""The stepping widget: columns of CPUs, the next source lines, locks, events and the S-EPT, in JupyterLab.

Python keeps one frame (`frames.frame`) for each step of the path that has been visited.  The browser is told the
path as a list of frame numbers, asks for the frames that it has not seen, and then moves the cursor among them by
itself.  Only a step onto new ground runs the machine.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from tdxlab.engine.schedule import ScheduleError, read_schedule, show_schedule
from tdxlab.engine.stepper import Stepper
from tdxlab.engine.trace import Trace
from tdxlab.scenarios.play import Setting
from tdxlab.views import palette
from tdxlab.views.frames import Frame, claim_texts, frame, names, title
from tdxlab.views.text import counted

HERE = Path(__file__).parent
AT_MOST = 2000
"""Steps that `until`, or a further "run to end" beyond the cut, makes."""


class StepperWidget(anywidget.AnyWidget):
    """Draws an `engine.stepper.Stepper` from its start and steps it.

    Bad input gives a sentence in `message`, never a traceback.
    cursor: the step that is shown, 0 to len(path) - 1.  path: the numbers of the frames from the set-up on.
    message: the last refusal, or "".  ack: the browser's last request that has been dealt with.
    static: what never changes (names, claims, colours).
    """

    _esm = HERE / "stepping.js"
    _css = HERE / "stepping.css"

    cursor = traitlets.Int(0).tag(sync=True)
    path = traitlets.List(traitlets.Int()).tag(sync=True)
    message = traitlets.Unicode("").tag(sync=True)
    ack = traitlets.Unicode("").tag(sync=True)
    static = traitlets.Dict().tag(sync=True)

    def __init__(self, stepper: Stepper, **traits: Any) -> None:
        self.stepper = stepper
        stepper.jump(0)
        self._frames: list[Frame] = [frame(stepper)]
        self._next: dict[tuple[int, int], int] = {}  # (frame, CPU that steps there) -> frame: the tree of visited steps
        meta = stepper.program.meta
        named: dict[str, Any] = {key: meta[key] for key in ("scenario", "design", "grain", "module") if key in meta}
        self.setting = Setting(**named, dpamt="dpamt" in meta) if "scenario" in meta else None
        if self.setting and "cpus" in meta:
            self.setting = replace(self.setting, cpus=int(meta["cpus"])).filled
        super().__init__(path=[0], static={**_static(stepper), "setting": str(self.setting or "")}, **traits)
        self.on_msg(self._on_message)

    # --- what the buttons do; each may be called from Python ---

    def step(self, cpu: int | None = None) -> None:
        """Let `cpu` make the next step after the cursor (default: along the visited path, else who ran last)."""
        with _Refusals(self):
            if not self.frame["runnable"]:
                raise ValueError(f"The run has ended ({self.frame['ended']}); go back to choose otherwise.")
            if cpu is not None and cpu not in self.frame["runnable"]:
                raise ValueError(f"CPU {cpu} can not run here; these can: {_listed(self.frame['runnable'])}.")
            self._advance(cpu)

    def back(self) -> None:
        """Show the state before the last step."""
        with _Refusals(self):
            if self.cursor == 0:
                raise ValueError("This is the start.")
            self.cursor -= 1

    def jump(self, n: int) -> None:
        """Show the state after `n` steps, stepping on by default where nobody has been; stops where the run ends."""
        with _Refusals(self):
            if isinstance(n, bool) or not isinstance(n, int) or n < 0:
                raise ValueError(f"A step is a number from 0 on, not {n!r}.")
            self.cursor = min(n, len(self.path) - 1)
            while self.cursor < n and self.frame["runnable"]:
                self._advance(None)
            if self.cursor < n:
                raise ValueError(f"The run has ended after {counted(self.cursor, 'step')} ({self.frame['ended']}).")

    def run(self) -> None:
        """Go on to the end of the run: along the visited path, then with the CPU that ran last while it can.

        Stops once where `play.run` would cut the run, and goes further when it is called again.
        """
        with _Refusals(self):
            self.cursor = len(self.path) - 1
            with self.hold_sync():
                cut = self.stepper.program.max_steps
                end = cut if self.cursor < cut else self.cursor + AT_MOST
                while self.frame["runnable"] and self.cursor < end:
                    self._advance(None)
            if self.frame["runnable"]:
                raise ValueError(f"Cut after {end} steps: it may go on for ever. Run again to go further.")

    def until(self, text: str) -> None:
        """Step on until `text` stands in the function, label or notes of the step that is shown."""
        with _Refusals(self), self.hold_sync():
            for _ in range(AT_MOST):
                if not self.frame["runnable"]:
                    raise ValueError(f"The run has ended, and {text!r} did not come ({self.frame['ended']}).")
                self._advance(None)
                event = self.frame["event"]
                if any(text in line for line in (event["function"], event["label"], *event["notes"])):
                    return
            raise ValueError(f"{text!r} did not come within {AT_MOST} steps.")

    def follow(self, schedule: str) -> None:
        """Start again and make the steps of `schedule`: `0*5 1`, or what `tdxlab run` prints for this very program."""
        with _Refusals(self):
            wanted = self.setting.parse_schedule(schedule) if self.setting else read_schedule(schedule)
            self.cursor = 0
            with self.hold_sync():
                for i, cpu in enumerate(wanted):
                    try:
                        self._advance(cpu)
                    except ScheduleError:
                        can = _listed(self.frame["runnable"])
                        raise ValueError(
                            f"Step {i} of the schedule is CPU {cpu}, but there only {can} can run."
                        ) from None

    # --- what is shown ---

    @property
    def frame(self) -> Frame:
        """The frame at the cursor."""
        return self._frames[self.path[self.cursor]]

    @property
    def schedule(self) -> str:
        """The CPUs of the steps up to the cursor, as `0*5 1`; the browser shows it after what it was made with."""
        return show_schedule(self._cpus(self.cursor))

    @property
    def trace(self) -> Trace:
        """The trace up to the cursor, for `text`, `plots` and `export`."""
        self._go_to_cursor()
        return self.stepper.trace

    def _cpus(self, n: int) -> list[int]:
        return [self._frames[i]["event"]["cpu"] for i in self.path[1 : n + 1]]

    def _advance(self, cpu: int | None) -> None:
        kept = self.path[self.cursor + 1 :]
        if cpu is None:
            cpu = self._frames[kept[0]]["event"]["cpu"] if kept else self._stay()
        here = self.path[self.cursor]
        if (here, cpu) not in self._next:
            self._run_machine(cpu)
            self._next[here, cpu] = len(self._frames) - 1
        there = self._next[here, cpu]
        if kept[:1] != [there]:
            self.path = [*self.path[: self.cursor + 1], there]
        self.cursor += 1

    def _stay(self) -> int:
        last = self.frame["event"]["cpu"] if self.cursor else None
        runnable: list[int] = self.frame["runnable"]
        return last if last in runnable else runnable[0]

    def _go_to_cursor(self) -> None:
        # The machine may stand elsewhere on the path, or on one that was left.
        wanted = self._cpus(self.cursor)
        if self.stepper.trace.schedule != wanted:
            self.stepper.follow(wanted)

    def _run_machine(self, cpu: int) -> None:
        self._go_to_cursor()
        self.stepper.step(cpu)
        self._frames.append(frame(self.stepper))
        self.send({"frames": {str(len(self._frames) - 1): self._frames[-1]}})

    @traitlets.validate("cursor")
    def _cursor_on_path(self, proposal: dict[str, Any]) -> int:
        return int(min(max(proposal["value"], 0), max(len(self.path) - 1, 0)))

    def _on_message(self, _: Any, content: Any, __: Any) -> None:
        """The browser asks: {"do": "step", "cpu": 1, "at": 7, "id": "..."}, {"do": "frames", "ids": [3, 4]}."""
        asked = content if isinstance(content, dict) else {}
        if asked.get("do") == "frames":
            ids = [i for i in asked.get("ids", []) if isinstance(i, int) and 0 <= i < len(self._frames)]
            self.send({"frames": {str(i): self._frames[i] for i in ids}})
            return
        with self.hold_sync(), _Refusals(self):
            self.ack = str(asked.get("id", ""))
            if isinstance(asked.get("at"), int):
                self.cursor = asked["at"]
            if asked.get("do") == "step":
                self.step(asked.get("cpu"))
            elif asked.get("do") == "run":
                self.run()
            elif asked.get("do") == "follow":
                self.follow(str(asked.get("schedule", "")))
            elif asked.get("do") != "go":
                raise ValueError(f"The widget knows no request {asked.get('do')!r}.")


class _Refusals:
    """Turns what goes wrong inside into the widget's message; the outermost one clears it first."""

    def __init__(self, widget: StepperWidget) -> None:
        self.widget = widget

    def __enter__(self) -> None:
        depth = getattr(self.widget, "_depth", 0)
        if depth == 0:
            self.widget.message = ""
        self.widget._depth = depth + 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> bool:
        self.widget._depth -= 1
        if isinstance(error, Exception):
            said = str(error) or type(error).__name__
            self.widget.message = said if isinstance(error, ValueError) else f"{type(error).__name__}: {said}"
            return True
        return False


def _listed(cpus: list[int]) -> str:
    return ", ".join(f"CPU {cpu}" for cpu in cpus) or "none"


def _static(stepper: Stepper) -> dict[str, Any]:
    return {
        "title": title(stepper),
        "kvm": bool(stepper.picture()),
        "names": names(stepper),
        "claims": claim_texts(stepper),
        "states": {state: asdict(look) for state, look in palette.STATES.items()},
        "other": asdict(palette.OTHER),
        "cpus": list(palette.CPUS),
        "changed": palette.CHANGED,
    }
