"""A TD built leaf by leaf, as tables of calls: TDH.MNG.CREATE to TDH.MR.FINALIZE.

Each kind of page has a 2M range of its own, so that ranges tell their story.  Left out: an image worth the name (one
page of zeros is measured), more than two vCPUs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tdxlab.lab import BASE, Lab
from tdxlab.lessons.leaves import Leaves
from tdxlab.spec.fields import Attributes
from tdxlab.spec.levels import LEVEL_1G, LEVEL_2M, LEVEL_4K, LEVEL_512G, PAGE_SIZE, SIZE_2M

HKID = 33
HOST, CONTROL, TABLES, PAGES, LARGE, DONORS = (BASE + n * SIZE_2M for n in (0, 1, 2, 3, 4, 8))
"""2M ranges: the host's own pages, the TD's control pages, its S-EPT pages, small pages, one large page, pages for
the PAMT."""

TD_PARAMS, SOURCE = HOST, HOST + PAGE_SIZE
TDR, TDVPR, TDVPR_1, IMAGE = (CONTROL + n * 0x10 * PAGE_SIZE for n in (1, 2, 3, 4))
PDPT, PD, PT, PT_2M = (TABLES + n * PAGE_SIZE for n in (1, 2, 3, 4))
"""S-EPT pages: a PDPT, a page directory, the page table of GPA 0 to 2M; one more for a split."""

PAGE, PAGE_IN_MIB_1 = PAGES + PAGE_SIZE, PAGES + 0x10_1000
PAIR = DONORS + PAGE_SIZE, DONORS + 2 * PAGE_SIZE
SPARE = DONORS + 3 * PAGE_SIZE, DONORS + 4 * PAGE_SIZE
OWN = PAGES + 0x1FE * PAGE_SIZE, PAGES + 0x1FF * PAGE_SIZE
"""Pairs for the PAMT: two in a range of their own, and the last pages of the range that they tell of."""
NAMES = {
    CONTROL: "CONTROL",
    TABLES: "TABLES",
    TD_PARAMS: "TD_PARAMS",
    SOURCE: "SOURCE",
    TDR: "TDR",
    TDVPR: "TDVPR",
    TDVPR_1: "TDVPR_1",
    IMAGE: "IMAGE",
    PDPT: "PDPT",
    PD: "PD",
    PT: "PT",
    PT_2M: "PT_2M",
    PAGES: "PAGES",
    PAGE: "PAGE",
    PAGE_IN_MIB_1: "PAGE_IN_MIB_1",
    LARGE: "LARGE",
    DONORS: "DONORS",
    **{page: f"PAIR[{n}]" for n, page in enumerate(PAIR)},
    **{page: f"SPARE[{n}]" for n, page in enumerate(SPARE)},
    **{page: f"OWN[{n}]" for n, page in enumerate(OWN)},
}

PARAMS = struct.Struct("<QQHBB4xQQH")
XFAM, MAX_VCPUS, EPTP_4_LEVEL, TSC_1_GHZ = 0xE7, 2, 0x1E, 40
TDCX_OF_TD, TDCX_OF_VCPU = 6, 5
CHUNK = 256  # bytes that an EXTEND measures
HALT = 1 << 10 | 1 << 11  # operand of TDG.VP.VMCALL: R10 and R11, both 0, go to the host

Row = tuple[str, *tuple[int, ...]]
"""A call: the leaf, and its operands in order."""


def lp_of(row: Row) -> int:
    """vCPU 1 lives on LP 1; everything else happens on LP 0."""
    return int(len(row) > 1 and row[1] == TDVPR_1)


def pairs() -> Iterator[Row]:
    """With Dynamic PAMT: what the control pages and the tables need.  The small pages have no pair yet."""
    for n, base in enumerate((CONTROL, TABLES)):
        first = DONORS + SIZE_2M + 2 * n * PAGE_SIZE
        yield "TDH.PHYMEM.PAMT.ADD", base | LEVEL_2M, first, first + PAGE_SIZE


def created() -> Iterator[Row]:
    """The TD's root, its key, its control pages, its parameters."""
    yield "TDH.MNG.CREATE", TDR, HKID
    yield "TDH.MNG.KEY.CONFIG", TDR
    for n in range(TDCX_OF_TD):
        yield "TDH.MNG.ADDCX", TDR + (n + 1) * PAGE_SIZE, TDR
    yield "TDH.MNG.INIT", TDR, TD_PARAMS


def vcpu(tdvpr: int) -> Iterator[Row]:
    """A vCPU: its root, its control pages."""
    yield "TDH.VP.CREATE", tdvpr, TDR
    for n in range(TDCX_OF_VCPU):
        yield "TDH.VP.ADDCX", tdvpr + (n + 1) * PAGE_SIZE, tdvpr
    yield "TDH.VP.INIT", tdvpr, 0


def mapped() -> Iterator[Row]:
    """Tables from the top down, and a first page with content, measured."""
    for level, table in ((LEVEL_512G, PDPT), (LEVEL_1G, PD), (LEVEL_2M, PT)):
        yield "TDH.MEM.SEPT.ADD", level, TDR, table
    yield "TDH.MEM.PAGE.ADD", 0 | LEVEL_4K, TDR, IMAGE, SOURCE
    for at in range(0, PAGE_SIZE, CHUNK):
        yield "TDH.MR.EXTEND", at, TDR
    yield "TDH.MR.FINALIZE", TDR


def build(lab: Lab, *, attributes: int = Attributes.SEPT_VE_DISABLE, until: str = "") -> Leaves:
    """Make the calls; vCPU n is initialised on LP n.  until: stop before this leaf."""
    lab.memory.write(TD_PARAMS, PARAMS.pack(attributes, XFAM, MAX_VCPUS, 0, 0, EPTP_4_LEVEL, 0, TSC_1_GHZ))
    call = Leaves(lab, TDR, NAMES)
    needed = pairs() if lab.host.dpamt else ()
    for row in (*needed, *created(), *vcpu(TDVPR), *vcpu(TDVPR_1), *mapped()):
        if row[0] == until:
            break
        answer = call(*row, lp=lp_of(row))
        assert not answer.status.error, f"{row}: {answer.answer}"
    call.keep()
    return call
