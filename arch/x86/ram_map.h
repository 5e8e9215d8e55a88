/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Where RAM lies around the hole for devices.
 */
#ifndef POSTERN_ARCH_X86_RAM_MAP_H
#define POSTERN_ARCH_X86_RAM_MAP_H

#include "base/err.h"
#include "memory/memory.h"

/*
 * End of the RAM that starts at 0, and bytes of the RAM that starts at 4 GiB,
 * and of that behind PCI's window.
 */
uint64_t ram_low_end(const struct memory *mem);
uint64_t ram_high_bytes(const struct memory *mem);
uint64_t ram_top_bytes(const struct memory *mem);

/* -ENOSPC: RAM ends at `end` and must end at `need`; says which --memory would do. */
int ram_too_small(uint64_t end, uint64_t need, struct err *err);

#endif
