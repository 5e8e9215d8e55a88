// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * packed.c - the packed ring (virtio 1.2, section 2.8): one ring of
 * descriptors, which driver and device write in turn. Two bits of a
 * descriptor's flags, compared with a wrap counter, say whose it is.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_ring.h>
#include <stddef.h>

#include "device/virtio/ring.h"

#define DESC_AVAIL (1u << VRING_PACKED_DESC_F_AVAIL)
#define DESC_USED (1u << VRING_PACKED_DESC_F_USED)
#define FLAGS_AT offsetof(struct vring_packed_desc, flags)
/* Of the event suppression structures (2.8.10). */
#define EVENT_OFF_WRAP 0u
#define EVENT_FLAGS 2u

static int packed_check(struct vqueue *q)
{
	if (q->desc % 16 || q->driver % 4 || q->device % 4)
		return ring_wrong(
			q, "rings at 0x%" PRIx64 ", 0x%" PRIx64 ", 0x%" PRIx64 " are not aligned",
			q->desc, q->driver, q->device);
	return 0;
}

static uint64_t desc_at(const struct vqueue *q, uint32_t at)
{
	return q->desc + at * sizeof(struct vring_packed_desc);
}

static bool is_available(const struct vqueue *q, uint16_t flags)
{
	bool avail = flags & DESC_AVAIL, used = flags & DESC_USED;

	return avail != used && avail == q->avail_wrap;
}

/* As split_look. */
static int packed_look(struct vqueue *q)
{
	uint16_t flags;
	int r = ring_load16(q, &q->take_wait, desc_at(q, q->avail) + FLAGS_AT, &flags);

	if (r < 0 || is_available(q, flags) || !q->event_idx)
		goto out;
	r = ring_store16(q, &q->take_wait, q->device + EVENT_OFF_WRAP,
			 (uint16_t)(q->avail | q->avail_wrap << VRING_PACKED_EVENT_F_WRAP_CTR));
	if (!r)
		r = ring_store16(q, &q->take_wait, q->device + EVENT_FLAGS,
				 VRING_PACKED_EVENT_FLAG_DESC);
	if (!r)
		r = ring_load16(q, &q->take_wait, desc_at(q, q->avail) + FLAGS_AT, &flags);
out:
	return r < 0 ? r : is_available(q, flags);
}

/*
 * An indirect table: its descriptors come one after the other, and of their
 * flags only "write" counts (2.8.8).
 */
static int packed_table(struct vqueue *q, const struct vring_packed_desc *table)
{
	struct vring_packed_desc desc;
	uint32_t i, n = table->len / (uint32_t)sizeof(desc);
	int r;

	if (!q->indirect || !table->len || table->len % sizeof(desc) || n > q->size)
		return ring_wrong(q, "an indirect table of %u bytes", table->len);
	for (i = 0; i < n; i++) {
		r = ring_read(q, &q->take_wait, table->addr + i * sizeof(desc), &desc,
			      sizeof(desc));
		if (!r)
			r = ring_piece(q, desc.addr, desc.len, desc.flags & DESC_WRITE);
		if (r < 0)
			return r;
	}
	return 1;
}

static int packed_next(struct vqueue *q, uint16_t *id, uint16_t *slots)
{
	struct vring_packed_desc desc;
	uint32_t i;
	int r = packed_look(q);

	if (r <= 0)
		return r;
	for (i = 0; i < q->size; i++) {
		r = ring_read(q, &q->take_wait, desc_at(q, (q->avail + i) % q->size), &desc,
			      sizeof(desc));
		if (r < 0)
			return r;
		*id = desc.id;
		*slots = (uint16_t)(i + 1);
		if (desc.flags & DESC_INDIRECT) {
			/* No chain has one behind other descriptors, or before them (2.8.8). */
			if (i || desc.flags & DESC_NEXT)
				return ring_wrong(q, "an indirect descriptor in a chain");
			return packed_table(q, &desc);
		}
		r = ring_piece(q, desc.addr, desc.len, desc.flags & DESC_WRITE);
		if (r < 0)
			return r;
		if (!(desc.flags & DESC_NEXT))
			return 1;
	}
	return ring_wrong(q, "a chain of more than %u descriptors", q->size);
}

static void step(const struct vqueue *q, uint16_t *at, bool *wrap, uint16_t slots)
{
	uint32_t next = (uint32_t)*at + slots;

	if (next >= q->size) {
		next -= q->size;
		*wrap = !*wrap;
	}
	*at = (uint16_t)next;
}

static void packed_advance(struct vqueue *q, uint16_t slots)
{
	step(q, &q->avail, &q->avail_wrap, slots);
}

static void packed_retreat(struct vqueue *q, uint16_t slots)
{
	if (q->avail < slots) {
		q->avail = (uint16_t)(q->avail + q->size);
		q->avail_wrap = !q->avail_wrap;
	}
	q->avail = (uint16_t)(q->avail - slots);
}

/* The used position went on by `slots` from old, which was of lap `wrap`. */
static int packed_wants_interrupt(struct vqueue *q, uint16_t old, bool wrap, uint16_t slots)
{
	uint16_t flags, off_wrap, event;

	if (ring_load16(q, NULL, q->driver + EVENT_FLAGS, &flags) < 0)
		return 1;
	if (flags == VRING_PACKED_EVENT_FLAG_DISABLE)
		return 0;
	if (flags != VRING_PACKED_EVENT_FLAG_DESC || !q->event_idx ||
	    ring_load16(q, NULL, q->driver + EVENT_OFF_WRAP, &off_wrap) < 0)
		return 1;
	event = off_wrap & 0x7fff;
	/* One of the other lap can only be reached by going over the end. */
	if (off_wrap >> VRING_PACKED_EVENT_F_WRAP_CTR != wrap)
		event = (uint16_t)(event + q->size);
	return ring_need_event(event, (uint16_t)(old + slots), old);
}

/* What the driver reads of a used chain, but for the flags. The address is reserved (2.8.6). */
static int put_body(struct vqueue *q, const struct vchain *chain, uint16_t at)
{
	const struct vring_packed_desc desc = { .len = chain->written, .id = chain->id };
	const uint8_t *from = (const uint8_t *)&desc + offsetof(struct vring_packed_desc, len);

	return ring_write(q, &q->give_wait,
			  desc_at(q, at) + offsetof(struct vring_packed_desc, len), from,
			  sizeof(desc.len) + sizeof(desc.id));
}

/* Flags come last, and say that the rest is there. */
static int put_flags(struct vqueue *q, const struct vchain *chain, uint16_t at, bool wrap)
{
	unsigned int flags = wrap ? DESC_AVAIL | DESC_USED : 0;

	if (chain->n_in)
		flags |= DESC_WRITE;
	return ring_store16(q, &q->give_wait, desc_at(q, at) + FLAGS_AT, (uint16_t)flags);
}

static int packed_put(struct vqueue *q, const struct vchain *first)
{
	const struct vchain *chain = first;
	uint16_t i, at = q->used, slots = 0;
	bool wrap = q->used_wrap;
	int r = 0;

	/*
	 * Of a batch, those behind the first: the driver does not look there
	 * before it has seen the first one's flags.
	 */
	for (i = 0; i < first->batch && !r; i++, chain = chain->next) {
		r = put_body(q, chain, at);
		if (!r && i)
			r = put_flags(q, chain, at, wrap);
		step(q, &at, &wrap, chain->slots);
		slots = (uint16_t)(slots + chain->slots);
	}
	if (!r)
		r = put_flags(q, first, q->used, q->used_wrap);
	if (r < 0)
		return r;
	i = q->used;
	wrap = q->used_wrap;
	step(q, &q->used, &q->used_wrap, slots);
	return packed_wants_interrupt(q, i, wrap, slots);
}

const struct ring_ops ring_packed = { packed_check, packed_next, packed_advance, packed_retreat,
				      packed_put };
