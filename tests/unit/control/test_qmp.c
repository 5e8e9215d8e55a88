// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// The QMP server over a real socket, on a fake machine.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/clock.h"
#include "control/qmp.h"
#include "control/qmp_args.h"
#include "fake.h"
#include "tests/unit/crowd.h"

struct setup {
	struct machine *machine;
	struct migration migration;
	struct qmp *qmp;
	char dir[64], path[96], spec[128];
	int fd;
	char line[65536];
	size_t len;
};

static void connect_client(struct setup *s)
{
	s->fd = fake_connect(s->machine, s->path);
	s->len = 0;
}

/* Waits for the next line, terminated in place; its end, for drop_line. */
static char *receive_line(struct setup *s)
{
	char *end;
	ssize_t n;

	while (!(end = memchr(s->line, '\n', s->len))) {
		fake_pump(s->machine, s->fd, NULL, NULL);
		n = read(s->fd, s->line + s->len, sizeof(s->line) - s->len);
		assert_true(n > 0);
		s->len += (size_t)n;
	}
	assert_true(end > s->line && end[-1] == '\r');
	end[-1] = '\0';
	return end;
}

static void drop_line(struct setup *s, const char *end)
{
	s->len -= (size_t)(end + 1 - s->line);
	memmove(s->line, end + 1, s->len);
}

/* The next line the server sends, parsed. */
static json_t *receive(struct setup *s)
{
	char *end = receive_line(s);
	json_t *out = json_loads(s->line, 0, NULL);

	assert_non_null(out);
	drop_line(s, end);
	return out;
}

static void send_text(struct setup *s, const char *text)
{
	if (*text)
		assert_int_equal(write(s->fd, text, strlen(text)), strlen(text));
}

/* Sends and expects the reply to be exactly `wanted` (keys in any order). */
static void ask(struct setup *s, const char *text, const char *wanted)
{
	json_t *reply, *want = json_loads(wanted, 0, NULL);
	char *got;

	assert_non_null(want);
	send_text(s, text);
	reply = receive(s);
	got = json_dumps(reply, JSON_SORT_KEYS);
	if (!json_equal(reply, want))
		fail_msg("%s\n gave  %s\n not   %s", text, got, wanted);
	free(got);
	json_decref(reply);
	json_decref(want);
}

static void ask_error(struct setup *s, const char *text, const char *class, const char *desc)
{
	json_t *want = json_pack("{s:{s:s,s:s}}", "error", "class", class, "desc", desc);
	char *wanted = json_dumps(want, 0);

	ask(s, text, wanted);
	free(wanted);
	json_decref(want);
}

/* Sends a command and returns what is under "return". */
static json_t *ask_return(struct setup *s, const char *text)
{
	json_t *reply, *out;

	send_text(s, text);
	reply = receive(s);
	out = json_incref(json_object_get(reply, "return"));
	assert_non_null(out);
	json_decref(reply);
	return out;
}

static void expect_event(struct setup *s, const char *name, const char *data)
{
	json_t *event = receive(s), *want = json_loads(data, 0, NULL), *stamp;

	assert_string_equal(json_string_value(json_object_get(event, "event")), name);
	stamp = json_object_get(event, "timestamp");
	assert_true(json_integer_value(json_object_get(stamp, "seconds")) > 1600000000);
	assert_in_range(json_integer_value(json_object_get(stamp, "microseconds")), 0, 999999);
	if (want)
		assert_true(json_equal(json_object_get(event, "data"), want));
	else
		assert_null(json_object_get(event, "data"));
	json_decref(want);
	json_decref(event);
}

static int set_up(void **state)
{
	struct setup *s = calloc(1, sizeof(*s));
	struct err err;

	if (!s)
		return -1;
	strcpy(s->dir, "/tmp/test-qmp.XXXXXX");
	if (!mkdtemp(s->dir))
		return -1;
	snprintf(s->path, sizeof(s->path), "%s/qmp", s->dir);
	snprintf(s->spec, sizeof(s->spec), "unix:%s,server=on,wait=off", s->path);
	s->machine = fake_machine_new();
	s->migration.params.link_timeout_ms = 5000;
	if (qmp_new(&s->qmp, s->machine, &s->migration, &err) < 0 || qmp_listen(s->qmp, s->spec, &err) < 0)
		return -1;
	connect_client(s);
	*state = s;
	return 0;
}

static int tear_down(void **state)
{
	struct setup *s = *state;

	if (s->fd >= 0)
		close(s->fd);
	qmp_free(s->qmp);
	fake_machine_free(s->machine);
	/* The socket is gone. */
	if (access(s->path, F_OK) == 0 || rmdir(s->dir) < 0)
		return -1;
	free(s);
	return 0;
}

static int set_up_negotiated(void **state)
{
	struct setup *s;

	if (set_up(state) < 0)
		return -1;
	s = *state;
	json_decref(receive(s));
	ask(s, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]}}", "{\"return\":{}}");
	return 0;
}

/* ---- tests ---- */

static void test_negotiation(void **state)
{
	struct setup *s = *state;

	ask(s, "", "{\"QMP\":{\"version\":{\"qemu\":{\"major\":7,\"minor\":2,\"micro\":0},"
		   "\"package\":\"postern " POSTERN_VERSION "\"},\"capabilities\":[\"oob\"]}}");
	ask_error(s, "{\"execute\":\"query-status\"}", "CommandNotFound",
		  "Expecting capabilities negotiation with 'qmp_capabilities'");
	ask_error(s, "{\"execute\":\"nonsense\"}", "CommandNotFound",
		  "Expecting capabilities negotiation with 'qmp_capabilities'");
	ask_error(s, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"magic\"]}}", "GenericError",
		  "Parameter 'enable[0]' does not accept value 'magic'");
	ask_error(s, "{\"exec-oob\":\"qmp_capabilities\"}", "GenericError",
		  "QMP input member 'exec-oob' is unexpected");
	/* Events are for those who have negotiated. */
	fake_set_state(s->machine, RUN_STATE_RUNNING);
	ask(s, "{\"execute\":\"qmp_capabilities\",\"id\":7}", "{\"return\":{},\"id\":7}");
	ask_error(s, "{\"execute\":\"qmp_capabilities\"}", "CommandNotFound",
		  "Capabilities negotiation is already complete, command ignored");
	/* Not asked for, so not there. */
	ask_error(s, "{\"exec-oob\":\"migrate-pause\"}", "GenericError",
		  "QMP input member 'exec-oob' is unexpected");
}

static void test_requests(void **state)
{
	struct setup *s = *state;

	ask(s, "{\"execute\":\"query-kvm\",\"id\":{\"a\":[1,null]}}",
	    "{\"return\":{\"enabled\":true,\"present\":true},\"id\":{\"a\":[1,null]}}");
	ask(s, "{\"execute\":\"nope\",\"id\":\"x\"}",
	    "{\"error\":{\"class\":\"CommandNotFound\",\"desc\":\"The command nope has not been found\"},\"id\":\"x\"}");
	ask_error(s, "{}", "GenericError", "QMP input lacks member 'execute'");
	ask_error(s, "[]", "GenericError", "QMP input must be a JSON object");
	ask_error(s, "\"x\"", "GenericError", "QMP input must be a JSON object");
	ask_error(s, "{\"execute\":1}", "GenericError", "QMP input member 'execute' must be a string");
	ask_error(s, "{\"execute\":\"stop\",\"exec-oob\":\"stop\"}", "GenericError",
		  "QMP input member 'exec-oob' clashes with 'execute'");
	ask_error(s, "{\"execute\":\"stop\",\"arguments\":1}", "GenericError",
		  "QMP input member 'arguments' must be an object");
	ask_error(s, "{\"execute\":\"stop\",\"foo\":1}", "GenericError",
		  "QMP input member 'foo' is unexpected");
	ask_error(s, "{\"exec-oob\":\"stop\"}", "GenericError", "The command stop does not support OOB");
	ask(s, "{\"exec-oob\":\"migrate-pause\",\"id\":1}", "{\"return\":{},\"id\":1}");
}

/* Whatever an id is, it comes back as it was written: no number in it is too large. */
static void test_ids_come_back_as_they_were(void **state)
{
	static const char *const ids[] = {
		"9223372036854775808", "18446744073709551615", "18446744073709551616", "-9223372036854775809", "1e400", "-1E+999", "1.10",
		"123456789012345678901234567890123456789012345678901234567890", "[1e400,{\"a b\":[18446744073709551615,-1]}]", "\"1e400 \\\" id\"",
		"{\"id\":1e400}", "null", "\"\"",
	};
	struct setup *s = *state;
	char say[256], wanted[256], *end;
	size_t i;

	for (i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
		snprintf(say, sizeof(say), "{\"execute\":\"query-name\",\"id\": %s}", ids[i]);
		snprintf(wanted, sizeof(wanted), "{\"return\": {\"name\": \"fake\"}, \"id\": %s}", ids[i]);
		send_text(s, say);
		end = receive_line(s);
		assert_string_equal(s->line, wanted);
		drop_line(s, end);
	}
	/* However the member is written, wherever it stands, and on one line. */
	send_text(s, "{ \"\\u0069d\" : [ 1e400 ,\n\t2 ] , \"execute\":\"nope\"}");
	end = receive_line(s);
	assert_string_equal(s->line, "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"The command nope has not been found\"}, "
				     "\"id\": [1e400,2]}");
	drop_line(s, end);
}

/* QEMU's integers have 64 bits without a sign. What is beyond is an error of the command, with its id. */
static void test_numbers_of_arguments(void **state)
{
	static const char *const beyond[] = { "18446744073709551616", "-1", "-9223372036854775809", "-0.5", "1e400", "[1e400]" };
	struct setup *s = *state;
	char say[256], wanted[256], *end;
	size_t i;

	ask(s, "{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"max-bandwidth\":9223372036854775808,"
	       "\"downtime-limit\":5,\"max-postcopy-bandwidth\":18446744073709551615},\"id\":1}", "{\"return\":{},\"id\":1}");
	assert_true(s->migration.params.max_bandwidth == UINT64_C(1) << 63);
	assert_int_equal(s->migration.params.downtime_limit_ms, 5);
	assert_true(s->migration.params.max_postcopy_bandwidth == UINT64_MAX);
	for (i = 0; i < sizeof(beyond) / sizeof(beyond[0]); i++) {
		/* A number that is out of range stands before it, and one after. */
		snprintf(say, sizeof(say), "{\"id\":[1e999],\"execute\":\"migrate-set-parameters\",\"arguments\":{\"max-bandwidth\":%s}}",
			 beyond[i]);
		send_text(s, say);
		end = receive_line(s);
		snprintf(wanted, sizeof(wanted), "{\"error\": {\"class\": \"GenericError\", \"desc\": \"%s\"}, \"id\": [1e999]}",
			 i < 3 ? "Parameter 'max-bandwidth' expects uint64" :
				 "Invalid parameter type for 'max-bandwidth', expected: integer");
		assert_string_equal(s->line, wanted);
		drop_line(s, end);
	}
	assert_true(s->migration.params.max_bandwidth == UINT64_C(1) << 63);
	/* 2^40 and 2^32 are no small numbers. */
	ask_error(s, "{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"downtime-limit\":1099511627776}}", "GenericError",
		  "Parameter 'downtime-limit' expects an integer in the range of 0 to 2000000 ms");
	ask_error(s, "{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"x-postern-link-timeout\":4294972296}}", "GenericError",
		  "Parameter 'x-postern-link-timeout' expects an integer in the range of 100 to 600000 ms");
	ask_error(s, "{\"execute\":\"query-postern-map\",\"arguments\":{\"cells\":18446744073709551615}}", "GenericError",
		  "Parameter 'cells' expects an integer in the range of 1 to 4096");
	ask_error(s, "{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"help\",\"cpu-index\":4294967296}}",
		  "GenericError", "Parameter 'cpu-index' expects a CPU number");
}

/* Until the other side closes. */
static void expect_closed(struct setup *s, int fd)
{
	char bytes[4096];
	ssize_t n;

	do {
		fake_pump(s->machine, fd, NULL, NULL);
		n = read(fd, bytes, sizeof(bytes));
	} while (n > 0);
	assert_true(n == 0 || errno == ECONNRESET);
	close(fd);
}

/* What a web page can have a browser of this host send: its first bytes are a method, whatever follows. */
static void test_what_does_not_begin_as_a_client_is_not_heard(void **state)
{
	static const char commands[] = "{\"execute\":\"qmp_capabilities\"}\r\n{\"execute\":\"system_powerdown\"}\r\n";
	static const char *const beginnings[] = {
		"POST / HTTP/1.1\r\nHost: 127.0.0.1:4444\r\nContent-Type: text/plain\r\nContent-Length: 70\r\n\r\n", "GET / HTTP/1.1\r\n\r\n",
		"OPTIONS / HTTP/1.1\r\n\r\n", "\r\nPOST / HTTP/1.0\r\n\r\n", "x", "\"", "[]", "1", "}", "\x16\x03\x01\x02", "$qSupported#37",
		"\xff", "{]", "{\"execute\":1e}", "{}[]", "{} POST / HTTP/1.1\r\n\r\n", "{\x01}",
	};
	struct setup *s = *state;
	size_t i;
	int fd;

	for (i = 0; i < sizeof(beginnings) / sizeof(beginnings[0]); i++) {
		fd = fake_connect(s->machine, s->path);
		assert_true(write(fd, beginnings[i], strlen(beginnings[i])) > 0);
		assert_true(write(fd, commands, strlen(commands)) > 0);
		expect_closed(s, fd);
		assert_int_equal(s->machine->powerdowns, 0);
	}
	/* White space is no beginning, and who has negotiated may err. */
	ask(s, " \t\r\n {\"execute\":\"query-name\"}", "{\"return\":{\"name\":\"fake\"}}");
	ask_error(s, "GET\n", "GenericError", "JSON parse error, invalid token near 'GET'");
	send_text(s, "{\"execute\":\"system_powerdown\"}");
	expect_event(s, "POWERDOWN", "");
	ask(s, "", "{\"return\":{}}");
	assert_int_equal(s->machine->powerdowns, 1);
}

#define FLOOD 100u

/* However many commands a client sends at once, the loop carries out some a turn: others are answered meanwhile, and none is lost. */
static void test_a_flood_of_commands_has_its_turn_like_others(void **state)
{
	static const char command[] = "{\"execute\":\"system_powerdown\"}";
	unsigned int before = 0, turns, i, most = 0;
	struct setup *s = *state;
	int other = fake_connect(s->machine, s->path);
	struct pollfd p = { .fd = other, .events = POLLIN };

	s->machine->powerdown_ns = LOOP_TURN_NS / 4;
	for (i = 0; i < FLOOD; i++)
		send_text(s, command);
	for (turns = 0; s->machine->powerdowns < FLOOD; turns++) {
		before = s->machine->powerdowns;
		uv_run(loop_uv(s->machine->loop), UV_RUN_NOWAIT);
		if (s->machine->powerdowns - before > most)
			most = s->machine->powerdowns - before;
		assert_true(turns < 100000);
	}
	/* Also where one turn's end and the next one's beginning meet. */
	assert_in_range(most, 1, 10);
	/* The other has its greeting, which waited for no more than that. */
	assert_int_equal(poll(&p, 1, 0), 1);
	close(other);
	for (i = 0; i < FLOOD; i++) {
		expect_event(s, "POWERDOWN", "");
		ask(s, "", "{\"return\":{}}");
	}
	assert_int_equal(s->machine->powerdowns, FLOOD);
}

/* However many there are: who comes is let in, and who has negotiated stays. */
static void test_who_says_nothing_keeps_nobody_out(void **state)
{
	struct setup *s = *state;
	int first = s->fd, silent[80];
	size_t i, n = sizeof(silent) / sizeof(silent[0]);

	for (i = 0; i < n; i++) {
		silent[i] = fake_connect(s->machine, s->path);
		fake_pump(s->machine, silent[i], NULL, NULL);
	}
	connect_client(s);
	json_decref(receive(s));
	ask(s, "{\"execute\":\"qmp_capabilities\"}", "{\"return\":{}}");
	close(s->fd);
	s->fd = first;
	json_decref(ask_return(s, "{\"execute\":\"query-status\"}"));
	for (i = 0; i < n; i++)
		close(silent[i]);
}

static void test_block(void **state)
{
	const struct device_event events[] = {
		{ .kind = DEVICE_EVENT_DISK_AWAY, .device = "disk0", .reason = "gone", .requests = 2 },
		{ .kind = DEVICE_EVENT_DISK_BACK, .device = "disk0" },
		{ .kind = DEVICE_EVENT_DISK_ERROR, .device = "disk0", .error = -ENOSPC },
	};
	struct setup *s = *state;
	json_t *disks = ask_return(s, "{\"execute\":\"query-block\"}"), *disk = json_array_get(disks, 0), *inserted, *event;
	unsigned int i;

	assert_int_equal(json_array_size(disks), 1);
	inserted = json_object_get(disk, "inserted");
	assert_string_equal(json_string_value(json_object_get(disk, "device")), "disk0");
	assert_string_equal(json_string_value(json_object_get(disk, "io-status")), "failed");
	assert_string_equal(json_string_value(json_object_get(inserted, "file")), "nbd://host/x");
	assert_string_equal(json_string_value(json_object_get(inserted, "drv")), "raw");
	assert_true(json_is_false(json_object_get(inserted, "ro")));
	assert_int_equal(json_integer_value(json_object_get(json_object_get(inserted, "image"), "virtual-size")), 512);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(disk, "x-postern"), "requests")), 3);
	assert_null(json_object_get(json_object_get(disk, "x-postern"), "held"));
	json_decref(disks);
	s->machine->doubt = (struct disk_doubt){ .ms = 4000, .held = 2 };
	disks = ask_return(s, "{\"execute\":\"query-block\"}");
	disk = json_object_get(json_array_get(disks, 0), "x-postern");
	assert_int_equal(json_integer_value(json_object_get(disk, "in-doubt-ms")), 4000);
	assert_int_equal(json_integer_value(json_object_get(disk, "held")), 2);
	json_decref(disks);
	ask_error(s, "{\"execute\":\"postern-disk-fenced\",\"arguments\":{\"device\":\"disk7\"}}", "GenericError",
		  "Device 'disk7' not found");
	json_decref(ask_return(s, "{\"execute\":\"postern-disk-fenced\",\"arguments\":{\"device\":\"disk0\"}}"));
	assert_int_equal(s->machine->doubt.ms, 0);
	for (i = 0; i < 3; i++) {
		static const char *const names[] = { "POSTERN_DISK_AWAY", "POSTERN_DISK_BACK", "BLOCK_IO_ERROR" };

		s->machine->listeners->device(s->machine->listeners->arg, &events[i]);
		event = receive(s);
		assert_string_equal(json_string_value(json_object_get(event, "event")), names[i]);
		if (i == 2)
			assert_true(json_is_true(json_object_get(json_object_get(event, "data"), "nospace")));
		json_decref(event);
	}
}

static void test_bad_json(void **state)
{
	struct setup *s = *state;
	json_t *reply;

	/* Balanced, but no JSON: nothing is discarded. */
	send_text(s, "{\"execute\":}{\"execute\":\"query-name\"}");
	reply = receive(s);
	assert_string_equal(json_string_value(json_object_get(json_object_get(reply, "error"), "class")),
			    "GenericError");
	json_decref(reply);
	ask(s, "", "{\"return\":{\"name\":\"fake\"}}");
	/* Cut short, and given up by 0xff. */
	send_text(s, "{\"execute\":\"st\xff");
	reply = receive(s);
	assert_non_null(json_object_get(reply, "error"));
	json_decref(reply);
	ask(s, "{\"execute\":\"query-name\"}", "{\"return\":{\"name\":\"fake\"}}");
	/* Two in one write, one in two. */
	send_text(s, "{\"execute\":\"query-name\",\"id\":1}{\"execute\":\"query-na");
	ask(s, "", "{\"return\":{\"name\":\"fake\"},\"id\":1}");
	ask(s, "me\",\"id\":2}", "{\"return\":{\"name\":\"fake\"},\"id\":2}");
}

static void test_arguments(void **state)
{
	struct setup *s = *state;

	ask_error(s, "{\"execute\":\"migrate\"}", "GenericError", "Parameter 'uri' is missing");
	ask_error(s, "{\"execute\":\"migrate\",\"arguments\":{}}", "GenericError", "Parameter 'uri' is missing");
	ask_error(s, "{\"execute\":\"migrate\",\"arguments\":{\"uri\":1}}", "GenericError",
		  "Invalid parameter type for 'uri', expected: string");
	ask_error(s, "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"tcp:x:1\",\"resume\":\"yes\"}}",
		  "GenericError", "Invalid parameter type for 'resume', expected: boolean");
	ask_error(s, "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"tcp:x:1\",\"x\":1}}", "GenericError",
		  "Parameter 'x' is unexpected");
	ask_error(s, "{\"execute\":\"stop\",\"arguments\":{\"x\":1}}", "GenericError",
		  "Parameter 'x' is unexpected");
	ask_error(s, "{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"max-bandwidth\":-1}}",
		  "GenericError", "Parameter 'max-bandwidth' expects uint64");
	ask_error(s, "{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"max-bandwidth\":1.5}}",
		  "GenericError", "Invalid parameter type for 'max-bandwidth', expected: integer");
	ask_error(s, "{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"tls-creds\":\"\"}}",
		  "GenericError", "Parameter 'tls-creds' is unexpected");
	assert_string_equal(s->migration.last, "");
	ask_error(s, "{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":1}}",
		  "GenericError", "Invalid parameter type for 'capabilities', expected: array");
}

static void test_run_control(void **state)
{
	struct setup *s = *state;

	ask(s, "{\"execute\":\"query-status\"}",
	    "{\"return\":{\"running\":false,\"singlestep\":false,\"status\":\"paused\"}}");
	send_text(s, "{\"execute\":\"cont\"}");
	expect_event(s, "RESUME", "");
	ask(s, "", "{\"return\":{}}");
	ask(s, "{\"execute\":\"cont\"}", "{\"return\":{}}");
	ask(s, "{\"execute\":\"query-status\"}",
	    "{\"return\":{\"running\":true,\"singlestep\":false,\"status\":\"running\"}}");
	send_text(s, "{\"execute\":\"stop\"}");
	expect_event(s, "STOP", "");
	ask(s, "", "{\"return\":{}}");
	ask(s, "{\"execute\":\"stop\"}", "{\"return\":{}}");
	/* A state that must not be left is not left by stop. */
	fake_set_state(s->machine, RUN_STATE_POSTMIGRATE);
	ask(s, "{\"execute\":\"stop\"}", "{\"return\":{}}");
	assert_int_equal(s->machine->state, RUN_STATE_POSTMIGRATE);
	ask_error(s, "{\"execute\":\"cont\"}", "GenericError", "the guest runs elsewhere");
	fake_set_state(s->machine, RUN_STATE_INMIGRATE);
	ask(s, "{\"execute\":\"cont\"}", "{\"return\":{}}");
	assert_true(s->machine->autostart);
	ask(s, "{\"execute\":\"stop\"}", "{\"return\":{}}");
	assert_false(s->machine->autostart);
	send_text(s, "{\"execute\":\"system_reset\"}");
	expect_event(s, "RESET", "{\"guest\":false,\"reason\":\"host-qmp-system-reset\"}");
	ask(s, "", "{\"return\":{}}");
	send_text(s, "{\"execute\":\"system_powerdown\"}");
	expect_event(s, "POWERDOWN", "");
	ask(s, "", "{\"return\":{}}");
}

static void test_balloon(void **state)
{
	struct setup *s = *state;

	ask(s, "{\"execute\":\"query-balloon\"}",
	    "{\"error\":{\"class\":\"DeviceNotActive\",\"desc\":\"No balloon device has been activated\"}}");
	ask(s, "{\"execute\":\"balloon\",\"arguments\":{\"value\":4096}}",
	    "{\"error\":{\"class\":\"DeviceNotActive\",\"desc\":\"No balloon device has been activated\"}}");
	s->machine->balloon = true;
	ask(s, "{\"execute\":\"balloon\",\"arguments\":{\"value\":0}}",
	    "{\"error\":{\"class\":\"GenericError\",\"desc\":\"Parameter 'value' expects a size\"}}");
	send_text(s, "{\"execute\":\"balloon\",\"arguments\":{\"value\":8192}}");
	expect_event(s, "BALLOON_CHANGE", "{\"actual\":8192}");
	ask(s, "", "{\"return\":{}}");
	ask(s, "{\"execute\":\"query-balloon\"}", "{\"return\":{\"actual\":8192}}");
}

static bool has_ended(void *arg)
{
	return ((struct machine *)arg)->ended;
}

/* The reply comes first, then the event; both arrive although the server ends at once. */
static void test_quit(void **state)
{
	struct setup *s = *state;

	send_text(s, "{\"execute\":\"quit\",\"id\":9}");
	fake_pump(s->machine, s->fd, has_ended, s->machine);
	qmp_free(s->qmp);
	s->qmp = NULL;
	ask(s, "", "{\"return\":{},\"id\":9}");
	expect_event(s, "SHUTDOWN", "{\"guest\":false,\"reason\":\"host-qmp-quit\"}");
}

static void test_migration(void **state)
{
	struct setup *s = *state;
	json_t *out;

	ask(s, "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"tcp:a:1\",\"detach\":true}}", "{\"return\":{}}");
	assert_string_equal(s->migration.last, "outgoing tcp:a:1");
	ask_error(s, "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"tcp:a:1\",\"blk\":true}}", "GenericError",
		  "migration of disks (blk, inc) is not supported");
	ask(s, "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"tcp:a:2\",\"resume\":true}}", "{\"return\":{}}");
	assert_string_equal(s->migration.last, "resume tcp:a:2");
	ask(s, "{\"exec-oob\":\"migrate-recover\",\"arguments\":{\"uri\":\"tcp:b:1\"}}", "{\"return\":{}}");
	assert_string_equal(s->migration.last, "recover tcp:b:1");
	ask(s, "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"tcp:a:3\",\"x-postern-secret-file\":\"/s\"}}", "{\"return\":{}}");
	assert_string_equal(s->migration.last, "outgoing tcp:a:3 with a secret");
	ask(s, "{\"execute\":\"migrate-recover\",\"arguments\":{\"uri\":\"tcp:b:2\",\"x-postern-insecure\":true}}",
	    "{\"return\":{}}");
	assert_string_equal(s->migration.last, "recover tcp:b:2 insecure");
	ask_error(s, "{\"execute\":\"migrate-incoming\",\"arguments\":{\"uri\":\"tcp:b:1\"}}", "GenericError",
		  "'-incoming' was not specified on the command line");
	/* An error's text need not be UTF-8. */
	s->migration.fail = true;
	ask_error(s, "{\"execute\":\"migrate_cancel\"}", "GenericError", "no ? luck");
	s->migration.fail = false;
	ask_error(s, "{\"execute\":\"migrate-start-postcopy\"}", "GenericError",
		  "Start a migration before switching to postcopy");
	s->migration.info.ram_total_bytes = 8192;
	s->migration.info.recoveries = 2;
	fake_migration_status(&s->migration, MIGRATION_POSTCOPY_ACTIVE);
	expect_event(s, "MIGRATION", "{\"status\":\"postcopy-active\"}");
	ask(s, "{\"execute\":\"migrate-start-postcopy\"}", "{\"return\":{}}");
	out = ask_return(s, "{\"execute\":\"query-migrate\"}");
	assert_string_equal(json_string_value(json_object_get(out, "status")), "postcopy-active");
	assert_int_equal(json_integer_value(json_object_get(json_object_get(out, "ram"), "total")), 8192);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(out, "postern"), "recoveries")), 2);
	assert_null(json_object_get(out, "error-desc"));
	json_decref(out);
}

static void test_parameters(void **state)
{
	struct setup *s = *state;

	ask(s, "{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"max-postcopy-bandwidth\":1000,"
	       "\"x-postern-link-timeout\":250}}", "{\"return\":{}}");
	ask_error(s, "{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"x-postern-link-timeout\":99}}",
		  "GenericError",
		  "Parameter 'x-postern-link-timeout' expects an integer in the range of 100 to 600000 ms");
	ask(s, "{\"execute\":\"query-migrate-parameters\"}",
	    "{\"return\":{\"max-bandwidth\":0,\"downtime-limit\":0,\"max-postcopy-bandwidth\":1000,"
	    "\"x-postern-link-timeout\":250}}");
}

static void test_capabilities(void **state)
{
	struct setup *s = *state;

#define SET(name, value) "{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":" \
			 "[{\"capability\":\"" name "\",\"state\":" value "}]}}"
	ask(s, SET("postcopy-ram", "true"), "{\"return\":{}}");
	ask_error(s, SET("postcopy-ram", "false"), "GenericError",
		  "capability 'postcopy-ram' is always on: postcopy is how postern migrates");
	ask_error(s, SET("multifd", "true"), "GenericError", "capability 'multifd' is not supported");
	ask_error(s, SET("magic", "true"), "GenericError",
		  "Parameter 'capability' does not accept value 'magic'");
	ask_error(s, SET("events", "1"), "GenericError",
		  "Invalid parameter type for 'state', expected: boolean");
	/* Without "events" none is sent: the next thing heard is the reply. */
	ask(s, SET("events", "false"), "{\"return\":{}}");
	fake_migration_status(&s->migration, MIGRATION_SETUP);
	ask(s, "{\"execute\":\"query-name\"}", "{\"return\":{\"name\":\"fake\"}}");
}

static void test_faults(void **state)
{
	struct setup *s = *state;
	json_t *out, *vcpu, *want;

	s->machine->mem.page[3] = PAGE_REQUESTED;
	s->machine->mem.page[4] = PAGE_LOST;
	s->machine->mem.page[5] = PAGE_MISSING;
	s->machine->mem.nwaiters = 2;
	s->machine->mem.waiter[0] = (struct memory_waiter){
		.name = "vcpu1", .cpu = 1, .gpa = GPA(FAKE_GPA + 3 * PAGE_BYTES), .since_ns = 1,
	};
	s->machine->mem.waiter[1] = (struct memory_waiter){
		.name = "gup", .cpu = -1, .gpa = GPA(FAKE_GPA + 4 * PAGE_BYTES), .since_ns = 1,
	};
	hist_add(&s->machine->mem.latency, 1000);
	out = ask_return(s, "{\"execute\":\"query-postern-faults\"}");
	assert_int_equal(json_array_size(json_object_get(out, "vcpus")), 1);
	vcpu = json_array_get(json_object_get(out, "vcpus"), 0);
	assert_int_equal(json_integer_value(json_object_get(vcpu, "cpu-index")), 1);
	assert_int_equal(json_integer_value(json_object_get(vcpu, "gpa")), FAKE_GPA + 3 * PAGE_BYTES);
	assert_string_equal(json_string_value(json_object_get(vcpu, "page")), "requested");
	assert_true(json_integer_value(json_object_get(vcpu, "since-us")) > 0);
	assert_int_equal(json_array_size(json_object_get(out, "others")), 1);
	want = json_loads("{\"total\":16,\"present\":13,\"missing\":1,\"requested\":1,\"lost\":1,\"broken-huge\":0}",
			  0, NULL);
	assert_true(json_equal(json_object_get(out, "pages"), want));
	json_decref(want);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(out, "latency"), "count")), 1);
	assert_string_equal(json_string_value(json_object_get(out, "way-out")), "kernel");
	assert_int_equal(json_integer_value(json_object_get(json_object_get(out, "counters"), "stray-faults")), 2);
	json_decref(out);

	ask(s, "{\"execute\":\"query-postern-map\",\"arguments\":{\"cells\":4}}",
	    "{\"return\":{\"pages\":16,\"every\":1,\"looked\":[4,4,4,4],\"present\":[3,2,4,4],\"requested\":[1,0,0,0],"
	    "\"lost\":[0,1,0,0]}}");
	out = ask_return(s, "{\"execute\":\"query-postern-map\"}");
	assert_int_equal(json_array_size(json_object_get(out, "looked")), 64);
	json_decref(out);
	ask_error(s, "{\"execute\":\"query-postern-map\",\"arguments\":{\"cells\":0}}", "GenericError",
		  "Parameter 'cells' expects an integer in the range of 1 to 4096");

	out = ask_return(s, "{\"execute\":\"query-cpus-fast\"}");
	assert_int_equal(json_array_size(out), FAKE_CPUS);
	vcpu = json_array_get(out, 0);
	assert_int_equal(json_integer_value(json_object_get(vcpu, "thread-id")), 1000);
	assert_null(json_object_get(json_object_get(vcpu, "x-postern"), "waits-for"));
	vcpu = json_object_get(json_object_get(json_array_get(out, 1), "x-postern"), "waits-for");
	assert_int_equal(json_integer_value(json_object_get(vcpu, "gpa")), FAKE_GPA + 3 * PAGE_BYTES);
	json_decref(out);
}

static void test_reclaim(void **state)
{
	struct setup *s = *state;

#define RECLAIM "{\"execute\":\"postern-reclaim\",\"arguments\":{\"destination-is-dead\":true}}"
	fake_set_state(s->machine, RUN_STATE_POSTMIGRATE);
	ask_error(s, "{\"execute\":\"postern-reclaim\"}", "GenericError",
		  "Parameter 'destination-is-dead' is missing");
	ask_error(s, "{\"execute\":\"postern-reclaim\",\"arguments\":{\"destination-is-dead\":false}}",
		  "GenericError",
		  "the guest may run at the destination: 'destination-is-dead': true is needed, and has to be so");
	assert_int_equal(s->machine->state, RUN_STATE_POSTMIGRATE);
	assert_string_equal(s->migration.last, "");
	s->migration.fail = true;
	ask_error(s, RECLAIM, "GenericError", "no ? luck");
	s->migration.fail = false;
	ask(s, RECLAIM, "{\"return\":{}}");
	assert_string_equal(s->migration.last, "reclaim ");
}

static void test_command_list(void **state)
{
	struct setup *s = *state;
	json_t *out = ask_return(s, "{\"execute\":\"query-commands\"}"), *item;
	bool quit = false;
	size_t i;

	json_array_foreach(out, i, item)
		quit |= !strcmp(json_string_value(json_object_get(item, "name")), "quit");
	assert_true(quit && json_array_size(out) > 20);
	json_decref(out);
	ask_error(s, "{\"execute\":\"query-qmp-schema\"}", "CommandNotFound",
		  "The command query-qmp-schema has not been found");
}

static void test_human_monitor(void **state)
{
	struct setup *s = *state;
	char request[5000], line[4096];

#define HUMAN(line) "{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"" line "\"}}"
	ask(s, HUMAN("info name"), "{\"return\":\"fake\\r\\n\"}");
	ask(s, HUMAN("\\t info \\n kvm "), "{\"return\":\"kvm support: enabled\\r\\n\"}");
	ask(s, HUMAN(""), "{\"return\":\"\"}");
	ask(s, HUMAN("info migrate"), "{\"return\":\"\"}");
	ask(s, HUMAN("stop now"), "{\"return\":\"unknown command: 'stop now'\\r\\n\"}");
	ask(s, HUMAN("info x%s%n"), "{\"return\":\"unknown command: 'info x%s%n'\\r\\n\"}");
	ask_error(s, "{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"stop\",\"cpu-index\":99}}",
		  "GenericError", "Parameter 'cpu-index' expects a CPU number");
	ask_error(s, "{\"execute\":\"human-monitor-command\"}", "GenericError", "Parameter 'command-line' is missing");
	memset(line, 'x', sizeof(line) - 1);
	line[sizeof(line) - 1] = '\0';
	snprintf(request, sizeof(request), HUMAN("%s"), line);
	ask_error(s, request, "GenericError", "Parameter 'command-line' has more than 2047 bytes");
	line[2047] = '\0';
	snprintf(request, sizeof(request), HUMAN("%s"), line);
	json_decref(ask_return(s, request));
}

/* A client that never reads is dropped; another is answered all the while. */
static void test_slow_client(void **state)
{
	struct setup *s = *state;
	int slow = fake_connect(s->machine, s->path), small = 4096;
	static const char command[] = "{\"execute\":\"query-commands\"}";
	int64_t end = clock_now_ns() + 30 * NS_PER_SEC;
	struct pollfd p = { .fd = slow, .events = 0 };
	ssize_t n;

	setsockopt(slow, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	fcntl(slow, F_SETFL, O_NONBLOCK);
	n = write(slow, "{\"execute\":\"qmp_capabilities\"}", 30);
	assert_int_equal(n, 30);
	do {
		n = send(slow, command, sizeof(command) - 1, MSG_NOSIGNAL);
		if (n < 0 && errno != EAGAIN)
			break;
		if (n < 0)
			uv_run(loop_uv(s->machine->loop), UV_RUN_NOWAIT);
		assert_true(clock_now_ns() < end);
	} while (poll(&p, 1, 0) == 0);
	ask(s, "{\"execute\":\"query-name\"}", "{\"return\":{\"name\":\"fake\"}}");
	close(slow);
}

static void test_socket(void **state)
{
	struct setup *s = *state;
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	char path[128], spec[160];
	struct stat st;
	struct err err;
	int fd;

	assert_int_equal(stat(s->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	/* In use, by this very server. */
	assert_int_equal(qmp_listen(s->qmp, s->spec, &err), -EADDRINUSE);
	/* Left behind by the dead. */
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/stale", s->dir);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd);
	snprintf(spec, sizeof(spec), "unix:%s", addr.sun_path);
	assert_int_equal(qmp_listen(s->qmp, spec, &err), 0);
	/* No socket at all. */
	snprintf(path, sizeof(path), "%s/file", s->dir);
	snprintf(spec, sizeof(spec), "unix:%s", path);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	close(fd);
	assert_int_equal(qmp_listen(s->qmp, spec, &err), -EEXIST);
	unlink(path);
	assert_int_equal(qmp_listen(s->qmp, "unix:", &err), -EINVAL);
	assert_int_equal(qmp_listen(s->qmp, "tcp:127.0.0.1", &err), -EINVAL);
	assert_int_equal(qmp_listen(s->qmp, "serial:1", &err), -EINVAL);
	assert_int_equal(qmp_listen(s->qmp, "unix:/tmp/x,wait=on", &err), -EINVAL);
	assert_non_null(strstr(err.text, "wait=on"));
	assert_int_equal(qmp_listen(s->qmp, "tcp:127.0.0.1:0", &err), 0);
}

/* More answers than the socket holds, for a client that has closed its sending side: it hears each, and then the end. */
static void test_a_client_that_has_said_all_hears_all(void **state)
{
	static const char command[] = "{\"execute\":\"query-commands\"}\n";
	char all[400 * (sizeof(command) - 1) + 1], byte;
	struct setup *s = *state;
	unsigned int i;
	json_t *reply;

	for (i = 0; i < 400; i++)
		memcpy(all + i * (sizeof(command) - 1), command, sizeof(command));
	send_text(s, all);
	assert_int_equal(shutdown(s->fd, SHUT_WR), 0);
	/* All of it is taken before anything is read. */
	for (i = 0; i < 200; i++)
		uv_run(loop_uv(s->machine->loop), UV_RUN_NOWAIT);
	for (i = 0; i < 400; i++) {
		reply = receive(s);
		assert_true(json_is_array(json_object_get(reply, "return")));
		json_decref(reply);
	}
	fake_pump(s->machine, s->fd, NULL, NULL);
	assert_int_equal(read(s->fd, &byte, 1), 0);
}

/* There is no descriptor for another client: it waits, and the loop does not run in circles. */
static void test_a_client_waits_for_a_descriptor(void **state)
{
	struct setup *s = *state;
	json_t *greeting;
	int first = s->fd;

	connect_client(s);
	assert_in_range(turns_without_descriptor(loop_uv(s->machine->loop), s->fd), 1, 20);
	greeting = receive(s);
	assert_non_null(json_object_get(greeting, "QMP"));
	json_decref(greeting);
	close(first);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up_negotiated, tear_down)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_negotiation, set_up, tear_down),
		TEST(test_requests), TEST(test_block), TEST(test_bad_json), TEST(test_arguments), TEST(test_run_control),
		TEST(test_balloon),
		TEST(test_quit), TEST(test_migration), TEST(test_parameters), TEST(test_capabilities), TEST(test_human_monitor),
		TEST(test_faults), TEST(test_reclaim), TEST(test_command_list), TEST(test_slow_client),
		TEST(test_a_client_that_has_said_all_hears_all), TEST(test_a_client_waits_for_a_descriptor),
		TEST(test_socket), TEST(test_ids_come_back_as_they_were), TEST(test_numbers_of_arguments),
		TEST(test_what_does_not_begin_as_a_client_is_not_heard), TEST(test_a_flood_of_commands_has_its_turn_like_others),
		TEST(test_who_says_nothing_keeps_nobody_out),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
