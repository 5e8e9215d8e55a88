// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int counting_request(struct page_source *source, gfn_t first, uint64_t n)
{
	struct counting_source *c = (struct counting_source *)source;

	atomic_store(&c->last_gfn, first.v);
	atomic_fetch_add(&c->pages, n);
	atomic_fetch_add(&c->requests, 1);
	return c->answer;
}

static const struct page_source_ops counting_ops = { "counting", counting_request };

void counting_source_init(struct counting_source *source)
{
	*source = (struct counting_source){ .source.ops = &counting_ops };
}

static struct memory *memory_make(unsigned int low_mib, unsigned int high_mib)
{
	struct memory_range ranges[2] = {
		{ GPA(0), (uint64_t)low_mib << 20 },
		{ GPA(UINT64_C(4) << 30), (uint64_t)high_mib << 20 },
	};
	struct memory *mem;
	struct err err;

	assert_int_equal(memory_new(&mem, ranges, high_mib ? 2 : 1, &err), 0);
	return mem;
}

static struct memory *memory_make_late(struct memory *mem, const struct memory_events *events)
{
	struct err err;
	int r = memory_watch(mem, events, &err);

	if (r == -EPERM || r == -ENOSYS) {
		memory_free(mem);
		print_message("skipped: %s\n", err.text);
		skip();
	}
	assert_int_equal(r, 0);
	return mem;
}

struct memory *memory_backed_for_test(unsigned int low_mib, unsigned int high_mib, int memfd,
				      const struct memory_events *events)
{
	struct memory *mem = memory_make(low_mib, high_mib);
	struct err err;

	assert_int_equal(memory_set_backing(mem, memfd, &err), 0);
	return memory_make_late(mem, events);
}

struct memory *memory_for_test(unsigned int low_mib, unsigned int high_mib, bool late,
			       const struct memory_events *events)
{
#ifdef MEMORY_FOR_TEST_IS_BACKED
	struct memory *mem;
	struct err err;
	int memfd;

	if (!late)
		return memory_make(low_mib, high_mib);
	memfd = memory_backing_new((uint64_t)(low_mib + high_mib) << 20, &err);
	assert_true(memfd >= 0);
	mem = memory_backed_for_test(low_mib, high_mib, memfd, events);
	close(memfd);
	return mem;
#else
	struct memory *mem = memory_make(low_mib, high_mib);

	return late ? memory_make_late(mem, events) : mem;
#endif
}

void wait_a_little(void)
{
	usleep(100);
}

bool thread_sleeps(pid_t tid)
{
	char path[64], state = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	f = fopen(path, "re");
	assert_non_null(f);
	assert_int_equal(fscanf(f, "%*d (%*[^)]) %c", &state), 1);
	fclose(f);
	return state == 'S';
}

void page_pattern(uint8_t *page, gfn_t gfn)
{
	uint64_t *words = (uint64_t *)page;
	unsigned int i;

	for (i = 0; i < PAGE_BYTES / 8; i++)
		words[i] = (gfn.v + 1) * UINT64_C(0x9e3779b97f4a7c15) + i;
}

void fill_pages(struct memory *mem, uint64_t first, uint64_t n, uint64_t as)
{
	uint8_t *pages = malloc(n * PAGE_BYTES);
	uint64_t i;

	for (i = 0; i < n; i++)
		page_pattern(pages + i * PAGE_BYTES, GFN(as + i));
	assert_int_equal(memory_fill(mem, GFN(first), n, pages), n);
	free(pages);
}

int read_page(struct memory *mem, uint64_t gfn, uint8_t page[PAGE_BYTES])
{
	return gup_read(mem, gfn_to_gpa(GFN(gfn)), page, PAGE_BYTES, GUP_NOWAIT, NULL);
}
