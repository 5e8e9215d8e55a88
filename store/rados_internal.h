/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What the files of the store in Ceph clusters share: rados.c, which has the life of a request,
 * rados_connect.c, rados_read.c, rados_write.c and rados_list.c.
 *
 * A request is an `op`, which goes step by step: `send` gives librados something to do, `step` sees
 * how that ended, and sends again or answers. While either of them runs the op is busy, and its
 * request's memory is safe to use; at all other times a cancel takes the request away at once. What
 * librados has is the op's own memory, which it keeps until librados has let go of it: a cancelled
 * op lives on without a request.
 */
#ifndef POSTERN_STORE_RADOS_INTERNAL_H
#define POSTERN_STORE_RADOS_INTERNAL_H

#include <limits.h>
#include <time.h>

#include "store/rados_lib.h"
#include "store/rados_pieces.h"
#include "store/store.h"
#include "store/url.h"

struct rados_op;

struct rados_op_queue {
	struct rados_op *first, *last;
};

struct rados_store {
	struct store store;
	const struct rados_lib *lib;
	char pool[sizeof(((struct store_url *)0)->host)];
	char prefix[STORE_URL_MAX + 1]; /* "", or ends with '/' */
	char space[256], id[256], conf[256], mon_host[256];
	char keyring[PATH_MAX];

	pthread_mutex_t lock; /* of all below, and of the fields of ops that say so */
	pthread_cond_t work, idle;
	pthread_t worker;
	bool has_worker, ending;
	unsigned int refs; /* the owner's, and one of each thread that may hang */
	unsigned int ops; /* that are not freed */
	unsigned int lists; /* threads of LISTs */
	unsigned int urgent, bulk; /* ops that were started */
	uint64_t bulk_bytes;
	struct rados_op_queue queue; /* not started; the urgent ones first */
	struct store_request *cancelled; /* to be answered by the worker */

	bool connecting, connected, refused; /* refused: connect_err is for those that wait */
	struct err connect_err;
	rados_t cluster; /* these two once it is connected */
	rados_ioctx_t io;
};

/* What is known of an object before it is changed. */
struct rados_look {
	uint64_t bytes;
	time_t mtime;
	int stat_result, xattrs_result;
	rados_xattrs_iter_t xattrs;
	uint64_t version;
	bool there;
	struct rados_pieces pieces;
};

struct rados_op {
	struct rados_store *rs;
	struct rados_op *next, *prev; /* rs->lock: while it is queued */
	bool queued, busy, complete; /* rs->lock */
	struct store_request *request; /* rs->lock, but where it is busy; NULL: it was answered */
	rados_completion_t completion; /* rs->lock; NULL: librados has nothing of it */
	int result; /* of what librados did */
	uint64_t version; /* of the object, then */
	bool urgent;
	uint64_t cost; /* bytes on their way because of it */

	/* 0, or a negative errno: nothing was sent. */
	int (*send)(struct rados_op *op, rados_completion_t completion);
	void (*step)(struct rados_op *op);

	char oid[STORE_URL_MAX + STORE_NAME_MAX + 2];
	uint8_t *data; /* GET: what comes */
	size_t got;
	uint64_t piece; /* which is read, written or removed now */
	struct rados_look look;
	struct rados_pieces pieces; /* PUT: of what is written */
	unsigned int rounds;
	int failed; /* PUT: with what, once its pieces are removed */
};

/* ---- rados.c ---- */

/* For `step`, and the first thing of an op: goes on with send and step as they are now. */
void rados_op_go(struct rados_op *op);
/* The end of an op that is busy. */
void rados_op_done(struct rados_op *op, int64_t result);
void rados_op_fail(struct rados_op *op, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* What librados said. */
void rados_op_refused(struct rados_op *op, int result);
/*
 * Of the piece number op->piece with this token, or of the head where it is 0. To be given room for
 * RADOS_OID_MAX bytes.
 */
#define RADOS_OID_MAX (STORE_URL_MAX + STORE_NAME_MAX + 2 + RADOS_TOKEN_DIGITS + 24)
const char *rados_op_oid(const struct rados_op *op, const char *token, char *out);
/*
 * false: it was cancelled, and is not the caller's to answer; else it is busy until rados_op_end,
 * which says whether it may go on.
 */
bool rados_op_begin(struct rados_op *op);
bool rados_op_end(struct rados_op *op);
void rados_op_free(struct rados_op *op);

void rados_store_get(struct rados_store *rs);
/* Not from a thread of librados. */
void rados_store_put(struct rados_store *rs);

/* ---- the others ---- */

/* With the lock held: starts a thread that connects. */
void rados_connect_start(struct rados_store *rs);
void rados_disconnect(struct rados_store *rs);

/* Begin an op that is busy. */
void rados_read_begin(struct rados_op *op);
void rados_write_begin(struct rados_op *op);
void rados_delete_begin(struct rados_op *op);
void rados_list_begin(struct rados_op *op);

/*
 * Looks at the head: op->look is filled in when `step` comes, with the result of the object itself
 * (-ENOENT is look.there == false, and no error). Returns its error, or 0, in rados_look_result.
 */
void rados_look_go(struct rados_op *op, void (*step)(struct rados_op *op));
int rados_look_result(struct rados_op *op);
/* Frees what a look holds; nothing where there was none. */
void rados_look_fini(struct rados_op *op);

#endif
