/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * From sockets to connections: what listen.c and connect.c share. All descriptors
 * are close-on-exec. Main thread.
 */
#ifndef POSTERN_MIGRATE_SOCKET_H
#define POSTERN_MIGRATE_SOCKET_H

#include <stdbool.h>

#include "base/conn.h"

/*
 * A connected socket's connection, with what goes around it. Nothing is delayed
 * for more to come, and where the bulk is sent there is a large buffer for it
 * (best effort). accepts: as in conn_wrapper. Takes fd over, also when it fails.
 */
int socket_to_conn(struct conn **out, int fd, bool sends_bulk, bool accepts,
		   const struct conn_wrapper *wrapper, struct err *err);
/*
 * Is it a stream socket that listens (listening), or is connected? -EINVAL says
 * what it is instead.
 */
int socket_check(int fd, bool listening, struct err *err);

#endif
