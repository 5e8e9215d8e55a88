// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Requests. request() is called by whoever noticed the miss, mostly the fault thread, and must not wait: the frame is
 * sent with MSG_DONTWAIT under a lock that is never held across a wait. What the socket does not take goes into a ring
 * of fixed size, in order, and the urgent thread sends it on when the socket is writable again (an eventfd makes it
 * look). If the ring is full the link is not worth its name any more and is given up.
 *
 * Requests are not repeated and need not be: the connection either delivers them or breaks, and then memory_detach
 * makes their pages MISSING, so that the next link asks for them anew.
 *
 * Receiving. Each thread reads a header, checks it, reads what it promises, checks that, and only then lets memory see it.
 * A fill may find the page there already: the urgent and the bulk connection race, which is harmless.
 *
 * The bulk's pages are received into a staging area, huge page by huge page, and placed together when nothing of that is missing any
 * more: where the kernel can, they are moved into the guest and not copied (memory/stage.h). With a wrapper between peer
 * and memory there is no such short cut: every frame's pages go through the sink.
 */
#include "source/peer.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/page.h"
#include "base/thread.h"
#include "memory/stage.h"

#define QUEUE_BYTES (256u << 10)
#define HOLD_BACK_MS 10		/* how long pages wait for the others of their huge page */

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

static void count(_Atomic uint64_t *counter, uint64_t n)
{
	/* Statistics order nothing. */
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static void peer_lost(struct peer *peer, enum wire_channel channel, struct err *err)
{
	if (atomic_load(&peer->stop) || atomic_exchange(&peer->lost, true))
		return;
	err_prefix(err, "%s connection", wire_channel_name(channel));
	peer->pair.lost(peer->pair.arg, err);
}

/* ---- requests ---- */

/* Sends from the ring what the socket takes. Called with the lock held. 0, or why the link is dead. */
static int queue_flush(struct peer *peer, struct err *err)
{
	while (peer->queue_len) {
		size_t piece = QUEUE_BYTES - peer->queue_first;
		ssize_t sent;

		if (piece > peer->queue_len)
			piece = peer->queue_len;
		sent = send(peer->pair.urgent, peer->queue + peer->queue_first, piece,
			    MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent < 0) {
			if (errno == EINTR)
				continue;
			if (errno == EAGAIN || errno == EWOULDBLOCK)
				return 0;
			return err_errno(err, -errno, "sending a request");
		}
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
	count(&peer->requests, 1);
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

/* Is memory itself our sink? Then pages can be staged, and we attach and detach ourselves. */
static bool peer_is_alone(const struct peer *peer)
{
	return peer->source.sink == memory_sink(peer->mem);
}

/* Where one thread puts what it receives. */
struct inbox {
	struct stream_reader reader;
	uint8_t *sums;
	uint8_t *pages;
	struct memory_stage *stage;	/* the bulk thread's, for pages that were verified; NULL: none */
};

static int inbox_init(struct inbox *inbox, struct peer *peer, int fd, bool stage, struct err *err)
{
	*inbox = (struct inbox){ .reader = { .fd = fd, .heard_ns = peer->pair.heard_ns } };
	if (stage && memory_stage_new(&inbox->stage, peer->mem, err) < 0)
		return -ENOMEM;
	inbox->sums = malloc(FRAME_SUMS_BYTES(FRAME_PAGES_MAX));
	inbox->pages = page_buffer_new(FRAME_PAGES_MAX * PAGE_BYTES);
	if (inbox->sums && inbox->pages)
		return 0;
	return err_set(err, -ENOMEM, "no memory to receive pages");
}

static void inbox_fini(struct inbox *inbox)
{
	memory_stage_free(inbox->stage);
	free(inbox->sums);
	page_buffer_free(inbox->pages, FRAME_PAGES_MAX * PAGE_BYTES);
}

/* Places what is staged. */
static int inbox_flush(struct inbox *inbox, struct err *err)
{
	int64_t r = inbox->stage ? memory_stage_place(inbox->stage) : 0;

	return r < 0 ? err_errno(err, (int)r, "placing pages of the bulk") : 0;
}

/* Can the frame's pages be staged? */
static bool frame_is_stageable(const struct peer *peer, const struct frame *frame)
{
	return (frame->type == FRAME_PAGES || frame->type == FRAME_ZERO) &&
	       frame->gfn.v % HUGE_PAGES + frame->count <= HUGE_PAGES &&
	       memory_is_ram(peer->mem, gfn_to_gpa(frame->gfn), frame->count * PAGE_BYTES);
}

/* A frame of pages or zeros whose header was read: to the stage. */
static int receive_staged(struct inbox *inbox, const struct frame *frame, struct err *err)
{
	bool zero = frame->type == FRAME_ZERO;
	uint8_t *pages = memory_stage_at(inbox->stage, frame->gfn);
	int r = 0;

	if (!memory_stage_takes(inbox->stage, frame->gfn, frame->count))
		r = inbox_flush(inbox, err);
	if (!r && !zero)
		r = stream_read(&inbox->reader, inbox->sums, FRAME_SUMS_BYTES(frame->count), err);
	if (!r && !zero)
		r = stream_read(&inbox->reader, pages, frame->count * PAGE_BYTES, err);
	if (!r && !zero)
		r = frame_check_pages(frame, inbox->sums, pages, err);
	if (!r)
		r = memory_stage_add(inbox->stage, frame->gfn, frame->count, zero);
	if (r < 0)
		return r;
	return memory_stage_is_due(inbox->stage) ? inbox_flush(inbox, err) : 0;
}

/* Any frame whose header was read: to the sink. */
static int receive_placed(struct peer *peer, struct inbox *inbox, const struct frame *frame, struct err *err)
{
	int r = 0;

	if (frame->type == FRAME_PAGES)
		r = stream_read(&inbox->reader, inbox->sums, FRAME_SUMS_BYTES(frame->count), err);
	if (!r && frame->type == FRAME_PAGES)
		r = stream_read(&inbox->reader, inbox->pages, frame->count * PAGE_BYTES, err);
	return r < 0 ? r : stream_place(peer->mem, peer->source.sink, frame, inbox->sums, inbox->pages, err);
}

/* One frame from start to end. */
static int receive_frame(struct peer *peer, enum wire_channel channel, struct inbox *inbox, struct err *err)
{
	uint8_t head[FRAME_BYTES];
	struct frame frame;
	int r;

	r = stream_read(&inbox->reader, head, sizeof(head), err);
	if (r < 0)
		return r;
	r = frame_decode(&frame, head, err);
	if (r < 0)
		return r;
	if (frame.type == FRAME_MESSAGE)
		r = err_set(err, -EBADMSG, "a message where only pages belong");
	else if (inbox->stage && frame_is_stageable(peer, &frame))
		r = receive_staged(inbox, &frame, err);
	else
		r = receive_placed(peer, inbox, &frame, err);
	if (r < 0)
		return r;
	count(&peer->bytes, sizeof(head) + frame.payload_bytes);
	count(frame.type == FRAME_PAGES ? &peer->pages_normal : &peer->pages_zero,
	      frame.type == FRAME_LOST ? 0 : frame.count);
	if (channel == WIRE_URGENT)
		count(&peer->pages_urgent, frame.count);
	return 0;
}

/*
 * Before a wait for more: pages are held back for a moment, until their huge page is whole, and no longer. Whoever misses one of them
 * meanwhile has asked for it.
 */
static int bulk_wait(struct inbox *inbox, struct err *err)
{
	struct pollfd fd = { .fd = inbox->reader.fd, .events = POLLIN };

	if (!inbox->stage || memory_stage_is_empty(inbox->stage) || stream_has_ahead(&inbox->reader) ||
	    poll(&fd, 1, HOLD_BACK_MS) > 0)
		return 0;
	/* Nothing came, or a signal did. */
	return inbox_flush(inbox, err);
}

static void *bulk_main(void *arg)
{
	struct peer *peer = arg;
	struct inbox inbox;
	struct err err = { 0 };

	pthread_setname_np(pthread_self(), "peer-bulk");
	thread_is_bulk();
	if (!inbox_init(&inbox, peer, peer->pair.bulk, peer_is_alone(peer), &err))
		while (!bulk_wait(&inbox, &err) && !receive_frame(peer, WIRE_BULK, &inbox, &err))
			thread_give_way();
	/* Whole and verified: no reason to ask for it again. */
	inbox_flush(&inbox, NULL);
	peer_lost(peer, WIRE_BULK, &err);
	inbox_fini(&inbox);
	return NULL;
}

/* Waits until a frame has come, and sends queued requests meanwhile. */
static int urgent_wait(struct peer *peer, const struct inbox *inbox, struct err *err)
{
	struct pollfd fds[2] = {
		{ .fd = peer->pair.urgent, .events = POLLIN },
		{ .fd = peer->wake, .events = POLLIN },
	};
	eventfd_t unused;

	while (!stream_has_ahead(&inbox->reader)) {
		int r = 0;

		pthread_mutex_lock(&peer->lock);
		if (!peer->dead)
			r = queue_flush(peer, err);
		fds[0].events = (short)(POLLIN | (peer->queue_len && !peer->dead ? POLLOUT : 0));
		pthread_mutex_unlock(&peer->lock);
		if (r < 0)
			return r;
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			return err_errno(err, -errno, "poll");
		if (atomic_load(&peer->stop))
			return err_set(err, -EINTR, "stopped");
		if (fds[1].revents)
			eventfd_read(peer->wake, &unused);
		if (fds[0].revents & ~POLLOUT)
			break;
	}
	return 0;
}

static void *urgent_main(void *arg)
{
	struct peer *peer = arg;
	struct inbox inbox;
	struct err err = { 0 };

	pthread_setname_np(pthread_self(), "peer-urgent");
	thread_is_urgent();
	if (!inbox_init(&inbox, peer, peer->pair.urgent, false, &err))
		while (!urgent_wait(peer, &inbox, &err) && !receive_frame(peer, WIRE_URGENT, &inbox, &err))
			;
	peer_lost(peer, WIRE_URGENT, &err);
	inbox_fini(&inbox);
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
		shutdown(pair->urgent, SHUT_RDWR);
		pthread_join(peer->urgent_thread, NULL);
		return err_errno(err, r, "starting the bulk thread");
	}
	peer->started = true;
	pthread_mutex_lock(&peer->lock);
	peer->dead = false;
	pthread_mutex_unlock(&peer->lock);
	if (peer_is_alone(peer))
		memory_attach(peer->mem, &peer->source);
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
	if (peer_is_alone(peer))
		memory_detach(peer->mem);
	shutdown(peer->pair.urgent, SHUT_RDWR);
	shutdown(peer->pair.bulk, SHUT_RDWR);
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
		.bytes = atomic_load_explicit(&peer->bytes, memory_order_relaxed),
		.pages_normal = atomic_load_explicit(&peer->pages_normal, memory_order_relaxed),
		.pages_zero = atomic_load_explicit(&peer->pages_zero, memory_order_relaxed),
		.pages_urgent = atomic_load_explicit(&peer->pages_urgent, memory_order_relaxed),
		.requests = atomic_load_explicit(&peer->requests, memory_order_relaxed),
		.queued_max = atomic_load_explicit(&peer->queued_max, memory_order_relaxed),
	};
}
