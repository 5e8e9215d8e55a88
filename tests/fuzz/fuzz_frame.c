// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// A peer's bytes: a frame's header. What decodes must encode to the same, and
// its sizes must be what they claim.
#include <string.h>

#include "wire/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t out[FRAME_BYTES];
	struct frame frame;
	struct err err;

	if (size < FRAME_BYTES || frame_decode(&frame, data, &err))
		return 0;
	if (frame.payload_bytes > FRAME_MESSAGE_MAX ||
	    (frame.type == FRAME_PAGES && frame.payload_bytes != FRAME_PAGES_BYTES(frame.count)) ||
	    frame.gfn.v + frame.count > FRAME_GFN_LIMIT)
		__builtin_trap();
	frame_encode(&frame, out);
	if (memcmp(out, data, FRAME_BYTES))
		__builtin_trap();
	if (frame.type == FRAME_MESSAGE && size - FRAME_BYTES >= frame.payload_bytes)
		frame_check_message(&frame, data + FRAME_BYTES, &err);
	return 0;
}
