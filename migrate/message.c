// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "migrate/message.h"

#include <errno.h>

#include "base/proto.h"

/*
 * Of a Hello with eight ranges of memory, and as much again, and again, for
 * what later versions add.
 */
#define FIELDS_MAX 128u

const char *message_name(wire_body body)
{
	static const char *const names[] = {
		[WIRE(_NOT_SET)] = "unknown",
		[WIRE(HELLO)] = "Hello",
		[WIRE(HELLO_REPLY)] = "HelloReply",
		[WIRE(STATE)] = "State",
		[WIRE(STATE_REPLY)] = "StateReply",
		[WIRE(RUN)] = "Run",
		[WIRE(RUN_REPLY)] = "RunReply",
		[WIRE(RESUME)] = "Resume",
		[WIRE(RESUME_REPLY)] = "ResumeReply",
		[WIRE(MISSING)] = "Missing",
		[WIRE(MISSING_END)] = "MissingEnd",
		[WIRE(RESUME_ACK)] = "ResumeAck",
		[WIRE(COMPLETE)] = "Complete",
		[WIRE(COMPLETE_ACK)] = "CompleteAck",
		[WIRE(PING)] = "Ping",
		[WIRE(PONG)] = "Pong",
		[WIRE(ABORT)] = "Abort",
		[WIRE(BOOT)] = "Boot",
		[WIRE(BOOT_DATA)] = "BootData",
		[WIRE(BOOT_END)] = "BootEnd",
		[WIRE(BOOT_REPLY)] = "BootReply",
	};

	return (unsigned int)body < sizeof(names) / sizeof(*names) ? names[body] : "unknown";
}

int message_pack(struct buf *out, wire_body body, const void *content)
{
	wire_message message = POSTERN__WIRE__ENVELOPE__INIT;
	uint8_t *to;
	size_t len;

	message.body_case = body;
	/* Every member of the union is a pointer to the body's struct. */
	message.hello = (Postern__Wire__Hello *)(uintptr_t)content;
	len = postern__wire__envelope__get_packed_size(&message);
	to = buf_reserve(out, len);
	if (!to)
		return -ENOMEM;
	out->len += postern__wire__envelope__pack(&message, to);
	return 0;
}

wire_message *message_unpack(const uint8_t *data, size_t len, struct err *err)
{
	return proto_unpack(&postern__wire__envelope__descriptor, data, len, FIELDS_MAX, err);
}

void message_free(wire_message *message)
{
	postern__wire__envelope__free_unpacked(message, NULL);
}

Postern__Wire__BootType boot_type_to_wire(enum boot_type type)
{
	switch (type) {
	case BOOT_FILES:
		return POSTERN__WIRE__BOOT_TYPE__BOOT_FILES;
	case BOOT_DISK:
		return POSTERN__WIRE__BOOT_TYPE__BOOT_DISK;
	default:
		return POSTERN__WIRE__BOOT_TYPE__BOOT_NOTHING;
	}
}

bool boot_type_from_wire(enum boot_type *type, Postern__Wire__BootType wire)
{
	switch (wire) {
	case POSTERN__WIRE__BOOT_TYPE__BOOT_NOTHING:
		*type = BOOT_NOTHING;
		return true;
	case POSTERN__WIRE__BOOT_TYPE__BOOT_FILES:
		*type = BOOT_FILES;
		return true;
	case POSTERN__WIRE__BOOT_TYPE__BOOT_DISK:
		*type = BOOT_DISK;
		return true;
	default:
		return false;
	}
}

const char *message_peer_text(char out[PEER_TEXT_BYTES], const char *text)
{
	size_t i;

	for (i = 0; text && text[i] && i < PEER_TEXT_BYTES - 1; i++)
		out[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
	out[i] = 0;
	return out;
}
