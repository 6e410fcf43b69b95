"""Rows of recordings of contention: each is a case of its own on the same set-up, which is run once and rewound.

A lock is held by somebody else; a call is stopped at a point while another one is made; locks are given back one by
one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from tdxlab.replay.compare import AFTER, results
from tdxlab.replay.lines import run
from tdxlab.replay.locks import TAKEN, named
from tdxlab.replay.machine import Machine
from tdxlab.replay.reading import Line, Unbuilt, check_shape

if TYPE_CHECKING:
    from tdxlab.replay.player import Player

HOST_LP, GUEST_LP, OTHER_LP = 0, 1, 3  # who makes a call of the host, one of the guest, and the call beside it
VCPU_INSIDE = re.compile(r"vCPU V(\d) inside the TD on LP (\d)")


class SetUp:
    """The commands before each case: the machine after them, and the way back to there.

    tds, vcpus: what they create, in order; the recordings speak of the first TD, and of vCPU V1.
    """

    def __init__(self, player: Player, line: Line) -> None:
        self.tds: list[str] = []
        self.vcpus: list[str] = []
        self.works = True
        for entry in line["setup"]:
            told = entry if isinstance(entry, dict) else {"cmd": entry}
            if "cmd" not in told:
                raise ValueError("a line of the set-up has no cmd")
            check_shape(told)
            self._command(player, told["cmd"], told)
        assert player.machine is not None
        self.machine, self.part, self.selected, self.dead = (
            player.machine,
            player.count.part,
            player.selected,
            player.dead,
        )
        self.back = self.machine.mark()

    def _command(self, player: Player, cmd: str, told: Line) -> None:
        word, *words = cmd.split()
        if word == "TDH.MNG.CREATE":
            self.tds.append(words[0])
        elif word == "TDH.VP.CREATE":
            self.vcpus.append(words[0])
        try:
            player.prepare(cmd, told)
        except Unbuilt:
            self.works = False

    def rewind(self, player: Player) -> Machine:
        """Begin a case."""
        self.back()
        player.machine, player.count.part, player.dead = self.machine, self.part, self.dead
        player.count.lines.clear()
        return self.machine

    def enter(self, vcpu: int, lp: int) -> None:
        """The n-th vCPU (from 1) is inside its TD on an LP."""
        if vcpu > len(self.vcpus):
            raise ValueError(f"the set-up makes no vCPU V{vcpu}")
        self.machine.lp = lp
        run(self.machine, f"TDH.VP.ENTER {self.vcpus[vcpu - 1]}")

    def caller(self, call: str) -> bool:
        """The LP that makes a call becomes the current one.  Is it a guest?"""
        guest = call.startswith("TDG.")
        if guest:
            self.enter(1, GUEST_LP)
        self.machine.lp = GUEST_LP if guest else HOST_LP
        return guest


Case = Callable[["Player", SetUp, Line], None]


def lock_held(player: Player, set_up: SetUp, row: Line) -> None:
    """A call while somebody else holds a lock or is inside the TD; the lock's word; the call again after that."""
    call, locks = row["call"], set_up.machine.locks
    name, mode = named(row["lock_cmd"].removeprefix("lock ").split()) if row["lock_cmd"] else ((), "")
    mode = mode or row.get("mode") or ""
    if inside := VCPU_INSIDE.fullmatch(row["lock"]):
        set_up.enter(int(inside[1]), int(inside[2]))
    set_up.caller(call)
    if name:
        told = {"lock_ok": row.get("lock_ok", TAKEN)}
        player.count.state(f"lock {row['lock_cmd']}", told, {"lock_ok": locks.take(name, mode)})
    if not results(row) and "fatal" not in row:
        return
    player.told(call, row)
    for key in ("lock_raw_after", "septe_raw_after"):
        if key in row:
            player.count.state(row["lock_cmd"], {key: row[key]}, {key: locks.word(name)})
    if "retry_after_unlock" in row and not player.dead:
        locks.give(name, mode)
        player.told(call, row["retry_after_unlock"])
    if "lock_raw_after_retry" in row:
        told = {"lock_raw_after_retry": row["lock_raw_after_retry"]}
        player.count.state(row["lock_cmd"], told, {"lock_raw_after_retry": locks.word(name)})


def pair(player: Player, set_up: SetUp, row: Line) -> None:
    """Call A, stopped at a point while another LP makes call B; then B again.

    The guest of A has left when B is made again (INFERRED: the recordings say so of TDH.VP.ENTER and VPFLUSHDONE).
    """
    machine, a, b = set_up.machine, row["A"], row["B"]
    guest = set_up.caller(a)
    run(machine, f"hook {row['point']} {OTHER_LP} {b}")
    assert machine.hook is not None
    [beside] = machine.hook.calls
    number = player.count.report.calls + 2  # of B
    machine.hook.calls = [lambda: player.watched(number, b, beside)]
    player.told(a, row.get("A_result") or row, hooks=False)
    came = machine.hooked[0] if machine.hooked else {"fatal": player.dead} if player.dead else None
    machine.hook = None
    if row.get("B_result") is None:
        player.count.state(b, {"reached": False}, {"reached": came is not None})
    elif "rax" in row["B_result"]:
        player.count.call(b, row["B_result"], came)
    if player.dead:
        return
    if guest:
        run(machine, "exit")
    machine.lp = OTHER_LP
    if row.get("B_again_after_A"):
        player.told(b, row["B_again_after_A"])
    if "tree_lock_after" in row:
        told = {"tree_lock_after": row["tree_lock_after"]}
        player.count.state(a, told, {"tree_lock_after": machine.locks.word(("sept", set_up.tds[0]))})


def order(player: Player, set_up: SetUp, row: Line) -> None:
    """A call while all its locks are held by somebody else, then without the first, without the first two, ..."""
    names = row["held_exclusive_in_this_order"]
    for given, told in enumerate(row["result_with_first_i_released"]):
        machine = set_up.rewind(player)
        set_up.caller(row["order_of"])
        taken = {name: machine.locks.take(*named([*name.split(), "ex"])) == TAKEN for name in names}
        if not given:
            absent = [name for name in names if name in row.get("not_lockable", ())]
            player.count.state(
                row["order_of"], {"not_lockable": absent}, {"not_lockable": [n for n in names if not taken[n]]}
            )
        for name in names[:given]:
            if taken[name]:
                machine.locks.give(*named([*name.split(), "ex"]))
        player.told(row["order_of"], told)


CASES: dict[str, Case] = {"call": lock_held, "A": pair, "order_of": order}
"""The key that a row of each form has."""


def case_of(line: Line) -> Case | None:
    """How a row is played, or None if it is no case."""
    return next((case for key, case in CASES.items() if key in line), None)


def play(player: Player, case: Case, row: Line) -> None:
    """One case."""
    set_up = player.set_ups.get(row.get("dpamt", 0))
    if set_up is None:
        raise ValueError("no set-up stands before this case")
    if not set_up.selected:
        return
    if not set_up.works:
        player.count.skip(AFTER, len(results(row)))
        return
    done = player.count.report.calls
    set_up.rewind(player)
    try:
        case(player, set_up, row)
    except Unbuilt as unbuilt:
        player.count.skip(str(unbuilt), len(results(row)) - (player.count.report.calls - done))
    for told in results(row)[player.count.report.calls - done :]:
        player.told("", told)  # the machine has stopped
