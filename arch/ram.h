/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Loading: files as they are, and guest RAM that they are written to.
 */
#ifndef POSTERN_ARCH_RAM_H
#define POSTERN_ARCH_RAM_H

#include "base/err.h"
#include "memory/memory.h"

#define RAM_FILE_MAX (2ull << 30)

/*
 * A file that is read piece by piece, and never mapped: others may shorten it
 * at any time, and who touches what is mapped of it dies of SIGBUS then.
 */
struct ram_file {
	const char *path;	/* or what messages call it; the caller's */
	int fd;
	const uint8_t *data;	/* instead of fd */
	uint64_t len;		/* bytes, when it was opened */
};

/*
 * Errors name the file. A regular file of 1 byte to 2 GiB. After an error there
 * is nothing to close.
 */
int ram_file_open(struct ram_file *file, const char *path, struct err *err);
/* The same, of a descriptor that stays the caller's. */
int ram_file_open_fd(struct ram_file *file, const char *name, int fd, struct err *err);
/* Bytes in memory, which stay the caller's. */
void ram_file_of_bytes(struct ram_file *file, const char *name, const void *data, size_t len);
void ram_file_close(struct ram_file *file);
/*
 * All of it, or an error, which the caller puts the file's name to: -EIO: it
 * has become shorter than it was, and what to do.
 */
int ram_file_read(const struct ram_file *file, uint64_t offset, void *to, size_t len,
		  struct err *err);

/* All of it must be RAM and PRESENT; errors name `what` and the address. */
int ram_write(struct memory *mem, uint64_t gpa, const void *data, size_t len, const char *what,
	      struct err *err);
int ram_zero(struct memory *mem, uint64_t gpa, uint64_t len, const char *what, struct err *err);
/* `len` bytes of the file from `offset` on. */
int ram_load(struct memory *mem, uint64_t gpa, const struct ram_file *file, uint64_t offset,
	     uint64_t len, const char *what,
	     struct err *err);

#endif
