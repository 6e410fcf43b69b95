"""Userspace's own pages, behind the memslots."""

from __future__ import annotations

from tdxlab.engine.run import run
from tdxlab.engine.step import step
from tdxlab.kvm.kvm_main import EFAULT
from tdxlab.kvm.user_memory import read_user, write_user
from tdxlab.lab import Lab
from tdxlab.spec.levels import PAGE_SIZE


def test_a_page_that_somebody_else_had_is_zeroed_for_userspace() -> None:
    lab = Lab(cpus=1)
    td = lab.create_td(memory="64K", folio="4K")
    page = lab.host.must_alloc()
    lab.memory.page(page).fill([7] * 512)
    lab.host.free_page(page)
    read: list[int] = []

    async def userspace() -> None:
        await step(at="touch")
        read.append(await read_user(td.kvm, 0))
        read.append(td.kvm.mm.peek(0))

    run(lab.program(lambda: [userspace()]), check_reads=True)
    assert read == [0, page]


def test_in_place_userspace_uses_the_file_s_own_page_if_it_is_shared() -> None:
    lab = Lab("y2026", cpus=1)
    td = lab.create_td(memory="64K", folio="4K")
    lab.must(td.kvm.design.guest_memfd.convert(td.kvm, 5, 6, private=False))
    done: list[int] = []

    async def userspace() -> None:
        await step(at="touch")
        for page in (5, 6):
            done.append(await write_user(td.kvm, page * PAGE_SIZE, 7))
        done.append(await read_user(td.kvm, 5 * PAGE_SIZE))
        done.append(lab.memory.page(td.slot.gmem.folios.peek(5)).peek(0))

    run(lab.program(lambda: [userspace()]), check_reads=True)
    assert done == [0, -EFAULT, 7, 7] and not td.slot.gmem.held
