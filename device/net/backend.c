// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * backend.c - what all back ends share: frames to packets or to a stream and
 * back, and the one frame that the far side has not taken.
 */
#include "device/net/backend.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "device/net/frame.h"

#define LENGTH_BYTES sizeof(uint32_t)
/* Room for some frames: a read brings many small ones at once. */
#define STREAM_BYTES (256u << 10)
/* Reads at a time that bring nothing for the guest. */
#define READS_MAX 16u

_Static_assert(NET_HEADER_BYTES == 12, "virtio 1.2, 5.1.6: always with num_buffers");

int net_backend_init(struct net_backend *b, struct err *err)
{
	b->rest = malloc(NET_HEADER_BYTES + NET_FRAME_MAX);
	if (b->stream)
		b->in = malloc(STREAM_BYTES);
	if (!b->rest || (b->stream && !b->in))
		return err_set(err, -ENOMEM, "no memory for a frame");
	return 0;
}

int net_backend_open(struct net_backend **out, struct loop *loop, const struct net_config *config,
		     struct err *err)
{
	struct net_backend *b = calloc(1, sizeof(*b));
	int r;

	if (!b)
		return err_set(err, -ENOMEM, "no memory for a network's back end");
	b->fd = -1;
	switch (config->type) {
	case NET_TAP:
		r = net_tap_open(b, config->where, err);
		break;
	case NET_PASST:
		r = net_passt_open(b, loop, config, err);
		break;
	default:
		r = net_fd_open(b, config->fd, err);
	}
	if (!r)
		r = net_backend_init(b, err);
	if (r < 0) {
		net_backend_close(b);
		return r;
	}
	*out = b;
	return 0;
}

void net_backend_close(struct net_backend *b)
{
	if (!b)
		return;
	if (b->fd >= 0)
		close(b->fd);
	if (b->ops && b->ops->close)
		b->ops->close(b);
	free(b->rest);
	free(b->in);
	free(b);
}

static int lose(struct net_backend *b, int r)
{
	if (!b->gone) {
		b->gone = true;
		if (b->ops->gone)
			b->ops->gone(b);
		else
			log_warn("%s is gone (%s): the guest's link is down", b->name,
				 r ? strerror(-r) : "it has hung up");
	}
	b->rest_len = b->rest_at = 0;
	return -EPIPE;
}

/*
 * Errors that stay. Others are of one frame (a tap that is down: EIO; what the
 * kernel does not like: EINVAL).
 */
static bool is_final(ssize_t r)
{
	return r == -EPIPE || r == -ECONNRESET || r == -EBADFD || r == -EBADF || r == -ENOTCONN;
}

/* ---- out ---- */

static void keep(struct net_backend *b, const struct iovec *iov, unsigned int n, size_t done)
{
	unsigned int i;

	b->rest_at = b->rest_len = 0;
	for (i = 0; i < n; i++) {
		size_t skip = done < iov[i].iov_len ? done : iov[i].iov_len;

		memcpy(b->rest + b->rest_len, (uint8_t *)iov[i].iov_base + skip,
		       iov[i].iov_len - skip);
		b->rest_len += iov[i].iov_len - skip;
		done -= skip;
	}
}

/*
 * Over a stream passt is the other end: see frame.h. The guest may still change
 * its memory; so what was looked at is what is sent: `head`, of room for it,
 * takes the frame's first bytes' place. Returns the parts of it, in `to`, of
 * room for one more than there are; 0: refused.
 */
static unsigned int stream_parts(struct iovec *to, uint8_t *head, uint32_t *length,
				 const struct iovec *iov, unsigned int n)
{
	size_t part, len = 0;
	unsigned int i, parts = 2;

	for (i = 0; i < n; i++) {
		part = iov[i].iov_len < NET_FRAME_HEAD - len ? iov[i].iov_len :
							       NET_FRAME_HEAD - len;
		memcpy(head + len, iov[i].iov_base, part);
		len += part;
		if (part < iov[i].iov_len)
			to[parts++] = (struct iovec){ (uint8_t *)iov[i].iov_base + part,
						      iov[i].iov_len - part };
	}
	to[0] = (struct iovec){ length, sizeof(*length) };
	to[1] = (struct iovec){ head, len };
	return net_frame_is_loopbacks(head, len) ? 0 : parts;
}

int net_backend_send(struct net_backend *b, struct virtio_net_hdr_v1 *header, struct iovec *iov,
		     unsigned int n, size_t len)
{
	struct iovec parts[NET_PARTS_MAX + 2];
	uint8_t head[NET_FRAME_HEAD];
	uint32_t length = htonl((uint32_t)len);
	ssize_t r;

	if (b->gone)
		return -EPIPE;
	if (b->rest_len)
		return -EAGAIN;
	if (len < NET_FRAME_MIN || len > NET_FRAME_MAX || n > NET_PARTS_MAX)
		return -EMSGSIZE;
	if (b->stream) {
		n = stream_parts(parts, head, &length, iov + 1, n - 1);
		iov = parts;
		if (!n)
			return -EACCES;
	} else if (b->header) {
		iov[0] = (struct iovec){ header, sizeof(*header) };
	} else {
		iov++;
		n--;
	}
	len += b->stream ? sizeof(length) : b->header ? sizeof(*header) : 0;
	r = b->ops->write(b, iov, n);
	if (r == -EAGAIN)
		r = 0;
	if (r < 0)
		return is_final(r) || b->stream ? lose(b, (int)r) : (int)r;
	/* A packet goes whole or not at all. */
	if (b->stream ? (size_t)r < len : !r)
		keep(b, iov, n, (size_t)r);
	return 0;
}

bool net_backend_is_blocked(const struct net_backend *b)
{
	return b->rest_len;
}

int net_backend_flush(struct net_backend *b)
{
	while (b->rest_len) {
		const struct iovec iov = { b->rest + b->rest_at, b->rest_len - b->rest_at };
		ssize_t r = b->ops->write(b, &iov, 1);

		if (r == -EAGAIN)
			return -EAGAIN;
		if (r < 0 && (is_final(r) || b->stream))
			return lose(b, (int)r);
		b->rest_at += r < 0 || !b->stream ? iov.iov_len : (size_t)r;
		if (b->rest_at == b->rest_len)
			b->rest_at = b->rest_len = 0;
	}
	return b->gone ? -EPIPE : 0;
}

/* ---- in ---- */

/* The next whole frame of the stream. 0: there is none yet; what the far side says is hostile. */
static ssize_t stream_frame(struct net_backend *b, uint8_t *to)
{
	uint32_t length;

	while (b->in_len - b->in_at >= LENGTH_BYTES) {
		memcpy(&length, b->in + b->in_at, sizeof(length));
		length = ntohl(length);
		if (length > NET_FRAME_MAX) {
			log_warn("%s: a frame of %u bytes, at most %u are possible", b->name,
				 length, NET_FRAME_MAX);
			return lose(b, -EPROTO);
		}
		if (b->in_len - b->in_at < LENGTH_BYTES + length)
			break;
		memcpy(to, b->in + b->in_at + LENGTH_BYTES, length);
		b->in_at += LENGTH_BYTES + length;
		if (length >= NET_FRAME_MIN)
			return length;
	}
	return 0;
}

/*
 * -EAGAIN also where there may be more after READS_MAX reads that brought no
 * frame, or only frames that are too short: fd says so again, and the others
 * have their turn meanwhile.
 */
static ssize_t backend_stream_receive(struct net_backend *b, uint8_t *to)
{
	ssize_t r = stream_frame(b, to), got;
	unsigned int reads;

	_Static_assert(STREAM_BYTES > NET_FRAME_MAX + LENGTH_BYTES, "a frame fits");
	for (reads = 0; !r && reads < READS_MAX; reads++) {
		memmove(b->in, b->in + b->in_at, b->in_len - b->in_at);
		b->in_len -= b->in_at;
		b->in_at = 0;
		got = b->ops->read(b, b->in + b->in_len, STREAM_BYTES - b->in_len);
		if (got == -EAGAIN)
			return -EAGAIN;
		if (got <= 0)
			return lose(b, (int)got);
		b->in_len += (size_t)got;
		r = stream_frame(b, to);
	}
	return r ? r : -EAGAIN;
}

/* As backend_stream_receive. */
static ssize_t packet_receive(struct net_backend *b, uint8_t *to, size_t room)
{
	size_t min = NET_FRAME_MIN + (b->header ? NET_HEADER_BYTES : 0);
	unsigned int reads;
	ssize_t r;

	for (reads = 0; reads < READS_MAX; reads++) {
		r = b->ops->read(b, to, room);
		if (!r || (r < 0 && is_final(r)))
			return lose(b, (int)r);
		if (r < 0)
			return -EAGAIN;
		if ((size_t)r >= min)
			return r;
	}
	return -EAGAIN;
}

ssize_t net_backend_receive(struct net_backend *b, uint8_t *to)
{
	ssize_t r;

	if (b->gone)
		return -EPIPE;
	if (b->header)
		return packet_receive(b, to, NET_HEADER_BYTES + NET_FRAME_MAX);
	memset(to, 0, NET_HEADER_BYTES);
	if (b->stream)
		r = backend_stream_receive(b, to + NET_HEADER_BYTES);
	else
		r = packet_receive(b, to + NET_HEADER_BYTES, NET_FRAME_MAX);
	return r < 0 ? r : r + (ssize_t)NET_HEADER_BYTES;
}

void net_backend_hang_up(struct net_backend *b)
{
	lose(b, 0);
}

void net_backend_set_offloads(struct net_backend *b, unsigned int offloads)
{
	if (b->ops->set_offloads && !b->gone)
		b->ops->set_offloads(b, offloads);
}
