// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * GET of a range, for whatever speaks HTTP. Servers may answer with other bytes than asked for, or
 * with all of them, and libcurl calls that a success: nothing is taken before the head has said
 * which bytes these are, of which version, and how many (RFC 9110, 14 and 15.3.7).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "store/web_store.h"

static int get_prepare(struct web_exchange *x)
{
	struct web_op *op = web_op_of(x);
	const struct store_request *request = op->request;
	char etag[WEB_TAG_MAX];

	op->skip = op->got = op->expected = 0;
	op->has_expected = op->until_enough = false;
	snprintf(x->range, sizeof(x->range), "%" PRIu64 "-%" PRIu64, request->offset,
		 request->offset + op->want - 1);
	/* What reads a small object whole takes it in any version. */
	if ((op->up_to && !request->offset) || !pins_etag(op->ws->pins, request->object, etag))
		return 0;
	return web_exchange_header(x, "If-Match: %s", etag);
}

static int get_too_short(struct web_exchange *x, uint64_t total)
{
	const struct web_op *op = web_op_of(x);

	return err_set(&x->err, -EBADMSG,
		       "it has %" PRIu64 " bytes, and bytes %" PRIu64 " to %" PRIu64 " are needed: "
		       "it is damaged or another object", total, op->request->offset,
		       op->request->offset + op->want - 1);
}

/* 206: these bytes and no others. */
static int get_head_part(struct web_exchange *x)
{
	const struct web_answer *answer = &x->answer;
	struct web_op *op = web_op_of(x);
	uint64_t first = op->request->offset, end = first + op->want;

	if (!answer->has_range)
		return err_set(&x->err, -EBADMSG, "the server sends a part without saying which");
	if (answer->first != first || answer->last >= end)
		return err_set(&x->err, -EBADMSG, "the server sends bytes %" PRIu64 " to %" PRIu64
			       " instead of %" PRIu64 " to %" PRIu64, answer->first, answer->last,
			       first, end - 1);
	op->expected = answer->last - first + 1;
	op->has_expected = true;
	if (answer->has_length && answer->length != op->expected)
		return err_set(&x->err, -EBADMSG, "the server contradicts itself about the length");
	if (op->expected == op->want || (op->up_to && !answer->has_total))
		return 0;
	if (!answer->has_total || answer->last + 1 < answer->total)
		return err_set(&x->err, -EBADMSG, "the server sends only %" PRIu64 " of %" PRIu64
			       " bytes", op->expected, op->want);
	return op->up_to ? 0 : get_too_short(x, answer->total);
}

/* 200: all of it, from its beginning. What is wanted is taken out of it if it does not lie deep. */
static int get_head_all(struct web_exchange *x)
{
	struct web_answer *answer = &x->answer;
	struct web_op *op = web_op_of(x);
	uint64_t offset = op->request->offset, there;

	op->until_enough = true;
	op->skip = offset;
	if (offset > WEB_SKIP_MAX)
		return err_set(&x->err, -EBADMSG,
			       "the server ignores ranges and sends objects from "
			       "their beginning: a store needs a server with range requests");
	/* A part's Content-Range may not stand here. */
	answer->has_total = answer->has_length;
	answer->total = answer->length;
	if (!answer->has_length)
		return 0;
	there = answer->total > offset ? answer->total - offset : 0;
	op->expected = there < op->want ? there : op->want;
	op->has_expected = true;
	return op->expected < op->want && !op->up_to ? get_too_short(x, answer->total) : 0;
}

static int get_head(struct web_exchange *x)
{
	const struct web_answer *answer = &x->answer;
	struct web_op *op = web_op_of(x);
	bool whole;
	int r;

	if (answer->encoded)
		return err_set(&x->err, -EBADMSG, "the server sends it encoded, which nobody asked "
			       "for: switch compression off there");
	if (answer->status == 206)
		r = get_head_part(x);
	else if (answer->status == 200)
		r = get_head_all(x);
	else
		r = err_set(&x->err, -EBADMSG, "the server says %u to a GET", answer->status);
	if (r < 0)
		return r;
	whole = !op->request->offset && answer->has_total && answer->total <= op->want;
	return pins_check(op->ws->pins, op->request->object, answer, whole, &x->err);
}

static int get_take(struct web_exchange *x, const uint8_t *data, size_t n)
{
	struct web_op *op = web_op_of(x);
	uint64_t limit = op->has_expected ? op->expected : op->want, skip;
	uint8_t *to = op->request->len ? op->request->data : &op->scratch;

	skip = n < op->skip ? n : op->skip;
	op->skip -= skip;
	data += skip;
	n -= skip;
	if (n > limit - op->got) {
		if (!op->until_enough)
			return err_set(&x->err, -EBADMSG,
				       "the server sends more than was asked for");
		n = limit - op->got;
		memcpy(to + op->got, data, n);
		op->got += n;
		return 1;
	}
	if (n)
		memcpy(to + op->got, data, n);
	op->got += n;
	return 0;
}

static void get_refused(struct web_op *op)
{
	const struct web_answer *answer = &op->x.answer;
	uint64_t offset = op->request->offset;

	if (answer->status == 416 && op->up_to && !(answer->has_total && answer->total > offset))
		web_op_done(op, 0);
	else if (answer->status == 416)
		web_op_fail(op, -EBADMSG,
			    "it ends before byte %" PRIu64 ": it is damaged or another "
			    "object",
			    offset);
	else if (answer->status == 412)
		web_op_fail(op, -ESTALE, "it was replaced while it was being read: whoever writes "
			    "there must not change objects; open the image anew");
	else
		web_op_refused(op);
}

static void get_answered(struct web_op *op)
{
	uint64_t needed = op->has_expected ? op->expected : op->want;

	if (!web_op_succeeded(op))
		get_refused(op);
	else if (op->got < needed && (op->has_expected || !op->up_to))
		web_op_fail(op, -EBADMSG, "the server sends %" PRIu64 " of %" PRIu64 " bytes",
			    op->got, needed);
	else
		web_op_done(op, op->request->len ? (int64_t)op->got : 0);
}

void web_get(struct web_store *ws, struct store_request *request)
{
	struct web_op *op = web_op_new(ws, request);

	if (!op)
		return;
	op->want = request->len ? request->len : 1;
	op->up_to = request->flags & STORE_UP_TO || !request->len;
	if (!web_op_ask(op, WEB_GET, web_object_url(ws, request->object, NULL), get_answered))
		return;
	op->x.bytes = op->want;
	op->x.prepare = get_prepare;
	op->x.head = get_head;
	op->x.take = get_take;
	web_op_go(op);
}
