/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A folder of a test's own with a store in it, and what tests put beside the store's back.
 */
#ifndef POSTERN_TESTS_STORE_FOLDER_H
#define POSTERN_TESTS_STORE_FOLDER_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "store/store.h"
#include "tests/own_dir.h"
#include "../tsan.h"

struct folder {
	struct own_dir dir;		/* the store's is DIR/in, so that there is something outside */
	char path[64];
	struct store *store;
};

/* cmocka's setup and teardown; *state is a struct folder. */
int folder_setup(void **state);
int folder_teardown(void **state);
/* A path in the store's folder, in a static buffer. */
const char *folder_at(const struct folder *f, const char *name);
/* Written past the store. */
void folder_write(const struct folder *f, const char *name, const char *text);
bool folder_has(const struct folder *f, const char *name);
/* Expects the result, and words in the error where it is negative. */
void expect_get(struct store *store, const char *object, const char *text);
void expect_error(int64_t result, const struct err *err, int code, const char *words);

#endif
