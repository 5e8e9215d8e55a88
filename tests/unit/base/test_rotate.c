// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// Files with a limit, and sizes as people write them.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/rotate.h"
#include "base/size.h"

#define LIMIT ROTATE_LIMIT_MIN
#define PIECE 1000

struct place {
	char dir[32], path[64], old[64];
};

static int setup(void **state)
{
	struct place *p = calloc(1, sizeof(*p));

	strcpy(p->dir, "/tmp/postern-rotate-XXXXXX");
	assert_non_null(mkdtemp(p->dir));
	snprintf(p->path, sizeof(p->path), "%s/log", p->dir);
	snprintf(p->old, sizeof(p->old), "%s/log.1", p->dir);
	*state = p;
	return 0;
}

static int teardown(void **state)
{
	struct place *p = *state;

	unlink(p->path);
	rmdir(p->old);
	unlink(p->old);
	assert_int_equal(rmdir(p->dir), 0);
	free(p);
	return 0;
}

static uint64_t size_of(const char *path)
{
	struct stat st;

	return stat(path, &st) ? UINT64_MAX : (uint64_t)st.st_size;
}

/* Piece number n, full of that letter. */
static int put(struct rotate *r, unsigned int n)
{
	char piece[PIECE];
	int result = rotate_make_room(r, sizeof(piece));

	memset(piece, 'a' + (int)(n % 26), sizeof(piece));
	assert_int_equal(write(r->fd, piece, sizeof(piece)), sizeof(piece));
	return result;
}

static char last_of(const char *path)
{
	FILE *f = fopen(path, "re");
	char c;

	assert_non_null(f);
	assert_int_equal(fseek(f, -1, SEEK_END), 0);
	assert_int_equal(fread(&c, 1, 1, f), 1);
	fclose(f);
	return c;
}

static void test_a_file_at_its_limit_moves_away(void **state)
{
	const struct place *p = *state;
	unsigned int i, pieces = LIMIT / PIECE;
	struct rotate r;
	struct stat st;
	int fd;

	assert_int_equal(rotate_open(&r, p->path, LIMIT, 0600, false, NULL), 0);
	fd = r.fd;
	for (i = 0; i < pieces; i++)
		assert_int_equal(put(&r, i), 0);
	assert_int_equal(size_of(p->old), UINT64_MAX);
	assert_int_equal(chmod(p->path, 0644), 0);
	assert_int_equal(put(&r, i), 0);
	assert_int_equal(r.fd, fd);
	assert_int_equal(size_of(p->old), pieces * PIECE);
	assert_int_equal(size_of(p->path), PIECE);
	/* Who could read it can read the next. */
	assert_int_equal(stat(p->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0644);
	/* And so on: never more than twice the limit, and the newest are there. */
	for (i++; i < 5 * pieces; i++) {
		assert_int_equal(put(&r, i), 0);
		assert_true(size_of(p->old) + size_of(p->path) <= 2 * LIMIT);
		assert_true(size_of(p->old) + size_of(p->path) >= LIMIT - PIECE);
	}
	assert_int_equal(last_of(p->path), 'a' + (int)((i - 1) % 26));
	rotate_close(&r);
	/* One that exists is gone on with, and emptied where that is asked for. */
	assert_int_equal(rotate_open(&r, p->path, LIMIT, 0600, false, NULL), 0);
	assert_true(size_of(p->path) > 0);
	rotate_close(&r);
	assert_int_equal(rotate_open(&r, p->path, LIMIT, 0600, true, NULL), 0);
	assert_int_equal(size_of(p->path), 0);
	rotate_close(&r);
}

static void test_without_a_limit_it_grows(void **state)
{
	const struct place *p = *state;
	struct rotate r;
	unsigned int i;

	assert_int_equal(rotate_open(&r, p->path, 0, 0600, false, NULL), 0);
	for (i = 0; i < 300; i++)
		assert_int_equal(put(&r, i), 0);
	assert_int_equal(size_of(p->path), 300 * PIECE);
	rotate_close(&r);
}

/* As two machines with one log file: one moves it away, the other goes on in the new one. */
static void test_two_writers_move_it_away_once(void **state)
{
	const struct place *p = *state;
	unsigned int i, pieces = LIMIT / PIECE;
	struct rotate r, other;

	assert_int_equal(rotate_open(&r, p->path, LIMIT, 0600, false, NULL), 0);
	assert_int_equal(rotate_open(&other, p->path, LIMIT, 0600, false, NULL), 0);
	for (i = 0; i <= pieces; i++)
		assert_int_equal(put(&r, i), 0);
	assert_int_equal(size_of(p->path), PIECE);
	assert_int_equal(put(&other, i), 0);
	assert_int_equal(size_of(p->path), 2 * PIECE);
	assert_int_equal(size_of(p->old), pieces * PIECE);
	rotate_close(&r);
	rotate_close(&other);
}

/* Whoever may read it can do so. */
static void test_who_holds_its_lock_does_not_make_it_grow(void **state)
{
	struct place *p = *state;
	struct rotate r;
	unsigned int i;
	int reader;

	assert_int_equal(rotate_open(&r, p->path, LIMIT, 0640, false, NULL), 0);
	reader = open(p->path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(flock(reader, LOCK_EX), 0);
	for (i = 0; i < 3 * LIMIT / PIECE; i++) {
		assert_int_equal(put(&r, i), 0);
		assert_in_range(size_of(p->path), 0, 2 * LIMIT + PIECE);
	}
	close(reader);
	rotate_close(&r);
}

/* Its place is taken, by what cannot be replaced: the limit stands, and it is said once. */
static void test_what_cannot_move_away_begins_anew(void **state)
{
	const struct place *p = *state;
	unsigned int i, pieces = LIMIT / PIECE;
	struct rotate r;

	assert_int_equal(mkdir(p->old, 0700), 0);
	assert_int_equal(rotate_open(&r, p->path, LIMIT, 0600, false, NULL), 0);
	for (i = 0; i < pieces; i++)
		assert_int_equal(put(&r, i), 0);
	assert_int_equal(put(&r, i), -EISDIR);
	assert_int_equal(size_of(p->path), PIECE);
	for (; i < 3 * pieces; i++) {
		assert_int_equal(put(&r, i), 0);
		assert_true(size_of(p->path) <= LIMIT);
	}
	rotate_close(&r);
}

/* An administrator's logrotate has emptied it, or taken it away. */
static void test_others_may_rotate_it_too(void **state)
{
	const struct place *p = *state;
	unsigned int i, pieces = LIMIT / PIECE;
	struct rotate r;

	assert_int_equal(rotate_open(&r, p->path, LIMIT, 0600, false, NULL), 0);
	for (i = 0; i < pieces; i++)
		assert_int_equal(put(&r, i), 0);
	assert_int_equal(truncate(p->path, 0), 0);
	assert_int_equal(put(&r, i), 0);
	assert_int_equal(size_of(p->path), PIECE);
	assert_int_equal(size_of(p->old), UINT64_MAX);
	assert_int_equal(unlink(p->path), 0);
	for (i = 0; i < pieces; i++)
		assert_int_equal(put(&r, i), 0);
	assert_int_equal(size_of(p->path), PIECE);
	rotate_close(&r);
}

static void test_sizes(void **state)
{
	static const struct {
		const char *text;
		int result;
		uint64_t bytes;
	} cases[] = {
		{ "0", 0, 0 }, { "17", 0, 17 }, { "1k", 0, 1024 }, { "3M", 0, 3 << 20 },
		{ "2G", 0, UINT64_C(2) << 30 }, { "5t", 0, UINT64_C(5) << 40 },
		{ "18446744073709551615", 0, UINT64_MAX },
		{ "18446744073709551616", -EINVAL, 0 }, { "16777216T", -EINVAL, 0 },
		{ "", -EINVAL, 0 }, { "-1", -EINVAL, 0 }, { " 1", -EINVAL, 0 },
		{ "1x", -EINVAL, 0 },
		{ "1MB", -EINVAL, 0 }, { "M", -EINVAL, 0 },
	};
	uint64_t bytes;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(size_parse(&bytes, cases[i].text), cases[i].result);
		if (!cases[i].result)
			assert_int_equal(bytes, cases[i].bytes);
	}
}

static void test_paths_with_a_limit(void **state)
{
	static const struct {
		const char *text;
		int result;
		const char *path;
		uint64_t limit;
	} cases[] = {
		{ "/a", 0, "/a", ROTATE_LIMIT_DEFAULT },
		{ "/a,b", 0, "/a,b", ROTATE_LIMIT_DEFAULT },
		{ "/a,limit=1M", 0, "/a", 1 << 20 },
		{ "/a,limit=0", 0, "/a", 0 },
		{ "/a,b,limit=128K", 0, "/a,b", ROTATE_LIMIT_MIN },
		{ "/limit=1M", 0, "/limit=1M", ROTATE_LIMIT_DEFAULT },
		{ "/a,limit=1M,b", 0, "/a,limit=1M,b", ROTATE_LIMIT_DEFAULT },
		{ "/a,b=c/d", 0, "/a,b=c/d", ROTATE_LIMIT_DEFAULT },
		/* A misspelt option. */
		{ "/a,limt=1M", -EINVAL, NULL, 0 }, { "/a,limit=1M,lim-it=2", -EINVAL, NULL, 0 },
		{ "/a,limit=1M,limit=2M", -EINVAL, NULL, 0 },
		{ "/a,limit=", -EINVAL, NULL, 0 }, { "/a,limit=x", -EINVAL, NULL, 0 },
		{ "/a,limit=1", -EINVAL, NULL, 0 }, { ",limit=1M", -EINVAL, NULL, 0 },
		{ "", -EINVAL, NULL, 0 },
		{ "/0123456789/0123456789/012345", -ENAMETOOLONG, NULL, 0 },
	};
	uint64_t limit;
	struct err err;
	char path[24];
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(size_parse_limited(path, sizeof(path), &limit, cases[i].text,
						    &err),
				 cases[i].result);
		if (cases[i].result)
			continue;
		assert_string_equal(path, cases[i].path);
		assert_int_equal(limit, cases[i].limit);
	}
}

static void test_a_path_without_room_for_its_successor(void **state)
{
	char path[PATH_MAX + 1];
	struct rotate r;

	(void)state;
	memset(path, 'x', sizeof(path) - 1);
	path[PATH_MAX - 2] = '\0';
	assert_int_equal(rotate_open(&r, path, LIMIT, 0600, false, NULL), -ENAMETOOLONG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_a_file_at_its_limit_moves_away, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_without_a_limit_it_grows, setup, teardown),
		cmocka_unit_test_setup_teardown(test_two_writers_move_it_away_once, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_who_holds_its_lock_does_not_make_it_grow,
						setup, teardown),
		cmocka_unit_test_setup_teardown(test_what_cannot_move_away_begins_anew, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_others_may_rotate_it_too, setup, teardown),
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_paths_with_a_limit),
		cmocka_unit_test(test_a_path_without_room_for_its_successor),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
