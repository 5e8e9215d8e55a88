/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What nbd.c, nbd_link.c, nbd_job.c and nbd_part.c share. Main thread.
 */
#ifndef POSTERN_DEVICE_DISK_NBD_INTERNAL_H
#define POSTERN_DEVICE_DISK_NBD_INTERNAL_H

#include "device/disk/nbd.h"
#include "device/disk/nbd_doubt.h"
#include "device/disk/nbd_kept.h"
#include "device/disk/nbd_lib.h"

#define NBD_PARTS_MAX 64
/* The largest that a server may want its requests to be multiples of (the protocol's bound). */
#define NBD_BLOCK_MAX 65536

/*
 * A request to the server. An edge is a write of less than the server's block: it is read, changed
 * and written, two requests one after the other, and nothing else changes that block meanwhile.
 */
struct nbd_part {
	struct disk_job *job;		/* NULL: this one is free */
	enum { NBD_PART_WHOLE, NBD_PART_EDGE_READ, NBD_PART_EDGE_WRITE } type;
	uint64_t at, len;		/* of the job */
	uint64_t wire_at, wire_len;	/* of the disk */
	uint64_t sequence;		/* a flush: the last acknowledged before it */
	uint8_t *buffer;		/* wire_len bytes; NULL: in place */
	bool finished;
	int error;
};

/* What the loop has of us; freed when it has let go of them. */
struct nbd_timers {
	unsigned int handles;	/* first: see loop_close_one_of */
	uv_timer_t retry, soon, doubt;
};

struct nbd_watch {
	uv_poll_t poll;
	struct nbd *nbd;
};

struct nbd_jobs {
	struct disk_job *first, **last;	/* in order */
};

struct nbd {
	struct disk disk;
	struct nbd_lib lib;
	struct nbd_origin origin;
	struct nbd_handle *h;		/* NULL: no connection */
	int dialing;			/* what says that the next step to one is due; -1: none is on its way */
	bool ready;			/* the handshake is done */
	int died_errno;			/* of a connection that libnbd gave up, and what it said: "" where the server ended it */
	char died[sizeof(((struct err *)NULL)->text)];
	bool held;			/* an origin of ours is claimed */
	int reconnect_s, quiesce_s;
	int64_t lost_ns, ready_ns, handshake_end_ns;
	unsigned int pause_ms;
	struct nbd_watch *watch;
	struct nbd_timers *timers;
	/* What the server says of itself. */
	bool flushes, fua;
	uint32_t block;			/* requests are multiples of it: bytes, a power of two */
	uint32_t most;			/* bytes of data in one, a multiple of block */
	/* The device's jobs, and our own: what is written again, and flushes. */
	struct nbd_jobs jobs, own;
	struct nbd_part part[NBD_PARTS_MAX];
	struct nbd_doubts doubts;
	struct nbd_kept kept;
	uint64_t sequence;		/* of the job that was acknowledged last */
	uint64_t unkept;		/* ... of one that could not be kept and is not flushed; 0: none */
	uint64_t reserved;		/* bytes of jobs under way that will be kept */
	bool cramped;			/* a job waits for room among what is kept */
	struct nbd_kept_range *again;	/* the next to be written again; NULL: none is left */
	unsigned int agains;		/* ... and those under way */
	bool flushing;			/* a flush of our own is under way */
	bool broken;			/* something acknowledged is gone: the next flush says so */
	char *path;
};

static inline bool nbd_changes(enum disk_op op)
{
	return op == DISK_WRITE || op == DISK_DISCARD || op == DISK_ZERO;
}

/* ---- nbd_part.c ---- */

/* The whole blocks around a job: what changing it may touch. */
void nbd_wire_range(const struct nbd *nbd, const struct disk_job *job, uint64_t *at, uint64_t *len);
/*
 * Sends the next part of a job. 0, or -1: libnbd does not take it. 1: there is
 * nothing to send, it is done.
 */
int nbd_part_send(struct nbd *nbd, struct nbd_part *part);
/*
 * It was answered without an error. 0: it has another request to make, -1:
 * which libnbd does not take; 1: it is done.
 */
int nbd_part_answered(struct nbd *nbd, struct nbd_part *part);
void nbd_part_free(struct nbd_part *part);

/* ---- nbd_job.c ---- */

/* Sends what may be sent. Ends nothing: what has ended without the server is seen to soon. */
void nbd_pump(struct nbd *nbd);
/* Takes what was answered. False: by a server that is about to go. */
bool nbd_collect(struct nbd *nbd);
/* The device's end with this result, whatever they are at. */
void nbd_jobs_fail(struct nbd *nbd, int result);
/*
 * The connection is over: what was asked over it is in doubt, and all of it begins anew. silent: it
 * was not the server that ended it.
 */
void nbd_jobs_restart(struct nbd *nbd, bool silent);
/* There is one again: what is kept is written again first. */
void nbd_jobs_again(struct nbd *nbd);
/* Time has passed, or the server has dropped what it had: less is in doubt. */
void nbd_doubt_look(struct nbd *nbd);
/* Jobs that wait since what they would change is in doubt. */
unsigned int nbd_jobs_held(const struct nbd *nbd);

/* ---- nbd_link.c ---- */

/*
 * The connection ends, or the attempt at one. in_order: the server is told;
 * else nothing more is sent.
 */
void nbd_link_close(struct nbd *nbd, bool in_order);
bool nbd_link_is_over(const struct nbd *nbd);
/* After each call that may have ended it, before the next one: why, if libnbd has given it up. */
void nbd_link_note_end(struct nbd *nbd);
/* What libnbd says of its last failure; of why the connection is over. */
const char *nbd_link_says(const struct nbd *nbd);
const char *nbd_link_why_over(const struct nbd *nbd);
/* It is away: the device is told why, and the next attempt comes. */
void nbd_link_lost(struct nbd *nbd, const char *reason);
/* The handshake is done, and the export is the one we know. */
void nbd_link_is_up(struct nbd *nbd);
/*
 * The next step towards a connection: 0, there is a handle; -EINPROGRESS, when
 * nbd->dialing is readable there is another one; or the end.
 */
int nbd_link_handle_new(struct nbd *nbd, struct err *err);
/* Polls the connection, or what makes one. */
int nbd_link_watch_new(struct nbd *nbd, struct err *err);
/* Its socket is readable or writable. */
void nbd_link_notify(struct nbd *nbd, bool readable, bool writable);
void nbd_link_start(struct nbd *nbd);
/* After anything has happened to it, which it is asked to look for. */
void nbd_link_look(struct nbd *nbd);
void nbd_link_watch(struct nbd *nbd);
/* Requests have waited for as long as they are to. */
bool nbd_link_waited_enough(const struct nbd *nbd);

/* ---- nbd_export.c ---- */

/* Is it the export that we know? Sets its size when it is new. */
int nbd_export_check(struct nbd *nbd, struct err *err);

/* ---- nbd_wait.c ---- */

/* The first attempts, to their end: waits. */
int nbd_link_first(struct nbd *nbd, struct err *err);
/* The loop does not turn: until the server says something, or the time has come. */
void nbd_link_wait(struct nbd *nbd, int64_t deadline_ns);

/* ---- nbd_timers.c ---- */

/* The next attempt at a connection, in so many milliseconds. */
void nbd_link_retry(struct nbd *nbd, unsigned int ms);
/* In the loop's next turn: it is looked after. */
void nbd_link_soon(struct nbd *nbd);
/* ... and in so many milliseconds, when doubt ends; 0: not. */
void nbd_link_doubt_timer(struct nbd *nbd, int64_t ms);
int nbd_timers_new(struct nbd *nbd, struct err *err);
void nbd_timers_close(struct nbd_timers *timers);

#endif
