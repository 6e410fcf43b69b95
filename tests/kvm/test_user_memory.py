"""Userspace's own pages, behind the memslots."""

from __future__ import annotations

from tdxlab.engine.run import run
from tdxlab.engine.step import step
from tdxlab.kvm.user_memory import read_user
from tdxlab.lab import Lab


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
