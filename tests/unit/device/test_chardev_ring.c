// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// Output that waits: the newest stay, and what is missing is marked.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/chardev.h"
#include "device/chardev_ring.h"

#define MARK "\r\n[postern: %llu bytes are missing here]\r\n"

/* Byte number i of what a guest says. */
static uint8_t said(uint64_t i)
{
	return (uint8_t)('a' + (i * 7 + i / 997) % 26);
}

static void say(struct chardev_ring *ring, uint64_t from, size_t len)
{
	uint8_t *bytes = malloc(len);
	size_t i;

	for (i = 0; i < len; i++)
		bytes[i] = said(from + i);
	chardev_ring_put(ring, bytes, len);
	free(bytes);
}

/* Takes all there is, by such steps; the length. */
static size_t take(struct chardev_ring *ring, uint8_t *to, size_t step)
{
	const uint8_t *data;
	size_t len = 0, n;

	while ((n = chardev_ring_peek(ring, &data))) {
		n = n < step ? n : step;
		memcpy(to + len, data, n);
		chardev_ring_taken(ring, n);
		len += n;
	}
	return len;
}

static void assert_said(const uint8_t *got, uint64_t from, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++)
		if (got[i] != said(from + i))
			fail_msg("byte %zu is '%c', not '%c'", i, got[i], said(from + i));
}

static size_t assert_mark(const uint8_t *got, unsigned long long bytes)
{
	char mark[80];
	int len = snprintf(mark, sizeof(mark), MARK, bytes);

	assert_memory_equal(got, mark, len);
	return (size_t)len;
}

static void test_what_fits_passes_as_it_is(void **state)
{
	static uint8_t got[2 * CHARDEV_RING_BYTES];
	struct chardev_ring ring;
	uint64_t at;

	(void)state;
	assert_int_equal(chardev_ring_init(&ring), 0);
	for (at = 0; at < 10 * CHARDEV_RING_BYTES; at += 100001) {
		say(&ring, at, 100001);
		assert_int_equal(take(&ring, got, 4097), 100001);
		assert_said(got, at, 100001);
	}
	say(&ring, 0, CHARDEV_RING_BYTES);
	assert_int_equal(take(&ring, got, SIZE_MAX), CHARDEV_RING_BYTES);
	assert_said(got, 0, CHARDEV_RING_BYTES);
	assert_int_equal(chardev_ring_dropped(&ring), 0);
	chardev_ring_fini(&ring);
}

static void test_the_newest_stay_and_the_gap_is_marked(void **state)
{
	static const size_t steps[] = { 1, 997, 65536, 300000, 1000003 };
	static uint8_t got[2 * CHARDEV_RING_BYTES];
	struct chardev_ring ring;
	uint64_t total;
	size_t i, len, mark;

	(void)state;
	for (i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		assert_int_equal(chardev_ring_init(&ring), 0);
		for (total = 0; total < 1000000; total += steps[i])
			say(&ring, total, steps[i]);
		assert_int_equal(chardev_ring_dropped(&ring), total - CHARDEV_RING_BYTES);
		len = take(&ring, got, 4096);
		mark = assert_mark(got, total - CHARDEV_RING_BYTES);
		assert_int_equal(len, mark + CHARDEV_RING_BYTES);
		assert_said(got + mark, total - CHARDEV_RING_BYTES, CHARDEV_RING_BYTES);
		/* Told of once. */
		say(&ring, total, 10);
		assert_int_equal(take(&ring, got, 4096), 10);
		assert_said(got, total, 10);
		chardev_ring_fini(&ring);
	}
}

/* What is on its way is not driven out under the hands of who writes it. */
static void test_a_piece_on_its_way_stays_whole(void **state)
{
	static uint8_t got[2 * CHARDEV_RING_BYTES];
	struct chardev_ring ring;
	const uint8_t *data;
	size_t piece, len, mark;

	(void)state;
	assert_int_equal(chardev_ring_init(&ring), 0);
	say(&ring, 0, CHARDEV_RING_BYTES);
	piece = chardev_ring_peek(&ring, &data);
	chardev_ring_taken(&ring, 100);
	say(&ring, CHARDEV_RING_BYTES, 3 * CHARDEV_RING_BYTES);
	len = take(&ring, got, 10000);
	assert_said(got, 100, piece - 100);
	mark = assert_mark(got + piece - 100, 3 * CHARDEV_RING_BYTES - piece);
	assert_said(got + piece - 100 + mark, 3 * CHARDEV_RING_BYTES, CHARDEV_RING_BYTES);
	assert_int_equal(len, piece - 100 + mark + CHARDEV_RING_BYTES);
	chardev_ring_fini(&ring);
}

static void test_what_is_known_to_be_lost_is_marked(void **state)
{
	static uint8_t got[CHARDEV_RING_BYTES];
	struct chardev_ring ring;
	size_t mark;

	(void)state;
	assert_int_equal(chardev_ring_init(&ring), 0);
	say(&ring, 0, 50);
	chardev_ring_lose(&ring, UINT64_C(1) << 40);
	say(&ring, 0, 20);
	take(&ring, got, 4096);
	mark = assert_mark(got, (1ull << 40) + 50);
	assert_said(got + mark, 0, 20);
	assert_int_equal(chardev_ring_dropped(&ring), (UINT64_C(1) << 40) + 50);
	chardev_ring_fini(&ring);
}

/* ---- a writer and a taker at once ---- */

#define RACE_BYTES (UINT64_C(32) << 20)

struct race {
	struct chardev_ring ring;
	_Atomic bool over;
};

static void *writer(void *arg)
{
	struct race *race = arg;
	uint64_t at;
	size_t step;

	for (at = 0; at < RACE_BYTES; at += step) {
		step = 1 + at % 4093;
		say(&race->ring, at, step);
	}
	race->over = true;
	return NULL;
}

/* Whatever the order: each byte is either there, in its place, or counted by a mark. */
static void test_every_byte_is_there_or_counted(void **state)
{
	static struct race race;
	unsigned long long gap, at = 0;
	const uint8_t *data;
	pthread_t thread;
	bool over;
	size_t n, i;
	int mark;

	(void)state;
	assert_int_equal(chardev_ring_init(&race.ring), 0);
	assert_int_equal(pthread_create(&thread, NULL, writer, &race), 0);
	do {
		over = race.over;
		while ((n = chardev_ring_peek(&race.ring, &data))) {
			i = 0;
			mark = 0;
			if (*data == '\r') {
				assert_int_equal(sscanf((const char *)data + 2,
							"[postern: %llu bytes%n", &gap, &mark), 1);
				at += gap;
				i = assert_mark(data, gap);
			}
			assert_said(data + i, at, n - i);
			at += n - i;
			chardev_ring_taken(&race.ring, n);
		}
	} while (!over);
	pthread_join(thread, NULL);
	assert_true(at >= RACE_BYTES);
	chardev_ring_fini(&race.ring);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_fits_passes_as_it_is),
		cmocka_unit_test(test_the_newest_stay_and_the_gap_is_marked),
		cmocka_unit_test(test_a_piece_on_its_way_stays_whole),
		cmocka_unit_test(test_what_is_known_to_be_lost_is_marked),
		cmocka_unit_test(test_every_byte_is_there_or_counted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
