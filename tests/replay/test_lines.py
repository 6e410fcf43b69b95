"""What each line of the harness does to the machine."""

from typing import Any

import pytest

from tdxlab.replay.lines import run
from tdxlab.replay.locks import NAMES
from tdxlab.replay.machine import CYCLES_OF_CALL, CYCLES_OF_EXIT, CYCLES_OF_READ, Machine, Result
from tdxlab.replay.reading import NO_LINE, Unbuilt
from tdxlab.spec.fields import Attributes
from tdxlab.spec.status import TDX_SUCCESS, Status

TDR, TDVPR = "100100000", "100110000"
TD_PARAMS = "0000001000000000e70000000000000004000000000000001e000000000000000000000000000000280000"


@pytest.fixture
def machine() -> Machine:
    """One TD that runs: a vCPU, S-EPT pages down to 4K for GPA 0, nothing mapped."""
    return running(Machine("1.5.25"))


def running(machine: Machine) -> Machine:
    pages = [f"TDH.MNG.ADDCX {0x1_0010_1000 + 0x1000 * i:x} {TDR}" for i in range(6)]
    parts = [f"TDH.VP.ADDCX {0x1_0011_1000 + 0x1000 * i:x} {TDVPR}" for i in range(5)]
    tables = [f"TDH.MEM.SEPT.ADD {level} {TDR} {0x1_0100_0000 + 0x1000 * level:x}" for level in (3, 2, 1)]
    # fmt: off
    did(machine, "boot", f"memw 150002000 {TD_PARAMS}", f"TDH.MNG.CREATE {TDR} 21", f"TDH.MNG.KEY.CONFIG {TDR}", *pages,
        f"TDH.MNG.INIT {TDR} 150002000", f"TDH.VP.CREATE {TDVPR} {TDR}", *parts, f"TDH.VP.INIT {TDVPR} 0", *tables,
        f"TDH.MR.FINALIZE {TDR}")
    # fmt: on
    return machine


def did(machine: Machine, *cmds: str) -> Any:
    """Run lines, of which all calls succeed; what came of the last."""
    for cmd in cmds:
        came = run(machine, cmd)
        assert not isinstance(came, Result) or came.to == "td" or came.registers[0] >> 62 == 0, cmd
    return came


def rax(machine: Machine, cmd: str) -> str:
    came = run(machine, cmd)
    assert isinstance(came, Result), came
    return hex(came.registers[0])


@pytest.mark.parametrize("dynamic", [False, True])
def test_boot_makes_the_machine_that_the_recordings_name(dynamic: bool) -> None:
    machine = Machine("1.5.25", dynamic)
    shown = {"dpamt": int(dynamic), "sys_state": 3, "private_hkid": [32, 63], "hkid_start_bit": 46, "max_pa": 52}
    assert run(machine, "boot") == shown
    assert machine.module.sys.usable == {0x1_0000_0000}
    reserved = did(machine, "pamt 13f000000")
    assert (reserved["bit"], reserved["4k"]) == (1, None) if dynamic else reserved["4k"]["pt"] == 1
    assert run(machine, "boot") == shown | {"refused": "TDH.SYS.INIT"}


def test_lp_says_who_makes_the_next_call(machine: Machine) -> None:
    did(machine, "lp 2", "lp 1")
    assert rax(machine, f"TDH.VP.ENTER {TDVPR}") == "0x8000070100000000", "it was initialised on LP 0"
    assert did(machine, "lp 0", f"TDH.VP.ENTER {TDVPR}").to == "td"


def test_memory_is_written_filled_and_read(machine: Machine) -> None:
    did(machine, "memfill 150003000 10 5a", "memw 150003002 0102 03")
    assert did(machine, "memr 150003000 6") == {"hex": "5a5a0102035a"}
    assert did(machine, "memw 150003ffe 0102 0304", "memr 150003ffe 5") == {"hex": "0102030400"}


def test_a_poll_after_the_nth_says_interrupt_unless_the_host_masks_it(machine: Machine) -> None:
    did(machine, f"TDH.MEM.PAGE.AUG 200001 {TDR} 110000000", "intr 0")
    block, split = f"TDH.MEM.RANGE.BLOCK 200001 {TDR}", f"TDH.MEM.PAGE.DEMOTE 200001 {TDR} 101008000"
    did(machine, block, f"TDH.MEM.TRACK {TDR}")
    assert rax(machine, split) == "0x8000000400000000"
    assert rax(machine, split) == "0x8000000400000000", "each call counts its own polls"
    back = machine.mark()
    did(machine, "vmmif 0", split)
    back()
    assert rax(machine, split) == "0x8000000400000000"
    did(machine, "intr 1", split)


def test_time_goes_on_with_calls_exits_looks_and_tsc_lines_and_is_rewound(machine: Machine) -> None:
    back, start = machine.mark(), machine.clock
    did(machine, f"TDH.VP.ENTER {TDVPR}")
    assert machine.clock == start + CYCLES_OF_CALL + CYCLES_OF_READ  # the module looks, as at each VM exit
    did(machine, "exit", "tsc 80000000")
    late = start + CYCLES_OF_CALL + CYCLES_OF_EXIT + 2 * CYCLES_OF_READ + 0x8000_0000
    assert machine.clock == late
    assert machine.cpu.tsc() == machine.clock == late + CYCLES_OF_READ
    did(machine, f"tsc {-machine.clock % (1 << 64):x}")
    assert machine.cpu.tsc() == CYCLES_OF_READ, "the counter has 64 bits"
    back()
    assert machine.clock == start


@pytest.mark.parametrize(
    "lines, shown",
    [
        (["msr 982 f001300000003", "msr 87 600000001"], {"hkid_start_bit": 49, "private_hkid": [2, 7]}),
        (["msr 982 f002400000003", "msr 87 c00000003"], {"hkid_start_bit": 48, "private_hkid": [4, 15]}),
    ],
)
def test_msrs_make_another_platform(lines: list[str], shown: dict[str, Any]) -> None:
    machine = Machine("1.5.25")
    did(machine, "lp 1", "memfill 150003000 1 77", *lines)
    assert did(machine, "memr 150003000 1") == {"hex": "77"} and machine.lp == 1
    assert shown.items() <= run(machine, "boot").items()  # type: ignore[union-attr]


@pytest.mark.parametrize("address", ["98", "99"])
def test_msrs_tell_the_parts_of_the_cache(address: str) -> None:
    machine = Machine("1.5.25")
    did(machine, f"msr {address} 4")
    assert machine.platform.wb_sub_blocks == 4


def test_an_msr_that_nobody_knows_or_that_comes_too_late_is_not_built(machine: Machine) -> None:
    with pytest.raises(Unbuilt, match=NO_LINE):
        run(machine, "msr 98 4")
    with pytest.raises(Unbuilt, match=NO_LINE):
        run(Machine("1.5.25"), "msr 10 4")


LOCKS = {
    "global": "global", "kot": "kot", "wbt": "wbt", "tdmr": "tdmr 100000000", "opstate": f"opstate {TDR}",
    "sept": f"sept {TDR}", "epoch": f"epoch {TDR}", "mig": f"mig {TDR}", "rtmr": f"rtmr {TDR}",
    "pamt": f"pamt {TDR} 0", "septe": f"septe {TDR} 0 0",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_lock_is_taken_once_and_given_back(machine: Machine, name: str) -> None:
    word, ex = tuple(LOCKS[name].split()), "exh" if name == "septe" else "ex"
    free = machine.locks.word(word)
    assert did(machine, f"lock {LOCKS[name]} {ex}") == {"ok": 1}
    assert machine.locks.word(word) != free
    assert did(machine, f"lock {LOCKS[name]} {ex}") == {"ok": 0}
    did(machine, f"unlock {LOCKS[name]} {ex}")
    assert did(machine, f"lock {LOCKS[name]} {ex}") == {"ok": 1}


def test_a_lock_that_is_not_there_is_told() -> None:
    machine = Machine("1.5.25", dynamic=True)
    did(machine, "boot")
    assert did(machine, "lock pamt 100000000 0 sh") == did(machine, "lock tdmr 5 sh") == {"ok": -1}
    assert did(machine, "lock pamt 100000000 1 sh") == {"ok": 1}


def test_locks_shows_the_words_of_a_td(machine: Machine) -> None:
    did(machine, f"lock opstate {TDR} sh", f"lock epoch {TDR} sh", f"lock pamt {TDR} 0 ex")
    assert did(machine, f"locks {TDR}") == {"tdr": "0x1", "opstate": "0x4", "sept": "0x0", "epoch": "0x2"}


def test_dump_pamt_and_tdinfo_show_what_a_page_is(machine: Machine) -> None:
    did(machine, f"TDH.MEM.PAGE.AUG 1000 {TDR} 102000000")
    assert did(machine, f"dump {TDR} 1000 0") == {"reached": 0, "raw": "0x81084001020000f0", "state": "PENDING"}
    assert did(machine, f"dump {TDR} 200000 0")["reached"] == 1, "the tree ends there"
    entry = {"pt": 3, "owner": "0x100100000", "bepoch": "0x0", "lock": "0x0"}
    assert did(machine, "pamt 102000000")["4k"] == entry
    assert did(machine, "pamt 150000000") == {"err": "no tdmr"}
    info = did(machine, f"tdinfo {TDR}")
    assert (info["op_state"], info["num_vcpus"], info["refcount"], info["num_tdcx"]) == (2, 1, [0, 0], 6)


def test_with_dynamic_pamt_a_range_is_a_node(machine: Machine) -> None:
    machine = Machine("1.5.25", dynamic=True)
    did(machine, "boot", "TDH.PHYMEM.PAMT.ADD 100000001 138000000 138001000")
    node = {"pt": 15, "page0": "0x138000000", "page1": "0x138001000", "count": 0, "lock": "0x0"}
    free = {"pt": 0, "owner": "0x0", "bepoch": "0x0", "lock": "0x0"}
    assert did(machine, "pamt 100000000") == {"1g": free, "2m": node, "4k": free, "bit": 0}
    assert did(machine, "pamt 138000000") == {"1g": free, "2m": free, "4k": None, "bit": 1}


def test_a_vcpu_leaves_by_an_interrupt_a_fault_or_for_good(machine: Machine) -> None:
    enter = f"TDH.VP.ENTER {TDVPR}"
    assert did(machine, enter, "exit").registers[0] == 1
    did(machine, enter)
    left = run(machine, "eptviol 3000 181 4")
    assert isinstance(left, Result) and left.to == "vmm" and left.registers[:4] == (48, 1, 0, 0x3000)
    did(machine, enter)
    assert rax(machine, "vmexit 2 0") == "0x4000000100000002"
    with pytest.raises(Unbuilt, match=NO_LINE):
        run(machine, "vmexit 3 0")


def test_a_call_can_be_made_by_its_rax(machine: Machine) -> None:
    assert rax(machine, f"seamcall 18 {TDR}") == "0x0", "TDH.PHYMEM.PAGE.RDMD"
    assert rax(machine, "seamcall ffff") == "0xc000010000000000"
    did(machine, f"TDH.VP.ENTER {TDVPR}")
    assert rax(machine, "tdcall ffff") == "0xc000010000000000"


def test_whoever_is_on_the_wrong_side_can_not_call(machine: Machine) -> None:
    for cmd in ("exit", "eptviol 0 0 0", "vmexit 2 0", "TDG.VP.VEINFO.GET", "tdcall 3"):
        assert run(machine, cmd) == {"err": "lp not in td"}, cmd
    did(machine, f"TDH.VP.ENTER {TDVPR}")
    assert run(machine, f"TDH.MEM.TRACK {TDR}") == {"err": "lp in td"}


def test_rewinding_brings_back_who_is_inside_and_who_holds_what(machine: Machine) -> None:
    did(machine, f"TDH.VP.ENTER {TDVPR}", "lp 1", f"lock opstate {TDR} sh")
    back = machine.mark()
    for _ in range(2):
        did(machine, f"unlock opstate {TDR} sh", "lp 0", "exit")
        assert not machine.cpus[0].lp.vcpu
        back()
        assert machine.lp == 1 and machine.cpus[0].lp.vcpu


@pytest.mark.parametrize(("mode", "answer"), [("sh", "OPERAND_BUSY|RTMR"), ("hp", "OPERAND_BUSY|RTMR")])
def test_the_lock_of_the_rtmrs_is_the_one_that_the_guest_wants(machine: Machine, mode: str, answer: str) -> None:
    # [S01:tdg_mr_rtmr_extend.c]; a lock that is free but kept for the host is BUSY for a guest
    did(machine, f"TDH.MEM.PAGE.AUG 0 {TDR} 102000000", f"TDH.VP.ENTER {TDVPR}", "TDG.MEM.PAGE.ACCEPT 0")
    did(machine, "lp 1", f"lock rtmr {TDR} {mode}", "lp 0")
    assert repr(Status(run(machine, "TDG.MR.RTMR.EXTEND 0 0").registers[0])) == f"TDX_{answer}"
    did(machine, "lp 1", f"unlock rtmr {TDR} {mode}", "lp 0")
    assert mode == "hp" or run(machine, "TDG.MR.RTMR.EXTEND 0 0").registers[0] == 0


def test_sept_rd_tells_l2_attributes_of_a_debuggable_td_only(machine: Machine) -> None:
    # [S01:tdh_mem_sept_rd_wr.c]
    entry, flag = "TDH.MEM.SEPT.RD 0", int(TDR, 16) | 1
    plain = run(machine, f"{entry} {TDR} dead").registers
    assert Status(plain[0]) == TDX_SUCCESS and plain[3] == 0xDEAD
    assert repr(Status(run(machine, f"{entry} {flag:x} dead").registers[0])) == "TDX_OPERAND_INVALID|RDX"
    assert repr(Status(run(machine, f"TDH.MEM.SEPT.RD 7 {flag:x} dead").registers[0])) == "TDX_OPERAND_INVALID|RDX"
    assert repr(Status(run(machine, f"{entry} {0x1_0011_0001:x}").registers[0])) == "TDX_PAGE_METADATA_INCORRECT|RDX"
    machine.module.tds[int(TDR, 16)].attributes |= Attributes.DEBUG
    assert run(machine, f"{entry} {flag:x} dead").registers[:4] == (*plain[:3], 0)


def test_a_page_of_secure_ept_is_memory_like_any_other(machine: Machine) -> None:
    # the README beside the recordings: one memory, whatever the HKID
    table, did_aug = 0x1_0100_1000, did(machine, f"TDH.MEM.PAGE.AUG 0 {TDR} 102000000")
    raw = int(did(machine, f"dump {TDR} 0 0")["raw"], 16)
    assert did_aug.registers[0] == 0 and did(machine, f"memr {table:x} 8") == {"hex": raw.to_bytes(8, "little").hex()}
    assert did(machine, f"memr {table | 33 << 46:x} 8") == did(machine, f"memr {table:x} 8")
    did(machine, f"memw {table + 8:x} {(raw + 0x1000).to_bytes(8, 'little').hex()}")
    assert did(machine, f"dump {TDR} 1000 0") == {"reached": 0, "raw": hex(raw + 0x1000), "state": "PENDING"}
