// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 *   preface:    0 "POSTERN\0" 8, 8 version 2, 10 channel 2, 12 epoch 4, 16 session 16, 32 nonce 16,
 *               48 kind 2, 50 zero 6, 56 sum 8
 *   challenge:  0 "PSTCHAL\0" 8, 8 version 2, 10 kind 2, 12 zero 4, 16 nonce 16, 32 sum 8
 *   proof:      0 "PSTPROOF" 8, 8 MAC 32
 *
 * A proof's MAC is over the side's name, the preface and the challenge: so over channel, epoch,
 * session, role and both nonces, and over the versions and kinds, which nobody can talk the two
 * sides out of. Each side draws a nonce of its own, so what was recorded proves nothing a
 * second time, to neither.
 */
#include "migrate/handshake.h"

#include <errno.h>
#include <string.h>
#include <xxhash.h>

#include "base/bytes.h"

#define MAGIC_BYTES 8
#define SIDE_BYTES 16
#define TRANSCRIPT_BYTES (SIDE_BYTES + PREFACE_BYTES + HANDSHAKE_BYTES)

static const uint8_t preface_magic[MAGIC_BYTES] = { 'P', 'O', 'S', 'T', 'E', 'R', 'N', 0 };
static const uint8_t challenge_magic[MAGIC_BYTES] = { 'P', 'S', 'T', 'C', 'H', 'A', 'L', 0 };
static const uint8_t proof_magic[MAGIC_BYTES] = { 'P', 'S', 'T', 'P', 'R', 'O', 'O', 'F' };
static const uint8_t zeros[8];

_Static_assert(MAGIC_BYTES + SECRET_MAC_BYTES == HANDSHAKE_BYTES,
	       "a proof is as long as a challenge");

static int other_version(unsigned int version, struct err *err)
{
	return err_set(err, -EPROTONOSUPPORT,
		       "the peer speaks version %u of the migration protocol, this postern (%s) version %u",
		       version, POSTERN_VERSION, WIRE_MAJOR);
}

static bool is_proof_type(uint16_t type)
{
	return type == PROOF_NONE || type == PROOF_HMAC_SHA256;
}

void preface_encode(const struct preface *preface, uint8_t out[PREFACE_BYTES])
{
	memset(out, 0, PREFACE_BYTES);
	memcpy(out, preface_magic, MAGIC_BYTES);
	put16(out + 8, preface->version);
	put16(out + 10, (uint16_t)preface->channel);
	put32(out + 12, preface->epoch);
	memcpy(out + 16, preface->session, SESSION_BYTES);
	memcpy(out + 32, preface->nonce, NONCE_BYTES);
	put16(out + 48, (uint16_t)preface->type);
	put64(out + 56, XXH3_64bits(out, 56));
}

int preface_decode(struct preface *preface, const uint8_t in[PREFACE_BYTES], struct err *err)
{
	uint16_t channel = get16(in + 10), type = get16(in + 48);

	*preface = (struct preface){ .version = get16(in + 8), .channel = WIRE_CONTROL, .epoch = get32(in + 12) };
	memcpy(preface->session, in + 16, SESSION_BYTES);
	memcpy(preface->nonce, in + 32, NONCE_BYTES);
	if (memcmp(in, preface_magic, MAGIC_BYTES))
		return err_set(err, -EBADMSG, "this is no postern migration "
					      "(no preface at the connection's start)");
	if (preface->version != WIRE_MAJOR)
		return other_version(preface->version, err);
	if (get64(in + 56) != XXH3_64bits(in, 56))
		return err_set(err, -EBADMSG, "damaged preface (checksum)");
	if (channel >= WIRE_CHANNELS)
		return err_set(err, -EBADMSG, "preface of an unknown channel %u", channel);
	if (!is_proof_type(type))
		return err_set(err, -EBADMSG, "preface that asks for an unknown kind %u of proof",
			       type);
	if (memcmp(in + 50, zeros, 6))
		return err_set(err, -EBADMSG, "preface with reserved bytes that are not zero");
	preface->channel = (enum wire_channel)channel;
	preface->type = (enum proof_type)type;
	return 0;
}

void challenge_encode(const struct challenge *challenge, uint8_t out[HANDSHAKE_BYTES])
{
	memset(out, 0, HANDSHAKE_BYTES);
	memcpy(out, challenge_magic, MAGIC_BYTES);
	put16(out + 8, challenge->version);
	put16(out + 10, (uint16_t)challenge->type);
	memcpy(out + 16, challenge->nonce, NONCE_BYTES);
	put64(out + 32, XXH3_64bits(out, 32));
}

int challenge_decode(struct challenge *challenge, const uint8_t in[HANDSHAKE_BYTES],
		     struct err *err)
{
	uint16_t type = get16(in + 10);

	*challenge = (struct challenge){ .version = get16(in + 8) };
	memcpy(challenge->nonce, in + 16, NONCE_BYTES);
	if (memcmp(in, challenge_magic, MAGIC_BYTES))
		return err_set(err, -EBADMSG, "this is no postern that waits for a migration "
					      "(no challenge after the preface)");
	if (challenge->version != WIRE_MAJOR)
		return other_version(challenge->version, err);
	if (get64(in + 32) != XXH3_64bits(in, 32))
		return err_set(err, -EBADMSG, "damaged challenge (checksum)");
	if (!is_proof_type(type))
		return err_set(err, -EBADMSG, "challenge that asks for an unknown kind %u of proof",
			       type);
	if (memcmp(in + 12, zeros, 4))
		return err_set(err, -EBADMSG, "challenge with reserved bytes that are not zero");
	challenge->type = (enum proof_type)type;
	return 0;
}

static void proof_mac(const struct secret *secret, enum proof_side side,
		      const struct preface *preface, const struct challenge *challenge,
		      uint8_t mac[SECRET_MAC_BYTES])
{
	static const char names[][SIDE_BYTES] = { "source", "destination" };
	uint8_t transcript[TRANSCRIPT_BYTES];

	memcpy(transcript, names[side], SIDE_BYTES);
	preface_encode(preface, transcript + SIDE_BYTES);
	challenge_encode(challenge, transcript + SIDE_BYTES + PREFACE_BYTES);
	secret_mac(secret, transcript, sizeof(transcript), mac);
}

void proof_encode(const struct secret *secret, enum proof_side side, const struct preface *preface,
		  const struct challenge *challenge, uint8_t out[HANDSHAKE_BYTES])
{
	memcpy(out, proof_magic, MAGIC_BYTES);
	proof_mac(secret, side, preface, challenge, out + MAGIC_BYTES);
}

int proof_check(const struct secret *secret, enum proof_side side, const struct preface *preface,
		const struct challenge *challenge, const uint8_t in[HANDSHAKE_BYTES],
		struct err *err)
{
	uint8_t mac[SECRET_MAC_BYTES];

	if (memcmp(in, proof_magic, MAGIC_BYTES))
		return err_set(err, -EBADMSG, "no proof where one must come");
	proof_mac(secret, side, preface, challenge, mac);
	if (!secret_mac_equal(mac, in + MAGIC_BYTES))
		return err_set(
			err, -EACCES,
			"the %s does not have this %s's secret: both need the same --secret-file",
			side == PROOF_OF_SOURCE ? "source" : "destination",
			side == PROOF_OF_SOURCE ? "destination" : "source");
	return 0;
}
