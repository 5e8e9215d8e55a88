/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A share: what machines on this host have in common that run out of the same
 * image, by a name that their user gives it. That is a memfd with the image's pages
 * as far as they have come (memory/memory.h, memory_set_backing).
 *
 *   BASE/.shares/NAME       the keeper's socket (BASE as in rundir.h)
 *   BASE/.shares/NAME.lock  locked by the keeper for as long as it lives; goes with it
 *
 * The first member starts the keeper (share_keeper.h), a process of its own, which
 * ends some seconds after the last member. Members go on when it dies; one that is
 * killed then, while a worker of KVM's waits for a page, may leave zeros in the
 * memfd. So each member sees to it that there is a keeper again, with the same memfd.
 */
#ifndef POSTERN_CONTROL_SHARE_H
#define POSTERN_CONTROL_SHARE_H

#include <stdint.h>

#include "base/err.h"
#include "control/share_message.h"
#include "memory/memory.h"

struct share;

/*
 * Becomes a member of the share, and starts its keeper if there is none: this
 * program, run as `postern share-keeper` (share_keep_main).
 * Waits for it, some milliseconds as a rule and never longer than 5 s. image: the
 * image's id; len_bytes: all guest RAM. -ESTALE: the share is of another image;
 * -EINVAL: no such name is possible; -EPERM: the directory is not this user's
 * alone; -ETIMEDOUT: nobody answers; -EPROTO.
 */
int share_join(struct share **out, const char *name, const uint8_t image[SHARE_IMAGE_BYTES],
	       uint64_t len_bytes, struct err *err);
/* Borrowed; valid until share_leave. */
int share_memfd(const struct share *share);
/*
 * `mem` is backed by it and watched: from now on the keeper ends the waits for its
 * pages, should this process be killed. Once, before a vCPU runs. A keeper that dies
 * is replaced, by a thread of this one's; not any more after share_stop, which comes
 * before memory_shut. NULL is nothing.
 */
int share_guard(struct share *share, const struct memory *mem, struct err *err);
void share_stop(struct share *share);
/*
 * After memory_shut: nobody waits for a page any more. A process that ends without
 * memory_shut ends without this, too. NULL is nothing.
 */
void share_leave(struct share *share);

/* ---- the keeper's side ---- */

/* Descriptors that it is given. */
enum { SHARE_FD_LOCK = 3, SHARE_FD_LISTENER, SHARE_FD_MEMFD, SHARE_FDS_END };
#define SHARE_KEEPER_COMMAND "share-keeper"

/*
 * argv: the command, path of the socket, the image's id in hexadecimal, length
 * in bytes. 0 or a negative errno.
 */
int share_keep_main(int argc, char **argv, struct err *err);

#endif
