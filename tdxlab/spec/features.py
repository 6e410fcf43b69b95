"""What differs between module versions, as far as it is modelled: one frozen value per version."""

from __future__ import annotations

from dataclasses import dataclass

from tdxlab.spec.operands import RCX, Operand


@dataclass(frozen=True, slots=True)
class ModuleFeatures:
    """A module version.  Each field is a switch that some leaf reads; the sources stand with the values."""

    version: str
    unblock_tracking_operand: Operand
    """What TDX_TLB_TRACKING_NOT_DONE of RANGE.UNBLOCK names."""
    promote_tree_exclusive: bool
    """PROMOTE takes the S-EPT tree exclusively, and no locks of the 512 children."""
    zero_step_tree_exclusive: bool
    """TDH.VP.ENTER under zero-step suspicion takes the S-EPT tree exclusively."""
    pending_resolves_zero_step: bool
    """A PENDING page counts as resolved there, if the TD takes #VE on PENDING pages."""
    sept_tree_host_priority: bool
    """A host call that is refused the S-EPT tree leaves its mark on the lock."""
    keeps_entry_priority: bool
    """Host calls that write an S-EPT entry keep its host-priority bit."""
    state_in_detail: bool
    """OP_STATE_INCORRECT and VCPU_STATE_INCORRECT carry the state in bits 31:0."""
    cache_wb_polls_after_last: bool
    """PHYMEM.CACHE.WB polls for interrupts after its last part too."""


V1_5_01 = ModuleFeatures(
    "1.5.01",
    unblock_tracking_operand=Operand.SEPT_TREE,  # [S01:tdh_mem_range_unblock.c]
    promote_tree_exclusive=False,  # [S01:tdh_mem_page_promote.c]
    zero_step_tree_exclusive=True,  # [S01:td_exit_stepping.c]
    pending_resolves_zero_step=False,  # [S01:td_exit_stepping.c; oracle tour J]
    sept_tree_host_priority=False,  # [S01:td_control_structures.h]
    keeps_entry_priority=False,  # [S01:sept_manager.c]
    state_in_detail=False,  # [oracle v1.5.01]
    cache_wb_polls_after_last=True,  # [oracle v1.5.01 tour H]
)
V1_5_25 = ModuleFeatures(
    "1.5.25",
    unblock_tracking_operand=RCX,  # [S25:tdh_mem_range_unblock.c], from 1.5.08
    promote_tree_exclusive=True,  # [S25:tdh_mem_page_promote.c], from 1.5.20
    zero_step_tree_exclusive=False,  # [S25:td_exit_stepping.c], from 1.5.20
    pending_resolves_zero_step=True,  # [S25:td_exit_stepping.c], from 1.5.20
    sept_tree_host_priority=True,  # [S25:td_control_structures.h], from 1.5.20
    keeps_entry_priority=True,  # [S25:sept_manager.c], from 1.5.20
    state_in_detail=True,  # [oracle v1.5.25 tour B]
    cache_wb_polls_after_last=False,  # [oracle v1.5.25 tour H]
)
PROFILES = {features.version: features for features in (V1_5_01, V1_5_25)}
MODELLED = ("1.5.01",)
"""The versions that a machine can have.  Of 1.5.25 only these switches are there: it also shows bit 10 and the HKID
in S-EPT entries, which no leaf does here [oracle v1.5.25 tour]."""


def modelled(version: str) -> ModuleFeatures:
    """A version that a machine can have.  Raises ValueError with a sentence."""
    if version in MODELLED:
        return PROFILES[version]
    yet = " yet" if version in PROFILES else ""
    raise ValueError(f"no module {version} is modelled{yet}; there is {', '.join(MODELLED)}")
