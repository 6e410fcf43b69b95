"""The selftest of KVM_MEM_LOG_DIRTY_PAGES: which memory of a TD can be logged?"""

from __future__ import annotations

from typing import Any

from tdxlab.engine.claims import of_history
from tdxlab.engine.run import Program
from tdxlab.hw.guest import Guest
from tdxlab.kvm.dirty_log import kvm_vm_ioctl_get_dirty_log
from tdxlab.kvm.kvm_main import EINVAL
from tdxlab.kvm.memslots import kvm_create_memslot, kvm_set_memslot_log_dirty, slot_at
from tdxlab.lab import Lab
from tdxlab.scenarios.registry import Control, scenario
from tdxlab.scenarios.shared_memory import all_right, check, sync
from tdxlab.spec.levels import PAGE_SHIFT, SIZE_2M
from tdxlab.spec.vmcall import SHARED_BIT

PRIVATE, SHARED = 0, 2 * SIZE_2M >> PAGE_SHIFT  # where the two slots begin
WRITTEN = SHARED + 1, SHARED + 5


@scenario(
    "log-dirty-pages",
    claims={
        "ST19": "A memslot without a guest_memfd can be logged while the TD runs, and tells what the guest wrote to; "
        "one with a guest_memfd cannot be logged."
    },
    breaks={"seed": (), "mainline_616": ()},
    machine={"cpus": 1},
    controls=(
        Control("ST19", "a page that is written to is unmarked", without="tdxlab.kvm.tdp_mmu.mark_page_dirty_in_slot"),
    ),
)
def log_dirty_pages(lab: Lab) -> Program:
    """Can the pages that a TD writes to be logged?"""
    td = lab.create_td(memory="2M", vcpus=1)
    lab.must(kvm_create_memslot(td.kvm, SHARED, 8, log_dirty=True))
    logged = slot_at(td.kvm, SHARED)
    assert logged is not None

    async def guest(guest: Guest) -> None:
        for gfn in WRITTEN:
            await guest.store(gfn << PAGE_SHIFT | SHARED_BIT, 1)
        await sync(guest)

    async def userspace(run: tuple[Any, ...]) -> int:
        dirty = await kvm_vm_ioctl_get_dirty_log(td.kvm, logged)
        check(lab.journal, "KVM_GET_DIRTY_LOG", len(dirty), dirty == WRITTEN)
        return 0

    async def thread() -> None:
        ret = await kvm_set_memslot_log_dirty(td.kvm, PRIVATE, True)
        check(lab.journal, "logging private memory", ret, ret == -EINVAL)
        await td.vcpu(0, guest, userspace)

    return lab.program(lambda: [thread()], [of_history("ST19", lambda h: all_right(h, 2))], ["userspace, vCPU 0"])
