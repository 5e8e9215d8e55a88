/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The device tree: what the guest is told of its machine (Devicetree Specification; Linux:
 * Documentation/devicetree/bindings).
 */
#ifndef POSTERN_ARCH_ARM64_DEVICE_TREE_H
#define POSTERN_ARCH_ARM64_DEVICE_TREE_H

#include "base/err.h"
#include "base/types.h"

struct device_tree_config {
	unsigned int cpus;
	uint64_t ram_bytes;
	const char *cmdline;		/* may be NULL */
	uint64_t initrd, initrd_end;	/* guest physical; equal: none */
};

/* At most `room` bytes at `to`. -ENOSPC: the command line is too long. */
int device_tree_build(void *to, size_t room, const struct device_tree_config *config,
		      struct err *err);

#endif
