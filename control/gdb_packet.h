/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Framing of the gdb remote serial protocol (GDB manual, E.1 Overview):
 * $payload#checksum, escapes, acknowledgements, the interrupt byte; and the hex
 * forms that packets are written in. Pure: no I/O; one thread at a time.
 */
#ifndef POSTERN_CONTROL_GDB_PACKET_H
#define POSTERN_CONTROL_GDB_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

#define GDB_PACKET_MAX ((size_t)0x4000)	/* bytes of a payload, as PacketSize of qSupported says */

enum gdb_packet_state {
	GDB_IDLE,	/* between packets */
	GDB_PAYLOAD,
	GDB_ESCAPED,	/* after '}' */
	GDB_SUM_HIGH,	/* after '#' */
	GDB_SUM_LOW,
};

/* Zero-initialised it is ready. */
struct gdb_packet {
	enum gdb_packet_state state;
	uint8_t sum;		/* of the payload's raw bytes so far */
	char sum_high;
	bool too_long, bad_escape;
	size_t len;
	uint8_t data[GDB_PACKET_MAX + 1];	/* after GDB_GOT_PACKET: len bytes without escapes, then a 0 */
};

enum gdb_packet_event {
	GDB_GOT_NOTHING,	/* all input is used up */
	GDB_GOT_PACKET,
	GDB_GOT_ACK,		/* '+' */
	GDB_GOT_NAK,		/* '-': the other side wants the last packet again */
	GDB_GOT_INTERRUPT,	/* 0x03 */
	GDB_GOT_BAD,		/* a packet with a wrong or malformed checksum, or an escape cut short */
	GDB_GOT_TOO_LONG,	/* a sound packet of more than GDB_PACKET_MAX */
};

/*
 * Takes input up to the next event; *used gets how many bytes. Other bytes
 * between packets are dropped; a '$' inside a packet starts a new one (the
 * protocol escapes it, so the rest of the old one was lost).
 */
enum gdb_packet_event gdb_packet_feed(struct gdb_packet *packet, const uint8_t *data, size_t len,
				      size_t *used);

/* Appends a frame around the payload, escaped. 0 or -ENOMEM. */
int gdb_packet_frame(struct buf *out, const void *payload, size_t len);

/* Appends len bytes as 2 * len hex digits. 0 or -ENOMEM. */
int gdb_hex_append(struct buf *out, const void *data, size_t len);
/* Decodes exactly 2 * len hex digits; false: they are not. */
bool gdb_hex_decode(const char *text, uint8_t *data, size_t len);
/*
 * Reads a hex number of 1 to 16 digits at *text and moves *text behind it;
 * false: there is none, or it is larger.
 */
bool gdb_hex_number(const char **text, uint64_t *value);
/* As gdb_hex_number, and the character `end` after it, which is skipped unless it is 0. */
bool gdb_hex_number_to(const char **text, uint64_t *value, char end);

#endif
