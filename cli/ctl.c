// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// postern ctl: a named machine, or one with a QMP socket, controlled from a
// shell. It is a QMP client and nothing more: what it does, any other client
// can do. A machine that does not answer, or answers nonsense, costs no more
// than the time-out.
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/ctl.h"
#include "cli/ctl_text.h"
#include "cli/options.h"

#define GONE_POLL_MS 5
#define NAMES_SHOWN 300

int ctl_catch_signals(struct ctl *ctl, struct err *err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	ctl->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (ctl->signal_fd < 0)
		return err_errno(err, -errno, "signalfd");
	qmp_remote_interrupt_by(ctl->remote, ctl->signal_fd);
	return 0;
}

static void ctl_dump_json(const json_t *json, size_t flags)
{
	char *text = json_dumps(json, flags | JSON_ENSURE_ASCII | JSON_ENCODE_ANY), *c;

	for (c = text; c && *c; c++)
		if (*c == 0x7f)		/* the one control character that jansson leaves */
			fputs("\\u007F", stdout);
		else
			putchar(*c);
	putchar('\n');
	free(text);
}

void ctl_print_json(const json_t *json)
{
	ctl_dump_json(json, JSON_INDENT(2));
}

static json_t *call(struct ctl *ctl, const char *command, int *r, struct err *err)
{
	json_t *result = NULL;

	if (*r >= 0)
		*r = qmp_remote_call(ctl->remote, command, NULL, &result, err);
	return result;
}

/* ---- which machine ---- */

static int connect_name(struct ctl *ctl, const char *name, struct err *err)
{
	char path[RUNDIR_PATH_MAX];
	int r = rundir_path(path, name, "qmp", err);

	if (r < 0)
		return r;
	if (rundir_owner(name) < 0)
		return err_set(err, -ENOENT,
			       "there is no machine of the name %s (postern ctl list shows all)",
			       name);
	snprintf(ctl->name, sizeof(ctl->name), "%s", name);
	return qmp_remote_open(&ctl->remote, path, (int)ctl->options.timeout_ms, err);
}

/* The machine that needs no name, since there is no other. */
static int connect_only(struct ctl *ctl, struct err *err)
{
	char (*names)[RUNDIR_NAME_MAX + 1], shown[NAMES_SHOWN] = "";
	int i, r, n = rundir_list(&names, err);
	size_t used;

	if (n < 0)
		return n;
	for (i = 0; i < n && strlen(shown) + RUNDIR_NAME_MAX + 8 < sizeof(shown); i++) {
		used = strlen(shown);
		snprintf(shown + used, sizeof(shown) - used, "%s%s", i ? ", " : "", names[i]);
	}
	if (n == 1)
		r = connect_name(ctl, names[0], err);
	else if (!n)
		r = err_set(
			err, -ENOENT,
			"there is no machine with a name (postern run --name); --qmp ADDRESS reaches one "
			"without");
	else
		r = err_set(err, -EINVAL, "there are %d machines: %s%s; --name NAME says which", n,
			    shown, i < n ? ", ..." : "");
	free(names);
	return r;
}

int ctl_connect(struct ctl *ctl, struct err *err)
{
	const struct ctl_options *o = &ctl->options;

	if (o->qmp)
		return qmp_remote_open(&ctl->remote, o->qmp, (int)o->timeout_ms, err);
	return o->name ? connect_name(ctl, o->name, err) : connect_only(ctl, err);
}

/* ---- list ---- */

/* One machine, asked; it may end at any moment, or say nothing. */
static json_t *ctl_list_entry(const struct ctl *list, const char *name, pid_t pid)
{
	struct ctl ctl = { .options = list->options, .signal_fd = -1 };
	json_t *entry = json_pack("{s:s,s:i}", "name", name, "pid", (int)pid);
	struct err err = { 0 };
	int r = connect_name(&ctl, name, &err);

	json_object_set_new(entry, "status", call(&ctl, "query-status", &r, &err));
	json_object_set_new(entry, "migration", call(&ctl, "query-migrate", &r, &err));
	if (r < 0)
		json_object_set_new(entry, "error", json_string(err.text));
	qmp_remote_free(ctl.remote);
	return entry;
}

static void print_entry(const json_t *entry)
{
	const char *error = ctl_string(entry, "error", NULL);

	printf("%-20s %7" PRIu64 "  ", ctl_string(entry, "name", "?"), ctl_uint(entry, "pid"));
	if (error) {
		fputs("no answer: ", stdout);
		ctl_put(stdout, error);
	} else {
		ctl_put(stdout, ctl_string(json_object_get(entry, "status"), "status", "unknown"));
		fputs("  migration ", stdout);
		ctl_text_migration(stdout, json_object_get(entry, "migration"));
	}
	putchar('\n');
}

static int list(struct ctl *ctl, struct err *err)
{
	json_t *entries = json_array(), *entry;
	char (*names)[RUNDIR_NAME_MAX + 1];
	int i, n = rundir_list(&names, err), r = n < 0 ? n : 0;

	for (i = 0; i < n; i++) {
		pid_t pid = rundir_owner(names[i]);

		if (pid < 0)
			continue;
		if (ctl->options.names) {
			puts(names[i]);
			continue;
		}
		entry = ctl_list_entry(ctl, names[i], pid);
		if (json_object_get(entry, "error") && rundir_owner(names[i]) < 0) {
			json_decref(entry);	/* it has ended meanwhile */
			continue;
		}
		if (json_object_get(entry, "error"))
			r = err_set(err, -ETIMEDOUT, "not every machine answered");
		if (!ctl->options.json)
			print_entry(entry);
		json_array_append_new(entries, entry);
	}
	if (n >= 0 && ctl->options.json && !ctl->options.names)
		ctl_print_json(entries);
	json_decref(entries);
	free(names);
	return r;
}

/* ---- status, faults ---- */

static int status(struct ctl *ctl, struct err *err)
{
	static const char *const queries[] = { "query-name", "query-status", "query-cpus-fast",
					       "query-migrate", "query-postern-faults" };
	json_t *all = json_object(), *result[5] = { NULL };
	int r = 0;
	size_t i;

	for (i = 0; i < 5; i++) {
		result[i] = call(ctl, queries[i], &r, err);
		if (i == 4 && r == -EREMOTEIO)
			r = 0;		/* QEMU does not have it */
		if (result[i])
			json_object_set(all, queries[i], result[i]);
	}
	if (!r && ctl->options.json)
		ctl_print_json(all);
	else if (!r)
		ctl_text_status(stdout, result[0], result[1], result[2], result[3], result[4]);
	for (i = 0; i < 5; i++)
		json_decref(result[i]);
	json_decref(all);
	return r;
}

static int faults(struct ctl *ctl, struct err *err)
{
	int r = 0;
	json_t *result = call(ctl, "query-postern-faults", &r, err);

	if (!r && ctl->options.json)
		ctl_print_json(result);
	else if (!r)
		ctl_text_faults(stdout, result);
	json_decref(result);
	return r;
}

/* ---- quit, events, the rest ---- */

/* A named machine has ended when its name is free. */
static int wait_gone(const struct ctl *ctl, int64_t deadline, struct err *err)
{
	struct timespec pause = clock_to_timespec(GONE_POLL_MS * NS_PER_MS);

	while (*ctl->name && rundir_owner(ctl->name) >= 0) {
		if (clock_now_ns() > deadline)
			return err_set(err, -ETIMEDOUT, "%s has answered, but has not ended",
				       ctl->name);
		nanosleep(&pause, NULL);
	}
	return 0;
}

static int ctl_quit(struct ctl *ctl, struct err *err)
{
	int64_t deadline = clock_now_ns() + (int64_t)ctl->options.timeout_ms * NS_PER_MS;
	json_t *event;
	int r = qmp_remote_call(ctl->remote, "quit", NULL, NULL, err);

	if (r < 0)
		return r;
	for (;;) {
		r = qmp_remote_event(ctl->remote, (int)ctl->options.timeout_ms, &event, err);
		if (r <= 0)
			break;
		json_decref(event);
		if (clock_now_ns() > deadline)
			r = 0;
		if (!r)
			break;
	}
	if (!r)
		return err_set(err, -ETIMEDOUT, "the machine has answered, but has not ended");
	return r == -EPROTO || r == -EINTR ? r : wait_gone(ctl, deadline, err);
}

static void print_event(const struct ctl *ctl, const json_t *event)
{
	if (ctl->options.json)
		ctl_dump_json(event, JSON_COMPACT);
	else
		ctl_text_event(stdout, event);
	fflush(stdout);
}

/* Until the machine ends, a signal comes, or nobody reads any more. */
static int events(struct ctl *ctl, struct err *err)
{
	bool over = false;
	json_t *event;
	int r = ctl_catch_signals(ctl, err);

	while (!r && !ferror(stdout)) {
		r = qmp_remote_event(ctl->remote, -1, &event, err);
		if (r <= 0)
			break;
		over |= !strcmp(ctl_string(event, "event", ""), "SHUTDOWN");
		print_event(ctl, event);
		json_decref(event);
		r = 0;
	}
	return r == -EINTR || (over && r < 0) ? 0 : r;
}

/* The whole reply, with the id that the request had. */
static int raw(struct ctl *ctl, struct err *err)
{
	json_error_t error;
	json_t *request = json_loads(ctl->options.argument, JSON_REJECT_DUPLICATES, &error), *reply;
	bool numbered;
	int r;

	if (!json_is_object(request)) {
		r = err_set(err, -EINVAL, "qmp: the request is no JSON object%s%s",
			    request ? "" : ": ", request ? "" : error.text);
		json_decref(request);
		return r;
	}
	numbered = json_object_get(request, "id");
	r = qmp_remote_ask(ctl->remote, request, &reply, err);
	if (r < 0)
		return r;
	if (!numbered)
		json_object_del(reply, "id");
	ctl_print_json(reply);
	if (json_object_get(reply, "error"))
		r = err_set(err, -EREMOTEIO, "%s",
			    ctl_string(json_object_get(reply, "error"), "desc", "an error"));
	json_decref(reply);
	return r;
}

static int simple(struct ctl *ctl, struct err *err)
{
	json_t *result = NULL;
	int r = qmp_remote_call(ctl->remote, ctl_command_qmp(ctl->options.command), NULL, &result,
				err);

	if (!r && ctl->options.json)
		ctl_print_json(result);
	json_decref(result);
	return r;
}

static int fill(struct ctl *ctl, struct err *err)
{
	struct worker_fill wanted;
	json_t *args;

	if (options_parse_fill(&wanted, ctl->options.argument) < 0)
		return err_set(err, -EINVAL,
			       "fill %s: on, off, or bytes a second with K, M, G or T are allowed",
			       ctl->options.argument);
	args = json_pack("{s:s,s:I}", "fill", wanted.off ? "off" : "on", "rate",
			 (json_int_t)wanted.rate);
	return qmp_remote_call(ctl->remote, "postern-set-fill", args, NULL, err);
}

/* To the machine a cancel that ends nothing is no error, as in QEMU: so it is said here. */
static int cancel(struct ctl *ctl, struct err *err)
{
	int r = 0;
	json_t *before = call(ctl, "query-migrate", &r, err);

	if (!r)
		r = simple(ctl, err);
	if (!r)
		ctl_text_nothing_to_cancel(stderr, before);
	json_decref(before);
	return r;
}

static int ctl_carry_out(struct ctl *ctl, struct err *err)
{
	switch (ctl->options.command) {
	case CTL_LIST:
		return list(ctl, err);
	case CTL_STATUS:
		return status(ctl, err);
	case CTL_QUIT:
		return ctl_quit(ctl, err);
	case CTL_MIGRATE:
	case CTL_INCOMING:
	case CTL_RECOVER:
		return ctl_migrate(ctl, err);
	case CTL_CANCEL:
		return cancel(ctl, err);
	case CTL_FAULTS:
		return faults(ctl, err);
	case CTL_EVENTS:
		return events(ctl, err);
	case CTL_FILL:
		return fill(ctl, err);
	case CTL_QMP:
		return raw(ctl, err);
	default:
		return simple(ctl, err);
	}
}

static int exit_code(int r)
{
	switch (r) {
	case 0:
		return CLI_OK;
	case -EREMOTEIO:
		return CLI_FAILED;
	case -EINVAL:
		return CLI_USAGE;
	case -EINTR:
		return CTL_INTERRUPTED;
	default:
		return CTL_NO_ANSWER;
	}
}

int ctl_end(const char *program, int r, struct err *err)
{
	if (fflush(stdout) == EOF && !r) {
		err_errno(err, -errno, "standard output");
		r = -EREMOTEIO;
	}
	if (r < 0) {
		fprintf(stderr, "%s: ", program);
		ctl_put(stderr, err->text);
		putc('\n', stderr);
	}
	return exit_code(r);
}

int cmd_ctl(int argc, char **argv)
{
	struct ctl ctl = { .signal_fd = -1 };
	struct err err = { 0 };
	int r = ctl_options_parse(&ctl.options, argc, argv, &err);

	if (!r && ctl.options.help) {
		fputs(ctl_help, stdout);
		return CLI_OK;
	}
	if (!r && ctl.options.command != CTL_LIST)
		r = ctl_connect(&ctl, &err);
	if (!r)
		r = ctl_carry_out(&ctl, &err);
	qmp_remote_free(ctl.remote);
	if (ctl.signal_fd >= 0)
		close(ctl.signal_fd);
	return ctl_end("postern ctl", r, &err);
}
