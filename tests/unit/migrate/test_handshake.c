// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The bytes of the handshake: what is encoded is decoded, what is not right is refused, and a
 * proof proves nothing but what it was made for.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "migrate/handshake.h"

static const struct preface a_preface = {
	.version = WIRE_MAJOR, .channel = WIRE_BULK, .epoch = 0x01020304, .type = PROOF_HMAC_SHA256,
	.session = "fifteen letters", .nonce = "source's nonce.",
};
static const struct challenge a_challenge = {
	.version = WIRE_MAJOR, .type = PROOF_HMAC_SHA256, .nonce = "other one's one",
};

/* Makes a tampered preface or challenge valid again but for what was tampered with. */
static void resum(uint8_t *bytes, size_t len)
{
	put64(bytes + len - 8, XXH3_64bits(bytes, len - 8));
}

static void test_preface_round_trip(void **state)
{
	uint8_t bytes[PREFACE_BYTES];
	struct preface out;
	struct err err;

	(void)state;
	preface_encode(&a_preface, bytes);
	assert_memory_equal(bytes, "POSTERN", 8);
	assert_int_equal(bytes[8], 2);
	assert_int_equal(bytes[12], 4);		/* little endian */
	assert_int_equal(preface_decode(&out, bytes, &err), 0);
	assert_int_equal(out.channel, WIRE_BULK);
	assert_int_equal(out.epoch, a_preface.epoch);
	assert_int_equal(out.type, PROOF_HMAC_SHA256);
	assert_memory_equal(out.session, a_preface.session, SESSION_BYTES);
	assert_memory_equal(out.nonce, a_preface.nonce, NONCE_BYTES);
}

static void test_challenge_round_trip(void **state)
{
	uint8_t bytes[HANDSHAKE_BYTES];
	struct challenge out;
	struct err err;

	(void)state;
	challenge_encode(&a_challenge, bytes);
	assert_int_equal(challenge_decode(&out, bytes, &err), 0);
	assert_int_equal(out.version, WIRE_MAJOR);
	assert_int_equal(out.type, PROOF_HMAC_SHA256);
	assert_memory_equal(out.nonce, a_challenge.nonce, NONCE_BYTES);
}

static void test_any_flipped_bit_is_noticed(void **state)
{
	uint8_t preface[PREFACE_BYTES], challenge[HANDSHAKE_BYTES];
	struct challenge out_challenge;
	struct preface out_preface;
	struct err err;
	size_t bit;

	(void)state;
	preface_encode(&a_preface, preface);
	for (bit = 0; bit < PREFACE_BYTES * 8; bit++) {
		preface[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		assert_true(preface_decode(&out_preface, preface, &err) < 0);
		preface[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	}
	assert_int_equal(preface_decode(&out_preface, preface, &err), 0);
	challenge_encode(&a_challenge, challenge);
	for (bit = 0; bit < HANDSHAKE_BYTES * 8; bit++) {
		challenge[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		assert_true(challenge_decode(&out_challenge, challenge, &err) < 0);
		challenge[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	}
	assert_int_equal(challenge_decode(&out_challenge, challenge, &err), 0);
}

static void test_other_versions_are_named_with_ours(void **state)
{
	struct challenge challenge = { .version = 3 };
	struct preface preface = { .version = 1 };
	uint8_t bytes[PREFACE_BYTES];
	struct err err;

	(void)state;
	preface_encode(&preface, bytes);
	assert_int_equal(preface_decode(&preface, bytes, &err), -EPROTONOSUPPORT);
	assert_non_null(strstr(err.text, "version 1"));
	assert_non_null(strstr(err.text, "version 2"));
	challenge_encode(&challenge, bytes);
	assert_int_equal(challenge_decode(&challenge, bytes, &err), -EPROTONOSUPPORT);
	assert_non_null(strstr(err.text, "version 3"));
	assert_non_null(strstr(err.text, "version 2"));
}

static void test_unknown_channels_and_kinds_and_reserved_bytes_are_refused(void **state)
{
	static const size_t of_preface[] = { 10, 48, 50, 55 }, of_challenge[] = { 10, 12, 15 };
	uint8_t bytes[PREFACE_BYTES];
	struct challenge challenge;
	struct preface preface;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(of_preface) / sizeof(*of_preface); i++) {
		preface_encode(&a_preface, bytes);
		bytes[of_preface[i]] = 9;
		resum(bytes, PREFACE_BYTES);
		assert_int_equal(preface_decode(&preface, bytes, &err), -EBADMSG);
	}
	for (i = 0; i < sizeof(of_challenge) / sizeof(*of_challenge); i++) {
		challenge_encode(&a_challenge, bytes);
		bytes[of_challenge[i]] = 9;
		resum(bytes, HANDSHAKE_BYTES);
		assert_int_equal(challenge_decode(&challenge, bytes, &err), -EBADMSG);
	}
}

static struct secret secret_of(const char *text)
{
	struct secret secret;
	struct err err;

	if (secret_derive(&secret, text, strlen(text), &err) < 0)
		fail_msg("%s", err.text);
	return secret;
}

/*
 * A proof of the source's for the given secret, preface and challenge; is it taken for that of
 * the usual ones?
 */
static int check(const struct secret *secret, enum proof_side side, const struct preface *preface,
		 const struct challenge *challenge)
{
	struct secret usual = secret_of("the usual secret");
	uint8_t bytes[HANDSHAKE_BYTES];
	struct err err;

	proof_encode(secret, side, preface, challenge, bytes);
	return proof_check(&usual, PROOF_OF_SOURCE, &a_preface, &a_challenge, bytes, &err);
}

static void test_a_proof_is_of_its_secret_side_and_connection_alone(void **state)
{
	struct secret usual = secret_of("the usual secret"),
		      other = secret_of("the usual secret\n");
	struct challenge challenge = a_challenge;
	struct preface preface = a_preface;

	(void)state;
	assert_int_equal(check(&usual, PROOF_OF_SOURCE, &preface, &challenge), 0);
	assert_int_equal(check(&other, PROOF_OF_SOURCE, &preface, &challenge), -EACCES);
	assert_int_equal(check(&usual, PROOF_OF_DESTINATION, &preface, &challenge), -EACCES);
	preface.channel = WIRE_CONTROL;
	assert_int_equal(check(&usual, PROOF_OF_SOURCE, &preface, &challenge), -EACCES);
	preface = a_preface;
	preface.epoch++;
	assert_int_equal(check(&usual, PROOF_OF_SOURCE, &preface, &challenge), -EACCES);
	preface = a_preface;
	preface.session[15] ^= 1;
	assert_int_equal(check(&usual, PROOF_OF_SOURCE, &preface, &challenge), -EACCES);
	preface = a_preface;
	preface.nonce[0] ^= 1;
	assert_int_equal(check(&usual, PROOF_OF_SOURCE, &preface, &challenge), -EACCES);
	challenge.nonce[15] ^= 0x80;
	assert_int_equal(check(&usual, PROOF_OF_SOURCE, &a_preface, &challenge), -EACCES);
}

static void test_any_flipped_bit_of_a_proof_is_noticed(void **state)
{
	struct secret usual = secret_of("the usual secret");
	uint8_t bytes[HANDSHAKE_BYTES];
	struct err err;
	size_t bit;

	(void)state;
	proof_encode(&usual, PROOF_OF_DESTINATION, &a_preface, &a_challenge, bytes);
	for (bit = 0; bit < HANDSHAKE_BYTES * 8; bit++) {
		bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		assert_int_equal(proof_check(&usual, PROOF_OF_DESTINATION, &a_preface, &a_challenge,
					     bytes, &err),
				 bit < 64 ? -EBADMSG : -EACCES);
		bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	}
	assert_int_equal(
		proof_check(&usual, PROOF_OF_DESTINATION, &a_preface, &a_challenge, bytes, &err),
		0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_preface_round_trip),
		cmocka_unit_test(test_challenge_round_trip),
		cmocka_unit_test(test_any_flipped_bit_is_noticed),
		cmocka_unit_test(test_other_versions_are_named_with_ours),
		cmocka_unit_test(test_unknown_channels_and_kinds_and_reserved_bytes_are_refused),
		cmocka_unit_test(test_a_proof_is_of_its_secret_side_and_connection_alone),
		cmocka_unit_test(test_any_flipped_bit_of_a_proof_is_noticed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
