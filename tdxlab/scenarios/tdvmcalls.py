"""The selftests of tdx_vm_test that are one TDVMCALL after the other: each is a table of steps.

Source: TDX selftests v8, one-liners of the patches (INFERRED); what is refused: Linux 7.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tdxlab.engine.claims import History, of_history
from tdxlab.engine.run import Program
from tdxlab.guest.vmcall import tdvmcall
from tdxlab.hw.guest import Guest
from tdxlab.lab import Lab
from tdxlab.scenarios.registry import Control, scenario
from tdxlab.spec import vmcall as g

OK, BAD, UNKNOWN = g.TDVMCALL_STATUS_SUCCESS, g.TDVMCALL_STATUS_INVALID_OPERAND, g.TDVMCALL_STATUS_SUBFUNC_UNSUPPORTED
IO, MMIO, RDMSR, WRMSR = (
    g.EXIT_REASON_IO_INSTRUCTION, g.EXIT_REASON_EPT_VIOLATION, g.EXIT_REASON_MSR_READ, g.EXIT_REASON_MSR_WRITE,
)  # fmt: skip
PORT, DEVICE, DEVICE_GPA = 0x50, 0x4000_0000 | g.SHARED_BIT, 0x4000_0000
NOT_KEPT, SEEN = 0x1_2345, g.MSR_IA32_POWER_CTL  # an MSR that KVM knows nothing of; one that userspace filters
CPUID = {(1, 0): (0x806F8, 1 << 24, 0x8000_0000, 0x1), (4, 3): (0x1C163, 0x3C0003F, 0xFFF, 4)}


@dataclass(frozen=True)
class Step:
    """call: function, operands.  wants: R10 and what follows.  exit: what userspace is told; it gives `answer`."""

    call: tuple[int, ...]
    wants: tuple[int, ...]
    exit: tuple[Any, ...] | None = None
    answer: int = 0


SELFTESTS: dict[str, tuple[str, str, str, list[Step]]] = {
    "port-io": (
        "ST07",
        "Does a byte reach userspace by a port, and come from there?",
        "A byte goes out by a port, and one comes in.",
        [
            Step((IO, 1, 1, PORT, 0xAB), (OK,), ("KVM_EXIT_IO", "out", 1, PORT, 0xAB)),
            Step((IO, 1, 0, PORT), (OK, 0xAC), ("KVM_EXIT_IO", "in", 1, PORT), 0xAC),
        ],
    ),
    "io-writes": (
        "ST07",
        "Which OUTs reach userspace, and which are refused?",
        "OUT of 1, 2 and 4 bytes reaches userspace; other sizes and directions are refused.",
        [
            *(
                Step((IO, n, 1, PORT, 0x1_2345_6789), (OK,), ("KVM_EXIT_IO", "out", n, PORT, low))
                for n, low in ((1, 0x89), (2, 0x6789), (4, 0x2345_6789))
            ),
            *(Step((IO, n, 1, PORT, 0), (BAD,)) for n in (0, 3, 5, 8)),
            Step((IO, 1, 2, PORT, 0), (BAD,)),
        ],
    ),
    "io-reads": (
        "ST07",
        "Which INs give what userspace supplies, and which are refused?",
        "IN of 1, 2 and 4 bytes gives what userspace supplies; other sizes are refused.",
        [
            *(Step((IO, n, 0, PORT), (OK, n + 7), ("KVM_EXIT_IO", "in", n, PORT), n + 7) for n in (1, 2, 4)),
            *(Step((IO, n, 0, PORT), (BAD,)) for n in (0, 3, 8)),
        ],
    ),
    "mmio-writes": (
        "ST12",
        "Which stores reach a device of userspace's, at which address, and which are refused?",
        "Stores of 1, 2, 4 and 8 bytes reach userspace at the GPA without the SHARED bit; private GPAs are refused.",
        [
            *(
                Step((MMIO, n, 1, DEVICE, 0x11), (OK,), ("KVM_EXIT_MMIO", "write", n, DEVICE_GPA, 0x11))
                for n in (1, 2, 4, 8)
            ),
            Step((MMIO, 3, 1, DEVICE, 0), (BAD,)),
            Step((MMIO, 4, 1, DEVICE_GPA, 0), (BAD,)),
        ],
    ),
    "mmio-reads": (
        "ST12",
        "Which loads give what userspace supplies, and which are refused?",
        "Loads of 1, 2, 4 and 8 bytes give what userspace supplies; other sizes are refused.",
        [
            *(
                Step((MMIO, n, 0, DEVICE), (OK, n + 9), ("KVM_EXIT_MMIO", "read", n, DEVICE_GPA), n + 9)
                for n in (1, 2, 4, 8)
            ),
            Step((MMIO, 10, 0, DEVICE), (BAD,)),
        ],
    ),
    "msr-reads": (
        "ST10",
        "Which MSRs can a guest read, and who answers?",
        "RDMSR of a filtered MSR gives what userspace supplies, or its refusal; of one that KVM keeps, what was "
        "written; of others, an error.",
        [
            Step((RDMSR, SEEN), (OK, 0x99), ("KVM_EXIT_X86_RDMSR", SEEN), 0x99),
            Step((RDMSR, SEEN), (BAD,), ("KVM_EXIT_X86_RDMSR", SEEN), -1),
            Step((WRMSR, g.MSR_MISC_FEATURES_ENABLES, 0x1234), (OK,)),
            Step((RDMSR, g.MSR_MISC_FEATURES_ENABLES), (OK, 0x1234)),
            Step((RDMSR, NOT_KEPT), (BAD,)),
        ],
    ),
    "msr-writes": (
        "ST10",
        "Which MSRs can a guest write, and who hears of it?",
        "WRMSR of a filtered MSR reaches userspace, which may refuse; of one that KVM keeps, nobody else; of others it "
        "is an error.",
        [
            Step((WRMSR, SEEN, 5), (OK,), ("KVM_EXIT_X86_WRMSR", SEEN, 5)),
            Step((WRMSR, SEEN, 6), (BAD,), ("KVM_EXIT_X86_WRMSR", SEEN, 6), -1),
            Step((WRMSR, g.MSR_MISC_FEATURES_ENABLES, 0x1234), (OK,)),
            Step((WRMSR, NOT_KEPT, 1), (BAD,)),
        ],
    ),
    "cpuid-tdvmcall": (
        "ST08",
        "What does a guest learn of its processor when it asks the host?",
        "CPUID asked of the host is what userspace has configured, and 0 where it has not.",
        [
            *(Step((g.EXIT_REASON_CPUID, *leaf), (OK, g.EXIT_REASON_CPUID, *values)) for leaf, values in CPUID.items()),
            Step((g.EXIT_REASON_CPUID, 0x77), (OK, g.EXIT_REASON_CPUID, 0, 0, 0, 0)),
        ],
    ),
    "get-td-vmcall-info": (
        "ST09",
        "What does a guest learn of the TDVMCALLs that KVM knows?",
        "GetTdVmCallInfo succeeds with zeros; what KVM does not know is SUBFUNC_UNSUPPORTED.",
        [
            Step((g.TDVMCALL_GET_TD_VM_CALL_INFO, 0), (OK, 0, 0, 0, 0)),
            Step((g.TDVMCALL_GET_TD_VM_CALL_INFO, 2), (BAD,)),
            Step((0x1_0099,), (UNKNOWN,)),
        ],
    ),
}
"""{scenario: its claim, its question, what the claim says, the steps}."""


def as_in(steps: Sequence[Step], history: History) -> bool:
    """The guest found in R10 and so on what each step says, and userspace was told what they say, in order."""
    told = [h["run"] for h in history if h["kind"] == "userspace"]
    found = [h["answer"] for h in history if h["kind"] == "vmcall"]
    right = all(answer[: len(step.wants)] == step.wants for answer, step in zip(found, steps, strict=False))
    return len(found) == len(steps) and right and told == [step.exit for step in steps if step.exit]


def _program(lab: Lab, claim: str, steps: Sequence[Step]) -> Program:
    td = lab.create_td(memory="2M", vcpus=1)
    td.kvm.cpuid, td.kvm.msr_filter = CPUID, {SEEN: "rw"}

    async def guest(guest: Guest) -> None:
        for step in steps:
            guest.cpu.journal.note("vmcall", answer=await tdvmcall(guest, *step.call))

    def actor() -> Any:
        answers = iter([step.answer for step in steps if step.exit])

        async def userspace(run: tuple[Any, ...]) -> int | None:
            lab.journal.note("userspace", run=run)
            return next(answers, None)

        return td.vcpu(0, guest, userspace)

    return lab.program(lambda: [actor()], [of_history(claim, lambda h: as_in(steps, h))], ["vCPU 0"])


def _register(name: str, claim: str, question: str, sentence: str, steps: Sequence[Step]) -> None:
    def build(lab: Lab) -> Program:
        return _program(lab, claim, steps)

    build.__doc__ = question
    breaks: Mapping[str, tuple[str, ...]] = {"seed": ()}
    off = Control(claim, "the guest is never answered", without="tdxlab.kvm.tdvmcall.set_return")
    scenario(name, claims={claim: sentence}, breaks=breaks, machine={"cpus": 1}, controls=(off,))(build)


for _name, _row in SELFTESTS.items():
    _register(_name, *_row)
