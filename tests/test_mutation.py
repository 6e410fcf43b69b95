"""No touch is there for decoration: taking any of them away turns a test red."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOMS = ("hw", "module", "host", "kvm")


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("room", ROOMS)
def test_no_touch_can_be_taken_away(room: str) -> None:
    command = [sys.executable, "-m", "tests.mutation", room]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_mutants_are_many() -> None:
    command = [sys.executable, "-m", "tests.mutation", "--list", "module"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent, check=True)
    assert len(done.stdout.splitlines()) > 200
