// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Stores for threads that may wait, and the scopes that end such waits. See store.h.
//
// A wait is on its thread's stack. It is in its scope's list until its request is done, and `done`
// takes the scope's lock: so whoever cancels with that lock held meets a request that is alive.
//
// Who waits may be asked to help meanwhile (helper.h). It leaves when its own request is done, on
// whatever thread that was.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cond.h"
#include "store/helper.h"
#include "store/store.h"

struct store_wait {
	struct store *store;
	struct store_request *request;
	pthread_mutex_t *lock;		/* the scope's, or its own */
	pthread_mutex_t own_lock;
	pthread_cond_t cond;
	bool done;
	bool helping;			/* the helper is complete */
	pthread_t thread;
	struct store_helper helper;
	struct store_wait *next, **link;
};

static _Thread_local struct store_helper *helper_here;

struct store_helper *store_helper_here(void)
{
	return helper_here;
}

void store_scope_init(struct store_scope *scope)
{
	pthread_mutex_init(&scope->lock, NULL);
	scope->first = NULL;
	scope->cancelled = false;
}

void store_scope_fini(struct store_scope *scope)
{
	pthread_mutex_destroy(&scope->lock);
}

void store_scope_cancel(struct store_scope *scope)
{
	struct store_wait *wait;

	pthread_mutex_lock(&scope->lock);
	scope->cancelled = true;
	for (wait = scope->first; wait; wait = wait->next)
		store_cancel(wait->store, wait->request);
	pthread_mutex_unlock(&scope->lock);
}

void store_scope_open(struct store_scope *scope)
{
	pthread_mutex_lock(&scope->lock);
	scope->cancelled = false;
	pthread_mutex_unlock(&scope->lock);
}

/* Into the scope's list. false: it is cancelled. */
static bool scope_enter(struct store_scope *scope, struct store_wait *wait)
{
	bool cancelled;

	pthread_mutex_lock(&scope->lock);
	cancelled = scope->cancelled;
	if (!cancelled) {
		wait->next = scope->first;
		wait->link = &scope->first;
		if (wait->next)
			wait->next->link = &wait->next;
		scope->first = wait;
	}
	pthread_mutex_unlock(&scope->lock);
	return !cancelled;
}

static void store_wait_done(struct store_request *request)
{
	struct store_wait *wait = request->arg;
	pthread_mutex_t *lock = wait->lock;

	pthread_mutex_lock(lock);
	wait->done = true;
	if (wait->link) {
		*wait->link = wait->next;
		if (wait->next)
			wait->next->link = wait->link;
	}
	atomic_store(&wait->helper.enough, true);
	/* With the lock held: the wait is gone once its thread has it. */
	if (wait->helping && !pthread_equal(wait->thread, pthread_self()))
		wait->helper.wake(&wait->helper);
	pthread_cond_signal(&wait->cond);
	pthread_mutex_unlock(lock);
}

/* Begins it, and says to whoever carries it out that this thread has nothing else to do. */
static void begin_and_help(struct store_wait *wait)
{
	struct store_helper *outer = helper_here;

	helper_here = &wait->helper;
	store_begin(wait->store, wait->request);
	helper_here = outer;
	if (!wait->helper.help)
		return;
	pthread_mutex_lock(wait->lock);
	wait->helping = true;
	pthread_mutex_unlock(wait->lock);
	wait->helper.help(&wait->helper);
}

static void wait_for(struct store_wait *wait)
{
	pthread_mutex_lock(wait->lock);
	while (!wait->done)
		cond_wait(&wait->cond, wait->lock, INT64_MAX);
	pthread_mutex_unlock(wait->lock);
}

int64_t store_wait(struct store *store, struct store_scope *scope, struct store_request *request)
{
	struct store_wait wait = { .store = store, .request = request, .thread = pthread_self() };

	request->done = store_wait_done;
	request->arg = &wait;
	wait.lock = scope ? &scope->lock : &wait.own_lock;
	if (scope && !scope_enter(scope, &wait))
		return request->result = err_set(&request->err, -ECANCELED,
						 "%s: \"%s\": cancelled before it began",
						 store->label, request->object);
	pthread_mutex_init(&wait.own_lock, NULL);
	cond_init(&wait.cond);
	begin_and_help(&wait);
	wait_for(&wait);
	pthread_cond_destroy(&wait.cond);
	pthread_mutex_destroy(&wait.own_lock);
	return request->result;
}

static int64_t wait_and_tell(struct store *store, struct store_scope *scope,
			     struct store_request *request, struct err *err)
{
	int64_t r = store_wait(store, scope, request);

	if (r < 0 && err)
		*err = request->err;
	return r;
}

int64_t store_get(struct store *store, struct store_scope *scope, const char *object,
		  uint64_t offset, void *data, size_t len, unsigned int flags, struct err *err)
{
	struct store_request request = {
		.verb = STORE_GET,
		.flags = flags,
		.object = object,
		.offset = offset,
		.data = data,
		.len = len,
	};

	return wait_and_tell(store, scope, &request, err);
}

int64_t store_put(struct store *store, struct store_scope *scope, const char *object,
		  const void *data, size_t len, unsigned int flags, struct err *err)
{
	struct store_request request = {
		.verb = STORE_PUT,
		.flags = flags,
		.object = object,
		.data = (void *)data,	/* only read */
		.len = len,
	};

	return wait_and_tell(store, scope, &request, err);
}

int store_delete(struct store *store, struct store_scope *scope, const char *object,
		 struct err *err)
{
	struct store_request request = { .verb = STORE_DELETE, .object = object };

	return (int)wait_and_tell(store, scope, &request, err);
}

/* ---- all of an object ---- */

/* The first read: small objects need no second one. */
#define ALL_FIRST_BYTES ((size_t)64 << 10)
#define ALL_PART_BYTES ((size_t)64 << 20)

int64_t store_get_all(struct store *store, struct store_scope *scope, const char *object,
		      size_t max, struct buf *out, struct err *err)
{
	size_t before = out->len, part = ALL_FIRST_BYTES, got = 0;
	uint8_t *room;
	int64_t r;

	do {
		/* One more than allowed shows that there is more. */
		if (part > max - got)
			part = max - got + 1;
		room = buf_reserve(out, part);
		if (!room)
			r = err_set(err, -ENOMEM, "%s: \"%s\": no memory for %zu bytes",
				    store->label, object, got + part);
		else
			r = store_get(store, scope, object, got, room, part, STORE_UP_TO, err);
		if (r > 0) {
			out->len += (size_t)r;
			got += (size_t)r;
			if (got > max)
				r = err_set(err, -EFBIG,
					    "%s: \"%s\": more than the %zu bytes that "
					    "it may have",
					    store->label, object, max);
		}
		if (r < 0) {
			out->len = before;
			return r;
		}
		if ((size_t)r < part)
			return (int64_t)got;
		part = got < ALL_PART_BYTES ? got : ALL_PART_BYTES;
	} while (true);
}

/* ---- list ---- */

struct list_call {
	struct store_request request;
	void (*each)(void *arg, const char *object, uint64_t bytes);
	void *arg;
};

static void list_name(struct store_request *request, const char *object, uint64_t bytes)
{
	struct list_call *call = (struct list_call *)request;	/* the first member */

	call->each(call->arg, object, bytes);
}

int store_list(struct store *store, struct store_scope *scope, const char *prefix,
	       unsigned int flags, void (*each)(void *arg, const char *object, uint64_t bytes),
	       void *arg, struct err *err)
{
	struct list_call call = {
		.request = { .verb = STORE_LIST,
			     .flags = flags,
			     .object = prefix,
			     .name = list_name },
		.each = each,
		.arg = arg,
	};

	return (int)wait_and_tell(store, scope, &call.request, err);
}
