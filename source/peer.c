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
 * Requests are not repeated and need not be: the connection either delivers them or breaks, and then memory_detach
 * makes their pages MISSING, so that the next link asks for them anew.
 *
 * Receiving is the receiver's: a thread for each connection.
 */
#include "source/peer.h"

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

struct peer {
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

static void peer_lost(struct peer *peer, enum wire_channel channel, struct err *err)
{
	if (atomic_load(&peer->stop) || atomic_exchange(&peer->lost, true))
		return;
	err_prefix(err, err->code, "%s connection", wire_channel_name(channel));
	peer->pair.lost(peer->pair.arg, err);
}

/* ---- requests ---- */

/* Sends from the ring what the connection takes. With the lock held. 0, or why the link is dead. */
static int queue_flush(struct peer *peer, struct err *err)
{
	while (peer->queue_len) {
		size_t piece = QUEUE_BYTES - peer->queue_first;
		struct iovec iov = { .iov_base = peer->queue + peer->queue_first };
		ssize_t sent;

		if (piece > peer->queue_len)
			piece = peer->queue_len;
		iov.iov_len = piece;
		sent = conn_send(peer->pair.urgent, &iov, 1, CONN_NOWAIT, err);
		if (sent < 0)
			return sent == -EAGAIN ? 0 : (int)sent;
		peer->queue_first = (peer->queue_first + (size_t)sent) % QUEUE_BYTES;
		peer->queue_len -= (size_t)sent;
	}
	return 0;
}

/* Called with the lock held. */
static int queue_add(struct peer *peer, const uint8_t *data, size_t len, struct err *err)
{
	size_t i;

	if (len > QUEUE_BYTES - peer->queue_len)
		return err_set(err, -ENOBUFS, "the source does not take requests (%zu bytes of them wait)",
			       peer->queue_len);
	for (i = 0; i < len; i++)
		peer->queue[(peer->queue_first + peer->queue_len + i) % QUEUE_BYTES] = data[i];
	peer->queue_len += len;
	return 0;
}

/* Called with the lock held. */
static int request_frame(struct peer *peer, gfn_t first, uint32_t n, struct err *err)
{
	struct frame frame = { .type = FRAME_REQUEST, .count = n, .gfn = first };
	uint8_t head[FRAME_BYTES];
	bool was_empty = !peer->queue_len;
	int r;

	frame_encode(&frame, head);
	r = queue_add(peer, head, sizeof(head), err);
	if (r < 0)
		return r;
	r = queue_flush(peer, err);
	if (r < 0)
		return r;
	count_add(&peer->requests, 1);
	if (peer->queue_len > atomic_load_explicit(&peer->queued_max, memory_order_relaxed))
		atomic_store_explicit(&peer->queued_max, peer->queue_len, memory_order_relaxed);
	if (was_empty && peer->queue_len)
		eventfd_write(peer->wake, 1);
	return 0;
}

static int peer_request(struct page_source *source, gfn_t first, uint64_t n)
{
	struct peer *peer = (struct peer *)source;	/* the first member */
	struct err err;
	int r = 0;

	pthread_mutex_lock(&peer->lock);
	if (peer->dead)
		r = -ENOTCONN;
	while (!r && n) {
		uint32_t piece = n < FRAME_REQUEST_MAX ? (uint32_t)n : FRAME_REQUEST_MAX;

		r = request_frame(peer, first, piece, &err);
		first.v += piece;
		n -= piece;
		if (r < 0)
			peer->dead = true;
	}
	pthread_mutex_unlock(&peer->lock);
	if (r < 0 && r != -ENOTCONN) {
		peer_lost(peer, WIRE_URGENT, &err);
		r = -ENOTCONN;
	}
	return r;
}

static const struct page_source_ops peer_ops = {
	.name = "peer",
	.request = peer_request,
};

/* ---- receiving ---- */

static void count_frame(struct peer *peer, const struct frame *frame, bool urgent)
{
	count_add(&peer->bytes, FRAME_BYTES + frame->payload_bytes);
	count_add(frame->type == FRAME_PAGES ? &peer->pages_normal : &peer->pages_zero,
		  frame->type == FRAME_LOST ? 0 : frame->count);
	if (urgent)
		count_add(&peer->pages_urgent, frame->count);
}

static void *bulk_main(void *arg)
{
	struct peer *peer = arg;
	struct receiver receiver;
	struct frame frame;
	struct err err = { 0 };

	pthread_setname_np(pthread_self(), "peer-bulk");
	thread_is_bulk();
	if (!receiver_init(&receiver, &peer->pair, WIRE_BULK, peer->mem, peer->source.sink, &err))
		while (!receiver_frame(&receiver, &frame, &err)) {
			count_frame(peer, &frame, false);
			thread_give_way();
		}
	peer_lost(peer, WIRE_BULK, &err);
	receiver_fini(&receiver);
	return NULL;
}

/*
 * Sends what waits, and says what to poll the connection for. It is asked with
 * the lock held, since request() sends, too.
 */
static int urgent_events(struct peer *peer, short *events, struct err *err)
{
	unsigned int wanted = CONN_RECEIVE;
	int r = 0;

	pthread_mutex_lock(&peer->lock);
	if (!peer->dead)
		r = queue_flush(peer, err);
	if (peer->queue_len && !peer->dead)
		wanted |= CONN_SEND;
	*events = conn_events(peer->pair.urgent, wanted);
	pthread_mutex_unlock(&peer->lock);
	return r;
}

/* Waits until a frame has begun to come, and sends queued requests meanwhile. */
static int urgent_wait(struct peer *peer, struct stream_reader *reader, struct err *err)
{
	struct pollfd fds[2] = {
		{ .fd = conn_fd(peer->pair.urgent) },
		{ .fd = peer->wake, .events = POLLIN },
	};
	eventfd_t unused;

	while (!stream_has_ahead(reader)) {
		int r = urgent_events(peer, &fds[0].events, err);

		if (r < 0)
			return r;
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			return err_errno(err, -errno, "poll");
		if (atomic_load(&peer->stop))
			return err_set(err, -EINTR, "stopped");
		if (fds[1].revents)
			eventfd_read(peer->wake, &unused);
		/* Not with a wait: what came may be nothing for us, and requests have to go on. */
		r = fds[0].revents ? stream_read_ahead(reader, err) : 0;
		if (r < 0 && r != -EAGAIN)
			return r;
	}
	return 0;
}

static void *urgent_main(void *arg)
{
	struct peer *peer = arg;
	struct receiver receiver;
	struct frame frame;
	struct err err = { 0 };

	pthread_setname_np(pthread_self(), "peer-urgent");
	thread_is_urgent();
	if (!receiver_init(&receiver, &peer->pair, WIRE_URGENT, peer->mem, peer->source.sink, &err))
		while (!urgent_wait(peer, &receiver.reader, &err) &&
		       !receiver_frame(&receiver, &frame, &err))
			count_frame(peer, &frame, true);
	peer_lost(peer, WIRE_URGENT, &err);
	receiver_fini(&receiver);
	return NULL;
}

/* ---- life ---- */

int peer_new(struct peer **out, struct memory *mem, struct err *err)
{
	struct peer *peer = calloc(1, sizeof(*peer));

	if (!peer)
		return err_set(err, -ENOMEM, "no memory for the migration");
	peer->queue = malloc(QUEUE_BYTES);
	peer->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!peer->queue || peer->wake < 0) {
		if (peer->wake >= 0)
			close(peer->wake);
		free(peer->queue);
		free(peer);
		return err_set(err, -ENOMEM, "no memory or file descriptor for the migration");
	}
	peer->source.ops = &peer_ops;
	peer->source.sink = memory_sink(mem);
	peer->mem = mem;
	peer->dead = true;
	pthread_mutex_init(&peer->lock, NULL);
	*out = peer;
	return 0;
}

int peer_start(struct peer *peer, const struct stream_pair *pair, struct err *err)
{
	int r;

	peer->pair = *pair;
	atomic_store(&peer->stop, false);
	atomic_store(&peer->lost, false);
	peer->queue_first = peer->queue_len = 0;
	r = thread_start(&peer->urgent_thread, urgent_main, peer);
	if (r < 0)
		return err_errno(err, r, "starting the urgent thread");
	r = thread_start(&peer->bulk_thread, bulk_main, peer);
	if (r < 0) {
		atomic_store(&peer->stop, true);
		conn_shutdown(pair->urgent);
		pthread_join(peer->urgent_thread, NULL);
		return err_errno(err, r, "starting the bulk thread");
	}
	peer->started = true;
	pthread_mutex_lock(&peer->lock);
	peer->dead = false;
	pthread_mutex_unlock(&peer->lock);
	return 0;
}

void peer_stop(struct peer *peer)
{
	if (!peer->started)
		return;
	atomic_store(&peer->stop, true);
	pthread_mutex_lock(&peer->lock);
	peer->dead = true;
	pthread_mutex_unlock(&peer->lock);
	conn_shutdown(peer->pair.urgent);
	conn_shutdown(peer->pair.bulk);
	eventfd_write(peer->wake, 1);
	pthread_join(peer->urgent_thread, NULL);
	pthread_join(peer->bulk_thread, NULL);
	peer->started = false;
}

void peer_free(struct peer *peer)
{
	if (!peer)
		return;
	peer_stop(peer);
	pthread_mutex_destroy(&peer->lock);
	close(peer->wake);
	free(peer->queue);
	free(peer);
}

struct page_source *peer_source(struct peer *peer)
{
	return &peer->source;
}

void peer_stats(const struct peer *peer, struct peer_stats *stats)
{
	*stats = (struct peer_stats){
		.bytes = count_get(&peer->bytes),
		.pages_normal = count_get(&peer->pages_normal),
		.pages_zero = count_get(&peer->pages_zero),
		.pages_urgent = count_get(&peer->pages_urgent),
		.requests = count_get(&peer->requests),
		.queued_max = count_get(&peer->queued_max),
	};
}
