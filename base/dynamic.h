/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Libraries that few machines need, loaded when they are: what they bring would be in the memory of
 * all others. Their functions are called through a table, made of a list by DYNAMIC_TABLE:
 *
 *   #define FOO_FUNCTIONS(f) f(foo_open) f(foo_close)
 *   struct foo_lib { DYNAMIC_TABLE(FOO_FUNCTIONS) };
 *   static const char *const foo_names[] = { DYNAMIC_NAMES(FOO_FUNCTIONS) };
 *
 * so that the compiler checks each call against the library's own header.
 */
#ifndef POSTERN_BASE_DYNAMIC_H
#define POSTERN_BASE_DYNAMIC_H

#include <stddef.h>

#include "base/err.h"

#define DYNAMIC_MEMBER(name) typeof(name) *name;
#define DYNAMIC_NAME(name) #name,
#define DYNAMIC_TABLE(functions) functions(DYNAMIC_MEMBER)
#define DYNAMIC_NAMES(functions) functions(DYNAMIC_NAME)

struct dynamic_library {
	const char *file;		/* such as "libfoo.so.1" */
	const char *package;		/* Debian's that has it */
	const char *use;		/* what needs it, for the error */
};

/*
 * Loads it and fills table, of n pointers, with what is called so. It stays loaded: what it has at
 * the ends of threads would outlive it. -ENOSYS: it is not there, or has not all of that; the error
 * says what to install. Any thread.
 */
int dynamic_load(void *table, const char *const *names, size_t n,
		 const struct dynamic_library *library, struct err *err);

#endif
