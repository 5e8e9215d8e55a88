/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * migrate/'s own: the face that both ends of a migration share, and what they
 * ask of it. All on the main thread.
 *
 *   migration.c   the face: the public functions, status, statistics
 *   outgoing.c    the source, its conversation     incoming.c   the destination
 *   boot_sender.c, boot_receiver.c  what the guest reboots with, before the switchover
 *   switchover.c  who may run, and when: pause, state, decision, run; at both ends
 *   recover.c     what is missing, as messages
 *   awaited.c     how long is waited for a peer that lives
 *   trust.c       whether a URI may be used with what is known of the peer
 */
#ifndef POSTERN_MIGRATE_INTERNAL_H
#define POSTERN_MIGRATE_INTERNAL_H

#include "migrate/incoming.h"
#include "migrate/migration.h"
#include "migrate/outgoing.h"

#define MIGRATION_OBSERVERS_MAX 8
/*
 * To connect, and to name oneself, takes longer than to be silent: a first SYN
 * is repeated after a second.
 */
#define CONNECT_TIMEOUT_MIN_MS 5000u
/* Who has connected and not proven anything is not kept for longer, however patient a link is. */
#define HANDSHAKE_TIMEOUT_MAX_MS 30000u

static inline unsigned int connect_timeout_ms(unsigned int link_timeout_ms)
{
	return link_timeout_ms > CONNECT_TIMEOUT_MIN_MS ? link_timeout_ms : CONNECT_TIMEOUT_MIN_MS;
}

static inline unsigned int handshake_timeout_ms(unsigned int link_timeout_ms)
{
	unsigned int ms = connect_timeout_ms(link_timeout_ms);

	return ms < HANDSHAKE_TIMEOUT_MAX_MS ? ms : HANDSHAKE_TIMEOUT_MAX_MS;
}

struct migration {
	struct machine *machine;
	struct machine_observer machine_observer;
	struct loop *loop;
	struct migration_params params;
	struct migration_trust started_with; /* migration_trust */
	struct migration_observer observer[MIGRATION_OBSERVERS_MAX];
	unsigned int nobservers;

	struct outgoing outgoing;
	struct incoming incoming;
	/* Of the last one that was begun: which of the two it is, and how it stands. */
	bool is_incoming;
	enum migration_status status;
	char error[512];

	uv_timer_t *sample;
	uint64_t sampled_bytes, bytes_per_second;
	int64_t sampled_ns;
};

/* migration.c */
void migration_set_status(struct migration *m, enum migration_status status);
void migration_note(struct migration *m, const struct err *err); /* keeps the reason, logs it */
/* The same, and what whoever reads it can do. */
void migration_note_advice(struct migration *m, const struct err *err, const char *advice);
/* Of what was begun now: forgets what the one before it has left in the figures. */
void migration_begin(struct migration *m, bool is_incoming);
void migration_fill_shape(struct migration *m, Postern__Wire__Shape *shape); /* borrows from m */
void migration_drop_shape(Postern__Wire__Shape *shape);

/* recover.c */
uint64_t recover_count_missing(struct migration *m);

#endif
