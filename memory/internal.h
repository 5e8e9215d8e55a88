/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What the files of memory/ share, and nobody else sees. The order of the locks
 * stands in docs/architecture.md ("Order of locks"); none is held across a wait
 * for a page.
 */
#ifndef POSTERN_MEMORY_INTERNAL_H
#define POSTERN_MEMORY_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "base/count.h"
#include "memory/eject.h"
#include "memory/gup.h"
#include "memory/memory.h"
#include "memory/span.h"
#include "memory/state.h"
#include "memory/wait.h"

/*
 * Unregistered: threads that wait for a page and have no memory_thread (KVM's
 * own workers). Kept for statistics only.
 */
#define MEMORY_UNREGISTERED 32
/* So many threads are named for their direct accesses; there should be none. */
#define MEMORY_DIRECT_NAMED_MAX 32

/*
 * One page somebody waits for inside the kernel. Guarded by wait_lock; `active`
 * is also read without it.
 */
struct wait {
	_Atomic bool active;
	gfn_t gfn;
	int64_t since_ns;
	int64_t tried_ns;		/* the last attempt to bring it to user space, or since_ns */
};

/* A sleeper in gup; on the sleeper's stack, linked under wait_lock. */
struct gup_wait {
	struct gup_wait *next;
	struct memory_thread *self;
	gfn_t gfn;
	int64_t since_ns;
	bool woken;
	pthread_cond_t cond;
};

struct memory_thread {
	struct memory *mem;
	struct memory_thread *next;	/* guarded by wait_lock */
	char name[16];
	int cpu;
	_Atomic pid_t tid;
	_Atomic bool kicked;
	struct wait wait;		/* inside KVM_RUN, or in user space */
	bool waits_in_user;			/* guarded by wait_lock: memory_thread_wait_page */
	void (*send_signal)(void *arg);
	void *signal_arg;
	/* Not to enter the guest before there is room: room.c. Written with wait_lock held. */
	_Atomic bool held_back;
	bool throttled;			/* guarded by wait_lock: it waits for that */
	_Atomic bool in_run;		/* written with eject_lock held once there is a userfaultfd */
	/* guarded by eject_lock */
	bool ejecting;
	gfn_t eject_gfn;
	int64_t eject_tried_ns;		/* when it was begun, or the last signal sent */
	uint64_t entered_at;		/* eject_seq when KVM_RUN was entered */
	uint64_t returned_at;		/* the number of the last return from KVM_RUN: see direct_access.c */
};

/*
 * A huge page with more zero pages than this stays in pieces: they cost no
 * memory as they are, and would cost 2 MiB.
 */
#define MEMORY_HUGE_ZEROS_MAX 64
/*
 * Pages with failed memory that are known one by one; with more of them no lost
 * page is filled any more.
 */
#define MEMORY_POISONED_MAX 64u
/* Huge pages share this many locks. */
#define MEMORY_HUGE_LOCKS 64

struct memory_unregistered {
	pid_t tid;
	struct wait wait;
};

/* Staging areas in which pages wait for the rest of their huge page (sink.c). */
struct memory_rooms {
	pthread_mutex_t lock;		/* the areas, and what is noted of them */
	pthread_cond_t placed;		/* an area was placed */
	pthread_cond_t held;		/* pages are held back where none were, or shut */
	struct memory_area *areas;
	int64_t wake_ns;		/* when the thread looks again; INT64_MAX: when `held` */
	pthread_t thread;
	bool running; /* the thread is to be joined */
	bool ended; /* and is not started any more */
};

/* How long a thread may wait inside the kernel where that hides it from signals. */
#define EJECT_AFTER_NS (5 * NS_PER_MS)

struct memory {
	struct memory_region region[MEMORY_REGIONS_MAX];
	state_byte *state[MEMORY_REGIONS_MAX];
	_Atomic uint64_t *begun[MEMORY_REGIONS_MAX];	/* see memory_begin */
	unsigned int regions;
	uint64_t pages;
	bool dumpable;			/* set before other threads know of it */

	/*
	 * What RAM is a private mapping of (backing.c); -1: it is anonymous.
	 * Set before other threads know of it.
	 */
	int backing;
	int backing_uffd;		/* of the mapping below, by which pages come in; -1: not watched */
	uint8_t *backing_map;		/* all of it, shared; never touched but by UFFDIO_COPY */

	pthread_rwlock_t map_lock;	/* the set of regions, and whether they are watched */

	/* Watching. Set by memory_watch, or by the first snapshot; uffd is -1 otherwise. */
	_Atomic int uffd;
	int uffd_place; /* a descriptor whose number is kept for it: see watch.c */
	bool can_move;			/* UFFDIO_MOVE */
	bool can_protect;		/* UFFDIO_WRITEPROTECT */
	_Atomic unsigned int promotions_failed;	/* one after the other: huge pages that did not become one (stage.c) */
	/*
	 * Of a huge page: the right to bring pages into it and to take them
	 * away; held across UFFDIO_COPY and the like.
	 */
	pthread_mutex_t huge_lock[MEMORY_HUGE_LOCKS];
	int stop_fd;
	int pagemap; /* -1: then nothing is known to be huge; closed with the memory */
	pthread_t fault_thread;
	struct memory_events events;
	_Atomic bool late;
	_Atomic bool shut;
	pthread_mutex_t collapse_lock;
	pthread_t collapse_thread;
	bool collapsing; /* the thread is to be joined; guarded by collapse_lock */
	_Atomic bool collapse_ended; /* ... and has done its work */

	struct memory_spans spans;

	/*
	 * Which source is attached; shared around its request(), so that detach
	 * can wait for that.
	 */
	pthread_rwlock_t source_lock;
	struct page_source *source;
	struct page_sink sink;		/* ours, for sources */
	struct memory_rooms rooms;

	pthread_mutex_t wait_lock;	/* who waits (wait.c) */
	struct gup_wait *gup_waits;
	struct gup_ticket *tickets;
	struct memory_thread *threads;
	struct memory_unregistered unregistered[MEMORY_UNREGISTERED];
	unsigned int sleepers;
	pthread_cond_t no_sleepers;
	pthread_cond_t room; /* a vCPU that was held back may go on, or is kicked */

	/*
	 * Who is inside KVM_RUN, which pages are ejected from; held across
	 * mprotect and UFFDIO_WAKE.
	 */
	pthread_mutex_t eject_lock;
	pthread_cond_t eject_over;
	unsigned int ejecting;		/* threads with an eject under way */
	uint64_t eject_seq;		/* ejects ever begun */
	int64_t eject_after_ns;		/* EJECT_AFTER_NS, but in tests whose clock stands still */
	_Atomic uint64_t returns;	/* from KVM_RUN, ever; written with eject_lock held */
	_Atomic enum memory_direct_access direct_access;
	pid_t direct_named[MEMORY_DIRECT_NAMED_MAX];	/* the fault thread's: who has been named */
	_Atomic enum way_out way;	/* set once the probe has told; guest and fault thread run by then */

	gfn_t poison[MEMORY_POISONED_MAX];	/* written with wait_lock held, before the number of them */
	_Atomic unsigned int poisoned;	/* MEMORY_POISONED_MAX + 1: there are more */
	_Atomic uint64_t n_missing, n_requested, n_lost;
	_Atomic uint64_t n_faults, n_requests, n_filled, n_duplicates;
	_Atomic uint64_t n_split_huge;	/* still to be collapsed, once all is PRESENT */
	_Atomic uint64_t n_kicks, n_ejects, n_gup_sleeps, n_direct_accesses, n_discarded;
	struct hist latency;
};

/*
 * Where [first, first + pages) lies inside one region: its index and the offset
 * in pages; false: not RAM.
 */
bool memory_find(const struct memory *mem, gfn_t first, uint64_t pages, unsigned int *region,
		 uint64_t *offset);
/* The page that a host address belongs to; false: none of ours. */
bool memory_find_host(const struct memory *mem, uint64_t address, unsigned int *region,
		      uint64_t *offset);

/*
 * Memory of which nearly nothing has come costs little: of a huge page that is
 * not begun every byte is MISSING and no more, and nobody looks at them, so
 * that the host has no memory there. Who changes a byte of it for the first
 * time calls memory_begin before, with any page's offset; a huge page that was
 * begun stays so until memory_watch.
 *
 * Who waits begins first, and then looks which source is asked; who attaches a
 * source says so first, and then looks at what is begun: one of the two sees
 * the other (source_lock). A page that is PRESENT was begun before it was.
 */
static inline bool memory_is_begun(const struct memory *mem, unsigned int region, uint64_t offset)
{
	uint64_t huge = offset / HUGE_PAGES;

	return atomic_load_explicit(&mem->begun[region][huge / 64], memory_order_acquire) >>
		       (huge % 64) &
	       1;
}

static inline void memory_begin(struct memory *mem, unsigned int region, uint64_t offset)
{
	uint64_t huge = offset / HUGE_PAGES;

	if (!memory_is_begun(mem, region, offset))
		atomic_fetch_or(&mem->begun[region][huge / 64], UINT64_C(1) << (huge % 64));
}

/*
 * The first page from `offset` on that is of a huge page that is begun; the
 * region's number of pages: there is none.
 */
uint64_t memory_next_begun(const struct memory *mem, unsigned int region, uint64_t offset);
/* All bytes are MISSING and nothing is begun, whatever was; nobody else looks yet. */
void memory_make_missing(struct memory *mem);

/* ---- wait.c ---- */

/*
 * A thread (by id) was seen waiting in the kernel for a page. *kicked: it has
 * been kicked, and is to be ejected.
 */
void memory_note_wait(struct memory *mem, pid_t tid, gfn_t gfn, struct memory_thread **kicked);
/* On the thread itself: it does not wait in the kernel any more. */
void memory_wait_clear(struct memory_thread *thread);

/*
 * Arms the ticket for a page. False: the page is usable by now, or lost, or
 * memory shuts down: look again.
 */
bool memory_ticket_arm(struct memory *mem, struct gup_ticket *ticket, unsigned int region,
		       uint64_t offset);

/*
 * Has self been kicked (NULL: nobody can be), or does memory shut down? Then
 * nobody begins to wait.
 */
bool memory_wait_is_off(const struct memory *mem, const struct memory_thread *self);
/*
 * Sleeps until the page at offset is usable or (lost_ends) lost, self is
 * kicked, memory shuts down, or the deadline has passed; the map lock is
 * dropped meanwhile. Returns without sleep, and without dropping the lock, when
 * one of these is so already. The caller looks again in any case.
 */
void memory_wait_sleep(struct memory *mem, unsigned int region, uint64_t offset,
		       int64_t deadline_ns, struct memory_thread *self, bool lost_ends,
		       bool *unlocked);
/*
 * Sleeps until the page is usable, self is kicked, or memory shuts down; also
 * while it is LOST. Is it usable?
 */
bool memory_wait_page(struct memory *mem, gfn_t gfn, struct memory_thread *self);

/*
 * The same, while there is no room for a copy of page gfn, which is usable
 * (room.c): the caller looks again in any case.
 */
void memory_wait_room(struct memory *mem, gfn_t gfn, int64_t deadline_ns,
		      struct memory_thread *self, bool *unlocked);
/*
 * Arms the ticket for when there is room. False: there is some by now, or
 * memory shuts down: look again.
 */
bool memory_ticket_arm_room(struct memory *mem, struct gup_ticket *ticket, gfn_t gfn);
/* There is room: wakes all that wait for it. No lock is held: tickets fire. */
void memory_wake_room(struct memory *mem);

/*
 * Wakes gup sleepers and fires tickets for [first, first + n); ends the waits
 * of threads there when `filled`. Returns for how many nanoseconds the oldest
 * of the waits had lasted, 0: there was none.
 */
int64_t memory_wake(struct memory *mem, gfn_t first, uint64_t n, bool filled);
/* All gup waits end, all tickets fire; returns when the last sleeper has left gup. */
void memory_wake_all(struct memory *mem);

/* ---- room.c ---- */

/*
 * Says that somebody waits for room; with wait_lock held, if it is to be relied
 * on. False: there is some.
 */
bool memory_room_is_wanted(struct memory *mem);
/*
 * A copy has gone: wakes who waits, if there is room enough for it to be worth
 * it. No lock is held.
 */
void memory_room_came(struct memory *mem);
/*
 * The vCPU of this thread comes out of the guest, and does not enter it again
 * before there is room.
 */
void memory_hold_back(struct memory *mem, pid_t tid);
/* Those held back look whether they are kicked; or may go on. wait_lock is held. */
void memory_room_kick(struct memory *mem);
void memory_room_let_go(struct memory *mem);

/* ---- eject.c ---- */

/*
 * Ejects `thread`, if it is still there, from its wait for gfn, if it is in
 * KVM_RUN and the page is not PRESENT. True: done.
 */
bool memory_eject(struct memory *mem, struct memory_thread *thread, gfn_t gfn);
/*
 * Brings threads whose wait in the kernel has become long to user space
 * (memory_thread_wait_page), and signals those again whose eject has not
 * brought them out. Called by the fault thread; returns after how many
 * milliseconds it is to be called again, -1: not before the next fault.
 */
int memory_eject_overdue(struct memory *mem);
/*
 * Waits until no page is being ejected from, or memory shuts down; for who
 * reads guest memory that is all PRESENT and pins nothing.
 */
void memory_ejects_wait(struct memory *mem);

/* ---- sink.c ---- */

extern const struct page_sink_ops memory_sink_ops;

void memory_rooms_init(struct memory *mem);
/*
 * All that was committed is placed when it returns; what cannot be is dropped, and MISSING as it
 * was. Rooms that are out stay out.
 */
void memory_rooms_flush(struct memory *mem);
/*
 * Of these pages, of one huge page, what was committed and is not placed yet is
 * not placed any more; sets in *forgotten which ones that were. What is being
 * placed is placed first.
 */
struct wakes;
void memory_rooms_forget(struct memory *mem, gfn_t first, uint64_t n, struct wakes *forgotten);
/*
 * Has this page been committed, and not been placed yet? Then it is placed now,
 * or, should that fail, by and by.
 */
bool memory_rooms_place(struct memory *mem, gfn_t gfn);
/* Joins the thread. memory_rooms_fini: nobody uses a room any more. */
void memory_rooms_end(struct memory *mem);
void memory_rooms_fini(struct memory *mem);

/* ---- fill.c ---- */

/* Locks the huge page that page `offset` lies in; returns what is to be unlocked. */
pthread_mutex_t *memory_huge_lock(struct memory *mem, unsigned int region, uint64_t offset);
/* Huge pages numbered over all regions, from 0 on; and back. */
uint32_t memory_huge_number(const struct memory *mem, unsigned int region, uint64_t offset);
void memory_huge_at(const struct memory *mem, uint32_t number, unsigned int *region,
		    uint64_t *offset);

/*
 * Brings up to n pages at offset into the kernel's page table, with the huge
 * page's lock held: copies of `pages` (NULL: zeros), or the pages themselves,
 * which must lie in a staging area. Return how many came in (perhaps fewer than
 * asked), or a negative errno of the first page: -EEXIST the kernel has it
 * already, -ENOENT the range is cut by an eject's mprotect, -EAGAIN try again.
 */
int64_t memory_fill_copy(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n,
			 const uint8_t *pages);
int64_t memory_fill_move(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n,
			 uint8_t *pages);

/* Pages of one huge page that somebody waited for, who is to be woken once its lock is released. */
struct wakes {
	uint64_t page[HUGE_PAGES / 64];
};

/*
 * [offset, offset + n), of one huge page, is in: the bytes become PRESENT.
 * Returns how many were new.
 */
uint64_t memory_publish(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n,
			struct wakes *wakes);
/*
 * Wakes them; `offset` is any page of the huge page. No huge page's lock is
 * held: tickets fire. Returns the longest wait as memory_wake.
 */
int64_t memory_wake_published(struct memory *mem, unsigned int region, uint64_t offset,
			      const struct wakes *wakes);

/*
 * Fills [offset, offset + n) of one huge page, around what is PRESENT (pages NULL: zeros). Adds
 * to *fresh how many are new, which memory_count_fresh is to be told. 0 or a negative errno.
 */
int memory_fill_huge(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n,
		     const uint8_t *pages, int64_t *fresh);

/*
 * Is there nothing to fill? The page is there, or its memory has failed. Its
 * huge page's lock is held.
 */
bool memory_fill_is_over(struct memory *mem, unsigned int region, uint64_t offset);

/*
 * So many pages are new, which were published: the last one completes. No huge
 * page's lock is held.
 */
void memory_count_fresh(struct memory *mem, uint64_t fresh);

/* ---- watch.c ---- */

/*
 * Asks the source, if there is one, for the pages of [offset, offset + n) that
 * are MISSING. Takes source_lock.
 */
void memory_ask(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n);
/* UFFDIO_WAKE of n pages. */
void memory_wake_kernel(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n);
/* Opens mem->pagemap, if it can be. */
void memory_pagemap_open(struct memory *mem);
/*
 * Registers all of RAM for its missing pages and for writes, with a userfaultfd
 * and a fault thread, which are opened and started if there are none. -ENOTSUP:
 * this kernel cannot report writes; memory_watch's errors.
 */
int memory_watch_writes(struct memory *mem, struct err *err);
/*
 * Nothing is registered any more: no thread is left waiting. What has not come
 * is lost if there is any.
 */
void memory_unregister(struct memory *mem);
/* The userfaultfd and its thread end. */
void memory_unwatch(struct memory *mem);

/*
 * A userfaultfd, with these features on; *there: what this kernel has. A
 * negative errno, and the text says what helps.
 */
int memory_uffd_open(uint64_t features, uint64_t *there, struct err *err);

/* ---- backing.c; but for memory_look only of backed memory ---- */

/* Watches the shared mapping. */
int memory_backing_watch(struct memory *mem, struct err *err);
/*
 * Nobody reaches the memfd through guest RAM any more, which is anonymous from
 * now on; then it is not watched any more.
 */
void memory_backing_leave(struct memory *mem);
/* Before memory is freed, watched or not. */
void memory_backing_fini(struct memory *mem);
/* As memory_fill_copy; of pages that are not zero. */
int64_t memory_backing_copy(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n,
			    const uint8_t *pages);
/* How many pages in a row, n at most, from `offset` on the memfd holds. */
uint64_t memory_backing_run(const struct memory *mem, unsigned int region, uint64_t offset,
			    uint64_t n);
/* Pages that were dropped just now become zeros of this machine's own. How many did. */
uint64_t memory_backing_zero(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n);
/*
 * Which of [offset, offset + n) has somebody else brought, so that they are
 * PRESENT as well? Whoever waits for one is woken. Returns how many they were:
 * 0 of memory that is not backed. No huge page's lock is held.
 */
uint64_t memory_look(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n);

/* ---- direct_access.c ---- */

/* The number of the last return from KVM_RUN; taken before reports are read. */
uint64_t memory_returns(struct memory *mem);
/* A report, read since: may the thread wait in the kernel? */
void memory_check_access(struct memory *mem, pid_t tid, gfn_t gfn, uint64_t returns);

/* ---- stage.c, collapse.c, poison.c ---- */

/*
 * Can a huge page take the place of small ones (stage.c)?
 * memory_count_promoted: it did, or it did not.
 */
bool memory_can_promote(const struct memory *mem);
void memory_count_promoted(struct memory *mem, bool huge);
/*
 * Does the page table hold the 2 MiB at this address as one huge page? False
 * also where the kernel does not tell (before 6.7).
 */
bool memory_is_huge(int pagemap, const uint8_t *host);
/*
 * Brings huge pages back, on a thread of its own, once all is PRESENT
 * (collapse.c). memory_collapse_end joins it.
 */
void memory_collapse_start(struct memory *mem);
void memory_collapse_end(struct memory *mem);

/*
 * Has the host's memory of this page, which is LOST, failed (poison.c)? It is
 * not to be filled then. Any thread.
 */
bool memory_is_poisoned(struct memory *mem, gfn_t gfn);

#endif
