"""The direct root: the shared EPT, which KVM writes as for any VM and the processor walks for GPAs with the SHARED bit.

Its tables are ordinary pages of the host, and nothing of it goes through the module, which only knows the root.  An
entry that maps nothing suppresses #VE, so that an access exits to KVM; one for a GPA without memory does not: the
guest's #VE handler then asks for MMIO.

Left out: 2M mappings, A/D bits, tables that are freed before the VM.
Source: GEN.
"""

from __future__ import annotations

from collections.abc import Iterator

from tdxlab.engine.step import WRITE, step
from tdxlab.kvm.kvm_main import Kvm
from tdxlab.kvm.spte import TableSpte
from tdxlab.kvm.tdp_iter import KvmMmuPage


def direct_tables(kvm: Kvm) -> Iterator[int]:
    """HPAs of the tables, children before parents."""
    if kvm.direct_root:
        yield from _tables(kvm.direct_root)


def _tables(sp: KvmMmuPage) -> Iterator[int]:
    for spte in sp.spt.peek(None):
        if isinstance(spte, TableSpte):
            yield from _tables(spte.child)
    yield sp.spt_hpa


async def exit_mmap(kvm: Kvm) -> None:
    """The process's own pages are freed.  Context: nothing maps them."""
    await step((kvm.mm, None, WRITE), at="exit_mmap")
    for page in kvm.mm.values():
        kvm.host.free_page(page)
    for gfn in list(kvm.mm):
        kvm.mm.put(gfn, 0)
