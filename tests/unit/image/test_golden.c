// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Images as version 1 wrote them, in tests/golden/image, which is a store: "raw",
 * whose bytes must be the same for ever, and "child" on top of it, whose frames are
 * zstd's, and with those another zstd may do as it likes. "dark" is as "raw", and
 * "dusk" as "child", encrypted; but for a working set's nonce there is nothing of
 * chance in it. All are read, and hold what they held.
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
#include <sys/stat.h>

#include "image/operations.h"
#include "image/state.h"
#include "image/working_set.h"
#include "model.h"
#include "toy_store.h"

static const struct image_id raw_id = { { 1, 2, 3, 4 } }, child_id = { { 5, 6, 7, 8 } };
static const struct image_id dark_id = { { 9, 10, 11 } }, dusk_id = { { 12, 13, 14 } };

static struct image_key *golden_key(void)
{
	struct image_key *key;
	struct err err;

	assert_int_equal(image_key_new(&key, "the key of the recorded images..", 32, "key", &err),
			 0);
	return key;
}

/* Few pages, of all kinds: two pieces in a span, absent ones, the second range. */
static void make_models(struct model *raw, struct model *child)
{
	uint64_t i;

	model_init(raw, 33, 1, 1);
	strcpy(raw->machine.name, "golden");
	strcpy(raw->machine.devices[0], "serial");
	raw->machine.n_devices = 1;
	raw->machine.disks[0] = (struct manifest_disk){ "disk0", "/srv/disk.raw", 1 << 30, true };
	raw->machine.n_disks = 1;
	raw->machine.options = "{\"memory\":\"68M\"}";
	for (i = 0; i < 6; i++)
		raw->content[10 + i] = 100 + i;
	raw->content[20] = MODEL_ABSENT;
	raw->content[16390] = 7;		/* the second leaf */
	raw->content[33 * HUGE_PAGES] = 8;	/* the second range */
	model_init(child, 33, 1, 1);
	child->machine = raw->machine;
	memcpy(child->content, raw->content, raw->pages * sizeof(*raw->content));
	for (i = 12; i < 15; i++) {
		child->content[i] = i == 13 ? 0 : 300 + 3 * i;
		child->changed[i] = 1;
	}
}

static void save_one(struct model *model, struct store *store, const char *name,
		     struct image *parent, const struct image_id *id, int level,
		     const struct image_key *key)
{
	struct image_writer_config config = {
		.machine = model->machine,
		.parent = parent,
		.id = id,
		.key = key,
		.level = level,
		.time_s = 1790000000,
		.rest = parent ? IMAGE_REST_KEPT : IMAGE_REST_REFUSED,
	};
	static uint8_t page[PAGE_BYTES] __attribute__((aligned(64)));
	struct working_set set = { .id = *id };
	struct image_writer *writer;
	struct buf state = { 0 };
	struct err err;
	int r = image_writer_new(&writer, store, NULL, name, &config, &err);

	if (r)
		fail_msg("%s", err.text);
	assert_int_equal(model_write(model, writer, !parent, &err), 0);
	model_page(model, 10, page);
	assert_int_equal(image_state_begin(&state, "a machine's state", 17, &err), 0);
	assert_int_equal(image_state_add_page(&state, GFN(10), page, &err), 0);
	assert_int_equal(image_writer_object(writer, IMAGE_STATE, state.data, state.len, &err), 0);
	assert_int_equal(image_writer_object(writer, IMAGE_BOOT_CMDLINE, "quiet", 5, &err), 0);
	assert_int_equal(image_writer_finish(writer, &err), 0);
	image_writer_free(writer);
	assert_int_equal(working_set_merge(&set,
					   (struct working_set_touch[]){ { 10, 5 }, { 3, 9 } }, 2,
					   NULL, &err),
			 0);
	assert_int_equal(working_set_save(&set, store, NULL, name, key, &err), 0);
	working_set_fini(&set);
	buf_fini(&state);
}

static void write_all(struct toy_store *toy)
{
	struct image_key *key = golden_key();
	const struct image_options options = { .key = key };
	struct model raw, child;
	struct image *parent;
	struct err err;

	make_models(&raw, &child);
	save_one(&raw, toy_store(toy), "raw", NULL, &raw_id, -1, NULL);
	assert_int_equal(image_open(&parent, toy_store(toy), NULL, "raw", NULL, &err), 0);
	save_one(&child, toy_store(toy), "child", parent, &child_id, 3, NULL);
	image_free(parent);
	model_fini(&raw);
	model_fini(&child);
	make_models(&raw, &child);
	save_one(&raw, toy_store(toy), "dark", NULL, &dark_id, -1, options.key);
	assert_int_equal(image_open(&parent, toy_store(toy), NULL, "dark", &options, &err), 0);
	save_one(&child, toy_store(toy), "dusk", parent, &dusk_id, 3, options.key);
	image_free(parent);
	model_fini(&raw);
	model_fini(&child);
	image_key_free(key);
}

static void golden_file(char *to, size_t room, const char *object)
{
	snprintf(to, room, "%s/image/%s", getenv("POSTERN_GOLDEN"), object);
}

static void record(const struct toy_object *object)
{
	char path[512], *slash;
	FILE *to;

	golden_file(path, sizeof(path), object->name);
	slash = strrchr(path, '/');
	*slash = '\0';
	mkdir(path, 0777);
	*slash = '/';
	to = fopen(path, "wxb");
	if (!to && errno == EEXIST)
		return;
	if (!to || fwrite(object->data, 1, object->len, to) != object->len || fclose(to))
		fail_msg("%s: %s", path, strerror(errno));
	print_message("written: %s\n", path);
}

static void compare(const struct toy_object *object)
{
	uint8_t *data = malloc(object->len + 2);
	char path[512];
	size_t n, i;
	FILE *from;

	golden_file(path, sizeof(path), object->name);
	from = fopen(path, "rb");
	if (!from)
		fail_msg("%s is missing: see tests/golden/README.md", path);
	n = fread(data, 1, object->len + 1, from);
	fclose(from);
	for (i = 0; i < n && i < object->len && data[i] == object->data[i]; i++)
		;
	if (i < n || i < object->len)
		fail_msg("%s is no longer what version 1 wrote, from byte %zu on: docs/image.md",
			 path, i);
	free(data);
}

static void test_what_is_written_is_what_was_recorded(void **state)
{
	struct toy_store *toy = toy_store_new();
	struct toy_object *object;
	unsigned int i, n = 0;

	(void)state;
	write_all(toy);
	for (i = 0; (object = toy_store_at(toy, i)); i++) {
		if (getenv("POSTERN_GOLDEN_WRITE"))
			record(object);
		if (strncmp(object->name, "raw/", 4) && (strncmp(object->name, "dark/", 5) ||
							 !strcmp(object->name, "dark/working-set")))
			continue;
		compare(object);
		n++;
	}
	/* manifest, index, one pack, state, command line; and of raw the working set */
	assert_int_equal(n, 11);
	toy_store_free(toy);
}

static void check_state(struct image *image, const struct model *model)
{
	uint8_t page[PAGE_BYTES] __attribute__((aligned(64)));
	struct image_state decoded;
	struct buf bytes = { 0 };
	const uint8_t *early;
	struct err err;

	assert_int_equal(image_get_object(image, IMAGE_STATE, &bytes, &err), 0);
	assert_int_equal(image_state_decode(&decoded, bytes.data, bytes.len, "x", &err), 0);
	assert_memory_equal(decoded.machine, "a machine's state", 17);
	assert_int_equal(decoded.n_pages, 1);
	assert_int_equal(image_state_page(&decoded, 0, &early).v, 10);
	model_page(model, 10, page);
	assert_memory_equal(early, page, PAGE_BYTES);
	buf_fini(&bytes);
}

static void check_recorded(struct store *store, const char *name, const struct model *model,
			   const struct image_id *id, const struct image_key *key)
{
	const struct image_options options = { .key = key };
	const struct image_verify_options verify = { .key = key };
	struct image_verify_result result;
	struct working_set set;
	struct image *image;
	struct err err;

	if (image_open(&image, store, NULL, name, &options, &err))
		fail_msg("%s", err.text);
	assert_memory_equal(&image_manifest(image)->id, id, sizeof(*id));
	assert_int_equal(image_manifest(image)->version, 1);
	assert_int_equal(image_manifest(image)->time_s, 1790000000);
	assert_string_equal(image_manifest(image)->machine.options, "{\"memory\":\"68M\"}");
	assert_int_equal(image_manifest(image)->absent_pages, 1);
	model_compare(model, image);
	check_state(image, model);
	assert_int_equal(working_set_load(&set, store, NULL, name, id, key, &err), 0);
	assert_int_equal(set.pages[1].gfn, 3);
	working_set_fini(&set);
	image_free(image);
	assert_int_equal(image_verify(store, NULL, name, &verify, &result, &err), 0);
}

static void test_what_was_recorded_is_read(void **state)
{
	struct image_key *key = golden_key();
	struct model raw, child;
	struct store *store;
	char folder[512];
	struct err err;

	(void)state;
	golden_file(folder, sizeof(folder), "");
	if (store_open(&store, folder, NULL, &err))
		fail_msg("%s", err.text);
	make_models(&raw, &child);
	check_recorded(store, "raw", &raw, &raw_id, NULL);
	check_recorded(store, "child", &child, &child_id, NULL);
	check_recorded(store, "dark", &raw, &dark_id, key);
	check_recorded(store, "dusk", &child, &dusk_id, key);
	image_key_free(key);
	model_fini(&raw);
	model_fini(&child);
	store_free(store);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_written_is_what_was_recorded),
		cmocka_unit_test(test_what_was_recorded_is_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
