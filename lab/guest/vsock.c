// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * vsock: a guest program that speaks over virtio's sockets, since nothing else
 * in the guest can.
 *
 *     vsock echo PORT              serves for ever: sends back what comes, up to the end, each connection a thread
 *     vsock send PORT BYTES        connects to the host's PORT, sends so many bytes, ends its direction, and must get the same back
 *     vsock rounds PORT            the same for ever, 64 KiB a round; a connection that is lost is made anew
 *
 * send prints `vsock send well`, or what is wrong, and ends with 1. rounds
 * prints `vsock round N well` (or `BAD`), and `vsock lost` whenever it has to
 * connect anew.
 */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

enum { CHUNK = 16384, ROUND = 65536, RETRY_US = 100000 };

static void *echo(void *arg)
{
	int fd = (int)(intptr_t)arg;
	static __thread uint8_t data[CHUNK];
	ssize_t n, at, sent;

	while ((n = read(fd, data, sizeof(data))) > 0)
		for (at = 0; at < n; at += sent) {
			sent = write(fd, data + at, (size_t)(n - at));
			if (sent <= 0)
				goto out;
		}
out:
	close(fd);
	return NULL;
}

static int serve(unsigned int port)
{
	struct sockaddr_vm address = { .svm_family = AF_VSOCK,
				       .svm_cid = VMADDR_CID_ANY,
				       .svm_port = port };
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
	pthread_t thread;

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 16)) {
		perror("vsock echo");
		return 1;
	}
	printf("vsock echo ready\n");
	fflush(stdout);
	for (;;) {
		int peer = accept(fd, NULL, NULL);

		if (peer < 0)
			continue;
		if (pthread_create(&thread, NULL, echo, (void *)(intptr_t)peer))
			close(peer);
		else
			pthread_detach(thread);
	}
}

static int dial(unsigned int port)
{
	struct sockaddr_vm address = { .svm_family = AF_VSOCK,
				       .svm_cid = VMADDR_CID_HOST,
				       .svm_port = port };
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address))) {
		close(fd);
		return -1;
	}
	return fd;
}

static uint8_t byte_of(uint64_t at, uint64_t round)
{
	return (uint8_t)((at * 131 + (at >> 8) * 7 + round) & 0xff);
}

/*
 * 0 well, -1 lost, 1 wrong. Sends a chunk, reads a chunk: no more is under way
 * than both sides have room for.
 */
static int exchange(int fd, uint64_t bytes, uint64_t round, bool end)
{
	static uint8_t data[CHUNK], back[CHUNK];
	uint64_t at;
	size_t n, done, i;
	ssize_t got;

	for (at = 0; at < bytes; at += n) {
		n = bytes - at < CHUNK ? (size_t)(bytes - at) : CHUNK;
		for (i = 0; i < n; i++)
			data[i] = byte_of(at + i, round);
		for (done = 0; done < n; done += (size_t)got) {
			got = send(fd, data + done, n - done, MSG_NOSIGNAL);
			if (got <= 0)
				return -1;
		}
		if (end && at + n == bytes)
			shutdown(fd, SHUT_WR);
		for (done = 0; done < n; done += (size_t)got) {
			got = recv(fd, back + done, n - done, 0);
			if (got <= 0)
				return -1;
		}
		if (memcmp(data, back, n))
			return 1;
	}
	/* The other side ends as well. */
	return end && recv(fd, back, 1, 0) != 0 ? 1 : 0;
}

static int send_once(unsigned int port, uint64_t bytes)
{
	int fd = dial(port), r;

	if (fd < 0) {
		printf("vsock send: cannot connect: %s\n", strerror(errno));
		return 1;
	}
	r = exchange(fd, bytes, 0, true);
	printf("vsock send %s\n", r == 0 ? "well" : r < 0 ? "lost" : "BAD");
	close(fd);
	return r != 0;
}

static void __attribute__((noreturn)) rounds(unsigned int port)
{
	uint64_t round = 0;
	int fd = -1, r;

	for (;;) {
		if (fd < 0)
			fd = dial(port);
		if (fd < 0) {
			usleep(RETRY_US);
			continue;
		}
		r = exchange(fd, ROUND, round, false);
		if (r < 0) {
			printf("vsock lost\n");
			close(fd);
			fd = -1;
		} else {
			printf("vsock round %llu %s\n", (unsigned long long)round++,
			       r ? "BAD" : "well");
		}
		fflush(stdout);
	}
}

int main(int argc, char **argv)
{
	unsigned int port = argc > 2 ? (unsigned int)strtoul(argv[2], NULL, 10) : 0;

	if (argc == 3 && !strcmp(argv[1], "echo"))
		return serve(port);
	if (argc == 4 && !strcmp(argv[1], "send"))
		return send_once(port, strtoull(argv[3], NULL, 10));
	if (argc == 3 && !strcmp(argv[1], "rounds"))
		rounds(port);
	fprintf(stderr, "usage: vsock echo PORT | send PORT BYTES | rounds PORT\n");
	return 1;
}
