"""What firmware and processor give a machine, fixed before the module is loaded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Platform:
    """Unless told otherwise that of the recordings.  [oracle]

    Left out: more than one package, MSRs by number, CPUID beyond what leaves show.
    """

    cmrs: tuple[tuple[int, int], ...] = ()
    """(base, bytes) of the convertible memory, ascending."""
    lps: int = 4
    """Logical processors, each of which must initialise the module."""
    max_pa: int = 52
    """Physical address bits (MAXPA), the HKID among them."""
    keyid_bits: int = 6
    """HKID bits on top of the physical address (IA32_TME_ACTIVATE)."""
    mktme_keys: int = 31
    """HKIDs 1 to this one are shared (IA32_MKTME_KEYID_PARTITIONING, low half)."""
    tdx_keys: int = 32
    """How many HKIDs behind them are private (the high half)."""
    wb_sub_blocks: int = 1
    """Parts that a cache is written back in; between two of them an interrupt is looked for (IA32_WBINVDP)."""

    tsc_mhz: int = 2000
    """What the time-stamp counter counts in a microsecond."""
    cpuid_1_eax: int = 0x806F8
    """Family, model and stepping of the processors."""
    encrypts: bool = False
    """A page reads as something else through every HKID; the recordings were made without encryption."""
    xfam: int = 0x602E7
    """The extended features that a guest can have (bits of XCR0 and IA32_XSS)."""

    @property
    def hkid_start(self) -> int:
        """The lowest HKID bit of a physical address."""
        return self.max_pa - self.keyid_bits

    @property
    def private_hkids(self) -> range:
        """The HKIDs that TDs and the module itself can have."""
        return range(self.mktme_keys + 1, self.mktme_keys + 1 + self.tdx_keys)
