// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * LIST: ListObjectsV2, page by page. A page is read whole before any of it is told, since only its
 * end may say that its keys are encoded. Keys that are no object's name (others' things in the same
 * bucket) are passed over.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "store/s3_internal.h"

/* Of 1000 keys each: whoever sends more sends without end. */
#define PAGES_MAX 100000u

struct s3_listing {
	struct web_op *op;
	struct s3_xml *xml;
	struct buf found;		/* of a page: 8 bytes of length and a key, ended by NUL, each */
	char key[S3_XML_TEXT_MAX + 1];	/* of the entry that is being read */
	uint64_t bytes;
	bool is_list, encoded, truncated, no_memory;
	char token[S3_XML_TEXT_MAX + 1];	/* where the next page begins */
	char last[S3_XML_TEXT_MAX + 1];
	unsigned int pages;
};

static void list_page(struct s3_listing *list);

/* ---- reading ---- */

static void note_entry(struct s3_listing *list)
{
	uint8_t bytes[8];

	put64(bytes, list->bytes);
	if (buf_append(&list->found, bytes, sizeof(bytes)) < 0 ||
	    buf_append(&list->found, list->key, strlen(list->key) + 1) < 0)
		list->no_memory = true;
	list->key[0] = 0;
	list->bytes = 0;
}

static void list_value(void *arg, const char *path, const char *text)
{
	static const char root[] = "ListBucketResult";
	struct s3_listing *list = arg;
	size_t n = sizeof(root) - 1;

	if (strncmp(path, root, n) || (path[n] && path[n] != '/'))
		return;
	list->is_list = true;
	path += n;
	if (!strcmp(path, "/Contents")) {
		note_entry(list);
	} else if (!text) {
		return;
	} else if (!strcmp(path, "/Contents/Key")) {
		strcpy(list->key, text);
	} else if (!strcmp(path, "/Contents/Size")) {
		list->bytes = strtoull(text, NULL, 10);
	} else if (!strcmp(path, "/CommonPrefixes/Prefix")) {
		strcpy(list->key, text);
		note_entry(list);
	} else if (!strcmp(path, "/EncodingType")) {
		list->encoded = !strcmp(text, "url");
	} else if (!strcmp(path, "/IsTruncated")) {
		list->truncated = !strcmp(text, "true");
	} else if (!strcmp(path, "/NextContinuationToken")) {
		strcpy(list->token, text);
	}
}

static int list_take(struct web_exchange *x, const uint8_t *data, size_t n)
{
	struct s3_listing *list = web_op_of(x)->own;
	int r = s3_xml_feed(list->xml, data, n, &x->err);

	return list->no_memory ? err_set(&x->err, -ENOMEM, "no memory for a list") : r;
}

/* ---- telling ---- */

static int key_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* In place; a NUL in it would end the key early, and is left as it is. */
static void decode_key(char *key)
{
	char *to = key;
	int high, low;

	for (; *key; key++) {
		high = *key == '%' ? key_digit(key[1]) : -1;
		low = high < 0 ? -1 : key_digit(key[2]);
		if (low >= 0 && high * 16 + low) {
			*to++ = (char)(high * 16 + low);
			key += 2;
		} else {
			*to++ = *key == '+' ? ' ' : *key;
		}
	}
	*to = 0;
}

/* An object, or with '/' at its end a folder. */
static bool is_name(char *name, bool shallow)
{
	size_t n = strlen(name);
	bool valid;

	if (!shallow || !n || name[n - 1] != '/')
		return store_name_is_valid(name, NULL);
	name[n - 1] = 0;
	valid = store_name_is_valid(name, NULL);
	name[n - 1] = '/';
	return valid;
}

static void tell_key(struct s3_listing *list, char *key, uint64_t bytes)
{
	const char *prefix = ((struct s3_store *)list->op->ws)->prefix;
	struct store_request *request = list->op->request;
	size_t n = strlen(prefix);

	if (list->encoded)
		decode_key(key);
	/* Whatever the server was asked for: it may send more. */
	if (strncmp(key, prefix, n) || strncmp(key + n, request->object, strlen(request->object)) ||
	    !is_name(key + n, request->flags & STORE_SHALLOW))
		return;
	request->name(request, key + n, bytes);
}

static void list_tell_page(struct s3_listing *list)
{
	uint8_t *at = list->found.data, *end = at + list->found.len;
	uint64_t bytes;
	size_t n;

	while (at < end) {
		bytes = get64(at);
		at += 8;
		n = strlen((char *)at) + 1;
		tell_key(list, (char *)at, bytes);
		at += n;
	}
}

/* ---- pages ---- */

static void list_answered(struct web_op *op)
{
	struct s3_listing *list = op->own;
	struct err err;
	int r;

	if (!web_op_succeeded(op)) {
		web_op_refused(op);
		return;
	}
	r = s3_xml_end(list->xml, &err);
	if (r < 0) {
		web_op_fail(op, r, "%s", err.text);
		return;
	}
	if (!list->is_list) {
		web_op_fail(op, -EBADMSG,
			    "the server sends something else than a list: is this S3?");
		return;
	}
	list_tell_page(list);
	if (!list->truncated)
		web_op_done(op, 0);
	else if (!list->token[0] || !strcmp(list->token, list->last) || ++list->pages > PAGES_MAX)
		web_op_fail(op, -EBADMSG, "the server's list has no end");
	else
		list_page(list);
}

static int list_prepare(struct web_exchange *x)
{
	struct s3_listing *list = web_op_of(x)->own;

	s3_xml_free(list->xml);
	list->xml = NULL;
	list->found.len = 0;
	list->is_list = list->encoded = list->truncated = false;
	list->token[0] = list->key[0] = 0;
	list->bytes = 0;
	return s3_xml_new(&list->xml, list_value, list, &x->err);
}

/* In the order of the parameters' names: libcurl signs them as they stand. */
static char *list_url(const struct s3_listing *list)
{
	const struct s3_store *s3 = (const struct s3_store *)list->op->ws;
	const struct store_request *request = list->op->request;
	char *token = web_escape(list->last, false), *prefix = web_escape(s3->prefix, false);
	char *object = web_escape(request->object, false), *url = NULL;

	if (!token || !prefix || !object ||
	    asprintf(&url, "%s?%s%s%s%sencoding-type=url&list-type=2&prefix=%s%s", s3->bucket_url,
		     *token ? "continuation-token=" : "", token, *token ? "&" : "",
		     request->flags & STORE_SHALLOW ? "delimiter=%2F&" : "", prefix, object) < 0)
		url = NULL;
	free(token);
	free(prefix);
	free(object);
	return url;
}

static void list_page(struct s3_listing *list)
{
	struct web_op *op = list->op;

	strcpy(list->last, list->token);
	if (!web_op_ask(op, WEB_GET, list_url(list), list_answered))
		return;
	op->x.prepare = list_prepare;
	op->x.take = list_take;
	op->x.bytes = S3_XML_DOCUMENT_MAX;
	web_op_go(op);
}

static void list_drop(struct web_op *op)
{
	struct s3_listing *list = op->own;

	s3_xml_free(list->xml);
	buf_fini(&list->found);
	free(list);
}

void s3_list(struct s3_store *s3, struct store_request *request)
{
	struct web_op *op = web_op_new(&s3->web, request);
	struct s3_listing *list;

	if (!op)
		return;
	list = calloc(1, sizeof(*list));
	if (!list) {
		web_op_fail(op, -ENOMEM, "no memory for a list");
		return;
	}
	list->op = op;
	op->own = list;
	op->drop = list_drop;
	list_page(list);
}
