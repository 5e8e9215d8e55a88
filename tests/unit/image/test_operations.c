// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/* Whole images verified, compacted, deleted and collected; and what others do in between. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/claim.h"
#include "image/name.h"
#include "image/operations.h"
#include "image/working_set.h"
#include "toy_image.h"

#define CHAIN 5

/* Images chain-0 to chain-4, each on top of the one before. */
struct chain {
	struct toy_store *toy;
	struct model models[CHAIN];
};

static void chain_name(char name[32], unsigned int i)
{
	snprintf(name, 32, "chain-%u", i);
}

static void chain_new(struct chain *chain)
{
	unsigned int i;
	char name[32];
	struct err err;

	chain->toy = toy_store_new();
	for (i = 0; i < CHAIN; i++) {
		struct model *model = &chain->models[i];
		struct image *parent = NULL;

		model_init(model, 34, 1, 7);
		if (i) {
			memcpy(model->content, model[-1].content, model->pages * sizeof(uint64_t));
			memset(model->changed, 0, model->pages);
			model->state = i;
			model_touch(model, 500);
			chain_name(name, i - 1);
			parent = toy_image_open(chain->toy, name);
		} else {
			model_fill(model, true);
		}
		chain_name(name, i);
		if (model_save(model, toy_store(chain->toy), name, parent, NULL, &err))
			fail_msg("%s", err.text);
		image_free(parent);
	}
}

static void chain_free(struct chain *chain)
{
	unsigned int i;

	for (i = 0; i < CHAIN; i++)
		model_fini(&chain->models[i]);
	toy_store_free(chain->toy);
}

static void chain_check(struct chain *chain, unsigned int i, const char *name)
{
	struct image *image = toy_image_open(chain->toy, name);

	model_compare(&chain->models[i], image);
	image_free(image);
}

static unsigned int objects_like(struct toy_store *toy, const char *part)
{
	unsigned int i, n = 0;

	for (i = 0; i < toy_store_count(toy); i++)
		n += strstr(toy_store_at(toy, i)->name, part) != NULL;
	return n;
}

static struct image_gc_result collect(struct toy_store *toy)
{
	struct image_gc_result result;
	struct err err;

	if (image_gc(toy_store(toy), NULL, NULL, &result, &err))
		fail_msg("%s", err.text);
	return result;
}

/* ---- verify ---- */

struct told {
	unsigned int damage, progress;
	uint64_t done;
	char last[512];
	struct store_scope *cancel;
};

static void on_damage(void *arg, const struct err *err)
{
	struct told *told = arg;

	told->damage++;
	strcpy(told->last, err->text);
}

static void on_progress(void *arg, uint64_t done, uint64_t pages)
{
	struct told *told = arg;

	assert_true(done >= told->done && done <= pages);
	told->done = done;
	told->progress++;
	if (told->cancel)
		store_scope_cancel(told->cancel);
}

static void test_verify_finds_nothing_in_what_is_right(void **state)
{
	struct image_verify_result result;
	struct told told = { 0 };
	struct image_verify_options options = {
		.threads = 3,
		.damage = on_damage,
		.progress = on_progress,
		.arg = &told,
	};
	struct image *image;
	struct chain chain;
	struct err err;

	(void)state;
	chain_new(&chain);
	assert_int_equal(
		image_verify(toy_store(chain.toy), NULL, "chain-4", &options, &result, &err), 0);
	image = toy_image_open(chain.toy, "chain-4");
	assert_int_equal(result.pages, image_manifest(image)->data_pages);
	assert_int_equal(told.done, result.pages);
	assert_true(told.progress >= 2 && !told.damage && !result.damaged);
	image_free(image);
	chain_free(&chain);
}

/* Whoever is far from the store does not ask it for each frame. */
static void test_verify_reads_together_what_lies_together(void **state)
{
	struct image_verify_result result;
	struct toy_store *toy = toy_store_new();
	struct model model;
	struct err err;
	uint64_t i;

	(void)state;
	model_init(&model, 16, 0, 3);
	for (i = 0; i < model.pages; i++)
		model.content[i] = 3 * i + 1 + i % 2;
	if (model_save(&model, toy_store(toy), "long", NULL, NULL, &err))
		fail_msg("%s", err.text);
	toy_store_forget_gets(toy);
	assert_int_equal(image_verify(toy_store(toy), NULL, "long", NULL, &result, &err), 0);
	assert_int_equal(result.pages, model.pages);
	/* 512 frames, less than 32 MiB: a MiB at a time, and some more where shares and packs end. */
	assert_true(toy_store_gets(toy) < 60);
	model_fini(&model);
	toy_store_free(toy);
}

/* Damage in three places, far from each other: all are told, each by its page. */
static void test_verify_tells_all_damage(void **state)
{
	struct image_verify_result result;
	struct told told = { 0 };
	struct image_verify_options options = {
		.threads = 2,
		.damage = on_damage,
		.arg = &told,
	};
	struct toy_object *pack, *object;
	struct chain chain;
	struct err err;

	(void)state;
	chain_new(&chain);
	pack = toy_store_like(chain.toy, "chain-0/pack-0");
	pack->data[40] ^= 1;
	pack->data[pack->len / 2] ^= 1;
	object = toy_store_like(chain.toy, "chain-4/state");
	object->data[0] ^= 1;
	assert_int_equal(
		image_verify(toy_store(chain.toy), NULL, "chain-4", &options, &result, &err),
		-EBADMSG);
	assert_true(result.damaged_pages >= 2);
	assert_int_equal(told.damage, result.damaged);
	assert_true(told.damage >= 3);
	assert_non_null(strstr(told.last, "chain-0/pack-0"));
	assert_non_null(strstr(err.text, "is damaged in"));
	chain_free(&chain);
}

static void test_verify_counts_the_pages_of_a_pack_that_is_gone(void **state)
{
	struct image_verify_result result;
	struct chain chain;
	struct image *image;
	struct err err;

	(void)state;
	chain_new(&chain);
	image = toy_image_open(chain.toy, "chain-0");
	while (toy_store_like(chain.toy, "chain-0/pack-"))
		store_delete(toy_store(chain.toy), NULL,
			     toy_store_like(chain.toy, "chain-0/pack-")->name, NULL);
	assert_int_equal(image_verify(toy_store(chain.toy), NULL, "chain-0", NULL, &result, &err),
			 -EBADMSG);
	assert_int_equal(result.damaged_pages, image_manifest(image)->data_pages);
	image_free(image);
	chain_free(&chain);
}

static void test_verify_can_be_cancelled(void **state)
{
	struct image_verify_result result;
	struct store_scope scope;
	struct told told = { .cancel = &scope };
	struct image_verify_options options = {
		.threads = 1,
		.damage = on_damage,
		.progress = on_progress,
		.arg = &told,
	};
	struct chain chain;
	struct err err;

	(void)state;
	chain_new(&chain);
	store_scope_init(&scope);
	assert_int_equal(
		image_verify(toy_store(chain.toy), &scope, "chain-4", &options, &result, &err),
		-ECANCELED);
	assert_int_equal(told.progress, 1);
	assert_int_equal(told.damage, 0);
	store_scope_fini(&scope);
	chain_free(&chain);
}

/* The way to the store is no damage. */
static void test_a_store_that_is_away_is_no_damage(void **state)
{
	struct image_verify_result result;
	struct chain chain;
	struct err err;

	(void)state;
	chain_new(&chain);
	toy_store_set_failure(chain.toy, STORE_GET, 20, -EAGAIN);
	assert_int_equal(image_verify(toy_store(chain.toy), NULL, "chain-4", NULL, &result, &err),
			 -EAGAIN);
	assert_int_equal(result.damaged, 0);
	chain_free(&chain);
}

/* ---- compact ---- */

static void test_a_compacted_image_needs_no_other(void **state)
{
	struct image_compact_options options = { .threads = 3 };
	const struct working_set_touch touch = { 5, 1 };
	struct working_set set = { 0 };
	struct image *image;
	struct chain chain;
	struct err err;
	char name[32];
	unsigned int i;

	(void)state;
	chain_new(&chain);
	image = toy_image_open(chain.toy, "chain-4");
	assert_true(image_manifest(image)->n_images == CHAIN);
	set.id = image_manifest(image)->id;
	image_free(image);
	assert_int_equal(working_set_merge(&set, &touch, 1, NULL, &err), 0);
	assert_int_equal(working_set_save(&set, toy_store(chain.toy), NULL, "chain-4", NULL, &err),
			 0);
	working_set_fini(&set);
	assert_int_equal(
		image_compact(toy_store(chain.toy), NULL, "chain-4", "flat", &options, &err), 0);
	for (i = 0; i < CHAIN; i++) {
		chain_name(name, i);
		assert_int_equal(image_delete(toy_store(chain.toy), NULL, name, &err), 0);
	}
	/* Those that were still needed when their image was deleted. */
	assert_true(collect(chain.toy).objects > 0);
	assert_int_equal(objects_like(chain.toy, "chain-"), 0);
	chain_check(&chain, 4, "flat");
	image = toy_image_open(chain.toy, "flat");
	assert_int_equal(image_manifest(image)->n_images, 1);
	assert_false(image_manifest(image)->has_parent);
	assert_int_equal(working_set_load(&set, toy_store(chain.toy), NULL, "flat",
					  &image_manifest(image)->id, NULL, &err),
			 0);
	assert_int_equal(set.n_pages, 1);
	working_set_fini(&set);
	image_free(image);
	chain_free(&chain);
}

static void test_a_damaged_image_is_not_compacted(void **state)
{
	struct toy_object *pack;
	struct chain chain;
	struct err err;

	(void)state;
	chain_new(&chain);
	pack = toy_store_like(chain.toy, "chain-0/pack-0");
	pack->data[pack->len / 2] ^= 1;
	assert_int_equal(image_compact(toy_store(chain.toy), NULL, "chain-0", "flat", NULL, &err),
			 -EBADMSG);
	assert_non_null(strstr(err.text, "guest page"));
	assert_int_equal(objects_like(chain.toy, "flat/"), 0);
	chain_free(&chain);
}

/* ---- gc and delete ---- */

static void test_a_deleted_parents_packs_stay_while_they_are_needed(void **state)
{
	struct chain chain;
	struct err err;
	unsigned int i;
	char name[32];

	(void)state;
	chain_new(&chain);
	for (i = 0; i < CHAIN - 1; i++) {
		chain_name(name, i);
		assert_int_equal(image_delete(toy_store(chain.toy), NULL, name, &err), 0);
	}
	assert_int_equal(collect(chain.toy).images, 1);
	assert_true(objects_like(chain.toy, "chain-0/pack-") > 0);
	assert_int_equal(objects_like(chain.toy, "chain-0/index"), 0);
	assert_int_equal(objects_like(chain.toy, "chain-0/state"), 0);
	chain_check(&chain, 4, "chain-4");
	/* The name is free again, and what is saved under it meets nothing old. */
	assert_int_equal(
		model_save(&chain.models[0], toy_store(chain.toy), "chain-0", NULL, NULL, &err), 0);
	chain_check(&chain, 0, "chain-0");
	chain_check(&chain, 4, "chain-4");
	assert_int_equal(image_delete(toy_store(chain.toy), NULL, "chain-4", &err), 0);
	collect(chain.toy);
	chain_check(&chain, 0, "chain-0");
	assert_int_equal(image_delete(toy_store(chain.toy), NULL, "chain-0", &err), 0);
	collect(chain.toy);
	assert_int_equal(toy_store_count(chain.toy), 0);
	chain_free(&chain);
}

static void on_removed(void *arg, const char *object, uint64_t bytes)
{
	unsigned int *n = arg;

	(void)object;
	(void)bytes;
	++*n;
}

static void test_gc_removes_half_images_and_nothing_else(void **state)
{
	struct image_gc_options options = { .removed = on_removed, .dry_run = true };
	struct image_gc_result result;
	struct toy_object *manifest;
	struct chain chain;
	unsigned int before, told = 0;
	struct err err;

	(void)state;
	chain_new(&chain);
	options.arg = &told;
	/* Foreign objects, and names that look nearly like ours. */
	store_put(toy_store(chain.toy), NULL, "chain-1/notes.txt", "x", 1, 0, NULL);
	store_put(toy_store(chain.toy), NULL, "pack-0.00000000000000000000000000000000", "x", 1, 0,
		  NULL);
	assert_int_equal(collect(chain.toy).objects, 0);
	/* Half an image: the last one without its manifest. */
	before = toy_store_count(chain.toy);
	manifest = toy_store_find(chain.toy, "chain-4/manifest.json");
	store_delete(toy_store(chain.toy), NULL, manifest->name, NULL);
	assert_int_equal(image_gc(toy_store(chain.toy), NULL, &options, &result, &err), 0);
	assert_true(result.objects >= 3 && told == result.objects);
	assert_int_equal(toy_store_count(chain.toy), before - 1);
	assert_int_equal(collect(chain.toy).objects, result.objects);
	assert_int_equal(objects_like(chain.toy, "chain-4/"), 0);
	chain_check(&chain, 3, "chain-3");
	assert_non_null(toy_store_find(chain.toy, "chain-1/notes.txt"));
	chain_free(&chain);
}

#define MANY 100

/* Cancels the scope when the first of many has gone. */
static void cancel_at_once(void *arg, const char *object, uint64_t bytes)
{
	(void)object, (void)bytes;
	store_scope_cancel(arg);
}

static void put_orphans(struct toy_store *toy)
{
	char name[NAME_ROOM];
	unsigned int i;

	for (i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "gone/pack-%u.000102030405060708090a0b0c0d0e0f", i);
		assert_int_equal(store_put(toy_store(toy), NULL, name, "x", 1, 0, NULL), 1);
	}
}

/* Those that are removed at a time, and no more; the next gc goes on. */
static void test_gc_can_be_cancelled(void **state)
{
	struct toy_store *toy = toy_store_new();
	struct store_scope scope;
	struct image_gc_options options = { .removed = cancel_at_once, .arg = &scope };
	struct image_gc_result result;
	struct err err;

	(void)state;
	put_orphans(toy);
	store_scope_init(&scope);
	assert_int_equal(image_gc(toy_store(toy), &scope, &options, &result, &err), -ECANCELED);
	assert_in_range(toy_store_count(toy), MANY - 16, MANY - 1);
	assert_int_equal(toy_store_count(toy) + result.objects, MANY);
	store_scope_fini(&scope);
	assert_int_equal(collect(toy).objects + result.objects, MANY);
	assert_int_equal(toy_store_count(toy), 0);
	toy_store_free(toy);
}

static void test_gc_tells_what_cannot_be_removed(void **state)
{
	struct toy_store *toy = toy_store_new();
	struct image_gc_result result;
	struct err err;

	(void)state;
	put_orphans(toy);
	toy_store_set_failure(toy, STORE_DELETE, MANY / 2, -EACCES);
	assert_int_equal(image_gc(toy_store(toy), NULL, NULL, &result, &err), -EACCES);
	assert_int_equal(result.objects, MANY / 2 - 1);
	toy_store_set_failure(toy, STORE_DELETE, 0, 0);
	assert_int_equal(collect(toy).objects, MANY - result.objects);
	toy_store_free(toy);
}

static void test_gc_removes_nothing_when_an_image_cannot_be_read(void **state)
{
	static const char *const objects[] = { "chain-2/manifest", "chain-2/index" };
	unsigned int i, before;
	struct image_gc_result result;
	struct chain chain;
	struct err err;

	(void)state;
	chain_new(&chain);
	store_delete(toy_store(chain.toy), NULL, "chain-4/manifest.json", NULL);
	before = toy_store_count(chain.toy);
	for (i = 0; i < 2; i++) {
		struct toy_object *object = toy_store_like(chain.toy, objects[i]);

		object->data[object->len / 2] ^= 1;
		assert_int_equal(image_gc(toy_store(chain.toy), NULL, NULL, &result, &err),
				 -EBADMSG);
		assert_non_null(strstr(err.text, "nothing was removed"));
		assert_non_null(strstr(err.text, "chain-2"));
		assert_int_equal(toy_store_count(chain.toy), before);
		object->data[object->len / 2] ^= 1;
	}
	store_delete(toy_store(chain.toy), NULL, toy_store_like(chain.toy, "chain-2/index")->name,
		     NULL);
	assert_int_equal(image_gc(toy_store(chain.toy), NULL, NULL, &result, &err), -ENOENT);
	assert_int_equal(toy_store_count(chain.toy), before - 1);
	chain_free(&chain);
}

/* A writer in the middle of its work; gc and delete come in between. */
static void test_a_saver_is_safe_from_gc_and_delete(void **state)
{
	struct image_writer_config config = { .rest = IMAGE_REST_KEPT, .pack_bytes = 1 << 20 };
	struct image_writer *writer;
	struct image *parent;
	struct chain chain;
	struct model *model;
	struct err err;

	(void)state;
	chain_new(&chain);
	parent = toy_image_open(chain.toy, "chain-4");
	model = &chain.models[4];
	config.machine = model->machine;
	config.parent = parent;
	assert_int_equal(
		image_writer_new(&writer, toy_store(chain.toy), NULL, "next", &config, &err), 0);
	memset(model->changed, 0, model->pages);
	model_touch(model, 3000);
	assert_int_equal(model_write(model, writer, false, &err), 0);
	while (!objects_like(chain.toy, "next/pack-"))
		;
	assert_int_equal(image_delete(toy_store(chain.toy), NULL, "chain-4", &err), -EBUSY);
	assert_non_null(strstr(err.text, "next is being saved on top of chain-4"));
	assert_int_equal(collect(chain.toy).objects, 0);
	/* Ancestors may go: their packs are the parent's. */
	assert_int_equal(image_delete(toy_store(chain.toy), NULL, "chain-0", &err), 0);
	assert_int_equal(image_writer_finish(writer, &err), 0);
	image_writer_free(writer);
	image_free(parent);
	assert_int_equal(image_delete(toy_store(chain.toy), NULL, "chain-4", &err), 0);
	collect(chain.toy);
	chain_check(&chain, 4, "next");
	chain_free(&chain);
}

/* Says of a claim that it is of another host, and old. */
static void age_claim(struct toy_store *toy, const char *object)
{
	struct toy_object *claim = toy_store_find(toy, object);
	char text[CLAIM_BYTES_MAX], *at;

	snprintf(text, sizeof(text), "%.*s", (int)claim->len, claim->data);
	at = strstr(text, "\"boot\":\"");
	at[9] = at[9] == 'x' ? 'y' : 'x';
	at = strstr(text, "\"time\":");
	at[7] = '1';
	at[8] = '}';
	at[9] = '\0';
	assert_true(store_put(toy_store(toy), NULL, object, text, strlen(text), 0, NULL) > 0);
}

static void test_a_dead_savers_work_is_collected_by_age(void **state)
{
	struct image_gc_options options = { .dead_after_s = 3600 };
	struct image_gc_result result;
	struct image_writer *writer;
	struct image_writer_config config = { .rest = IMAGE_REST_ZERO, .pack_bytes = 1 << 20 };
	struct toy_store *toy = toy_store_new();
	struct model model;
	struct err err;

	(void)state;
	model_init(&model, 4, 0, 2);
	model_fill(&model, false);
	config.machine = model.machine;
	assert_int_equal(image_writer_new(&writer, toy_store(toy), NULL, "db", &config, &err), 0);
	assert_int_equal(model_write(&model, writer, true, &err), 0);
	while (!objects_like(toy, "db/pack-"))
		;
	age_claim(toy, "db/saving");
	assert_int_equal(collect(toy).objects, 0);
	assert_int_equal(image_gc(toy_store(toy), NULL, &options, &result, &err), 0);
	assert_true(result.objects >= 1);
	assert_int_equal(result.claims, 1);
	/* It was not dead, and notices. */
	assert_int_equal(image_writer_finish(writer, &err), -ESTALE);
	image_writer_free(writer);
	assert_int_equal(toy_store_count(toy), 0);
	model_fini(&model);
	toy_store_free(toy);
}

static void test_a_claim_that_cannot_be_read_keeps_all_of_its_image(void **state)
{
	struct toy_store *toy = toy_store_new();
	const char *object = "db/pack-0.000102030405060708090a0b0c0d0e0f";

	(void)state;
	store_put(toy_store(toy), NULL, object, "x", 1, 0, NULL);
	store_put(toy_store(toy), NULL, "db/saving", "?", 1, 0, NULL);
	assert_int_equal(collect(toy).objects, 0);
	store_delete(toy_store(toy), NULL, "db/saving", NULL);
	assert_int_equal(collect(toy).objects, 1);
	assert_int_equal(toy_store_count(toy), 0);
	toy_store_free(toy);
}

/* ---- list, delete ---- */

static void on_name(void *arg, const char *name)
{
	strcat(arg, name);
	strcat(arg, " ");
}

static void test_list_and_delete_know_whole_images_alone(void **state)
{
	struct chain chain;
	char names[256] = "";
	struct err err;

	(void)state;
	chain_new(&chain);
	store_delete(toy_store(chain.toy), NULL, "chain-2/manifest.json", NULL);
	assert_int_equal(image_list(toy_store(chain.toy), NULL, on_name, names, &err), 0);
	assert_string_equal(names, "chain-0 chain-1 chain-3 chain-4 ");
	assert_int_equal(image_delete(toy_store(chain.toy), NULL, "chain-2", &err), -ENOENT);
	assert_int_equal(image_delete(toy_store(chain.toy), NULL, "../chain", &err), -EINVAL);
	chain_free(&chain);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_verify_finds_nothing_in_what_is_right),
		cmocka_unit_test(test_verify_reads_together_what_lies_together),
		cmocka_unit_test(test_verify_tells_all_damage),
		cmocka_unit_test(test_verify_counts_the_pages_of_a_pack_that_is_gone),
		cmocka_unit_test(test_verify_can_be_cancelled),
		cmocka_unit_test(test_a_store_that_is_away_is_no_damage),
		cmocka_unit_test(test_a_compacted_image_needs_no_other),
		cmocka_unit_test(test_a_damaged_image_is_not_compacted),
		cmocka_unit_test(test_a_deleted_parents_packs_stay_while_they_are_needed),
		cmocka_unit_test(test_gc_removes_half_images_and_nothing_else),
		cmocka_unit_test(test_gc_can_be_cancelled),
		cmocka_unit_test(test_gc_tells_what_cannot_be_removed),
		cmocka_unit_test(test_gc_removes_nothing_when_an_image_cannot_be_read),
		cmocka_unit_test(test_a_saver_is_safe_from_gc_and_delete),
		cmocka_unit_test(test_a_dead_savers_work_is_collected_by_age),
		cmocka_unit_test(test_a_claim_that_cannot_be_read_keeps_all_of_its_image),
		cmocka_unit_test(test_list_and_delete_know_whole_images_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
