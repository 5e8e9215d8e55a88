/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A virtio device with a hostile driver, for fuzz targets: guest memory, a PCI
 * function whose interrupts go nowhere, and a driver that sets the queues up as
 * the input's first byte says. The rest of the input is guest memory:
 * descriptors, driver area, device area, indirect tables and requests, one
 * queue's after the other's; or, if that byte says so, a state from a peer.
 *
 * A target has one device; it includes this file once, and ends with
 *
 * 	int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
 * 	{
 * 		if (!fuzz_mem)
 * 			set_up();
 * 		return fuzz_device(dev, data, size, drain);
 * 	}
 */
#ifndef POSTERN_TESTS_FUZZ_VIRTIO_H
#define POSTERN_TESTS_FUZZ_VIRTIO_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "device/virtio/type.h"
#include "state.h"

#define FUZZ_RAM_BYTES (UINT64_C(2) << 20)
#define FUZZ_CONTENT_MAX 8192
/* Of a queue; close together, so that an input of a few kilobytes holds all of it. */
#define FUZZ_QUEUE_BYTES 0x400
#define FUZZ_DESC 0x0
#define FUZZ_DRIVER 0x200
#define FUZZ_DEVICE 0x300
#define FUZZ_ROUNDS 4

/* The first byte. */
enum { FUZZ_PACKED = 2, FUZZ_EVENT = 4, FUZZ_INDIRECT = 8, FUZZ_STATE = 16, FUZZ_SIZE = 0x60 };

static struct memory *fuzz_mem;
static uint8_t *fuzz_ram;

static int fuzz_msi_open(void *arg, unsigned int *handle, struct err *err)
{
	(void)arg, (void)err;
	*handle = 0;
	return 0;
}

static void fuzz_msi_none(void *arg, unsigned int handle)
{
	(void)arg, (void)handle;
}

static int fuzz_msi_set(void *arg, unsigned int handle, uint64_t address, uint32_t data)
{
	(void)arg, (void)handle, (void)address, (void)data;
	return 0;
}

static const struct msi_ops fuzz_msi_ops = { fuzz_msi_open, fuzz_msi_none, fuzz_msi_set,
					     fuzz_msi_none };

/* Once: making memory and a device for every input would be most of the work. loop may be NULL. */
static struct vdev *fuzz_make(const struct virtio_type *type, const char *text, struct loop *loop)
{
	const struct memory_range range = { GPA(0), FUZZ_RAM_BYTES };
	struct vdev_env env = { .msi = { &fuzz_msi_ops, NULL }, .cpus = 1, .loop = loop };
	struct vdev *dev;
	struct err err;
	unsigned int n;

	log_set_level(LOG_ERROR);
	if (memory_new(&fuzz_mem, &range, 1, &err))
		abort();
	env.mem = fuzz_mem;
	fuzz_ram = memory_regions(fuzz_mem, &n)[0].host;
	if (type->make(&dev, &env, text, 0, &err)) {
		fprintf(stderr, "%s\n", err.text);
		abort();
	}
	return dev;
}

static void fuzz_write(struct vdev *dev, unsigned int at, uint32_t value, unsigned int size)
{
	pci_function_bar_touch(&dev->fn, 0, at, true, (uint8_t *)&value, size);
}

/* As a driver starts: all features that the first byte leaves, all queues. */
static void fuzz_start(struct vdev *dev, uint8_t how)
{
	uint16_t command = 6;	/* memory, bus master */
	unsigned int i;

	pci_function_config_access(&dev->fn, 4, true, (uint8_t *)&command, sizeof(command));
	vdev_lock(dev);
	fuzz_write(dev, 8, 0, 4);
	fuzz_write(dev, 12,
		   (uint32_t)(dev->offered & 0xffffff) | (how & FUZZ_EVENT ? 1u << 29 : 0) |
			   (how & FUZZ_INDIRECT ? 1u << 28 : 0),
		   4);
	fuzz_write(dev, 8, 1, 4);
	fuzz_write(dev, 12, 1 | (how & FUZZ_PACKED ? 1u << 2 : 0), 4);
	fuzz_write(dev, 20, 11, 1);
	for (i = 0; i < dev->queues; i++) {
		fuzz_write(dev, 22, i, 2);
		fuzz_write(dev, 24, 4u << (how & FUZZ_SIZE) / 32, 2);
		fuzz_write(dev, 32, i * FUZZ_QUEUE_BYTES + FUZZ_DESC, 4);
		fuzz_write(dev, 40, i * FUZZ_QUEUE_BYTES + FUZZ_DRIVER, 4);
		fuzz_write(dev, 48, i * FUZZ_QUEUE_BYTES + FUZZ_DEVICE, 4);
		fuzz_write(dev, 28, 1, 2);
	}
	fuzz_write(dev, 20, 15, 1);
	vdev_unlock(dev);
}

/* drain: lets the device finish what it has taken, and aborts if it does not. */
static int fuzz_device(struct vdev *dev, const uint8_t *data, size_t size,
		       void (*drain)(struct vdev *dev))
{
	struct buf state = { 0 };
	struct err err;
	unsigned int i, q;

	if (!size || size - 1 > FUZZ_CONTENT_MAX)
		return 0;
	memset(fuzz_ram, 0, FUZZ_CONTENT_MAX);
	memcpy(fuzz_ram, data + 1, size - 1);
	vdev_start(dev);
	if (data[0] & FUZZ_STATE)
		fuzz_load(&dev->device_ops, dev, data + 1, size - 1);
	else
		fuzz_start(dev, data[0]);
	for (i = 0; i < FUZZ_ROUNDS; i++) {
		for (q = 0; q < dev->queues; q++)
			vdev_run(dev, q);
		drain(dev);
	}
	vdev_stop(dev);
	/* Whatever it went through, its state can be saved and loaded. */
	if (dev->device_ops.save(dev, &state, &err) ||
	    dev->device_ops.load(dev, state.data, state.len, &err))
		__builtin_trap();
	buf_fini(&state);
	dev->device_ops.reset(dev);
	return 0;
}

#endif
