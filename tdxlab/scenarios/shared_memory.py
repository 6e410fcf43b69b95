"""The selftests tdx_shared_mem_test and tdx_upm_test: who sees which data, before, between and after conversions.

A check is a note with what was found and what must be; the claim is that all are made and none fails.
Source: TDX selftests v8.  Left out: fills of whole areas; a word is written at each end and in the middle.
"""

from __future__ import annotations

from typing import Any

from tdxlab.engine.cells import Journal
from tdxlab.engine.claims import History, of_history
from tdxlab.engine.run import Program
from tdxlab.guest.accept import map_gpa, touch
from tdxlab.guest.vmcall import tdvmcall
from tdxlab.hw.guest import Guest
from tdxlab.kvm.user_memory import read_user, write_user
from tdxlab.lab import Lab
from tdxlab.scenarios.registry import Control, scenario
from tdxlab.spec.levels import PAGE_SIZE, SIZE_2M
from tdxlab.spec.vmcall import EXIT_REASON_IO_INSTRUCTION, SHARED_BIT

FOCUS, FOCUS_BYTES = SIZE_2M // 2, 10 * PAGE_SIZE  # 40 KiB in the middle of 2 MiB
INSIDE = (FOCUS, FOCUS + FOCUS_BYTES - 8)
AROUND = (0, FOCUS - 8, FOCUS + FOCUS_BYTES, SIZE_2M - 8)
PRIVATE, FROM_GUEST, FROM_HOST = 0x0F0F, 0xCAFE_CAFE, 0xABCD_ABCD
SYNC_PORT = 0x30


def check(journal: Journal, what: str, found: int | str, right: bool) -> None:
    """One finding."""
    journal.note("check", what=what, found=found, right=right)


def all_right(history: History, checks: int) -> bool:
    """So many findings were made, and all are right."""
    made = [h["right"] for h in history if h["kind"] == "check"]
    return len(made) == checks and all(made)


async def sync(guest: Guest) -> None:
    """Let userspace look."""
    await tdvmcall(guest, EXIT_REASON_IO_INSTRUCTION, 1, 1, SYNC_PORT, 0)


async def upm(guest: Guest, explicit: bool) -> None:
    """Fill, convert the focus area to shared, exchange data, convert it back.

    Private memory is touched before it is read, so that what KVM has zapped is accepted anew, and found to be lost.
    """
    journal = guest.cpu.journal
    for gpa in (*AROUND, *INSIDE):
        await touch(guest, gpa)
        await guest.store(gpa, PRIVATE)
    await sync(guest)
    if explicit:
        await map_gpa(guest, FOCUS, FOCUS_BYTES, shared=True)
    for gpa in INSIDE:
        await guest.store(gpa | SHARED_BIT, FROM_GUEST)
    await sync(guest)
    for gpa in INSIDE:
        found = await guest.load(gpa | SHARED_BIT)
        check(journal, f"{gpa:#x}: the host's data", found, found == FROM_HOST)
    for gpa in AROUND:
        await touch(guest, gpa)
        found = await guest.load(gpa)
        check(journal, f"{gpa:#x}: private data beside it", found, found == PRIVATE)
    if explicit:
        await map_gpa(guest, FOCUS, FOCUS_BYTES, shared=False)
    for gpa in INSIDE:
        await touch(guest, gpa)
        found = await guest.load(gpa)
        check(journal, f"{gpa:#x}: private again", found, found == 0)
    for gpa in AROUND:
        found = await guest.load(gpa)
        check(journal, f"{gpa:#x}: private data beside it, at the end", found, found == PRIVATE)


def _upm(lab: Lab, claim: str, explicit: bool) -> Program:
    td = lab.create_td(memory="2M", vcpus=1)

    def actor() -> Any:
        syncs = iter(("private", "shared"))

        async def userspace(run: tuple[Any, ...]) -> int:
            stage = next(syncs)
            for gpa in (*AROUND, *INSIDE) if stage == "private" else INSIDE:
                found = await read_user(td.kvm, gpa)
                right = found != PRIVATE if stage == "private" else found == FROM_GUEST
                check(lab.journal, f"{gpa:#x}: the host's view, {stage}", found, right)
                if stage == "shared":
                    await write_user(td.kvm, gpa, FROM_HOST)
            return 0

        return td.vcpu(0, lambda guest: upm(guest, explicit), userspace)

    checks = len(AROUND) + len(INSIDE) + len(INSIDE) * 3 + len(AROUND) * 2
    return lab.program(lambda: [actor()], [of_history(claim, lambda h: all_right(h, checks))], ["vCPU 0"])


def controls(claim: str) -> tuple[Control, ...]:
    """What makes each kind of data wrong."""
    return (
        Control(claim, "ACCEPT does not clear", without="tdxlab.module.tdg_mem.clear"),
        Control(
            claim, "a conversion to shared splits nothing", without="tdxlab.kvm.split.kvm_split_cross_boundary_leafs"
        ),
    )


@scenario(
    "upm-explicit",
    claims={
        "ST17": "Private data is hidden from the host; a part that the guest converts by MapGPA is common to both, and "
        "0 when it is private again; what is around it keeps its data throughout."
    },
    breaks={"seed": (), "mainline_616": ()},
    machine={"cpus": 1},
    controls=controls("ST17"),
)
def upm_explicit(lab: Lab) -> Program:
    """Does the data of 2 MiB survive that 40 KiB in its middle become shared, and private again, by MapGPA?"""
    return _upm(lab, "ST17", explicit=True)


@scenario(
    "upm-implicit",
    claims={
        "ST18": "The same where the guest only uses the other alias: each first access is a KVM_EXIT_MEMORY_FAULT, and "
        "userspace converts the page."
    },
    breaks={"seed": (), "mainline_616": ()},
    machine={"cpus": 1},
    controls=controls("ST18"),
)
def upm_implicit(lab: Lab) -> Program:
    """Does the data survive conversions that the guest does not ask for, but causes by the alias that it uses?"""
    return _upm(lab, "ST18", explicit=False)


@scenario(
    "shared-memory",
    claims={"ST15": "What a guest writes to a page that it has shared the host reads, and the other way round."},
    breaks={"seed": (), "seed,guest_memfd=hugetlb_in_place": ()},
    machine={"cpus": 1},
    controls=(Control("ST15", "nothing is mapped", without="tdxlab.kvm.tdp_mmu.tdp_mmu_map_handle_target_level"),),
)
def shared_memory(lab: Lab) -> Program:
    """Do guest and host see each other's data in a page that the guest has shared by MapGPA?"""
    td = lab.create_td(memory="2M", vcpus=1)

    async def guest(guest: Guest) -> None:
        await map_gpa(guest, FOCUS, PAGE_SIZE, shared=True)
        await guest.store(FOCUS | SHARED_BIT, FROM_GUEST)
        await sync(guest)
        found = await guest.load(FOCUS | SHARED_BIT)
        check(lab.journal, "the guest's view", found, found == FROM_HOST)

    async def userspace(run: tuple[Any, ...]) -> int:
        found = await read_user(td.kvm, FOCUS)
        check(lab.journal, "the host's view", found, found == FROM_GUEST)
        return await write_user(td.kvm, FOCUS, FROM_HOST)

    claim = of_history("ST15", lambda h: all_right(h, 2))
    return lab.program(lambda: [td.vcpu(0, guest, userspace)], [claim], ["vCPU 0"], max_steps=600)
