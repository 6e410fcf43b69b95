/* Two CPUs get the pair of one 2M range and put it: the twin of the scenario pamt-races.
 *
 * -DV1: a put counts down before it takes the lock (host/dpamt/v1.py).
 * -DV6: the count goes from 1 to 0 only under the lock (host/dpamt/v6.py).
 * A leaf of the module is one step here: with pamt_lock held none is busy.  The pages that a pair is made of are left
 * out.  Names are the emulator's, in host/dpamt unless another file is told.
 */

byte refcount;		/* tdx_find_pamt_refcount: the range's users, as the host counts them */
bool pamt_lock;		/* host/host.py: pamt_lock, is it held? */
bool paired;		/* module/pamt.py: has the range its page pair? */
byte finished;		/* CPUs that have returned */

inline lock()   { atomic { !pamt_lock -> pamt_lock = true } }	/* lock.py: lock_all */
inline unlock() { pamt_lock = false }				/* unlock_all */

inline tdx_pamt_get()		/* v1.py, v6.py: get, which differ in what becomes of a refused PAMT.ADD */
{
	d_step { yes = refcount > 0; refcount = refcount + yes };	/* inc_not_zero */
	if
	:: yes
	:: else ->
		lock();
		yes = refcount > 0;				/* read */
		if
		:: yes ->
			d_step { refcount++; yes = false }	/* add(1) */
		:: else ->
#ifdef V6
			assert(!paired);			/* v6.py: where PAMT.ADD is refused the fault fails */
#endif
			paired = true;				/* pair.py: tdx_pamt_add; v1: HPA_RANGE_NOT_FREE will do */
			refcount = 1				/* set(1) */
		fi;
		unlock()
	fi
}

inline tdx_pamt_remove()	/* pair.py; refused where there is no pair */
{
	d_step { removed = paired; paired = false };
	assert(removed)						/* DP10 */
}

#ifdef V1
inline tdx_pamt_put()		/* v1.py: put */
{
	d_step { refcount--; yes = refcount == 0 };		/* dec_and_test */
	if
	:: !yes
	:: else ->
		lock();
		yes = refcount > 0;				/* read: has a get come before the lock? */
		if
		:: yes
		:: else -> tdx_pamt_remove()
		fi;
		unlock()
	fi
}
#endif

#ifdef V6
inline tdx_pamt_put()		/* v6.py: put */
{
	d_step { yes = refcount != 1; refcount = refcount - yes };	/* atomic_dec_and_lock: add_unless(-1, 1) */
	if
	:: yes
	:: else ->
		lock();
		d_step { refcount--; yes = refcount == 0 };	/* atomic_dec_and_lock: dec_and_test */
		if
		:: yes -> tdx_pamt_remove()
		:: else
		fi;
		unlock()
	fi
}
#endif

active [2] proctype cpu()	/* scenarios/neighbours.py: gets_and_puts */
{
	bool yes, removed;

	tdx_pamt_get();
	tdx_pamt_put();
	d_step {
		finished++;
		assert(finished < 2 || (refcount == 0 && !paired))	/* DP37 */
	}
}
