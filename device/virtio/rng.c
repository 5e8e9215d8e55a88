// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * rng.c - virtio-rng (virtio 1.2, section 5.4): entropy from the host's kernel.
 */

#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <sys/random.h>

#include "device/virtio/type.h"

/* For one chain at most: the rest is the driver's to ask for again. */
#define CHAIN_BYTES 4096

struct rng {
	struct vdev dev;
};

static void rng_on_queue(void *arg, struct vqueue *q)
{
	struct rng *rng = arg;
	uint8_t bytes[CHAIN_BYTES];
	struct vchain *chain;
	unsigned int n = 0;
	ssize_t len;

	for (; n < VDEV_TURN_CHAINS && vdev_take(&rng->dev, q, &chain); n++) {
		len = chain->in_bytes < sizeof(bytes) ? (ssize_t)chain->in_bytes :
							(ssize_t)sizeof(bytes);
		/* It does not wait: the host has long been up. */
		len = getrandom(bytes, (size_t)len, GRND_NONBLOCK);
		if (len < 0 || !vchain_write(chain, 0, bytes, (size_t)len))
			len = 0;
		vdev_give(&rng->dev, q, chain, (uint32_t)len);
	}
	if (n == VDEV_TURN_CHAINS)
		vqueue_kick(q);
}

static void rng_free(void *arg)
{
	struct rng *rng = arg;

	vdev_fini(&rng->dev);
	free(rng);
}

static const struct vdev_ops rng_ops = {
	.name = "virtio-rng",
	.version = 1,
	.type = VIRTIO_ID_RNG,
	.pci_class = 0x00ff00,
	.queue = rng_on_queue,
	.free = rng_free,
};

static int rng_check(const char *text, struct err *err)
{
	(void)text;
	(void)err;
	return 0;
}

static int rng_make(struct vdev **out, const struct vdev_env *env, const char *text,
		    unsigned int number, struct err *err)
{
	const struct vdev_config config = { .number = number, .queues = 1, .queue_size = 64 };
	struct rng *rng = calloc(1, sizeof(*rng));
	int r;

	(void)text;
	if (!rng)
		return err_set(err, -ENOMEM, "no memory for virtio-rng");
	r = vdev_init(&rng->dev, &rng_ops, rng, env, &config, err);
	if (r < 0) {
		rng_free(rng);
		return r;
	}
	*out = &rng->dev;
	return 0;
}

const struct virtio_type rng_type = { .option = "rng",
				      .max = 1,
				      .check = rng_check,
				      .make = rng_make };
