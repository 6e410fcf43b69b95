"""The window between a page's removal and its count, from both sides."""

from tdxlab.lessons import window


def test_only_between_the_entry_and_the_count_does_the_module_die() -> None:
    found = {meeting.step: (meeting.answers, meeting.trace.ended.split(":")[0]) for meeting in window.meetings()}
    assert found == {
        "update": (("TDX_SUCCESS", "TDX_PAMT_PAGE_NOT_EMPTY"), "done"),
        "dec": (("", ""), "fatal"),  # statement 76
        "decd": (("TDX_SUCCESS", "TDX_SUCCESS"), "done"),  # statement 77
        "release": (("TDX_SUCCESS", "TDX_SUCCESS"), "done"),
    }


def test_the_module_dies_as_the_real_one_did() -> None:
    dead = next(meeting for meeting in window.meetings() if meeting.step == "dec")
    assert "FATAL_ERROR_ID 0x157" in dead.trace.ended


def test_the_search_finds_the_same_death_and_no_other_end() -> None:
    deaths, schedules = window.deaths(bound=1)
    assert deaths == 1 and schedules > deaths
