"""A whole Linux TD, from its firmware to the page that is given back last: too long to record, so it is counted.

Its phases run one after the other, in each the vCPUs side by side, at the grain of whole SEAMCALLs.
Left out: vCPUs that wait for their start in the firmware; devices; memory that Linux takes before it starts the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tdxlab.engine.drive import together
from tdxlab.guest import firmware
from tdxlab.guest.accept import GuestProgram
from tdxlab.guest.linux import UnacceptedMemory
from tdxlab.invariants import Sweep
from tdxlab.kvm.tdp_iter import PAGE_STAT
from tdxlab.kvm.teardown import kvm_destroy_vm
from tdxlab.lab import Lab, nbytes
from tdxlab.module.td_params import MAX_VCPUS_PER_TD
from tdxlab.scenarios.tally import Tally
from tdxlab.spec.levels import SIZE_1G, SIZE_2M
from tdxlab.td import Td

LOGIN = 256 << 20
ASSUMED = (
    "The firmware accepts all memory below 4 GiB, and Linux takes 256 MiB of the rest until somebody can log in.",
    "The firmware shares 2,500 DMA buffers of 6 pages, each while another page of its 2M block is shared; 6 is chosen "
    "so that the ACCEPTs at 4K come near the 17,626 that were measured.",
    "The 86 pages that the measurement does not name are converted once each, evenly spread.",
    "The image that is measured into the TD is 6 pages from frame 0x800 on, and all of the third memslot.",
    "Linux shares 6 % of memory, at least 64 MiB, below what the firmware converts.",
)
"""What the measurement does not tell; the rest of the pattern is its own.  See `guest.firmware`."""


@dataclass(frozen=True)
class Measured:
    """A number that was published, for designs with one of these choices.  what: a column of `tally`, or of pages."""

    text: str
    what: str
    choices: Mapping[str, Sequence[str]]
    number: int


INHIBIT = {"accept_level": ("guest_inhibit", "guest_inhibit_v3", "guest_inhibit_v5")}
LOOKS, WRITES, CLEARS = ({**INHIBIT, "inhibit_lock": (variant,)} for variant in ("test_first", "write", "clear_on_zap"))
PUBLISHED_FOR = 4 * SIZE_1G, 8  # bytes and vCPUs
PUBLISHED = (  # Yan Zhao, thread on RFC v1 patch 09, 2025-06-26 and 2025-07-02
    Measured("takes of mmu_lock for write for GUEST_INHIBIT, with the look before", "inhibit", LOOKS, 11),
    Measured("takes of mmu_lock for write for GUEST_INHIBIT, without", "inhibit", WRITES, 17_626),
    Measured("2M mappings, GUEST_INHIBIT never cleared", "pages_2m", LOOKS, 1143),
    Measured("2M mappings, GUEST_INHIBIT cleared with a block", "pages_2m", CLEARS, 1144),
    Measured("2M mappings, nothing remembered", "pages_2m", {"accept_level": ("per_vcpu",)}, 1144),
)
"""1144 is what would be ideal, measured with the code before GUEST_INHIBIT: a block comes back at 2M wherever the guest
accepts 2M and no table is."""


@dataclass(frozen=True)
class Phase:
    """name, what it counted, and pages_2m and pages_4k at its end."""

    name: str
    counts: Mapping[str, int]
    pages: dict[str, int]


@dataclass(frozen=True)
class Boot:
    """A boot that has ended.  choices: the design's.  lost: bytes that did not come back.  twice: what did twice."""

    memory: int
    vcpus: int
    design: str
    choices: Mapping[str, str]
    phases: tuple[Phase, ...]
    lost: int
    twice: tuple[str, ...]

    def total(self, until: str = "teardown") -> Counter[str]:
        """The counts of all phases up to that one."""
        names = [phase.name for phase in self.phases]
        counts: Counter[str] = Counter()
        for phase in self.phases[: names.index(until) + 1]:
            counts.update(phase.counts)
        return counts

    def beside(self) -> Iterator[tuple[str, int, int]]:
        """(text, published number, ours at the login) of what was published for such a TD and design."""
        if (self.memory, self.vcpus) != PUBLISHED_FOR:
            return
        login = next(phase for phase in self.phases if phase.name == "login")
        ours = {**self.total("login"), **login.pages}
        for row in PUBLISHED:
            if all(self.choices[question] in variants for question, variants in row.choices.items()):
                yield row.text, row.number, ours.get(row.what, 0)


def boot(
    design: str = "seed",
    memory: str = "4G",
    vcpus: int = 8,
    module: str | None = None,
    dpamt: bool = False,
    thin: int = 1,
) -> Boot:
    """Boot a TD and take it down.

    dpamt: with Dynamic PAMT, whose pages count too.  thin: one of so many conversions is made, for tests.
    Raises ValueError with a sentence: sizes that do not fit, or a design under which the guest does not go on.
    """
    if not 1 <= vcpus <= MAX_VCPUS_PER_TD:
        raise ValueError(f"a TD has 1 to {MAX_VCPUS_PER_TD} vCPUs, not {vcpus}")
    size = nbytes(memory)
    slots = firmware.memslots(size)
    machine = 1 + -(-(size + vcpus * SIZE_2M) // SIZE_1G)
    lab = Lab(design, module, dpamt, cpus=vcpus, memory=f"{machine}G", grain="seamcall")
    before = lab.host.allocator.handed_out()
    td = lab.create_td(memory=[(gpa, f"{length >> 10}K") for gpa, length in slots], finalize=False)
    for gpa, npages in firmware.images():
        td.add_image(gpa, npages)
    td.finalize()
    lab.journal.notes.clear()
    (_, low_end), (high, high_bytes), _ = slots
    linux = UnacceptedMemory(lab.journal, high, high + high_bytes)
    phases = (
        _phase(td, "firmware", [firmware.edk2(low_end, thin)]),
        _phase(td, "bounce buffers", [firmware.shares(*firmware.swiotlb(low_end, thin))]),
        _phase(td, "login", [linux.on_demand(LOGIN)] * vcpus),
        _phase(td, "all memory", [linux.on_demand(high_bytes)] * vcpus),
        _teardown(td),
    )
    lost = lab.host.allocator.handed_out() - before
    return Boot(size, vcpus, lab.design.name, lab.design.choices, phases, lost, tuple(Sweep(lab).owners()))


def _phase(td: Td, name: str, programs: Sequence[GuestProgram]) -> Phase:
    # vCPU i runs the i-th program to its end
    tally = Tally()
    answers = together(td.lab.journal, [td.vcpu(n, program) for n, program in enumerate(programs)], tally)
    if any(answers):
        raise ValueError(f"the phase {name!r} ends with {answers}, as the vCPUs' ioctls answer")
    return Phase(name, tally.counts, _pages(td))


def _teardown(td: Td) -> Phase:
    td.lab.tds.remove(td)
    tally = Tally()
    together(td.lab.journal, [kvm_destroy_vm(td.kvm)], tally)
    return Phase("teardown", tally.counts, _pages(td))


def _pages(td: Td) -> dict[str, int]:
    return {name: td.kvm.stat[name] for name in PAGE_STAT.values()}
