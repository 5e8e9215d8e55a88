// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// human-monitor-command: the few of QEMU's human monitor commands that
// `qmp-shell -H` and scripts of old live on. Each is a QMP command of ours
// whose answer is put into QEMU's words (monitor/hmp-cmds.c there), so there is
// nothing here that QMP cannot do. As in QEMU an error is a text, too, and the
// command itself succeeds.
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "control/qmp_internal.h"

#define LINE_MAX_BYTES 4096

/* Adds a line; what does not fit into memory is left off. */
static void hmp_say(struct buf *out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void hmp_say(struct buf *out, const char *fmt, ...)
{
	char text[LINE_MAX_BYTES];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text) - 2, fmt, ap);
	va_end(ap);
	strcat(text, "\r\n");
	(void)!buf_append(out, text, strlen(text));
}

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

/* Runs a QMP command without arguments. Its result, or NULL: the error was said. */
static json_t *run(struct qmp_call *call, const char *name, struct buf *out)
{
	struct qmp_call inner = { .qmp = call->qmp, .client = call->client };
	struct err err = { 0 };

	if (qmp_find_command(name)->run(&inner, &err) < 0) {
		json_decref(inner.result);
		hmp_say(out, "Error: %s", err.text);
		return NULL;
	}
	call->after = inner.after;
	return inner.result ? inner.result : json_object();
}

/* ---- info ---- */

static void info_status(const json_t *result, struct buf *out)
{
	const char *status = text_of(result, "status");
	bool running = json_is_true(json_object_get(result, "running"));

	if (running || !strcmp(status, "paused"))
		hmp_say(out, "VM status: %s", running ? "running" : "paused");
	else
		hmp_say(out, "VM status: paused (%s)", status);
}

static void info_version(const json_t *result, struct buf *out)
{
	const json_t *qemu = json_object_get(result, "qemu");

	hmp_say(out, "%d.%d.%d (%s)", (int)json_integer_value(json_object_get(qemu, "major")),
		(int)json_integer_value(json_object_get(qemu, "minor")),
		(int)json_integer_value(json_object_get(qemu, "micro")),
		text_of(result, "package"));
}

static void info_name(const json_t *result, struct buf *out)
{
	if (*text_of(result, "name"))
		hmp_say(out, "%s", text_of(result, "name"));
}

static void info_kvm(const json_t *result, struct buf *out)
{
	hmp_say(out, "kvm support: %s",
		json_is_true(json_object_get(result, "enabled")) ? "enabled" : "disabled");
}

static void info_uuid(const json_t *result, struct buf *out)
{
	hmp_say(out, "%s", text_of(result, "UUID"));
}

static void info_chardev(const json_t *result, struct buf *out)
{
	const json_t *item;
	size_t i;

	json_array_foreach(result, i, item)
		hmp_say(out, "%s: filename=%s", text_of(item, "label"), text_of(item, "filename"));
}

static void info_cpus(const json_t *result, struct buf *out)
{
	const json_t *cpu;
	size_t i;

	json_array_foreach(result, i, cpu)
		hmp_say(out, "%c CPU #%d: thread_id=%d", i ? ' ' : '*',
			(int)json_integer_value(json_object_get(cpu, "cpu-index")),
			(int)json_integer_value(json_object_get(cpu, "thread-id")));
}

static void info_migrate(const json_t *result, struct buf *out)
{
	const json_t *ram = json_object_get(result, "ram");

	if (!strcmp(text_of(result, "status"), "none"))
		return;
	hmp_say(out, "Migration status: %s", text_of(result, "status"));
	if (*text_of(result, "error-desc"))
		hmp_say(out, "Error: %s", text_of(result, "error-desc"));
	if (ram)
		hmp_say(out, "remaining ram: %" PRIu64 " kbytes",
			(uint64_t)json_integer_value(json_object_get(ram, "remaining")) >> 10);
}

static const struct info {
	const char *name, *help, *qmp;
	void (*print)(const json_t *result, struct buf *out);
} infos[] = {
	{ "chardev", "show the character devices", "query-chardev", info_chardev },
	{ "cpus", "show infos for each CPU", "query-cpus-fast", info_cpus },
	{ "kvm", "show KVM information", "query-kvm", info_kvm },
	{ "migrate", "show migration status", "query-migrate", info_migrate },
	{ "name", "show the current VM name", "query-name", info_name },
	{ "status", "show the current VM status (running|paused)", "query-status", info_status },
	{ "uuid", "show the current VM UUID", "query-uuid", info_uuid },
	{ "version", "show the version", "query-version", info_version },
};
#define NINFOS (sizeof(infos) / sizeof(infos[0]))

static void info(struct qmp_call *call, const char *what, struct buf *out)
{
	json_t *result;
	size_t i;

	for (i = 0; i < NINFOS; i++) {
		if (!*what) {
			hmp_say(out, "info %s  -- %s", infos[i].name, infos[i].help);
			continue;
		}
		if (strcmp(infos[i].name, what) != 0)
			continue;
		result = run(call, infos[i].qmp, out);
		if (result)
			infos[i].print(result, out);
		json_decref(result);
		return;
	}
	if (*what)
		hmp_say(out, "unknown command: 'info %s'", what);
}

/* ---- the others ---- */

static const struct human {
	const char *name, *help, *qmp;
} humans[] = {
	{ "cont", "resume emulation", "cont" },
	{ "migrate_cancel", "cancel the current VM migration", "migrate_cancel" },
	{ "quit", "quit the emulator", "quit" },
	{ "stop", "stop emulation", "stop" },
	{ "system_powerdown", "send system power down event", "system_powerdown" },
	{ "system_reset", "reset the system", "system_reset" },
};
#define NHUMANS (sizeof(humans) / sizeof(humans[0]))

static void hmp_help(struct buf *out)
{
	size_t i;

	hmp_say(out, "help  -- show the help");
	hmp_say(out, "info [subcommand] -- show various information about the system state");
	for (i = 0; i < NHUMANS; i++)
		hmp_say(out, "%s  -- %s", humans[i].name, humans[i].help);
}

static void hmp_carry_out(struct qmp_call *call, const char *name, const char *rest,
			  struct buf *out)
{
	size_t i;

	for (i = 0; i < NHUMANS; i++)
		if (!strcmp(humans[i].name, name) && !*rest) {
			json_decref(run(call, humans[i].qmp, out));
			return;
		}
	if (!strcmp(name, "info"))
		info(call, rest, out);
	else if (!strcmp(name, "help") || !strcmp(name, "?"))
		hmp_help(out);
	else
		hmp_say(out, "unknown command: '%s%s%s'", name, *rest ? " " : "", rest);
}

/* Splits at blanks: the first word, and the others with one blank between. False: too long. */
static bool split(const char *line, char *name, char *rest, size_t room)
{
	char copy[LINE_MAX_BYTES / 2], *word, *save = NULL;

	if (strlen(line) >= sizeof(copy) || room < sizeof(copy))
		return false;
	strcpy(copy, line);
	*name = *rest = '\0';
	for (word = strtok_r(copy, " \t\r\n", &save); word;
	     word = strtok_r(NULL, " \t\r\n", &save)) {
		if (!*name) {
			strcpy(name, word);
			continue;
		}
		if (*rest)
			strcat(rest, " ");
		strcat(rest, word);
	}
	return true;
}

static int cmd_human(struct qmp_call *call, struct err *err)
{
	unsigned int cpus = vm_vcpus(machine_vm(call->qmp->machine));
	char name[LINE_MAX_BYTES / 2], rest[LINE_MAX_BYTES / 2];
	struct buf out = { 0 };
	int r;

	/*
	 * The CPU matters to commands only that are not here; one that does not
	 * exist is an error all the same.
	 */
	if (qmp_arg_uint(call, "cpu-index", 0) >= cpus)
		return err_set(err, -EINVAL, "Parameter 'cpu-index' expects a CPU number");
	if (!split(qmp_arg_string(call, "command-line"), name, rest, sizeof(rest)))
		return err_set(err, -E2BIG, "Parameter 'command-line' has more than %zu bytes",
			       sizeof(rest) - 1);
	if (*name)
		hmp_carry_out(call, name, rest, &out);
	r = buf_append(&out, "", 1);
	if (!r)
		call->result = qmp_string((const char *)out.data);
	buf_fini(&out);
	return r < 0 ? err_set(err, -ENOMEM, "no memory for an answer") : 0;
}

static const struct qmp_arg human_args[] = {
	{ "command-line", QMP_STRING, false },
	{ "cpu-index", QMP_UINT, true },
	{ 0 },
};

const struct qmp_command qmp_hmp_commands[] = {
	{ "human-monitor-command", cmd_human, human_args, false },
	{ 0 },
};
