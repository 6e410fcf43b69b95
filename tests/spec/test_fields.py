"""The table of metadata fields: every bit of a layout, no field over another, ids that recordings and Linux name."""

from itertools import pairwise

import pytest

from tdxlab.module.state import Td, Vcpu
from tdxlab.spec import bits, fields
from tdxlab.spec.features import PROFILES, ModuleFeatures
from tdxlab.spec.fields import BY_NAME, FIELDS, Context, Field, FieldId, TdxFeatures0

LAYOUTS = [layout for layout in vars(fields).values() if isinstance(layout, type) and issubclass(layout, bits.Layout)]
LAYOUTS.remove(bits.Layout)
ROWS = [row for context in Context for row in FIELDS[context]]
LINUX = {  # arch/x86/virt/vmx/tdx/tdx_global_metadata.c, arch/x86/include/asm/shared/tdx.h
    "MINOR_VERSION": 0x0800_0001_0000_0003,
    "MAJOR_VERSION": 0x0800_0001_0000_0004,
    "TDX_FEATURES0": 0x0A00_0003_0000_0008,
    "MAX_TDMRS": 0x9100_0001_0000_0008,
    "MAX_RESERVED_PER_TDMR": 0x9100_0001_0000_0009,
    "PAMT_4K_ENTRY_SIZE": 0x9100_0001_0000_0010,
    "PAMT_2M_ENTRY_SIZE": 0x9100_0001_0000_0011,
    "PAMT_1G_ENTRY_SIZE": 0x9100_0001_0000_0012,
    "TDCS_BASE_SIZE": 0x9800_0001_0000_0100,
    "TDVPS_BASE_SIZE": 0x9800_0001_0000_0200,
    "ATTRIBUTES_FIXED0": 0x1900_0003_0000_0000,
    "ATTRIBUTES_FIXED1": 0x1900_0003_0000_0001,
    "XFAM_FIXED0": 0x1900_0003_0000_0002,
    "XFAM_FIXED1": 0x1900_0003_0000_0003,
    "NUM_CPUID_CONFIG": 0x9900_0001_0000_0004,
    "MAX_VCPUS_PER_TD": 0x9900_0001_0000_0008,
    "CPUID_CONFIG_LEAVES": 0x9900_0003_0000_0400,
    "CPUID_CONFIG_VALUES": 0x9900_0003_0000_0500,
    "CONFIG_FLAGS": 0x1110_0003_0000_0016,
    "TD_CTLS": 0x1110_0003_0000_0017,
    "NOTIFY_ENABLES": 0x9100_0000_0000_0010,
    "PAMT_PAGE_BITMAP_ENTRY_BITS": 0x9100_0001_0000_0013,  # Dynamic PAMT v4; it says 2 bytes where the module has 1
}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_bit_of_a_layout_is_in_one_field_or_above_all_of_them(layout: type[bits.Layout]) -> None:
    masks = list(layout.fields().values())
    assert sum(masks) == 2 ** sum(masks).bit_length() - 1
    assert all(not a & b for n, a in enumerate(masks) for b in masks[:n])


def place(row: Field) -> tuple[int, int]:
    """Where a field is in its context."""
    return row.id & FieldId.CLASS, row.code


def test_no_field_lies_over_another_one() -> None:
    for context in Context:
        ends = {place(row): (row.id & FieldId.CLASS, row.code + row.elements) for row in FIELDS[context]}
        assert len(ends) == len(FIELDS[context])
        assert all(ends[row] <= behind for row, behind in pairwise(sorted(ends)))


def test_an_id_is_a_class_a_code_and_a_size_alone() -> None:
    known = FieldId.CLASS | FieldId.CODE | FieldId.SIZE | FieldId.CONTEXT | FieldId.NON_ARCH
    assert not [row for row in ROWS if row.id & ~known]


def test_who_writes_has_bits_to_write_and_nobody_else_is_there() -> None:
    for row in ROWS:
        assert set(row.readers + row.writers) <= {fields.HOST, fields.DEBUGGER, fields.GUEST}, row
        assert bool(row.writers) == bool(row.mask) and row.mask <= row.ones, row
        assert fields.HOST not in row.readers or fields.DEBUGGER in row.readers or row in FIELDS[Context.SYS], row


@pytest.mark.parametrize(("context", "record"), [(Context.TD, Td), (Context.VP, Vcpu)])
def test_a_field_reads_what_the_emulation_has(context: Context, record: type[Td] | type[Vcpu]) -> None:
    assert {row.reads for row in FIELDS[context]} <= set(record.RESET)


@pytest.mark.parametrize("name", LINUX)
def test_linux_finds_its_fields(name: str) -> None:
    row, id = BY_NAME[name], LINUX[name]
    assert not (row.id ^ id) & (FieldId.CLASS | FieldId.CODE)


@pytest.mark.parametrize("features", PROFILES.values(), ids=lambda features: features.version)
def test_a_version_says_of_its_features_what_it_can(features: ModuleFeatures) -> None:
    told = features.features0
    assert bool(told & TdxFeatures0.DYNAMIC_PAMT) == features.dynamic_pamt
    assert bool(told & TdxFeatures0.ENHANCED_DEMOTE_INTERRUPTIBILITY) != features.demote_interruptible
    assert bool(told & TdxFeatures0.NO_RBP_MOD) == bool(features.config_flags & fields.ConfigFlags.NO_RBP_MOD)
    assert bool(told & TdxFeatures0.MAXPA_VIRT) == bool(features.config_flags & fields.ConfigFlags.MAXPA_VIRT)
    assert bool(told & TdxFeatures0.MAXGPA_VIRT) == bool(features.config_flags & fields.ConfigFlags.MAXGPA_VIRT)
