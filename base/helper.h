/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Helpers: programs that postern starts and that run beside it, such as passt
 * and qemu-nbd. What they read comes from guests, files and networks, so each
 * is started with as little as it can do with:
 *
 * - no descriptor but /dev/null as standard input, the ones that it is given
 *   (3 and up), and as standard output and standard error some memory,
 *   HELPER_SAID_BYTES of it: what it says first is kept for the log, the rest
 *   is lost, and it never waits for who reads;
 * - an environment of PATH and LC_ALL=C alone;
 * - where we are root: the user nobody, no groups, no capabilities; in any case
 *   no_new_privs;
 * - a session's Ctrl-C does not reach it (a process group of its own), and it
 *   is sent SIGTERM when we die, however we do;
 * - with HELPER_CONFINED: no file but the system's programs and libraries, and
 *   the ones that it is given.
 *
 * HELPER_CONFINED is a mount and network namespace with nothing else in it, and
 * Landlock as well where the kernel has it (Linux 5.13, and not switched off).
 * Who is not root needs a user namespace for the first. Where that is not to be
 * had Landlock is all there is: it keeps nobody from unix sockets that have a
 * name, such as QMP's, nor, before Linux 6.2, from truncate(2). Where we are
 * root nobody has to be let past the modes of the files that it is given
 * (CAP_DAC_OVERRIDE), in the namespace alone.
 *
 * All of it is the main thread's.
 */
#ifndef POSTERN_BASE_HELPER_H
#define POSTERN_BASE_HELPER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"

#define HELPER_FD 3		/* the first that it is given */
#define HELPER_FDS_MAX 16
#define HELPER_SAID_BYTES 16384u

enum helper_flags {
	HELPER_LOW_PORTS = 1,	/* it may listen at ports below 1024, if we may */
	/*
	 * The first descriptor is a listening socket: it is told so as by
	 * systemd (LISTEN_FDS)
	 */
	HELPER_LISTENS = 2,
	HELPER_CONFINED = 4,
};

struct helper_config {
	const char *program;	/* found as a shell does; with a slash: that file */
	const char *package;	/* Debian's that has it, for the error; NULL: none */
	char *const *words;	/* its arguments, its name first, NULL last */
	const int *fds;		/* become 3, 4, ...; they stay the caller's */
	unsigned int n_fds;
	unsigned int flags;
	/*
	 * Bit i: it may open fds[i], a file, again, as /proc/self/fd/<3 + i>.
	 * Of use with HELPER_CONFINED.
	 */
	uint32_t readable, writable;
	/*
	 * It has ended, and was reaped; from the loop. May free the helper. May
	 * be NULL.
	 */
	void (*ended)(void *arg);
	void *arg;
};

struct helper;

/*
 * Starts one; all of config but `arg` may be gone afterwards. With a loop it is
 * reaped by that as soon as it ends; loop may be NULL: it is reaped by the
 * functions below then.
 *
 * -ENOENT: there is no such program, the error says which package has it; other
 * errors name the program and the step that failed. Needs Linux 5.3
 * (pidfd_open).
 */
int helper_start(struct helper **out, struct loop *loop, const struct helper_config *config,
		 struct err *err);
/*
 * False: it can be kept from no file here; HELPER_CONFINED was asked for and
 * the kernel has nothing for that.
 */
bool helper_is_confined(const struct helper *h);
/* Reaps it if it has ended. */
bool helper_runs(struct helper *h);
/* A descriptor that is readable once it has ended. */
int helper_end_fd(const struct helper *h);
/* Of one that does not run: did it end by itself, with status 0? */
bool helper_ended_well(const struct helper *h);
/* "ended with status 1", "was ended by signal 9": of one that does not run. */
void helper_describe_end(const struct helper *h, char *to, size_t room);
/* What it has said so far, lines of ASCII; to be freed. NULL: no memory. */
char *helper_said(const struct helper *h);
/* Asks it to end: SIGTERM. */
void helper_ask_to_end(struct helper *h);
void helper_kill(struct helper *h);
/* Waits until it has ended, for so long at most. False: it still runs. */
bool helper_wait(struct helper *h, int64_t patience_ns);
/*
 * Asks it to end, waits for so long at most, then kills it. NULL is allowed.
 * `ended` is not called.
 */
void helper_free(struct helper *h, int64_t patience_ns);
/* Lets it go on alone; it ends by itself, or with us. */
void helper_leave(struct helper *h);

#endif
