/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The source of a migration. One object a machine, which lives as long as the
 * migration object; what is left of one attempt goes with the next. Main thread.
 */
#ifndef POSTERN_MIGRATE_OUTGOING_H
#define POSTERN_MIGRATE_OUTGOING_H

#include "migrate/boot_sender.h"
#include "migrate/connect.h"
#include "migrate/session.h"
#include "wire/sender.h"

struct migration;

/* Who enters: see outgoing.c and switchover.c. */
enum out_phase {
	OUT_IDLE, /* no migration, or the last one failed or was cancelled */
	OUT_CONNECT, /* connecting */
	OUT_HELLO, /* Hello sent */
	OUT_BOOT, /* what the guest reboots with goes along; it runs meanwhile */
	OUT_STATE, /* guest paused, State sent: nobody may run it until the reply or a failure */
	/* From here on this side never runs the guest. */
	OUT_DECIDED, /* Run sent, or to be sent by a resume */
	OUT_RUNNING, /* RunReply came */
	OUT_DONE, /* Complete came */
};

/* A resume's handshake, while the phase stays. */
enum out_resume {
	OUT_RESUME_NONE,
	OUT_RESUME_CONNECT,
	OUT_RESUME_ASKED, /* Resume sent */
	OUT_RESUME_ANSWERED, /* its reply came, Missing messages follow */
};

struct outgoing {
	struct migration *m;
	struct session session;
	enum out_phase phase;
	enum out_resume resume;
	struct connector *connector;
	struct sender *sender;
	struct boot_sender *boot_sender; /* in OUT_BOOT */
	bool was_running;
	/* of a resume: what its reply said, */
	bool reply_prepared;
	uint64_t reply_missing;
	/* pages that Missing messages have covered since, and those of them that are missing */
	uint64_t reported_pages;
	uint64_t reported_missing;
};

/* Is a migration under way, one that waits to be resumed also? */
static inline bool outgoing_is_active(const struct outgoing *o)
{
	return o->phase != OUT_IDLE && o->phase != OUT_DONE;
}

/* trust becomes the session's. With an error the session before is what it was. */
int outgoing_start(struct outgoing *o, const struct uri *uri, const struct migration_trust *trust,
		   struct err *err);
int outgoing_resume(struct outgoing *o, const struct uri *uri, const struct migration_trust *trust,
		    struct err *err);
/*
 * Ends a migration that is paused after its decision. The caller knows that the
 * guest is here for good.
 */
void outgoing_forget(struct outgoing *o);
/* The link is lost or given up; what follows depends on the phase. */
void outgoing_lost(struct outgoing *o, const struct err *err, bool cancelled);
/* At the end of the machine. */
void outgoing_fini(struct outgoing *o);

/* switchover.c */
int switchover_send(struct outgoing *o, struct err *err);
void switchover_back(struct outgoing *o);
int switchover_decide(struct outgoing *o, struct err *err);
void switchover_run(struct outgoing *o);

/* recover.c: what the destination says that it has not got */
void recover_begin(struct outgoing *o);
int recover_take_missing(struct outgoing *o, const Postern__Wire__Missing *missing,
			 struct err *err);
int recover_end(struct outgoing *o, struct err *err);

/* awaited.c: once a second, gives up a destination that lives and does not say what is due. */
void awaited_check_outgoing(struct outgoing *o);

#endif
