"""Two vCPUs accept the same range at different levels."""

from __future__ import annotations

from tdxlab.engine.claims import History, of_history
from tdxlab.engine.run import Program
from tdxlab.engine.schedule import Story
from tdxlab.guest.accept import GuestProgram, accept_page
from tdxlab.hw.guest import Guest
from tdxlab.lab import Lab
from tdxlab.scenarios.exits import handles_exit, has_left
from tdxlab.scenarios.looks import count
from tdxlab.scenarios.prefaulted import prefaulted
from tdxlab.scenarios.registry import Control, scenario
from tdxlab.spec.levels import PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M

# vCPU 0 has mapped 2M for its ACCEPT and is about to enter again, when vCPU 1 comes with 4K
BETWEEN_MAP_AND_ACCEPT: Story = ((0, "enter vCPU 0"), (0, "enter vCPU 0"), (1, None), (0, None))


def accepts(level: int) -> GuestProgram:
    """Accept the page at 0 at `level`."""

    async def program(guest: Guest) -> None:
        await accept_page(guest, 0, level)

    return program


def no_split_in_the_fault(history: History) -> bool:
    """No fault wanted to split under mmu_lock for read; one split at most, under it for write, and 4K for all after."""
    done = [(h["kind"], h.get("leaf"), h.get("level")) for h in history if h["kind"] in ("split", "seamcall")]
    after = done[[kind for kind, *_ in done].index("split") + 1 :] if count(history, "split") else []
    return (
        count(history, "warn") == 0
        and count(history, "split") <= 1
        and ("seamcall", "TDH.MEM.PAGE.AUG", PG_LEVEL_2M) not in after
    )


def _program(lab: Lab, *levels: int) -> Program:
    td = lab.create_td(memory="2M")
    return lab.program(
        lambda: [td.vcpu(n, accepts(level)) for n, level in enumerate(levels)],
        [of_history("HP02", no_split_in_the_fault)],
        [f"vCPU {n}: ACCEPT {'2M' if level == PG_LEVEL_2M else '4K'}" for n, level in enumerate(levels)],
        max_steps=400,
    )


HP02 = {
    "HP02": "Where vCPUs accept at different levels there is at most one split, under mmu_lock for write, and no "
    "2M mapping after it.  (A level that is carried per fault or per vCPU goes wrong: another's fault does not "
    "know of it.  GUEST_INHIBIT is for all.)"
}


@scenario(
    "accept-race",
    claims=HP02,
    breaks={"seed": (), "error_code": ("HP02",), "rfc_v1": ("HP02",)},
    shows={design: lambda h: count(h, "warn") > 0 for design in ("error_code", "rfc_v1")},
    reliefs=tuple(
        Control("HP02", f"both accept {text}", design=design, story=story, build=build)
        for text, story, build in (
            ("4K", (), lambda lab: _program(lab, PG_LEVEL_4K, PG_LEVEL_4K)),
            ("2M", BETWEEN_MAP_AND_ACCEPT, lambda lab: _program(lab, PG_LEVEL_2M, PG_LEVEL_2M)),
        )
        for design in ("error_code", "rfc_v1")
    ),
    stories=dict.fromkeys(("seed", "error_code", "rfc_v1"), BETWEEN_MAP_AND_ACCEPT),
)
def accept_race(lab: Lab) -> Program:
    """vCPU 0 accepts a page at 2M while vCPU 1 accepts it at 4K: does any fault have to split under the read lock?

    The stored schedule lets vCPU 1 in when KVM has mapped 2M for vCPU 0, and vCPU 0 has not yet accepted it.
    More schedules than can be run; those of the two faults alone can (`accept-faults`).
    """
    return _program(lab, PG_LEVEL_2M, PG_LEVEL_4K)


# --- the two faults alone ---


def _faults(lab: Lab, *levels: int) -> Program:
    td = prefaulted(lab, "4M", SIZE_2M)
    vcpus = td.kvm.vcpus[: len(levels)]
    for vcpu, level in zip(vcpus, levels, strict=True):
        has_left(lab, vcpu, accepts(level))
    return lab.program(
        lambda: [handles_exit(vcpu) for vcpu in vcpus],
        [of_history("HP02", no_split_in_the_fault)],
        [f"vCPU {n}: a fault of ACCEPT {'2M' if level == PG_LEVEL_2M else '4K'}" for n, level in enumerate(levels)],
        max_steps=400,
    )


@scenario(
    "accept-faults",
    claims=HP02,
    breaks={"seed": (), "inhibit_write": (), "rfc_v1": ("HP02",)},
    machine={"cpus": 2},
    shows={"rfc_v1": lambda h: count(h, "warn") > 0},
    reliefs=(
        Control("HP02", "both accept 4K", design="rfc_v1", build=lambda lab: _faults(lab, PG_LEVEL_4K, PG_LEVEL_4K)),
        Control("HP02", "both accept 2M", design="rfc_v1", build=lambda lab: _faults(lab, PG_LEVEL_2M, PG_LEVEL_2M)),
    ),
    stories=dict.fromkeys(("seed", "inhibit_write", "rfc_v1"), ((0, None), (1, None))),
)
def accept_faults(lab: Lab) -> Program:
    """As `accept-race`, but only the faults: is there any order in which one has to split under the read lock?

    Both vCPUs have left the TD with an EPT violation of their ACCEPTs, and KVM handles it; none enters again.
    """
    return _faults(lab, PG_LEVEL_2M, PG_LEVEL_4K)
