// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "base/log_text.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

/*
 * The length of the UTF-8 character (RFC 3629, 4) that begins here, 0: none
 * does. A NUL is no continuation, so it never reads past.
 */
static size_t utf8_length(const unsigned char *c)
{
	size_t n, i;

	if (c[0] < 0x80)
		return 1;
	if (c[0] < 0xc2 || c[0] > 0xf4)
		return 0;
	n = c[0] < 0xe0 ? 2 : c[0] < 0xf0 ? 3 : 4;
	for (i = 1; i < n; i++)
		if ((c[i] & 0xc0) != 0x80)
			return 0;
	/* Longer than needed, a surrogate, beyond U+10FFFF. */
	if ((c[0] == 0xe0 && c[1] < 0xa0) || (c[0] == 0xed && c[1] > 0x9f) ||
	    (c[0] == 0xf0 && c[1] < 0x90) || (c[0] == 0xf4 && c[1] > 0x8f))
		return 0;
	return n;
}

size_t log_json_string(char *out, size_t room, const char *text)
{
	const unsigned char *c = (const unsigned char *)text;
	size_t used = 0, taken, n;
	char piece[8];

	for (; *c; c += taken) {
		taken = utf8_length(c);
		if (!taken) {
			taken = 1;
			n = (size_t)snprintf(piece, sizeof(piece), "\xef\xbf\xbd");
		} else if (*c < 0x20 || *c == 0x7f) {
			n = (size_t)snprintf(piece, sizeof(piece), "\\u%04x", *c);
		} else if (*c == '"' || *c == '\\') {
			n = (size_t)snprintf(piece, sizeof(piece), "\\%c", *c);
		} else {
			memcpy(piece, c, taken);
			n = taken;
		}
		if (used + n >= room)
			break;
		memcpy(out + used, piece, n);
		used += n;
	}
	out[used] = '\0';
	return used;
}

void log_plain(char *text)
{
	unsigned char *c;

	for (c = (unsigned char *)text; *c; c++) {
		if (*c < 0x20 || *c == 0x7f)
			*c = '?';
		else if (c[0] == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0)
			c[0] = c[1] = '?';
		else if (utf8_length(c) == 0 && *c < 0xa0)	/* a C1 byte that stands alone */
			*c = '?';
		else if (utf8_length(c) > 1)
			c += utf8_length(c) - 1;
	}
}

void log_time(char *out, const struct timespec *when)
{
	time_t seconds = when->tv_sec;
	char text[LOG_TIME_BYTES];
	struct tm tm = { 0 };

	gmtime_r(&seconds, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(out, LOG_TIME_BYTES, "%.19s.%06uZ", text,
		 (unsigned int)(when->tv_nsec / 1000 % 1000000));
}

void log_area(char *out, const char *file)
{
	const char *slash;
	size_t n;

	while (!strncmp(file, "../", 3) || !strncmp(file, "./", 2))
		file = strchr(file, '/') + 1;
	slash = *file == '/' ? NULL : strchr(file, '/');
	n = slash ? (size_t)(slash - file) : 0;
	if (n >= LOG_AREA_BYTES)
		n = LOG_AREA_BYTES - 1;
	memcpy(out, file, n);
	out[n] = '\0';
}
