"""What registers hold besides RAX: the layouts of operands, and what leaves give back.

Source: the leaves' own files of [S01] and [S25]; each row that the recordings get to is checked against them.
Left out: leaves that are not emulated.
"""

# ruff: noqa: E501
from __future__ import annotations

from collections.abc import Mapping

from tdxlab.spec import leaves
from tdxlab.spec.bits import CpuidVe, GpaLevel, HpaLevel, Layout, SysConfig, SysShutdown, TdrFlags, Vmcall, VpEnter
from tdxlab.spec.fields import FieldId
from tdxlab.spec.leaves import Leaf

Registers = Mapping[str, str]
"""{register: what it holds}."""

LAYOUTS: Mapping[str, type[Layout]] = {
    "gpa_level": GpaLevel,
    "hpa_level": HpaLevel,
    "tdr_flags": TdrFlags,
    "tdvpr_flags": VpEnter,
    "field": FieldId,
    "hkid_flags": SysConfig,
    "handoff_version": SysShutdown,
    "register_bitmap": Vmcall,
    "control": CpuidVe,
}
"""By what an operand is called in the leaves' rows."""

# fmt: off
FREED = "HPA of the page that is free now; bit 62 with Dynamic PAMT: it was the last one in use of its 2M range"
EXIT = {"rcx": "exit qualification, of a TDG.VP.VMCALL the registers that it passes", "rdx": "extended exit qualification", "r8": "GPA of an EPT violation", "r9": "of an interrupt: its vector and kind"}
PAGE = {"rcx": "page type", "rdx": "owner: HPA of the TDR", "r8": "size: 0 4K, 1 2M, 2 1G"}
ATTRIBUTES = {"rcx": "GPA and level of the mapping; bit 62: it is PENDING", "rdx": "attributes for L2 VMs, of which none has one"}
NEXT = "id of the next field"
READ = {"rdx": NEXT + " (of TDH.MNG.RD and TDH.VP.RD from version 1 on)", "r8": "the field"}
WRITTEN = {"r8": "the field before"}
ENTRY = {"rcx": "the S-EPT entry that was found", "rdx": "its level, and from bit 8 on the code of its state"}

# after a success
OUTPUTS: Mapping[Leaf, Registers] = {
    leaves.TDH_VP_ENTER: {"rax": "bits 31:0: the VMX exit reason"} | EXIT,
    leaves.TDH_MNG_RD: READ, leaves.TDH_VP_RD: READ, leaves.TDH_SYS_RD: READ,
    leaves.TDG_VM_RD: READ, leaves.TDG_VP_RD: READ, leaves.TDG_SYS_RD: READ,
    leaves.TDH_MNG_WR: WRITTEN, leaves.TDH_VP_WR: WRITTEN, leaves.TDG_VM_WR: WRITTEN, leaves.TDG_VP_WR: WRITTEN,
    leaves.TDH_SYS_INFO: {"rdx": "bytes written", "r9": "CMRs written"},
    leaves.TDH_SYS_RDALL: {"r8": NEXT + ", for which there is no room"},
    leaves.TDG_SYS_RDALL: {"r8": NEXT + ", for which there is no room"},
    leaves.TDH_SYS_TDMR_INIT: {"rdx": "up to where the TDMR can be used"},
    leaves.TDH_MEM_RD: {"r8": "the 8 bytes"},
    leaves.TDH_MEM_WR: {"r8": "the 8 bytes before"},
    leaves.TDH_MEM_SEPT_RD: ENTRY | {"r8": "with the flag in RDX: attributes for L2 VMs"},
    leaves.TDH_MEM_SEPT_ADD: {register: "version 1: all ones where the page was used, bit 63 where it was not" for register in ("r8", "r9", "r10", "r11")},
    leaves.TDH_MEM_SEPT_REMOVE: {"rcx": FREED} | {register: "version 1: the freed page of an L2 VM" for register in ("r9", "r10", "r11")},
    leaves.TDH_MEM_PAGE_REMOVE: {"rcx": FREED},
    leaves.TDH_MEM_PAGE_RELOCATE: {"rcx": FREED},
    leaves.TDH_MEM_PAGE_PROMOTE: {"rcx": FREED} | {register: "version 1: the freed page of an L2 VM" for register in ("r9", "r10", "r11")} | {register: "with Dynamic PAMT, of a 2M page: a page of the pair that its range no longer needs" for register in ("r12", "r13")},
    leaves.TDH_PHYMEM_PAGE_RDMD: PAGE | {"r9": "BEPOCH, of an S-EPT page or one of the guest's"} | {register: "a page of the range's PAMT page pair, where there is one" for register in ("r10", "r11")},
    leaves.TDH_PHYMEM_PAGE_RECLAIM: PAGE | {"r9": "bit 62 as RCX of TDH.MEM.PAGE.REMOVE"},
    leaves.TDH_PHYMEM_PAMT_REMOVE: {register: "a page of the pair" for register in ("rdx", "r8")},
    leaves.TDG_VP_INFO: {"rcx": "GPA width", "rdx": "ATTRIBUTES", "r8": "vCPUs initialised; bits 63:32: how many there may be", "r9": "which one this is", "r10": "1: TDG.SYS.RD can be called"},
    leaves.TDG_VP_VEINFO_GET: {"rcx": "exit reason", "rdx": "exit qualification", "r9": "GPA", "r10": "length of the instruction"},
    leaves.TDG_MEM_PAGE_ATTR_RD: ATTRIBUTES,
    leaves.TDG_MEM_PAGE_ATTR_WR: ATTRIBUTES,
}

# after a refusal that is about what was found
REFUSED: Mapping[Leaf, Registers] = {
    **dict.fromkeys((
        leaves.TDH_MEM_PAGE_ADD, leaves.TDH_MEM_PAGE_AUG, leaves.TDH_MEM_PAGE_REMOVE, leaves.TDH_MEM_PAGE_RELOCATE,
        leaves.TDH_MEM_PAGE_DEMOTE, leaves.TDH_MEM_PAGE_PROMOTE, leaves.TDH_MEM_RANGE_BLOCK,
        leaves.TDH_MEM_RANGE_UNBLOCK, leaves.TDH_MEM_SEPT_ADD, leaves.TDH_MEM_SEPT_REMOVE, leaves.TDH_MEM_SEPT_RD,
        leaves.TDH_MEM_RD, leaves.TDH_MEM_WR, leaves.TDH_MR_EXTEND,
    ), ENTRY),
    leaves.TDH_MNG_INIT: {"rcx": "the CPUID leaf and subleaf that are wrong"},
    leaves.TDH_PHYMEM_PAGE_RECLAIM: PAGE,
}
# fmt: on
