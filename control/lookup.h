/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Names of hosts, looked up with a deadline: the system's resolver asks servers that may not answer, for as long as its settings
 * say, and cannot be interrupted.
 */
#ifndef POSTERN_CONTROL_LOOKUP_H
#define POSTERN_CONTROL_LOOKUP_H

#include <netdb.h>
#include <stdint.h>

#include "base/err.h"

/*
 * Stream addresses of host and port (a number), to be freed by freeaddrinfo. deadline_ns: of base/clock.h, INT64_MAX: none. interrupt_fd:
 * readable ends the wait; -1: none. 0; -EHOSTUNREACH with the resolver's words; -ETIMEDOUT; -EINTR; -ENOMEM, -EAGAIN: no thread. An address
 * in digits never waits. A look-up that was given up goes on, on a thread of its own, until the resolver gives up; its result is dropped.
 */
int lookup(struct addrinfo **out, const char *host, const char *port, int64_t deadline_ns, int interrupt_fd, struct err *err);

#endif
