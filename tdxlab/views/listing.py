"""What there is to run, and what a name stands for, as data and as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tdxlab.scenarios.registry import TOPICS, load_all
from tdxlab.spec.design import Question
from tdxlab.spec.presets import PRESETS
from tdxlab.views.text import prose


def list_data() -> dict[str, Any]:
    """Scenarios with their claims and what each design does to these, designs, and questions with their variants."""
    known = sorted(load_all().values(), key=lambda scenario: scenario.name)
    return {
        "scenarios": [
            {
                "name": s.name,
                "question": s.question,
                "claims": dict(s.claims),
                "designs": list(s.breaks),
                "expected": {design: {c: bool(s.expected(design, c)) for c in s.claims} for design in s.breaks},
            }
            for s in known
        ],
        "designs": [{"name": name, "about": preset.about} for name, preset in PRESETS.items()],
        "questions": [{"name": q.name, "variants": list(q.variants)} for q in Question.all.values()],
    }


def list_text(data: Mapping[str, Any]) -> str:
    """For people."""
    scenarios = [[s["name"], " ".join(s["claims"]), s["question"].split("\n")[0]] for s in data["scenarios"]]
    questions = [[q["name"], " ".join(q["variants"])] for q in data["questions"]]
    parts = [
        prose(scenarios, ["scenario", "claims", "question"]),
        topics(TOPICS),
        prose([[d["name"], d["about"]] for d in data["designs"]], ["design", "what it is"]),
        prose(questions, ["question", "variants"]),
    ]
    return "\n\n".join(parts)


def topics(prefixes: Iterable[str]) -> str:
    """What the claims are on whose names begin so."""
    return "; ".join(f"{prefix}: claims on {TOPICS[prefix]}" for prefix in prefixes)


def entries_text(entries: Sequence[Mapping[str, Any]]) -> str:
    """What `show` finds for a name."""
    return "\n\n".join(
        "\n".join(_words(key, value) for key, value in entry.items() if value or value == 0) for entry in entries
    )


def _words(key: str, value: Any) -> str:
    if isinstance(value, dict):
        return "\n  ".join([f"{key}:", *(_words(k, v) for k, v in value.items())])
    said = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return f"{key}: {said}" if said else key
