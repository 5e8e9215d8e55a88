/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What the layers over a store begin with. A layer has one lock; each request above is an `op` of
 * its own that asks below with requests of its own:
 *
 *   begin	makes an op, notes it in request->own, and asks below
 *   cancel	finds the op there with the lock held, and cancels what it asked below
 *   done	of what is below, and timers, go on with the op; the end takes it off the request
 *
 * An op lives until its last reference is put: the request's, one for each timer that is set, one
 * for each request below. store_free waits for that.
 */
#ifndef POSTERN_STORE_LAYER_H
#define POSTERN_STORE_LAYER_H

#include "store/store.h"
#include "store/timer.h"

struct store_layer {
	struct store store;
	struct store *below;
	struct timers *timers;		/* a reference; NULL: it has none */
	pthread_mutex_t lock;		/* of all its ops */
	pthread_cond_t none;
	unsigned int ops;
};

/* First member of each layer's op. */
struct store_op {
	struct store_layer *layer;
	struct store_request *request;	/* NULL: it is over */
	unsigned int refs;
	bool told;			/* LIST: names have come */
	void (*release)(struct store_op *op);	/* frees it */
};

/* Takes `below`, and a reference of the timers. Called like what is below it. */
void store_layer_init(struct store_layer *layer, const struct store_ops *ops, struct store *below,
		      struct timers *timers);
/* Waits for the last op, whose request is over; frees what is below. */
void store_layer_fini(struct store_layer *layer);

/*
 * Zeroed memory of `size` bytes that begins with a store_op, with one
 * reference. NULL: the request has failed.
 */
void *store_op_new(struct store_layer *layer, struct store_request *request, size_t size,
		   void (*release)(struct store_op *op));
/* All of these with the layer's lock held. */
/*
 * From now on a cancel finds the op, whose requests below are filled in. true:
 * one has come already.
 */
bool store_op_enter(struct store_op *op);
static inline void store_op_get(struct store_op *op)
{
	op->refs++;
}
/* Only where it is not the last. */
static inline void store_op_drop(struct store_op *op)
{
	op->refs--;
}
/* The request's op, or NULL. */
static inline void *store_op_of(struct store_request *request)
{
	return request->own;
}
/*
 * The request is to be answered by the caller, who is the only one to get it.
 * NULL: it was answered.
 */
struct store_request *store_op_end(struct store_op *op);

/* Without the lock. */
void store_op_put(struct store_op *op);

/* A request below that is like the op's; its arg is the op. */
void store_op_ask(struct store_op *op, struct store_request *below,
		  void (*done)(struct store_request *below));
/* Answers above as it was answered below. */
void store_pass_on(struct store_request *request, const struct store_request *below);

#endif
