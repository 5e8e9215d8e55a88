// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// See retry.h. An op is at one of these places:
//
//   ASKING	its request below is under way; a cancel goes there
//   PAUSING	its timer is set; a cancel lets it fire at once
//   COMPARING	as ASKING, and what is asked is what the object holds
#include "store/retry.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "store/layer.h"

#define WISH_MOST_MS 60000u

struct retry_store {
	struct store_layer layer;
	struct retry_store_config config;
};

enum place { ASKING, PAUSING, COMPARING };

struct retry_op {
	struct store_op op;
	struct store_request below;
	struct timer timer;
	enum place place;
	unsigned int attempts;		/* made */
	uint8_t *found;			/* COMPARING: what is there */
};

static void retry_done(struct store_request *below);
static void compare_done(struct store_request *below);

static struct retry_op *retry_of_timer(struct timer *timer)
{
	return (struct retry_op *)(void *)((char *)timer - offsetof(struct retry_op, timer));
}

static void retry_store_release(struct store_op *op)
{
	free(((struct retry_op *)op)->found);
	free(op);
}

static bool may_help(const struct retry_op *op)
{
	switch (op->below.result) {
	case -EAGAIN:
	case -ETIMEDOUT:
	case -EBADMSG:
	case -EIO:
		return !op->op.told;
	default:
		return false;
	}
}

/* What a server asks for goes on top, within reason; a deadline above ends it all the same. */
static int64_t wish_ns(const struct store_request *below)
{
	return (below->again_ms < WISH_MOST_MS ? below->again_ms : WISH_MOST_MS) * NS_PER_MS;
}

static int64_t pause_ns(const struct retry_store *retry, unsigned int attempts)
{
	uint64_t ms = (uint64_t)retry->config.first_ms << (attempts < 20 ? attempts - 1 : 19);
	uint32_t dice = 0;

	if (ms > retry->config.most_ms)
		ms = retry->config.most_ms;
	if (getrandom(&dice, sizeof(dice), GRND_NONBLOCK) != (ssize_t)sizeof(dice))
		dice = (uint32_t)clock_now_ns();
	return (int64_t)((ms * (uint64_t)NS_PER_MS / 2) * (UINT64_C(0x100000000) + dice) >> 32);
}

/* The request ends as the one below did. */
static void retry_finish(struct retry_op *op)
{
	struct store_request *request;

	pthread_mutex_lock(&op->op.layer->lock);
	request = store_op_end(&op->op);
	pthread_mutex_unlock(&op->op.layer->lock);
	if (op->below.result < 0 && store_is_cancelled(request))
		op->below.result = op->below.err.code = -ECANCELED;
	if (op->below.result < 0 && op->attempts > 1)
		err_prefix(&op->below.err, (int)op->below.result, "after %u attempts",
			   op->attempts);
	store_pass_on(request, &op->below);
	store_op_put(&op->op);
}

/* Sets the timer for the next attempt; false: there will be none. */
static bool pause_is_set(struct retry_op *op)
{
	struct retry_store *retry = (struct retry_store *)op->op.layer;
	bool set = false;

	pthread_mutex_lock(&retry->layer.lock);
	if (op->attempts < retry->config.attempts && may_help(op) &&
	    !store_is_cancelled(op->op.request) &&
	    !timers_set(retry->layer.timers, &op->timer,
			clock_now_ns() + wish_ns(&op->below) + pause_ns(retry, op->attempts))) {
		op->place = PAUSING;
		set = true;
	}
	pthread_mutex_unlock(&retry->layer.lock);
	return set;
}

/* STORE_NEW has met an object: is it ours? false: nobody can tell. */
static bool compare(struct retry_op *op)
{
	struct store_layer *layer = op->op.layer;

	/* One more than ours would show that it is longer. */
	op->found = malloc(op->op.request->len + 1);
	if (!op->found)
		return false;
	pthread_mutex_lock(&layer->lock);
	op->place = COMPARING;
	store_op_ask(&op->op, &op->below, compare_done);
	op->below.verb = STORE_GET;
	op->below.flags = STORE_UP_TO | (op->op.request->flags & STORE_URGENT);
	op->below.data = op->found;
	op->below.len = op->op.request->len + 1;
	if (store_is_cancelled(op->op.request))
		store_cancel(layer->below, &op->below);
	pthread_mutex_unlock(&layer->lock);
	store_begin(layer->below, &op->below);
	return true;
}

static void retry_done(struct store_request *below)
{
	struct retry_op *op = below->arg;

	if (below->result == -EEXIST && op->attempts > 1 && compare(op))
		return;
	if (!pause_is_set(op))
		retry_finish(op);
}

static void compare_done(struct store_request *below)
{
	struct retry_op *op = below->arg;
	const struct store_request *request = op->op.request;

	if (below->result == (int64_t)request->len &&
	    !memcmp(op->found, request->data, request->len)) {
		retry_finish(op);
		return;
	}
	if (below->result >= 0)
		below->result =
			err_set(&below->err, -EEXIST, "%s: put \"%s\": there is one of that name",
				store_label(op->op.layer->below), request->object);
	free(op->found);
	op->found = NULL;
	/* Not known yet: the next attempt will meet it again. */
	if (!pause_is_set(op))
		retry_finish(op);
}

static void ask(struct retry_op *op)
{
	store_begin(op->op.layer->below, &op->below);
}

static void retry_fire(struct timer *timer)
{
	struct retry_op *op = retry_of_timer(timer);
	struct retry_store *retry = (struct retry_store *)op->op.layer;
	bool cancelled;

	pthread_mutex_lock(&retry->layer.lock);
	cancelled = store_is_cancelled(op->op.request);
	/* Else the last error is told, and that it was cancelled then. */
	if (!cancelled) {
		op->place = ASKING;
		op->attempts++;
		store_op_ask(&op->op, &op->below, retry_done);
	}
	pthread_mutex_unlock(&retry->layer.lock);
	if (!cancelled) {
		ask(op);
		return;
	}
	retry_finish(op);
}

static void retry_begin(struct store *store, struct store_request *request)
{
	struct retry_store *retry = (struct retry_store *)store;
	struct retry_op *op =
		store_op_new(&retry->layer, request, sizeof(*op), retry_store_release);

	if (!op)
		return;
	op->timer.fire = retry_fire;
	op->attempts = 1;
	store_op_ask(&op->op, &op->below, retry_done);
	pthread_mutex_lock(&retry->layer.lock);
	if (store_op_enter(&op->op))
		store_cancel(retry->layer.below, &op->below);
	pthread_mutex_unlock(&retry->layer.lock);
	ask(op);
}

static void retry_cancel(struct store *store, struct store_request *request)
{
	struct retry_store *retry = (struct retry_store *)store;
	struct retry_op *op;

	pthread_mutex_lock(&retry->layer.lock);
	op = store_op_of(request);
	if (op && op->place != PAUSING)
		store_cancel(retry->layer.below, &op->below);
	/* Its thread is there: this cannot fail. */
	else if (op && timers_stop(retry->layer.timers, &op->timer))
		timers_set(retry->layer.timers, &op->timer, 0);
	pthread_mutex_unlock(&retry->layer.lock);
}

static void retry_store_free(struct store *store)
{
	struct retry_store *retry = (struct retry_store *)store;

	store_layer_fini(&retry->layer);
	free(retry);
}

static const struct store_ops retry_ops = {
	.name = "retry",
	.begin = retry_begin,
	.cancel = retry_cancel,
	.free = retry_store_free,
};

int retry_store_new(struct store **out, struct store *below, struct timers *timers,
		    const struct retry_store_config *config, struct err *err)
{
	bool good = config->attempts && config->first_ms && config->most_ms >= config->first_ms;
	struct retry_store *retry = good ? calloc(1, sizeof(*retry)) : NULL;

	if (!retry) {
		store_free(below);
		return good ? err_set(err, -ENOMEM, "no memory to repeat a store's requests") :
			      err_set(err, -EINVAL,
				      "a store's requests: attempts and pauses are "
				      "at least 1, the longest pause not less than the first");
	}
	store_layer_init(&retry->layer, &retry_ops, below, timers);
	retry->config = *config;
	*out = &retry->layer.store;
	return 0;
}
