/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Files that hold a secret: of their owner alone, and read at once.
 */
#ifndef POSTERN_BASE_PRIVATE_FILE_H
#define POSTERN_BASE_PRIVATE_FILE_H

#include "base/err.h"

/*
 * Opens it for reading. Never waits for what is no file, such as a FIFO. A
 * descriptor; -EPERM: it is open to others than its owner; -EINVAL: it is no
 * regular file; what open(2) fails with. Any thread.
 */
int private_file_open(const char *path, struct err *err);

#endif
