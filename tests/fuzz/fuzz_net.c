// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// A network device: the first byte says which of its queues is on and how, or
// that what follows is a state from a peer; the second, what the back end is
// like. The rest is guest memory, as a hostile driver wrote it, and also what
// the back end brings.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "device/virtio/net.h"
#include "state.h"

#define RAM_BYTES (UINT64_C(2) << 20)
#define CONTENT_MAX 8192
#define DESC 0x0
#define DRIVER 0x200
#define DEVICE 0x300
#define ROUNDS 4
#define QUEUES 3
#define OFFLOADS 15u
#define FEATURES_MAC_AND_MORE (1u << 5 | 1u << 16 | 1u << 17 | 1u << 18 | 1u << 21 | 1u << 23)
#define FEATURES_OFFLOADS (3u | 7u << 7 | 7u << 11)

enum {
	FUZZ_QUEUE = 3,
	FUZZ_PACKED = 4,
	FUZZ_EVENT = 8,
	FUZZ_INDIRECT = 16,
	FUZZ_STATE = 32,
	FUZZ_MERGE = 64,
	FUZZ_OFFLOADS = 128
};
enum { BACK_STREAM = 1, BACK_HEADER = 2, BACK_SLOW = 4, BACK_SHORT = 8 };

static struct memory *mem;
static uint8_t *ram;

/* Where the back end's bytes come from, and how it takes ours. */
static const uint8_t *in;
static size_t in_len;
static uint8_t back;
static unsigned int writes;

static int msi_open(void *arg, unsigned int *handle, struct err *err)
{
	(void)arg, (void)err;
	*handle = 0;
	return 0;
}

static void msi_none(void *arg, unsigned int handle)
{
	(void)arg, (void)handle;
}

static int msi_set(void *arg, unsigned int handle, uint64_t address, uint32_t data)
{
	(void)arg, (void)handle, (void)address, (void)data;
	return 0;
}

static const struct msi_ops msi_ops = { msi_open, msi_none, msi_set, msi_none };

static ssize_t back_read(struct net_backend *b, void *to, size_t room)
{
	size_t n = in_len < room ? in_len : room;

	(void)b;
	if (!n)
		return -EAGAIN;
	if (back & BACK_SHORT && n > 100)
		n = 100;
	memcpy(to, in, n);
	in += n;
	in_len -= n;
	return (ssize_t)n;
}

/* What a kernel would be handed is right, whatever the driver wrote. */
static void header_check(const struct virtio_net_hdr_v1 *header, size_t len)
{
	if (header->flags & ~VIRTIO_NET_HDR_F_NEEDS_CSUM || header->num_buffers)
		__builtin_trap();
	if (header->flags && (size_t)header->csum_start + header->csum_offset + 2 > len)
		__builtin_trap();
	if (header->gso_type && (!header->flags || !header->gso_size || header->hdr_len > len))
		__builtin_trap();
}

static ssize_t back_write(struct net_backend *b, const struct iovec *iov, unsigned int n)
{
	static volatile uint8_t sum;
	size_t i, len = 0, most = SIZE_MAX;
	bool first = !b->rest_len;

	if (back & BACK_SLOW && writes++ & 1)
		return -EAGAIN;
	if (back & BACK_SHORT && b->stream)
		most = 1000;
	if (first && b->header) {
		for (i = 1; i < n; i++)
			len += iov[i].iov_len;
		header_check(iov[0].iov_base, len);
	}
	for (len = 0; n && len < most; n--, iov++)
		for (i = 0; i < iov->iov_len && len < most; i++, len++)
			sum = (uint8_t)(sum + ((const uint8_t *)iov->iov_base)[i]);
	return (ssize_t)len;
}

static const struct net_backend_ops back_ops = { .write = back_write, .read = back_read };

static void set_up(void)
{
	const struct memory_range range = { GPA(0), RAM_BYTES };
	struct err err;
	unsigned int n;

	log_set_level(LOG_ERROR);
	if (memory_new(&mem, &range, 1, &err))
		abort();
	ram = memory_regions(mem, &n)[0].host;
}

static struct vdev *device_new(void)
{
	const struct vdev_env env = { .msi = { &msi_ops, NULL }, .cpus = 1, .mem = mem };
	const struct net_config config = { .mac = { 2, 0, 0, 0, 0, 1 } };
	struct net_backend *b = calloc(1, sizeof(*b));
	struct vdev *dev;
	struct err err;

	if (!b)
		abort();
	b->ops = &back_ops;
	b->fd = -1;
	b->stream = back & BACK_STREAM;
	b->header = !b->stream && back & BACK_HEADER;
	b->offloads = b->header ? OFFLOADS : 0;
	if (net_backend_init(b, &err) || net_new(&dev, &env, b, &config, 0, &err))
		abort();
	return dev;
}

static void write32(struct vdev *dev, unsigned int at, uint32_t value)
{
	pci_function_bar_touch(&dev->fn, 0, at, true, (uint8_t *)&value, 4);
}

static void write16(struct vdev *dev, unsigned int at, uint16_t value)
{
	pci_function_bar_touch(&dev->fn, 0, at, true, (uint8_t *)&value, 2);
}

static void set_status(struct vdev *dev, uint8_t value)
{
	pci_function_bar_touch(&dev->fn, 0, 20, true, &value, 1);
}

static void start(struct vdev *dev, uint8_t how, unsigned int queue)
{
	uint32_t low = FEATURES_MAC_AND_MORE | (how & FUZZ_MERGE ? 1u << 15 : 0) |
		       (how & FUZZ_OFFLOADS ? FEATURES_OFFLOADS : 0);
	uint16_t command = 6;	/* memory, bus master */

	pci_function_config_access(&dev->fn, 4, true, (uint8_t *)&command, sizeof(command));
	vdev_lock(dev);
	write32(dev, 8, 0);
	write32(dev, 12,
		(low & (uint32_t)dev->offered) | (how & FUZZ_EVENT ? 1u << 29 : 0) |
			(how & FUZZ_INDIRECT ? 1u << 28 : 0));
	write32(dev, 8, 1);
	write32(dev, 12, 1 | (how & FUZZ_PACKED ? 1u << 2 : 0));
	set_status(dev, 11);
	write16(dev, 22, (uint16_t)queue);
	write16(dev, 24, 16);
	write32(dev, 32, DESC);
	write32(dev, 40, DRIVER);
	write32(dev, 48, DEVICE);
	write16(dev, 28, 1);
	set_status(dev, 15);
	vdev_unlock(dev);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct buf state = { 0 };
	unsigned int i, queue;
	struct vdev *dev;
	struct err err;

	if (!mem)
		set_up();
	if (size < 2 || size - 2 > CONTENT_MAX)
		return 0;
	back = data[1];
	writes = 0;
	queue = (data[0] & FUZZ_QUEUE) % QUEUES;
	in = data + 2;
	in_len = size - 2;
	memset(ram, 0, CONTENT_MAX);
	memcpy(ram, in, in_len);
	dev = device_new();
	if (data[0] & FUZZ_STATE)
		fuzz_load(&dev->device_ops, dev, data + 2, size - 2);
	else
		start(dev, data[0], queue);
	vdev_start(dev);
	for (i = 0; i < ROUNDS; i++)
		vdev_run(dev, queue);
	vdev_stop(dev);
	/* Nothing is ever in flight. */
	if (vdev_drain(dev, clock_now_ns(), &err) < 0 || vdev_in_flight(dev))
		__builtin_trap();
	if (dev->device_ops.save(dev, &state, &err) ||
	    dev->device_ops.load(dev, state.data, state.len, &err))
		__builtin_trap();
	buf_fini(&state);
	dev->device_ops.reset(dev);
	vdev_free(dev);
	return 0;
}
