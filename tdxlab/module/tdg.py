"""TDG.*: what a guest asks of the module.  TDR and TDVPR are held shared since TDH.VP.ENTER."""

from __future__ import annotations

from tdxlab.engine.step import READ, step
from tdxlab.hw.sharex import Refuse
from tdxlab.module import sept
from tdxlab.module.call import Call, handles
from tdxlab.module.exits import Interrupted, TdExit, accept_exit, exit_for
from tdxlab.module.gates import split_gpa_level, write_entry
from tdxlab.module.sept import PROGRESS, Entry
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.bits import field, place
from tdxlab.spec.levels import ENTRIES, LEVEL_2M, LEVEL_4K
from tdxlab.spec.operands import RCX
from tdxlab.spec.sept import FREE, RULES
from tdxlab.spec.tdstate import ExitReason

VMCALL_REGISTERS = {2: "rdx", 3: "rbx", 6: "rsi", 7: "rdi"} | {n: f"r{n}" for n in range(8, 16)}
INSTRUCTION_BYTES = 4  # of the access that gave #VE; left out: real instructions


@handles(leaves.TDG_VP_VMCALL)
async def tdg_vp_vmcall(call: Call, bitmap: int) -> None:
    """Ask the host for a service: a TD exit with the registers that the guest chose.

    Left out: XMM registers.  Source: [S01:tdg_vp_vmcall.c]
    """
    regs, chosen = call.regs, tuple(name for n, name in VMCALL_REGISTERS.items() if bitmap >> n & 1)
    exit = exit_for(ExitReason.TDCALL, rcx=bitmap, **{name: getattr(regs, name) for name in chosen})
    call.vcpu.vmcall = chosen
    regs.rax, regs.rip = st.TDX_SUCCESS, regs.rip + 1
    raise exit


@handles(leaves.TDG_VP_VEINFO_GET)
async def tdg_vp_veinfo_get(call: Call) -> None:
    """What the last #VE was about: RCX exit reason, RDX qualification, R8 GLA, R9 GPA, R10 instruction length.

    Left out: linear addresses.  Source: [S01:tdg_vp_veinfo_get.c]
    """
    info = call.vcpu.ve_info
    if info is None:
        raise Refuse(st.TDX_NO_VALID_VE_INFO)

    # --- all checks passed ---
    call.vcpu.ve_info = None
    call.regs.rcx, call.regs.rdx, call.regs.r9 = info
    call.regs.r8, call.regs.r10 = 0, INSTRUCTION_BYTES


@handles(leaves.TDG_MEM_PAGE_ACCEPT)
async def tdg_mem_page_accept(call: Call, gpa_level: int) -> None:
    """Accept a PENDING page, in 4K chunks that an interrupt can come between.

    Only the entry's own lock is taken, and only if the walk gets to it.  One step for all chunks: an interrupt is
    seen at the poll after the first one or not at all, unless the processor says otherwise.
    Left out: zeroing the memory, L2 aliases.  Source: [S01:tdg_mem_page_accept.c]
    """
    gpa, level = split_gpa_level(call.td, gpa_level, LEVEL_4K, LEVEL_2M)
    touches = await step(at="walk")
    entry = sept.walk(call.memory, call.td, gpa, level, touches)
    if entry.level == level:
        entry.word = await call.held.entry(entry.page, entry.i, RCX)
    rule = RULES.get((call.leaf, entry.state)) if entry.level == level else None
    if rule is None:
        raise not_pending(gpa, level, entry)

    # --- all checks passed ---
    assert rule.result is not None
    await step(entry.touch(), (call.cpu.lp, "interrupt", READ), at="accept")
    chunks = ENTRIES**level
    done = field(entry.word, PROGRESS) if level == LEVEL_2M else 0
    while (done := done + 1) < chunks:
        if call.cpu.interrupt_pending():
            write_entry(call, entry, sept.leaf(call.td, entry.hpa, entry.state) | place(done, PROGRESS))
            raise Interrupted
    write_entry(call, entry, sept.leaf(call.td, entry.hpa, rule.result))


def not_pending(gpa: int, level: int, entry: Entry) -> Refuse | TdExit:
    """Accepted before, mapped in smaller pages, or for the host to sort out."""
    state, reached = entry.state, entry.level == level
    if state.access:
        return Refuse(st.TDX_PAGE_ALREADY_ACCEPTED.at(entry.level))
    if reached and not state.leaf and state is not FREE:
        return Refuse(st.TDX_PAGE_SIZE_MISMATCH.at(level))
    return accept_exit(gpa, level, entry)
