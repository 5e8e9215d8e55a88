// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * How little a source needs. This one computes its pages, in 60 lines; huge pages, verification
 * and recovery are those of the shared parts. docs/sources.md tells how a source is written.
 */
#include "ends.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "memory/gup.h"
#include "memory/internal.h"
#include "source/verify.h"

#define HUGES 4u
#define PAGES (HUGES * HUGE_PAGES)

/* ---- the source ---- */

/* Answers requests, and while there are none fills in order, up to page `end`. */
struct toy {
	struct page_source source;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool wanted[PAGES], stop;
	uint64_t next, end;
	void (*page)(uint8_t *page, uint64_t gfn);
};

static int toy_request(struct page_source *source, gfn_t first, uint64_t n)
{
	struct toy *toy = (struct toy *)source;

	pthread_mutex_lock(&toy->lock);
	memset(toy->wanted + first.v, true, n);
	pthread_cond_signal(&toy->changed);
	pthread_mutex_unlock(&toy->lock);
	return 0;
}

static const struct page_source_ops toy_ops = { .name = "toy", .request = toy_request };

/* Called without the lock: one page at once, or a run in the background. */
static void toy_bring(struct toy *toy, uint64_t first, bool wanted)
{
	struct page_sink *sink = toy->source.sink;
	uint8_t one[PAGE_BYTES];
	void *room = one;
	int64_t i, n = wanted ? 1 : sink->ops->room(sink, GFN(first), 16, &room);

	for (i = 0; i < n; i++)
		toy->page((uint8_t *)room + i * (int64_t)PAGE_BYTES, first + (uint64_t)i);
	if (n > 0)
		(wanted ? sink->ops->fill : sink->ops->commit)(sink, GFN(first), (uint64_t)n, room);
	toy->next += wanted ? 0 : 16;
}

static void *toy_main(void *arg)
{
	struct toy *toy = arg;
	bool *wanted;

	pthread_mutex_lock(&toy->lock);
	while (!toy->stop) {
		wanted = memchr(toy->wanted, true, PAGES);
		if (!wanted && toy->next >= toy->end) {
			pthread_cond_wait(&toy->changed, &toy->lock);
			continue;
		}
		if (wanted)
			*wanted = false;
		pthread_mutex_unlock(&toy->lock);
		toy_bring(toy, wanted ? (uint64_t)(wanted - toy->wanted) : toy->next, wanted);
		pthread_mutex_lock(&toy->lock);
	}
	pthread_mutex_unlock(&toy->lock);
	return NULL;
}

/* ---- its life ---- */

static void toy_start(struct toy *toy, uint64_t first, uint64_t end,
		      void (*page)(uint8_t *page, uint64_t gfn))
{
	struct page_sink *sink = toy->source.sink;

	*toy = (struct toy){
		.source = { &toy_ops, sink }, .next = first, .end = end, .page = page,
	};
	pthread_mutex_init(&toy->lock, NULL);
	pthread_cond_init(&toy->changed, NULL);
	assert_int_equal(pthread_create(&toy->thread, NULL, toy_main, toy), 0);
}

static void toy_stop(void *arg)
{
	struct toy *toy = arg;

	pthread_mutex_lock(&toy->lock);
	toy->stop = true;
	pthread_cond_signal(&toy->changed);
	pthread_mutex_unlock(&toy->lock);
	pthread_join(toy->thread, NULL);
}

/* ---- guests ---- */

static struct memory *late_memory(void)
{
	const struct memory_range range = { GPA(0), HUGES * HUGE_BYTES };
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
	memory_set_way_out(mem, WAY_OUT_KERNEL);
	return mem;
}

/* No page zero: huge pages with many zero pages stay in pieces. */
static void toy_page(uint8_t *page, uint64_t gfn)
{
	uint64_t i, word;

	for (i = 0; i < PAGE_BYTES / 8; i++) {
		word = (gfn + 1) * UINT64_C(0x9e3779b97f4a7c15) + i;
		memcpy(page + i * 8, &word, 8);
	}
}

static bool page_is_right(struct memory *mem, uint64_t gfn, unsigned int flags)
{
	uint8_t is[PAGE_BYTES], should[PAGE_BYTES];

	toy_page(should, gfn);
	return !gup_read(mem, gfn_to_gpa(GFN(gfn)), is, sizeof(is), flags, NULL) &&
	       !memcmp(is, should, sizeof(is));
}

static unsigned int count_huge(const struct memory *mem)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	unsigned int i, n = 0;

	for (i = 0; i < HUGES; i++)
		n += memory_is_huge(pagemap, mem->region[0].host + i * HUGE_BYTES);
	close(pagemap);
	return n;
}

static void check_all(struct memory *mem)
{
	uint64_t i;

	wait_until(!memory_is_late(mem));
	for (i = 0; i < PAGES; i++)
		assert_true(page_is_right(mem, i, GUP_NOWAIT));
}

static void test_a_background_fill_brings_huge_pages(void **state)
{
	struct memory *mem = late_memory();
	static struct toy toy;
	struct memory_stats stats;

	(void)state;
	toy.source.sink = memory_sink(mem);
	toy_start(&toy, 0, PAGES, toy_page);
	memory_attach(mem, &toy.source);
	check_all(mem);
	if (memory_can_mend(mem))
		wait_until(count_huge(mem) == HUGES);
	memory_stats(mem, &stats);
	assert_int_equal(stats.filled, PAGES);
	assert_int_equal(stats.duplicates, 0);
	memory_detach(mem);
	toy_stop(&toy);
	memory_free(mem);
}

/* ---- verified ---- */

static _Atomic unsigned int computed_wrong;

/* Page 77 is wrong the first time, and page 1500 three times. */
static void wrong_page(uint8_t *page, uint64_t gfn)
{
	static _Atomic unsigned int count[2];

	toy_page(page, gfn);
	if ((gfn == 77 && !count[0]++) || (gfn == 1500 && count[1]++ < 3)) {
		page[9] ^= 1;
		computed_wrong++;
	}
}

static bool toy_sum(void *arg, gfn_t gfn, uint64_t *sum)
{
	uint8_t page[PAGE_BYTES];

	(void)arg;
	toy_page(page, gfn.v);
	*sum = XXH3_64bits(page, sizeof(page));
	return true;
}

static void test_wrong_pages_are_asked_for_again(void **state)
{
	const struct verify_config config = { .sum = toy_sum, .tries = 5, .bad_max = 8 };
	struct memory *mem = late_memory();
	struct verify_stats stats;
	static struct toy toy;
	struct verify *verify;
	struct layer *layer;
	struct stack *stack;

	(void)state;
	assert_int_equal(verify_new(&verify, &config, NULL), 0);
	layer = verify_layer(verify);
	assert_int_equal(stack_new(&stack, memory_sink(mem), &layer, 1, &toy.source, NULL), 0);
	assert_int_equal(stack_own(stack, toy_stop, NULL, &toy), 0);
	toy_start(&toy, 0, PAGES, wrong_page);
	memory_attach(mem, stack_top(stack));
	check_all(mem);
	verify_stats(verify, &stats);
	assert_int_equal(computed_wrong, 4);
	assert_int_equal(stats.wrong, 4);
	assert_int_equal(stats.lost, 0);
	/* Those around a wrong page came before it, and are taken along where that can be. */
	if (memory_can_mend(mem))
		wait_until(count_huge(mem) == HUGES);
	memory_detach(mem);
	stack_free(stack);
	memory_free(mem);
}

/* ---- gone, and come again ---- */

struct reader {
	pthread_t thread;
	struct memory *mem;
	uint64_t first;
	unsigned int wrong;
};

static void *reader_main(void *arg)
{
	struct reader *reader = arg;
	uint64_t i;

	for (i = reader->first; i < PAGES; i += 37)
		reader->wrong += !page_is_right(reader->mem, i, 0);
	return NULL;
}

static void test_another_goes_on_where_one_has_gone(void **state)
{
	struct memory *mem = late_memory();
	static struct toy toy[3];
	struct reader reader[2];
	struct memory_stats stats;
	unsigned int i;

	(void)state;
	for (i = 0; i < 2; i++) {
		reader[i] = (struct reader){ .mem = mem, .first = 11 * i };
		assert_int_equal(pthread_create(&reader[i].thread, NULL, reader_main, &reader[i]),
				 0);
	}
	for (i = 0; i < 3; i++) {
		toy[i].source.sink = memory_sink(mem);
		/* Each fills up to the middle of a huge page, the last one all. */
		toy_start(&toy[i], 0, i == 2 ? PAGES : i * HUGE_PAGES + HUGE_PAGES / 2, toy_page);
		memory_attach(mem, &toy[i].source);
		if (i == 2)
			break;
		wait_until((memory_stats(mem, &stats), stats.missing <= PAGES - toy[i].end));
		toy_stop(&toy[i]);
		memory_detach(mem);
		memory_stats(mem, &stats);
		assert_int_equal(stats.requested, 0);
	}
	for (i = 0; i < 2; i++) {
		pthread_join(reader[i].thread, NULL);
		assert_int_equal(reader[i].wrong, 0);
	}
	check_all(mem);
	memory_detach(mem);
	toy_stop(&toy[2]);
	memory_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_background_fill_brings_huge_pages),
		cmocka_unit_test(test_wrong_pages_are_asked_for_again),
		cmocka_unit_test(test_another_goes_on_where_one_has_gone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
