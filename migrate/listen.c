// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A connection is a client. It is READING until its preface has come; then, where there is a
 * secret, CHALLENGED until its proof has come; then BUSY while the owner has another link that
 * may be about to end; then let in, and WAITING for its two siblings. Or it is REFUSED: it has
 * been told why and is only kept until the peer has read that and gone, since closing a socket
 * with unread input would take the reason back.
 *
 * Only who has proven the secret is told anything of what goes on here, can cut a link, or
 * takes a place that is not given to another. When there are too many, one of those goes who
 * have not proven it: of the address from which most of them come, so that a crowd from
 * elsewhere does not keep a source out, the oldest, so that from the same address a source has
 * as long as it takes to let so many others in.
 */
#include "migrate/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/accept.h"
#include "base/clock.h"
#include "base/conn_watch.h"
#include "base/listening.h"
#include "base/log.h"
#include "base/loop.h"
#include "migrate/message.h"
#include "migrate/socket.h"

/* A crowd of strangers is not to keep a source from being heard. */
#define BACKLOG 128
#define TICK_MS 50
#define BUSY_MS 1000
/* So long a connection that is refused as the last one was belongs to the same attempt. */
#define REFUSED_NS (5 * NS_PER_SEC)
/* For a name's look-up. */
#define PATIENCE_NS (10 * NS_PER_SEC)

enum client_state {
	CLIENT_READING,
	CLIENT_CHALLENGED,
	CLIENT_BUSY,
	CLIENT_WAITING,
	CLIENT_REFUSED,
};

struct client {
	struct conn *conn;
	struct conn_watch *watch;
	struct listener *listener;
	struct client *next;
	enum client_state state;
	uint8_t bytes[PREFACE_BYTES];	/* of the preface, or the proof */
	size_t got;
	struct preface preface;
	struct challenge challenge;
	bool proven;
	struct in6_addr from;		/* of IPv6 the network; all zero where there are no addresses */
	int64_t deadline_ns;
	int64_t busy_ns;	/* BUSY: up to when */
};

/* Who was refused last, why, and when that was said. */
struct refused {
	int64_t at_ns;			/* 0: nobody was */
	uint32_t epoch;
	uint8_t session[SESSION_BYTES];
	struct err why;
};

struct listener {
	struct loop *loop;
	const struct listener_ops *ops;
	void *arg;
	struct uri uri;
	const struct migration_trust *trust;
	unsigned int timeout_ms;
	struct listening listening;	/* fd -1: the three connections came with the URI */
	uv_poll_t *poll;
	uv_timer_t *tick;
	struct client *clients; /* newest first */
	unsigned int nclients;
	struct refused refused;
	bool rests, rest_reported;	/* nobody is let in until the next tick */
};

/* ---- clients ---- */

/* Takes it off the list; its connection is freed unless the caller wants it. */
static struct conn *client_remove(struct client *client, bool keep_conn)
{
	struct listener *listener = client->listener;
	struct client **link = &listener->clients;
	struct conn *conn = client->conn;

	while (*link != client)
		link = &(*link)->next;
	*link = client->next;
	listener->nclients--;
	conn_watch_free(client->watch, free);
	if (!keep_conn)
		conn_free(conn);
	return conn;
}

/*
 * Drops a connection. Where nobody else can come the owner must know. The listener may be freed
 * by that.
 */
static void client_drop(struct client *client, const struct err *why)
{
	struct listener *listener = client->listener;

	log_warn("migration: dropped a connection: %s", why->text);
	client_remove(client, false);
	if (listener->listening.fd < 0)
		listener->ops->failed(listener->arg, why);
}

static void client_send_abort(struct client *client, const struct err *why)
{
	Postern__Wire__Abort message = POSTERN__WIRE__ABORT__INIT;
	struct buf buf = { 0 };
	uint8_t head[FRAME_BYTES];

	message.reason = (char *)(uintptr_t)why->text;
	if (!message_pack(&buf, WIRE(ABORT), &message) &&
	    !frame_encode_message(head, buf.data, buf.len)) {
		struct iovec iov[2] = { { head, sizeof(head) }, { buf.data, buf.len } };

		/* A new connection takes a few hundred bytes; if not, the peer sees it closed. */
		if (conn_send(client->conn, iov, 2, CONN_NOWAIT, NULL) < 0)
			log_debug("migration: could not tell a connection why it is refused");
	}
	buf_fini(&buf);
	conn_finish(client->conn);
}

/* The three connections of one source are refused for one reason, which is said once. */
static void client_log_refused(const struct client *client, const struct err *why)
{
	struct listener *listener = client->listener;
	struct refused *last = &listener->refused;
	int64_t now = clock_now_ns();

	if (last->at_ns && now - last->at_ns < REFUSED_NS && last->epoch == client->preface.epoch &&
	    !memcmp(last->session, client->preface.session, SESSION_BYTES) &&
	    !strcmp(last->why.text, why->text)) {
		log_debug("migration: refused a connection of the same: %s", why->text);
		return;
	}
	*last = (struct refused){ .at_ns = now, .epoch = client->preface.epoch, .why = *why };
	memcpy(last->session, client->preface.session, SESSION_BYTES);
	log_warn("migration: refused a connection: %s", why->text);
}

static void client_refuse(struct client *client, const struct err *why)
{
	if (client->listener->listening.fd < 0) {
		client_drop(client, why);
		return;
	}
	client_log_refused(client, why);
	client_send_abort(client, why);
	client->state = CLIENT_REFUSED;
	conn_watch_set(client->watch, CONN_RECEIVE);
}

static bool is_sibling(const struct client *a, const struct client *b)
{
	return b->state == CLIENT_WAITING && a->preface.epoch == b->preface.epoch &&
	       !memcmp(a->preface.session, b->preface.session, SESSION_BYTES);
}

/*
 * Are all three of this one's session and epoch here? Then they are the owner's. The listener
 * may be freed by that.
 */
static void client_join(struct client *client)
{
	struct listener *listener = client->listener;
	struct client *three[WIRE_CHANNELS] = { NULL }, *other;
	struct preface preface = client->preface;
	struct conn *conn[WIRE_CHANNELS];
	unsigned int i, n = 0;

	for (other = listener->clients; other; other = other->next) {
		if (!is_sibling(client, other) || three[other->preface.channel])
			continue;
		three[other->preface.channel] = other;
		n++;
	}
	if (n < WIRE_CHANNELS)
		return;
	for (i = 0; i < WIRE_CHANNELS; i++)
		conn[i] = client_remove(three[i], true);
	listener->ops->linked(listener->arg, conn, &preface);
}

static int client_send(struct client *client, uint8_t bytes[HANDSHAKE_BYTES], struct err *err)
{
	struct iovec iov = { bytes, HANDSHAKE_BYTES };
	/* A new connection takes so much at once. */
	ssize_t sent = conn_send(client->conn, &iov, 1, CONN_NOWAIT, err);

	if (sent == HANDSHAKE_BYTES)
		return 0;
	if (sent >= 0 || sent == -EAGAIN)
		err_errno(err, sent < 0 ? (int)sent : -EIO, "handshake");
	err_prefix(err, err->code, "%s connection", wire_channel_name(client->preface.channel));
	return err->code;
}

/* The challenge, or where the peer has answered it our own proof. */
static int client_let_in(struct client *client, struct err *err)
{
	uint8_t bytes[HANDSHAKE_BYTES];

	if (client->proven)
		proof_encode(&client->listener->trust->secret, PROOF_OF_DESTINATION,
			     &client->preface, &client->challenge, bytes);
	else
		challenge_encode(&client->challenge, bytes);
	return client_send(client, bytes, err);
}

/* Asks the owner about a BUSY client. False: it still is. True: the listener may be freed. */
static bool client_judge(struct client *client)
{
	struct listener *listener = client->listener;
	struct err err;
	int r = listener->ops->judge(listener->arg, &client->preface, &err);

	if (r == -EAGAIN && clock_now_ns() < client->busy_ns)
		return false;
	if (r < 0) {
		client_refuse(client, &err);
	} else if (client_let_in(client, &err) < 0) {
		client_drop(client, &err);
	} else {
		client->state = CLIENT_WAITING;
		client_join(client);
	}
	return true;
}

/* It has said all that it has to say. */
static void client_be_judged(struct client *client)
{
	client->state = CLIENT_BUSY;
	client->busy_ns = clock_now_ns() + BUSY_MS * NS_PER_MS;
	/* What the peer sends from now on is for the link; only its going away matters here. */
	conn_watch_set(client->watch, CONN_HANGUP);
	client_judge(client);
}

static int client_check_proof_type(const struct client *client, struct err *err)
{
	enum proof_type ours =
		client->listener->trust->secret.given ? PROOF_HMAC_SHA256 : PROOF_NONE;

	if (client->preface.type == ours)
		return 0;
	return err_set(err, -EACCES, ours == PROOF_NONE ?
		       "the source has a secret and this destination has none: both need the same "
		       "--secret-file" :
		       "this destination takes a guest only from who has its secret: both need the same "
		       "--secret-file");
}

static void client_on_preface(struct client *client)
{
	uint8_t bytes[HANDSHAKE_BYTES];
	struct err err;

	if (preface_decode(&client->preface, client->bytes, &err) < 0) {
		/*
		 * To one that speaks another version of this protocol a word can be said; to
		 * others not.
		 */
		if (err.code == -EPROTONOSUPPORT)
			client_refuse(client, &err);
		else
			client_drop(client, &err);
		return;
	}
	if (client_check_proof_type(client, &err) < 0) {
		client_refuse(client, &err);
		return;
	}
	client->challenge =
		(struct challenge){ .version = WIRE_MAJOR, .type = client->preface.type };
	if (getrandom(client->challenge.nonce, NONCE_BYTES, GRND_NONBLOCK) != NONCE_BYTES) {
		err_errno(&err, -errno, "a challenge's nonce");
		client_drop(client, &err);
		return;
	}
	client->got = 0;
	if (client->preface.type == PROOF_NONE) {
		client_be_judged(client);
		return;
	}
	client->state = CLIENT_CHALLENGED;
	challenge_encode(&client->challenge, bytes);
	if (client_send(client, bytes, &err) < 0)
		client_drop(client, &err);
}

static void client_on_proof(struct client *client)
{
	const struct secret *secret = &client->listener->trust->secret;
	struct err err;

	/* The secret may have been exchanged meanwhile. */
	if (!secret->given)
		err_set(&err, -EACCES, "the secret was taken back");
	else
		client->proven = !proof_check(secret, PROOF_OF_SOURCE, &client->preface,
					      &client->challenge, client->bytes, &err);
	if (client->proven)
		client_be_judged(client);
	else if (err.code == -EACCES)
		client_refuse(client, &err);
	else
		client_drop(client, &err);
}

/* How many bytes of a preface or proof there are in all; 0: nothing is waited for. */
static size_t client_wants(const struct client *client)
{
	if (client->state == CLIENT_READING)
		return PREFACE_BYTES;
	return client->state == CLIENT_CHALLENGED ? HANDSHAKE_BYTES : 0;
}

/* Reads what is there. 1: go on, 0: nothing more now, or a negative errno. */
static int client_read(struct client *client, struct err *err)
{
	uint8_t waste[4096];
	size_t wanted = client_wants(client);
	ssize_t got = conn_receive(client->conn, wanted ? client->bytes + client->got : waste,
				   wanted ? wanted - client->got : sizeof(waste), CONN_NOWAIT, err);

	if (got < 0)
		return got == -EAGAIN ? 0 : (int)got;
	if (!got)
		return err_set(err, -EPIPE, "closed by the peer after %zu bytes of its %s",
			       client->got,
			       client->state == CLIENT_CHALLENGED ? "proof" : "preface");
	if (wanted)
		client->got += (size_t)got;
	return 1;
}

static void client_on_ready(void *arg, unsigned int ready)
{
	struct client *client = arg;
	struct err err;
	int r;

	if (client->state == CLIENT_WAITING || client->state == CLIENT_BUSY) {
		err_set(&err, -EPIPE, "%s connection: closed by the peer before the others came",
			wire_channel_name(client->preface.channel));
		client_drop(client, &err);
		return;
	}
	r = client_read(client, &err);
	if (!r && ready & CONN_HANGUP)
		r = err_set(&err, -EPIPE, "closed by the peer");
	if (r < 0 && client->state == CLIENT_REFUSED)
		client_remove(client, false);
	else if (r < 0)
		client_drop(client, &err);
	else if (client->state == CLIENT_READING && client->got == PREFACE_BYTES)
		client_on_preface(client);
	else if (client->state == CLIENT_CHALLENGED && client->got == HANDSHAKE_BYTES)
		client_on_proof(client);
}

/*
 * Whose connection is it? Of an IPv6 address only the network: one host has as many of them as
 * it likes.
 */
static void client_note_address(struct client *client, int fd)
{
	struct sockaddr_in6 addr = { 0 };
	socklen_t len = sizeof(addr);

	if (getpeername(fd, (struct sockaddr *)&addr, &len) < 0)
		return;
	if (addr.sin6_family == AF_INET) {
		memcpy(&client->from, &((struct sockaddr_in *)(void *)&addr)->sin_addr,
		       sizeof(struct in_addr));
	} else if (addr.sin6_family == AF_INET6) {
		client->from = addr.sin6_addr;
		if (!IN6_IS_ADDR_V4MAPPED(&client->from))
			memset(client->from.s6_addr + 8, 0, 8);
	}
}

/* Takes fd over, also when it fails. */
static int client_new(struct listener *listener, int fd, struct err *err)
{
	struct client *client = calloc(1, sizeof(*client));
	int r;

	if (!client) {
		close(fd);
		return err_set(err, -ENOMEM, "no memory for a connection");
	}
	client_note_address(client, fd);
	r = socket_to_conn(&client->conn, fd, false, true, listener->trust->wrapper, err);
	if (r < 0)
		goto err_guest;
	r = conn_watch_new(&client->watch, listener->loop, client->conn, client_on_ready, client,
			   err);
	if (r < 0)
		goto err_conn;
	client->listener = listener;
	client->deadline_ns = clock_now_ns() + (int64_t)listener->timeout_ms * NS_PER_MS;
	client->next = listener->clients;
	listener->clients = client;
	listener->nclients++;
	conn_watch_set(client->watch, CONN_RECEIVE);
	return 0;

err_conn:
	conn_free(client->conn);
err_guest:
	free(client);
	return r;
}

/* ---- the listener ---- */

static unsigned int count_unproven(const struct listener *listener, const struct in6_addr *from)
{
	const struct client *client;
	unsigned int n = 0;

	for (client = listener->clients; client; client = client->next)
		n += !client->proven && !memcmp(&client->from, from, sizeof(*from));
	return n;
}

/*
 * Of those who have not proven the secret: of the address that has most of them, the oldest that
 * has not been let in, or the oldest.
 */
static void listener_evict(struct listener *listener)
{
	struct client *client, *victim = NULL;
	unsigned int n, most = 0;
	struct err err;

	/* The newest is first on the list. */
	for (client = listener->clients; client; client = client->next) {
		n = client->proven ? 0 : count_unproven(listener, &client->from);
		if (!victim || n > most ||
		    (n == most &&
		     (client->state != CLIENT_WAITING || victim->state == CLIENT_WAITING)))
			victim = client;
		most = n > most ? n : most;
	}
	err_set(&err, -ENOBUFS, "more than %d connections that are no migration yet",
		LISTENER_CLIENTS_MAX);
	client_drop(victim, &err);
}

static void listener_on_connection(uv_poll_t *poll, int status, int events)
{
	struct listener *listener = poll->data;
	struct err err;
	int fd = listening_accept(&listener->listening);

	(void)status;
	(void)events;
	if (fd < 0) {
		if (!accept_should_rest(fd))
			return;
		if (!listener->rest_reported)
			log_warn("migration: accept: %s", strerror(-fd));
		listener->rest_reported = true;
		uv_poll_stop(poll);
		listener->rests = true;
		return;
	}
	listener->rest_reported = false;
	if (listener->nclients >= LISTENER_CLIENTS_MAX)
		listener_evict(listener);
	if (client_new(listener, fd, &err) < 0)
		log_warn("migration: dropped a connection: %s", err.text);
}

static void listener_on_tick(uv_timer_t *timer)
{
	struct listener *listener = timer->data;
	struct client *client, *next;
	int64_t now = clock_now_ns();
	struct err err;

	if (listener->rests)
		uv_poll_start(listener->poll, UV_READABLE, listener_on_connection);
	listener->rests = false;
	for (client = listener->clients; client; client = next) {
		next = client->next;
		/*
		 * Who is no longer busy may have taken others along: the rest has time until the
		 * next tick.
		 */
		if (client->state == CLIENT_BUSY && client_judge(client))
			return;
		if (client->deadline_ns > now)
			continue;
		if (client->state == CLIENT_REFUSED) {
			client_remove(client, false);
			continue;
		}
		err_set(&err, -ETIMEDOUT,
			client->state == CLIENT_READING ?
				"no preface within %u ms" :
			client->state == CLIENT_CHALLENGED ?
				"no proof of the secret within %u ms" :
				"the other two connections did not come within %u ms",
			listener->timeout_ms);
		client_drop(client, &err);
		/*
		 * With three given connections the first failure is the end, and the listener
		 * may be gone.
		 */
		return;
	}
}

/* A listening descriptor that was given. */
static int listener_adopt(struct listener *listener, int fd, struct err *err)
{
	int mode = fcntl(fd, F_GETFL);

	if (mode < 0 || fcntl(fd, F_SETFL, mode | O_NONBLOCK) < 0)
		return err_errno(err, -errno, "descriptor %d", fd);
	listening_adopt(&listener->listening, fd);
	return 0;
}

static int listener_open(struct listener *listener, struct err *err)
{
	const struct uri *uri = &listener->uri;
	unsigned int i;
	int r;

	/* Once the loop runs nobody may wait for a name server. */
	if (uri->type != URI_FD)
		return listening_open(&listener->listening, &uri->address,
				      loop_is_running(listener->loop) ? 0 : PATIENCE_NS, BACKLOG,
				      err);
	for (i = 0; i < uri->nfd; i++) {
		r = socket_check(uri->fd[i], uri->nfd == 1, err);
		if (r < 0)
			return r;
	}
	return uri->nfd == 1 ? listener_adopt(listener, uri->fd[0], err) : 0;
}

/* Three given connections, whose descriptors are taken over. */
static int listener_seat(struct listener *listener, struct err *err)
{
	unsigned int i;
	int r = 0;

	for (i = 0; i < WIRE_CHANNELS && !r; i++)
		r = client_new(listener, listener->uri.fd[i], err);
	if (!r)
		return 0;
	for (; i < WIRE_CHANNELS; i++)
		close(listener->uri.fd[i]);
	while (listener->clients)
		client_remove(listener->clients, false);
	return r;
}

static void listener_announce(const struct listener *listener)
{
	char text[SOCKADDR_TEXT_BYTES];
	unsigned int i;

	for (i = 0; listener->uri.type == URI_TCP && i < listener->listening.n; i++) {
		listening_print(&listener->listening, i, text);
		log_info("migration: listening at %s", text);
	}
}

void listener_set_timeout(struct listener *listener, unsigned int timeout_ms)
{
	listener->timeout_ms = timeout_ms;
}

int listener_new(struct listener **out, struct loop *loop, const struct uri *uri,
		 const struct migration_trust *trust, unsigned int timeout_ms,
		 const struct listener_ops *ops, void *arg, struct err *err)
{
	struct listener *listener = calloc(1, sizeof(*listener));
	int r = -ENOMEM;

	if (!listener || !(listener->poll = calloc(1, sizeof(*listener->poll))) ||
	    !(listener->tick = calloc(1, sizeof(*listener->tick)))) {
		err_set(err, r, "no memory to listen");
		goto err_listener;
	}
	listener->loop = loop;
	listener->listening.fd = -1;
	listener->uri = *uri;
	listener->trust = trust;
	listener->timeout_ms = timeout_ms;
	listener->ops = ops;
	listener->arg = arg;
	r = listener_open(listener, err);
	if (r < 0)
		goto err_listener;
	if (listener->listening.fd >= 0) {
		r = uv_poll_init(loop_uv(loop), listener->poll, listener->listening.fd);
		if (r < 0) {
			err_errno(err, r, "listening");
			goto err_fd;
		}
		listener->poll->data = listener;
		uv_poll_start(listener->poll, UV_READABLE, listener_on_connection);
		listener_announce(listener);
	} else {
		r = listener_seat(listener, err);
		if (r < 0)
			goto err_listener;
	}
	uv_timer_init(loop_uv(loop), listener->tick);
	listener->tick->data = listener;
	uv_timer_start(listener->tick, listener_on_tick, TICK_MS, TICK_MS);
	*out = listener;
	return 0;

err_fd:
	if (uri->type != URI_FD)
		listening_close(&listener->listening);
err_listener:
	if (listener) {
		free(listener->poll);
		free(listener->tick);
	}
	free(listener);
	return r;
}

void listener_free(struct listener *listener)
{
	if (!listener)
		return;
	while (listener->clients)
		client_remove(listener->clients, false);
	uv_timer_stop(listener->tick);
	loop_close((uv_handle_t *)listener->tick, listener->tick);
	if (listener->listening.fd >= 0) {
		uv_poll_stop(listener->poll);
		loop_close((uv_handle_t *)listener->poll, listener->poll);
	} else {
		free(listener->poll);
	}
	listening_close(&listener->listening);
	free(listener);
}
