// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "device/disk/disk.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"

int disk_open(struct disk **out, const struct disk_config *config, const struct disk_env *env,
	      struct err *err)
{
	int (*open)(struct disk **, const struct disk_config *, const struct disk_env *,
		    struct err *) = file_open;
	int r;

	if (config->nbd)
		open = nbd_open;
	else if (config->format == DISK_FORMAT_QCOW2)
		open = qcow2_open;
	r = open(out, config, env, err);
	/* Whoever cannot say yet. */
	if (!r && !(*out)->limits.physical)
		(*out)->limits = (struct disk_limits){ .physical = DISK_DIRECT_BYTES,
						       .discard = DISK_DIRECT_BYTES };
	return r < 0 ? err_prefix(err, r, "disk %.200s", config->path) : 0;
}

void disk_close(struct disk *disk)
{
	if (disk)
		disk->ops->close(disk);
}

uint64_t disk_bytes(const struct disk *disk)
{
	return disk->bytes;
}

const struct disk_limits *disk_limits(const struct disk *disk)
{
	return &disk->limits;
}

unsigned int disk_jobs(const struct disk *disk)
{
	return disk->jobs;
}

const char *disk_away(const struct disk *disk)
{
	return *disk->away ? disk->away : NULL;
}

void disk_add(struct disk *disk, struct disk_job *job)
{
	assert(disk->jobs < DISK_JOBS_MAX);
	job->next = NULL;
	job->moved = 0;
	job->direct = job->by_hand = job->syncing = job->own = job->reserved = job->sent = false;
	job->parts = 0;
	job->error = 0;
	disk->jobs++;
	disk->ops->add(disk, job);
}

void disk_submit(struct disk *disk)
{
	disk->ops->submit(disk);
}

void disk_wait(struct disk *disk, int64_t deadline_ns)
{
	if (!*disk->away)
		disk->ops->wait(disk, deadline_ns);
}

int disk_claim(struct disk *disk, struct err *err)
{
	return disk->ops->claim(disk, err);
}

void disk_release(struct disk *disk)
{
	disk->ops->release(disk);
}

void disk_doubt(const struct disk *disk, struct disk_doubt *doubt)
{
	*doubt = (struct disk_doubt){ 0 };
	if (disk->ops->doubt)
		disk->ops->doubt(disk, doubt);
}

void disk_fenced(struct disk *disk)
{
	if (disk->ops->fenced)
		disk->ops->fenced(disk);
}

void disk_done(struct disk *disk, struct disk_job *job, int result)
{
	disk->jobs--;
	job->done(job, result);
}

void disk_set_away(struct disk *disk, const char *why)
{
	bool was = *disk->away;

	snprintf(disk->away, sizeof(disk->away), "%s", why ? why : "");
	if (was != (why != NULL) && disk->env.away)
		disk->env.away(disk->env.arg, why ? disk->away : NULL);
}
