// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// See deadline.h. The timer is set once the request was begun and is not over: what is done at once
// costs none. A request whose time is over ends when the one below has, which was cancelled: so its
// memory is nobody's any more.
#include "store/deadline.h"

#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "store/layer.h"

/* What a byte may take besides: 1 MiB/s. Packs of an image have 64 MiB. */
#define BYTES_PER_MS 1048

struct deadline {
	struct store_layer layer;
	unsigned int ms;
};

struct deadline_op {
	struct store_op op;
	struct store_request below;
	struct timer timer;
	bool late;
	int timer_error;
};

static uint64_t deadline_ms(const struct deadline *deadline, const struct store_request *request)
{
	return deadline->ms + request->len / BYTES_PER_MS;
}

static struct deadline_op *deadline_of_timer(struct timer *timer)
{
	return (struct deadline_op *)(void *)((char *)timer - offsetof(struct deadline_op, timer));
}

static void deadline_release(struct store_op *op)
{
	free(op);
}

/* The time is over, or nobody can tell when it is. With the lock held. */
static void deadline_give_up(struct deadline_op *op)
{
	op->late = true;
	store_cancel(op->op.layer->below, &op->below);
}

static void deadline_fire(struct timer *timer)
{
	struct deadline_op *op = deadline_of_timer(timer);

	pthread_mutex_lock(&op->op.layer->lock);
	if (op->op.request)
		deadline_give_up(op);
	pthread_mutex_unlock(&op->op.layer->lock);
	store_op_put(&op->op);
}

static void deadline_done(struct store_request *below)
{
	struct deadline_op *op = below->arg;
	struct deadline *deadline = (struct deadline *)op->op.layer;
	struct store_request *request;
	bool late;

	pthread_mutex_lock(&deadline->layer.lock);
	request = store_op_end(&op->op);
	late = op->late && below->result == -ECANCELED && !store_is_cancelled(request);
	/* Its reference; the one of the request is left. */
	if (timers_stop(deadline->layer.timers, &op->timer))
		store_op_drop(&op->op);
	pthread_mutex_unlock(&deadline->layer.lock);
	if (late && op->timer_error)
		store_errno(&deadline->layer.store, request, -EAGAIN, "no timer for its deadline");
	else if (late)
		store_fail(&deadline->layer.store, request, -ETIMEDOUT,
			   "no answer within %u ms: look after the store, or allow more time",
			   (unsigned int)deadline_ms(deadline, request));
	else
		store_pass_on(request, below);
	store_op_put(&op->op);
}

static void deadline_begin(struct store *store, struct store_request *request)
{
	struct deadline *deadline = (struct deadline *)store;
	struct deadline_op *op;
	int64_t due_ns = clock_now_ns() + (int64_t)deadline_ms(deadline, request) * NS_PER_MS;

	op = store_op_new(&deadline->layer, request, sizeof(*op), deadline_release);
	if (!op)
		return;
	op->timer.fire = deadline_fire;
	store_op_ask(&op->op, &op->below, deadline_done);
	pthread_mutex_lock(&deadline->layer.lock);
	store_op_get(&op->op);
	if (store_op_enter(&op->op))
		store_cancel(deadline->layer.below, &op->below);
	pthread_mutex_unlock(&deadline->layer.lock);
	store_begin(deadline->layer.below, &op->below);
	pthread_mutex_lock(&deadline->layer.lock);
	if (op->op.request) {
		op->timer_error = timers_set(deadline->layer.timers, &op->timer, due_ns);
		if (op->timer_error)
			deadline_give_up(op);
		else
			store_op_get(&op->op);
	}
	pthread_mutex_unlock(&deadline->layer.lock);
	store_op_put(&op->op);
}

static void deadline_cancel(struct store *store, struct store_request *request)
{
	struct deadline *deadline = (struct deadline *)store;
	struct deadline_op *op;

	pthread_mutex_lock(&deadline->layer.lock);
	op = store_op_of(request);
	if (op)
		store_cancel(deadline->layer.below, &op->below);
	pthread_mutex_unlock(&deadline->layer.lock);
}

static void deadline_free(struct store *store)
{
	struct deadline *deadline = (struct deadline *)store;

	store_layer_fini(&deadline->layer);
	free(deadline);
}

static const struct store_ops deadline_ops = {
	.name = "deadline",
	.begin = deadline_begin,
	.cancel = deadline_cancel,
	.free = deadline_free,
};

int deadline_store_new(struct store **out, struct store *below, struct timers *timers,
		       unsigned int ms, struct err *err)
{
	struct deadline *deadline = ms ? calloc(1, sizeof(*deadline)) : NULL;

	if (!deadline) {
		store_free(below);
		return ms ? err_set(err, -ENOMEM, "no memory for a store's deadline") :
			    err_set(err, -EINVAL, "a store's deadline of 0 ms");
	}
	store_layer_init(&deadline->layer, &deadline_ops, below, timers);
	deadline->ms = ms;
	*out = &deadline->layer.store;
	return 0;
}
