// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * What a writer promises: an image is there whole or not at all, whatever fails
 * and whenever; of two savers of one name one is refused; what was not said is
 * never taken for zeros.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "image/claim.h"
#include "image/name.h"
#include "model.h"
#include "toy_store.h"

static struct image_writer *new_writer(struct toy_store *toy, struct model *model, const char *name,
				       enum image_rest rest)
{
	struct image_writer_config config = { .machine = model->machine, .rest = rest };
	struct image_writer *writer;
	struct err err;

	if (image_writer_new(&writer, toy_store(toy), NULL, name, &config, &err))
		fail_msg("%s", err.text);
	return writer;
}

static void test_what_nobody_named_is_an_error_not_zeros(void **state)
{
	static uint8_t span[IMAGE_SPAN_PAGES * PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));
	struct toy_store *toy = toy_store_new();
	struct image_writer *writer;
	struct model model;
	struct err err;

	(void)state;
	model_init(&model, 1, 1, 1);
	writer = new_writer(toy, &model, "a", IMAGE_REST_REFUSED);
	assert_int_equal(image_writer_zero(writer, GFN(0), 100, &err), 0);
	assert_int_equal(image_writer_zero(writer, GFN(101), 411, &err), 0);
	assert_int_equal(image_writer_zero(writer, GFN(1u << 20), 512, &err), 0);
	assert_int_equal(image_writer_finish(writer, &err), -EINVAL);
	assert_non_null(strstr(err.text, "0x64"));
	/* It can be said now. */
	span[4 * PAGE_BYTES] = 1;
	assert_int_equal(image_writer_span(writer, GFN(96), 1 << 4, span, &err), 0);
	assert_int_equal(image_writer_finish(writer, &err), 0);
	image_writer_free(writer);
	model.content[100] = 0;
	model_fini(&model);
	toy_store_free(toy);
}

static void test_what_cannot_be_named_is_refused_and_harms_nothing(void **state)
{
	static uint8_t span[IMAGE_SPAN_PAGES * PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));
	struct toy_store *toy = toy_store_new();
	struct image_writer *writer;
	struct image *image;
	struct model model;
	struct err err;

	(void)state;
	model_init(&model, 1, 1, 1);
	writer = new_writer(toy, &model, "a", IMAGE_REST_ZERO);
	memset(span, 1, sizeof(span));
	/* No RAM; begins no span; more bits than a span has; twice; no parent. */
	assert_int_equal(image_writer_span(writer, GFN(512), 1, span, &err), -EINVAL);
	assert_int_equal(image_writer_span(writer, GFN(UINT64_MAX - 15), 1, span, &err), -EINVAL);
	assert_int_equal(image_writer_span(writer, GFN(8), 1, span, &err), -EINVAL);
	assert_int_equal(image_writer_span(writer, GFN(16), 1u << 16, span, &err), -EINVAL);
	assert_int_equal(image_writer_span(writer, GFN(16), 3, span, &err), 0);
	assert_int_equal(image_writer_span(writer, GFN(16), 2, span, &err), -EINVAL);
	assert_int_equal(image_writer_zero(writer, GFN(17), 1, &err), -EINVAL);
	assert_int_equal(image_writer_zero(writer, GFN(511), 2, &err), -EINVAL);
	assert_int_equal(image_writer_absent(writer, GFN(5), UINT64_MAX, &err), -EINVAL);
	assert_int_equal(image_writer_keep(writer, GFN(5), 1, &err), -EINVAL);
	assert_int_equal(image_writer_object(writer, "index", "x", 1, &err), -EINVAL);
	assert_int_equal(image_writer_object(writer, "pack-3", "x", 1, &err), -EINVAL);
	assert_int_equal(image_writer_object(writer, "A", "x", 1, &err), -EINVAL);
	assert_int_equal(image_writer_object(writer, "state", "x", 1, &err), 0);
	assert_int_equal(image_writer_object(writer, "state", "x", 1, &err), -EINVAL);
	assert_int_equal(image_writer_finish(writer, &err), 0);
	image_writer_free(writer);
	assert_int_equal(image_open(&image, toy_store(toy), NULL, "a", NULL, &err), 0);
	assert_int_equal(image_manifest(image)->data_pages, 2);
	image_free(image);
	model_fini(&model);
	toy_store_free(toy);
}

static void test_bad_configurations_are_refused(void **state)
{
	struct toy_store *toy = toy_store_new();
	struct image_writer *writer;
	struct image *parent;
	struct model model;
	struct err err;
	struct image_writer_config config = { .rest = IMAGE_REST_ZERO };

	(void)state;
	model_init(&model, 1, 1, 1);
	assert_int_equal(model_save(&model, toy_store(toy), "parent", NULL, NULL, &err), 0);
	assert_int_equal(image_open(&parent, toy_store(toy), NULL, "parent", NULL, &err), 0);
	assert_int_equal(image_writer_new(&writer, toy_store(toy), NULL, "a", &config, &err),
			 -EINVAL);
	config.machine = model.machine;
	config.level = 20;
	assert_int_equal(image_writer_new(&writer, toy_store(toy), NULL, "a", &config, &err),
			 -EINVAL);
	config.level = 0;
	config.rest = IMAGE_REST_KEPT;
	assert_int_equal(image_writer_new(&writer, toy_store(toy), NULL, "a", &config, &err),
			 -EINVAL);
	config.parent = parent;
	config.machine.ranges[1].len_bytes *= 2;
	assert_int_equal(image_writer_new(&writer, toy_store(toy), NULL, "a", &config, &err),
			 -EINVAL);
	config.machine = model.machine;
	assert_int_equal(image_writer_new(&writer, toy_store(toy), NULL, "../a", &config, &err),
			 -EINVAL);
	assert_int_equal(image_writer_new(&writer, toy_store(toy), NULL, "parent", &config, &err),
			 -EEXIST);
	/* None of them has left a claim. */
	assert_null(toy_store_like(toy, "saving"));
	/* What the manifest cannot say is found at the end, and nothing stays. */
	strcpy(config.machine.devices[0], "a\nb");
	config.machine.n_devices = 1;
	assert_int_equal(image_writer_new(&writer, toy_store(toy), NULL, "a", &config, &err), 0);
	assert_int_equal(image_writer_finish(writer, &err), -EINVAL);
	image_writer_free(writer);
	assert_null(toy_store_like(toy, "a/"));
	image_free(parent);
	model_fini(&model);
	toy_store_free(toy);
}

/*
 * Fails each request in turn, of each verb. The image is whole or not there, and when it is not
 * nothing is left.
 */
static void test_whatever_fails_an_image_is_whole_or_not_there(void **state)
{
	static const enum store_verb verbs[] = { STORE_PUT, STORE_GET };
	static const int codes[] = { -EIO, -ENOSPC, -ETIMEDOUT };
	struct image_writer_config config = { .pack_bytes = 1 << 20 };
	unsigned int v, failed = 0, saved = 0;
	uint64_t nth;

	(void)state;
	for (v = 0; v < 2; v++) {
		for (nth = 1;; nth++) {
			struct toy_store *toy = toy_store_new();
			struct model model;
			struct image *image;
			struct err err = { 0 };
			int r;

			model_init(&model, 3, 0, 2);
			model_fill(&model, true);
			toy_store_set_failure(toy, verbs[v], nth, codes[nth % 3]);
			r = model_save(&model, toy_store(toy), "it", NULL, &config, &err);
			toy_store_set_failure(toy, verbs[v], 0, 0);
			if (r) {
				failed++;
				assert_int_equal(r, codes[nth % 3]);
				assert_non_null(strstr(err.text, "it"));
			} else {
				saved++;
			}
			if (!image_open(&image, toy_store(toy), NULL, "it", NULL, &err)) {
				model_compare(&model, image);
				image_free(image);
			} else {
				assert_true(r < 0);
			}
			model_fini(&model);
			toy_store_free(toy);
			if (!r)
				break;
		}
	}
	print_message("%u failed, %u saved\n", failed, saved);
	assert_true(failed > 6 && saved == 2);
}

static void test_a_full_store_leaves_nothing_behind(void **state)
{
	struct image_writer_config config = { .pack_bytes = 1 << 20 };
	struct toy_store *toy = toy_store_new();
	struct model model;
	struct err err;
	uint64_t room;
	int r = -ENOSPC;

	(void)state;
	model_init(&model, 4, 0, 2);
	model_fill(&model, false);
	for (room = 1000; r == -ENOSPC; room *= 2) {
		toy_store_set_room(toy, room);
		r = model_save(&model, toy_store(toy), "full", NULL, &config, &err);
		if (r) {
			assert_int_equal(r, -ENOSPC);
			assert_int_equal(toy_store_count(toy), 0);
		}
	}
	assert_int_equal(r, 0);
	assert_true(room > 1000000);
	model_fini(&model);
	toy_store_free(toy);
}

/* The store wrote the manifest, and says that it did not. */
static void test_a_manifest_that_was_written_after_all_counts(void **state)
{
	struct toy_store *toy = toy_store_new();
	struct image *image;
	struct model model;
	struct err err;

	(void)state;
	model_init(&model, 1, 0, 2);
	model_fill(&model, false);
	toy_store_set_unsure(toy, "manifest", -ETIMEDOUT);
	assert_int_equal(model_save(&model, toy_store(toy), "a", NULL, NULL, &err), 0);
	/* So it is with the claim: a layer repeats its PUT and gets -EEXIST. */
	toy_store_set_unsure(toy, "b/saving", -EEXIST);
	assert_int_equal(model_save(&model, toy_store(toy), "b", NULL, NULL, &err), 0);
	assert_int_equal(image_open(&image, toy_store(toy), NULL, "b", NULL, &err), 0);
	model_compare(&model, image);
	image_free(image);
	model_fini(&model);
	toy_store_free(toy);
}

static void test_of_two_savers_the_second_is_refused(void **state)
{
	struct toy_store *toy = toy_store_new();
	struct image_writer *first, *second;
	struct model model;
	struct err err;
	struct image_writer_config config = { .rest = IMAGE_REST_ZERO };

	(void)state;
	model_init(&model, 1, 0, 1);
	config.machine = model.machine;
	first = new_writer(toy, &model, "db", IMAGE_REST_ZERO);
	assert_int_equal(image_writer_new(&second, toy_store(toy), NULL, "db", &config, &err),
			 -EBUSY);
	assert_non_null(strstr(err.text, "image db is being saved by process"));
	assert_int_equal(image_writer_finish(first, &err), 0);
	image_writer_free(first);
	assert_int_equal(image_writer_new(&second, toy_store(toy), NULL, "db", &config, &err),
			 -EEXIST);
	model_fini(&model);
	toy_store_free(toy);
}

/* The claim of a process that has ended. */
static void leave_claim(struct toy_store *toy, const char *name)
{
	struct image_id id = { { 9 } };
	int pipes[2], status;
	char text[CLAIM_BYTES_MAX], object[64];
	ssize_t n;
	pid_t child;

	assert_int_equal(pipe(pipes), 0);
	child = fork();
	if (!child) {
		struct toy_store *own = toy_store_new();
		struct toy_object *claim;

		if (claim_take(toy_store(own), NULL, name, &id, NULL, NULL))
			_exit(1);
		claim = toy_store_at(own, 0);
		_exit(write(pipes[1], claim->data, claim->len) != (ssize_t)claim->len);
	}
	close(pipes[1]);
	n = read(pipes[0], text, sizeof(text));
	assert_true(n > 0);
	close(pipes[0]);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	snprintf(object, sizeof(object), "%s/saving", name);
	assert_true(store_put(toy_store(toy), NULL, object, text, (size_t)n, 0, NULL) > 0);
}

static void test_a_dead_savers_claim_is_removed(void **state)
{
	struct toy_store *toy = toy_store_new();
	struct model model;
	struct err err;

	(void)state;
	model_init(&model, 1, 0, 1);
	leave_claim(toy, "db");
	assert_int_equal(model_save(&model, toy_store(toy), "db", NULL, NULL, &err), 0);
	model_fini(&model);
	toy_store_free(toy);
}

static void test_a_claim_that_cannot_be_read_is_somebodys(void **state)
{
	struct toy_store *toy = toy_store_new();
	struct model model;
	struct err err;

	(void)state;
	model_init(&model, 1, 0, 1);
	assert_true(store_put(toy_store(toy), NULL, "db/saving", "{}", 2, 0, NULL) > 0);
	assert_int_equal(model_save(&model, toy_store(toy), "db", NULL, NULL, &err), -EBUSY);
	assert_non_null(strstr(err.text, "db/saving"));
	model_fini(&model);
	toy_store_free(toy);
}

static void test_a_claim_of_another_host_is_dead_by_age_alone(void **state)
{
	struct claim claim = { .pid = 1,
			       .start = 1,
			       .time_s = 1000,
			       .boot = "elsewhere",
			       .namespace = "pid:[1]" };

	(void)state;
	assert_false(claim_is_dead(&claim, INT64_MAX, 0));
	assert_false(claim_is_dead(&claim, 1100, 100));
	assert_true(claim_is_dead(&claim, 1101, 100));
}

/* Somebody took it for dead while it wrote. */
static void test_a_saver_whose_claim_is_gone_does_not_finish(void **state)
{
	struct toy_store *toy = toy_store_new();
	struct image_writer *writer;
	struct model model;
	struct err err;

	(void)state;
	model_init(&model, 1, 0, 1);
	model_fill(&model, false);
	writer = new_writer(toy, &model, "db", IMAGE_REST_ZERO);
	assert_int_equal(model_write(&model, writer, true, &err), 0);
	assert_int_equal(store_delete(toy_store(toy), NULL, "db/saving", &err), 0);
	leave_claim(toy, "db");
	assert_int_equal(image_writer_finish(writer, &err), -ESTALE);
	/* Errors stay. */
	assert_int_equal(image_writer_zero(writer, GFN(0), 1, &err), -ESTALE);
	image_writer_free(writer);
	/* The other one's claim is left, nothing else. */
	assert_int_equal(toy_store_count(toy), 1);
	assert_string_equal(toy_store_at(toy, 0)->name, "db/saving");
	model_fini(&model);
	toy_store_free(toy);
}

/* Deletes an object right after the manifest was written: the last moment. */
struct late {
	struct toy_store *toy;
	const char *object;
	bool done;
};

static void delete_late(void *arg, const struct store_request *request)
{
	struct late *late = arg;

	if (late->done || request->verb != STORE_GET || !strstr(request->object, "child/saving") ||
	    !toy_store_find(late->toy, "child/manifest.json"))
		return;
	late->done = true;
	assert_int_equal(store_delete(toy_store(late->toy), NULL, late->object, NULL), 0);
}

static void test_an_image_is_taken_back_when_what_it_needs_went_meanwhile(void **state)
{
	static const char *const objects[] = { "child/saving", "parent/manifest.json" };
	unsigned int i;

	(void)state;
	for (i = 0; i < 2; i++) {
		struct toy_store *toy = toy_store_new();
		struct late late = { .toy = toy, .object = objects[i] };
		struct image *parent;
		struct model model;
		struct err err;

		model_init(&model, 1, 0, 1);
		model_fill(&model, false);
		assert_int_equal(model_save(&model, toy_store(toy), "parent", NULL, NULL, &err), 0);
		assert_int_equal(image_open(&parent, toy_store(toy), NULL, "parent", NULL, &err),
				 0);
		toy_store_set_hook(toy, delete_late, &late);
		assert_int_equal(model_save(&model, toy_store(toy), "child", parent, NULL, &err),
				 -ESTALE);
		assert_true(late.done);
		assert_null(toy_store_like(toy, "child/"));
		image_free(parent);
		model_fini(&model);
		toy_store_free(toy);
	}
}

/* Deletes the parent while there is no manifest, and sees whether one is written. */
static void delete_early(void *arg, const struct store_request *request)
{
	struct late *late = arg;

	if (request->verb != STORE_PUT)
		return;
	assert_null(strstr(request->object, "child/manifest.json"));
	if (late->done || !strstr(request->object, "child/index"))
		return;
	late->done = true;
	assert_int_equal(store_delete(toy_store(late->toy), NULL, late->object, NULL), 0);
}

/* A saver that is killed before it can take it back would leave an image that lacks pages. */
static void test_no_manifest_is_written_once_the_parent_is_gone(void **state)
{
	struct toy_store *toy = toy_store_new();
	struct late late = { .toy = toy, .object = "parent/manifest.json" };
	struct image *parent;
	struct model model;
	struct err err;

	(void)state;
	model_init(&model, 1, 0, 1);
	model_fill(&model, false);
	assert_int_equal(model_save(&model, toy_store(toy), "parent", NULL, NULL, &err), 0);
	assert_int_equal(image_open(&parent, toy_store(toy), NULL, "parent", NULL, &err), 0);
	toy_store_set_hook(toy, delete_early, &late);
	assert_int_equal(model_save(&model, toy_store(toy), "child", parent, NULL, &err), -ESTALE);
	assert_true(late.done);
	assert_null(toy_store_like(toy, "child/"));
	image_free(parent);
	model_fini(&model);
	toy_store_free(toy);
}

static void test_a_parent_that_is_gone_is_said_at_once(void **state)
{
	struct toy_store *toy = toy_store_new();
	struct image *parent;
	struct model model;
	struct err err;

	(void)state;
	model_init(&model, 1, 0, 1);
	assert_int_equal(model_save(&model, toy_store(toy), "parent", NULL, NULL, &err), 0);
	assert_int_equal(image_open(&parent, toy_store(toy), NULL, "parent", NULL, &err), 0);
	assert_int_equal(store_delete(toy_store(toy), NULL, "parent/manifest.json", &err), 0);
	assert_int_equal(model_save(&model, toy_store(toy), "child", parent, NULL, &err), -ESTALE);
	assert_non_null(strstr(err.text, "parent parent was deleted"));
	image_free(parent);
	model_fini(&model);
	toy_store_free(toy);
}

/* ---- threads ---- */

struct part {
	struct image_writer *writer;
	struct model *model;
	unsigned int part, parts;
	int error;
};

static void *write_part(void *arg)
{
	struct part *part = arg;
	uint8_t *data = aligned_alloc(PAGE_BYTES, IMAGE_SPAN_PAGES * PAGE_BYTES);
	uint64_t index, i;
	int r = 0;

	for (index = part->part * IMAGE_SPAN_PAGES; !r && index < part->model->pages;
	     index += part->parts * IMAGE_SPAN_PAGES) {
		for (i = 0; i < IMAGE_SPAN_PAGES; i++)
			model_page(part->model, index + i, data + i * PAGE_BYTES);
		r = image_writer_span(part->writer, model_gfn(part->model, index), 0xffff, data,
				      NULL);
	}
	free(data);
	part->error = r;
	return NULL;
}

static void test_threads_write_one_image(void **state)
{
	struct image_writer_config config = { .pack_bytes = 1 << 20 };
	struct toy_store *toy = toy_store_new();
	struct image_writer_stats stats;
	struct image_writer *writer;
	struct part parts[6];
	pthread_t threads[6];
	struct image *image;
	struct model model;
	struct err err;
	unsigned int i;

	(void)state;
	model_init(&model, 70, 2, 4);
	model_fill(&model, false);
	config.machine = model.machine;
	assert_int_equal(image_writer_new(&writer, toy_store(toy), NULL, "t", &config, &err), 0);
	for (i = 0; i < 6; i++) {
		parts[i] = (struct part){ writer, &model, i, 6, -1 };
		assert_int_equal(pthread_create(&threads[i], NULL, write_part, &parts[i]), 0);
	}
	for (i = 0; i < 6; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(parts[i].error, 0);
	}
	assert_int_equal(image_writer_finish(writer, &err), 0);
	image_writer_stats(writer, &stats);
	assert_int_equal(stats.data_pages + stats.zero_pages, model.pages);
	assert_int_equal(stats.written_bytes, stats.stored_bytes);
	image_writer_free(writer);
	assert_int_equal(image_open(&image, toy_store(toy), NULL, "t", NULL, &err), 0);
	assert_int_equal(image_manifest(image)->data_pages, stats.data_pages);
	model_compare(&model, image);
	image_free(image);
	model_fini(&model);
	toy_store_free(toy);
}

/* All of 8 MiB that compress well, as text does; the writer's figures at the end. */
static struct image_writer_stats write_text(struct toy_store *toy, const char *name, bool hurry)
{
	static uint8_t data[IMAGE_SPAN_PAGES * PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));
	struct image_writer_stats stats;
	struct image_writer *writer;
	struct model model;
	struct err err;
	size_t i;
	gfn_t at;

	model_init(&model, 4, 0, 1);
	writer = new_writer(toy, &model, name, IMAGE_REST_REFUSED);
	image_writer_hurry(writer, hurry);
	for (i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)('a' + i / 7 % 26);
	for (at = GFN(0); at.v < model.pages; at.v += IMAGE_SPAN_PAGES)
		assert_int_equal(image_writer_span(writer, at, 0xffff, data, &err), 0);
	assert_int_equal(image_writer_finish(writer, &err), 0);
	image_writer_stats(writer, &stats);
	assert_int_equal(stats.data_pages, model.pages);
	image_writer_free(writer);
	model_fini(&model);
	return stats;
}

static void test_a_writer_in_a_hurry_leaves_a_quarter_uncompressed(void **state)
{
	const uint64_t pages = 4 * 512, quarter = pages / 4 * PAGE_BYTES;
	struct toy_store *toy = toy_store_new();
	struct image_writer_stats usual, hurried;
	uint8_t page[PAGE_BYTES];
	struct image *image;
	bool zero;
	struct err err;
	uint64_t at;

	(void)state;
	usual = write_text(toy, "usual", false);
	hurried = write_text(toy, "hurried", true);
	assert_int_equal(usual.hurried_pages, 0);
	assert_true(usual.stored_bytes < quarter / 2);
	assert_int_equal(hurried.hurried_pages, pages / 4);
	assert_true(hurried.stored_bytes >= quarter);
	assert_true(hurried.stored_bytes <= quarter + usual.stored_bytes);
	assert_int_equal(image_open(&image, toy_store(toy), NULL, "hurried", NULL, &err), 0);
	for (at = 0; at < pages; at++) {
		assert_int_equal(image_read(image, GFN(at), 1, page, &zero, &err), 1);
		assert_false(zero);
		assert_int_equal(page[6], 'a' + (at % IMAGE_SPAN_PAGES * PAGE_BYTES + 6) / 7 % 26);
	}
	image_free(image);
	toy_store_free(toy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_nobody_named_is_an_error_not_zeros),
		cmocka_unit_test(test_what_cannot_be_named_is_refused_and_harms_nothing),
		cmocka_unit_test(test_bad_configurations_are_refused),
		cmocka_unit_test(test_whatever_fails_an_image_is_whole_or_not_there),
		cmocka_unit_test(test_a_full_store_leaves_nothing_behind),
		cmocka_unit_test(test_a_manifest_that_was_written_after_all_counts),
		cmocka_unit_test(test_of_two_savers_the_second_is_refused),
		cmocka_unit_test(test_a_dead_savers_claim_is_removed),
		cmocka_unit_test(test_a_claim_that_cannot_be_read_is_somebodys),
		cmocka_unit_test(test_a_claim_of_another_host_is_dead_by_age_alone),
		cmocka_unit_test(test_a_saver_whose_claim_is_gone_does_not_finish),
		cmocka_unit_test(test_an_image_is_taken_back_when_what_it_needs_went_meanwhile),
		cmocka_unit_test(test_no_manifest_is_written_once_the_parent_is_gone),
		cmocka_unit_test(test_a_parent_that_is_gone_is_said_at_once),
		cmocka_unit_test(test_threads_write_one_image),
		cmocka_unit_test(test_a_writer_in_a_hurry_leaves_a_quarter_uncompressed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
