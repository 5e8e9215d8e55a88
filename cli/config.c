// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// See config.h. jansson parses, and says where a file is no JSON; where a key
// is, it does not say, so config_key_line looks for it in the text, which by
// then is known to be JSON.
#include "cli/config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"

struct loading {
	struct config *config;
	const char *path, *text;
	config_take take;
	void *arg;
};

unsigned int config_key_line(const char *text, const char *key)
{
	unsigned int line = 1, depth = 0;
	size_t len = strlen(key);
	const char *c, *begin;

	for (c = text; *c; c++) {
		if (*c == '\n')
			line++;
		else if (*c == '{' || *c == '[')
			depth++;
		else if (*c == '}' || *c == ']')
			depth--;
		if (*c != '"')
			continue;
		begin = ++c;
		while (*c && *c != '"')
			c += *c == '\\' && c[1] ? 2 : 1;
		if (!*c)
			break;
		/* A string with a colon after it is a key. */
		if (depth == 1 && (size_t)(c - begin) == len && !memcmp(begin, key, len) &&
		    c[1 + strspn(c + 1, " \t\r\n")] == ':')
			return line;
	}
	return 0;
}

static int read_file(struct buf *buf, const char *path, struct err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), r = 0;
	uint8_t *room;
	ssize_t n = 1;

	if (fd < 0)
		return err_errno(err, -errno, "%s", path);
	while (n > 0 && buf->len <= CONFIG_BYTES_MAX) {
		room = buf_reserve(buf, 4096);
		n = room ? read(fd, room, 4096) : -1;
		if (n > 0)
			buf->len += (size_t)n;
	}
	if (n < 0)
		r = room ? err_errno(err, -errno, "%s", path) :
			   err_set(err, -ENOMEM, "%s: no memory", path);
	else if (buf->len > CONFIG_BYTES_MAX)
		r = err_set(err, -EINVAL, "%s: more than %zu bytes", path, CONFIG_BYTES_MAX);
	else if (memchr(buf->data, 0, buf->len))
		r = err_set(err, -EINVAL, "%s: no text", path);
	else
		r = buf_append(buf, "", 1) < 0 ? err_set(err, -ENOMEM, "%s: no memory", path) : 0;
	close(fd);
	return r;
}

/* Puts where it is in front of an error about a key. */
static int located(const struct loading *l, const char *key, struct err *err)
{
	unsigned int line = config_key_line(l->text, key);

	err->code = -EINVAL;
	return line ? err_prefix(err, -EINVAL, "%s:%u", l->path, line) :
		      err_prefix(err, -EINVAL, "%s", l->path);
}

static int wrong_type(const char *key, const char *wanted, struct err *err)
{
	return err_set(err, -EINVAL, "\"%.64s\": %s is needed", key, wanted);
}

/* The text of a number, kept by the configuration. */
static const char *number_text(struct config *config, const json_t *value)
{
	char text[24];
	json_t *kept;

	snprintf(text, sizeof(text), "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	kept = json_string(text);
	return json_array_append_new(config->texts, kept) < 0 ? NULL : json_string_value(kept);
}

static int take_number(struct loading *l, const struct config_key *key, const json_t *value,
		       struct err *err)
{
	const char *text = number_text(l->config, value);

	return text ? l->take(l->arg, key->option, text, err) : err_set(err, -ENOMEM, "no memory");
}

static int take_list(struct loading *l, const struct config_key *key, const json_t *value,
		     struct err *err)
{
	const json_t *item;
	size_t i;
	int r = 0;

	if (json_is_string(value))
		return l->take(l->arg, key->option, json_string_value(value), err);
	if (!json_is_array(value))
		return wrong_type(key->name, "a string or an array of strings", err);
	json_array_foreach(value, i, item) {
		if (!json_is_string(item))
			return wrong_type(key->name, "a string or an array of strings", err);
		r = l->take(l->arg, key->option, json_string_value(item), err);
		if (r < 0)
			break;
	}
	return r;
}

static int take_value(struct loading *l, const struct config_key *key, const json_t *value,
		      struct err *err)
{
	switch (key->type) {
	case CONFIG_TEXT:
		if (!json_is_string(value))
			return wrong_type(key->name, "a string", err);
		return l->take(l->arg, key->option, json_string_value(value), err);
	case CONFIG_NUMBER:
		if (!json_is_integer(value))
			return wrong_type(key->name, "a number without a fraction", err);
		return take_number(l, key, value, err);
	case CONFIG_SIZE:
		if (json_is_string(value))
			return l->take(l->arg, key->option, json_string_value(value), err);
		if (!json_is_integer(value))
			return wrong_type(
				key->name,
				"a size (a string such as \"512M\", or a number of bytes)", err);
		return take_number(l, key, value, err);
	case CONFIG_FLAG:
		if (!json_is_boolean(value))
			return wrong_type(key->name, "true or false", err);
		return json_is_true(value) ? l->take(l->arg, key->option, NULL, err) : 0;
	case CONFIG_LIST:
		break;
	}
	return take_list(l, key, value, err);
}

static int take_all(struct loading *l, const struct config_key *keys, struct err *err)
{
	const struct config_key *key;
	const char *name;
	json_t *value;
	int r;

	json_object_foreach(l->config->root, name, value) {
		for (key = keys; key->name && strcmp(key->name, name) != 0; key++)
			;
		if (key->name)
			r = take_value(l, key, value, err);
		else
			r = err_set(err, -EINVAL, "\"%.64s\": there is no such key", name);
		if (r < 0)
			return located(l, name, err);
	}
	return 0;
}

int config_load(struct config *config, const char *path, const struct config_key *keys,
		config_take take, void *arg, struct err *err)
{
	struct loading l = { .config = config, .path = path, .take = take, .arg = arg };
	struct buf buf = { 0 };
	json_error_t error;
	int r = read_file(&buf, path, err);

	if (!r) {
		l.text = (const char *)buf.data;
		config->texts = json_array();
		config->root = json_loads(l.text, JSON_REJECT_DUPLICATES, &error);
		if (!config->root)
			r = err_set(err, -EINVAL, "%s:%d: %s", path, error.line, error.text);
		else if (!json_is_object(config->root))
			r = err_set(err, -EINVAL, "%s: an object is needed, such as {\"cpus\": 2}",
				    path);
		else
			r = take_all(&l, keys, err);
	}
	buf_fini(&buf);
	return r;
}

void config_fini(struct config *config)
{
	json_decref(config->root);
	json_decref(config->texts);
	*config = (struct config){ 0 };
}
