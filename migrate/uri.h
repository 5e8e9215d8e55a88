/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A migration URI, parsed. Pure: nothing is resolved or opened.
 */
#ifndef POSTERN_MIGRATE_URI_H
#define POSTERN_MIGRATE_URI_H

#include <stdint.h>

#include "base/address.h"
#include "base/err.h"
#include "wire/frame.h"

enum uri_type {
	URI_TCP,
	URI_UNIX,
	URI_FD,
};

struct uri {
	enum uri_type type;
	struct address address;		/* TCP and UNIX */
	int fd[WIRE_CHANNELS];		/* FD */
	unsigned int nfd;		/* FD: 1 or WIRE_CHANNELS */
};

/* An address (base/address.h), "fd:N" or "fd:C,U,B". -EINVAL says what is expected where. */
int uri_parse(struct uri *uri, const char *text, struct err *err);

#endif
