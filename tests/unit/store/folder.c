// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// A store in a folder that is gone after the test. See folder.h.
#include "folder.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/stat.h>

int folder_setup(void **state)
{
	struct folder *f = calloc(1, sizeof(*f));
	struct err err;

	f->dir = own_dir_new();
	snprintf(f->path, sizeof(f->path), "%s/in", f->dir.path);
	assert_int_equal(mkdir(f->path, 0700), 0);
	assert_int_equal(store_open(&f->store, f->path, NULL, &err), 0);
	*state = f;
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	return remove(path);
}

int folder_teardown(void **state)
{
	struct folder *f = *state;

	store_free(f->store);
	assert_int_equal(nftw(f->dir.path, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
	free(f);
	return 0;
}

const char *folder_at(const struct folder *f, const char *name)
{
	static char path[512];

	snprintf(path, sizeof(path), "%s/%s", f->path, name);
	return path;
}

void folder_write(const struct folder *f, const char *name, const char *text)
{
	int fd = open(folder_at(f, name), O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

bool folder_has(const struct folder *f, const char *name)
{
	struct stat st;

	return !lstat(folder_at(f, name), &st);
}

void expect_error(int64_t result, const struct err *err, int code, const char *words)
{
	assert_int_equal(result, code);
	assert_int_equal(err->code, code);
	if (!strstr(err->text, words))
		fail_msg("\"%s\" does not say \"%s\"", err->text, words);
}

void expect_get(struct store *store, const char *object, const char *text)
{
	char data[256] = "";
	struct err err = { 0 };
	int64_t r = store_get(store, NULL, object, 0, data, sizeof(data), STORE_UP_TO, &err);

	if (r < 0)
		fail_msg("%s", err.text);
	assert_int_equal(r, strlen(text));
	assert_memory_equal(data, text, strlen(text));
}
