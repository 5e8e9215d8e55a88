// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// What all stores share: which names there may be, how requests begin and end. See store.h.
#include "store/store.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const verb_names[] = { "get", "put", "delete", "list" };

void store_init(struct store *store, const struct store_ops *ops, const char *format, ...)
{
	va_list ap;

	store->ops = ops;
	va_start(ap, format);
	vsnprintf(store->label, sizeof(store->label), format, ap);
	va_end(ap);
}

const char *store_label(const struct store *store)
{
	return store->label;
}

static bool name_refuse(const char **why, const char *text)
{
	if (why)
		*why = text;
	return false;
}

static bool name_byte(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '.' || c == '_' || c == '-';
}

/* One segment, up to its '/' or the end. */
static bool segment_is_valid(const char *at, size_t n, const char **why)
{
	size_t i;

	if (!n)
		return name_refuse(why, "a part of the name is empty");
	if ((n == 1 && at[0] == '.') || (n == 2 && at[0] == '.' && at[1] == '.'))
		return name_refuse(why, "\".\" and \"..\" are not names");
	for (i = 0; i < n; i++)
		if (!name_byte(at[i]))
			return name_refuse(why, "names have A-Z a-z 0-9 . _ - and / alone");
	return true;
}

bool store_name_is_valid(const char *name, const char **why)
{
	const char *slash;

	if (strnlen(name, STORE_NAME_MAX + 1) > STORE_NAME_MAX)
		return name_refuse(why, "the name is longer than 255 bytes");
	for (; (slash = strchr(name, '/')); name = slash + 1)
		if (!segment_is_valid(name, (size_t)(slash - name), why))
			return false;
	return segment_is_valid(name, strlen(name), why);
}

bool store_prefix_is_valid(const char *prefix, const char **why)
{
	const char *slash, *at = prefix;
	size_t i;

	if (strnlen(prefix, STORE_NAME_MAX + 1) > STORE_NAME_MAX)
		return name_refuse(why, "the prefix is longer than 255 bytes");
	for (; (slash = strchr(at, '/')); at = slash + 1)
		if (!segment_is_valid(at, (size_t)(slash - at), why))
			return false;
	/* What is left may be any beginning of a segment. */
	for (i = 0; at[i]; i++)
		if (!name_byte(at[i]))
			return name_refuse(why, "names have A-Z a-z 0-9 . _ - and / alone");
	return true;
}

/* NULL: the request can be begun. */
static const char *request_flaw(const struct store_request *request)
{
	const char *why = NULL;

	if ((unsigned int)request->verb > STORE_LIST)
		return "no such verb";
	if (!request->object)
		return "no name";
	if (request->verb == STORE_LIST)
		store_prefix_is_valid(request->object, &why);
	else
		store_name_is_valid(request->object, &why);
	if (why)
		return why;
	if (request->len > STORE_OBJECT_MAX)
		return "more than 1 GiB at a time";
	/* So that offset + len is an off_t. */
	return request->offset > INT64_MAX - STORE_OBJECT_MAX ? "the offset is too large" : NULL;
}

/* A name that is refused is printed without what it may do to a terminal. */
static void object_print(char *out, size_t size, const char *name)
{
	size_t i;

	for (i = 0; name && name[i] && i + 1 < size; i++)
		out[i] = name[i] >= ' ' && name[i] <= '~' ? name[i] : '?';
	out[i] = 0;
}

void store_begin(struct store *store, struct store_request *request)
{
	const char *why = request_flaw(request);
	char name[65];

	if (!why) {
		store->ops->begin(store, request);
		return;
	}
	object_print(name, sizeof(name), request->object);
	request->result =
		err_set(&request->err, -EINVAL, "%s: \"%s\": %s", store->label, name, why);
	request->done(request);
}

void store_cancel(struct store *store, struct store_request *request)
{
	/* Sequentially consistent: before the lock under which the store looks for the request. */
	atomic_store(&request->cancelled, true);
	store->ops->cancel(store, request);
}

void store_free(struct store *store)
{
	if (store)
		store->ops->free(store);
}

void store_done(struct store_request *request, int64_t result)
{
	request->result = result;
	request->done(request);
}

static void fail_text(struct store *store, struct store_request *request, int code,
		      const char *format, va_list ap)
{
	char text[256];
	const char *verb = verb_names[request->verb];

	vsnprintf(text, sizeof(text), format, ap);
	if (*request->object)
		err_set(&request->err, code, "%s: %s \"%s\": %s", store->label, verb,
			request->object, text);
	else
		err_set(&request->err, code, "%s: %s: %s", store->label, verb, text);
}

void store_fail(struct store *store, struct store_request *request, int code, const char *format,
		...)
{
	va_list ap;

	va_start(ap, format);
	fail_text(store, request, code, format, ap);
	va_end(ap);
	store_done(request, code);
}

void store_errno(struct store *store, struct store_request *request, int code, const char *format,
		 ...)
{
	char reason[96];
	size_t used;
	va_list ap;

	va_start(ap, format);
	fail_text(store, request, code, format, ap);
	va_end(ap);
	used = strlen(request->err.text);
	snprintf(request->err.text + used, sizeof(request->err.text) - used, ": %s",
		 strerror_r(-code, reason, sizeof(reason)));
	store_done(request, code);
}
