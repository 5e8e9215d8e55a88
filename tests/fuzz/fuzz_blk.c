// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// virtio-blk with a hostile driver, on a file in memory: virtio.h has the format.
#include <sys/mman.h>
#include <unistd.h>

#include "virtio.h"

#define DISK_BYTES (1 << 20)

static struct vdev *blk;

static void set_up(void)
{
	int fd = memfd_create("disk", MFD_CLOEXEC);
	char path[64];

	if (fd < 0 || ftruncate(fd, DISK_BYTES) < 0)
		abort();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	blk = fuzz_make(&blk_type, path, NULL);
}

/* Without a loop nobody else looks at what the disk answers. */
static void drain(struct vdev *dev)
{
	struct err err;

	if (vdev_drain(dev, clock_now_ns() + 5 * NS_PER_SEC, &err) < 0 || vdev_in_flight(dev))
		__builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!fuzz_mem)
		set_up();
	return fuzz_device(blk, data, size, drain);
}
