// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "store/web_answer.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

/* A part of a line. */
struct web_text {
	const char *at;
	size_t len;
};

static struct web_text text_trim(struct web_text t)
{
	while (t.len && (*t.at == ' ' || *t.at == '\t'))
		t.at++, t.len--;
	while (t.len && strchr(" \t\r\n", t.at[t.len - 1]))
		t.len--;
	return t;
}

static bool text_is(struct web_text t, const char *word)
{
	return t.len == strlen(word) && !strncasecmp(t.at, word, t.len);
}

/* Takes a number off the front. */
static bool text_number(struct web_text *t, uint64_t *value)
{
	size_t i;

	*value = 0;
	for (i = 0; i < t->len && t->at[i] >= '0' && t->at[i] <= '9'; i++) {
		if (*value > (INT64_MAX - 9) / 10)
			return false;
		*value = *value * 10 + (uint64_t)(t->at[i] - '0');
	}
	t->at += i;
	t->len -= i;
	return i;
}

static bool text_skip(struct web_text *t, char c)
{
	if (!t->len || *t->at != c)
		return false;
	t->at++;
	t->len--;
	return true;
}

/* A field that comes twice has to say the same. */
static int answer_set(bool *has, uint64_t *value, uint64_t to)
{
	if (*has && *value != to)
		return -EBADMSG;
	*has = true;
	*value = to;
	return 0;
}

static int answer_length(struct web_answer *answer, struct web_text value)
{
	uint64_t length;

	if (!text_number(&value, &length) || value.len)
		return -EBADMSG;
	return answer_set(&answer->has_length, &answer->length, length);
}

/* "bytes FIRST-LAST/TOTAL", "bytes FIRST-LAST/" and a star, or "bytes", a star and "/TOTAL". */
static int answer_range(struct web_answer *answer, struct web_text value)
{
	uint64_t first, last, total;
	bool again = answer->has_range;

	if (value.len < 6 || strncasecmp(value.at, "bytes", 5))
		return -EBADMSG;
	value.at += 5, value.len -= 5;
	value = text_trim(value);
	if (!text_skip(&value, '*')) {
		if (!text_number(&value, &first) || !text_skip(&value, '-') ||
		    !text_number(&value, &last) || last < first)
			return -EBADMSG;
		if (again && (answer->first != first || answer->last != last))
			return -EBADMSG;
		answer->has_range = true;
		answer->first = first;
		answer->last = last;
	}
	if (!text_skip(&value, '/'))
		return -EBADMSG;
	if (text_is(value, "*"))
		return answer->has_range ? 0 : -EBADMSG;
	if (!text_number(&value, &total) || value.len ||
	    (answer->has_range && answer->last >= total))
		return -EBADMSG;
	return answer_set(&answer->has_total, &answer->total, total);
}

/* Copies what is printable; anything else, or too long, is as if it were not there. */
static void answer_copy(char *out, size_t size, struct web_text value)
{
	size_t i;

	out[0] = 0;
	if (value.len >= size)
		return;
	for (i = 0; i < value.len; i++)
		if (value.at[i] < ' ' || value.at[i] > '~')
			return;
	memcpy(out, value.at, value.len);
	out[value.len] = 0;
}

/* It is sent back in If-Match: nothing but what the grammar allows (RFC 9110, 8.8.3). */
static void answer_etag(struct web_answer *answer, struct web_text value)
{
	struct web_text opaque = value;
	size_t i;

	answer->etag[0] = 0;
	if (opaque.len > 2 && !memcmp(opaque.at, "W/", 2))
		opaque.at += 2, opaque.len -= 2;
	if (opaque.len < 2 || opaque.at[0] != '"' || opaque.at[opaque.len - 1] != '"')
		return;
	for (i = 1; i < opaque.len - 1; i++)
		if (opaque.at[i] == '"' || opaque.at[i] == ' ')
			return;
	answer_copy(answer->etag, sizeof(answer->etag), value);
}

static int answer_field(struct web_answer *answer, struct web_text name, struct web_text value)
{
	if (text_is(name, "content-length"))
		return answer_length(answer, value);
	if (text_is(name, "content-range"))
		return answer_range(answer, value);
	if (text_is(name, "content-encoding"))
		answer->encoded |= value.len && !text_is(value, "identity");
	else if (text_is(name, "etag"))
		answer_etag(answer, value);
	else if (text_is(name, "last-modified"))
		answer_copy(answer->modified, sizeof(answer->modified), value);
	else if (text_is(name, "x-amz-bucket-region"))
		answer_copy(answer->region, sizeof(answer->region), value);
	return 0;
}

/* "HTTP/1.1 206 ..." begins a head; what an interim one said does not count. */
static int answer_status(struct web_answer *answer, struct web_text line)
{
	size_t bytes = answer->head_bytes;
	uint64_t status;

	/* One final head an exchange; only after 417 does libcurl ask a second time. */
	if (answer->status >= 200 && !(answer->whole && answer->status == 417))
		return -EBADMSG;
	while (line.len && *line.at != ' ')
		line.at++, line.len--;
	line = text_trim(line);
	if (!text_number(&line, &status) || status < 100 || status > 599)
		return -EBADMSG;
	memset(answer, 0, sizeof(*answer));
	answer->head_bytes = bytes;
	answer->status = (unsigned int)status;
	return 0;
}

int web_answer_line(struct web_answer *answer, const char *line, size_t len)
{
	struct web_text text = { line, len }, name = { line, 0 }, value;

	if (len > WEB_HEAD_MAX - answer->head_bytes)
		return -EMSGSIZE;
	answer->head_bytes += len;
	if (len >= 5 && !memcmp(line, "HTTP/", 5))
		return answer_status(answer, text);
	text = text_trim(text);
	if (!text.len) {
		if (answer->whole || answer->status < 200)
			return 0;
		answer->whole = true;
		return 1;
	}
	while (name.len < len && line[name.len] != ':')
		name.len++;
	if (answer->whole || name.len == len)
		return 0;
	value = text_trim((struct web_text){ line + name.len + 1, len - name.len - 1 });
	return answer_field(answer, name, value);
}

int web_answer_errno(unsigned int status)
{
	switch (status) {
	case 401:
	case 403:
	case 407:
		return -EACCES;
	case 404:
	case 410:
		return -ENOENT;
	case 405:
	case 501:
		return -ENOTSUP;
	case 408:
	case 409:
	case 425:
	case 429:
		return -EAGAIN;
	case 412:
		return -ESTALE;
	case 413:
		return -EFBIG;
	case 416:
		return -EBADMSG;
	case 507:
		return -ENOSPC;
	}
	return status >= 500 ? -EAGAIN : -EPROTO;
}

const char *web_answer_phrase(unsigned int status)
{
	static const struct {
		unsigned int status;
		const char *phrase;
	} phrases[] = {
		{ 301, " Moved Permanently" }, { 302, " Found" }, { 303, " See Other" },
		{ 307, " Temporary Redirect" }, { 308, " Permanent Redirect" },
		{ 400, " Bad Request" }, { 401, " Unauthorized" }, { 403, " Forbidden" },
		{ 404, " Not Found" }, { 405, " Method Not Allowed" }, { 409, " Conflict" },
		{ 410, " Gone" }, { 411, " Length Required" }, { 412, " Precondition Failed" },
		{ 413, " Content Too Large" }, { 416, " Range Not Satisfiable" },
		{ 429, " Too Many Requests" }, { 500, " Internal Server Error" },
		{ 501, " Not Implemented" }, { 502, " Bad Gateway" },
		{ 503, " Service Unavailable" }, { 504, " Gateway Timeout" },
		{ 507, " Insufficient Storage" },
	};
	size_t i;

	for (i = 0; i < sizeof(phrases) / sizeof(phrases[0]); i++)
		if (phrases[i].status == status)
			return phrases[i].phrase;
	return "";
}
