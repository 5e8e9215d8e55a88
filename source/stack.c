// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "source/stack.h"

#include <stdlib.h>
#include <string.h>

struct part {
	void (*stop)(void *arg);
	void (*free)(void *arg);
	void *arg;
};

struct stack {
	struct layer *layer[STACK_LAYERS_MAX];
	unsigned int layers;
	struct page_source *top;
	struct part part[STACK_PARTS_MAX];
	unsigned int parts;
	bool stopped;
};

int stack_new(struct stack **out, struct page_sink *sink, struct layer *const *layers,
	      unsigned int n, struct page_source *bottom, struct err *err)
{
	struct page_source *below = bottom;
	struct stack *stack;
	unsigned int i;

	if (n > STACK_LAYERS_MAX)
		return err_set(err, -EINVAL, "%u layers on a page source, at most %d are possible",
			       n, STACK_LAYERS_MAX);
	stack = calloc(1, sizeof(*stack));
	if (!stack)
		return err_set(err, -ENOMEM, "no memory for a stack of page sources");
	for (i = n; i-- > 0;) {
		stack->layer[i] = layers[i];
		layer_put_on(layers[i], below);
		below = &layers[i]->source;
	}
	stack->layers = n;
	stack->top = below;
	below->sink = sink;
	*out = stack;
	return 0;
}

struct page_source *stack_top(struct stack *stack)
{
	return stack->top;
}

int stack_own(struct stack *stack, void (*stop)(void *arg), void (*free)(void *arg), void *arg)
{
	if (stack->parts == STACK_PARTS_MAX)
		return -ENOSPC;
	stack->part[stack->parts++] = (struct part){ stop, free, arg };
	return 0;
}

void stack_stop(struct stack *stack)
{
	unsigned int i;

	if (stack->stopped)
		return;
	stack->stopped = true;
	for (i = 0; i < stack->layers; i++)
		layer_stop(stack->layer[i]);
	for (i = 0; i < stack->parts; i++)
		if (stack->part[i].stop)
			stack->part[i].stop(stack->part[i].arg);
}

void stack_free(struct stack *stack)
{
	unsigned int i;

	if (!stack)
		return;
	stack_stop(stack);
	for (i = 0; i < stack->layers; i++)
		stack->layer[i]->ops->free(stack->layer[i]);
	for (i = 0; i < stack->parts; i++)
		if (stack->part[i].free)
			stack->part[i].free(stack->part[i].arg);
	free(stack);
}
