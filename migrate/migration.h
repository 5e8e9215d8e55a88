/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Live migration by postcopy. One object a machine, used on the main thread; it
 * owns the threads that move pages. The wire format is docs/wire.md; the
 * protocol's rules on who may run the guest, and when, are on top of
 * switchover.c.
 *
 *   source:       none -> setup -> device -> postcopy-active <-> postcopy-paused -> ... -> completed
 *                          |         |           postcopy-recover (a resume's handshake)
 *                          +-> failed / cancelled: the guest runs on at the source
 *   destination:  none -> setup -> device -> postcopy-active <-> postcopy-paused -> ... -> completed
 */
#ifndef POSTERN_MIGRATE_MIGRATION_H
#define POSTERN_MIGRATE_MIGRATION_H

#include "base/err.h"
#include "machine/machine.h"
#include "migrate/trust.h"

struct migration;

/* Names as in QEMU's MigrationStatus. */
enum migration_status {
	MIGRATION_NONE,
	MIGRATION_SETUP,
	MIGRATION_CANCELLING,
	MIGRATION_CANCELLED,
	MIGRATION_DEVICE,		/* switchover: the guest runs nowhere */
	MIGRATION_POSTCOPY_ACTIVE,
	MIGRATION_POSTCOPY_PAUSED,	/* the link is lost */
	MIGRATION_POSTCOPY_RECOVER,
	MIGRATION_COMPLETED,
	MIGRATION_FAILED,
};
const char *migration_status_name(enum migration_status status);

struct migration_params {
	uint64_t max_postcopy_bandwidth;	/* bytes a second of bulk pages; 0: no limit; urgent pages never wait for it */
	unsigned int link_timeout_ms;		/* nothing heard from the peer for that long: the link is lost; 100 to 600000 */
	unsigned int downtime_limit_ms;		/* kept for clients that set it */
	uint64_t max_bandwidth;			/* kept for precopy */
};

struct migration_info {
	enum migration_status status;
	bool incoming;
	char error[512];		/* of the last failure or pause, "" if none */
	uint64_t ram_total_bytes, ram_remaining_bytes, ram_sent_bytes;	/* remaining: not yet sent / not yet come */
	uint64_t pages_normal, pages_zero, pages_urgent;
	int64_t total_ms, setup_ms, downtime_ms;
	uint64_t recoveries;
	bool reclaimed;			/* by migration_reclaim: the guest is here for good */
	uint64_t bytes_per_second;	/* over the last second */
};

struct migration_observer {
	void (*status)(void *arg, enum migration_status status);	/* main thread */
	void *arg;
};

int migration_new(struct migration **out, struct machine *machine, struct err *err);
/* Ends connections and threads at once; never waits for the peer. Before machine_free. */
void migration_free(struct migration *migration);
void migration_observe(struct migration *migration, const struct migration_observer *observer);
/* What holds where a command brings none of its own: as the machine was started. */
void migration_trust(struct migration *migration, const struct migration_trust *trust);

/*
 * URIs: "tcp:HOST:PORT" (HOST may be empty, [IPv6] in brackets), "unix:PATH",
 * "fd:N" (destination: a listening socket) and "fd:C,U,B" (three connected
 * sockets: control, urgent, bulk). Only syntax and listening/resolving errors
 * are returned; what happens later is status and event. -EINVAL: TCP without
 * trust, too.
 *
 * trust: for this migration, also when it is recovered; NULL: as
 * migration_trust said.
 */
int migration_incoming(struct migration *migration, const char *uri,
		       const struct migration_trust *trust, struct err *err);
/*
 * migrate. resume: go on with a paused postcopy; trust, if not NULL, takes the
 * place of what it began with.
 */
int migration_outgoing(struct migration *migration, const char *uri, bool resume,
		       const struct migration_trust *trust, struct err *err);
/* migrate-recover on the destination: listen anew at uri; trust as for a resume. */
int migration_recover(struct migration *migration, const char *uri,
		      const struct migration_trust *trust, struct err *err);
/* migrate-pause, on either side: cut our own link in postcopy. Out-of-band capable. */
int migration_pause(struct migration *migration, struct err *err);
/* migrate_cancel: before switchover the guest goes on here; after it: an error that says so. */
int migration_cancel(struct migration *migration, struct err *err);

/*
 * At the source of a postcopy that is paused: the guest runs here again, from
 * the moment of the switchover. Only for who knows that the destination is
 * dead. The migration cannot be resumed afterwards. -EINVAL: not such a source;
 * -EALREADY.
 */
int migration_reclaim(struct migration *migration, struct err *err);

void migration_params_get(struct migration *migration, struct migration_params *params);
int migration_params_set(struct migration *migration, const struct migration_params *params,
			 struct err *err);
void migration_query(struct migration *migration, struct migration_info *info);

#endif
