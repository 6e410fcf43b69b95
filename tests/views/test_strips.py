"""Pictures made regular, whatever keys a lab gives."""

from tdxlab.views import strips

TABLE = ["MAPPED"] + ["PENDING"] * 511


def test_regions_join_what_is_known_of_each() -> None:
    found = strips.regions({"sept": {0x200000: TABLE}, "mirror": {"0x200000": "PENDING"}, "lpage_info": {0: ["X"]}})
    assert [(r["base"], r["mirror"], r["lpage"]) for r in found] == [(0, None, "X"), (0x200000, "PENDING", "")]
    assert strips.regions({}) == [] and strips.regions({"sept": None, "lpage_info": "none"}) == []


def test_lpage_info_is_told_by_name() -> None:
    assert strips.bits_text({"GUEST_INHIBIT": True, "MIXED": False}) == "GUEST_INHIBIT"
    assert strips.bits_text({"2M": ["GUEST_INHIBIT"], "1G": []}) == "2M GUEST_INHIBIT"
    assert strips.bits_text(("b", "a")) == "a, b"
    assert strips.bits_text(0) == ""


def test_everything_else_is_a_fact() -> None:
    given = {"sept": {}, "pages_2m": 3, "counters": {"faults": 2}, "vcpus": ["in guest"], "lpage_info": {}}
    assert strips.facts(given) == {"pages_2m": "3", "faults": "2", "vCPU 0": "in guest"}


def test_what_changed_is_ranges() -> None:
    assert strips.changed(tuple(TABLE), tuple(TABLE)) == []
    assert strips.changed(("A", "B", "B", "A"), ("A", "C", "C", "D")) == [(1, 4)]
    assert strips.changed(("A", "B", "B", "A"), ("C", "B", "B", "D")) == [(0, 1), (3, 4)]
    assert strips.changed("PENDING", tuple(TABLE)) == [(0, 512)]


def test_letters_fold_equal_rows() -> None:
    assert strips.letters(tuple(TABLE)) == ["  0 M" + "P" * 63, " 64 " + "P" * 64, "  *"]
    assert strips.letters("PENDING") == ["2M leaf PENDING"]
    assert strips.letters(None) == ["nothing"]
    assert strips.summary(tuple(TABLE)) == "1 MAPPED, 511 PENDING"
    assert [strips.summary(s) for s in ("FREE", "FROZEN", "NL_BLOCKED", "PENDING_BLOCKED")] == [
        "entry FREE",
        "entry FROZEN",
        "entry NL_BLOCKED",
        "2M leaf PENDING_BLOCKED",
    ]
