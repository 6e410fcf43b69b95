/* vCPU 0 accepts a page at 4K, vCPU 1 touches another one of the same 2M region: the twin of the scenario handler-order.
 *
 * -DREAD: GUEST_INHIBIT is set with mmu_lock held for read (kvm/inhibit_lock.py: inhibit_under_read_lock).
 * -DTEST_FIRST: in one section with the split, under the lock for write (inhibit_if_not_yet).
 * An entry is read and written in one step here, and the S-EPT follows the mirror at once: no FROZEN_SPTE, no retry.
 * Left out: the tables above the region; the SEAMCALLs of a split, which nobody sees before it is done.  Names are the
 * emulator's, in kvm.
 */

mtype = { NOTHING, HUGE, TABLE };

mtype entry = NOTHING;	/* of the region, at level 2M: mirror and S-EPT */
bool page[2];		/* below a TABLE: is the page of vCPU n mapped? */
bool guest_inhibit;	/* lpage_info.py: KVM_LPAGE_GUEST_INHIBIT_FLAG at level 2M */
bool writer;		/* mmu_lock: engine/locks.py, RwLock */
byte readers;

inline read_lock()    { atomic { !writer -> readers++ } }
inline read_unlock()  { readers-- }
inline write_lock()   { atomic { !writer && readers == 0 -> writer = true } }
inline write_unlock() { writer = false }

#define HP07 assert(!(guest_inhibit && entry == HUGE))	/* looked at after each write of what it reads */

inline split()		/* accept_level.py: split_crossing */
{
	d_step {
		if
		:: entry == HUGE -> entry = TABLE; page[0] = true; page[1] = true
		:: else
		fi
	}
}

inline set_guest_inhibit() { d_step { guest_inhibit = true; HP07 } }	/* inhibit_above */

inline tdx_check_accept_level()	/* accept_level.py */
{
	if
	:: guest_inhibit		/* guest_inhibited: a look without the lock */
	:: else ->
		write_lock();
		split();
#ifdef TEST_FIRST
		set_guest_inhibit();
		write_unlock()
#endif
#ifdef READ
		write_unlock();
		read_lock();
		set_guest_inhibit();
		read_unlock()
#endif
	fi
}

inline kvm_tdp_mmu_page_fault(n)	/* mmu.py */
{
	read_lock();
	huge = !guest_inhibit;		/* "stale?  which level?": kvm_mmu_hugepage_adjust */
	d_step {			/* tdp_mmu.py: kvm_tdp_mmu_map, the entry at 2M */
		if
		:: entry == NOTHING && huge -> entry = HUGE; HP07
		:: entry == NOTHING && !huge -> entry = TABLE
		:: else
		fi
	};
	d_step {			/* the entry at 4K, where there is a table; a leaf stays */
		if
		:: entry == TABLE -> page[n] = true
		:: else
		fi
	};
	read_unlock()
}

active proctype accepts()	/* guest/programs.py: accepts((0, PG_LEVEL_4K)) */
{
	bool huge;

	do
	:: entry == TABLE && page[0] -> break	/* TDG.MEM.PAGE.ACCEPT succeeds */
	:: else ->				/* tdx.py: tdx_handle_ept_violation, at level 4K */
		tdx_check_accept_level();
		kvm_tdp_mmu_page_fault(0)
	od
}

active proctype touches()	/* guest/programs.py: touches(PAGE_SIZE) */
{
	bool huge;

	do
	:: entry == HUGE || page[1] -> break
	:: else ->
		kvm_tdp_mmu_page_fault(1)
	od
}
