/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A disk's data: raw bytes that are read, written, flushed, given up and zeroed
 * by jobs. Where they lie is a backend's matter:
 *
 *   file.c     a file or a block device, by io_uring
 *   nbd.c      an NBD server, by libnbd
 *   qcow2.c    a qcow2 image, by a qemu-nbd of our own behind nbd.c
 *
 * A disk may be away for a while: its server has gone, or does not answer. Its
 * jobs are kept then, and done when it is back; whoever has to know is told,
 * and may ask.
 *
 * Who holds it. At most one machine may write to a disk, and none while another
 * one reads it; a file is locked for that. The machine that a migration brings
 * claims it before it runs; the one that handed its guest over has released it
 * before.
 *
 * All of it is the main thread's.
 */
#ifndef POSTERN_DEVICE_DISK_DISK_H
#define POSTERN_DEVICE_DISK_DISK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"
#include "base/loop.h"
#include "device/disk/config.h"

#define DISK_JOBS_MAX 256
#define DISK_SECTOR_BYTES 512
/* Every file system that has O_DIRECT takes this alignment. */
#define DISK_DIRECT_BYTES 4096

struct disk;

/*
 * What its storage likes: powers of two, in bytes. What does not fit is done all the same,
 * if slower.
 */
struct disk_limits {
	uint32_t physical;		/* writes of less are read, changed and written back */
	uint32_t discard;		/* a discard gives up whole ones alone */
	uint32_t optimal;		/* a multiple of physical, or 0: it does not say */
};

enum disk_op { DISK_READ, DISK_WRITE, DISK_FLUSH, DISK_DISCARD, DISK_ZERO };

struct disk_job {
	enum disk_op op;
	uint64_t offset, len;		/* inside the disk */
	struct iovec *iov;		/* READ, WRITE: of `len` bytes together; used up */
	unsigned int iovs;
	bool unmap;			/* ZERO: the space may be given up */
	/* WRITE, DISCARD, ZERO: done only once it outlasts a loss of power, without a FLUSH */
	bool stable;
	/*
	 * result: 0 or a negative errno; -ECANCELED: the disk is closed. Never
	 * from within disk_add or disk_submit.
	 */
	void (*done)(struct disk_job *job, int result);
	/* not the caller's */
	struct disk_job *next;
	bool direct, by_hand, syncing, own, reserved;
	bool sent;			/* all of it */
	unsigned int parts;		/* of it that are under way */
	int error;
	uint64_t moved;
};

struct disk_env {
	struct loop *loop;		/* NULL, for a file alone: whoever tests it calls disk_wait */
	bool elsewhere;			/* another machine has it still: not claimed before disk_claim */
	/* The disk is away (why says what happened), or back (why is NULL). May be NULL. */
	void (*away)(void *arg, const char *why);
	void *arg;
};

/* ---- for devices ---- */

/*
 * Errors name the disk and say what is wrong with it. Waits for a server, for
 * seconds at most; a signal ends that (-EINTR).
 */
int disk_open(struct disk **out, const struct disk_config *config, const struct disk_env *env,
	      struct err *err);
/*
 * What is under way is waited for at most a second. Afterwards no `done` is
 * called; one that was not has its memory in use for ever.
 */
void disk_close(struct disk *disk);
/* A multiple of DISK_SECTOR_BYTES. */
uint64_t disk_bytes(const struct disk *disk);
const struct disk_limits *disk_limits(const struct disk *disk);

/* Jobs that are not done yet; at most DISK_JOBS_MAX may be. */
unsigned int disk_jobs(const struct disk *disk);
/* Queues a job, which stays in place until it is done. */
void disk_add(struct disk *disk, struct disk_job *job);
/* Hands over what was queued. */
void disk_submit(struct disk *disk);
/*
 * Waits until a job is done or the time has come (CLOCK_MONOTONIC). Returns at
 * once while the disk is away.
 */
void disk_wait(struct disk *disk, int64_t deadline_ns);
/* NULL: it is there; else what has happened. */
const char *disk_away(const struct disk *disk);

/*
 * This machine is about to run. 0 also when it holds it already; -EBUSY:
 * another one does, named if that can be known.
 */
int disk_claim(struct disk *disk, struct err *err);
/* Another machine runs from now on. No job is under way. */
void disk_release(struct disk *disk);

/* What a lost connection had asked, and its server may still do. */
struct disk_doubt {
	int64_t ms;			/* for so long; 0: there is no such thing */
	unsigned int held;		/* jobs that wait for that, since they would change the same */
};
void disk_doubt(const struct disk *disk, struct disk_doubt *doubt);
/* The server is known to have dropped every connection but the present one. */
void disk_fenced(struct disk *disk);

/* ---- for backends, which embed a struct disk ---- */

struct disk_ops {
	const char *driver;		/* QEMU's name of it */
	void (*close)(struct disk *disk);
	void (*add)(struct disk *disk, struct disk_job *job);
	void (*submit)(struct disk *disk);
	void (*wait)(struct disk *disk, int64_t deadline_ns);
	int (*claim)(struct disk *disk, struct err *err);
	void (*release)(struct disk *disk);
	/* Both may be NULL: nothing is ever in doubt. */
	void (*doubt)(const struct disk *disk, struct disk_doubt *doubt);
	void (*fenced)(struct disk *disk);
};

struct disk {
	const struct disk_ops *ops;
	struct disk_env env;
	uint64_t bytes;
	struct disk_limits limits;
	bool readonly;
	unsigned int jobs;
	char away[160];			/* empty: it is there */
};

/* The job has ended: the caller's `done` runs. */
void disk_done(struct disk *disk, struct disk_job *job, int result);
/* As env.away; repeated ones are told once. */
void disk_set_away(struct disk *disk, const char *why);

int file_open(struct disk **out, const struct disk_config *config, const struct disk_env *env,
	      struct err *err);
/* Both need libnbd: without it -ENOSYS, and the error says how to get it. */
int nbd_open(struct disk **out, const struct disk_config *config, const struct disk_env *env,
	     struct err *err);
int qcow2_open(struct disk **out, const struct disk_config *config, const struct disk_env *env,
	       struct err *err);

#endif
