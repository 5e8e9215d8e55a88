// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// How the requests of all layers begin and end. See layer.h.
#include "store/layer.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cond.h"

void store_layer_init(struct store_layer *layer, const struct store_ops *ops, struct store *below,
		      struct timers *timers)
{
	store_init(&layer->store, ops, "%s", below->label);
	layer->below = below;
	layer->timers = timers ? timers_get(timers) : NULL;
	pthread_mutex_init(&layer->lock, NULL);
	cond_init(&layer->none);
	layer->ops = 0;
}

void store_layer_fini(struct store_layer *layer)
{
	pthread_mutex_lock(&layer->lock);
	while (layer->ops)
		cond_wait(&layer->none, &layer->lock, INT64_MAX);
	pthread_mutex_unlock(&layer->lock);
	store_free(layer->below);
	if (layer->timers)
		timers_put(layer->timers);
	pthread_cond_destroy(&layer->none);
	pthread_mutex_destroy(&layer->lock);
}

void *store_op_new(struct store_layer *layer, struct store_request *request, size_t size,
		   void (*release)(struct store_op *op))
{
	struct store_op *op = calloc(1, size);

	if (!op) {
		store_fail(&layer->store, request, -ENOMEM, "no memory for a request");
		return NULL;
	}
	op->layer = layer;
	op->request = request;
	op->refs = 1;
	op->release = release;
	return op;
}

bool store_op_enter(struct store_op *op)
{
	op->layer->ops++;
	op->request->own = op;
	/* Whoever cancels sets this first, and then takes the lock. */
	return store_is_cancelled(op->request);
}

struct store_request *store_op_end(struct store_op *op)
{
	struct store_request *request = op->request;

	op->request = NULL;
	if (request)
		request->own = NULL;
	return request;
}

void store_op_put(struct store_op *op)
{
	struct store_layer *layer = op->layer;
	bool last;

	pthread_mutex_lock(&layer->lock);
	last = !--op->refs;
	pthread_mutex_unlock(&layer->lock);
	if (!last)
		return;
	op->release(op);
	pthread_mutex_lock(&layer->lock);
	if (!--layer->ops)
		pthread_cond_broadcast(&layer->none);
	pthread_mutex_unlock(&layer->lock);
}

static void pass_name(struct store_request *below, const char *object, uint64_t bytes)
{
	struct store_op *op = below->arg;

	op->told = true;
	op->request->name(op->request, object, bytes);
}

void store_op_ask(struct store_op *op, struct store_request *below,
		  void (*done)(struct store_request *below))
{
	const struct store_request *request = op->request;

	*below = (struct store_request){
		.verb = request->verb,
		.flags = request->flags,
		.object = request->object,
		.offset = request->offset,
		.version = request->version,
		.data = request->data,
		.len = request->len,
		.name = pass_name,
		.done = done,
		.arg = op,
	};
}

void store_pass_on(struct store_request *request, const struct store_request *below)
{
	if (below->result < 0)
		request->err = below->err;
	request->again_ms = below->again_ms;
	store_done(request, below->result);
}
