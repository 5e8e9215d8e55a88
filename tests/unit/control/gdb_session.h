/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A gdb session over a real socket, on a fake machine of two vCPUs: what the
 * tests of gdb's stub share.
 */
#ifndef POSTERN_TESTS_CONTROL_GDB_SESSION_H
#define POSTERN_TESTS_CONTROL_GDB_SESSION_H

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "control/gdb.h"
#include "control/gdb_packet.h"
#include "fake.h"

#define PAGE_TIMEOUT_MS 50
#define PAGE_TIMEOUT_LONG_MS 4000	/* where the end of the wait is another than the deadline */

struct setup {
	struct machine *machine;
	struct memory *mem;
	struct gdb *gdb;
	char dir[64], path[96];
	int fd;
	struct gdb_packet in;
	uint8_t bytes[4096];
	size_t len;
};

static inline void connect_client(struct setup *s)
{
	s->fd = fake_connect(s->machine, s->path);
	s->len = 0;
	s->in.state = GDB_IDLE;
}

static inline enum gdb_packet_event receive(struct setup *s)
{
	enum gdb_packet_event event = GDB_GOT_NOTHING;
	size_t used;
	ssize_t n;

	for (;;) {
		if (s->len) {
			event = gdb_packet_feed(&s->in, s->bytes, s->len, &used);
			s->len -= used;
			memmove(s->bytes, s->bytes + used, s->len);
			if (event != GDB_GOT_NOTHING)
				return event;
		}
		fake_pump(s->machine, s->fd, NULL, NULL);
		n = read(s->fd, s->bytes, sizeof(s->bytes));
		assert_true(n > 0);
		s->len = (size_t)n;
	}
}

static inline void send_packet(struct setup *s, const void *payload, size_t len)
{
	struct buf out = { 0 };

	assert_int_equal(gdb_packet_frame(&out, payload, len), 0);
	assert_int_equal(write(s->fd, out.data, out.len), out.len);
	buf_fini(&out);
	assert_int_equal(receive(s), GDB_GOT_ACK);
}

static inline const char *reply(struct setup *s)
{
	assert_int_equal(receive(s), GDB_GOT_PACKET);
	return (const char *)s->in.data;
}

static inline const char *ask(struct setup *s, const char *payload)
{
	send_packet(s, payload, strlen(payload));
	return reply(s);
}

#define ASK(payload, wanted) assert_string_equal(ask(s, payload), wanted)

/* A "monitor" command and its text. */
static inline void monitor(struct setup *s, const char *command, char *text, size_t bytes)
{
	struct buf out = { 0 };
	size_t n;

	assert_int_equal(buf_append(&out, "qRcmd,", 6), 0);
	assert_int_equal(gdb_hex_append(&out, command, strlen(command)), 0);
	send_packet(s, out.data, out.len);
	buf_fini(&out);
	assert_int_equal(receive(s), GDB_GOT_PACKET);
	n = s->in.len / 2;
	assert_true(n < bytes && gdb_hex_decode((const char *)s->in.data, (uint8_t *)text, n));
	text[n] = '\0';
}

static inline int set_up_timeout(void **state, int page_timeout_ms)
{
	struct setup *s = calloc(1, sizeof(*s));
	char spec[128];
	struct err err;
	size_t i;

	if (!s)
		return -1;
	strcpy(s->dir, "/tmp/test-gdb.XXXXXX");
	if (!mkdtemp(s->dir))
		return -1;
	snprintf(s->path, sizeof(s->path), "%s/gdb", s->dir);
	snprintf(spec, sizeof(spec), "unix:%s", s->path);
	s->machine = fake_machine_new();
	s->mem = machine_memory(s->machine);
	for (i = 0; i < sizeof(s->mem->ram); i++)
		s->mem->ram[i] = (uint8_t)i;
	fake_set_state(s->machine, RUN_STATE_RUNNING);
	if (gdb_new(&s->gdb, s->machine, spec, page_timeout_ms, &err) < 0)
		return -1;
	connect_client(s);
	*state = s;
	return 0;
}

static inline int set_up(void **state)
{
	return set_up_timeout(state, PAGE_TIMEOUT_MS);
}

static inline int set_up_long(void **state)
{
	return set_up_timeout(state, PAGE_TIMEOUT_LONG_MS);
}

static inline int tear_down(void **state)
{
	struct setup *s = *state;

	if (s->fd >= 0)
		close(s->fd);
	gdb_free(s->gdb);
	fake_machine_free(s->machine);
	if (access(s->path, F_OK) == 0 || rmdir(s->dir) < 0)
		return -1;
	free(s);
	return 0;
}

static inline bool is_running(void *arg)
{
	return machine_is_running(arg);
}

#endif
