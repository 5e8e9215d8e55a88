// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * GET, and what is looked at before an object is changed.
 *
 * librados reads fewer bytes where the object ends, none behind it, and refuses to read none at all
 * of an object that has some (-ERANGE): then it is only looked at.
 */
#include <errno.h>
#include <string.h>

#include "store/rados_internal.h"

/* ---- looking ---- */

static int send_look(struct rados_op *op, rados_completion_t completion)
{
	const struct rados_lib *lib = op->rs->lib;
	struct rados_look *look = &op->look;
	rados_read_op_t read = lib->rados_create_read_op();
	int r;

	memset(look, 0, sizeof(*look));
	lib->rados_read_op_stat(read, &look->bytes, &look->mtime, &look->stat_result);
	lib->rados_read_op_getxattrs(read, &look->xattrs, &look->xattrs_result);
	r = lib->rados_aio_read_op_operate(read, op->rs->io, completion, op->oid, 0);
	lib->rados_release_read_op(read);
	return r;
}

void rados_look_go(struct rados_op *op, void (*step)(struct rados_op *op))
{
	rados_look_fini(op);
	op->send = send_look;
	op->step = step;
	rados_op_go(op);
}

void rados_look_fini(struct rados_op *op)
{
	if (op->look.xattrs)
		op->rs->lib->rados_getxattrs_end(op->look.xattrs);
	op->look.xattrs = NULL;
}

/* -EBADMSG: its attribute is not one that we write. */
static int look_for_pieces(struct rados_op *op)
{
	const char *name, *value;
	size_t len;

	for (;;) {
		if (op->rs->lib->rados_getxattrs_next(op->look.xattrs, &name, &value, &len) < 0)
			return -EIO;
		if (!name)
			return 0;
		if (!strcmp(name, RADOS_PIECES_XATTR))
			return rados_pieces_parse(&op->look.pieces, value, len) &&
					       op->look.bytes == RADOS_PIECE_BYTES ?
				       0 :
				       -EBADMSG;
	}
}

int rados_look_result(struct rados_op *op)
{
	struct rados_look *look = &op->look;

	look->version = op->version;
	look->there = op->result >= 0;
	if (op->result < 0)
		return op->result == -ENOENT ? 0 : op->result;
	return look_for_pieces(op);
}

/* ---- reading ---- */

static void read_next(struct rados_op *op);

static int send_read(struct rados_op *op, rados_completion_t completion)
{
	uint64_t at = op->request->offset + op->got, in = at % RADOS_PIECE_BYTES;
	size_t n = op->request->len - op->got;
	char oid[RADOS_OID_MAX];

	if (!op->look.pieces.bytes) {
		in = at;
		op->piece = 0;
	} else {
		op->piece = at / RADOS_PIECE_BYTES;
		if (n > RADOS_PIECE_BYTES - in)
			n = (size_t)(RADOS_PIECE_BYTES - in);
	}
	return op->rs->lib->rados_aio_read(op->rs->io, rados_op_oid(op, op->look.pieces.token, oid),
					   completion, (char *)op->data + op->got, n, in);
}

static void read_ended(struct rados_op *op)
{
	if (op->request->flags & STORE_UP_TO || op->got == op->request->len)
		rados_op_done(op, (int64_t)op->got);
	else
		rados_op_fail(op, -EBADMSG, "it is too short");
}

/* Others may have written one of any size, without pieces. */
static uint64_t object_bytes(const struct rados_op *op)
{
	return op->look.pieces.bytes ? op->look.pieces.bytes : op->look.bytes;
}

static void on_look(struct rados_op *op)
{
	int r = rados_look_result(op);

	if (r == -EBADMSG)
		rados_op_fail(op, -EBADMSG, "its attribute %s says nothing that can be",
			      RADOS_PIECES_XATTR);
	else if (r < 0 || !op->look.there)
		rados_op_refused(op, r < 0 ? r : -ENOENT);
	else if (op->got < op->request->len && op->request->offset + op->got < object_bytes(op))
		read_next(op);
	else
		read_ended(op);
}

static void rados_on_read(struct rados_op *op)
{
	uint64_t at;

	if (op->result == -ENOENT && op->piece) {
		rados_op_fail(op, -ESTALE, "it was replaced while it was read");
		return;
	}
	if (op->result == -ERANGE ||
	    (op->result > 0 && (size_t)op->result > op->request->len - op->got)) {
		rados_op_fail(op, -EBADMSG, "the cluster sends more than it was asked for");
		return;
	}
	if (op->result < 0) {
		rados_op_refused(op, op->result);
		return;
	}
	op->got += (size_t)op->result;
	at = op->request->offset + op->got;
	if (op->got == op->request->len)
		read_ended(op);
	else if (op->look.pieces.bytes > at && !op->result)
		rados_op_fail(op, -EBADMSG, "a piece of it is too short");
	else if (op->look.pieces.bytes > at)
		read_next(op);
	else if (!op->look.pieces.bytes && at == RADOS_PIECE_BYTES)
		/* A head is so long: there may be pieces behind it. */
		rados_look_go(op, on_look);
	else
		read_ended(op);
}

static void read_next(struct rados_op *op)
{
	op->send = send_read;
	op->step = rados_on_read;
	rados_op_go(op);
}

void rados_read_begin(struct rados_op *op)
{
	if (op->request->len && op->request->offset < RADOS_PIECE_BYTES)
		read_next(op);
	else
		rados_look_go(op, on_look);
}
