// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/* See json.h. */
#include "image/json.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "image/name.h"
#include "image/sum.h"

void json_refuse(struct json_reading *reading, int code, const char *format, ...)
{
	char text[256];
	va_list args;

	if (reading->error)
		return;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	reading->error = err_set(reading->err, code, "%s: %s", reading->where, text);
}

const json_t *json_read_member(struct json_reading *reading, const json_t *object, const char *key,
			       json_type type)
{
	static const char *const types[] = { "an object", "an array", "a string", "an integer",
					     "a real", "true", "false", "null" };
	const json_t *value = json_object_get(object, key);

	if (reading->error)
		return NULL;
	if (!value)
		json_refuse(reading, -EBADMSG, "\"%s\" is missing", key);
	else if (json_typeof(value) != type)
		json_refuse(reading, -EBADMSG, "\"%s\" is not %s", key, types[type]);
	else
		return value;
	return NULL;
}

uint64_t json_read_number(struct json_reading *reading, const json_t *object, const char *key,
			  uint64_t min, uint64_t max)
{
	const json_t *value = json_read_member(reading, object, key, JSON_INTEGER);
	json_int_t number = value ? json_integer_value(value) : 0;

	if (value && (number < 0 || (uint64_t)number < min || (uint64_t)number > max))
		json_refuse(reading, -EBADMSG,
			    "\"%s\" is %" JSON_INTEGER_FORMAT ", %" PRIu64 " to %" PRIu64 " can be",
			    key, number, min, max);
	return (uint64_t)number;
}

bool json_read_boolean(struct json_reading *reading, const json_t *object, const char *key)
{
	const json_t *value = json_object_get(object, key);

	if (!reading->error && !json_is_boolean(value))
		json_refuse(reading, -EBADMSG, "\"%s\" is missing, or neither true nor false", key);
	return json_is_true(value);
}

/* Control characters would go to logs and terminals. */
static bool json_is_plain(const char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || *text == 0x7f)
			return false;
	return true;
}

void json_read_text_value(struct json_reading *reading, const json_t *value, const char *key,
			  char *out, size_t room)
{
	const char *text = json_string_value(value);

	if (reading->error)
		return;
	if (!text || strlen(text) >= room || !json_is_plain(text))
		json_refuse(reading, -EBADMSG, "\"%s\" is no text of at most %zu printable bytes",
			    key, room - 1);
	else
		strcpy(out, text);
}

void json_read_text(struct json_reading *reading, const json_t *object, const char *key, char *out,
		    size_t room)
{
	json_read_text_value(reading, json_read_member(reading, object, key, JSON_STRING), key, out,
			     room);
}

void json_read_hex(struct json_reading *reading, const json_t *object, const char *key,
		   uint8_t *out, size_t n)
{
	const json_t *value = json_read_member(reading, object, key, JSON_STRING);

	if (value && sum_parse_hex(out, n, json_string_value(value)))
		json_refuse(reading, -EBADMSG, "\"%s\" is not %zu hexadecimal digits", key, 2 * n);
}

/* How many an array has; NULL when it cannot be. */
const json_t *json_read_array(struct json_reading *reading, const json_t *object, const char *key,
			      size_t max, unsigned int *n)
{
	const json_t *array = json_read_member(reading, object, key, JSON_ARRAY);

	*n = 0;
	if (!array)
		return NULL;
	if (json_array_size(array) > max) {
		json_refuse(reading, -EBADMSG, "\"%s\" has %zu entries, at most %zu can be", key,
			    json_array_size(array), max);
		return NULL;
	}
	*n = (unsigned int)json_array_size(array);
	return array;
}

void json_read_image(struct json_reading *reading, const json_t *value,
		     struct manifest_image *image)
{
	struct err err;

	json_read_text(reading, value, "name", image->name, sizeof(image->name));
	json_read_hex(reading, value, "id", image->id.bytes, IMAGE_ID_BYTES);
	if (!reading->error && image_name_check(image->name, &err))
		json_refuse(reading, -EBADMSG, "%s", err.text);
}

void json_read_format(struct json_reading *reading, const json_t *top, const char *format)
{
	const json_t *value = json_object_get(top, "format");

	if (!reading->error && (!json_is_string(value) || strcmp(json_string_value(value), format)))
		json_refuse(reading, -EBADMSG, "not a JSON object with the format %s", format);
}
