/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Guest RAM and the state of each of its pages.
 *
 *     MISSING --ask--> REQUESTED --data complete--> PRESENT --out of date-->
 *     MISSING
 *        ^                |  |
 *        +---link lost----+  +---the source says so---> LOST
 *
 * RAM is private anonymous memory in a few regions, or a private mapping of a
 * memfd that clones of one image share (memory_set_backing). Memory that is to
 * arrive late is watched by a userfaultfd; the fault thread reads who waits for
 * which page and asks the page source. One byte a page holds the state; the
 * byte is the truth, the kernel's page tables follow it: a page is first copied
 * in whole (UFFDIO_COPY), and only then becomes PRESENT.
 *
 * Guest memory is reached only through gup. Threads that may wait for pages,
 * vCPUs above all, are known by a memory_thread and can be brought out of the
 * wait.
 *
 * The one lock that callers see is the map lock (gup.h). No lock is held across
 * a wait for a page.
 */
#ifndef POSTERN_MEMORY_MEMORY_H
#define POSTERN_MEMORY_MEMORY_H

#include "base/err.h"
#include "base/hist.h"
#include "base/types.h"
#include "memory/page_source.h"

#define MEMORY_REGIONS_MAX 8

/* What memory_page_state tells of a page; PAGE_MISSING also where there is no RAM. */
enum page_state {
	/*
	 * Not here, nobody asked. Entered by memory_watch, by a lost link. Left
	 * by a request or a fill.
	 */
	PAGE_MISSING = 0,
	/*
	 * Asked of the attached source. Left by a fill, by loss, by a detached
	 * source (to MISSING).
	 */
	PAGE_REQUESTED = 1,
	/*
	 * Here, whole. Left for some microseconds (to REQUESTED) when it is
	 * taken into a huge page, unless it is pinned: stage.h; for longer (to
	 * MISSING) when what it holds is out of date: memory_invalidate.
	 */
	PAGE_PRESENT = 2,
	/* The source said that it does not have it. Left only by a fill from another source. */
	PAGE_LOST = 3,
};

struct memory;

/*
 * A range of guest RAM; base and length are multiples of HUGE_BYTES, ranges
 * ascend and never overlap.
 */
struct memory_range {
	gpa_t base;
	uint64_t len_bytes;
};

/* A region as KVM needs it for its memory slot. `host` stays valid until memory_free. */
struct memory_region {
	gfn_t first;
	uint64_t pages;
	uint8_t *host;
};

/* Counters since memory_watch; read at any time. */
struct memory_stats {
	uint64_t pages;			/* of all regions */
	uint64_t missing;		/* not PRESENT now */
	uint64_t requested;		/* REQUESTED now */
	uint64_t lost;			/* LOST now */
	uint64_t faults;		/* messages read from the userfaultfd */
	uint64_t requests;		/* pages asked of the source */
	uint64_t filled;		/* pages that became PRESENT */
	uint64_t duplicates;		/* pages that came although PRESENT */
	uint64_t kicks;
	uint64_t ejects;
	uint64_t split_huge;		/* huge pages that are still to be looked at, after the last page came */
	uint64_t gup_sleeps;		/* waits in gup that did sleep */
	uint64_t direct_accesses;	/* faults of threads that should have used gup: memory_set_direct_access */
	uint64_t discarded;		/* pages given up (memory_discard), each time counted */
	uint64_t strays;		/* direct_accesses by its name in 0.1 */
};

/* Somebody who waits for a page now. */
struct memory_waiter {
	char name[16];			/* of the memory_thread, or "gup" or "other" */
	int cpu;			/* vCPU index, or -1 */
	gpa_t gpa;			/* the page's first byte */
	int64_t since_ns;		/* CLOCK_MONOTONIC */
};

/*
 * Called when a page turned out LOST, when all pages are PRESENT, or when the
 * userfaultfd cannot be read any more (a negative errno): then nobody asks for
 * the pages that vCPUs wait for, but pages that come all the same are filled
 * in. On any thread, no lock held; must not sleep. Each may be NULL.
 */
struct memory_events {
	void (*lost)(void *arg, gfn_t gfn);
	void (*complete)(void *arg);
	void (*watch_failed)(void *arg, int error);
	void *arg;
};

/*
 * Allocates guest RAM: zero-filled, all PRESENT, huge pages advised, left out
 * of core dumps. 1 to MEMORY_REGIONS_MAX ranges. -EINVAL: bad ranges; -ENOMEM.
 */
int memory_new(struct memory **out, const struct memory_range *ranges, unsigned int n,
	       struct err *err);

/*
 * The same, but that memory_watch has to come next, before anybody touches a
 * page. Neither its time nor its memory depends on how much RAM there is: a
 * page costs a byte once something of its huge page has come or was asked for,
 * and before that nothing.
 */
int memory_new_missing(struct memory **out, const struct memory_range *ranges, unsigned int n,
		       struct err *err);

/*
 * This process' core dumps are to have guest RAM, and so what the guest keeps
 * secret: for whoever debugs the two together. Before other threads know `mem`.
 * 0, or what madvise(2) fails with.
 */
int memory_set_dumpable(struct memory *mem);

/*
 * A memfd for guest RAM of so many bytes that other machines are to share:
 * sealed, so that it never changes its size, and empty. Returns the descriptor,
 * which is the caller's; -EINVAL: not a multiple of HUGE_BYTES; or what
 * memfd_create(2) and its like fail with.
 */
int memory_backing_new(uint64_t len_bytes, struct err *err);
/*
 * Guest RAM is a private mapping of `memfd` from now on: clones of one image
 * share what has come of it. The memfd holds the regions' pages one region after
 * the other, as the image has them and no other way, so it belongs to that image
 * for good; a page that nobody has brought yet is a hole of the file.
 *
 *   - A page that the memfd holds is mapped by the kernel: no event, no source
 *     is asked. That is so also of one that another machine has brought, of
 *     which memory_page_state may say MISSING until somebody here looks.
 *   - One that it does not hold is asked for and filled as any other, and what
 *     fills it fills the memfd, for all. Several machines may bring the same
 *     page: the first one's stays. A page of zeros is not put there: it takes no
 *     memory, but a place in this machine's page table.
 *   - Whoever writes to a page gets a copy of his own: memory_written.
 *   - memory_discard works at any time. Pages do not get out of date:
 *     memory_invalidate fails with -EINVAL; memory_take_back drops what is this
 *     machine's own, and what the memfd holds counts as come.
 *
 * Whoever has the descriptor can write there: those who share it trust each
 * other. It must be as memory_backing_new makes it, and of the size of all
 * regions: -EINVAL. Borrowed. Before memory_watch, which has to follow, and
 * before the regions' memory was used. 0, or mmap(2)'s errors.
 *
 * A hole of the memfd that somebody touches after this process' userfaultfd was
 * closed would become a page of zeros, for all who share it. memory_shut closes
 * it only when nothing is mapped any more. Of a process that is killed, a kernel
 * worker (KVM's) or another process (a debugger) may still wait for a page then:
 * so somebody else holds the userfaultfd as well, and ends those waits:
 * memory_watch_fd, memory_retire.
 */
int memory_set_backing(struct memory *mem, int memfd, struct err *err);
/* Was it set? */
bool memory_is_backed(const struct memory *mem);
/*
 * Of backed memory: those of these pages that another machine has brought are
 * PRESENT here as well from now on, as if they had been filled; whoever is about to
 * fetch them asks before. Any thread, no lock held. Returns how many they were: 0
 * of memory that is not backed; -EFAULT: not RAM of one region.
 */
int64_t memory_refresh(struct memory *mem, gfn_t first, uint64_t n);

/*
 * Ends every wait in gup with -EINTR, stops the fault thread, closes the
 * userfaultfd, frees the RAM. All vCPU threads must have ended (a closed
 * userfaultfd shows zeros to whoever still waits), the VM's file descriptors
 * need not be closed yet and should not be: KVM's own workers may wait for a
 * page, and end only when the userfaultfd is gone. Closing (memory_shut) and
 * freeing (memory_free) are thus two steps.
 */
void memory_shut(struct memory *mem);
void memory_free(struct memory *mem);

/* The regions, in ascending order; valid until memory_free. */
const struct memory_region *memory_regions(const struct memory *mem, unsigned int *n);
/* Pages of all regions. */
uint64_t memory_pages(const struct memory *mem);

/* Is [gpa, gpa + len) RAM of one region? */
bool memory_is_ram(const struct memory *mem, gpa_t gpa, uint64_t len_bytes);

/*
 * Makes every page MISSING and starts the fault thread: from now on a touch of
 * a page waits until the page has come. Call before the VM is created (see
 * memory_free), before RAM was written. `events` is copied. -EPERM: no
 * userfaultfd for this user (the text says which sysctl or capability helps);
 * -ENOSYS: kernel without it; -ENOMEM.
 */
int memory_watch(struct memory *mem, const struct memory_events *events, struct err *err);

/*
 * A thread of this process that touches a missing page itself, rather than
 * through gup, sleeps where nothing reaches it: a direct access. Threads inside
 * KVM_RUN (memory_thread_enter) may; so may whoever is not of this process.
 * What is done about one; any thread.
 */
enum memory_direct_access {
	MEMORY_DIRECT_ACCESS_COUNT,	/* memory_stats tells; what a program begins with whose threads may wait for pages */
	MEMORY_DIRECT_ACCESS_LOG,	/* and the log says which thread and page, once a thread */
	MEMORY_DIRECT_ACCESS_ABORT,	/* and the process aborts: for tests */
};
void memory_set_direct_access(struct memory *mem, enum memory_direct_access what);

/* Its names in 0.1, for one release more. */
enum memory_stray { MEMORY_STRAY_COUNT, MEMORY_STRAY_LOG, MEMORY_STRAY_ABORT };
void memory_set_stray(struct memory *mem, enum memory_stray what)
	__attribute__((deprecated("use memory_set_direct_access")));

/*
 * The userfaultfd, or -1: not watched. Borrowed: to be duplicated for
 * memory_retire, and nothing else.
 */
int memory_watch_fd(const struct memory *mem);
/*
 * Of a process that has ended, whose userfaultfd is `uffd` and whose backed RAM
 * lay at these addresses: whoever still waits for a page of it gets one that is
 * nobody else's, and nobody touches the memfd any more; the descriptor may be
 * closed afterwards. What the ended process was is not believed: addresses that
 * it does not have do no harm. In another process, on any thread; takes some
 * milliseconds a GiB if there is somebody who waits, and else no time. 0; a
 * negative errno: something could not be done, and the descriptor should stay
 * open for as long as others use the memfd.
 */
int memory_retire(int uffd, const struct memory_region *regions, unsigned int n);

/* Are there pages that are not PRESENT? */
bool memory_is_late(const struct memory *mem);

/*
 * Attaches the source that is asked from now on; pages that somebody waits for
 * are asked again at once. At most one source is attached. Any thread. Its
 * answers go to its sink, which is set already.
 */
void memory_attach(struct memory *mem, struct page_source *source);
/*
 * The source is gone: REQUESTED pages are MISSING again. When it returns, no thread is inside the
 * source's request(), and what was committed until then is PRESENT, or MISSING if it cannot be
 * placed. Waiters go on waiting. Any thread but one inside request().
 */
void memory_detach(struct memory *mem);

/*
 * The data of the n pages from `first` on has come (NULL: they are zero). Each
 * becomes visible whole, and in one step; pages that are PRESENT already keep
 * what they hold. Any thread, many at a time. Returns how many became PRESENT
 * by this call, or -EFAULT: not RAM, -ENOMEM: the host has none.
 */
int64_t memory_fill(struct memory *mem, gfn_t first, uint64_t n, const void *data);
/*
 * What these pages hold is out of date: PRESENT pages are MISSING again,
 * whoever waits for one has it asked of the source, and the copy that comes
 * next is the truth. Others stay as they are; of none does a copy come back
 * that was handed over before, also where it waits in the sink for the rest of
 * its huge page. What is handed over afterwards counts, so the caller sees to
 * it that no source has an older copy under way, or a room with one.
 *
 * Only while memory is late. Once all has come, or is about to, nothing is
 * watched any more: -EINVAL, and nothing changes. So it is with backed memory.
 *
 * A page that somebody holds by gup, or that is ejected from, stays as it is:
 * -EBUSY, the others are MISSING, and the caller may try again. It is not
 * waited for, since a pin may last (a receive buffer's) and one for good never
 * ends. So whoever needs a page to stay holds it: those that KVM reaches by
 * kernel copies, once vCPUs may run. What the guest writes meanwhile goes with
 * the page, and so does the mark that memory_harvest_dirty takes.
 *
 * Any thread, many at a time. Returns how many became MISSING, or -EFAULT: not
 * RAM of one region; -EINVAL; -EBUSY; -EPERM: the host keeps some of them
 * (locked memory), which are as they were.
 */
int64_t memory_invalidate(struct memory *mem, gfn_t first, uint64_t n);
/*
 * memory_invalidate of all memory: as if nothing had ever come. Only before a
 * vCPU or a device has used any of it, and while no source is attached and
 * nobody fills. 0, or its errors: some pages are then MISSING and others are
 * not.
 */
int memory_take_back(struct memory *mem);
/*
 * The source does not have page gfn: LOST, unless it is PRESENT, or was committed
 * to the sink before, which then places it. Returns 0 or -EFAULT.
 */
int memory_lose(struct memory *mem, gfn_t gfn);
/*
 * The host's memory at this address has failed (SIGBUS with BUS_MCEERR_AR,
 * sigaction(2)): the page there, *gfn, is LOST for good, also when it was
 * PRESENT. events.lost is not called: the caller knows. Any thread. 1; 0: it
 * was so already; -EFAULT: no RAM of the guest's.
 */
int memory_poison(struct memory *mem, const void *host, gfn_t *gfn);

/*
 * The guest does not need what these pages hold: they read as zeros from now
 * on, and their memory goes back to the host until they are touched again.
 * Pages that somebody holds by gup are left as they are, and so is everything
 * while memory is late (memory_is_late): pages that have not come are not given
 * up, pages that have come keep what they hold. (Of backed memory only those
 * are left that have not come.) Any thread; while the guest runs. Returns how
 * many
 * were given up, or -EFAULT: not RAM of one region.
 */
int64_t memory_discard(struct memory *mem, gfn_t first, uint64_t n);

/*
 * The pages of [first, first + n) that the VMM has written, through gup or by
 * memory_discard, since they were last harvested: bit i of byte i / 8 is set
 * when page first + i was; the other bits stay as they are, so that KVM's dirty
 * log can be gathered in the same place (what vCPUs write is there and not
 * here, nor are pages that come from a source). `bits` has (n + 7) / 8 bytes.
 * Takes the marks away. Returns how many there were, or -EFAULT: not RAM of one
 * region. Any thread, at any time; whoever reads a page because of its mark
 * does so by gup, and waits there while it is ejected from or given up, or
 * learns that it is lost.
 *
 * A page is marked when the writer's span is put. One that is held for writing
 * now is thus not told now, unless it was written before, but by a harvest
 * after the put: the last harvest comes when vCPUs and devices write no more
 * and have put what they held. It is so for a page that is pinned for good,
 * too: each put marks it.
 */
int64_t memory_harvest_dirty(struct memory *mem, gfn_t first, uint64_t n, uint8_t *bits);

/*
 * Of backed memory (-EINVAL otherwise): the pages of [first, first + n) that are
 * this machine's own, as bits of `bits` like memory_harvest_dirty's. These are
 * all that it has written or discarded since it began, and perhaps some that it
 * was only about to write, or that are zeros; each other one is as the image has
 * it. No tracking is needed for it, and nothing is changed by it. What is
 * written meanwhile may be missed: vCPUs are parked, devices have put what they
 * hold. Any thread. Returns how many they are, -EFAULT: not RAM of one region,
 * or what reading /proc/self/pagemap fails with.
 */
int64_t memory_written(struct memory *mem, gfn_t first, uint64_t n, uint8_t *bits);

/*
 * The sink that ends here: its fill and lose are the two above; room and commit place whole huge
 * pages where they can, also around pages that came earlier. Valid until memory_free.
 */
struct page_sink *memory_sink(struct memory *mem);

enum page_state memory_page_state(const struct memory *mem, gfn_t gfn);

/*
 * Bitmap of pages that are not PRESENT, of [first, first + n): bit i of byte i
 * / 8 is set when page first + i is missing. `bits` has (n + 7) / 8 bytes.
 * Returns how many are, or -EFAULT. For recovery.
 */
int64_t memory_missing_bitmap(const struct memory *mem, gfn_t first, uint64_t n, uint8_t *bits);

/* Each counter is whole, the set of them read at slightly different moments. */
void memory_stats(const struct memory *mem, struct memory_stats *stats);
/*
 * How long threads waited for pages, from the report of a wait to its end.
 * Valid until memory_free.
 */
struct hist *memory_latency(struct memory *mem);
/* Up to max of those who wait now; returns how many were written. */
unsigned int memory_waiters(struct memory *mem, struct memory_waiter *waiters, unsigned int max);

#endif
