/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Where log lines go, for the program that has the last word on it. Both are
 * process-wide, and set once before any thread of postern starts. Nothing is
 * logged on the fault path, and an error that a caller is told of is not logged
 * besides: what is left are failures that no caller waits for.
 */
#ifndef POSTERN_BASE_LOG_TARGET_H
#define POSTERN_BASE_LOG_TARGET_H

enum log_level {
	LOG_ERROR,
	LOG_WARN,
	LOG_INFO,
	LOG_DEBUG,
};

/* Less important lines are dropped. At first: LOG_WARN. */
void log_set_level(enum log_level level);

/*
 * Lines go to `handler`, one a call, without newline, from any thread; NULL, as
 * at first: to standard error. The handler must not sleep for long, and must
 * not call into postern. Each place in the source has a limit, 100 lines and
 * one more a second; of those that are left out, the next one of that place
 * says how many, in a line before it.
 */
void log_set_handler(void (*handler)(enum log_level level, const char *line));

#endif
