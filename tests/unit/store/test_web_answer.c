// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// store/web_answer.c: heads of answers, good ones and others.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "store/web_answer.h"

/* Lines, each ended by \n; what the last of them gave. */
static int read_head(struct web_answer *answer, const char *text)
{
	size_t n;
	int r = 0;

	memset(answer, 0, sizeof(*answer));
	for (; r >= 0 && *text; text += n) {
		n = strcspn(text, "\n") + 1;
		r = web_answer_line(answer, text, n);
	}
	return r;
}

static void fields_are_read(void **state)
{
	struct web_answer answer;

	(void)state;
	assert_int_equal(read_head(&answer, "HTTP/1.1 206 Partial\r\nContent-length:5\r\n"
				   "CONTENT-RANGE: Bytes 10-14/100 \r\nETag: \"a-b\"\r\n"
				   "Last-Modified: Mon, 1\r\nx-amz-bucket-region: eu-1\r\n"
				   "Content-Encoding: identity\r\n\r\n"), 1);
	assert_int_equal(answer.status, 206);
	assert_true(answer.has_length && answer.length == 5);
	assert_true(answer.has_range && answer.first == 10 && answer.last == 14);
	assert_true(answer.has_total && answer.total == 100);
	assert_string_equal(answer.etag, "\"a-b\"");
	assert_string_equal(answer.modified, "Mon, 1");
	assert_string_equal(answer.region, "eu-1");
	assert_false(answer.encoded);
	assert_int_equal(read_head(&answer, "HTTP/1.1 206 x\nContent-Range: bytes 1-2/*\n\n"), 1);
	assert_true(answer.has_range && !answer.has_total);
	assert_int_equal(read_head(&answer, "HTTP/1.1 416 x\nContent-Range: bytes */7\n\n"), 1);
	assert_true(!answer.has_range && answer.has_total && answer.total == 7);
}

static void interim_answers_do_not_count(void **state)
{
	struct web_answer answer;

	(void)state;
	assert_int_equal(read_head(&answer,
				   "HTTP/1.1 103 x\r\nETag: \"early\"\r\nContent-Length: 9\r\n\r\n"
				   "HTTP/1.1 200 OK\r\n\r\n"),
			 1);
	assert_int_equal(answer.status, 200);
	assert_string_equal(answer.etag, "");
	assert_false(answer.has_length);
	/* Trailers neither. */
	assert_int_equal(web_answer_line(&answer, "ETag: \"late\"\r\n", 14), 0);
	assert_string_equal(answer.etag, "");
	assert_int_equal(web_answer_line(&answer, "HTTP/1.1 206 x\r\n", 16), -EBADMSG);
}

static void malformed_heads_are_refused(void **state)
{
	static const char *const bad[] = {
		"HTTP/1.1 abc\n", "HTTP/1.1\n", "HTTP/1.1 99 x\n", "HTTP/1.1 600 x\n",
		"HTTP/1.1 99999999999999999999 x\n", "HTTP/1.1 200 OK\nHTTP/1.1 200 OK\n",
		"HTTP/1.1 200 OK\nContent-Length: x\n", "HTTP/1.1 200 OK\nContent-Length: -1\n",
		"HTTP/1.1 200 OK\nContent-Length: 5\nContent-Length: 6\n",
		"HTTP/1.1 200 OK\nContent-Length: 9223372036854775808\n",
		"HTTP/1.1 206 x\nContent-Range: bytes 5-4/10\n",
		"HTTP/1.1 206 x\nContent-Range: bytes 5-10/10\n",
		"HTTP/1.1 206 x\nContent-Range: bytes 5-6\n", "HTTP/1.1 206 x\nContent-Range: 5-6/10\n",
		"HTTP/1.1 206 x\nContent-Range: bytes */*\n", "HTTP/1.1 206 x\nContent-Range: lines 1-2/3\n",
		"HTTP/1.1 206 x\nContent-Range: bytes 1-2/3\nContent-Range: bytes 0-2/3\n",
		"HTTP/1.1 206 x\nContent-Range: bytes 1-2/3\nContent-Range: bytes 1-2/4\n",
	};
	struct web_answer answer;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (read_head(&answer, bad[i]) != -EBADMSG)
			fail_msg("%s", bad[i]);
}

static void tags_that_cannot_be_sent_back_are_none(void **state)
{
	static const char *const bad[] = { "abc", "\"",	       "\"a\"b\"", "\"a b\"",
					   "W/",  "\"a\x01\"", "\"a",	   "W/abc" };
	struct web_answer answer;
	char text[300];
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		snprintf(text, sizeof(text), "HTTP/1.1 200 OK\nETag: %s\n\n", bad[i]);
		assert_int_equal(read_head(&answer, text), 1);
		assert_string_equal(answer.etag, "");
	}
	snprintf(text, sizeof(text), "HTTP/1.1 200 OK\nETag: \"%0200u\"\n\n", 7);
	assert_int_equal(read_head(&answer, text), 1);
	assert_string_equal(answer.etag, "");
}

static void heads_are_bounded(void **state)
{
	struct web_answer answer = { 0 };
	const char line[] = "X-More: 0123456789012345678901234567890123456789012345678901\r\n";
	unsigned int i = 0;
	int r;

	(void)state;
	while (!(r = web_answer_line(&answer, line, sizeof(line) - 1)))
		assert_true(++i < 2000);
	assert_int_equal(r, -EMSGSIZE);
	assert_int_equal(i, WEB_HEAD_MAX / (sizeof(line) - 1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fields_are_read),
		cmocka_unit_test(interim_answers_do_not_count),
		cmocka_unit_test(malformed_heads_are_refused),
		cmocka_unit_test(tags_that_cannot_be_sent_back_are_none),
		cmocka_unit_test(heads_are_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
