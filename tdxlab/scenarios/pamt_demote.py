"""DEMOTE takes a PAMT page pair too, and meets a PAMT.ADD that has nothing to do with its TD."""

from __future__ import annotations

from dataclasses import replace

from tdxlab.engine.claims import History, of_history
from tdxlab.engine.run import Program
from tdxlab.engine.schedule import Story
from tdxlab.engine.step import step
from tdxlab.guest.programs import accepts
from tdxlab.kvm.kvm_main import kvm_mmu_write_lock
from tdxlab.kvm.tdx_sept import tdx_sept_split_private_spt
from tdxlab.lab import Lab
from tdxlab.scenarios.looks import calls, count
from tdxlab.scenarios.pamt_contention import get
from tdxlab.scenarios.registry import scenario
from tdxlab.spec.levels import PAGE_SHIFT, PAGE_SIZE, PG_LEVEL_2M

DEMOTE = "TDH.MEM.PAGE.DEMOTE"
EACH_TRY, GET_FIRST, LOCKED, IF_BUSY = (
    f"seed,demote={variant}" for variant in ("pair_each_try", "get_first", "under_pamt_lock", "pamt_lock_if_busy")
)
BACKPOCKET = f"{LOCKED},pamt_lock=rwlock_retry"
APART, TOGETHER = ("y2026", LOCKED, IF_BUSY), ("seed", EACH_TRY, GET_FIRST, BACKPOCKET)
# CPU 1 holds in the module the range that the pages of DEMOTE's pair lie in
INSIDE_ADD: Story = ((1, "bitset"), (0, None), (1, None))


def no_bug(history: History) -> bool:
    """The split succeeds."""
    return count(history, "kvm_bug_on") == 0


@scenario(
    "pamt-demote",
    claims={
        "HP15": "With mmu_lock held for write TDX_OPERAND_BUSY is met by keeping all vCPUs out.  (With Dynamic PAMT "
        "that does not do for DEMOTE: another TD's PAMT.ADD makes it busy too, and the TD is lost unless pamt_lock "
        "keeps them apart.)"
    },
    breaks={**dict.fromkeys(TOGETHER, ("HP15",)), **dict.fromkeys(APART, ())},
    machine={"dpamt": True},
    stories=dict.fromkeys(TOGETHER, INSIDE_ADD),
    shows=dict.fromkeys(TOGETHER, lambda h: calls(h, of=[DEMOTE]) == [f"{DEMOTE} TDX_OPERAND_BUSY"] * 2),
)
def pamt_demote(lab: Lab) -> Program:
    """A 2M page of one TD is split while a range gets its pair for another TD: do they meet?

    The VM's cache has PAMT pages of that range.  KVM's hook for splits runs here, and `tdx_pamt_get`.
    """
    td = lab.create_td(memory="2M", vcpus=1)
    kvm, pfn = td.kvm, td.slot.gmem.folios[0] >> PAGE_SHIFT
    lab.must(td.vcpu(0, accepts((0, PG_LEVEL_2M))))
    block, table = lab.host.must_alloc(PG_LEVEL_2M), lab.host.must_alloc()
    # a pair for the table, and one for each of two tries
    kvm.pamt_cache.objects = tuple(range(block, block + 6 * PAGE_SIZE, PAGE_SIZE))

    async def split() -> None:
        await step(at="a split")
        await kvm.pamt_cache_lock.lock()  # of RFC v5; the earlier ones do without
        await kvm_mmu_write_lock(kvm, "split")
        await tdx_sept_split_private_spt(kvm, 0, PG_LEVEL_2M, pfn, table, mmu_lock_shared=False)
        kvm.mmu_lock.write_unlock()
        kvm.pamt_cache_lock.unlock()

    program = lab.program(
        lambda: [split(), get(lab, block)],
        [of_history("HP15", no_bug)],
        ["CPU 0: splits a 2M page", "CPU 1: a pair for another TD's range"],
    )
    # the mirror does not know of the split, and nobody has the references that are counted
    return replace(program, invariants=())
