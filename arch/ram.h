/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Loading: files as they are, and guest RAM that they are written to.
 */
#ifndef POSTERN_ARCH_RAM_H
#define POSTERN_ARCH_RAM_H

#include "base/err.h"
#include "memory/memory.h"

/* A file's bytes, mapped: they take no memory of their own. */
struct ram_file {
	const char *path;
	const uint8_t *data;
	size_t len;
};

/* Errors name the file. A regular file of 1 byte to 2 GiB. */
int ram_file_open(struct ram_file *file, const char *path, struct err *err);
void ram_file_close(struct ram_file *file);

/* All of it must be RAM and PRESENT; errors name `what` and the address. */
int ram_write(struct memory *mem, uint64_t gpa, const void *data, size_t len, const char *what, struct err *err);
int ram_zero(struct memory *mem, uint64_t gpa, uint64_t len, const char *what, struct err *err);

#endif
