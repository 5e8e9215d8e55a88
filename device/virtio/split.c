// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * split.c - the split ring (virtio 1.2, section 2.7): a table of descriptors, a
 * ring of heads that the driver makes available and one of those that the
 * device has used.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_ring.h>
#include <stddef.h>

#include "device/virtio/ring.h"

#define AVAIL_IDX 2u
#define AVAIL_RING 4u
#define USED_IDX 2u
#define USED_RING 4u

static uint64_t used_event(const struct vqueue *q)
{
	return q->driver + AVAIL_RING + 2u * q->size;
}

static uint64_t avail_event(const struct vqueue *q)
{
	return q->device + USED_RING + 8u * q->size;
}

static int split_check(struct vqueue *q)
{
	if (q->size & (q->size - 1))
		return ring_wrong(q, "%u entries: no power of two", q->size);
	/* Alignments of 2.7. */
	if (q->desc % VRING_DESC_ALIGN_SIZE || q->driver % VRING_AVAIL_ALIGN_SIZE ||
	    q->device % VRING_USED_ALIGN_SIZE)
		return ring_wrong(
			q, "rings at 0x%" PRIx64 ", 0x%" PRIx64 ", 0x%" PRIx64 " are not aligned",
			q->desc, q->driver, q->device);
	return 0;
}

/*
 * Is there a head that was not taken? When there is none the driver is told
 * where to notify, and looked for once more.
 */
static int split_look(struct vqueue *q)
{
	uint16_t idx;
	int r = ring_load16(q, &q->take_wait, q->driver + AVAIL_IDX, &idx);

	if (r < 0 || idx != q->avail || !q->event_idx)
		goto out;
	r = ring_store16(q, &q->take_wait, avail_event(q), q->avail);
	if (!r)
		r = ring_load16(q, &q->take_wait, q->driver + AVAIL_IDX, &idx);
out:
	if (r < 0)
		return r;
	if ((uint16_t)(idx - q->avail) > q->size)
		return ring_wrong(q, "available index %u, the device is at %u of %u", idx, q->avail,
				  q->size);
	return idx != q->avail;
}

static int split_next(struct vqueue *q, uint16_t *id, uint16_t *slots)
{
	uint64_t table = q->desc;
	uint32_t entries = q->size, at;
	struct vring_desc desc;
	bool inside = false;
	int r = split_look(q);

	if (r <= 0)
		return r;
	r = ring_load16(q, &q->take_wait, q->driver + AVAIL_RING + 2u * (q->avail % q->size), id);
	if (r < 0)
		return r;
	*slots = 1;
	for (at = *id;; at = desc.next) {
		if (at >= entries)
			return ring_wrong(q, "descriptor %u of a table of %u", at, entries);
		/* A table may wrap round the end of the address space: gup says no. */
		r = ring_read(q, &q->take_wait, table + at * sizeof(desc), &desc, sizeof(desc));
		if (r < 0)
			return r;
		if (desc.flags & DESC_INDIRECT) {
			if (!q->indirect || inside || desc.flags & DESC_NEXT || !desc.len ||
			    desc.len % sizeof(desc) || desc.len / sizeof(desc) > q->size)
				return ring_wrong(q, "an indirect table of %u bytes, flags 0x%x%s",
						  desc.len, desc.flags,
						  inside ? " inside another" : "");
			inside = true;
			table = desc.addr;
			entries = desc.len / (uint32_t)sizeof(desc);
			desc.next = 0;
			continue;
		}
		r = ring_piece(q, desc.addr, desc.len, desc.flags & DESC_WRITE);
		if (r < 0)
			return r;
		if (!(desc.flags & DESC_NEXT))
			return 1;
	}
}

static void split_advance(struct vqueue *q, uint16_t slots)
{
	q->avail = (uint16_t)(q->avail + slots);
}

static void split_retreat(struct vqueue *q, uint16_t slots)
{
	q->avail = (uint16_t)(q->avail - slots);
}

static int split_wants_interrupt(struct vqueue *q, uint16_t now, uint16_t old)
{
	uint16_t value;

	/* Where it cannot be seen whether: an interrupt too many does no harm. */
	if (ring_load16(q, NULL, q->event_idx ? used_event(q) : q->driver, &value) < 0)
		return 1;
	return q->event_idx ? ring_need_event(value, now, old) :
			      !(value & VRING_AVAIL_F_NO_INTERRUPT);
}

static int split_put(struct vqueue *q, const struct vchain *chain)
{
	uint16_t i, n = chain->batch, old = q->used, now = (uint16_t)(old + n);
	int r = 0;

	/* The index tells of all elements at once. */
	for (i = 0; i < n && !r; i++, chain = chain->next) {
		const struct vring_used_elem elem = { .id = chain->id, .len = chain->written };
		uint16_t at = (uint16_t)(old + i);

		r = ring_write(q, &q->give_wait,
			       q->device + USED_RING + sizeof(elem) * (at % q->size), &elem,
			       sizeof(elem));
	}
	if (!r)
		r = ring_store16(q, &q->give_wait, q->device + USED_IDX, now);
	if (r < 0)
		return r;
	q->used = now;
	return split_wants_interrupt(q, now, old);
}

const struct ring_ops ring_split = { split_check, split_next, split_advance, split_retreat,
				     split_put };
