// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * PUT and DELETE.
 *
 * One operation of RADOS is atomic, and takes an object of up to 64 MiB. What is larger has pieces
 * (rados_pieces.h), which are written first; without its head nobody sees them.
 *
 * A write that was cancelled, or whose writer has died, may still be done: a daemon that has it
 * waits with it until enough of the others are there. It must not undo what came after it. So
 * nothing is written but under a condition: that there is no object (create exclusive), or that it
 * is still the one that was looked at before (its version). Where the condition does not hold, who
 * still waits for the request looks again.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "store/rados_internal.h"

/* Others write the same object so often in between, or something is wrong. */
#define ROUNDS_MOST 16u

static void put_head(struct rados_op *op);
static void put_look(struct rados_op *op);
static void delete_look(struct rados_op *op);

static bool is_new(const struct rados_op *op)
{
	return op->request->flags & STORE_NEW;
}

/* The condition did not hold: it has come, gone or changed. */
static bool has_changed(int result)
{
	return result == -ERANGE || result == -EOVERFLOW || result == -EEXIST || result == -ENOENT;
}

static int operate(struct rados_op *op, rados_write_op_t write, rados_completion_t completion,
		   const char *oid)
{
	const struct rados_lib *lib = op->rs->lib;
	/* A cluster that is full says so, instead of making us wait. */
	int r = lib->rados_aio_write_op_operate(write, op->rs->io, completion, oid, NULL,
						LIBRADOS_OPERATION_FULL_TRY);

	lib->rados_release_write_op(write);
	return r;
}

static bool again(struct rados_op *op, void (*look)(struct rados_op *op))
{
	if (++op->rounds > ROUNDS_MOST)
		return false;
	look(op);
	return true;
}

/* ---- pieces, from the last to the first ---- */

static int send_remove_piece(struct rados_op *op, rados_completion_t completion)
{
	const struct rados_pieces *pieces = op->failed ? &op->pieces : &op->look.pieces;
	char oid[RADOS_OID_MAX];

	return op->rs->lib->rados_aio_remove(op->rs->io, rados_op_oid(op, pieces->token, oid),
					     completion);
}

static void remove_ended(struct rados_op *op)
{
	if (op->failed == -EEXIST)
		rados_op_fail(op, -EEXIST,
			      "it is there already, and is not overwritten: choose another name, "
			      "or delete it");
	else if (op->failed)
		rados_op_refused(op, op->failed);
	else
		rados_op_done(op, op->request->verb == STORE_PUT ? (int64_t)op->request->len : 0);
}

/* What cannot be removed a LIST removes later (rados_list.c). */
static void on_piece_removed(struct rados_op *op)
{
	if (--op->piece)
		rados_op_go(op);
	else
		remove_ended(op);
}

static void remove_pieces(struct rados_op *op, const struct rados_pieces *pieces)
{
	op->piece = rados_pieces_count(pieces);
	op->send = send_remove_piece;
	op->step = on_piece_removed;
	on_piece_removed(op);
}

/* ---- PUT ---- */

static void put_ended(struct rados_op *op, int failed)
{
	op->failed = failed;
	if (failed && op->pieces.bytes)
		remove_pieces(op, &op->pieces);
	else if (!failed && op->look.pieces.bytes)
		remove_pieces(op, &op->look.pieces);
	else
		remove_ended(op);
}

static int put_send_piece(struct rados_op *op, rados_completion_t completion)
{
	const struct rados_lib *lib = op->rs->lib;
	uint64_t at = op->piece * RADOS_PIECE_BYTES, n = op->request->len - at;
	rados_write_op_t write = lib->rados_create_write_op();
	char oid[RADOS_OID_MAX];

	lib->rados_write_op_create(write, LIBRADOS_CREATE_EXCLUSIVE, NULL);
	lib->rados_write_op_write_full(write, (const char *)op->request->data + at,
				       n < RADOS_PIECE_BYTES ? n : RADOS_PIECE_BYTES);
	return operate(op, write, completion, rados_op_oid(op, op->pieces.token, oid));
}

static void on_piece(struct rados_op *op)
{
	/* -EEXIST: a try whose answer was lost; nobody else has the token. */
	if (op->result < 0 && op->result != -EEXIST)
		put_ended(op, op->result);
	else if (--op->piece)
		rados_op_go(op);
	else
		put_head(op);
}

static int pieces_new(struct rados_op *op)
{
	uint64_t token;

	op->pieces.bytes = op->request->len;
	if (getrandom(&token, sizeof(token), 0) != sizeof(token))
		return -EIO;
	snprintf(op->pieces.token, sizeof(op->pieces.token), "%016llx", (unsigned long long)token);
	return 0;
}

static void put_pieces(struct rados_op *op)
{
	if (pieces_new(op) < 0) {
		rados_op_fail(op, -EIO, "there are no random numbers");
		return;
	}
	op->piece = rados_pieces_count(&op->pieces) - 1;
	op->send = put_send_piece;
	op->step = on_piece;
	rados_op_go(op);
}

static int send_head(struct rados_op *op, rados_completion_t completion)
{
	const struct rados_lib *lib = op->rs->lib;
	size_t n = op->pieces.bytes ? RADOS_PIECE_BYTES : op->request->len;
	rados_write_op_t write = lib->rados_create_write_op();
	char text[RADOS_PIECES_TEXT_MAX];

	if (op->look.there)
		lib->rados_write_op_assert_version(write, op->look.version);
	else
		lib->rados_write_op_create(write, LIBRADOS_CREATE_EXCLUSIVE, NULL);
	lib->rados_write_op_write_full(write, op->request->data, n);
	if (op->pieces.bytes)
		lib->rados_write_op_setxattr(write, RADOS_PIECES_XATTR, text,
					     rados_pieces_format(text, &op->pieces));
	else if (op->look.pieces.bytes)
		lib->rados_write_op_rmxattr(write, RADOS_PIECES_XATTR);
	return operate(op, write, completion, op->oid);
}

static void on_head(struct rados_op *op)
{
	if (has_changed(op->result) && !is_new(op)) {
		if (!again(op, put_look))
			put_ended(op, -EAGAIN);
		return;
	}
	put_ended(op, op->result < 0 ? op->result : 0);
}

static void put_head(struct rados_op *op)
{
	op->send = send_head;
	op->step = on_head;
	rados_op_go(op);
}

static void on_put_look(struct rados_op *op)
{
	int r = rados_look_result(op);

	/* What is damaged may be written over. */
	if (r < 0 && r != -EBADMSG)
		put_ended(op, r);
	else if (op->look.there && is_new(op))
		put_ended(op, -EEXIST);
	else if (op->request->len > RADOS_PIECE_BYTES && !op->pieces.bytes)
		put_pieces(op);
	else
		put_head(op);
}

static void put_look(struct rados_op *op)
{
	op->piece = 0;
	rados_look_go(op, on_put_look);
}

void rados_write_begin(struct rados_op *op)
{
	/* Of what has to be new the write itself will tell. */
	if (is_new(op) && op->request->len <= RADOS_PIECE_BYTES)
		put_head(op);
	else
		put_look(op);
}

/* ---- DELETE ---- */

static int send_delete(struct rados_op *op, rados_completion_t completion)
{
	const struct rados_lib *lib = op->rs->lib;
	rados_write_op_t write = lib->rados_create_write_op();

	lib->rados_write_op_assert_version(write, op->look.version);
	lib->rados_write_op_remove(write);
	return operate(op, write, completion, op->oid);
}

static void on_deleted(struct rados_op *op)
{
	if (has_changed(op->result)) {
		if (!again(op, delete_look))
			rados_op_refused(op, -EAGAIN);
	} else if (op->result < 0) {
		rados_op_refused(op, op->result);
	} else if (op->look.pieces.bytes) {
		remove_pieces(op, &op->look.pieces);
	} else {
		rados_op_done(op, 0);
	}
}

static void on_delete_look(struct rados_op *op)
{
	int r = rados_look_result(op);

	if (r < 0 && r != -EBADMSG) {
		rados_op_refused(op, r);
	} else if (!op->look.there) {
		rados_op_done(op, 0);
	} else {
		op->send = send_delete;
		op->step = on_deleted;
		rados_op_go(op);
	}
}

static void delete_look(struct rados_op *op)
{
	op->piece = 0;
	rados_look_go(op, on_delete_look);
}

void rados_delete_begin(struct rados_op *op)
{
	delete_look(op);
}
