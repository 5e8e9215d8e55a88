// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// How a thread that waits for a page is brought out of the wait (eject.h): the
// kick, and the eject for those that wait where no signal reaches them. Who
// waits stands in wait.c.
//
// The eject, step by step. Under eject_lock: the thread is inside KVM_RUN, the
// page is not PRESENT: its byte becomes EJECTING (gup treats it as not there),
// the page's protection is taken away, UFFDIO_WAKE. The vCPU retries the fault,
// finds no permission, KVM_RUN returns -EFAULT; memory_thread_left ends the
// eject: when no other thread is being ejected from the same page, its
// protection comes back and the byte is plain again.
//
//   - Several vCPUs wait for the page: all are woken and come out with -EFAULT.
//     One that nobody asked to stop waits in memory_thread_left until the
//     protection is back, and just runs again.
//   - The page arrives meanwhile: UFFDIO_COPY works on a page without
//     permissions; the byte becomes PRESENT + EJECTING, which nobody touches
//     until the eject ends. The vCPU comes out all the same.
//   - Nobody kicked, but the wait has become long: the fault thread ejects the
//     vCPU all the same, and it waits on in user space
//     (memory_thread_wait_page). A thread that sleeps in the kernel for a page
//     cannot be ptraced, stopped or dumped on these kernels.
//   - The wait that an eject was for was over (the page had been copied, and its
//     byte did not say so yet): the thread is not woken by it. Either it runs,
//     and comes out by a signal, of the next kick or of the fault thread, which
//     sends one for as long as the eject is under way, and ends the eject then.
//     Or it waits for another page by now, where no signal reaches it: when that
//     is reported, the eject moves to that page.
#include "memory/eject.h"

#include <errno.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/cond.h"
#include "base/log.h"
#include "base/probe.h"
#include "memory/internal.h"

void memory_set_way_out(struct memory *mem, enum way_out way)
{
	pthread_mutex_lock(&mem->eject_lock);
	mem->way = way;
	pthread_mutex_unlock(&mem->eject_lock);
}

enum way_out memory_way_out(const struct memory *mem)
{
	return mem->way;
}

/* ---- kick ---- */

enum kick_result memory_thread_kick(struct memory_thread *thread)
{
	struct memory *mem = thread->mem;
	bool woken = false, eject = false;
	struct gup_wait *gw;
	gfn_t gfn = GFN(0);

	/*
	 * Before the look at who waits: a wait that begins from now on sees it
	 * (memory_wait_sleep, memory_note_wait).
	 */
	if (!atomic_exchange(&thread->kicked, true)) {
		count_add(&mem->n_kicks, 1);
		PROBE_KICK(thread->cpu, atomic_load_explicit(&thread->tid, memory_order_relaxed));
	}
	pthread_mutex_lock(&mem->wait_lock);
	for (gw = mem->gup_waits; gw; gw = gw->next) {
		if (gw->self != thread)
			continue;
		gw->woken = true;
		pthread_cond_signal(&gw->cond);
		woken = true;
	}
	if (thread->throttled) {
		memory_room_kick(mem);
		woken = true;
	}
	if (mem->way == WAY_OUT_EJECT && atomic_load(&thread->wait.active)) {
		gfn = thread->wait.gfn;
		eject = true;
	}
	pthread_mutex_unlock(&mem->wait_lock);
	if (eject && memory_eject(mem, thread, gfn))
		return KICK_DONE;
	return woken ? KICK_DONE : KICK_SIGNAL;
}

void memory_thread_set_signal(struct memory_thread *thread, void (*send_signal)(void *arg),
			      void *arg)
{
	thread->send_signal = send_signal;
	thread->signal_arg = arg;
}

void memory_thread_clear(struct memory_thread *thread)
{
	atomic_store(&thread->kicked, false);
}

/* ---- eject ---- */

static int page_protect(struct memory *mem, unsigned int region, uint64_t offset, int protection)
{
	return mprotect(mem->region[region].host + offset * PAGE_BYTES, PAGE_BYTES, protection);
}

/*
 * Is another thread than `but` being ejected from gfn? eject_lock held; the
 * list is stable under wait_lock or as here.
 */
static bool eject_shared(struct memory *mem, const struct memory_thread *but, gfn_t gfn)
{
	struct memory_thread *t;

	for (t = mem->threads; t; t = t->next)
		if (t != but && t->ejecting && t->eject_gfn.v == gfn.v)
			return true;
	return false;
}

/*
 * With wait_lock and eject_lock held. True: the page has come meanwhile and
 * somebody in gup waits for the eject's end.
 */
static bool eject_end(struct memory_thread *thread)
{
	struct memory *mem = thread->mem;
	unsigned int region;
	uint64_t offset;
	uint8_t old;

	thread->ejecting = false;
	mem->ejecting--;
	pthread_cond_broadcast(&mem->eject_over);
	if (eject_shared(mem, thread, thread->eject_gfn) ||
	    !memory_find(mem, thread->eject_gfn, 1, &region, &offset))
		return false;
	if (page_protect(mem, region, offset, PROT_READ | PROT_WRITE) < 0)
		log_error("eject: mprotect back: errno %d", errno);
	old = state_end_eject(&mem->state[region][offset]);
	return (old & STATE_WAITED) && state_of(old) == PAGE_PRESENT;
}

/* Pages that have come while they were being ejected from, and that somebody in gup waits for. */
struct come {
	gfn_t gfn[2];
	unsigned int n;
};

/*
 * With wait_lock (for the list of threads) and eject_lock held. come: empty;
 * who is in it is to be woken without the locks.
 */
static bool eject_start(struct memory_thread *thread, gfn_t gfn, struct come *come)
{
	struct memory *mem = thread->mem;
	unsigned int region;
	uint64_t offset;
	uint8_t old;

	/*
	 * Once no eject is needed none begins: huge pages may be promoted from
	 * then on (stage.c).
	 */
	if (!thread->in_run || mem->way != WAY_OUT_EJECT)
		return false;
	/*
	 * From this page, already: that attempt found nobody in the page's wait
	 * queue; the caller's signal will do it.
	 */
	if (thread->ejecting && thread->eject_gfn.v == gfn.v)
		return false;
	if (thread->ejecting && eject_end(thread))
		come->gfn[come->n++] = thread->eject_gfn;
	if (!memory_find(mem, gfn, 1, &region, &offset))
		return false;
	memory_begin(mem, region, offset);
	if (!state_start_eject(&mem->state[region][offset]))
		return false;
	if (!eject_shared(mem, thread, gfn) && page_protect(mem, region, offset, PROT_NONE) < 0) {
		log_error("eject: mprotect: errno %d", errno);
		old = state_end_eject(&mem->state[region][offset]);
		if (old & STATE_WAITED && state_of(old) == PAGE_PRESENT)
			come->gfn[come->n++] = gfn;
		return false;
	}
	thread->ejecting = true;
	thread->eject_gfn = gfn;
	thread->eject_tried_ns = clock_now_ns();
	mem->ejecting++;
	mem->eject_seq++;
	count_add(&mem->n_ejects, 1);
	PROBE_EJECT(gfn.v, atomic_load_explicit(&thread->tid, memory_order_relaxed), thread->cpu);
	memory_wake_kernel(mem, region, offset, 1);
	return true;
}

/* Who was found with wait_lock held, which has been released since, may have been freed. */
static bool thread_is_known(const struct memory *mem, const struct memory_thread *thread)
{
	const struct memory_thread *t = mem->threads;

	while (t && t != thread)
		t = t->next;
	return t;
}

bool memory_eject(struct memory *mem, struct memory_thread *thread, gfn_t gfn)
{
	struct come come = { 0 };
	bool done;

	pthread_mutex_lock(&mem->wait_lock);
	pthread_mutex_lock(&mem->eject_lock);
	done = thread_is_known(mem, thread) && eject_start(thread, gfn, &come);
	pthread_mutex_unlock(&mem->eject_lock);
	pthread_mutex_unlock(&mem->wait_lock);
	while (come.n)
		memory_wake(mem, come.gfn[--come.n], 1, true);
	return done;
}

/*
 * When the thread is to be brought out, or INT64_MAX; *by_signal: by its signal,
 * not by an eject. wait_lock and eject_lock held. A wait that has become long is ejected from.
 * An eject that has not brought its thread out missed it, and a signal does not,
 * whether or not the thread waits: it may have found the page and run on, and
 * until it is out nobody else gets at that page.
 */
static int64_t overdue_at(const struct memory_thread *thread, bool *by_signal)
{
	/* Otherwise a signal reaches it wherever it waits. */
	bool waits = thread->mem->way == WAY_OUT_EJECT && atomic_load(&thread->wait.active) &&
		     !thread->waits_in_user;

	*by_signal = thread->ejecting && !(waits && thread->wait.gfn.v != thread->eject_gfn.v);
	if (*by_signal)
		return thread->eject_tried_ns + thread->mem->eject_after_ns;
	return waits ? thread->wait.tried_ns + thread->mem->eject_after_ns : INT64_MAX;
}

/* The first thread that is overdue by now, which counts as tried; NULL: none is, until *next. */
static struct memory_thread *overdue_find(struct memory *mem, int64_t now, bool *by_signal,
					  gfn_t *gfn, int64_t *next)
{
	struct memory_thread *thread;
	int64_t due;

	*next = INT64_MAX;
	for (thread = mem->threads; thread; thread = thread->next) {
		due = overdue_at(thread, by_signal);
		if (due <= now) {
			*gfn = thread->wait.gfn;
			*(*by_signal ? &thread->eject_tried_ns : &thread->wait.tried_ns) = now;
			return thread;
		}
		*next = due < *next ? due : *next;
	}
	return NULL;
}

int memory_eject_overdue(struct memory *mem)
{
	struct memory_thread *thread;
	int64_t now, next;
	gfn_t gfn = GFN(0);
	bool by_signal;

	/* One that was begun before the way was known is seen to its end. */
	if (mem->way != WAY_OUT_EJECT && !count_get(&mem->n_ejects))
		return -1;
	do {
		now = clock_now_ns();
		pthread_mutex_lock(&mem->wait_lock);
		pthread_mutex_lock(&mem->eject_lock);
		thread = overdue_find(mem, now, &by_signal, &gfn, &next);
		pthread_mutex_unlock(&mem->eject_lock);
		/*
		 * With wait_lock held, so that the thread does not end
		 * meanwhile: a signal to one that was joined is nobody's.
		 */
		if (thread && by_signal && thread->send_signal && atomic_load(&thread->tid))
			thread->send_signal(thread->signal_arg);
		pthread_mutex_unlock(&mem->wait_lock);
		if (thread && !by_signal)
			memory_eject(mem, thread, gfn);
	} while (thread);
	if (next == INT64_MAX)
		return -1;
	return next > now ? (int)((next - now + NS_PER_MS - 1) / NS_PER_MS) : 0;
}

/*
 * A bystander's -EFAULT: was there an eject since it entered KVM_RUN? Waits
 * until none is under way, or it is kicked.
 */
static bool eject_bystander(struct memory_thread *thread)
{
	struct memory *mem = thread->mem;
	bool was;

	pthread_mutex_lock(&mem->eject_lock);
	was = mem->ejecting || mem->eject_seq != thread->entered_at;
	while (mem->ejecting && !atomic_load(&thread->kicked))
		cond_wait(&mem->eject_over, &mem->eject_lock, clock_now_ns() + NS_PER_MS);
	pthread_mutex_unlock(&mem->eject_lock);
	return was;
}

void memory_ejects_wait(struct memory *mem)
{
	pthread_mutex_lock(&mem->eject_lock);
	while (mem->ejecting && !atomic_load(&mem->shut))
		cond_wait(&mem->eject_over, &mem->eject_lock, clock_now_ns() + 10 * NS_PER_MS);
	pthread_mutex_unlock(&mem->eject_lock);
}

void memory_thread_enter(struct memory_thread *thread)
{
	struct memory *mem = thread->mem;

	/*
	 * Without the lock, too: the userfaultfd may be opened while it is
	 * inside (memory_watch_writes).
	 */
	atomic_store(&thread->in_run, true);
	if (mem->uffd < 0)
		return;
	pthread_mutex_lock(&mem->eject_lock);
	thread->in_run = true;
	/*
	 * Ejects that have ended: one under way now may be what this thread
	 * meets, and end before it is out.
	 */
	thread->entered_at = mem->eject_seq - mem->ejecting;
	pthread_mutex_unlock(&mem->eject_lock);
}

/* Ends this thread's eject, if there is one. Returns whether there was. */
static bool eject_leave(struct memory_thread *thread)
{
	struct memory *mem = thread->mem;
	bool ejected, wake = false;
	gfn_t gfn;

	pthread_mutex_lock(&mem->eject_lock);
	thread->in_run = false;
	thread->returned_at = atomic_fetch_add(&mem->returns, 1) + 1;
	ejected = thread->ejecting;
	pthread_mutex_unlock(&mem->eject_lock);
	if (!ejected)
		return false;
	/* Not in KVM_RUN any more: nobody starts another eject of this thread between the two. */
	pthread_mutex_lock(&mem->wait_lock);
	pthread_mutex_lock(&mem->eject_lock);
	gfn = thread->eject_gfn;
	wake = eject_end(thread);
	pthread_mutex_unlock(&mem->eject_lock);
	pthread_mutex_unlock(&mem->wait_lock);
	if (wake)
		memory_wake(mem, gfn, 1, true);
	return true;
}

bool memory_thread_left(struct memory_thread *thread, int result)
{
	bool ejected;

	if (thread->mem->uffd < 0) {
		atomic_store(&thread->in_run, false);
		return false;
	}
	ejected = eject_leave(thread);
	if (result == -EFAULT && (ejected || eject_bystander(thread)))
		return true;	/* it still waits for the page; memory_thread_wait_page */
	memory_wait_clear(thread);
	return false;
}

void memory_thread_wait_page(struct memory_thread *thread)
{
	struct memory *mem = thread->mem;
	bool came;
	gfn_t gfn;

	if (!atomic_load(&thread->wait.active))
		return;
	pthread_mutex_lock(&mem->wait_lock);
	thread->waits_in_user = true;
	gfn = thread->wait.gfn;
	pthread_mutex_unlock(&mem->wait_lock);
	came = memory_wait_page(mem, gfn, thread);
	pthread_mutex_lock(&mem->wait_lock);
	thread->waits_in_user = false;
	/*
	 * Seen by itself, before whoever filled the page could tell it: that
	 * would have counted the wait.
	 */
	if (atomic_exchange(&thread->wait.active, false) && came)
		hist_add(&mem->latency, clock_now_ns() - thread->wait.since_ns);
	pthread_mutex_unlock(&mem->wait_lock);
}
