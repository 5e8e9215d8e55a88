/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What devices report to the machine that they are in: one call for all of it.
 *
 * A new event is one more type here, the call in its device, and its name in
 * control/qmp.c. What lies between hands on whatever it does not know.
 */
#ifndef POSTERN_DEVICE_EVENT_H
#define POSTERN_DEVICE_EVENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum device_event_type {
	/* Any thread; locks of the device's own may be held. */
	DEVICE_EVENT_RESET,		/* the guest asks for one; may come several times */
	DEVICE_EVENT_SHUTDOWN,		/* the guest asks to be powered off; likewise */
	DEVICE_EVENT_IDLE,		/* of a stopped machine, it has no request in flight any more */
	/* The main thread, no lock held. */
	DEVICE_EVENT_QUIT,		/* the user asks to end, at a console */
	DEVICE_EVENT_DISK_AWAY,		/* a disk's server is; requests wait */
	DEVICE_EVENT_DISK_BACK,
	DEVICE_EVENT_DISK_ERROR,	/* a request of the guest's failed, and the guest was told so */
	DEVICE_EVENT_BALLOON,		/* the guest says that it has given up `pages` in all */
};

/* Everything lasts until the call returns. */
struct device_event {
	enum device_event_type type;
	const char *device;	/* as users know it: disk0; NULL where a machine has one at most */
	const char *reason;	/* DISK_AWAY */
	unsigned int requests;	/* DISK_AWAY: how many wait */
	bool read;		/* DISK_ERROR: else something was to be changed */
	int error;		/* DISK_ERROR: a negative errno */
	uint32_t pages;		/* BALLOON */
};

/* Who hears of them. fn must neither wait nor call back into the device; NULL: nobody. */
struct device_event_sink {
	void (*fn)(void *arg, const struct device_event *event);
	void *arg;
};

static inline void device_event(const struct device_event_sink *sink,
				const struct device_event *event)
{
	if (sink->fn)
		sink->fn(sink->arg, event);
}

#endif
