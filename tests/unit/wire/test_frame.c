// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/bytes.h"

#include "wire/frame.h"

/* Makes a tampered header valid again but for what was tampered with. */
static void resum(uint8_t *bytes, size_t len)
{
	put64(bytes + len - 8, XXH3_64bits(bytes, len - 8));
}

static const struct frame good_frames[] = {
	{ .type = FRAME_MESSAGE, .payload_bytes = 1, .payload_sum = 7 },
	{ .type = FRAME_MESSAGE, .payload_bytes = FRAME_MESSAGE_MAX },
	{ .type = FRAME_PAGES, .count = 1, .payload_bytes = FRAME_PAGES_BYTES(1), .gfn = GFN(5) },
	{ .type = FRAME_PAGES, .count = FRAME_PAGES_MAX, .payload_bytes = FRAME_PAGES_BYTES(FRAME_PAGES_MAX) },
	{ .type = FRAME_ZERO, .count = FRAME_ZERO_MAX, .gfn = GFN(FRAME_GFN_LIMIT - FRAME_ZERO_MAX) },
	{ .type = FRAME_REQUEST, .count = FRAME_REQUEST_MAX, .gfn = GFN(1) },
	{ .type = FRAME_LOST, .count = 1, .gfn = GFN(1) },
};

static void test_frame_round_trip(void **state)
{
	uint8_t bytes[FRAME_BYTES];
	struct frame out;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(good_frames) / sizeof(*good_frames); i++) {
		frame_encode(&good_frames[i], bytes);
		assert_int_equal(frame_decode(&out, bytes, &err), 0);
		assert_int_equal(out.type, good_frames[i].type);
		assert_int_equal(out.payload_bytes, good_frames[i].payload_bytes);
		assert_int_equal(out.count, good_frames[i].count);
		assert_int_equal(out.gfn.v, good_frames[i].gfn.v);
		assert_int_equal(out.payload_sum, good_frames[i].payload_sum);
	}
}

static void test_frame_any_flipped_bit_is_noticed(void **state)
{
	uint8_t bytes[FRAME_BYTES];
	struct frame out;
	struct err err;
	size_t i, bit;

	(void)state;
	for (i = 0; i < sizeof(good_frames) / sizeof(*good_frames); i++) {
		frame_encode(&good_frames[i], bytes);
		for (bit = 0; bit < FRAME_BYTES * 8; bit++) {
			bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
			assert_int_equal(frame_decode(&out, bytes, &err), -EBADMSG);
			bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		}
	}
}

static void test_frame_with_right_sum_and_wrong_shape_is_refused(void **state)
{
	static const struct frame bad[] = {
		{ .type = 0 },
		{ .type = 6, .count = 1 },
		{ .type = FRAME_MESSAGE },
		{ .type = FRAME_MESSAGE, .payload_bytes = FRAME_MESSAGE_MAX + 1 },
		{ .type = FRAME_MESSAGE, .payload_bytes = 1, .count = 1 },
		{ .type = FRAME_MESSAGE, .payload_bytes = 1, .gfn = GFN(1) },
		{ .type = FRAME_PAGES },
		{ .type = FRAME_PAGES, .count = FRAME_PAGES_MAX + 1,
		  .payload_bytes = FRAME_PAGES_BYTES(FRAME_PAGES_MAX + 1) },
		{ .type = FRAME_PAGES, .count = 2, .payload_bytes = FRAME_PAGES_BYTES(1) },
		{ .type = FRAME_PAGES, .count = 1, .payload_bytes = FRAME_PAGES_BYTES(1), .payload_sum = 1 },
		{ .type = FRAME_PAGES, .count = 2, .payload_bytes = FRAME_PAGES_BYTES(2),
		  .gfn = GFN(FRAME_GFN_LIMIT - 1) },
		{ .type = FRAME_PAGES, .count = 2, .payload_bytes = FRAME_PAGES_BYTES(2), .gfn = GFN(UINT64_MAX) },
		{ .type = FRAME_ZERO, .count = FRAME_ZERO_MAX + 1 },
		{ .type = FRAME_ZERO, .count = 1, .payload_bytes = 4096 },
		{ .type = FRAME_REQUEST, .count = 0 },
		{ .type = FRAME_REQUEST, .count = FRAME_REQUEST_MAX + 1 },
		{ .type = FRAME_LOST, .count = 2 },
	};
	uint8_t bytes[FRAME_BYTES];
	struct frame out;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		frame_encode(&bad[i], bytes);
		assert_int_equal(frame_decode(&out, bytes, &err), -EBADMSG);
	}
	frame_encode(&good_frames[0], bytes);
	bytes[6] = 1;	/* a flag */
	resum(bytes, sizeof(bytes));
	assert_int_equal(frame_decode(&out, bytes, &err), -EBADMSG);
}

static void test_message_payload_is_checked(void **state)
{
	uint8_t payload[300], head[FRAME_BYTES];
	struct frame frame;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(payload); i++)
		payload[i] = (uint8_t)(i * 7);
	assert_int_equal(frame_encode_message(head, payload, 0), -EMSGSIZE);
	assert_int_equal(frame_encode_message(head, payload, sizeof(payload)), 0);
	assert_int_equal(frame_decode(&frame, head, &err), 0);
	assert_int_equal(frame_check_message(&frame, payload, &err), 0);
	for (i = 0; i < sizeof(payload); i++) {
		payload[i] ^= 0x10;
		assert_int_equal(frame_check_message(&frame, payload, &err), -EBADMSG);
		payload[i] ^= 0x10;
	}
}

static void test_each_page_has_its_checksum_and_its_name(void **state)
{
	uint8_t *pages = aligned_alloc(PAGE_BYTES, 3 * PAGE_BYTES),
		head[FRAME_BYTES + FRAME_SUMS_BYTES(3)];
	struct frame frame;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < 3 * PAGE_BYTES; i++)
		pages[i] = (uint8_t)(i * 13 + i / PAGE_BYTES);
	frame_encode_pages(head, GFN(0x1000), 3, pages);
	assert_int_equal(frame_decode(&frame, head, &err), 0);
	assert_int_equal(frame_check_pages(&frame, head + FRAME_BYTES, pages, &err), 0);
	for (i = 0; i < 3 * PAGE_BYTES; i += 511) {
		pages[i] ^= 1;
		assert_int_equal(frame_check_pages(&frame, head + FRAME_BYTES, pages, &err),
				 -EBADMSG);
		pages[i] ^= 1;
	}
	pages[2 * PAGE_BYTES] ^= 1;
	assert_int_equal(frame_check_pages(&frame, head + FRAME_BYTES, pages, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "0x1002"));
	free(pages);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_frame_round_trip),
		cmocka_unit_test(test_frame_any_flipped_bit_is_noticed),
		cmocka_unit_test(test_frame_with_right_sum_and_wrong_shape_is_refused),
		cmocka_unit_test(test_message_payload_is_checked),
		cmocka_unit_test(test_each_page_has_its_checksum_and_its_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
