// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "ends.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int far_request(struct page_source *source, gfn_t first, uint64_t n)
{
	struct far *far = (struct far *)source;
	int answer = atomic_load(&far->answer);
	uint64_t i;

	for (i = 0; i < n && !answer; i++)
		atomic_fetch_add(&far->asked[first.v + i], 1);
	atomic_store(&far->last, first.v + n - 1);
	atomic_fetch_add(&far->requests, 1);
	return answer;
}

static const struct page_source_ops far_ops = { .name = "far", .request = far_request };

void far_init(struct far *far)
{
	memset((void *)far, 0, sizeof(*far));
	far->source.ops = &far_ops;
}

void ends_page(uint8_t *page, uint64_t gfn)
{
	uint64_t i, word;

	for (i = 0; i < PAGE_BYTES / 8; i++) {
		word = gfn % 4 ? gfn * UINT64_C(0x9e3779b97f4a7c15) + i : 0;
		memcpy(page + i * 8, &word, 8);
	}
}

static int64_t near_take(struct near *near, gfn_t first, uint64_t n, const void *data)
{
	int answer = atomic_load(&near->answer);
	uint8_t should[PAGE_BYTES];
	static const uint8_t zeros[PAGE_BYTES];
	unsigned int order = atomic_load(&near->fills) + atomic_load(&near->commits);
	int64_t fresh = 0;
	uint64_t i;

	if (answer < 0)
		return answer;
	for (i = 0; i < n; i++) {
		ends_page(should, first.v + i);
		if (memcmp(data ? (const uint8_t *)data + i * PAGE_BYTES : zeros, should,
			   PAGE_BYTES))
			atomic_fetch_add(&near->wrong, 1);
		fresh += !atomic_fetch_add(&near->filled[first.v + i], 1);
		atomic_store(&near->order[first.v + i], order);
	}
	return fresh;
}

static int64_t near_fill(struct page_sink *sink, gfn_t first, uint64_t n, const void *data)
{
	struct near *near = (struct near *)sink;

	atomic_fetch_add(&near->fills, 1);
	return near_take(near, first, n, data);
}

static int64_t near_room(struct page_sink *sink, gfn_t first, uint64_t n, void **data)
{
	struct near *near = (struct near *)sink;

	(void)first;
	n = n < 64 ? n : 64;
	*data = aligned_alloc(PAGE_BYTES, n * PAGE_BYTES);
	assert_non_null(*data);
	atomic_fetch_add(&near->rooms, 1);
	return (int64_t)n;
}

static int64_t near_commit(struct page_sink *sink, gfn_t first, uint64_t n, const void *data)
{
	struct near *near = (struct near *)sink;
	int64_t r = 0;

	if (n) {
		atomic_fetch_add(&near->commits, 1);
		r = near_take(near, first, n, data);
	}
	if (data)
		atomic_fetch_sub(&near->rooms, 1);
	free((void *)(uintptr_t)data);
	return r;
}

static int near_lose(struct page_sink *sink, gfn_t gfn)
{
	struct near *near = (struct near *)sink;

	atomic_fetch_add(&near->lost[gfn.v], 1);
	atomic_fetch_add(&near->losses, 1);
	return 0;
}

static const struct page_sink_ops near_ops = {
	.name = "near", .fill = near_fill, .lose = near_lose, .room = near_room, .commit = near_commit,
};

void near_init(struct near *near)
{
	memset((void *)near, 0, sizeof(*near));
	near->sink.ops = &near_ops;
}

int64_t far_fill_wrong(struct far *far, uint64_t first, uint64_t n, uint64_t wrong)
{
	struct page_sink *sink = far->source.sink;
	uint8_t *pages = malloc(n * PAGE_BYTES);
	int64_t r;
	uint64_t i;

	assert_non_null(pages);
	for (i = 0; i < n; i++)
		ends_page(pages + i * PAGE_BYTES, first + i);
	if (wrong >= first && wrong < first + n)
		pages[(wrong - first) * PAGE_BYTES + 77] ^= 4;
	r = sink->ops->fill(sink, GFN(first), n,
			    n == 1 && first % 4 == 0 && wrong != first ? NULL : pages);
	free(pages);
	return r;
}

int64_t far_commit_wrong(struct far *far, uint64_t first, uint64_t n, uint64_t wrong)
{
	struct page_sink *sink = far->source.sink;
	int64_t part, r, done = 0;
	uint64_t i, k;
	void *room;

	if (n == 1 && first % 4 == 0 && wrong != first)
		return sink->ops->commit(sink, GFN(first), n, NULL);
	for (i = 0; i < n; i += (uint64_t)part) {
		part = sink->ops->room(sink, GFN(first + i), n - i, &room);
		assert_true(part >= 1 && (uint64_t)part <= n - i &&
			    (uintptr_t)room % PAGE_BYTES == 0);
		for (k = 0; k < (uint64_t)part; k++)
			ends_page((uint8_t *)room + k * PAGE_BYTES, first + i + k);
		if (wrong >= first + i && wrong < first + i + (uint64_t)part)
			((uint8_t *)room)[(wrong - first - i) * PAGE_BYTES + 77] ^= 4;
		r = sink->ops->commit(sink, GFN(first + i), (uint64_t)part, room);
		if (r < 0)
			return r;
		done += r;
	}
	return done;
}

int64_t far_commit(struct far *far, uint64_t first, uint64_t n)
{
	return far_commit_wrong(far, first, n, UINT64_MAX);
}

int64_t far_fill(struct far *far, uint64_t first, uint64_t n)
{
	return far_fill_wrong(far, first, n, UINT64_MAX);
}

int far_lose(struct far *far, uint64_t gfn)
{
	return far->source.sink->ops->lose(far->source.sink, GFN(gfn));
}

int ends_setup(void **state)
{
	struct ends *ends = malloc(sizeof(*ends));

	assert_non_null(ends);
	far_init(&ends->far);
	near_init(&ends->near);
	ends->stack = NULL;
	*state = ends;
	return 0;
}

int ends_teardown(void **state)
{
	struct ends *ends = *state;

	stack_free(ends->stack);
	free(ends);
	return 0;
}

struct page_source *ends_put(struct ends *ends, struct layer *layer)
{
	assert_int_equal(
		stack_new(&ends->stack, &ends->near.sink, &layer, 1, &ends->far.source, NULL), 0);
	return stack_top(ends->stack);
}

void wait_a_little(void)
{
	usleep(100);
}

struct memory *ends_late_memory(uint64_t bytes)
{
	const struct memory_range range = { GPA(0), bytes };
	struct memory *mem;
	struct err err;
	int r;

	assert_int_equal(memory_new(&mem, &range, 1, &err), 0);
	r = memory_watch(mem, NULL, &err);
	if (r == -EPERM || r == -ENOSYS) {
		memory_free(mem);
		print_message("skipped: %s\n", err.text);
		skip();
	}
	assert_int_equal(r, 0);
	return mem;
}
