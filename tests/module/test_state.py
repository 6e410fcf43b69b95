"""State outside cells would survive a rewind: classes have slots, and none of them holds a plain container."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(file for room in ("hw", "module") for file in (ROOT / "tdxlab" / room).glob("*.py"))
DIES_WITH_ITS_CALL = {"Held.locks"}
CONTAINERS = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
MAKERS = {"list", "dict", "set", "deque", "defaultdict", "Counter"}


def name_of(path: Path) -> str:
    """tests and errors name a file by its module."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_classes_have_slots(path: Path) -> None:
    module = importlib.import_module(name_of(path).removesuffix(".__init__"))
    for cls in vars(module).values():
        own = inspect.isclass(cls) and cls.__module__ == module.__name__
        if own and not issubclass(cls, Exception) and not getattr(cls, "_is_protocol", False):
            assert "__slots__" in vars(cls), cls


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_attribute_is_a_plain_container(path: Path) -> None:
    found = []
    for cls in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)):
        for node in ast.walk(cls):
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                made = isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") in MAKERS
                if isinstance(node.value, CONTAINERS) or made:
                    found += [f"{cls.name}.{t.attr}" for t in targets if isinstance(t, ast.Attribute)]
    assert not set(found) - DIES_WITH_ITS_CALL
