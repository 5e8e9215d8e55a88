/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A bus: address ranges, each with the device that answers there. One for
 * ports, one for MMIO.
 *
 * Ranges are added while the machine is built, by one thread; after that the
 * bus never changes, so that vCPU threads look ranges up without a lock. What
 * nobody claims reads as all ones and swallows writes, as on a PC. So does an
 * access that is not wholly inside one range: it is not cut up. A 4-byte write
 * to port 0xcf8 (PCI configuration) must not turn into a 1-byte write to port
 * 0xcf9 (reset).
 */
#ifndef POSTERN_DEVICE_BUS_H
#define POSTERN_DEVICE_BUS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define BUS_RANGES_MAX 32

/*
 * An access of `size` bytes at `offset` into the range, wholly inside it.
 * `data` is little endian: to be read when write, filled when not. On a vCPU
 * thread; must not wait.
 */
typedef void (*bus_access_fn)(void *arg, uint64_t offset, bool write, uint8_t *data,
			      unsigned int size);

struct bus_range {
	uint64_t base, len;
	const char *owner;
	unsigned int width;	/* wider accesses come in pieces of this many bytes */
	bus_access_fn access;
	void *arg;
};

struct bus {
	const char *name;
	struct bus_range range[BUS_RANGES_MAX];	/* ascending, never overlapping */
	unsigned int n;
	_Atomic uint64_t unclaimed;		/* accesses that nobody answered */
};

void bus_init(struct bus *bus, const char *name);
/*
 * Claims [base, base + len) for `owner` (static text, for messages). width: the
 * widest access that `access` takes, 1 to 8, a power of two. -EINVAL: empty or
 * wraps round; -EEXIST: overlaps, with both owners named; -ENOSPC: no room for
 * another.
 */
int bus_add(struct bus *bus, const char *owner, uint64_t base, uint64_t len, unsigned int width,
	    bus_access_fn access, void *arg, struct err *err);
/* size: 1 to 8 bytes. Any thread, once the bus is complete. Returns whether somebody answered. */
bool bus_access(struct bus *bus, uint64_t addr, bool write, void *data, unsigned int size);

#endif
