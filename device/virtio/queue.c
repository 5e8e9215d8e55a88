// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "device/virtio/queue.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/probe.h"
#include "device/virtio/ring.h"

int ring_wrong(struct vqueue *q, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(q->why, sizeof(q->why), fmt, args);
	va_end(args);
	return -EPROTO;
}

/* ---- waiting for a page ---- */

/* On whichever thread has brought the page, or ends its wait. */
static void wait_fire(struct gup_ticket *ticket)
{
	struct vqueue_wait *wait = ticket->arg;

	eventfd_write(wait->fd, 1);
	PROBE_QUEUE_RESUME(wait->fd, ticket->gfn.v);
	atomic_store(&wait->fired, true);
}

static void wait_init(struct vqueue_wait *wait, int fd)
{
	wait->ticket = (struct gup_ticket){ .fire = wait_fire, .arg = wait };
	wait->fd = fd;
}

static bool wait_is_on(const struct vqueue_wait *wait)
{
	return wait->armed && !atomic_load(&wait->fired);
}

static void wait_cancel(struct vqueue *q, struct vqueue_wait *wait)
{
	/*
	 * One that could not be taken back is firing at this moment, which
	 * takes no longer than a write to an eventfd.
	 */
	if (wait->armed && !gup_ticket_cancel(q->mem, &wait->ticket))
		while (!atomic_load(&wait->fired))
			sched_yield();
	wait->armed = false;
}

/* For gup: the ticket to be armed, or none. It may fire before gup has returned. */
static struct gup_opts wait_opts(struct vqueue_wait *wait)
{
	if (!wait)
		return (struct gup_opts){ 0 };
	assert(!wait->armed || atomic_load(&wait->fired));
	wait->armed = false;
	atomic_store(&wait->fired, false);
	return (struct gup_opts){ .ticket = &wait->ticket };
}

/* What gup said, once it was asked with these opts. */
static int wait_result(struct vqueue_wait *wait, int r)
{
	if (wait && r == -EAGAIN) {
		wait->armed = true;
		PROBE_QUEUE_PARK(wait->fd, wait->ticket.gfn.v);
	}
	return r;
}

bool vqueue_is_parked(const struct vqueue *q)
{
	return wait_is_on(&q->take_wait) || wait_is_on(&q->give_wait);
}

void vqueue_stop(struct vqueue *q)
{
	wait_cancel(q, &q->take_wait);
	wait_cancel(q, &q->give_wait);
}

void vqueue_kick(struct vqueue *q)
{
	eventfd_write(q->fd, 1);
}

/* ---- ring memory ---- */

static int ring_result(struct vqueue *q, struct vqueue_wait *wait, uint64_t gpa, int r)
{
	if (r == -EFAULT)
		return ring_wrong(q, "the ring at 0x%" PRIx64 " is not in RAM", gpa);
	return wait_result(wait, r);
}

int ring_read(struct vqueue *q, struct vqueue_wait *wait, uint64_t gpa, void *to, size_t len)
{
	const struct gup_opts opts = wait_opts(wait);

	return ring_result(q, wait, gpa, gup_read(q->mem, GPA(gpa), to, len, GUP_NOWAIT, &opts));
}

int ring_write(struct vqueue *q, struct vqueue_wait *wait, uint64_t gpa, const void *from,
	       size_t len)
{
	const struct gup_opts opts = wait_opts(wait);

	return ring_result(q, wait, gpa, gup_write(q->mem, GPA(gpa), from, len, GUP_NOWAIT, &opts));
}

/* Aligned, so inside one page. */
static int ring_get16(struct vqueue *q, struct vqueue_wait *wait, uint64_t gpa, unsigned int flags,
		      struct gup_span *span)
{
	const struct gup_opts opts = wait_opts(wait);
	int r;

	memory_map_lock(q->mem);
	r = gup(q->mem, GPA(gpa), 2, flags | GUP_NOWAIT, &opts, span);
	memory_map_unlock(q->mem);
	return ring_result(q, wait, gpa, r);
}

int ring_load16(struct vqueue *q, struct vqueue_wait *wait, uint64_t gpa, uint16_t *to)
{
	struct gup_span span;
	int r = ring_get16(q, wait, gpa, 0, &span);

	if (r < 0)
		return r;
	/* What the driver wrote before this field is seen by what is read after it. */
	*to = __atomic_load_n((uint16_t *)(void *)span.hva, __ATOMIC_ACQUIRE);
	gup_put(q->mem, &span);
	return 0;
}

int ring_store16(struct vqueue *q, struct vqueue_wait *wait, uint64_t gpa, uint16_t value)
{
	struct gup_span span;
	int r = ring_get16(q, wait, gpa, GUP_WRITE, &span);

	if (r < 0)
		return r;
	/*
	 * What was written before is seen by who sees this; and what is read
	 * after it is not older (event index, 2.7.10).
	 */
	__atomic_store_n((uint16_t *)(void *)span.hva, value, __ATOMIC_SEQ_CST);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	gup_put(q->mem, &span);
	return 0;
}

/* ---- life ---- */

int vqueue_init(struct vqueue *q, struct memory *mem, unsigned int index, uint16_t size_max)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	*q = (struct vqueue){ .mem = mem, .index = index, .size_max = size_max, .fd = fd };
	if (fd < 0)
		return -errno;
	assert(size_max <= VQUEUE_SIZE_MAX && !(size_max & (size_max - 1)));
	wait_init(&q->take_wait, fd);
	wait_init(&q->give_wait, fd);
	q->done_last = &q->done;
	vqueue_reset(q);
	return 0;
}

void vqueue_abandon(struct vqueue *q)
{
	struct vchain *chain;

	vqueue_stop(q);
	while ((chain = q->done)) {
		q->done = chain->next;
		vqueue_drop(q, chain);
	}
	q->done_last = &q->done;
}

void vqueue_reset(struct vqueue *q)
{
	vqueue_abandon(q);
	q->size = q->size_max;
	q->vector = VIRTIO_MSI_NO_VECTOR;
	q->desc = q->driver = q->device = 0;
	q->enabled = q->packed = q->event_idx = q->indirect = false;
	q->avail = q->used = 0;
	q->avail_wrap = q->used_wrap = true;
}

void vqueue_fini(struct vqueue *q)
{
	if (q->fd < 0)
		return;
	vqueue_reset(q);
	close(q->fd);
	q->fd = -1;
}

static const struct ring_ops *ring_of(const struct vqueue *q)
{
	return q->packed ? &ring_packed : &ring_split;
}

int vqueue_enable(struct vqueue *q, uint64_t features)
{
	int r;

	q->packed = features >> VIRTIO_F_RING_PACKED & 1;
	q->event_idx = features >> VIRTIO_RING_F_EVENT_IDX & 1;
	q->indirect = features >> VIRTIO_RING_F_INDIRECT_DESC & 1;
	if (!q->size || q->size > q->size_max)
		return ring_wrong(q, "%u entries, 1 to %u are possible", q->size, q->size_max);
	r = ring_of(q)->check(q);
	q->enabled = r == 0;
	return r;
}

int vqueue_restore(struct vqueue *q, uint64_t features, uint16_t avail, bool avail_wrap,
		   uint16_t used, bool used_wrap)
{
	int r = vqueue_enable(q, features);

	if (r < 0)
		return r;
	if (q->packed && (avail >= q->size || used >= q->size)) {
		q->enabled = false;
		return ring_wrong(q, "it is at %u and %u of %u", avail, used, q->size);
	}
	q->avail = avail;
	q->used = used;
	q->avail_wrap = avail_wrap;
	q->used_wrap = used_wrap;
	return 0;
}

/* ---- chains ---- */

int ring_piece(struct vqueue *q, uint64_t gpa, uint32_t len, bool write)
{
	/* Before anything else: this is what ends a loop. */
	if (q->pieces == q->size)
		return ring_wrong(q, "a chain of more than %u descriptors", q->size);
	if (!len)
		return ring_wrong(q, "a buffer at 0x%" PRIx64 " without length", gpa);
	if (!write && q->pieces && q->piece[q->pieces - 1].write)
		return ring_wrong(q, "a readable buffer behind a writable one");
	q->piece[q->pieces++] = (struct vqueue_piece){ GPA(gpa), len, write };
	return 0;
}

static void spans_put(struct vqueue *q, struct gup_span *span, unsigned int n)
{
	unsigned int i;

	for (i = 0; i < n; i++)
		if (span[i].pages)
			gup_put(q->mem, &span[i]);
}

/*
 * Pins all buffers, or none; the first page that is missing gets the ticket,
 * the others are asked for as well.
 */
static int chain_pin(struct vqueue *q, struct gup_span *span)
{
	struct vqueue_wait *wait = &q->take_wait;
	unsigned int i;
	int r = 0, one;

	memory_map_lock(q->mem);
	for (i = 0; i < q->pieces && (r == 0 || r == -EAGAIN); i++) {
		const struct vqueue_piece *p = &q->piece[i];
		struct gup_opts opts = { 0 };

		if (r == 0)
			opts = wait_opts(wait);
		one = gup(q->mem, p->gpa, p->len, GUP_NOWAIT | (p->write ? GUP_WRITE : 0), &opts,
			  &span[i]);
		if (one == -EFAULT)
			one = ring_wrong(q, "the buffer of %u bytes at 0x%" PRIx64 " is not in RAM",
					 p->len, p->gpa.v);
		if (one == -EAGAIN && r == 0)
			wait_result(wait, one);
		if (one < 0 && (r == 0 || one != -EAGAIN))
			r = one;
	}
	memory_map_unlock(q->mem);
	if (r < 0)
		spans_put(q, span, i);
	/* Another failure is no reason to wait. */
	if (r < 0 && r != -EAGAIN)
		wait_cancel(q, wait);
	return r;
}

/* Where the buffers are, and no more. */
static int chain_locate(struct vqueue *q, struct gup_span *span)
{
	const struct vqueue_piece *p;
	uint64_t first, end;
	unsigned int i;

	for (i = 0; i < q->pieces; i++) {
		p = &q->piece[i];
		if (!memory_is_ram(q->mem, p->gpa, p->len))
			return ring_wrong(q,
					  "the buffer of %u bytes at 0x%" PRIx64 " is not in RAM",
					  p->len, p->gpa.v);
		first = (p->gpa.v + PAGE_BYTES - 1) / PAGE_BYTES;
		end = (p->gpa.v + p->len) / PAGE_BYTES;
		span[i] = (struct gup_span){ .len = p->len, .first = GFN(first) };
		span[i].pages = end > first ? (uint32_t)(end - first) : 0;
	}
	return 0;
}

static int chain_new(struct vqueue *q, struct vchain **out)
{
	struct vchain *chain = calloc(1, sizeof(*chain) + q->pieces * sizeof(chain->span[0]));
	unsigned int i;
	int r;

	if (!chain)
		return -ENOMEM;
	for (i = 0; i < q->pieces; i++) {
		if (q->piece[i].write) {
			chain->n_in++;
			chain->in_bytes += q->piece[i].len;
		} else {
			chain->n_out++;
			chain->out_bytes += q->piece[i].len;
		}
	}
	if (q->addresses)
		r = chain_locate(q, chain->span);
	else if (chain->in_bytes + chain->out_bytes > VCHAIN_BYTES_MAX)
		r = ring_wrong(q, "a chain of %" PRIu64 " bytes",
			       chain->in_bytes + chain->out_bytes);
	else
		r = chain_pin(q, chain->span);
	if (r < 0) {
		free(chain);
		return r;
	}
	*out = chain;
	return 0;
}

int vqueue_pop(struct vqueue *q, struct vchain **out)
{
	uint16_t id, slots;
	int r;

	if (!q->enabled)
		return 0;
	/*
	 * Asked and armed anew rather than trusted: a ticket that is just
	 * firing has woken us before it says so.
	 */
	wait_cancel(q, &q->take_wait);
	q->pieces = 0;
	r = ring_of(q)->next(q, &id, &slots);
	if (r <= 0)
		return r;
	/*
	 * As many as the ring has: a driver that makes the same one available
	 * again and again is not let take our memory, nor has the place of what
	 * is used gone round the ring more than once when all of it is given
	 * back.
	 */
	if (q->in_flight_slots + slots > q->size)
		return ring_wrong(q, "more chains than the %u entries hold", q->size);
	r = chain_new(q, out);
	if (r < 0)
		return r;
	(*out)->id = id;
	(*out)->slots = slots;
	ring_of(q)->advance(q, slots);
	q->in_flight++;
	q->in_flight_slots += slots;
	return 1;
}

static void chain_free(struct vqueue *q, struct vchain *chain)
{
	if (!q->addresses)
		spans_put(q, chain->span, chain->n_out + chain->n_in);
	q->in_flight--;
	q->in_flight_slots -= chain->slots;
	free(chain);
}

void vqueue_drop(struct vqueue *q, struct vchain *chain)
{
	chain_free(q, chain);
}

void vqueue_unpop(struct vqueue *q, struct vchain *chain)
{
	ring_of(q)->retreat(q, chain->slots);
	chain_free(q, chain);
}

/* The first batch has been given back. */
static void batch_free(struct vqueue *q)
{
	unsigned int n = q->done->batch;
	struct vchain *chain;

	while (n--) {
		chain = q->done;
		q->done = chain->next;
		chain_free(q, chain);
	}
	if (!q->done)
		q->done_last = &q->done;
}

int vqueue_resume(struct vqueue *q)
{
	int r, interrupt = 0;

	while (q->done) {
		wait_cancel(q, &q->give_wait);
		r = ring_of(q)->put(q, q->done);
		/*
		 * Those before it want their interrupt now: the next ones are
		 * no reason for it any more.
		 */
		if (r < 0)
			return interrupt && r != -EPROTO ? 1 : r;
		interrupt |= r;
		batch_free(q);
	}
	return interrupt;
}

int vqueue_push_all(struct vqueue *q, struct vchain *const *chain, unsigned int n)
{
	unsigned int i;

	chain[0]->batch = (uint16_t)n;
	for (i = 0; i < n; i++) {
		chain[i]->next = NULL;
		*q->done_last = chain[i];
		q->done_last = &chain[i]->next;
	}
	return vqueue_resume(q);
}

int vqueue_push(struct vqueue *q, struct vchain *chain, uint32_t written)
{
	chain->written = written;
	return vqueue_push_all(q, &chain, 1);
}

/* ---- a chain's bytes ---- */

static const struct gup_span *side(const struct vchain *chain, bool in, unsigned int *n)
{
	*n = in ? chain->n_in : chain->n_out;
	return in ? chain->span + chain->n_out : chain->span;
}

unsigned int vchain_iovec(const struct vchain *chain, bool in, uint64_t offset, uint64_t len,
			  struct iovec *iov)
{
	unsigned int i, n, used = 0;
	const struct gup_span *span = side(chain, in, &n);

	for (i = 0; i < n && len; i++) {
		size_t part;

		if (offset >= span[i].len) {
			offset -= span[i].len;
			continue;
		}
		part = span[i].len - (size_t)offset;
		if (part > len)
			part = (size_t)len;
		iov[used++] = (struct iovec){ span[i].hva + offset, part };
		offset = 0;
		len -= part;
	}
	return used;
}

/* One of `to` and `from` is NULL. */
static bool chain_copy(const struct vchain *chain, uint64_t offset, uint8_t *to,
		       const uint8_t *from, size_t len)
{
	unsigned int i, n;
	const struct gup_span *span = side(chain, from != NULL, &n);

	for (i = 0; i < n && len; i++) {
		size_t part;

		if (offset >= span[i].len) {
			offset -= span[i].len;
			continue;
		}
		part = span[i].len - (size_t)offset;
		if (part > len)
			part = len;
		if (to) {
			memcpy(to, span[i].hva + offset, part);
			to += part;
		} else {
			memcpy(span[i].hva + offset, from, part);
			from += part;
		}
		offset = 0;
		len -= part;
	}
	return !len;
}

bool vchain_read(const struct vchain *chain, uint64_t offset, void *to, size_t len)
{
	return chain_copy(chain, offset, to, NULL, len);
}

bool vchain_write(const struct vchain *chain, uint64_t offset, const void *from, size_t len)
{
	return chain_copy(chain, offset, NULL, from, len);
}
