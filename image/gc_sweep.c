// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * What nobody needs is removed by some threads, of which each takes one object after the other: so
 * what is under way is bounded, and a cancel of the scope ends all of it. The calling thread is one
 * of them. Whatever the order in which they go, they are told in that of the inventory.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/thread.h"
#include "image/gc_internal.h"
#include "image/name.h"

#define SWEEPERS 8u

struct sweep {
	struct gc *gc;
	_Atomic size_t next; /* of the inventory's objects */
	_Atomic bool stop;
	pthread_mutex_t lock; /* guards the rest and the result; held while it is told */
	bool *gone; /* of each object */
	size_t told; /* of those before it all that is to be told is */
	int error;
	struct err err;
};

static bool gc_may_go(const struct gc *gc, const struct inventory_object *object)
{
	struct name_parts parts;

	if (object->needed)
		return false;
	image_name_parse(&parts, object->name);
	if (gc->only && strcmp(parts.image, gc->only))
		return false;
	return parts.kind == NAME_PACK || parts.kind == NAME_OBJECT ||
	       parts.kind == NAME_WORKING_SET;
}

static void sweep_tell(struct gc *gc, const struct inventory_object *object)
{
	gc->result->objects++;
	gc->result->bytes += object->bytes;
	if (gc->options->removed)
		gc->options->removed(gc->options->arg, object->name, object->bytes);
}

/* Those that have gone; up to the first that may go and has not, or all. With the lock. */
static void sweep_tell_gone(struct sweep *sweep, bool all)
{
	const struct inventory *inventory = &sweep->gc->inventory;

	for (; sweep->told < inventory->n; sweep->told++) {
		const struct inventory_object *object = &inventory->objects[sweep->told];

		if (sweep->gone[sweep->told])
			sweep_tell(sweep->gc, object);
		else if (!all && gc_may_go(sweep->gc, object))
			return;
	}
}

static void sweep_one(struct sweep *sweep, size_t i)
{
	struct gc *gc = sweep->gc;
	const struct inventory_object *object = &gc->inventory.objects[i];
	struct err err;
	int r = 0;

	if (!gc->options->dry_run)
		r = store_delete(gc->store, gc->scope, object->name, &err);
	pthread_mutex_lock(&sweep->lock);
	if (r && r != -ENOENT) {
		if (!sweep->error)
			sweep->err = err;
		sweep->error = sweep->error ? sweep->error : r;
		atomic_store(&sweep->stop, true);
	} else {
		sweep->gone[i] = true;
		sweep_tell_gone(sweep, false);
	}
	pthread_mutex_unlock(&sweep->lock);
}

static void *sweep_main(void *arg)
{
	struct sweep *sweep = arg;
	const struct inventory *inventory = &sweep->gc->inventory;
	size_t i;

	while (!atomic_load(&sweep->stop)) {
		i = atomic_fetch_add(&sweep->next, 1);
		if (i >= inventory->n)
			break;
		if (gc_may_go(sweep->gc, &inventory->objects[i]))
			sweep_one(sweep, i);
	}
	return NULL;
}

/* Are there so many that threads are worth their while? */
static bool sweep_is_long(const struct gc *gc)
{
	size_t i, n = 0;

	for (i = 0; i < gc->inventory.n && n < 2; i++)
		n += gc_may_go(gc, &gc->inventory.objects[i]);
	return n > 1 && !gc->options->dry_run;
}

int gc_sweep(struct gc *gc, struct err *err)
{
	struct sweep sweep = { .gc = gc };
	unsigned int n = 0, most = sweep_is_long(gc) ? SWEEPERS - 1 : 0;
	pthread_t thread[SWEEPERS];

	sweep.gone = calloc(gc->inventory.n + 1, sizeof(*sweep.gone));
	if (!sweep.gone)
		return err_set(err, -ENOMEM, "no memory to remove objects");
	pthread_mutex_init(&sweep.lock, NULL);
	/* Fewer will do. */
	while (n < most && !thread_start(&thread[n], sweep_main, &sweep))
		pthread_setname_np(thread[n++], "image-sweep");
	sweep_main(&sweep);
	while (n)
		pthread_join(thread[--n], NULL);
	sweep_tell_gone(&sweep, true);
	free(sweep.gone);
	pthread_mutex_destroy(&sweep.lock);
	if (sweep.error && err)
		*err = sweep.err;
	return sweep.error;
}
