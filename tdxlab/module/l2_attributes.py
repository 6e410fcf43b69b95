"""What L2 VMs may do with a page of the TD: 16 bits for each of four VMs, L1's first, which has none.

[S01:tdg_mem_page_attr_wr.c, helpers.h]
"""

from __future__ import annotations

from tdxlab.engine.step import step
from tdxlab.hw.cpu import NotModelled
from tdxlab.hw.sharex import Refuse
from tdxlab.module import l2_sept
from tdxlab.module.call import Call
from tdxlab.module.state import Td
from tdxlab.spec import status as st
from tdxlab.spec.bits import PageAttributes
from tdxlab.spec.operands import R8, RDX

VMS, BITS = 4, 16
PRESENT = PageAttributes.R | PageAttributes.W | PageAttributes.XS | PageAttributes.XU
NEVER = PageAttributes.SVE | PageAttributes._RESERVED
NEED_R = PageAttributes.W | PageAttributes.PWA


def of(vm: int, attributes: int) -> int:
    """One VM's part of an operand."""
    return attributes >> BITS * vm & (1 << BITS) - 1


def check_operands(td: Td, attributes: int, flags: int) -> None:
    """Nothing is said of L1 and of VMs that are not there; of another VM something only if VALID is set."""
    for vm in range(VMS):
        there = 0 < vm <= td.num_l2_vms
        told = of(vm, attributes)
        if told and not (there and told & PageAttributes.VALID):
            raise Refuse(st.TDX_OPERAND_INVALID.at(RDX))
        if of(vm, flags) and not there:
            raise Refuse(st.TDX_OPERAND_INVALID.at(R8))


async def check(call: Call, gpa: int, level: int, attributes: int, flags: int) -> None:
    """The attributes of each VM make sense, and it has a S-EPT page to put them in.

    flags: of each VM, which attributes are meant.  A refusal clears RCX; after TDX_PAGE_ATTR_INVALID RDX tells the
    attributes as they stay.  Raises NotModelled where a VM would get the page.
    Left out: the TD exit that a TD can choose instead of TDX_L2_SEPT_WALK_FAILED.
    """
    wrong = 0
    for vm in range(1, call.td.num_l2_vms + 1):
        told = of(vm, attributes) & (of(vm, flags) | PageAttributes.VALID)
        if not told & PageAttributes.VALID or not told & PRESENT:
            continue
        if told & NEVER or (told & NEED_R and not told & PageAttributes.R):
            wrong |= of(vm, attributes) << BITS * vm
            continue
        touches = await step(at=f"walk of L2 VM {vm}", more=True)
        entry = l2_sept.walk(call, call.td, vm, gpa, level, touches)
        if entry.level != level:
            raise Refuse(st.TDX_L2_SEPT_WALK_FAILED.at(vm << 16 | entry.level), {"rcx": 0, "rdx": 0})
        raise NotModelled(f"a page mapped in L2 VM {vm}")
    if wrong:
        raise Refuse(st.TDX_PAGE_ATTR_INVALID, {"rcx": 0, "rdx": attributes & ~wrong})
