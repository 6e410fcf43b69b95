"""When does KVM map private memory at 2M at all?

A huge page has to be split one day, and a DEMOTE that is interrupted under mmu_lock is no good; with static PAMT huge
pages save less.

A variant is one function: allowed(host), asked once the TD can run.
Source: the cover letters of RFC v2 and v3.  Left out: the module parameter `tdx_huge_page`, which says no; that is
`accept_level=only_4k`.
"""

from __future__ import annotations

from tdxlab.host.host import Host
from tdxlab.spec.design import Question
from tdxlab.spec.fields import TdxFeatures0

question = Question("huge_pages", __doc__)


def always(host: Host) -> bool:
    """Whatever the module can."""
    return True


def if_demote_is_not_interrupted(host: Host) -> bool:
    """TDX_FEATURES0 says so from 1.5.28 on; with an earlier module everything is 4K."""
    return bool(host.tdx_features0 & TdxFeatures0.ENHANCED_DEMOTE_INTERRUPTIBILITY)


def with_dynamic_pamt(host: Host) -> bool:
    """One configuration less to look after."""
    return host.dpamt


question.variant("always", allowed=always, source="RFC v2")
question.variant(
    "uninterrupted_demote",
    allowed=if_demote_is_not_interrupted,
    source="huge pages v3, 2026-01-06; RFC v5",
    module=("1.5.28", "KVM maps private memory at 4K only"),
)
question.variant("with_dpamt", allowed=with_dynamic_pamt, source="Rick Edgecombe, June 2026, in the thread of RFC v5")
