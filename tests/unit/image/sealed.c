// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/state.h"
#include "image/sum.h"
#include "image/working_set.h"
#include "sealed.h"

struct image_key *key_of(uint8_t first)
{
	uint8_t bytes[IMAGE_KEY_BYTES];
	struct image_key *key;
	struct err err;
	unsigned int i;

	for (i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(first + 3 * i);
	if (image_key_new(&key, bytes, sizeof(bytes), "a key", &err))
		fail_msg("%s", err.text);
	return key;
}

void save_with(struct pair *pair, const char *name, const char *on, int level,
	       const struct image_key *key)
{
	struct image_options open = { .key = key };
	struct image_writer_config config = {
		.machine = pair->model.machine,
		.level = level,
		.pack_bytes = 1 << 20,
		.key = key,
		.rest = on ? IMAGE_REST_KEPT : IMAGE_REST_REFUSED,
	};
	struct working_set set = { 0 };
	struct image *parent = NULL;
	struct image_writer *writer;
	struct err err;

	if (on && image_open(&parent, toy_store(pair->toy), NULL, on, &open, &err))
		fail_msg("%s", err.text);
	config.parent = parent;
	config.machine.options = "{\"cmdline\":\"" SECRET_LINE "\"}";
	if (image_writer_new(&writer, toy_store(pair->toy), NULL, name, &config, &err) ||
	    model_write(&pair->model, writer, !on, &err) ||
	    image_writer_object(writer, IMAGE_STATE, SECRET_LINE, strlen(SECRET_LINE), &err) ||
	    image_writer_object(writer, IMAGE_BOOT_CMDLINE, "", 0, &err) ||
	    image_writer_finish(writer, &err))
		fail_msg("%s", err.text);
	set.id = *image_writer_id(writer);
	image_writer_free(writer);
	image_free(parent);
	memset(pair->model.changed, 0, pair->model.pages);
	assert_int_equal(
		working_set_merge(&set, &(struct working_set_touch){ 10, 5 }, 1, NULL, &err), 0);
	assert_int_equal(working_set_save(&set, toy_store(pair->toy), NULL, name, key, &err), 0);
	working_set_fini(&set);
}

void pair_init(struct pair *pair)
{
	pair->toy = toy_store_new();
	pair->key = key_of(1);
	pair->other = key_of(2);
	model_init(&pair->model, 8, 1, 7);
	model_fill(&pair->model, false);
	save_with(pair, "base", NULL, -1, pair->key);
	model_touch(&pair->model, 300);
	save_with(pair, "web", "base", 3, pair->key);
}

void pair_fini(struct pair *pair)
{
	toy_store_free(pair->toy);
	model_fini(&pair->model);
	image_key_free(pair->key);
	image_key_free(pair->other);
}

int open_with(struct pair *pair, const char *name, const struct image_key *key,
	      struct image **image, struct err *err)
{
	struct image_options options = { .key = key };

	return image_open(image, toy_store(pair->toy), NULL, name, &options, err);
}

struct image *open_right(struct pair *pair, const char *name)
{
	struct image *image;
	struct err err;

	if (open_with(pair, name, pair->key, &image, &err))
		fail_msg("%s", err.text);
	return image;
}

void check_refused(struct pair *pair, const char *name, const struct image_key *key, int error,
		   const char *text)
{
	struct image *image;
	struct err err = { 0 };
	int r = open_with(pair, name, key, &image, &err);

	if (!r)
		image_free(image);
	if (r != error || !strstr(err.text, text))
		fail_msg("%d instead of %d: %s", r, error, err.text);
}

struct toy_object *object_like(struct pair *pair, const char *part)
{
	struct toy_object *object = toy_store_like(pair->toy, part);

	if (!object)
		fail_msg("there is no %s", part);
	return object;
}

uint64_t count_damaged(struct pair *pair, struct image *image)
{
	uint64_t i, damaged = 0;
	struct err err;

	for (i = 0; i < pair->model.pages; i++) {
		int r = model_compare_page(&pair->model, image, i, &err);

		if (r && (r != -EBADMSG || !strstr(err.text, "cannot be opened with the key")))
			fail_msg("page %llu: %d: %s", (unsigned long long)i, r, err.text);
		damaged += r != 0;
	}
	return damaged;
}

void sealed_forge(struct toy_object *object, const char *from, const char *to)
{
	char *text = strndup((char *)object->data, object->len), *at = strstr(text, from), *tail;
	char *out = malloc(object->len + strlen(to) + 64), hex[SUM_TEXT];
	uint8_t sum[SUM_BYTES];

	if (!at || !out) {
		fail_msg("no %s in %s", from, text);
		return;
	}
	sprintf(out, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
	tail = strstr(out, ",\"xxh3-128\":\"") ? strrchr(out, ',') : NULL;
	assert_non_null(tail);
	sum_bytes(out, (size_t)(tail - out), sum);
	sum_format_hex(sum, SUM_BYTES, hex);
	sprintf(tail, ",\"xxh3-128\":\"%s\"}\n", hex);
	free(object->data);
	object->data = (uint8_t *)out;
	object->len = strlen(out);
	free(text);
}
