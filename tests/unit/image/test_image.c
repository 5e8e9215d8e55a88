// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * An image as a whole: what was written is what is read, through chains of
 * parents; and whatever is damaged is a named error.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/internal.h"
#include "toy_image.h"

static void check(const struct model *model, struct toy_store *toy, const char *name)
{
	struct image *image = toy_image_open(toy, name);

	model_compare(model, image);
	image_free(image);
}

static void test_random_memory_comes_back(void **state)
{
	static const struct image_writer_config configs[] = {
		{ .level = 0 },
		{ .level = -1 },
		{ .level = 5, .pack_bytes = 1 << 20 },
	};
	struct toy_store *toy = toy_store_new();
	unsigned int i;

	(void)state;
	for (i = 0; i < 9; i++) {
		struct model model;
		char name[16];

		/* Leaves are 64 MiB: less than one, and more. */
		model_init(&model, i % 3 == 2 ? 40 : 1 + i, i % 2 ? 3 : 0, i);
		model_fill(&model, i % 2);
		snprintf(name, sizeof(name), "a/n%u", i);
		toy_image_save(&model, toy, name, NULL, &configs[i % 3]);
		check(&model, toy, name);
		model_fini(&model);
	}
	toy_store_free(toy);
}

static void test_an_image_of_zeros_has_no_packs(void **state)
{
	struct toy_store *toy = toy_store_new();
	struct model model;
	struct image *image;
	uint8_t data[PAGE_BYTES];
	struct err err;
	bool zero;

	(void)state;
	model_init(&model, 80, 1, 1);
	toy_image_save(&model, toy, "zeros", NULL, NULL);
	assert_null(toy_store_like(toy, "pack-"));
	image = toy_image_open(toy, "zeros");
	/* In one piece to the end of the leaf. */
	assert_int_equal(image_read(image, GFN(5), 1u << 20, data, &zero, &err), LEAF_PAGES - 5);
	assert_true(zero);
	assert_int_equal(image_manifest(image)->zero_pages, 81 * HUGE_PAGES);
	image_free(image);
	model_fini(&model);
	toy_store_free(toy);
}

/* Every image of a chain, read after all of it was written. */
static void test_a_chain_of_parents_reads_as_it_was_saved(void **state)
{
	enum { CHAIN = 12 };
	struct toy_store *toy = toy_store_new();
	struct model models[CHAIN];
	unsigned int i;

	(void)state;
	for (i = 0; i < CHAIN; i++) {
		struct image *parent = NULL;
		char name[32];

		model_init(&models[i], 40, 2, 7);
		if (!i) {
			model_fill(&models[i], true);
		} else {
			memcpy(models[i].content, models[i - 1].content,
			       models[i].pages * sizeof(uint64_t));
			memset(models[i].changed, 0, models[i].pages);
			models[i].state = i;
			model_touch(&models[i], 1 + 200 * (i % 3));
			snprintf(name, sizeof(name), "chain-%u", i - 1);
			parent = toy_image_open(toy, name);
		}
		snprintf(name, sizeof(name), "chain-%u", i);
		toy_image_save(&models[i], toy, name, parent, NULL);
		image_free(parent);
	}
	for (i = 0; i < CHAIN; i++) {
		char name[32];

		snprintf(name, sizeof(name), "chain-%u", i);
		check(&models[i], toy, name);
		model_fini(&models[i]);
	}
	toy_store_free(toy);
}

/*
 * The hundredth image asks the store for no more than the first: no parent's manifest, no
 * parent's index.
 */
static void test_after_a_hundred_parents_a_page_costs_what_it_did(void **state)
{
	struct toy_store *toy = toy_store_new();
	struct image *image = NULL;
	struct model model;
	uint64_t gets[2];
	unsigned int i;
	struct err err;

	(void)state;
	model_init(&model, 40, 0, 3);
	model_fill(&model, false);
	for (i = 0; i <= 100; i++) {
		char name[32];

		snprintf(name, sizeof(name), "deep-%u", i);
		if (i)
			model_touch(&model, 3);
		toy_image_save(&model, toy, name, image, NULL);
		image_free(image);
		image = toy_image_open(toy, name);
		if (i && i != 100)
			continue;
		image_free(image);
		toy_store_forget_gets(toy);
		image = toy_image_open(toy, name);
		assert_int_equal(model_compare_page(&model, image, 17, &err), 0);
		gets[i / 100] = toy_store_gets(toy);
	}
	model_compare(&model, image);
	/* manifest, root, leaf, frame */
	assert_true(gets[0] <= 4 && gets[1] <= 4);
	image_free(image);
	model_fini(&model);
	toy_store_free(toy);
}

/*
 * One page of the same span changed by each of many images: the span does not become many
 * frames.
 */
static void test_a_span_stays_in_few_pieces(void **state)
{
	struct toy_store *toy = toy_store_new();
	struct image *image = NULL;
	uint8_t data[PAGE_BYTES];
	uint64_t worst = 0;
	struct model model;
	struct err err;
	unsigned int i;
	bool zero;

	(void)state;
	model_init(&model, 1, 0, 3);
	for (i = 0; i < 64; i++)
		model.content[i] = 1 + i;
	for (i = 0; i < 40; i++) {
		struct image_stats stats;
		uint64_t page;
		char name[32];

		snprintf(name, sizeof(name), "span-%u", i);
		model.content[16 + i % 16] = 1000 + i;
		model.changed[16 + i % 16] = 1;
		toy_image_save(&model, toy, name, image, NULL);
		image_free(image);
		image = toy_image_open(toy, name);
		for (page = 16; page < 32; page++)
			assert_int_equal(image_read(image, GFN(page), 1, data, &zero, &err), 1);
		image_stats(image, &stats);
		worst = stats.frames > worst ? stats.frames : worst;
		model_compare(&model, image);
	}
	assert_in_range(worst, 3, 5);
	image_free(image);
	model_fini(&model);
	toy_store_free(toy);
}

/* An incremental image of one page is small, whatever its parent is. */
static void test_what_is_kept_is_not_written_again(void **state)
{
	struct toy_store *toy = toy_store_new();
	struct image *parent;
	struct model model;

	(void)state;
	model_init(&model, 200, 0, 3);
	model_fill(&model, false);
	toy_image_save(&model, toy, "whole", NULL, NULL);
	parent = toy_image_open(toy, "whole");
	model_touch(&model, 1);
	toy_store_forget_gets(toy);
	toy_image_save(&model, toy, "part", parent, NULL);
	/*
	 * Of the parent's seven leaves one at most was read: manifest and root again, and that
	 * leaf.
	 */
	assert_true(toy_store_gets(toy) <= 12);
	image_free(parent);
	parent = toy_image_open(toy, "part");
	assert_true(image_manifest(parent)->own_bytes < 600000);
	image_free(parent);
	check(&model, toy, "part");
	model_fini(&model);
	toy_store_free(toy);
}

/* All pages are said to have changed, and three have. */
static void test_what_has_not_changed_after_all_is_kept(void **state)
{
	struct toy_store *toy = toy_store_new();
	struct image_writer_config config = { .rest = IMAGE_REST_KEPT };
	struct image_writer_stats stats;
	struct image_writer *writer;
	struct image *parent;
	struct model model;
	struct err err;

	(void)state;
	model_init(&model, 40, 1, 3);
	model_fill(&model, false);
	toy_image_save(&model, toy, "whole", NULL, NULL);
	parent = toy_image_open(toy, "whole");
	model.content[7] = 70;
	model.content[8] = 0;
	model.content[40 * HUGE_PAGES + 3] = 71;
	config.machine = model.machine;
	config.parent = parent;
	assert_int_equal(image_writer_new(&writer, toy_store(toy), NULL, "again", &config, &err),
			 0);
	assert_int_equal(model_write(&model, writer, true, &err), 0);
	assert_int_equal(image_writer_finish(writer, &err), 0);
	image_writer_stats(writer, &stats);
	assert_int_equal(stats.data_pages, 2);
	assert_int_equal(stats.data_pages + stats.zero_pages + stats.kept_pages, model.pages);
	image_writer_free(writer);
	image_free(parent);
	check(&model, toy, "again");
	/* A parent that cannot be read is no reason not to save: then all is written. */
	parent = toy_image_open(toy, "whole");
	toy_store_like(toy, "whole/pack-0")->data[20] ^= 1;
	config.parent = parent;
	assert_int_equal(image_writer_new(&writer, toy_store(toy), NULL, "third", &config, &err),
			 0);
	assert_int_equal(model_write(&model, writer, true, &err), 0);
	assert_int_equal(image_writer_finish(writer, &err), 0);
	image_writer_stats(writer, &stats);
	assert_true(stats.data_pages > 2);
	image_writer_free(writer);
	image_free(parent);
	check(&model, toy, "third");
	model_fini(&model);
	toy_store_free(toy);
}

/* ---- what is wrong ---- */

/*
 * Opens it and reads all of it. Returns the first error; 0: all was as it should be, or (model
 * NULL) could be read.
 */
static int read_all(const struct model *model, struct toy_store *toy, const char *name,
		    struct err *err)
{
	struct buf out = { 0 };
	struct image *image;
	uint64_t index;
	int r = image_open(&image, toy_store(toy), NULL, name, NULL, err), first;

	if (r)
		return r;
	first = image_get_object(image, IMAGE_STATE, &out, err);
	buf_fini(&out);
	for (index = 0; index < model->pages; index++) {
		struct err why;

		r = model_compare_page(model, image, index, &why);
		if (r == -ENODATA && model->content[index] == MODEL_ABSENT)
			continue;
		if (r && !first) {
			first = r;
			*err = why;
		}
	}
	image_free(image);
	return first;
}

static void small_image(struct model *model, struct toy_store *toy)
{
	uint64_t i;

	model_init(model, 1, 0, 5);
	/* Frames of each kind, absent pages, a span of two pieces. */
	for (i = 0; i < 40; i++)
		model->content[i] = i % 7 == 6 ? MODEL_ABSENT : i % 5 == 4 ? 0 : 3 * i + i / 13;
	toy_image_save(model, toy, "small", NULL, NULL);
}

/* Each byte of each object changed in turn: an error that names the image, or the same data. */
static void test_a_damaged_byte_anywhere_is_a_named_error(void **state)
{
	struct toy_store *toy = toy_store_new();
	unsigned int o, noticed = 0, same = 0;
	struct model model;
	struct err err;

	(void)state;
	small_image(&model, toy);
	assert_int_equal(read_all(&model, toy, "small", &err), 0);
	for (o = 0; o < toy_store_count(toy); o++) {
		struct toy_object *object = toy_store_at(toy, o);
		size_t step = object->len > 6000 ? 37 : 1, at;

		for (at = 0; at < object->len; at += step) {
			uint8_t old = object->data[at];
			int r;

			object->data[at] ^= (uint8_t)(1 << (at % 8));
			memset(&err, 0, sizeof(err));
			r = read_all(&model, toy, "small", &err);
			object->data[at] = old;
			if (!r) {
				same++;
				continue;
			}
			noticed++;
			if ((r != -EBADMSG && r != -EPROTO) || !strstr(err.text, "small"))
				fail_msg("%s, byte %zu: %d: %s", object->name, at, r, err.text);
		}
	}
	/* zstd's frames have a few bits that mean nothing. */
	print_message("%u bytes damaged and noticed, %u without effect\n", noticed, same);
	assert_true(noticed > 2000 && same < 20);
	model_fini(&model);
	toy_store_free(toy);
}

static void test_a_short_object_is_a_named_error(void **state)
{
	struct toy_store *toy = toy_store_new();
	struct model model;
	struct err err;
	unsigned int o;

	(void)state;
	small_image(&model, toy);
	for (o = 0; o < toy_store_count(toy); o++) {
		struct toy_object *object = toy_store_at(toy, o);
		size_t len = object->len, step = len > 2000 ? 61 : 1;

		for (object->len = 0; object->len < len; object->len += step) {
			int r = read_all(&model, toy, "small", &err);

			if (r != -EBADMSG || !strstr(err.text, "small"))
				fail_msg("%s, %zu bytes: %d: %s", object->name, object->len, r,
					 err.text);
		}
		object->len = len;
	}
	model_fini(&model);
	toy_store_free(toy);
}

static void test_damage_names_image_object_offset_and_page(void **state)
{
	struct toy_store *toy = toy_store_new();
	struct toy_object *pack;
	struct image *image;
	struct model model;
	struct err err;

	(void)state;
	small_image(&model, toy);
	pack = toy_store_like(toy, "pack-0");
	image = toy_image_open(toy, "small");
	pack->data[8] ^= 0xff;
	assert_int_equal(model_compare_page(&model, image, 3, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "image small: object small/pack-0."));
	assert_non_null(strstr(err.text, ", offset 0, guest page 0x3: damaged"));
	/* The damaged frame is not kept: the store's next answer counts. */
	pack->data[8] ^= 0xff;
	assert_int_equal(model_compare_page(&model, image, 3, &err), 0);
	image_free(image);
	model_fini(&model);
	toy_store_free(toy);
}

static void test_an_object_that_is_gone_is_named(void **state)
{
	static const char *const objects[] = { "manifest", "index", "state", "pack-0" };
	unsigned int i;

	(void)state;
	for (i = 0; i < 4; i++) {
		struct toy_store *toy = toy_store_new();
		struct toy_object *object;
		struct model model;
		struct err err;

		small_image(&model, toy);
		object = toy_store_like(toy, objects[i]);
		assert_int_equal(store_delete(toy_store(toy), NULL, object->name, &err), 0);
		assert_int_equal(read_all(&model, toy, "small", &err), -ENOENT);
		assert_non_null(strstr(err.text, objects[i]));
		assert_non_null(strstr(err.text, "image small"));
		model_fini(&model);
		toy_store_free(toy);
	}
}

static void test_pages_beyond_the_memory_are_refused(void **state)
{
	struct toy_store *toy = toy_store_new();
	uint8_t data[PAGE_BYTES];
	enum image_page kind;
	struct image *image;
	struct model model;
	struct err err;
	bool zero;

	(void)state;
	small_image(&model, toy);
	image = toy_image_open(toy, "small");
	assert_int_equal(image_read(image, GFN(512), 1, data, &zero, &err), -ERANGE);
	assert_int_equal(image_read(image, GFN(UINT64_MAX), 1, data, &zero, &err), -ERANGE);
	assert_int_equal(image_look(image, GFN(512), 1, &kind, &err), -ERANGE);
	assert_int_equal(image_look(image, GFN(500), 100, &kind, &err), 12);
	assert_int_equal(kind, IMAGE_PAGE_ZERO);
	assert_int_equal(image_look(image, GFN(6), 100, &kind, &err), 1);
	assert_int_equal(kind, IMAGE_PAGE_ABSENT);
	assert_int_equal(image_look(image, GFN(1), 100, &kind, &err), 3);
	assert_int_equal(kind, IMAGE_PAGE_DATA);
	assert_int_equal(image_get_object(image, "boot-kernel", NULL, &err), -ENOENT);
	assert_false(image_has_object(image, "boot-kernel", NULL));
	assert_true(image_has_object(image, IMAGE_STATE, NULL));
	image_free(image);
	model_fini(&model);
	toy_store_free(toy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_memory_comes_back),
		cmocka_unit_test(test_an_image_of_zeros_has_no_packs),
		cmocka_unit_test(test_a_chain_of_parents_reads_as_it_was_saved),
		cmocka_unit_test(test_after_a_hundred_parents_a_page_costs_what_it_did),
		cmocka_unit_test(test_a_span_stays_in_few_pieces),
		cmocka_unit_test(test_what_is_kept_is_not_written_again),
		cmocka_unit_test(test_what_has_not_changed_after_all_is_kept),
		cmocka_unit_test(test_a_damaged_byte_anywhere_is_a_named_error),
		cmocka_unit_test(test_a_short_object_is_a_named_error),
		cmocka_unit_test(test_damage_names_image_object_offset_and_page),
		cmocka_unit_test(test_an_object_that_is_gone_is_named),
		cmocka_unit_test(test_pages_beyond_the_memory_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
