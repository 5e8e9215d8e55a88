// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "net_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int device_new(struct rig *r, const char *text, const char *machine, struct err *err)
{
	const struct vdev_env env = {
		.mem = r->mem, .loop = r->loop, .cpus = 1, .machine = machine, .msi = { &fake_msi_ops, &r->msi },
	};
	int ret = net_type.make(&r->dev, &env, text, 0, err);

	if (ret < 0)
		return ret;
	r->host = bridge_new();
	bridge_add(r->host, r->dev);
	return 0;
}

void device_free(struct rig *r)
{
	vdev_free(r->dev);
	assert_int_equal(r->msi.open, 0);
	pci_host_free(r->host);
	if (r->peer >= 0)
		close(r->peer);
}

struct rig *rig_bare(bool late)
{
	struct memory *mem;
	uint8_t *ram = ram_new(&mem, RAM_BYTES, late);
	struct rig *r = calloc(1, sizeof(*r));

	assert_non_null(r);
	r->mem = mem;
	r->ram = ram;
	r->peer = -1;
	assert_int_equal(loop_new(&r->loop, NULL), 0);
	return r;
}

void rig_bare_free(struct rig *r)
{
	ram_free(r->mem);
	assert_true(loop_free(r->loop));
	free(r);
}

void device_on_socket(struct rig *r, int type)
{
	int fds[2], size = 8192;
	struct err err;
	char text[64];

	assert_int_equal(socketpair(AF_UNIX, type, 0, fds), 0);
	setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	fcntl(fds[1], F_SETFL, O_NONBLOCK);
	r->peer = fds[1];
	snprintf(text, sizeof(text), "fd=%d,mac=" MAC, fds[0]);
	if (device_new(r, text, NULL, &err) < 0)
		fail_msg("%s", err.text);
	vdev_start(r->dev);
}

struct rig *rig_new(int type, bool late)
{
	struct rig *r = rig_bare(late);

	device_on_socket(r, type);
	return r;
}

void rig_free(struct rig *r)
{
	device_free(r);
	rig_bare_free(r);
}

void assert_idle(struct rig *r)
{
	struct pollfd p = { .fd = uv_backend_fd(loop_uv(r->loop)), .events = POLLIN };

	turns(r->loop);
	assert_int_equal(poll(&p, 1, 0), 0);
	assert_int_equal(uv_backend_timeout(loop_uv(r->loop)), -1);
}

/* ---- registers ---- */

uint64_t get(struct rig *r, uint64_t at, unsigned int size)
{
	return bridge_get(r->host, at, size);
}

void put(struct rig *r, uint64_t at, uint64_t value, unsigned int size)
{
	bridge_put(r->host, at, value, size);
}

uint8_t status(struct rig *r)
{
	return (uint8_t)get(r, VIRTIO_PCI_COMMON_STATUS, 1);
}

void set_status(struct rig *r, unsigned int value)
{
	put(r, VIRTIO_PCI_COMMON_STATUS, value, 1);
}

uint64_t features(struct rig *r)
{
	return bridge_features(r->host, 0);
}

uint16_t link_status(struct rig *r)
{
	return (uint16_t)get(r, DEVICE_AT + 6, 2);
}

void driver_start(struct rig *r, uint64_t with)
{
	unsigned int i;

	bridge_vectors(r->host, 1, 0, QUEUES + 1);
	bridge_accept(r->host, 0, VERSION | with);
	assert_true(status(r) & VIRTIO_CONFIG_S_FEATURES_OK);
	put(r, VIRTIO_PCI_COMMON_MSIX, 0, 2);
	for (i = 0; i < QUEUES; i++) {
		driver_init(&r->driver[i], r->ram, RINGS(i), SIZE, with & PACKED);
		bridge_queue(r->host, 0, i, &r->driver[i], i + 1);
	}
	set_status(r, 0xf);
	assert_int_equal(status(r), 0xf);
}

void notify(struct rig *r, unsigned int i)
{
	put(r, BRIDGE_NOTIFY + 4 * i, i, 2);
}

/* ---- frames ---- */

void fill_frame(uint8_t *to, size_t len, unsigned int seed)
{
	size_t i;

	for (i = 0; i < len; i++)
		to[i] = (uint8_t)(seed + i * 7 + i / 251);
}

bool peer_send(struct rig *r, size_t len, unsigned int seed)
{
	static uint8_t frame[65600];

	fill_frame(frame, len, seed);
	return send(r->peer, frame, len, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)len;
}

size_t peer_receive(struct rig *r, unsigned int seed)
{
	static uint8_t frame[65600], want[65600];
	ssize_t len = recv(r->peer, frame, sizeof(frame), MSG_DONTWAIT);

	if (len <= 0)
		return 0;
	fill_frame(want, (size_t)len, seed);
	assert_memory_equal(frame, want, (size_t)len);
	return (size_t)len;
}

void peer_write(struct rig *r, const void *data, size_t len)
{
	assert_int_equal(send(r->peer, data, len, MSG_NOSIGNAL), len);
	turns(r->loop);
}

void post(struct rig *r, uint64_t gpa, uint32_t len)
{
	const struct driver_buf buf = { gpa, len, true };

	driver_add(&r->driver[RX], &buf, 1, 0);
	notify(r, RX);
}

void guest_send_with(struct rig *r, unsigned int n, const struct virtio_net_hdr_v1 *header,
		     uint32_t len, unsigned int seed)
{
	uint32_t at = TX_DATA + n * BUFFER;
	const struct driver_buf buf = { at, HEADER + len, false };

	memset(r->ram + at, 0, HEADER);
	if (header)
		memcpy(r->ram + at, header, sizeof(*header));
	fill_frame(r->ram + at + HEADER, len, seed);
	driver_add(&r->driver[TX], &buf, 1, 0);
	notify(r, TX);
}

void guest_send(struct rig *r, unsigned int n, uint32_t len, unsigned int seed)
{
	guest_send_with(r, n, NULL, len, seed);
}

void assert_frame(struct rig *r, uint64_t gpa, uint32_t written, size_t len, unsigned int seed)
{
	static uint8_t want[65600];
	uint16_t buffers;

	assert_int_equal(written, HEADER + len);
	memcpy(&buffers, r->ram + gpa + 10, 2);
	assert_int_equal(buffers, 1);
	fill_frame(want, len, seed);
	assert_memory_equal(r->ram + gpa + HEADER, want, len);
}

struct net_stats stats(struct rig *r)
{
	struct net_stats s;

	net_stats_get(r->dev, &s);
	return s;
}

void assert_three(struct rig *r, unsigned int seed)
{
	uint8_t want[1400];
	uint16_t buffers;
	uint32_t len;
	unsigned int i;

	for (i = 0; i < 3; i++) {
		assert_true(driver_used(&r->driver[RX], 1, &len) >= 0);
		assert_int_equal(len, i < 2 ? 512 : HEADER + 1400 - 1024);
	}
	memcpy(&buffers, r->ram + RX_DATA + 10, 2);
	assert_int_equal(buffers, 3);
	fill_frame(want, sizeof(want), seed);
	assert_memory_equal(r->ram + RX_DATA + HEADER, want, sizeof(want));
}

uint16_t used_index(struct rig *r)
{
	return driver_get16(&r->driver[RX], r->driver[RX].used + 2);
}

unsigned int fill_up(struct rig *r)
{
	unsigned int n, taken = 0;
	uint32_t len;

	for (n = 0; n < SIZE; n++)
		guest_send(r, n, 1500, n);
	turns(r->loop);
	while (driver_used(&r->driver[TX], 1, &len) >= 0)
		taken++;
	assert_in_range(taken, 1, SIZE - 1);
	assert_idle(r);
	return taken;
}

uint8_t order(struct rig *r, const void *bytes, uint32_t n)
{
	const struct driver_buf bufs[] = { { CONTROL_DATA, n, false }, { CONTROL_DATA + 0x1000, 1, true } };
	uint32_t len;

	memcpy(r->ram + CONTROL_DATA, bytes, n);
	r->ram[CONTROL_DATA + 0x1000] = 0x55;
	driver_add(&r->driver[CONTROL], bufs, 2, 0);
	notify(r, CONTROL);
	run_until(r, driver_used(&r->driver[CONTROL], 2, &len) >= 0);
	assert_int_equal(len, 1);
	return r->ram[CONTROL_DATA + 0x1000];
}

void there_new(struct rig *there, struct rig *r, int type)
{
	struct err err;
	int fds[2];
	char text[64];

	*there = *r;
	there->msi = (struct fake_msi){ 0 };
	assert_int_equal(socketpair(AF_UNIX, type, 0, fds), 0);
	snprintf(text, sizeof(text), "fd=%d,mac=02:00:00:00:00:77", fds[0]);
	there->peer = fds[1];
	if (device_new(there, text, NULL, &err) < 0)
		fail_msg("%s", err.text);
}

void fill(struct rig *r, uint64_t gpa, unsigned int pages)
{
	assert_int_equal(memory_fill(r->mem, gpa_to_gfn(GPA(gpa)), pages, NULL), pages);
}

struct rig *rig_late(uint64_t with)
{
	struct rig *r = rig_new(SOCK_DGRAM, true);
	unsigned int i;

	for (i = 0; i < QUEUES; i++)
		fill(r, RINGS(i), 3);
	driver_start(r, BASIC | with);
	return r;
}
