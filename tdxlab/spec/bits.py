"""Bit layouts as class bodies: a bit, or (msb, lsb), then what it means.

`SeptEntry(word).HPA` reads a field (in place, not shifted: an HPA stays an HPA), `SeptEntry.HPA` is its mask,
`field(word, mask)` shifts it down.
"""

from __future__ import annotations

# fmt: off


def bit(n: int) -> int:
    """The mask of one bit."""
    return 1 << n


def bits(msb: int, lsb: int) -> int:
    """The mask of bits msb:lsb."""
    return (1 << msb + 1) - (1 << lsb)


def field(word: int, mask: int) -> int:
    """The value in the bits of `mask`, shifted down."""
    return (word & mask) // (mask & -mask)


def place(value: int, mask: int) -> int:
    """The inverse of `field`."""
    return value * (mask & -mask)


class Layout:
    """Masks as class attributes.  `fields()` lists them; every bit of a word is in exactly one of them."""

    @classmethod
    def fields(cls) -> dict[str, int]:
        """{name: mask} in the order of the class body."""
        return {name: mask for name, mask in vars(cls).items() if isinstance(mask, int) and not name.startswith("__")}

    @classmethod
    def show(cls, word: int) -> str:
        """The fields that are not 0, for people."""
        return " ".join(f"{name}={field(word, mask):#x}" for name, mask in cls.fields().items() if word & mask)


class SeptEntry(Layout):
    """A Secure-EPT entry as it stands in memory.  [S01:x86_defs.h ia32e_sept_t]"""

    R          = bit(0)
    W          = bit(1)
    X          = bit(2)
    MT         = bits(5, 3)    # memory type, 6 = write-back, on leaves
    IPAT       = bit(6)        # part of the state
    PS         = bit(7)        # leaf, also at 4K; part of the state
    A          = bit(8)
    D          = bit(9)        # part of the state
    XU         = bit(10)       # execute for user addresses; set from 1.5.25 on
    LOCK       = bit(11)       # TDEL: the entry's lock
    HPA        = bits(51, 12)  # of a PENDING 2M page: bits 20:12 count the 4K chunks accepted
    HP         = bit(52)       # TDHP: kept for the host
    EX         = bit(53)       # TDEX: exported; part of the state
    BW         = bit(54)       # TDBW: blocked for writing; part of the state
    B          = bit(55)       # TDB: blocked; part of the state
    P          = bit(56)       # TDP: pending; part of the state
    _IGNORED   = bit(57)
    L2_ALIAS   = bits(60, 58)
    _IGNORED_2 = bits(62, 61)
    SVE        = bit(63)       # suppress #VE: always 1


class GpaLevel(Layout):
    """Operand "GPA and level" of the S-EPT leaves.  [S01:tdx_api_defs.h]"""

    LEVEL      = bits(2, 0)
    _RESERVED  = bits(11, 3)
    GPA        = bits(51, 12)
    _RESERVED2 = bits(63, 52)


class HpaLevel(Layout):
    """Operand "HPA and level" of the Dynamic PAMT leaves, and of PAGE.RDMD there.  [S25:tdx_api_defs.h]"""

    LEVEL      = bits(2, 0)
    _RESERVED  = bits(11, 3)
    HPA        = bits(51, 12)
    _RESERVED2 = bits(63, 52)


class SysConfig(Layout):
    """R8 of TDH.SYS.CONFIG.  [S25:tdh_sys_config.c]"""

    HKID         = bits(15, 0)
    DYNAMIC_PAMT = bit(16)
    _RESERVED    = bits(63, 17)


class SysShutdown(Layout):
    """RCX of TDH.SYS.SHUTDOWN; bit 16 with TDX_FEATURES0.UPDATE_COMPATIBILITY.  [S25:tdh_sys_shutdown.c]"""

    HANDOFF_VERSION        = bits(15, 0)
    AVOID_COMPAT_SENSITIVE = bit(16)
    _RESERVED              = bits(63, 17)


class TdrFlags(Layout):
    """Operand "TDR and flag": SEPT.ADD allow_existing, DEMOTE L2_SEPT_ADD_MODE.  [S01:tdx_api_defs.h]"""

    FLAG       = bit(0)
    _RESERVED  = bits(11, 1)
    TDR        = bits(51, 12)
    _RESERVED2 = bits(63, 52)


class VpEnter(Layout):
    """RCX of TDH.VP.ENTER.  [S01:tdx_api_defs.h]"""

    _RESERVED  = bits(11, 0)
    TDVPR      = bits(51, 12)
    HINT       = bit(52)       # host-recoverability hint
    RESUME_L1  = bit(53)
    _RESERVED2 = bits(63, 54)


class Vmcall(Layout):
    """RCX of TDG.VP.VMCALL: the registers that the guest passes.  [S01:tdx_api_defs.h]"""

    NEVER      = bits(1, 0) | bit(4)  # RAX, RCX, RSP
    RBP        = bit(5)               # if CONFIG_FLAGS do not say NO_RBP_MOD
    GPRS       = bits(3, 2) | bits(15, 6)
    XMMS       = bits(31, 16)
    _RESERVED  = bits(63, 32)


class CpuidVe(Layout):
    """RCX of TDG.VP.CPUIDVE.SET.  [S01:tdg_vp_cpuidve_set.c]"""

    SUPERVISOR = bit(0)
    USER       = bit(1)
    _RESERVED  = bits(63, 2)


class GpaMapping(Layout):
    """RCX of TDG.MEM.PAGE.ATTR.RD and WR afterwards.  [S01:tdx_api_defs.h]"""

    LEVEL      = bits(2, 0)
    _RESERVED  = bits(11, 3)
    GPA        = bits(51, 12)
    _RESERVED2 = bits(61, 52)
    PENDING    = bit(62)
    _RESERVED3 = bit(63)


class PageAttributes(Layout):
    """What a VM may do with a page: 16 bits for each of four in RDX and R8 of those leaves.  [S01:tdx_api_defs.h]"""

    R          = bit(0)
    W          = bit(1)
    XS         = bit(2)        # execute, in supervisor mode
    XU         = bit(3)        # and in user mode
    VGP        = bit(4)        # verify guest paging
    PWA        = bit(5)        # paging-write access
    SSS        = bit(6)        # supervisor shadow stack
    SVE        = bit(7)        # suppress #VE: never
    _RESERVED  = bits(14, 8)
    VALID      = bit(15)       # in R8: flush the VM's translations
    _OTHERS    = bits(63, 16)


class PamtEntry(Layout):
    """The first word of a PAMT entry; the second is BEPOCH.  [S01:pamt_manager.h]"""

    LOCK       = bits(15, 0)   # kept as a word of its own here
    TYPE       = bits(23, 16)
    OWNER      = bits(63, 24)  # the TDR's frame number


class PamtNode(Layout):
    """The first word of a 2M entry that leads to a page pair (Dynamic PAMT).  [S25:pamt_manager.h]"""

    LOCK       = bits(15, 0)   # kept as a word of its own here
    TYPE       = bits(20, 16)  # PT_PAMT
    _RESERVED  = bits(27, 21)
    PAGE       = bits(63, 28)  # frame number of page 0, with the entries of the range's first MiB


class PamtNodeTail(Layout):
    """The second word of such an entry.  [S25:pamt_manager.h]"""

    COUNT      = bits(9, 0)    # 4K pages in use in the range; kept as a word of its own here
    _RESERVED  = bits(27, 10)
    PAGE       = bits(63, 28)  # frame number of page 1, with those of the second


class SharexWord(Layout):
    """A shared/exclusive try-lock with host priority.  [S01:tdx_locks.h]"""

    EXCLUSIVE  = bit(0)
    HP         = bit(1)
    READERS    = bits(15, 2)   # the word has 16 bits


class EptViolation(Layout):
    """The part of an EPT violation's exit qualification that is used.  [S01:vmcs_defs.h]"""

    READ       = bit(0)
    WRITE      = bit(1)
    FETCH      = bit(2)
    ENTRY_RWX  = bits(5, 3)    # what the entry allowed
    ENTRY_XU   = bit(6)
    GLA_VALID  = bit(7)        # bits 12:7 are forced to 0 on every TD exit
    GLA_USED   = bit(8)        # the access itself, not that of a page walk
    _GLA_INFO  = bits(12, 9)
    _REST      = bits(63, 13)


class ExtendedQualification(Layout):
    """RDX of an EPT-violation TD exit.  [S01:tdx_api_defs.h]"""

    TYPE       = bits(3, 0)    # 0 none, 1 ACCEPT, 5 ATTR_WR, 6 PENDING_EPT_VIOLATION
    _RESERVED  = bits(31, 4)
    REQUESTED  = bits(34, 32)  # the level that the TDCALL asked for
    LEVEL      = bits(37, 35)  # the level at which the walk ended
    STATE      = bits(45, 38)  # the architectural state code of that entry
    LEAF       = bit(46)
    _RESERVED2 = bits(51, 47)
    VM         = bits(53, 52)
    _RESERVED3 = bits(63, 54)
