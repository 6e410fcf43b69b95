"""A VM: its locks, vCPUs, memslots and requests.  (virt/kvm/kvm_main.c, struct kvm with struct kvm_tdx inside)

Left out: MMU notifiers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tdxlab.engine.cells import Journal, Record, Table
from tdxlab.engine.locks import Atomic, Mutex, RwLock, SpinLock, Srcu
from tdxlab.engine.step import WRITE, step
from tdxlab.kvm.memory_cache import KvmMmuMemoryCache
from tdxlab.spec.status import Status

if TYPE_CHECKING:
    from tdxlab.engine.cells import Guard
    from tdxlab.host.host import Host
    from tdxlab.kvm.guest_memfd import Gmem
    from tdxlab.kvm.lpage_info import LpageInfo
    from tdxlab.kvm.tdp_iter import KvmMmuPage
    from tdxlab.spec.design import Design

EINTR, EIO, EAGAIN, ENOMEM, EFAULT, EBUSY, EEXIST, EINVAL, ENOSPC, EOPNOTSUPP = 4, 5, 11, 12, 14, 16, 17, 22, 28, 95
ENOENT, EHWPOISON = 2, 133

# enum kvm_tdx_state
TD_STATE_UNINITIALIZED, TD_STATE_INITIALIZED, TD_STATE_RUNNABLE = range(3)

# enum vcpu_tdx_state
VCPU_TD_STATE_UNINITIALIZED, VCPU_TD_STATE_INITIALIZED = range(2)

# vcpu->mode
OUTSIDE_GUEST_MODE, IN_GUEST_MODE, EXITING_GUEST_MODE = range(3)

# Requests.  OUTSIDE_GUEST_MODE sets no bit: it only waits until every vCPU that is inside has left.
KVM_REQ_OUTSIDE_GUEST_MODE = 0
KVM_REQ_VM_DEAD = 1 << 0
KVM_REQ_TLB_FLUSH = 1 << 1
REQUEST_NOTES = {KVM_REQ_OUTSIDE_GUEST_MODE: "kick", KVM_REQ_VM_DEAD: "vm_dead", KVM_REQ_TLB_FLUSH: "tlb_flush"}


# flags of a memslot
KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_GUEST_MEMFD, KVM_MEMSLOT_INVALID = 1 << 0, 1 << 2, 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class KvmMemorySlot:
    """`struct kvm_memory_slot`: guest frames.  It never changes.

    file: the guest_memfd that backs what is private of it; None if there is none, or if it has been closed.
    flags: KVM_MEMSLOT_INVALID says that it is being deleted or moved.
    dirty_bitmap: {gfn: written to?}, where KVM_MEM_LOG_DIRTY_PAGES asks for it.
    closed: the file that it had, whose pages may be mapped until the zap that follows.
    """

    base_gfn: int
    npages: int
    file: Gmem | None
    gmem_pgoff: int
    lpage_info: LpageInfo
    flags: int = KVM_MEM_GUEST_MEMFD
    dirty_bitmap: Table | None = None
    closed: Gmem | None = None

    @property
    def gmem(self) -> Gmem:
        """Its file, for who knows that it has or had one."""
        gmem = self.file or self.closed
        assert gmem is not None
        return gmem

    @property
    def invalid(self) -> bool:
        """Is it about to go?"""
        return bool(self.flags & KVM_MEMSLOT_INVALID)

    def as_invalid(self) -> KvmMemorySlot:
        """The same slot, about to go."""
        return replace(self, flags=self.flags | KVM_MEMSLOT_INVALID)

    def without_file(self) -> KvmMemorySlot:
        """The same slot, when its guest_memfd has been closed."""
        return replace(self, file=None, closed=self.file)

    def gmem_index(self, gfn: int) -> int:
        """`kvm_gmem_get_index`: where in the file the page of `gfn` is."""
        return gfn - self.base_gfn + self.gmem_pgoff


class Kvm(Record):
    """`struct kvm` and `struct kvm_tdx`."""

    FIXED = Record.FIXED | {
        "design", "host", "lock", "mmu_lock", "slots_lock", "tdp_mmu_pages_lock", "srcu",
        "pamt_cache", "pamt_cache_lock", "prealloc_split_cache_lock", "nr_premapped", "created_vcpus", "mirror",
        "guest_memfds", "vcpus", "mirror_root", "mem_attr_array", "mm", "direct_root", "cpuid", "msr_filter",
        "stat", "state", "hkid", "tdr_hpa", "tdcs_hpas", "page_add_src", "pre_fault_allowed",
    }  # fmt: skip
    UNDER_SLOTS_LOCK = ("state", "page_add_src", "pre_fault_allowed", "guest_memfds")
    UNDER_KVM_LOCK = ("created_vcpus", "vcpus")
    ROOTS = ("mirror_root", "direct_root")
    __slots__ = (  # noqa: RUF023
        # wired once, or changed only while no vCPU can run
        "design", "host", "lock", "mmu_lock", "slots_lock", "srcu",
        "created_vcpus", "vcpus",  # how many there are to be, and those that are ready; under kvm->lock
        "mirror_root", "tdp_mmu_pages_lock",  # None until the first vCPU loads its roots
        "nr_premapped",  # leaves that the mirror has and the S-EPT has not yet: see `build_path`
        "pamt_cache", "pamt_cache_lock", "prealloc_split_cache_lock",  # PAMT pages for splits: see `pamt_split_cache`
        "guest_memfds",  # the files that userspace has made for this VM
        "memslots",  # replaced under slots_lock; who reads them sees the old or the new, and holds srcu
        "direct_root",  # root of the shared EPT
        "cpuid",  # {(leaf, subleaf): (EAX, EBX, ECX, EDX)}, KVM_SET_CPUID2
        "msr_filter",  # {index: "r", "w" or "rw"}: what userspace wants to see to itself, KVM_X86_SET_MSR_FILTER
        "mem_attr_array",  # {gfn: private?}, written under slots_lock but read without: every access is a touch
        "mm",  # {gfn: HPA}: the process's pages behind the memslots; every access is a touch
        "stat",  # {"pages_4k", "pages_2m"}: counted with each SPTE
        "state", "hkid", "tdr_hpa", "tdcs_hpas", "page_add_src", "pre_fault_allowed",
        # written under mmu_lock for write but also read without it: every access is a touch
        "mmu_invalidate_seq", "mmu_invalidate_in_progress", "mmu_invalidate_range_start", "mmu_invalidate_range_end",
        "wait_for_sept_zap",
        "rcu_callbacks",  # ((page, with its PAMT pair?), ...) to be freed after a grace period; every access is a touch
        # written by whoever finds the VM broken
        "vm_bugged", "vm_dead",
    )  # fmt: skip

    def __init__(self, journal: Journal, name: str, host: Host, design: Design) -> None:
        super().__init__(journal, name, self._guard)
        self.design, self.host = design, host
        self.lock = Mutex(journal, f"kvm->lock:{name}")
        self.mmu_lock = RwLock(journal, f"mmu_lock:{name}")
        self.tdp_mmu_pages_lock = SpinLock(journal, f"tdp_mmu_pages_lock:{name}")
        self.slots_lock = Mutex(journal, f"slots_lock:{name}")
        self.srcu = Srcu(journal, f"srcu:{name}")
        self.pamt_cache_lock = Mutex(journal, f"pamt_cache_lock:{name}")  # RFC v5: outside mmu_lock, for splits
        self.prealloc_split_cache_lock = SpinLock(journal, f"prealloc_split_cache_lock:{name}")  # v3 of huge pages
        self.pamt_cache = KvmMmuMemoryCache(journal, f"pamt_cache:{name}", name, self.split_cache_guard)
        self.memslots: tuple[KvmMemorySlot, ...] = ()
        self.guest_memfds: tuple[Gmem, ...] = ()
        self.created_vcpus, self.vcpus = 0, tuple[KvmVcpu, ...]()
        self.mirror_root: KvmMmuPage | None = None
        self.nr_premapped = Atomic(journal, f"nr_premapped:{name}")
        self.mem_attr_array = Table(journal, f"mem_attr_array:{name}", True)
        self.mm = Table(journal, f"mm:{name}", 0)
        self.direct_root: KvmMmuPage | None = None
        self.cpuid: dict[tuple[int, int], tuple[int, int, int, int]] = {}
        self.msr_filter: dict[int, str] = {}
        self.stat = Table(journal, f"stat:{name}", 0, self.if_mmu_lock_held_for_write)
        self.state, self.hkid, self.tdr_hpa = TD_STATE_UNINITIALIZED, -1, 0
        self.tdcs_hpas: tuple[int, ...] = ()
        self.page_add_src = 0
        self.pre_fault_allowed = False
        self.mmu_invalidate_seq = self.mmu_invalidate_in_progress = 0
        self.mmu_invalidate_range_start = self.mmu_invalidate_range_end = 0
        self.wait_for_sept_zap = False
        self.rcu_callbacks: tuple[tuple[int, bool], ...] = ()
        self.vm_bugged = self.vm_dead = False

    def _guard(self, key: Any) -> tuple[SpinLock, int] | int | None:
        if key == "memslots":
            return self.journal.cpu
        if key in self.ROOTS:
            return self.tdp_mmu_pages_lock, 0
        if key in self.UNDER_KVM_LOCK:
            return self.lock, 0
        return (self.slots_lock, 0) if key in self.UNDER_SLOTS_LOCK else None

    def if_mmu_lock_held_for_write(self, key: Any) -> tuple[RwLock, None] | None:
        """A guard: mmu_lock covers when held for write.  Under the read lock others write too, so touches are due."""
        return (self.mmu_lock, None) if self.journal.holds(self.mmu_lock, None, True) else None

    def split_cache_guard(self, key: Any) -> tuple[SpinLock | RwLock, Any] | None:
        """What covers the VM's PAMT pages depends on the design: its mutex, its spinlock, or mmu_lock for write."""
        for lock, k in ((self.pamt_cache_lock, 0), (self.prealloc_split_cache_lock, 0), (self.mmu_lock, None)):
            if self.journal.holds(lock, k, True):
                return lock, k
        return None

    @property
    def mirror(self) -> KvmMmuPage:
        """The mirror's root, for who knows that a vCPU has loaded it."""
        assert self.mirror_root is not None
        return self.mirror_root

    def kvm_get_running_vcpu(self) -> KvmVcpu | None:
        """The vCPU that the running CPU is busy with, or None.  (There: that is loaded.  Here: that belongs to it.)"""
        return next((vcpu for vcpu in self.vcpus if vcpu.cpu == self.journal.cpu), None)

    def gfn_to_memslot(self, gfn: int) -> KvmMemorySlot | None:
        """`gfn_to_memslot`."""
        return next((s for s in self.memslots if s.base_gfn <= gfn < s.base_gfn + s.npages), None)

    def kvm_mem_is_private(self, gfn: int) -> bool:
        """The attribute; what has no guest_memfd is not private.  The caller has touched both."""
        slot = self.gfn_to_memslot(gfn)
        return slot is not None and bool(slot.flags & KVM_MEM_GUEST_MEMFD and self.mem_attr_array[gfn])

    def slots_in(self, start: int, end: int) -> list[tuple[KvmMemorySlot, int, int]]:
        """The memslots that [start, end) reaches, each with the first frame in it and the first behind it."""
        reached = [(s, max(start, s.base_gfn), min(end, s.base_gfn + s.npages)) for s in self.memslots]
        return [(slot, first, last) for slot, first, last in reached if first < last]


class KvmVcpu(Record):
    """`struct kvm_vcpu` and `struct vcpu_tdx`.  It runs on one CPU, which alone uses all but `mode` and `requests`."""

    FIXED = Record.FIXED | {"kvm", "mutex", "vcpu_id", "cpu", "flushed", "state", "tdvpr_hpa", "tdcx_hpas",
                            "mmu_shadow_page_cache", "mmu_external_spt_cache", "pamt_cache", "caches"}  # fmt: skip
    __slots__ = (  # noqa: RUF023
        "kvm", "mutex", "vcpu_id", "cpu", "state", "tdvpr_hpa", "tdcx_hpas", "mmu_shadow_page_cache",
        "mmu_external_spt_cache", "pamt_cache",
        "has_roots",  # this CPU: is the module told of the VM's roots?
        "flushed",  # has TDH.VP.FLUSH been tried?  There: vcpu->cpu is -1 then
        "mode", "requests",  # every access is a touch
        "pir",  # vectors posted for the guest; every access is a touch
        "signal",  # is a signal pending for the thread?  every access is a touch
        "vp_enter_ret", "exit_qualification", "ext_exit_qualification", "exit_gpa",  # this CPU: last TD exit
        "vp_enter_args",  # this CPU: registers of the guest after a TDVMCALL; replaced, never changed
        "msrs", "mp_state", "map_gpa_next", "map_gpa_end",  # this CPU
        "violation_gfn_start", "violation_gfn_end", "violation_request_level",  # this CPU: RFC v1 only
        "run", "answer",  # this CPU: struct kvm_run, what userspace is told and what it answers
        "complete_userspace_io",  # this CPU: what is to be done with the answer
    )  # fmt: skip

    def __init__(self, kvm: Kvm, cpu: int) -> None:
        vcpu_id = len(kvm.vcpus)
        own: Guard = lambda key: None if key in ("mode", "requests", "pir", "signal") else cpu  # noqa: E731
        super().__init__(kvm.journal, f"kvm_vcpu:{kvm.name}.{vcpu_id}", own)
        self.kvm, self.vcpu_id, self.cpu, self.state = kvm, vcpu_id, cpu, VCPU_TD_STATE_UNINITIALIZED
        self.mutex = Mutex(kvm.journal, f"vcpu->mutex:{kvm.name}.{vcpu_id}")
        self.mode, self.requests, self.flushed = OUTSIDE_GUEST_MODE, 0, False
        self.vp_enter_ret = Status(0)
        self.exit_qualification = self.ext_exit_qualification = self.exit_gpa = 0
        self.vp_enter_args: dict[str, int] = {}
        self.pir, self.signal, self.mp_state = frozenset[int](), False, 0
        self.msrs = Table(kvm.journal, f"msrs:{kvm.name}.{vcpu_id}", 0, lambda key: cpu)
        self.map_gpa_next = self.map_gpa_end = 0
        self.violation_gfn_start = self.violation_gfn_end = self.violation_request_level = 0
        self.run: tuple[Any, ...] = ()
        self.answer = 0
        self.complete_userspace_io: Callable[[KvmVcpu], int] | None = None
        self.mmu_shadow_page_cache = self._cache("mmu_shadow_page_cache")
        self.mmu_external_spt_cache = self._cache("mmu_external_spt_cache")
        self.pamt_cache = self._cache("pamt_cache")
        self.tdvpr_hpa = 0
        self.tdcx_hpas: tuple[int, ...] = ()
        self.has_roots = False

    def _cache(self, name: str) -> KvmMmuMemoryCache:
        kvm, cpu = self.kvm, self.cpu
        return KvmMmuMemoryCache(kvm.journal, f"{name}:{kvm.name}.{self.vcpu_id}", kvm.name, lambda key: cpu)

    @property
    def caches(self) -> tuple[KvmMmuMemoryCache, ...]:
        """All pages that it keeps ready."""
        return self.mmu_shadow_page_cache, self.mmu_external_spt_cache, self.pamt_cache


async def kvm_vm_ioctl_create_vcpu(kvm: Kvm, cpu: int) -> KvmVcpu:
    """KVM_CREATE_VCPU: from the first time that kvm->lock is held on it is counted, from the second on it is there."""
    await kvm.lock.lock()
    kvm.created_vcpus += 1
    kvm.lock.unlock()
    await kvm.lock.lock()
    vcpu = KvmVcpu(kvm, cpu)
    kvm.vcpus = (*kvm.vcpus, vcpu)
    kvm.lock.unlock()
    return vcpu


async def publish(kvm: Kvm, memslots: tuple[KvmMemorySlot, ...]) -> None:
    """`rcu_assign_pointer`: from here on readers see these.  Context: slots_lock."""
    kvm.slots_lock.assert_held()
    await step(at="publish memslots")
    kvm.memslots = memslots


async def kvm_mmu_write_lock(kvm: Kvm, why: str) -> None:
    """`write_lock(&kvm->mmu_lock)`, and say so: how often it is taken is what the series argue about."""
    await kvm.mmu_lock.write_lock()
    kvm.journal.note("mmu_lock_write", why=why)


async def kvm_make_all_cpus_request(kvm: Kvm, request: int) -> None:
    """Make a request to every vCPU; those inside the guest get an IPI, and the caller waits until they have left.

    Left out: requests that do not wait for the IPI.
    """
    targets = []
    for vcpu in kvm.vcpus:
        touches = [(vcpu, "mode", WRITE)] + ([(vcpu, "requests", WRITE)] if request else [])
        await step(*touches, at=f"kvm_request_needs_ipi {vcpu.vcpu_id}")
        if request:
            vcpu.requests |= request
        if vcpu.mode == IN_GUEST_MODE:
            vcpu.mode = EXITING_GUEST_MODE
        if vcpu.mode != OUTSIDE_GUEST_MODE:
            targets.append(vcpu.cpu)
    kvm.journal.note(REQUEST_NOTES[request], ipis=len(targets))
    await kvm.host.smp_call_function_many(targets)


async def kvm_vm_dead(kvm: Kvm) -> None:
    """From here on every ioctl is refused, and every vCPU is told."""
    await step((kvm, "vm_dead", WRITE), at="kvm_vm_dead")
    kvm.vm_dead = True
    await kvm_make_all_cpus_request(kvm, KVM_REQ_VM_DEAD)


async def kvm_vm_bugged(kvm: Kvm, what: str) -> None:
    """`KVM_BUG_ON`: a mistake of KVM's.  The VM is dead."""
    await step((kvm, "vm_bugged", WRITE), at="kvm_vm_bugged")
    kvm.journal.note("kvm_bug_on", what=what)
    if not kvm.vm_bugged:
        kvm.vm_bugged = True
        await kvm_vm_dead(kvm)
