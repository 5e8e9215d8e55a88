// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Encrypted images: what is in them is read with the key and by nobody else, and
 * whoever can write to the store can neither change it nor move it without being
 * noticed.
 */
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

/* ---- what is right ---- */

static void test_a_chain_is_read_with_one_key(void **state)
{
	struct pair pair;
	struct working_set set;
	struct buf bytes = { 0 };
	struct image *image;
	uint64_t len;
	struct err err;

	(void)state;
	pair_init(&pair);
	image = open_right(&pair, "web");
	model_compare(&pair.model, image);
	assert_int_equal(count_damaged(&pair, image), 0);
	assert_string_equal(image_manifest(image)->encryption, "aes-256-gcm");
	assert_string_equal(image_manifest(image)->machine.options,
			    "{\"cmdline\":\"" SECRET_LINE "\"}");
	assert_int_equal(image_get_object(image, IMAGE_STATE, &bytes, &err), 0);
	assert_int_equal(bytes.len, strlen(SECRET_LINE));
	assert_memory_equal(bytes.data, SECRET_LINE, bytes.len);
	assert_true(image_has_object(image, IMAGE_STATE, &len));
	assert_int_equal(len, bytes.len);
	bytes.len = 0;
	assert_int_equal(image_get_object(image, IMAGE_BOOT_CMDLINE, &bytes, &err), 0);
	assert_int_equal(bytes.len, 0);
	assert_int_equal(working_set_load(&set, toy_store(pair.toy), NULL, "web",
					  &image_manifest(image)->id, pair.key, &err),
			 0);
	assert_int_equal(set.pages[0].gfn, 10);
	working_set_fini(&set);
	buf_fini(&bytes);
	image_free(image);
	pair_fini(&pair);
}

static bool holds(const struct toy_object *object, const void *what, size_t len)
{
	return memmem(object->data, object->len, what, len) != NULL;
}

/* No 8 bytes of a page, no word of a text, in any object. */
static void test_nothing_secret_lies_in_the_store(void **state)
{
	static uint8_t page[PAGE_BYTES] __attribute__((aligned(64)));
	struct toy_object *object;
	unsigned int i, n = 0;
	struct pair pair;
	uint64_t index;

	(void)state;
	pair_init(&pair);
	for (i = 0; (object = toy_store_at(pair.toy, i)); i++) {
		assert_false(holds(object, "swordfish", 9));
		assert_false(holds(object, "{\"cmdline", 9));
		assert_false(holds(object, "PSTNROOT", 8));
		for (index = 0; index < pair.model.pages; index += 37) {
			if (!pair.model.content[index])
				continue;
			model_page(&pair.model, index, page);
			/* Of some pages a word is a small number, which may be anywhere. */
			if (memchr(page + 256, 0, 16))
				continue;
			assert_false(holds(object, page + 256, 16));
			n++;
		}
	}
	assert_true(n > 100);
	pair_fini(&pair);
}

/* What an attacker would compare: the same page at two places, the same image saved twice. */
static void test_nothing_is_encrypted_alike(void **state)
{
	struct toy_object *a, *b;
	uint8_t *copy;
	size_t i, n = 0, len;
	struct pair pair;

	(void)state;
	pair_init(&pair);
	save_with(&pair, "again", NULL, -1, pair.key);
	save_with(&pair, "twice", NULL, -1, pair.key);
	a = object_like(&pair, "again/pack-0");
	b = object_like(&pair, "twice/pack-0");
	len = a->len < b->len ? a->len : b->len;
	copy = malloc(len);
	memcpy(copy, a->data, len);
	for (i = 0; i + 16 <= len; i += 16)
		n += !memcmp(copy + i, b->data + i, 16);
	assert_int_equal(n, 0);
	/* Within one pack: a block of 16 bytes is there once. */
	for (i = 0; i + 16 <= 65536; i += 16)
		assert_null(memmem(copy + i + 16, len - i - 16, copy + i, 16));
	free(copy);
	pair_fini(&pair);
}

/* ---- who may read ---- */

static void test_without_the_key_or_with_another(void **state)
{
	char id[IMAGE_KEY_ID_TEXT];
	struct working_set set;
	struct pair pair;
	struct err err;

	(void)state;
	pair_init(&pair);
	sum_format_hex(image_key_id(pair.key), IMAGE_KEY_ID_BYTES, id);
	check_refused(&pair, "web", NULL, -ENOKEY, id);
	check_refused(&pair, "web", pair.other, -EKEYREJECTED, id);
	assert_int_equal(working_set_load(&set, toy_store(pair.toy), NULL, "web",
					  &(struct image_id){ 0 }, NULL, &err),
			 -ENOKEY);
	pair_fini(&pair);
}

static void test_a_parent_needs_the_same_key(void **state)
{
	struct image_writer_config config = { .rest = IMAGE_REST_KEPT };
	struct image_writer *writer;
	struct pair pair;
	struct err err;

	(void)state;
	pair_init(&pair);
	config.machine = pair.model.machine;
	config.parent = open_right(&pair, "web");
	assert_int_equal(image_writer_new(&writer, toy_store(pair.toy), NULL, "n", &config, &err),
			 -EKEYREJECTED);
	assert_non_null(strstr(err.text, "its parent web is encrypted"));
	config.key = pair.other;
	assert_int_equal(image_writer_new(&writer, toy_store(pair.toy), NULL, "n", &config, &err),
			 -EKEYREJECTED);
	assert_non_null(strstr(err.text, "or without a parent"));
	image_free(config.parent);
	save_with(&pair, "plain", NULL, 1, NULL);
	assert_int_equal(image_open(&config.parent, toy_store(pair.toy), NULL, "plain", NULL, &err),
			 0);
	assert_int_equal(image_writer_new(&writer, toy_store(pair.toy), NULL, "n", &config, &err),
			 -EKEYREJECTED);
	assert_non_null(strstr(err.text, "its parent plain is not"));
	image_free(config.parent);
	assert_null(toy_store_like(pair.toy, "n/saving"));
	pair_fini(&pair);
}

/* ---- who may write to the store, and has no key ---- */

static void test_an_image_in_clear_does_not_pass_for_an_encrypted_one(void **state)
{
	struct image_options options = { .allow_unencrypted = true };
	struct image *image;
	struct pair pair;
	struct err err;

	(void)state;
	pair_init(&pair);
	save_with(&pair, "plain", NULL, 1, NULL);
	check_refused(&pair, "plain", pair.key, -EKEYREJECTED, "plain is not encrypted");
	options.key = pair.key;
	assert_int_equal(image_open(&image, toy_store(pair.toy), NULL, "plain", &options, &err), 0);
	model_compare(&pair.model, image);
	image_free(image);
	pair_fini(&pair);
}


static void test_a_manifest_that_was_altered(void **state)
{
	static const struct {
		const char *from, *to;
		int error;
		const char *text;
	} rows[] = {
		{ "\"encryption\":\"aes-256-gcm\"", "\"encryption\":\"none\"", -EKEYREJECTED,
		  "is not encrypted, although" },
		{ "\"cpus\":2", "\"cpus\":3", -EBADMSG, "its signature is wrong" },
		{ "\"absent\":0", "\"absent\": 0", -EBADMSG, "its signature is wrong" },
		{ "{\"format\"", "{\"more\":1,\"format\"", -EBADMSG, "its signature is wrong" },
		{ ",\"hmac-sha-256\":\"", ",\"hmac-sha-25x\":\"", -EBADMSG, "not signed" },
		{ "\"name\":\"web\"", "\"name\":\"wed\"", -EBADMSG, "its signature is wrong" },
		{ "\"sealed-options\":\"", "\"sealed-options\":\"00", -EBADMSG,
		  "its signature is wrong" },
		{ "\"key-id\":\"", "\"key-ix\":\"", -EBADMSG, "\"key-id\" is missing" },
	};
	struct toy_object *object;
	struct pair pair;
	unsigned int i;

	(void)state;
	pair_init(&pair);
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		char *kept;

		object = toy_store_find(pair.toy, "web/manifest.json");
		kept = strndup((char *)object->data, object->len);
		sealed_forge(object, rows[i].from, rows[i].to);
		check_refused(&pair, "web", pair.key, rows[i].error, rows[i].text);
		free(object->data);
		object->data = (uint8_t *)kept;
		object->len = strlen(kept);
	}
	image_free(open_right(&pair, "web"));
	pair_fini(&pair);
}

/* One bit, in each byte of a manifest: it is refused, whatever it may mean then. */
static void test_a_bit_of_a_manifest(void **state)
{
	struct toy_object *object;
	struct image *image;
	struct pair pair;
	struct err err;
	size_t i;

	(void)state;
	pair_init(&pair);
	object = toy_store_find(pair.toy, "web/manifest.json");
	for (i = 0; i < object->len; i++) {
		object->data[i] ^= 1;
		if (!open_with(&pair, "web", pair.key, &image, &err))
			fail_msg("byte %zu", i);
		object->data[i] ^= 1;
	}
	pair_fini(&pair);
}

/* A manifest that is believed, so that only the object's own seal can tell. */
static void resign(struct pair *pair, const char *name, const struct toy_object *object,
		   const char *what)
{
	struct toy_object *file;
	struct manifest manifest;
	struct manifest_object *entry;
	char path[NAME_ROOM];
	struct buf out = { 0 };
	struct seal *seal;
	struct err err;

	image_name_plain(path, name, "manifest.json");
	file = toy_store_find(pair->toy, path);
	assert_int_equal(manifest_parse(&manifest, file->data, file->len, "x", &err), 0);
	assert_int_equal(seal_new(&seal, pair->key, manifest.images, 1, &err), 0);
	assert_int_equal(manifest_unseal(&manifest, seal, file->data, "x", &err), 0);
	entry = (struct manifest_object *)(uintptr_t)manifest_find(&manifest, what);
	entry->bytes = object->len;
	sum_bytes(object->data, object->len, entry->sum);
	assert_int_equal(manifest_format(&manifest, seal, &out, &err), 0);
	seal_free(seal);
	manifest_fini(&manifest);
	free(file->data);
	file->data = out.data;
	file->len = out.len;
}

static void test_a_bit_of_an_object(void **state)
{
	static const char *const whats[] = { "index", "state", "boot-cmdline" };
	struct buf bytes = { 0 };
	struct toy_object *object;
	char part[64];
	struct image *image;
	struct pair pair;
	struct err err;
	unsigned int i;

	(void)state;
	for (i = 0; i < 3; i++) {
		pair_init(&pair);
		snprintf(part, sizeof(part), "web/%s.", whats[i]);
		object = object_like(&pair, part);
		object->data[object->len / 2] ^= 0x10;
		resign(&pair, "web", object, whats[i]);
		if (!i) {
			check_refused(&pair, "web", pair.key, -EBADMSG, "cannot be opened");
		} else {
			image = open_right(&pair, "web");
			assert_int_equal(image_get_object(image, whats[i], &bytes, &err), -EBADMSG);
			assert_non_null(strstr(err.text, "cannot be opened with the key"));
			assert_int_equal(bytes.len, 0);
			image_free(image);
		}
		pair_fini(&pair);
	}
	buf_fini(&bytes);
}

/* The state of the one image in the place of the other's; one object in another's place. */
static void test_objects_that_were_exchanged(void **state)
{
	struct toy_object *object, *from;
	struct buf bytes = { 0 };
	struct image *image;
	struct pair pair;
	struct err err;
	unsigned int i;

	(void)state;
	for (i = 0; i < 2; i++) {
		pair_init(&pair);
		object = object_like(&pair, "web/state.");
		from = object_like(&pair, i ? "web/boot-cmdline." : "base/state.");
		object->len = from->len;
		memcpy(object->data, from->data, from->len);
		resign(&pair, "web", object, "state");
		image = open_right(&pair, "web");
		assert_int_equal(image_get_object(image, IMAGE_STATE, &bytes, &err), -EBADMSG);
		image_free(image);
		pair_fini(&pair);
	}
	buf_fini(&bytes);
}

/* Where two data pages of different frames of one length lie in a pack. */
static bool find_frames(struct image *image, struct seal_place *a, struct seal_place *b)
{
	const struct root_leaf *entry = &image->root.leaves[0];
	struct leaf *leaf;
	unsigned int slot;
	uint32_t i;
	bool found = false;
	struct err err;

	assert_int_equal(image_get_leaf(image, entry, &leaf, &slot, &err), 0);
	for (i = 1; !found && i < leaf->n_pieces; i++) {
		const struct leaf_piece *x = &leaf->pieces[i - 1], *y = &leaf->pieces[i];

		found = x->bytes == y->bytes && x->ref == y->ref &&
			image_piece_pack(image, entry, x) == 0;
		*a = (struct seal_place){ 0, x->offset, x->bytes, SEAL_FRAME };
		*b = (struct seal_place){ 0, y->offset, y->bytes, SEAL_FRAME };
	}
	image_put_leaf(image, slot);
	return found;
}

static void test_frames_that_were_exchanged(void **state)
{
	struct seal_place a = { 0 }, b = { 0 };
	struct toy_object *pack;
	struct image *image;
	struct pair pair;
	uint8_t *kept;
	size_t len;

	(void)state;
	pair_init(&pair);
	save_with(&pair, "flat", NULL, -1, pair.key);
	image = open_right(&pair, "flat");
	if (!find_frames(image, &a, &b))
		fail_msg("no two frames of one length");
	image_free(image);
	pack = object_like(&pair, "flat/pack-0.");
	len = a.bytes + SEAL_TAG_BYTES;
	kept = malloc(len);
	memcpy(kept, pack->data + a.offset, len);
	memcpy(pack->data + a.offset, pack->data + b.offset, len);
	memcpy(pack->data + b.offset, kept, len);
	free(kept);
	image = open_right(&pair, "flat");
	assert_int_equal(count_damaged(&pair, image), 2 * a.bytes / PAGE_BYTES);
	image_free(image);
	pair_fini(&pair);
}

/* A pack of another image of the same key and content, and one whose number is another. */
static void test_packs_that_were_exchanged(void **state)
{
	struct toy_object *pack, *from;
	struct image *image;
	struct pair pair;
	unsigned int i;

	(void)state;
	for (i = 0; i < 2; i++) {
		pair_init(&pair);
		save_with(&pair, "one", NULL, -1, pair.key);
		save_with(&pair, "two", NULL, -1, pair.key);
		pack = object_like(&pair, "one/pack-0.");
		from = object_like(&pair, i ? "one/pack-1." : "two/pack-0.");
		memcpy(pack->data, from->data, pack->len < from->len ? pack->len : from->len);
		image = open_right(&pair, "one");
		assert_true(count_damaged(&pair, image) > 100);
		image_free(image);
		pair_fini(&pair);
	}
}

static void test_a_bit_of_a_pack_and_one_that_was_cut(void **state)
{
	struct image_verify_options options = { .threads = 2 };
	struct image_verify_result result;
	struct toy_object *pack;
	struct pair pair;
	struct err err;
	size_t len;

	(void)state;
	pair_init(&pair);
	options.key = pair.key;
	pack = object_like(&pair, "base/pack-0.");
	assert_int_equal(image_verify(toy_store(pair.toy), NULL, "web", &options, &result, &err),
			 0);
	pack->data[100] ^= 1;
	assert_int_equal(image_verify(toy_store(pair.toy), NULL, "base", &options, &result, &err),
			 -EBADMSG);
	assert_int_equal(result.damaged, 1);
	pack->data[100] ^= 1;
	len = pack->len;
	pack->len /= 2;
	assert_int_equal(image_verify(toy_store(pair.toy), NULL, "base", &options, &result, &err),
			 -EBADMSG);
	assert_true(result.damaged > 1);
	pack->len = len;
	assert_int_equal(image_verify(toy_store(pair.toy), NULL, "base", &options, &result, &err),
			 0);
	pair_fini(&pair);
}

static void test_a_leaf_that_was_altered(void **state)
{
	struct toy_object *pack;
	const struct root_leaf *entry;
	struct image *image;
	char part[64];
	struct pair pair;
	struct err err;
	uint8_t page[PAGE_BYTES];
	bool zero;

	(void)state;
	pair_init(&pair);
	image = open_right(&pair, "base");
	entry = &image->root.leaves[0];
	snprintf(part, sizeof(part), "base/pack-%u.", image->root.packs[entry->pack].number);
	pack = object_like(&pair, part);
	pack->data[entry->offset + 40] ^= 4;
	assert_int_equal(image_read(image, GFN(0), 1, page, &zero, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "cannot be opened with the key"));
	image_free(image);
	pair_fini(&pair);
}

static void test_an_image_that_was_moved(void **state)
{
	struct toy_object *object;
	struct pair pair;
	unsigned int i;
	char name[256];

	(void)state;
	pair_init(&pair);
	for (i = 0; (object = toy_store_at(pair.toy, i)); i++) {
		const char *rest = strchr(object->name, '/');

		if (strncmp(object->name, "base/", 5))
			continue;
		snprintf(name, sizeof(name), "web2%s", rest);
		assert_int_equal(store_put(toy_store(pair.toy), NULL, name, object->data,
					   object->len, 0, NULL),
				 (int64_t)object->len);
	}
	check_refused(&pair, "web2", pair.key, -EKEYREJECTED, "was saved as base");
	pair_fini(&pair);
}

static int load_set(struct pair *pair, const struct image_id *id, struct err *err)
{
	struct working_set set;
	int r = working_set_load(&set, toy_store(pair->toy), NULL, "web", id, pair->key, err);

	working_set_fini(&set);
	return r;
}

static void test_a_working_set_that_was_altered(void **state)
{
	struct working_set plain = { 0 };
	struct toy_object *object;
	struct image_id id;
	struct image *image;
	struct pair pair;
	struct err err;
	size_t i;

	(void)state;
	pair_init(&pair);
	image = open_right(&pair, "web");
	id = image_manifest(image)->id;
	image_free(image);
	object = toy_store_find(pair.toy, "web/working-set");
	for (i = 0; i < object->len; i++) {
		object->data[i] ^= 2;
		assert_int_not_equal(load_set(&pair, &id, &err), 0);
		object->data[i] ^= 2;
	}
	for (i = 0; i < object->len; i++) {
		size_t len = object->len;

		object->len = i;
		assert_int_equal(load_set(&pair, &id, &err), -EBADMSG);
		object->len = len;
	}
	assert_int_equal(load_set(&pair, &id, &err), 0);
	assert_int_equal(load_set(&pair, &(struct image_id){ 0 }, &err), -ESTALE);
	plain.id = id;
	assert_int_equal(working_set_save(&plain, toy_store(pair.toy), NULL, "web", NULL, &err), 0);
	assert_int_equal(load_set(&pair, &id, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "not an encrypted working set"));
	pair_fini(&pair);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_chain_is_read_with_one_key),
		cmocka_unit_test(test_nothing_secret_lies_in_the_store),
		cmocka_unit_test(test_nothing_is_encrypted_alike),
		cmocka_unit_test(test_without_the_key_or_with_another),
		cmocka_unit_test(test_a_parent_needs_the_same_key),
		cmocka_unit_test(test_an_image_in_clear_does_not_pass_for_an_encrypted_one),
		cmocka_unit_test(test_a_manifest_that_was_altered),
		cmocka_unit_test(test_a_bit_of_a_manifest),
		cmocka_unit_test(test_a_bit_of_an_object),
		cmocka_unit_test(test_objects_that_were_exchanged),
		cmocka_unit_test(test_frames_that_were_exchanged),
		cmocka_unit_test(test_packs_that_were_exchanged),
		cmocka_unit_test(test_a_bit_of_a_pack_and_one_that_was_cut),
		cmocka_unit_test(test_a_leaf_that_was_altered),
		cmocka_unit_test(test_an_image_that_was_moved),
		cmocka_unit_test(test_a_working_set_that_was_altered),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
