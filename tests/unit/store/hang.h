/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A file system that hangs when it is told to, as one on a file server that went away does: a small
 * FUSE server. It has the plain file "slow" of HANG_BYTES bytes, takes what is written, and
 * forgets it.
 *
 * The server is a process of its own that dies with the test: threads that wait for its answers are
 * deaf to every signal, and its death alone lets them go.
 */
#ifndef POSTERN_TESTS_STORE_HANG_H
#define POSTERN_TESTS_STORE_HANG_H

#include <linux/fuse.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define HANG_BYTES 65536
#define HANG_REQUESTS 64

/* In memory that both have. */
struct hang {
	int fd;				/* the server's */
	const char *path;
	pid_t pid;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	uint32_t opcode;		/* not answered; 0: all are */
	unsigned int held;
	uint64_t unique[HANG_REQUESTS];	/* of those */
};

/* Mounts it there; NULL: this machine does not let us, *why says so. Before any thread starts. */
struct hang *hang_start(const char *path, const char **why);
/* From now on such requests (enum fuse_opcode) hang. */
void hang_on(struct hang *hang, uint32_t opcode);
/* Waits until so many do. */
void hang_wait(struct hang *hang, unsigned int n);
/* So many do now. */
unsigned int hang_held(struct hang *hang);
/* They fail with EIO, and none hangs any more. */
void hang_release(struct hang *hang);
void hang_stop(struct hang *hang);

#endif
