// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// virtio-rng with a hostile driver: virtio.h has the format.
#include "virtio.h"

static struct vdev *rng;

static void drain(struct vdev *dev)
{
	if (vdev_in_flight(dev))
		__builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!fuzz_mem)
		rng = fuzz_make(&rng_type, "", NULL);
	return fuzz_device(rng, data, size, drain);
}
