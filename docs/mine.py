"""A design of one's own: `tdxlab run accept-level --design docs/mine.py`.

The question is the one in tdxlab/kvm/accept_level.py, whose docstring says what a variant consists of.  This one maps
4K whenever the exit says that the guest accepts 4K, as the design `error_code` does, but first splits what is mapped.
"""

from tdxlab.kvm.accept_level import no_bits, question, split_crossing, split_refused, tdx_accept_level
from tdxlab.kvm.kvm_main import KvmVcpu, kvm_mmu_write_lock
from tdxlab.kvm.mmu import KvmPageFault


async def split_what_is_larger(vcpu: KvmVcpu, gfn: int) -> int:
    """Split, but note nothing in lpage_info: the next vCPU is free to map 2M where nothing is mapped yet."""
    level = tdx_accept_level(vcpu)
    if not level:
        return 0
    await kvm_mmu_write_lock(vcpu.kvm, "accept level")
    ret = await split_crossing(vcpu.kvm, gfn, level)
    vcpu.kvm.mmu_lock.write_unlock()
    return ret


def level_of_this_exit(fault: KvmPageFault) -> int:
    """What the exit that led to this fault asked for; 0 if nothing."""
    return 0 if fault.prefetch else tdx_accept_level(fault.vcpu)


question.variant(
    "split_without_a_note",
    on_violation=split_what_is_larger,
    error_code=no_bits,
    max_level=level_of_this_exit,
    split_shared=split_refused,
    source="an example of this documentation",
)
