// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include <string.h>

#include "device/rtc.h"
#include "fixture.h"

static struct timespec now;

static void now_get(struct timespec *to)
{
	*to = now;
}

static int setup(void **state)
{
	struct rtc *rtc;
	struct err err;

	/* Sunday, 2026-11-22 21:07:59 UTC */
	now = (struct timespec){ .tv_sec = 1795381679 };
	assert_int_equal(rtc_new(&rtc, now_get, &err), 0);
	*state = rtc;
	return 0;
}

static int teardown(void **state)
{
	rtc_free(*state);
	return 0;
}

static uint8_t cmos(void *rtc, unsigned int index)
{
	put8(rtc_access, rtc, 0, index);
	return get8(rtc_access, rtc, 1);
}

static void cmos_put(void *rtc, unsigned int index, unsigned int value)
{
	put8(rtc_access, rtc, 0, index);
	put8(rtc_access, rtc, 1, value);
}

static void the_time_is_the_hosts(void **state)
{
	static const struct { unsigned int index, bcd, binary; } want[] = {
		{ 0, 0x59, 59 }, { 2, 0x07, 7 },  { 4, 0x21, 21 },    { 6, 0x01, 1 },
		{ 7, 0x22, 22 }, { 8, 0x11, 11 }, { 9, 0x26, 26 },    { 0x32, 0x20, 20 },
	};
	size_t i;

	for (i = 0; i < sizeof(want) / sizeof(want[0]); i++)
		assert_int_equal(cmos(*state, want[i].index), want[i].bcd);
	cmos_put(*state, 11, 0x06);
	for (i = 0; i < sizeof(want) / sizeof(want[0]); i++)
		assert_int_equal(cmos(*state, want[i].index), want[i].binary);
	/* Setting it changes nothing. */
	cmos_put(*state, 2, 30);
	assert_int_equal(cmos(*state, 2), 7);
}

static void twelve_hours_know_noon_and_midnight(void **state)
{
	static const struct { int hour; unsigned int want; } cases[] = {
		{ 0, 0x12 }, { 1, 0x01 }, { 11, 0x11 }, { 12, 0x92 }, { 13, 0x81 }, { 23, 0x91 },
	};
	size_t i;

	cmos_put(*state, 11, 0x00);
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		now.tv_sec = cases[i].hour * 3600;
		assert_int_equal(cmos(*state, 4), cases[i].want);
	}
}

static void status_registers_satisfy_linux(void **state)
{
	assert_int_equal(cmos(*state, 10), 0x26);
	now.tv_nsec = 999000000;
	assert_int_equal(cmos(*state, 10), 0xa6);
	assert_int_equal(cmos(*state, 11), 0x02);
	assert_int_equal(cmos(*state, 12), 0x00);
	assert_int_equal(cmos(*state, 13), 0x80);
	cmos_put(*state, 13, 0);
	assert_int_equal(cmos(*state, 13), 0x80);
}

static void memory_travels(void **state)
{
	struct rtc *to;
	struct err err;

	cmos_put(*state, 0x0f, 0x0a);
	cmos_put(*state, 0xff, 0x55);	/* bit 7 masks NMIs and is no part of the index */
	assert_int_equal(rtc_new(&to, now_get, &err), 0);
	state_torture(&rtc_device_ops, *state, to);
	assert_int_equal(get8(rtc_access, to, 1), 0x55);
	assert_int_equal(cmos(to, 0x0f), 0x0a);
	rtc_device_ops.reset(to);
	assert_int_equal(cmos(to, 0x0f), 0x0a);
	rtc_free(to);
}

static void hostile_state_is_refused(void **state)
{
	assert_refused(&rtc_device_ops, *state, "\x12\x05", "RtcState");
	assert_refused(&rtc_device_ops, *state, "\x08\x80\x01", "index is 128");
	assert_refused(&rtc_device_ops, *state, "\x12\x02" "ab", "2 bytes of memory");
	assert_refused(&rtc_device_ops, *state, "", "0 bytes of memory");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(the_time_is_the_hosts),
		TEST(twelve_hours_know_noon_and_midnight),
		TEST(status_registers_satisfy_linux),
		TEST(memory_travels),
		TEST(hostile_state_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
