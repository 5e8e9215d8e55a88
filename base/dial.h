/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Connecting to where a name leads, in the manner of RFC 8305 ("Happy
 * Eyeballs"): its addresses, families in turn, are tried one after the other, a
 * new one every 250 ms (sooner where little time is given, so that each has at
 * least half of it) or as soon as one has failed, and none is given up for the
 * next: the first that answers wins. Nothing here waits or needs a loop: there
 * is a descriptor to poll, and a step to take when it is readable. One thread
 * at a time.
 *
 * Of RFC 8305 it leaves out what the system's resolver does not give: both
 * families' answers come together, and the first attempt waits for them
 * (section 3).
 */
#ifndef POSTERN_BASE_DIAL_H
#define POSTERN_BASE_DIAL_H

#include <stdint.h>

#include "base/address.h"
#include "base/err.h"

struct dial;

/* May it be connected to? -EINVAL: it has port 0, or is "*". */
int dial_check(const struct address *address, struct err *err);
/*
 * timeout_ms: for the look-up and all addresses together; negative: none.
 * known: addresses that the name had before, to be used when it cannot be
 * looked up, or not in half of the time; NULL: none; copied. Nothing is done
 * yet. -EINVAL: as dial_check. -ENOMEM, or what epoll_create(2) fails with.
 */
int dial_new(struct dial **out, const struct address *address, const struct addresses *known,
	     int timeout_ms, struct err *err);
/* To this one alone, such as a second connection to where a first one has got. */
int dial_new_at(struct dial **out, const struct sockaddr_storage *at, socklen_t len, int timeout_ms,
		struct err *err);
/*
 * Before the first step: this address is tried after all others of the name,
 * since it was of no use the last time.
 */
void dial_put_last(struct dial *dial, const struct sockaddr_storage *at, socklen_t len);
/* Readable when a step is to be taken; at once after dial_new. It stays the dial's. */
int dial_fd(const struct dial *dial);
/*
 * A connected stream socket, non-blocking and close-on-exec, which is the
 * caller's; the dial is of no use any more but for dial_found. -EINPROGRESS:
 * another step when dial_fd is readable. Others are the end, with an error that
 * has every address and what became of it: -ETIMEDOUT: none has connected in
 * time; -EHOSTUNREACH: the name has no address; or what the last that failed
 * failed with.
 */
int dial_step(struct dial *dial, struct err *err);
/* The time is over now, whatever it was: -ETIMEDOUT and the error that dial_step would end with. */
int dial_time_out(const struct dial *dial, struct err *err);
/*
 * All steps, waiting: a connected socket, or as dial_step. interrupt_fd:
 * readable ends it with -EINTR; -1: a handled signal does.
 */
int dial_wait(struct dial *dial, int interrupt_fd, struct err *err);
/* The addresses that are tried; none before the look-up is done. */
const struct addresses *dial_found(const struct dial *dial);
/* At any time, whatever is under way. NULL is allowed. */
void dial_free(struct dial *dial);

#endif
