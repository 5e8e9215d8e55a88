/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * How a migration's peer is known, and whether that is enough for where it is.
 * Main thread.
 */
#ifndef POSTERN_MIGRATE_TRUST_H
#define POSTERN_MIGRATE_TRUST_H

#include "base/conn.h"
#include "migrate/secret.h"
#include "migrate/uri.h"

/*
 * With a secret both sides prove it to each other, over whatever they are
 * connected by (docs/wire.md). Without one, who can reach a unix socket or has
 * been handed a descriptor is trusted, and over TCP nobody is, unless
 * `insecure` says that everybody is.
 */
struct migration_trust {
	struct secret secret;
	bool insecure;
	const struct conn_wrapper *wrapper; /* goes around each connection; NULL: nothing does */
};

/*
 * Either may be left out (NULL, false). -EINVAL: both; or what secret_load says.
 * The caller wipes the secret.
 */
int migration_trust_read(struct migration_trust *trust, const char *secret_file, bool insecure,
			 struct err *err);

/* -EINVAL where strangers could come in, or the guest could go to them, and says what to do. */
int trust_check(const struct migration_trust *trust, const struct uri *uri, bool listening,
		struct err *err);
/* Of where it listens now: says so in the log where it is open to strangers. */
void trust_warn(const struct migration_trust *trust, const struct uri *uri);

#endif
