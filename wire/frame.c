// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Every field is written and read by itself at a fixed offset, so that neither
 * the compiler's layout nor the host's byte order gets onto the wire.
 *
 *   frame:   0 magic 4, 4 type 2, 6 flags 2, 8 payload bytes 4, 12 count 4, 16 gfn 8, 24 payload sum 8, 32 sum 8
 */
#include "wire/frame.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
/* Picks the widest vectors that the CPU has, where the library was built with them. */
#ifdef HAVE_XXH_DISPATCH
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

#include "base/bytes.h"

#define FRAME_MAGIC 0x46545350u	/* "PSTF" */

static uint64_t sum(const void *data, size_t len)
{
	return XXH3_64bits(data, len);
}

const char *wire_channel_name(enum wire_channel channel)
{
	static const char *const names[] = { "control", "urgent", "bulk" };

	return (unsigned int)channel < WIRE_CHANNELS ? names[channel] : "unknown";
}

const char *frame_type_name(enum frame_type type)
{
	static const char *const names[] = { "?", "MESSAGE", "PAGES", "ZERO", "REQUEST", "LOST" };

	return (unsigned int)type < sizeof(names) / sizeof(*names) ? names[type] : "?";
}

void frame_encode(const struct frame *frame, uint8_t out[FRAME_BYTES])
{
	put32(out, FRAME_MAGIC);
	put16(out + 4, (uint16_t)frame->type);
	put16(out + 6, 0);
	put32(out + 8, frame->payload_bytes);
	put32(out + 12, frame->count);
	put64(out + 16, frame->gfn.v);
	put64(out + 24, frame->payload_sum);
	put64(out + 32, sum(out, 32));
}

/* Do count, sizes and checksum fit the type? */
static int frame_check_shape(const struct frame *frame, struct err *err)
{
	uint32_t max = 0;

	switch (frame->type) {
	case FRAME_MESSAGE:
		if (frame->payload_bytes < 1 || frame->payload_bytes > FRAME_MESSAGE_MAX)
			return err_set(err, -EBADMSG,
				       "MESSAGE frame of %u bytes, 1 to %u are allowed",
				       frame->payload_bytes, FRAME_MESSAGE_MAX);
		if (frame->count || frame->gfn.v)
			return err_set(err, -EBADMSG, "MESSAGE frame with a page number");
		return 0;
	case FRAME_PAGES:
		max = FRAME_PAGES_MAX;
		break;
	case FRAME_ZERO:
		max = FRAME_ZERO_MAX;
		break;
	case FRAME_REQUEST:
		max = FRAME_REQUEST_MAX;
		break;
	case FRAME_LOST:
		max = 1;
		break;
	default:
		return err_set(err, -EBADMSG, "frame of unknown type %u",
			       (unsigned int)frame->type);
	}
	if (frame->count < 1 || frame->count > max)
		return err_set(err, -EBADMSG, "%s frame of %u pages, 1 to %u are allowed",
			       frame_type_name(frame->type), frame->count, max);
	if (frame->gfn.v > FRAME_GFN_LIMIT - frame->count)
		return err_set(err, -EBADMSG, "%s frame of page 0x%" PRIx64 ", which cannot be",
			       frame_type_name(frame->type), frame->gfn.v);
	if (frame->payload_sum ||
	    frame->payload_bytes !=
		    (frame->type == FRAME_PAGES ? FRAME_PAGES_BYTES(frame->count) : 0))
		return err_set(err, -EBADMSG, "%s frame of %u pages with %u bytes of payload",
			       frame_type_name(frame->type), frame->count, frame->payload_bytes);
	return 0;
}

int frame_decode(struct frame *frame, const uint8_t in[FRAME_BYTES], struct err *err)
{
	if (get32(in) != FRAME_MAGIC)
		return err_set(err, -EBADMSG, "no frame where one must begin (found 0x%08x)",
			       get32(in));
	if (get64(in + 32) != sum(in, 32))
		return err_set(err, -EBADMSG, "damaged frame header (checksum)");
	if (get16(in + 6))
		return err_set(err, -EBADMSG, "frame with unknown flags 0x%x", get16(in + 6));
	*frame = (struct frame){
		.type = (enum frame_type)get16(in + 4),
		.payload_bytes = get32(in + 8),
		.count = get32(in + 12),
		.gfn = GFN(get64(in + 16)),
		.payload_sum = get64(in + 24),
	};
	return frame_check_shape(frame, err);
}

int frame_encode_message(uint8_t out[FRAME_BYTES], const void *data, size_t len)
{
	struct frame frame = { .type = FRAME_MESSAGE };

	if (len < 1 || len > FRAME_MESSAGE_MAX)
		return -EMSGSIZE;
	frame.payload_bytes = (uint32_t)len;
	frame.payload_sum = sum(data, len);
	frame_encode(&frame, out);
	return 0;
}

void frame_encode_pages(uint8_t *out, gfn_t first, uint32_t n, const uint8_t *pages)
{
	struct frame frame = { .type = FRAME_PAGES, .count = n, .gfn = first };
	uint32_t i;

	assert(n >= 1 && n <= FRAME_PAGES_MAX);
	frame.payload_bytes = (uint32_t)FRAME_PAGES_BYTES(n);
	frame_encode(&frame, out);
	for (i = 0; i < n; i++)
		put64(out + FRAME_BYTES + FRAME_SUMS_BYTES(i),
		      sum(pages + i * PAGE_BYTES, PAGE_BYTES));
}

int frame_check_message(const struct frame *frame, const void *payload, struct err *err)
{
	if (frame->payload_sum != sum(payload, frame->payload_bytes))
		return err_set(err, -EBADMSG, "damaged message of %u bytes (checksum)",
			       frame->payload_bytes);
	return 0;
}

int frame_check_pages(const struct frame *frame, const uint8_t *sums, const uint8_t *pages,
		      struct err *err)
{
	uint32_t i;

	for (i = 0; i < frame->count; i++)
		if (get64(sums + FRAME_SUMS_BYTES(i)) != sum(pages + i * PAGE_BYTES, PAGE_BYTES))
			return err_set(err, -EBADMSG, "damaged page 0x%" PRIx64 " (checksum)",
				       frame->gfn.v + i);
	return 0;
}
