"""The planner's form without a browser: each control changes what is worked out, and what can not be is a sentence."""

from __future__ import annotations

import pytest

pytest.importorskip("ipywidgets")

import matplotlib as mpl

mpl.use("Agg")

from tdxlab.views import planner
from tdxlab.views.planner import Planner


def test_each_control_changes_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "waterfall", lambda host: host)
    monkeypatch.setattr(planner.plots, "png", lambda host: repr(host).encode())
    form = Planner()
    assert "takes 83.34 % less" in form.card.value
    changes = {
        form.ram: "2T", form.count: 60, form.memory: "4G", form.vcpus: 64, form.huge: 90, form.lie: "random",
        form.counts: "4096T",
    }  # fmt: skip
    drawn = [form.image.value]
    for control, value in changes.items():
        control.value = value
        drawn.append(form.image.value)
    assert len(set(drawn)) == len(drawn)
    assert "MORE than static PAMT" in form.card.value and "it always takes more" in form.card.value


def test_tds_that_do_not_fit_are_told_in_a_sentence_and_a_host_without_any_is_drawn() -> None:
    form, other = Planner(), Planner()
    drawn = form.image.value
    form.count.value = 65
    assert "TDs of 1040G do not fit into 1T with the" in form.card.value and form.image.value == drawn
    assert form.image.layout.visibility == "hidden", "no picture of another host stands below"
    assert other.image.layout.visibility == "visible", "what another form shows is its own"
    form.count.value = 0
    assert "0 % of the 2M ranges are in use" in form.card.value and form.image.value != drawn
    assert form.image.layout.visibility == "visible"
