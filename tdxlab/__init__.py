"""tdxlab: a laboratory for the memory of Intel TDX guests.

The public names are looked up when they are first used, so that importing a low room does not import the high ones.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

PUBLIC = {
    "Lab": "tdxlab.lab",
    "run": "tdxlab.scenarios.play",
    "explore": "tdxlab.scenarios.play",
    "Stepper": "tdxlab.scenarios.play",
    "overhead": "tdxlab.scale.overhead",
}


def __getattr__(name: str) -> Any:
    if name in PUBLIC:
        return getattr(importlib.import_module(PUBLIC[name]), name)
    raise AttributeError(f"module 'tdxlab' has no attribute {name!r}")
