"""TDG.*: what a guest asks of the module.  TDR and TDVPR are held shared since TDH.VP.ENTER."""

# ruff: noqa: E501
from __future__ import annotations

from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.checks.check import Check, Checks, check, lock
from tdxlab.spec.checks.shared import field, gpa_level, guest_page, read_field, versions, write_field
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.operands import R8, RAX, RCX, RDX, Operand


def entry(source: str) -> Check:
    """The lock of the S-EPT entry that the walk got to; one that is free but kept for the host is BUSY as well."""
    return lock("SEPT entry", "", "X", RCX, source)


# fmt: off
INTERRUPTED = "no interrupt is pending; else RAX and RIP stay, and the guest calls again after it"

ROWS: dict[Leaf, Checks] = {
    leaves.TDG_VP_VMCALL: (
        check("RCX: none of RAX, RCX, RSP (RBP where the TD says so), reserved bits 0", st.TDX_OPERAND_INVALID.at(RCX), "S01:tdg_vp_vmcall.c"),
    ),
    leaves.TDG_VP_INFO: (),
    leaves.TDG_MR_RTMR_EXTEND: (
        *guest_page(RCX, "RCX: 64 private bytes", "S01:tdg_mr_rtmr_extend.c"),
        check("RDX: 0 to 3", st.TDX_OPERAND_INVALID.at(RDX), "S01:tdg_mr_rtmr_extend.c"),
        lock("RTMR", "", "X", Operand.RTMR, "S01:tdg_mr_rtmr_extend.c"),
    ),
    leaves.TDG_VP_VEINFO_GET: (
        check("a #VE has not been asked about", st.TDX_NO_VALID_VE_INFO, "S01:tdg_vp_veinfo_get.c"),
    ),
    leaves.TDG_MR_REPORT: (
        check("RCX: the buffer is aligned to 1K", st.TDX_OPERAND_INVALID.at(RCX), "S01:tdg_mr_report.c"),
        *guest_page(RDX, "RDX: 64 bytes of data", "S01:tdg_mr_report.c"),
        check("R8: subtype 0", st.TDX_OPERAND_INVALID.at(R8), "S01:tdg_mr_report.c"),
        lock("RTMR", "", "S", Operand.RTMR, "S01:tdg_mr_report.c"),
        check(INTERRUPTED, None, "S01:tdg_mr_report.c"),
        *guest_page(RCX, "RCX: 1K", "S01:tdg_mr_report.c"),
    ),
    leaves.TDG_VP_CPUIDVE_SET: (
        check("RCX: bits 63:2 are 0; bits 1:0 stay where TD_CTLS are locked", st.TDX_OPERAND_INVALID.at(RCX), "S01:tdg_vp_cpuidve_set.c"),
    ),
    leaves.TDG_MEM_PAGE_ACCEPT: (
        gpa_level("4K or 2M"),
        check("the walk gets to the level asked for; above it: an accepted page", st.TDX_PAGE_ALREADY_ACCEPTED, "S01:tdg_mem_page_accept.c", detail="level"),
        check("... and else a TD exit, EPT violation with the level that was asked for", None, "S01:tdg_mem_page_accept.c"),
        entry("S01:tdg_mem_page_accept.c"),
        check("the page is not accepted", st.TDX_PAGE_ALREADY_ACCEPTED, "S01:tdg_mem_page_accept.c", detail="level"),
        check("the range is not mapped in smaller pages", st.TDX_PAGE_SIZE_MISMATCH, "S01:tdg_mem_page_accept.c", detail="level"),
        check("the page is PENDING; else a TD exit, EPT violation", None, "S01:tdg_mem_page_accept.c"),
        check(INTERRUPTED, None, "S01:tdg_mem_page_accept.c"),
    ),
    leaves.TDG_VM_RD: (versions("S01:tdg_vm_rd_wr.c"), check("RCX is 0", st.TDX_OPERAND_INVALID.at(RCX), "S01:tdg_vm_rd_wr.c"), *read_field("S01:tdg_vm_rd_wr.c")),
    leaves.TDG_VM_WR: (check("RCX is 0", st.TDX_OPERAND_INVALID.at(RCX), "S01:tdg_vm_rd_wr.c"), *write_field("S01:tdg_vm_rd_wr.c")),
    leaves.TDG_VP_RD: (check("RCX is 0", st.TDX_OPERAND_INVALID.at(RCX), "S01:tdg_vp_rd_wr.c"), *read_field("S01:tdg_vp_rd_wr.c", when="")),
    leaves.TDG_VP_WR: (check("RCX is 0", st.TDX_OPERAND_INVALID.at(RCX), "S01:tdg_vp_rd_wr.c"), *write_field("S01:tdg_vp_rd_wr.c")),
    leaves.TDG_SYS_RD: read_field("S01:tdg_sys_rd.c", when=""),
    leaves.TDG_SYS_RDALL: (*guest_page(RDX, "RDX: 4K of private memory", "S01:tdg_sys_rdall.c"), field("S01:tdg_sys_rdall.c")),
    leaves.TDG_MR_VERIFYREPORT: (
        check("the processor can", st.TDX_OPERAND_INVALID.at(RAX), "S01:tdg_mr_verifyreport.c"),
        *guest_page(RCX, "RCX: 256 private bytes", "S01:tdg_mr_verifyreport.c"),
        check("the report is of this processor's security version", st.TDX_INVALID_CPUSVN, "S01:tdg_mr_verifyreport.c"),
        check("the report was made here", st.TDX_INVALID_REPORTMACSTRUCT, "S01:tdg_mr_verifyreport.c"),
    ),
    leaves.TDG_MEM_PAGE_ATTR_RD: (
        check("RCX: the GPA is private and in range, aligned or not", st.TDX_OPERAND_INVALID.at(RCX), "S01:tdg_mem_page_attr_rd.c"),
        entry("S01:tdg_mem_page_attr_rd.c"),
        check("the page is a leaf that is not blocked; else a TD exit, EPT violation", None, "S01:tdg_mem_page_attr_rd.c"),
    ),
    leaves.TDG_MEM_PAGE_ATTR_WR: (
        check("RDX: 0 for L1 and for L2 VMs that are not there; VALID where an attribute is", st.TDX_OPERAND_INVALID.at(RDX), "S01:tdg_mem_page_attr_wr.c"),
        check("R8: 0 for L1 and for L2 VMs that are not there", st.TDX_OPERAND_INVALID.at(R8), "S01:tdg_mem_page_attr_wr.c"),
        gpa_level("4K, 2M or 1G"),
        check("the walk gets to the level asked for; else a TD exit, EPT violation", None, "S01:tdg_mem_page_attr_wr.c"),
        entry("S01:tdg_mem_page_attr_wr.c"),
        check("the range is not mapped in smaller pages", st.TDX_PAGE_SIZE_MISMATCH, "S01:tdg_mem_page_attr_wr.c", detail="level"),
        check("the guest can write the page, or it is PENDING; else a TD exit, EPT violation", None, "S01:tdg_mem_page_attr_wr.c"),
        check("the L2 attributes go together", st.TDX_PAGE_ATTR_INVALID, "S01:tdg_mem_page_attr_wr.c"),
        check("the walk of the L2 VM's tree gets there, or a TD exit", st.TDX_L2_SEPT_WALK_FAILED, "S01:tdg_mem_page_attr_wr.c", detail="VM and level"),
    ),
}
