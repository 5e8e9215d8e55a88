/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The parts of a log line, made safe. Pure.
 */
#ifndef POSTERN_BASE_LOG_TEXT_H
#define POSTERN_BASE_LOG_TEXT_H

#include <stddef.h>
#include <time.h>

/* Bytes that a JSON string may need for each byte of the text: \u00XX. */
#define LOG_JSON_GROWTH 6
#define LOG_TIME_BYTES 32
#define LOG_AREA_BYTES 16

/*
 * `text` as the inside of a JSON string (RFC 8259, 7): quotes, backslashes and
 * control characters (DEL too) escaped; each byte that is no part of a UTF-8
 * character becomes U+FFFD. What does not fit into `room` (at least 1) is left
 * off, at a character's end. Returns the length; out is ended by a NUL.
 */
size_t log_json_string(char *out, size_t room, const char *text);
/* In place: control characters, also those of C1 that some terminals obey, become '?'. */
void log_plain(char *text);
/* RFC 3339, UTC, microseconds: out has LOG_TIME_BYTES. */
void log_time(char *out, const struct timespec *when);
/*
 * The folder in `file` (__FILE__, as the compiler was given it:
 * "../memory/watch.c"); "" when there is none. out has LOG_AREA_BYTES.
 */
void log_area(char *out, const char *file);

#endif
