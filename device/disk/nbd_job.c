// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * nbd_job.c - which job is sent when, and what its end means.
 *
 * A job becomes one request or several, its parts; at most NBD_PARTS_MAX are under way, which
 * bounds memory as well. Jobs that change the same blocks are done one after the other, in their
 * order; so each byte's content is known, whatever a server makes of requests that cross.
 *
 * A connection's end loses two kinds of them. What has no answer is in doubt (nbd_doubt.h): it is
 * sent again, and what else changes the same blocks waits. What was acknowledged and not flushed is
 * perhaps gone: it is kept (nbd_kept.h), and written again before anything else. What is kept is
 * bounded: from half of that on we flush ourselves, and what does not fit waits.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "device/disk/nbd_internal.h"

#define KEPT_BYTES (UINT64_C(32) << 20)
/* Written again at a time, after a connection was lost. */
#define AGAINS_MAX 32

/* A job of our own. */
struct own_job {
	struct disk_job job;
	struct nbd *nbd;
	struct iovec iov;
};

static void list_append(struct nbd_jobs *jobs, struct disk_job *job)
{
	job->next = NULL;
	*jobs->last = job;
	jobs->last = &job->next;
}

/* ---- what may be sent ---- */

/* Will a copy of it be kept? */
static bool is_kept(const struct nbd *nbd, const struct disk_job *job)
{
	return nbd->flushes && !job->own && !job->stable &&
	       (job->op == DISK_WRITE || job->op == DISK_ZERO);
}

static uint64_t kept_bytes(const struct disk_job *job)
{
	return job->op == DISK_WRITE ? job->len : 0;
}

/*
 * In their order: one that needs much is not to wait for as long as others that
 * need little come.
 */
static bool has_room(struct nbd *nbd, const struct disk_job *job)
{
	uint64_t used = nbd->kept.bytes + nbd->reserved;

	if (job->reserved || !is_kept(nbd, job))
		return true;
	nbd->cramped |= used && used + kept_bytes(job) > KEPT_BYTES;
	return !nbd->cramped;
}

/* Does none before it in the list change the same? */
static bool is_first(const struct nbd *nbd, const struct nbd_jobs *jobs, const struct disk_job *job,
		     uint64_t at, uint64_t len)
{
	const struct disk_job *other;
	uint64_t other_at, other_len;

	for (other = jobs->first; other != job; other = other->next) {
		if (!nbd_changes(other->op))
			continue;
		nbd_wire_range(nbd, other, &other_at, &other_len);
		if (at < other_at + other_len && other_at < at + len)
			return false;
	}
	return true;
}

static bool may_go(const struct nbd *nbd, const struct nbd_jobs *jobs, const struct disk_job *job)
{
	uint64_t at, len;

	/* One that has begun goes on. */
	if (job->moved || job->parts || job->syncing || !nbd_changes(job->op))
		return true;
	nbd_wire_range(nbd, job, &at, &len);
	if (!is_first(nbd, jobs, job, at, len))
		return false;
	/* What is written again is what was there before anything that is in doubt. */
	return job->own || nbd_doubt_allows(&nbd->doubts, at, len, job);
}

/* ---- sending ---- */

static struct nbd_part *part_find(struct nbd *nbd)
{
	unsigned int i;

	for (i = 0; i < NBD_PARTS_MAX; i++)
		if (!nbd->part[i].job)
			return &nbd->part[i];
	return NULL;
}

static int lib_error(struct nbd *nbd)
{
	int error = nbd->lib.nbd_get_errno();

	log_debug("disk %s: %s", nbd->path, nbd->lib.nbd_get_error());
	return error ? -error : -EIO;
}

/* As much of a job as there is room for. False: no more room. */
static bool job_send(struct nbd *nbd, struct disk_job *job)
{
	struct nbd_part *part;
	int r;

	while (!job->sent && !job->error) {
		part = part_find(nbd);
		if (!part)
			return false;
		part->job = job;
		part->at = job->moved;
		r = nbd_part_send(nbd, part);
		nbd_link_note_end(nbd);
		/* One that was not taken because the connection has just died keeps its place. */
		if (r < 0 && nbd_link_is_over(nbd)) {
			nbd_part_free(part);
			return false;
		}
		if (!job->reserved && is_kept(nbd, job)) {
			nbd->reserved += kept_bytes(job);
			job->reserved = true;
		}
		job->moved += part->len;
		job->sent = job->moved >= job->len;
		if (r < 0)
			job->error = lib_error(nbd);
		if (r)
			nbd_part_free(part);
		else
			job->parts++;
	}
	return true;
}

static bool job_ended(const struct disk_job *job)
{
	return !job->parts && (job->sent || job->error);
}

/* False: there is no more room. */
static bool list_send(struct nbd *nbd, const struct nbd_jobs *jobs, bool *ended)
{
	struct disk_job *job;

	nbd->cramped = false;
	for (job = jobs->first; job; job = job->next) {
		if (!may_go(nbd, jobs, job) || !has_room(nbd, job))
			continue;
		if (!job_send(nbd, job))
			return false;
		*ended |= job_ended(job);
	}
	return true;
}

/* ---- jobs of our own ---- */

static struct own_job *own_new(struct nbd *nbd, enum disk_op op,
			       void (*done)(struct disk_job *, int))
{
	struct own_job *own = calloc(1, sizeof(*own));

	if (!own)
		return NULL;
	own->nbd = nbd;
	own->job.own = true;
	own->job.op = op;
	own->job.done = done;
	list_append(&nbd->own, &own->job);
	return own;
}

/* What was acknowledged is not there any more, or may not be: the guest's next flush tells it. */
static void broken(struct nbd *nbd, const char *why)
{
	if (!nbd->broken)
		log_error(
			"disk %s: what the guest wrote and had not flushed is lost (%s): its next flush fails",
			nbd->path, why);
	nbd->broken = true;
	nbd->unkept = 0;
}

static void nbd_job_on_again(struct disk_job *job, int result)
{
	struct own_job *own = (struct own_job *)(void *)job;

	own->nbd->agains--;
	if (result < 0)
		broken(own->nbd, strerror(-result));
	free(own);
}

static void again_send(struct nbd *nbd)
{
	struct nbd_kept_range *range;
	struct own_job *own;

	while ((range = nbd->again) && nbd->agains < AGAINS_MAX) {
		own = own_new(nbd, range->data ? DISK_WRITE : DISK_ZERO, nbd_job_on_again);
		if (!own)
			break;
		nbd->again = range->next;
		nbd->agains++;
		own->iov = (struct iovec){ range->data, range->len };
		own->job.offset = range->at;
		own->job.len = range->len;
		own->job.iov = &own->iov;
		own->job.iovs = 1;
	}
	/* Without memory for even one of them there is no use in waiting for more. */
	if (range && !nbd->agains) {
		broken(nbd, "no memory");
		nbd->again = NULL;
	}
}

static void nbd_job_on_own_flush(struct disk_job *job, int result)
{
	struct own_job *own = (struct own_job *)(void *)job;
	struct nbd *nbd = own->nbd;

	nbd->flushing = false;
	/* It will not do better for being asked again: room has to be made all the same. */
	if (result < 0) {
		broken(nbd, strerror(-result));
		nbd_kept_flushed(&nbd->kept, nbd->sequence);
	}
	free(own);
}

static void pressure_look(struct nbd *nbd)
{
	/*
	 * A large job may want more than half, and nothing else be under way
	 * that would make it more.
	 */
	bool cramped = nbd->cramped && !nbd->reserved;

	if (!nbd->flushing && (cramped || nbd->kept.bytes > KEPT_BYTES / 2))
		nbd->flushing = own_new(nbd, DISK_FLUSH, nbd_job_on_own_flush);
}

void nbd_pump(struct nbd *nbd)
{
	bool ended = false, room;

	if (!nbd->ready)
		return;
	if (nbd->again || nbd->agains)
		again_send(nbd);
	room = list_send(nbd, &nbd->own, &ended);
	if (room && !nbd->again && !nbd->agains) {
		room = list_send(nbd, &nbd->jobs, &ended);
		pressure_look(nbd);
		if (room)
			list_send(nbd, &nbd->own, &ended);
	}
	/* Its `done` is not called from within an addition. */
	if (ended)
		nbd_link_soon(nbd);
}

/* ---- the end of jobs ---- */

static void unreserve(struct nbd *nbd, struct disk_job *job)
{
	if (job->reserved)
		nbd->reserved -= kept_bytes(job);
	job->reserved = false;
}

/* The server has done what this one asked for. */
static void acknowledged(struct nbd *nbd, struct disk_job *job)
{
	const struct iovec *iov = job->op == DISK_WRITE ? job->iov : NULL;
	int r;

	if (job->op == DISK_FLUSH && nbd->broken) {
		nbd->broken = false;
		job->error = -EIO;
	}
	if (!nbd_changes(job->op))
		return;
	nbd->sequence++;
	if (is_kept(nbd, job))
		r = nbd_kept_put(&nbd->kept, job->offset, job->len, iov, nbd->sequence);
	else
		r = nbd_kept_cut(&nbd->kept, job->offset, job->len);
	if (r < 0)
		nbd->unkept = nbd->sequence;
}

static void job_end(struct nbd *nbd, struct disk_job *job, int result)
{
	if (job->own) {
		job->done(job, result);
		return;
	}
	unreserve(nbd, job);
	nbd_doubt_disown(&nbd->doubts, job);
	disk_done(&nbd->disk, job, result);
}

/*
 * Those that have ended, or all with this result. Out of the list first:
 * whoever is told may add others.
 */
static void list_end(struct nbd *nbd, struct nbd_jobs *jobs, bool all, int result)
{
	struct disk_job **at = &jobs->first, *job, *ended = NULL, **last = &ended;

	while ((job = *at)) {
		if (!all && !job_ended(job)) {
			at = &job->next;
			continue;
		}
		*at = job->next;
		job->next = NULL;
		*last = job;
		last = &job->next;
	}
	jobs->last = at;
	while ((job = ended)) {
		ended = job->next;
		if (!all && !job->error && !job->own)
			acknowledged(nbd, job);
		job_end(nbd, job, all ? result : job->error);
	}
}

void nbd_jobs_fail(struct nbd *nbd, int result)
{
	list_end(nbd, &nbd->jobs, true, result);
}

/*
 * Of one that is to be stable, when the server has done it: a flush behind it where the server has
 * no FUA. One that has neither says that it keeps what it acknowledges.
 */
static void job_sync(const struct nbd *nbd, struct disk_job *job)
{
	if (!job->stable || job->syncing || !job_ended(job) || job->error || nbd->fua ||
	    !nbd->flushes)
		return;
	job->syncing = true;
	job->sent = false;
	job->moved = 0;
}

static void flushed(struct nbd *nbd, const struct nbd_part *part)
{
	nbd_kept_flushed(&nbd->kept, part->sequence);
	if (nbd->unkept <= part->sequence)
		nbd->unkept = 0;
}

/* False: its connection has ended, it has no answer. */
static bool part_collect(struct nbd *nbd, struct nbd_part *part)
{
	struct disk_job *job = part->job;
	int r = 1;

	if (part->error == ENOTCONN || part->error == ESHUTDOWN)
		return false;
	if (part->error) {
		job->error = -part->error;
	} else {
		r = nbd_part_answered(nbd, part);
		nbd_link_note_end(nbd);
	}
	if (!r)
		return true;
	if (r < 0 && nbd_link_is_over(nbd))
		return false;
	if (r < 0)
		job->error = lib_error(nbd);
	else if (!part->error && (job->op == DISK_FLUSH || job->syncing))
		flushed(nbd, part);
	job->parts--;
	job_sync(nbd, job);
	nbd_part_free(part);
	return true;
}

bool nbd_collect(struct nbd *nbd)
{
	bool stays = true;
	unsigned int i;

	for (i = 0; i < NBD_PARTS_MAX; i++)
		if (nbd->part[i].job && nbd->part[i].finished)
			stays &= part_collect(nbd, &nbd->part[i]);
	list_end(nbd, &nbd->own, false, 0);
	list_end(nbd, &nbd->jobs, false, 0);
	return stays;
}

/* ---- the connection's end, and the next one ---- */

/* One of ours is gone, reaped, before the next is started: nothing of it is in doubt. */
static void doubts_note(struct nbd *nbd, bool silent)
{
	int by_itself = silent ? DISK_QUIESCE_SILENT_S : DISK_QUIESCE_ENDED_S;
	int seconds = nbd->quiesce_s >= 0 ? nbd->quiesce_s : by_itself;
	int64_t end = clock_now_ns() + seconds * NS_PER_SEC, last = nbd_doubt_end_ns(&nbd->doubts);
	unsigned int i;

	if (end < last)
		end = last;
	for (i = 0; i < NBD_PARTS_MAX; i++) {
		struct nbd_part *part = &nbd->part[i];
		bool changes = part->job && nbd_changes(part->job->op) && !part->job->syncing;

		if (changes && part->type != NBD_PART_EDGE_READ && !nbd->origin.ours && seconds)
			nbd_doubt_add(&nbd->doubts, part->wire_at, part->wire_len, part->job, end);
		nbd_part_free(part);
	}
	nbd_doubt_look(nbd);
}

static void nbd_job_own_drop(struct nbd *nbd)
{
	struct disk_job *job;

	while ((job = nbd->own.first)) {
		nbd->own.first = job->next;
		nbd_doubt_disown(&nbd->doubts, job);
		free(job);
	}
	nbd->own.last = &nbd->own.first;
	nbd->again = NULL;
	nbd->agains = 0;
	nbd->flushing = false;
}

void nbd_jobs_restart(struct nbd *nbd, bool silent)
{
	struct disk_job *job;

	doubts_note(nbd, silent);
	nbd_job_own_drop(nbd);
	for (job = nbd->jobs.first; job; job = job->next) {
		unreserve(nbd, job);
		job->moved = 0;
		job->parts = 0;
		job->error = 0;
		job->sent = job->syncing = false;
	}
	if (nbd->unkept)
		broken(nbd, "no memory to keep it in");
}

void nbd_jobs_again(struct nbd *nbd)
{
	nbd->again = nbd->kept.first;
	if (nbd->kept.bytes)
		log_info("disk %s: %zu KiB that are not flushed are written again", nbd->path,
			 nbd->kept.bytes >> 10);
}

void nbd_doubt_look(struct nbd *nbd)
{
	int64_t now = clock_now_ns(), left;

	nbd_doubt_expire(&nbd->doubts, now);
	left = nbd->doubts.n ? (nbd->doubts.doubt[0].end_ns - now) / NS_PER_MS + 1 : 0;
	nbd_link_doubt_timer(nbd, left);
}

unsigned int nbd_jobs_held(const struct nbd *nbd)
{
	const struct disk_job *job;
	unsigned int n = 0;
	uint64_t at, len;

	for (job = nbd->doubts.n ? nbd->jobs.first : NULL; job; job = job->next) {
		nbd_wire_range(nbd, job, &at, &len);
		n += nbd_changes(job->op) && !nbd_doubt_allows(&nbd->doubts, at, len, job);
	}
	return n;
}
