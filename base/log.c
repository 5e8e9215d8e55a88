// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static enum log_level log_level = LOG_WARN;
static void (*log_handler)(enum log_level level, const char *line);

void log_set_level(enum log_level level)
{
	log_level = level;
}

void log_set_handler(void (*handler)(enum log_level level, const char *line))
{
	log_handler = handler;
}

void log_line(enum log_level level, const char *fmt, ...)
{
	static const char *const names[] = { "error", "warning", "info", "debug" };
	char line[1024];
	size_t used;
	va_list ap;

	if (level > log_level)
		return;
	line[0] = '\0';
	if (!log_handler)
		snprintf(line, sizeof(line), "postern: %s: ", names[level]);
	used = strlen(line);
	va_start(ap, fmt);
	vsnprintf(line + used, sizeof(line) - used - 1, fmt, ap);
	va_end(ap);
	if (log_handler) {
		log_handler(level, line);
		return;
	}
	used = strlen(line);
	line[used++] = '\n';
	/* Nobody is left to tell when standard error itself fails. */
	if (write(STDERR_FILENO, line, used) < 0)
		return;
}
