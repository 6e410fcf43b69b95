"""What each style of guest costs: the counts that the model gives must follow from how the guest accepts."""

from __future__ import annotations

import pytest

from tdxlab.engine.run import run
from tdxlab.engine.schedule import seeded
from tdxlab.guest.styles import STYLES
from tdxlab.lab import Lab
from tdxlab.scenarios.styles import cost, costs

BLOCKS = 512  # of 2M, per GiB
PAGES = BLOCKS * 512


def rows(style: str, design: str, *columns: str) -> list[int]:
    """Some columns of a cost, per GiB."""
    told = cost(style, design, "4M")
    return [int(told[column]) for column in columns]


def test_linux_costs_one_exit_one_aug_and_one_accept_a_block():
    told = cost("linux", "seed", "64M")
    assert [told[column] for column in ("AUG 2M", "ACCEPT", "AUG 4K", "split")] == [BLOCKS, BLOCKS, 0, 0]
    assert told["exits"] == BLOCKS + 16  # the last exit of each guest of 64 MiB says that it is idle


def test_where_the_host_maps_4k_each_page_costs_an_exit():
    assert rows("linux", "mainline_616", "AUG 2M", "AUG 4K", "mismatch") == [0, PAGES, BLOCKS]


def test_touching_first_gets_2m_unless_the_host_waits_for_the_level():
    assert rows("touch-first", "seed", "AUG 2M", "AUG 4K", "mismatch") == [BLOCKS, 0, 0]
    assert rows("touch-first", "force_4k", "AUG 2M", "AUG 4K", "mismatch") == [0, PAGES, PAGES]


def test_a_handler_that_knows_4k_only_costs_a_split_a_block():
    assert rows("touch-first-4k", "seed", "split", "kick", "inhibit") == [BLOCKS] * 3


def test_a_converter_costs_a_split_a_block_of_its_pool_and_a_kick_and_a_remove_a_page():
    told = cost("converter", "seed", "64M")
    pool = PAGES // 32
    assert told["REMOVE"] == told["AUG 4K"] == pool and told["split"] == BLOCKS // 32
    assert told["kick"] == pool + BLOCKS // 32


@pytest.mark.parametrize("seed", range(2))
def test_an_adversary_bugs_nothing_and_is_served(seed):
    lab = Lab(cpus=2, grain="seamcall")
    td = lab.create_td(memory="4M")
    programs = STYLES["adversary"](lab.journal, 0, 4 << 20)
    actors = lambda: [td.vcpu(n, program) for n, program in enumerate(programs)]  # noqa: E731
    trace = run(lab.program(actors, max_steps=100_000), seeded(seed))
    assert trace.ended == "done" and not trace.notes("warn") and not trace.notes("kvm_bug_on")
    assert {note["status"] for note in trace.notes("tdcall")} >= {"TDX_SUCCESS", "TDX_PAGE_SIZE_MISMATCH"}


def test_a_guest_that_does_not_go_on_is_told():
    assert "again and again" in str(costs("ignore", "4M")["touch-first-4k"])


@pytest.mark.parametrize(("style", "memory"), [("linux", "3M"), ("windows", "4M")])
def test_bad_input_is_one_sentence(style, memory):
    with pytest.raises(ValueError, match=r"can not have 3M|these are: linux"):
        cost(style, memory=memory)
