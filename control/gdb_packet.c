// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// See gdb_packet.h.
#include "control/gdb_packet.h"

#include <errno.h>
#include <stdio.h>

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static void packet_start(struct gdb_packet *packet)
{
	packet->state = GDB_PAYLOAD;
	packet->sum = 0;
	packet->len = 0;
	packet->too_long = false;
	packet->bad_escape = false;
}

static void packet_put(struct gdb_packet *packet, uint8_t c)
{
	if (packet->len == GDB_PACKET_MAX)
		packet->too_long = true;
	else
		packet->data[packet->len++] = c;
}

static enum gdb_packet_event take_idle(struct gdb_packet *packet, uint8_t c)
{
	switch (c) {
	case '$':
		packet_start(packet);
		return GDB_GOT_NOTHING;
	case '+':
		return GDB_GOT_ACK;
	case '-':
		return GDB_GOT_NAK;
	case 0x03:
		return GDB_GOT_INTERRUPT;
	default:
		return GDB_GOT_NOTHING;
	}
}

static void take_payload(struct gdb_packet *packet, uint8_t c)
{
	if (c == '$') {
		packet_start(packet);
		return;
	}
	if (c == '#') {
		packet->bad_escape = packet->state == GDB_ESCAPED;
		packet->state = GDB_SUM_HIGH;
		return;
	}
	packet->sum = (uint8_t)(packet->sum + c);
	if (packet->state == GDB_ESCAPED) {
		packet_put(packet, c ^ 0x20);
		packet->state = GDB_PAYLOAD;
	} else if (c == '}') {
		packet->state = GDB_ESCAPED;
	} else {
		packet_put(packet, c);
	}
}

static enum gdb_packet_event packet_finish(struct gdb_packet *packet, char low)
{
	int high = hex_digit(packet->sum_high), digit = hex_digit(low);

	packet->state = GDB_IDLE;
	packet->data[packet->len] = 0;
	if (high < 0 || digit < 0 || packet->bad_escape || (high << 4 | digit) != packet->sum)
		return GDB_GOT_BAD;
	return packet->too_long ? GDB_GOT_TOO_LONG : GDB_GOT_PACKET;
}

static enum gdb_packet_event packet_take(struct gdb_packet *packet, uint8_t c)
{
	switch (packet->state) {
	case GDB_IDLE:
		return take_idle(packet, c);
	case GDB_PAYLOAD:
	case GDB_ESCAPED:
		take_payload(packet, c);
		return GDB_GOT_NOTHING;
	case GDB_SUM_HIGH:
		packet->sum_high = (char)c;
		packet->state = GDB_SUM_LOW;
		return GDB_GOT_NOTHING;
	case GDB_SUM_LOW:
		break;
	}
	return packet_finish(packet, (char)c);
}

enum gdb_packet_event gdb_packet_feed(struct gdb_packet *packet, const uint8_t *data, size_t len,
				      size_t *used)
{
	enum gdb_packet_event event;
	size_t i;

	for (i = 0; i < len; i++) {
		event = packet_take(packet, data[i]);
		if (event != GDB_GOT_NOTHING) {
			*used = i + 1;
			return event;
		}
	}
	*used = len;
	return GDB_GOT_NOTHING;
}

int gdb_packet_frame(struct buf *out, const void *payload, size_t len)
{
	const uint8_t *from = payload;
	uint8_t *to = buf_reserve(out, 2 * len + 5), *first = to, sum = 0;
	size_t i;

	if (!to)
		return -ENOMEM;
	*to++ = '$';
	for (i = 0; i < len; i++) {
		if (from[i] == '#' || from[i] == '$' || from[i] == '}' || from[i] == '*') {
			*to++ = '}';
			*to++ = from[i] ^ 0x20;
			sum = (uint8_t)(sum + '}' + (from[i] ^ 0x20));
		} else {
			*to++ = from[i];
			sum = (uint8_t)(sum + from[i]);
		}
	}
	*to++ = '#';
	*to++ = (uint8_t)"0123456789abcdef"[sum >> 4];
	*to++ = (uint8_t)"0123456789abcdef"[sum & 15];
	out->len += (size_t)(to - first);
	return 0;
}

int gdb_hex_append(struct buf *out, const void *data, size_t len)
{
	const uint8_t *from = data;
	uint8_t *to = buf_reserve(out, 2 * len);
	size_t i;

	if (!to)
		return -ENOMEM;
	for (i = 0; i < len; i++) {
		to[2 * i] = (uint8_t)"0123456789abcdef"[from[i] >> 4];
		to[2 * i + 1] = (uint8_t)"0123456789abcdef"[from[i] & 15];
	}
	out->len += 2 * len;
	return 0;
}

bool gdb_hex_decode(const char *text, uint8_t *data, size_t len)
{
	int high, low;
	size_t i;

	for (i = 0; i < len; i++) {
		high = hex_digit(text[2 * i]);
		low = high < 0 ? -1 : hex_digit(text[2 * i + 1]);
		if (low < 0)
			return false;
		data[i] = (uint8_t)(high << 4 | low);
	}
	return text[2 * len] == '\0';
}

bool gdb_hex_number(const char **text, uint64_t *value)
{
	uint64_t v = 0;
	int digit, n;

	for (n = 0; (digit = hex_digit((*text)[n])) >= 0; n++) {
		if (n == 16)
			return false;
		v = v << 4 | (unsigned int)digit;
	}
	*text += n;
	*value = v;
	return n > 0;
}

bool gdb_hex_number_to(const char **text, uint64_t *value, char end)
{
	if (!gdb_hex_number(text, value) || **text != end)
		return false;
	if (end)
		(*text)++;
	return true;
}
