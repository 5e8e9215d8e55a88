// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "device/bus.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/log.h"

/* How many unclaimed accesses are logged; a guest's probing must not flood the log. */
#define UNCLAIMED_LOGGED 64

void bus_init(struct bus *bus, const char *name)
{
	*bus = (struct bus){ .name = name };
}

int bus_add(struct bus *bus, const char *owner, uint64_t base, uint64_t len, unsigned int width,
	    bus_access_fn access, void *arg, struct err *err)
{
	unsigned int at, i;

	if (!len || base + (len - 1) < base)
		return err_set(err, -EINVAL, "%s bus: %s has no valid range at 0x%" PRIx64,
			       bus->name, owner, base);
	if (bus->n == BUS_RANGES_MAX)
		return err_set(err, -ENOSPC, "%s bus: no room for %s", bus->name, owner);
	for (at = 0; at < bus->n && bus->range[at].base < base; at++)
		;
	for (i = at ? at - 1 : 0; i < bus->n && i <= at; i++) {
		const struct bus_range *r = &bus->range[i];

		if (r->base <= base + (len - 1) && base <= r->base + (r->len - 1))
			return err_set(err, -EEXIST,
				       "%s bus: %s at 0x%" PRIx64 " overlaps %s at 0x%" PRIx64,
				       bus->name, owner, base, r->owner, r->base);
	}
	memmove(&bus->range[at + 1], &bus->range[at], (bus->n - at) * sizeof(bus->range[0]));
	bus->range[at] = (struct bus_range){
		.base = base, .len = len, .owner = owner, .width = width, .access = access, .arg = arg,
	};
	bus->n++;
	return 0;
}

/* The range that holds the whole access, or NULL. */
static const struct bus_range *range_find(const struct bus *bus, uint64_t addr, unsigned int size)
{
	unsigned int low = 0, high = bus->n;

	while (low < high) {
		unsigned int mid = (low + high) / 2;
		const struct bus_range *r = &bus->range[mid];

		if (addr < r->base)
			high = mid;
		else if (addr - r->base >= r->len)
			low = mid + 1;
		else
			return r->len - (addr - r->base) >= size ? r : NULL;
	}
	return NULL;
}

static void unclaimed(struct bus *bus, uint64_t addr, bool write, unsigned int size)
{
	/* A counter, it orders nothing. */
	if (atomic_fetch_add_explicit(&bus->unclaimed, 1, memory_order_relaxed) < UNCLAIMED_LOGGED)
		log_debug("%s bus: nobody answers the %s of %u bytes at 0x%" PRIx64, bus->name,
			  write ? "write" : "read", size, addr);
}

bool bus_access(struct bus *bus, uint64_t addr, bool write, void *data, unsigned int size)
{
	const struct bus_range *r = range_find(bus, addr, size);
	uint8_t *bytes = data;
	unsigned int done, piece;

	if (!r) {
		unclaimed(bus, addr, write, size);
		if (!write)
			memset(data, 0xff, size);
		return false;
	}
	for (done = 0; done < size; done += piece) {
		piece = size - done < r->width ? size - done : r->width;
		r->access(r->arg, addr - r->base + done, write, bytes + done, piece);
	}
	return true;
}
