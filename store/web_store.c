// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Operations, and what they have in common: redirects, logins, errors. See web_store.h.
#include "store/web_store.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- URLs ---- */

static bool is_plain(char c, bool keep_slashes)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       (c && strchr("-._~", c)) || (c == '/' && keep_slashes);
}

/* All but RFC 3986's unreserved: what S3's signatures take for granted. */
char *web_escape(const char *text, bool keep_slashes)
{
	char *out = malloc(strlen(text) * 3 + 1), *at = out;

	for (; out && *text; text++) {
		if (is_plain(*text, keep_slashes))
			*at++ = *text;
		else
			at += sprintf(at, "%%%02X", (unsigned char)*text);
	}
	if (out)
		*at = 0;
	return out;
}

char *web_object_url(const struct web_store *ws, const char *object, const char *query)
{
	char *name = web_escape(object, true), *url = NULL;

	if (name && asprintf(&url, "%s/%s%s%s", ws->base, name, query ? "?" : "",
			     query ? query : "") < 0)
		url = NULL;
	free(name);
	return url;
}

int web_store_config(struct web_config *config, const struct store_url *url, struct err *err)
{
	const char *timeout = store_url_get(url, "timeout");
	char *end;
	unsigned long seconds = 15;

	if (timeout) {
		seconds = strtoul(timeout, &end, 10);
		if (*timeout < '0' || *timeout > '9' || *end || !seconds || seconds > 3600)
			return err_set(err, -EINVAL, "a store's timeout is 1 to 3600 seconds");
	}
	config->patience_ms = (unsigned int)seconds * 1000;
	config->ca_file = store_url_get(url, "cafile");
	return 0;
}

/* ---- operations ---- */

static void op_free(struct web_op *op)
{
	if (op->drop)
		op->drop(op);
	web_exchange_fini(&op->x);
	free(op);
}

void web_op_done(struct web_op *op, int64_t result)
{
	struct store_request *request = op->request;

	op_free(op);
	if (request)
		store_done(request, result);
}

void web_op_fail(struct web_op *op, int code, const char *format, ...)
{
	struct store_request *request = op->request;
	struct store *store = &op->ws->store;
	char text[256];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	op_free(op);
	if (request)
		store_fail(store, request, code, "%s", text);
}

static const char *status_advice(unsigned int status)
{
	switch (status) {
	case 401:
	case 403:
		return ": give credentials that may do this (docs/stores.md)";
	case 429:
	case 503:
		return ": it is busy, try again later";
	}
	return "";
}

void web_op_refused(struct web_op *op)
{
	const struct web_answer *answer = &op->x.answer;
	char text[200] = "", wait[48] = "";
	int code = web_answer_errno(answer->status);

	if (op->x.result < 0) {
		web_op_fail(op, op->x.result, "%s", op->x.err.text);
		return;
	}
	if (op->ws->explain)
		op->ws->explain(op->ws, &op->x, &code, text, sizeof(text));
	if (op->request)
		op->request->again_ms = op->x.retry_after_s * 1000;
	if (op->x.retry_after_s)
		snprintf(wait, sizeof(wait), " (in %u s, it says)", op->x.retry_after_s);
	web_op_fail(op, code, "the server says %u%s%s%s%s", answer->status,
		    web_answer_phrase(answer->status), text,
		    *text ? "" : status_advice(answer->status), wait);
}

/* ---- redirects ---- */

/* What errors may show of where an answer leads: a query may be as good as a password. */
static void print_target(char *out, size_t size, const char *url)
{
	size_t i;

	for (i = 0; url[i] && url[i] != '?' && i + 1 < size; i++)
		out[i] = url[i] > ' ' && url[i] <= '~' ? url[i] : '?';
	out[i] = 0;
}

static bool leads_elsewhere(const struct web_op *op)
{
	unsigned int status = op->x.answer.status;

	return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

static const char *redirect_flaw(const struct web_op *op, const char *to)
{
	if (!op->ws->follows || (op->x.method != WEB_GET && op->x.method != WEB_HEAD))
		return "which is not followed here: name that in the store's URL";
	if (op->redirects >= WEB_REDIRECTS_MAX)
		return "after too many redirects: name the last in the store's URL";
	if (strncmp(to, "http://", 7) && strncmp(to, "https://", 8))
		return "which is no web server";
	if (!strncmp(op->x.url, "https://", 8) && strncmp(to, "https://", 8))
		return "which is not encrypted";
	return NULL;
}

/* The same again, elsewhere; a login goes to the host that it is for, and to no other. */
static void op_follow(struct web_op *op)
{
	char *to = op->x.redirect, target[100];
	const char *flaw = redirect_flaw(op, to);

	if (flaw) {
		print_target(target, sizeof(target), to);
		web_op_fail(op, -EPROTO, "the server says %u and sends to %s, %s",
			    op->x.answer.status, target, flaw);
		return;
	}
	op->redirects++;
	op->x.redirect = NULL;
	free(op->x.url);
	op->x.url = to;
	op->x.login = web_same_origin(op->ws->base, to) ? op->ws->login : NULL;
	web_begin(op->ws->web, &op->x);
}

/* ---- exchanges ---- */

static bool op_unwanted(struct web_exchange *x)
{
	struct web_op *op = web_op_of(x);

	return op->request && store_is_cancelled(op->request);
}

static bool may_renew(const struct web_op *op)
{
	unsigned int status = op->x.answer.status;

	return (status == 400 || status == 401 || status == 403) && op->ws->renew && !op->renewed &&
	       op->x.login;
}

static void op_exchange_done(struct web_exchange *x)
{
	struct web_op *op = web_op_of(x);

	if (x->result < 0) {
		if (op->tolerant)
			op->next(op);
		else
			web_op_fail(op, x->result, "%s", x->err.text);
	} else if (x->redirect && leads_elsewhere(op)) {
		op_follow(op);
	} else if (may_renew(op) && (x->login != op->ws->login || op->ws->renew(op->ws))) {
		op->renewed = true;
		x->login = op->ws->login;
		web_begin(op->ws->web, x);
	} else {
		op->next(op);
	}
}

struct web_op *web_op_new(struct web_store *ws, struct store_request *request)
{
	struct web_op *op = calloc(1, sizeof(*op));

	if (!op) {
		store_fail(&ws->store, request, -ENOMEM, "no memory for a request");
		return NULL;
	}
	op->ws = ws;
	op->request = request;
	return op;
}

bool web_op_ask(struct web_op *op, enum web_method method, char *url,
		void (*next)(struct web_op *op))
{
	web_exchange_fini(&op->x);
	web_exchange_init(&op->x, method);
	if (!url) {
		web_op_fail(op, -ENOMEM, "no memory for a request");
		return false;
	}
	op->x.url = url;
	op->x.urgent = op->request && op->request->flags & STORE_URGENT;
	op->x.soon = op->request && op->request->flags & STORE_SOON;
	op->x.login = op->ws->login;
	op->x.unwanted = op_unwanted;
	op->x.done = op_exchange_done;
	op->next = next;
	op->redirects = 0;
	return true;
}

void web_op_go(struct web_op *op)
{
	web_begin(op->ws->web, &op->x);
}

/* ---- the store ---- */

int web_store_init(struct web_store *ws, const struct store_ops *ops, const struct store_url *url,
		   const struct web_config *config, struct err *err)
{
	if (url->scheme == STORE_S3)
		store_init(&ws->store, ops, "s3://%s/%s", url->host, url->path);
	else
		store_init(&ws->store, ops, "%s", ws->base);
	ws->pins = pins_new();
	if (!ws->pins)
		return err_set(err, -ENOMEM, "no memory for a store");
	return web_new(&ws->web, config, err);
}

struct web_login *web_store_login_new(struct web_store *ws)
{
	struct web_login *login = calloc(1, sizeof(*login));

	if (login)
		login->older = ws->login;
	return login;
}

void web_store_free(struct store *store)
{
	struct web_store *ws = (struct web_store *)store;
	struct web_login *login, *older;

	web_free(ws->web);
	pins_free(ws->pins);
	for (login = ws->login; login; login = older) {
		older = login->older;
		explicit_bzero(login, sizeof(*login));
		free(login);
	}
	free(ws->base);
	free(ws);
}

void web_store_cancel(struct store *store, struct store_request *request)
{
	struct web_store *ws = (struct web_store *)store;

	(void)request;
	web_look(ws->web);
}
