// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// QMP, whole: a client of the server on a machine without KVM
// (tests/unit/control/fake.c). An input is a list of commands with arguments of
// the right names and any types, or lines of any bytes; the machine and its
// migration are in any state. Every line that comes back is JSON, and each
// command that can be told from the next is answered.
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/log.h"
#include "control/qmp.h"
#include "tests/unit/control/fake.h"

#define TURNS_MAX 20000
/* First bytes of a command from here on begin a line of any bytes. */
#define RAW 0xc0

static struct {
	struct machine *machine;
	struct migration migration;
	struct qmp *qmp;
	char dir[64], path[96];
} world;

static void world_end(void)
{
	qmp_free(world.qmp);
	fake_machine_free(world.machine);
	rmdir(world.dir);
}

static void world_begin(void)
{
	char spec[128];
	struct err err;

	log_set_level(LOG_ERROR);
	strcpy(world.dir, "/tmp/fuzz-qmp.XXXXXX");
	if (!mkdtemp(world.dir))
		abort();
	snprintf(world.path, sizeof(world.path), "%s/qmp", world.dir);
	snprintf(spec, sizeof(spec), "unix:%s", world.path);
	world.machine = fake_machine_new();
	if (qmp_new(&world.qmp, world.machine, &world.migration, &err) < 0 ||
	    qmp_listen(world.qmp, spec, &err) < 0)
		abort();
	atexit(world_end);
}

/* ---- the input as commands ---- */

struct input {
	const uint8_t *data;
	size_t left;
};

static uint8_t take(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->data++;
}

static json_t *take_value(struct input *in, unsigned int depth)
{
	char text[256];
	uint64_t number = 0;
	uint8_t type = take(in), n, i;
	json_t *out;

	switch (type % 9) {
	case 0:
		return json_boolean(type & 0x80);
	case 1:
		return json_integer(take(in));
	case 2:
		for (i = 0; i < 8; i++)
			number = number << 8 | take(in);
		return json_integer((json_int_t)number);
	case 3:
		return json_real((double)take(in) / 3);
	case 4:
		return json_null();
	case 5:
		n = take(in);
		for (i = 0; i < n; i++)
			text[i] = (char)take(in);
		return json_stringn_nocheck(text, n);
	case 6:
		/* What the commands take. */
		return json_pack("[{s:s,s:b}]", "capability",
				 type & 0x80 ? "postcopy-ram" : "xbzrle", "state", type & 0x40);
	case 7:
		out = json_array();
		for (n = take(in) % 4; n && depth < 8; n--)
			json_array_append_new(out, take_value(in, depth + 1));
		return out;
	default:
		return json_string(type & 0x80 ? "oob" :
				   type & 0x40 ? "tcp:h:1" :
				   type & 0x20 ? "info status" :
						 "");
	}
}

static const char *const commands[] = {
	"qmp_capabilities",
	"query-version",
	"query-commands",
	"query-status",
	"query-name",
	"query-kvm",
	"query-cpus-fast",
	"stop",
	"cont",
	"quit",
	"system_powerdown",
	"system_reset",
	"migrate",
	"migrate-incoming",
	"migrate-pause",
	"migrate-recover",
	"migrate_cancel",
	"migrate-start-postcopy",
	"query-migrate",
	"migrate-set-parameters",
	"query-migrate-parameters",
	"migrate-set-capabilities",
	"query-migrate-capabilities",
	"query-postern-faults",
	"query-postern-map",
	"postern-reclaim",
	"postern-snapshot-save",
	"postern-snapshot-cancel",
	"query-postern-snapshots",
	"postern-set-fill",
	"dump-guest-memory",
	"query-dump",
	"postern-dump-cancel",
	"query-dump-guest-memory-capability",
	"human-monitor-command",
	"query-chardev",
	"query-iothreads",
	"query-machines",
	"query-memory-size-summary",
	"query-target",
	"query-uuid",
	"query-vm-generation-id",
	"getfd",
	"closefd",
};

static const char *const keys[] = {
	"fdname",
	"key-fd",
	"protocol",
	"paging",
	"to",
	"id",
	"level",
	"paused",
	"track",
	"incremental",
	"parent",
	"fill",
	"rate",
	"uri",
	"blk",
	"inc",
	"detach",
	"resume",
	"enable",
	"max-bandwidth",
	"downtime-limit",
	"max-postcopy-bandwidth",
	"x-postern-link-timeout",
	"capabilities",
	"cells",
	"destination-is-dead",
	"command-line",
	"cpu-index",
	"",
};

static const char negotiation[] =
	"{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]}}";

#define N(array) (sizeof(array) / sizeof((array)[0]))

/* The next command as JSON, in out. True: it is whole, so it is answered. */
static bool take_command(struct input *in, struct buf *out)
{
	uint8_t head = take(in), n = take(in);
	json_t *request, *arguments;
	bool whole;
	char *text;

	if (head >= RAW) {
		for (; n && in->left; n--) {
			uint8_t byte = take(in);

			buf_append(out, &byte, 1);
		}
		buf_append(out, "\n", 1);
		return false;
	}
	request = json_object();
	arguments = json_object();
	json_object_set_new(request, head & 0x40 ? "exec-oob" : "execute",
			    json_string(commands[head % 64 % N(commands)]));
	for (n %= 5; n; n--)
		json_object_set_new(arguments, keys[take(in) % N(keys)], take_value(in, 0));
	if (json_object_size(arguments))
		json_object_set(request, "arguments", arguments);
	if (head & 0x20)
		json_object_set_new(request, "id", take_value(in, 0));
	json_decref(arguments);
	text = json_dumps(request, JSON_ENSURE_ASCII);
	/* A string that is no UTF-8 cannot be written. */
	if (text)
		buf_append(out, text, strlen(text));
	whole = text;
	free(text);
	json_decref(request);
	return whole;
}

/* ---- the client ---- */

static size_t check_lines(struct buf *got)
{
	char *line = (char *)got->data, *end;
	size_t left = got->len, n = 0;
	json_t *json;

	for (; left && (end = memchr(line, '\n', left)); n++) {
		json = json_loadb(line, (size_t)(end - line), JSON_ALLOW_NUL, NULL);
		if (!json)
			__builtin_trap();
		json_decref(json);
		left -= (size_t)(end + 1 - line);
		line = end + 1;
	}
	return n;
}

/* Sends all and reads to the end. */
static void converse(const struct buf *say, struct buf *got)
{
	int fd = fake_connect(world.machine, world.path), turns;
	size_t sent = 0;
	uint8_t bytes[4096];
	ssize_t n;

	for (turns = 0; turns < TURNS_MAX; turns++) {
		uv_run(loop_uv(world.machine->loop), UV_RUN_NOWAIT);
		if (sent < say->len) {
			n = send(fd, say->data + sent, say->len - sent,
				 MSG_DONTWAIT | MSG_NOSIGNAL);
			sent += n > 0 ? (size_t)n : 0;
			if (sent == say->len)
				shutdown(fd, SHUT_WR);
		}
		n = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
		if (n > 0)
			buf_append(got, bytes, (size_t)n);
		if (!n)
			break;
	}
	close(fd);
	/* A client that has said all and hears all is let go. */
	if (turns == TURNS_MAX)
		__builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	struct buf say = { 0 }, got = { 0 };
	size_t whole = 0, lines;
	bool raw = false;
	uint8_t state;

	if (!world.machine)
		world_begin();
	state = take(&in);
	fake_set_state(world.machine, (enum run_state)(state % 11));
	state = take(&in);
	world.migration.info.status = (enum migration_status)(state % 10);
	world.migration.info.incoming = state & 0x80;
	world.migration.fail = state & 0x40;
	world.migration.params.link_timeout_ms = 5000;
	if (!(state & 0x20))
		buf_append(&say, negotiation, strlen(negotiation));
	while (in.left) {
		raw |= *in.data >= RAW;
		whole += take_command(&in, &say);
	}
	if (!say.len)
		return 0;
	converse(&say, &got);
	lines = check_lines(&got);
	/* The greeting, and an answer each; events come on top. */
	if (!raw && !world.machine->ended && lines < whole + 1)
		__builtin_trap();
	world.machine->ended = false;
	buf_fini(&say);
	buf_fini(&got);
	return 0;
}
