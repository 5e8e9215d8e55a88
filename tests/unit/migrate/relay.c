// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A thread for each direction of each connection, so that none waits for
 * another. A control connection is handed on frame by frame, and looked at.
 *
 * Whoever ends a link says why on the control connection and then closes all
 * three. The other side is to learn it in that order, as it would without a
 * relay, however late one of the threads is: the end of another connection is
 * handed on after that of the control connection, and what one side sends to
 * another that has gone is thrown away rather than refused.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "migrate/message.h"
#include "world.h"

#define CONNECTIONS_MAX 120

struct half {
	struct relay *relay;
	pthread_t thread;
	int from, to;
	enum wire_channel channel;
	bool from_source;
	bool over;	/* its end has been handed on */
	pthread_mutex_t sending;	/* a frame at a time */
};

struct connection {
	struct preface preface;
	int fd[2];	/* source, destination */
	struct half half[2];
};

struct relay {
	int fd;
	char connect_path[108];
	pthread_t thread;
	pthread_mutex_t lock;	/* guards all below */
	pthread_cond_t let_go;	/* hold, stop or a half's over has changed */
	struct connection connection[CONNECTIONS_MAX];
	unsigned int n;
	enum cut_at at, swallow, hold_at;
	_Atomic bool has_cut;
	bool deliver, hold, stop;
	bool passed[AT_PAGES + 1];
	enum cut_at replace;
	uint8_t *other;		/* a whole frame, in place of that */
	size_t other_len;
	struct preface preface;
	bool hush;	/* set before anybody connects */
	bool damage, damage_from_source;
	enum wire_channel damage_channel;
};

static int send_all(int fd, const uint8_t *data, size_t len)
{
	while (len) {
		ssize_t sent = send(fd, data, len, MSG_NOSIGNAL);

		if (sent < 0)
			return -errno;
		data += sent;
		len -= (size_t)sent;
	}
	return 0;
}

static int receive_all(int fd, uint8_t *data, size_t len)
{
	ssize_t got = recv(fd, data, len, MSG_WAITALL);

	return got == (ssize_t)len ? 0 : -EPIPE;
}

/* With the lock held. */
static void cut_all(struct relay *relay)
{
	unsigned int i;

	for (i = 0; i < relay->n; i++) {
		shutdown(relay->connection[i].fd[0], SHUT_RDWR);
		shutdown(relay->connection[i].fd[1], SHUT_RDWR);
	}
}

void relay_cut_now(struct relay *relay)
{
	pthread_mutex_lock(&relay->lock);
	cut_all(relay);
	pthread_mutex_unlock(&relay->lock);
}

void relay_cut_at(struct relay *relay, enum cut_at at, bool deliver)
{
	pthread_mutex_lock(&relay->lock);
	relay->at = at;
	relay->deliver = deliver;
	relay->has_cut = false;
	pthread_mutex_unlock(&relay->lock);
}

void relay_swallow(struct relay *relay, enum cut_at at)
{
	pthread_mutex_lock(&relay->lock);
	relay->swallow = at;
	pthread_mutex_unlock(&relay->lock);
}

void relay_hush(struct relay *relay)
{
	relay->hush = true;
}

bool relay_has_swallowed(struct relay *relay)
{
	bool swallowed;

	pthread_mutex_lock(&relay->lock);
	swallowed = relay->swallow == CUT_NEVER;
	pthread_mutex_unlock(&relay->lock);
	return swallowed;
}

void relay_hold_at(struct relay *relay, enum cut_at at)
{
	pthread_mutex_lock(&relay->lock);
	relay->hold_at = at;
	pthread_mutex_unlock(&relay->lock);
}

bool relay_holds(struct relay *relay)
{
	bool holds;

	pthread_mutex_lock(&relay->lock);
	holds = relay->hold;
	pthread_mutex_unlock(&relay->lock);
	return holds;
}

bool relay_has_cut(struct relay *relay)
{
	/*
	 * Not under the lock: it is kept while the last frame is delivered,
	 * which takes the caller's loop.
	 */
	return relay->has_cut;
}

void relay_hold(struct relay *relay, bool hold)
{
	pthread_mutex_lock(&relay->lock);
	relay->hold = hold;
	pthread_cond_broadcast(&relay->let_go);
	pthread_mutex_unlock(&relay->lock);
}

struct preface relay_preface(struct relay *relay)
{
	struct preface preface;

	pthread_mutex_lock(&relay->lock);
	preface = relay->preface;
	pthread_mutex_unlock(&relay->lock);
	return preface;
}

/* A frame around the payload, to be freed. */
static uint8_t *message_frame(const void *payload, size_t len)
{
	uint8_t *frame = malloc(FRAME_BYTES + len);

	assert_non_null(frame);
	assert_int_equal(frame_encode_message(frame, payload, len), 0);
	memcpy(frame + FRAME_BYTES, payload, len);
	return frame;
}

void relay_replace(struct relay *relay, enum cut_at at, const void *payload, size_t len)
{
	pthread_mutex_lock(&relay->lock);
	free(relay->other);
	relay->other = message_frame(payload, len);
	relay->other_len = FRAME_BYTES + len;
	relay->replace = at;
	pthread_mutex_unlock(&relay->lock);
}

static int half_send(struct half *half, const uint8_t *data, size_t len)
{
	int r;

	pthread_mutex_lock(&half->sending);
	r = send_all(half->to, data, len);
	pthread_mutex_unlock(&half->sending);
	return r;
}

void relay_say(struct relay *relay, bool to_source, const void *payload, size_t len)
{
	uint8_t *frame = message_frame(payload, len);
	struct half *half = NULL;
	unsigned int i;

	pthread_mutex_lock(&relay->lock);
	for (i = 0; i < relay->n; i++)
		if (relay->connection[i].preface.channel == WIRE_CONTROL)
			half = &relay->connection[i].half[to_source];
	pthread_mutex_unlock(&relay->lock);
	assert_non_null(half);
	half_send(half, frame, FRAME_BYTES + len);
	free(frame);
}

void relay_damage(struct relay *relay, enum wire_channel channel, bool from_source)
{
	pthread_mutex_lock(&relay->lock);
	relay->damage = true;
	relay->damage_channel = channel;
	relay->damage_from_source = from_source;
	pthread_mutex_unlock(&relay->lock);
}

/* Hands a piece on, as told. */
static int hand_on(struct half *half, uint8_t *data, size_t len, enum cut_at is)
{
	struct relay *relay = half->relay;
	bool cut, swallow;
	int r = 0;

	pthread_mutex_lock(&relay->lock);
	if (is != CUT_NEVER && is == relay->hold_at) {
		relay->hold_at = CUT_NEVER;
		relay->hold = true;
	}
	while (relay->hold && !relay->stop)
		pthread_cond_wait(&relay->let_go, &relay->lock);
	if (relay->damage && relay->damage_channel == half->channel &&
	    relay->damage_from_source == half->from_source) {
		relay->damage = false;
		data[len / 2] ^= 0x40;
	}
	swallow = is != CUT_NEVER && is == relay->swallow;
	if (swallow)
		relay->swallow = CUT_NEVER;
	cut = is != CUT_NEVER && is == relay->at;
	if (cut) {
		/* Nothing of what follows may pass: the lock is kept until all is shut. */
		relay->at = CUT_NEVER;
		if (relay->deliver)
			r = send_all(half->to, data, len);
		cut_all(relay);
		relay->has_cut = true;
	}
	pthread_mutex_unlock(&relay->lock);
	if (swallow)
		return 0;
	if (cut || r || half_send(half, data, len))
		return -EPIPE;
	pthread_mutex_lock(&relay->lock);
	if (is <= AT_PAGES)
		relay->passed[is] = true;
	pthread_mutex_unlock(&relay->lock);
	return 0;
}

bool relay_has_passed(struct relay *relay, enum cut_at at)
{
	bool passed;

	pthread_mutex_lock(&relay->lock);
	passed = relay->passed[at];
	pthread_mutex_unlock(&relay->lock);
	return passed;
}

/* The frame that goes on in place of this one, to be freed; NULL: this one. */
static uint8_t *take_other(struct relay *relay, enum cut_at is, size_t *len)
{
	uint8_t *other = NULL;

	pthread_mutex_lock(&relay->lock);
	if (relay->other && is == relay->replace) {
		other = relay->other;
		*len = relay->other_len;
		relay->other = NULL;
	}
	pthread_mutex_unlock(&relay->lock);
	return other;
}

static enum cut_at frame_is(const struct frame *frame, const uint8_t *payload)
{
	unsigned int tag;

	if (frame->type != FRAME_MESSAGE)
		return frame->type == FRAME_PAGES ? AT_PAGES : CUT_NEVER;
	/* The Envelope's first byte or two: field number and wire type. */
	tag = payload[0] & 0x80 ? (payload[0] & 0x7fu) | (unsigned int)payload[1] << 7 : payload[0];
	return (enum cut_at)(tag >> 3);
}

/* A Hello that does not say all: the bytes of the frame anew; or NULL: as they are. */
static uint8_t *hushed(const struct relay *relay, const struct frame *frame, const uint8_t *payload,
		     size_t *len)
{
	wire_message *message;
	struct buf buf = { 0 };
	uint8_t *all;

	if (!relay->hush || frame_is(frame, payload) != AT_HELLO)
		return NULL;
	message = message_unpack(payload, frame->payload_bytes, NULL);
	message->hello->boot = POSTERN__WIRE__BOOT_TYPE__BOOT_UNKNOWN;
	message_pack(&buf, WIRE(HELLO), message->hello);
	message_free(message);
	*len = FRAME_BYTES + buf.len;
	all = malloc(*len);
	frame_encode_message(all, buf.data, buf.len);
	memcpy(all + FRAME_BYTES, buf.data, buf.len);
	buf_fini(&buf);
	return all;
}

static int hand_on_frame(struct half *half)
{
	uint8_t head[FRAME_BYTES], *all, *other;
	struct frame frame;
	enum cut_at is;
	size_t len;
	int r;

	if (receive_all(half->from, head, sizeof(head)))
		return -EPIPE;
	/* Challenge and proof are as long as a frame's header. */
	if (frame_decode(&frame, head, NULL))
		return memcmp(head, "PSTF", 4) ? send_all(half->to, head, sizeof(head)) : -EPIPE;
	all = malloc(FRAME_BYTES + frame.payload_bytes);
	memcpy(all, head, FRAME_BYTES);
	r = frame.payload_bytes ? receive_all(half->from, all + FRAME_BYTES, frame.payload_bytes) :
				  0;
	if (!r) {
		is = frame_is(&frame, all + FRAME_BYTES);
		len = FRAME_BYTES + frame.payload_bytes;
		other = take_other(half->relay, is, &len);
		if (!other)
			other = hushed(half->relay, &frame, all + FRAME_BYTES, &len);
		r = hand_on(half, other ? other : all, len, is);
		free(other);
	}
	free(all);
	return r;
}

/* The same direction of the link's control connection, or NULL. With the lock held. */
static struct half *control_of(struct half *half)
{
	struct relay *relay = half->relay;
	struct connection *c, *own = relay->connection;

	while (half != &own->half[0] && half != &own->half[1])
		own++;
	for (c = relay->connection; c < relay->connection + relay->n; c++)
		if (c->preface.channel == WIRE_CONTROL && c->preface.epoch == own->preface.epoch &&
		    !memcmp(c->preface.session, own->preface.session, SESSION_BYTES))
			return &c->half[!half->from_source];
	return NULL;
}

static void hand_on_end(struct half *half)
{
	struct relay *relay = half->relay;
	struct half *control;

	pthread_mutex_lock(&relay->lock);
	control = control_of(half);
	while (control && control != half && !control->over && !relay->stop)
		pthread_cond_wait(&relay->let_go, &relay->lock);
	shutdown(half->to, SHUT_WR);
	half->over = true;
	pthread_cond_broadcast(&relay->let_go);
	pthread_mutex_unlock(&relay->lock);
}

static void *half_main(void *arg)
{
	struct half *half = arg;
	static _Thread_local uint8_t data[65536];
	int r = 0;

	while (!r) {
		if (half->channel == WIRE_CONTROL) {
			r = hand_on_frame(half);
		} else {
			ssize_t got = recv(half->from, data, sizeof(data), 0);

			r = got > 0 ? hand_on(half, data, (size_t)got, CUT_NEVER) : -EPIPE;
		}
	}
	hand_on_end(half);
	while (recv(half->from, data, sizeof(data), 0) > 0)
		;
	return NULL;
}

static int connect_to(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memcpy(addr.sun_path, path, strlen(path) + 1);
	if (!connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
		return fd;
	close(fd);
	return -1;
}

static void accept_one(struct relay *relay, int fd)
{
	uint8_t bytes[PREFACE_BYTES];
	struct preface preface;
	struct connection *c;
	int to = connect_to(relay->connect_path), i;

	if (to < 0 || receive_all(fd, bytes, sizeof(bytes)) ||
	    preface_decode(&preface, bytes, NULL) || send_all(to, bytes, sizeof(bytes))) {
		if (to >= 0)
			close(to);
		close(fd);
		return;
	}
	pthread_mutex_lock(&relay->lock);
	if (relay->n == CONNECTIONS_MAX)
		abort();
	relay->preface = preface;
	c = &relay->connection[relay->n++];
	c->preface = preface;
	c->fd[0] = fd;
	c->fd[1] = to;
	for (i = 0; i < 2; i++) {
		c->half[i] = (struct half){ .relay = relay, .from = c->fd[i], .to = c->fd[!i],
					    .channel = preface.channel, .from_source = !i };
		pthread_mutex_init(&c->half[i].sending, NULL);
		pthread_create(&c->half[i].thread, NULL, half_main, &c->half[i]);
	}
	pthread_mutex_unlock(&relay->lock);
}

static void *relay_main(void *arg)
{
	struct relay *relay = arg;
	int fd;

	while ((fd = accept4(relay->fd, NULL, NULL, SOCK_CLOEXEC)) >= 0)
		accept_one(relay, fd);
	return NULL;
}

struct relay *relay_new(const char *listen_path, const char *connect_path)
{
	struct relay *relay = calloc(1, sizeof(*relay));
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	memcpy(addr.sun_path, listen_path, strlen(listen_path) + 1);
	memcpy(relay->connect_path, connect_path, strlen(connect_path) + 1);
	pthread_mutex_init(&relay->lock, NULL);
	pthread_cond_init(&relay->let_go, NULL);
	relay->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(relay->fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(relay->fd, 16), 0);
	assert_int_equal(pthread_create(&relay->thread, NULL, relay_main, relay), 0);
	return relay;
}

void relay_free(struct relay *relay)
{
	unsigned int i;

	pthread_mutex_lock(&relay->lock);
	relay->stop = true;
	pthread_cond_broadcast(&relay->let_go);
	cut_all(relay);
	pthread_mutex_unlock(&relay->lock);
	shutdown(relay->fd, SHUT_RDWR);
	pthread_join(relay->thread, NULL);
	relay_cut_now(relay);
	for (i = 0; i < relay->n; i++) {
		pthread_join(relay->connection[i].half[0].thread, NULL);
		pthread_join(relay->connection[i].half[1].thread, NULL);
		close(relay->connection[i].fd[0]);
		close(relay->connection[i].fd[1]);
	}
	close(relay->fd);
	free(relay->other);
	free(relay);
}
