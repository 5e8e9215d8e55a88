/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A store in a folder: object a/b is the file a/b in it. Several processes may use it at a time.
 *
 * What is in the page cache is read inside of store_begin; for all else there are threads and an
 * io_uring, which the first request that needs them starts. A file system that hangs (a file
 * server that is away) holds up those threads alone: they read into memory of their own, so that a
 * request can be cancelled at any moment.
 *
 * An object appears whole, by its name, and outlasts a loss of power once its PUT is done. Symbolic
 * links are followed inside of the folder and nowhere else; what is not a plain file is no object.
 */
#ifndef POSTERN_STORE_DIR_H
#define POSTERN_STORE_DIR_H

#include "store/store.h"

/* May sleep, as long as the file system does. -ENOENT, -ENOTDIR, -EACCES, -ENOMEM. */
int dir_store_new(struct store **out, const char *path, struct err *err);

#endif
