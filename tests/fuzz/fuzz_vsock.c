// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// Virtio sockets: queues as a hostile driver wrote them (small.h), or a state
// as a hostile peer did, with somebody at the host who calls, sends, listens at
// port 1 and hangs up, as the second byte says; the first line that a host's
// client writes; the option.
#include <fcntl.h>
#include <linux/virtio_ring.h>
#include <linux/virtio_vsock.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "device/virtio/vsock_host.h"
#include "small.h"
#include "tests/own_dir.h"

#define ROUNDS 4
/*
 * The second byte. WELL_FORMED: the driver's rings are right, and the input
 * says which packets are sent.
 */
enum {
	HOST_CALLS = 1,
	HOST_SENDS = 2,
	HOST_ENDS = 4,
	HOST_ACCEPTS = 8,
	HOST_GREETS_ODDLY = 16,
	WELL_FORMED = 32
};

/* A driver that is right: so many entries, with buffers behind the rings. */
#define ENTRIES 8
#define BUFFERS_AT 0x1000
#define BUFFER_BYTES 0x100
#define HEADER sizeof(struct virtio_vsock_hdr)

static struct fuzz fuzz;
static int listener;
static uint32_t calls;		/* of the host's, so far: which port the next one has */
static struct own_dir dir;
static struct sockaddr_un address = { .sun_family = AF_UNIX }, at = { .sun_family = AF_UNIX };

static void remove_listener(void)
{
	unlink(at.sun_path);
	unlink(address.sun_path);
	own_dir_free(&dir);
}

static void set_up(void)
{
	char text[96];

	dir = own_dir_new();
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/vsock", dir.path);
	snprintf(text, sizeof(text), "cid=3,socket=%s", address.sun_path);
	fuzz_set_up(&fuzz, &vsock_type, text);
	snprintf(at.sun_path, sizeof(at.sun_path), "%s/vsock_1", dir.path);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (bind(listener, (struct sockaddr *)&at, sizeof(at)) || listen(listener, 64))
		abort();
	atexit(remove_listener);
}

static void parse(const uint8_t *data, size_t size)
{
	struct vsock_options options;
	char text[256] = { 0 };
	uint32_t port;
	struct err err;

	vsock_connect_parse((const char *)data, size < VSOCK_LINE_MAX ? size : VSOCK_LINE_MAX,
			    &port);
	memcpy(text, data, size < sizeof(text) ? size : sizeof(text) - 1);
	vsock_options_parse(&options, text, &err);
}

static int call(uint8_t how, const uint8_t *data, size_t size)
{
	static const uint8_t bytes[4096];
	int fd = how & HOST_CALLS ? socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0) :
				    -1;

	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return fd;
	if (how & HOST_GREETS_ODDLY)
		send(fd, data, size < 64 ? size : 64, MSG_NOSIGNAL);
	else
		calls += send(fd, "CONNECT 1\n", 10, MSG_NOSIGNAL) > 0;
	if (how & HOST_SENDS)
		send(fd, bytes, sizeof(bytes), MSG_NOSIGNAL);
	if (how & HOST_ENDS)
		shutdown(fd, SHUT_WR);
	return fd;
}

/* Queue q's entries are available once more, each with the buffer of the same number. */
static void make_available(unsigned int q, uint32_t len)
{
	struct vring_desc *desc = (struct vring_desc *)(void *)(fuzz.ram + q * QUEUE_BYTES);
	uint16_t *avail = (uint16_t *)(void *)(fuzz.ram + q * QUEUE_BYTES + DRIVER_AT);
	unsigned int i;

	for (i = 0; i < ENTRIES; i++) {
		desc[i] = (struct vring_desc){ BUFFERS_AT + (q * ENTRIES + i) * BUFFER_BYTES, len,
					       q == 1 ? 0 : VRING_DESC_F_WRITE, 0 };
		avail[2 + i] = (uint16_t)i;
	}
	avail[1] = (uint16_t)(avail[1] + ENTRIES);
}

/* Packets of eight bytes of input each: what is no field of it is right. */
static void send_packets(const uint8_t *data, size_t size)
{
	unsigned int i;

	for (i = 0; i < ENTRIES; i++, data += 8) {
		struct virtio_vsock_hdr h = {
			.src_cid = 3, .dst_cid = 2, .type = VIRTIO_VSOCK_TYPE_STREAM, .op = VIRTIO_VSOCK_OP_CREDIT_UPDATE,
			.dst_port = 1, .src_port = 1,
		};

		if (size >= 8) {
			h.op = data[0] % 9;
			h.flags = data[1];
			h.src_port = data[2] % 4;
			/* Of those that the host begins, too. */
			h.dst_port = data[3] & 128 ? (UINT32_C(1) << 30) + calls - data[3] % 4 :
						     data[3] % 4;
			h.len = data[4] % (BUFFER_BYTES - (uint32_t)HEADER + 1);
			h.buf_alloc = data[5] * 64u;
			h.fwd_cnt = data[6] * 16u;
			h.type = data[7] == 255 ? 2 : VIRTIO_VSOCK_TYPE_STREAM;
			size -= 8;
		}
		memcpy(fuzz.ram + BUFFERS_AT + (ENTRIES + i) * BUFFER_BYTES, &h, sizeof(h));
	}
	make_available(1, BUFFER_BYTES);
}

/* As the host's programs and the guest's take turns. */
static void be_well_formed(uint8_t how, const uint8_t *data, size_t size)
{
	unsigned int round;
	size_t part;
	int peer;

	memset(fuzz.ram, 0, CONTENT_MAX);
	vdev_start(fuzz.dev);
	/* 8 entries, a split ring. */
	fuzz_start(&fuzz, 0x10, 0);
	for (round = 0; round < ROUNDS; round++) {
		part = size < 8 * ENTRIES ? size : 8 * ENTRIES;
		if (how & 1u << 6 || round % 2)
			make_available(0, how & 128 ? HEADER + 1 : BUFFER_BYTES);
		make_available(2, 8);
		send_packets(data, part);
		data += part;
		size -= part;
		fuzz_run(&fuzz, 2);
		peer = how & HOST_ACCEPTS ?
			       accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC) :
			       -1;
		if (peer >= 0 && how & HOST_SENDS)
			send(peer, "answer", 6, MSG_NOSIGNAL);
		if (peer >= 0 && how & HOST_ENDS)
			shutdown(peer, SHUT_WR);
		fuzz_run(&fuzz, 1);
		if (peer >= 0)
			close(peer);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd, peer = -1;

	if (!fuzz.dev)
		set_up();
	if (size < 2)
		return 0;
	parse(data, size);
	fd = call(data[1], data + 2, size - 2);
	uv_run(loop_uv(fuzz.loop), UV_RUN_NOWAIT);
	uv_run(loop_uv(fuzz.loop), UV_RUN_NOWAIT);
	if (data[1] & WELL_FORMED)
		be_well_formed(data[1], data + 2, size - 2);
	else
		fuzz_begin(&fuzz, data[0], 0, data + 2, size - 2);
	fuzz_run(&fuzz, ROUNDS / 2);
	if (data[1] & HOST_ACCEPTS)
		peer = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (peer >= 0 && data[1] & HOST_SENDS)
		send(peer, "answer", 6, MSG_NOSIGNAL);
	if (peer >= 0 && data[1] & HOST_ENDS)
		close(peer), peer = -1;
	fuzz_run(&fuzz, ROUNDS / 2);
	if (fd >= 0)
		close(fd);
	if (peer >= 0)
		close(peer);
	fuzz_run(&fuzz, 1);
	fuzz_end(&fuzz);
	/* Connections are closed on the loop. */
	uv_run(loop_uv(fuzz.loop), UV_RUN_NOWAIT);
	uv_run(loop_uv(fuzz.loop), UV_RUN_NOWAIT);
	while ((peer = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
		close(peer);
	return 0;
}
