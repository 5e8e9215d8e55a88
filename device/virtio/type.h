/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The types of virtio devices that a machine can have, each by the option of
 * `postern run` that asks for it. A new type is one more file, with a struct
 * virtio_type that type.c lists.
 *
 * All on the main thread.
 */
#ifndef POSTERN_DEVICE_VIRTIO_TYPE_H
#define POSTERN_DEVICE_VIRTIO_TYPE_H

#include "device/virtio/vdev.h"

#define VIRTIO_DEVICES_MAX 24

struct virtio_type {
	const char *option;		/* without its dashes */
	unsigned int max;		/* of one machine */
	/* The option's value, "" if it takes none. 0, -EINVAL with what is allowed, -ENOMEM. */
	int (*check)(const char *text, struct err *err);
	/* number: of its type, from 0. */
	int (*make)(struct vdev **out, const struct vdev_env *env, const char *text,
		    unsigned int number, struct err *err);
};

/*
 * In the order in which they come on the bus: the order in which a guest finds
 * them, whatever that of the options.
 */
extern const struct virtio_type *const virtio_types[];
extern const unsigned int virtio_types_n;

extern const struct virtio_type rng_type, blk_type, net_type, console_type, balloon_type,
	vsock_type;

/* One device that is asked for. */
struct virtio_option {
	const struct virtio_type *type;
	const char *text;
};

struct virtio_options {
	struct virtio_option option[VIRTIO_DEVICES_MAX];
	unsigned int n;
};

/*
 * One more, or, of a type that a machine has only one of, another instead; text
 * stays the caller's. -EINVAL: the type is not known, its value wrong, or there
 * are too many; the error names the option.
 */
int virtio_options_add(struct virtio_options *options, const char *option, const char *text,
		       struct err *err);

#endif
