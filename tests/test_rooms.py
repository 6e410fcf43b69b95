"""Who may import whom: the arrows of DESIGN.md, read from the imports themselves.

Imports inside functions and under TYPE_CHECKING count: an arrow is about what a reader must know, not about when it
runs.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# a room imports itself and the rooms of the lines above
ORDER = """
    engine spec
    hw
    module host
    kvm guest
    lab
    data
    replay scenarios lessons scale
    tdxlab
    views
    bench_simpy
    bench_boot
    show diff bench jupyter
    commands
    parser
    cli
    __main__
"""
RANK = {room: rank for rank, rooms in enumerate(ORDER.split("\n")) for room in rooms.split()}

# files that belong to a room by another name; `tdxlab` is the package itself, whose public names lead to the scenarios
ROOM = {"in_flight": "lab", "invariants": "lab", "ledger": "lab", "picture": "lab", "td": "lab"}

# the SEAM boundary: Linux's side sees registers only
NEVER = {("host", "module"), ("kvm", "module"), ("guest", "module")}

STANDARD_LIBRARY_ONLY = {room for room in RANK if RANK[room] <= RANK["scenarios"]} - {"scale"}


def room_of(module: str) -> str:
    """The room of a dotted name: tdxlab.kvm.mmu is in kvm."""
    parts = module.split(".")
    name = parts[1] if len(parts) > 1 else "tdxlab"
    return ROOM.get(name, name)


def imported(module: str, source: str, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Line and dotted name of whatever the source of `module` imports."""
    here = module.split(".")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            # one dot is the package of this module, each further dot one package up
            up = node.level - is_package
            base = ".".join(here[: len(here) - up]) if node.level else ""
            origin = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                # what is taken from the package itself is a room, or a public name of the package
                is_room = origin == "tdxlab" and ROOM.get(alias.name, alias.name) in RANK
                yield node.lineno, f"tdxlab.{alias.name}" if is_room else origin


def wrong(module: str, source: str, is_package: bool = False) -> list[str]:
    """One sentence for each import that goes against the arrows."""
    room, found = room_of(module), []
    if room not in RANK:
        return [f"{module}: give the room {room} a place in ORDER"]
    for line, name in imported(module, source, is_package):
        if name.split(".")[0] == "tdxlab":
            target = room_of(name)
            if target not in RANK:
                allowed = False
            elif target == "jupyter":
                allowed = room in ("commands", "jupyter")
            else:
                allowed = room == target or (RANK[target] < RANK[room] and (room, target) not in NEVER)
        else:
            allowed = room not in STANDARD_LIBRARY_ONLY or name.split(".")[0] in sys.stdlib_module_names
        if not allowed:
            found.append(f"{module}, line {line}: {room} may not import {name}")
    return found


def test_every_import_goes_to_the_left(checkout: Path) -> None:
    found = []
    for path in sorted((checkout / "tdxlab").rglob("*.py")):
        parts = path.relative_to(checkout).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        found += wrong(module, path.read_text(encoding="utf-8"), is_package)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "module, source",
    [
        ("tdxlab.kvm.tdx", "from tdxlab.module.sept import entry"),
        ("tdxlab.host.seamcall", "import tdxlab.module"),
        ("tdxlab.guest.accept", "from tdxlab import module"),
        ("tdxlab.module.sept", "from tdxlab.host import pamt"),
        ("tdxlab.module.sept", "from ..kvm import mmu"),
        ("tdxlab.guest.accept", "from tdxlab.kvm import mmu"),
        ("tdxlab.engine.run", "from tdxlab.spec import levels"),
        ("tdxlab.spec.sept", "from tdxlab.engine.cells import Words"),
        ("tdxlab.lab", "from tdxlab.scenarios import registry"),
        ("tdxlab.kvm.mmu", "from tdxlab.picture import draw"),
        ("tdxlab.replay", "from tdxlab.scenarios import play"),
        ("tdxlab.kvm.mmu", "from tdxlab import data"),
        ("tdxlab.kvm.mmu", "from tdxlab import Lab"),
        ("tdxlab.views.text", "from tdxlab.jupyter import serve"),
        ("tdxlab.hw.cpu", "import numpy as np"),
        ("tdxlab.scenarios.play", "def f():\n    import pandas"),
        ("tdxlab.kvm.mmu", "if TYPE_CHECKING:\n    from tdxlab.lab import Lab"),
        ("tdxlab.hw.cpu", "def f():\n    from tdxlab.kvm.mmu import fault"),
        ("tdxlab.attic.thing", ""),
        ("tdxlab.views.text", "from tdxlab.attic import thing"),
    ],
)
def test_a_wrong_import_is_caught(module: str, source: str) -> None:
    assert len(wrong(module, source)) == 1


@pytest.mark.parametrize(
    "module, source",
    [
        ("tdxlab.kvm.tdx", "from tdxlab.host.seamcall import call"),
        ("tdxlab.kvm.tdx", "from .mmu import fault\nfrom ..host import pamt"),
        ("tdxlab.picture", "from tdxlab.lab import Lab\nfrom tdxlab.module.state import Td"),
        ("tdxlab.scenarios.play", "import json\nfrom tdxlab import data"),
        ("tdxlab.views.plots", "import numpy\nfrom tdxlab import run"),
        ("tdxlab.commands", "from tdxlab.jupyter import serve\nfrom tdxlab import diff"),
    ],
)
def test_a_right_import_passes(module: str, source: str) -> None:
    assert wrong(module, source) == []


def test_a_package_resolves_its_own_dots() -> None:
    assert list(imported("tdxlab.kvm", "from .mmu import fault\nfrom ..module import sept", True)) == [
        (1, "tdxlab.kvm.mmu"),
        (2, "tdxlab.module"),
    ]
