"""The leaves of SEAMCALL and TDCALL: number, versions, operands in register order, purpose; built or not.

Numbers, registers: [S01:tdx_api_defs.h, tdx_vmm_dispatcher.c, tdx_td_dispatcher.c] unless the line says else.
"""

# ruff: noqa: E501
from __future__ import annotations

from dataclasses import dataclass

NULL_PA = (1 << 64) - 1  # "no page"
CONNECT = "intel/tdx-module 2.0:tdx_api_defs.h"  # where TDX Connect is
REGISTERS = ("rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13")


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """side: "host" (SEAMCALL) or "guest" (TDCALL).  operands: (register, meaning) in order.

    versions: the highest version that is accepted.  early: runs before the module is ready.
    clears: the registers that are 0 after a refusal which tells nothing in them, and nulls those that are NULL_PA
    from version 1 on [oracle].  emulated: False for a leaf that is a row only, and is answered as an unknown one.
    registers: of the operands, in order.  instruction: "SEAMCALL TDH.MEM.PAGE.AUG", for traces.
    """

    name: str
    number: int
    side: str
    operands: tuple[tuple[str, str], ...]
    purpose: str
    source: str
    versions: int
    early: bool
    clears: tuple[str, ...]
    nulls: tuple[str, ...]
    emulated: bool
    registers: tuple[str, ...]
    instruction: str

    def __str__(self) -> str:
        return self.name


HOST: dict[int, Leaf] = {}
GUEST: dict[int, Leaf] = {}
BY_NAME: dict[str, Leaf] = {}


def leaf(
    number: int,
    name: str,
    operands: str,
    purpose: str,
    source: str = "S01",
    versions: int = 0,
    early: bool = False,
    clears: str = "",
    nulls: str = "",
    emulated: bool = True,
) -> Leaf:
    """A row.  operands: "rcx=meaning rdx=meaning"."""
    side = "guest" if name.startswith("TDG.") else "host"
    pairs = tuple((register, meaning) for register, _, meaning in (o.partition("=") for o in operands.split()))
    cleared = tuple(clears.split()), tuple(nulls.split())
    registers = tuple(register for register, _ in pairs)
    instruction = "TDCALL" if side == "guest" else "SEAMCALL"
    told = f"{instruction} {name}"
    row = Leaf(name, number, side, pairs, purpose, source, versions, early, *cleared, emulated, registers, told)
    table = GUEST if side == "guest" else HOST
    assert number not in table and name not in BY_NAME, f"{name} is there twice"
    table[number] = BY_NAME[name] = row
    return row


def row_only(number: int, name: str, operands: str, purpose: str, source: str = "S01") -> Leaf:
    """A row of a leaf that is not emulated: migration, service TDs, TDX Connect, and what is known by number only."""
    return leaf(number, name, operands, purpose, source, emulated=False)


# fmt: off
# --- running a vCPU, building a TD ---
TDH_VP_ENTER = leaf(0, "TDH.VP.ENTER", "rcx=tdvpr_flags", "run a vCPU until its TD exit")
TDH_MNG_ADDCX = leaf(1, "TDH.MNG.ADDCX", "rcx=page rdx=tdr", "give a TD a control page (TDCX)")
TDH_MEM_PAGE_ADD = leaf(2, "TDH.MEM.PAGE.ADD", "rcx=gpa_level rdx=tdr r8=page r9=source", "add and measure a 4K page at build time", clears="rcx rdx")
TDH_MEM_SEPT_ADD = leaf(3, "TDH.MEM.SEPT.ADD", "rcx=gpa_level rdx=tdr_flags r8=page r9=l2_page_1 r10=l2_page_2 r11=l2_page_3", "add a Secure-EPT page", versions=1, clears="rcx rdx")
TDH_VP_ADDCX = leaf(4, "TDH.VP.ADDCX", "rcx=page rdx=tdvpr", "give a vCPU a control page (TDCX)")
TDH_MEM_PAGE_RELOCATE = leaf(5, "TDH.MEM.PAGE.RELOCATE", "rcx=gpa_level rdx=tdr r8=page", "move a 4K page to another frame", clears="rcx rdx")
TDH_MEM_PAGE_AUG = leaf(6, "TDH.MEM.PAGE.AUG", "rcx=gpa_level rdx=tdr r8=page", "map a free page as PENDING; the guest must accept it", clears="rcx rdx")
TDH_MEM_RANGE_BLOCK = leaf(7, "TDH.MEM.RANGE.BLOCK", "rcx=gpa_level rdx=tdr", "forbid new translations through an entry", clears="rcx rdx")
TDH_MNG_KEY_CONFIG = leaf(8, "TDH.MNG.KEY.CONFIG", "rcx=tdr", "program a TD's key on this package")
TDH_MNG_CREATE = leaf(9, "TDH.MNG.CREATE", "rcx=tdr rdx=hkid", "make a page the root of a new TD")
TDH_VP_CREATE = leaf(10, "TDH.VP.CREATE", "rcx=tdvpr rdx=tdr", "make a page the root of a new vCPU")
TDH_MNG_RD = leaf(11, "TDH.MNG.RD", "rcx=tdr rdx=field", "read a field of a TD", versions=1, clears="r8", nulls="rdx")
TDH_MEM_RD = leaf(12, "TDH.MEM.RD", "rcx=gpa rdx=tdr", "read 8 bytes of a debuggable TD", clears="rcx rdx r8")
TDH_MNG_WR = leaf(13, "TDH.MNG.WR", "rcx=tdr rdx=field r8=data r9=mask", "write a field of a TD", clears="r8")
TDH_MEM_WR = leaf(14, "TDH.MEM.WR", "rcx=gpa rdx=tdr r8=data", "write 8 bytes of a debuggable TD", clears="rcx rdx r8")
TDH_MEM_PAGE_DEMOTE = leaf(15, "TDH.MEM.PAGE.DEMOTE", "rcx=gpa_level rdx=tdr_flags r8=page r9=l2_page_1 r10=l2_page_2 r11=l2_page_3 r12=pamt_page_0 r13=pamt_page_1", "split a large page into 512", "S01; R12, R13 from 1.5.20: S25", clears="rcx rdx")
TDH_MR_EXTEND = leaf(16, "TDH.MR.EXTEND", "rcx=gpa rdx=tdr", "measure 256 bytes into MRTD", clears="rcx rdx")
TDH_MR_FINALIZE = leaf(17, "TDH.MR.FINALIZE", "rcx=tdr", "close the measurement; the TD may run")
TDH_VP_FLUSH = leaf(18, "TDH.VP.FLUSH", "rcx=tdvpr", "break a vCPU's association with this LP")
TDH_MNG_VPFLUSHDONE = leaf(19, "TDH.MNG.VPFLUSHDONE", "rcx=tdr", "all vCPUs are flushed; the TD can not run again")
TDH_MNG_KEY_FREEID = leaf(20, "TDH.MNG.KEY.FREEID", "rcx=tdr", "free a TD's HKID; teardown begins")
TDH_MNG_INIT = leaf(21, "TDH.MNG.INIT", "rcx=tdr rdx=td_params", "initialise a TD from TD_PARAMS", clears="rcx")
TDH_VP_INIT = leaf(22, "TDH.VP.INIT", "rcx=tdvpr rdx=guest_rcx r8=x2apic_id", "initialise a vCPU", "S01; version 1 from 1.5.08", versions=1)
TDH_MEM_PAGE_PROMOTE = leaf(23, "TDH.MEM.PAGE.PROMOTE", "rcx=gpa_level rdx=tdr", "merge 512 pages into one", versions=1, clears="rcx rdx", nulls="r9 r10 r11")
# --- physical memory ---
TDH_PHYMEM_PAGE_RDMD = leaf(24, "TDH.PHYMEM.PAGE.RDMD", "rcx=page", "read a page's metadata (its PAMT entry)", clears="rcx rdx r8 r9 r10 r11")
TDH_MEM_SEPT_RD = leaf(25, "TDH.MEM.SEPT.RD", "rcx=gpa_level rdx=tdr_flags", "read a Secure-EPT entry", clears="rcx rdx")
TDH_VP_RD = leaf(26, "TDH.VP.RD", "rcx=tdvpr rdx=field", "read a field of a vCPU", versions=1, clears="r8", nulls="rdx")
TDH_MNG_KEY_RECLAIMID = leaf(27, "TDH.MNG.KEY.RECLAIMID", "rcx=tdr", "does nothing; kept for old callers")
TDH_PHYMEM_PAGE_RECLAIM = leaf(28, "TDH.PHYMEM.PAGE.RECLAIM", "rcx=page", "take a page back from a TD in teardown", clears="rcx rdx r8 r9 r10 r11")
TDH_MEM_PAGE_REMOVE = leaf(29, "TDH.MEM.PAGE.REMOVE", "rcx=gpa_level rdx=tdr", "unmap a page and free it", clears="rcx rdx")
TDH_MEM_SEPT_REMOVE = leaf(30, "TDH.MEM.SEPT.REMOVE", "rcx=gpa_level rdx=tdr", "remove an empty Secure-EPT page", versions=1, clears="rcx rdx", nulls="r9 r10 r11")
# --- the module as a whole ---
TDH_SYS_KEY_CONFIG = leaf(31, "TDH.SYS.KEY.CONFIG", "", "program the global key on this package", early=True)
TDH_SYS_INFO = leaf(32, "TDH.SYS.INFO", "rcx=buffer rdx=size r8=cmr_buffer r9=cmr_count", "legacy information", early=True, clears="rdx r9")
TDH_SYS_INIT = leaf(33, "TDH.SYS.INIT", "rcx=attributes", "initialise the module", early=True, clears="rcx rdx r8 r9 r10")
TDH_SYS_RD = leaf(34, "TDH.SYS.RD", "rdx=field", "read a field of the module", early=True, clears="r8")
TDH_SYS_LP_INIT = leaf(35, "TDH.SYS.LP.INIT", "", "initialise the module on this LP", early=True, clears="rcx rdx r8")
TDH_SYS_TDMR_INIT = leaf(36, "TDH.SYS.TDMR.INIT", "rcx=base", "initialise the next part of a TDMR's PAMT", clears="rdx")
TDH_SYS_RDALL = leaf(37, "TDH.SYS.RDALL", "rdx=buffer r8=field", "read all fields of the module", early=True)
TDH_MEM_TRACK = leaf(38, "TDH.MEM.TRACK", "rcx=tdr", "begin a new TLB epoch")
TDH_MEM_RANGE_UNBLOCK = leaf(39, "TDH.MEM.RANGE.UNBLOCK", "rcx=gpa_level rdx=tdr", "undo TDH.MEM.RANGE.BLOCK", clears="rcx rdx")
TDH_PHYMEM_CACHE_WB = leaf(40, "TDH.PHYMEM.CACHE.WB", "rcx=resume", "write back this package's caches")
TDH_PHYMEM_PAGE_WBINVD = leaf(41, "TDH.PHYMEM.PAGE.WBINVD", "rcx=page", "write back and invalidate one free page")
TDH_VP_WR = leaf(43, "TDH.VP.WR", "rcx=tdvpr rdx=field r8=data r9=mask", "write a field of a vCPU", clears="r8")
TDH_SYS_LP_SHUTDOWN = leaf(44, "TDH.SYS.LP.SHUTDOWN", "", "shut the module down on this LP", early=True)
TDH_SYS_CONFIG = leaf(45, "TDH.SYS.CONFIG", "rcx=tdmr_info_array rdx=count r8=hkid_flags", "give the module its TDMRs and its key", early=True)
TDH_MNG_RDM = row_only(46, "TDH.MNG.RDM", "", "number only", "M: list quoting ABI 348551-006")
TDH_MNG_WRM = row_only(47, "TDH.MNG.WRM", "", "number only", "M: list quoting ABI 348551-006")
TDH_SERVTD_BIND = row_only(48, "TDH.SERVTD.BIND", "rcx=target_tdr rdx=servtd_tdr r8=slot r9=type r10=attributes", "bind a service TD")
TDH_SERVTD_PREBIND = row_only(49, "TDH.SERVTD.PREBIND", "rcx=target_tdr rdx=servtd_hash r8=slot r9=type r10=attributes", "name a service TD before it exists")
TDH_VP_RDM = row_only(50, "TDH.VP.RDM", "", "number only", "M: list quoting ABI 348551-006")
TDH_VP_WRM = row_only(51, "TDH.VP.WRM", "", "number only", "M: list quoting ABI 348551-006")
TDH_SYS_SHUTDOWN = leaf(52, "TDH.SYS.SHUTDOWN", "rcx=handoff_version", "prepare an update that keeps TDs")
TDH_SYS_UPDATE = leaf(53, "TDH.SYS.UPDATE", "", "finish an update that keeps TDs", early=True)
TDH_SYS_S4_END = row_only(54, "TDH.SYS.S4.END", "", "number only", "M: list quoting ABI 348551-006")
TDH_PHYMEM_PAMT_ADD = leaf(58, "TDH.PHYMEM.PAMT.ADD", "rcx=hpa_level rdx=page_0 r8=page_1", "give a 2M range its PAMT page pair", "S25:tdh_phymem_pamt_add.c, from 1.5.20")
TDH_PHYMEM_PAMT_REMOVE = leaf(59, "TDH.PHYMEM.PAMT.REMOVE", "rcx=hpa_level", "take a 2M range's PAMT page pair back", "S25:tdh_phymem_pamt_remove.c, from 1.5.20")
TDH_EXT_INIT = row_only(60, "TDH.EXT.INIT", "", "number only", "M: Xu Yilun")
TDH_EXT_MEM_ADD = row_only(61, "TDH.EXT.MEM.ADD", "", "number only", "M: Xu Yilun")
# --- migration ---
TDH_EXPORT_ABORT = row_only(64, "TDH.EXPORT.ABORT", "", "migration: give an export up")
TDH_EXPORT_BLOCKW = row_only(65, "TDH.EXPORT.BLOCKW", "", "migration: forbid writes to pages")
TDH_EXPORT_RESTORE = row_only(66, "TDH.EXPORT.RESTORE", "", "migration: restore pages after an abort")
TDH_EXPORT_MEM = row_only(68, "TDH.EXPORT.MEM", "", "migration: export pages")
TDH_SYS_DISABLE = row_only(69, "TDH.SYS.DISABLE", "", "number only", "M: Xu Yilun")
TDH_EXPORT_PAUSE = row_only(70, "TDH.EXPORT.PAUSE", "", "migration: stop the TD")
TDH_EXPORT_TRACK = row_only(71, "TDH.EXPORT.TRACK", "", "migration: begin a new epoch of the export")
TDH_EXPORT_STATE_IMMUTABLE = row_only(72, "TDH.EXPORT.STATE.IMMUTABLE", "", "migration: begin an export")
TDH_EXPORT_STATE_TD = row_only(73, "TDH.EXPORT.STATE.TD", "", "migration: export the TD's state")
TDH_EXPORT_STATE_VP = row_only(74, "TDH.EXPORT.STATE.VP", "", "migration: export a vCPU's state")
TDH_EXPORT_UNBLOCKW = row_only(75, "TDH.EXPORT.UNBLOCKW", "", "migration: allow writes again")
TDH_IMPORT_ABORT = row_only(80, "TDH.IMPORT.ABORT", "", "migration: give an import up")
TDH_IMPORT_END = row_only(81, "TDH.IMPORT.END", "", "migration: end an import")
TDH_IMPORT_COMMIT = row_only(82, "TDH.IMPORT.COMMIT", "", "migration: let the imported TD run")
TDH_IMPORT_MEM = row_only(83, "TDH.IMPORT.MEM", "", "migration: import pages")
TDH_IMPORT_TRACK = row_only(84, "TDH.IMPORT.TRACK", "", "migration: begin a new epoch of the import")
TDH_IMPORT_STATE_IMMUTABLE = row_only(85, "TDH.IMPORT.STATE.IMMUTABLE", "", "migration: begin an import")
TDH_IMPORT_STATE_TD = row_only(86, "TDH.IMPORT.STATE.TD", "", "migration: import the TD's state")
TDH_IMPORT_STATE_VP = row_only(87, "TDH.IMPORT.STATE.VP", "", "migration: import a vCPU's state")
TDH_MIG_STREAM_CREATE = row_only(96, "TDH.MIG.STREAM.CREATE", "", "migration: create a stream")
# --- TDX Connect ---
TDH_IOMMU_SETREG = row_only(128, "TDH.IOMMU.SETREG", "", "TDX Connect: write an IOMMU register", CONNECT)
TDH_IOMMU_GETREG = row_only(129, "TDH.IOMMU.GETREG", "", "TDX Connect: read an IOMMU register", CONNECT)
TDH_SPDM_CREATE = row_only(130, "TDH.SPDM.CREATE", "", "TDX Connect: create an SPDM session", CONNECT)
TDH_SPDM_DELETE = row_only(131, "TDH.SPDM.DELETE", "", "TDX Connect: delete an SPDM session", CONNECT)
TDH_IDE_STREAM_CREATE = row_only(132, "TDH.IDE.STREAM.CREATE", "", "TDX Connect: create an IDE stream", CONNECT)
TDH_IDE_STREAM_BLOCK = row_only(133, "TDH.IDE.STREAM.BLOCK", "", "TDX Connect: block an IDE stream", CONNECT)
TDH_IDE_STREAM_DELETE = row_only(134, "TDH.IDE.STREAM.DELETE", "", "TDX Connect: delete an IDE stream", CONNECT)
TDH_IDE_STREAM_IDEKMREQ = row_only(135, "TDH.IDE.STREAM.IDEKMREQ", "", "TDX Connect: ask for an IDE key exchange", CONNECT)
TDH_IDE_STREAM_IDEKMRSP = row_only(136, "TDH.IDE.STREAM.IDEKMRSP", "", "TDX Connect: answer an IDE key exchange", CONNECT)
TDH_DEVIF_CREATE = row_only(137, "TDH.DEVIF.CREATE", "", "TDX Connect: create a device interface", CONNECT)
TDH_DEVIF_REMOVE = row_only(138, "TDH.DEVIF.REMOVE", "", "TDX Connect: remove a device interface", CONNECT)
TDH_DEVIF_REQUEST = row_only(139, "TDH.DEVIF.REQUEST", "", "TDX Connect: fetch a message to a device interface", CONNECT)
TDH_DEVIF_RESPONSE = row_only(140, "TDH.DEVIF.RESPONSE", "", "TDX Connect: hand in a message from a device interface", CONNECT)
TDH_DMAR_ADD = row_only(150, "TDH.DMAR.ADD", "", "TDX Connect: add a page of DMA remapping tables", CONNECT)
TDH_DMAR_BLOCK = row_only(151, "TDH.DMAR.BLOCK", "", "TDX Connect: block an entry of the DMA remapping tables", CONNECT)
TDH_DMAR_READ = row_only(152, "TDH.DMAR.READ", "", "TDX Connect: read an entry of the DMA remapping tables", CONNECT)
TDH_DMAR_REMOVE = row_only(153, "TDH.DMAR.REMOVE", "", "TDX Connect: remove a page of DMA remapping tables", CONNECT)
TDH_MMIO_MT_ADD = row_only(154, "TDH.MMIO.MT.ADD", "", "TDX Connect: add a page of MMIO metadata", CONNECT)
TDH_MMIO_MT_SET = row_only(155, "TDH.MMIO.MT.SET", "", "TDX Connect: set MMIO metadata", CONNECT)
TDH_MMIO_MT_RD = row_only(156, "TDH.MMIO.MT.RD", "", "TDX Connect: read MMIO metadata", CONNECT)
TDH_MMIO_MT_REMOVE = row_only(157, "TDH.MMIO.MT.REMOVE", "", "TDX Connect: remove a page of MMIO metadata", CONNECT)
TDH_MMIO_MAP = row_only(158, "TDH.MMIO.MAP", "", "TDX Connect: map MMIO as pending", CONNECT)
TDH_MMIO_BLOCK = row_only(159, "TDH.MMIO.BLOCK", "", "TDX Connect: block an MMIO mapping", CONNECT)
TDH_MMIO_UNMAP = row_only(160, "TDH.MMIO.UNMAP", "", "TDX Connect: unmap MMIO", CONNECT)
TDH_IQ_INV_REQUEST = row_only(161, "TDH.IQ.INV.REQUEST", "", "TDX Connect: queue an IOMMU invalidation", CONNECT)
TDH_IQ_INV_PROCESS = row_only(162, "TDH.IQ.INV.PROCESS", "", "TDX Connect: complete IOMMU invalidations", CONNECT)
TDH_MEM_SHARED_SEPT_WR = row_only(163, "TDH.MEM.SHARED.SEPT.WR", "", "TDX Connect: write an entry of the shared EPT", CONNECT)
TDH_DEVIF_MT_ADD = row_only(164, "TDH.DEVIF.MT.ADD", "", "TDX Connect: add a page of device-interface metadata", CONNECT)
TDH_DEVIF_MT_REMOVE = row_only(165, "TDH.DEVIF.MT.REMOVE", "", "TDX Connect: remove a page of device-interface metadata", CONNECT)
TDH_DEVIF_MT_RD = row_only(166, "TDH.DEVIF.MT.RD", "", "TDX Connect: read device-interface metadata", CONNECT)
# --- TDCALL ---
TDG_VP_VMCALL = leaf(0, "TDG.VP.VMCALL", "rcx=register_bitmap", "ask the host for a service: a TD exit")
TDG_VP_INFO = leaf(1, "TDG.VP.INFO", "", "the TD's and this vCPU's parameters")
TDG_MR_RTMR_EXTEND = leaf(2, "TDG.MR.RTMR.EXTEND", "rcx=gpa rdx=index", "extend a run-time measurement")
TDG_VP_VEINFO_GET = leaf(3, "TDG.VP.VEINFO.GET", "", "what the last #VE was about")
TDG_MR_REPORT = leaf(4, "TDG.MR.REPORT", "rcx=report_gpa rdx=data_gpa r8=subtype", "make a report for attestation")
TDG_VP_CPUIDVE_SET = leaf(5, "TDG.VP.CPUIDVE.SET", "rcx=control", "whether CPUID gives #VE")
TDG_MEM_PAGE_ACCEPT = leaf(6, "TDG.MEM.PAGE.ACCEPT", "rcx=gpa_level", "accept a PENDING page: zero it and map it")
TDG_VM_RD = leaf(7, "TDG.VM.RD", "rcx=td rdx=field", "read a field of the TD", versions=1, clears="r8", nulls="rdx")
TDG_VM_WR = leaf(8, "TDG.VM.WR", "rcx=td rdx=field r8=data r9=mask", "write a field of the TD", clears="r8")
TDG_VP_RD = leaf(9, "TDG.VP.RD", "rcx=vcpu rdx=field", "read a field of this vCPU", clears="r8")
TDG_VP_WR = leaf(10, "TDG.VP.WR", "rcx=vcpu rdx=field r8=data r9=mask", "write a field of this vCPU", clears="r8")
TDG_SYS_RD = leaf(11, "TDG.SYS.RD", "rdx=field", "read a field of the module", clears="r8")
TDG_SYS_RDALL = leaf(12, "TDG.SYS.RDALL", "rdx=buffer r8=field", "read all fields of the module")
TDG_SERVTD_RD = row_only(18, "TDG.SERVTD.RD", "rcx=binding rdx=field", "a service TD reads its target")
TDG_SERVTD_WR = row_only(20, "TDG.SERVTD.WR", "rcx=binding rdx=field r8=data r9=mask", "a service TD writes its target")
TDG_MR_VERIFYREPORT = leaf(22, "TDG.MR.VERIFYREPORT", "rcx=report_gpa", "verify a local report")
TDG_MEM_PAGE_ATTR_RD = leaf(23, "TDG.MEM.PAGE.ATTR.RD", "rcx=gpa", "read a page's attributes")
TDG_MEM_PAGE_ATTR_WR = leaf(24, "TDG.MEM.PAGE.ATTR.WR", "rcx=gpa_level rdx=attributes r8=flags", "write a page's attributes")
TDG_VP_ENTER = row_only(25, "TDG.VP.ENTER", "rcx=vm_flags rdx=state_gpa", "run an L2 vCPU")
TDG_VP_INVEPT = row_only(26, "TDG.VP.INVEPT", "rcx=vm_bitmap", "invalidate an L2's translations")
TDG_VP_INVGLA = row_only(27, "TDG.VP.INVGLA", "rcx=vm_flags rdx=gla", "invalidate an L2's linear translations")
TDG_MEM_PAGE_RELEASE = row_only(30, "TDG.MEM.PAGE.RELEASE", "rcx=gpa_level", "give an accepted page back to PENDING", "M: virtio-mem RFC; newer modules")
TDG_DMAR_ACCEPT = row_only(70, "TDG.DMAR.ACCEPT", "", "TDX Connect: accept a device's DMA", CONNECT)
TDG_MMIO_ACCEPT = row_only(71, "TDG.MMIO.ACCEPT", "", "TDX Connect: accept an MMIO page", CONNECT)
TDG_IQ_INV_REQUEST = row_only(72, "TDG.IQ.INV.REQUEST", "", "TDX Connect: ask for an IOMMU invalidation", CONNECT)
# fmt: on


def named(name: str) -> Leaf:
    """A leaf by its name, "TDH.MEM.PAGE.AUG" or "tdh_mem_page_aug".  Raises ValueError with a sentence."""
    found = BY_NAME.get(name.upper().replace("_", "."))
    if found is None:
        raise ValueError(f"there is no leaf {name}")
    return found
