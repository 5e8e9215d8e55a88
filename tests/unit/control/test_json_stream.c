// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// The splitter of JSON values: every split of the input, both limits, garbage
// and where reading starts afresh.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "control/json_stream.h"

/* What was heard, as one text: "[value]" for each value, "!" for each bad input. */
struct heard {
	char text[4096];
	size_t len;
};

static void hear(struct heard *heard, const void *data, size_t len)
{
	assert_true(heard->len + len < sizeof(heard->text));
	memcpy(heard->text + heard->len, data, len);
	heard->len += len;
	heard->text[heard->len] = '\0';
}

static void feed(struct json_stream *stream, struct heard *heard, const char *data, size_t len)
{
	size_t used;
	int r;

	while (len) {
		r = json_stream_feed(stream, (const uint8_t *)data, len, &used);
		assert_true(r >= 0 && used <= len);
		/* Whoever feeds on always gets on. */
		assert_true(used > 0 || r == JSON_STREAM_MESSAGE);
		data += used;
		len -= used;
		if (r == JSON_STREAM_MESSAGE) {
			hear(heard, "[", 1);
			hear(heard, stream->value.data, stream->value.len);
			hear(heard, "]", 1);
		} else if (r == JSON_STREAM_BAD) {
			assert_non_null(stream->error);
			hear(heard, "!", 1);
		} else {
			assert_int_equal(len, 0);
		}
	}
}

/*
 * Feeds `input` whole, split in two at every byte, and byte by byte: the same
 * is heard each time.
 */
static void expect(const char *input, size_t len, const char *wanted)
{
	size_t split, i;

	for (split = 0; split <= len; split++) {
		struct json_stream stream = { 0 };
		struct heard heard = { 0 };

		feed(&stream, &heard, input, split);
		feed(&stream, &heard, input + split, len - split);
		assert_string_equal(heard.text, wanted);
		json_stream_fini(&stream);
	}
	struct json_stream stream = { 0 };
	struct heard heard = { 0 };

	for (i = 0; i < len; i++)
		feed(&stream, &heard, input + i, 1);
	assert_string_equal(heard.text, wanted);
	json_stream_fini(&stream);
}

#define EXPECT(input, wanted) expect(input, sizeof(input) - 1, wanted)

static void test_values(void **state)
{
	(void)state;
	EXPECT("", "");
	EXPECT(" \r\n\t", "");
	EXPECT("{}", "[{}]");
	EXPECT("{}{}[]", "[{}][{}][[]]");
	EXPECT("{\"a\": [1, {\"b\": null}]}\n{\"c\":2}",
	       "[{\"a\": [1, {\"b\": null}]}][{\"c\":2}]");
	EXPECT("{\n\"a\":\r\n1}\n", "[{\n\"a\":\r\n1}]");
}

static void test_strings(void **state)
{
	(void)state;
	EXPECT("{\"}\":\"]\"}", "[{\"}\":\"]\"}]");
	EXPECT("{\"a\":\"\\\"}\"}", "[{\"a\":\"\\\"}\"}]");
	EXPECT("{\"a\":\"\\\\\"}{}", "[{\"a\":\"\\\\\"}][{}]");
	EXPECT("\"\\\\\\\"\"{}", "[\"\\\\\\\"\"][{}]");
	EXPECT("{\"\xc3\xbc\":1}", "[{\"\xc3\xbc\":1}]");
}

static void test_scalars(void **state)
{
	(void)state;
	EXPECT("1 true\n", "[1][true]");
	EXPECT("1{}", "[1][{}]");
	EXPECT("\"a\"\"b\"", "[\"a\"][\"b\"]");
	/* Not ended yet: more digits may come. */
	EXPECT("12", "");
	EXPECT("a\"b\" ", "[a][\"b\"]");
}

static void test_garbage(void **state)
{
	(void)state;
	EXPECT("}{}\n{}", "![{}]");
	EXPECT("]", "!");
	EXPECT(",:\n[]", "![[]]");
	EXPECT("{]}{}\n{\"a\":1}", "![{\"a\":1}]");
	EXPECT("[}\n{}", "![{}]");
	EXPECT("{\"a\nb\"}\n{}", "!\x5b" "b]![{}]");
	EXPECT("\x01{}", "![{}]");
	EXPECT("{\x7f}", "[{\x7f}]");
	EXPECT("{\x02{}", "![{}]");
	EXPECT("1\x02{}", "![{}]");
}

/* What clients send to get out of whatever they were in the middle of. */
static void test_reset_bytes(void **state)
{
	(void)state;
	EXPECT("\xff{}", "![{}]");
	EXPECT("{\"a\": \xff{}", "![{}]");
	EXPECT("{\"a\xff{}", "![{}]");
	EXPECT("{\"a\\\xff{}", "![{}]");
	EXPECT("[[[[\xfe{}", "![{}]");
	EXPECT("}garbage\xff{}", "![{}]");
}

static void test_depth(void **state)
{
	char input[2 * JSON_STREAM_DEPTH_MAX + 3];
	struct json_stream stream = { 0 };
	size_t used;

	(void)state;
	memset(input, '[', JSON_STREAM_DEPTH_MAX);
	memset(input + JSON_STREAM_DEPTH_MAX, ']', JSON_STREAM_DEPTH_MAX);
	assert_int_equal(
		json_stream_feed(&stream, (uint8_t *)input, 2 * JSON_STREAM_DEPTH_MAX, &used),
		JSON_STREAM_MESSAGE);
	assert_int_equal(used, 2 * JSON_STREAM_DEPTH_MAX);
	memset(input, '{', JSON_STREAM_DEPTH_MAX + 1);
	assert_int_equal(
		json_stream_feed(&stream, (uint8_t *)input, JSON_STREAM_DEPTH_MAX + 1, &used),
		JSON_STREAM_BAD);
	assert_string_equal(stream.error, "JSON nesting depth limit exceeded");
	/* It recovers. */
	assert_int_equal(json_stream_feed(&stream, (const uint8_t *)"]]\n{}", 5, &used),
			 JSON_STREAM_MESSAGE);
	assert_int_equal(stream.value.len, 2);
	json_stream_fini(&stream);
}

static void test_size(void **state)
{
	uint8_t *input = malloc(JSON_STREAM_MESSAGE_MAX + 1);
	struct json_stream stream = { 0 };
	size_t used;

	(void)state;
	assert_non_null(input);
	memset(input, ' ', JSON_STREAM_MESSAGE_MAX + 1);
	input[0] = '{';
	input[JSON_STREAM_MESSAGE_MAX - 1] = '}';
	assert_int_equal(json_stream_feed(&stream, input, JSON_STREAM_MESSAGE_MAX, &used),
			 JSON_STREAM_MESSAGE);
	assert_int_equal(stream.value.len, JSON_STREAM_MESSAGE_MAX);
	input[JSON_STREAM_MESSAGE_MAX - 1] = ' ';
	input[JSON_STREAM_MESSAGE_MAX] = '}';
	/* In two parts: what came before counts. */
	assert_int_equal(json_stream_feed(&stream, input, 10, &used), JSON_STREAM_MORE);
	assert_int_equal(json_stream_feed(&stream, input + 10, JSON_STREAM_MESSAGE_MAX - 9, &used),
			 JSON_STREAM_BAD);
	assert_string_equal(stream.error, "JSON token size limit exceeded");
	/* The large buffer is not kept. */
	assert_true(stream.value.cap < JSON_STREAM_MESSAGE_MAX);
	assert_int_equal(json_stream_feed(&stream, (const uint8_t *)"x\n[]", 4, &used),
			 JSON_STREAM_MESSAGE);
	json_stream_fini(&stream);
	free(input);
}

/* Any bytes: no crash, and after a reset byte a value is heard again. */
static void test_noise(void **state)
{
	static const char alphabet[] = "{}[]\"\\,: a1\n\xff\x01\xc3";
	struct json_stream stream = { 0 };
	uint32_t random = 12345;
	uint8_t input[64];
	size_t used, i, at;
	int round, r;

	(void)state;
	for (round = 0; round < 20000; round++) {
		for (i = 0; i < sizeof(input); i++) {
			random = random * 1664525 + 1013904223;
			input[i] = (uint8_t)alphabet[(random >> 16) % (sizeof(alphabet) - 1)];
		}
		for (at = 0; at < sizeof(input); at += used) {
			r = json_stream_feed(&stream, input + at, sizeof(input) - at, &used);
			assert_true(r >= 0);
			if (r == JSON_STREAM_MESSAGE)
				assert_true(stream.value.len > 0);
		}
	}
	r = json_stream_feed(&stream, (const uint8_t *)"\xff", 1, &used);
	if (r == JSON_STREAM_MESSAGE)	/* a number was pending; now its end */
		r = json_stream_feed(&stream, (const uint8_t *)"\xff", 1, &used);
	assert_true(r == JSON_STREAM_BAD || r == JSON_STREAM_MORE);
	assert_int_equal(json_stream_feed(&stream, (const uint8_t *)"{\"a\":1}", 7, &used),
			 JSON_STREAM_MESSAGE);
	assert_int_equal(stream.value.len, 7);
	json_stream_fini(&stream);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values),	    cmocka_unit_test(test_strings),
		cmocka_unit_test(test_scalars),	    cmocka_unit_test(test_garbage),
		cmocka_unit_test(test_reset_bytes), cmocka_unit_test(test_depth),
		cmocka_unit_test(test_size),	    cmocka_unit_test(test_noise),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
