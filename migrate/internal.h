/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * migrate/'s own: the migration object and what its files call of each other. All on the main thread.
 *
 *   migration.c   the public functions, status, statistics
 *   outgoing.c    the source's conversation        incoming.c   the destination's
 *   boot_sender.c, boot_receiver.c  what the guest reboots with, before the switchover
 *   switchover.c  who may run, and when: pause, state, decision, run; on both sides
 *   recover.c     what is missing, as messages
 *   awaited.c     how long is waited for a peer that lives
 *   trust.c       whether a URI may be used with what is known of the peer
 */
#ifndef POSTERN_MIGRATE_INTERNAL_H
#define POSTERN_MIGRATE_INTERNAL_H

#include "migrate/boot_receiver.h"
#include "migrate/boot_sender.h"
#include "migrate/connect.h"
#include "migrate/link.h"
#include "migrate/listen.h"
#include "migrate/migration.h"
#include "source/peer.h"
#include "source/receiver.h"
#include "source/sender.h"

#define MIGRATION_LISTENERS_MAX 8
/* To connect, and to name oneself, takes longer than to be silent: a first SYN is repeated after a second. */
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

/* The source. Who enters: see outgoing.c and switchover.c. */
enum out_phase {
	OUT_IDLE,		/* no migration, or the last one failed or was cancelled */
	OUT_CONNECT,		/* connecting */
	OUT_HELLO,		/* Hello sent */
	OUT_BOOT,		/* what the guest reboots with goes along; it runs meanwhile */
	OUT_STATE,		/* guest paused, State sent: nobody may run it until the reply or a failure */
	/* From here on this side never runs the guest. */
	OUT_DECIDED,		/* Run sent, or to be sent by a resume */
	OUT_RUNNING,		/* RunReply came */
	OUT_DONE,		/* Complete came */
};

/* The destination. */
enum in_phase {
	IN_IDLE,		/* not listening */
	IN_LISTEN,
	IN_HELLO,		/* link up, nothing said */
	IN_BOOT,		/* Hello answered: what the guest reboots with comes */
	IN_STATE,		/* then, or at once: early pages and State come */
	IN_PREPARED,		/* State loaded; only Run, of this session, makes the guest run */
	IN_RUNNING,		/* Run came */
	IN_COMPLETE,		/* every page is here, the source may not know */
	IN_DONE,		/* the source knows */
	IN_FAILED,		/* pages of a session that died: of no use for another */
};

/* What a side waits for from a peer that lives: awaited.c. */
enum awaited {
	AWAITED_NOTHING,
	/* the destination */
	AWAITED_HELLO, AWAITED_BOOT, AWAITED_STATE, AWAITED_RUN, AWAITED_RESUME, AWAITED_RESUME_ACK, AWAITED_PAGE, AWAITED_COMPLETE_ACK,
	/* the source */
	AWAITED_HELLO_REPLY, AWAITED_BOOT_REPLY, AWAITED_STATE_REPLY, AWAITED_RUN_REPLY, AWAITED_RESUME_REPLY, AWAITED_MISSING,
	AWAITED_TAKEN, AWAITED_COMPLETE, AWAITED_CLOSE,
};

/* A resume's handshake, on top of the phase. */
enum resume_step {
	RESUME_NONE,
	RESUME_CONNECT,		/* source */
	RESUME_ASKED,		/* source: Resume sent; destination: link up, nothing said */
	RESUME_ANSWERED,	/* destination: ResumeReply sent; source: it came, Missing messages follow */
};

struct migration {
	struct machine *machine;
	struct machine_listener machine_listener;
	struct loop *loop;
	struct migration_params params;
	struct migration_trust started_with;	/* migration_trust */
	struct migration_trust trust;		/* of this migration; a listener looks at its secret */
	struct migration_listener listener[MIGRATION_LISTENERS_MAX];
	unsigned int nlisteners;

	enum migration_status status;
	bool incoming;
	char error[512];
	uint8_t session[SESSION_BYTES];
	uint32_t epoch;
	struct link *link;	/* NULL: none */
	enum resume_step resume;
	uint64_t recoveries;
	enum awaited awaited;	/* on this link; since when, or since its last progress, and what was still to be sent then */
	int64_t awaited_ns;
	uint64_t awaited_progress;
	uint64_t awaited_unsent;

	/* the source */
	enum out_phase out;
	struct connector *connector;
	struct sender *sender;
	struct boot_sender *boot_sender;	/* in OUT_BOOT */
	bool was_running;
	uint64_t told_pages;	/* of a resume: pages that Missing messages have covered, and */
	uint64_t told_missing;	/* those of them that are missing */
	uint64_t reply_missing;
	bool reply_prepared;

	/* the destination */
	enum in_phase in;
	struct listener *listener_socket;
	char listen_uri[300];
	struct peer *peer;
	struct boot_receiver boot_receiver;
	enum boot_kind boot_kind;	/* of Hello, where it is taken along */
	bool run_flag;		/* of State */
	bool pages_placed;	/* a page of this session was placed */
	bool refused;		/* the source has been told that its guest is not taken: nothing more is due on this link */
	uint64_t early_bytes;	/* of pages, before State, on this link */
	bool told_complete;	/* the source, on this link */

	/* times, CLOCK_MONOTONIC; 0: not yet */
	int64_t started_ns, hello_ns, paused_ns, ran_ns, ended_ns;
	uv_timer_t *sample;
	uint64_t sampled_bytes, bytes_per_second;
	int64_t sampled_ns;
};

/* migration.c */
void migration_set_status(struct migration *m, enum migration_status status);
void migration_note(struct migration *m, const struct err *err);	/* keeps the reason, logs it */
/* The same, and what whoever reads it can do. */
void migration_note_advice(struct migration *m, const struct err *err, const char *advice);
/* Cuts the link, joins the threads on it, closes it. reason, if any, is told to the peer. */
void migration_drop_link(struct migration *m, const char *reason);
void migration_fill_shape(struct migration *m, Postern__Wire__Shape *shape);	/* borrows from m; see there */
void migration_drop_shape(Postern__Wire__Shape *shape);

/* outgoing.c */
/* trust becomes the migration's. */
int outgoing_start(struct migration *m, const struct uri *uri, const struct migration_trust *trust, struct err *err);
int outgoing_resume(struct migration *m, const struct uri *uri, const struct migration_trust *trust, struct err *err);
/* Ends a migration that is paused after its decision. The caller knows that the guest is here for good. */
void outgoing_forget(struct migration *m);
/* The link is lost or given up; what follows depends on the phase. */
void outgoing_lost(struct migration *m, const struct err *err, bool cancelled);

/* incoming.c */
int incoming_listen(struct migration *m, const struct uri *uri, const char *text, struct err *err);
void incoming_lost(struct migration *m, const struct err *err);
void incoming_memory_complete(struct migration *m);

/* switchover.c: the source */
int switchover_send(struct migration *m, struct err *err);
void switchover_back(struct migration *m);
int switchover_decide(struct migration *m, struct err *err);
void switchover_run(struct migration *m);
/* switchover.c: the destination */
int switchover_load(struct migration *m, const Postern__Wire__State *state, struct err *err);
void switchover_enter(struct migration *m);

/* awaited.c: once a second, gives up a peer that lives and does not say what is due. */
void awaited_check(struct migration *m);

/* recover.c */
void recover_send_missing(struct migration *m);
void recover_begin(struct migration *m);
int recover_take_missing(struct migration *m, const Postern__Wire__Missing *missing, struct err *err);
int recover_end(struct migration *m, struct err *err);
uint64_t recover_count_missing(struct migration *m);

#endif
