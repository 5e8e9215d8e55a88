// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A store in a Ceph cluster: the life of a request. rados_internal.h has the idea.
 *
 * Threads: whoever begins a request queues it. `store-rados` connects (by a thread of its own, since
 * that may take long), starts what is queued, and answers what was cancelled. librados' threads tell
 * how a step ended, and take the next one. What somebody waits for (STORE_URGENT) is started at
 * once; of all else a few at a time, and fewer while something urgent is under way: it would queue
 * behind them in the connections.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cond.h"
#include "base/thread.h"
#include "store/rados.h"
#include "store/rados_internal.h"

#define BULK_MOST 8u
#define BULK_BESIDE_URGENT 2u
#define BULK_BYTES (UINT64_C(128) << 20)
#define LINGER_NS (500 * NS_PER_MS)

/* ---- queue: with the lock held ---- */

static void queue_unlink(struct rados_op_queue *queue, struct rados_op *op)
{
	*(op->prev ? &op->prev->next : &queue->first) = op->next;
	*(op->next ? &op->next->prev : &queue->last) = op->prev;
	op->next = op->prev = NULL;
	op->queued = false;
}

/* Urgent ones behind those that are urgent, before the rest. */
static void rados_queue_add(struct rados_op_queue *queue, struct rados_op *op)
{
	struct rados_op *before = queue->last;

	while (op->urgent && before && !before->urgent)
		before = before->prev;
	op->prev = before;
	op->next = before ? before->next : queue->first;
	*(before ? &before->next : &queue->first) = op;
	*(op->next ? &op->next->prev : &queue->last) = op;
	op->queued = true;
}

static bool may_start(const struct rados_store *rs, const struct rados_op *op)
{
	if (op->urgent || !rs->bulk)
		return true;
	return rs->bulk < (rs->urgent ? BULK_BESIDE_URGENT : BULK_MOST) &&
	       rs->bulk_bytes + op->cost <= BULK_BYTES;
}

static void note_start(struct rados_store *rs, struct rados_op *op)
{
	queue_unlink(&rs->queue, op);
	op->busy = true;
	if (op->urgent) {
		rs->urgent++;
	} else {
		rs->bulk++;
		rs->bulk_bytes += op->cost;
	}
}

/* ---- references ---- */

void rados_store_get(struct rados_store *rs)
{
	rs->refs++;
}

void rados_store_put(struct rados_store *rs)
{
	bool last;

	pthread_mutex_lock(&rs->lock);
	last = !--rs->refs;
	pthread_cond_broadcast(&rs->idle);
	/* What was cancelled librados lets go of soon. */
	while (last && rs->ops)
		pthread_cond_wait(&rs->idle, &rs->lock);
	pthread_mutex_unlock(&rs->lock);
	if (!last)
		return;
	rados_disconnect(rs);
	pthread_cond_destroy(&rs->work);
	pthread_cond_destroy(&rs->idle);
	pthread_mutex_destroy(&rs->lock);
	free(rs);
}

/* With the lock held, or not yet known to anybody. */
static void op_forget(struct rados_op *op)
{
	struct rados_store *rs = op->rs;

	free(op->data);
	free(op);
	if (!--rs->ops)
		pthread_cond_broadcast(&rs->idle);
}

/* Of an op that was started. */
void rados_op_free(struct rados_op *op)
{
	struct rados_store *rs = op->rs;

	rados_look_fini(op);
	pthread_mutex_lock(&rs->lock);
	if (op->urgent) {
		rs->urgent--;
	} else {
		rs->bulk--;
		rs->bulk_bytes -= op->cost;
	}
	if (rs->queue.first)
		pthread_cond_signal(&rs->work);
	op_forget(op);
	pthread_mutex_unlock(&rs->lock);
}

/* ---- steps ---- */

/*
 * With the lock held: the worker is to answer that it was cancelled. The op is
 * nobody's request from now on.
 */
static void op_take_away(struct rados_op *op)
{
	struct rados_store *rs = op->rs;
	struct store_request *request = op->request;

	op->request = NULL;
	request->own = NULL;
	request->next = rs->cancelled;
	rs->cancelled = request;
	pthread_cond_signal(&rs->work);
}

bool rados_op_begin(struct rados_op *op)
{
	bool mine;

	pthread_mutex_lock(&op->rs->lock);
	mine = op->request;
	op->busy = mine;
	pthread_mutex_unlock(&op->rs->lock);
	return mine;
}

bool rados_op_end(struct rados_op *op)
{
	bool mine;

	pthread_mutex_lock(&op->rs->lock);
	op->busy = false;
	if (store_is_cancelled(op->request))
		op_take_away(op);
	mine = op->request;
	pthread_mutex_unlock(&op->rs->lock);
	return mine;
}

/* librados is done with the step, and the op is not busy. */
static void op_next(struct rados_op *op)
{
	if (rados_op_begin(op))
		op->step(op);
	else
		rados_op_free(op);
}

/* On a thread of librados'. */
static void rados_on_complete(rados_completion_t completion, void *arg)
{
	struct rados_op *op = arg;
	struct rados_store *rs = op->rs;
	const struct rados_lib *lib = rs->lib;
	int result = lib->rados_aio_get_return_value(completion);
	uint64_t version = lib->rados_aio_get_version(completion);
	bool busy;

	pthread_mutex_lock(&rs->lock);
	op->completion = NULL;
	op->result = result;
	op->version = version;
	op->complete = true;
	busy = op->busy;
	pthread_mutex_unlock(&rs->lock);
	lib->rados_aio_release(completion);
	/* Whoever sent it has not returned from that yet, and goes on itself. */
	if (!busy)
		op_next(op);
}

/* With the lock held; it was cancelled while it was sent. */
static void op_cancel_sent(struct rados_op *op)
{
	op_take_away(op);
	if (op->completion)
		op->rs->lib->rados_aio_cancel(op->rs->io, op->completion);
}

static int op_send(struct rados_op *op)
{
	const struct rados_lib *lib = op->rs->lib;
	rados_completion_t completion;
	int r = lib->rados_aio_create_completion2(op, rados_on_complete, &completion);

	if (r < 0)
		return r;
	op->complete = false;
	op->completion = completion;
	r = op->send(op, completion);
	if (r < 0) {
		op->completion = NULL;
		lib->rados_aio_release(completion);
	}
	return r;
}

void rados_op_go(struct rados_op *op)
{
	struct rados_store *rs = op->rs;
	bool complete;
	int r = op_send(op);

	if (r < 0) {
		rados_op_refused(op, r);
		return;
	}
	pthread_mutex_lock(&rs->lock);
	op->busy = false;
	complete = op->complete;
	if (store_is_cancelled(op->request))
		op_cancel_sent(op);
	pthread_mutex_unlock(&rs->lock);
	if (complete)
		op_next(op);
}

/* It is busy, so that nobody else answers. */
static struct store_request *op_answer(struct rados_op *op)
{
	struct store_request *request;

	pthread_mutex_lock(&op->rs->lock);
	request = op->request;
	op->request = NULL;
	request->own = NULL;
	pthread_mutex_unlock(&op->rs->lock);
	return request;
}

void rados_op_done(struct rados_op *op, int64_t result)
{
	struct store_request *request = op_answer(op);

	if (request->verb == STORE_GET && result > 0)
		memcpy(request->data, op->data, (size_t)result);
	rados_op_free(op);
	store_done(request, result);
}

void rados_op_fail(struct rados_op *op, int code, const char *format, ...)
{
	struct store_request *request = op_answer(op);
	struct store *store = &op->rs->store;
	char text[200];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	rados_op_free(op);
	store_fail(store, request, code, "%s", text);
}

void rados_op_refused(struct rados_op *op, int result)
{
	struct store_request *request;
	struct store *store;

	switch (result) {
	case -ENOENT:
		rados_op_fail(op, -ENOENT, "no such object");
		return;
	case -EACCES:
	case -EPERM:
		rados_op_fail(op, result,
			      "client.%s may not do this (ceph auth get client.%s): its caps need "
			      "\"osd\" with rwx on the pool",
			      op->rs->id, op->rs->id);
		return;
	case -ESHUTDOWN:
		rados_op_fail(op, -EPERM,
			      "the cluster has fenced this client (ceph osd blocklist ls): start "
			      "anew once it may come back");
		return;
	case -EMSGSIZE:
	case -EFBIG:
		rados_op_fail(op, -EFBIG,
			      "the cluster takes no write of so many bytes: osd_max_write_size and "
			      "osd_max_object_size have to be 64 MiB at least");
		return;
	case -ENOSPC:
	case -EDQUOT:
		rados_op_fail(op, result, "the %s is full (ceph df)",
			      result == -EDQUOT ? "pool's quota" : "cluster");
		return;
	case -ETIMEDOUT:
	case -ECANCELED:
	case -ENOTCONN:
		rados_op_fail(op, -EAGAIN, "the cluster does not answer (ceph -s)");
		return;
	default:
		store = &op->rs->store;
		request = op_answer(op);
		rados_op_free(op);
		store_errno(store, request, result, "the cluster says");
	}
}

const char *rados_op_oid(const struct rados_op *op, const char *token, char *out)
{
	if (!op->piece)
		return op->oid;
	snprintf(out, RADOS_OID_MAX, "%s~%s.%llu", op->oid, token, (unsigned long long)op->piece);
	return out;
}

/* ---- worker ---- */

static void op_start(struct rados_op *op)
{
	switch (op->request->verb) {
	case STORE_GET:
		rados_read_begin(op);
		break;
	case STORE_PUT:
		rados_write_begin(op);
		break;
	case STORE_DELETE:
		rados_delete_begin(op);
		break;
	case STORE_LIST:
		rados_list_begin(op);
		break;
	}
}

/* With the lock held, which it drops meanwhile. */
static void answer_cancelled(struct rados_store *rs)
{
	struct store_request *request = rs->cancelled;

	rs->cancelled = request->next;
	request->next = NULL;
	pthread_mutex_unlock(&rs->lock);
	store_fail(&rs->store, request, -ECANCELED, "cancelled");
	pthread_mutex_lock(&rs->lock);
}

/* The same. */
static void refuse_first(struct rados_store *rs)
{
	struct rados_op *op = rs->queue.first;
	struct store_request *request = op->request;
	struct err err = rs->connect_err;

	queue_unlink(&rs->queue, op);
	request->own = NULL;
	op_forget(op);
	pthread_mutex_unlock(&rs->lock);
	store_fail(&rs->store, request, err.code, "%s", err.text);
	pthread_mutex_lock(&rs->lock);
}

static void start_first(struct rados_store *rs)
{
	struct rados_op *op = rs->queue.first;

	note_start(rs, op);
	pthread_mutex_unlock(&rs->lock);
	op_start(op);
	pthread_mutex_lock(&rs->lock);
}

static void *rados_worker_main(void *arg)
{
	struct rados_store *rs = arg;

	pthread_setname_np(pthread_self(), "store-rados");
	pthread_mutex_lock(&rs->lock);
	while (!rs->ending) {
		if (!rs->queue.first)
			rs->refused = false;
		if (rs->cancelled)
			answer_cancelled(rs);
		else if (rs->queue.first && rs->refused)
			refuse_first(rs);
		else if (rs->queue.first && !rs->connected && !rs->connecting)
			rados_connect_start(rs);
		else if (rs->queue.first && rs->connected && may_start(rs, rs->queue.first))
			start_first(rs);
		else
			pthread_cond_wait(&rs->work, &rs->lock);
	}
	pthread_mutex_unlock(&rs->lock);
	return NULL;
}

/* ---- verbs ---- */

static struct rados_op *op_new(struct rados_store *rs, struct store_request *request)
{
	struct rados_op *op = calloc(1, sizeof(*op));

	if (!op)
		return NULL;
	op->rs = rs;
	op->request = request;
	op->urgent = request->flags & STORE_URGENT;
	op->cost = request->verb == STORE_GET || request->verb == STORE_PUT ? request->len : 0;
	snprintf(op->oid, sizeof(op->oid), "%s%s", rs->prefix, request->object);
	if (request->verb != STORE_GET || !request->len || (op->data = malloc(request->len)))
		return op;
	free(op);
	return NULL;
}

/* With the lock held: the thread that does all of it. */
static int rados_worker_start(struct rados_store *rs)
{
	int r = rs->has_worker ? 0 : thread_start(&rs->worker, rados_worker_main, rs);

	rs->has_worker = !r;
	return r;
}

static void rados_begin(struct store *store, struct store_request *request)
{
	struct rados_store *rs = (struct rados_store *)store;
	struct rados_op *op = op_new(rs, request);
	bool now = false;
	int r;

	if (!op) {
		store_fail(store, request, -ENOMEM, "no memory for a request");
		return;
	}
	pthread_mutex_lock(&rs->lock);
	rs->ops++;
	r = rados_worker_start(rs);
	if (r < 0) {
		op_forget(op);
	} else {
		request->own = op;
		rados_queue_add(&rs->queue, op);
		if (store_is_cancelled(request)) {
			queue_unlink(&rs->queue, op);
			op_take_away(op);
			op_forget(op);
		} else if (rs->connected && op->urgent && request->verb == STORE_GET) {
			note_start(rs, op);
			now = true;
		}
		pthread_cond_signal(&rs->work);
	}
	pthread_mutex_unlock(&rs->lock);
	/* Somebody waits: by way of the worker it would take longer. */
	if (now)
		rados_read_begin(op);
	if (r < 0)
		store_errno(store, request, r, "starting a thread");
}

static void rados_cancel(struct store *store, struct store_request *request)
{
	struct rados_store *rs = (struct rados_store *)store;
	struct rados_op *op;

	pthread_mutex_lock(&rs->lock);
	op = request->own;
	if (op && op->queued) {
		queue_unlink(&rs->queue, op);
		op_take_away(op);
		op_forget(op);
	} else if (op && !op->busy) {
		op_cancel_sent(op);
	}
	pthread_mutex_unlock(&rs->lock);
}

static void rados_free(struct store *store)
{
	struct rados_store *rs = (struct rados_store *)store;
	int64_t until_ns;

	pthread_mutex_lock(&rs->lock);
	rs->ending = true;
	pthread_cond_signal(&rs->work);
	pthread_mutex_unlock(&rs->lock);
	if (rs->has_worker)
		pthread_join(rs->worker, NULL);
	/* Threads that are about to end: the process may end next. Who hangs is left behind. */
	until_ns = clock_now_ns() + LINGER_NS;
	pthread_mutex_lock(&rs->lock);
	while (rs->refs > 1 && cond_wait(&rs->idle, &rs->lock, until_ns) != ETIMEDOUT)
		;
	pthread_mutex_unlock(&rs->lock);
	rados_store_put(rs);
}

static const struct store_ops rados_ops = { "rados", rados_begin, rados_cancel, rados_free };

/* ---- opening ---- */

static int take_parameter(char *out, size_t size, const struct store_url *url, const char *name,
			  const char *usual, struct err *err)
{
	const char *value = store_url_get(url, name);
	int n = snprintf(out, size, "%s", value ? value : usual);

	if (value && !*value)
		return err_set(err, -EINVAL, "the store's URL has an empty \"%s\"", name);
	return (size_t)n < size ? 0 : err_set(err, -EINVAL, "\"%s\" is too long", name);
}

static int rados_set_up(struct rados_store *rs, const struct store_url *url, const char *keyring,
			struct err *err)
{
	int r = take_parameter(rs->space, sizeof(rs->space), url, "namespace", "", err);

	if (!r)
		r = take_parameter(rs->id, sizeof(rs->id), url, "id", "admin", err);
	if (!r)
		r = take_parameter(rs->conf, sizeof(rs->conf), url, "conf", "", err);
	if (!r)
		r = take_parameter(rs->mon_host, sizeof(rs->mon_host), url, "mon_host", "", err);
	if (!r)
		r = take_parameter(rs->keyring, sizeof(rs->keyring), url, "keyring",
				   keyring ? keyring : "", err);
	snprintf(rs->pool, sizeof(rs->pool), "%s", url->host);
	snprintf(rs->prefix, sizeof(rs->prefix), "%s%s", url->path, *url->path ? "/" : "");
	return r ? r : rados_lib_load(&rs->lib, err);
}

int rados_store_new(struct store **out, const struct store_url *url, const char *keyring,
		    struct err *err)
{
	static const char *const known[] = {
		"namespace", "id", "conf", "keyring", "mon_host", NULL
	};
	struct rados_store *rs;
	int r = store_url_only(url, known, err);

	if (r < 0)
		return r;
	rs = calloc(1, sizeof(*rs));
	if (!rs)
		return err_set(err, -ENOMEM, "no memory for a store");
	r = rados_set_up(rs, url, keyring, err);
	if (r < 0) {
		free(rs);
		return r;
	}
	store_init(&rs->store, &rados_ops, "rados://%s%s%s%s%s", rs->pool, *url->path ? "/" : "",
		   url->path, *rs->space ? "?namespace=" : "", rs->space);
	pthread_mutex_init(&rs->lock, NULL);
	cond_init(&rs->work);
	cond_init(&rs->idle);
	rs->refs = 1;
	*out = &rs->store;
	return 0;
}
