"""Several processes give what one gives."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tdxlab.replay import replay

ORACLE = Path(__file__).parent.parent / "oracle"
EVERY = 97  # so many lines from one that is made wrong to the next


def wrong(source: Path, target: Path) -> Path:
    """A recording with some results, and some state, made wrong."""
    lines = [json.loads(text) for text in gzip.decompress(source.read_bytes()).splitlines()]
    for line in lines[::EVERY]:
        for key, value in (("rax", "0x1"), ("raw", "0x1"), ("tree_lock_after", "0x7"), ("lock_raw_after", "0x7")):
            if key in line:
                line[key] = value
        for key in ("A_result", "B_result"):
            if line.get(key):
                line[key]["rax"] = "0x1"
    target.write_text("\n".join(json.dumps(line) for line in lines))
    return target


@pytest.mark.parametrize("processes", [2, 3])
def test_shares_put_together_are_the_whole(processes: int, tmp_path: Path) -> None:
    files = [
        wrong(ORACLE / "v1.5.25" / "tour.jsonl.gz", tmp_path / "tour.jsonl"),
        wrong(ORACLE / "v1.5.25" / "contention.jsonl.gz", tmp_path / "contention.jsonl"),
    ]
    alone = replay(files, processes=1)
    assert len(alone["mismatches"]) > 50 and alone["state_mismatches"]
    assert replay(files, processes=processes) == alone


def test_a_sentence_of_a_share_is_the_sentence(tmp_path: Path) -> None:
    file = tmp_path / "odd.jsonl"
    file.write_text('{"section": "one"}\n{"cmd": "boot"}\n{"section": "two"}\n{"cmd": "lp nine"}\n')
    with pytest.raises(ValueError, match=r"odd.jsonl line 4 can not be read: 'nine' is no number"):
        replay([file], processes=2)
