/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * An error for a person: fixed size, on the caller's stack, set once where it arises, given context
 * once per layer, printed once. It travels by value, since a fault thread's error may end in a QMP
 * reply. Every function takes a NULL err, and then keeps only the code.
 */
#ifndef POSTERN_BASE_ERR_H
#define POSTERN_BASE_ERR_H

#include <stdarg.h>

struct err {
	int code;		/* negative errno, 0: no error */
	char text[508];		/* one line, no full stop, no newline */
};

/* Sets the error; returns `code` (negative errno), so that `return err_set(...)` reads well. */
int err_set(struct err *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* As err_set, and appends ": " and the text of errno -code. */
int err_errno(struct err *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Puts "context: " in front of the text; returns `code`, which is the error's. */
int err_prefix(struct err *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#endif
