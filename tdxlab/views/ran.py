"""One run of a scenario, as data and as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

from tdxlab.engine.trace import Trace
from tdxlab.scenarios.counts import counts
from tdxlab.scenarios.play import Setting
from tdxlab.scenarios.registry import TOPICS, get
from tdxlab.views.listing import topics
from tdxlab.views.text import VERDICT, prose

NUMBERS = ("steps", "ended", "faults", "splits", "kicks", "write_lock_takes")


def run_data(trace: Trace, setting: Setting) -> dict[str, Any]:
    """For `--json`: what it was run with, counts of calls and faults, the notes, and each claim's verdict."""
    known = get(setting.scenario)
    return {
        "scenario": setting.scenario,
        "design": setting.design,
        "grain": setting.grain,
        "module": setting.module,
        "cpus": int(trace.meta["cpus"]),
        "dpamt": setting.dpamt,
        "schedule": setting.show_schedule(trace.schedule),
        "steps": len(trace.schedule),
        "ended": trace.ended,
        **counts(trace),
        "events": trace.history(),
        "claims": {
            claim: {"holds": holds, "expected": known.expected(setting.design, claim, setting.grain)}
            for claim, holds in trace.claims.items()
        },
    }


def run_text(data: Mapping[str, Any]) -> str:
    """For people."""
    sentences = get(data["scenario"]).claims
    left = [
        f"vCPU {n['vcpu']}'s thread gave up after {n['entries']} entries"
        for n in data["events"]
        if n["kind"] == "gives_up"
    ]
    numbers = {**data, "ended": "; ".join([data["ended"], *left])}
    calls = [
        (leaf, status, n)
        for kind in ("seamcalls", "tdcalls")
        for leaf, statuses in data[kind].items()
        for status, n in statuses.items()
    ]
    claims = data["claims"]
    verdicts = [(c, VERDICT[v["holds"]], VERDICT[v["expected"]], sentences[c]) for c, v in claims.items()]
    machine = f"grain {data['grain']}, module {data['module']}{', Dynamic PAMT' if data['dpamt'] else ''}"
    parts = [
        f"{data['scenario']} under {data['design']}, {machine}, one run",
        tabulate([(key, numbers[key]) for key in NUMBERS], tablefmt="plain"),
        tabulate(calls, ["leaf", "status", "times"]),
        prose(verdicts, ["claim", "this run", "expected", ""]),
        topics(prefix for prefix in TOPICS if any(c.startswith(prefix) for c in claims)),
        f"schedule: {data['schedule']}",
    ]
    return "\n\n".join(parts)
