"""DEMOTE is interrupted, or busy with another TD's PAMT; and when nothing is huge, so that nothing is to be split."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from tdxlab.engine.run import run
from tdxlab.engine.step import step
from tdxlab.guest.programs import accepts, touches
from tdxlab.kvm import demote_interrupted
from tdxlab.lab import Lab
from tdxlab.spec.levels import PG_LEVEL_2M
from tdxlab.spec.status import TDX_OPERAND_BUSY


def convert(design, module=None, *, interrupt=True, busy=False, **options):
    """One page of an accepted 2M leaf becomes shared; an interrupt is pending.  The answers of DEMOTE, and the VM."""
    lab = Lab(design=design, module=module, cpus=1, **options)
    td = lab.create_td(memory="2M")
    lab.alone(td.vcpu(0, accepts((0, PG_LEVEL_2M))))
    lab.journal.notes.clear()
    if interrupt:
        lab.interrupt()
    if busy:
        lab.fail("TDH.MEM.PAGE.DEMOTE", status=TDX_OPERAND_BUSY.at(12))
    lab.alone(td.kvm.design.guest_memfd.convert(td.kvm, 5, 6, private=False))
    notes = lab.journal.notes
    answers = [note["status"] for note in notes if note.get("leaf") == "TDH.MEM.PAGE.DEMOTE"]
    return answers, td.kvm.vm_bugged, [note["kind"] for note in notes].count("kick")


INTERRUPTED, SUCCESS, BUSY = "TDX_INTERRUPTED_RESTARTABLE", "TDX_SUCCESS", "TDX_OPERAND_BUSY"


@pytest.mark.parametrize(
    ("variant", "answers", "bugged"),
    [
        ("not_handled", [INTERRUPTED], True),
        ("for_ever", [INTERRUPTED, SUCCESS], False),
        ("bounded", [INTERRUPTED, SUCCESS], False),
    ],
)
def test_an_interrupt_at_demote(variant, answers, bugged):
    assert convert(f"seed,demote_interrupted={variant}")[:2] == (answers, bugged)


@pytest.mark.parametrize("variant", ["for_ever", "bounded"])
def test_the_interrupt_that_lets_demote_on_is_taken_in_a_step_of_its_own(variant):
    """Under the audit: an interrupt is everybody's."""
    lab = Lab(design=f"seed,demote_interrupted={variant}", cpus=1)
    td = lab.create_td(memory="2M")
    lab.alone(td.vcpu(0, accepts((0, PG_LEVEL_2M))))
    lab.interrupt()

    async def ioctl():
        await step(at="KVM_SET_MEMORY_ATTRIBUTES")
        return await td.kvm.design.guest_memfd.convert(td.kvm, 5, 6, private=False)

    trace = run(lab.program(lambda: [ioctl()]), check_reads=True)
    answers = [note["status"] for note in trace.notes("seamcall") if note["leaf"] == "TDH.MEM.PAGE.DEMOTE"]
    assert answers == [INTERRUPTED, SUCCESS] and trace.ended == "done"


def test_a_module_that_does_not_poll_there_needs_none_of_it():
    assert convert("seed", "1.5.28")[:2] == ([SUCCESS], False)


def test_a_storm_of_interrupts_ends_a_bounded_loop_with_a_bug():
    async def another_comes(kvm):
        pass

    with (
        patch.object(demote_interrupted, "take_interrupt", another_comes),
        patch.object(demote_interrupted, "TRIES", 4),
    ):
        assert convert("seed,demote_interrupted=bounded")[:2] == ([INTERRUPTED] * 4, True)


@pytest.mark.parametrize(("variant", "kicks"), [("under_pamt_lock", 3), ("pamt_lock_if_busy", 2)])
def test_who_made_demote_busy_is_kicked_or_waited_for(variant, kicks):
    """Two kicks are TRACK's; a third keeps vCPUs out, which does nothing about another TD's PAMT.ADD."""
    design = f"y2026,guest_memfd=thp,demote={variant}"
    assert convert(design, interrupt=False, busy=True, dpamt=True) == ([BUSY, SUCCESS], False, kicks)


@pytest.mark.parametrize(
    ("variant", "module", "dpamt", "huge"),
    [
        ("always", "1.5.25", False, 1),
        ("uninterrupted_demote", "1.5.25", False, 0),
        ("uninterrupted_demote", "1.5.28", False, 1),
        ("with_dpamt", "1.5.28", False, 0),
        ("with_dpamt", "1.5.28", True, 1),
    ],
)
def test_when_anything_is_huge(variant, module, dpamt, huge):
    lab = Lab(design=f"seed,huge_pages={variant}", module=module, dpamt=dpamt, cpus=1)
    td = lab.create_td(memory="2M")
    lab.alone(td.vcpu(0, touches(0)))
    assert td.kvm.stat["pages_2m"] == huge
