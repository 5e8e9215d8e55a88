// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// See second.h. The first store reads to where the caller wants it, the second to memory of the
// op's: so an answer of the first ends the request whatever the second still does, while one of the
// second is copied once the first, which was cancelled, is over.
#include "store/second.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "store/layer.h"

#define TWICE_BYTES (UINT64_C(64) << 20)
/* After so many in a row the first one is not waited for. */
#define SLOW_ROW 8

struct second_store {
	struct store_layer layer;	/* below: the first */
	struct store *second;
	struct second_store_config config;
	/* With the layer's lock: */
	struct second_store_stats stats;
	uint64_t twice_bytes;		/* under way */
	unsigned int slow_row;
};

enum side { IDLE, ASKED, OVER };

struct second_op {
	struct store_op op;
	struct store_request first, second;
	struct timer timer;
	enum side first_is, second_is;
	uint8_t *data;			/* the second's */
	uint64_t twice_bytes;		/* of the store's count */
	char object[STORE_NAME_MAX + 1];	/* for the second, which may outlive the request */
};

static void first_done(struct store_request *below);
static void second_done(struct store_request *below);

static struct second_store *store_of(const struct second_op *op)
{
	return (struct second_store *)op->op.layer;
}

static struct second_op *second_of_timer(struct timer *timer)
{
	return (struct second_op *)(void *)((char *)timer - offsetof(struct second_op, timer));
}

static void second_release(struct store_op *op)
{
	free(((struct second_op *)op)->data);
	free(op);
}

static bool is_read(const struct store_request *request)
{
	return request->verb == STORE_GET || request->verb == STORE_LIST;
}

/* The second is to be asked, by whoever gets true. With the lock held. */
static bool prepare_second(struct second_op *op)
{
	struct store_request *request = op->op.request;

	if (!request || op->second_is != IDLE || !is_read(request) || op->op.told ||
	    store_is_cancelled(request))
		return false;
	if (request->verb == STORE_GET) {
		op->data = malloc(request->len + !request->len);
		if (!op->data)
			return false;
	}
	store_op_ask(&op->op, &op->second, second_done);
	snprintf(op->object, sizeof(op->object), "%s", request->object);
	op->second.object = op->object;
	op->second.data = op->data;
	op->second_is = ASKED;
	store_op_get(&op->op);
	return true;
}

/* Because of a delay, and not a failure: only within bounds. With the lock held. */
static bool prepare_twice(struct second_op *op)
{
	struct second_store *second = store_of(op);

	/* A list told by both would be told twice. */
	if (!op->op.request || op->op.request->verb != STORE_GET || op->first_is != ASKED)
		return false;
	if (second->twice_bytes + op->op.request->len > second->config.twice_bytes) {
		second->stats.not_asked++;
		return false;
	}
	if (!prepare_second(op))
		return false;
	op->twice_bytes = op->op.request->len;
	second->twice_bytes += op->twice_bytes;
	return true;
}

static void first_was(struct second_store *second, bool slow)
{
	second->slow_row = slow ? second->slow_row + (second->slow_row < SLOW_ROW) : 0;
}

/* Of two errors the one that tells more: that an object is not there only if both say so. */
static const struct store_request *worse(const struct second_op *op)
{
	if (op->second_is != OVER || op->first.result == -ECANCELED)
		return &op->first;
	return op->first.result == -ENOENT && op->second.result != -ENOENT ? &op->second :
									     &op->first;
}

/* Answers the request, which is no longer the op's. */
static void second_answer(struct second_op *op, struct store_request *request)
{
	if (op->first_is == OVER && op->first.result >= 0) {
		store_pass_on(request, &op->first);
	} else if (op->second_is == OVER && op->second.result >= 0) {
		if (request->verb == STORE_GET)
			memcpy(request->data, op->data, (size_t)op->second.result);
		store_pass_on(request, &op->second);
	} else {
		store_pass_on(request, worse(op));
	}
}

/*
 * The request, if it can be answered now; what is asked in vain is cancelled.
 * With the lock held.
 */
static struct store_request *second_judge(struct second_op *op)
{
	struct second_store *second = store_of(op);
	bool second_good = op->second_is == OVER && op->second.result >= 0;

	if (!op->op.request)
		return NULL;
	if (op->first_is == ASKED) {
		if (second_good)
			store_cancel(second->layer.below, &op->first);
		return NULL;
	}
	if (op->first.result < 0 && op->second_is == ASKED)
		return NULL;
	if (op->second_is == ASKED)
		store_cancel(second->second, &op->second);
	if (op->first.result < 0 && second_good)
		second->stats.second_won++;
	/* Its reference; the request's is put by whoever answers. */
	if (timers_stop(second->layer.timers, &op->timer))
		store_op_drop(&op->op);
	return store_op_end(&op->op);
}

/* What the caller has prepared. */
static void ask_second(struct second_op *op)
{
	store_begin(store_of(op)->second, &op->second);
}

static void first_done(struct store_request *below)
{
	struct second_op *op = below->arg;
	struct second_store *second = store_of(op);
	struct store_request *request;
	bool ask = false;

	pthread_mutex_lock(&second->layer.lock);
	op->first_is = OVER;
	if (below->result < 0 && below->result != -ECANCELED && prepare_second(op)) {
		second->stats.failed++;
		ask = true;
	}
	if (below->result != -ECANCELED && is_read(below))
		first_was(second, below->result < 0 || op->second_is == OVER);
	request = second_judge(op);
	pthread_mutex_unlock(&second->layer.lock);
	if (ask)
		ask_second(op);
	if (!request)
		return;
	second_answer(op, request);
	store_op_put(&op->op);
}

static void second_done(struct store_request *below)
{
	struct second_op *op = below->arg;
	struct second_store *second = store_of(op);
	struct store_request *request;

	pthread_mutex_lock(&second->layer.lock);
	op->second_is = OVER;
	second->twice_bytes -= op->twice_bytes;
	if (below->result >= 0 && op->first_is == ASKED)
		first_was(second, true);
	request = second_judge(op);
	pthread_mutex_unlock(&second->layer.lock);
	if (request) {
		second_answer(op, request);
		store_op_put(&op->op);
	}
	store_op_put(&op->op);
}

static void second_fire(struct timer *timer)
{
	struct second_op *op = second_of_timer(timer);
	struct second_store *second = store_of(op);
	bool ask;

	pthread_mutex_lock(&second->layer.lock);
	ask = prepare_twice(op);
	second->stats.late += ask;
	pthread_mutex_unlock(&second->layer.lock);
	if (ask)
		ask_second(op);
	store_op_put(&op->op);
}

/* The first was begun; if it is not over, it is waited for, or not. */
static bool after_first(struct second_op *op)
{
	struct second_store *second = store_of(op);
	int64_t due_ns = clock_now_ns() + second->config.late_ms * NS_PER_MS;

	if (!op->op.request || op->first_is != ASKED || op->op.request->verb != STORE_GET)
		return false;
	if (!second->config.late_ms || second->slow_row >= SLOW_ROW)
		return prepare_twice(op);
	/* Where there is no timer the first one is waited for. */
	if (!timers_set(second->layer.timers, &op->timer, due_ns))
		store_op_get(&op->op);
	return false;
}

static void second_begin(struct store *store, struct store_request *request)
{
	struct second_store *second = (struct second_store *)store;
	struct second_op *op = store_op_new(&second->layer, request, sizeof(*op), second_release);
	bool ask;

	if (!op)
		return;
	op->timer.fire = second_fire;
	op->first_is = ASKED;
	store_op_ask(&op->op, &op->first, first_done);
	pthread_mutex_lock(&second->layer.lock);
	second->stats.requests += is_read(request);
	store_op_get(&op->op);
	if (store_op_enter(&op->op))
		store_cancel(second->layer.below, &op->first);
	pthread_mutex_unlock(&second->layer.lock);
	store_begin(second->layer.below, &op->first);
	pthread_mutex_lock(&second->layer.lock);
	ask = after_first(op);
	pthread_mutex_unlock(&second->layer.lock);
	if (ask)
		ask_second(op);
	store_op_put(&op->op);
}

static void second_cancel(struct store *store, struct store_request *request)
{
	struct second_store *second = (struct second_store *)store;
	struct second_op *op;

	pthread_mutex_lock(&second->layer.lock);
	op = store_op_of(request);
	if (op && op->first_is == ASKED)
		store_cancel(second->layer.below, &op->first);
	if (op && op->second_is == ASKED)
		store_cancel(second->second, &op->second);
	pthread_mutex_unlock(&second->layer.lock);
}

static void second_free(struct store *store)
{
	struct second_store *second = (struct second_store *)store;
	struct store *other = second->second;

	/* Its ops end before: those of the other store as well. */
	store_layer_fini(&second->layer);
	store_free(other);
	free(second);
}

static const struct store_ops second_ops = {
	.name = "second",
	.begin = second_begin,
	.cancel = second_cancel,
	.free = second_free,
};

int second_store_new(struct second_store **out, struct store *first, struct store *other,
		     struct timers *timers, const struct second_store_config *config,
		     struct err *err)
{
	struct second_store *second = calloc(1, sizeof(*second));

	if (!second) {
		store_free(first);
		store_free(other);
		return err_set(err, -ENOMEM, "no memory for a second store");
	}
	store_layer_init(&second->layer, &second_ops, first, timers);
	second->second = other;
	second->config = *config;
	if (!second->config.twice_bytes)
		second->config.twice_bytes = TWICE_BYTES;
	*out = second;
	return 0;
}

struct store *second_store(struct second_store *second)
{
	return &second->layer.store;
}

void second_store_stats(struct second_store *second, struct second_store_stats *stats)
{
	pthread_mutex_lock(&second->layer.lock);
	*stats = second->stats;
	pthread_mutex_unlock(&second->layer.lock);
}
