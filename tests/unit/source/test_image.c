// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Memory out of an image of a made-up guest, in a store that goes away, comes back, and is damaged.
 */
#include "ends.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../image/model.h"
#include "../image/toy_store.h"
#include "memory/eject.h"
#include "memory/gup.h"
#include "source/image.h"

#define LOW_HUGES 12u
#define HIGH_HUGES 4u

struct world {
	struct model model;
	struct toy_store *toy;
	struct store_scope scope;
	struct image *image;
	struct memory *mem;
	struct image_source *source;
	_Atomic unsigned int lost;
};

static void on_lost(void *arg, gfn_t gfn)
{
	struct world *w = arg;

	(void)gfn;
	w->lost++;
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	const struct memory_events events = { .lost = on_lost, .arg = w };
	const struct image_writer_config config = { .rest = IMAGE_REST_REFUSED };
	struct err err;

	assert_non_null(w);
	model_init(&w->model, LOW_HUGES, HIGH_HUGES, 7);
	model_fill(&w->model, true);
	w->toy = toy_store_new();
	store_scope_init(&w->scope);
	assert_int_equal(model_save(&w->model, toy_store(w->toy), "web", NULL, &config, &err), 0);
	assert_int_equal(image_open(&w->image, toy_store(w->toy), &w->scope, "web", NULL, &err), 0);
	assert_int_equal(
		memory_new(&w->mem, w->model.machine.ranges, w->model.machine.n_ranges, &err), 0);
	*state = w;
	if (!memory_watch(w->mem, &events, &err)) {
		memory_set_way_out(w->mem, WAY_OUT_KERNEL);
		return 0;
	}
	print_message("skipped: %s\n", err.text);
	*state = NULL;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	if (!w)
		return 0;
	memory_detach(w->mem);
	image_source_free(w->source);
	memory_free(w->mem);
	image_free(w->image);
	store_scope_fini(&w->scope);
	toy_store_free(w->toy);
	model_fini(&w->model);
	free(w);
	return 0;
}

#define NEEDS(w)                \
	do {                    \
		if (!(w))       \
			skip(); \
	} while (0)

static void start(struct world *w, bool fill)
{
	const struct image_source_config config = {
		.image = w->image,
		.scope = &w->scope,
		.fill.off = !fill,
	};

	assert_int_equal(image_source_new(&w->source, &config, w->mem, NULL), 0);
	assert_int_equal(image_source_start(w->source, NULL), 0);
	memory_attach(w->mem, image_source_pages(w->source));
}

static struct image_source_info info_of(struct world *w)
{
	struct image_source_info info;

	image_source_info(w->source, &info);
	return info;
}

static void check_page(struct world *w, uint64_t index, unsigned int flags)
{
	uint8_t is[PAGE_BYTES], should[PAGE_BYTES];

	model_page(&w->model, index, should);
	assert_int_equal(gup_read(w->mem, gfn_to_gpa(model_gfn(&w->model, index)), is, sizeof(is),
				  flags, NULL),
			 0);
	assert_memory_equal(is, should, sizeof(is));
}

/* The first page from `from` on that is data, or of another kind. */
static uint64_t find(const struct world *w, uint64_t from, bool data)
{
	while (data ? !w->model.content[from] || w->model.content[from] == MODEL_ABSENT :
		      w->model.content[from] != MODEL_ABSENT)
		from++;
	assert_true(from < w->model.pages);
	return from;
}

static uint64_t missing(struct world *w)
{
	struct memory_stats stats;

	memory_stats(w->mem, &stats);
	return stats.missing;
}

static void test_all_of_an_image_comes(void **state)
{
	struct world *w = *state;
	uint64_t i, absent = 0;

	NEEDS(w);
	start(w, true);
	for (i = 0; i < w->model.pages; i++)
		absent += w->model.content[i] == MODEL_ABSENT;
	assert_true(absent > 0);
	wait_until(missing(w) == absent);
	for (i = 0; i < w->model.pages; i++)
		if (w->model.content[i] != MODEL_ABSENT)
			check_page(w, i, GUP_NOWAIT);
	/* What is not in it is lost to who wants it, and zeros to nobody. */
	assert_int_equal(w->lost, 0);
	i = find(w, 0, false);
	assert_int_equal(gup_read(w->mem, gfn_to_gpa(model_gfn(&w->model, i)), &absent, 8, 0, NULL),
			 -EIO);
	/* Who waits may be woken before it is told. */
	wait_until(w->lost == 1);
}

static void test_a_span_is_read_once(void **state)
{
	struct world *w = *state;
	uint64_t page, i;

	NEEDS(w);
	start(w, false);
	page = find(w, 40, true);
	check_page(w, page, 0);
	wait_until(info_of(w).worker.urgent_reads == 1);
	assert_int_equal(info_of(w).worker.urgent_pages, 1);
	for (i = page / 16 * 16; i < page / 16 * 16 + 16; i++)
		if (w->model.content[i] != MODEL_ABSENT &&
		    memory_page_state(w->mem, model_gfn(&w->model, i)) == PAGE_PRESENT)
			check_page(w, i, GUP_NOWAIT);
	assert_int_equal(info_of(w).worker.bulk_reads, 0);
	assert_true(info_of(w).image.frames <= 16);
}

struct waiter {
	struct world *w;
	uint64_t index;
};

static void *wait_main(void *arg)
{
	struct waiter *waiter = arg;

	check_page(waiter->w, waiter->index, 0);
	return NULL;
}

static void test_who_waits_goes_on_when_the_store_is_back(void **state)
{
	struct world *w = *state;
	struct waiter waiter;
	pthread_t thread;

	NEEDS(w);
	start(w, false);
	waiter = (struct waiter){ w, find(w, 0, true) };
	toy_store_set_failure(w->toy, STORE_GET, 1, -EAGAIN);
	assert_int_equal(pthread_create(&thread, NULL, wait_main, &waiter), 0);
	wait_until(info_of(w).worker.failed >= 3);
	assert_true(info_of(w).failing_since_ns > 0);
	assert_true(*info_of(w).error);
	assert_int_equal(info_of(w).worker.waiting, 1);
	toy_store_set_failure(w->toy, STORE_GET, 0, 0);
	pthread_join(thread, NULL);
	wait_until(!info_of(w).failing_since_ns);
	assert_int_equal(w->lost, 0);
}

/* A stop ends reads that the store never answers. */
static void test_a_stop_does_not_wait_for_the_store(void **state)
{
	struct world *w = *state;

	NEEDS(w);
	start(w, true);
	toy_store_hold(w->toy, true);
	assert_int_equal(
		ask(image_source_pages(w->source), model_gfn(&w->model, find(w, 0, true)).v, 1), 0);
	toy_store_wait_held(w->toy, 1);
	image_source_stop(w->source);
	toy_store_hold(w->toy, false);
	assert_int_equal(ask(image_source_pages(w->source), 0, 1), -ENOTCONN);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_all_of_an_image_comes),
		T(test_a_span_is_read_once),
		T(test_who_waits_goes_on_when_the_store_is_back),
		T(test_a_stop_does_not_wait_for_the_store),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
