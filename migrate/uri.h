/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A migration URI, parsed. Pure: nothing is resolved or opened.
 */
#ifndef POSTERN_MIGRATE_URI_H
#define POSTERN_MIGRATE_URI_H

#include <stdint.h>

#include "base/err.h"
#include "source/frame.h"

enum uri_kind {
	URI_TCP,
	URI_UNIX,
	URI_FD,
};

struct uri {
	enum uri_kind kind;
	char host[256];			/* TCP; "" is any address to listen at, this host to connect to */
	char port[6];			/* TCP; decimal, 0 to 65535 */
	char path[108];			/* UNIX; fits sun_path with its end */
	int fd[WIRE_CHANNELS];		/* FD */
	unsigned int nfd;		/* FD: 1 or WIRE_CHANNELS */
};

/* "tcp:HOST:PORT", "tcp:[IPV6]:PORT", "unix:PATH", "fd:N", "fd:C,U,B". -EINVAL says what is expected where. */
int uri_parse(struct uri *uri, const char *text, struct err *err);

#endif
