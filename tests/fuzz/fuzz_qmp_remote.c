// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// The QMP client against a server that sends the input and then no more. The
// first byte says what goes before it: nothing, a greeting, or a greeting and
// the reply to the negotiation, so that the input is heard at each place.
// Whatever comes, all calls return.
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "control/qmp_remote.h"
#include "tests/own_dir.h"

#define CALLS 4

static const char *const before[] = {
	"", "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n",
	"{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n{\"return\": {}, \"id\": 1}\r\n",
	"{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n{\"return\": {}, \"id\": 1}\r\n",
};

static int listener = -1;
static struct own_dir dir;
static char address[128];
/*
 * What the next client gets; handed over by its connect and the server's
 * accept, and the server's until it says that it is done.
 */
static sem_t done;
static const char *first;
static const uint8_t *input;
static size_t input_bytes;

static void *serve(void *arg)
{
	char heard[4096];
	int fd;

	while ((fd = accept(listener, NULL, NULL)) >= 0) {
		if (send(fd, first, strlen(first), MSG_NOSIGNAL) >= 0 && input_bytes &&
		    send(fd, input, input_bytes, MSG_NOSIGNAL) < 0)
			arg = NULL;
		shutdown(fd, SHUT_WR);
		while (recv(fd, heard, sizeof(heard), 0) > 0)
			;
		close(fd);
		sem_post(&done);
	}
	return arg;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	pthread_t thread;

	(void)argc;
	(void)argv;
	dir = own_dir_new();
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/qmp", dir.path);
	snprintf(address, sizeof(address), "unix:%s", addr.sun_path);
	sem_init(&done, 0, 0);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(listener, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(listener, 8) < 0 ||
	    pthread_create(&thread, NULL, serve, NULL))
		abort();
	return 0;
}

static void remove_socket(void)
{
	unlink(address + strlen("unix:"));
	own_dir_free(&dir);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static bool registered;
	struct qmp_remote *remote = NULL;
	json_t *result, *event;
	struct err err = { 0 };
	int i, r;

	if (!registered)
		atexit(remove_socket);
	registered = true;
	if (!size)
		return 0;
	first = before[data[0] % 4];
	input = data + 1;
	input_bytes = size - 1;
	r = qmp_remote_open(&remote, address, 1000, &err);
	for (i = 0; !r && i < CALLS; i++) {
		result = NULL;
		r = qmp_remote_call(remote, "query-status", NULL, &result, &err);
		json_decref(result);
		if (r == -EREMOTEIO)
			r = 0;
		while (!r && qmp_remote_event(remote, 0, &event, &err) > 0)
			json_decref(event);
	}
	if (r < 0 && !err.text[0])
		__builtin_trap();
	qmp_remote_free(remote);
	while (sem_wait(&done) < 0)
		;
	return 0;
}
