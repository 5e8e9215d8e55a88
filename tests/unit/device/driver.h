/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The driver's side of a virtqueue, as little of it as tests need: it writes
 * rings of either kind into guest memory, and looks for what was used. It
 * touches memory as the guest would, so its pages must be there.
 */
#ifndef POSTERN_TESTS_DEVICE_DRIVER_H
#define POSTERN_TESTS_DEVICE_DRIVER_H

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <string.h>

#include "device/virtio/queue.h"

/* Rings of a queue at its own pages. */
struct driver {
	uint8_t *ram;		/* guest address 0 */
	uint64_t desc, avail, used;
	uint16_t size;
	bool packed;
	uint16_t next, last_used, idx;
	bool wrap, used_wrap;
};

struct driver_buf {
	uint64_t gpa;
	uint32_t len;
	bool write;
};

static inline void driver_init(struct driver *d, uint8_t *ram, uint64_t at, uint16_t size,
			       bool packed)
{
	*d = (struct driver){
		.ram = ram, .desc = at, .avail = at + 0x1000, .used = at + 0x2000, .size = size, .packed = packed,
		.wrap = true, .used_wrap = true,
	};
}

static inline void driver_put(struct driver *d, uint64_t gpa, const void *from, size_t len)
{
	memcpy(d->ram + gpa, from, len);
}

static inline uint16_t driver_get16(struct driver *d, uint64_t gpa)
{
	return __atomic_load_n((uint16_t *)(void *)(d->ram + gpa), __ATOMIC_ACQUIRE);
}

static inline void driver_put16(struct driver *d, uint64_t gpa, uint16_t value)
{
	__atomic_store_n((uint16_t *)(void *)(d->ram + gpa), value, __ATOMIC_RELEASE);
}

static inline void driver_desc(struct driver *d, uint64_t table, unsigned int at, uint64_t gpa,
			       uint32_t len, unsigned int flags, unsigned int next)
{
	const struct vring_desc desc = { gpa, len, (uint16_t)flags, (uint16_t)next };

	driver_put(d, table + at * sizeof(desc), &desc, sizeof(desc));
}

static inline void driver_packed(struct driver *d, uint64_t table, unsigned int at, uint64_t gpa,
				 uint32_t len, unsigned int id, unsigned int flags)
{
	const struct vring_packed_desc desc = { gpa, len, (uint16_t)id, (uint16_t)flags };

	driver_put(d, table + at * sizeof(desc), &desc, sizeof(desc));
}

static inline unsigned int packed_flags(bool wrap)
{
	return wrap ? 1u << VRING_PACKED_DESC_F_AVAIL : 1u << VRING_PACKED_DESC_F_USED;
}

/* Makes split descriptor `head` available. */
static inline void driver_avail(struct driver *d, uint16_t head)
{
	driver_put16(d, d->avail + 4 + 2u * (d->idx % d->size), head);
	driver_put16(d, d->avail + 2, ++d->idx);
}

/* A chain of n buffers, with an indirect table at `table` unless that is 0. Returns its id. */
static inline uint16_t driver_add(struct driver *d, const struct driver_buf *buf, unsigned int n,
				  uint64_t table)
{
	uint16_t first = d->next;
	unsigned int i, flags;

	for (i = 0; i < n; i++) {
		flags = (buf[i].write ? VRING_DESC_F_WRITE : 0) |
			(i + 1 < n && !(table && d->packed) ? VRING_DESC_F_NEXT : 0);
		if (table && d->packed)
			driver_packed(d, table, i, buf[i].gpa, buf[i].len, 0, flags);
		else if (table)
			driver_desc(d, table, i, buf[i].gpa, buf[i].len, flags, i + 1);
		else if (!d->packed)
			driver_desc(d, d->desc, (first + i) % d->size, buf[i].gpa, buf[i].len,
				    flags, (first + i + 1u) % d->size);
	}
	if (!d->packed) {
		if (table)
			driver_desc(d, d->desc, first, table, n * 16, VRING_DESC_F_INDIRECT, 0);
		d->next = (uint16_t)((first + (table ? 1 : n)) % d->size);
		driver_avail(d, first);
		return first;
	}
	for (i = 0; i < (table ? 1 : n); i++) {
		flags = packed_flags(d->wrap);
		if (table)
			driver_packed(d, d->desc, d->next, table, n * 16, first,
				      flags | VRING_DESC_F_INDIRECT);
		else
			driver_packed(d, d->desc, d->next, buf[i].gpa, buf[i].len, first,
				      flags | (buf[i].write ? VRING_DESC_F_WRITE : 0) |
					      (i + 1 < n ? VRING_DESC_F_NEXT : 0));
		if (++d->next == d->size) {
			d->next = 0;
			d->wrap = !d->wrap;
		}
	}
	return first;
}

/*
 * The next used chain: its id, or -1; *len what was written. slots: how many
 * descriptors it had (packed).
 */
static inline int driver_used(struct driver *d, unsigned int slots, uint32_t *len)
{
	struct vring_packed_desc desc;
	struct vring_used_elem elem;
	bool avail, used;

	if (!d->packed) {
		if (driver_get16(d, d->used + 2) == d->last_used)
			return -1;
		memcpy(&elem, d->ram + d->used + 4 + 8u * (d->last_used++ % d->size), sizeof(elem));
		*len = elem.len;
		return (int)elem.id;
	}
	memcpy(&desc, d->ram + d->desc + 16u * d->last_used, sizeof(desc));
	avail = desc.flags >> VRING_PACKED_DESC_F_AVAIL & 1;
	used = desc.flags >> VRING_PACKED_DESC_F_USED & 1;
	if (avail != used || used != d->used_wrap)
		return -1;
	d->last_used = (uint16_t)(d->last_used + slots);
	if (d->last_used >= d->size) {
		d->last_used = (uint16_t)(d->last_used - d->size);
		d->used_wrap = !d->used_wrap;
	}
	*len = desc.len;
	return desc.id;
}

#endif
