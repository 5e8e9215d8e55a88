/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A chain of wrappers on top of a page source, and its end in the right order.
 *
 * The end: memory_detach first (nobody asks the top any more). stack_stop stops
 * the layers from the top down, which ends every wait in them, so that a thread
 * of a lower layer or of the source, held up in an upper one, comes out; then
 * what is below. Only when all stand still is anything freed. Nothing of this
 * waits for a far end.
 */
#ifndef POSTERN_SOURCE_STACK_H
#define POSTERN_SOURCE_STACK_H

#include "source/layer.h"

#define STACK_LAYERS_MAX 16
#define STACK_PARTS_MAX 8

struct stack;

/*
 * layers[0] is next to the sink, layers[n - 1] on top of `bottom`; n may be 0.
 * The layers belong to the stack afterwards, the source does not. sink may be
 * NULL: then stack_top's is set by who stacks this stack (retry_add). -EINVAL:
 * too many, -ENOMEM: the layers are still the caller's.
 */
int stack_new(struct stack **out, struct page_sink *sink, struct layer *const *layers,
	      unsigned int n, struct page_source *bottom, struct err *err);
/* What to attach to memory. */
struct page_source *stack_top(struct stack *stack);

/*
 * What is below the layers ends with the stack: stop(arg) is called after the
 * layers were stopped, in the order of these calls, and has to be quick;
 * free(arg) when everything stands still. Either may be NULL. -ENOSPC: more
 * than STACK_PARTS_MAX.
 */
int stack_own(struct stack *stack, void (*stop)(void *arg), void (*free)(void *arg), void *arg);

/* After memory_detach. More than once is fine. */
void stack_stop(struct stack *stack);
/* Stops as well. */
void stack_free(struct stack *stack);

#endif
