/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Small socket helpers of listen.c and connect.c. All descriptors are close-on-exec. Main thread.
 */
#ifndef POSTERN_MIGRATE_SOCKET_H
#define POSTERN_MIGRATE_SOCKET_H

#include <stdbool.h>
#include <sys/socket.h>

#include "base/err.h"
#include "migrate/uri.h"

/* TCP_NODELAY where it applies; a large send buffer for the bulk. Best effort. */
void socket_tune(int fd, enum wire_channel channel);
int socket_set_blocking(int fd, bool blocking);
/* Is it a stream socket that listens (listening), or is connected? -EINVAL says what it is instead. */
int socket_check(int fd, bool listening, struct err *err);

#endif
