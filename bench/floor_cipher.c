// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * floor_cipher.c - `floors cipher [ROUNDS]`: what it costs to open a frame of an
 * encrypted image, in us, one line a length ("open_BYTES median least..greatest of
 * the rounds"), a key's schedule included, as for each frame that is read. The
 * round's value is the mean of many.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "floors.h"
#include "image/cipher.h"

#define CIPHER_ROUNDS_MAX 1000
#define CIPHER_OPENS 100

static int by_value(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

/* us, each. */
static double cipher_round(struct cipher_gcm *work, const struct cipher_message *message,
			   const uint8_t *sealed, size_t len, uint8_t *out)
{
	int64_t begun = clock_now_ns();
	unsigned int i;

	for (i = 0; i < CIPHER_OPENS; i++)
		if (cipher_open(work, message, sealed, len, out))
			floor_die("a frame that was sealed cannot be opened");
	return (double)(clock_now_ns() - begun) / 1000 / CIPHER_OPENS;
}

static void cipher_measure(size_t len, unsigned int rounds)
{
	static const uint8_t key[CIPHER_KEY_BYTES] = { 1 }, nonce[CIPHER_NONCE_BYTES] = { 2 };
	const struct cipher_message message = { key, nonce, key, sizeof(key) };
	uint8_t *data = calloc(1, len), *sealed = malloc(len + CIPHER_TAG_BYTES);
	double us[CIPHER_ROUNDS_MAX];
	struct cipher_gcm work;
	unsigned int i;

	if (!data || !sealed)
		floor_die("no memory");
	cipher_seal(&work, &message, data, len, sealed);
	for (i = 0; i < rounds; i++)
		us[i] = cipher_round(&work, &message, sealed, len, data);
	qsort(us, rounds, sizeof(us[0]), by_value);
	printf("open_%zu %.2f %.2f..%.2f\n", len, us[rounds / 2], us[0], us[rounds - 1]);
	free(data);
	free(sealed);
}

int floor_cipher(int argc, char **argv)
{
	long rounds = argc > 1 ? strtol(argv[1], NULL, 10) : 40;
	struct err err;

	if (rounds < 1 || rounds > CIPHER_ROUNDS_MAX)
		rounds = 40;
	if (cipher_load(&err))
		floor_die_err(&err);
	cipher_measure(65536, (unsigned int)rounds);
	cipher_measure(16384, (unsigned int)rounds);
	cipher_measure(4096, (unsigned int)rounds);
	return 0;
}
