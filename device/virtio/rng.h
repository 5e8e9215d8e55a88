/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * virtio-rng: entropy (virtio 1.2, section 5.4), from the kernel's getrandom.
 */
#ifndef POSTERN_DEVICE_VIRTIO_RNG_H
#define POSTERN_DEVICE_VIRTIO_RNG_H

#include "device/virtio/vdev.h"

struct rng;

int rng_new(struct rng **out, const struct vdev_env *env, struct err *err);
void rng_free(struct rng *rng);
struct vdev *rng_vdev(struct rng *rng);

#endif
