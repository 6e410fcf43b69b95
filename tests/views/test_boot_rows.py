"""Boots as rows, and what stands below their pictures."""

from __future__ import annotations

import pytest

from tdxlab.scale.boot import boot
from tdxlab.views.boot_rows import beside, note, published, row, used


def test_a_row_tells_what_is_not_as_usual_and_what_came_of_it() -> None:
    booted = boot(tds=2, memory="64M", dpamt_lock="per-2M", huge_share=0.5, teardown="fast")
    told = row(booted)
    assert told["what boots"] == "2 x 64M, huge_share 0.5, per-2M, teardown fast"
    assert (told["pairs in"], told["out"], told["contentions"]) == ("32", "33", f"{booted.pamt.contentions}")
    assert row(boot(tds=1, memory="2M", huge_share=0.0))["what boots"] == "1 x 2M"
    assert row(boot(tds=1, memory="2M", jitter_percent=0))["what boots"] == "1 x 2M, jitter_percent 0"
    assert row(boot(tds=1, memory="2M", start_spread_ms=10_000.0))["what boots"] == "1 x 2M, start_spread_ms 10000"
    assert published().keys() == told.keys()


def test_beside_the_published_boot_stands_what_was_fitted_and_what_predicted() -> None:
    told = {line[""]: line for line in beside(boot())}
    assert [line["published"] for line in told.values()] == ["60", "1,136", "4"]
    assert "fitted" in told["the boot, s"]["the number here is"] and 60 <= float(told["the boot, s"]["here"]) < 60.2
    assert told["contentions"]["the number here is"] == "PREDICTED"
    assert "3.50 us: fitted" in told["waiting, ms"]["the number here is"]
    with pytest.raises(ValueError, match="this is another one"):
        beside(boot(tds=3, memory="64M"))


def test_below_a_picture_stands_what_was_fitted_and_what_nobody_measured() -> None:
    fitted = boot(tds=1, memory="4M", huge_share=0.5)
    assert "only the number of contentions is a prediction" in note(fitted)
    assert "11 of 13 costs are guesses" in note(fitted)
    assert {"mem_page_accept_2m", "accept_4k"} <= {*used(fitted)} and "pamt_add" not in used(fitted)
    guessed = boot(tds=1, memory="2M", costs="high", teardown="slow")
    assert "nothing is fitted" in note(guessed) and "phymem_page_wbinvd" in note(guessed)
