// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * nbd.c - a disk behind an NBD server, by libnbd's asynchronous interface on
 * the main loop.
 *
 *   nbd_link.c    the connection: made, watched, lost, made again
 *   nbd_job.c     which job is sent when; what its end means, and the connection's
 *   nbd_part.c    a job's requests
 *   nbd_doubt.c   what a lost connection had asked and the server may still do
 *   nbd_kept.c    what the server has acknowledged and may still lose
 *   nbd_lib.c     libnbd itself
 *
 * Jobs wait for a server that has gone for as long as the disk's reconnect
 * says, and fail with -EIO from then until it is back.
 */
#include "device/disk/nbd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "device/disk/nbd_internal.h"

#define CLOSE_PATIENCE_NS NS_PER_SEC
#define PAUSE_MIN_MS 100

static struct nbd *nbd_of(struct disk *disk)
{
	return (struct nbd *)disk;
}

static void nbd_disk_add(struct disk *disk, struct disk_job *job)
{
	struct nbd *nbd = nbd_of(disk);

	*nbd->jobs.last = job;
	nbd->jobs.last = &job->next;
}

static void nbd_disk_submit(struct disk *disk)
{
	struct nbd *nbd = nbd_of(disk);

	nbd_pump(nbd);
	if (nbd->h)
		nbd_link_watch(nbd);
	/* Died while it was sent to, or has long been. */
	if ((nbd->h && nbd_link_is_over(nbd)) || nbd_link_waited_enough(nbd))
		nbd_link_soon(nbd);
}

static void nbd_disk_wait(struct disk *disk, int64_t deadline_ns)
{
	nbd_link_wait(nbd_of(disk), deadline_ns);
}

static int nbd_disk_claim(struct disk *disk, struct err *err)
{
	struct nbd *nbd = nbd_of(disk);

	(void)err;
	if (!nbd->origin.ours || nbd->held)
		return 0;
	nbd->held = true;
	nbd->pause_ms = PAUSE_MIN_MS;
	/* What the guest asks for until then waits. */
	nbd_link_retry(nbd, 0);
	return 0;
}

static void nbd_disk_release(struct disk *disk)
{
	struct nbd *nbd = nbd_of(disk);

	if (!nbd->origin.ours || !nbd->held)
		return;
	nbd->held = false;
	uv_timer_stop(&nbd->timers->retry);
	nbd_link_close(nbd, true);
	nbd->origin.lost(nbd->origin.arg, NULL, 0);
	/* What it has of the image may be older than what another machine writes from now on. */
	nbd->origin.end(nbd->origin.arg);
}

static void nbd_disk_doubt(const struct disk *disk, struct disk_doubt *doubt)
{
	const struct nbd *nbd = (const struct nbd *)disk;
	int64_t end = nbd_doubt_end_ns(&nbd->doubts), left = end - clock_now_ns();

	*doubt = (struct disk_doubt){
		.ms = !end ? 0 : left > NS_PER_MS ? left / NS_PER_MS : 1, .held = nbd_jobs_held(nbd),
	};
}

static void nbd_disk_fenced(struct disk *disk)
{
	struct nbd *nbd = nbd_of(disk);

	nbd_doubt_clear(&nbd->doubts);
	nbd_doubt_look(nbd);
	nbd_link_soon(nbd);
}

static void nbd_disk_close(struct disk *disk)
{
	int64_t deadline = clock_now_ns() + CLOSE_PATIENCE_NS;
	struct nbd *nbd = nbd_of(disk);
	struct disk_doubt doubt;

	while (disk->jobs && nbd->h && !*disk->away && clock_now_ns() < deadline)
		nbd_disk_wait(disk, deadline);
	if (disk->jobs)
		log_warn("disk %s: %u requests have no answer", nbd->path, disk->jobs);
	if (nbd->h || nbd->jobs.first)
		nbd_link_close(nbd, !disk->jobs);
	nbd_disk_doubt(disk, &doubt);
	if (doubt.ms)
		log_warn(
			"disk %s: its server may do for %lld s more what it was asked and has not answered: let nobody else "
			"write to it before",
			nbd->path, (long long)doubt.ms / 1000 + 1);
	/* Nobody writes to their memory any more. */
	nbd_jobs_fail(nbd, -ECANCELED);
	nbd_kept_flushed(&nbd->kept, UINT64_MAX);
	if (nbd->timers)
		nbd_timers_close(nbd->timers);
	nbd->origin.lost(nbd->origin.arg, NULL, 0);
	nbd->origin.free(nbd->origin.arg);
	free(nbd->path);
	free(nbd);
}

static const struct disk_ops nbd_ops = {
	.driver = "nbd",
	.close = nbd_disk_close,
	.add = nbd_disk_add,
	.submit = nbd_disk_submit,
	.wait = nbd_disk_wait,
	.claim = nbd_disk_claim,
	.release = nbd_disk_release,
	.doubt = nbd_disk_doubt,
	.fenced = nbd_disk_fenced,
};

static int set_up(struct nbd *nbd, const struct disk_config *config, struct err *err)
{
	int r;

	nbd->jobs.last = &nbd->jobs.first;
	nbd->own.last = &nbd->own.first;
	nbd->block = DISK_SECTOR_BYTES;
	nbd->dialing = -1;
	nbd->pause_ms = PAUSE_MIN_MS;
	nbd->reconnect_s = config->reconnect_s;
	nbd->quiesce_s = config->quiesce_s;
	nbd->path = strdup(config->path);
	if (!nbd->path)
		return err_set(err, -ENOMEM, "no memory for a disk");
	r = nbd_lib_load(&nbd->lib, err);
	return r < 0 ? r : nbd_timers_new(nbd, err);
}

int nbd_open_at(struct disk **out, const struct disk_config *config, const struct disk_env *env,
		const struct nbd_origin *origin, struct err *err)
{
	struct nbd *nbd = calloc(1, sizeof(*nbd));
	int r;

	if (!nbd) {
		origin->free(origin->arg);
		return err_set(err, -ENOMEM, "no memory for a disk");
	}
	nbd->disk = (struct disk){ .ops = &nbd_ops,
				   .env = *env,
				   .readonly = config->readonly,
				   .bytes = origin->bytes };
	nbd->origin = *origin;
	r = set_up(nbd, config, err);
	if (!r && !(origin->ours && env->elsewhere)) {
		r = nbd_link_first(nbd, err);
		nbd->held = r == 0;
	}
	if (r < 0) {
		nbd_disk_close(&nbd->disk);
		return r;
	}
	*out = &nbd->disk;
	return 0;
}
