// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A network device behind a PCI bridge, as a driver sees it; what is behind it is a socket pair, passt's stream, a tap or passt itself.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/pci_regs.h>
#include <linux/virtio_net.h>
#include <linux/virtio_pci.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "device/pci/host.h"
#include "device/virtio/kind.h"
#include "device/virtio/net.h"
#include "fixture.h"

#include "driver.h"
#include "msi.h"

#define RAM_BYTES (UINT64_C(2) << 20)
#define LOW UINT64_C(0xc0000000)
#define DEVICE_AT 0x2000
#define NOTIFY_AT 0x3000
#define TABLE_AT 0x4000
/* Rings of queue n; buffers for what is received, sent, ordered. */
#define RINGS(n) (0x10000u + (n) * 0x4000u)
#define RX_DATA 0x40000u
#define TX_DATA 0x80000u
#define CONTROL_DATA 0xc0000u
#define SIZE 16
#define BUFFER 2048u
#define HEADER 12u
#define FEATURE(n) (UINT64_C(1) << (n))
#define VERSION FEATURE(VIRTIO_F_VERSION_1)
#define PACKED FEATURE(VIRTIO_F_RING_PACKED)
#define EVENT FEATURE(VIRTIO_RING_F_EVENT_IDX)
#define MERGE FEATURE(VIRTIO_NET_F_MRG_RXBUF)
#define BASIC (FEATURE(VIRTIO_NET_F_MAC) | FEATURE(VIRTIO_NET_F_STATUS) | FEATURE(VIRTIO_NET_F_CTRL_VQ) | \
	       FEATURE(VIRTIO_NET_F_CTRL_RX) | FEATURE(VIRTIO_NET_F_CTRL_MAC_ADDR) | FEATURE(VIRTIO_NET_F_GUEST_ANNOUNCE))
#define MAC "02:00:00:00:00:01"

enum { RX, TX, CONTROL, QUEUES };

struct rig {
	struct loop *loop;
	struct memory *mem;
	uint8_t *ram;
	struct pci_host *host;
	struct vdev *dev;
	struct fake_msi msi;
	struct driver driver[QUEUES];
	int peer;		/* the other end; -1: none */
};

/* The device, on memory that is there already. */
static int device_new(struct rig *r, const char *text, const char *machine, struct err *err)
{
	const struct pci_range windows[PCI_WINDOWS] = { { LOW, 0x100000 }, { 0, 0 } };
	const struct vdev_env env = {
		.mem = r->mem, .loop = r->loop, .cpus = 1, .machine = machine, .msi = { &fake_msi_ops, &r->msi },
	};
	uint16_t command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	unsigned int slot;
	int ret = net_kind.make(&r->dev, &env, text, 0, err);

	if (ret < 0)
		return ret;
	assert_int_equal(pci_host_new(&r->host, windows, err), 0);
	assert_int_equal(pci_host_add(r->host, &r->dev->fn, &slot, err), 0);
	pci_host_ecam_access(r->host, 1 << 15 | PCI_COMMAND, true, (uint8_t *)&command, 2);
	return 0;
}

static void device_free(struct rig *r)
{
	vdev_free(r->dev);
	assert_int_equal(r->msi.open, 0);
	pci_host_free(r->host);
	if (r->peer >= 0)
		close(r->peer);
}

static struct rig *rig_bare(bool late)
{
	const struct memory_range range = { GPA(0), RAM_BYTES };
	struct rig *r = calloc(1, sizeof(*r));
	struct err err;
	unsigned int n;
	int ret;

	r->peer = -1;
	assert_int_equal(loop_new(&r->loop, &err), 0);
	assert_int_equal(memory_new(&r->mem, &range, 1, &err), 0);
	r->ram = memory_regions(r->mem, &n)[0].host;
	ret = late ? memory_watch(r->mem, &(struct memory_events){ 0 }, &err) : 0;
	if (ret == -EPERM || ret == -ENOSYS) {
		print_message("skipped: %s\n", err.text);
		skip();
	}
	assert_int_equal(ret, 0);
	return r;
}

/* On one end of a socket pair; a small buffer, so that it is soon full. */
static void device_on_socket(struct rig *r, int type)
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

static struct rig *rig_new(int type, bool late)
{
	struct rig *r = rig_bare(late);

	device_on_socket(r, type);
	return r;
}

static void rig_free(struct rig *r)
{
	device_free(r);
	memory_shut(r->mem);
	memory_free(r->mem);
	assert_true(loop_free(r->loop));
	free(r);
}

#define run_until(r, condition)                                                                \
	do {                                                                                   \
		int64_t end_ = clock_now_ns() + 10 * NS_PER_SEC;                               \
		while (!(condition)) {                                                         \
			assert_true(clock_now_ns() < end_);                                    \
			uv_run(loop_uv((r)->loop), UV_RUN_NOWAIT);                             \
		}                                                                              \
	} while (0)

/* Gives the loop its turn, for what must not happen. */
static void turn(struct rig *r)
{
	unsigned int i;

	for (i = 0; i < 10; i++)
		uv_run(loop_uv(r->loop), UV_RUN_NOWAIT);
}

/* The loop has nothing to do and would sleep: it does not spin. */
static void assert_idle(struct rig *r)
{
	struct pollfd p = { .fd = uv_backend_fd(loop_uv(r->loop)), .events = POLLIN };

	turn(r);
	assert_int_equal(poll(&p, 1, 0), 0);
	assert_int_equal(uv_backend_timeout(loop_uv(r->loop)), -1);
}

/* ---- registers ---- */

static uint64_t get(struct rig *r, uint64_t at, unsigned int size)
{
	uint64_t value = 0;

	pci_host_window_access(pci_host_window(r->host, 0), at, false, (uint8_t *)&value, size);
	return value;
}

static void put(struct rig *r, uint64_t at, uint64_t value, unsigned int size)
{
	pci_host_window_access(pci_host_window(r->host, 0), at, true, (uint8_t *)&value, size);
}

static uint8_t status(struct rig *r)
{
	return (uint8_t)get(r, VIRTIO_PCI_COMMON_STATUS, 1);
}

static void set_status(struct rig *r, unsigned int value)
{
	put(r, VIRTIO_PCI_COMMON_STATUS, value, 1);
}

static uint64_t features(struct rig *r)
{
	uint64_t value;

	put(r, VIRTIO_PCI_COMMON_DFSELECT, 1, 4);
	value = get(r, VIRTIO_PCI_COMMON_DF, 4) << 32;
	put(r, VIRTIO_PCI_COMMON_DFSELECT, 0, 4);
	return value | get(r, VIRTIO_PCI_COMMON_DF, 4);
}

static uint16_t link_status(struct rig *r)
{
	return (uint16_t)get(r, DEVICE_AT + 6, 2);
}

static void vectors_on(struct rig *r)
{
	uint16_t on = PCI_MSIX_FLAGS_ENABLE;
	unsigned int at;

	for (at = 0x34; at < 0x100;) {
		uint8_t cap[2];

		pci_host_ecam_access(r->host, 1 << 15 | at, false, cap, 2);
		at = at == 0x34 ? cap[0] : cap[1];
		pci_host_ecam_access(r->host, 1 << 15 | at, false, cap, 2);
		if (cap[0] == PCI_CAP_ID_MSIX)
			break;
	}
	pci_host_ecam_access(r->host, 1 << 15 | (at + PCI_MSIX_FLAGS), true, (uint8_t *)&on, 2);
	for (at = 0; at <= QUEUES; at++) {
		put(r, TABLE_AT + 16 * at, 0xfee00000, 4);
		put(r, TABLE_AT + 16 * at + 12, 0, 4);
	}
}

/* As a driver starts: queue n with vector n + 1, the configuration with vector 0. */
static void driver_start(struct rig *r, uint64_t with)
{
	unsigned int i;

	vectors_on(r);
	put(r, VIRTIO_PCI_COMMON_GFSELECT, 0, 4);
	put(r, VIRTIO_PCI_COMMON_GF, (VERSION | with) & UINT32_MAX, 4);
	put(r, VIRTIO_PCI_COMMON_GFSELECT, 1, 4);
	put(r, VIRTIO_PCI_COMMON_GF, (VERSION | with) >> 32, 4);
	set_status(r, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK);
	assert_true(status(r) & VIRTIO_CONFIG_S_FEATURES_OK);
	put(r, VIRTIO_PCI_COMMON_MSIX, 0, 2);
	for (i = 0; i < QUEUES; i++) {
		struct driver *d = &r->driver[i];

		driver_init(d, r->ram, RINGS(i), SIZE, with & PACKED);
		put(r, VIRTIO_PCI_COMMON_Q_SELECT, i, 2);
		put(r, VIRTIO_PCI_COMMON_Q_SIZE, SIZE, 2);
		put(r, VIRTIO_PCI_COMMON_Q_MSIX, i + 1, 2);
		put(r, VIRTIO_PCI_COMMON_Q_DESCLO, d->desc, 4);
		put(r, VIRTIO_PCI_COMMON_Q_AVAILLO, d->avail, 4);
		put(r, VIRTIO_PCI_COMMON_Q_USEDLO, d->used, 8);
		put(r, VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
	}
	set_status(r, 0xf);
	assert_int_equal(status(r), 0xf);
}

static void notify(struct rig *r, unsigned int i)
{
	put(r, NOTIFY_AT + 4 * i, i, 2);
}

/* ---- frames ---- */

static void fill_frame(uint8_t *to, size_t len, unsigned int seed)
{
	size_t i;

	for (i = 0; i < len; i++)
		to[i] = (uint8_t)(seed + i * 7 + i / 251);
}

/* The peer sends; false: its socket is full. */
static bool peer_send(struct rig *r, size_t len, unsigned int seed)
{
	static uint8_t frame[65600];

	fill_frame(frame, len, seed);
	return send(r->peer, frame, len, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)len;
}

/* The next frame that the peer has got: its length, 0: none. It must be that of the seed. */
static size_t peer_receive(struct rig *r, unsigned int seed)
{
	static uint8_t frame[65600], want[65600];
	ssize_t len = recv(r->peer, frame, sizeof(frame), MSG_DONTWAIT);

	if (len <= 0)
		return 0;
	fill_frame(want, (size_t)len, seed);
	assert_memory_equal(frame, want, (size_t)len);
	return (size_t)len;
}

static void post(struct rig *r, uint64_t gpa, uint32_t len)
{
	const struct driver_buf buf = { gpa, len, true };

	driver_add(&r->driver[RX], &buf, 1, 0);
	notify(r, RX);
}

/* The guest sends a frame from slot n of its buffers, with this header or none. */
static void guest_send_with(struct rig *r, unsigned int n, const struct virtio_net_hdr_v1 *header, uint32_t len, unsigned int seed)
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

static void guest_send(struct rig *r, unsigned int n, uint32_t len, unsigned int seed)
{
	guest_send_with(r, n, NULL, len, seed);
}

/* What was received in the buffer at gpa. */
static void assert_frame(struct rig *r, uint64_t gpa, uint32_t written, size_t len, unsigned int seed)
{
	static uint8_t want[65600];
	uint16_t buffers;

	assert_int_equal(written, HEADER + len);
	memcpy(&buffers, r->ram + gpa + 10, 2);
	assert_int_equal(buffers, 1);
	fill_frame(want, len, seed);
	assert_memory_equal(r->ram + gpa + HEADER, want, len);
}

static struct net_stats stats(struct rig *r)
{
	struct net_stats s;

	net_stats_get(r->dev, &s);
	return s;
}

/* ---- both ways ---- */

static void it_is_what_its_back_end_can(void **state)
{
	struct rig *r = rig_new(SOCK_DGRAM, false);
	uint64_t mac;

	(void)state;
	/* No offloads: a socket's frames have no header. */
	assert_int_equal(features(r), BASIC | MERGE | VERSION | PACKED | EVENT | FEATURE(VIRTIO_RING_F_INDIRECT_DESC));
	mac = get(r, DEVICE_AT, 4) | get(r, DEVICE_AT + 4, 2) << 32;
	assert_int_equal(mac, UINT64_C(0x010000000002));
	assert_int_equal(link_status(r), VIRTIO_NET_S_LINK_UP);
	assert_int_equal(get(r, VIRTIO_PCI_COMMON_NUMQ, 2), QUEUES);
	rig_free(r);
}

static void frames_go_both_ways(uint64_t with)
{
	struct rig *r = rig_new(SOCK_DGRAM, false);
	unsigned int i;
	uint32_t len;

	driver_start(r, BASIC | with);
	/* More than the rings have entries: round and round. */
	for (i = 0; i < 5 * SIZE; i++) {
		guest_send(r, i % SIZE, 60 + i, i);
		run_until(r, driver_used(&r->driver[TX], 1, &len) >= 0);
		assert_int_equal(peer_receive(r, i), 60 + i);
		post(r, RX_DATA + i % SIZE * BUFFER, BUFFER);
		assert_true(peer_send(r, 1000 + i, i));
		run_until(r, driver_used(&r->driver[RX], 1, &len) >= 0);
		assert_frame(r, RX_DATA + i % SIZE * BUFFER, len, 1000 + i, i);
	}
	assert_true(r->msi.fired_of[1] > 0);
	assert_true(r->msi.fired_of[2] > 0);
	assert_int_equal(stats(r).sent, 5 * SIZE);
	assert_int_equal(stats(r).received, 5 * SIZE);
	assert_int_equal(stats(r).sent_dropped + stats(r).received_dropped, 0);
	rig_free(r);
}

static void frames_go_both_ways_with_either_ring(void **state)
{
	(void)state;
	frames_go_both_ways(0);
	frames_go_both_ways(PACKED | EVENT);
}


/* A frame of 1400 bytes in buffers of 512. */
static void assert_three(struct rig *r, unsigned int seed)
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

static uint16_t used_index(struct rig *r)
{
	return driver_get16(&r->driver[RX], r->driver[RX].used + 2);
}

static void a_frame_goes_over_several_buffers(uint64_t with)
{
	struct rig *r = rig_new(SOCK_DGRAM, false);
	unsigned int i;
	uint32_t len;

	driver_start(r, BASIC | MERGE | with);
	for (i = 0; i < 4 * SIZE; i++) {
		/* Two of the three that it needs: they stay the driver's, and nobody runs in circles. */
		post(r, RX_DATA, 512);
		post(r, RX_DATA + 512, 512);
		assert_true(peer_send(r, 1400, i));
		assert_idle(r);
		assert_int_equal(driver_used(&r->driver[RX], 1, &len), -1);
		assert_int_equal(vdev_in_hand(r->dev), 0);
		post(r, RX_DATA + 1024, 512);
		run_until(r, stats(r).received == i + 1);
		if (!(with & PACKED))
			assert_int_equal(used_index(r), 3 * (i + 1));
		assert_three(r, i);
	}
	/* More than the whole ring holds, and there is nothing that could be added. */
	for (i = 0; i < SIZE; i++)
		post(r, RX_DATA, 64);
	assert_true(peer_send(r, 1400, 0));
	run_until(r, stats(r).received_dropped == 1);
	assert_int_equal(driver_used(&r->driver[RX], 1, &len), -1);
	assert_true(peer_send(r, 20, 1));
	run_until(r, driver_used(&r->driver[RX], 1, &len) >= 0);
	assert_frame(r, RX_DATA, len, 20, 1);
	rig_free(r);
}

static void a_frame_goes_over_several_buffers_of_either_ring(void **state)
{
	(void)state;
	a_frame_goes_over_several_buffers(0);
	a_frame_goes_over_several_buffers(PACKED | EVENT);
}

static void a_frame_that_fits_nowhere_is_counted(void **state)
{
	struct rig *r = rig_new(SOCK_DGRAM, false);
	uint32_t len;

	(void)state;
	driver_start(r, BASIC);
	post(r, RX_DATA, 512);
	assert_true(peer_send(r, 1400, 0));
	run_until(r, stats(r).received_dropped == 1);
	/* The buffer is there for the next. */
	assert_true(peer_send(r, 100, 1));
	run_until(r, driver_used(&r->driver[RX], 1, &len) >= 0);
	assert_frame(r, RX_DATA, len, 100, 1);
	rig_free(r);
}

/* ---- back pressure ---- */

static void without_buffers_nothing_is_read(void **state)
{
	struct rig *r = rig_new(SOCK_DGRAM, false);
	unsigned int i, sent = 0;
	uint32_t len;

	(void)state;
	driver_start(r, BASIC);
	while (sent < 1000 && peer_send(r, 1000, sent)) {
		sent++;
		turn(r);
	}
	/* One frame is in our hands, the others are the sender's matter. */
	assert_in_range(sent, 2, 999);
	assert_idle(r);
	for (i = 0; i < sent; i++) {
		post(r, RX_DATA, BUFFER);
		run_until(r, driver_used(&r->driver[RX], 1, &len) >= 0);
		assert_frame(r, RX_DATA, len, 1000, i);
	}
	assert_int_equal(stats(r).received_dropped, 0);
	rig_free(r);
}

static void stopped_it_reads_nothing(void **state)
{
	struct rig *r = rig_new(SOCK_DGRAM, false);
	uint32_t len;

	(void)state;
	driver_start(r, BASIC);
	post(r, RX_DATA, BUFFER);
	turn(r);
	vdev_stop(r->dev);
	assert_true(peer_send(r, 1000, 3));
	guest_send(r, 0, 100, 4);
	assert_idle(r);
	assert_int_equal(driver_used(&r->driver[RX], 1, &len), -1);
	assert_int_equal(peer_receive(r, 4), 0);
	vdev_start(r->dev);
	run_until(r, driver_used(&r->driver[RX], 1, &len) >= 0);
	assert_frame(r, RX_DATA, len, 1000, 3);
	run_until(r, peer_receive(r, 4) == 100);
	rig_free(r);
}

/* The guest sends until nothing more is taken; returns how many were. */
static unsigned int fill_up(struct rig *r)
{
	unsigned int n, taken = 0;
	uint32_t len;

	for (n = 0; n < SIZE; n++)
		guest_send(r, n, 1500, n);
	turn(r);
	while (driver_used(&r->driver[TX], 1, &len) >= 0)
		taken++;
	assert_in_range(taken, 1, SIZE - 1);
	assert_idle(r);
	return taken;
}

static void a_peer_that_takes_nothing_holds_up_nothing(int type)
{
	struct rig *r = rig_new(type, false);
	unsigned int n, taken;
	struct buf buf = { 0 };
	struct err err;
	uint32_t len;

	driver_start(r, BASIC);
	taken = fill_up(r);
	/* A migration now: there is nothing to wait for. */
	vdev_stop(r->dev);
	assert_int_equal(vdev_drain(r->dev, clock_now_ns(), &err), 0);
	assert_int_equal(r->dev->device_ops.save(r->dev, &buf, &err), 0);
	buf_fini(&buf);
	vdev_start(r->dev);
	assert_idle(r);
	/* The peer reads: what waits comes, all of it, in order. */
	if (type == SOCK_DGRAM) {
		for (n = 0; n < SIZE; n++)
			run_until(r, peer_receive(r, n) == 1500);
		while (driver_used(&r->driver[TX], 1, &len) >= 0)
			taken++;
		assert_int_equal(taken, SIZE);
		taken = fill_up(r);
	}
	/* A reset is over at once. */
	set_status(r, 0);
	assert_int_equal(status(r), 0);
	memset(r->ram + RINGS(0), 0, 0xc000);
	driver_start(r, BASIC);
	turn(r);
	rig_free(r);
}

static void a_peer_that_is_slow(void **state)
{
	(void)state;
	a_peer_that_takes_nothing_holds_up_nothing(SOCK_DGRAM);
	a_peer_that_takes_nothing_holds_up_nothing(SOCK_STREAM);
}

static void a_reset_forgets_the_frame_in_hand(void **state)
{
	struct rig *r = rig_new(SOCK_DGRAM, false);
	uint32_t len;

	(void)state;
	driver_start(r, BASIC);
	assert_true(peer_send(r, 1000, 3));
	turn(r);
	set_status(r, 0);
	assert_int_equal(status(r), 0);
	assert_int_equal(stats(r).received_dropped, 1);
	/* Nobody is there: nothing is read. */
	assert_true(peer_send(r, 500, 4));
	assert_idle(r);
	memset(r->ram + RINGS(0), 0, 0xc000);
	driver_start(r, BASIC);
	post(r, RX_DATA, BUFFER);
	run_until(r, driver_used(&r->driver[RX], 1, &len) >= 0);
	assert_frame(r, RX_DATA, len, 500, 4);
	rig_free(r);
}

/* ---- a stream ---- */

static void peer_write(struct rig *r, const void *data, size_t len)
{
	assert_int_equal(send(r->peer, data, len, MSG_NOSIGNAL), len);
	turn(r);
}

static void a_stream_is_cut_into_frames(void **state)
{
	struct rig *r = rig_new(SOCK_STREAM, false);
	uint8_t bytes[4 + 100 + 4 + 4 + 200], got[4 + 300];
	uint32_t len, word;
	size_t i, n;

	(void)state;
	driver_start(r, BASIC);
	post(r, RX_DATA, BUFFER);
	post(r, RX_DATA + BUFFER, BUFFER);
	/* Two frames, and between them one of no length; byte by byte. */
	word = htonl(100);
	memcpy(bytes, &word, 4);
	fill_frame(bytes + 4, 100, 5);
	memset(bytes + 104, 0, 4);
	word = htonl(200);
	memcpy(bytes + 108, &word, 4);
	fill_frame(bytes + 112, 200, 6);
	for (i = 0; i < sizeof(bytes); i++)
		peer_write(r, bytes + i, 1);
	run_until(r, stats(r).received == 2);
	assert_true(driver_used(&r->driver[RX], 1, &len) >= 0);
	assert_frame(r, RX_DATA, len, 100, 5);
	assert_true(driver_used(&r->driver[RX], 1, &len) >= 0);
	assert_frame(r, RX_DATA + BUFFER, len, 200, 6);
	/* Some at once, of which the driver takes one after the other. */
	peer_write(r, bytes, sizeof(bytes));
	for (i = 0; i < 2; i++) {
		post(r, RX_DATA, BUFFER);
		run_until(r, driver_used(&r->driver[RX], 1, &len) >= 0);
		assert_frame(r, RX_DATA, len, i ? 200 : 100, 5 + (unsigned int)i);
	}
	/* The other way. */
	guest_send(r, 0, 300, 7);
	for (n = 0; n < sizeof(got);) {
		ssize_t part;

		turn(r);
		part = recv(r->peer, got + n, sizeof(got) - n, MSG_DONTWAIT);
		n += part > 0 ? (size_t)part : 0;
	}
	memcpy(&word, got, 4);
	assert_int_equal(ntohl(word), 300);
	fill_frame(bytes, 300, 7);
	assert_memory_equal(got + 4, bytes, 300);
	rig_free(r);
}

/* What waits of a frame goes out before the next begins. */
static void a_stream_stays_whole(void **state)
{
	struct rig *r = rig_new(SOCK_STREAM, false);
	uint8_t got[1504], want[1500];
	unsigned int i;
	uint32_t word;

	(void)state;
	driver_start(r, BASIC);
	fill_up(r);
	set_status(r, 0);
	memset(r->ram + RINGS(0), 0, 0xc000);
	driver_start(r, BASIC);
	guest_send(r, 0, 1500, 0);
	for (i = 0; stats(r).sent * sizeof(got) > i * sizeof(got); i++) {
		size_t n = 0;

		while (n < sizeof(got)) {
			ssize_t part = recv(r->peer, got + n, sizeof(got) - n, MSG_DONTWAIT);

			n += part > 0 ? (size_t)part : 0;
			turn(r);
		}
		memcpy(&word, got, 4);
		assert_int_equal(ntohl(word), 1500);
		fill_frame(want, 1500, i + 1 == stats(r).sent ? 0 : i);
		assert_memory_equal(got + 4, want, 1500);
	}
	assert_int_equal(i, stats(r).sent);
	rig_free(r);
}

static void assert_link_goes_down(struct rig *r)
{
	uint64_t dropped = stats(r).sent_dropped;
	uint32_t len;

	run_until(r, !(link_status(r) & VIRTIO_NET_S_LINK_UP));
	assert_int_equal(r->msi.fired_of[0], 1);
	/* What the guest sends is lost, and the guest not held up. */
	guest_send(r, 0, 100, 0);
	run_until(r, driver_used(&r->driver[TX], 1, &len) >= 0);
	assert_int_equal(stats(r).sent_dropped, dropped + 1);
	assert_idle(r);
	assert_int_equal(status(r), 0xf);
}

static void a_peer_that_hangs_up_takes_the_link_down(void **state)
{
	struct rig *r = rig_new(SOCK_STREAM, false);

	(void)state;
	driver_start(r, BASIC);
	turn(r);
	close(r->peer);
	r->peer = -1;
	assert_link_goes_down(r);
	rig_free(r);
}

/* Nobody reads, for there is no driver, no buffer, or the machine is stopped. */
static void a_peer_that_hangs_up_is_noticed_always(void **state)
{
	struct rig *r = rig_new(SOCK_STREAM, false);
	unsigned int i;

	(void)state;
	for (i = 0; i < 3; i++) {
		if (i)
			r = rig_new(SOCK_STREAM, false);
		if (i)
			driver_start(r, BASIC);
		if (i == 1)
			peer_write(r, "\0\0\0\x10sixteen bytes...\0\0\0\x10sixteen bytes...", 40);
		turn(r);
		if (i == 2)
			vdev_stop(r->dev);
		close(r->peer);
		r->peer = -1;
		run_until(r, !(link_status(r) & VIRTIO_NET_S_LINK_UP));
		assert_idle(r);
		rig_free(r);
	}
}

static void a_stream_that_is_wrong_takes_the_link_down(void **state)
{
	struct rig *r = rig_new(SOCK_STREAM, false);

	(void)state;
	driver_start(r, BASIC);
	turn(r);
	peer_write(r, "\x00\x02\x00\x00", 4);
	assert_link_goes_down(r);
	rig_free(r);
}

/* ---- missing pages ---- */

static void fill(struct rig *r, uint64_t gpa, unsigned int pages)
{
	assert_int_equal(memory_fill(r->mem, gpa_to_gfn(GPA(gpa)), pages, NULL), pages);
}

static struct rig *rig_late(uint64_t with)
{
	struct rig *r = rig_new(SOCK_DGRAM, true);
	unsigned int i;

	for (i = 0; i < QUEUES; i++)
		fill(r, RINGS(i), 3);
	driver_start(r, BASIC | with);
	return r;
}

static void a_page_that_is_missing_holds_up_one_way(void **state)
{
	struct rig *r = rig_late(MERGE);
	struct vqueue *rx = &r->dev->queue[RX], *tx = &r->dev->queue[TX];
	const struct driver_buf late = { TX_DATA + 0x1000, 200, false };
	uint32_t len;

	(void)state;
	fill(r, RX_DATA, 1);
	fill(r, TX_DATA, 1);
	/* The second buffer of three is missing. */
	post(r, RX_DATA, 512);
	post(r, RX_DATA + 0x1000, 512);
	post(r, RX_DATA + 512, 512);
	assert_true(peer_send(r, 1400, 9));
	run_until(r, vqueue_is_parked(rx));
	assert_true(peer_send(r, 100, 10));
	assert_idle(r);
	assert_int_equal(vdev_in_hand(r->dev), 0);
	/* The other way goes on. */
	guest_send(r, 0, 100, 11);
	run_until(r, peer_receive(r, 11) == 100);
	assert_true(driver_used(&r->driver[TX], 1, &len) >= 0);
	/* Stopped, no page wakes it; started, it asks anew. */
	vdev_stop(r->dev);
	assert_false(vqueue_is_parked(rx));
	fill(r, RX_DATA + 0x1000, 1);
	assert_idle(r);
	assert_int_equal(driver_used(&r->driver[RX], 1, &len), -1);
	vdev_start(r->dev);
	run_until(r, stats(r).received == 1);
	assert_true(driver_used(&r->driver[RX], 1, &len) >= 0);
	assert_int_equal(len, 512);
	/* What the guest sends lies on a page that is missing; then it comes. */
	driver_add(&r->driver[TX], &late, 1, 0);
	notify(r, TX);
	run_until(r, vqueue_is_parked(tx));
	guest_send(r, 0, 120, 13);
	assert_idle(r);
	assert_int_equal(peer_receive(r, 0), 0);
	fill(r, TX_DATA + 0x1000, 1);
	run_until(r, stats(r).sent == 3);
	rig_free(r);
}

/* Buffers that are to be given back together wait together for the ring's page, and nothing else does. */
static void the_used_ring_is_missing(void **state)
{
	struct rig *r = rig_new(SOCK_DGRAM, true);
	struct err err;
	unsigned int i;

	(void)state;
	fill(r, RINGS(RX), 2);
	fill(r, RINGS(TX), 3);
	fill(r, RX_DATA, 1);
	driver_start(r, BASIC | MERGE);
	for (i = 0; i < 3; i++)
		post(r, RX_DATA + 512 * i, 512);
	assert_true(peer_send(r, 1400, 9));
	run_until(r, vdev_in_hand(r->dev) == 3);
	assert_true(vqueue_is_parked(&r->dev->queue[RX]));
	assert_idle(r);
	assert_int_equal(vdev_drain(r->dev, clock_now_ns(), &err), -ETIMEDOUT);
	assert_int_equal(r->msi.fired_of[1], 0);
	fill(r, RINGS(RX) + 0x2000, 1);
	run_until(r, r->msi.fired_of[1] == 1);
	assert_int_equal(used_index(r), 3);
	assert_three(r, 9);
	rig_free(r);
}

static void the_end_comes_while_parked(void **state)
{
	struct rig *r = rig_late(0);
	struct err err;

	(void)state;
	post(r, RX_DATA, BUFFER);
	assert_true(peer_send(r, 100, 1));
	run_until(r, vqueue_is_parked(&r->dev->queue[RX]));
	/* Nothing is in hand: a migration, a reset, the end. */
	vdev_stop(r->dev);
	assert_int_equal(vdev_drain(r->dev, clock_now_ns(), &err), 0);
	vdev_start(r->dev);
	run_until(r, vqueue_is_parked(&r->dev->queue[RX]));
	set_status(r, 0);
	assert_int_equal(status(r), 0);
	rig_free(r);
}

/* ---- a driver that is wrong ---- */

static void a_wrong_chain_needs_a_reset(void **state)
{
	const struct {
		unsigned int queue, n;
		struct driver_buf buf[2];
	} cases[] = {
		/* Too small for a header; readable where frames are to come; a frame with a writable buffer; no header. */
		{ RX, 1, { { RX_DATA, HEADER - 1, true } } },
		{ RX, 2, { { RX_DATA, 64, false }, { RX_DATA, 2048, true } } },
		{ TX, 2, { { TX_DATA, 64, false }, { TX_DATA, 64, true } } },
		{ TX, 1, { { TX_DATA, HEADER - 1, false } } },
		{ CONTROL, 1, { { CONTROL_DATA, 2, false } } },
		{ CONTROL, 2, { { CONTROL_DATA, 1, false }, { CONTROL_DATA, 1, true } } },
	};
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct rig *r = rig_new(SOCK_DGRAM, false);

		driver_start(r, BASIC | MERGE);
		driver_add(&r->driver[cases[i].queue], cases[i].buf, cases[i].n, 0);
		notify(r, cases[i].queue);
		assert_true(peer_send(r, 100, 0));
		run_until(r, status(r) & VIRTIO_CONFIG_S_NEEDS_RESET);
		assert_int_equal(vdev_in_hand(r->dev), 0);
		assert_idle(r);
		set_status(r, 0);
		assert_int_equal(status(r), 0);
		rig_free(r);
	}
}

static void wrong_frames_are_dropped_and_counted(void **state)
{
	/* None of these was agreed on. */
	const struct virtio_net_hdr_v1 headers[] = {
		{ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16 },
		{ .gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 1000 },
		{ .gso_type = 77 },
	};
	struct rig *r = rig_new(SOCK_DGRAM, false);
	const struct driver_buf large = { TX_DATA, 70000, false }, none = { TX_DATA, HEADER, false };
	unsigned int i;
	uint32_t len;

	(void)state;
	driver_start(r, BASIC);
	for (i = 0; i < 3; i++)
		guest_send_with(r, i, &headers[i], 100, i);
	/* Too short for Ethernet; nothing but a header; larger than any frame is. */
	guest_send(r, 3, 13, 0);
	driver_add(&r->driver[TX], &none, 1, 0);
	driver_add(&r->driver[TX], &large, 1, 0);
	notify(r, TX);
	run_until(r, stats(r).sent_dropped == 6);
	for (i = 0; i < 6; i++)
		assert_true(driver_used(&r->driver[TX], 1, &len) >= 0);
	guest_send(r, 5, 100, 5);
	run_until(r, peer_receive(r, 5) == 100);
	assert_int_equal(status(r), 0xf);
	rig_free(r);
}

/* ---- control ---- */

static uint8_t order(struct rig *r, const void *bytes, uint32_t n)
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

#define order_text(r, text) order(r, text, sizeof(text) - 1)

static void orders_are_checked(void **state)
{
	struct rig *r = rig_new(SOCK_DGRAM, false);

	(void)state;
	driver_start(r, BASIC);
	/* Modes; of the ones that are not offered none. */
	assert_int_equal(order_text(r, "\x00\x00\x01"), VIRTIO_NET_OK);
	assert_int_equal(order_text(r, "\x00\x01\x01"), VIRTIO_NET_OK);
	assert_int_equal(order_text(r, "\x00\x02\x01"), VIRTIO_NET_ERR);
	assert_int_equal(order_text(r, "\x00\x00"), VIRTIO_NET_ERR);
	/* Tables: whole ones, of none and of one; too short, too long, lengths that are absurd. */
	assert_int_equal(order_text(r, "\x01\x00\0\0\0\0\0\0\0\0"), VIRTIO_NET_OK);
	assert_int_equal(order_text(r, "\x01\x00\x01\0\0\0abcdef\0\0\0\0"), VIRTIO_NET_OK);
	assert_int_equal(order_text(r, "\x01\x00\0\0\0\0\x01\0\0\0abcdef"), VIRTIO_NET_OK);
	assert_int_equal(order_text(r, "\x01\x00\0\0\0\0"), VIRTIO_NET_ERR);
	assert_int_equal(order_text(r, "\x01\x00\0\0\0\0\0\0\0"), VIRTIO_NET_ERR);
	assert_int_equal(order_text(r, "\x01\x00\0\0\0\0\0\0\0\0x"), VIRTIO_NET_ERR);
	assert_int_equal(order_text(r, "\x01\x00\x02\0\0\0abcdef\0\0\0\0"), VIRTIO_NET_ERR);
	assert_int_equal(order_text(r, "\x01\x00\xff\xff\xff\xff\0\0\0\0"), VIRTIO_NET_ERR);
	assert_int_equal(order_text(r, "\x01\x00\0\0\0\0\xff\xff\xff\xff"), VIRTIO_NET_ERR);
	/* Its address: of a group, half of one, and a good one. */
	assert_int_equal(order_text(r, "\x01\x01\x01\0\0\0\0\x09"), VIRTIO_NET_ERR);
	assert_int_equal(order_text(r, "\x01\x01\x02\0\0"), VIRTIO_NET_ERR);
	assert_int_equal(get(r, DEVICE_AT + 5, 1), 1);
	assert_int_equal(order_text(r, "\x01\x01\x02\0\0\0\0\x09"), VIRTIO_NET_OK);
	assert_int_equal(get(r, DEVICE_AT + 5, 1), 9);
	/* Nothing to acknowledge; queue pairs, offloads, what there is not. */
	assert_int_equal(order_text(r, "\x03\x00"), VIRTIO_NET_ERR);
	assert_int_equal(order_text(r, "\x04\x00\x02\x00"), VIRTIO_NET_ERR);
	assert_int_equal(order_text(r, "\x05\x00\0\0\0\0\0\0\0\0"), VIRTIO_NET_ERR);
	assert_int_equal(order_text(r, "\xff\xff"), VIRTIO_NET_ERR);
	assert_int_equal(status(r), 0xf);
	rig_free(r);
}

/* ---- state ---- */

/* Another machine with the same memory, its guest not started yet. */
static void there_new(struct rig *there, struct rig *r, int type)
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

/* Is the next frame of the peer's the announcement of `mac`? */
static bool peer_has_rarp(struct rig *r, const char *mac)
{
	uint8_t frame[2000];
	ssize_t n = recv(r->peer, frame, sizeof(frame), MSG_DONTWAIT);

	if (n < 0)
		return false;
	assert_int_equal(n, 60);
	assert_memory_equal(frame, "\xff\xff\xff\xff\xff\xff", 6);
	assert_memory_equal(frame + 6, mac, 6);
	assert_memory_equal(frame + 12, "\x80\x35\x00\x01\x08\x00\x06\x04\x00\x03", 10);
	assert_memory_equal(frame + 22, mac, 6);
	assert_memory_equal(frame + 32, mac, 6);
	return true;
}

static void a_guest_that_arrives_is_announced(uint64_t with)
{
	struct rig *r = rig_new(SOCK_DGRAM, false), there;
	unsigned int fired, rounds;
	uint32_t len;

	driver_start(r, BASIC | with);
	assert_int_equal(order_text(r, "\x01\x01\x02\x11\x22\x33\x44\x55"), VIRTIO_NET_OK);
	vdev_stop(r->dev);
	there_new(&there, r, SOCK_DGRAM);
	assert_true(peer_send(&there, 700, 1));
	state_torture(&r->dev->device_ops, r->dev, there.dev);
	vdev_start(there.dev);
	/* The source's address, whatever was said here; at once, and again. */
	assert_int_equal(get(&there, DEVICE_AT + 5, 1), 0x55);
	assert_true(peer_has_rarp(&there, "\x02\x11\x22\x33\x44\x55"));
	assert_int_equal(link_status(&there), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
	fired = there.msi.fired_of[0];
	assert_true(fired >= 1);
	assert_int_equal(order_text(&there, "\x03\x00"), VIRTIO_NET_OK);
	assert_int_equal(link_status(&there), VIRTIO_NET_S_LINK_UP);
	assert_int_equal(order_text(&there, "\x03\x00"), VIRTIO_NET_ERR);
	for (rounds = 1; rounds < 3; rounds++)
		run_until(&there, peer_has_rarp(&there, "\x02\x11\x22\x33\x44\x55"));
	assert_true(there.msi.fired_of[0] >= fired + 2);
	/* Stopped in between, it goes on after. */
	vdev_stop(there.dev);
	assert_idle(&there);
	vdev_start(there.dev);
	run_until(&there, stats(&there).announced == 5);
	assert_idle(&there);
	/* What came here before the guest was not for it; its queues go on where they were. */
	assert_int_equal(stats(&there).received_dropped, 1);
	while (peer_has_rarp(&there, "\x02\x11\x22\x33\x44\x55"))
		rounds++;
	assert_int_equal(rounds, 5);
	guest_send(&there, 0, 100, 3);
	run_until(&there, driver_used(&there.driver[TX], 1, &len) >= 0);
	assert_int_equal(peer_receive(&there, 3), 100);
	assert_int_equal(status(&there), 0xf);
	/* Its driver begins anew: with the address that the machine was made with, over there. */
	set_status(&there, 0);
	assert_int_equal(get(&there, DEVICE_AT + 5, 1), 1);
	device_free(&there);
	rig_free(r);
}

static void a_guest_that_arrives_is_announced_with_either_ring(void **state)
{
	(void)state;
	a_guest_that_arrives_is_announced(0);
	a_guest_that_arrives_is_announced(PACKED | EVENT);
}

/* A machine that starts, or goes on, or whose guest has no driver yet: nobody is told. */
static void only_who_arrives_is_announced(void **state)
{
	struct rig *r = rig_new(SOCK_DGRAM, false), there;
	struct buf buf = { 0 };
	struct err err;

	(void)state;
	vdev_stop(r->dev);
	there_new(&there, r, SOCK_DGRAM);
	assert_int_equal(r->dev->device_ops.save(r->dev, &buf, &err), 0);
	assert_int_equal(there.dev->device_ops.load(there.dev, buf.data, buf.len, &err), 0);
	vdev_start(there.dev);
	vdev_start(r->dev);
	driver_start(r, BASIC);
	vdev_stop(r->dev);
	vdev_start(r->dev);
	assert_idle(r);
	assert_false(peer_has_rarp(r, ""));
	assert_false(peer_has_rarp(&there, ""));
	assert_int_equal(stats(r).announced + stats(&there).announced, 0);
	buf_fini(&buf);
	device_free(&there);
	rig_free(r);
}

/* A VirtioState with a NetState of these bytes. */
#define OWN(n, bytes) "\x10\x00\x52" n bytes

static void hostile_state_is_refused(void **state)
{
	struct rig *r = rig_new(SOCK_DGRAM, false);
	struct vdev *dev = r->dev;

	(void)state;
	assert_refused(&dev->device_ops, dev, OWN("\x01", "\x08"), "NetState");
	assert_refused(&dev->device_ops, dev, "", "MAC");
	assert_refused(&dev->device_ops, dev, OWN("\x07", "\x0a\x05\x02\0\0\0\0"), "MAC");
	assert_refused(&dev->device_ops, dev, OWN("\x08", "\x0a\x06\x01\0\0\0\0\0"), "MAC");
	/* A guest that uses checksum offload of a tap's. */
	assert_refused(&dev->device_ops, dev, OWN("\x08", "\x0a\x06\x02\0\0\0\0\0"), "MAC");
	assert_refused(&dev->device_ops, dev, OWN("\x12", "\x0a\x06\x02\0\0\0\0\0\x1a\x06\x02\0\0\0\0\0\x20\x43"), "an MTU of 67");
	assert_refused(&dev->device_ops, dev, OWN("\x12", "\x0a\x06\x02\0\0\0\0\0\x10\x01\x1a\x06\x02\0\0\0\0\0"), "offloads (features 0x1)");
	assert_int_equal(get(r, DEVICE_AT + 5, 1), 1);
	rig_free(r);
}

/* ---- what it is made of ---- */

static void options_say_what_is_wrong(void **state)
{
	static const char *const good[] = {
		"tap=t", "passt", "passt=/run/passt", "fd=3", "tap=t,mac=02:00:00:00:00:aB", "passt,forward=tcp:8080:80",
		"passt,forward=tcp:22,forward=udp:127.0.0.1/53:5353", "passt,forward=tcp:::1/22,mac=02:00:00:00:00:01",
		"passt,forward=tcp:[::1]/8080:80,forward=udp:[2001:db8::7]/53", "passt,forward=tcp:*/22",
	}, *const bad[] = {
		"", "tap", "tap=", "tap=0123456789abcdef", "passt=", "passt,", "fd", "fd=", "fd=x", "fd=-1", "fd=99999999999", "user",
		"tap=t,mac=", "tap=t,mac=02:00:00:00:00", "tap=t,mac=02:00:00:00:00:00:00", "tap=t,mac=01:00:00:00:00:00",
		"tap=t,mac=00:00:00:00:00:00", "tap=t,mac=02-00-00-00-00-00", "tap=t,forward=tcp:1:1", "passt=/x,forward=tcp:1:1",
		"passt,forward=", "passt,forward=sctp:1:1", "passt,forward=tcp:0:1", "passt,forward=tcp:1:65536", "passt,forward=tcp:1:",
		"passt,forward=tcp:[::1/1:1", "passt,forward=tcp:::1]/1:1", "passt,forward=tcp:[]/1:1", "passt,forward=tcp:[127.0.0.1]/1:1",
		"passt,forward=tcp:[[::1]]/1:1", "passt,forward=tcp:[*]/1:1", "passt,forward=tcp:/1:1",
		"passt,forward=tcp:nowhere/1:1", "passt,forward=tcp:1:1:1", "passt,forward=tcp:1-9", "passt,forward=tcp: 1",
	};
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		if (net_kind.check(good[i], &err) < 0)
			fail_msg("%s: %s", good[i], err.text);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (net_kind.check(bad[i], &err) == 0)
			fail_msg("%s is taken", bad[i]);
	assert_int_equal(net_kind.check("passt,forward=tcp:1,forward=tcp:2,forward=tcp:3,forward=tcp:4,forward=tcp:5,"
					"forward=tcp:6,forward=tcp:7,forward=tcp:8,forward=tcp:9", &err), -EINVAL);
	assert_non_null(strstr(err.text, "at most 8"));
}

static uint64_t made_mac(struct rig *r, const char *text, const char *machine)
{
	struct err err;
	uint64_t mac;

	assert_int_equal(device_new(r, text, machine, &err), 0);
	mac = get(r, DEVICE_AT, 4) | get(r, DEVICE_AT + 4, 2) << 32;
	device_free(r);
	return mac;
}

static void an_address_is_the_machines(void **state)
{
	struct rig *r = rig_bare(false);
	int fds[2];
	char text[32], other[32];
	uint64_t mac;

	(void)state;
	/* A device owns its descriptor: each gets a new one, of the same number. */
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds), 0);
	snprintf(text, sizeof(text), "fd=%d", fds[0]);
	mac = made_mac(r, text, "web");
	assert_int_equal(mac & 3, 2);
	assert_int_equal(dup2(fds[1], fds[0]), fds[0]);
	snprintf(other, sizeof(other), "fd=%d", dup(fds[1]));
	/* By its name, whatever the back end is; without one by that. */
	assert_int_equal(made_mac(r, other, "web"), mac);
	assert_true(made_mac(r, text, "web2") != mac);
	assert_int_equal(dup2(fds[1], fds[0]), fds[0]);
	mac = made_mac(r, text, NULL);
	snprintf(other, sizeof(other), "fd=%d", dup2(fds[1], fds[0] + 20));
	assert_true(made_mac(r, other, NULL) != mac);
	close(fds[1]);
	memory_shut(r->mem);
	memory_free(r->mem);
	assert_true(loop_free(r->loop));
	free(r);
}

static void what_is_no_network_says_why(void **state)
{
	struct rig *r = rig_bare(false);
	char text[32];
	struct err err;

	(void)state;
	assert_int_equal(device_new(r, "tap=nosuchtap", NULL, &err), -ENODEV);
	assert_non_null(strstr(err.text, "nosuchtap"));
	assert_int_equal(device_new(r, "passt=/nonexistent/socket", NULL, &err), -ENOENT);
	assert_non_null(strstr(err.text, "/nonexistent/socket"));
	assert_int_equal(device_new(r, "fd=987", NULL, &err), -EBADF);
	snprintf(text, sizeof(text), "fd=%d", open("/dev/null", O_RDWR));
	assert_int_equal(device_new(r, text, NULL, &err), -EINVAL);
	assert_non_null(strstr(err.text, "neither a tap nor a socket"));
	memory_shut(r->mem);
	memory_free(r->mem);
	assert_true(loop_free(r->loop));
	free(r);
}

/* ---- offloads ---- */

static ssize_t header_write(struct net_backend *b, const struct iovec *iov, unsigned int n)
{
	return writev(b->fd, iov, (int)n);
}

static ssize_t header_read(struct net_backend *b, void *to, size_t room)
{
	ssize_t r = recv(b->fd, to, room, MSG_DONTWAIT);

	return r < 0 ? -errno : r;
}

static unsigned int offloads_now;

static void header_set_offloads(struct net_backend *b, unsigned int offloads)
{
	(void)b;
	offloads_now = offloads;
}

/* Like a tap, with the frames' headers to be seen. */
static struct rig *rig_with_header(void)
{
	static const struct net_backend_ops ops = {
		.write = header_write, .read = header_read, .set_offloads = header_set_offloads,
	};
	const struct pci_range windows[PCI_WINDOWS] = { { LOW, 0x100000 }, { 0, 0 } };
	const struct net_config config = { .mac = { 2, 0, 0, 0, 0, 1 } };
	struct net_backend *b = calloc(1, sizeof(*b));
	struct rig *r = rig_bare(false);
	const struct vdev_env env = { .mem = r->mem, .loop = r->loop, .cpus = 1, .msi = { &fake_msi_ops, &r->msi } };
	uint16_t command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	unsigned int slot;
	struct err err;
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, fds), 0);
	*b = (struct net_backend){ .ops = &ops, .fd = fds[0], .header = true, .offloads = 15 };
	r->peer = fds[1];
	assert_int_equal(net_backend_init(b, &err), 0);
	assert_int_equal(net_new(&r->dev, &env, b, &config, 0, &err), 0);
	assert_int_equal(pci_host_new(&r->host, windows, &err), 0);
	assert_int_equal(pci_host_add(r->host, &r->dev->fn, &slot, &err), 0);
	pci_host_ecam_access(r->host, 1 << 15 | PCI_COMMAND, true, (uint8_t *)&command, 2);
	vdev_start(r->dev);
	return r;
}

static void peer_send_header(struct rig *r, unsigned int flags, unsigned int gso)
{
	struct {
		struct virtio_net_hdr_v1 header;
		uint8_t frame[100];
	} packet = { .header = { .flags = (uint8_t)flags, .gso_type = (uint8_t)gso, .gso_size = 50 } };

	assert_int_equal(send(r->peer, &packet, sizeof(packet), 0), sizeof(packet));
}

static void a_driver_is_given_what_it_has_agreed_to(void **state)
{
	struct rig *r = rig_with_header();
	struct virtio_net_hdr_v1 header;
	unsigned int i;
	uint32_t len;

	(void)state;
	assert_int_equal(offloads_now, 0);
	driver_start(r, BASIC | FEATURE(VIRTIO_NET_F_GUEST_CSUM) | FEATURE(VIRTIO_NET_F_GUEST_TSO4));
	for (i = 0; i < 8; i++)
		post(r, RX_DATA + i * BUFFER, BUFFER);
	turn(r);
	assert_int_equal(offloads_now, NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4);
	peer_send_header(r, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4);
	run_until(r, driver_used(&r->driver[RX], 1, &len) >= 0);
	memcpy(&header, r->ram + RX_DATA, sizeof(header));
	assert_int_equal(header.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
	assert_int_equal(header.gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
	assert_int_equal(header.num_buffers, 1);
	/* What another driver agreed to, before; and what nobody has. */
	peer_send_header(r, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV6);
	peer_send_header(r, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN);
	peer_send_header(r, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_UDP);
	run_until(r, stats(r).received_dropped == 3);
	set_status(r, 0);
	assert_int_equal(offloads_now, 0);
	memset(r->ram + RINGS(0), 0, 0xc000);
	driver_start(r, BASIC);
	post(r, RX_DATA, BUFFER);
	peer_send_header(r, VIRTIO_NET_HDR_F_NEEDS_CSUM, 0);
	run_until(r, stats(r).received_dropped == 4);
	peer_send_header(r, VIRTIO_NET_HDR_F_DATA_VALID, 0);
	run_until(r, driver_used(&r->driver[RX], 1, &len) >= 0);
	assert_int_equal(r->ram[RX_DATA], 0);
	rig_free(r);
}

/* ---- a tap ---- */

/* In a network namespace of its own; -1: there can be none. The interface lives as long as a descriptor of it. */
static int tap_make(const char *name)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int fd, sock;

	if (unshare(CLONE_NEWNET) < 0)
		return -1;
	fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	strcpy(ifr.ifr_name, name);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &ifr) < 0 || ioctl(fd, TUNSETPERSIST, 1) < 0)
		return -1;
	close(fd);
	sock = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(0x88b5));
	if (sock < 0 || ioctl(sock, SIOCGIFFLAGS, &ifr) < 0)
		return -1;
	ifr.ifr_flags |= IFF_UP;
	return ioctl(sock, SIOCSIFFLAGS, &ifr) < 0 ? -1 : sock;
}

static void a_tap_has_offloads(void **state)
{
	const uint64_t offloads = FEATURE(VIRTIO_NET_F_CSUM) | FEATURE(VIRTIO_NET_F_GUEST_CSUM) | FEATURE(VIRTIO_NET_F_HOST_TSO4) |
				  FEATURE(VIRTIO_NET_F_HOST_TSO6) | FEATURE(VIRTIO_NET_F_HOST_ECN) |
				  FEATURE(VIRTIO_NET_F_GUEST_TSO4) | FEATURE(VIRTIO_NET_F_GUEST_TSO6) | FEATURE(VIRTIO_NET_F_GUEST_ECN);
	const struct virtio_net_hdr_v1 headers[] = {
		{ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16 },
		/* The checksum would lie behind the end; segments of no size; a header that is longer than the frame; no checksum. */
		{ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 90, .csum_offset = 9 },
		{ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .gso_type = VIRTIO_NET_HDR_GSO_TCPV4 },
		{ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 9, .hdr_len = 101 },
		{ .gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 9 },
		{ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .gso_type = VIRTIO_NET_HDR_GSO_UDP, .gso_size = 9 },
	};
	struct sockaddr_ll { unsigned short family, protocol; int ifindex; unsigned char rest[12]; } to = { .family = AF_PACKET };
	struct rig *r;
	uint8_t frame[100];
	struct err err;
	unsigned int i;
	uint32_t len;
	int sock = tap_make("tap-test");

	(void)state;
	if (sock < 0) {
		print_message("skipped: no tap can be made here\n");
		skip();
	}
	r = rig_bare(false);
	if (device_new(r, "tap=tap-test,mac=" MAC, NULL, &err) < 0)
		fail_msg("%s", err.text);
	vdev_start(r->dev);
	assert_int_equal(features(r) & offloads, offloads);
	driver_start(r, BASIC | MERGE | offloads);
	/* What the host sends into it (an experimental type, so that nothing else is meant) comes with a header of zeroes but for the count. */
	fill_frame(frame, sizeof(frame), 0x20);
	memcpy(frame, "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x02\x88\xb5", 14);
	to.ifindex = (int)if_nametoindex("tap-test");
	for (i = 0; i < SIZE; i++)
		post(r, RX_DATA + i * BUFFER, BUFFER);
	/* Now that somebody has it open its carrier is on, but what it is sent is lost until the kernel has noticed. */
	run_until(r, sendto(sock, frame, sizeof(frame), 0, (struct sockaddr *)(void *)&to, sizeof(to)) == sizeof(frame) &&
		  driver_used(&r->driver[RX], 1, &len) >= 0 && len == HEADER + sizeof(frame));
	/* The other way: with a good header, and with five that are not. */
	for (i = 0; i < 6; i++) {
		guest_send_with(r, i, &headers[i], 100, i);
		memcpy(r->ram + TX_DATA + i * BUFFER + HEADER, frame, sizeof(frame));
	}
	run_until(r, stats(r).sent + stats(r).sent_dropped == 6);
	assert_int_equal(stats(r).sent, 1);
	run_until(r, recv(sock, frame, sizeof(frame), MSG_DONTWAIT) == sizeof(frame));
	/* Somebody deletes it. */
	r->peer = -1;
	{
		char command[] = "ip link delete tap-test 2>/dev/null";

		assert_int_equal(system(command), 0);
	}
	run_until(r, !(link_status(r) & VIRTIO_NET_S_LINK_UP));
	assert_idle(r);
	close(sock);
	rig_free(r);
}

/* A frame of that length, for the guest or the tag in it; what becomes of it. */
static void expect_frame(struct rig *r, unsigned int id, size_t len, bool tagged, bool comes)
{
	uint64_t dropped = stats(r).received_dropped;
	uint8_t frame[2000] = { 0 };
	uint32_t used;

	if (tagged)
		memcpy(frame + 12, "\x81\x00", 2);
	assert_int_equal(send(r->peer, frame, len, MSG_DONTWAIT | MSG_NOSIGNAL), len);
	if (!comes) {
		run_until(r, stats(r).received_dropped == dropped + 1);
		return;
	}
	run_until(r, driver_used(&r->driver[RX], 1, &used) >= 0);
	assert_int_equal(used, HEADER + len);
	assert_int_equal(stats(r).received_dropped, dropped);
	post(r, RX_DATA + id * BUFFER, BUFFER);
}

/* What goes through is known to the driver, which keeps to it wherever it comes. */
static void a_tap_tells_its_mtu(void **state)
{
	const uint64_t told = FEATURE(VIRTIO_NET_F_MTU);
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int sock = tap_make("tap-mtu"), fd;
	struct rig *r, there;
	struct err err;
	char text[32];

	(void)state;
	if (sock < 0) {
		print_message("skipped: no tap can be made here\n");
		skip();
	}
	strcpy(ifr.ifr_name, "tap-mtu");
	ifr.ifr_mtu = 1400;
	assert_int_equal(ioctl(sock, SIOCSIFMTU, &ifr), 0);
	/* One that is handed over is in our network namespace, too. */
	fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	ifr.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
	assert_int_equal(ioctl(fd, TUNSETIFF, &ifr), 0);
	r = rig_bare(false);
	snprintf(text, sizeof(text), "fd=%d", fd);
	if (device_new(r, text, NULL, &err) < 0)
		fail_msg("%s", err.text);
	assert_true(features(r) & told);
	assert_int_equal(get(r, DEVICE_AT + 10, 2), 1400);
	device_free(r);
	r->msi = (struct fake_msi){ 0 };
	if (device_new(r, "tap=tap-mtu,mac=" MAC, NULL, &err) < 0)
		fail_msg("%s", err.text);
	assert_true(features(r) & told);
	assert_int_equal(get(r, DEVICE_AT + 10, 2), 1400);
	vdev_start(r->dev);
	driver_start(r, BASIC | MERGE | told);
	vdev_stop(r->dev);
	/* 1500 bytes, which would end here. */
	assert_refused(&r->dev->device_ops, r->dev,
		       OWN("\x13", "\x0a\x06\x02\0\0\0\0\0\x1a\x06\x02\0\0\0\0\0\x20\xdc\x0b"), "was told of an MTU of 1500, tap tap-mtu here has 1400");
	/* Where nothing is known of what is behind it, and nothing was offered, it holds all the same. */
	there_new(&there, r, SOCK_DGRAM);
	assert_false(features(&there) & told);
	assert_true(peer_send(&there, 100, 1));
	state_torture(&r->dev->device_ops, r->dev, there.dev);
	assert_true(features(&there) & told);
	assert_int_equal(get(&there, DEVICE_AT + 10, 2), 1400);
	vdev_start(there.dev);
	for (fd = 0; fd < 8; fd++)
		post(&there, RX_DATA + (unsigned int)fd * BUFFER, BUFFER);
	run_until(&there, stats(&there).received_dropped == 1);
	expect_frame(&there, 8, 1414, false, true);
	expect_frame(&there, 9, 1415, false, false);
	expect_frame(&there, 9, 1418, true, true);
	expect_frame(&there, 10, 1419, true, false);
	/* After a reset, too. */
	set_status(&there, 0);
	assert_true(features(&there) & told);
	assert_int_equal(get(&there, DEVICE_AT + 10, 2), 1400);
	close(there.peer);
	there.peer = -1;
	vdev_stop(there.dev);
	device_free(&there);
	close(sock);
	rig_free(r);
}

/* ---- passt ---- */

/* It answers for every address: who has 10.0.2.9? */
static void passt_is_started_and_answers(void **state)
{
	static const uint8_t request[60] = "\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\x01\x08\x06\0\x01\x08\0\x06\x04\0\x01\x02\0\0\0\0\x01"
					   "\x0a\0\x02\x0f\0\0\0\0\0\0\x0a\0\x02\x09";
	const struct driver_buf buf = { TX_DATA, HEADER + sizeof(request), false };
	struct rig *r;
	struct err err;
	uint32_t len = 0;

	(void)state;
	if (system("command -v passt >/dev/null && ip route | grep -q ^default") != 0) {
		print_message("skipped: no passt here, or no default route for it\n");
		skip();
	}
	r = rig_bare(false);
	if (device_new(r, "passt,mac=" MAC, NULL, &err) < 0)
		fail_msg("%s", err.text);
	vdev_start(r->dev);
	driver_start(r, BASIC);
	post(r, RX_DATA, BUFFER);
	memcpy(r->ram + TX_DATA + HEADER, request, sizeof(request));
	driver_add(&r->driver[TX], &buf, 1, 0);
	notify(r, TX);
	run_until(r, driver_used(&r->driver[RX], 1, &len) >= 0 || !(link_status(r) & VIRTIO_NET_S_LINK_UP));
	assert_int_equal(link_status(r), VIRTIO_NET_S_LINK_UP);
	assert_true(len >= HEADER + 42);
	rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_is_what_its_back_end_can),
		cmocka_unit_test(frames_go_both_ways_with_either_ring),
		cmocka_unit_test(a_frame_goes_over_several_buffers_of_either_ring),
		cmocka_unit_test(a_frame_that_fits_nowhere_is_counted),
		cmocka_unit_test(without_buffers_nothing_is_read),
		cmocka_unit_test(stopped_it_reads_nothing),
		cmocka_unit_test(a_peer_that_is_slow),
		cmocka_unit_test(a_reset_forgets_the_frame_in_hand),
		cmocka_unit_test(a_stream_is_cut_into_frames),
		cmocka_unit_test(a_stream_stays_whole),
		cmocka_unit_test(a_peer_that_hangs_up_takes_the_link_down),
		cmocka_unit_test(a_peer_that_hangs_up_is_noticed_always),
		cmocka_unit_test(a_stream_that_is_wrong_takes_the_link_down),
		cmocka_unit_test(a_page_that_is_missing_holds_up_one_way),
		cmocka_unit_test(the_used_ring_is_missing),
		cmocka_unit_test(the_end_comes_while_parked),
		cmocka_unit_test(a_wrong_chain_needs_a_reset),
		cmocka_unit_test(wrong_frames_are_dropped_and_counted),
		cmocka_unit_test(orders_are_checked),
		cmocka_unit_test(a_guest_that_arrives_is_announced_with_either_ring),
		cmocka_unit_test(only_who_arrives_is_announced),
		cmocka_unit_test(hostile_state_is_refused),
		cmocka_unit_test(options_say_what_is_wrong),
		cmocka_unit_test(an_address_is_the_machines),
		cmocka_unit_test(what_is_no_network_says_why),
		cmocka_unit_test(a_driver_is_given_what_it_has_agreed_to),
		cmocka_unit_test(passt_is_started_and_answers),
		/* Last: it leaves this network namespace. */
		cmocka_unit_test(a_tap_has_offloads),
		cmocka_unit_test(a_tap_tells_its_mtu),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
