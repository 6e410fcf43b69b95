"""An operation for each kind of change, or one for all: a change that nobody should ask for, and one that fails."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tdxlab.engine.run import run
from tdxlab.engine.step import step
from tdxlab.guest.programs import accepts, touches_then_accepts
from tdxlab.invariants import Sweep
from tdxlab.kvm.kvm_main import EIO
from tdxlab.lab import Lab
from tdxlab.spec.levels import PG_LEVEL_2M, PG_LEVEL_4K

WRONG_ROOT = "accept_level=guest_inhibit_v5_as_posted"


@pytest.mark.parametrize("design", ["rfc_v5", "y2026", "seed,external_spte=one_as_posted"])
def test_a_fault_that_would_change_what_is_present_bugs_the_vm_before_anything_is_frozen(design):
    """As it happens where v5's split looks at the wrong root: posted, found in review."""
    lab, ended = Lab(f"{design},{WRONG_ROOT}", cpus=1), []
    td = lab.create_td(memory="2M")

    async def guest():
        ended.append(await td.vcpu(0, touches_then_accepts(0, (0, PG_LEVEL_4K))))

    trace = run(lab.program(lambda: [guest()], max_steps=800), check_reads=True)
    assert (trace.ended, ended) == ("done", [-EIO])
    assert [note["what"] for note in trace.notes("kvm_bug_on")] == ["a present mirror SPTE would change"]
    assert not trace.notes("warn") and [e.at for e in trace.events].count("unfreeze: the old SPTE") == 0


@pytest.mark.parametrize(("hooks", "bugged"), [("by_kind", False), ("one_as_posted", True), ("one", True)])
def test_a_split_whose_error_nobody_looks_at_leaves_mirror_and_sept_apart(hooks, bugged):
    """The pair of the new S-EPT page cannot be added, before BLOCK: the mirror has its table already."""
    lab = Lab(f"seed,demote=get_first,pamt_get_put=v5,external_spte={hooks}", dpamt=True, cpus=1, pages="scattered",
              memory="4G")  # fmt: skip
    td = lab.create_td(memory="2M")
    lab.alone(td.vcpu(0, accepts((0, PG_LEVEL_2M))))
    lab.fail("TDH.PHYMEM.PAMT.ADD")
    seen = []

    async def split():
        await step(at="begin")
        await td.kvm.design.split.before_zap(td.kvm, [(5, 6)])
        audited, lab.journal.reads = lab.journal.reads, None  # it is we who look here
        check = next(invariant for invariant in Sweep(lab).invariants() if invariant.id == "S-EPT and mirror")
        seen.append((check.quiet() and bool(check.violations()), td.kvm.vm_bugged, td.kvm.stat["pages_2m"]))
        lab.journal.reads = audited

    run(replace(lab.program(lambda: [split()]), invariants=()), check_reads=True)
    assert seen == [(True, bugged, 0)]
