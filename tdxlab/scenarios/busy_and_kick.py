"""A guest, or who enters one, holds in the module what the host wants: BUSY, and the kick that ends it."""

from __future__ import annotations

from tdxlab.engine.claims import History, of_history
from tdxlab.engine.run import Program
from tdxlab.engine.schedule import Story
from tdxlab.guest.programs import accepts
from tdxlab.lab import Lab
from tdxlab.scenarios.exits import handles_exit, has_left
from tdxlab.scenarios.looks import calls, count
from tdxlab.scenarios.prefaulted import prefaulted
from tdxlab.scenarios.registry import Control, scenario
from tdxlab.spec.levels import PG_LEVEL_2M, PG_LEVEL_4K

BLOCK, TRACK = "TDH.MEM.RANGE.BLOCK", "TDH.MEM.TRACK"
SPLIT = [BLOCK, TRACK, "TDH.MEM.PAGE.DEMOTE"]
BUSY, DONE = "TDX_OPERAND_BUSY", "TDX_SUCCESS"

# vCPU 0 has the block mapped and wants 4K; vCPU 1's ACCEPT at 2M stands before its poll and holds the entry
MEANWHILE: Story = ((0, "guest: TDG.MEM.PAGE.ACCEPT"), (1, "poll"), (0, "wait for CPU 1"))
# vCPU 1 is about to give back the epoch lock of its entry, which TRACK wants
ENTERING: Story = ((1, "release"), (0, "wait for CPU 1"))


def one_more_try(history: History) -> bool:
    """What is busy is called once more, and that succeeds; nothing is found broken."""
    for leaf in SPLIT:
        answers = [call.split()[1] for call in calls(history, cpu=0, of=[leaf])]
        if answers not in ([], [DONE], [BUSY, DONE]):
            return False
    return count(history, "kvm_bug_on") == 0


def not_kicked(leaf: str, story: Story) -> Control:
    """After the story the leaf is refused twice."""
    return Control(
        "HP15",
        f"vCPUs are not kicked: the second {leaf.rpartition('.')[2]} is refused as the first",
        without="tdxlab.kvm.tdx_sept.kvm_make_all_cpus_request",
        story=(*story, (0, None)),
        shows=lambda h: calls(h, of=[leaf])[:2] == [f"{leaf} {BUSY}"] * 2 and count(h, "kvm_bug_on") > 0,
    )


HP15 = "With mmu_lock held for write TDX_OPERAND_BUSY is met by keeping all vCPUs out, and the second try succeeds."


@scenario(
    "busy-and-kick",
    claims={"HP15": f"{HP15}  (Here: BLOCK against a guest's ACCEPT; the half without Dynamic PAMT.)"},
    breaks={"seed": (), "inhibit_write": ()},
    machine={"cpus": 2},
    stories={"seed": MEANWHILE, "inhibit_write": MEANWHILE},
    shows={"seed": lambda h: calls(h, of=[BLOCK]) == [f"{BLOCK} {BUSY}", f"{BLOCK} {DONE}"]},
    controls=(not_kicked(BLOCK, MEANWHILE[:2]),),
)
def busy_and_kick(lab: Lab) -> Program:
    """The S-EPT entry that is to be blocked is held by a guest's ACCEPT: what does KVM do?

    KVM has mapped a region at 2M.  vCPU 0 accepts its first page at 4K: a split.  vCPU 1 accepts the whole region at
    2M, which takes 512 steps in the module, with the entry locked all along.  More schedules than can be run.
    """
    td = prefaulted(lab, "2M", 0)
    return lab.program(
        lambda: [td.vcpu(0, accepts((0, PG_LEVEL_4K))), td.vcpu(1, accepts((0, PG_LEVEL_2M)))],
        [of_history("HP15", one_more_try)],
        ["vCPU 0: ACCEPT 4K", "vCPU 1: ACCEPT 2M"],
        max_steps=3_000,
    )


@scenario(
    "track-and-enter",
    claims={"HP15": f"{HP15}  (Here: TRACK against VP.ENTER.)"},
    breaks={"seed": (), "inhibit_write": ()},
    machine={"cpus": 2},
    stories={"seed": ENTERING, "inhibit_write": ENTERING},
    shows={"seed": lambda h: calls(h, of=[TRACK]) == [f"{TRACK} {BUSY}", f"{TRACK} {DONE}"]},
    controls=(not_kicked(TRACK, ENTERING[:1]),),
)
def track_and_enter(lab: Lab) -> Program:
    """As `busy-and-kick`, but TRACK meets an entry: what does KVM do, in whatever order they come?

    vCPU 0 has left the TD, whose guest accepts 4K of a region that is mapped at 2M: a split.  vCPU 1 enters the TD,
    where it has nothing to do, and leaves.
    """
    td = prefaulted(lab, "2M", 0)
    split = td.kvm.vcpus[0]
    has_left(lab, split, accepts((0, PG_LEVEL_4K)))
    return lab.program(
        lambda: [handles_exit(split), td.vcpu(1, accepts())],
        [of_history("HP15", one_more_try)],
        ["vCPU 0: a fault of ACCEPT 4K", "vCPU 1: enters and leaves"],
        max_steps=400,
    )
