"""Metadata fields: what TDH.SYS.RD, TDH.MNG.RD, TDH.VP.RD and their kind read and write, one row each.

Ids, elements, who may read and write: [S25:global_sys_fields_lookup.c, tdr_tdcs_fields_lookup.c,
tdvps_fields_lookup.c]; a row without `since` is in [S01] too.  The real lists are longer: a field of which nothing is
emulated has no row, so its id is refused as one that does not exist, and the field before it names another one as the
next.  Comments say where that is.
"""

# ruff: noqa: E501, E702
from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from tdxlab.spec.bits import Layout, bit, bits, field, place

NO_FIELD = (1 << 64) - 1  # an id that names no field
MAX_CMRS, MAX_CPUID_CONFIGS = 32, 32  # elements that a caller can ask for, however many there are
HOST, DEBUGGER, GUEST = "h", "d", "g"  # the host, the host of a TD with ATTRIBUTES.DEBUG, the guest

# fmt: off


class FieldId(Layout):
    """The id of a field, or of an element of it.  [S01:tdx_api_defs.h md_field_id_t]"""

    CODE             = bits(23, 0)   # within its class; one more for each element
    _RESERVED        = bits(31, 24)
    SIZE             = bits(33, 32)  # an element has 1, 2, 4 or 8 bytes
    LAST_ELEMENT     = bits(37, 34)  # only in the header of a sequence (SYS.RDALL): elements of a field, less one
    LAST_FIELD       = bits(46, 38)  # only there: fields, less one
    _RESERVED2       = bits(49, 47)
    INC_SIZE         = bit(50)       # an element is two codes further; in no row here
    WRITE_MASK_VALID = bit(51)
    CONTEXT          = bits(54, 52)  # a leaf has its own and ignores this
    _RESERVED3       = bit(55)
    CLASS            = bits(61, 56)
    _RESERVED4       = bit(62)
    NON_ARCH         = bit(63)       # may change from version to version


class TdxFeatures0(Layout):
    """The field TDX_FEATURES0.  [S25:tdx_api_defs.h tdx_features_enum0_t; bits 23, 51: M]"""

    TD_MIGRATION = bit(0);                 TD_PRESERVING = bit(1);               SERVICE_TD = bit(2)
    TDG_VP_RDWR = bit(3);                  RELAXED_MEM_MNG_CONCURRENCY = bit(4); CPUID_VIRT_GUEST_CTRL = bit(5)
    TDX_IO = bit(6);                       TD_PARTITIONING = bit(7);             LOCAL_ATTESTATION = bit(8)
    TD_ENTRY_ENHANCEMENTS = bit(9);        HOST_PRIORITY_LOCKS = bit(10);        CONFIG_IA32_ARCH_CAP = bit(11)
    _RESERVED = bits(15, 12);              PENDING_EPT_VIOLATION_V2 = bit(16);   FMS_CONFIG = bit(17)
    NO_RBP_MOD = bit(18);                  L2_TLB_INVD_OPT = bit(19);            TOPOLOGY_ENUM = bit(20)
    PARTITIONED_TD_MIGRATION = bit(21);    _RESERVED2 = bit(22);                 CLFLUSH_BEFORE_ALLOC = bit(23)
    EVENT_FILTERING = bit(24);             ICSSD = bit(25);                      FIXED_CTR12_PROF = bit(26)
    MAXPA_VIRT = bit(27);                  APX = bit(28);                        CPUID2_VIRT = bit(29)
    VE_REDUCTION = bit(30);                ENHANCED_EVENT_FILTERING = bit(31);   TDX_CONNECT_PARTITIONING = bit(32)
    MAXGPA_VIRT = bit(33);                 _RESERVED3 = bits(35, 34);            DYNAMIC_PAMT = bit(36)
    FATAL_DIAGNOSTICS = bit(37);           PAGE_RELEASE = bit(38);               NRX = bit(39)
    ENHANCED_INTR_STATE = bit(40);         NON_BLOCKING_EXPORT = bit(41);        PERF_MASK = bit(42)
    SCAN_EXPORT_RESTORE = bit(43);         IMPORT_PAGE_STATUS = bit(44);         ENHANCED_INTR_VIRTUALIZATION = bit(45)
    VE_INFO_INTR_STATE = bit(46);          UPDATE_COMPATIBILITY = bit(47);       _RESERVED4 = bits(50, 48)
    ENHANCED_DEMOTE_INTERRUPTIBILITY = bit(51)
    _RESERVED5 = bits(63, 52)


class Attributes(Layout):
    """The field ATTRIBUTES.  [S01:tdx_api_defs.h; S25:td_control_structures.h]"""

    DEBUG = bit(0);              _RESERVED = bits(15, 1);     ICSSD = bit(16);             _RESERVED2 = bits(26, 17)
    LASS = bit(27);              SEPT_VE_DISABLE = bit(28);   MIGRATABLE = bit(29);        PKS = bit(30)
    KL = bit(31);                _RESERVED3 = bits(61, 32);   TPA = bit(62);               PERFMON = bit(63)


class ConfigFlags(Layout):
    """The field CONFIG_FLAGS.  [S25:tdx_api_defs.h, td_control_structures.h]"""

    GPAW                = bit(0)
    FLEXIBLE_PENDING_VE = bit(1)     # the guest may change TD_CTLS.PENDING_VE_DISABLE
    NO_RBP_MOD          = bit(2)
    MAXPA_VIRT          = bit(3)
    MAXGPA_VIRT         = bit(4)
    _RESERVED           = bits(63, 5)


class TdCtls(Layout):
    """The field TD_CTLS.  [S01:td_control_structures.h]  Left out: other bits, of which none does anything here."""

    PENDING_VE_DISABLE = bit(0)      # an access to a PENDING page is a TD exit, no #VE


class NotifyEnables(Layout):
    """The field NOTIFY_ENABLES.  [S01:td_control_structures.h]"""

    EPT_FAULTS = bit(0)              # #VE where the zero-step filter finds all faults resolved


class Context(IntEnum):
    """Whose fields."""

    SYS = 0  # the module
    TD = 1   # TDR and TDCS
    VP = 2   # TDVPS

# fmt: on


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """`fields` fields of `words` elements each, one behind the other from `id` on.

    reads: the attribute of the TD or vCPU that it shows; of the module each field is its own.  readers, writers: of
    HOST, DEBUGGER, GUEST.  mask: the bits that writers can write.  since: the version that has it first.
    """

    id: int
    name: str
    readers: str
    reads: str
    fields: int
    words: int
    writers: str
    mask: int
    since: str

    @property
    def code(self) -> int:
        """Its first element's."""
        return field(self.id, FieldId.CODE)

    @property
    def elements(self) -> int:
        """Of all fields of the row."""
        return self.fields * self.words

    @property
    def ones(self) -> int:
        """All bits of an element."""
        return (1 << (8 << field(self.id, FieldId.SIZE))) - 1

    def __str__(self) -> str:
        return self.name


FIELDS: dict[Context, list[Field]] = {context: [] for context in Context}
"""The rows of each context, in the order in which one names the next."""
BY_NAME: dict[str, Field] = {}


def row(
    id: int,
    name: str,
    readers: str,
    reads: str = "",
    fields: int = 1,
    words: int = 1,
    *,
    writers: str = "",
    mask: int = 0,
    since: str = "1.5.01",
) -> Field:
    """A row."""
    made = Field(id, name, readers, reads, fields, words, writers, mask, since)
    assert name not in BY_NAME, f"{name} is there twice"
    FIELDS[Context(field(id, FieldId.CONTEXT))].append(made)
    BY_NAME[name] = made
    return made


# fmt: off
# --- SYS: the module ---
row(0x0000_0002_0000_0000, "NUM_PKGS",                       "h")
# here: PKG_FMS
row(0x0800_0002_0000_0000, "VENDOR_ID",                      "hg")
# here: BUILD_DATE, BUILD_NUM
row(0x0800_0001_0000_0003, "MINOR_VERSION",                  "hg")
row(0x0800_0001_0000_0004, "MAJOR_VERSION",                  "hg")
row(0x0800_0001_0000_0005, "UPDATE_VERSION",                 "h")
# here: INTERNAL_VERSION, and 7 fields about updates
row(0x0A00_0002_0000_0000, "SYS_ATTRIBUTES",                 "hg")
row(0x0A00_0000_0000_0001, "NUM_TDX_FEATURES",               "hg")
row(0x0A00_0003_0000_0008, "TDX_FEATURES0",                  "hg")
row(0x9000_0001_0000_0000, "NUM_CMRS",                       "h")
row(0x9000_0003_0000_0080, "CMR_BASE",                       "h", fields=MAX_CMRS)
row(0x9000_0003_0000_0100, "CMR_SIZE",                       "h", fields=MAX_CMRS)
row(0x9100_0001_0000_0008, "MAX_TDMRS",                      "h")
row(0x9100_0001_0000_0009, "MAX_RESERVED_PER_TDMR",          "h")
row(0x9100_0001_0000_0010, "PAMT_4K_ENTRY_SIZE",             "h")
row(0x9100_0001_0000_0011, "PAMT_2M_ENTRY_SIZE",             "h")
row(0x9100_0001_0000_0012, "PAMT_1G_ENTRY_SIZE",             "h")
row(0x9100_0000_0000_0013, "PAMT_PAGE_BITMAP_ENTRY_BITS",    "h", since="1.5.20")
row(0x9100_0000_0000_0014, "MIN_DYNAMIC_PAMT_NUM_HKID_BITS", "h", since="1.5.20")
row(0x9800_0001_0000_0000, "TDR_BASE_SIZE",                  "h")
row(0x9800_0001_0000_0100, "TDCS_BASE_SIZE",                 "h")
row(0x9800_0001_0000_0101, "TDCS_SIZE_PER_L2_VM",            "h")
row(0x9800_0001_0000_0200, "TDVPS_BASE_SIZE",                "h")
row(0x9800_0001_0000_0201, "TDVPS_SIZE_PER_L2_VM",           "h")
row(0x1900_0003_0000_0000, "ATTRIBUTES_FIXED0",              "h")
row(0x1900_0003_0000_0001, "ATTRIBUTES_FIXED1",              "h")
row(0x1900_0003_0000_0002, "XFAM_FIXED0",                    "h")
row(0x1900_0003_0000_0003, "XFAM_FIXED1",                    "h")
row(0x9900_0001_0000_0004, "NUM_CPUID_CONFIG",               "h")
row(0x9900_0003_0000_0006, "CONFIG_FLAGS_FIXED0",            "h")
row(0x9900_0003_0000_0007, "CONFIG_FLAGS_FIXED1",            "h")
row(0x9900_0001_0000_0008, "MAX_VCPUS_PER_TD",               "h", since="1.5.05")
# here: MIN_VIRT_MAXPA, MAX_EVENT_FILTERS
row(0x9900_0003_0000_0400, "CPUID_CONFIG_LEAVES",            "h", fields=MAX_CPUID_CONFIGS)
row(0x9900_0003_0000_0500, "CPUID_CONFIG_VALUES",            "h", fields=MAX_CPUID_CONFIGS, words=2)
# behind: IA32_ARCH_CAPABILITIES_CONFIG_MASK, family-model-stepping lists, migration, service TDs, partitioning

# --- TD: TDR, then TDCS ---
row(0x8010_0000_0000_0001, "FATAL",                  "hd",  "fatal")
row(0x8010_0002_0000_0002, "NUM_TDCX",               "hd",  "tdcx")
row(0x8010_0003_0000_0004, "CHLDCNT",                "hd",  "chldcnt")
row(0x8010_0002_0000_0005, "LIFECYCLE_STATE",        "hd",  "lifecycle")
row(0x8010_0003_0000_0010, "TDCX_PA",                "hd",  "tdcx", fields=9)
# here: TD_UUID
row(0x8110_0001_0000_0001, "HKID",                   "hd",  "hkid")
row(0x8110_0003_0000_0002, "PKG_CONFIG_BITMAP",      "hd",  "pkg_config_bitmap")
# here: HANDOFF_VERSION, SEAMDB_INDEX
row(0x9010_0002_0000_0001, "NUM_VCPUS",              "hdg", "num_vcpus")
row(0x9010_0002_0000_0002, "NUM_ASSOC_VCPUS",        "hd",  "num_assoc_vcpus")
row(0x9010_0002_0000_0004, "OP_STATE",               "hd",  "op_state")
row(0x9010_0001_0000_0005, "NUM_L2_VMS",             "hdg", "num_l2_vms")
row(0x1110_0003_0000_0000, "ATTRIBUTES",             "hdg", "attributes")
row(0x1110_0003_0000_0001, "XFAM",                   "hdg", "xfam")
row(0x1110_0002_0000_0002, "MAX_VCPUS",              "hdg", "max_vcpus")
row(0x1110_0000_0000_0003, "GPAW",                   "hdg", "gpaw")
row(0x1110_0003_0000_0004, "EPTP",                   "hd",  "eptp")
row(0x1110_0003_0000_000A, "TSC_OFFSET",             "hd",  "tsc_frequency")
row(0x1110_0003_0000_000B, "TSC_MULTIPLIER",         "hd",  "tsc_multiplier")
row(0x1110_0001_0000_000C, "TSC_FREQUENCY",          "hdg", "tsc_frequency")
# here: VIRTUAL_TSC (which nobody may read), NUM_CPUID_VALUES, XBUFF_SIZE
row(0x9110_0003_0000_0010, "NOTIFY_ENABLES",         "dg",  "notify_enables", writers="dg", mask=NotifyEnables.EPT_FAULTS)
row(0x9110_0003_0000_0011, "HP_LOCK_TIMEOUT",        "hd",  "hp_lock_timeout", writers="hd", mask=bits(63, 0))  # in microseconds
# here: VM_CTLS
row(0x9110_0003_0000_0016, "CONFIG_FLAGS",           "hdg", "config_flags")
row(0x9110_0003_0000_0017, "TD_CTLS",                "dg",  "td_ctls", writers="g", mask=TdCtls.PENDING_VE_DISABLE)
# here: VIRT_MAXPA, TOPOLOGY_ENUM_CONFIGURED, VE_REDUCTION_VALID, CPUID and event filter fields, XBUFF_OFFSETS
row(0x9210_0003_0000_0000, "TD_EPOCH",               "hd",  "td_epoch")
row(0x9210_0001_0000_0001, "REFCOUNT_0",             "hd",  "refcount0")  # REFCOUNT is one row of two fields there
row(0x9210_0001_0000_0002, "REFCOUNT_1",             "hd",  "refcount1")
row(0x1310_0003_0000_0000, "MRTD",                   "hdg", "mrtd", words=6)
row(0x1310_0003_0000_0010, "MRCONFIGID",             "hdg", "mrconfigid", words=6)
row(0x1310_0003_0000_0018, "MROWNER",                "hdg", "mrowner", words=6)
row(0x1310_0003_0000_0020, "MROWNERCONFIG",          "hdg", "mrownerconfig", words=6)
row(0x1310_0003_0000_0040, "RTMR",                   "dg",  "rtmrs", fields=4, words=6)
# behind: CPUID_VALUES, virtual MSRs, migration, service TDs, x2APIC ids

# --- VP: TDVPS ---
row(0x0020_0003_0000_203C, "SHARED_EPTP",            "hd",  "shared_eptp", writers="hd", mask=bits(51, 12))
# around: the TD VMCS, then VAPIC
row(0x0220_0002_0000_0000, "EXIT_REASON",            "d",   "ve_info")
row(0x0220_0002_0000_0001, "VALID",                  "d",   "ve_info")
row(0x0220_0003_0000_0002, "EXIT_QUALIFICATION",     "d",   "ve_info")
# here: GLA
row(0x0220_0003_0000_0004, "GPA",                    "d",   "ve_info")
# here: EPTP_INDEX, INSTRUCTION_LENGTH, INSTRUCTION_INFORMATION
for code, name in enumerate(("RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", *(f"R{n}" for n in range(8, 16)))):
    if name not in ("RSP", "RBP"):  # RSP is in the TD VMCS; left out: RBP
        row(0x1020_0003_0000_0000 | code, name,      "d",   "gprs", writers="d", mask=bits(63, 0))
# here: debug registers, VCPU_STATE_DETAILS, the extended state, MSRs
row(0xA020_0000_0000_0000, "VCPU_STATE",             "d",   "state")
row(0xA020_0002_0000_0002, "VCPU_INDEX",             "hdg", "index")
row(0xA020_0000_0000_0003, "NUM_TDVPS_PAGES",        "hd",  "tdcx")
row(0xA020_0002_0000_0004, "ASSOC_LPID",             "hd",  "assoc_lp")
row(0xA020_0003_0000_0006, "VCPU_EPOCH",             "hd",  "epoch")
row(0xA020_0000_0000_0007, "CPUID_SUPERVISOR_VE",    "hdg", "cpuid_supervisor_ve", writers="g", mask=bits(7, 0))
row(0xA020_0000_0000_0008, "CPUID_USER_VE",          "hdg", "cpuid_user_ve", writers="g", mask=bits(7, 0))
# here: LAST_EXIT_TSC, PEND_NMI
row(0xA020_0000_0000_000D, "LAST_EPF_GPA_LIST_IDX",  "d",   "epf_gpas")
row(0xA020_0000_0000_000E, "POSSIBLY_EPF_STEPPING",  "d",   "epf_count")
# here: LAST_TD_EXIT, TDVPS_PAGE_PA
row(0xA020_0003_0000_0030, "HP_LOCK_BUSY_START",     "d",   "first_busy_tsc")
row(0xA020_0000_0000_0031, "HP_LOCK_BUSY",           "d",   "first_busy_tsc")
# here: L2 VMs, CPUID_CONTROL
row(0xA220_0003_0000_0200, "LAST_EPF_GPA_LIST",      "d",   "epf_gpas", fields=32)
# behind: L2 VMs
# fmt: on


def sequence(first: Field, id: int, fields: int) -> int:
    """The header of a sequence of `fields` fields like `first`, from `id` on."""
    return id | place(first.words - 1, FieldId.LAST_ELEMENT) | place(fields - 1, FieldId.LAST_FIELD)
