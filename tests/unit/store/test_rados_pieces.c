// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// store/rados_pieces.c: what an object's attribute and names say of its pieces.
#include "folder.h"

#include "store/rados_pieces.h"

#define TOKEN "0123456789abcdef"

static void test_what_is_written_is_read(void **state)
{
	struct rados_pieces pieces = { .bytes = RADOS_PIECE_BYTES + 1, .token = TOKEN }, back;
	char text[RADOS_PIECES_TEXT_MAX];
	size_t n = rados_pieces_format(text, &pieces);

	(void)state;
	assert_memory_equal(text, "1 67108865 " TOKEN, n);
	assert_true(rados_pieces_parse(&back, text, n));
	assert_int_equal(back.bytes, pieces.bytes);
	assert_string_equal(back.token, TOKEN);
	assert_int_equal(rados_pieces_count(&back), 2);
	back.bytes = 2 * RADOS_PIECE_BYTES;
	assert_int_equal(rados_pieces_count(&back), 2);
}

static void test_what_cannot_be_is_refused(void **state)
{
	static const char *const bad[] = {
		"",
		"1",
		"1 ",
		"2 67108865 " TOKEN,
		"1 67108864 " TOKEN,
		"1 067108865 " TOKEN,
		"1 1073741825 " TOKEN,
		"1 99999999999999999999999 " TOKEN,
		"1 67108865 " TOKEN "0",
		"1 67108865 0123456789abcdeF",
		"1 67108865 0123456789abcde",
		"1 67108865  " TOKEN,
		"1 67108865 " TOKEN "\n",
		"1 -7108865 " TOKEN,
	};
	struct rados_pieces pieces;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (rados_pieces_parse(&pieces, bad[i], strlen(bad[i])))
			fail_msg("\"%s\" is taken", bad[i]);
	assert_true(rados_pieces_parse(&pieces, "1 1073741824 " TOKEN, 13 + 16));
	/* A NUL in it ends nothing. */
	assert_false(rados_pieces_parse(&pieces, "1 67108865 " TOKEN "\0x", 11 + 16 + 2));
}

static void test_names(void **state)
{
	static const char *const bad[] = {
		"",
		"a",
		"a~",
		"a~" TOKEN,
		"a~" TOKEN ".",
		"a~" TOKEN ".0",
		"a~" TOKEN ".01",
		"a~" TOKEN ".1x",
		"a~0123456789abcdeg.1",
		"a~" TOKEN "0.1",
	};
	char token[RADOS_TOKEN_DIGITS + 1];
	size_t head, i;

	(void)state;
	assert_true(rados_piece_name_parse("x/a~b~" TOKEN ".12", &head, token));
	assert_int_equal(head, strlen("x/a~b"));
	assert_string_equal(token, TOKEN);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (rados_piece_name_parse(bad[i], &head, token))
			fail_msg("\"%s\" is taken", bad[i]);
	/* No object of a store is called like a piece. */
	assert_false(store_name_is_valid("a~" TOKEN ".1", NULL));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_written_is_read),
		cmocka_unit_test(test_what_cannot_be_is_refused),
		cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests_name("rados_pieces", tests, NULL, NULL);
}
