/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Listening sockets: what to do about a client that cannot be let in.
 */
#ifndef POSTERN_BASE_ACCEPT_H
#define POSTERN_BASE_ACCEPT_H

#include <errno.h>
#include <stdbool.h>

/*
 * r: of accept(2) and of what follows it, 0 or a negative errno. True: it would
 * fail again at once, since the system has no descriptor (EMFILE, ENFILE) or no
 * memory (ENOMEM, ENOBUFS) for another client, or for a reason that nobody has
 * thought of. Whoever connects still does: the socket is not to be watched for
 * a moment, rather than all the time. False: all is well, or it was about that
 * one client, who is gone (accept(2), "Error handling").
 */
static inline bool accept_should_rest(int r)
{
	switch (r) {
	case -EAGAIN:
	case -EINTR:
	case -ECONNABORTED:
	case -ENETDOWN:
	case -EPROTO:
	case -ENOPROTOOPT:
	case -EHOSTDOWN:
	case -ENONET:
	case -EHOSTUNREACH:
	case -EOPNOTSUPP:
	case -ENETUNREACH:
		return false;
	default:
		return r < 0;
	}
}

#endif
