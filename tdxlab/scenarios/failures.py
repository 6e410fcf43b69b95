"""What becomes of a VM when one SEAMCALL or one page fails: what its user is told, and which pages that costs.

In each phase of a VM's life each site that the phase uses fails once, at its first, second or last use: a leaf with
TDX_SW_ERROR and with TDX_OPERAND_BUSY, an allocation with no page.  What has failed is made again unless the VM is
dead; then the VM is destroyed, and the ledger tells what did not come back.

Outcomes: *handled*, everything comes back; *KVM_BUG_ON*, the VM is dead; *WARN*, pages are lost and the kernel does no
more than warn, see ONLY_WARNS.  Any other word is a mistake of the lab's.
Left out: the host's own pages at boot, failures of two uses, the answers that only some leaves give.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tdxlab.host.fail_nth import SITES
from tdxlab.host.seamcall import TDX_SW_ERROR
from tdxlab.scenarios.life import COUNTED, FREED, ready
from tdxlab.spec.leaves import BY_NAME
from tdxlab.spec.operands import Operand
from tdxlab.spec.status import TDX_OPERAND_BUSY

PRESETS = ("seed", "seed_nak", "y2026", "dpamt_v4", "dpamt_v6", "mainline_616", "mainline_72")
INJECTED = {"TDX_SW_ERROR": None, "TDX_OPERAND_BUSY": TDX_OPERAND_BUSY.at(Operand.RCX), "no page": None}
"""What a site answers, and the status with which a leaf says so."""
MANY = 1 << 30  # more uses than there are

ONLY_WARNS = {
    "TDH.PHYMEM.PAGE.RECLAIM": "__tdx_reclaim_page only warns, in 6.16 as in 6.19, and the page is leaked",
    "TDH.PHYMEM.PAMT.REMOVE": "tdx_pamt_put cannot fail: it warns, and the pair stays the module's (every version)",
}
"""Sites where the kernel loses pages though the VM is not dead: why."""

ONCE = {
    "TDH.MR.EXTEND": "The page is added and not measured, and can not be added again: userspace gives the VM up (until "
    "6.18), and all its pages come back.",
}
"""Sites of which what has failed can not be made again, though the VM is not dead: what that means."""


def sites(preset: str, phase: str) -> dict[str, int]:
    """{site: how often the phase uses it}, as long as nothing fails."""
    life = ready(preset, phase)
    leaves = (leaf for leaf in BY_NAME.values() if leaf.side == "host")
    every = [*SITES, *(leaf.name for leaf in leaves)]
    for site in every:
        life.lab.fail(site, MANY)
    assert not life.do(phase)
    left = {site: life.lab.host.fail_nth.peek((0, site))[0] for site in every}
    return {site: MANY - n for site, n in left.items() if n != MANY}


@dataclass(frozen=True, order=True)
class Failure:
    """One thing that goes wrong.  use: first, second or last.  injected: what the site answers."""

    phase: str
    site: str
    injected: str
    use: str


def failures(preset: str, phase: str) -> Iterator[tuple[Failure, int]]:
    """Each with the number of the use that fails."""
    for site, n in sites(preset, phase).items():
        uses = {"first": 1} | ({"last": n} if n > 1 else {}) | ({"second": 2} if n > 2 else {})
        for injected in [*INJECTED][:2] if site.startswith("TDH.") else [*INJECTED][2:]:
            yield from ((Failure(phase, site, injected, use), nth) for use, nth in uses.items())


@dataclass(frozen=True)
class Outcome:
    """returned: what the phase answered when it failed.  leaked: what did not come back.  log: what KVM says."""

    returned: str
    outcome: str
    leaked: str
    log: str


def fail(preset: str, failure: Failure, nth: int) -> Outcome:
    """Let it go wrong, and see."""
    life = ready(preset, failure.phase)
    notes = life.lab.journal.notes
    notes.clear()
    life.lab.fail(failure.site, nth, status=INJECTED[failure.injected])
    ret, again = life.do(failure.phase), 0
    if ret and not life.kvm.vm_bugged:
        again = life.do(failure.phase)
    if not failure.phase.startswith("destroy"):
        life.do("destroy, with shared memory")
    said = [note["what"] for note in notes if note["kind"] in ("kvm_bug_on", "warn")]
    left = life.left()
    if again and failure.site not in ONCE:
        outcome = "stuck"
    elif life.kvm.vm_bugged:
        outcome = "KVM_BUG_ON"
    elif left:
        outcome = "WARN" if failure.site in ONLY_WARNS and said else "lost"
    else:
        outcome = "handled"
    returned = f"-{errno.errorcode[-ret]}" if ret else "0"
    return Outcome(returned, outcome, "; ".join(f"{what}: {n}" for what, n in sorted(left.items())), log(said))


def sentence(failure: Failure, outcome: Outcome) -> str:
    """What it means."""
    match outcome.outcome:
        case "handled" if failure.site in ONCE:
            return ONCE[failure.site]
        case "handled" if outcome.returned == "0":
            return "Nobody is told: it is tried again, or can be done without."
        case "handled":
            return "Made again it works."
        case "KVM_BUG_ON" if not outcome.leaked:
            return "The VM is dead, and all its pages come back."
        case "KVM_BUG_ON" if outcome.leaked.startswith(COUNTED):
            return "The VM is dead, and its pages come back, but a range's users are miscounted."
        case "KVM_BUG_ON" if FREED in outcome.leaked:
            return "The VM is dead, and what the TD still has is free: whoever writes there poisons it."
        case "KVM_BUG_ON":
            return "The VM is dead, and what the module has, or may have, is lost."
    return ONLY_WARNS[failure.site]


def log(said: list[str]) -> str:
    """The texts of WARNs and bugs, each once, without addresses."""
    texts = (text.replace(str(TDX_SW_ERROR), "TDX_SW_ERROR") for text in said)
    return "; ".join(dict.fromkeys(re.sub(" 0x[0-9a-f]+", "", text) for text in texts))
