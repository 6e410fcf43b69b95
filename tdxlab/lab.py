"""A machine: module, host, KVM and guests, wired and booted.  This is the only file that wires.

    lab = Lab(design="seed", cpus=2)
    td = lab.create_td(memory="4M")
    program = lab.program(lambda: [td.vcpu(0, linux(0, SIZE_2M)), td.vcpu(1, touches(SIZE_2M))])

All of a set-up runs with nobody beside it; what runs concurrently is what `program` is given, anew for each execution.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from tdxlab.engine.cells import Journal
from tdxlab.engine.claims import Claim
from tdxlab.engine.drive import alone
from tdxlab.engine.run import Program
from tdxlab.engine.step import Pause, Steps, Touch
from tdxlab.host.host import Host
from tdxlab.host.tdx import tdx_enable
from tdxlab.hw.cpu import GRAINS, Cpu, NotModelled, Regs
from tdxlab.hw.guest import Access, GuestFault
from tdxlab.hw.memory import Memory
from tdxlab.hw.platform import Platform
from tdxlab.invariants import Sweep
from tdxlab.kvm.kvm_main import Kvm
from tdxlab.kvm.tdx_build import (
    KVM_SUPPORTED_TD_ATTRS,
)
from tdxlab.ledger import Ledger
from tdxlab.module.dispatch import TdxModule
from tdxlab.module.td_params import MAX_VCPUS_PER_TD
from tdxlab.picture import outcome, picture
from tdxlab.spec.bits import EptViolation
from tdxlab.spec.design import Design
from tdxlab.spec.features import modelled
from tdxlab.spec.leaves import TDH_VP_ENTER, Leaf, named
from tdxlab.spec.levels import PAGE_SIZE, SIZE_1G, SIZE_2M
from tdxlab.spec.status import TDX_OPERAND_BUSY, Status
from tdxlab.td import Td, order_of

T = TypeVar("T")
SIZE = re.compile("([0-9]+)([KMGTkmgt])")
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
BASE = 4 * SIZE_1G  # where the machine's convertible memory begins
PRIVATE_GPAS = 1 << 47  # bytes: TDs have 48 bits of GPA, of which the highest makes one shared
PAMT_SHARE = 128  # PAMT areas take less than 1/128 of what they describe


def nbytes(text: str) -> int:
    """ "64M" as bytes.  Raises ValueError with a sentence."""
    if not isinstance(text, str) or not (size := SIZE.fullmatch(text)):
        raise ValueError(f"a size is a number with K, M, G or T, not {text!r}")
    return int(size[1]) * UNITS[size[2].upper()]


def memslots(memory: str | Sequence[tuple[int, str]]) -> list[tuple[int, int]]:
    """(GPA, bytes) of each memslot; a size alone is one at 0.  Raises ValueError with a sentence."""
    given = [(0, memory)] if isinstance(memory, str) else memory
    if not isinstance(given, Sequence) or not given or not all(map(is_memslot, given)):
        raise ValueError(f"memory is a size, or memslots as (gpa, size), not {memory!r}")
    slots: list[tuple[int, int]] = []
    for gpa, size in given:
        if gpa % PAGE_SIZE or not nbytes(size) or nbytes(size) % PAGE_SIZE:
            raise ValueError(f"a memslot is made of pages of 4K, so it can not be {size} at {gpa:#x}")
        if not 0 <= gpa <= PRIVATE_GPAS - nbytes(size):
            raise ValueError(f"a memslot lies between 0 and {PRIVATE_GPAS:#x}, so it can not be {size} at {gpa:#x}")
        if taken := [first for first, length in slots if first < gpa + nbytes(size) and gpa < first + length]:
            free = max(first + length for first, length in slots)
            raise ValueError(
                f"memslots may not overlap: {gpa:#x} to {gpa + nbytes(size):#x} reaches into the one at {taken[0]:#x}; "
                f"all is free from {free:#x} on"
            )
        slots.append((gpa, nbytes(size)))
    return slots


def is_memslot(given: object) -> bool:
    """Is it (gpa, size)?"""
    return isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], int)


class Lab:
    """A machine.  design: a name, "name,question=variant", a file, or a Design.  grain: "lock" or "seamcall".

    module: its version; if it is not told the one that the design is made for.
    pages: which 2M range a 4K page comes from, "own", "shared" or "scattered".
    """

    def __init__(
        self,
        design: str | Design = "seed",
        module: str | None = None,
        dpamt: bool = False,
        cpus: int = 2,
        memory: str = "1G",
        grain: str = "lock",
        pages: str = "own",
    ) -> None:
        self.design = design if isinstance(design, Design) else Design.parse(design)
        module = self.design.module if module is None else module
        features = modelled(module)
        if not isinstance(dpamt, bool):
            raise ValueError(f"dpamt is True or False, not {dpamt!r}")
        if dpamt and not features.dynamic_pamt:
            raise ValueError(f"module {module} has no Dynamic PAMT, which is asked for here; a later module has")
        size = nbytes(memory)
        if not size or size % SIZE_1G:
            raise ValueError(f"a TDMR is a multiple of 1G, so memory cannot be {memory}")
        most = size // SIZE_2M // (1 if pages == "own" else 2)  # each has a block for its pages at least
        if type(cpus) is not int or not 1 <= cpus <= most:
            raise ValueError(f"a machine of {memory} has 1 to {most} logical processors, so cpus cannot be {cpus!r}")
        if grain not in GRAINS:
            raise ValueError(f"grain is {' or '.join(GRAINS)}, not {grain!r}")
        if dpamt and self.design.choices["pamt_get_put"] == "none":
            raise ValueError(f"design {self.design.name} has no Dynamic PAMT, which is asked for here; others have")
        self.journal = Journal()
        platform = Platform(cmrs=((BASE, size + size // PAMT_SHARE),), lps=cpus, encrypts=True)
        if sum(platform.cmrs[0]) > 1 << platform.hkid_start:
            raise ValueError(f"memory and its PAMT end below {1 << platform.hkid_start:#x}, so it cannot be {memory}")
        self.memory = Memory(self.journal, platform)
        self.module = TdxModule(self.memory, features)
        self.cpus = tuple(Cpu(n, self.memory, self.module, grain) for n in range(cpus))
        self.host = Host(
            self.cpus, self.memory, self.design, tdmr=(BASE, size), pamt=BASE + size, dpamt=dpamt, pages=pages
        )
        self.tds: list[Td] = []
        self.made = 0  # how many TDs there have been
        self.running: Sequence[Steps] = ()  # the actors of an execution that is going on, or has ended
        err = self.alone(tdx_enable(self.host))
        if err.error:
            raise RuntimeError(f"the module did not come up: {err}")

    def alone(self, coroutine: Coroutine[Pause, list[Touch], T], cpu: int = 0) -> T:
        """Run a part of the set-up to its end."""
        return alone(self.journal, coroutine, cpu)

    # --- at register level ---

    def seamcall(self, leaf: str, *, lp: int = 0, version: int = 0, **regs: int) -> dict[str, int]:
        """SEAMCALL "TDH.MEM.PAGE.AUG" on a logical processor.  Returns {register: value}.

        After TDH.VP.ENTER the processor may be in the guest: go on with `tdcall` and `access`.  Raises ValueError with
        a sentence for what no host can do, and for what is not modelled.
        """
        cpu, row = self._caller("host", leaf, lp, version, regs)
        if row is TDH_VP_ENTER:
            answer = Regs(row.number | version << 16, **regs)
            self._run(row, self.module.seamcall(cpu, answer), lp)
            return self._boundary(cpu, answer)
        return self._run(row, cpu.seamcall(row, version, **regs), lp).as_dict()

    def tdcall(self, leaf: str, *, lp: int = 0, version: int = 0, **regs: int) -> dict[str, int]:
        """TDCALL by the guest on a logical processor.  Registers that are not given are as the guest has them.

        Returns the registers of whichever side runs afterwards.  Raises GuestFault where the guest takes an exception
        instead, and ValueError with a sentence for what no guest can do, and for what is not modelled.
        """
        cpu, row = self._caller("guest", leaf, lp, version, regs)
        self._fault(cpu)
        answer = Regs(**{**cpu.lp.gprs, **regs, "rax": row.number | version << 16})
        self._run(row, self.module.tdcall(cpu, answer), lp)
        cpu.keep(answer)
        self._fault(cpu)
        return self._boundary(cpu, answer)

    def access(self, gpa: int, *, lp: int = 0, write: bool = False) -> Access | dict[str, int]:
        """A load or store by the guest on a logical processor, tried once.

        Returns DONE, or the exception that the guest takes instead, or after a TD exit the registers that the host
        finds.  Raises ValueError with a sentence.
        """
        cpu = self._processor("guest", lp, "access memory of a guest")
        bits = self.memory.platform.max_pa
        if not isinstance(gpa, int) or not 0 <= gpa < 1 << bits:
            raise ValueError(f"a GPA has {bits} bits, so it can not be {gpa!r}")
        regs = cpu.guest
        if exception := cpu.take_exception():
            return Access(exception)
        if cpu.lp.interrupt:
            return self._boundary(cpu, regs)
        cause = EptViolation.WRITE if write else EptViolation.READ
        done = self.alone(cpu.access(regs, gpa, cause, []), lp) is not None
        cpu.keep(regs)
        if cpu.lp.vcpu:
            return Access.DONE if done else Access(cpu.take_exception())
        return regs.as_dict()

    def interrupt(self, lp: int = 0) -> None:
        """An external interrupt comes in on a logical processor, where it is pending until `take_interrupt`.

        A call there sees it when it polls.  A guest there makes its TD exit: before its next load or store, after its
        next TDCALL, or as soon as it is entered.
        """
        self._lp(lp).lp.interrupt = 1

    def take_interrupt(self, lp: int = 0) -> None:
        """The host's interrupt handler runs on a logical processor: nothing is pending afterwards."""
        self._processor("host", lp, "take an interrupt").lp.interrupt = 0

    def _run(self, row: Leaf, call: Coroutine[Pause, list[Touch], T], lp: int) -> T:
        try:
            return self.alone(call, lp)
        except NotModelled as left_out:
            raise ValueError(f"{row} comes to something that is not modelled: {left_out}") from None

    def _fault(self, cpu: Cpu) -> None:
        # the guest takes an exception
        if exception := cpu.take_exception():
            raise GuestFault(Access(exception))

    def _boundary(self, cpu: Cpu, regs: Regs) -> dict[str, int]:
        # between two instructions of a guest a pending interrupt makes a TD exit
        if cpu.lp.vcpu and cpu.lp.interrupt:
            self.alone(self.module.external_interrupt(cpu, regs), cpu.n)
        cpu.keep(regs)
        return regs.as_dict()

    def _caller(self, side: str, leaf: str, lp: int, version: int, regs: Mapping[str, int]) -> tuple[Cpu, Leaf]:
        if not isinstance(leaf, str):
            raise ValueError(f"a leaf is called by its name, not {leaf!r}")
        row, call = named(leaf), "SEAMCALL" if side == "host" else "TDCALL"
        if row.side != side:
            raise ValueError(f"{row} is no {call}: it is for the {row.side}")
        if not isinstance(version, int) or not 0 <= version < 256:
            raise ValueError(f"a version is 0 to 255, not {version!r}")
        for name, value in regs.items():
            if name not in Regs.__slots__ or name in ("rax", "rip"):
                raise ValueError(f"{name} is no register that a call takes")
            if not isinstance(value, int) or not 0 <= value < 1 << 64:
                raise ValueError(f"{name} has 64 bits, so it can not be {value!r}")
        return self._processor(side, lp, f"make a {call}"), row

    def _processor(self, side: str, lp: int, what: str) -> Cpu:
        cpu = self._lp(lp)
        if bool(cpu.lp.vcpu) != (side == "guest"):
            where = "inside a guest" if cpu.lp.vcpu else "outside any guest"
            raise ValueError(f"logical processor {lp} is {where}, so it can not {what}")
        return cpu

    def _lp(self, lp: int) -> Cpu:
        if not isinstance(lp, int) or not 0 <= lp < len(self.cpus):
            raise ValueError(f"there is no logical processor {lp!r}: they are 0 to {len(self.cpus) - 1}")
        return self.cpus[lp]

    def fail(self, site: str, nth: int = 1, *, cpu: int = 0, status: Status | None = None) -> None:
        """Let the n-th use of a site on a CPU fail, from now on: a leaf, or who asks for a page (`fail_nth.SITES`).

        status: what the leaf answers in the module's place.  Raises ValueError with a sentence.
        """
        self._lp(cpu)
        if not isinstance(status, Status | None):
            raise ValueError(f"a leaf answers a Status, as tdxlab.spec.status has them, not {status!r}")
        self.host.fail_nth.plan(site, nth, cpu=cpu, status=status)

    @property
    def ledger(self) -> Ledger:
        """Who has which page now."""
        return Ledger(self)

    # --- TDs ---

    def create_td(
        self,
        *,
        memory: str | Sequence[tuple[int, str]] = "4M",
        vcpus: int | None = None,
        folio: str = "2M",
        image: int = 0,
        attributes: int = 0,
        finalize: bool = True,
    ) -> Td:
        """A TD that can run, with vCPU i on CPU i.

        memory: a size, or memslots as (gpa, size).  folio: what guest_memfd hands out, "2M" or "4K".  image: pages
        measured into the TD at the start of its memory.
        """
        order = order_of(folio)
        count = len(self.cpus) if vcpus is None else vcpus
        most_vcpus = min(len(self.cpus), MAX_VCPUS_PER_TD)
        if type(count) is not int or not 0 <= count <= most_vcpus:
            raise ValueError(f"vCPU i is on CPU i, so there are 0 to {most_vcpus} of them, not {count!r}")
        slots = memslots(memory)
        pages = slots[0][1] // PAGE_SIZE
        if type(image) is not int or not 0 <= image <= pages:
            raise ValueError(f"the first memslot has {pages} pages, so image can not be {image!r}")
        if image and not count:
            raise ValueError("an image is added by vCPU 0, so with vcpus=0 there is none")
        if not isinstance(finalize, bool):
            raise ValueError(f"finalize is True or False, not {finalize!r}")
        if type(attributes) is not int or attributes & ~KVM_SUPPORTED_TD_ATTRS:
            raise ValueError(f"KVM supports {KVM_SUPPORTED_TD_ATTRS:#x} of a TD's attributes, not {attributes!r}")
        wanted, most = sum(size for _, size in slots), self._room(count)
        if wanted > most:
            raise ValueError(f"a TD of {wanted / UNITS['M']:g}M does not fit: this machine has room for {most >> 20}M")
        td = self.new_td()
        try:
            self.must(td.init_vm(attributes))
            td.add_memory(slots, order)
            td.add_vcpus(range(count))
            if image:
                td.add_image(slots[0][0], image)
            if finalize:
                td.finalize()
        except RuntimeError:
            self.alone(td.destroy())
            raise
        return td

    def new_td(self) -> Td:
        """KVM_CREATE_VM: a VM of which the module knows nothing yet."""
        td = Td(self, Kvm(self.journal, f"td{self.made}", self.host, self.design))
        self.made += 1
        self.tds.append(td)
        return td

    def _room(self, vcpus: int) -> int:
        # a TD's memory has at most 1/128 of it in tables and pairs, and 1M for itself and for each vCPU; in whole 2M
        allocator = self.host.allocator
        left = allocator.share * allocator.cpus - allocator.handed_out() - (1 + vcpus) * UNITS["M"]
        return max(left * 128 // 129 & -SIZE_2M, 0)

    def must(self, ioctl: Coroutine[Any, Any, int], cpu: int = 0) -> None:
        """Run an ioctl of the set-up that has to work.  Raises RuntimeError with its name and -errno."""
        if ret := self.alone(ioctl, cpu):
            raise RuntimeError(f"{getattr(ioctl, '__name__', ioctl)} failed with {ret}")

    # --- what runs ---

    def program(
        self,
        actors: Callable[[], Sequence[Steps]],
        claims: Iterable[Claim] = (),
        names: Iterable[str] = (),
        max_steps: int = 20_000,
    ) -> Program:
        """What `actors` gives, on this machine, with the machine's invariants; actor i runs on CPU i."""
        sweep = Sweep(self)

        def begin() -> Sequence[Steps]:
            self.running = sweep.watch(actors())
            return self.running

        return Program(
            journal=self.journal,
            actors=begin,
            claims=tuple(claims),
            invariants=sweep.invariants(),
            names=tuple(names),
            picture=lambda: picture(self),
            outcome=lambda: outcome(self),
            meta={"design": self.design.name, "grain": self.cpus[0].grain, "module": self.module.features.version},
            busy=busy,
            max_steps=max_steps,
        )


def busy(note: Mapping[str, Any]) -> bool | None:
    """Does a note tell of a call of the module that was refused as busy?  Any other call is progress."""
    return note["status"] == TDX_OPERAND_BUSY.name if note["kind"] in ("seamcall", "tdcall") else None
