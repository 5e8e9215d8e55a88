/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The two ends of a stack under test: a source below that notes what it is
 * asked for and answers when the test says so, and a sink above that notes what
 * comes. Both are passive: they have no thread of their own.
 */
#ifndef POSTERN_TESTS_SOURCE_ENDS_H
#define POSTERN_TESTS_SOURCE_ENDS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "memory/memory.h"
#include "source/stack.h"

#define ENDS_PAGES 1024

struct far {
	struct page_source source;
	_Atomic int answer;			/* what request() returns */
	_Atomic unsigned int asked[ENDS_PAGES];
	_Atomic unsigned int requests;
	_Atomic uint64_t last;			/* the last page asked for */
};

struct near {
	struct page_sink sink;
	_Atomic int answer;			/* what fill() returns, if negative */
	_Atomic unsigned int filled[ENDS_PAGES];
	_Atomic unsigned int wrong;		/* pages whose content is not theirs */
	_Atomic unsigned int lost[ENDS_PAGES];
	_Atomic unsigned int fills, losses;
	_Atomic unsigned int order[ENDS_PAGES];	/* the how manieth brought the page last */
	_Atomic int rooms;			/* out now: of up to 64 pages each */
	_Atomic unsigned int commits;		/* of pages; they count as filled */
};

void far_init(struct far *far);
void near_init(struct near *near);

/* Page gfn's content: every word tells which page it is; every fourth page is zero. */
void ends_page(uint8_t *page, uint64_t gfn);
/*
 * The source answers: pages from `first` on, n up to 512; a run of one zero
 * page comes without data.
 */
int64_t far_fill(struct far *far, uint64_t first, uint64_t n);
/* The same with a bit flipped in page `wrong`. */
int64_t far_fill_wrong(struct far *far, uint64_t first, uint64_t n, uint64_t wrong);
/*
 * The same by room and commit, in as many pieces as there is room for; a run of one zero page has
 * no room. Returns what the commits did, or the first error of one.
 */
int64_t far_commit(struct far *far, uint64_t first, uint64_t n);
int64_t far_commit_wrong(struct far *far, uint64_t first, uint64_t n, uint64_t wrong);
int far_lose(struct far *far, uint64_t gfn);

static inline int ask(struct page_source *source, uint64_t first, uint64_t n)
{
	return source->ops->request(source, GFN(first), n);
}

/*
 * Both, and what is stacked between them: the state of each test that has
 * ends_setup and ends_teardown.
 */
struct ends {
	struct far far;
	struct near near;
	struct stack *stack;			/* NULL until ends_put */
};

int ends_setup(void **state);
int ends_teardown(void **state);
/* Puts the layer between the two; returns the source that whoever is above asks. */
struct page_source *ends_put(struct ends *ends, struct layer *layer);

/*
 * So much memory from 0 on, of which nothing has come. Skips the test where
 * userfaultfd is not allowed.
 */
struct memory *ends_late_memory(uint64_t bytes);

/* Waits until the condition holds; fails the test after 20 s. */
#define wait_until(condition) \
	do { \
		int64_t wait_end = clock_now_ns() + 20 * NS_PER_SEC; \
		while (!(condition)) { \
			assert_true(clock_now_ns() < wait_end); \
			wait_a_little(); \
		} \
	} while (0)
void wait_a_little(void);

#endif
