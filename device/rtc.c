// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * rtc.c - the PC's real-time clock.
 *
 * The time is always the host's, in UTC; a guest that sets it is ignored. It is
 * shown in the format that register B asks for (BCD or binary, 12 or 24 hours).
 * There is no interrupt: no alarm, no periodic tick. Register A's
 * update-in-progress bit is set during the last 2 ms of each second, so that a
 * guest that follows the data sheet (wait until the bit is clear, then read
 * all) never sees half of an update.
 */
#include "device/rtc.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/proto.h"
#include "rtc.pb-c.h"

enum {
	RTC_SECONDS = 0,
	RTC_MINUTES = 2,
	RTC_HOURS = 4,
	RTC_WEEKDAY = 6,
	RTC_DAY = 7,
	RTC_MONTH = 8,
	RTC_YEAR = 9,
	RTC_A = 10,
	RTC_B = 11,
	RTC_C = 12,
	RTC_D = 13,
	RTC_CENTURY = 0x32,
	CMOS_BYTES = 128,
	INDEX_MASK = 0x7f,
	A_UPDATING = 0x80,
	A_DIVIDER = 0x26,
	A_STORED = 0x7f,
	B_24H = 0x02,
	B_BINARY = 0x04,
	D_VALID = 0x80,
	HOURS_PM = 0x80,
};

#define UPDATE_NS (2 * NS_PER_MS)

struct rtc {
	void (*now)(struct timespec *now);
	pthread_mutex_t lock;	/* guards all below */
	uint8_t index;
	uint8_t cmos[CMOS_BYTES];
};

static void now_host(struct timespec *now)
{
	clock_gettime(CLOCK_REALTIME, now);
}

static bool is_time(uint8_t index)
{
	switch (index) {
	case RTC_SECONDS:
	case RTC_MINUTES:
	case RTC_HOURS:
	case RTC_WEEKDAY:
	case RTC_DAY:
	case RTC_MONTH:
	case RTC_YEAR:
	case RTC_CENTURY:
		return true;
	default:
		return false;
	}
}

static uint8_t encode(const struct rtc *rtc, int value)
{
	if (rtc->cmos[RTC_B] & B_BINARY)
		return (uint8_t)value;
	return (uint8_t)(value / 10 << 4 | value % 10);
}

static uint8_t encode_hours(const struct rtc *rtc, int hour)
{
	if (rtc->cmos[RTC_B] & B_24H)
		return encode(rtc, hour);
	return encode(rtc, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOURS_PM : 0);
}

static uint8_t time_read(const struct rtc *rtc, uint8_t index)
{
	struct timespec now;
	struct tm tm;

	rtc->now(&now);
	gmtime_r(&now.tv_sec, &tm);
	switch (index) {
	case RTC_SECONDS:
		/* A leap second would be one too many for most guests. */
		return encode(rtc, tm.tm_sec < 60 ? tm.tm_sec : 59);
	case RTC_MINUTES:
		return encode(rtc, tm.tm_min);
	case RTC_HOURS:
		return encode_hours(rtc, tm.tm_hour);
	case RTC_WEEKDAY:
		return encode(rtc, tm.tm_wday + 1);
	case RTC_DAY:
		return encode(rtc, tm.tm_mday);
	case RTC_MONTH:
		return encode(rtc, tm.tm_mon + 1);
	case RTC_YEAR:
		return encode(rtc, tm.tm_year % 100);
	default:
		return encode(rtc, (tm.tm_year + 1900) / 100);
	}
}

static uint8_t a_read(const struct rtc *rtc)
{
	struct timespec now;

	rtc->now(&now);
	return rtc->cmos[RTC_A] | (now.tv_nsec >= NS_PER_SEC - UPDATE_NS ? A_UPDATING : 0);
}

static uint8_t data_read(const struct rtc *rtc)
{
	if (is_time(rtc->index))
		return time_read(rtc, rtc->index);
	switch (rtc->index) {
	case RTC_A:
		return a_read(rtc);
	case RTC_C:
		return 0;
	case RTC_D:
		return D_VALID;
	default:
		return rtc->cmos[rtc->index];
	}
}

static void data_write(struct rtc *rtc, uint8_t value)
{
	if (is_time(rtc->index) || rtc->index == RTC_C || rtc->index == RTC_D)
		return;
	rtc->cmos[rtc->index] = rtc->index == RTC_A ? value & A_STORED : value;
}

void rtc_access(void *dev, uint64_t offset, bool write, uint8_t *data, unsigned int size)
{
	struct rtc *rtc = dev;

	(void)size;
	pthread_mutex_lock(&rtc->lock);
	if (offset == 0 && write)
		rtc->index = *data & INDEX_MASK;
	else if (offset == 0)
		*data = 0xff;	/* write-only */
	else if (write)
		data_write(rtc, *data);
	else
		*data = data_read(rtc);
	pthread_mutex_unlock(&rtc->lock);
}

static void rtc_regs_reset(struct rtc *rtc)
{
	rtc->index = 0;
	rtc->cmos[RTC_A] = A_DIVIDER;
	rtc->cmos[RTC_B] = B_24H;
}

int rtc_new(struct rtc **out, void (*now)(struct timespec *now), struct err *err)
{
	struct rtc *rtc = calloc(1, sizeof(*rtc));

	if (!rtc)
		return err_set(err, -ENOMEM, "no memory for the real-time clock");
	pthread_mutex_init(&rtc->lock, NULL);
	rtc->now = now ? now : now_host;
	rtc_regs_reset(rtc);
	*out = rtc;
	return 0;
}

void rtc_free(struct rtc *rtc)
{
	if (!rtc)
		return;
	pthread_mutex_destroy(&rtc->lock);
	free(rtc);
}

/* The memory keeps what it has: it runs on a battery. */
static void rtc_reset(void *dev)
{
	struct rtc *rtc = dev;

	pthread_mutex_lock(&rtc->lock);
	rtc_regs_reset(rtc);
	pthread_mutex_unlock(&rtc->lock);
}

static int rtc_save(void *dev, struct buf *out, struct err *err)
{
	Postern__Device__RtcState msg = POSTERN__DEVICE__RTC_STATE__INIT;
	uint8_t cmos[CMOS_BYTES];
	struct rtc *rtc = dev;
	uint8_t *to;

	pthread_mutex_lock(&rtc->lock);
	msg.index = rtc->index;
	memcpy(cmos, rtc->cmos, sizeof(cmos));
	pthread_mutex_unlock(&rtc->lock);
	msg.cmos.data = cmos;
	msg.cmos.len = sizeof(cmos);
	to = buf_reserve(out, postern__device__rtc_state__get_packed_size(&msg));
	if (!to)
		return err_set(err, -ENOMEM, "no memory for the real-time clock's state");
	out->len += postern__device__rtc_state__pack(&msg, to);
	return 0;
}

static int rtc_load(void *dev, const uint8_t *data, size_t len, struct err *err)
{
	Postern__Device__RtcState *msg = proto_unpack(&postern__device__rtc_state__descriptor, data,
						      len, PROTO_FIELDS_MAX, err);
	struct rtc *rtc = dev;
	int ret = 0;

	if (!msg)
		return -EINVAL;
	if (msg->index > INDEX_MASK)
		ret = err_set(err, -EINVAL, "register index is %u, at most %u", msg->index,
			      INDEX_MASK);
	else if (msg->cmos.len != CMOS_BYTES)
		ret = err_set(err, -EINVAL, "%zu bytes of memory, not %u", msg->cmos.len,
			      CMOS_BYTES);
	if (!ret) {
		pthread_mutex_lock(&rtc->lock);
		rtc->index = (uint8_t)msg->index;
		memcpy(rtc->cmos, msg->cmos.data, CMOS_BYTES);
		rtc->cmos[RTC_A] &= A_STORED;
		pthread_mutex_unlock(&rtc->lock);
	}
	postern__device__rtc_state__free_unpacked(msg, NULL);
	return ret;
}

const struct device_ops rtc_device_ops = {
	.name = "rtc",
	.version = 1,
	.save = rtc_save,
	.load = rtc_load,
	.reset = rtc_reset,
};
