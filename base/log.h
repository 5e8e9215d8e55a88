/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Logging: one line a fact, on standard error unless log_target.h says otherwise. Never called on the fault path.
 */
#ifndef POSTERN_BASE_LOG_H
#define POSTERN_BASE_LOG_H

#include "base/log_target.h"

/* Any thread. A line is written with one write(2), so lines of several threads never mix. */
void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_line(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)

#endif
