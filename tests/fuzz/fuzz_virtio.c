// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// A virtio device's queue: the first byte says which device, which ring and features, or that what follows is a state from a peer. The
// rest is guest memory: descriptors, driver area, device area, indirect tables and requests, as a hostile driver wrote them.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "device/virtio/kind.h"

#define RAM_BYTES (UINT64_C(2) << 20)
#define CONTENT_MAX 8192
/* Close together, so that an input of a few kilobytes holds all of it. */
#define DESC 0x0
#define DRIVER 0x200
#define DEVICE 0x300
#define ROUNDS 4

enum { FUZZ_BLK = 1, FUZZ_PACKED = 2, FUZZ_EVENT = 4, FUZZ_INDIRECT = 8, FUZZ_STATE = 16, FUZZ_SIZE = 0x60 };

static struct memory *mem;
static uint8_t *ram;
static struct vdev *rng, *blk;

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

/* Once: making memory and a disk for every input would be most of the work. */
static void set_up(void)
{
	const struct memory_range range = { GPA(0), RAM_BYTES };
	struct vdev_env env = { .msi = { &msi_ops, NULL }, .cpus = 1 };
	char path[64];
	struct err err;
	unsigned int n;
	int fd = memfd_create("disk", MFD_CLOEXEC);

	log_set_level(LOG_ERROR);
	if (fd < 0 || ftruncate(fd, 1 << 20) < 0 || memory_new(&mem, &range, 1, &err))
		abort();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	env.mem = mem;
	ram = memory_regions(mem, &n)[0].host;
	if (rng_kind.make(&rng, &env, "", 0, &err) || blk_kind.make(&blk, &env, path, 0, &err))
		abort();
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

static void start(struct vdev *dev, uint8_t how)
{
	vdev_lock(dev);
	write32(dev, 8, 0);
	write32(dev, 12, (how & FUZZ_EVENT ? 1u << 29 : 0) | (how & FUZZ_INDIRECT ? 1u << 28 : 0));
	write32(dev, 8, 1);
	write32(dev, 12, 1 | (how & FUZZ_PACKED ? 1u << 2 : 0));
	set_status(dev, 11);
	write16(dev, 24, (uint16_t)(4u << (how & FUZZ_SIZE) / 32));
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
	struct vdev *dev;
	struct err err;
	unsigned int i;

	if (!mem)
		set_up();
	if (!size || size - 1 > CONTENT_MAX)
		return 0;
	dev = data[0] & FUZZ_BLK ? blk : rng;
	memset(ram, 0, CONTENT_MAX);
	memcpy(ram, data + 1, size - 1);
	vdev_start(dev);
	if (data[0] & FUZZ_STATE)
		dev->device_ops.load(dev, data + 1, size - 1, &err);
	else
		start(dev, data[0]);
	for (i = 0; i < ROUNDS; i++) {
		vdev_run(dev, 0);
		/* Without a loop nobody else looks at what the disk answers. */
		if (vdev_drain(blk, clock_now_ns() + 5 * NS_PER_SEC, &err) < 0 || vdev_in_hand(dev))
			__builtin_trap();
	}
	vdev_stop(dev);
	/* Whatever it went through, its state can be saved and loaded. */
	if (dev->device_ops.save(dev, &state, &err) || dev->device_ops.load(dev, state.data, state.len, &err))
		__builtin_trap();
	buf_fini(&state);
	dev->device_ops.reset(dev);
	return 0;
}
