// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// The messages with which a guest's kernel comes, one after the other: two bytes
// of length, and an Envelope. What is kept at the end is what was announced.
#include <sys/stat.h>

#include "migrate/boot_receiver.h"

#define LIMIT (UINT64_C(1) << 20)

static void check(const struct boot_receiver *r)
{
	struct stat kernel = { 0 }, initrd = { 0 };

	if (r->files.type == BOOT_FILES && fstat(r->files.kernel.fd, &kernel))
		__builtin_trap();
	if (r->files.initrd.fd >= 0 && fstat(r->files.initrd.fd, &initrd))
		__builtin_trap();
	if ((uint64_t)kernel.st_size != r->bytes[0] || (uint64_t)initrd.st_size != r->bytes[1] ||
	    r->bytes[0] + r->bytes[1] > LIMIT)
		__builtin_trap();
}

/* Returns what the receiver does. */
static int take(struct boot_receiver *r, const wire_message *message, enum boot_type type,
		struct err *err)
{
	switch (message->body_case) {
	case WIRE(BOOT):
		return boot_receiver_take_boot(r, message->boot, type, LIMIT, err);
	case WIRE(BOOT_DATA):
		return boot_receiver_take_data(r, message->boot_data, err);
	case WIRE(BOOT_END):
		if (boot_receiver_take_end(r, message->boot_end, err) < 0)
			return err->code;
		check(r);
		return 0;
	default:
		return 0;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct boot_receiver receiver;
	wire_message *message;
	enum boot_type type;
	struct err err;
	size_t len;
	int r = 0;

	if (!size)
		return 0;
	type = *data & 1 ? BOOT_FILES : BOOT_DISK;
	data++;
	size--;
	boot_receiver_init(&receiver);
	while (size >= 2 && !r) {
		len = data[0] | (size_t)data[1] << 8;
		len = len < size - 2 ? len : size - 2;
		message = message_unpack(data + 2, len, NULL);
		r = message ? take(&receiver, message, type, &err) : 0;
		if (message)
			message_free(message);
		data += 2 + len;
		size -= 2 + len;
	}
	boot_receiver_fini(&receiver);
	return 0;
}
