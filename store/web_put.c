// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * PUT and DELETE, for whatever speaks HTTP.
 *
 * STORE_NEW. The condition is the server's: If-None-Match: * (RFC 9110, 13.1.2). Not all know it,
 * and those that do not overwrite without a word. So it is asked first whether the object is there,
 * which leaves a gap of some milliseconds between two writers; and whether the server knows the
 * condition is found out once, by writing the first small new object a second time: it has to be
 * refused. A server that overwrites is told of in the log, once.
 */
#include <errno.h>

#include "base/log.h"
#include "store/web_store.h"

/* What is worth writing twice. */
#define CHECK_MAX (64u << 10)

void web_put_exists(struct web_op *op)
{
	web_op_fail(op, -EEXIST,
		    "it is there already, and is not overwritten: choose another name, "
		    "or delete it");
}

static void put_asked(struct web_op *op)
{
	unsigned int status = op->x.answer.status;

	if (web_op_succeeded(op))
		web_put_exists(op);
	else if (status == 404 || status == 403 || status == 405 || status == 501)
		/*
		 * Who may write but not list gets 403 for what is not there:
		 * the write will tell.
		 */
		op->write(op);
	else
		web_op_refused(op);
}

void web_put_ask(struct web_op *op)
{
	if (web_op_ask(op, WEB_HEAD, web_object_url(op->ws, op->request->object, NULL), put_asked))
		web_op_go(op);
}

static int put_prepare(struct web_exchange *x)
{
	struct web_op *op = web_op_of(x);

	if (!(op->request->flags & STORE_NEW) || op->ws->conditions_ignored)
		return 0;
	return web_exchange_header(x, "If-None-Match: *");
}

static void conditions_are_ignored(struct web_store *ws)
{
	ws->conditions_checked = ws->conditions_ignored = true;
	log_warn("%s: the server overwrites objects although it is told not to (If-None-Match): "
		 "see to it that no two write the same image there at a time", ws->store.label);
}

/* The object is written; whatever comes of the check changes nothing about that. */
static void put_checked(struct web_op *op)
{
	if (!op->x.result && op->x.answer.status == 412)
		op->ws->conditions_checked = true;
	else if (!op->x.result && web_op_succeeded(op))
		conditions_are_ignored(op->ws);
	web_op_done(op, (int64_t)op->request->len);
}

static void put_go(struct web_op *op, void (*next)(struct web_op *op))
{
	const struct store_request *request = op->request;

	if (!web_op_ask(op, WEB_PUT, web_object_url(op->ws, request->object, NULL), next))
		return;
	op->x.body = request->data;
	op->x.body_len = request->len;
	op->x.bytes = request->len;
	op->x.prepare = put_prepare;
	web_op_go(op);
}

static void put_write(struct web_op *op);

static void put_answered(struct web_op *op)
{
	bool is_new = op->request->flags & STORE_NEW;
	struct web_store *ws = op->ws;

	if (web_op_succeeded(op)) {
		pins_forget(ws->pins, op->request->object);
		if (is_new && !ws->conditions_checked && op->request->len <= CHECK_MAX) {
			op->tolerant = true;
			put_go(op, put_checked);
		} else {
			web_op_done(op, (int64_t)op->request->len);
		}
	} else if (is_new && op->x.answer.status == 412) {
		ws->conditions_checked = true;
		web_put_exists(op);
	} else if (is_new && op->x.answer.status == 501 && !ws->conditions_ignored) {
		/* It says that it does not know the condition. */
		conditions_are_ignored(ws);
		put_write(op);
	} else {
		web_op_refused(op);
	}
}

static void put_write(struct web_op *op)
{
	put_go(op, put_answered);
}

void web_put(struct web_store *ws, struct store_request *request)
{
	struct web_op *op = web_op_new(ws, request);

	if (!op)
		return;
	op->write = put_write;
	if (request->flags & STORE_NEW)
		web_put_ask(op);
	else
		put_write(op);
}

static void delete_answered(struct web_op *op)
{
	unsigned int status = op->x.answer.status;

	if (!web_op_succeeded(op) && status != 404 && status != 410) {
		web_op_refused(op);
		return;
	}
	pins_forget(op->ws->pins, op->request->object);
	web_op_done(op, 0);
}

void web_delete(struct web_store *ws, struct store_request *request)
{
	struct web_op *op = web_op_new(ws, request);

	if (op && web_op_ask(op, WEB_DELETE, web_object_url(ws, request->object, NULL),
			     delete_answered))
		web_op_go(op);
}
