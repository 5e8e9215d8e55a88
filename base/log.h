/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Logging: one line a fact, on standard error unless log_open_file or
 * log_target.h say otherwise. Never called on the fault path.
 *
 * A line as text:   postern: warning: MESSAGE                                     on standard error
 *                   2026-11-20T18:49:35.123456Z warning: MESSAGE                  in a file
 * as JSON:          {"time":"2026-11-20T18:49:35.123456Z","level":"warning","area":"migrate","message":"MESSAGE"}
 *
 * The time is RFC 3339's, UTC, in microseconds; `area` is the folder of the
 * source file that says it. Messages may hold what guests, peers and file names
 * hold: control characters do not get into a text line, and JSON is always
 * valid UTF-8.
 */
#ifndef POSTERN_BASE_LOG_H
#define POSTERN_BASE_LOG_H

#include "base/err.h"
#include "base/log_limit.h"
#include "base/log_target.h"

enum log_format {
	LOG_TEXT,
	LOG_JSON,
};

/*
 * Like log_target.h's: process-wide, set once before any thread starts. A
 * handler gets the bare message in either format.
 */
void log_set_format(enum log_format format);
/*
 * Appends lines to this file from now on, which is made if it is not there, and
 * moved away at its limit (rotate.h; 0: never). Every line is one write(2) with
 * O_APPEND, so others may write to it too, and it may be truncated at any time.
 * A pipe that nobody reads, or that is full, never holds a thread up, nor does a
 * full disk: the line is dropped, and the next that can be written is preceded
 * by one that says how many were, and why. 0 or a negative errno; standard
 * error then stays the place.
 */
int log_open_file(const char *path, uint64_t limit_bytes, struct err *err);
/* Closes it: standard error again. */
void log_close_file(void);

/*
 * Any thread. `file` is __FILE__. A line is written with one write(2), so lines
 * of several threads never mix. Each place in the source has a limit
 * (log_limit.h): beyond it lines are left out, and a later one says how many.
 */
void log_line_from(struct log_site *site, const char *file, enum log_level level, const char *fmt,
		   ...) __attribute__((format(printf, 4, 5)));
/*
 * Any thread: tells of lines that were left out and not told of yet. The loop
 * calls it now and then, and at its end.
 */
void log_report_left_out(void);

#define log_line(level, ...)                                                                                            \
	do {                                                                                                            \
		static struct log_site log_site_;                                                                       \
		log_line_from(&log_site_, __FILE__, level, __VA_ARGS__);                                                \
	} while (0)
#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_line(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)

#endif
