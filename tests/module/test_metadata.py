"""Metadata: what the recordings tell of it, and what each leaf reads, writes and refuses."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from tdxlab.engine.explore import explore
from tdxlab.hw.cpu import Regs
from tdxlab.hw.guest import Guest
from tdxlab.module.sys_rd import VALUES
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.bits import field
from tdxlab.spec.features import PROFILES, V1_5_01, V1_5_25, release
from tdxlab.spec.fields import BY_NAME, FIELDS, NO_FIELD, Attributes, ConfigFlags, Context, FieldId, TdCtls
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.levels import PAGE_SIZE, SIZE_2M
from tdxlab.spec.operands import R8, RCX, RDX, Operand
from tdxlab.spec.sept import BLOCKED, FREE, PENDING
from tdxlab.spec.tdstate import OpState
from tests.module.calls import CASES, prepared
from tests.module.cases import AUG_2M, AUG_4K, GPA_2M, GPA_4K
from tests.module.machine import HOST, PAGES, SEPT_VE_DISABLE, SOURCE, TABLES, TDR, TDVPRS, Machine, built

DEBUG = Attributes.DEBUG | SEPT_VE_DISABLE
BUFFER, CMRS = HOST + 8 * PAGE_SIZE, HOST + 9 * PAGE_SIZE
CONFIG_FLAGS_AT = HOST + 2 * PAGE_SIZE + 32  # in TD_PARAMS
ALL = (1 << 64) - 1
ID = {name: row.id for name, row in BY_NAME.items()}


def seamcall(machine: Machine, leaf: Leaf, *operands: int, **options: int) -> Regs:
    """A SEAMCALL on its own."""
    regs = machine.alone(machine.call(leaf, *operands, **options), cpu=options.get("cpu", 0))
    assert isinstance(regs, Regs)
    return regs


def tdcall(machine: Machine, leaf: Leaf, *operands: int, version: int = 0) -> Regs:
    """A TDCALL of the first vCPU's guest on its own."""
    seen: list[Regs] = []

    async def program(guest: Guest) -> None:
        regs = await guest.tdcall(leaf, version, **dict(zip(leaf.registers, operands, strict=False)))
        seen.append(Regs(**regs.as_dict()))

    machine.alone(machine.enter(program)())
    return seen[0]


# --- the module's fields ---

RECORDED = [  # (id, R8, RDX) [oracle v1.5.25 tour ZA]
    (0x0A00_0003_0000_0008, 0xD132_6F3F_0FBF, 0x9000_0001_0000_0000),
    (0x9100_0001_0000_0010, 16, 0x9100_0001_0000_0011),
    (0x9100_0001_0000_0011, 16, 0x9100_0001_0000_0012),
    (0x9100_0001_0000_0012, 16, 0x9100_0000_0000_0013),
    (0x9100_0000_0000_0013, 1, 0x9100_0000_0000_0014),
    (0x9100_0000_0000_0014, 4, 0x9800_0001_0000_0000),
]


@pytest.mark.parametrize(("id", "value", "behind"), RECORDED)
def test_sys_rd_answers_as_the_recorded_module(id: int, value: int, behind: int) -> None:
    regs = seamcall(built(features=V1_5_25, parts=1), leaves.TDH_SYS_RD, id)
    assert (regs.r8, regs.rdx) == (value, behind)


def test_an_older_module_has_no_field_of_dynamic_pamt() -> None:
    machine = built(features=V1_5_01, parts=1)
    assert seamcall(machine, leaves.TDH_SYS_RD, ID["PAMT_1G_ENTRY_SIZE"]).rdx == ID["TDR_BASE_SIZE"]
    refusal = st.TDX_METADATA_FIELD_ID_INCORRECT
    regs = seamcall(machine, leaves.TDH_SYS_RD, ID["PAMT_PAGE_BITMAP_ENTRY_BITS"], gives=refusal)
    assert (regs.r8, regs.rdx) == (0, NO_FIELD)


def test_every_field_of_the_module_has_a_value() -> None:
    assert list(VALUES) == [row.name for row in FIELDS[Context.SYS]]


def test_an_lp_that_is_not_initialised_reads_nothing() -> None:
    machine, refusal = built(parts=0), st.TDX_SYS_LP_INIT_NOT_DONE
    seamcall(machine, leaves.TDH_SYS_RD, ID["VENDOR_ID"], gives=refusal)
    seamcall(machine, leaves.TDH_SYS_RDALL, BUFFER, NO_FIELD, gives=refusal)
    seamcall(machine, leaves.TDH_SYS_INFO, BUFFER, 1024, CMRS, 32, gives=refusal)
    seamcall(machine, leaves.TDH_SYS_INIT)
    seamcall(machine, leaves.TDH_SYS_LP_INIT)
    assert seamcall(machine, leaves.TDH_SYS_RD, ID["VENDOR_ID"]).r8 == 0x8086


def test_only_class_and_code_of_an_id_matter_but_reserved_bits_must_be_0() -> None:
    machine, id = built(parts=1), ID["TDX_FEATURES0"]
    for bits in (FieldId.SIZE, FieldId.CONTEXT, FieldId.NON_ARCH, FieldId.WRITE_MASK_VALID):
        assert seamcall(machine, leaves.TDH_SYS_RD, id ^ bits).r8 == 0xF_0FBF
    for bits in (FieldId.LAST_ELEMENT, FieldId.LAST_FIELD, FieldId._RESERVED, FieldId._RESERVED4, 1):
        seamcall(machine, leaves.TDH_SYS_RD, id ^ bits, gives=st.TDX_METADATA_FIELD_ID_INCORRECT)


def listed(raw: bytes) -> Iterator[tuple[int, int]]:
    """(id, element) of a metadata list."""
    nbytes, sequences, zero = struct.unpack_from("<HHI", raw)
    words = iter(struct.unpack_from(f"<{nbytes // 8 - 1}Q", raw, 8))
    assert not zero
    for _ in range(sequences):
        header = next(words)
        fields, elements = field(header, FieldId.LAST_FIELD) + 1, field(header, FieldId.LAST_ELEMENT) + 1
        for n in range(fields * elements):
            yield (header & ~(FieldId.LAST_FIELD | FieldId.LAST_ELEMENT)) + n, next(words)
    assert next(words, None) is None


def read_one_by_one(read: Callable[[int], Regs], first: int) -> Iterator[tuple[int, int]]:
    """(id, element) of all fields from one to the last."""
    while first != NO_FIELD:
        regs = read(first)
        yield first, regs.r8
        first = regs.rdx


def read_sys(machine: Machine) -> list[tuple[int, int]]:
    first = seamcall(machine, leaves.TDH_SYS_RD, NO_FIELD, gives=st.TDX_METADATA_FIRST_FIELD_ID_IN_CONTEXT).rdx
    return list(read_one_by_one(lambda id: seamcall(machine, leaves.TDH_SYS_RD, id), first))


@pytest.mark.parametrize("features", PROFILES.values(), ids=lambda features: features.version)
def test_all_fields_at_once_are_the_fields_one_by_one(features: Any) -> None:
    machine = built(features=features, parts=1)
    expected = read_sys(machine)
    assert seamcall(machine, leaves.TDH_SYS_RDALL, BUFFER, NO_FIELD).r8 == NO_FIELD
    assert list(listed(machine.memory.read(BUFFER, PAGE_SIZE))) == expected
    known = [row for row in FIELDS[Context.SYS] if release(row.since) <= features.release]
    assert len(expected) == sum(row.elements for row in known)


def test_a_list_can_begin_with_any_field_but_not_within_one() -> None:
    machine = built(parts=1)
    expected = dict(read_sys(machine))
    second = ID["CPUID_CONFIG_VALUES"] + 2
    seamcall(machine, leaves.TDH_SYS_RDALL, BUFFER, second)
    assert dict(listed(machine.memory.read(BUFFER, PAGE_SIZE))) == {
        id: value for id, value in expected.items() if second <= id < second + 62
    }
    refusal = st.TDX_METADATA_FIELD_ID_INCORRECT
    assert seamcall(machine, leaves.TDH_SYS_RDALL, BUFFER, second + 1, gives=refusal).r8 == NO_FIELD
    seamcall(machine, leaves.TDH_SYS_RDALL, BUFFER, second ^ FieldId.SIZE, gives=refusal)
    seamcall(machine, leaves.TDH_SYS_RDALL, BUFFER + 8, NO_FIELD, gives=st.TDX_OPERAND_INVALID.at(RDX))


def test_sys_info_tells_the_same_in_the_layout_of_old() -> None:
    machine = built(parts=1)
    regs = seamcall(machine, leaves.TDH_SYS_INFO, BUFFER, PAGE_SIZE, CMRS, 64)
    assert (regs.rdx, regs.r9) == (1024, 32)
    raw, fields = machine.memory.read(BUFFER, 1024), dict(read_sys(machine))
    for at, form, name in (
        (4, "<I", "VENDOR_ID"), (14, "<H", "MINOR_VERSION"), (16, "<H", "MAJOR_VERSION"), (32, "<H", "MAX_TDMRS"),
        (34, "<H", "MAX_RESERVED_PER_TDMR"), (36, "<H", "PAMT_4K_ENTRY_SIZE"), (48, "<H", "TDCS_BASE_SIZE"),
        (52, "<H", "TDVPS_BASE_SIZE"), (64, "<Q", "ATTRIBUTES_FIXED0"), (88, "<Q", "XFAM_FIXED1"),
        (128, "<I", "NUM_CPUID_CONFIG"), (132, "<Q", "CPUID_CONFIG_LEAVES"),
    ):  # fmt: skip
        assert struct.unpack_from(form, raw, at)[0] == fields[ID[name]], name
    assert struct.unpack_from("<4Q", machine.memory.read(CMRS, 512)) == (*machine.memory.platform.cmrs[0], 0, 0)


@pytest.mark.parametrize(
    ("operands", "operand"),
    [
        ((BUFFER + 8, 1024, CMRS, 32), RCX),
        ((BUFFER, 1023, CMRS, 32), RDX),
        ((BUFFER, 1024, CMRS + 256, 32), R8),
        ((BUFFER, 1024, CMRS, 31), Operand.R9),
    ],
)
def test_sys_info_wants_room(operands: tuple[int, ...], operand: int) -> None:
    regs = seamcall(built(parts=1), leaves.TDH_SYS_INFO, *operands, gives=st.TDX_OPERAND_INVALID.at(operand))
    assert (regs.rdx, regs.r9) == (0, 0)


# --- a TD's fields ---


def read_td(machine: Machine, name: str, i: int = 0) -> int:
    return seamcall(machine, leaves.TDH_MNG_RD, TDR, ID[name] + i).r8


def test_mng_rd_tells_of_a_td_what_made_it() -> None:
    machine = built()
    expected = {
        "HKID": 33, "LIFECYCLE_STATE": 1, "PKG_CONFIG_BITMAP": 1, "NUM_TDCX": 7, "TDCX_PA": TDR + PAGE_SIZE,
        "CHLDCNT": 7 + 12 + 3 + 1, "OP_STATE": OpState.RUNNABLE, "NUM_VCPUS": 2, "NUM_ASSOC_VCPUS": 2,
        "ATTRIBUTES": SEPT_VE_DISABLE, "XFAM": 0xE7, "MAX_VCPUS": 4, "EPTP": TDR + 4 * PAGE_SIZE | 0x1E,
        "TSC_FREQUENCY": 40, "TSC_MULTIPLIER": 1 << 47, "HP_LOCK_TIMEOUT": 1_000_000, "TD_EPOCH": 1, "FATAL": 0,
    }  # fmt: skip
    assert {name: read_td(machine, name) for name in expected} == expected
    assert read_td(machine, "TDCX_PA", 6) == TDR + 7 * PAGE_SIZE and read_td(machine, "TDCX_PA", 7) == 0
    mrtd = b"".join(read_td(machine, "MRTD", i).to_bytes(8, "little") for i in range(6))
    assert mrtd == machine.module.tds[TDR].mrtd


def test_what_the_processor_is_shows_in_a_td() -> None:
    machine = built(parts=2)
    machine.memory.platform = replace(machine.memory.platform, tsc_mhz=1000, cpuid_1_eax=0xC06F2)
    machine.alone(machine.create())
    assert read_td(machine, "TSC_MULTIPLIER") == 1 << 48
    assert machine.module.vcpus[TDVPRS[0]].gprs["rdx"] == 0xC06F2


def test_a_td_has_no_extended_feature_that_the_processor_lacks() -> None:
    init = CASES["MNG.INIT"]
    machine = prepared(init, "1.5.01")
    machine.memory.platform = replace(machine.memory.platform, xfam=0xE3)
    assert seamcall(machine, leaves.TDH_SYS_RD, ID["XFAM_FIXED0"]).r8 == 0xE3
    seamcall(machine, init.leaf, *init.operands, gives=st.TDX_OPERAND_INVALID.at(Operand.XFAM))


def test_mng_rd_is_refused_what_the_host_may_not_know() -> None:
    refusal = st.TDX_METADATA_FIELD_NOT_READABLE
    regs = seamcall(built(), leaves.TDH_MNG_RD, TDR, ID["RTMR"], version=1, gives=refusal)
    assert (regs.r8, regs.rdx) == (0, NO_FIELD)
    assert seamcall(built(DEBUG), leaves.TDH_MNG_RD, TDR, ID["RTMR"]).r8 == 0


def test_mng_rd_names_the_next_field_from_version_1_on() -> None:
    machine = built()
    regs = seamcall(machine, leaves.TDH_MNG_RD, TDR, ID["XFAM"])
    assert (regs.rdx, regs.r8) == (ID["XFAM"], 0xE7)
    assert seamcall(machine, leaves.TDH_MNG_RD, TDR, ID["XFAM"], version=1).rdx == ID["MAX_VCPUS"]
    other_context = ID["MRTD"] ^ FieldId.CONTEXT
    assert seamcall(machine, leaves.TDH_MNG_RD, TDR, other_context, version=1).rdx == ID["MRTD"] + 1
    first = st.TDX_METADATA_FIRST_FIELD_ID_IN_CONTEXT
    assert seamcall(machine, leaves.TDH_MNG_RD, TDR, NO_FIELD, version=1, gives=first).rdx == ID["FATAL"]
    seamcall(machine, leaves.TDH_MNG_RD, TDR, NO_FIELD, gives=st.TDX_METADATA_FIELD_ID_INCORRECT)
    seamcall(machine, leaves.TDH_MNG_RD, TDR, ID["XFAM"], version=2, gives=st.TDX_OPERAND_INVALID.at(Operand.RAX))


@pytest.mark.parametrize(("attributes", "caller"), [(0, "h"), (DEBUG, "d")])
def test_the_next_fields_are_all_that_the_host_may_read(attributes: int, caller: str) -> None:
    machine = built(attributes)
    for leaf, hpa, context, first in (
        (leaves.TDH_MNG_RD, TDR, Context.TD, ID["FATAL"]),
        (leaves.TDH_VP_RD, TDVPRS[0], Context.VP, ID["SHARED_EPTP"]),
    ):
        seen = list(read_one_by_one(lambda id: seamcall(machine, leaf, hpa, id, version=1), first))  # noqa: B023
        assert [id for id, _ in seen] == [
            row.id + i for row in FIELDS[context] if caller in row.readers for i in range(row.elements)
        ]


@pytest.mark.parametrize("leaf", [leaves.TDH_MNG_RD, leaves.TDH_MNG_WR, leaves.TDH_MEM_RD, leaves.TDH_MEM_WR], ids=str)
def test_a_td_has_fields_and_memory_when_it_is_initialised(leaf: Leaf) -> None:
    machine, td = built(), PAGES + PAGE_SIZE
    on_tdr = leaf.registers.index("rcx" if leaf.name.startswith("TDH.MNG") else "rdx")
    operands = [td if n == on_tdr else 0 for n in range(2)]
    seamcall(machine, leaf, *operands, gives=st.TDX_PAGE_METADATA_INCORRECT.at((RCX, RDX)[on_tdr]))
    seamcall(machine, leaves.TDH_MNG_CREATE, td, 34)
    seamcall(machine, leaf, *operands, gives=st.TDX_TD_KEYS_NOT_CONFIGURED)
    seamcall(machine, leaves.TDH_MNG_KEY_CONFIG, td)
    seamcall(machine, leaf, *operands, gives=st.TDX_TDCS_NOT_ALLOCATED)
    for n in range(1, 7):
        seamcall(machine, leaves.TDH_MNG_ADDCX, td + n * PAGE_SIZE, td)
    seamcall(machine, leaf, *operands, gives=st.TDX_OP_STATE_INCORRECT)


def test_a_timeout_is_10_ms_to_100_s_and_written_as_a_whole() -> None:
    machine, id = built(), ID["HP_LOCK_TIMEOUT"]
    assert seamcall(machine, leaves.TDH_MNG_WR, TDR, id, 20_000, ALL).r8 == 1_000_000
    assert read_td(machine, "HP_LOCK_TIMEOUT") == 20_000
    for us in (9_999, 100_000_001):
        seamcall(machine, leaves.TDH_MNG_WR, TDR, id, us, ALL, gives=st.TDX_METADATA_FIELD_VALUE_NOT_VALID)
    seamcall(machine, leaves.TDH_MNG_WR, TDR, id, 20_000, ALL >> 1, gives=st.TDX_METADATA_WR_MASK_NOT_VALID)
    assert read_td(machine, "HP_LOCK_TIMEOUT") == 20_000


def test_mng_wr_writes_the_bits_that_the_host_may() -> None:
    machine, wr = built(DEBUG), leaves.TDH_MNG_WR
    assert seamcall(machine, wr, TDR, ID["NOTIFY_ENABLES"], 1, 1).r8 == 0
    assert seamcall(machine, wr, TDR, ID["NOTIFY_ENABLES"], 0, 0b110 | 1).r8 == 1
    seamcall(machine, wr, TDR, ID["NOTIFY_ENABLES"], 3, 3, gives=st.TDX_METADATA_FIELD_VALUE_NOT_VALID)
    seamcall(machine, wr, TDR, ID["NOTIFY_ENABLES"], 2, 2, gives=st.TDX_METADATA_FIELD_NOT_WRITABLE)
    seamcall(machine, wr, TDR, ID["ATTRIBUTES"], 0, ALL, gives=st.TDX_METADATA_FIELD_NOT_WRITABLE)
    seamcall(machine, wr, TDR, ID["TD_CTLS"], 0, ALL, gives=st.TDX_METADATA_FIELD_NOT_WRITABLE)
    seamcall(machine, wr, TDR, NO_FIELD, 0, ALL, gives=st.TDX_METADATA_FIELD_ID_INCORRECT)
    assert seamcall(built(), wr, TDR, ID["NOTIFY_ENABLES"], 1, 1, gives=st.TDX_METADATA_FIELD_NOT_WRITABLE).r8 == 0


def test_of_two_that_write_a_field_at_once_one_is_refused() -> None:
    machine, outcomes = built(DEBUG), set()

    async def writes(cpu: int) -> None:
        status = await machine.any(leaves.TDH_MNG_WR, TDR, ID["NOTIFY_ENABLES"], 1, 1, cpu=cpu)
        outcomes.add(repr(status))

    explore(machine.program(lambda: writes(0), lambda: writes(1)), bound=1)
    assert outcomes == {"TDX_SUCCESS", "TDX_OPERAND_BUSY|METADATA_FIELD"}


# --- a vCPU's fields ---


def test_vp_rd_makes_the_vcpu_this_lps() -> None:
    machine, refusal = built(), st.TDX_VCPU_ASSOCIATED
    rd, id = leaves.TDH_VP_RD, ID["VCPU_INDEX"]
    assert seamcall(machine, rd, TDVPRS[1], id, cpu=1).r8 == 1
    seamcall(machine, rd, TDVPRS[1], id, gives=refusal)
    seamcall(machine, leaves.TDH_VP_FLUSH, TDVPRS[1], cpu=1)
    assert read_td(machine, "NUM_ASSOC_VCPUS") == 1
    seamcall(machine, rd, TDVPRS[1], ID["RAX"], gives=st.TDX_METADATA_FIELD_NOT_READABLE)
    assert read_td(machine, "NUM_ASSOC_VCPUS") == 2
    assert seamcall(machine, rd, TDVPRS[1], ID["ASSOC_LPID"]).r8 == 0
    seamcall(machine, rd, TDVPRS[1], id, cpu=1, gives=refusal)


@pytest.mark.parametrize(("pages", "refusal"), [(4, st.TDX_TDCX_NUM_INCORRECT), (5, st.TDX_VCPU_STATE_INCORRECT)])
def test_a_vcpu_is_read_when_it_has_its_pages_and_is_initialised(pages: int, refusal: st.Status) -> None:
    machine, tdvpr = built(parts=3), PAGES + PAGE_SIZE
    seamcall(machine, leaves.TDH_VP_CREATE, tdvpr, TDR)
    for n in range(pages):
        seamcall(machine, leaves.TDH_VP_ADDCX, tdvpr + (n + 1) * PAGE_SIZE, tdvpr)
    seamcall(machine, leaves.TDH_VP_RD, tdvpr, ID["VCPU_INDEX"], gives=refusal)
    seamcall(machine, leaves.TDH_VP_WR, tdvpr, ID["RAX"], 0, ALL, gives=refusal)


def test_a_vcpu_that_died_can_be_read_and_not_written() -> None:
    machine, cpu = built(DEBUG), 0

    async def dies() -> None:
        regs = Regs(leaves.TDH_VP_ENTER.number, rcx=TDVPRS[0])
        await machine.module.seamcall(machine.cpus[cpu], regs)
        await machine.module.vm_exit(machine.cpus[cpu], regs, 2, 0)

    machine.alone(dies())
    assert seamcall(machine, leaves.TDH_VP_RD, TDVPRS[0], ID["VCPU_STATE"]).r8 == 8
    seamcall(machine, leaves.TDH_VP_WR, TDVPRS[0], ID["RAX"], 0, ALL, gives=st.TDX_VCPU_STATE_INCORRECT)


def test_a_debugger_reads_and_writes_the_guests_registers() -> None:
    machine, seen = built(DEBUG), []

    async def program(guest: Guest) -> None:
        regs = await guest.tdcall(leaves.TDG_VP_VMCALL, rcx=1 << 10, r10=7, r12=5)
        seen.append((regs.r12, regs.r13))

    async def host() -> None:
        guest, cpu = Guest(program), machine.cpus[0]
        await cpu.vp_enter(TDVPRS[0], guest)
        assert (await machine.call(leaves.TDH_VP_RD, TDVPRS[0], ID["R12"])).r8 == 5
        assert (await machine.call(leaves.TDH_VP_WR, TDVPRS[0], ID["R12"], 0x60, 0xF0)).r8 == 5
        await cpu.vp_enter(TDVPRS[0], guest)

    machine.alone(host())
    assert seen == [(0x65, 0)]


def test_a_debugger_sees_what_a_ve_was_about() -> None:
    machine = built(Attributes.DEBUG)
    seamcall(machine, *AUG_4K)

    async def program(guest: Guest) -> None:
        assert not await guest.access(GPA_4K)

    machine.alone(machine.enter(program)())
    names = "VALID", "EXIT_REASON", "GPA"
    assert [seamcall(machine, leaves.TDH_VP_RD, TDVPRS[0], ID[name]).r8 for name in names] == [ALL >> 32, 48, GPA_4K]


def test_a_debugger_sees_the_zero_step_filter() -> None:
    machine = built(DEBUG)

    async def faults() -> None:
        guest = Guest(lambda guest: guest.access(GPA_4K))
        for _ in range(8):
            await machine.cpus[0].vp_enter(TDVPRS[0], guest)

    machine.alone(faults())
    names = "POSSIBLY_EPF_STEPPING", "LAST_EPF_GPA_LIST_IDX", "LAST_EPF_GPA_LIST"
    assert [seamcall(machine, leaves.TDH_VP_RD, TDVPRS[0], ID[name]).r8 for name in names] == [6, 1, GPA_4K]


# --- memory of a debuggable TD ---

AT = 0x18  # of a word in its page


def test_a_debugger_reads_and_writes_private_memory() -> None:
    machine = built(DEBUG, parts=3)
    machine.memory.write(SOURCE + AT, (0x1234).to_bytes(8, "little"))
    machine.alone(machine.finalize())
    assert seamcall(machine, leaves.TDH_MEM_RD, AT, TDR).r8 == 0x1234
    assert seamcall(machine, leaves.TDH_MEM_WR, AT, TDR, 0x5678).r8 == 0x1234
    assert seamcall(machine, leaves.TDH_MEM_RD, AT, TDR).r8 == 0x5678
    assert machine.memory.read(PAGES + AT, 8) == (0x5678).to_bytes(8, "little")


def test_a_debugger_reads_a_large_page() -> None:
    machine = built(DEBUG)
    seamcall(machine, *AUG_2M)
    assert tdcall(machine, leaves.TDG_MEM_PAGE_ACCEPT, GPA_2M).rax == st.TDX_SUCCESS
    far = SIZE_2M + 3 * PAGE_SIZE + AT
    seamcall(machine, leaves.TDH_MEM_WR, far, TDR, 0x5678)
    assert machine.memory.read(AUG_2M[3] + far - SIZE_2M, 8) == (0x5678).to_bytes(8, "little")


def test_debug_leaves_refuse_in_the_modules_order() -> None:
    not_there = (GPA_4K, 0, PENDING), (0, 0, BLOCKED), (SIZE_2M, 1, FREE)
    for leaf in (leaves.TDH_MEM_RD, leaves.TDH_MEM_WR):
        seamcall(built(), leaf, AT, TDR, gives=st.TDX_TD_NON_DEBUG)
        machine = built(DEBUG)
        seamcall(machine, *AUG_4K)
        seamcall(machine, leaves.TDH_MEM_RANGE_BLOCK, 0, TDR)
        seamcall(machine, leaf, AT + 1, TDR, gives=st.TDX_OPERAND_INVALID.at(RCX))
        seamcall(machine, leaf, 1 << 47, TDR, gives=st.TDX_OPERAND_INVALID.at(RCX))
        seamcall(machine, leaf, AT, TDR + PAGE_SIZE, gives=st.TDX_PAGE_METADATA_INCORRECT.at(RDX))
        for gpa, level, state in not_there:
            regs = seamcall(machine, leaf, gpa, TDR, gives=st.TDX_EPT_ENTRY_NOT_PRESENT.at(RCX))
            assert (regs.rdx, regs.r8) == (level | state.code << 8, 0)


def test_a_page_whose_entry_another_cpu_holds_is_not_read() -> None:
    machine = built(DEBUG)
    entries = machine.memory.sept_page(TABLES + 2 * PAGE_SIZE)
    machine.journal.mark()
    entries.put(0, entries[0] | 1 << 11)
    regs = seamcall(machine, leaves.TDH_MEM_RD, AT, TDR, gives=st.TDX_OPERAND_BUSY.at(RCX))
    assert regs.rcx & ~0xFFF and regs.r8 == 0


# --- the guest's side ---


def test_a_guest_reads_its_td_and_its_vcpu() -> None:
    machine = built()
    regs = tdcall(machine, leaves.TDG_VM_RD, 0, ID["ATTRIBUTES"], version=1)
    assert (regs.rax, regs.r8, regs.rdx) == (st.TDX_SUCCESS, SEPT_VE_DISABLE, ID["XFAM"])
    regs = tdcall(machine, leaves.TDG_VP_RD, 0, ID["VCPU_INDEX"])
    assert (regs.rax, regs.r8, regs.rdx) == (st.TDX_SUCCESS, 0, ID["CPUID_SUPERVISOR_VE"])
    regs = tdcall(machine, leaves.TDG_SYS_RD, ID["TDX_FEATURES0"])
    assert (regs.rax, regs.r8, regs.rdx) == (st.TDX_SUCCESS, 0xF_0FBF, NO_FIELD)


@pytest.mark.parametrize(
    ("leaf", "operands", "refusal"),
    [
        (leaves.TDG_VM_RD, (1, ID["ATTRIBUTES"]), st.TDX_OPERAND_INVALID.at(RCX)),
        (leaves.TDG_VM_RD, (0, ID["HKID"]), st.TDX_METADATA_FIELD_NOT_READABLE),
        (leaves.TDG_VM_RD, (0, NO_FIELD), st.TDX_METADATA_FIELD_ID_INCORRECT),
        (leaves.TDG_VM_WR, (1, ID["TD_CTLS"], 0, ALL), st.TDX_OPERAND_INVALID.at(RCX)),
        (leaves.TDG_VM_WR, (0, ID["HP_LOCK_TIMEOUT"], 20_000, ALL), st.TDX_METADATA_FIELD_NOT_WRITABLE),
        (leaves.TDG_VP_RD, (1, ID["VCPU_INDEX"]), st.TDX_OPERAND_INVALID.at(RCX)),
        (leaves.TDG_VP_RD, (0, ID["RAX"]), st.TDX_METADATA_FIELD_NOT_READABLE),
        (leaves.TDG_VP_RD, (0, NO_FIELD), st.TDX_METADATA_FIRST_FIELD_ID_IN_CONTEXT),
        (leaves.TDG_VP_WR, (1, ID["CPUID_USER_VE"], 1, 1), st.TDX_OPERAND_INVALID.at(RCX)),
        (leaves.TDG_VP_WR, (0, ID["VCPU_INDEX"], 1, 1), st.TDX_METADATA_FIELD_NOT_WRITABLE),
        (leaves.TDG_SYS_RD, (ID["MAX_TDMRS"],), st.TDX_METADATA_FIELD_NOT_READABLE),
        (leaves.TDG_SYS_RD, (NO_FIELD,), st.TDX_METADATA_FIRST_FIELD_ID_IN_CONTEXT),
        (leaves.TDG_SYS_RDALL, (8, NO_FIELD), st.TDX_OPERAND_INVALID.at(RDX)),
        (leaves.TDG_SYS_RDALL, (1 << 47, NO_FIELD), st.TDX_OPERAND_INVALID.at(RDX)),
        (leaves.TDG_SYS_RDALL, (0, ID["VENDOR_ID"] + 7), st.TDX_METADATA_FIELD_ID_INCORRECT),
    ],
    ids=lambda value: str(value) if isinstance(value, Leaf) else "",
)
def test_a_guest_is_refused(leaf: Leaf, operands: tuple[int, ...], refusal: st.Status) -> None:
    assert tdcall(built(), leaf, *operands).status == refusal


def test_a_guest_chooses_what_its_vcpus_and_its_td_do() -> None:
    machine = built()
    assert tdcall(machine, leaves.TDG_VP_WR, 0, ID["CPUID_USER_VE"], 1, 0xFF).r8 == 0
    assert tdcall(machine, leaves.TDG_VP_RD, 0, ID["CPUID_USER_VE"]).r8 == 1
    assert tdcall(machine, leaves.TDG_VM_WR, 0, ID["NOTIFY_ENABLES"], 1, 1).rax == st.TDX_SUCCESS
    assert machine.module.tds[TDR].notify_enables == 1


@pytest.mark.parametrize("flexible", [False, True])
def test_a_guest_gives_up_ve_on_pending_pages_if_its_host_let_it(flexible: bool) -> None:
    machine, id = built(attributes=0, parts=2), ID["TD_CTLS"]
    machine.memory.write(CONFIG_FLAGS_AT, (ConfigFlags.FLEXIBLE_PENDING_VE * flexible).to_bytes(8, "little"))
    machine.alone(machine.create())
    machine.alone(machine.finalize())
    status = tdcall(machine, leaves.TDG_VM_WR, 0, id, TdCtls.PENDING_VE_DISABLE, ALL).status
    assert status == (st.TDX_SUCCESS if flexible else st.TDX_METADATA_FIELD_VALUE_NOT_VALID)
    assert tdcall(machine, leaves.TDG_VM_RD, 0, id).r8 == flexible
    seamcall(machine, *AUG_4K)
    guest = Guest(lambda guest: guest.access(GPA_4K))
    exit = machine.alone(machine.cpus[0].vp_enter(TDVPRS[0], guest))
    assert (exit.rax == 48) == flexible


@pytest.mark.parametrize(("features", "flags"), [(V1_5_01, 1 << 3), (V1_5_25, 1 << 5), (V1_5_25, 3 << 3)])
def test_a_td_has_the_flags_that_its_module_knows_and_not_two_widths(features: Any, flags: int) -> None:
    machine = built(features=features, parts=2)
    machine.memory.write(CONFIG_FLAGS_AT, flags.to_bytes(8, "little"))
    with pytest.raises(AssertionError, match=r"TDH.MNG.INIT gave TDX_OPERAND_INVALID\|EXEC_CONTROLS"):
        machine.alone(machine.create())


def test_a_guest_gets_all_that_it_may_read_into_its_own_page() -> None:
    machine = built()
    regs = tdcall(machine, leaves.TDG_SYS_RDALL, 0, NO_FIELD)
    assert (regs.rax, regs.r8) == (st.TDX_SUCCESS, NO_FIELD)
    names = "VENDOR_ID", "MINOR_VERSION", "MAJOR_VERSION", "SYS_ATTRIBUTES", "NUM_TDX_FEATURES", "TDX_FEATURES0"
    assert list(dict(listed(machine.memory.read(PAGES, PAGE_SIZE)))) == [ID[name] for name in names]
