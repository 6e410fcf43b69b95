"""What happens next on a processor: which call, depending on how far the TD is, and with which operands."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING

from tdxlab.engine.step import Steps, step
from tdxlab.hw.cpu import Regs
from tdxlab.module import HANDLERS
from tdxlab.module.dispatch import LEAF
from tdxlab.module.exits import MSMI
from tdxlab.module.sys_shutdown import seamldr_install
from tdxlab.spec import leaves
from tdxlab.spec.bits import EptViolation
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.levels import shift
from tdxlab.spec.pamt import PT_TDR
from tdxlab.spec.tdstate import ExitReason, LifeCycle, OpState, SysState
from tests.fuzz import machine as at
from tests.fuzz.in_progress import INTERRUPT, InProgress
from tests.fuzz.machine import Machine
from tests.fuzz.operands import Draw, corrupted, happens, tdmrs

if TYPE_CHECKING:
    from tests.fuzz.fuzzer import Fuzzer

# how often a host makes a call, by how far the TD is
# fmt: off
STAGES = ("none", "created", "keyed", "building", "running", "blocked", "teardown")
OFTEN = {
    "TDH.MNG.CREATE":         (40,  1,  1,  1,  1,  1,  1),
    "TDH.MNG.KEY.CONFIG":     ( 1, 40,  1,  0,  0,  0,  0),
    "TDH.MNG.ADDCX":          ( 1,  1, 60,  1,  1,  0,  0),
    "TDH.MNG.INIT":           ( 1,  1, 20,  1,  0,  0,  0),
    "TDH.VP.CREATE":          ( 1,  0,  1,  4,  1,  0,  0),
    "TDH.VP.ADDCX":           ( 0,  0,  0, 25,  1,  0,  0),
    "TDH.VP.INIT":            ( 0,  0,  1, 15,  1,  0,  0),
    "TDH.VP.ENTER":           ( 1,  0,  1,  2, 45,  1,  1),
    "TDH.VP.FLUSH":           ( 0,  0,  0,  2, 10,  1,  0),
    "TDH.VP.RD":              ( 0,  0,  0,  1,  2,  0,  0),
    "TDH.VP.WR":              ( 0,  0,  0,  1,  2,  0,  0),
    "TDH.MEM.SEPT.ADD":       ( 1,  0,  1, 25, 15,  1,  0),
    "TDH.MEM.SEPT.REMOVE":    ( 0,  0,  0,  4, 10,  0,  0),
    "TDH.MEM.SEPT.RD":        ( 0,  0,  0,  4,  4,  0,  0),
    "TDH.MEM.PAGE.ADD":       ( 0,  0,  1, 15,  1,  0,  0),
    "TDH.MEM.PAGE.AUG":       ( 0,  0,  1, 15, 45,  1,  0),
    "TDH.MEM.PAGE.REMOVE":    ( 0,  0,  0,  8, 20,  1,  0),
    "TDH.MEM.PAGE.RELOCATE":  ( 0,  0,  0,  4, 10,  0,  0),
    "TDH.MEM.PAGE.DEMOTE":    ( 0,  0,  0,  6, 20,  0,  0),
    "TDH.MEM.PAGE.PROMOTE":   ( 0,  0,  0,  6, 10,  0,  0),
    "TDH.MEM.RANGE.BLOCK":    ( 0,  0,  0,  6, 45,  1,  0),
    "TDH.MEM.RANGE.UNBLOCK":  ( 0,  0,  0,  4, 15,  0,  0),
    "TDH.MEM.TRACK":          ( 0,  0,  1,  3, 35,  1,  0),
    "TDH.MEM.RD":             ( 0,  0,  0,  3,  4,  0,  0),
    "TDH.MEM.WR":             ( 0,  0,  0,  3,  6,  0,  0),
    "TDH.MR.EXTEND":          ( 0,  0,  0,  4,  1,  0,  0),
    "TDH.MR.FINALIZE":        ( 0,  0,  0,  2,  1,  0,  0),
    "TDH.MNG.RD":             ( 1,  0,  1,  2,  2,  0,  0),
    "TDH.MNG.WR":             ( 0,  0,  0,  2,  3,  0,  0),
    "TDH.MNG.VPFLUSHDONE":    ( 1,  4,  1,  1,  2,  1,  1),
    "TDH.PHYMEM.CACHE.WB":    ( 1,  1,  1,  1,  1, 30,  1),
    "TDH.MNG.KEY.FREEID":     ( 1,  1,  1,  1,  1, 25,  1),
    "TDH.MNG.KEY.RECLAIMID":  ( 0,  0,  0,  1,  0,  1,  1),
    "TDH.PHYMEM.PAGE.RECLAIM":( 1,  1,  1,  1,  1,  1, 90),
    "TDH.PHYMEM.PAGE.RDMD":   ( 2,  1,  1,  3,  3,  1,  3),
    "TDH.PHYMEM.PAGE.WBINVD": ( 2,  1,  1,  2,  2,  1,  5),
    "TDH.PHYMEM.PAMT.ADD":    ( 4,  1,  1,  4,  6,  1,  1),
    "TDH.PHYMEM.PAMT.REMOVE": ( 3,  1,  1,  3,  6,  1,  1),
}
# of the module as a whole, and by the guest
SYSTEM = {
    "TDH.SYS.INIT": 20, "TDH.SYS.LP.INIT": 60, "TDH.SYS.UPDATE": 20, "TDH.SYS.LP.SHUTDOWN": 5, "TDH.SYS.RD": 5,
    "TDH.SYS.INFO": 2, "TDH.SYS.RDALL": 1, "TDH.SYS.CONFIG": 8, "TDH.SYS.KEY.CONFIG": 8,
}
GUEST = {
    "TDG.MEM.PAGE.ACCEPT": 45, "TDG.MEM.PAGE.ATTR.RD": 6, "TDG.MEM.PAGE.ATTR.WR": 6, "TDG.VP.VMCALL": 12,
    "TDG.VP.VEINFO.GET": 8, "TDG.MR.REPORT": 4, "TDG.MR.RTMR.EXTEND": 4, "TDG.SYS.RDALL": 2, "TDG.VM.WR": 6,
    "TDG.VP.RD": 2, "TDG.VP.WR": 2, "TDG.VM.RD": 2, "TDG.SYS.RD": 2, "TDG.VP.CPUIDVE.SET": 1, "TDG.VP.INFO": 1,
}
# fmt: on
HOST_LEAVES = tuple(leaf for leaf in HANDLERS if leaf.side == "host")
GUEST_LEAVES = tuple(leaf for leaf in HANDLERS if leaf.side == "guest")
ANY_LEAF, SPOILT, ODD_RAX, SHUTDOWN = 0.08, 0.15, 0.01, 0.1  # how often
TRIES, MEETS = 4, 0.5
INTERRUPTS, TAKES_INTERRUPT, INSTALLS, SPOILS_TDMRS = 0.03, 0.5, 0.3, 0.3
LEAVES_GUEST, DIES, ACCESSES, AGAIN = 0.08, 0.002, 0.3, 0.75


def stage(machine: Machine, tdr: int) -> str:
    """How far a TD is."""
    td = machine.module.tds[tdr]
    if machine.use(tdr) is not PT_TDR:
        return "none"
    if td.lifecycle is LifeCycle.KEYS_CONFIGURED:
        return {OpState.UNINITIALIZED: "keyed", OpState.INITIALIZED: "building"}.get(td.op_state, "running")
    return {LifeCycle.HKID_ASSIGNED: "created", LifeCycle.BLOCKED: "blocked"}.get(td.lifecycle, "teardown")


def host_leaf(machine: Machine, dice: Random, tdr: int) -> Leaf:
    """What the host calls next, for the TD there."""
    if machine.module.sys.state is not SysState.SYS_READY:
        return leaves.named(dice.choices(tuple(SYSTEM), tuple(SYSTEM.values()))[0])
    if happens(dice, ANY_LEAF):
        leaf = dice.choice(HOST_LEAVES)
        return leaves.TDH_SYS_RD if leaf is leaves.TDH_SYS_SHUTDOWN and not happens(dice, SHUTDOWN) else leaf
    n = STAGES.index(stage(machine, tdr))
    return leaves.named(dice.choices(tuple(OFTEN), [often[n] for often in OFTEN.values()])[0])


def guest_leaf(dice: Random) -> Leaf:
    """What a guest calls next."""
    if happens(dice, ANY_LEAF):
        return dice.choice(GUEST_LEAVES)
    return leaves.named(dice.choices(tuple(GUEST), tuple(GUEST.values()))[0])


def registers(draw: Draw, dice: Random) -> dict[str, int]:
    """RAX and the operands; sometimes one is spoilt, seldom RAX has any bits."""
    values, rax = draw.registers(), draw.leaf.number | draw.version << 16
    if happens(dice, SPOILT):
        values = corrupted(values, dice)
    if happens(dice, ODD_RAX):
        rax = dice.choice((dice.getrandbits(64), dice.randrange(256), rax | 1 << dice.randrange(24, 64), rax ^ 3 << 16))
    return {"rax": rax} | values


def drawn(fuzzer: Fuzzer, cpu: int) -> Draw:
    """What the host calls next; some tries to find something that the leaf can be done to."""
    dice, machine = fuzzer.dice, fuzzer.machine
    tdr, beside = dice.choices(at.TDRS, (12, 5, 3, 2))[0], None
    others = busy_places(fuzzer)
    if others and happens(dice, MEETS):
        tdr, beside = dice.choice(others)
    for _ in range(TRIES):
        draw = Draw(machine, dice, host_leaf(machine, dice, tdr), cpu, tdr, beside)
        if draw.fits:
            break
    return draw


def busy_places(fuzzer: Fuzzer) -> list[tuple[int, int]]:
    """(TDR, GPA and level) of what calls in progress and the TLBs of running guests are about."""
    places = [call.where for call in fuzzer.running.values() if call.where and call.where[0] in at.TDRS]
    for cpu in fuzzer.machine.cpus:
        if cpu.lp.vcpu:
            tdr = fuzzer.machine.module.vcpus[cpu.lp.vcpu].tdr
            places += [(tdr, frame << shift(level) | level) for level, frame in cpu.tlb]
    return places


# --- on a processor ---


def begun(fuzzer: Fuzzer, cpu: int) -> InProgress | None:
    """What the LP begins.  None: it has been done, without a step."""
    machine, dice, processor = fuzzer.machine, fuzzer.dice, fuzzer.machine.cpus[cpu]
    machine.journal.cpu = cpu
    if happens(dice, INTERRUPTS):
        target = dice.choice(machine.cpus).lp
        target.interrupt = 1
        fuzzer.lines.append(f"LP {cpu} sends an interrupt to {target.name}")
        return None
    if processor.lp.vcpu:
        return in_guest(machine, dice, cpu)
    if processor.lp.interrupt and happens(dice, TAKES_INTERRUPT):
        processor.lp.interrupt = 0
        fuzzer.lines.append(f"LP {cpu} takes its interrupt")
        return None
    if machine.module.sys.state is SysState.SYS_SHUTDOWN and happens(dice, INSTALLS):
        return InProgress(machine, cpu, "SEAMLDR.INSTALL", seamldr_install(machine.module), Regs())
    draw = drawn(fuzzer, cpu)
    if draw.leaf is leaves.TDH_SYS_SHUTDOWN and fuzzer.running:
        return None  # left out in the emulation: a SEAMCALL in progress makes it BUSY
    if draw.leaf is leaves.TDH_SYS_CONFIG:
        machine.tell_tdmrs(*tdmrs(dice, dice.randrange(1, 4) if happens(dice, SPOILS_TDMRS) else 0))
    return seamcall(machine, cpu, registers(draw, dice))


def in_guest(machine: Machine, dice: Random, cpu: int) -> InProgress:
    """What the guest there does, or what makes it leave.  What it has done in vain it does again."""
    processor, module, regs = machine.cpus[cpu], machine.module, machine.cpus[cpu].guest
    processor.take_exception()
    if happens(dice, TAKES_INTERRUPT if processor.lp.interrupt else LEAVES_GUEST):
        return InProgress(machine, cpu, INTERRUPT, module.external_interrupt(processor, regs), regs)
    if happens(dice, DIES):
        reason = dice.choice((ExitReason.TRIPLE_FAULT, ExitReason.SMI_OTHER))
        return InProgress(machine, cpu, reason.name, module.vm_exit(processor, regs, reason, MSMI), regs)
    tried = machine.in_vain.pop(processor.lp.vcpu, None)
    if tried and happens(dice, AGAIN):
        return tried(machine, cpu)
    leaf, tdr = guest_leaf(dice), module.vcpus[processor.lp.vcpu].tdr
    if happens(dice, ACCESSES):
        draw = Draw(machine, dice, leaves.TDG_VP_INFO, cpu, tdr)
        return access(machine, cpu, draw.private() | draw.one_in(20) << 52, happens(dice, 0.5))
    draw = Draw(machine, dice, leaf, cpu, tdr)
    return tdcall(machine, cpu, registers(draw, dice))


def access(machine: Machine, cpu: int, gpa: int, write: bool) -> InProgress:
    """A load or store of the guest there."""
    regs = machine.cpus[cpu].guest

    async def tries() -> None:
        touches = await step(at="access")
        await machine.cpus[cpu].access(regs, gpa, EptViolation.WRITE if write else EptViolation.READ, touches)

    made = InProgress(machine, cpu, "write" if write else "read", tries(), regs)
    made.again = partial(access, gpa=gpa, write=write)
    return made


def seamcall(machine: Machine, cpu: int, values: dict[str, int]) -> InProgress:
    """A SEAMCALL of the host there."""
    regs = Regs(**values)
    return call(machine, cpu, regs, machine.module.seamcall(machine.cpus[cpu], regs), leaves.HOST)


def tdcall(machine: Machine, cpu: int, values: dict[str, int]) -> InProgress:
    """A TDCALL of the guest there."""
    regs = machine.cpus[cpu].guest
    for name, value in values.items():
        setattr(regs, name, value)
    made = call(machine, cpu, regs, machine.module.tdcall(machine.cpus[cpu], regs), leaves.GUEST)
    made.again = partial(tdcall, values=values)
    return made


def call(machine: Machine, cpu: int, regs: Regs, coroutine: Steps, table: dict[int, Leaf]) -> InProgress:
    """A SEAMCALL or TDCALL."""
    leaf = table.get(regs.rax & LEAF)
    made = InProgress(machine, cpu, leaf.name if leaf else "no leaf", coroutine, regs)
    made.leaf, made.is_call = leaf, True
    made.before = made.look()
    return made
