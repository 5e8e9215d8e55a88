// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// postern snapshot: saves a machine that runs into an image, from which postern run --restore runs
// it. A QMP client, as postern ctl is, with its ways of naming a machine, its exit codes, and its
// manner of following what takes long: what is shown is always the machine's answer, and an event
// only says when to ask. What is done with images, and needs no machine, is snapshot_store.c's.
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/ctl.h"
#include "cli/ctl_text.h"
#include "cli/place.h"
#include "cli/snapshot.h"
#include "cli/snapshot_store.h"

#define LOOK_MS 200
#define LINE_NS (5 * NS_PER_SEC) /* a line at least so often where there is no terminal */

/* ---- the job ---- */

/* The machine's last save, or NULL: there was none. */
static int last_job(struct ctl *ctl, json_t **job, struct err *err)
{
	json_t *jobs = NULL;
	int r = qmp_remote_call(ctl->remote, "query-postern-snapshots", NULL, &jobs, err);

	*job = json_incref(json_array_get(jobs, 0));
	json_decref(jobs);
	return r;
}

/* What it costs the guest beyond that. */
static void put_cost(FILE *out, const json_t *job)
{
	const char *why = ctl_string(job, "paused-because", NULL);
	char held[CTL_BYTES_MAX], room[CTL_BYTES_MAX];

	if (why) {
		fputs(" (", out);
		ctl_put(out, why);
		fputs(")", out);
	}
	if (ctl_uint(job, "buffered-bytes"))
		fprintf(out, ", %s wait in the buffer",
			ctl_bytes(room, ctl_uint(job, "buffered-bytes")));
	if (ctl_uint(job, "throttled-us"))
		fprintf(out, ", writes were held up for %s",
			ctl_us(held, ctl_uint(job, "throttled-us")));
}

static void put_job(FILE *out, const json_t *job)
{
	uint64_t total = ctl_uint(job, "total-pages"), done = ctl_uint(job, "done-pages");
	char stored[CTL_BYTES_MAX], still[CTL_BYTES_MAX];
	const char *error = ctl_string(job, "error-desc", NULL);
	const char *parent = ctl_string(job, "parent", NULL);

	ctl_put(out, ctl_string(job, "image", "?"));
	fputs(": ", out);
	ctl_put(out, ctl_string(job, "phase", "?"));
	if (parent) {
		fputs(", on top of ", out);
		ctl_put(out, parent);
	}
	fprintf(out, ", %" PRIu64 " %% of memory, %s stored, the guest stood still for %s",
		total ? done * 100 / total : 0, ctl_bytes(stored, ctl_uint(job, "stored-bytes")),
		ctl_us(still, ctl_uint(job, "downtime-us")));
	put_cost(out, job);
	if (error) {
		fputs(": ", out);
		ctl_put(out, error);
	}
}

struct follow {
	bool terminal, quiet;
	char phase[32];
	int64_t shown_ns;
};

static void snapshot_show(struct follow *f, const json_t *job)
{
	const char *phase = ctl_string(job, "phase", "?");
	int64_t now = clock_now_ns();

	if (f->quiet || (!f->terminal && !strncmp(phase, f->phase, sizeof(f->phase) - 1) &&
			 now - f->shown_ns < LINE_NS))
		return;
	snprintf(f->phase, sizeof(f->phase), "%s", phase);
	f->shown_ns = now;
	if (f->terminal)
		fputs("\r\033[K", stderr);
	put_job(stderr, job);
	if (!f->terminal)
		putc('\n', stderr);
	fflush(stderr);
}

/* 0: it is under way; 1: completed. */
static int snapshot_verdict(const char *id, const json_t *job, struct err *err)
{
	const char *status = ctl_string(job, "status", "?");

	if (!job || strcmp(ctl_string(job, "id", ""), id))
		return err_set(err, -EREMOTEIO, "another save has begun meanwhile");
	if (!strcmp(status, "running"))
		return 0;
	if (!strcmp(status, "completed"))
		return 1;
	return err_set(err, -EREMOTEIO, "the machine was not saved (%s): %s", status,
		       ctl_string(job, "error-desc", "somebody has ended that"));
}

static int follow_job(struct ctl *ctl, const char *id, json_t **last, struct err *err)
{
	struct follow f = { .terminal = isatty(STDERR_FILENO) };
	json_t *event;
	int r;

	f.quiet = ctl->options.json && !f.terminal;
	for (;;) {
		json_decref(*last);
		*last = NULL;
		r = last_job(ctl, last, err);
		if (r < 0)
			break;
		snapshot_show(&f, *last);
		r = snapshot_verdict(id, *last, err);
		if (r)
			break;
		r = qmp_remote_event(ctl->remote, LOOK_MS, &event, err);
		if (r < 0)
			break;
		if (r > 0)
			json_decref(event);
	}
	if (f.terminal && !f.quiet)
		fputs("\r\033[K", stderr);
	return r < 0 ? r : 0;
}

/* The machine opens it, and may be somewhere else. */
static int add_file(json_t *args, const char *name, const char *path, struct err *err)
{
	char *full = realpath(path, NULL);
	int r = full ? json_object_set_new(args, name, json_string(full)) : -errno;

	free(full);
	if (!r)
		return 0;
	json_decref(args);
	return err_errno(err, r == -1 ? -EINVAL : r, "--%s %s", name, path);
}

#define KEY_NAME "key"

/* The key, as a pipe has it: the machine reads it and waits for nobody. */
static int key_pipe(const struct image_key *key, struct err *err)
{
	ssize_t n;
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_errno(err, -errno, "a pipe for the key");
	n = write(fds[1], image_key_bytes(key), IMAGE_KEY_BYTES);
	close(fds[1]);
	if (n == IMAGE_KEY_BYTES)
		return fds[0];
	close(fds[0]);
	return err_set(err, -EIO, "a pipe for the key");
}

/* Of --key-fd: what it has is read here to its end. */
static int pass_key(struct ctl *ctl, const struct snapshot_options *o, json_t *args,
		    struct err *err)
{
	struct image_key *key = NULL;
	int r, fd;

	if (!o->key.fd_given)
		return 0;
	r = key_args_load(&o->key, &key, err);
	if (r < 0)
		return r;
	fd = key_pipe(key, err);
	image_key_free(key);
	if (fd < 0)
		return fd;
	r = qmp_remote_pass_fd(ctl->remote, KEY_NAME, fd, err);
	close(fd);
	json_object_set_new(args, "key-fd", json_string(KEY_NAME));
	return r < 0 ? err_prefix(err, r, "--key-fd") : 0;
}

static int begin(struct ctl *ctl, const struct snapshot_options *o, json_t **reply, struct err *err)
{
	char *place = place_in_full(o->place[0]);
	json_t *args = place ? json_pack("{s:s}", "to", place) : NULL;
	int r;

	free(place);
	if (!args)
		return err_set(err, -EINVAL, "%s: it is not UTF-8", o->place[0]);
	if (o->level)
		json_object_set_new(args, "level", json_integer(o->level));
	if (o->pause)
		json_object_set_new(args, "paused", json_true());
	if (o->buffer_bytes)
		json_object_set_new(args, "buffer", json_integer((json_int_t)o->buffer_bytes));
	if (o->track)
		json_object_set_new(args, "track", json_true());
	if (o->incremental)
		json_object_set_new(args, "incremental", json_true());
	if (o->parent && json_object_set_new(args, "parent", json_string(o->parent)) < 0) {
		json_decref(args);
		return err_set(err, -EINVAL, "--parent: it is not UTF-8");
	}
	if (o->store.store.deadline_ms)
		json_object_set_new(args, "store-deadline",
				    json_integer(o->store.store.deadline_ms));
	if (o->store.store.credentials) {
		r = add_file(args, "store-credentials", o->store.store.credentials, err);
		if (r < 0)
			return r;
	}
	if (o->key.file) {
		r = add_file(args, "key-file", o->key.file, err);
		if (r < 0)
			return r;
	}
	r = pass_key(ctl, o, args, err);
	if (r < 0) {
		json_decref(args);
		return r;
	}
	return qmp_remote_call(ctl->remote, "postern-snapshot-save", args, reply, err);
}

static void snapshot_print(const json_t *job)
{
	put_job(stdout, job);
	putchar('\n');
}

static int save(struct ctl *ctl, const struct snapshot_options *o, struct err *err)
{
	json_t *reply = NULL, *last = NULL;
	int r = ctl_catch_signals(ctl, err);

	if (!r)
		r = begin(ctl, o, &reply, err);
	if (r < 0)
		return r;
	if (o->ctl.detach) {
		if (o->ctl.json)
			ctl_print_json(reply);
		json_decref(reply);
		return 0;
	}
	r = follow_job(ctl, ctl_string(reply, "id", ""), &last, err);
	json_decref(reply);
	if (r == -EINTR)
		err_set(err, -EINTR,
			"interrupted: the save goes on; postern snapshot status shows it, "
			"postern snapshot cancel ends it");
	else if (last && o->ctl.json)
		ctl_print_json(last);
	else if (!r)
		snapshot_print(last);
	json_decref(last);
	return r;
}

static int snapshot_status(struct ctl *ctl, struct err *err)
{
	json_t *job = NULL;
	int r = last_job(ctl, &job, err);

	if (!r && ctl->options.json)
		ctl_print_json(job ? job : json_null());
	else if (!r && job)
		snapshot_print(job);
	else if (!r)
		puts("the machine was never saved");
	json_decref(job);
	return r;
}

/* To the machine a cancel that ends nothing is no error: so it is said here, as of a migration. */
static int snapshot_cancel_save(struct ctl *ctl, struct err *err)
{
	json_t *job = NULL;
	int r = last_job(ctl, &job, err);
	const char *status;

	if (r < 0)
		return r;
	status = ctl_string(job, "status", "none");
	if (!job)
		fputs("nothing to cancel: the machine was never saved\n", stderr);
	else if (strcmp(status, "running") != 0)
		fprintf(stderr, "nothing to cancel: the save is over (%s)\n", status);
	else
		r = qmp_remote_call(ctl->remote, "postern-snapshot-cancel", NULL, NULL, err);
	json_decref(job);
	return r;
}

static int carry_out(struct ctl *ctl, const struct snapshot_options *o, struct err *err)
{
	if (o->command == SNAPSHOT_SAVE)
		return save(ctl, o, err);
	if (o->command == SNAPSHOT_STATUS)
		return snapshot_status(ctl, err);
	return snapshot_cancel_save(ctl, err);
}

int cmd_snapshot(int argc, char **argv)
{
	struct ctl ctl = { .signal_fd = -1 };
	struct snapshot_options o;
	struct err err = { 0 };
	int r = snapshot_options_parse(&o, argc, argv, &err);

	if (!r && o.ctl.help) {
		fputs(snapshot_help, stdout);
		return CLI_OK;
	}
	if (!r && !snapshot_command_needs_machine(o.command))
		return ctl_end("postern snapshot", snapshot_store_run(&o, &err), &err);
	ctl.options = o.ctl;
	if (!r)
		r = ctl_connect(&ctl, &err);
	if (!r)
		r = carry_out(&ctl, &o, &err);
	qmp_remote_free(ctl.remote);
	if (ctl.signal_fd >= 0)
		close(ctl.signal_fd);
	return ctl_end("postern snapshot", r, &err);
}
