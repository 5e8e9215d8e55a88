// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * set.c - the virtio devices of a machine, all together.
 */
#include "device/virtio/set.h"

#include <errno.h>
#include <stdlib.h>

#include "device/virtio/balloon.h"

struct virtio_set {
	struct vdev *dev[VIRTIO_DEVICES_MAX];
	unsigned int n;
};

static int set_add(struct virtio_set *set, struct pci_host *bus, const struct virtio_option *option,
	       const struct vdev_env *env, unsigned int number, struct err *err)
{
	struct vdev *dev;
	unsigned int slot;
	int r;

	if (!bus)
		return err_set(err, -ENOTSUP, "--%s: this machine has no bus for virtio devices",
			       option->type->option);
	r = option->type->make(&dev, env, option->text, number, err);
	if (r < 0)
		return err_prefix(err, r, "--%s", option->type->option);
	set->dev[set->n++] = dev;
	return pci_host_add(bus, &dev->fn, &slot, err);
}

int virtio_set_new(struct virtio_set **out, struct pci_host *bus,
		   const struct virtio_options *options, const struct vdev_env *env,
		   struct err *err)
{
	struct virtio_set *set = calloc(1, sizeof(*set));
	unsigned int i, k, number;
	int r = 0;

	if (!set)
		return err_set(err, -ENOMEM, "no memory for virtio devices");
	for (k = 0; k < virtio_types_n; k++)
		for (i = number = 0; i < options->n && !r; i++)
			if (options->option[i].type == virtio_types[k])
				r = set_add(set, bus, &options->option[i], env, number++, err);
	if (r < 0) {
		virtio_set_free(set);
		return r;
	}
	*out = set;
	return 0;
}

void virtio_set_free(struct virtio_set *set)
{
	unsigned int i;

	if (!set)
		return;
	for (i = 0; i < set->n; i++)
		vdev_free(set->dev[i]);
	free(set);
}

unsigned int virtio_set_count(const struct virtio_set *set)
{
	return set->n;
}

struct vdev *virtio_set_device(const struct virtio_set *set, unsigned int i)
{
	return set->dev[i];
}

struct vdev *virtio_set_balloon(const struct virtio_set *set)
{
	unsigned int i;

	for (i = 0; i < set->n; i++)
		if (balloon_is(set->dev[i]))
			return set->dev[i];
	return NULL;
}

bool virtio_set_disk(const struct virtio_set *set, unsigned int i, struct disk_info *info)
{
	unsigned int k;

	for (k = 0; k < set->n; k++)
		if (vdev_disk_info(set->dev[k], info) && !i--)
			return true;
	return false;
}

/* ---- all of them ---- */

void virtio_set_start(struct virtio_set *set)
{
	unsigned int i;

	for (i = 0; i < set->n; i++)
		vdev_start(set->dev[i]);
}

void virtio_set_stop(struct virtio_set *set)
{
	unsigned int i;

	for (i = 0; i < set->n; i++)
		vdev_stop(set->dev[i]);
}

void virtio_set_memory_complete(struct virtio_set *set)
{
	unsigned int i;

	for (i = 0; i < set->n; i++)
		vdev_memory_complete(set->dev[i]);
}

int virtio_set_drain(struct virtio_set *set, int64_t deadline_ns, struct err *err)
{
	unsigned int i;
	int r = 0;

	for (i = 0; i < set->n && !r; i++)
		r = vdev_drain(set->dev[i], deadline_ns, err);
	return r;
}

int virtio_set_claim(struct virtio_set *set, struct err *err)
{
	unsigned int i;
	int r = 0;

	for (i = 0; i < set->n && !r; i++)
		r = vdev_claim(set->dev[i], err);
	return r;
}

void virtio_set_release(struct virtio_set *set)
{
	unsigned int i;

	for (i = 0; i < set->n; i++)
		vdev_release(set->dev[i]);
}

void virtio_set_renew(struct virtio_set *set)
{
	unsigned int i;

	for (i = 0; i < set->n; i++)
		vdev_renew(set->dev[i]);
}

bool virtio_set_is_busy(struct virtio_set *set)
{
	unsigned int i, n = 0;

	for (i = 0; i < set->n; i++)
		n += vdev_in_flight(set->dev[i]);
	return n;
}
