/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * States as they were recorded, for tests that save and load: tests/golden and
 * its README. POSTERN_GOLDEN is that folder. With POSTERN_GOLDEN_WRITE set, a
 * file that is missing is written instead of compared; none is overwritten.
 */
#ifndef POSTERN_TESTS_GOLDEN_H
#define POSTERN_TESTS_GOLDEN_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"

struct golden {
	uint8_t data[65536];
	size_t len;
};

/* name: as "devices/serial"; version: "1", or "1-as-2". */
static inline void golden_path(char *to, size_t room, const char *name, const char *version)
{
	snprintf(to, room, "%s/%s-%s.state", getenv("POSTERN_GOLDEN"), name, version);
}

static inline bool golden_read(struct golden *golden, const char *name, const char *version)
{
	char path[512];
	FILE *from;

	golden_path(path, sizeof(path), name, version);
	from = fopen(path, "rb");
	if (!from)
		return false;
	golden->len = fread(golden->data, 1, sizeof(golden->data), from);
	assert_true(golden->len < sizeof(golden->data));
	fclose(from);
	return true;
}

static inline void golden_write(const struct buf *buf, const char *name, const char *version)
{
	char path[512];
	FILE *to;

	golden_path(path, sizeof(path), name, version);
	to = fopen(path, "wxb");
	if (!to)
		fail_msg("%s: %s", path, strerror(errno));
	assert_int_equal(fwrite(buf->data, 1, buf->len, to), buf->len);
	assert_int_equal(fclose(to), 0);
	print_message("written: %s\n", path);
}

/* buf is what that file holds. */
static inline void golden_compare(const struct buf *buf, const char *name, const char *version)
{
	static struct golden golden;
	size_t i;

	if (!golden_read(&golden, name, version)) {
		if (!getenv("POSTERN_GOLDEN_WRITE"))
			fail_msg("tests/golden/%s-%s.state is missing: see its README", name,
				 version);
		golden_write(buf, name, version);
		return;
	}
	for (i = 0; i < buf->len && i < golden.len && buf->data[i] == golden.data[i]; i++)
		;
	if (i < buf->len || i < golden.len)
		fail_msg("%s is no longer that of version %s, from byte %zu on: docs/state.md",
			 name, version, i);
}

/* A state has been brought about and saved: as it was when this version was recorded. */
static inline void golden_saved(const struct buf *buf, const char *name, uint32_t now)
{
	char version[32];

	snprintf(version, sizeof(version), "%u", now);
	golden_compare(buf, name, version);
}

/*
 * Loads what was recorded, of version `now` and of the one before, and compares
 * what is saved then. What the one before left out may make it another state
 * than the one recorded since: it has a file of its own then. reload: loads it
 * into something fresh, and saves that.
 */
static inline void golden_loads(const char *name, uint32_t now,
				struct buf (*reload)(void *arg, uint32_t version,
						     const uint8_t *data, size_t len),
				void *arg)
{
	static struct golden golden, other;
	char version[32], as[40];
	struct buf buf;

	snprintf(version, sizeof(version), "%u", now);
	if (!golden_read(&golden, name, version))
		fail_msg("tests/golden/%s-%s.state is missing", name, version);
	buf = reload(arg, now, golden.data, golden.len);
	golden_compare(&buf, name, version);
	buf_fini(&buf);
	if (now == 1)
		return;
	snprintf(version, sizeof(version), "%u", now - 1);
	if (!golden_read(&other, name, version))
		fail_msg("tests/golden/%s-%s.state is missing", name, version);
	buf = reload(arg, now - 1, other.data, other.len);
	snprintf(as, sizeof(as), "%u-as-%u", now - 1, now);
	if (golden_read(&other, name, as) || buf.len != golden.len ||
	    memcmp(buf.data, golden.data, buf.len))
		golden_compare(&buf, name, as);
	buf_fini(&buf);
}

#endif
