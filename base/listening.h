/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Listening at an address: at every one that it stands for, with one descriptor
 * to watch. What a unix socket needs besides is here as well: nobody but its
 * owner may connect, from its first moment on; a file that a dead process left
 * behind is replaced; at the end the file goes, if it still is this one's. All
 * descriptors are close-on-exec and non-blocking. Main thread.
 */
#ifndef POSTERN_BASE_LISTENING_H
#define POSTERN_BASE_LISTENING_H

#include <stdint.h>
#include <sys/stat.h>

#include "base/address.h"
#include "base/err.h"

struct listening {
	int fd;			/* readable when somebody connects; -1: closed */
	int door[ADDRESSES_MAX];
	unsigned int n, turn;
	char path[ADDRESS_PATH_BYTES];	/* of a unix socket that was made here; "": none */
	struct stat made;	/* that socket's file */
};

/*
 * patience_ns: for looking up a name; 0: names are refused with -EINVAL, for
 * where nobody may be made to wait. A handled signal ends that with -EINTR. An
 * address of the loopback, of "*" or of a name that this host does not have
 * (such as ::1 without IPv6) is left out, unless it has none of them. Any other
 * failure is one of all: -EADDRINUSE at any of them, or a path at which
 * somebody listens or that is no socket's (-EEXIST). With port 0 it is the same
 * at every address. The error names the address.
 */
int listening_open(struct listening *listening, const struct address *address, int64_t patience_ns,
		   int backlog, struct err *err);
/*
 * Its one socket becomes the caller's, to accept and to close; what is left is
 * the file, for listening_close to remove before that.
 */
int listening_take(struct listening *listening);
/* A listening socket that was made elsewhere, and is this one's from now on. */
void listening_adopt(struct listening *listening, int fd);
/* A client's socket, or as accept(2); -EAGAIN: nobody is there any more. */
int listening_accept(struct listening *listening);
/* Of door i: "127.0.0.1 port 80" or "unix:PATH"; out has SOCKADDR_TEXT_BYTES. */
void listening_print(const struct listening *listening, unsigned int i, char *out);
/* Also of one that is closed, or was filled with zeros but for fd = -1. */
void listening_close(struct listening *listening);

#endif
