"""Bringing the module up: `tdx_enable`.  (arch/x86/virt/vmx/tdx/tdx.c)

SYS.INIT once, LP.INIT on each CPU, SYS.RD of what the module can, SYS.CONFIG with the TDMRs and their PAMTs, KEY.CONFIG
on each package, TDMR.INIT until the PAMT is complete.  Left out: other metadata, building TDMRs from memblocks, more
than one TDMR or package.
"""

from __future__ import annotations

import struct

from tdxlab.host.host import Host
from tdxlab.host.seamcall import seamcall, seamcall_regs
from tdxlab.spec import leaves
from tdxlab.spec.fields import BY_NAME
from tdxlab.spec.levels import PAGE_SIZE, SIZE_1G, SIZE_2M, SIZE_4K
from tdxlab.spec.status import Status

PAMT_ENTRY_BYTES = 16
TDX_FEATURES0 = BY_NAME["TDX_FEATURES0"].id
DYNAMIC_PAMT = 1 << 16  # in R8 of TDH.SYS.CONFIG


def pamt_areas(host: Host) -> list[tuple[int, int]]:
    """(base, bytes) of the PAMT for 1G, 2M and 4K pages, one after the other.  With Dynamic PAMT a bitmap last."""
    areas, base = [], host.pamt
    for page in (SIZE_1G, SIZE_2M, SIZE_4K):
        pages = host.tdmr[1] // page
        nbytes = pages // 8 if host.dpamt and page == SIZE_4K else pages * PAMT_ENTRY_BYTES
        nbytes = -(-nbytes // PAGE_SIZE) * PAGE_SIZE
        areas.append((base, nbytes))
        base += nbytes
    return areas


async def tdx_enable(host: Host) -> Status:
    """Make the module ready for TDs.  Returns the first status that is an error, or TDX_SUCCESS.

    Context: set-up; each LP.INIT is made from its own CPU.
    """
    err = await seamcall(host, leaves.TDH_SYS_INIT)
    for cpu in host.cpus:
        err = err if err.error else (await cpu.seamcall(leaves.TDH_SYS_LP_INIT)).status
    if err.error:
        return err
    host.tdx_features0 = (await seamcall_regs(host, leaves.TDH_SYS_RD, rdx=TDX_FEATURES0)).r8
    if (err := await config_tdx_module(host)).error:
        return err
    if (err := await seamcall(host, leaves.TDH_SYS_KEY_CONFIG)).error:
        return err
    return await init_tdmr(host)


async def config_tdx_module(host: Host) -> Status:
    """TDH.SYS.CONFIG: an array of pointers to TDMR_INFO."""
    array, tdmr_info = host.alloc_page(), host.alloc_page()
    assert array is not None and tdmr_info is not None
    fields = [*host.tdmr, *(word for area in pamt_areas(host) for word in area)]
    host.memory.write(tdmr_info, struct.pack("<8Q", *fields))
    host.memory.write(array, struct.pack("<Q", tdmr_info))
    flags = DYNAMIC_PAMT if host.dpamt else 0
    err = await seamcall(host, leaves.TDH_SYS_CONFIG, rcx=array, rdx=1, r8=host.global_hkid | flags)
    for page in (array, tdmr_info):
        host.memory.write(page, bytes(PAGE_SIZE))
        host.free_page(page)
    return err


async def init_tdmr(host: Host) -> Status:
    """TDH.SYS.TDMR.INIT until it says that the TDMR's end is reached."""
    base, nbytes = host.tdmr
    while True:
        regs = await host.cpu.seamcall(leaves.TDH_SYS_TDMR_INIT, rcx=base)
        if regs.status.error or regs.rdx >= base + nbytes:
            return regs.status
