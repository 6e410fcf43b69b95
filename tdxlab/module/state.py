"""What the module remembers: of itself, of each TD (TDR and TDCS), of each vCPU (TDVPS).

Fields are grouped by the lock that protects them.  A record stands for pages at an HPA and is there before they are;
`reset` is what the creating leaf does to it.
"""

from __future__ import annotations

from typing import Any, ClassVar

from tdxlab.engine.cells import Journal, Record
from tdxlab.hw.sharex import Sharex
from tdxlab.module.mrtd import Measurement
from tdxlab.module.pamt import Pamt
from tdxlab.spec.bits import SeptEntry
from tdxlab.spec.features import ModuleFeatures
from tdxlab.spec.levels import PAGE_SIZE
from tdxlab.spec.sept import RWX
from tdxlab.spec.tdstate import LifeCycle, OpState, SysState, VcpuState

NUM_RTMRS = 4
HP_LOCK_TIMEOUT_US = 1_000_000  # [S01:td_control_structures.h]


class _Fields(Record):
    """A record whose fields have initial values, set without the journal."""

    __slots__ = ()
    RESET: ClassVar[dict[str, Any]] = {}

    def _wire(self, **values: Any) -> None:
        for field, value in (type(self).RESET | values).items():
            object.__setattr__(self, field, value)

    def reset(self, **values: Any) -> None:
        """Write all fields: their initial values, but for those given."""
        for field, value in (type(self).RESET | values).items():
            setattr(self, field, value)


class Sys(_Fields):
    """The module.  Written under the global lock or a TDMR's; every call reads it in its first step."""

    state: SysState
    lps: frozenset[int]  # the logical processors that are initialised
    tdmrs: tuple[Any, ...]  # as configured
    usable: frozenset[int]  # where the 1G blocks begin whose PAMT is initialised
    hkid: int
    handoff: dict[str, Any] | None  # what a module that is shut down leaves to the next; replaced, never changed
    lock: Sharex

    RESET: ClassVar[dict[str, Any]] = {
        "state": SysState.SYSINIT_PENDING,
        "lps": frozenset(),
        "tdmrs": (),
        "usable": frozenset(),
        "hkid": 0,
        "handoff": None,
    }
    __slots__ = (*RESET, "lock")
    FIXED = Record.FIXED | {"lock"}

    def __init__(self, journal: Journal) -> None:
        super().__init__(journal, "sys")
        self._wire(lock=Sharex(journal, "global_lock", marks=False))


class Td(_Fields):
    """A TD: TDR and TDCS.  Guarded by the lock of its TDR page: shared to read, exclusive to write."""

    # TDR
    lifecycle: LifeCycle
    hkid: int
    fatal: bool
    pkg_config_bitmap: int
    tdcx: tuple[int, ...]  # HPAs of the control pages, the fourth of which is the Secure-EPT root
    # TDCS
    op_state: OpState
    attributes: int
    xfam: int
    max_vcpus: int
    num_l2_vms: int
    tsc_frequency: int  # of the guest, in units of 25 MHz
    tsc_multiplier: int  # from the machine's cycles to the guest's, with 48 bits behind the point
    eptp: int
    gpaw: int
    config_flags: int
    num_vcpus: int
    x2apic_ids: tuple[int, ...]  # of vCPUs that were given one
    measurement: Measurement
    mrtd: bytes
    mrconfigid: bytes
    mrowner: bytes
    mrownerconfig: bytes
    # not under that lock: written at once, by the guest or the host
    td_ctls: int
    notify_enables: int
    teeinfo_hashed: bool  # the hash of TDINFO that the module keeps is the last RTMRs'
    hp_lock_timeout: int  # microseconds for which the guest may be kept off a lock
    # not under that lock: under the RTMRs' own
    rtmrs: tuple[bytes, ...]
    # not under that lock: counted atomically
    chldcnt: int
    num_assoc_vcpus: int
    # not under that lock: written under the epoch's, read at once
    td_epoch: int
    refcount0: int  # vCPUs inside that entered in an even epoch
    refcount1: int  # and in an odd one
    tdr: int
    features: ModuleFeatures
    hkid_start: int
    op_state_lock: Sharex
    sept_tree: Sharex
    epoch_lock: Sharex
    rtmr_lock: Sharex

    ATOMIC = frozenset({
        "chldcnt", "num_assoc_vcpus", "td_epoch", "refcount0", "refcount1", "td_ctls", "notify_enables",
        "hp_lock_timeout", "teeinfo_hashed",
    })  # fmt: skip
    RESET: ClassVar[dict[str, Any]] = {
        "lifecycle": LifeCycle.HKID_ASSIGNED,
        "hkid": 0,
        "fatal": False,
        "pkg_config_bitmap": 0,
        "tdcx": (),
        "op_state": OpState.UNINITIALIZED,
        "attributes": 0,
        "xfam": 0,
        "max_vcpus": 0,
        "num_l2_vms": 0,
        "tsc_frequency": 0,
        "tsc_multiplier": 0,
        "eptp": 0,
        "gpaw": 0,
        "config_flags": 0,
        "num_vcpus": 0,
        "x2apic_ids": (),
        "measurement": Measurement(),
        "mrtd": bytes(48),
        "mrconfigid": bytes(48),
        "mrowner": bytes(48),
        "mrownerconfig": bytes(48),
        "td_ctls": 0,
        "notify_enables": 0,
        "teeinfo_hashed": False,
        "hp_lock_timeout": HP_LOCK_TIMEOUT_US,
        "rtmrs": (bytes(48),) * NUM_RTMRS,
        "chldcnt": 0,
        "num_assoc_vcpus": 0,
        "td_epoch": 0,
        "refcount0": 0,
        "refcount1": 0,
    }
    __slots__ = (*RESET, "epoch_lock", "features", "hkid_start", "op_state_lock", "rtmr_lock", "sept_tree", "tdr")
    FIXED = Record.FIXED | {"tdr", "features", "hkid_start", "op_state_lock", "sept_tree", "epoch_lock", "rtmr_lock"}

    def __init__(self, journal: Journal, tdr: int, pamt: Pamt, features: ModuleFeatures, hkid_start: int) -> None:
        super().__init__(journal, f"td:{tdr:#x}", lambda key: self._guard(key, pamt))
        self._wire(
            tdr=tdr,
            features=features,
            hkid_start=hkid_start,
            op_state_lock=Sharex(journal, f"op_state:{tdr:#x}"),
            sept_tree=Sharex(journal, f"sept_tree:{tdr:#x}", marks=features.sept_tree_host_priority),
            epoch_lock=Sharex(journal, f"td_epoch:{tdr:#x}", marks=False),
            rtmr_lock=Sharex(journal, f"rtmr:{tdr:#x}"),
        )

    def _guard(self, key: str, pamt: Pamt) -> tuple[Sharex, int] | None:
        if key in Td.ATOMIC:
            return None
        return (self.rtmr_lock, 0) if key == "rtmrs" else pamt.lock_of(self.tdr)

    @property
    def locks(self) -> tuple[Sharex, ...]:
        """Those that lie in control pages."""
        return self.op_state_lock, self.sept_tree, self.epoch_lock, self.rtmr_lock

    @property
    def root(self) -> int:
        """HPA of the Secure-EPT root."""
        return self.eptp & (1 << self.hkid_start) - PAGE_SIZE

    @property
    def key(self) -> int:
        """The HKID as the bits of a physical address."""
        return self.hkid << self.hkid_start

    @property
    def hkid_bits(self) -> int:
        """The HKID as S-EPT entries carry it in memory, or 0."""
        return self.key if self.features.sept_hkid else 0

    @property
    def access(self) -> int:
        """The bits of an S-EPT entry that allow everything."""
        return RWX | SeptEntry.XU if self.features.sept_execute_user else RWX

    @property
    def top_level(self) -> int:
        """The level of the root's entries: 3 (PML4) or 4 (PML5)."""
        return self.eptp >> 3 & 0b111

    @property
    def shared_bit(self) -> int:
        """The GPA bit that makes a GPA shared."""
        return 1 << (51 if self.gpaw else 47)


class Vcpu(_Fields):
    """A vCPU: TDVPS.  No guard: TDH.VP.ENTER writes it while it shares the TDVPR's lock, so each step touches it.

    Left out: everything of a guest's state but the registers that calls use.
    """

    state: VcpuState
    tdr: int
    index: int  # its number among the TD's vCPUs, from 0
    tdcx: int  # number of control pages beside the TDVPR
    assoc_lp: int | None
    epoch: int  # in which it entered last
    gprs: dict[str, int]  # the guest's registers at its last TD exit; replaced, never changed
    vmcall: tuple[str, ...]  # registers that the guest lets the host answer in
    trap_exit: bool  # the last TD exit was trap-like, so the host may give its hint
    entry_rip: int
    epf_count: int  # EPT violations at the RIP of the last entry
    epf_gpas: tuple[int, ...]  # where the later ones were, for TDH.VP.ENTER to look at
    violation: tuple[int, int] | None  # (qualification, GPA) of the last VM exit, if it was a private EPT violation
    ve_info: tuple[int, int, int] | None  # (exit reason, qualification, GPA) of a #VE that nobody has asked about
    cpuid_supervisor_ve: int  # CPUID gives #VE
    cpuid_user_ve: int
    last_exit_tsc: int  # when its last VM exit was
    first_busy_tsc: int | None  # when a TDCALL was first kept off a lock for the host
    shared_eptp: int  # HPA of the root of the shared EPT; 0 until the host sets it
    tdvpr: int

    RESET: ClassVar[dict[str, Any]] = {
        "state": VcpuState.UNINITIALIZED,
        "tdr": 0,
        "index": 0,
        "tdcx": 0,
        "assoc_lp": None,
        "epoch": 0,
        "gprs": {},
        "vmcall": (),
        "trap_exit": False,
        "entry_rip": 0,
        "epf_count": 0,
        "epf_gpas": (),
        "violation": None,
        "ve_info": None,
        "cpuid_supervisor_ve": 0,
        "cpuid_user_ve": 0,
        "last_exit_tsc": 0,
        "first_busy_tsc": None,
        "shared_eptp": 0,
    }
    __slots__ = (*RESET, "tdvpr")
    FIXED = Record.FIXED | {"tdvpr"}

    def __init__(self, journal: Journal, tdvpr: int) -> None:
        super().__init__(journal, f"vcpu:{tdvpr:#x}")
        self._wire(tdvpr=tdvpr)


def refcount_of(epoch: int) -> str:
    """The reference count that a vCPU entering in `epoch` is counted in."""
    return f"refcount{epoch & 1}"
