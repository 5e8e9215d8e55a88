/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The PC's clock and its 128 bytes of battery-backed memory: an MC146818 as far
 * as guests need it to learn the time.
 */
#ifndef POSTERN_DEVICE_RTC_H
#define POSTERN_DEVICE_RTC_H

#include <stdint.h>
#include <time.h>

#include "base/err.h"
#include "device/device.h"

#define RTC_PORTS 2

struct rtc;

extern const struct device_ops rtc_device_ops;

/* now: the time to show, UTC; NULL: CLOCK_REALTIME. -ENOMEM. */
int rtc_new(struct rtc **out, void (*now)(struct timespec *now), struct err *err);
void rtc_free(struct rtc *rtc);
/* A bus_access_fn for RTC_PORTS ports (index, data), 1 byte wide. */
void rtc_access(void *rtc, uint64_t offset, bool write, uint8_t *data, unsigned int size);

#endif
