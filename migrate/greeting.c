// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A destination that does not let us in says why on the control connection, at least, and
 * closes the others. Which of that is seen first is chance: so when another connection fails,
 * the control connection's answer is waited for before it is told.
 */
#include "migrate/greeting.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/conn_watch.h"
#include "migrate/message.h"

/* An Abort's text has 300 bytes or so. */
#define ABORT_BYTES_MAX 4096

enum greet_step {
	GREET_PREFACE, /* the preface is to be sent, as soon as the connection takes it */
	GREET_CHALLENGE, /* preface sent, the challenge is awaited */
	GREET_PROOF, /* our proof sent, the destination's is awaited */
	GREET_ABORT, /* the payload of an Abort is awaited */
	GREET_DONE,
	GREET_FAILED, /* but for the control connection */
};

struct greeter {
	struct greeting *greeting;
	struct conn *conn;
	struct conn_watch *watch; /* NULL: this one is done */
	enum greet_step step;
	struct preface preface;
	struct challenge challenge;
	uint8_t bytes[HANDSHAKE_BYTES + ABORT_BYTES_MAX];
	size_t got, wanted;
	struct frame frame;	/* ABORT */
};

struct greeting {
	struct greeter greeter[WIRE_CHANNELS];
	struct secret secret;
	const struct greeting_ops *ops;
	void *arg;
	struct err failed;	/* of urgent or bulk */
};

static void greeter_close(struct greeter *greeter)
{
	conn_watch_free(greeter->watch, NULL);
	greeter->watch = NULL;
}

/* The greeting may be freed by this. */
static void greeter_fail(struct greeter *greeter, const struct err *why)
{
	struct greeting *greeting = greeter->greeting;
	struct greeter *control = &greeting->greeter[WIRE_CONTROL];
	struct err err = *why;

	err_prefix(&err, err.code, "%s connection", wire_channel_name(greeter->preface.channel));
	greeter_close(greeter);
	greeter->step = GREET_FAILED;
	if (greeter != control && control->step != GREET_DONE) {
		if (!greeting->failed.code)
			greeting->failed = err;
		return;
	}
	greeting->ops->failed(greeting->arg, &err);
}

/* The greeting may be freed by this. */
static void greeter_done(struct greeter *greeter)
{
	struct greeting *greeting = greeter->greeting;
	int i;

	greeter_close(greeter);
	greeter->step = GREET_DONE;
	if (greeting->failed.code) {
		struct err err = greeting->failed;

		if (greeter->preface.channel == WIRE_CONTROL)
			greeting->ops->failed(greeting->arg, &err);
		return;
	}
	for (i = 0; i < WIRE_CHANNELS; i++)
		if (greeting->greeter[i].step != GREET_DONE)
			return;
	greeting->ops->done(greeting->arg);
}

/* ---- what the destination says ---- */

/*
 * Instead of a challenge or a proof there are bytes that may begin a message. 0: its payload is
 * to come.
 */
static int take_frame(struct greeter *greeter, struct err *err)
{
	struct err none;

	if (frame_decode(&greeter->frame, greeter->bytes, &none) < 0 ||
	    greeter->frame.type != FRAME_MESSAGE || greeter->frame.payload_bytes > ABORT_BYTES_MAX)
		return err->code;
	greeter->step = GREET_ABORT;
	greeter->wanted += greeter->frame.payload_bytes;
	return 0;
}

static int take_abort(struct greeter *greeter, struct err *err)
{
	const uint8_t *payload = greeter->bytes + HANDSHAKE_BYTES;
	char text[PEER_TEXT_BYTES];
	wire_message *message;
	int r = frame_check_message(&greeter->frame, payload, err);

	if (r < 0)
		return r;
	message = message_unpack(payload, greeter->frame.payload_bytes, NULL);
	if (message && message->body_case == WIRE(ABORT))
		r = err_set(err, -ECONNREFUSED, "the destination does not let us in: %s",
			    message_peer_text(text, message->abort->reason));
	else
		r = err_set(err, -EBADMSG,
			    "a message of the destination's before the end of its handshake");
	if (message)
		message_free(message);
	return r;
}

/* -EAGAIN: nothing was sent; err is set nevertheless. */
static int send_step(struct greeter *greeter, uint8_t *bytes, size_t len, struct err *err)
{
	struct iovec iov = { bytes, len };
	/* So early a connection takes so much at once, or nothing. */
	ssize_t sent = conn_send(greeter->conn, &iov, 1, CONN_NOWAIT, err);

	if (sent == (ssize_t)len)
		return 0;
	if (sent < 0 && sent != -EAGAIN)
		return (int)sent;
	return err_errno(err, sent < 0 ? -EAGAIN : -EIO, "sending the handshake");
}

/* 1: sent, 0: the connection does not take it yet. */
static int send_preface(struct greeter *greeter, struct err *err)
{
	uint8_t bytes[PREFACE_BYTES];
	int r;

	preface_encode(&greeter->preface, bytes);
	r = send_step(greeter, bytes, sizeof(bytes), err);
	if (r < 0)
		return r == -EAGAIN ? 0 : r;
	greeter->step = GREET_CHALLENGE;
	return 1;
}

static int take_challenge(struct greeter *greeter, struct err *err)
{
	const struct secret *secret = &greeter->greeting->secret;
	uint8_t bytes[HANDSHAKE_BYTES];
	int r = challenge_decode(&greeter->challenge, greeter->bytes, err);

	if (r < 0)
		return take_frame(greeter, err);
	/* Nobody talks us out of a proof. */
	if (greeter->challenge.type != greeter->preface.type)
		return err_set(err, -EACCES,
			       "the destination wants %s of a secret, and not what was offered",
			       greeter->challenge.type == PROOF_NONE ? "no proof" : "a proof");
	greeter->got = 0;
	greeter->step = GREET_DONE;
	if (!secret->given)
		return 0;
	greeter->step = GREET_PROOF;
	proof_encode(secret, PROOF_OF_SOURCE, &greeter->preface, &greeter->challenge, bytes);
	return send_step(greeter, bytes, sizeof(bytes), err);
}

static int take_proof(struct greeter *greeter, struct err *err)
{
	int r = proof_check(&greeter->greeting->secret, PROOF_OF_DESTINATION, &greeter->preface,
			    &greeter->challenge, greeter->bytes, err);

	if (!r)
		greeter->step = GREET_DONE;
	return r == -EBADMSG ? take_frame(greeter, err) : r;
}

static int take_step(struct greeter *greeter, struct err *err)
{
	switch (greeter->step) {
	case GREET_CHALLENGE:
		return take_challenge(greeter, err);
	case GREET_PROOF:
		return take_proof(greeter, err);
	default:
		return take_abort(greeter, err);
	}
}

/*
 * No more than this step's bytes: what follows the handshake is the link's. 1: there may be
 * more, 0: nothing there.
 */
static int greeter_receive(struct greeter *greeter, struct err *err)
{
	ssize_t got = conn_receive(greeter->conn, greeter->bytes + greeter->got,
				   greeter->wanted - greeter->got, CONN_NOWAIT, err);

	if (got < 0)
		return got == -EAGAIN ? 0 : (int)got;
	if (!got)
		return err_set(err, -EPIPE,
			       "the destination closed it before it had let us in, and did not "
			       "say why");
	greeter->got += (size_t)got;
	return 1;
}

/* 1: there may be more to do, 0: nothing now. */
static int greeter_go_on(struct greeter *greeter, struct err *err)
{
	int r;

	if (greeter->step == GREET_PREFACE)
		return send_preface(greeter, err);
	r = greeter_receive(greeter, err);
	if (r > 0 && greeter->got == greeter->wanted && take_step(greeter, err) < 0)
		r = err->code;
	return r;
}

static void greeter_watch(struct greeter *greeter)
{
	conn_watch_set(greeter->watch, greeter->step == GREET_PREFACE ? CONN_SEND : CONN_RECEIVE);
}

static void greeter_on_ready(void *arg, unsigned int ready)
{
	struct greeter *greeter = arg;
	struct err err;
	int r = 1;

	while (r > 0 && greeter->step != GREET_DONE)
		r = greeter_go_on(greeter, &err);
	if (!r && ready & CONN_HANGUP)
		r = err_set(&err, -EPIPE, "the connection failed");
	if (r < 0)
		greeter_fail(greeter, &err);
	else if (greeter->step == GREET_DONE)
		greeter_done(greeter);
	else
		greeter_watch(greeter);
}

/* ---- life ---- */

static int greeter_start(struct greeter *greeter, struct loop *loop, struct conn *conn,
			 struct err *err)
{
	int r;

	greeter->conn = conn;
	greeter->wanted = HANDSHAKE_BYTES;
	if (getrandom(greeter->preface.nonce, NONCE_BYTES, GRND_NONBLOCK) != NONCE_BYTES)
		return err_errno(err, -errno, "a handshake's nonce");
	r = conn_watch_new(&greeter->watch, loop, conn, greeter_on_ready, greeter, err);
	if (!r)
		r = send_preface(greeter, err);
	if (r < 0)
		return r;
	greeter_watch(greeter);
	return 0;
}

int greeting_new(struct greeting **out, struct loop *loop, struct conn *const conn[WIRE_CHANNELS],
		 const struct preface *preface, const struct secret *secret,
		 const struct greeting_ops *ops, void *arg, struct err *err)
{
	struct greeting *greeting = calloc(1, sizeof(*greeting));
	int i, r;

	if (!greeting)
		return err_set(err, -ENOMEM, "no memory for the handshake");
	greeting->secret = *secret;
	greeting->ops = ops;
	greeting->arg = arg;
	for (i = 0; i < WIRE_CHANNELS; i++) {
		struct greeter *greeter = &greeting->greeter[i];

		greeter->greeting = greeting;
		greeter->preface = *preface;
		greeter->preface.version = WIRE_MAJOR;
		greeter->preface.channel = (enum wire_channel)i;
		greeter->preface.type = secret->given ? PROOF_HMAC_SHA256 : PROOF_NONE;
		r = greeter_start(greeter, loop, conn[i], err);
		if (r < 0) {
			err_prefix(err, r, "%s connection",
				   wire_channel_name((enum wire_channel)i));
			greeting_free(greeting);
			return r;
		}
	}
	*out = greeting;
	return 0;
}

void greeting_free(struct greeting *greeting)
{
	int i;

	if (!greeting)
		return;
	for (i = 0; i < WIRE_CHANNELS; i++)
		greeter_close(&greeting->greeter[i]);
	secret_wipe(&greeting->secret);
	free(greeting);
}

void greeting_why(const struct greeting *greeting, struct err *err)
{
	int i;

	if (greeting->failed.code) {
		*err = greeting->failed;
		return;
	}
	for (i = 0; i < WIRE_CHANNELS - 1 && greeting->greeter[i].step == GREET_DONE; i++)
		;
	err_set(err, -ETIMEDOUT,
		"%s connection: connected, but nobody there has said that it lets us in",
		wire_channel_name((enum wire_channel)i));
}
