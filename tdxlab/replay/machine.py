"""The machine that recordings were made on, and what each of their lines does to the emulated one."""

from __future__ import annotations

import inspect
import struct
from collections.abc import Callable, Iterable
from typing import Any

from tdxlab.engine.cells import Journal
from tdxlab.engine.run import alone
from tdxlab.hw.cpu import Cpu, NotModelled, Regs
from tdxlab.hw.memory import Memory
from tdxlab.hw.platform import Platform
from tdxlab.hw.sharex import Held, Refuse, Sharex
from tdxlab.module import HANDLERS, TdxModule, exits, sept
from tdxlab.spec import leaves
from tdxlab.spec.features import modelled
from tdxlab.spec.levels import LEVEL_1G, LEVEL_2M, LEVEL_4K, PAGE_SIZE, SIZE_2M, index
from tdxlab.spec.sept import NL_BLOCKED

CMRS = ((0x1_0000_0000, 0x8000_0000),)
LPS = 4
TDMR_ARRAY, TDMR_INFO, TDMR_BASE = 0x1_5000_0000, 0x1_5000_1000, 0x1_0000_0000
TDMR_WORDS = (
    TDMR_BASE, 0x4000_0000,
    0x1_4000_0000, 0x1000, 0x1_4000_1000, 0x2000, 0x1_4000_4000, 0x40_0000,
    0x3F00_0000, 0x100_0000,
)  # fmt: skip
GLOBAL_HKID, TDMR_INIT_CALLS = 32, 256
WORD_BITS, ROOT_LEVEL = 64, 4  # a word that a line can hold; the highest level of an S-EPT
OTHER_LP = 99  # whoever holds a lock in a `lock` line

LOCKS = {
    "pamt": 3, "tdmr": 2, "septe": 4, "sept": 2, "opstate": 2, "epoch": 2, "global": 1, "kot": 1, "wbt": 1,
}  # fmt: skip
"""How many words follow the name of a lock, its mode the last."""

NO_HANDLER = "no handler for the leaf"
NO_LINE = "harness line not built"
REGISTERS = leaves.REGISTERS


class Unbuilt(Exception):
    """The line can not be run.  The reason is NO_HANDLER or NO_LINE."""


def number(text: str, limit: int = 1 << WORD_BITS) -> int:
    """A number of a line, in hexadecimal.  Raises ValueError with a sentence."""
    try:
        value = int(text, 16)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is no number") from None
    if not 0 <= value < limit:
        raise ValueError(f"{text} is not between 0 and {limit - 1:#x}")
    return value


class RecordedCpu(Cpu):
    """A processor whose interrupts and time are what the recording says."""

    __slots__ = ("machine", "polls")

    def __init__(self, n: int, machine: Machine) -> None:
        super().__init__(n, machine.memory, machine.module)
        self.machine, self.polls = machine, 0

    def interrupt_pending(self) -> bool:
        """Polls after the given number say yes."""
        self.polls += 1
        return 0 <= self.machine.polls_free < self.polls

    def tsc(self) -> int:
        """Moved on by `tsc` lines."""
        return self.machine.tsc


class Machine:
    """A fresh machine, and what the lines of a recording do to it."""

    def __init__(self, version: str) -> None:
        self.journal = Journal()
        self.memory = Memory(self.journal, Platform(cmrs=CMRS, lps=LPS))
        self.module = TdxModule(self.memory, modelled(version))
        self.cpus = [RecordedCpu(n, self) for n in range(LPS)]
        self.lp, self.polls_free, self.tsc = 0, -1, 0
        self.guests: dict[int, Regs] = {}
        self.held: dict[str, Held] = {}

    # --- calls ---

    def seamcall(self, rax: int, operands: Iterable[int] = ()) -> dict[str, Any]:
        """SEAMCALL on the current LP."""
        if self.cpu.lp.vcpu:
            raise Unbuilt(NO_LINE)
        regs = Regs(rax, **dict(zip(REGISTERS, operands, strict=False)))
        self._go(self.module.seamcall(self.cpu, regs))
        return self._seen(regs)

    def tdcall(self, rax: int, operands: list[int]) -> dict[str, Any]:
        """TDCALL by the vCPU inside the TD on the current LP."""
        regs = self.guests[self.lp]
        regs.rax = rax
        for i, register in enumerate(REGISTERS):
            setattr(regs, register, operands[i] if i < len(operands) else 0)
        self._go(self.module.tdcall(self.cpu, regs))
        return self._seen(regs)

    def vm_exit(self, exit: Callable[[Regs], Any]) -> dict[str, Any]:
        """The vCPU on the current LP leaves, or is spared that; `exit` makes the coroutine from its registers."""
        regs = self.guests.get(self.lp)
        if regs is None:
            return {"err": "lp not in td"}
        self._go(exit(regs))
        return self._seen(regs)

    def interrupt(self) -> dict[str, Any]:
        """`exit`: an external interrupt."""
        return self.vm_exit(lambda regs: self.module.external_interrupt(self.cpu, regs))

    def ept_violation(self, gpa: str, qualification: str, rip_delta: str) -> dict[str, Any]:
        """`eptviol`: a faulting access, some instructions after the last exit."""

        def fault(regs: Regs) -> Any:
            regs.rip += number(rip_delta)
            return self.module.ept_violation(self.cpu, regs, number(gpa), number(qualification))

        return self.vm_exit(fault)

    def other_exit(self, reason: str, qualification: str) -> dict[str, Any]:
        """`vmexit`: one that ends the vCPU or the TD."""
        if int(reason) not in exits.OTHERS:
            raise Unbuilt(NO_LINE)
        return self.vm_exit(lambda regs: self.module.vm_exit(self.cpu, regs, int(reason), number(qualification)))

    @property
    def cpu(self) -> RecordedCpu:
        """The current LP."""
        return self.cpus[self.lp]

    def _go(self, call: Any) -> None:
        self.cpu.polls = 0
        alone(self.journal, call, self.lp)

    def _seen(self, regs: Regs) -> dict[str, Any]:
        # RAX and the operand registers, on the side where the LP is now
        if self.cpu.lp.vcpu:
            self.guests[self.lp] = regs
        else:
            self.guests.pop(self.lp, None)
        return {"to": "td" if self.cpu.lp.vcpu else "vmm", "rax": regs.rax} | {
            name: getattr(regs, name) for name in REGISTERS
        }

    # --- lines about the machine ---

    def boot(self) -> None:
        """From a loaded module to one that can build TDs, through its own SEAMCALLs."""
        self._demand(leaves.TDH_SYS_INIT)
        for self.lp in range(LPS):
            self._demand(leaves.TDH_SYS_LP_INIT)
        self.lp = 0
        self.memory.write(TDMR_ARRAY, struct.pack("<Q", TDMR_INFO))
        self.memory.write(TDMR_INFO, struct.pack(f"<{len(TDMR_WORDS)}Q", *TDMR_WORDS))
        self._demand(leaves.TDH_SYS_CONFIG, TDMR_ARRAY, 1, GLOBAL_HKID)
        self._demand(leaves.TDH_SYS_KEY_CONFIG)
        for _ in range(TDMR_INIT_CALLS):
            self._demand(leaves.TDH_SYS_TDMR_INIT, TDMR_BASE)

    def _demand(self, leaf: leaves.Leaf, *operands: int) -> None:
        answer = self.seamcall(leaf.number, operands)
        if answer["rax"]:
            raise ValueError(f"{leaf} gave {answer['rax']:#x} where a fresh machine boots")

    def lock(self, name: str, *args: str) -> bool:
        """Take a lock as another LP would.  False if it can not be had."""
        if name not in LOCKS:
            raise Unbuilt(NO_LINE)
        if len(args) != LOCKS[name]:
            raise ValueError(f"the lock {name} takes other operands")
        held = Held(self.journal, host=not args[-1].endswith("g"))
        try:
            alone(self.journal, self._take(held, name, *args), OTHER_LP)
        except Refuse:
            return False
        self.held[" ".join((name, *args))] = held
        return True

    def unlock(self, *args: str) -> None:
        """Give back what the same `lock` line took."""
        held = self.held.pop(" ".join(args), None)
        if held is None:
            raise ValueError(f"no line has taken the lock {' '.join(args)}")
        alone(self.journal, held.release(), OTHER_LP)

    async def _take(self, held: Held, name: str, *args: str) -> None:
        if name == "septe":
            entry = self.entry(*args[:3])
            await held.entry(entry.page, entry.i, 0)
        else:
            take = held.shared if args[-1].startswith("sh") else held.exclusive
            await take(*self.lock_word(name, *args), 0)

    def lock_word(self, name: str, *args: str) -> tuple[Sharex, int]:
        """The lock that a recording calls by this name."""
        module, hpa = self.module, number(args[0]) if len(args) > 1 else 0
        if name == "pamt":
            return module.pamt.page(hpa, level_of(args[1], LEVEL_1G)).lock
        if name == "tdmr":
            found = [tdmr.lock for tdmr in module.sys.tdmrs if tdmr.base == hpa]
            if not found:
                raise ValueError(f"no TDMR begins at {hpa:#x}")
            return found[0], 0
        of_module = {"global": module.sys.lock, "kot": module.kot_lock, "wbt": module.wbcache_lock}
        td = module.tds[hpa]
        of_td = {"sept": td.sept_tree, "opstate": td.op_state_lock, "epoch": td.epoch_lock}
        return (of_module | of_td)[name], 0

    def lock_value(self, name: str, *args: str) -> int:
        """The word of that lock: for an S-EPT entry, all of the entry."""
        if name == "septe":
            return self.entry(*args[:3]).word
        lock, i = self.lock_word(name, *args)
        return lock[i]

    def rewind(self, mark: int) -> None:
        """Back to a set-up."""
        self.journal.rewind(mark)
        self.held.clear()
        self.guests.clear()
        self.lp = 0

    def entry(self, tdr_text: str, gpa_text: str, level_text: str) -> sept.Entry:
        """The Secure-EPT entry at a level or where the tree ends; blocked tables are gone through."""
        td, gpa, level = self.module.tds[number(tdr_text)], number(gpa_text), level_of(level_text, ROOT_LEVEL)
        entry = sept.walk(self.memory, td, gpa, level, [])
        while entry.level > level and entry.state is NL_BLOCKED:
            page, i = self.memory.sept_page(entry.hpa), index(gpa, entry.level - 1)
            entry = sept.Entry(page, i, entry.level - 1, page[i], self.memory.hpas)
        return entry

    # --- lines that show state ---

    def dump(self, tdr: str, gpa: str, level: str) -> dict[str, Any]:
        """A raw Secure-EPT entry."""
        entry = self.entry(tdr, gpa, level)
        return {"reached": entry.level, "raw": hex(entry.word), "state": entry.state.name}

    def pamt(self, hpa: str) -> dict[str, Any]:
        """The three PAMT entries of a page."""
        rows = {}
        for name, level in (("1g", LEVEL_1G), ("2m", LEVEL_2M), ("4k", LEVEL_4K)):
            page = self.module.pamt.page(number(hpa), level)
            page.word = page.chunk.entries[page.i]
            lock, i = page.lock
            words = {"owner": page.owner, "bepoch": page.chunk.bepochs[page.i], "lock": lock[i]}
            rows[name] = {"pt": int(page.type)} | {key: hex(word) for key, word in words.items()}
        return rows

    def tdinfo(self, tdr: str) -> dict[str, Any]:
        """Fields of TDR and TDCS."""
        td = self.module.tds[number(tdr)]
        same = ("lifecycle", "hkid", "chldcnt", "op_state", "td_epoch", "num_vcpus", "num_assoc_vcpus", "gpaw")
        return {name: int(getattr(td, name)) for name in same} | {
            "num_tdcx": len(td.tdcx),
            "fatal": int(td.fatal),
            "pkg_config_bitmap": hex(td.pkg_config_bitmap),
            "refcount": [td.refcount0, td.refcount1],
            "eptp": hex(td.eptp),
            "attributes": hex(td.attributes),
            "xfam": hex(td.xfam),
            "mrtd": td.mrtd.hex(),
        }

    def memr(self, hpa: str, nbytes: str) -> dict[str, Any]:
        """Bytes of memory."""
        return {"hex": self.memory.read(number(hpa), number(nbytes, PAGE_SIZE + 1)).hex()}

    # --- one line ---

    def run(self, cmd: str) -> dict[str, Any]:
        """Do what a line says, and tell what came of it."""
        word, *args = cmd.split() or [""]
        if not word:
            raise ValueError("there is no command")
        if word[:2] == "TD" or word in ("seamcall", "tdcall"):
            return self._call(word, [number(arg) for arg in args])
        command = LINES.get(word)
        if command is None:
            raise Unbuilt(NO_LINE)
        try:
            inspect.signature(command).bind(self, *args)
        except TypeError:
            raise ValueError(f"{word} takes other operands") from None
        return command(self, *args) or {}

    def _call(self, word: str, operands: list[int]) -> dict[str, Any]:
        if word in ("seamcall", "tdcall"):
            if not operands:
                raise ValueError("there is no RAX")
            guest, rax = word == "tdcall", operands.pop(0)
            leaf = (leaves.GUEST if guest else leaves.HOST).get(rax & 0xFFFF)
        else:
            name, _, version = word.partition(":")
            leaf = leaves.BY_NAME.get(name)
            if leaf is None:
                raise Unbuilt(NO_HANDLER)
            guest, rax = leaf.side == "guest", leaf.number | number(version or "0", 256) << 16
        if leaf is not None and leaf not in HANDLERS:
            raise Unbuilt(NO_HANDLER)
        if guest and not self.cpu.lp.vcpu:
            raise Unbuilt(NO_LINE)
        try:
            return self.tdcall(rax, operands) if guest else self.seamcall(rax, operands)
        except NotModelled:
            raise Unbuilt(NO_HANDLER) from None


def level_of(text: str, highest: int) -> int:
    """A level of a line."""
    return number(text, highest + 1)


def _set_lp(machine: Machine, lp: str) -> None:
    machine.lp = number(lp, LPS)


def _fill(machine: Machine, hpa: str, nbytes: str, byte: str) -> None:
    machine.memory.write(number(hpa), bytes([number(byte, 256)]) * number(nbytes, SIZE_2M + 1))


def _set_polls(machine: Machine, polls: str) -> None:
    machine.polls_free = int(polls)


def _add_tsc(machine: Machine, cycles: str) -> None:
    machine.tsc += number(cycles)


LINES: dict[str, Callable[..., Any]] = {
    "boot": Machine.boot,
    "lp": _set_lp,
    "intr": _set_polls,
    "tsc": _add_tsc,
    "memw": lambda machine, hpa, *data: machine.memory.write(number(hpa), bytes.fromhex("".join(data))),
    "memfill": _fill,
    "memr": Machine.memr,
    "dump": Machine.dump,
    "pamt": Machine.pamt,
    "tdinfo": Machine.tdinfo,
    "lock": lambda machine, name, *args: {"ok": int(machine.lock(name, *args))},
    "unlock": lambda machine, *args: machine.unlock(*args),
    "exit": Machine.interrupt,
    "eptviol": Machine.ept_violation,
    "vmexit": Machine.other_exit,
}
