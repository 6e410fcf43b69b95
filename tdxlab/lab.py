"""A machine: module, host, KVM and guests, wired and booted.  This is the only file that wires.

    lab = Lab(design="seed", cpus=2)
    td = lab.create_td(memory="4M")
    program = lab.program(lambda: [td.vcpu(0, linux(0, SIZE_2M)), td.vcpu(1, touches(SIZE_2M))])

All of a set-up runs with nobody beside it; what runs concurrently is what `program` is given, anew for each execution.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tdxlab.engine.cells import Journal
from tdxlab.engine.claims import Claim
from tdxlab.engine.run import Program, alone
from tdxlab.engine.step import Pause, Steps, Touch
from tdxlab.guest.accept import GuestProgram
from tdxlab.host.host import Host
from tdxlab.host.tdx import tdx_enable
from tdxlab.hw.cpu import Cpu, Guest, Regs
from tdxlab.hw.memory import Memory
from tdxlab.hw.platform import Platform
from tdxlab.invariants import Sweep
from tdxlab.kvm.kvm_main import Kvm, KvmMemorySlot, KvmVcpu
from tdxlab.kvm.mmu import mmu_topup_memory_caches
from tdxlab.kvm.prefault import kvm_vcpu_pre_fault_memory
from tdxlab.kvm.tdx_build import tdx_td_finalize, tdx_td_init, tdx_td_vcpu_init, tdx_vcpu_init_mem_region
from tdxlab.kvm.userspace import kvm_set_memory_region, run_vcpu
from tdxlab.module.dispatch import TdxModule
from tdxlab.picture import picture
from tdxlab.spec.design import Design
from tdxlab.spec.features import modelled
from tdxlab.spec.leaves import TDH_VP_ENTER, Leaf, named
from tdxlab.spec.levels import PAGE_SIZE, SIZE_1G

T = TypeVar("T")
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
BASE = 4 * SIZE_1G  # where the machine's convertible memory begins
PAMT_SHARE = 128  # PAMT areas take less than 1/128 of what they describe


def nbytes(text: str) -> int:
    """ "64M" as bytes.  Raises ValueError with a sentence."""
    number, unit = text[:-1], text[-1:].upper()
    if unit not in UNITS or not number.isdigit():
        raise ValueError(f"a size is a number with K, M, G or T, not {text!r}")
    return int(number) * UNITS[unit]


class Lab:
    """A machine.  design: a name, "name,question=variant", a file, or a Design.  grain: "lock" or "seamcall"."""

    def __init__(
        self,
        design: str | Design = "seed",
        module: str = "1.5.25",
        dpamt: bool = False,
        cpus: int = 2,
        memory: str = "1G",
        grain: str = "lock",
    ) -> None:
        features = modelled(module)
        if dpamt and not features.dynamic_pamt:
            raise ValueError(f"module {module} has no Dynamic PAMT: use dpamt=False or a later module")
        if nbytes(memory) % SIZE_1G:
            raise ValueError(f"a TDMR is a multiple of 1G, so memory cannot be {memory}")
        self.design = design if isinstance(design, Design) else Design.parse(design)
        self.journal = Journal()
        size = nbytes(memory)
        self.memory = Memory(self.journal, Platform(cmrs=((BASE, size + size // PAMT_SHARE),), lps=cpus))
        self.module = TdxModule(self.memory, features)
        self.cpus = tuple(Cpu(n, self.memory, self.module, grain) for n in range(cpus))
        self.host = Host(self.cpus, self.memory, tdmr=(BASE, size), pamt=BASE + size, dpamt=dpamt)
        self.tds: list[Td] = []
        err = self.alone(tdx_enable(self.host))
        if err.error:
            raise RuntimeError(f"the module did not come up: {err}")

    def alone(self, coroutine: Coroutine[Pause, list[Touch], T], cpu: int = 0) -> T:
        """Run a part of the set-up to its end."""
        return alone(self.journal, coroutine, cpu)

    # --- at register level ---

    def seamcall(self, leaf: str, *, lp: int = 0, version: int = 0, **regs: int) -> dict[str, int]:
        """SEAMCALL "TDH.MEM.PAGE.AUG" on a logical processor.  Returns {register: value}.

        After TDH.VP.ENTER the processor may be in the guest: go on with `tdcall`.  Raises ValueError with a sentence
        for what no host can do.
        """
        cpu, row = self._caller("host", leaf, lp, version, regs)
        if row is TDH_VP_ENTER:
            answer = Regs(row.number | version << 16, **regs)
            self.alone(self.module.seamcall(cpu, answer), lp)
        else:
            answer = self.alone(cpu.seamcall(row, version, **regs), lp)
        return answer.as_dict()

    def tdcall(self, leaf: str, *, lp: int = 0, version: int = 0, **regs: int) -> dict[str, int]:
        """TDCALL by the guest on a logical processor.  Returns the registers of whichever side runs afterwards.

        Raises ValueError with a sentence for what no guest can do.
        """
        cpu, row = self._caller("guest", leaf, lp, version, regs)
        answer = Regs(row.number | version << 16, **regs)
        self.alone(self.module.tdcall(cpu, answer), lp)
        return answer.as_dict()

    def _caller(self, side: str, leaf: str, lp: int, version: int, regs: Mapping[str, int]) -> tuple[Cpu, Leaf]:
        row, call = named(leaf), "SEAMCALL" if side == "host" else "TDCALL"
        if row.side != side:
            raise ValueError(f"{row} is no {call}: it is for the {row.side}")
        if lp not in range(len(self.cpus)):
            raise ValueError(f"there is no logical processor {lp}: they are 0 to {len(self.cpus) - 1}")
        if version not in range(256):
            raise ValueError(f"a version is 0 to 255, not {version}")
        for name, value in regs.items():
            if name not in Regs.__slots__ or name == "rax":
                raise ValueError(f"{name} is no register that a call takes")
            if not isinstance(value, int) or not 0 <= value < 1 << 64:
                raise ValueError(f"{name} has 64 bits, so it can not be {value!r}")
        cpu = self.cpus[lp]
        if bool(cpu.lp.vcpu) != (side == "guest"):
            where = "inside a guest" if cpu.lp.vcpu else "outside any guest"
            raise ValueError(f"logical processor {lp} is {where}, so it can not make a {call}")
        return cpu, row

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
        if self.host.dpamt:
            raise ValueError("KVM gives no PAMT page pairs yet: with dpamt=True build the TD leaf by leaf (seamcall)")
        if folio not in ("2M", "4K"):
            raise ValueError(f"guest_memfd hands out folios of 2M or 4K, not {folio!r}")
        count = len(self.cpus) if vcpus is None else vcpus
        kvm = Kvm(self.journal, f"td{len(self.tds)}", self.host, self.design)
        self.must(tdx_td_init(kvm, max_vcpus=max(count, 1), attributes=attributes))
        slots = [(0, memory)] if isinstance(memory, str) else memory
        for gpa, size in slots:
            slot = kvm_set_memory_region(kvm, gpa, nbytes(size), order=9 if folio == "2M" else 0)
            for index in range(slot.gmem_pgoff, slot.gmem_pgoff + slot.npages, 1 << slot.gmem.order):
                slot.gmem.alloc_folio(index & -(1 << slot.gmem.order))
        for cpu in range(count):  # on its own CPU: VP.INIT ties the vCPU to where it is made
            self.must(tdx_td_vcpu_init(KvmVcpu(kvm, cpu)), cpu)
            self.alone(_topup(kvm.vcpus[cpu]), cpu)
        td = Td(self, kvm)
        self.tds.append(td)
        if image:
            td.add_image(slots[0][0], image)
        if finalize:
            td.finalize()
        return td

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
        return Program(
            journal=self.journal,
            actors=lambda: sweep.watch(actors()),
            claims=tuple(claims),
            invariants=sweep.invariants(),
            names=tuple(names),
            picture=lambda: picture(self),
            meta={"design": self.design.name, "grain": self.cpus[0].grain, "module": self.module.features.version},
            max_steps=max_steps,
        )


async def _topup(vcpu: KvmVcpu) -> bool:
    return mmu_topup_memory_caches(vcpu)


@dataclass(frozen=True)
class Td:
    """A TD of a lab, and what can be made to run on it."""

    lab: Lab
    kvm: Kvm

    @property
    def slot(self) -> KvmMemorySlot:
        """Its first memslot."""
        return self.kvm.memslots[0]

    async def vcpu(self, n: int, program: GuestProgram) -> int:
        """vCPU n's thread, running `program`: an actor for CPU n.  Returns 0 or -errno."""
        return await run_vcpu(self.kvm.vcpus[n], Guest(program))

    async def prefault(self, n: int, gpa: int, nbytes: int) -> int:
        """KVM_PRE_FAULT_MEMORY on vCPU n: an actor for CPU n, or part of one.  Returns the bytes done, or -errno."""
        return await kvm_vcpu_pre_fault_memory(self.kvm.vcpus[n], gpa, nbytes)

    def add_image(self, gpa: int, npages: int, *, measure: bool = False) -> None:
        """KVM_TDX_INIT_MEM_REGION: pages of zeros.  Before `finalize`."""
        source = self.lab.host.alloc_page()
        assert source is not None
        for at in range(0, npages * PAGE_SIZE, PAGE_SIZE):
            self.lab.must(tdx_vcpu_init_mem_region(self.kvm.vcpus[0], gpa + at, source, 1, measure=measure))
        self.lab.host.free_page(source)

    def finalize(self) -> None:
        """KVM_TDX_FINALIZE_VM."""
        self.lab.must(tdx_td_finalize(self.kvm))

    def entry(self, gpa: int, level: int) -> tuple[int, int]:
        """TDH.MEM.SEPT.RD at a PG_LEVEL: (entry, level and state)."""
        regs: dict[str, Any] = self.lab.seamcall("TDH.MEM.SEPT.RD", rcx=gpa | level - 1, rdx=self.kvm.tdr_hpa)
        return regs["rcx"], regs["rdx"]
