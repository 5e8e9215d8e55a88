/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A connection that is a connected stream socket and nothing more: a call is a
 * system call, pages are sent from and received to where they are.
 */
#ifndef POSTERN_BASE_CONN_SOCKET_H
#define POSTERN_BASE_CONN_SOCKET_H

#include "base/conn.h"

/*
 * Takes fd over on success. Whether it is in non-blocking mode does not matter,
 * and changes. -ENOMEM.
 */
int conn_socket_new(struct conn **out, int fd, struct err *err);

#endif
