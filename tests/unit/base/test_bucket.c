// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/bucket.h"

/* Sends pieces as fast as the bucket lets it until `end`; returns the bytes sent. */
static uint64_t send_until(struct bucket *bucket, uint64_t piece, int64_t *now, int64_t end)
{
	uint64_t sent = 0;

	while (*now < end) {
		int64_t wait = bucket_take(bucket, piece, *now);

		if (wait) {
			assert_true(wait > 0 && wait <= NS_PER_SEC);
			*now += wait;
		} else {
			sent += piece;
		}
	}
	return sent;
}

static void assert_close(uint64_t is, uint64_t should)
{
	assert_in_range(is, should - should / 50, should + should / 50);
}

static void test_rate_is_kept_for_small_and_large_pieces(void **state)
{
	static const uint64_t rates[] = { 10000, 1000000, 100000000, UINT64_C(10000000000) };
	static const uint64_t pieces[] = { 40, 4144, 262696 };
	size_t i, j;

	(void)state;
	for (i = 0; i < sizeof(rates) / sizeof(*rates); i++)
		for (j = 0; j < sizeof(pieces) / sizeof(*pieces); j++) {
			struct bucket bucket;
			int64_t now = 12345;

			if (rates[i] / pieces[j] > 1000000)
				continue;
			bucket_init(&bucket, rates[i], now);
			send_until(&bucket, pieces[j], &now, now + 60 * NS_PER_SEC);	/* the burst, and debt */
			int64_t start = now;
			int64_t seconds = rates[i] < 1000000 ? 3000 : 100;
			uint64_t sent =
				send_until(&bucket, pieces[j], &now, start + seconds * NS_PER_SEC);

			assert_close(sent, rates[i] * (uint64_t)seconds);
		}
}

static void test_a_charge_is_paid_off_by_the_others(void **state)
{
	struct bucket bucket;
	int64_t now = 12345, start = now;

	(void)state;
	bucket_init(&bucket, 1000000, now);
	bucket_charge(&bucket, 10000000, now);
	send_until(&bucket, 4096, &now, now + NS_PER_SEC);
	while (bucket_take(&bucket, 4096, now))
		now += NS_PER_MS;
	/* Ten seconds' worth, less the burst. */
	assert_in_range((now - start) / NS_PER_MS, 9900, 10001);
	bucket_init(&bucket, 0, now);
	bucket_charge(&bucket, UINT64_MAX, now);
	assert_int_equal(bucket_take(&bucket, 1, now), 0);
}

static void test_no_limit_never_waits(void **state)
{
	struct bucket bucket;
	int i;

	(void)state;
	bucket_init(&bucket, 0, 0);
	for (i = 0; i < 1000; i++)
		assert_int_equal(bucket_take(&bucket, UINT64_MAX, 0), 0);
}

static void test_idle_time_is_not_saved_up_beyond_the_burst(void **state)
{
	struct bucket bucket;
	int64_t now = 0;
	uint64_t sent = 0;

	(void)state;
	bucket_init(&bucket, 100000000, now);
	now = 3600 * NS_PER_SEC;
	while (!bucket_take(&bucket, 4096, now))
		sent += 4096;
	assert_in_range(sent, 1, 100000000 / 20 + 4096);
}

static void test_change_of_rate_takes_effect(void **state)
{
	struct bucket bucket;
	int64_t now = 0, start;

	(void)state;
	bucket_init(&bucket, 1000000, now);
	send_until(&bucket, 4096, &now, 5 * NS_PER_SEC);
	bucket_set_rate(&bucket, 50000000, now);
	start = now;
	assert_close(send_until(&bucket, 4096, &now, start + 20 * NS_PER_SEC),
		     UINT64_C(50000000) * 20);
	bucket_set_rate(&bucket, 0, now);
	assert_int_equal(bucket_take(&bucket, 1 << 30, now), 0);
	bucket_set_rate(&bucket, UINT64_MAX, now);
	assert_int_equal(bucket_take(&bucket, 1 << 30, now), 0);
}

static void test_clock_that_stands_still_gives_nothing(void **state)
{
	struct bucket bucket;
	int i;

	(void)state;
	bucket_init(&bucket, 1000000, 77);
	while (!bucket_take(&bucket, 65536, 77))
		;
	for (i = 0; i < 100; i++)
		assert_true(bucket_take(&bucket, 1, 77) > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rate_is_kept_for_small_and_large_pieces),
		cmocka_unit_test(test_a_charge_is_paid_off_by_the_others),
		cmocka_unit_test(test_no_limit_never_waits),
		cmocka_unit_test(test_idle_time_is_not_saved_up_beyond_the_burst),
		cmocka_unit_test(test_change_of_rate_takes_effect),
		cmocka_unit_test(test_clock_that_stands_still_gives_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
