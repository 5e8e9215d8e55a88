// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * What is unpacked of what comes from outside, and what is refused before anything is allocated.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/buf.h"
#include "base/proto.h"
#include "proto.pb-c.h"

#define TREE (&test__tree__descriptor)
#define FIELDS 64u

static void expect_refused(const void *data, size_t len, const char *why)
{
	struct err err = { 0 };

	assert_null(proto_unpack(TREE, data, len, FIELDS, &err));
	assert_int_equal(err.code, -EINVAL);
	if (!strstr(err.text, "not a Tree message") || !strstr(err.text, why))
		fail_msg("\"%s\" says nothing of \"%s\"", err.text, why);
	assert_int_equal(proto_check(TREE, data, len, FIELDS, NULL), -EINVAL);
}
#define REFUSED(bytes, why) expect_refused(bytes, sizeof(bytes) - 1, why)

static void expect_taken(const void *data, size_t len)
{
	struct err err;
	Test__Tree *tree = proto_unpack(TREE, data, len, FIELDS, &err);

	if (!tree)
		fail_msg("%s", err.text);
	test__tree__free_unpacked(tree, NULL);
}
#define TAKEN(bytes) expect_taken(bytes, sizeof(bytes) - 1)

static void test_what_was_packed_is_unpacked(void **state)
{
	uint32_t numbers[] = { 1, 300, UINT32_MAX }, words[] = { 7, 8 };
	ProtobufCBinaryData piece = { 3, (uint8_t *)"abc" };
	Test__Leaf leaf = TEST__LEAF__INIT, *leaves[] = { &leaf, &leaf };
	Test__Tree inner = TEST__TREE__INIT, tree = TEST__TREE__INIT, *out;
	uint8_t bytes[256];
	struct err err;
	size_t len;

	(void)state;
	leaf.number = 77;
	inner.text = (char *)"inside";
	inner.choice_case = TEST__TREE__CHOICE_THIS;
	inner.this_ = &leaf;
	tree.leaf = &leaf;
	tree.tree = &inner;
	tree.n_leaves = 2;
	tree.leaves = leaves;
	tree.n_numbers = 3;
	tree.numbers = numbers;
	tree.n_words = 2;
	tree.words = words;
	tree.n_pieces = 1;
	tree.pieces = &piece;
	tree.eight = UINT64_MAX;
	tree.four = 1.5f;
	tree.signed_ = -1;
	tree.choice_case = TEST__TREE__CHOICE_THAT;
	tree.that = 5;
	len = test__tree__pack(&tree, bytes);
	out = proto_unpack(TREE, bytes, len, FIELDS, &err);
	if (!out)
		fail_msg("%s", err.text);
	assert_int_equal(out->leaf->number, 77);
	assert_string_equal(out->tree->text, "inside");
	assert_int_equal(out->tree->this_->number, 77);
	assert_int_equal(out->n_leaves, 2);
	assert_int_equal(out->numbers[2], UINT32_MAX);
	assert_int_equal(out->words[1], 8);
	assert_memory_equal(out->pieces[0].data, "abc", 3);
	assert_int_equal(out->that, 5);
	test__tree__free_unpacked(out, NULL);
	/* Cut anywhere, it is refused or less, and never more. */
	while (len--) {
		out = proto_unpack(TREE, bytes, len, FIELDS, &err);
		if (out)
			test__tree__free_unpacked(out, NULL);
	}
}

static void test_nothing_and_what_is_not_known_is_taken(void **state)
{
	(void)state;
	TAKEN("");
	/* Fields 100 of each type. */
	TAKEN("\xa0\x06\x05" "\xa1\x06" "12345678" "\xa2\x06\x02" "ab" "\xa5\x06" "1234");
	/* A number that comes again: the last one counts. */
	TAKEN("\x50\x01\x50\x02");
}

static void test_what_is_malformed_is_refused(void **state)
{
	(void)state;
	REFUSED("\x08", "does not end");
	REFUSED("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "does not end");
	REFUSED("\x50\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "does not end");
	REFUSED("\x0a\x05" "ab", "longer than the message");
	REFUSED("\x0a\xff\xff\xff\xff\x0f", "longer than the message");
	/* No bytes, said in six, of which protobuf-c reads five. */
	REFUSED("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "length in more bytes");
	REFUSED("\x0a\x80\x80\x80\x80\x80\x00", "length in more bytes");
	REFUSED("\x41" "1234", "longer than the message");
	REFUSED("\x4d" "12", "longer than the message");
	REFUSED("\x00\x00", "without a number");
	REFUSED("\x80\x80\x80\x80\x10\x00", "without a number");
	/* Field 10 in six bytes, of which protobuf-c reads five. */
	REFUSED("\xd0\x80\x80\x80\x80\x00\x01", "without a number");
	/* A group, and two types that there are not. */
	REFUSED("\x0b\x0c", "of a type that is not used");
	REFUSED("\x0e", "of a type that is not used");
	REFUSED("\x0f", "of a type that is not used");
	/* A number for a message, a text for a number, eight bytes for four. */
	REFUSED("\x08\x01", "another type than its own");
	REFUSED("\x52\x01" "a", "another type than its own");
	REFUSED("\x49" "12345678", "another type than its own");
	/* Packed numbers of which the last is cut. */
	REFUSED("\x22\x02\x01\x80", "does not end");
	REFUSED("\x2a\x05" "12345", "longer than the message");
	/* Deep inside. */
	REFUSED("\x12\x04\x12\x02\x0a\x01", "longer than the message");
}

/* protobuf-c takes it for NULL, with success. */
static void test_a_part_that_comes_twice_is_refused(void **state)
{
	(void)state;
	REFUSED("\x0a\x00\x0a\x00", "comes twice");
	REFUSED("\x12\x04\x0a\x00\x0a\x00", "comes twice");
	REFUSED("\x5a\x00\x5a\x00", "comes twice");
	REFUSED("\x5a\x00\x60\x01", "comes twice");
	REFUSED("\x60\x01\x60\x01", "comes twice");
	TAKEN("\x1a\x00\x1a\x00");
}

/* A tree in a tree, so often. */
static size_t nest(uint8_t *bytes, unsigned int depth)
{
	unsigned int i;

	for (i = 0; i < depth; i++) {
		bytes[2 * i] = 0x12;
		bytes[2 * i + 1] = (uint8_t)(2 * (depth - i - 1));
	}
	return 2 * (size_t)depth;
}

static void test_depth_is_bounded(void **state)
{
	uint8_t bytes[256];

	(void)state;
	expect_taken(bytes, nest(bytes, PROTO_DEPTH_MAX));
	expect_refused(bytes, nest(bytes, PROTO_DEPTH_MAX + 1), "too deep");
	expect_refused(bytes, nest(bytes, 60), "too deep");
}

/* `piece` so often, in what `head` begins. */
static void expect_many(const char *head, size_t head_len, const char *piece, size_t len,
			unsigned int n, bool taken)
{
	struct buf buf = { 0 };
	unsigned int i;

	assert_int_equal(buf_append(&buf, head, head_len), 0);
	for (i = 0; i < n; i++)
		assert_int_equal(buf_append(&buf, piece, len), 0);
	if (taken)
		expect_taken(buf.data, buf.len);
	else
		expect_refused(buf.data, buf.len, "more than 64 fields");
	buf_fini(&buf);
}

static void test_fields_are_counted_wherever_they_are(void **state)
{
	(void)state;
	expect_many("", 0, "\x1a\x00", 2, FIELDS, true);
	expect_many("", 0, "\x1a\x00", 2, FIELDS + 1, false);
	expect_many("", 0, "\x1a\x00", 2, 2000000, false);
	expect_many("", 0, "\x1a\x02\x08\x01", 4, FIELDS / 2, true);
	expect_many("", 0, "\x1a\x02\x08\x01", 4, FIELDS / 2 + 1, false);
	/* The same number again and again, also one that is not known. */
	expect_many("", 0, "\x50\x01", 2, FIELDS + 1, false);
	expect_many("", 0, "\xa0\x06\x01", 3, FIELDS + 1, false);
	expect_many("", 0, "\x32\x00", 2, FIELDS + 1, false);
	/* In one piece, of so many bytes. */
	expect_many("\x22\x3f", 2, "\x01", 1, FIELDS - 1, true);
	expect_many("\x22\x40", 2, "\x01", 1, FIELDS, false);
	expect_many("\x2a\xfc\x01", 3, "abcd", 4, FIELDS - 1, true);
	expect_many("\x2a\x80\x02", 3, "abcd", 4, FIELDS, false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_was_packed_is_unpacked),
		cmocka_unit_test(test_nothing_and_what_is_not_known_is_taken),
		cmocka_unit_test(test_what_is_malformed_is_refused),
		cmocka_unit_test(test_a_part_that_comes_twice_is_refused),
		cmocka_unit_test(test_depth_is_bounded),
		cmocka_unit_test(test_fields_are_counted_wherever_they_are),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
