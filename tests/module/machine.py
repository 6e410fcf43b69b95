"""A small machine with a TD, built through SEAMCALLs alone; every call is a coroutine of the test."""

from __future__ import annotations

import struct
from collections.abc import Callable, Coroutine
from typing import Any

from tdxlab.engine.cells import Journal
from tdxlab.engine.drive import alone
from tdxlab.engine.run import Program
from tdxlab.engine.step import WRITE, step
from tdxlab.hw.cpu import Cpu, Regs
from tdxlab.hw.guest import Guest
from tdxlab.hw.memory import Memory
from tdxlab.hw.platform import Platform
from tdxlab.module import TdxModule
from tdxlab.spec import leaves
from tdxlab.spec.bits import SysConfig
from tdxlab.spec.features import V1_5_01, ModuleFeatures
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.levels import LEVEL_2M, PAGE_SIZE, SIZE_1G, SIZE_2M
from tdxlab.spec.status import TDX_SUCCESS, Status

BASE, HOST = 4 * SIZE_1G, 5 * SIZE_1G + 0x1000_0000
TDR, TDVPRS = BASE + 0x10_0000, (BASE + 0x11_0000, BASE + 0x12_0000)
RESERVED = BASE + SIZE_2M
TABLES, PAGES, LARGE = BASE + 0x100_0000, BASE + 0x200_0000, BASE + 0x1000_0000
DONORS = BASE + 0x3000_0000  # pages for the PAMT, in ranges that nobody uses
SOURCE = HOST + 3 * PAGE_SIZE
SEPT_VE_DISABLE = 1 << 28
TD_PARAMS = struct.Struct("<QQHBB4sQQH")
HKID, MODULE_HKID = 33, 32
BACKED = BASE, TABLES, PAGES
"""The 2M ranges whose 4K pages the TD uses: with Dynamic PAMT each gets a page pair."""


async def send_ipi(target: Cpu) -> None:
    """Make an interrupt pending; a guest there makes a TD exit."""
    await step((target.lp, "interrupt", WRITE), at=f"IPI to CPU {target.n}")
    target.lp.interrupt = 1


async def take_interrupt(cpu: Cpu) -> None:
    """The host's interrupt handler: nothing is pending afterwards."""
    await step((cpu.lp, "interrupt", WRITE), at="interrupt handler")
    cpu.lp.interrupt = 0


def donors(n: int) -> tuple[int, int]:
    """The nth pair of pages for the PAMT."""
    return DONORS + 2 * n * PAGE_SIZE, DONORS + (2 * n + 1) * PAGE_SIZE


class Machine:
    """Memory, module and processors; vCPU n is initialised on processor n, if there is one."""

    def __init__(
        self, grain: str = "lock", features: ModuleFeatures = V1_5_01, cpus: int = 2, dpamt: bool = False
    ) -> None:
        self.journal, self.dpamt = Journal(), dpamt
        self.memory = Memory(self.journal, Platform(cmrs=((BASE, 2 * SIZE_1G),), lps=cpus))
        self.module = TdxModule(self.memory, features)
        self.cpus = [Cpu(n, self.memory, self.module, grain) for n in range(cpus)]

    async def call(self, leaf: Leaf, *operands: int, cpu: int = 0, version: int = 0, gives: int = TDX_SUCCESS) -> Regs:
        """A SEAMCALL that must answer `gives`."""
        named = dict(zip(leaf.registers, operands, strict=False))
        regs = await self.cpus[cpu].seamcall(leaf, version, **named)
        assert regs.rax == gives, f"{leaf} gave {regs.status}, not {Status(gives)}"
        return regs

    async def any(self, leaf: Leaf, *operands: int, cpu: int = 0) -> Status:
        """A SEAMCALL that may answer anything."""
        named = dict(zip(leaf.registers, operands, strict=False))
        return (await self.cpus[cpu].seamcall(leaf, **named)).status

    def alone(self, coroutine: Coroutine[Any, Any, Any], cpu: int = 0) -> Any:
        """Run a part of the set-up."""
        return alone(self.journal, coroutine, cpu)

    def program(self, *actors: Callable[[], Any], **more: Any) -> Program:
        """What runs at once, each actor made by a function."""
        return Program(self.journal, lambda: [actor() for actor in actors], **more)

    def write_parameters(self, attributes: int) -> None:
        """TDMR_INFO and TD_PARAMS, where the host keeps them."""
        pamts = BASE + SIZE_1G, 0x1000, BASE + SIZE_1G + 0x1000, 0x2000, BASE + SIZE_1G + 0x4000, 0x40_0000
        tdmr_info = struct.pack("<10Q", BASE, SIZE_1G, *pamts, RESERVED - BASE, SIZE_2M)
        self.memory.write(HOST, struct.pack("<Q", HOST + PAGE_SIZE))
        self.memory.write(HOST + PAGE_SIZE, tdmr_info)
        td_params = TD_PARAMS.pack(attributes, 0xE7, 4, 0, 0, bytes(4), 0x1E, 0, 40)
        self.memory.write(HOST + 2 * PAGE_SIZE, td_params)

    async def bring_up(self) -> None:
        """From a loaded module to one that is ready."""
        await self.call(leaves.TDH_SYS_INIT)
        for cpu in range(len(self.cpus)):
            await self.call(leaves.TDH_SYS_LP_INIT, cpu=cpu)
        await self.call(leaves.TDH_SYS_CONFIG, HOST, 1, MODULE_HKID | SysConfig.DYNAMIC_PAMT * self.dpamt)
        await self.call(leaves.TDH_SYS_KEY_CONFIG)

    async def init_tdmr(self) -> None:
        """All of the TDMR's PAMT, and with Dynamic PAMT the pairs that the TD needs."""
        for _ in range(SIZE_1G >> (24 if self.dpamt else 22)):
            await self.call(leaves.TDH_SYS_TDMR_INIT, BASE)
        for n, hpa in enumerate(BACKED if self.dpamt else ()):
            await self.call(leaves.TDH_PHYMEM_PAMT_ADD, hpa | LEVEL_2M, *donors(n))

    async def create(self) -> None:
        """A TD up to MNG.INIT, with two vCPUs and Secure-EPT pages for GPA 0 to 4M."""
        await self.call(leaves.TDH_MNG_CREATE, TDR, HKID)
        await self.call(leaves.TDH_MNG_KEY_CONFIG, TDR)
        for n in range(1, 8):
            await self.call(leaves.TDH_MNG_ADDCX, TDR + n * PAGE_SIZE, TDR)
        await self.call(leaves.TDH_MNG_INIT, TDR, HOST + 2 * PAGE_SIZE)
        for n, tdvpr in enumerate(TDVPRS):
            await self.call(leaves.TDH_VP_CREATE, tdvpr, TDR)
            for page in range(1, 6):
                await self.call(leaves.TDH_VP_ADDCX, tdvpr + page * PAGE_SIZE, tdvpr)
            await self.call(leaves.TDH_VP_INIT, tdvpr, 0, cpu=n % len(self.cpus))
        for n, gpa_level in enumerate((3, 2, 1)):
            await self.call(leaves.TDH_MEM_SEPT_ADD, gpa_level, TDR, TABLES + n * PAGE_SIZE)

    async def finalize(self) -> None:
        """A page at GPA 0, measured; the TD may run."""
        await self.call(leaves.TDH_MEM_PAGE_ADD, 0, TDR, PAGES, SOURCE)
        await self.call(leaves.TDH_MR_EXTEND, 0, TDR)
        await self.call(leaves.TDH_MR_FINALIZE, TDR)

    def enter(self, program: Callable[[Guest], Any], cpu: int = 0, vcpu: int = 0) -> Callable[[], Any]:
        """An actor: enter `vcpu` on `cpu` again and again until its guest is done.  Returns the exits."""

        async def host() -> list[Regs]:
            guest, seen = Guest(program), []
            while not guest.done:
                seen.append(await self.cpus[cpu].vp_enter(TDVPRS[vcpu], guest))
                await take_interrupt(self.cpus[cpu])
            return seen

        return host


PARTS = ("bring_up", "init_tdmr", "create", "finalize")


def built(attributes: int = SEPT_VE_DISABLE, parts: int = len(PARTS), **options: Any) -> Machine:
    """A machine whose first `parts` of the set-up have run."""
    machine = Machine(**options)
    machine.write_parameters(attributes)
    for part in PARTS[:parts]:
        machine.alone(getattr(machine, part)())
    return machine
