"""A malformed program of the little language is refused with a sentence, whether it is read, translated or run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tdxlab.engine import language
from tdxlab.engine.dpor import Search

LOAD = ["load", "a", "x"]


def executions(file: Path, spec: dict[str, Any]) -> int:
    file.write_text(json.dumps({"program": "mine", "threads": [{"code": [LOAD]}]} | spec))
    known = language.read(str(file))
    return len(list(Search(language.program(known, **language.sizes(known, ()))).executions()))


def nested(*statement: Any, times: int) -> dict[str, Any]:
    code = [LOAD]
    for _ in range(times):
        code = [[*statement, code]]
    return of(*code)


def of(*code: Any) -> dict[str, Any]:
    return {"threads": [{"code": [*code]}]}


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"program": ["p"]}, "holds no program"),
        ({"threads": 5}, "mine has no list of"),
        ({"threads": [5]}, "a thread has its code"),
        ({"threads": [{}]}, "a thread has its code"),
        ({"threads": [{"code": 5}]}, "a thread has its code"),
        ({"threads": [{"code": [LOAD], "count": 10**9}]}, "there can not be 1000000000 threads"),
        ({"threads": [{"code": [LOAD], "count": [1]}]}, "is no integer expression"),
        ({"sizes": 5}, "sizes can not be 5"),
        ({"sizes": [5]}, "sizes can not be"),
        ({"sizes": [{"N": "three"}]}, "a size is a number, not 'three'"),
        ({"init": {"x[": 1}}, "is no location"),
        ({"init": {"x": "1"}}, "init can not be"),
        (of(5), "5 is no statement"),
        (of([]), "is no statement"),
        (of([["load"], "a"]), "is no statement"),
        (of(["load", "a", 5]), "load takes register, location, not"),
        (of(["load", "a", "x[1"]), "is no location"),
        (of(["if", "1", 5]), "if takes expression, block, block, not"),
        (of(["while", "1", [5]]), "5 is no statement"),
        (of(["set", "a", []]), "set takes register, expression, not"),
        (of(["set", "a", "1\0"]), "is no expression"),
        (of(["await", "x", "_ == q"]), "mine can not go on: name 'q' is not defined"),
        (of(["await", "x", "1 // _"]), "mine can not go on: integer division"),
        (nested("repeat", 1, times=25), "nested too deep"),
        (nested("if", "1", times=120), "nested too deep"),
        (nested("if", "1", times=400), "nested too deep"),
        (of(["set", "a", "-" * 3000 + "1"]), "too long"),
        (of(["set", "a", "+".join(["1"] * 20_000)]), "too long"),
    ],
)
def test_a_malformed_program_is_refused_with_a_sentence(spec: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=why) as wrong:
        executions(tmp_path / "program.json", spec)
    assert len(str(wrong.value)) < 250


@pytest.mark.parametrize("text", ["1 in 2", "1 is 1", "1 @ 1", "1 / 2"])
def test_an_operator_that_makes_more_than_ints_is_none_of_the_language(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no integer expression over registers and sizes"):
        executions(tmp_path / "program.json", of(["set", "a", text]))


@pytest.mark.parametrize("text", ["2 ** -1", "9 ** 9 ** 9", "1 << (1 << 40)", "1 >> -1"])
def test_an_int_that_no_memory_holds_is_not_made(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="can not go on: an exponent, or a shift, is 0 to 128, not"):
        executions(tmp_path / "program.json", of(["set", "a", text], ["store", "x", "a"]))


def test_the_operators_of_ints_are_those_of_python(tmp_path: Path) -> None:
    same = (
        "not (-7 // 2 == ~3 and -7 % 3 == 2 and 6 & 3 | 8 ^ 1 == 11 and 2**3 << 1 == 64 >> 2 or +1 != 1 or 1 > 2 >= 3)"
    )
    waits = of(["await", "x", f"_ == (1 if {same} else 0) * 3 - 1 + 1"])
    assert executions(tmp_path / "program.json", waits) == 1
