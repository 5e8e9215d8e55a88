// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Requests. request() is called by whoever noticed the miss, mostly the fault
 * thread, and must not wait: the frame is sent without waiting, under a lock
 * that is never held across a wait. What the connection does not take goes into
 * a ring of fixed size, in order, and the urgent thread sends it on when the
 * connection takes more (an eventfd makes the thread look). If the ring is full
 * the link is not worth its name any more and is given up.
 *
 * Requests are not repeated and need not be: the connection either delivers
 * them or breaks, and then memory_detach makes their pages MISSING, so that the
 * next link asks for them anew.
 *
 * Receiving is the receiver's: a thread for each connection.
 */
#include "source/wire.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/count.h"
#include "base/thread.h"
#include "wire/receiver.h"

#define QUEUE_BYTES (256u << 10)

struct wire_source {
	struct page_source source;
	struct memory *mem;
	struct stream_pair pair;
	pthread_t urgent_thread, bulk_thread;
	bool started;
	int wake;			/* eventfd: the queue is no longer empty, or stop */
	_Atomic bool stop;		/* the threads are to end, and nobody wants to hear why */
	_Atomic bool lost;		/* the link's failure was reported: only the first counts */

	pthread_mutex_t lock;		/* guards the queue, and that frames do not mix on the urgent connection */
	bool dead;			/* not started, or lost: request() says -ENOTCONN */
	uint8_t *queue;			/* ring */
	size_t queue_first, queue_len;

	_Atomic uint64_t bytes, pages_normal, pages_zero, pages_urgent, requests, queued_max;
};

static void wire_source_lost(struct wire_source *wire, enum wire_channel channel, struct err *err)
{
	if (atomic_load(&wire->stop) || atomic_exchange(&wire->lost, true))
		return;
	err_prefix(err, err->code, "%s connection", wire_channel_name(channel));
	wire->pair.lost(wire->pair.arg, err);
}

/* ---- requests ---- */

/* Sends from the ring what the connection takes. With the lock held. 0, or why the link is dead. */
static int queue_flush(struct wire_source *wire, struct err *err)
{
	while (wire->queue_len) {
		size_t piece = QUEUE_BYTES - wire->queue_first;
		struct iovec iov = { .iov_base = wire->queue + wire->queue_first };
		ssize_t sent;

		if (piece > wire->queue_len)
			piece = wire->queue_len;
		iov.iov_len = piece;
		sent = conn_send(wire->pair.urgent, &iov, 1, CONN_NOWAIT, err);
		if (sent < 0)
			return sent == -EAGAIN ? 0 : (int)sent;
		wire->queue_first = (wire->queue_first + (size_t)sent) % QUEUE_BYTES;
		wire->queue_len -= (size_t)sent;
	}
	return 0;
}

/* Called with the lock held. */
static int queue_add(struct wire_source *wire, const uint8_t *data, size_t len, struct err *err)
{
	size_t i;

	if (len > QUEUE_BYTES - wire->queue_len)
		return err_set(err, -ENOBUFS,
			       "the source does not take requests (%zu bytes of them wait)",
			       wire->queue_len);
	for (i = 0; i < len; i++)
		wire->queue[(wire->queue_first + wire->queue_len + i) % QUEUE_BYTES] = data[i];
	wire->queue_len += len;
	return 0;
}

/* Called with the lock held. */
static int request_frame(struct wire_source *wire, gfn_t first, uint32_t n, struct err *err)
{
	struct frame frame = { .type = FRAME_REQUEST, .count = n, .gfn = first };
	uint8_t head[FRAME_BYTES];
	bool was_empty = !wire->queue_len;
	int r;

	frame_encode(&frame, head);
	r = queue_add(wire, head, sizeof(head), err);
	if (r < 0)
		return r;
	r = queue_flush(wire, err);
	if (r < 0)
		return r;
	count_add(&wire->requests, 1);
	if (wire->queue_len > atomic_load_explicit(&wire->queued_max, memory_order_relaxed))
		atomic_store_explicit(&wire->queued_max, wire->queue_len, memory_order_relaxed);
	if (was_empty && wire->queue_len)
		eventfd_write(wire->wake, 1);
	return 0;
}

static int wire_source_request(struct page_source *source, gfn_t first, uint64_t n)
{
	struct wire_source *wire = (struct wire_source *)source;	/* the first member */
	struct err err;
	int r = 0;

	pthread_mutex_lock(&wire->lock);
	if (wire->dead)
		r = -ENOTCONN;
	while (!r && n) {
		uint32_t piece = n < FRAME_REQUEST_MAX ? (uint32_t)n : FRAME_REQUEST_MAX;

		r = request_frame(wire, first, piece, &err);
		first.v += piece;
		n -= piece;
		if (r < 0)
			wire->dead = true;
	}
	pthread_mutex_unlock(&wire->lock);
	if (r < 0 && r != -ENOTCONN) {
		wire_source_lost(wire, WIRE_URGENT, &err);
		r = -ENOTCONN;
	}
	return r;
}

static const struct page_source_ops wire_source_ops = {
	.name = "wire",
	.request = wire_source_request,
};

/* ---- receiving ---- */

static void count_frame(struct wire_source *wire, const struct frame *frame, bool urgent)
{
	count_add(&wire->bytes, FRAME_BYTES + frame->payload_bytes);
	count_add(frame->type == FRAME_PAGES ? &wire->pages_normal : &wire->pages_zero,
		  frame->type == FRAME_LOST ? 0 : frame->count);
	if (urgent)
		count_add(&wire->pages_urgent, frame->count);
}

static void *wire_bulk_main(void *arg)
{
	struct wire_source *wire = arg;
	struct receiver receiver;
	struct frame frame;
	struct err err = { 0 };

	pthread_setname_np(pthread_self(), "wire-bulk");
	thread_is_bulk();
	if (!receiver_init(&receiver, &wire->pair, WIRE_BULK, wire->mem, wire->source.sink, &err))
		while (!receiver_frame(&receiver, &frame, &err)) {
			count_frame(wire, &frame, false);
			thread_give_way();
		}
	wire_source_lost(wire, WIRE_BULK, &err);
	receiver_fini(&receiver);
	return NULL;
}

/*
 * Sends what waits, and says what to poll the connection for. It is asked with
 * the lock held, since request() sends, too.
 */
static int urgent_events(struct wire_source *wire, short *events, struct err *err)
{
	unsigned int wanted = CONN_RECEIVE;
	int r = 0;

	pthread_mutex_lock(&wire->lock);
	if (!wire->dead)
		r = queue_flush(wire, err);
	if (wire->queue_len && !wire->dead)
		wanted |= CONN_SEND;
	*events = conn_events(wire->pair.urgent, wanted);
	pthread_mutex_unlock(&wire->lock);
	return r;
}

/* Waits until a frame has begun to come, and sends queued requests meanwhile. */
static int urgent_wait(struct wire_source *wire, struct stream_reader *reader, struct err *err)
{
	struct pollfd fds[2] = {
		{ .fd = conn_fd(wire->pair.urgent) },
		{ .fd = wire->wake, .events = POLLIN },
	};
	eventfd_t unused;

	while (!stream_has_ahead(reader)) {
		int r = urgent_events(wire, &fds[0].events, err);

		if (r < 0)
			return r;
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			return err_errno(err, -errno, "poll");
		if (atomic_load(&wire->stop))
			return err_set(err, -EINTR, "stopped");
		if (fds[1].revents)
			eventfd_read(wire->wake, &unused);
		/* Not with a wait: what came may be nothing for us, and requests have to go on. */
		r = fds[0].revents ? stream_read_ahead(reader, err) : 0;
		if (r < 0 && r != -EAGAIN)
			return r;
	}
	return 0;
}

static void *wire_urgent_main(void *arg)
{
	struct wire_source *wire = arg;
	struct receiver receiver;
	struct frame frame;
	struct err err = { 0 };

	pthread_setname_np(pthread_self(), "wire-urgent");
	thread_is_urgent();
	if (!receiver_init(&receiver, &wire->pair, WIRE_URGENT, wire->mem, wire->source.sink, &err))
		while (!urgent_wait(wire, &receiver.reader, &err) &&
		       !receiver_frame(&receiver, &frame, &err))
			count_frame(wire, &frame, true);
	wire_source_lost(wire, WIRE_URGENT, &err);
	receiver_fini(&receiver);
	return NULL;
}

/* ---- life ---- */

int wire_source_new(struct wire_source **out, struct memory *mem, struct err *err)
{
	struct wire_source *wire = calloc(1, sizeof(*wire));

	if (!wire)
		return err_set(err, -ENOMEM, "no memory for the migration");
	wire->queue = malloc(QUEUE_BYTES);
	wire->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!wire->queue || wire->wake < 0) {
		if (wire->wake >= 0)
			close(wire->wake);
		free(wire->queue);
		free(wire);
		return err_set(err, -ENOMEM, "no memory or file descriptor for the migration");
	}
	wire->source.ops = &wire_source_ops;
	wire->source.sink = memory_sink(mem);
	wire->mem = mem;
	wire->dead = true;
	pthread_mutex_init(&wire->lock, NULL);
	*out = wire;
	return 0;
}

int wire_source_start(struct wire_source *wire, const struct stream_pair *pair, struct err *err)
{
	int r;

	wire->pair = *pair;
	atomic_store(&wire->stop, false);
	atomic_store(&wire->lost, false);
	wire->queue_first = wire->queue_len = 0;
	r = thread_start(&wire->urgent_thread, wire_urgent_main, wire);
	if (r < 0)
		return err_errno(err, r, "starting the urgent thread");
	r = thread_start(&wire->bulk_thread, wire_bulk_main, wire);
	if (r < 0) {
		atomic_store(&wire->stop, true);
		conn_shutdown(pair->urgent);
		pthread_join(wire->urgent_thread, NULL);
		return err_errno(err, r, "starting the bulk thread");
	}
	wire->started = true;
	pthread_mutex_lock(&wire->lock);
	wire->dead = false;
	pthread_mutex_unlock(&wire->lock);
	return 0;
}

void wire_source_stop(struct wire_source *wire)
{
	if (!wire->started)
		return;
	atomic_store(&wire->stop, true);
	pthread_mutex_lock(&wire->lock);
	wire->dead = true;
	pthread_mutex_unlock(&wire->lock);
	conn_shutdown(wire->pair.urgent);
	conn_shutdown(wire->pair.bulk);
	eventfd_write(wire->wake, 1);
	pthread_join(wire->urgent_thread, NULL);
	pthread_join(wire->bulk_thread, NULL);
	wire->started = false;
}

void wire_source_free(struct wire_source *wire)
{
	if (!wire)
		return;
	wire_source_stop(wire);
	pthread_mutex_destroy(&wire->lock);
	close(wire->wake);
	free(wire->queue);
	free(wire);
}

struct page_source *wire_source_page_source(struct wire_source *wire)
{
	return &wire->source;
}

void wire_source_stats(const struct wire_source *wire, struct wire_source_stats *stats)
{
	*stats = (struct wire_source_stats){
		.bytes = count_get(&wire->bytes),
		.pages_normal = count_get(&wire->pages_normal),
		.pages_zero = count_get(&wire->pages_zero),
		.pages_urgent = count_get(&wire->pages_urgent),
		.requests = count_get(&wire->requests),
		.queued_max = count_get(&wire->queued_max),
	};
}
