// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// What is done with whole images that are encrypted, with their key and without it: verify, compact,
// gc, delete.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "image/internal.h"
#include "image/operations.h"
#include "image/state.h"
#include "image/working_set.h"
#include "sealed.h"

static void test_verify_without_the_key(void **state)
{
	struct image_verify_result result;
	struct toy_object *object;
	struct pair pair;
	struct err err;

	(void)state;
	pair_init(&pair);
	assert_int_equal(image_verify(toy_store(pair.toy), NULL, "web", NULL, &result, &err),
			 -ENOKEY);
	object = object_like(&pair, "web/state.");
	object->data[3] ^= 1;
	assert_int_equal(image_verify(toy_store(pair.toy), NULL, "web", NULL, &result, &err),
			 -EBADMSG);
	assert_int_equal(result.damaged, 1);
	pair_fini(&pair);
}

static void test_compact_encrypts_anew(void **state)
{
	struct image_compact_options options = { .threads = 2 };
	struct working_set set;
	struct image *image;
	struct pair pair;
	struct err err;

	(void)state;
	pair_init(&pair);
	assert_int_equal(image_compact(toy_store(pair.toy), NULL, "web", "flat", &options, &err),
			 -ENOKEY);
	options.key = pair.key;
	assert_int_equal(image_compact(toy_store(pair.toy), NULL, "web", "flat", &options, &err),
			 0);
	image = open_right(&pair, "flat");
	model_compare(&pair.model, image);
	assert_int_equal(image_manifest(image)->n_images, 1);
	assert_int_equal(working_set_load(&set, toy_store(pair.toy), NULL, "flat",
					  &image_manifest(image)->id, pair.key, &err),
			 0);
	working_set_fini(&set);
	image_free(image);
	/* One in clear becomes an encrypted one, if that is what was asked for. */
	save_with(&pair, "plain", NULL, 1, NULL);
	assert_int_equal(image_compact(toy_store(pair.toy), NULL, "plain", "dark", &options, &err),
			 -EKEYREJECTED);
	options.allow_unencrypted = true;
	assert_int_equal(image_compact(toy_store(pair.toy), NULL, "plain", "dark", &options, &err),
			 0);
	image = open_right(&pair, "dark");
	model_compare(&pair.model, image);
	image_free(image);
	pair_fini(&pair);
}

struct told {
	unsigned int locked;
	char last[64];
};

static void on_locked(void *arg, const char *image, const struct err *why)
{
	struct told *told = arg;

	told->locked++;
	snprintf(told->last, sizeof(told->last), "%s", image);
	assert_true(why->code == -ENOKEY || why->code == -EKEYREJECTED);
}

static void test_gc_keeps_what_it_has_no_key_for(void **state)
{
	struct told told = { 0 };
	struct image_gc_options options = { .locked = on_locked, .arg = &told };
	struct image_gc_result result;
	struct image *image;
	struct pair pair;
	struct err err;

	(void)state;
	pair_init(&pair);
	/* web still needs packs of it; one nobody needs; and one of an image that is not there. */
	assert_int_equal(image_delete(toy_store(pair.toy), NULL, "base", &err), 0);
	save_with(&pair, "gone", NULL, 1, pair.key);
	assert_int_equal(store_delete(toy_store(pair.toy), NULL, "gone/manifest.json", &err), 0);
	assert_int_equal(image_gc(toy_store(pair.toy), NULL, &options, &result, &err), 0);
	assert_int_equal(told.locked, 1);
	assert_string_equal(told.last, "web");
	assert_int_equal(result.locked, 1);
	assert_null(toy_store_like(pair.toy, "gone/"));
	image = open_right(&pair, "web");
	model_compare(&pair.model, image);
	image_free(image);
	/* With another's key the same; with its own it knows what is needed. */
	options.key = pair.other;
	assert_int_equal(image_gc(toy_store(pair.toy), NULL, &options, &result, &err), 0);
	assert_int_equal(result.locked, 1);
	assert_int_equal(result.objects, 0);
	options.key = pair.key;
	assert_int_equal(image_gc(toy_store(pair.toy), NULL, &options, &result, &err), 0);
	assert_int_equal(result.locked, 0);
	image = open_right(&pair, "web");
	model_compare(&pair.model, image);
	image_free(image);
	pair_fini(&pair);
}

static void test_gc_removes_nothing_beside_a_forged_manifest(void **state)
{
	struct image_gc_options options = { 0 };
	struct image_gc_result result;
	struct pair pair;
	struct err err;

	(void)state;
	pair_init(&pair);
	save_with(&pair, "gone", NULL, 1, pair.key);
	assert_int_equal(store_delete(toy_store(pair.toy), NULL, "gone/manifest.json", &err), 0);
	sealed_forge(toy_store_find(pair.toy, "web/manifest.json"), "\"cpus\":2", "\"cpus\":3");
	options.key = pair.key;
	assert_int_equal(image_gc(toy_store(pair.toy), NULL, &options, &result, &err), -EBADMSG);
	assert_non_null(toy_store_like(pair.toy, "gone/"));
	pair_fini(&pair);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_verify_without_the_key),
		cmocka_unit_test(test_compact_encrypts_anew),
		cmocka_unit_test(test_gc_keeps_what_it_has_no_key_for),
		cmocka_unit_test(test_gc_removes_nothing_beside_a_forged_manifest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
