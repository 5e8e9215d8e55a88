/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What fuzz targets of single virtio devices share: a little guest memory that
 * the input is copied to, and a driver that starts the device with all its
 * queues there, QUEUE_BYTES apart.
 */
#ifndef POSTERN_TESTS_FUZZ_SMALL_H
#define POSTERN_TESTS_FUZZ_SMALL_H

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "device/virtio/type.h"
#include "state.h"

#define RAM_BYTES (UINT64_C(2) << 20)
#define CONTENT_MAX 8192
/* Close together, so that an input of a few kilobytes holds all of it. */
#define QUEUE_BYTES 0x400
#define DRIVER_AT 0x200
#define DEVICE_AT 0x300

/* Of the first byte. */
enum { FUZZ_PACKED = 1, FUZZ_EVENT = 2, FUZZ_INDIRECT = 4, FUZZ_STATE = 8, FUZZ_SIZE = 0x30 };

struct fuzz {
	struct loop *loop;
	struct memory *mem;
	uint8_t *ram;
	struct vdev *dev;
};

static inline int fuzz_msi_open(void *arg, unsigned int *handle, struct err *err)
{
	(void)arg, (void)err;
	*handle = 0;
	return 0;
}

static inline void fuzz_msi_none(void *arg, unsigned int handle)
{
	(void)arg, (void)handle;
}

static inline int fuzz_msi_set(void *arg, unsigned int handle, uint64_t address, uint32_t data)
{
	(void)arg, (void)handle, (void)address, (void)data;
	return 0;
}

static const struct msi_ops fuzz_msi_ops = { fuzz_msi_open, fuzz_msi_none, fuzz_msi_set,
					     fuzz_msi_none };

/* Once for all inputs. */
static inline void fuzz_set_up(struct fuzz *f, const struct virtio_type *type, const char *text)
{
	const struct memory_range range = { GPA(0), RAM_BYTES };
	struct vdev_env env = { .msi = { &fuzz_msi_ops, NULL }, .cpus = 1 };
	struct err err;
	unsigned int n;

	log_set_level(LOG_ERROR);
	if (loop_new(&f->loop, &err) || memory_new(&f->mem, &range, 1, &err))
		abort();
	env.mem = f->mem;
	env.loop = f->loop;
	f->ram = memory_regions(f->mem, &n)[0].host;
	if (type->make(&f->dev, &env, text, 0, &err))
		abort();
}

static inline void fuzz_write(struct vdev *dev, unsigned int at, uint64_t value, unsigned int size)
{
	pci_function_bar_touch(&dev->fn, 0, at, true, (uint8_t *)&value, size);
}

static inline void fuzz_start(struct fuzz *f, uint8_t how, uint32_t features)
{
	uint16_t command = 6;	/* memory, bus master */
	struct vdev *dev = f->dev;
	unsigned int i;

	pci_function_config_access(&dev->fn, 4, true, (uint8_t *)&command, sizeof(command));
	vdev_lock(dev);
	fuzz_write(dev, 8, 0, 4);
	fuzz_write(dev, 12,
		   features | (how & FUZZ_EVENT ? 1u << 29 : 0) |
			   (how & FUZZ_INDIRECT ? 1u << 28 : 0),
		   4);
	fuzz_write(dev, 8, 1, 4);
	fuzz_write(dev, 12, 1 | (how & FUZZ_PACKED ? 1u << 2 : 0), 4);
	fuzz_write(dev, 20, 11, 1);
	for (i = 0; i < dev->queues; i++) {
		fuzz_write(dev, 22, i, 2);
		fuzz_write(dev, 24, 4u << (how & FUZZ_SIZE) / 16, 2);
		fuzz_write(dev, 32, i * QUEUE_BYTES, 4);
		fuzz_write(dev, 40, i * QUEUE_BYTES + DRIVER_AT, 4);
		fuzz_write(dev, 48, i * QUEUE_BYTES + DEVICE_AT, 4);
		fuzz_write(dev, 28, 1, 2);
	}
	fuzz_write(dev, 20, 15, 1);
	vdev_unlock(dev);
}

/* The rest of the input into memory, the device started or loaded. */
static inline void fuzz_begin(struct fuzz *f, uint8_t how, uint32_t features, const uint8_t *data,
			      size_t size)
{
	size = size < CONTENT_MAX ? size : CONTENT_MAX;
	memset(f->ram, 0, CONTENT_MAX);
	if (size)
		memcpy(f->ram, data, size);
	vdev_start(f->dev);
	if (how & FUZZ_STATE)
		fuzz_load(&f->dev->device_ops, f->dev, data, size);
	else
		fuzz_start(f, how, features);
}

/* Every queue gets its turns, and the loop. */
static inline void fuzz_run(struct fuzz *f, unsigned int rounds)
{
	unsigned int i;

	while (rounds--) {
		for (i = 0; i < f->dev->queues; i++)
			vdev_run(f->dev, i);
		uv_run(loop_uv(f->loop), UV_RUN_NOWAIT);
	}
}

/* Whatever it went through, its state can be saved and loaded, and it can be reset. */
static inline void fuzz_end(struct fuzz *f)
{
	struct vdev *dev = f->dev;
	struct buf state = { 0 };
	struct err err;

	vdev_stop(dev);
	if (dev->device_ops.save(dev, &state, &err) ||
	    dev->device_ops.load(dev, state.data, state.len, &err))
		__builtin_trap();
	buf_fini(&state);
	dev->device_ops.reset(dev);
	if (vdev_in_flight(dev))
		__builtin_trap();
}

#endif
