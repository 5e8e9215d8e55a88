// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * How an image is read: by several threads, through caches, many pages together,
 * and at once however large it is.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "image/internal.h"
#include "toy_image.h"

struct reader {
	struct image *image;
	const struct model *model;
	uint64_t seed;
	int error;
};

static void *read_randomly(void *arg)
{
	struct reader *reader = arg;
	struct model random = { .state = reader->seed };
	unsigned int i;
	struct err err;

	for (i = 0; i < 3000; i++) {
		uint64_t index = model_random(&random, reader->model->pages);
		int r = model_compare_page(reader->model, reader->image, index, &err);

		if (r && !(r == -ENODATA && reader->model->content[index] == MODEL_ABSENT))
			reader->error = r;
	}
	return NULL;
}

static void test_many_threads_read_through_small_caches(void **state)
{
	static const struct image_options limits = {
		.leaf_cache_bytes = 1, /* as small as can be */
		.frame_cache_bytes = 1,
	};
	struct toy_store *toy = toy_store_new();
	struct reader readers[12];
	pthread_t threads[12];
	struct image *image;
	struct model model;
	struct err err;
	unsigned int i;

	(void)state;
	model_init(&model, 100, 0, 11);
	model_fill(&model, true);
	toy_image_save(&model, toy, "many", NULL, NULL);
	assert_int_equal(image_open(&image, toy_store(toy), NULL, "many", &limits, &err), 0);
	for (i = 0; i < 12; i++) {
		readers[i] = (struct reader){ image, &model, i, 0 };
		assert_int_equal(pthread_create(&threads[i], NULL, read_randomly, &readers[i]), 0);
	}
	for (i = 0; i < 12; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(readers[i].error, 0);
	}
	image_free(image);
	model_fini(&model);
	toy_store_free(toy);
}

struct one_reader {
	struct image *image;
	uint64_t gfn;
	int64_t result;
	uint8_t data[PAGE_BYTES];
};

static void *read_one(void *arg)
{
	struct one_reader *reader = arg;
	bool zero;

	reader->result = image_read(reader->image, GFN(reader->gfn), 1, reader->data, &zero, NULL);
	return NULL;
}

/* Eight threads want pages of one frame while it is under way: it is read once. */
static void test_a_frame_is_read_once_whoever_wants_it(void **state)
{
	struct toy_store *toy = toy_store_new();
	struct one_reader readers[8];
	struct image_stats stats;
	pthread_t threads[8];
	struct image *image;
	struct model model;
	struct err err;
	unsigned int i;

	(void)state;
	model_init(&model, 1, 0, 11);
	for (i = 0; i < 32; i++)
		model.content[i] = 1 + i;
	toy_image_save(&model, toy, "one", NULL, NULL);
	image = toy_image_open(toy, "one");
	/* Its leaf. */
	assert_int_equal(model_compare_page(&model, image, 20, &err), 0);
	toy_store_hold(toy, true);
	for (i = 0; i < 8; i++) {
		readers[i] = (struct one_reader){ .image = image, .gfn = i };
		assert_int_equal(pthread_create(&threads[i], NULL, read_one, &readers[i]), 0);
	}
	toy_store_wait_held(toy, 1);
	toy_store_hold(toy, false);
	for (i = 0; i < 8; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(readers[i].result, 1);
	}
	image_stats(image, &stats);
	assert_int_equal(stats.frames, 2);
	assert_int_equal(stats.frame_hits, 7);
	image_free(image);
	model_fini(&model);
	toy_store_free(toy);
}

/* A frame that was handed out whole goes before one of which more may be wanted. */
static void test_what_was_handed_out_whole_goes_first(void **state)
{
	static const struct image_options limits = { .frame_cache_bytes = 1 };
	static uint8_t data[16 * PAGE_BYTES];
	struct toy_store *toy = toy_store_new();
	struct image_stats stats;
	struct image *image;
	struct model model;
	struct err err;
	unsigned int i;
	bool zero;

	(void)state;
	model_init(&model, 2, 0, 11);
	for (i = 0; i < 1024; i++)
		model.content[i] = 1 + i;
	toy_image_save(&model, toy, "whole", NULL, NULL);
	assert_int_equal(image_open(&image, toy_store(toy), NULL, "whole", &limits, &err), 0);
	assert_int_equal(image_read(image, GFN(8), 8, data, &zero, &err), 8);
	/* More than there is room for; the first halves last. */
	for (i = 16; i < 1024; i += 16) {
		assert_int_equal(image_read(image, GFN(i + 4), 12, data, &zero, &err), 12);
		assert_int_equal(image_read(image, GFN(i), 4, data, &zero, &err), 4);
	}
	assert_int_equal(image_read(image, GFN(0), 8, data, &zero, &err), 8);
	image_stats(image, &stats);
	assert_int_equal(stats.frames, 64);
	assert_int_equal(stats.frame_hits, 64);
	image_free(image);
	model_fini(&model);
	toy_store_free(toy);
}

/* Whoever fills a guest reads what lies next to each other with few requests. */
static void test_who_wants_many_pages_reads_them_together(void **state)
{
	struct toy_store *toy = toy_store_new();
	static uint8_t data[HUGE_BYTES];
	struct image_stats stats;
	struct image *image;
	struct model model;
	struct err err;
	unsigned int i;
	bool zero;

	(void)state;
	model_init(&model, 2, 0, 11);
	for (i = 0; i < 1024; i++)
		model.content[i] = 3 * i + 1 + i % 2;
	toy_image_save(&model, toy, "fill", NULL, NULL);
	image = toy_image_open(toy, "fill");
	toy_store_forget_gets(toy);
	model_compare(&model, image);
	/* A leaf, and 64 frames, of which half are raw: 3 MiB. */
	assert_true(toy_store_gets(toy) <= 6);
	image_stats(image, &stats);
	assert_int_equal(stats.frames, 64);
	image_free(image);
	/* Who wants one page reads one frame. */
	image = toy_image_open(toy, "fill");
	toy_store_forget_gets(toy);
	assert_int_equal(image_read(image, GFN(32), 16, data, &zero, &err), 16);
	assert_int_equal(toy_store_gets(toy), 2);
	image_stats(image, &stats);
	assert_int_equal(stats.frames, 1);
	image_free(image);
	model_fini(&model);
	toy_store_free(toy);
}

/* Who has asked for many has room for no more than a span. */
static void test_what_is_read_ends_with_its_span(void **state)
{
	static uint8_t data[HUGE_BYTES];
	struct toy_store *toy = toy_store_new();
	struct image *image;
	struct model model;
	struct err err;
	uint64_t at, i;
	int64_t n;
	bool zero;

	(void)state;
	model_init(&model, 2, 0, 11);
	model_fill(&model, false);
	toy_image_save(&model, toy, "spans", NULL, &(struct image_writer_config){ .level = -1 });
	image = toy_image_open(toy, "spans");
	for (at = 0; at < model.pages; at += (uint64_t)n) {
		memset(data, 0xa5, sizeof(data));
		n = image_read(image, GFN(at), model.pages - at, data, &zero, &err);
		assert_true(n > 0);
		if (!zero)
			assert_true((uint64_t)n <= IMAGE_SPAN_PAGES - at % IMAGE_SPAN_PAGES);
		for (i = zero ? 0 : (uint64_t)n * PAGE_BYTES; i < sizeof(data); i++)
			assert_int_equal(data[i], 0xa5);
	}
	image_free(image);
	model_fini(&model);
	toy_store_free(toy);
}

/* Of what is read together, all but the page that is wrong. */
static void test_damage_costs_one_page_of_many(void **state)
{
	struct toy_store *toy = toy_store_new();
	static uint8_t data[HUGE_BYTES];
	uint8_t page[PAGE_BYTES];
	struct toy_object *pack;
	struct image *image;
	struct model model;
	struct err err;
	uint64_t i, at, wrong = 0;
	int64_t n;
	bool zero;

	(void)state;
	model_init(&model, 1, 0, 11);
	for (i = 0; i < HUGE_PAGES; i++)
		model.content[i] = 3 * i + 2;
	toy_image_save(&model, toy, "marked", NULL, &(struct image_writer_config){ .level = -1 });
	pack = toy_store_like(toy, "/pack-");
	pack->data[pack->len / 2] ^= 1;
	image = toy_image_open(toy, "marked");
	for (at = 0; at < HUGE_PAGES; at += (uint64_t)(n < 0 ? 1 : n)) {
		n = image_read_soon(image, GFN(at), HUGE_PAGES - at, data, &zero, &err);
		wrong += n < 0;
		assert_true(n > 0 || n == -EBADMSG);
		for (i = 0; n > 0 && i < (uint64_t)n; i++) {
			model_page(&model, at + i, page);
			assert_memory_equal(data + i * PAGE_BYTES, page, PAGE_BYTES);
		}
	}
	assert_int_equal(wrong, 1);
	image_free(image);
	model_fini(&model);
	toy_store_free(toy);
}

static void test_a_cancelled_scope_ends_all_who_wait(void **state)
{
	struct toy_store *toy = toy_store_new();
	struct one_reader readers[4];
	struct store_scope scope;
	pthread_t threads[4];
	struct image *image;
	struct model model;
	struct err err;
	unsigned int i;

	(void)state;
	model_init(&model, 1, 0, 11);
	for (i = 0; i < 32; i++)
		model.content[i] = 1 + i;
	toy_image_save(&model, toy, "one", NULL, NULL);
	store_scope_init(&scope);
	assert_int_equal(image_open(&image, toy_store(toy), &scope, "one", NULL, &err), 0);
	toy_store_hold(toy, true);
	for (i = 0; i < 4; i++) {
		readers[i] = (struct one_reader){ .image = image, .gfn = i };
		assert_int_equal(pthread_create(&threads[i], NULL, read_one, &readers[i]), 0);
	}
	toy_store_wait_held(toy, 1);
	store_scope_cancel(&scope);
	for (i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(readers[i].result, -ECANCELED);
	}
	/* And works again afterwards. */
	toy_store_hold(toy, false);
	store_scope_open(&scope);
	assert_int_equal(model_compare_page(&model, image, 20, &err), 0);
	image_free(image);
	store_scope_fini(&scope);
	model_fini(&model);
	toy_store_free(toy);
}

/* Of an image's decoded frames, which are one mapping, what is in memory. */
static size_t resident_pages(const struct image *image)
{
	size_t pages = image->frames_bytes / PAGE_BYTES, i, n = 0;
	unsigned char *there = malloc(pages);

	assert_int_equal(mincore(image->frames, image->frames_bytes, there), 0);
	for (i = 0; i < pages; i++)
		n += there[i] & 1;
	free(there);
	return n;
}

/* While others read, too; and what was dropped is read again. */
static void test_dropped_caches_give_their_memory_back(void **state)
{
	struct toy_store *toy = toy_store_new();
	struct reader reader;
	struct model model;
	pthread_t thread;
	int i;

	(void)state;
	model_init(&model, 2, 0, 23);
	model_fill(&model, false);
	toy_image_save(&model, toy, "web", NULL, &(struct image_writer_config){ .level = 0 });
	reader = (struct reader){ toy_image_open(toy, "web"), &model, 7, 0 };
	model_compare(&model, reader.image);
	assert_true(resident_pages(reader.image) > 100);
	image_drop_caches(reader.image);
	assert_int_equal(resident_pages(reader.image), 0);
	assert_int_equal(pthread_create(&thread, NULL, read_randomly, &reader), 0);
	for (i = 0; i < 200; i++)
		image_drop_caches(reader.image);
	pthread_join(thread, NULL);
	assert_int_equal(reader.error, 0);
	model_compare(&model, reader.image);
	image_free(reader.image);
	model_fini(&model);
	toy_store_free(toy);
}

/*
 * A terabyte whose every leaf has one page: opened without reading or allocating anything of a
 * page.
 */
static void test_a_terabyte_opens_at_once(void **state)
{
	struct toy_store *toy = toy_store_new();
	struct image_writer_config config = { .rest = IMAGE_REST_ZERO };
	static uint8_t page[PAGE_BYTES * IMAGE_SPAN_PAGES] __attribute__((aligned(PAGE_BYTES)));
	struct image_writer *writer;
	struct image *image;
	struct model model;
	struct err err;
	int64_t start, best = INT64_MAX;
	uint64_t leaf;
	bool zero;
	int i;

	(void)state;
	model_init(&model, 1, 0, 1);
	config.machine = model.machine;
	config.machine.ranges[0].len_bytes = UINT64_C(1) << 40;
	assert_int_equal(image_writer_new(&writer, toy_store(toy), NULL, "tera", &config, &err), 0);
	for (leaf = 0; leaf < 16384; leaf++) {
		memset(page, (int)(1 + leaf % 255), PAGE_BYTES);
		assert_int_equal(image_writer_span(writer, GFN(leaf << LEAF_SHIFT), 1, page, &err),
				 0);
	}
	assert_int_equal(image_writer_finish(writer, &err), 0);
	image_writer_free(writer);
	for (i = 0; i < 20; i++) {
		toy_store_forget_gets(toy);
		start = clock_now_ns();
		image = toy_image_open(toy, "tera");
		if (clock_now_ns() - start < best)
			best = clock_now_ns() - start;
		/* Manifest and root. */
		assert_int_equal(toy_store_gets(toy), 2);
		if (i < 19)
			image_free(image);
	}
	print_message("1 TiB, 16384 leaves: opened in %lld us at best\n",
		      (long long)best / NS_PER_US);
	assert_int_equal(image_read(image, GFN(77u << LEAF_SHIFT), 1, page, &zero, &err), 1);
	assert_int_equal(page[5], 78);
	image_free(image);
	model_fini(&model);
	toy_store_free(toy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_many_threads_read_through_small_caches),
		cmocka_unit_test(test_a_frame_is_read_once_whoever_wants_it),
		cmocka_unit_test(test_what_was_handed_out_whole_goes_first),
		cmocka_unit_test(test_who_wants_many_pages_reads_them_together),
		cmocka_unit_test(test_what_is_read_ends_with_its_span),
		cmocka_unit_test(test_damage_costs_one_page_of_many),
		cmocka_unit_test(test_a_cancelled_scope_ends_all_who_wait),
		cmocka_unit_test(test_dropped_caches_give_their_memory_back),
		cmocka_unit_test(test_a_terabyte_opens_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
