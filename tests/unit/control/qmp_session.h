/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A QMP session over a real socket, on a fake machine: what the tests of the QMP
 * server share.
 */
#ifndef POSTERN_TESTS_CONTROL_QMP_SESSION_H
#define POSTERN_TESTS_CONTROL_QMP_SESSION_H

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/clock.h"
#include "control/qmp.h"
#include "fake.h"

struct setup {
	struct machine *machine;
	struct migration migration;
	struct qmp *qmp;
	char dir[64], path[96], spec[128];
	int fd;
	char line[65536];
	size_t len;
};

static inline void connect_client(struct setup *s)
{
	s->fd = fake_connect(s->machine, s->path);
	s->len = 0;
}

/* Waits for the next line, terminated in place; its end, for drop_line. */
static inline char *receive_line(struct setup *s)
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

static inline void drop_line(struct setup *s, const char *end)
{
	s->len -= (size_t)(end + 1 - s->line);
	memmove(s->line, end + 1, s->len);
}

/* The next line the server sends, parsed. */
static inline json_t *receive(struct setup *s)
{
	char *end = receive_line(s);
	json_t *out = json_loads(s->line, 0, NULL);

	assert_non_null(out);
	drop_line(s, end);
	return out;
}

static inline void send_text(struct setup *s, const char *text)
{
	if (*text)
		assert_int_equal(write(s->fd, text, strlen(text)), strlen(text));
}

/* Sends and expects the reply to be exactly `wanted` (keys in any order). */
static inline void ask(struct setup *s, const char *text, const char *wanted)
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

static inline void ask_error(struct setup *s, const char *text, const char *class, const char *desc)
{
	json_t *want = json_pack("{s:{s:s,s:s}}", "error", "class", class, "desc", desc);
	char *wanted = json_dumps(want, 0);

	ask(s, text, wanted);
	free(wanted);
	json_decref(want);
}

/* Sends a command and returns what is under "return". */
static inline json_t *ask_return(struct setup *s, const char *text)
{
	json_t *reply, *out;

	send_text(s, text);
	reply = receive(s);
	out = json_incref(json_object_get(reply, "return"));
	assert_non_null(out);
	json_decref(reply);
	return out;
}

static inline void expect_event(struct setup *s, const char *name, const char *data)
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

static inline int set_up(void **state)
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
	if (qmp_new(&s->qmp, s->machine, &s->migration, &err) < 0 ||
	    qmp_listen(s->qmp, s->spec, &err) < 0)
		return -1;
	connect_client(s);
	*state = s;
	return 0;
}

static inline int tear_down(void **state)
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

static inline int set_up_negotiated(void **state)
{
	struct setup *s;

	if (set_up(state) < 0)
		return -1;
	s = *state;
	json_decref(receive(s));
	ask(s, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]}}",
	    "{\"return\":{}}");
	return 0;
}

#endif
