/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A disk's data in a file or on a block device, as raw bytes, by io_uring on the main loop.
 *
 * Two descriptors of the same file: one with O_DIRECT, where the file system has that, for what is aligned to DISK_DIRECT_BYTES
 * in memory and on the disk, so that the data is in the host's memory once; one without for the rest. The kernel keeps the two
 * coherent.
 *
 * All of it is the main thread's.
 */
#ifndef POSTERN_DEVICE_VIRTIO_DISK_H
#define POSTERN_DEVICE_VIRTIO_DISK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"
#include "base/loop.h"

#define DISK_JOBS_MAX 256
/* Every file system that has O_DIRECT takes this alignment. */
#define DISK_DIRECT_BYTES 4096

struct disk;

enum disk_op { DISK_READ, DISK_WRITE, DISK_FLUSH, DISK_DISCARD, DISK_ZERO };

struct disk_job {
	enum disk_op op;
	uint64_t offset, len;		/* inside the disk */
	struct iovec *iov;		/* READ, WRITE: of `len` bytes together; used up */
	unsigned int iovs;
	bool unmap;			/* ZERO: the space may be given up */
	/* result: 0 or a negative errno. Not from within disk_submit. */
	void (*done)(struct disk_job *job, int result);
	/* not the caller's */
	bool direct, by_hand;
	uint64_t moved;
};

/* loop NULL: whoever tests it calls disk_wait. Errors name the file and say what is wrong with it. */
int disk_open(struct disk **out, struct loop *loop, const char *path, bool readonly, struct err *err);
/* What is under way is waited for at most a second; its `done` is not called after this. */
void disk_close(struct disk *disk);
uint64_t disk_bytes(const struct disk *disk);

/* Jobs that are not done yet; at most DISK_JOBS_MAX may be. */
unsigned int disk_jobs(const struct disk *disk);
/* Queues a job, which stays in place until it is done. */
void disk_add(struct disk *disk, struct disk_job *job);
/* Hands what was queued to the kernel. */
void disk_submit(struct disk *disk);
/* Waits until a job is done or the time has come (CLOCK_MONOTONIC). */
void disk_wait(struct disk *disk, int64_t deadline_ns);

#endif
