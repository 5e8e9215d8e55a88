// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// The remote serial protocol's framing; a payload that comes out goes back in unchanged.
#include <string.h>

#include "control/gdb_packet.h"

static void check_round_trip(const struct gdb_packet *packet)
{
	static struct gdb_packet again;
	struct buf frame = { 0 };
	size_t used;

	again = (struct gdb_packet){ 0 };
	if (gdb_packet_frame(&frame, packet->data, packet->len))
		__builtin_trap();
	if (gdb_packet_feed(&again, frame.data, frame.len, &used) != GDB_GOT_PACKET ||
	    again.len != packet->len || memcmp(again.data, packet->data, packet->len))
		__builtin_trap();
	buf_fini(&frame);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct gdb_packet packet;
	enum gdb_packet_event event;
	const char *text;
	uint64_t number;
	size_t used;

	packet = (struct gdb_packet){ 0 };
	while (size) {
		event = gdb_packet_feed(&packet, data, size, &used);
		if (used > size || packet.len > GDB_PACKET_MAX)
			__builtin_trap();
		if (event == GDB_GOT_PACKET) {
			text = (const char *)packet.data;
			gdb_hex_number(&text, &number);
			check_round_trip(&packet);
		}
		if (event == GDB_GOT_NOTHING)
			break;
		data += used;
		size -= used;
	}
	return 0;
}
