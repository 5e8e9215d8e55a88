// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// A virtio console's queues, as a hostile driver wrote them (small.h), or its
// state as a hostile peer did. The second byte says how much input lies at the
// console's socket meanwhile.
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "small.h"
#include "tests/own_dir.h"

#define ROUNDS 4

static struct fuzz fuzz;
static int client;

static void set_up(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct own_dir dir = own_dir_new();
	char text[64];

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/console", dir.path);
	snprintf(text, sizeof(text), "unix:%s", address.sun_path);
	fuzz_set_up(&fuzz, &console_type, text);
	client = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (connect(client, (struct sockaddr *)&address, sizeof(address)))
		abort();
	unlink(address.sun_path);
	own_dir_free(&dir);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t bytes[65536];

	if (!fuzz.dev)
		set_up();
	if (size < 2)
		return 0;
	/* What is full stays so: also a case. */
	if (write(client, bytes, 16u * data[1]) < 0 && data[1] == 0)
		__builtin_trap();
	fuzz_begin(&fuzz, data[0], 0, data + 2, size - 2);
	fuzz_run(&fuzz, ROUNDS);
	fuzz_end(&fuzz);
	while (data[1] & 1 && read(client, bytes, sizeof(bytes)) > 0)
		;
	memset(bytes, 0, sizeof(bytes));
	return 0;
}
