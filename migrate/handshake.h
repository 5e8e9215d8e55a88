/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The bytes of the handshake with which each of a migration's connections begins, before its
 * frames:
 *
 *   source                       destination
 *     preface              ->                       who I am, my nonce
 *                          <-      challenge        my nonce; without a secret the source is in
 *     proof                ->                       the source has the secret
 *                          <-      proof            the destination has it, and lets the source in
 *
 * In place of the challenge, or of its proof, the destination may send an Abort message and close.
 *
 * Everything here is pure: bytes in, values out, nothing is read, sent or kept; frame.h's
 * numbers and conventions. docs/wire.md is the specification.
 */
#ifndef POSTERN_MIGRATE_HANDSHAKE_H
#define POSTERN_MIGRATE_HANDSHAKE_H

#include <stdbool.h>

#include "migrate/secret.h"
#include "wire/frame.h"

#define NONCE_BYTES 16
#define PREFACE_BYTES 64
/*
 * Challenge and proof; as long as a frame's header, so that a reader can tell an Abort from them
 * once it has so much.
 */
#define HANDSHAKE_BYTES FRAME_BYTES

/* How a side shows that it has the secret. */
enum proof_type {
	PROOF_NONE = 0,			/* there is none */
	PROOF_HMAC_SHA256 = 1,		/* RFC 2104 with FIPS 180-4's SHA-256 */
};

struct preface {
	uint16_t version;		/* the sender's WIRE_MAJOR */
	enum wire_channel channel;
	uint32_t epoch;			/* 0, and one more with each attempt to resume */
	uint8_t session[SESSION_BYTES];
	enum proof_type type;
	uint8_t nonce[NONCE_BYTES];	/* the source's, new for each connection */
};

void preface_encode(const struct preface *preface, uint8_t out[PREFACE_BYTES]);
/*
 * -EBADMSG: not a preface, or a damaged one; -EPROTONOSUPPORT: another major, named with ours;
 * *preface is then filled as far as a reply needs it.
 */
int preface_decode(struct preface *preface, const uint8_t in[PREFACE_BYTES], struct err *err);

struct challenge {
	uint16_t version;		/* the sender's WIRE_MAJOR */
	enum proof_type type;		/* the preface's */
	uint8_t nonce[NONCE_BYTES];	/* the destination's, new for each connection */
};

void challenge_encode(const struct challenge *challenge, uint8_t out[HANDSHAKE_BYTES]);
/* -EBADMSG, -EPROTONOSUPPORT: as preface_decode. */
int challenge_decode(struct challenge *challenge, const uint8_t in[HANDSHAKE_BYTES],
		     struct err *err);

/* Whose proof; so that one side's is none of the other's. */
enum proof_side {
	PROOF_OF_SOURCE,
	PROOF_OF_DESTINATION,
};

/* The proof of `side`, of this connection: of all that was said on it before. secret->given. */
void proof_encode(const struct secret *secret, enum proof_side side, const struct preface *preface,
		  const struct challenge *challenge, uint8_t out[HANDSHAKE_BYTES]);
/*
 * Takes as long whatever is wrong. -EBADMSG: this is no proof; -EACCES: not by this secret, or
 * not of this connection and side.
 */
int proof_check(const struct secret *secret, enum proof_side side, const struct preface *preface,
		const struct challenge *challenge, const uint8_t in[HANDSHAKE_BYTES],
		struct err *err);

#endif
