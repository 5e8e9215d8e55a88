// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// A virtio balloon's queues, as a hostile driver wrote them (small.h): it may
// give up its own rings. Or its state, as a hostile peer did.
#include "small.h"

#define ROUNDS 4
#define FEATURES (1u << 2 | 1u << 5)
#define ACTUAL 0x2004

static struct fuzz fuzz;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!fuzz.dev)
		fuzz_set_up(&fuzz, &balloon_type, "");
	if (size < 2)
		return 0;
	fuzz_begin(&fuzz, data[0], FEATURES, data + 2, size - 2);
	vdev_lock(fuzz.dev);
	fuzz_write(fuzz.dev, ACTUAL + data[1] % 4, data[1], 1);
	vdev_unlock(fuzz.dev);
	fuzz_run(&fuzz, ROUNDS);
	fuzz_end(&fuzz);
	return 0;
}
