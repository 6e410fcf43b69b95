"""pyproject.toml is the one list of packages; environment.yml and requirements.lock agree with it."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

CONDA_NAMES = {"matplotlib-base": "matplotlib"}
"""Where conda-forge has another name for what PyPI has."""

CONDA_ONLY = {"pip"}


@pytest.fixture
def project(checkout: Path) -> dict[str, Any]:
    return dict(tomllib.loads((checkout / "pyproject.toml").read_text())["project"])


@pytest.fixture
def locked(checkout: Path) -> list[str]:
    return (checkout / "requirements.lock").read_text().splitlines()


def wanted(project: dict[str, Any], *extras: str) -> dict[str, SpecifierSet]:
    """Name and range of what the package needs with these extras."""
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    found = [Requirement(line) for line in lines]
    return {canonicalize_name(r.name): r.specifier for r in found if r.name != project["name"]}


def from_conda(spec: str) -> tuple[str, SpecifierSet]:
    """Name and range, as pip would say them: conda's single = is a prefix."""
    name, range_ = re.fullmatch(r"([\w.-]+)\s*(.*)", spec).groups()  # type: ignore[union-attr]
    range_ = re.sub(r"^=([^=].*)$", r"==\1.*", range_)
    return CONDA_NAMES.get(name, name), SpecifierSet(range_)


def test_conda_asks_for_the_same(checkout: Path, project: dict[str, Any]) -> None:
    environment = yaml.safe_load((checkout / "environment.yml").read_text())
    conda = dict(from_conda(line) for line in environment["dependencies"] if isinstance(line, str))
    assert conda.pop("python") == SpecifierSet(project["requires-python"])
    assert {name: conda[name] for name in conda.keys() - CONDA_ONLY} == wanted(project, "lab", "sweep", "bench", "test")


@pytest.mark.parametrize("spec, range_", [("a=1.2", "==1.2.*"), ("a>=1.2,<2", ">=1.2,<2"), ("a", ""), ("a==1", "==1")])
def test_conda_ranges_are_read_as_pip_has_them(spec: str, range_: str) -> None:
    assert from_conda(spec) == ("a", SpecifierSet(range_))


def test_the_lock_has_every_package_in_its_range(project: dict[str, Any], locked: list[str]) -> None:
    ranges = wanted(project, "lab", "sweep", "bench", "test", "browser")
    # a package may stand there once for each Python
    pins = [Requirement(line) for line in locked]
    assert ranges.keys() <= {canonicalize_name(pin.name) for pin in pins}
    for pin in pins:
        (only,) = pin.specifier
        assert only.operator == "=="
        assert only.version in ranges.get(canonicalize_name(pin.name), SpecifierSet()), pin


def test_the_lock_names_no_host(locked: list[str]) -> None:
    assert locked
    for line in locked:
        assert re.fullmatch(r"[a-z0-9-]+==[\w.]+( ; [\w .'<>=!()]+)?", line), line
