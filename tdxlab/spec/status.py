"""Completion statuses: the 64-bit value in RAX, and the sentence that explains it.

Bit 63 error, 62 not recoverable, 61 fatal, 60 host-recoverability hint, 47:32 class and name, 31:0 detail: an
operand id for most refusals, else a level, a state, an exit reason.  Values: [S01:tdx_error_codes_defs.h], those
marked 1.5.20 [S25:tdx_error_codes_defs.h].
"""

# ruff: noqa: E501
from __future__ import annotations

from tdxlab.spec.operands import Operand

DETAIL = 0xFFFF_FFFF


class Status(int):
    """A RAX value.  A bare code and the same code with a detail are different; compare `.code`, as KVM masks."""

    def at(self, detail: int) -> Status:
        """This code with `detail` (an operand, a level) in bits 31:0."""
        return Status((self & ~DETAIL) + detail)

    @property
    def code(self) -> Status:
        """Bits 63:32 alone."""
        return Status(self & ~DETAIL)

    @property
    def detail(self) -> int:
        """Bits 31:0."""
        return self & DETAIL

    @property
    def error(self) -> bool:
        """Bit 63.  ALREADY_BLOCKED and ALREADY_ACCEPTED are no errors, and yet not 0."""
        return bool(self >> 63)

    @property
    def flags(self) -> list[str]:
        """What bits 63:60 say."""
        return [text for bit, text in FLAGS.items() if self >> bit & 1]

    @property
    def family(self) -> str:
        """What bits 47:40 say."""
        return CLASSES.get(self >> 40 & 0xFF, "")

    @property
    def name(self) -> str:
        """TDX_OPERAND_BUSY for 0x80000200_00000092."""
        code = self & ~DETAIL
        return NAMES.get(code) or f"{code:#018x}"

    @property
    def sentence(self) -> str:
        """What it says to the caller."""
        return SENTENCES.get(self.code, "")

    def __repr__(self) -> str:
        if not self.detail:
            return self.name
        operand = self.code in TAKES_OPERAND and self.detail in Operand._value2member_map_
        return f"{self.name}|{Operand(self.detail).name if operand else f'{self.detail:#x}'}"

    __str__ = __repr__


# fmt: off
FLAGS = {63: "error", 62: "not recoverable", 61: "fatal", 60: "the host may give a hint"}
CLASSES = {
    0x00: "general", 0x01: "operand", 0x02: "resource busy", 0x03: "page metadata", 0x04: "association with a TD",
    0x05: "system", 0x06: "TD", 0x07: "vCPU", 0x08: "key", 0x09: "platform", 0x0A: "TDMR", 0x0B: "Secure EPT",
    0x0C: "metadata field", 0x0D: "service TD", 0x0E: "migration", 0x10: "report", 0x11: "L2 VM",
    0xFF: "software: the kernel's own",  # M: Kirill Shutemov 2025
}
# fmt: on

NAMES: dict[int, str] = {}
SENTENCES: dict[int, str] = {}
TAKES_OPERAND: set[int] = set()


def status(value: int, sentence: str, operand: bool = False) -> Status:
    """A row.  operand: the detail is an operand id."""
    SENTENCES[value] = sentence
    if operand:
        TAKES_OPERAND.add(value)
    return Status(value)


# fmt: off
# general
TDX_SUCCESS = status(0x0000_0000_0000_0000, "the call has done its work")
TDX_NON_RECOVERABLE_VCPU = status(0x4000_0001_0000_0000, "TD exit: this vCPU can not run again")
TDX_NON_RECOVERABLE_TD = status(0x6000_0002_0000_0000, "TD exit: this TD can not run again")
TDX_INTERRUPTED_RESUMABLE = status(0x8000_0003_0000_0000, "an interrupt is pending; partial work is kept, call again")
TDX_INTERRUPTED_RESTARTABLE = status(0x8000_0004_0000_0000, "an interrupt is pending; no work is kept, call again")
TDX_NON_RECOVERABLE_TD_NON_ACCESSIBLE = status(0x6000_0005_0000_0000, "TD exit: the TD's memory is no longer accessible")
TDX_INVALID_RESUMPTION = status(0xC000_0006_0000_0000, "the operands differ from those of the interrupted call")
TDX_NON_RECOVERABLE_TD_WRONG_APIC_MODE = status(0xE000_0007_0000_0000, "TD exit: the LP left x2APIC mode")
TDX_CROSS_TD_FAULT = status(0x8000_0008_0000_0000, "TD exit: a service TD met a fault in its target")
TDX_CROSS_TD_TRAP = status(0x9000_0009_0000_0000, "TD exit: a service TD met a trap in its target")
# operands
TDX_OPERAND_INVALID = status(0xC000_0100_0000_0000, "an operand has reserved bits set, is misaligned or out of range", True)
TDX_OPERAND_ADDR_RANGE_ERROR = status(0xC000_0101_0000_0000, "the HPA is in no initialised block of a TDMR", True)
TDX_OPERAND_BUSY = status(0x8000_0200_0000_0000, "another CPU holds a lock on this operand; try again", True)
TDX_PREVIOUS_TLB_EPOCH_BUSY = status(0x8000_0201_0000_0000, "a vCPU still runs in the previous TLB epoch")
TDX_SYS_BUSY = status(0x8000_0202_0000_0000, "another CPU holds the module's global lock")
TDX_RND_NO_ENTROPY = status(0x8000_0203_0000_0000, "no random number was ready; try again")
TDX_OPERAND_BUSY_HOST_PRIORITY = status(0x8000_0204_0000_0000, "internal: the lock is free but kept for the host", True)
TDX_HOST_PRIORITY_BUSY_TIMEOUT = status(0x9000_0205_0000_0000, "TD exit: the guest was kept off a lock for too long")
TDX_INTERRUPTED_BUSY = status(0x8000_0206_0000_0000, "the call stood back for another host call that waits (1.5.20)")
# page metadata
TDX_PAGE_METADATA_INCORRECT = status(0xC000_0300_0000_0000, "the page's PAMT entry has another type or size", True)
TDX_PAGE_ALREADY_FREE = status(0x0000_0301_0000_0000, "the page is free already", True)
TDX_PAGE_NOT_OWNED_BY_TD = status(0xC000_0302_0000_0000, "the page belongs to another TD", True)
TDX_PAGE_NOT_FREE = status(0xC000_0303_0000_0000, "a page offered for the PAMT is in use", True)
TDX_HPA_RANGE_NOT_FREE = status(0xC000_0304_0000_0000, "the 2M range has a PAMT page pair or is a large page (1.5.20)", True)
TDX_NO_PAMT_PAGE_PAIR = status(0xC000_0305_0000_0000, "there is no PAMT page pair to remove (1.5.20)", True)
TDX_PAMT_PAGE_NOT_EMPTY = status(0xC000_0306_0000_0000, "a page that this PAMT page describes is in use (1.5.20)")
TDX_INTERRUPTED_PAMT = status(0x8000_0307_0000_0000, "import stopped for want of a PAMT page pair (1.5.20)", True)
TDX_MISSING_PAMT_PAGE_PAIR = status(0x8000_0308_0000_0000, "the page's 2M range has no PAMT page pair (1.5.20)", True)
# association with a TD
TDX_TD_ASSOCIATED_PAGES_EXIST = status(0xC000_0400_0000_0000, "the TD still has pages")
# the module as a whole
TDX_SYS_INIT_NOT_PENDING = status(0xC000_0500_0000_0000, "TDH.SYS.INIT was done before")
TDX_SYS_LP_INIT_NOT_DONE = status(0xC000_0502_0000_0000, "TDH.SYS.LP.INIT was not done on this or every LP")
TDX_SYS_LP_INIT_DONE = status(0xC000_0503_0000_0000, "TDH.SYS.LP.INIT was done on this LP before")
TDX_SYS_NOT_READY = status(0xC000_0505_0000_0000, "the module is not yet ready for this leaf")
TDX_SYS_SHUTDOWN = status(0xC000_0506_0000_0000, "the module has been shut down")
TDX_SYS_KEY_CONFIG_NOT_PENDING = status(0xC000_0507_0000_0000, "TDH.SYS.KEY.CONFIG is not due")
TDX_SYS_STATE_INCORRECT = status(0xC000_0508_0000_0000, "the module's state does not allow this now")
TDX_SYS_INVALID_HANDOFF = status(0xC000_0509_0000_0000, "the module before this one left nothing that can be taken over")
TDX_SYS_LP_INIT_NOT_PENDING = status(0xC000_050B_0000_0000, "TDH.SYS.LP.INIT is not due")
TDX_SYS_CONFIG_NOT_PENDING = status(0xC000_050C_0000_0000, "TDH.SYS.CONFIG is not due")
TDX_UPDATE_COMPAT_SENSITIVE = status(0x8000_0512_0000_0000, "a TD is being built, which an update could spoil; bits 31:16 say how many")  # M:Chao Gao 2026
# TD
TDX_TD_FATAL = status(0xE000_0604_0000_0000, "the TD has met a fatal error")
TDX_TD_NON_DEBUG = status(0xC000_0605_0000_0000, "only a debuggable TD allows this")
TDX_TDCS_NOT_ALLOCATED = status(0xC000_0606_0000_0000, "the TD has too few TDCX pages")
TDX_LIFECYCLE_STATE_INCORRECT = status(0xC000_0607_0000_0000, "the TD's life cycle does not allow this now")
TDX_OP_STATE_INCORRECT = status(0xC000_0608_0000_0000, "the TD's operation state does not allow this now")
TDX_NO_VCPUS = status(0xC000_0609_0000_0000, "the TD has no initialised vCPU")
TDX_TDCX_NUM_INCORRECT = status(0xC000_0610_0000_0000, "the number of TDCX pages does not allow this")
TDX_X2APIC_ID_NOT_UNIQUE = status(0xC000_0621_0000_0000, "another vCPU has this x2APIC id; the detail is the id (1.5.08)")
# vCPU
TDX_VCPU_STATE_INCORRECT = status(0xC000_0700_0000_0000, "the vCPU's state does not allow this now")
TDX_VCPU_ASSOCIATED = status(0x8000_0701_0000_0000, "the vCPU is associated with another LP")
TDX_VCPU_NOT_ASSOCIATED = status(0x8000_0702_0000_0000, "the vCPU is associated with no LP or another one")
TDX_NO_VALID_VE_INFO = status(0xC000_0704_0000_0000, "no #VE is waiting to be looked at")
TDX_MAX_VCPUS_EXCEEDED = status(0xC000_0705_0000_0000, "the TD has all the vCPUs that its parameters allow")
TDX_TSC_ROLLBACK = status(0xC000_0706_0000_0000, "the TSC is behind its value at the last TD exit")
# keys
TDX_KEY_GENERATION_FAILED = status(0x8000_0800_0000_0000, "no entropy for a key; try again")
TDX_TD_KEYS_NOT_CONFIGURED = status(0x8000_0810_0000_0000, "the TD's key is not configured on every package")
TDX_KEY_STATE_INCORRECT = status(0xC000_0811_0000_0000, "the HKID's state does not allow this")
TDX_KEY_CONFIGURED = status(0x0000_0815_0000_0000, "this package's key was configured before")
TDX_WBCACHE_NOT_COMPLETE = status(0x8000_0817_0000_0000, "caches were not written back on every package")
TDX_HKID_NOT_FREE = status(0xC000_0820_0000_0000, "the HKID is in use")
TDX_NO_HKID_READY_TO_WBCACHE = status(0x0000_0821_0000_0000, "no HKID waits for a cache write-back")
TDX_WBCACHE_RESUME_ERROR = status(0xC000_0823_0000_0000, "there is no interrupted cache write-back to resume")
TDX_FLUSHVP_NOT_DONE = status(0x8000_0824_0000_0000, "a vCPU is still associated with an LP")
# TDMRs
TDX_INVALID_TDMR = status(0xC000_0A00_0000_0000, "a TDMR is misaligned or empty; the detail says which")
TDX_NON_ORDERED_TDMR = status(0xC000_0A01_0000_0000, "the TDMRs are not in ascending order")
TDX_TDMR_OUTSIDE_CMRS = status(0xC000_0A02_0000_0000, "a TDMR has memory outside the CMRs that is not reserved")
TDX_TDMR_ALREADY_INITIALIZED = status(0x0000_0A03_0000_0000, "the TDMR is initialised completely")
TDX_INVALID_PAMT = status(0xC000_0A10_0000_0000, "a PAMT area is misaligned or too small")
TDX_PAMT_OUTSIDE_CMRS = status(0xC000_0A11_0000_0000, "a PAMT area is outside the CMRs")
TDX_PAMT_OVERLAP = status(0xC000_0A12_0000_0000, "a PAMT area overlaps another one or a TDMR's memory")
TDX_INVALID_RESERVED_IN_TDMR = status(0xC000_0A20_0000_0000, "a reserved area is misaligned or outside its TDMR")
TDX_NON_ORDERED_RESERVED_IN_TDMR = status(0xC000_0A21_0000_0000, "the reserved areas are not in ascending order")
# Secure EPT
TDX_EPT_WALK_FAILED = status(0xC000_0B00_0000_0000, "the walk stopped above the level asked for", True)
TDX_EPT_ENTRY_FREE = status(0xC000_0B01_0000_0000, "the entry is free", True)
TDX_EPT_ENTRY_NOT_FREE = status(0xC000_0B02_0000_0000, "the entry is not free", True)
TDX_EPT_ENTRY_NOT_PRESENT = status(0xC000_0B03_0000_0000, "the entry is not present", True)
TDX_EPT_ENTRY_NOT_LEAF = status(0xC000_0B04_0000_0000, "the entry is not a leaf", True)
TDX_EPT_ENTRY_LEAF = status(0xC000_0B05_0000_0000, "the entry is a leaf", True)
TDX_GPA_RANGE_NOT_BLOCKED = status(0xC000_0B06_0000_0000, "the TD may run, so the entry must be blocked first", True)
TDX_GPA_RANGE_ALREADY_BLOCKED = status(0x0000_0B07_0000_0000, "the entry is blocked already", True)
TDX_TLB_TRACKING_NOT_DONE = status(0xC000_0B08_0000_0000, "a vCPU may still use an old translation of the range", True)
TDX_EPT_INVALID_PROMOTE_CONDITIONS = status(0xC000_0B09_0000_0000, "the 512 entries can not become one", True)
TDX_PAGE_ALREADY_ACCEPTED = status(0x0000_0B0A_0000_0000, "the guest has accepted the page before; the detail is its level")
TDX_PAGE_SIZE_MISMATCH = status(0xC000_0B0B_0000_0000, "the range is mapped at a smaller size; the detail is the level")
TDX_GPA_RANGE_BLOCKED = status(0xC000_0B0C_0000_0000, "the entry is blocked", True)
TDX_EPT_ENTRY_STATE_INCORRECT = status(0xC000_0B0D_0000_0000, "the entry's state does not allow this leaf", True)
TDX_EPT_PAGE_NOT_FREE = status(0xC000_0B0E_0000_0000, "an entry of the S-EPT page is in use", True)
TDX_L2_SEPT_WALK_FAILED = status(0xC000_0B0F_0000_0000, "the walk of an L2 S-EPT failed; the detail is VM and level")
TDX_L2_SEPT_ENTRY_NOT_FREE = status(0xC000_0B10_0000_0000, "an entry of an L2 S-EPT is in use")
TDX_PAGE_ATTR_INVALID = status(0xC000_0B11_0000_0000, "these page attributes are not allowed")
TDX_L2_SEPT_PAGE_NOT_PROVIDED = status(0xC000_0B12_0000_0000, "an L2 S-EPT page is missing", True)
# metadata fields
TDX_METADATA_FIELD_ID_INCORRECT = status(0xC000_0C00_0000_0000, "there is no such field")
TDX_METADATA_FIELD_NOT_WRITABLE = status(0xC000_0C01_0000_0000, "the field can not be written by this caller")
TDX_METADATA_FIELD_NOT_READABLE = status(0xC000_0C02_0000_0000, "the field can not be read by this caller")
TDX_METADATA_FIELD_VALUE_NOT_VALID = status(0xC000_0C03_0000_0000, "the field can not have this value")
TDX_METADATA_FIELD_CURRENTLY_NOT_WRITABLE = status(0xC000_0C09_0000_0000, "the field can not be written now")
TDX_METADATA_WR_MASK_NOT_VALID = status(0xC000_0C0A_0000_0000, "the write mask has bits that can not be written")
TDX_METADATA_FIRST_FIELD_ID_IN_CONTEXT = status(0x0000_0C0B_0000_0000, "no field was named; RDX is the first one")
# reports, L2 VMs
TDX_INVALID_CPUSVN = status(0xC000_1000_0000_0000, "the report was made by a processor of another security version")
TDX_INVALID_REPORTMACSTRUCT = status(0xC000_1001_0000_0000, "the report was not made on this machine")
TDX_PENDING_INTERRUPT = status(0x0000_1120_0000_0000, "an interrupt waits for L1, so L2 is not entered")
TDX_GLA_NOT_CANONICAL = status(0xC000_1160_0000_0000, "the linear address is not canonical")
# fmt: on

NAMES.update({value: name for name, value in list(globals().items()) if isinstance(value, Status)})
BY_NAME: dict[str, Status] = {name: Status(value) for value, name in NAMES.items()}
