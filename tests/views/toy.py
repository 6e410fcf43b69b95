"""A toy for view tests: two vCPUs accept 4K pages of one pending 2M leaf, and the first of them has it split.

It imitates the shape of real traces (locks, SEAMCALL notes, an exit, a kick, a picture) and none of the rules.
"""

from tdxlab.engine.cells import Journal, Table, Words
from tdxlab.engine.claims import always, at_end, sometimes
from tdxlab.engine.locks import RwLock
from tdxlab.engine.run import Program
from tdxlab.engine.step import WRITE, Steps, step

BASE = 0x40000000
NAMES = {0: "FREE", 1: "PENDING", 2: "MAPPED", 3: "BLOCKED"}


class Toy:
    """One 2M region: `leaf` is its 2M entry (0 when a table hangs there), `table` the 512 entries."""

    def __init__(self) -> None:
        self.journal = Journal()
        self.mmu_lock = RwLock(self.journal, "kvm->mmu_lock")
        self.leaf = Words(self.journal, "leaf", [1])
        self.table = Words(self.journal, "table", [0] * 512)
        self.inhibit = Table(self.journal, "lpage_info")
        self.faults = Words(self.journal, "faults", [0])

    async def tdh_mem_page_demote(self) -> None:
        await step((self.leaf, 0, WRITE), (self.table, None, WRITE), at="TDH.MEM.PAGE.DEMOTE")
        self.table.fill([1] * 512)
        self.leaf.put(0, 0)
        self.journal.note("seamcall", leaf="TDH.MEM.PAGE.DEMOTE", status="TDX_SUCCESS", gpa=BASE, level=2)

    async def handle_ept_violation(self) -> None:
        await self.mmu_lock.write_lock()
        if self.leaf[0]:
            await self.tdh_mem_page_demote()
            self.journal.note("kick", cpus=[1 - self.journal.cpu])
        await step((self.inhibit, BASE, WRITE), at="hugepage_set_guest_inhibit")
        self.inhibit.put(BASE, ("GUEST_INHIBIT",))
        self.mmu_lock.write_unlock()

    async def accept(self, entry: int) -> None:
        while True:
            await step(
                (self.leaf, 0, WRITE), (self.table, entry, WRITE), (self.faults, 0, WRITE), at="TDG.MEM.PAGE.ACCEPT"
            )
            if self.leaf[0] == 0:
                self.table.put(entry, 2)
                self.journal.note("tdcall", leaf="TDG.MEM.PAGE.ACCEPT", status="TDX_SUCCESS", gpa=BASE + entry * 4096)
                return
            self.faults.put(0, self.faults[0] + 1)
            self.journal.note("fault", gpa=BASE + entry * 4096, accept_level=1)
            await self.handle_ept_violation()

    def actors(self) -> list[Steps]:
        return [self.accept(0), self.accept(5)]

    def picture(self) -> dict[str, object]:
        leaf = self.leaf.peek(0)
        sept = NAMES[leaf] if leaf else [NAMES[state] for state in self.table.peek(None)]
        return {
            "sept": {BASE: sept},
            "mirror": {BASE: sept},
            "lpage_info": {BASE: self.inhibit.peek(BASE) or ()},
            "pages_2m": int(leaf != 0),
            "counters": {"faults": self.faults.peek(0)},
        }


def program() -> Program:
    """Claims of all three kinds; the run is at most a dozen steps."""
    toy = Toy()
    return Program(
        toy.journal,
        toy.actors,
        claims=(
            always("T1", lambda: toy.faults[0] <= 2, over=(toy.faults,), text="a vCPU faults once"),
            sometimes("T2", lambda: toy.faults[0] == 2, over=(toy.faults,), text="both vCPUs can fault"),
            at_end("T3", lambda: toy.table.count(2) == 2, text="both pages are accepted"),
        ),
        names=("vCPU 0 accepts page 0", "vCPU 1 accepts page 5"),
        picture=toy.picture,
        meta={"scenario": "toy", "design": "seed", "grain": "lock"},
    )
