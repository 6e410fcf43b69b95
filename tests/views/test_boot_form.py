"""The form without a browser: each control reaches the boot, nonsense is a sentence, changes are gathered."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("ipywidgets")

from tdxlab.scale.boot import Boot, Options
from tdxlab.views import boot_form, later
from tdxlab.views.boot_form import OLD, BootForm, rerun


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> list[Options]:
    """No time has to pass, and nothing boots but one small TD: what was asked for is kept here."""
    asked: list[Options] = []

    def small(options: Options) -> tuple[Boot, str]:
        asked.append(options)
        return rerun(Options(tds=1, memory="2M", seed=len(asked)))

    monkeypatch.setattr(later, "QUIET_S", 0)
    monkeypatch.setattr(boot_form, "rerun", small)
    return asked


def used(doing: Coroutine[Any, Any, None]) -> None:
    """As in a kernel, which has a running loop; in a thread, since a browser test leaves a loop of its own."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, doing).result()


def test_each_control_reaches_the_boot(quick: list[Options]) -> None:
    changes = [
        ("tds", 2), ("memory", "1G"), ("vcpus", 4), ("huge_share", 0.5), ("dpamt_lock", "rwlock"),
        ("kernel_pages", "shared"), ("start_spread_ms", 100.0), ("jitter_percent", 50), ("costs", "high"), ("seed", 3),
        ("vcpus", 1), ("convert", "64M"), ("teardown", "slow"), ("huge_share", 0.0), ("policy", "batch"),
    ]  # fmt: skip

    async def change() -> None:
        form = BootForm()
        assert {name for name, _ in changes} == form.controls.keys()
        for name, value in changes:
            form.controls[name].value = value
            await asyncio.sleep(0.01)
            assert getattr(quick[-1], name) == value
        assert len(quick) == 1 + len(changes)

    used(change())


def test_changes_that_follow_each_other_are_one_boot(quick: list[Options]) -> None:
    async def change() -> None:
        form = BootForm()
        for tds in (3, 4, 5, 6):
            form.controls["tds"].value = tds
        form.controls["memory"].value = "64M"
        assert len(quick) == 1
        await asyncio.sleep(0.01)
        assert len(quick) == 2 and (quick[-1].tds, quick[-1].memory) == (6, "64M")

    used(change())


def test_few_tds_boot_at_once_and_all_on_demand(quick: list[Options]) -> None:
    async def change() -> None:
        form = BootForm()
        assert quick[-1].tds == 2 and "2 of 10 TDs</b>" in form.card.value
        form.controls["seed"].value = 1
        form.button.click()
        assert [asked.tds for asked in quick] == [2, 10] and "10 of 10 TDs</b>" in form.card.value
        await asyncio.sleep(0.01)
        assert len(quick) == 2, "the few are not needed any more"

    used(change())


def test_what_can_not_be_is_a_sentence_and_nothing_boots(quick: list[Options]) -> None:
    async def change() -> None:
        form = BootForm()
        form.controls["dpamt_lock"].value = "always"
        assert "all TDs together have 32G at most." in form.card.value
        form.button.click()
        form.few()
        await asyncio.sleep(0.01)
        assert len(quick) == 1
        form.controls["memory"].value = "1G"
        await asyncio.sleep(0.01)
        assert "One TD takes 262,144 steps" in form.card.value and len(quick) == 1
        form.button.click()
        assert quick[-1].tds == 10

    used(change())


def test_the_last_boots_stand_below_the_published_one() -> None:
    form = BootForm()
    for _ in range(5):
        form.all()
    head, *rows = re.findall("<tr>(.*)</tr>", form.table.value)
    assert "mmu_lock" in head and "published" in rows[0] and "1,136" in rows[0]
    assert len(rows) == 1 + boot_form.KEPT
    assert "seed 6" in rows[1] and "seed 3" in rows[-1]


def test_what_is_shown_is_old_from_a_change_until_the_boot_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    small, during = boot_form.rerun, list[tuple[bool, str]]()

    def looked(options: Options) -> tuple[Boot, str]:
        during.append((OLD in form.below._dom_classes, form.card.value))
        return small(options)

    async def change() -> None:
        form.controls["vcpus"].value = 4
        assert OLD in form.below._dom_classes
        assert "2 of 10 TDs boot ..." in form.card.value and "4 vCPUs each" in form.card.value
        await asyncio.sleep(0.01)
        assert OLD not in form.below._dom_classes and "boot ..." not in form.card.value
        form.controls["costs"].value = "low"
        form.button.click()
        assert OLD not in form.below._dom_classes and "costs low" in form.card.value
        form.controls["teardown"].value = "fast"
        assert OLD in form.below._dom_classes and "Not done" in form.card.value

    form = BootForm()
    monkeypatch.setattr(boot_form, "rerun", looked)
    used(change())
    assert [old for old, _ in during] == [True, True]
    assert "2 of 10 TDs boot ..." in during[0][1] and "10 of 10 TDs boot ..." in during[1][1]


def test_a_rerun_is_a_boot_and_its_waits_as_a_picture() -> None:
    booted, svg = rerun(Options(tds=10, memory="64M", start_spread_ms=0.0))
    assert booted.pamt.contentions > 10 and f"waits: {booted.pamt.contentions}," in svg and "GUESS" in svg
    assert "nobody waited" in rerun(Options(tds=1, memory="2M"))[1]
