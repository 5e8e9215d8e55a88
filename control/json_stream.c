// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// See json_stream.h. One step a byte; what belongs to a value is appended in
// runs. The kinds of the open brackets are bits of one word, so a mismatch is
// seen at once and the depth is bounded by the word.
#include "control/json_stream.h"

#include <errno.h>

#define VALUE_KEEP_BYTES ((size_t)64 << 10)	/* a larger buffer is not kept between values */

enum step {
	STEP_TAKE,	/* the byte belongs to the value */
	STEP_DROP,	/* the byte is between values */
	STEP_LAST,	/* the byte is the value's last */
	STEP_BEFORE,	/* the value ended before this byte */
	STEP_BAD,
};

static bool is_space(uint8_t c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Bytes that no value contains: where reading can start afresh. */
static bool is_reset(uint8_t c)
{
	return c < 0x20 || c >= 0xfe;
}

static enum step json_bad(struct json_stream *stream, const char *why)
{
	stream->error = why;
	return STEP_BAD;
}

static enum step open_bracket(struct json_stream *stream, bool object)
{
	uint64_t bit;

	if (stream->depth == JSON_STREAM_DEPTH_MAX)
		return json_bad(stream, "JSON nesting depth limit exceeded");
	bit = UINT64_C(1) << stream->depth++;
	stream->objects = object ? stream->objects | bit : stream->objects & ~bit;
	stream->state = JSON_STREAM_NESTED;
	return STEP_TAKE;
}

static enum step close_bracket(struct json_stream *stream, bool object)
{
	bool opened = stream->objects >> (stream->depth - 1) & 1;

	if (opened != object)
		return json_bad(stream, "JSON parse error, brackets do not match");
	if (--stream->depth)
		return STEP_TAKE;
	stream->state = JSON_STREAM_IDLE;
	return STEP_LAST;
}

static enum step step_idle(struct json_stream *stream, uint8_t c)
{
	if (is_space(c))
		return STEP_DROP;
	if (is_reset(c))
		return json_bad(stream, "JSON parse error, invalid byte");
	switch (c) {
	case '{':
	case '[':
		return open_bracket(stream, c == '{');
	case '"':
		stream->state = JSON_STREAM_STRING;
		return STEP_TAKE;
	case '}':
	case ']':
	case ',':
	case ':':
		return json_bad(stream, "JSON parse error, expecting value");
	default:
		stream->state = JSON_STREAM_SCALAR;
		return STEP_TAKE;
	}
}

static enum step step_nested(struct json_stream *stream, uint8_t c)
{
	if (is_reset(c) && !is_space(c))
		return json_bad(stream, "JSON parse error, invalid byte");
	switch (c) {
	case '{':
	case '[':
		return open_bracket(stream, c == '{');
	case '}':
	case ']':
		return close_bracket(stream, c == '}');
	case '"':
		stream->state = JSON_STREAM_STRING;
		return STEP_TAKE;
	default:
		return STEP_TAKE;
	}
}

static enum step step_string(struct json_stream *stream, uint8_t c)
{
	if (is_reset(c))
		return json_bad(stream, "JSON parse error, invalid byte in string");
	if (stream->state == JSON_STREAM_ESCAPE) {
		stream->state = JSON_STREAM_STRING;
		return STEP_TAKE;
	}
	if (c == '\\')
		stream->state = JSON_STREAM_ESCAPE;
	if (c != '"')
		return STEP_TAKE;
	if (stream->depth) {
		stream->state = JSON_STREAM_NESTED;
		return STEP_TAKE;
	}
	stream->state = JSON_STREAM_IDLE;
	return STEP_LAST;
}

static enum step step_scalar(struct json_stream *stream, uint8_t c)
{
	if (is_space(c) || c == '{' || c == '}' || c == '[' || c == ']' || c == ',' || c == ':' ||
	    c == '"') {
		stream->state = JSON_STREAM_IDLE;
		return STEP_BEFORE;
	}
	if (is_reset(c))
		return json_bad(stream, "JSON parse error, invalid byte");
	return STEP_TAKE;
}

static enum step step_byte(struct json_stream *stream, uint8_t c)
{
	switch (stream->state) {
	case JSON_STREAM_IDLE:
		return step_idle(stream, c);
	case JSON_STREAM_SCALAR:
		return step_scalar(stream, c);
	case JSON_STREAM_NESTED:
		return step_nested(stream, c);
	case JSON_STREAM_STRING:
	case JSON_STREAM_ESCAPE:
		return step_string(stream, c);
	case JSON_STREAM_SKIP:
		break;
	}
	if (is_reset(c))
		stream->state = JSON_STREAM_IDLE;
	return STEP_DROP;
}

static void forget_value(struct json_stream *stream)
{
	stream->whole = false;
	stream->value.len = 0;
	if (stream->value.cap > VALUE_KEEP_BYTES)
		buf_fini(&stream->value);
}

int json_stream_feed(struct json_stream *stream, const uint8_t *data, size_t len, size_t *used)
{
	size_t i, run = 0;	/* data[i - run, i) belongs to the value and is not appended yet */
	enum step step;

	if (stream->whole)
		forget_value(stream);
	for (i = 0; i < len; i++) {
		step = step_byte(stream, data[i]);
		if ((step == STEP_TAKE || step == STEP_LAST) &&
		    ++run + stream->value.len > JSON_STREAM_MESSAGE_MAX)
			step = json_bad(stream, "JSON token size limit exceeded");
		if (step == STEP_BAD) {
			stream->state = is_reset(data[i]) ? JSON_STREAM_IDLE : JSON_STREAM_SKIP;
			stream->depth = 0;
			forget_value(stream);
			*used = i + 1;
			return JSON_STREAM_BAD;
		}
		if (step == STEP_LAST || step == STEP_BEFORE) {
			*used = step == STEP_LAST ? i + 1 : i;
			stream->whole = true;
			if (buf_append(&stream->value, data + *used - run, run) < 0)
				return -ENOMEM;
			return JSON_STREAM_MESSAGE;
		}
	}
	*used = len;
	if (run && buf_append(&stream->value, data + len - run, run) < 0)
		return -ENOMEM;
	return JSON_STREAM_MORE;
}

void json_stream_fini(struct json_stream *stream)
{
	buf_fini(&stream->value);
}
