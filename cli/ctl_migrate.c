// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// postern ctl migrate, incoming, recover: start a migration, or listen for one,
// and follow it. Progress goes to standard error, one line that is written over
// on a terminal and a line for each change elsewhere; how it ended goes to
// standard output. Events only say when to look: what is shown is always
// query-migrate's, so an event that was lost does no harm, save one: a paused
// migration that is to be recovered is over only when it has been something
// else meanwhile, and that may have passed between two looks.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/ctl.h"
#include "cli/ctl_text.h"

#define LOOK_MS 200
#define LINE_NS (5 * NS_PER_SEC)	/* a line at least so often where there is no terminal */

struct progress {
	bool terminal, quiet;
	bool waits;		/* nobody has come yet: "none", or "postcopy-paused" of one that is to be recovered, is no end */
	char status[32];	/* that was shown last */
	int64_t shown_ns;
};

static void show(struct progress *p, const json_t *migrate)
{
	const char *status = ctl_string(migrate, "status", "none");
	int64_t now = clock_now_ns();

	if (p->quiet || (!p->terminal && !strncmp(status, p->status, sizeof(p->status) - 1) &&
			 now - p->shown_ns < LINE_NS))
		return;
	snprintf(p->status, sizeof(p->status), "%s", status);
	p->shown_ns = now;
	if (p->terminal)
		fputs("\r\033[K", stderr);
	ctl_text_migration(stderr, migrate);
	if (!p->terminal)
		putc('\n', stderr);
	fflush(stderr);
}

static void show_end(const struct progress *p)
{
	if (p->terminal && !p->quiet)
		fputs("\r\033[K", stderr);
}

static bool is_start(enum ctl_command command, const char *status)
{
	return !strcmp(status, command == CTL_RECOVER ? "postcopy-paused" : "none");
}

/* 0: it is under way; 1: completed; a negative errno: it will not go on by itself. */
static int verdict(struct progress *p, enum ctl_command command, const json_t *migrate,
		   struct err *err)
{
	const char *status = ctl_string(migrate, "status", "none");
	const char *why = ctl_string(migrate, "error-desc", "no reason was given");
	bool here = command == CTL_MIGRATE;

	if (!is_start(command, status))
		p->waits = false;
	else if (p->waits)
		return 0;

	if (!strcmp(status, "completed"))
		return 1;
	if (!strcmp(status, "failed") || !strcmp(status, "cancelled") || !strcmp(status, "none"))
		return err_set(err, -EREMOTEIO,
			       "the migration is over (%s), the guest stays %s: %s", status,
			       here ? "here" : "at the source", why);
	if (!strcmp(status, "postcopy-paused"))
		return err_set(
			err, -EREMOTEIO,
			"the link is lost: %s. To go on: postern ctl recover URI %s, then postern ctl "
			"migrate URI --resume %s",
			why, here ? "at the destination" : "here", here ? "here" : "at the source");
	return 0;
}

/* Did it go on to something else than what it began with? */
static void note_event(struct progress *p, enum ctl_command command, const json_t *event)
{
	const char *status = ctl_string(json_object_get(event, "data"), "status", NULL);

	if (status && !strcmp(ctl_string(event, "event", ""), "MIGRATION") &&
	    !is_start(command, status))
		p->waits = false;
}

/* *last gets query-migrate's last answer, also when the migration has failed. */
static int ctl_migrate_follow(struct ctl *ctl, json_t **last, struct err *err)
{
	enum ctl_command command = ctl->options.command;
	struct progress progress = { .terminal = isatty(STDERR_FILENO),
				     .waits = command != CTL_MIGRATE };
	json_t *event;
	int r;

	progress.quiet = ctl->options.json && !progress.terminal;
	for (;;) {
		json_decref(*last);
		*last = NULL;
		r = qmp_remote_call(ctl->remote, "query-migrate", NULL, last, err);
		if (r < 0)
			break;
		show(&progress, *last);
		r = verdict(&progress, command, *last, err);
		if (r)
			break;
		r = qmp_remote_event(ctl->remote, LOOK_MS, &event, err);
		if (r < 0)
			break;
		if (r > 0) {
			note_event(&progress, command, event);
			json_decref(event);
		}
	}
	show_end(&progress);
	return r < 0 ? r : 0;
}

static void print_end(enum ctl_command command, const json_t *migrate)
{
	char bytes[CTL_BYTES_MAX], still[CTL_BYTES_MAX];

	printf("%s: %s in %.1f s", command == CTL_MIGRATE ? "migrated" : "arrived",
	       ctl_bytes(bytes, ctl_uint(json_object_get(migrate, "ram"), "total")),
	       (double)ctl_uint(migrate, "total-time") / 1e3);
	if (command == CTL_MIGRATE)
		printf(", the guest stood still for %s",
		       ctl_us(still, ctl_uint(migrate, "downtime") * 1000));
	putchar('\n');
}

/* The machine reads the file, and is somewhere else. */
static int add_trust(const struct ctl_options *o, json_t *args, struct err *err)
{
	char *path = o->secret_file ? realpath(o->secret_file, NULL) : NULL;
	int r = 0;

	if (o->insecure)
		json_object_set_new(args, "x-postern-insecure", json_true());
	if (!o->secret_file)
		return 0;
	if (!path)
		return err_set(err, -EINVAL, "--secret-file %s: %s", o->secret_file,
			       strerror(errno));
	if (json_object_set_new(args, "x-postern-secret-file", json_string(path)) < 0)
		r = err_set(err, -EINVAL, "--secret-file: the path is not UTF-8");
	free(path);
	return r;
}

static int ctl_migrate_start(struct ctl *ctl, struct err *err)
{
	const struct ctl_options *o = &ctl->options;
	json_t *args;
	int r = 0;

	if (o->limit)
		r = qmp_remote_call(
			ctl->remote, "migrate-set-parameters",
			json_pack("{s:I}", "max-postcopy-bandwidth", (json_int_t)o->bandwidth),
			NULL, err);
	if (r < 0)
		return r;
	args = json_pack("{s:s}", "uri", o->argument);
	if (!args)
		return err_set(err, -EINVAL, "the URI is not UTF-8");
	if (o->resume)
		json_object_set_new(args, "resume", json_true());
	r = add_trust(o, args, err);
	if (r < 0) {
		json_decref(args);
		return r;
	}
	return qmp_remote_call(ctl->remote, ctl_command_qmp(o->command), args, NULL, err);
}

static void say_interrupted(enum ctl_command command, struct err *err)
{
	if (command == CTL_MIGRATE)
		err_set(err, -EINTR,
			"interrupted: the migration goes on; postern ctl status shows it, postern ctl cancel ends it as long "
			"as it has not switched over");
	else
		err_set(err, -EINTR,
			"interrupted: the machine goes on waiting, or receiving; postern ctl status shows it");
}

int ctl_migrate(struct ctl *ctl, struct err *err)
{
	json_t *last = NULL;
	int r = ctl_catch_signals(ctl, err);

	if (!r)
		r = ctl_migrate_start(ctl, err);
	if (r < 0 || ctl->options.detach)
		return r;
	r = ctl_migrate_follow(ctl, &last, err);
	if (r == -EINTR)
		say_interrupted(ctl->options.command, err);
	else if (last && ctl->options.json)
		ctl_print_json(last);
	else if (!r)
		print_end(ctl->options.command, last);
	json_decref(last);
	return r;
}
