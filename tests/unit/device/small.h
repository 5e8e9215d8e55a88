/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * One virtio device alone, on memory of its own, with a driver for each of its
 * queues: what tests of single kinds share.
 */
#ifndef POSTERN_TESTS_DEVICE_SMALL_H
#define POSTERN_TESTS_DEVICE_SMALL_H

#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>
#include <stdio.h>
#include <stdlib.h>

#include "device/virtio/type.h"
#include "driver.h"
#include "msi.h"
#include "turns.h"

#define SMALL_RAM (UINT64_C(16) << 20)
#define SMALL_RINGS 0x10000
#define SMALL_RING 0x4000
#define SMALL_SIZE 16
#define SMALL_CONFIG 0x2000
#define SMALL_VERSION (UINT64_C(1) << VIRTIO_F_VERSION_1)
#define SMALL_PACKED (UINT64_C(1) << VIRTIO_F_RING_PACKED)
/* Where buffers lie: behind the rings. */
#define SMALL_DATA 0x100000

struct small {
	struct loop *loop;
	struct memory *mem;
	uint8_t *ram;
	struct fake_msi msi;
	struct vdev *dev;
	struct driver driver[VDEV_QUEUES_MAX];
	unsigned int quits, balloons;
	uint32_t balloon;
};

static inline void small_event(void *arg, const struct device_event *event)
{
	struct small *s = arg;

	if (event->type == DEVICE_EVENT_QUIT)
		s->quits++;
	if (event->type != DEVICE_EVENT_BALLOON)
		return;
	s->balloons++;
	s->balloon = event->pages;
}

/* One more device on the same memory. */
static inline struct vdev *small_device(struct small *s, const struct virtio_type *type,
					const char *text)
{
	const struct vdev_env env = {
		.mem = s->mem, .loop = s->loop, .cpus = 1, .msi = { &fake_msi_ops, &s->msi },
		.events = { small_event, s },
	};
	struct vdev *dev = NULL;
	struct err err;

	if (type->make(&dev, &env, text, 0, &err) < 0)
		fail_msg("%s", err.text);
	return dev;
}

static inline struct small *small_new(const struct virtio_type *type, const char *text, bool late)
{
	struct memory *mem;
	uint8_t *ram = ram_new(&mem, SMALL_RAM, late);
	struct small *s = calloc(1, sizeof(*s));
	struct err err;

	s->mem = mem;
	s->ram = ram;
	assert_int_equal(loop_new(&s->loop, &err), 0);
	s->dev = small_device(s, type, text);
	vdev_start(s->dev);
	return s;
}

static inline void small_free(struct small *s)
{
	vdev_free(s->dev);
	ram_free(s->mem);
	assert_true(loop_free(s->loop));
	free(s);
}

#define small_until(s, condition) run_until(s, condition)

/* Gives the loop its turn, for what must not happen. */
static inline void small_turn(struct small *s)
{
	turns(s->loop);
}

static inline uint64_t small_get(struct vdev *dev, unsigned int at, unsigned int size)
{
	uint64_t value = 0;

	vdev_lock(dev);
	pci_function_bar_touch(&dev->fn, 0, at, false, (uint8_t *)&value, size);
	vdev_unlock(dev);
	return value;
}

static inline void small_put(struct vdev *dev, unsigned int at, uint64_t value, unsigned int size)
{
	vdev_lock(dev);
	pci_function_bar_touch(&dev->fn, 0, at, true, (uint8_t *)&value, size);
	vdev_unlock(dev);
}

static inline uint8_t small_status(struct small *s)
{
	return (uint8_t)small_get(s->dev, VIRTIO_PCI_COMMON_STATUS, 1);
}

/* As a driver starts, with all queues. */
static inline void small_start(struct small *s, uint64_t features)
{
	unsigned int i, n = (unsigned int)small_get(s->dev, VIRTIO_PCI_COMMON_NUMQ, 2);
	uint16_t command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	struct vdev *dev = s->dev;
	struct driver *d;

	pci_function_config_access(&dev->fn, PCI_COMMAND, true, (uint8_t *)&command,
				   sizeof(command));
	features |= SMALL_VERSION;
	small_put(dev, VIRTIO_PCI_COMMON_GFSELECT, 0, 4);
	small_put(dev, VIRTIO_PCI_COMMON_GF, features & UINT32_MAX, 4);
	small_put(dev, VIRTIO_PCI_COMMON_GFSELECT, 1, 4);
	small_put(dev, VIRTIO_PCI_COMMON_GF, features >> 32, 4);
	small_put(dev, VIRTIO_PCI_COMMON_STATUS, 0xb, 1);
	assert_int_equal(small_status(s), 0xb);
	for (i = 0; i < n; i++) {
		d = &s->driver[i];
		driver_init(d, s->ram, SMALL_RINGS + i * SMALL_RING, SMALL_SIZE,
			    features & SMALL_PACKED);
		small_put(dev, VIRTIO_PCI_COMMON_Q_SELECT, i, 2);
		small_put(dev, VIRTIO_PCI_COMMON_Q_SIZE, SMALL_SIZE, 2);
		small_put(dev, VIRTIO_PCI_COMMON_Q_DESCLO, d->desc, 4);
		small_put(dev, VIRTIO_PCI_COMMON_Q_AVAILLO, d->avail, 4);
		small_put(dev, VIRTIO_PCI_COMMON_Q_USEDLO, d->used, 4);
		small_put(dev, VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
	}
	small_put(dev, VIRTIO_PCI_COMMON_STATUS, 0xf, 1);
	assert_int_equal(small_status(s), 0xf);
}

static inline void small_notify(struct small *s, unsigned int queue)
{
	small_put(s->dev, 0x3000 + 4 * queue, queue, 2);
}

#endif
