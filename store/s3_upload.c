// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A long object, written in parts, some at a time: begun (which gives it an id), sent, completed.
 * The object is not there before it has been completed whole. Whatever goes wrong before that, the
 * upload is given up at the server, too, where its parts would be kept and paid for otherwise; that
 * goes on after the request is done, which does not wait for it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "store/s3_internal.h"

#define AT_ONCE 4u

struct s3_upload;

struct s3_part {
	struct web_exchange x;		/* the first: an exchange is its part */
	struct s3_upload *upload;
	unsigned int number;		/* from 1 on */
};

struct s3_upload {
	struct web_op *op;
	struct s3_xml *xml;		/* of what the server answers to the beginning and the end */
	char id[1025];
	char root[S3_XML_NAME_MAX];	/* of its answer */
	bool began;			/* something of the answer's body has come */
	struct buf said;		/* the answer's beginning, if it is an error */
	unsigned int parts, begun, under_way;
	char (*etags)[WEB_TAG_MAX];	/* of each part */
	struct s3_part part[AT_ONCE];
	struct err err;			/* code: why no more parts are begun */
	struct buf list;		/* what completes it */
};

static char *upload_url(const struct s3_upload *upload, unsigned int number)
{
	char *id = web_escape(upload->id, false), *query = NULL, *url = NULL;
	int n = -1;

	if (id && number)
		n = asprintf(&query, "partNumber=%u&uploadId=%s", number, id);
	else if (id)
		n = asprintf(&query, "uploadId=%s", id);
	if (n >= 0) {
		url = web_object_url(upload->op->ws, upload->op->request->object, query);
		free(query);
	}
	free(id);
	return url;
}

static void upload_drop(struct web_op *op)
{
	struct s3_upload *upload = op->own;

	s3_xml_free(upload->xml);
	buf_fini(&upload->said);
	buf_fini(&upload->list);
	free(upload->etags);
	free(upload);
}

/* ---- giving it up ---- */

static void upload_gone(struct web_op *op)
{
	if (op->x.result < 0 || (!web_op_succeeded(op) && op->x.answer.status != 404))
		log_warn(
			"%s: an upload that failed is left at the server, where its parts take room: "
			"let a life-cycle rule of the bucket remove such (%s)",
			op->ws->store.label,
			op->x.result < 0 ? op->x.err.text : "it did not let us");
	web_op_done(op, 0);
}

static void upload_give_up(struct s3_upload *upload)
{
	struct web_op *op = upload->id[0] ? calloc(1, sizeof(*op)) : NULL;

	if (!op)
		return;
	op->ws = upload->op->ws;
	op->tolerant = true;
	if (web_op_ask(op, WEB_DELETE, upload_url(upload, 0), upload_gone))
		web_op_go(op);
}

static void upload_fail(struct s3_upload *upload, int code, const char *text)
{
	char why[sizeof(upload->err.text)];

	snprintf(why, sizeof(why), "%s", text);
	upload_give_up(upload);
	web_op_fail(upload->op, code, "%s", why);
}

/* What the server made of the beginning or the end is not what was asked for. */
static void upload_refused(struct s3_upload *upload)
{
	upload_give_up(upload);
	web_op_refused(upload->op);
}

/* ---- answers with a document ---- */

static void upload_value(void *arg, const char *path, const char *text)
{
	struct s3_upload *upload = arg;
	size_t n = strcspn(path, "/");

	if (n < sizeof(upload->root)) {
		memcpy(upload->root, path, n);
		upload->root[n] = 0;
	}
	if (text && !strcmp(path, "InitiateMultipartUploadResult/UploadId") &&
	    strlen(text) < sizeof(upload->id))
		strcpy(upload->id, text);
}

static int upload_prepare(struct web_exchange *x)
{
	struct s3_upload *upload = web_op_of(x)->own;

	s3_xml_free(upload->xml);
	upload->xml = NULL;
	upload->root[0] = 0;
	upload->began = false;
	upload->said.len = 0;
	return s3_xml_new(&upload->xml, upload_value, upload, &x->err);
}

/* While it works the server may send white space, also where no XML would have it. */
static int upload_take(struct web_exchange *x, const uint8_t *data, size_t n)
{
	struct s3_upload *upload = web_op_of(x)->own;
	size_t room = WEB_ERROR_MAX - upload->said.len;

	while (!upload->began && n && strchr(" \t\r\n", *data))
		data++, n--;
	if (!n)
		return 0;
	upload->began = true;
	if (buf_append(&upload->said, data, n < room ? n : room) < 0)
		return err_set(&x->err, -ENOMEM, "no memory for an answer");
	return s3_xml_feed(upload->xml, data, n, &x->err);
}

/* ---- the end ---- */

static void upload_completed(struct web_op *op)
{
	struct s3_upload *upload = op->own;
	char text[200] = "";
	int code = -EAGAIN;

	if (op->x.result < 0) {
		upload_fail(upload, op->x.result, op->x.err.text);
	} else if (op->request->flags & STORE_NEW && op->x.answer.status == 412) {
		upload_give_up(upload);
		web_put_exists(op);
	} else if (!web_op_succeeded(op)) {
		upload_refused(upload);
	} else if (!s3_xml_end(upload->xml, NULL) &&
		   !strcmp(upload->root, "CompleteMultipartUploadResult")) {
		pins_forget(op->ws->pins, op->request->object);
		web_op_done(op, (int64_t)op->request->len);
	} else {
		/* A success that is none: its status was sent before the work was done. */
		s3_error_read(upload->said.data, upload->said.len, &code, text, sizeof(text));
		upload_give_up(upload);
		web_op_fail(op, code, "the server could not put the object's parts together%s",
			    text);
	}
}

static int complete_prepare(struct web_exchange *x)
{
	struct web_op *op = web_op_of(x);
	int r = upload_prepare(x);

	if (!r)
		r = web_exchange_header(x, "Content-Type: application/xml");
	if (!r && op->request->flags & STORE_NEW && !op->ws->conditions_ignored)
		r = web_exchange_header(x, "If-None-Match: *");
	return r;
}

static int write_list(struct s3_upload *upload)
{
	static const char head[] = "<CompleteMultipartUpload>",
			  end[] = "</CompleteMultipartUpload>";
	char line[WEB_TAG_MAX + 80];
	unsigned int i;
	int n, r = buf_append(&upload->list, head, sizeof(head) - 1);

	for (i = 0; !r && i < upload->parts; i++) {
		n = snprintf(line, sizeof(line),
			     "<Part><PartNumber>%u</PartNumber><ETag>%s</ETag></Part>", i + 1,
			     upload->etags[i]);
		r = buf_append(&upload->list, line, (size_t)n);
	}
	return r ? r : buf_append(&upload->list, end, sizeof(end) - 1);
}

static void upload_complete(struct s3_upload *upload)
{
	struct web_op *op = upload->op;

	if (write_list(upload) < 0) {
		upload_fail(upload, -ENOMEM, "no memory for an upload");
		return;
	}
	op->tolerant = true;
	if (!web_op_ask(op, WEB_POST, upload_url(upload, 0), upload_completed))
		return;
	op->x.body = upload->list.data;
	op->x.body_len = upload->list.len;
	op->x.bytes = op->request->len;
	op->x.prepare = complete_prepare;
	op->x.take = upload_take;
	web_op_go(op);
}

/* ---- parts ---- */

static bool part_unwanted(struct web_exchange *x)
{
	struct s3_upload *upload = ((struct s3_part *)x)->upload;

	return upload->err.code || store_is_cancelled(upload->op->request);
}

/* The first failure is the upload's; its other parts are ended. */
static void part_failed(struct s3_part *part)
{
	struct s3_upload *upload = part->upload;
	struct web_store *ws = upload->op->ws;
	int code = web_answer_errno(part->x.answer.status);
	char text[200] = "";

	if (upload->err.code)
		return;
	if (part->x.result < 0) {
		upload->err = part->x.err;
	} else if (web_answer_errno(part->x.answer.status) == -EPROTO &&
		   part->x.answer.status < 300) {
		err_set(&upload->err, -EBADMSG, "the server says nothing of a part that it can be "
			"named by");
	} else {
		ws->explain(ws, &part->x, &code, text, sizeof(text));
		upload->op->request->again_ms = part->x.retry_after_s * 1000;
		err_set(&upload->err, code, "the server says %u%s%s to a part",
			part->x.answer.status, web_answer_phrase(part->x.answer.status), text);
	}
	web_look(ws->web);
}

static bool part_took(struct s3_part *part)
{
	const struct web_answer *answer = &part->x.answer;

	if (part->x.result < 0 || answer->status < 200 || answer->status > 299 ||
	    !answer->etag[0] || strpbrk(answer->etag, "<>&"))
		return false;
	strcpy(part->upload->etags[part->number - 1], answer->etag);
	return true;
}

static void part_begin(struct s3_part *part);

static void part_done(struct web_exchange *x)
{
	struct s3_part *part = (struct s3_part *)x;
	struct s3_upload *upload = part->upload;

	upload->under_way--;
	if (!part_took(part))
		part_failed(part);
	web_exchange_fini(x);
	if (!upload->err.code && upload->begun < upload->parts)
		part_begin(part);
	else if (upload->under_way)
		return;
	else if (upload->err.code)
		upload_fail(upload, upload->err.code, upload->err.text);
	else
		upload_complete(upload);
}

static void part_begin(struct s3_part *part)
{
	struct s3_upload *upload = part->upload;
	const struct store_request *request = upload->op->request;
	uint64_t from = upload->begun * S3_PART_BYTES;

	part->number = ++upload->begun;
	upload->under_way++;
	web_exchange_init(&part->x, WEB_PUT);
	part->x.url = upload_url(upload, part->number);
	part->x.urgent = request->flags & STORE_URGENT;
	part->x.login = upload->op->ws->login;
	part->x.body = (const uint8_t *)request->data + from;
	part->x.body_len =
		request->len - from < S3_PART_BYTES ? request->len - from : S3_PART_BYTES;
	part->x.bytes = part->x.body_len * AT_ONCE;
	part->x.unwanted = part_unwanted;
	part->x.done = part_done;
	if (part->x.url) {
		web_begin(upload->op->ws->web, &part->x);
		return;
	}
	part->x.result = err_set(&part->x.err, -ENOMEM, "no memory for an upload");
	part_done(&part->x);
}

/* ---- the beginning ---- */

static void upload_created(struct web_op *op)
{
	struct s3_upload *upload = op->own;
	unsigned int i;

	if (!web_op_succeeded(op)) {
		web_op_refused(op);
		return;
	}
	if (s3_xml_end(upload->xml, NULL) < 0 || !upload->id[0]) {
		web_op_fail(op, -EBADMSG,
			    "the server begins an upload and gives it no id: is this S3?");
		return;
	}
	upload->under_way = 1;
	for (i = 0; i < AT_ONCE && upload->begun < upload->parts && !upload->err.code; i++) {
		upload->part[i].upload = upload;
		part_begin(&upload->part[i]);
	}
	if (!--upload->under_way)
		upload_fail(upload, upload->err.code, upload->err.text);
}

static void upload_create(struct web_op *op)
{
	char *url = web_object_url(op->ws, op->request->object, "uploads=");

	if (!web_op_ask(op, WEB_POST, url, upload_created))
		return;
	op->x.prepare = upload_prepare;
	op->x.take = upload_take;
	web_op_go(op);
}

void s3_upload(struct s3_store *s3, struct store_request *request)
{
	struct web_op *op = web_op_new(&s3->web, request);
	struct s3_upload *upload;

	if (!op)
		return;
	upload = calloc(1, sizeof(*upload));
	if (upload) {
		upload->parts = (unsigned int)((request->len + S3_PART_BYTES - 1) / S3_PART_BYTES);
		upload->etags = calloc(upload->parts, sizeof(*upload->etags));
	}
	if (!upload || !upload->etags) {
		free(upload);
		web_op_fail(op, -ENOMEM, "no memory for an upload");
		return;
	}
	upload->op = op;
	op->own = upload;
	op->drop = upload_drop;
	op->write = upload_create;
	if (request->flags & STORE_NEW)
		web_put_ask(op);
	else
		upload_create(op);
}
