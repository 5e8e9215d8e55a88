// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "memory/internal.h"

static void test_bad_ranges_are_refused(void **unused)
{
	static const struct {
		struct memory_range range[2];
		unsigned int n;
	} bad[] = {
		{ { { { 0 }, 2 << 20 } }, 0 },
		{ { { { 0 }, 0 } }, 1 },
		{ { { { 0 }, 4096 } }, 1 },
		{ { { { 4096 }, 2 << 20 } }, 1 },
		{ { { { 0 }, 4 << 20 }, { { 2 << 20 }, 2 << 20 } }, 2 },
		{ { { { 4 << 20 }, 2 << 20 }, { { 0 }, 2 << 20 } }, 2 },
		{ { { { UINT64_MAX - (2 << 20) + 1 }, 2 << 20 } }, 1 },
	};
	struct memory *mem;
	struct err err;
	size_t i;

	(void)unused;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		err.text[0] = 0;
		assert_int_equal(memory_new(&mem, bad[i].range, bad[i].n, &err), -EINVAL);
		assert_int_not_equal(err.text[0], 0);
	}
}

static void test_is_ram_knows_the_hole(void **unused)
{
	struct memory *mem = memory_for_test(4, 2, false, NULL);

	(void)unused;
	assert_true(memory_is_ram(mem, GPA(0), 4 << 20));
	assert_false(memory_is_ram(mem, GPA(0), (4 << 20) + 1));
	assert_false(memory_is_ram(mem, GPA(4 << 20), 1));
	assert_true(memory_is_ram(mem, GPA((UINT64_C(4) << 30) + (2 << 20) - 1), 1));
	assert_false(memory_is_ram(mem, GPA((UINT64_C(4) << 30) + (2 << 20) - 1), 2));
	assert_false(memory_is_ram(mem, GPA(UINT64_MAX), 2));
	assert_false(memory_is_ram(mem, GPA(0), 0));
	memory_free(mem);
}

static void test_plain_memory_is_present_and_zero(void **unused)
{
	struct memory *mem = memory_for_test(2, 0, false, NULL);
	struct memory_stats stats;
	uint64_t word = 1;

	(void)unused;
	memory_stats(mem, &stats);
	assert_int_equal(stats.missing, 0);
	assert_false(memory_is_late(mem));
	assert_int_equal(memory_page_state(mem, GFN(511)), PAGE_PRESENT);
	assert_int_equal(gup_read(mem, GPA((2 << 20) - 8), &word, 8, GUP_NOWAIT, NULL), 0);
	assert_int_equal(word, 0);
	memory_free(mem);
}

static void test_missing_bitmap(void **unused)
{
	struct memory *mem = memory_for_test(2, 2, true, NULL);
	uint8_t bits[64];

	(void)unused;
	assert_int_equal(memory_missing_bitmap(mem, GFN(0), 512, bits), 512);
	assert_int_equal(memory_fill(mem, GFN(3), 2, NULL), 2);
	assert_int_equal(memory_missing_bitmap(mem, GFN(1), 10, bits), 8);
	assert_int_equal(bits[0], 0xf3);
	assert_int_equal(bits[1], 0x03);
	assert_int_equal(memory_missing_bitmap(mem, GFN(1), 512, bits), -EFAULT);
	memory_free(mem);
}

static _Atomic int watch_failed;

static void on_watch_failed(void *arg, int error)
{
	(void)arg;
	atomic_store(&watch_failed, error);
}

static void *touch(void *arg)
{
	(void)*(volatile uint8_t *)arg;
	return NULL;
}

/*
 * Its descriptor is taken from the fault thread: it says so, and what comes is
 * filled in all the same.
 */
static void test_faults_that_cannot_be_read_are_told(void **unused)
{
	const struct memory_events events = { .watch_failed = on_watch_failed };
	struct memory *mem = memory_for_test(2, 0, true, &events);
	int keep = dup(mem->uffd), other = open("/dev/null", O_WRONLY);
	pthread_t thread;

	(void)unused;
	assert_true(keep >= 0 && other >= 0);
	assert_true(dup2(other, mem->uffd) >= 0);
	/* The thread still waits at the old one, until there is something to read. */
	assert_int_equal(pthread_create(&thread, NULL, touch, mem->region[0].host + 5 * PAGE_BYTES),
			 0);
	wait_until(atomic_load(&watch_failed));
	assert_int_equal(watch_failed, -EBADF);
	assert_true(dup2(keep, mem->uffd) >= 0);
	assert_int_equal(memory_fill(mem, GFN(5), 1, NULL), 1);
	pthread_join(thread, NULL);
	close(keep);
	close(other);
	memory_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bad_ranges_are_refused),
		cmocka_unit_test(test_is_ram_knows_the_hole),
		cmocka_unit_test(test_plain_memory_is_present_and_zero),
		cmocka_unit_test(test_missing_bitmap),
		cmocka_unit_test(test_faults_that_cannot_be_read_are_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
