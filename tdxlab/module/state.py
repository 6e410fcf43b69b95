"""What the module remembers: of itself, of each TD (TDR and TDCS), of each vCPU (TDVPS).

Fields are grouped by the lock that protects them.  A record stands for pages at an HPA and is there before they are;
`reset` is what the creating leaf does to it.
"""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

from tdxlab.engine.cells import Journal, Key, Record
from tdxlab.hw.sharex import Sharex
from tdxlab.spec.bits import SeptEntry
from tdxlab.spec.tdstate import LifeCycle, OpState, SysState, VcpuState


class _Fields(Record):
    """A record whose fields have initial values, set without the journal."""

    __slots__ = ()
    RESET: ClassVar[dict[str, Any]] = {}

    def _preset(self) -> None:
        for field, value in self.RESET.items():
            object.__setattr__(self, field, value)

    def reset(self, **values: Any) -> None:
        """Write all fields: their initial values, but for those given."""
        for field, value in (self.RESET | values).items():
            setattr(self, field, value)


class Sys(_Fields):
    """The module.  Written under the global lock or the TDMR's, read by every call in its first step.

    lps: those that are initialised.  tdmrs: as configured.  usable: (base, end) of memory with initialised PAMT.
    """

    __slots__ = ("hkid", "lock", "lps", "state", "tdmrs", "usable")
    RESET: ClassVar[dict[str, Any]] = {
        "state": SysState.SYSINIT_PENDING,
        "lps": frozenset(),
        "tdmrs": (),
        "usable": (),
        "hkid": 0,
    }
    FIXED = Record.FIXED | {"lock"}

    def __init__(self, journal: Journal) -> None:
        super().__init__(journal, "sys")
        object.__setattr__(self, "lock", Sharex(journal, "global_lock", marks=False))
        self._preset()


class Td(_Fields):
    """A TD.  guard: the lock of its TDR page, shared to read and exclusive to write.

    Not under that lock: chldcnt and num_assoc_vcpus are counted atomically, td_epoch and the two reference counts
    (of vCPUs that entered in an epoch, by its lowest bit) have the epoch lock or are read at once.
    """

    __slots__ = (
        "attributes", "chldcnt", "config_flags", "epoch_lock", "eptp", "fatal", "gpaw", "hkid", "lifecycle", "max_vcpus",
        "measurement", "mrtd", "num_assoc_vcpus", "num_vcpus", "op_state", "op_state_lock",
        "pkg_config_bitmap", "refcount0", "refcount1", "sept_tree", "td_epoch", "tdcx", "tdr", "xfam",
    )  # fmt: skip
    ATOMIC = frozenset({"chldcnt", "num_assoc_vcpus", "td_epoch", "refcount0", "refcount1"})
    RESET: ClassVar[dict[str, Any]] = {
        # TDR
        "lifecycle": LifeCycle.HKID_ASSIGNED,
        "hkid": 0,
        "fatal": False,
        "chldcnt": 0,
        "pkg_config_bitmap": 0,
        "tdcx": (),  # HPAs of the control pages, the fourth of which is the Secure-EPT root
        # TDCS
        "op_state": OpState.UNINITIALIZED,
        "attributes": 0,
        "xfam": 0,
        "max_vcpus": 0,
        "eptp": 0,
        "gpaw": 0,
        "config_flags": 0,
        "num_vcpus": 0,
        "num_assoc_vcpus": 0,
        "td_epoch": 0,
        "refcount0": 0,
        "refcount1": 0,
        "measurement": hashlib.sha384(),  # copied before each update: a value, not state
        "mrtd": bytes(48),
    }
    FIXED = Record.FIXED | {"tdr", "op_state_lock", "sept_tree", "epoch_lock"}

    def __init__(self, journal: Journal, tdr: int, tdr_lock: tuple[Sharex, int], tree_marks: bool) -> None:
        super().__init__(journal, f"td:{tdr:#x}", lambda key: None if key in Td.ATOMIC else tdr_lock)
        wired = {
            "tdr": tdr,
            "op_state_lock": Sharex(journal, f"op_state:{tdr:#x}"),
            "sept_tree": Sharex(journal, f"sept_tree:{tdr:#x}", marks=tree_marks),
            "epoch_lock": Sharex(journal, f"td_epoch:{tdr:#x}", marks=False),
        }
        for field, value in wired.items():
            object.__setattr__(self, field, value)
        self._preset()

    @property
    def root(self) -> int:
        """HPA of the Secure-EPT root."""
        return int(self.eptp & SeptEntry.HPA)

    @property
    def top_level(self) -> int:
        """The level of the root's entries: 3 (PML4) or 4 (PML5)."""
        return int(self.eptp >> 3 & 0b111)

    @property
    def shared_bit(self) -> int:
        """The GPA bit that makes a GPA shared."""
        return 1 << (51 if self.gpaw else 47)


class Vcpu(_Fields):
    """A vCPU.  Under the lock of its TDVPR page while it is built; at run time each step that uses it touches it.

    Left out: everything of a guest's state but the registers that calls use.
    """

    __slots__ = (
        "assoc_lp", "entry_rip", "epf_count", "epf_gpas", "epoch", "first_busy_tsc", "gprs", "state", "tdcx", "tdr",
        "tdvpr", "trap_exit", "ve_info", "vmcall",
    )  # fmt: skip
    RESET: ClassVar[dict[str, Any]] = {
        "state": VcpuState.UNINITIALIZED,
        "tdr": 0,
        "tdcx": 0,  # number of control pages beside the TDVPR
        "assoc_lp": None,
        "epoch": 0,  # in which it entered last
        "gprs": {},  # the guest's registers at its last TD exit; replaced, never changed
        "vmcall": (),  # registers that the guest lets the host answer in
        "trap_exit": False,  # the last TD exit was trap-like, so the host may give its hint
        "entry_rip": 0,
        "epf_count": 0,  # EPT violations at the RIP of the last entry
        "epf_gpas": (),  # (GPA, qualification) of the later ones: what TDH.VP.ENTER has to look at
        "ve_info": None,  # (exit reason, qualification, GPA) of a #VE that nobody has asked about
        "first_busy_tsc": None,  # when a TDCALL was first kept off a lock for the host
    }
    FIXED = Record.FIXED | {"tdvpr"}

    def __init__(self, journal: Journal, tdvpr: int) -> None:
        super().__init__(journal, f"vcpu:{tdvpr:#x}")
        object.__setattr__(self, "tdvpr", tdvpr)
        self._preset()


def refcount_of(epoch: Key) -> str:
    """The reference count that a vCPU entering in `epoch` is counted in."""
    return f"refcount{epoch & 1}"
