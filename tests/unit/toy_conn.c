// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * All work is done with the lock held and without waiting. Who may wait does so
 * without the lock, by polling the inner connection, and tries again.
 */
#include "toy_conn.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define HELLO 0xa7u
#define HEAD_BYTES 2u
#define RECORD_BYTES 3000u /* of the user's, at most */
#define RAW_BYTES 65536u

struct toy {
	struct conn conn;
	struct toy_wrapper *toys;
	struct conn *inner;
	int epoll; /* with the inner one's descriptor */
	_Atomic bool sending, receiving;
	pthread_mutex_t lock; /* guards all below */
	bool hello_sent, hello_heard;
	uint8_t plain_out[RECORD_BYTES]; /* a record that is being sent */
	uint8_t out[HEAD_BYTES + RECORD_BYTES];
	size_t out_len, out_done; /* 0: no record */
	uint64_t out_at; /* in the stream, where it begins */
	uint8_t raw[RAW_BYTES]; /* received, whole records and the start of one */
	size_t raw_pos, raw_len;
	size_t head_left; /* of the record at raw_pos, not given out yet; 0: its head comes next */
	uint64_t in_at;
	unsigned int turn;
};

static struct toy *toy_of(const struct conn *conn)
{
	return (struct toy *)(uintptr_t)conn; /* the first member */
}

static uint8_t scramble(uint64_t at)
{
	return (uint8_t)(0x5bu + at * 7 + at / 251);
}

/* ---- hello ---- */

/* 0, -EAGAIN or why it is of no use. */
static int say_hello(struct toy *toy, struct err *err)
{
	uint8_t hello = HELLO;
	struct iovec iov = { &hello, 1 };
	ssize_t n;

	if (!toy->hello_sent) {
		n = conn_send(toy->inner, &iov, 1, CONN_NOWAIT, err);
		if (n < 0)
			return (int)n;
		toy->hello_sent = true;
	}
	if (toy->hello_heard)
		return 0;
	/* No more than that: only a receive may make something pending. */
	n = conn_receive(toy->inner, &hello, 1, CONN_NOWAIT, err);
	if (n == -EAGAIN)
		atomic_fetch_add(&toy->toys->hellos_awaited, 1);
	if (n < 0)
		return (int)n;
	if (!n || hello != HELLO)
		return err_set(err, -EPROTO, "no toy is at the other end");
	toy->hello_heard = true;
	return 0;
}

/* What the inner connection has to be ready for. With the lock held. */
static unsigned int inner_wants(const struct toy *toy, unsigned int wanted)
{
	if (!(wanted & (CONN_SEND | CONN_RECEIVE)))
		return wanted;
	if (!toy->hello_sent)
		return CONN_SEND;
	return toy->hello_heard ? wanted : CONN_RECEIVE;
}

/* After -EAGAIN. */
static void toy_wait(struct toy *toy, unsigned int wanted)
{
	struct pollfd fd = { .fd = conn_fd(toy->inner) };
	bool begun;

	pthread_mutex_lock(&toy->lock);
	begun = toy->hello_heard;
	fd.events = conn_events(toy->inner, inner_wants(toy, wanted));
	pthread_mutex_unlock(&toy->lock);
	/* Another thread may hear the hello that this one waits for. */
	poll(&fd, 1, begun ? -1 : 10);
}

/* ---- sending ---- */

static void record_make(struct toy *toy, const struct iovec *iov, int n)
{
	size_t len = 0, part, i;

	for (; n && len < RECORD_BYTES; iov++, n--) {
		part = iov->iov_len < RECORD_BYTES - len ? iov->iov_len : RECORD_BYTES - len;
		memcpy(toy->plain_out + len, iov->iov_base, part);
		len += part;
	}
	toy->out[0] = (uint8_t)len;
	toy->out[1] = (uint8_t)(len >> 8);
	for (i = 0; i < len; i++)
		toy->out[HEAD_BYTES + i] = toy->plain_out[i] ^ scramble(toy->out_at + i);
	toy->out_len = HEAD_BYTES + len;
	toy->out_done = 0;
}

/* A record that was sent in part has to be offered again. */
static void record_check(const struct toy *toy, const struct iovec *iov, int n)
{
	size_t len = toy->out_len - HEAD_BYTES, done = 0, part;

	for (; n && done < len; iov++, n--) {
		part = iov->iov_len < len - done ? iov->iov_len : len - done;
		if (memcmp(toy->plain_out + done, iov->iov_base, part))
			abort();
		done += part;
	}
	if (done < len)
		abort();
}

static ssize_t send_now(struct toy *toy, const struct iovec *iov, int n, struct err *err)
{
	int r = say_hello(toy, err);
	size_t len;

	if (r < 0)
		return r;
	if (toy->out_len)
		record_check(toy, iov, n);
	else
		record_make(toy, iov, n);
	while (toy->out_done < toy->out_len) {
		struct iovec rest = { toy->out + toy->out_done, toy->out_len - toy->out_done };
		ssize_t sent = conn_send(toy->inner, &rest, 1, CONN_NOWAIT, err);

		if (sent == -EAGAIN)
			atomic_fetch_add(&toy->toys->halves, 1);
		if (sent < 0)
			return sent;
		toy->out_done += (size_t)sent;
	}
	len = toy->out_len - HEAD_BYTES;
	toy->out_at += len;
	toy->out_len = 0;
	return (ssize_t)len;
}

static ssize_t toy_send(struct conn *conn, const struct iovec *iov, int n, unsigned int flags,
			struct err *err)
{
	struct toy *toy = toy_of(conn);
	ssize_t r;

	if (atomic_exchange(&toy->sending, true))
		abort();
	for (;;) {
		pthread_mutex_lock(&toy->lock);
		r = send_now(toy, iov, n, err);
		pthread_mutex_unlock(&toy->lock);
		if (r != -EAGAIN || flags & CONN_NOWAIT)
			break;
		toy_wait(toy, CONN_SEND);
	}
	atomic_store(&toy->sending, false);
	return r;
}

/* ---- receiving ---- */

/* What is left of the record at raw_pos, or all of the next one; 0: that is not whole yet. */
static size_t record_here(struct toy *toy)
{
	size_t len;

	if (toy->head_left)
		return toy->head_left;
	if (toy->raw_len - toy->raw_pos < HEAD_BYTES)
		return 0;
	len = toy->raw[toy->raw_pos] | (size_t)toy->raw[toy->raw_pos + 1] << 8;
	return toy->raw_len - toy->raw_pos - HEAD_BYTES < len ? 0 : len;
}

/* Reads what has come until a record is whole. 1: it is; 0: the end; or a negative errno. */
static int raw_fill(struct toy *toy, struct err *err)
{
	ssize_t got;

	while (!record_here(toy)) {
		memmove(toy->raw, toy->raw + toy->raw_pos, toy->raw_len - toy->raw_pos);
		toy->raw_len -= toy->raw_pos;
		toy->raw_pos = 0;
		got = conn_receive(toy->inner, toy->raw + toy->raw_len, RAW_BYTES - toy->raw_len,
				   CONN_NOWAIT, err);
		if (!got && toy->raw_len)
			return err_set(err, -EPROTO, "the end inside a record");
		if (got <= 0)
			return (int)got;
		toy->raw_len += (size_t)got;
	}
	return 1;
}

static ssize_t receive_now(struct toy *toy, uint8_t *buf, size_t len, struct err *err)
{
	int r = say_hello(toy, err);
	size_t here, most, i;

	if (r < 0)
		return r;
	r = raw_fill(toy, err);
	if (r <= 0)
		return r;
	here = record_here(toy);
	if (!toy->head_left)
		toy->raw_pos += HEAD_BYTES;
	most = 1 + toy->turn++ * 379 % 2503;
	if (most > here)
		most = here;
	if (most > len)
		most = len;
	for (i = 0; i < most; i++)
		buf[i] = toy->raw[toy->raw_pos + i] ^ scramble(toy->in_at + i);
	toy->raw_pos += most;
	toy->in_at += most;
	toy->head_left = here - most;
	if (record_here(toy))
		atomic_fetch_add(&toy->toys->parts, 1);
	return (ssize_t)most;
}

static ssize_t toy_receive(struct conn *conn, void *buf, size_t len, unsigned int flags,
			   struct err *err)
{
	struct toy *toy = toy_of(conn);
	ssize_t r;

	if (!len || atomic_exchange(&toy->receiving, true))
		abort();
	for (;;) {
		pthread_mutex_lock(&toy->lock);
		r = receive_now(toy, buf, len, err);
		pthread_mutex_unlock(&toy->lock);
		if (r != -EAGAIN || flags & CONN_NOWAIT)
			break;
		toy_wait(toy, CONN_RECEIVE);
	}
	atomic_store(&toy->receiving, false);
	return r;
}

static size_t toy_pending(const struct conn *conn)
{
	struct toy *toy = toy_of(conn);
	size_t here;

	pthread_mutex_lock(&toy->lock);
	here = record_here(toy);
	pthread_mutex_unlock(&toy->lock);
	return here;
}

/* ---- the rest ---- */

static int toy_fd(const struct conn *conn)
{
	return toy_of(conn)->epoll;
}

static short toy_events(struct conn *conn, unsigned int wanted)
{
	struct toy *toy = toy_of(conn);
	struct epoll_event event = { 0 };

	pthread_mutex_lock(&toy->lock);
	/* poll's bits and epoll's are the same. */
	event.events = (uint32_t)conn_events(toy->inner, inner_wants(toy, wanted));
	if (epoll_ctl(toy->epoll, EPOLL_CTL_MOD, conn_fd(toy->inner), &event) < 0)
		abort();
	pthread_mutex_unlock(&toy->lock);
	return wanted ? POLLIN : 0;
}

static uint64_t toy_unsent(const struct conn *conn)
{
	struct toy *toy = toy_of(conn);
	uint64_t held;

	pthread_mutex_lock(&toy->lock);
	held = toy->out_len - (toy->out_len ? toy->out_done : 0);
	pthread_mutex_unlock(&toy->lock);
	return held + conn_unsent(toy->inner);
}

static void toy_finish(struct conn *conn)
{
	conn_finish(toy_of(conn)->inner);
}

static void toy_shutdown(struct conn *conn)
{
	conn_shutdown(toy_of(conn)->inner);
}

static void toy_free(struct conn *conn)
{
	struct toy *toy = toy_of(conn);

	if (toy->sending || toy->receiving)
		abort();
	close(toy->epoll);
	conn_free(toy->inner);
	atomic_fetch_add(&toy->toys->freed, 1);
	pthread_mutex_destroy(&toy->lock);
	free(toy);
}

static const struct conn_ops toy_ops = {
	.name = "toy",
	.send = toy_send,
	.receive = toy_receive,
	.pending = toy_pending,
	.fd = toy_fd,
	.events = toy_events,
	.unsent = toy_unsent,
	.finish = toy_finish,
	.shutdown = toy_shutdown,
	.free = toy_free,
};

static int toy_wrap(const struct conn_wrapper *wrapper, struct conn **out, struct conn *inner,
		    bool accepts, struct err *err)
{
	struct toy *toy = calloc(1, sizeof(*toy));
	struct epoll_event event = { 0 };

	(void)accepts;
	(void)err;
	if (!toy)
		abort();
	toy->conn.ops = &toy_ops;
	toy->toys = (struct toy_wrapper *)(uintptr_t)wrapper; /* the first member */
	toy->inner = inner;
	toy->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (toy->epoll < 0 || epoll_ctl(toy->epoll, EPOLL_CTL_ADD, conn_fd(inner), &event) < 0)
		abort();
	pthread_mutex_init(&toy->lock, NULL);
	atomic_fetch_add(&toy->toys->made, 1);
	*out = &toy->conn;
	return 0;
}

void toy_wrapper_init(struct toy_wrapper *toys)
{
	*toys = (struct toy_wrapper){ .wrapper.wrap = toy_wrap };
}
