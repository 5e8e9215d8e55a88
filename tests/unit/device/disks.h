/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What tests of disks share: a loop, a disk made of a command line's text, jobs
 * that are waited for.
 */
#ifndef POSTERN_TESTS_DEVICE_DISKS_H
#define POSTERN_TESTS_DEVICE_DISKS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "device/disk/disk.h"
#include "turns.h"

struct disks {
	struct loop *loop;
	struct disk *disk;
	unsigned int gone, back;
	char why[160];
};

struct job {
	struct disk_job job;
	struct iovec iov[64];
	bool done;
	int result;
};

static inline void disks_on_away(void *arg, const char *why)
{
	struct disks *d = arg;

	if (why)
		d->gone++;
	else
		d->back++;
	snprintf(d->why, sizeof(d->why), "%s", why ? why : "");
}

static inline int disks_try(struct disks *d, const char *text, bool incoming, struct err *err)
{
	const struct disk_env env = {
		.loop = d->loop, .elsewhere = incoming, .away = disks_on_away, .arg = d,
	};
	struct disk_config config;
	int r = disk_config_parse(&config, text, err);

	if (r < 0)
		return r;
	r = disk_open(&d->disk, &config, &env, err);
	disk_config_fini(&config);
	return r;
}

static inline void disks_open(struct disks *d, const char *text, bool incoming)
{
	struct err err;

	*d = (struct disks){ 0 };
	assert_int_equal(loop_new(&d->loop, &err), 0);
	if (disks_try(d, text, incoming, &err) < 0)
		fail_msg("%s", err.text);
}

static inline void disks_close(struct disks *d)
{
	disk_close(d->disk);
	assert_true(loop_free(d->loop));
}

#define disks_until(d, condition) run_until_within(d, 20, condition)

static inline void job_done(struct disk_job *job, int result)
{
	struct job *j = (struct job *)(void *)job;

	assert_false(j->done);
	j->done = true;
	j->result = result;
}

/* From or to memory in n pieces of the same size but for the last. */
static inline void job_start(struct disks *d, struct job *j, enum disk_op op, uint64_t offset,
			     void *memory, uint64_t len, unsigned int n)
{
	uint64_t piece = n ? len / n : 0;
	unsigned int i;

	*j = (struct job){ .job = { .op = op, .offset = offset, .len = len, .iov = j->iov, .iovs = n, .done = job_done } };
	for (i = 0; i < n; i++)
		j->iov[i] = (struct iovec){ (uint8_t *)memory + i * piece,
					    i + 1 < n ? piece : len - i * piece };
	disk_add(d->disk, &j->job);
	disk_submit(d->disk);
	assert_false(j->done);
}

static inline int job_run(struct disks *d, enum disk_op op, uint64_t offset, void *memory,
			  uint64_t len, unsigned int n)
{
	struct job j;

	job_start(d, &j, op, offset, memory, len, n);
	disks_until(d, j.done);
	return j.result;
}

/* What every disk has to do, whatever it is made of: at least 1 MiB, whose content is lost. */
static inline void disk_exercise(struct disks *d)
{
	static uint8_t out[1 << 20], in[1 << 20], zeros[65536];
	struct job job[DISK_JOBS_MAX];
	unsigned int i;

	for (i = 0; i < sizeof(out); i++)
		out[i] = (uint8_t)(i * 2654435761u >> 24);
	assert_int_equal(job_run(d, DISK_WRITE, 0, out, sizeof(out), 1), 0);
	assert_int_equal(job_run(d, DISK_FLUSH, 0, NULL, 0, 0), 0);
	assert_int_equal(job_run(d, DISK_READ, 0, in, sizeof(in), 1), 0);
	assert_memory_equal(in, out, sizeof(in));
	/* In pieces of odd lengths, not aligned either. */
	memset(in, 0, sizeof(in));
	assert_int_equal(job_run(d, DISK_READ, 512, in + 1, 100 * 512, 37), 0);
	assert_memory_equal(in + 1, out + 512, 100 * 512);
	assert_int_equal(job_run(d, DISK_WRITE, 1024, out + 1, 1001 * 512, 61), 0);
	assert_int_equal(job_run(d, DISK_READ, 0, in, sizeof(in), 3), 0);
	assert_memory_equal(in, out, 1024);
	assert_memory_equal(in + 1024, out + 1, 1001 * 512);
	/* All at once. */
	for (i = 0; i < DISK_JOBS_MAX; i++)
		job_start(d, &job[i], DISK_WRITE, i * UINT64_C(4096), out + i * 4096, 4096,
			  1 + i % 8);
	assert_int_equal(disk_jobs(d->disk), DISK_JOBS_MAX);
	disks_until(d, !disk_jobs(d->disk));
	for (i = 0; i < DISK_JOBS_MAX; i++)
		assert_int_equal(job[i].result, 0);
	assert_int_equal(job_run(d, DISK_READ, 0, in, sizeof(in), 1), 0);
	assert_memory_equal(in, out, sizeof(in));
	assert_int_equal(job_run(d, DISK_ZERO, 65536, NULL, 65536, 0), 0);
	assert_int_equal(job_run(d, DISK_READ, 65536, in, 65536, 1), 0);
	assert_memory_equal(in, zeros, 65536);
	assert_int_equal(job_run(d, DISK_DISCARD, 131072, NULL, 65536, 0), 0);
	assert_int_equal(job_run(d, DISK_READ, 0, in, 65536, 1), 0);
	assert_memory_equal(in, out, 65536);
}

#endif
