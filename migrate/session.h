/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What each end of a migration has: the session, the link that it is on now, and
 * what is awaited there. Main thread.
 */
#ifndef POSTERN_MIGRATE_SESSION_H
#define POSTERN_MIGRATE_SESSION_H

#include "migrate/handshake.h"
#include "migrate/link.h"
#include "migrate/trust.h"

/* What is waited for from a peer that lives: awaited.c. */
enum awaited {
	AWAITED_NOTHING,
	/* by the destination */
	AWAITED_HELLO,
	AWAITED_BOOT,
	AWAITED_STATE,
	AWAITED_RUN,
	AWAITED_RESUME,
	AWAITED_RESUME_ACK,
	AWAITED_PAGE,
	AWAITED_COMPLETE_ACK,
	/* by the source */
	AWAITED_HELLO_REPLY,
	AWAITED_BOOT_REPLY,
	AWAITED_STATE_REPLY,
	AWAITED_RUN_REPLY,
	AWAITED_RESUME_REPLY,
	AWAITED_MISSING,
	AWAITED_TAKEN,
	AWAITED_COMPLETE,
	AWAITED_CLOSE,
};

/* Since when, or since its last progress, and what was still to be sent then. */
struct await {
	enum awaited what;
	int64_t since_ns;
	uint64_t progress;
	uint64_t unsent;
};

struct session {
	uint8_t id[SESSION_BYTES];
	uint32_t epoch; /* of the link, or of the last one */
	struct migration_trust trust; /* a listener looks at it */
	struct link *link; /* NULL: none */
	struct await await; /* on this link */
	uint64_t recoveries;
	/* CLOCK_MONOTONIC; 0: not yet */
	int64_t started_ns, hello_ns, paused_ns, ran_ns, ended_ns;
};

#endif
