/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Members of a JSON object that comes from outside, taken one by one: each is
 * there, of its type and within its bounds, or the first that is not becomes an
 * error that names it, and later calls do nothing. jansson's json_unpack would
 * take 2^40 for an int of 0, and does not say which member was wrong. Pure.
 */
#ifndef POSTERN_IMAGE_JSON_H
#define POSTERN_IMAGE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "image/manifest.h"

struct json_reading {
	const char *where;	/* begins each text */
	struct err *err;
	int error;		/* 0, or what err was set to */
};

/* Notes an error, unless there is one. */
void json_refuse(struct json_reading *reading, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * object may be of any type, or NULL: that is an error, too. What was refused is NULL, 0 or
 * false.
 */
const json_t *json_read_member(struct json_reading *reading, const json_t *object, const char *key,
			       json_type type);
/* An object whose "format" is this one. */
void json_read_format(struct json_reading *reading, const json_t *top, const char *format);
uint64_t json_read_number(struct json_reading *reading, const json_t *object, const char *key,
			  uint64_t min, uint64_t max);
bool json_read_boolean(struct json_reading *reading, const json_t *object, const char *key);
/* Printable text that fits, with its 0; _value: of an array's entry. */
void json_read_text(struct json_reading *reading, const json_t *object, const char *key, char *out,
		    size_t room);
void json_read_text_value(struct json_reading *reading, const json_t *value, const char *key,
			  char *out, size_t room);
/* n bytes as 2n lower-case digits. */
void json_read_hex(struct json_reading *reading, const json_t *object, const char *key,
		   uint8_t *out, size_t n);
/* An array of at most max entries; *n is 0 when it was refused. */
const json_t *json_read_array(struct json_reading *reading, const json_t *object, const char *key,
			      size_t max, unsigned int *n);
/* {"name": an image's, "id": hexadecimal digits} */
void json_read_image(struct json_reading *reading, const json_t *value,
		     struct manifest_image *image);

#endif
