// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/* Raw files; mapped-ram is in test_mapped_ram.c. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "snapshot/memory_file.h"

#define SPANS 64

/* A sparse file with one byte in each span that is even; *fd: open for writing. */
static struct memory_file *open_sparse(char path[32], int *fd)
{
	const char *paths[] = { path };
	struct memory_file *file;
	struct err err;
	int i;

	strcpy(path, "/tmp/memory-file-XXXXXX");
	*fd = mkstemp(path);
	assert_true(*fd >= 0);
	assert_int_equal(ftruncate(*fd, SPANS * (off_t)MEMORY_FILE_SPAN), 0);
	for (i = 0; i < SPANS; i += 2)
		assert_int_equal(pwrite(*fd, "x", 1, i * (off_t)MEMORY_FILE_SPAN), 1);
	assert_int_equal(memory_file_open_raw(&file, paths, 1, &err), 0);
	unlink(path);
	return file;
}

/* How many spans with data there are from `at` on; or a negative errno. */
static int64_t count_spans(struct memory_file *file, uint64_t at, struct err *err)
{
	static uint8_t data[MEMORY_FILE_SPAN];
	int64_t next = (int64_t)at, n = 0;
	int r;

	while (true) {
		next = memory_file_next(file, (uint64_t)next, err);
		if (next < 0 || (uint64_t)next >= memory_file_bytes(file))
			return next < 0 ? next : n;
		r = memory_file_read(file, (uint64_t)next, data, err);
		if (r < 0)
			return r;
		n += *data == 'x';
		next += MEMORY_FILE_SPAN;
	}
}

static void test_holes_are_passed_over(void **state)
{
	struct memory_file *file;
	struct err err;
	char path[32];
	int fd;

	(void)state;
	file = open_sparse(path, &fd);
	assert_int_equal(memory_file_bytes(file), SPANS * MEMORY_FILE_SPAN);
	assert_int_equal(count_spans(file, 0, &err), SPANS / 2);
	memory_file_free(file);
	close(fd);
}

/* Not a file whose end is zeros: wherever it is cut off, and whatever was looked up before. */
static void test_a_file_that_becomes_shorter_is_an_error(void **state)
{
	static const int lengths[] = { 0, 1, 2, 3, SPANS / 2, SPANS / 2 + 1, SPANS - 2, SPANS - 1 };
	struct memory_file *file;
	struct err err;
	char path[32];
	size_t i;
	int fd;

	(void)state;
	for (i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		file = open_sparse(path, &fd);
		assert_true(memory_file_next(file, MEMORY_FILE_SPAN, &err) > 0);
		assert_int_equal(ftruncate(fd, lengths[i] * (off_t)MEMORY_FILE_SPAN), 0);
		assert_int_equal(count_spans(file, 2 * MEMORY_FILE_SPAN, &err), -EIO);
		assert_non_null(strstr(err.text, path));
		memory_file_free(file);
		close(fd);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_holes_are_passed_over),
		cmocka_unit_test(test_a_file_that_becomes_shorter_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
