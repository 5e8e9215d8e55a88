// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "base/log.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log_text.h"
#include "base/outfile.h"

#define MESSAGE_BYTES 1024
#define LINE_BYTES (LOG_JSON_GROWTH * MESSAGE_BYTES + 256)

/* Set before any thread starts; only read since. */
static enum log_level log_level = LOG_WARN;
static enum log_format log_format = LOG_TEXT;
static void (*log_handler)(enum log_level level, const char *line);
static int log_file = -1;	/* standard error */

void log_set_level(enum log_level level)
{
	log_level = level;
}

void log_set_handler(void (*handler)(enum log_level level, const char *line))
{
	log_handler = handler;
}

void log_set_format(enum log_format format)
{
	log_format = format;
}

int log_open_file(const char *path, struct err *err)
{
	int fd = outfile_open(path, O_WRONLY | O_APPEND | O_CREAT, 0640, err);

	if (fd < 0)
		return fd;
	log_close_file();
	log_file = fd;
	return 0;
}

void log_close_file(void)
{
	if (log_file >= 0)
		close(log_file);
	log_file = -1;
}

static size_t make_json(char *line, const char *when, const char *level, const char *file, const char *message)
{
	char area[LOG_AREA_BYTES];
	size_t used;

	log_area(area, file);
	used = (size_t)snprintf(line, LINE_BYTES, "{\"time\":\"%s\",\"level\":\"%s\",", when, level);
	if (*area)
		used += (size_t)snprintf(line + used, LINE_BYTES - used, "\"area\":\"%s\",", area);
	used += (size_t)snprintf(line + used, LINE_BYTES - used, "\"message\":\"");
	used += log_json_string(line + used, LINE_BYTES - used - 4, message);
	return used + (size_t)snprintf(line + used, LINE_BYTES - used, "\"}\n");
}

static size_t make_text(char *line, const char *when, const char *level, char *message)
{
	log_plain(message);
	return (size_t)snprintf(line, LINE_BYTES, "%s%s: %s\n", log_file < 0 ? "postern: " : when, level, message);
}

static void write_line(const char *file, enum log_level level, char *message)
{
	static const char *const names[] = { "error", "warning", "info", "debug" };
	char line[LINE_BYTES], when[LOG_TIME_BYTES + 1];
	struct timespec now;
	size_t used;

	if (log_handler) {
		log_handler(level, message);
		return;
	}
	clock_gettime(CLOCK_REALTIME, &now);
	log_time(when, &now);
	if (log_format == LOG_JSON) {
		used = make_json(line, when, names[level], file, message);
	} else {
		strcat(when, " ");
		used = make_text(line, when, names[level], message);
	}
	/* Nobody is left to tell when the log itself fails. */
	if (write(log_file < 0 ? STDERR_FILENO : log_file, line, used) < 0)
		return;
}

static void write_left_out(const struct log_left_out *left_out)
{
	char message[MESSAGE_BYTES];

	snprintf(message, sizeof(message), "%" PRIu64 " more lines like this were left out: %s", left_out->lines, left_out->last);
	write_line(left_out->file, left_out->level, message);
}

void log_tell_left_out(void)
{
	struct log_left_out left_out;

	while (log_limit_next(&left_out))
		write_left_out(&left_out);
}

void log_line_from(struct log_site *site, const char *file, enum log_level level, const char *fmt, ...)
{
	struct log_left_out left_out;
	char message[MESSAGE_BYTES];
	va_list ap;

	if (level > log_level)
		return;
	va_start(ap, fmt);
	vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	if (!log_limit_take(site, file, level, message, clock_now_ns(), &left_out))
		return;
	if (left_out.lines)
		write_left_out(&left_out);
	write_line(file, level, message);
}
