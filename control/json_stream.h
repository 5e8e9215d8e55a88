/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Splits a byte stream into top-level JSON values (RFC 8259), without parsing
 * them: it follows strings, escapes and brackets only. Values need no
 * separator, so clients that send no newline work. Input that cannot be JSON
 * gives JSON_STREAM_BAD once and is discarded up to the next control character
 * or byte 0xfe / 0xff, neither of which JSON or UTF-8 has inside a value;
 * QEMU's lexer recovers in the same place. Pure: no I/O, no clock; one thread
 * at a time.
 */
#ifndef POSTERN_CONTROL_JSON_STREAM_H
#define POSTERN_CONTROL_JSON_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

#define JSON_STREAM_MESSAGE_MAX ((size_t)1 << 20)	/* bytes of one value */
#define JSON_STREAM_DEPTH_MAX 64u			/* nested arrays and objects */

enum json_stream_state {
	JSON_STREAM_IDLE,	/* between values */
	JSON_STREAM_SCALAR,	/* in a number or literal at top level: a delimiter ends it */
	JSON_STREAM_NESTED,	/* in an array or object, outside of strings */
	JSON_STREAM_STRING,
	JSON_STREAM_ESCAPE,	/* after a backslash in a string */
	JSON_STREAM_SKIP,	/* discards after bad input */
};

/* Zero-initialised it is ready. */
struct json_stream {
	struct buf value;		/* the value so far; whole after JSON_STREAM_MESSAGE, until the next feed */
	const char *error;		/* after JSON_STREAM_BAD: a static text */
	enum json_stream_state state;
	unsigned int depth;
	uint64_t objects;		/* bit i: the bracket at depth i + 1 is a brace */
	bool whole;			/* value was handed out and goes with the next feed */
};

enum json_stream_result {
	JSON_STREAM_MORE,	/* all input is used up, no value is complete */
	JSON_STREAM_MESSAGE,	/* value holds one; feed the rest of the input again */
	JSON_STREAM_BAD,	/* error says what; feed the rest of the input again */
};

/*
 * Takes input up to the next thing to tell; *used gets how many bytes. Returns
 * json_stream_result or -ENOMEM.
 */
int json_stream_feed(struct json_stream *stream, const uint8_t *data, size_t len, size_t *used);
void json_stream_fini(struct json_stream *stream);

#endif
