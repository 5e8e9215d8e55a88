/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The frames on a migration's three connections, which follow each one's
 * handshake (migrate/handshake.h). Everything here is pure: bytes in, values
 * out, nothing is read, sent or kept. All numbers are little endian.
 * docs/wire.md is the specification.
 */
#ifndef POSTERN_WIRE_FRAME_H
#define POSTERN_WIRE_FRAME_H

#include "base/err.h"
#include "base/types.h"

/* Peers of different majors refuse each other; a minor only adds what the other may ignore. */
#define WIRE_MAJOR 2
#define WIRE_MINOR 0

#define SESSION_BYTES 16

enum wire_channel {
	WIRE_CONTROL = 0,
	WIRE_URGENT = 1,
	WIRE_BULK = 2,
};
#define WIRE_CHANNELS 3
const char *wire_channel_name(enum wire_channel channel);

#define FRAME_BYTES 40
#define FRAME_MESSAGE_MAX (4u << 20)	/* payload bytes of a message */
#define FRAME_PAGES_MAX 128u		/* pages of one PAGES frame */
#define FRAME_ZERO_MAX 32768u		/* pages of one ZERO frame */
#define FRAME_REQUEST_MAX 512u		/* pages of one REQUEST frame */
#define FRAME_GFN_LIMIT (UINT64_C(1) << 40)	/* gfn + count may reach, not pass it */
/* Payload of a PAGES frame of n pages: n checksums, then n pages. */
#define FRAME_SUMS_BYTES(n) ((size_t)(n) * sizeof(uint64_t))
#define FRAME_PAGES_BYTES(n) (FRAME_SUMS_BYTES(n) + (size_t)(n) * PAGE_BYTES)

enum frame_type {
	FRAME_MESSAGE = 1,	/* an Envelope of migrate/wire.proto */
	FRAME_PAGES = 2,	/* pages with data */
	FRAME_ZERO = 3,		/* pages of zeros */
	FRAME_REQUEST = 4,	/* destination to source: somebody waits for these pages */
	FRAME_LOST = 5,		/* the source does not have this page */
};
const char *frame_type_name(enum frame_type type);

struct frame {
	enum frame_type type;
	uint32_t payload_bytes;
	uint32_t count;		/* pages */
	gfn_t gfn;
	uint64_t payload_sum;	/* xxh3_64 of a message's payload; 0 for PAGES, which have a checksum a page */
};

void frame_encode(const struct frame *frame, uint8_t out[FRAME_BYTES]);
/* Checks every field, also that sizes and counts fit the type. -EBADMSG with what is wrong. */
int frame_decode(struct frame *frame, const uint8_t in[FRAME_BYTES], struct err *err);

/*
 * Encodes the header of a message whose payload is `data`. -EMSGSIZE: more than
 * FRAME_MESSAGE_MAX, or none.
 */
int frame_encode_message(uint8_t out[FRAME_BYTES], const void *data, size_t len);
/*
 * Encodes header and checksums of n (at most FRAME_PAGES_MAX) pages; out has
 * FRAME_BYTES + FRAME_SUMS_BYTES(n).
 */
void frame_encode_pages(uint8_t *out, gfn_t first, uint32_t n, const uint8_t *pages);

/* A decoded header's payload against its checksums. -EBADMSG names the frame, and the page. */
int frame_check_message(const struct frame *frame, const void *payload, struct err *err);
int frame_check_pages(const struct frame *frame, const uint8_t *sums, const uint8_t *pages,
		      struct err *err);

#endif
