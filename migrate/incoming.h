/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The destination of a migration. One object a machine, of use only where the
 * machine waits for a guest. Main thread.
 */
#ifndef POSTERN_MIGRATE_INCOMING_H
#define POSTERN_MIGRATE_INCOMING_H

#include "migrate/boot_receiver.h"
#include "migrate/listen.h"
#include "migrate/session.h"
#include "source/wire.h"

struct migration;

enum in_phase {
	IN_IDLE, /* not listening */
	IN_LISTEN,
	IN_HELLO, /* link up, nothing said */
	IN_BOOT, /* Hello answered: what the guest reboots with comes */
	IN_STATE, /* then, or at once: early pages and State come */
	IN_PREPARED, /* State loaded; only Run, of this session, makes the guest run */
	IN_RUNNING, /* Run came */
	IN_COMPLETE, /* every page is here, the source may not know */
	IN_DONE, /* the source knows */
	IN_FAILED, /* pages of a session that died: of no use for another */
};

/* A resume's handshake, while the phase stays. */
enum in_resume {
	IN_RESUME_NONE,
	IN_RESUME_AWAITED, /* link up, nothing said */
	IN_RESUME_ANSWERED, /* ResumeReply sent */
};

struct incoming {
	struct migration *m;
	struct session session;
	enum in_phase phase;
	enum in_resume resume;
	struct listener *listener;
	char listen_uri[300];
	struct wire_source *wire_source;
	struct boot_receiver boot_receiver;
	enum boot_type boot_type; /* of Hello, where it is taken along */
	bool run_flag; /* of State */
	bool pages_placed; /* a page of this session was placed */
	bool refused; /* the source was told so: nothing more is due on this link */
	uint64_t early_bytes; /* of pages, before State, on this link */
	bool complete_sent; /* the source, on this link */
};

/* Can it be resumed, or go on? */
static inline bool incoming_is_prepared(const struct incoming *in)
{
	return in->phase == IN_PREPARED || in->phase == IN_RUNNING || in->phase == IN_COMPLETE;
}

/* Begins to listen, or listens elsewhere; trust becomes the session's. text is uri's. */
int incoming_listen(struct incoming *in, const struct uri *uri, const char *text,
		    const struct migration_trust *trust, struct err *err);
/* The first time. */
int incoming_start(struct incoming *in, const struct uri *uri, const char *text,
		   const struct migration_trust *trust, struct err *err);
/* The link is lost or given up; what follows depends on the phase. */
void incoming_lost(struct incoming *in, const struct err *err);
void incoming_memory_complete(struct incoming *in);
/* What came here goes on to elsewhere: the source of it can do without us. */
void incoming_leave(struct incoming *in);
/* At the end of the machine. */
void incoming_fini(struct incoming *in);

/* switchover.c */
int switchover_load(struct incoming *in, const Postern__Wire__State *state, struct err *err);
void switchover_enter(struct incoming *in);

/* recover.c */
void recover_send_missing(struct incoming *in);

/* awaited.c: once a second, gives up a source that lives and does not say what is due. */
void awaited_check_incoming(struct incoming *in);

#endif
