// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// A stranger's bytes: preface, challenge and proof. What decodes must encode to
// the same, and nothing but a proof is one. The first byte says whether the
// rest is made valid but for its checksum first, which chance does not meet.
#include <string.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "migrate/handshake.h"

static void try_preface(const uint8_t *data)
{
	uint8_t out[PREFACE_BYTES];
	struct preface preface;
	struct err err;

	if (preface_decode(&preface, data, &err))
		return;
	preface_encode(&preface, out);
	if (memcmp(out, data, PREFACE_BYTES))
		__builtin_trap();
}

static void try_challenge(const struct secret *secret, const uint8_t *data)
{
	uint8_t out[HANDSHAKE_BYTES], proof[HANDSHAKE_BYTES];
	struct preface preface = { .version = WIRE_MAJOR };
	struct challenge challenge;
	struct err err;

	if (challenge_decode(&challenge, data, &err))
		return;
	challenge_encode(&challenge, out);
	if (memcmp(out, data, HANDSHAKE_BYTES))
		__builtin_trap();
	proof_encode(secret, PROOF_OF_SOURCE, &preface, &challenge, proof);
	if (proof_check(secret, PROOF_OF_SOURCE, &preface, &challenge, proof, &err) ||
	    !proof_check(secret, PROOF_OF_DESTINATION, &preface, &challenge, proof, &err))
		__builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct challenge usual = { .version = WIRE_MAJOR, .type = PROOF_HMAC_SHA256 };
	static const struct preface preface = { .version = WIRE_MAJOR, .type = PROOF_HMAC_SHA256 };
	static struct secret secret;
	uint8_t bytes[PREFACE_BYTES];
	struct err err;

	if (!secret.given && secret_derive(&secret, "a secret", 8, &err) < 0)
		__builtin_trap();
	if (size < 1 + PREFACE_BYTES)
		return 0;
	memcpy(bytes, data + 1, sizeof(bytes));
	if (data[0] & 1)
		put64(bytes + PREFACE_BYTES - 8, XXH3_64bits(bytes, PREFACE_BYTES - 8));
	try_preface(bytes);
	if (data[0] & 2)
		put64(bytes + HANDSHAKE_BYTES - 8, XXH3_64bits(bytes, HANDSHAKE_BYTES - 8));
	try_challenge(&secret, bytes);
	if (!proof_check(&secret, PROOF_OF_SOURCE, &preface, &usual, bytes, &err))
		__builtin_trap();
	return 0;
}
