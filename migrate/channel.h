/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The control connection: frames in and out of one connection on the loop. Main
 * thread only.
 *
 * Nothing waits: what the connection does not take is kept, in order. A failure
 * is reported by a callback from the loop, never from inside a send.
 */
#ifndef POSTERN_MIGRATE_CHANNEL_H
#define POSTERN_MIGRATE_CHANNEL_H

#include "base/conn.h"
#include "base/loop.h"
#include "wire/frame.h"

struct channel;

struct channel_ops {
	/*
	 * A frame whose header is right; its payload (payload_bytes of it) is
	 * not yet checked against its checksum.
	 */
	void (*frame)(void *arg, const struct frame *frame, const uint8_t *payload);
	/* The connection failed, or what came is no frame; once. Nothing is delivered after it. */
	void (*lost)(void *arg, const struct err *err);
	/* The connection has taken all that waited for it; from the loop. May be NULL. */
	void (*drained)(void *arg);
};

/* conn is borrowed. The callbacks may close the channel. */
int channel_new(struct channel **out, struct loop *loop, struct conn *conn,
		const struct channel_ops *ops, void *arg, struct err *err);
/* No callback comes after this; the caller may free conn at once. */
void channel_close(struct channel *channel);

/* Queue, and send what the connection takes. An error is reported by lost(), later. */
void channel_send_message(struct channel *channel, const void *data, size_t len);
void channel_send_pages(struct channel *channel, gfn_t first, uint32_t n, const uint8_t *pages);
void channel_send_zero(struct channel *channel, gfn_t first, uint32_t n);
/* Bytes that wait for the connection. */
size_t channel_queued(const struct channel *channel);
/* Bytes that the connection has taken, of all that were sent. */
uint64_t channel_taken(const struct channel *channel);

/*
 * Reads and delivers what has come already, at most a turn's worth. The channel
 * may be closed when this returns.
 */
void channel_drain(struct channel *channel);

#endif
