"""What differs between module versions: one frozen value per version, each field a switch that some leaf reads."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tdxlab.spec.operands import RCX, Operand


@dataclass(frozen=True, slots=True)
class ModuleFeatures:
    """A module version.  The sources stand with the values."""

    version: str
    release: tuple[int, int, int]
    """The version as numbers; of a planned one that of the release it is assumed to follow."""
    features0: int
    """The metadata field TDX_FEATURES0."""
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
    yields_to_host: bool
    """DEMOTE, PROMOTE and SEPT.ADD give up with TDX_INTERRUPTED_BUSY where that mark is set."""
    keeps_entry_priority: bool
    """Host calls that write an S-EPT entry keep its host-priority bit."""
    sept_execute_user: bool
    """S-EPT entries that can be used have bit 10 set too."""
    sept_hkid: bool
    """S-EPT entries and the EPTP carry the TD's HKID in memory."""
    state_in_detail: bool
    """OP_STATE_INCORRECT and VCPU_STATE_INCORRECT carry the state in bits 31:0."""
    cache_wb_polls_after_last: bool
    """PHYMEM.CACHE.WB polls for interrupts after its last part too."""
    config_flags: int
    """The bits of TD_PARAMS.CONFIG_FLAGS that MNG.INIT accepts."""
    vp_init_version: int
    """The highest version of TDH.VP.INIT: 1 takes an x2APIC id."""
    dynamic_pamt: bool
    """SYS.CONFIG can turn Dynamic PAMT on."""
    demote_interruptible: bool
    """DEMOTE polls for interrupts before its changes.  (With L2 VMs it does in each version.)"""
    demote_needs_block: bool
    """DEMOTE wants the range blocked and tracked where the TD may run."""


V1_5_01 = ModuleFeatures(
    "1.5.01",
    release=(1, 5, 1),
    features0=0xF_0FBF,  # [S01:metadata_sys.c]; LOCAL_ATTESTATION is the processor's, as recorded with 1.5.25
    unblock_tracking_operand=Operand.SEPT_TREE,  # [S01:tdh_mem_range_unblock.c]
    promote_tree_exclusive=False,  # [S01:tdh_mem_page_promote.c]
    zero_step_tree_exclusive=True,  # [S01:td_exit_stepping.c]
    pending_resolves_zero_step=False,  # [S01:td_exit_stepping.c; oracle tour J]
    sept_tree_host_priority=False,  # [S01:td_control_structures.h]
    yields_to_host=False,  # [S01:tdx_error_codes_defs.h: there is no such status]
    keeps_entry_priority=False,  # [S01:sept_manager.c]
    sept_execute_user=False,  # [oracle v1.5.01]
    sept_hkid=False,  # [oracle v1.5.01]
    state_in_detail=False,  # [oracle v1.5.01]
    cache_wb_polls_after_last=True,  # [oracle v1.5.01 tour H]
    config_flags=0x7,  # INFERRED from its TDX_FEATURES0, which has bits 16 and 18; [oracle v1.5.01 tour B]: not 8
    vp_init_version=0,  # [S01:tdx_vmm_dispatcher.c]
    dynamic_pamt=False,  # [S01: no such leaves]
    demote_interruptible=True,  # [S01:tdh_mem_page_demote.c]
    demote_needs_block=True,  # [S01:tdh_mem_page_demote.c]
)
V1_5_25 = ModuleFeatures(
    "1.5.25",
    release=(1, 5, 25),
    features0=0xD132_6F3F_0FBF,  # [oracle v1.5.25 tour ZA]
    unblock_tracking_operand=RCX,  # [S25:tdh_mem_range_unblock.c], from 1.5.08
    promote_tree_exclusive=True,  # [S25:tdh_mem_page_promote.c], from 1.5.20
    zero_step_tree_exclusive=False,  # [S25:td_exit_stepping.c], from 1.5.20
    pending_resolves_zero_step=True,  # [S25:td_exit_stepping.c], from 1.5.20
    sept_tree_host_priority=True,  # [S25:td_control_structures.h], from 1.5.20
    yields_to_host=True,  # [S25:tdh_mem_page_demote.c], from 1.5.20
    keeps_entry_priority=True,  # [S25:sept_manager.c], from 1.5.20
    sept_execute_user=True,  # [oracle v1.5.25 tour]
    sept_hkid=True,  # [oracle v1.5.25 tour]
    state_in_detail=True,  # [oracle v1.5.25 tour B]
    cache_wb_polls_after_last=False,  # [oracle v1.5.25 tour H]
    config_flags=0x1F,  # [S25:td_control_structures.h]
    vp_init_version=1,  # [oracle v1.5.25 tour ZA], from 1.5.08
    dynamic_pamt=True,  # [S25:tdh_sys_config.c], from 1.5.20
    demote_interruptible=True,  # [S25:tdh_mem_page_demote.c]
    demote_needs_block=True,  # [S25:tdh_mem_page_demote.c]
)
V1_5_28 = replace(
    V1_5_25,
    version="1.5.28",
    release=(1, 5, 28),
    features0=V1_5_25.features0 | 1 << 51,  # [M:Yan Zhao 2025-11] bit 51; the others assumed as in 1.5.25
    demote_interruptible=False,  # [M:Yan Zhao 2025-11; ABI 348551-007 section 5.4.25.3.9 as quoted there]
)
BLOCKLESS = replace(
    V1_5_28,
    version="blockless",
    demote_needs_block=False,  # assumed: planned, its semantics are not published [D000]
)
PROFILES = {features.version: features for features in (V1_5_01, V1_5_25, V1_5_28, BLOCKLESS)}


def release(version: str) -> tuple[int, ...]:
    """ "1.5.08" as (1, 5, 8): releases compare as numbers."""
    return tuple(map(int, version.split(".")))


def modelled(version: str) -> ModuleFeatures:
    """A version that a machine can have.  Raises ValueError with a sentence."""
    if version not in [*PROFILES]:
        raise ValueError(f"no module {version} is modelled; there is {', '.join(PROFILES)}")
    return PROFILES[version]
