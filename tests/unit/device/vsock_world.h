/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A virtio socket device between a guest's driver and the host's programs, both
 * of which are the test.
 */
#ifndef POSTERN_TESTS_DEVICE_VSOCK_WORLD_H
#define POSTERN_TESTS_DEVICE_VSOCK_WORLD_H

#include <linux/virtio_vsock.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "device/virtio/vsock_conn.h"
#include "small.h"
#include "tests/own_dir.h"

enum { RX, TX, EVENT };

#define CID 7
#define HEADER sizeof(struct virtio_vsock_hdr)
#define RX_BYTES 4096u
#define RX_AT(id) (SMALL_DATA + 0x10000 * (uint64_t)(id))
#define TX_AT (SMALL_DATA + 0x800000)

/* The device, its socket's path, and the guest's side of one connection. */
struct world {
	struct small *s;
	struct own_dir dir;
	char path[64];
	int listener;
	uint32_t host_port, guest_port, alloc, gone;
};

/* A packet that has come to the guest. */
struct packet {
	struct virtio_vsock_hdr h;
	uint8_t data[RX_BYTES];
};

static inline void give_buffer(struct world *w)
{
	struct driver *d = &w->s->driver[RX];
	const struct driver_buf buf = { RX_AT(d->next), RX_BYTES, true };

	driver_add(d, &buf, 1, 0);
	small_notify(w->s, RX);
}

static inline struct world world_late(bool late)
{
	struct world w = { .listener = -1, .alloc = 1 << 20 };
	char text[96];

	w.dir = own_dir_new();
	snprintf(w.path, sizeof(w.path), "%s/vsock", w.dir.path);
	snprintf(text, sizeof(text), "cid=%d,socket=%s", CID, w.path);
	w.s = small_new(&vsock_type, text, late);
	return w;
}

static inline struct world world_new(unsigned int buffers)
{
	struct world w = world_late(false);

	small_start(w.s, 0);
	while (buffers--)
		give_buffer(&w);
	return w;
}

static inline void world_free(struct world *w)
{
	char path[80];

	small_free(w->s);
	assert_int_equal(access(w->path, F_OK), -1);
	if (w->listener >= 0) {
		close(w->listener);
		snprintf(path, sizeof(path), "%s_7000", w->path);
		unlink(path);
	}
	own_dir_free(&w->dir);
}

/* ---- the guest ---- */

static inline void guest_send(struct world *w, unsigned int op, uint32_t flags, const void *data,
			      uint32_t len)
{
	struct virtio_vsock_hdr h = {
		.src_cid = CID, .dst_cid = 2, .src_port = w->guest_port, .dst_port = w->host_port, .len = len,
		.type = VIRTIO_VSOCK_TYPE_STREAM, .op = (uint16_t)op, .flags = flags, .buf_alloc = w->alloc, .fwd_cnt = w->gone,
	};
	const struct driver_buf bufs[] = { { TX_AT, HEADER, false }, { TX_AT + 0x1000, len, false } };
	uint32_t used;

	memcpy(w->s->ram + TX_AT, &h, sizeof(h));
	if (len)
		memcpy(w->s->ram + TX_AT + 0x1000, data, len);
	driver_add(&w->s->driver[TX], bufs, len ? 2 : 1, 0);
	small_notify(w->s, TX);
	small_until(w->s, driver_used(&w->s->driver[TX], 1, &used) >= 0);
}

/* The next packet; the guest has its buffer back when it is read. */
static inline struct packet guest_receive(struct world *w)
{
	static struct packet p;
	uint32_t len;
	int id;

	small_until(w->s, (id = driver_used(&w->s->driver[RX], 1, &len)) >= 0);
	assert_true(len >= HEADER && len <= RX_BYTES);
	memcpy(&p, w->s->ram + RX_AT(id), len);
	assert_int_equal(p.h.src_cid, 2);
	assert_int_equal(p.h.dst_cid, CID);
	assert_int_equal(p.h.len, len - HEADER);
	assert_int_equal(p.h.type, VIRTIO_VSOCK_TYPE_STREAM);
	give_buffer(w);
	return p;
}

static inline struct packet expect_op(struct world *w, unsigned int op)
{
	struct packet p = guest_receive(w);

	assert_int_equal(p.h.op, op);
	assert_int_equal(p.h.dst_port, w->guest_port);
	return p;
}

static inline void expect_silence(struct world *w)
{
	uint32_t len;

	small_turn(w->s);
	assert_int_equal(driver_used(&w->s->driver[RX], 1, &len), -1);
}

/* ---- the host ---- */

static inline int host_dial(struct world *w)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	strcpy(address.sun_path, w->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

static inline void host_listen(struct world *w)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	w->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s_7000", w->path);
	unlink(address.sun_path);
	assert_int_equal(bind(w->listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(w->listener, 4), 0);
}

/* Reads len bytes; how many came before the end. */
static inline size_t host_read(struct world *w, int fd, void *to, size_t len)
{
	size_t got = 0;
	ssize_t n = 1;

	small_until(w->s, ({
		n = recv(fd, (uint8_t *)to + got, len - got, MSG_DONTWAIT);
		got += n > 0 ? (size_t)n : 0;
		n == 0 || got == len || (n < 0 && errno != EAGAIN);
	}));
	return got;
}

static inline void expect_end(struct world *w, int fd)
{
	uint8_t byte;

	assert_int_equal(host_read(w, fd, &byte, 1), 0);
}

/* The host calls the guest's port 5000, which accepts. */
static inline int host_calls(struct world *w)
{
	int fd = host_dial(w);
	struct packet p;
	char line[32] = { 0 }, want[32];

	assert_int_equal(write(fd, "CONNECT 5000\n", 13), 13);
	w->guest_port = 5000;
	p = expect_op(w, VIRTIO_VSOCK_OP_REQUEST);
	w->host_port = p.h.src_port;
	assert_int_equal(p.h.buf_alloc, VSOCK_BUFFER_BYTES);
	guest_send(w, VIRTIO_VSOCK_OP_RESPONSE, 0, NULL, 0);
	snprintf(want, sizeof(want), "OK %u\n", w->host_port);
	assert_int_equal(host_read(w, fd, line, strlen(want)), strlen(want));
	assert_string_equal(line, want);
	return fd;
}

/* The guest calls the host's port 7000, where somebody listens. */
static inline int guest_calls(struct world *w)
{
	int fd = -1;

	if (w->listener < 0)
		host_listen(w);
	w->host_port = 7000;
	w->guest_port = 1234;
	guest_send(w, VIRTIO_VSOCK_OP_REQUEST, 0, NULL, 0);
	expect_op(w, VIRTIO_VSOCK_OP_RESPONSE);
	small_until(w->s, (fd = accept4(w->listener, NULL, NULL, SOCK_NONBLOCK)) >= 0);
	return fd;
}

#endif
