// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Touches that the kernel reports because of spans (span.h): a write into one
// that is PROTECTED, and the first touch of a page that is PRESENT and that the
// kernel does not have, which is zero.
//
// A vCPU whose write finds no more than the reserve is served from the reserve,
// and held back: its signal is sent first, so it comes out of the guest, and
// waits in user space until there is room (memory_thread_throttle), where kicks
// and debuggers reach it. So nobody sleeps in the kernel for longer than a copy
// takes. That KVM itself may have made the touch, with a copy that no signal
// ends, does not matter for the same reason. The reserve is for what vCPUs can
// touch on their way out. Should it be used up (by others: a debugger that
// writes into this process), touches are held, and look again when there is
// room.
#include <errno.h>
#include <linux/userfaultfd.h>

#include "base/log.h"
#include "memory/internal.h"
#include "memory/span.h"

/* Newer than some headers: Linux' include/uapi/linux/userfaultfd.h. */
#ifndef UFFD_PAGEFAULT_FLAG_WP
#define UFFD_PAGEFAULT_FLAG_WP (1 << 1)
#endif

/* ---- absent pages ---- */

/*
 * What an absent page is filled with when it is to be written. Never written,
 * and so no memory.
 */
static const uint8_t *absent_zeros(void)
{
	static uint8_t span[MEMORY_SPAN_BYTES] __attribute__((aligned(4096)));

	return span;
}

/* With the huge page's lock held. */
static void fill_absent_run(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n,
			    const uint8_t *from)
{
	uint64_t i = 0, batch = n;
	int64_t got;

	while (i < n) {
		batch = batch < n - i ? batch : n - i;
		got = memory_fill_copy(mem, region, offset + i, batch, from);
		if (got > 0)
			i += (uint64_t)got;
		else if (got == -EEXIST)
			i++;
		else if (got == -ENOENT && batch > 1)
			batch = 1; /* an eject has cut the mapping */
		else if (got != -EAGAIN)
			break;
	}
	/* Whoever waits looks again, and finds it or is reported anew. */
	if (i < n)
		memory_wake_kernel(mem, region, offset + i, 1);
}

/*
 * The page, and if it is to be written the others of its span with it, which
 * saves their faults. With the huge page's lock held.
 */
static void fill_absent(struct memory *mem, unsigned int region, uint64_t offset, bool write)
{
	uint64_t start = offset - offset % MEMORY_SPAN_PAGES, i, run;
	uint16_t absent;

	if (!write) {
		fill_absent_run(mem, region, offset, 1, NULL);
		return;
	}
	absent = memory_span_absent(mem, region, offset);
	for (i = 0; i < MEMORY_SPAN_PAGES; i = run + 1) {
		for (run = i; run < MEMORY_SPAN_PAGES && absent >> run & 1; run++)
			;
		if (run > i)
			fill_absent_run(mem, region, start + i, run - i, absent_zeros());
	}
	memory_wake_kernel(mem, region, offset, 1);
}

/* ---- touches without room ---- */

static void fault_hold(struct memory *mem, unsigned int region, uint64_t offset)
{
	struct memory_spans *spans = &mem->spans;

	pthread_mutex_lock(&spans->log_lock);
	if (spans->n_held < SPANS_HELD_MAX)
		spans->held[spans->n_held] = mem->region[region].first.v + offset;
	if (spans->n_held <= SPANS_HELD_MAX)
		spans->n_held++;
	pthread_mutex_unlock(&spans->log_lock);
	atomic_store(&spans->room_wanted, true);
	if (memory_spans_has_room(mem))
		memory_wake_room(mem);
}

static void wake_everybody(struct memory *mem)
{
	unsigned int r;
	uint64_t i;

	for (r = 0; r < mem->regions; r++)
		for (i = 0; i < mem->region[r].pages; i += HUGE_PAGES)
			memory_wake_kernel(mem, r, i, HUGE_PAGES);
}

void memory_spans_release(struct memory *mem)
{
	struct memory_spans *spans = &mem->spans;
	uint64_t held[SPANS_HELD_MAX], offset;
	unsigned int n, i, region;

	pthread_mutex_lock(&spans->log_lock);
	n = spans->n_held;
	for (i = 0; i < n && i < SPANS_HELD_MAX; i++)
		held[i] = spans->held[i];
	spans->n_held = 0;
	pthread_mutex_unlock(&spans->log_lock);
	if (n > SPANS_HELD_MAX)
		wake_everybody(mem);
	for (i = 0; i < n && n <= SPANS_HELD_MAX; i++)
		if (memory_find(mem, GFN(held[i]), 1, &region, &offset))
			memory_wake_kernel(mem, region, offset, 1);
}

/* ---- the fault thread's ---- */

static void fault_serve(struct memory *mem, unsigned int region, uint64_t offset, bool absent,
			bool write, pid_t tid)
{
	pthread_mutex_t *lock;
	bool open, here;

	if (!memory_spans_has_room(mem))
		memory_hold_back(mem, tid);
	lock = memory_huge_lock(mem, region, offset);
	/* It may have been taken away meanwhile: then it is reported anew. */
	here = state_of(state_load(&mem->state[region][offset])) == PAGE_PRESENT;
	open = !here || memory_span_open_for_fault(mem, region, offset);
	if (here && open && absent)
		fill_absent(mem, region, offset, write);
	pthread_mutex_unlock(lock);
	if (!here)
		memory_wake_kernel(mem, region, offset, 1);
	else if (!open)
		fault_hold(mem, region, offset);
}

bool memory_span_fault(struct memory *mem, const struct uffd_msg *msg, unsigned int region,
		       uint64_t offset, uint64_t returns)
{
	uint64_t flags = msg->arg.pagefault.flags;
	pid_t tid = (pid_t)msg->arg.pagefault.feat.ptid;
	bool absent = !(flags & UFFD_PAGEFAULT_FLAG_WP);

	if (!atomic_load(&mem->spans.watching))
		return false;
	if (absent && state_of(state_load(&mem->state[region][offset])) != PAGE_PRESENT)
		return false;
	/* A touch of an absent page waits for nobody but this thread. */
	if (!absent)
		memory_check_access(mem, tid, GFN(mem->region[region].first.v + offset), returns);
	fault_serve(mem, region, offset, absent, flags & UFFD_PAGEFAULT_FLAG_WRITE, tid);
	return true;
}
