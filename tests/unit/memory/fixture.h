/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Memory to be tested, with a source that only counts, and threads that wait.
 */
#ifndef POSTERN_TESTS_MEMORY_FIXTURE_H
#define POSTERN_TESTS_MEMORY_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "memory/gup.h"
#include "memory/memory.h"

struct counting_source {
	struct page_source source;
	_Atomic uint64_t requests, pages;
	_Atomic uint64_t last_gfn;
	int answer;		/* what request() returns */
};

void counting_source_init(struct counting_source *source);

/*
 * Two regions: [0, low) and [4 GiB, 4 GiB + high), in MiB; watched when `late`,
 * and then of a memfd of its own where the build says so
 * (MEMORY_FOR_TEST_IS_BACKED). Skips the test where userfaultfd is not allowed.
 */
struct memory *memory_for_test(unsigned int low_mib, unsigned int high_mib, bool late,
			       const struct memory_events *events);

/* The same, watched, a private mapping of memfd, which has room for it. */
struct memory *memory_backed_for_test(unsigned int low_mib, unsigned int high_mib, int memfd,
				      const struct memory_events *events);

/* Waits until the condition holds; fails the test after 10 s. */
#define wait_until(condition) \
	do { \
		for (int wait_left = 100000; !(condition); wait_left--) { \
			assert_true(wait_left > 0); \
			wait_a_little(); \
		} \
	} while (0)
void wait_a_little(void);
/* Does this thread of ours sleep in the kernel now? */
bool thread_sleeps(pid_t tid);

/* A page's content for tests: every word tells which page it is. */
void page_pattern(uint8_t *page, gfn_t gfn);
/* Fills n missing pages from `first` on with the content of those from `as` on. */
void fill_pages(struct memory *mem, uint64_t first, uint64_t n, uint64_t as);
/* What gup_read says, without a wait. */
int read_page(struct memory *mem, uint64_t gfn, uint8_t page[PAGE_BYTES]);

#endif
