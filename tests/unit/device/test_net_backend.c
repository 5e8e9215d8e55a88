// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A far side that always has something to read, and nothing for the guest.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "device/net/backend.h"

/* More than any turn of the loop has time for: who reads that often does so for ever. */
#define ENDLESS 100000u

static unsigned int reads;

/* One short packet after the other; of a stream, as many as there is room for. */
static ssize_t read_short(struct net_backend *b, void *to, size_t room)
{
	static const uint8_t frame[] = { 0, 0, 0, 1, 'x' };
	size_t used;

	if (++reads == ENDLESS)
		return -EAGAIN;
	if (!b->stream) {
		memset(to, 0, 2);
		return 2;
	}
	for (used = 0; used + sizeof(frame) <= room && used < 1000 * sizeof(frame);
	     used += sizeof(frame))
		memcpy((uint8_t *)to + used, frame, sizeof(frame));
	return (ssize_t)used;
}

static const struct net_backend_ops short_ops = { .read = read_short };

static void check(bool stream, bool header)
{
	struct net_backend *b = calloc(1, sizeof(*b));
	uint8_t *frame = malloc(NET_HEADER_BYTES + NET_FRAME_MAX);
	unsigned int turn;

	assert_non_null(b);
	assert_non_null(frame);
	b->ops = &short_ops;
	b->fd = -1;
	b->stream = stream;
	b->header = header;
	assert_int_equal(net_backend_init(b, NULL), 0);
	for (turn = 0; turn < 3; turn++) {
		reads = 0;
		/* There may be more, which is not an end: the descriptor says so again. */
		assert_int_equal(net_backend_receive(b, frame), -EAGAIN);
		assert_in_range(reads, 1, 100);
		assert_false(b->gone);
	}
	free(frame);
	net_backend_close(b);
}

static void test_short_packets_without_end_keep_nobody_else_waiting(void **state)
{
	(void)state;
	check(false, false);
	check(false, true);
}

static void test_short_frames_of_a_stream_without_end_keep_nobody_else_waiting(void **state)
{
	(void)state;
	check(true, false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_short_packets_without_end_keep_nobody_else_waiting),
		cmocka_unit_test(
			test_short_frames_of_a_stream_without_end_keep_nobody_else_waiting),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
