// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Huge pages come back. What the stage could not place whole (stage.c) lies in
// pieces; once everything is PRESENT each such huge page is collapsed
// (MADV_COLLAPSE, Linux 6.1 and later; khugepaged does it some time on older
// ones). In the background, one at a time with a pause after each, so that the
// guest gets at the memory map's lock. Those with many zero pages are left:
// they cost no memory now, and would cost 2 MiB.
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/page.h"
#include "base/thread.h"
#include "memory/internal.h"
#include "memory/pagemap.h"

#define COLLAPSE_PAUSE_SHARE 4	/* a pause of a quarter of the time that each takes */

/* Newer than some C libraries: Linux' include/uapi/asm-generic/mman-common.h. */
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

bool memory_is_huge(int pagemap, const uint8_t *host)
{
	struct page_region found = { 0 };
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = (uintptr_t)host,
		.end = (uintptr_t)host + HUGE_BYTES,
		.vec = (uintptr_t)&found,
		.vec_len = 1,
		.category_mask = PAGE_IS_HUGE,
		.return_mask = PAGE_IS_HUGE,
	};

	return pagemap >= 0 && ioctl(pagemap, PAGEMAP_SCAN, &arg) == 1 &&
	       found.start == arg.start && found.end == arg.end;
}

/* Everything is PRESENT and nothing is ejected from: a look at the guest's memory does not wait. */
static bool collapse_wanted(int pagemap, const uint8_t *host)
{
	unsigned int i, zeros = 0;

	if (memory_is_huge(pagemap, host))
		return false;
	for (i = 0; i < HUGE_PAGES && zeros <= MEMORY_HUGE_ZEROS_MAX; i++)
		zeros += page_is_zero(host + i * PAGE_BYTES);
	return zeros <= MEMORY_HUGE_ZEROS_MAX;
}

/*
 * Collapses one, and yields. False: it could not be; when the first cannot,
 * this kernel does not know how.
 */
static bool collapse_one(uint8_t *host)
{
	int64_t start = clock_now_ns();
	int r = madvise(host, HUGE_BYTES, MADV_COLLAPSE);

	if (r < 0 && errno == EINVAL)
		return false;
	usleep((useconds_t)((clock_now_ns() - start) / COLLAPSE_PAUSE_SHARE / NS_PER_US));
	return true;
}

static void *collapse_loop(void *arg)
{
	struct memory *mem = arg;
	bool any = false, end = false;
	unsigned int r;
	uint64_t i;

	pthread_setname_np(pthread_self(), "collapse");
	thread_is_bulk();
	/* The last page may have come while it was being ejected from. No eject begins any more. */
	memory_ejects_wait(mem);
	end = atomic_load(&mem->shut);
	for (r = 0; r < mem->regions && !end; r++)
		for (i = 0; i < mem->region[r].pages && !end; i += HUGE_PAGES) {
			uint8_t *host = mem->region[r].host + i * PAGE_BYTES;

			if (collapse_wanted(mem->pagemap, host)) {
				any |= collapse_one(host);
				end = !any;
			}
			/*
			 * To look into a page whose memory has failed would be
			 * the end; into one that the kernel does not have,
			 * while that is reported, a direct access. A snapshot's
			 * end begins anew.
			 */
			end |= atomic_load(&mem->shut) || atomic_load(&mem->poisoned) ||
			       atomic_load(&mem->spans.watching);
			count_sub(&mem->n_split_huge, 1);
		}
	atomic_store(&mem->n_split_huge, 0);
	atomic_store(&mem->collapse_ended, true);
	return NULL;
}

void memory_collapse_start(struct memory *mem)
{
	pthread_mutex_lock(&mem->collapse_lock);
	/* One that is at it goes on: what it has passed by waits for the next time. */
	if (mem->collapsing && !atomic_load(&mem->collapse_ended)) {
		pthread_mutex_unlock(&mem->collapse_lock);
		return;
	}
	if (mem->collapsing)
		pthread_join(mem->collapse_thread, NULL);
	atomic_store(&mem->collapse_ended, false);
	/* Until they have been looked at. */
	atomic_store(&mem->n_split_huge, mem->pages / HUGE_PAGES);
	mem->collapsing = !thread_start(&mem->collapse_thread, collapse_loop, mem);
	if (!mem->collapsing)
		atomic_store(&mem->n_split_huge, 0);
	pthread_mutex_unlock(&mem->collapse_lock);
}

void memory_collapse_end(struct memory *mem)
{
	pthread_mutex_lock(&mem->collapse_lock);
	if (mem->collapsing)
		pthread_join(mem->collapse_thread, NULL);
	mem->collapsing = false;
	pthread_mutex_unlock(&mem->collapse_lock);
}
