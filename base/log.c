// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log_text.h"
#include "base/rotate.h"

#define MESSAGE_BYTES 1024
#define LINE_BYTES (LOG_JSON_GROWTH * MESSAGE_BYTES + 260)

/* Set before any thread starts; only read since. */
static enum log_level log_level = LOG_WARN;
static enum log_format log_format = LOG_TEXT;
static void (*log_handler)(enum log_level level, const char *line);
static struct rotate log_file = { .fd = -1 };	/* standard error */

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

/* One line at a time; guards what follows, and log_file's growth. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
	uint64_t lines;		/* that could not be written, and have not been told of */
	int error;		/* why the last could not */
	bool torn;		/* a part of it could */
} lost;

int log_open_file(const char *path, uint64_t limit_bytes, struct err *err)
{
	struct rotate file;
	int r = rotate_open(&file, path, limit_bytes, 0640, false, err);

	if (r < 0)
		return r;
	log_close_file();
	log_file = file;
	return 0;
}

void log_close_file(void)
{
	rotate_close(&log_file);
}

static size_t make_json(char *line, const char *when, const char *level, const char *file,
			const char *message)
{
	char area[LOG_AREA_BYTES];
	size_t used;

	log_area(area, file);
	used = (size_t)snprintf(line, LINE_BYTES, "{\"time\":\"%s\",\"level\":\"%s\",", when,
				level);
	if (*area)
		used += (size_t)snprintf(line + used, LINE_BYTES - used, "\"area\":\"%s\",", area);
	used += (size_t)snprintf(line + used, LINE_BYTES - used, "\"message\":\"");
	used += log_json_string(line + used, LINE_BYTES - used - 4, message);
	return used + (size_t)snprintf(line + used, LINE_BYTES - used, "\"}\n");
}

static size_t make_text(char *line, const char *when, const char *level, char *message)
{
	log_plain(message);
	return (size_t)snprintf(line, LINE_BYTES, "%s%s: %s\n",
				log_file.fd < 0 ? "postern: " : when, level, message);
}

static size_t make_line(char *line, const char *file, enum log_level level, char *message)
{
	static const char *const names[] = { "error", "warning", "info", "debug" };
	char when[LOG_TIME_BYTES + 1];
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	log_time(when, &now);
	if (log_format == LOG_JSON)
		return make_json(line, when, names[level], file, message);
	strcat(when, " ");
	return make_text(line, when, names[level], message);
}

/* With the lock held. */
static bool log_put(const char *line, size_t len)
{
	ssize_t n = write(log_file.fd < 0 ? STDERR_FILENO : log_file.fd, line, len);

	if (n == (ssize_t)len)
		return true;
	lost.lines++;
	lost.error = n < 0 ? errno : ENOSPC;
	lost.torn |= n > 0;
	return false;
}

/* With the lock held: a line of the log's own. False: it cannot be written either. */
static bool put_own(char *message)
{
	char line[LINE_BYTES];
	size_t used = 0;

	if (lost.torn)
		line[used++] = '\n';
	used += make_line(line + used, __FILE__, LOG_WARN, message);
	if (!log_put(line, used))
		return false;
	lost.torn = false;
	return true;
}

static bool put_lost(void)
{
	char message[MESSAGE_BYTES];

	snprintf(message, sizeof(message), "%" PRIu64 " lines of this log are missing here: %s",
		 lost.lines, strerror(lost.error));
	if (!put_own(message))
		return false;
	lost.lines = 0;
	return true;
}

static void make_room(size_t len)
{
	char message[MESSAGE_BYTES];
	int r = log_file.fd < 0 ? 0 : rotate_make_room(&log_file, len);

	if (r < 0) {
		snprintf(message, sizeof(message),
			 "this log has reached its limit and begins anew, "
			 "since %.512s.1 cannot be: %s",
			 log_file.path, strerror(-r));
		put_own(message);
	}
}

static void write_line(const char *file, enum log_level level, char *message)
{
	char line[LINE_BYTES];
	size_t used;

	if (log_handler) {
		log_handler(level, message);
		return;
	}
	used = make_line(line, file, level, message);
	pthread_mutex_lock(&lock);
	make_room(used);
	if (!lost.lines || put_lost())
		log_put(line, used);
	pthread_mutex_unlock(&lock);
}

static void write_left_out(const struct log_left_out *left_out)
{
	char message[MESSAGE_BYTES];

	snprintf(message, sizeof(message), "%" PRIu64 " more lines like this were left out: %s",
		 left_out->lines, left_out->last);
	write_line(left_out->file, left_out->level, message);
}

void log_report_left_out(void)
{
	struct log_left_out left_out;

	while (log_limit_next(&left_out))
		write_left_out(&left_out);
}

void log_line_from(struct log_site *site, const char *file, enum log_level level, const char *fmt,
		   ...)
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
