/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Names of hosts, looked up by the system's resolver. It asks servers that may
 * not answer, for as long as its settings say, and cannot be interrupted: so it
 * runs on a thread of its own. A look-up that was given up goes on there until
 * the resolver gives up; what it found is dropped. What addresses_known knows
 * never waits.
 */
#ifndef POSTERN_BASE_LOOKUP_H
#define POSTERN_BASE_LOOKUP_H

#include <stdint.h>

#include "base/address.h"
#include "base/err.h"

struct lookup;

/* Begins one. -ENOMEM, -EAGAIN: no thread. */
int lookup_new(struct lookup **out, const struct address *address, struct err *err);
/* Readable when lookup_result has something else to say than -EAGAIN. It stays the look-up's. */
int lookup_fd(const struct lookup *lookup);
/* 0; -EAGAIN: not yet (err is not set); -EHOSTUNREACH with the resolver's words. */
int lookup_result(struct lookup *lookup, struct addresses *found, struct err *err);
/* At any time. NULL is allowed. */
void lookup_free(struct lookup *lookup);

/*
 * All of it, waiting. deadline_ns: of base/clock.h, INT64_MAX: none.
 * interrupt_fd: readable ends the wait; -1: a signal does that has a handler.
 * 0; -EHOSTUNREACH; -ETIMEDOUT; -EINTR; -ENOMEM, -EAGAIN.
 */
int lookup_wait(struct addresses *found, const struct address *address, int64_t deadline_ns,
		int interrupt_fd, struct err *err);

#endif
