/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The lock on a disk's file: one writer, or any number of readers, on this host
 * and, where the file system carries locks, on others.
 *
 * It is an open file description's (F_OFD_SETLK), on all of the file: it goes
 * with the descriptor, whatever else the process closes. QEMU locks single
 * bytes of an image in the same way, so that the two keep out of each other's
 * images.
 *
 * A request that is under way when its process ends goes on in the kernel, and
 * keeps the open file description that it goes by, with its lock. So where
 * there are two of them each has a part of the lock, and nobody else has the
 * file before the last such request has ended.
 */
#ifndef POSTERN_DEVICE_DISK_LOCK_H
#define POSTERN_DEVICE_DISK_LOCK_H

#include <stdbool.h>

#include "base/err.h"

/*
 * other_fd: another description of the same file, or -1. 0 also where it is held already. -EBUSY
 * names who holds it, if this process may know. A file system without locks: 0, and a warning.
 */
int lock_take(int fd, int other_fd, const char *path, bool shared, struct err *err);
void lock_release(int fd, int other_fd);

#endif
