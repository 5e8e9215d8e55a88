/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What helper.c's child does between vfork and execve, when it still shares its
 * parent's memory and its parent stands still: system calls, and nothing that
 * takes a lock or memory. What libc makes of setuid is for all threads of a
 * process, and would be the parent's.
 */
#ifndef POSTERN_BASE_HELPER_CHILD_H
#define POSTERN_BASE_HELPER_CHILD_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/helper.h"

struct helper_birth {
	const struct helper_config *config;
	const char *path;	/* of the program */
	/*
	 * What it is called in a root of its own, HELPER_JAIL_DIR and its name
	 */
	const char *jail_path;
	char *const *envp;
	char *pid_at;		/* where its process number goes; NULL: nowhere */
	int said, landlock;	/* descriptors; -1: none */
	pid_t parent;
	bool root;
	/*
	 * The child's answer. Volatile, since a compiler sees that helper_child
	 * does not return, and nobody else who would write to it.
	 */
	volatile bool jailed;	/* it has a mount namespace of its own */
	volatile bool locked;	/* Landlock */
	const char *volatile step;	/* that failed; NULL: it runs */
	volatile int error;
};

/* A Landlock ruleset: a descriptor; -1: the kernel has none. The parent's. */
int helper_landlock_new(const struct helper_config *config, const char *path);
/* Becomes the program, or says in `birth` why not and ends. */
void __attribute__((noreturn)) helper_child(struct helper_birth *birth);
/*
 * Of the child: a root directory with nothing in it but /usr and what belongs
 * to it, /dev/null (which QEMU tries locks on), the program and its files,
 * which have their places in /proc/self/fd. 0, or a negative errno: nothing
 * that matters has changed if the mount namespace cannot be had.
 */
int helper_jail(struct helper_birth *birth);
#define HELPER_JAIL_DIR "/run"

#endif
