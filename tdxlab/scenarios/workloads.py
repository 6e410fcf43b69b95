"""Small pieces of work that every design can be given: what each costs in locks, calls and pages.

A workload is run once under a random schedule, at the grain of whole SEAMCALLs.  How often a lock is waited for depends
on that schedule; how often it is taken hardly does.
Left out: time.  A wait is counted, not measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tdxlab.engine.claims import History
from tdxlab.engine.run import Execution
from tdxlab.engine.schedule import Scheduler, seeded
from tdxlab.engine.step import Steps
from tdxlab.guest.accept import GuestProgram, map_gpa
from tdxlab.guest.programs import accepts, linux, touches, touches_then_accepts
from tdxlab.hw.guest import Guest
from tdxlab.kvm.teardown import kvm_destroy_vm
from tdxlab.lab import Lab
from tdxlab.ledger import size_of
from tdxlab.scenarios.tdx_vm_huge_page import PROGRAMS, all_shared_then_private, selftest
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_4K, SIZE_2M
from tdxlab.td import Td

TAKES = ("read_lock ", "write_lock ", "lock ")
"""How the steps are called that take one of the kernel's locks."""

NOBODY = "nobody"
Pages = Mapping[str, int]
"""{owner: bytes}."""


@dataclass(frozen=True)
class Workload:
    """text: what is done, for people.  memory: of the TD.  before: makes the TD ready; actors: what is measured.

    ends: is the TD gone afterwards?
    """

    text: str
    actors: Callable[[Td], Sequence[Steps]]
    memory: str = "4M"
    before: Callable[[Td], None] = field(default=lambda td: None)
    ends: bool = False


@dataclass(frozen=True)
class Done:
    """What a run did.

    takes, waits: {(lock, "read" or "write"): how often}.  before, after: memory by owner.  pages: pages_4k and
    pages_2m at the end.
    """

    history: History
    takes: Mapping[tuple[str, str], int]
    waits: Mapping[tuple[str, str], int]
    before: Pages
    after: Pages
    pages: Mapping[str, int]
    steps: int
    ended: str

    def count(self, kind: str) -> int:
        """How many notes of a kind: "kick", "split", "kvm_bug_on"."""
        return sum(note["kind"] == kind for note in self.history)

    def seamcalls(self) -> Counter[tuple[str, str]]:
        """{(leaf, status): how often}, without TDH.VP.ENTER."""
        made = (note for note in self.history if note["kind"] == "seamcall" and note["leaf"] != "TDH.VP.ENTER")
        return Counter((note["leaf"], note["status"]) for note in made)


# --- the work ---


def accepted(td: Td) -> None:
    """Its block is accepted at 2M, or where it is not mapped so, at 4K."""
    td.lab.must(td.vcpu(0, linux(0, SIZE_2M)))


def split(td: Td) -> list[Steps]:
    """vCPU 0 touches a block and accepts two of its pages at 4K; vCPU 1 works in another one."""
    elsewhere = touches(*(SIZE_2M + n * PAGE_SIZE for n in range(4)))
    return [td.vcpu(0, touches_then_accepts(0, (0, PG_LEVEL_4K), (PAGE_SIZE, PG_LEVEL_4K))), td.vcpu(1, elsewhere)]


def shares(*pages: int) -> GuestProgram:
    """Give pages away, one by one, and go on using their neighbours."""

    async def program(guest: Guest) -> None:
        for gpa in pages:
            await map_gpa(guest, gpa, PAGE_SIZE, shared=True)
            await guest.access(gpa + PAGE_SIZE, write=True)

    return program


def conversion(td: Td) -> list[Steps]:
    """Each vCPU shares two pages of a block that both use."""
    return [td.vcpu(n, shares(*(page * PAGE_SIZE for page in pages))) for n, pages in enumerate(((3, 7), (100, 200)))]


def boot(td: Td) -> list[Steps]:
    """vCPU 0: pages at 4K, as a firmware would; vCPU 1: a block at 2M, as Linux would."""
    firmware = accepts(*((n * PAGE_SIZE, PG_LEVEL_4K) for n in range(32)))
    return [td.vcpu(0, firmware), td.vcpu(1, linux(SIZE_2M, 2 * SIZE_2M))]


def destroy(td: Td) -> list[Steps]:
    """The last reference to the VM goes."""
    return [kvm_destroy_vm(td.kvm)]


def huge_page_selftest(td: Td) -> list[Steps]:
    """tdx_vm_huge_page, all of its six stages."""
    return [selftest(td, PROGRAMS)]


WORKLOADS: dict[str, Workload] = {
    "split": Workload("a guest touches a block and accepts 4K in it, while another vCPU works elsewhere", split),
    "conversion": Workload("two vCPUs share two pages each of a block that is accepted", conversion, "2M", accepted),
    "boot": Workload("a small boot: a vCPU accepts 32 pages at 4K, another one a block at 2M", boot),
    "teardown": Workload("a VM with a block of accepted memory is destroyed", destroy, "2M", accepted, ends=True),
    "selftest": Workload(
        "tdx_vm_huge_page, six stages", huge_page_selftest, before=lambda td: all_shared_then_private(td.lab, td)
    ),
}


# --- doing it ---


def perform(name: str, design: str = "seed", *, seed: int = 0, dpamt: bool = False, module: str | None = None) -> Done:
    """Run a workload on a machine of its own.  Raises ValueError with a sentence."""
    if name not in WORKLOADS:
        raise ValueError(f"no workload is called {name!r}; these are: {', '.join(WORKLOADS)}")
    work = WORKLOADS[name]
    lab = Lab(design, module, dpamt, cpus=2, grain="seamcall")
    td = lab.create_td(memory=work.memory)
    work.before(td)
    lab.journal.notes.clear()
    before = owners(lab)
    execution = Execution(lab.program(lambda: work.actors(td)))
    takes, waits = _drive(execution, seeded(seed))
    execution.finish()
    if work.ends:
        lab.tds.remove(td)
    elif wrong := execution.violations():
        raise AssertionError("; ".join(wrong))
    return Done(
        execution.watch.history,
        takes,
        waits,
        before,
        owners(lab),
        dict(td.kvm.stat),
        len(execution.schedule),
        execution.trace.ended,
    )


def _drive(execution: Execution, scheduler: Scheduler) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]:
    # a wait: the CPU stood before a lock while it could not go on
    takes: Counter[tuple[str, str]] = Counter()
    waits: Counter[tuple[str, str]] = Counter()
    waiting: set[int] = set()
    while runnable := execution.runnable():
        waiting |= {cpu for cpu in execution.unfinished if cpu not in runnable}
        cpu = scheduler(execution, runnable)
        label = execution.label(cpu) or ""
        if label.startswith(TAKES):
            how, _, lock = label.partition(" ")
            key = lock.partition(":")[0], "read" if how == "read_lock" else "write"
            takes[key] += 1
            waits[key] += cpu in waiting
        waiting.discard(cpu)
        execution.step(cpu)
    return takes, waits


def owners(lab: Lab) -> dict[str, int]:
    """{owner: bytes} of all memory that the host has handed out, by the ledger; what is leaked is nobody's."""
    found: Counter[str] = Counter()
    for page in lab.ledger.pages:
        if "free" not in page.use:
            found[NOBODY if page.use.endswith("leaked") else page.use] += size_of(page.use)
    return {**found, NOBODY: found[NOBODY]}
