// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "device/virtio/rng.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <sys/random.h>

/* For one chain at most: the rest is the driver's to ask for again. */
#define CHAIN_BYTES 4096

struct rng {
	struct vdev dev;
};

static void on_queue(void *arg, struct vqueue *q)
{
	struct rng *rng = arg;
	uint8_t bytes[CHAIN_BYTES];
	struct vchain *chain;
	unsigned int n = 0;
	ssize_t len;

	for (; n < VDEV_TURN_CHAINS && vdev_take(&rng->dev, q, &chain); n++) {
		len = chain->in_bytes < sizeof(bytes) ? (ssize_t)chain->in_bytes : (ssize_t)sizeof(bytes);
		/* It does not wait: the host has long been up. */
		len = getrandom(bytes, (size_t)len, GRND_NONBLOCK);
		if (len < 0 || !vchain_write(chain, 0, bytes, (size_t)len))
			len = 0;
		vdev_give(&rng->dev, q, chain, (uint32_t)len);
	}
	if (n == VDEV_TURN_CHAINS)
		vqueue_kick(q);
}

static const struct vdev_ops rng_ops = {
	.name = "virtio-rng",
	.type = VIRTIO_ID_RNG,
	.pci_class = 0x00ff00,
	.queue = on_queue,
};

int rng_new(struct rng **out, const struct vdev_env *env, struct err *err)
{
	const struct vdev_config config = { .queues = 1, .queue_size = 64 };
	struct rng *rng = calloc(1, sizeof(*rng));
	int r;

	if (!rng)
		return err_set(err, -ENOMEM, "no memory for virtio-rng");
	r = vdev_init(&rng->dev, &rng_ops, rng, env, &config, err);
	if (r < 0) {
		rng_free(rng);
		return r;
	}
	*out = rng;
	return 0;
}

void rng_free(struct rng *rng)
{
	if (!rng)
		return;
	vdev_fini(&rng->dev);
	free(rng);
}

struct vdev *rng_vdev(struct rng *rng)
{
	return &rng->dev;
}
