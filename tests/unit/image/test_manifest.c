// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/* Manifests, and the names of objects: what is read, and what is refused and how that is said. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/manifest.h"
#include "image/name.h"
#include "image/sum.h"

static void make(struct manifest *manifest)
{
	static struct manifest_image images[3];

	memset(manifest, 0, sizeof(*manifest));
	manifest->id.bytes[0] = 7;
	manifest->time_s = 1790000000;
	strcpy(manifest->machine.architecture, "x86_64");
	strcpy(manifest->machine.postern, "0.1.0");
	strcpy(manifest->machine.name, "db");
	manifest->machine.cpus = 2;
	manifest->machine.ranges[0] = (struct memory_range){ GPA(0), 4 * HUGE_BYTES };
	manifest->machine.ranges[1] = (struct memory_range){ GPA(UINT64_C(1) << 32), HUGE_BYTES };
	manifest->machine.n_ranges = 2;
	strcpy(manifest->machine.devices[0], "serial");
	manifest->machine.n_devices = 1;
	manifest->machine.disks[0] = (struct manifest_disk){ "disk0", "/srv/a b", 1 << 30, true };
	manifest->machine.n_disks = 1;
	manifest->machine.options = "{\"a\":[1,2]}";
	manifest->span_pages = 16;
	strcpy(manifest->compression, "zstd");
	strcpy(manifest->encryption, "none");
	manifest->data_pages = 2000;
	manifest->zero_pages = 550;
	manifest->absent_pages = 10;
	manifest->own_bytes = 12345;
	strcpy(manifest->objects[0].what, "state");
	strcpy(manifest->objects[1].what, "index");
	manifest->objects[1].bytes = 99;
	manifest->objects[1].sum[3] = 1;
	manifest->n_objects = 2;
	strcpy(images[1].name, "team/base");
	strcpy(images[2].name, "other");
	images[2].id.bytes[15] = 0xab;
	manifest->images = images;
	manifest->n_images = 3;
	manifest->has_parent = true;
	manifest->parent = images[1];
}

static char *text_of(const struct manifest *manifest)
{
	struct buf out = { 0 };
	struct err err;
	char *text;

	if (manifest_format(manifest, NULL, &out, &err))
		fail_msg("%s", err.text);
	text = strndup((char *)out.data, out.len);
	buf_fini(&out);
	return text;
}

static void test_a_manifest_comes_back(void **state)
{
	struct manifest manifest, again;
	struct err err;
	char *text, *second;

	(void)state;
	make(&manifest);
	text = text_of(&manifest);
	assert_int_equal(manifest_parse(&again, text, strlen(text), "x", &err), 0);
	assert_int_equal(again.machine.ranges[1].base.v, UINT64_C(1) << 32);
	assert_string_equal(again.machine.disks[0].target, "/srv/a b");
	assert_true(again.machine.disks[0].read_only);
	assert_string_equal(again.machine.options, "{\"a\":[1,2]}");
	assert_string_equal(again.images[2].name, "other");
	assert_int_equal(again.images[0].id.bytes[0], 7);
	assert_int_equal(again.objects[1].bytes, 99);
	assert_true(again.has_parent);
	second = text_of(&again);
	assert_string_equal(text, second);
	manifest_fini(&again);
	free(text);
	free(second);
}

/* The text with `old` replaced by `new`, and its checksum right again. */
static char *changed(const char *old, const char *new)
{
	struct manifest manifest;
	char *text, *at, *out, hex[SUM_TEXT];
	uint8_t sum[SUM_BYTES];
	size_t len;

	make(&manifest);
	text = text_of(&manifest);
	at = strstr(text, old);
	if (!at)
		fail_msg("no %s in %s", old, text);
	out = malloc(strlen(text) + strlen(new) + 64);
	if (!out) /* which gcc does not know */
		abort();
	sprintf(out, "%.*s%s%s", (int)(at - text), text, new, at + strlen(old));
	len = strlen(out) - 48;
	sum_bytes(out, len, sum);
	sum_format_hex(sum, SUM_BYTES, hex);
	sprintf(out + len, ",\"xxh3-128\":\"%s\"}\n", hex);
	free(text);
	return out;
}

static void test_memory_alone_is_told(void **state)
{
	struct manifest manifest, again;
	struct buf text = { 0 };
	struct err err;

	(void)state;
	make(&manifest);
	manifest.machine.memory_only = true;
	assert_int_equal(manifest_format(&manifest, NULL, &text, &err), 0);
	assert_int_equal(manifest_parse(&again, text.data, text.len, "x", &err), 0);
	assert_true(again.machine.memory_only);
	manifest_fini(&again);
	buf_fini(&text);
}

static void test_each_member_that_cannot_be_is_named(void **state)
{
	static const struct {
		const char *old, *new, *says;
		int code;
	} cases[] = {
		{ "\"version\":1", "\"version\":2", "version 2, this postern knows 1: a newer one",
		  -EPROTO },
		{ "\"version\":1", "\"version\":0", "version 0", -EPROTO },
		{ "\"version\":1", "\"version\":\"1\"", "\"version\" is not an integer", -EBADMSG },
		{ "postern-image", "postern-imago", "format", -EBADMSG },
		{ "\"encryption\":\"none\"", "\"encryption\":\"aes\"",
		  "encryption \"aes\" is not known", -EPROTO },
		{ "\"encryption\":\"none\"", "\"contents\":\"disk\",\"encryption\":\"none\"",
		  "contents \"disk\" are not known", -EPROTO },
		{ "\"encryption\":\"none\"", "\"contents\":7,\"encryption\":\"none\"", "\"contents\"",
		  -EBADMSG },
		{ "\"compression\":\"zstd\"", "\"compression\":\"lz5\"", "compression \"lz5\"",
		  -EPROTO },
		{ "\"cpus\":2", "\"cpus\":1099511627776", "\"cpus\" is 1099511627776, 1 to 4096",
		  -EBADMSG },
		{ "\"cpus\":2", "\"cpus\":4294967297", "\"cpus\" is 4294967297", -EBADMSG },
		{ "\"cpus\":2", "\"cpus\":-1", "\"cpus\" is -1", -EBADMSG },
		{ "\"cpus\":2", "\"cpus\":2.0", "\"cpus\" is not an integer", -EBADMSG },
		{ "\"cpus\":2", "\"cpus\":2,\"cpus\":2", "duplicate", -EBADMSG },
		{ "\"cpus\":2,", "", "\"cpus\" is missing", -EBADMSG },
		{ "\"base\":0", "\"base\":4096", "not made of 2 MiB", -EBADMSG },
		{ "\"base\":4294967296", "\"base\":0", "\"base\" is 0", -EBADMSG },
		{ "\"base\":4294967296", "\"base\":4503599627370496", "\"base\"", -EBADMSG },
		{ "\"bytes\":8388608", "\"bytes\":0", "\"bytes\" is 0", -EBADMSG },
		{ "\"ranges\":[", "\"ranges\":[7,", "\"base\" is missing", -EBADMSG },
		{ "\"span-pages\":16", "\"span-pages\":17", "\"span-pages\" is 17", -EBADMSG },
		{ "\"page-bytes\":4096", "\"page-bytes\":16384", "\"page-bytes\" is 16384",
		  -EBADMSG },
		{ "\"data\":2000", "\"data\":2001", "\"pages\" are not as many", -EBADMSG },
		{ "\"serial\"", "7", "\"devices\"", -EBADMSG },
		{ "\"serial\"", "\"a\\u001b[2J\"", "\"devices\" is no text", -EBADMSG },
		{ "\"what\":\"state\"", "\"what\":\"index\"", "object \"index\"", -EBADMSG },
		{ "\"what\":\"index\"", "\"what\":\"indez\"", "no index", -EBADMSG },
		{ "\"what\":\"state\"", "\"what\":\"../s\"", "object \"../s\"", -EBADMSG },
		{ "\"name\":\"other\"", "\"name\":\"../other\"", "../other", -EBADMSG },
		{ "\"id\":\"07", "\"id\":\"0G", "\"id\" is not 32 hexadecimal", -EBADMSG },
		{ "\"read-only\":true", "\"read-only\":1", "\"read-only\"", -EBADMSG },
		{ "\"options\":{\"a\":[1,2]}", "\"options\":[1]", "\"options\" is not an object",
		  -EBADMSG },
		{ "\"images\":[", "\"images\":7,\"x\":[", "\"images\" is not an array", -EBADMSG },
		{ "\"time\":1790000000", "\"time\":9223372036854775808", "too big", -EBADMSG },
	};
	struct manifest manifest;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		char *text = changed(cases[i].old, cases[i].new);
		int r = manifest_parse(&manifest, text, strlen(text), "db/manifest.json", &err);

		if (r != cases[i].code || !strstr(err.text, cases[i].says) ||
		    !strstr(err.text, "db/manifest.json"))
			fail_msg("%s: %d: %s", cases[i].new, r, r ? err.text : "");
		free(text);
	}
}

static void test_what_is_not_known_is_passed_over(void **state)
{
	char *text = changed("\"cpus\":2", "\"cpus\":2,\"colour\":{\"deep\":[1]}");
	struct manifest manifest;
	struct err err;

	(void)state;
	assert_int_equal(manifest_parse(&manifest, text, strlen(text), "x", &err), 0);
	manifest_fini(&manifest);
	free(text);
}

/* A newer version may end otherwise, and is still named. */
static void test_a_newer_version_is_named_whatever_else_it_has(void **state)
{
	static const char text[] = "{\"format\":\"postern-image\",\"version\":9,\"new\":true}";
	struct manifest manifest;
	struct err err;

	(void)state;
	assert_int_equal(manifest_parse(&manifest, text, strlen(text), "x", &err), -EPROTO);
	assert_non_null(strstr(err.text, "version 9"));
}

static void test_every_flipped_bit_is_noticed(void **state)
{
	struct manifest manifest;
	struct err err;
	size_t i, len;
	char *text;

	(void)state;
	make(&manifest);
	text = text_of(&manifest);
	len = strlen(text);
	for (i = 0; i < 8 * len; i++) {
		int r;

		text[i / 8] ^= (char)(1 << i % 8);
		r = manifest_parse(&manifest, text, len, "x", &err);
		if (r != -EBADMSG && r != -EPROTO)
			fail_msg("bit %zu: %d", i, r);
		text[i / 8] ^= (char)(1 << i % 8);
	}
	for (i = 0; i < len; i++)
		assert_int_equal(manifest_parse(&manifest, text, i, "x", &err), -EBADMSG);
	free(text);
}

static void test_foreign_files_are_no_manifests(void **state)
{
	static const char *const texts[] = {
		"",
		"{}",
		"[]",
		"7",
		"null",
		"<html>",
		"{\"format\":7}",
		"{\"format\":\"qcow2\"}",
		"{\"format\":\"postern-image\"}",
	};
	struct manifest manifest;
	char *deep = malloc(1 << 20);
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(texts) / sizeof(*texts); i++)
		assert_int_equal(manifest_parse(&manifest, texts[i], strlen(texts[i]), "x", &err),
				 -EBADMSG);
	memset(deep, '[', 1 << 20);
	assert_int_equal(manifest_parse(&manifest, deep, 1 << 20, "x", &err), -EBADMSG);
	assert_int_equal(manifest_parse(&manifest, deep, (1 << 20) + 1, "x", &err), -EBADMSG);
	free(deep);
}

static void test_names_of_objects_are_taken_apart(void **state)
{
	static const struct {
		const char *object, *image, *what;
		enum name_kind kind;
	} cases[] = {
		{ "db/manifest.json", "db", "", NAME_MANIFEST },
		{ "a/b/c/saving", "a/b/c", "", NAME_CLAIM },
		{ "db/working-set", "db", "", NAME_WORKING_SET },
		{ "db/state.000102030405060708090a0b0c0d0e0f", "db", "state", NAME_OBJECT },
		{ "db/pack-4294967295.000102030405060708090a0b0c0d0e0f", "db", NULL, NAME_PACK },
		{ "db/pack-4294967296.000102030405060708090a0b0c0d0e0f", "db", NULL, NAME_OBJECT },
		{ "db/pack-01.000102030405060708090a0b0c0d0e0f", "db", NULL, NAME_OBJECT },
		{ "db/pack-0.000102030405060708090A0b0c0d0e0f", "db", NULL, NAME_FOREIGN },
		{ "db/pack-0.00", "db", NULL, NAME_FOREIGN },
		{ "db/Image.000102030405060708090a0b0c0d0e0f", "db", NULL, NAME_FOREIGN },
		{ "db/notes.txt", "db", NULL, NAME_FOREIGN },
		{ "manifest.json", "", NULL, NAME_FOREIGN },
		{ "", "", NULL, NAME_FOREIGN },
	};
	struct name_parts parts;
	char again[NAME_ROOM];
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		image_name_parse(&parts, cases[i].object);
		assert_int_equal(parts.kind, cases[i].kind);
		assert_string_equal(parts.image, cases[i].image);
		if (cases[i].what)
			assert_string_equal(parts.what, cases[i].what);
		if (parts.kind == NAME_PACK) {
			image_name_pack(again, parts.image, parts.number, &parts.id);
			assert_string_equal(again, cases[i].object);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_manifest_comes_back),
		cmocka_unit_test(test_memory_alone_is_told),
		cmocka_unit_test(test_each_member_that_cannot_be_is_named),
		cmocka_unit_test(test_what_is_not_known_is_passed_over),
		cmocka_unit_test(test_a_newer_version_is_named_whatever_else_it_has),
		cmocka_unit_test(test_every_flipped_bit_is_noticed),
		cmocka_unit_test(test_foreign_files_are_no_manifests),
		cmocka_unit_test(test_names_of_objects_are_taken_apart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
