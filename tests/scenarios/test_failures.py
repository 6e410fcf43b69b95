"""data/failures.csv tells what comes of each failure, and nothing fails in any other way."""

from __future__ import annotations

import ast
import random
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from tdxlab.host import seamcall
from tdxlab.host.fail_nth import SITES
from tdxlab.kvm import tdx_build
from tdxlab.scenarios.failures import ONLY_WARNS, PRESETS, Failure, fail, failures, sentence
from tdxlab.scenarios.life import phases
from tdxlab.show import PACKAGE
from tdxlab.spec import leaves
from tests.failures import stored

TABLE = stored()
SAMPLE = 40
OF_OTHERS = {
    "kvm_mmu_memory_cache_alloc": "a cache that was topped up is not empty under the lock",
    "pamt_pool": "a pool of PAMT pages is a design that no preset has",
}
"""Sites that are not in the table: why."""
CACHES = "memory_cache.py", "pamt_split_cache.py"  # a cache asks in its own name


@pytest.mark.parametrize("preset", PRESETS)
def test_whatever_a_phase_uses_has_its_rows_and_nothing_else(preset: str) -> None:
    used = {failure for phase in phases(preset) for failure, _ in failures(preset, phase)}
    assert used == {failure for name, failure in TABLE if name == preset}


def test_a_sample_comes_out_as_the_table_says() -> None:
    for preset, failure in random.Random(2026).sample(sorted(TABLE), SAMPLE):
        uses = dict(failures(preset, failure.phase))
        outcome = fail(preset, failure, uses[failure])
        row = TABLE[preset, failure]
        told = (outcome.returned, outcome.outcome, outcome.leaked, outcome.log, sentence(failure, outcome))
        assert told == tuple(row[column] for column in ("returned", "outcome", "leaked", "log", "sentence")), row


def test_a_failure_is_handled_or_a_bug_of_kvm_or_the_kernel_only_warns() -> None:
    for (_, failure), row in TABLE.items():
        assert row["outcome"] in ("handled", "KVM_BUG_ON") or failure.site in ONLY_WARNS, row
        assert row["outcome"] != "handled" or not row["leaked"], row
    assert {row["outcome"] for row in TABLE.values()} == {"handled", "KVM_BUG_ON", "WARN"}


def test_each_seamcall_and_each_allocation_fails_somewhere() -> None:
    source = Path(str(seamcall.__file__)).read_text(encoding="utf-8")
    made = {getattr(leaves, name).name for name in re.findall(r"leaves\.(TDH_\w+)", source)}
    assert {failure.site for _, failure in TABLE} == (made | set(SITES)) - set(OF_OTHERS)


@pytest.mark.parametrize("room", ["host", "kvm"])
def test_who_asks_for_a_page_says_so(room: str) -> None:
    """But the host when it boots, and the helper of set-ups."""
    files = set((PACKAGE / room).rglob("*.py")) - {PACKAGE / "host" / "tdx.py", PACKAGE / "host" / "host.py"}
    for path in files:
        calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
        for call in calls:
            if isinstance(call.func, ast.Attribute) and call.func.attr == "alloc_page":
                whole = len(call.args) > 2 or any(isinstance(arg, ast.Starred) for arg in call.args)
                assert whole or path.name in CACHES, f"{path}:{call.lineno}"


def test_pages_that_are_not_freed_are_seen() -> None:
    case = Failure("INIT_VM", "TDH.MNG.CREATE", "TDX_SW_ERROR", "first")
    assert fail("mainline_616", case, 1).outcome == "handled"

    async def forgets(*_: object) -> None:
        """Nothing is freed."""

    with patch.object(tdx_build, "tdx_free_control_pages", forgets):
        outcome = fail("mainline_616", case, 1)
    assert (outcome.outcome, outcome.leaked) == ("lost", "page that the module does not have: 7")


@pytest.mark.slow
def test_all_of_it_comes_out_as_the_table_says(checkout: Path) -> None:
    check = [sys.executable, "-m", "tests.failures", "--check"]
    assert subprocess.run(check, cwd=checkout, check=False).returncode == 0, "run python -m tests.failures"
