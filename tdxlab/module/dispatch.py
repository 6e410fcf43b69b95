"""SEAMCALL and TDCALL at register level: which handler, with which operands, and what becomes of its answer."""

from __future__ import annotations

from tdxlab.engine.cells import Table
from tdxlab.engine.step import READ, step
from tdxlab.hw.cpu import Cpu, Regs
from tdxlab.hw.memory import Memory, OnDemand
from tdxlab.hw.sharex import Sharex
from tdxlab.module import exits, guest_memory
from tdxlab.module.call import HANDLERS, Call, VmExit
from tdxlab.module.pamt import Pamt
from tdxlab.module.state import Sys, Td, Vcpu
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.features import V1_5_01, ModuleFeatures
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.operands import RAX
from tdxlab.spec.tdstate import ExitReason, KeyState, SysState

LEAF, VERSION = 0xFFFF, 0xFF0000  # of RAX
SYS_READY = SysState.SYS_READY


class TdxModule:
    """The TDX module of one machine with one package."""

    __slots__ = (
        "features", "kot", "kot_lock", "memory", "pamt", "sys", "tds", "unwritten", "vcpus", "wbcache",
        "wbcache_lock",
    )  # fmt: skip

    def __init__(self, memory: Memory, features: ModuleFeatures = V1_5_01) -> None:
        journal = memory.journal
        self.memory, self.features = memory, features
        self.sys = Sys(journal)
        self.pamt = Pamt(journal)
        self.kot = Table(journal, "kot", KeyState.HKID_FREE, guard=lambda hkid: (self.kot_lock, 0))
        self.kot_lock = Sharex(journal, "kot_lock", marks=False)
        self.unwritten = Table(journal, "unwritten_hkids", False, guard=lambda hkid: (self.kot_lock, 0))
        self.wbcache = Table(journal, "wbcache", None, guard=lambda key: (self.wbcache_lock, 0))
        self.wbcache_lock = Sharex(journal, "wbcache_lock", marks=False)
        self.tds: OnDemand[int, Td] = OnDemand(lambda tdr: Td(journal, tdr, self.pamt, features, memory.hkid_start))
        self.vcpus: OnDemand[int, Vcpu] = OnDemand(lambda tdvpr: Vcpu(journal, tdvpr))

    async def seamcall(self, cpu: Cpu, regs: Regs) -> None:
        """The host's side: RAX's reserved bits and version, the module's state, then the leaf, if there is such a one.

        Source: [S01:tdx_vmm_dispatcher.c]
        """
        rax, sys = regs.rax, self.sys
        leaf, version = leaves.HOST.get(rax & LEAF), (rax & VERSION) >> 16
        if not cpu.journal.alone:
            await step((sys, None, READ), at=leaf.instruction if leaf else "SEAMCALL")
        if sys.state is not SYS_READY or leaf not in HANDLERS or rax > LEAF:
            refusal = self._bad_rax(leaf, rax) or self._gate(leaf) or self._unknown(leaf)
            if refusal:
                regs.rax = refusal
                return
        assert leaf is not None
        call = Call(self, cpu, regs, leaf, version)
        call.tdmrs, call.usable = sys.tdmrs, sys.usable
        status = await call.answer()
        if not cpu.lp.vcpu:
            regs.rax = status or st.TDX_SUCCESS

    def _gate(self, leaf: Leaf | None) -> int:
        # which leaves run depends on how far the module is
        state = self.sys.state
        if state is SysState.SYS_SHUTDOWN and leaf is not leaves.TDH_SYS_LP_SHUTDOWN:
            return st.TDX_SYS_SHUTDOWN
        if state is not SYS_READY and not (leaf and leaf.early):
            return st.TDX_SYS_NOT_READY
        return 0

    async def tdcall(self, cpu: Cpu, regs: Regs) -> None:
        """The guest's side: RAX, then the leaf; then RIP moves on, or the guest leaves."""
        leaf, version = leaves.GUEST.get(regs.rax & LEAF), (regs.rax & VERSION) >> 16
        entered = self._in_guest(cpu, regs)
        if not await exits.begin(entered, ExitReason.TDCALL, leaf.instruction if leaf else "TDCALL"):
            return
        vcpu = entered.vcpu
        busy_since, vcpu.first_busy_tsc = vcpu.first_busy_tsc, None  # whatever the answer [statement 156]
        refusal = self._bad_rax(leaf, regs.rax) or self._unknown(leaf)
        if refusal or leaf is None:
            regs.rax = refusal
            regs.rip += 1
            return
        call = Call(self, cpu, regs, leaf, version)
        call.vcpu, call.td, call.busy_since = vcpu, entered.td, busy_since
        try:
            status = await call.answer()
            await exits.complete(call, status)
        except exits.Interrupted:
            await call.held.release()
        except exits.TdExit as exit:
            await exits.end_in_exit(call, exit)

    async def ept_violation(self, cpu: Cpu, regs: Regs, gpa: int, qualification: int) -> None:
        """The guest's access faulted: an exception or a TD exit."""
        await guest_memory.ept_violation(self._in_guest(cpu, regs), gpa, qualification)

    async def external_interrupt(self, cpu: Cpu, regs: Regs) -> None:
        """An interrupt for the host arrived in the guest: a TD exit."""
        await exits.external_interrupt(self._in_guest(cpu, regs))

    async def vm_exit(self, cpu: Cpu, regs: Regs, reason: int, qualification: int) -> None:
        """One of the exits that can end a vCPU or a TD: a triple fault, an SMI."""
        await exits.OTHERS[ExitReason(reason)](self._in_guest(cpu, regs), qualification)

    def highest_version(self, leaf: Leaf) -> int:
        """The highest version of the leaf that this module accepts."""
        return self.features.vp_init_version if leaf is leaves.TDH_VP_INIT else leaf.versions

    def _bad_rax(self, leaf: Leaf | None, rax: int) -> int:
        # a leaf that has versions looks at them itself, after it has cleared its outputs [oracle tour E]
        versions = VERSION if leaf is not None and self.highest_version(leaf) else 0
        return st.TDX_OPERAND_INVALID.at(RAX) if rax & ~(LEAF | versions) else 0

    def _unknown(self, leaf: Leaf | None) -> int:
        if leaf in HANDLERS:
            return 0
        if leaf is not None:
            self.memory.journal.note("not emulated", leaf=leaf.name)
        return st.TDX_OPERAND_INVALID.at(RAX)

    def _in_guest(self, cpu: Cpu, regs: Regs) -> VmExit:
        entered = VmExit(self, cpu, regs, host=False)
        entered.vcpu = self.vcpus[cpu.lp.vcpu]
        return entered
