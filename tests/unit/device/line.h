/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A chardev and its far side, for the tests of either kind of it.
 */
#ifndef POSTERN_TESTS_DEVICE_LINE_H
#define POSTERN_TESTS_DEVICE_LINE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "device/chardev.h"
#include "turns.h"

/* A far side, a receiver that takes at most `take` bytes, and the loop between them. */
struct line {
	char dir[32], path[64];
	struct loop *loop;
	struct chardev *chardev;
	uint8_t got[8192];
	size_t got_len, take;
	unsigned int quits;
};

static inline size_t input(void *arg, const uint8_t *data, size_t len)
{
	struct line *l = arg;
	size_t n = len < l->take ? len : l->take;

	assert_true(l->got_len + n <= sizeof(l->got));
	memcpy(l->got + l->got_len, data, n);
	l->got_len += n;
	l->take -= n;
	return n;
}

static inline void quit(void *arg)
{
	((struct line *)arg)->quits++;
}

static inline int setup(void **state)
{
	struct line *l = calloc(1, sizeof(*l));
	struct err err;

	strcpy(l->dir, "/tmp/test_chardev.XXXXXX");
	assert_non_null(mkdtemp(l->dir));
	snprintf(l->path, sizeof(l->path), "%s/far", l->dir);
	assert_int_equal(loop_new(&l->loop, &err), 0);
	l->take = sizeof(l->got);
	*state = l;
	return 0;
}

static inline int teardown(void **state)
{
	struct line *l = *state;

	chardev_free(l->chardev);
	loop_free(l->loop);
	unlink(l->path);
	assert_int_equal(rmdir(l->dir), 0);
	free(l);
	return 0;
}

static inline int open_as(struct line *l, const char *type, struct err *err)
{
	const struct chardev_ops ops = { .input = input, .quit = quit, .arg = l };
	struct chardev_config config;
	char text[128];

	snprintf(text, sizeof(text), "%s%s", type, type[strlen(type) - 1] == ':' ? l->path : "");
	assert_int_equal(chardev_parse(&config, text, err), 0);
	return chardev_new(&l->chardev, l->loop, &config, &ops, err);
}

static inline size_t drain(int fd, uint8_t *to, size_t size)
{
	ssize_t n = read(fd, to, size);

	return n > 0 ? (size_t)n : 0;
}

static inline void say(struct line *l, const char *text)
{
	chardev_write(l->chardev, (const uint8_t *)text, strlen(text));
}

#define expect(l, fd, text)                                                                    \
	do {                                                                                   \
		uint8_t got_[256];                                                             \
		size_t len_ = 0;                                                               \
		run_until(l, (len_ += drain(fd, got_ + len_, sizeof(got_) - len_)) >= strlen(text)); \
		assert_int_equal(len_, strlen(text));                                          \
		assert_memory_equal(got_, text, len_);                                         \
	} while (0)

#define expect_input(l, text)                                                                  \
	do {                                                                                   \
		run_until(l, (l)->got_len >= strlen(text));                                    \
		assert_int_equal((l)->got_len, strlen(text));                                  \
		assert_memory_equal((l)->got, text, strlen(text));                             \
		(l)->got_len = 0;                                                              \
	} while (0)

#endif
