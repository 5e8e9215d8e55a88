// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/* See toy_store.h. All is done inside of store_begin, but for what is held back. */
#include "toy_store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct toy_store {
	struct store store;
	pthread_mutex_t lock;		/* guards the rest */
	pthread_cond_t changed;
	struct toy_object *objects;	/* in the order of names */
	unsigned int n, n_held, cancellers;
	uint64_t room, gets;
	enum store_verb fail_verb;
	uint64_t fail_in;		/* 0: none */
	int fail_code;
	const char *unsure;
	int unsure_code;
	bool hold;
	struct store_request *held;
	void (*hook)(void *arg, const struct store_request *request);
	void *hook_arg;
};

/* Where it is, or would be. */
static unsigned int place_of(struct toy_store *toy, const char *name, bool *there)
{
	unsigned int i = 0;

	while (i < toy->n && strcmp(toy->objects[i].name, name) < 0)
		i++;
	*there = i < toy->n && !strcmp(toy->objects[i].name, name);
	return i;
}

static int64_t toy_get(struct toy_store *toy, struct store_request *request)
{
	struct toy_object *object;
	bool there;
	unsigned int i = place_of(toy, request->object, &there);
	size_t left;

	if (!there)
		return -ENOENT;
	object = &toy->objects[i];
	object->gets++;
	toy->gets++;
	left = request->offset < object->len ? object->len - request->offset : 0;
	if (left < request->len && !(request->flags & STORE_UP_TO))
		return -EBADMSG;
	if (left > request->len)
		left = request->len;
	memcpy(request->data, object->data + request->offset, left);
	return (int64_t)left;
}

static int64_t toy_put(struct toy_store *toy, struct store_request *request)
{
	bool there;
	unsigned int i = place_of(toy, request->object, &there);

	if (there && request->flags & STORE_NEW)
		return -EEXIST;
	if (request->len > toy->room)
		return -ENOSPC;
	if (toy->room != UINT64_MAX)
		toy->room -= request->len;
	if (!there) {
		toy->objects = realloc(toy->objects, (toy->n + 1) * sizeof(*toy->objects));
		memmove(&toy->objects[i + 1], &toy->objects[i],
			(toy->n++ - i) * sizeof(*toy->objects));
		memset(&toy->objects[i], 0, sizeof(*toy->objects));
		strncpy(toy->objects[i].name, request->object, sizeof(toy->objects->name) - 1);
	}
	free(toy->objects[i].data);
	toy->objects[i].data = malloc(request->len + 1);
	memcpy(toy->objects[i].data, request->data, request->len);
	toy->objects[i].len = request->len;
	if (toy->unsure && strstr(request->object, toy->unsure))
		return toy->unsure_code;
	return (int64_t)request->len;
}

static int64_t toy_delete(struct toy_store *toy, struct store_request *request)
{
	bool there;
	unsigned int i = place_of(toy, request->object, &there);

	if (!there)
		return 0;
	free(toy->objects[i].data);
	memmove(&toy->objects[i], &toy->objects[i + 1], (--toy->n - i) * sizeof(*toy->objects));
	return 0;
}

/* Names are told without the lock, from a copy. */
static int64_t toy_list(struct toy_store *toy, struct store_request *request)
{
	unsigned int n = toy->n, i;
	struct toy_object *copy = malloc((n + 1) * sizeof(*copy));

	memcpy(copy, toy->objects, n * sizeof(*copy));
	pthread_mutex_unlock(&toy->lock);
	for (i = 0; i < n; i++)
		if (!strncmp(copy[i].name, request->object, strlen(request->object)))
			request->name(request, copy[i].name, copy[i].len);
	free(copy);
	pthread_mutex_lock(&toy->lock);
	return 0;
}

static bool must_fail(struct toy_store *toy, const struct store_request *request)
{
	if (!toy->fail_in || request->verb != toy->fail_verb)
		return false;
	if (toy->fail_in > 1) {
		toy->fail_in--;
		return false;
	}
	return true;
}

static int64_t toy_serve(struct toy_store *toy, struct store_request *request)
{
	if (must_fail(toy, request))
		return toy->fail_code;
	switch (request->verb) {
	case STORE_GET:
		return toy_get(toy, request);
	case STORE_PUT:
		return toy_put(toy, request);
	case STORE_DELETE:
		return toy_delete(toy, request);
	default:
		return toy_list(toy, request);
	}
}

static void toy_answer(struct toy_store *toy, struct store_request *request, int64_t result)
{
	if (result < 0)
		store_errno(&toy->store, request, (int)result, "no");
	else
		store_done(request, result);
}

static void toy_begin(struct store *store, struct store_request *request)
{
	struct toy_store *toy = (struct toy_store *)store;
	int64_t result;

	if (toy->hook)
		toy->hook(toy->hook_arg, request);
	pthread_mutex_lock(&toy->lock);
	if (toy->hold && request->verb == STORE_GET && strstr(request->object, "pack-")) {
		request->next = toy->held;
		toy->held = request;
		toy->n_held++;
		pthread_cond_broadcast(&toy->changed);
		result = store_is_cancelled(request);
		pthread_mutex_unlock(&toy->lock);
		if (result)
			toy_store_hold(toy, true);
		return;
	}
	result = toy_serve(toy, request);
	pthread_mutex_unlock(&toy->lock);
	toy_answer(toy, request, result);
}

/* Answers all that is held back, those that were cancelled alone when it still holds. */
void toy_store_hold(struct toy_store *toy, bool hold)
{
	struct store_request **at, *request;
	int64_t result;

	pthread_mutex_lock(&toy->lock);
	toy->hold = hold;
	for (at = &toy->held; (request = *at);) {
		if (hold && !store_is_cancelled(request)) {
			at = &request->next;
			continue;
		}
		*at = request->next;
		toy->n_held--;
		result = store_is_cancelled(request) ? -ECANCELED : toy_serve(toy, request);
		pthread_mutex_unlock(&toy->lock);
		toy_answer(toy, request, result);
		pthread_mutex_lock(&toy->lock);
		at = &toy->held;
	}
	pthread_mutex_unlock(&toy->lock);
}

static void *toy_cancel_main(void *arg)
{
	struct toy_store *toy = arg;

	toy_store_hold(toy, true);
	pthread_mutex_lock(&toy->lock);
	toy->cancellers--;
	pthread_cond_broadcast(&toy->changed);
	pthread_mutex_unlock(&toy->lock);
	return NULL;
}

/* done is never called from inside of cancel. */
static void toy_cancel(struct store *store, struct store_request *request)
{
	struct toy_store *toy = (struct toy_store *)store;
	pthread_t thread;
	bool hold;

	(void)request;
	pthread_mutex_lock(&toy->lock);
	hold = toy->hold;
	if (hold && !pthread_create(&thread, NULL, toy_cancel_main, toy)) {
		toy->cancellers++;
		pthread_detach(thread);
	}
	pthread_mutex_unlock(&toy->lock);
}

static void toy_free(struct store *store)
{
	struct toy_store *toy = (struct toy_store *)store;
	unsigned int i;

	pthread_mutex_lock(&toy->lock);
	while (toy->cancellers)
		pthread_cond_wait(&toy->changed, &toy->lock);
	pthread_mutex_unlock(&toy->lock);
	for (i = 0; i < toy->n; i++)
		free(toy->objects[i].data);
	free(toy->objects);
	pthread_cond_destroy(&toy->changed);
	pthread_mutex_destroy(&toy->lock);
	free(toy);
}

static const struct store_ops toy_ops = {
	.name = "toy",
	.begin = toy_begin,
	.cancel = toy_cancel,
	.free = toy_free,
};

struct toy_store *toy_store_new(void)
{
	struct toy_store *toy = calloc(1, sizeof(*toy));

	store_init(&toy->store, &toy_ops, "toy");
	pthread_mutex_init(&toy->lock, NULL);
	pthread_cond_init(&toy->changed, NULL);
	toy->room = UINT64_MAX;
	return toy;
}

struct store *toy_store(struct toy_store *toy)
{
	return &toy->store;
}

void toy_store_free(struct toy_store *toy)
{
	store_free(&toy->store);
}

struct toy_object *toy_store_find(struct toy_store *toy, const char *name)
{
	bool there;
	unsigned int i;

	pthread_mutex_lock(&toy->lock);
	i = place_of(toy, name, &there);
	pthread_mutex_unlock(&toy->lock);
	return there ? &toy->objects[i] : NULL;
}

struct toy_object *toy_store_at(struct toy_store *toy, unsigned int i)
{
	return i < toy_store_count(toy) ? &toy->objects[i] : NULL;
}

unsigned int toy_store_count(struct toy_store *toy)
{
	unsigned int n;

	pthread_mutex_lock(&toy->lock);
	n = toy->n;
	pthread_mutex_unlock(&toy->lock);
	return n;
}

struct toy_object *toy_store_like(struct toy_store *toy, const char *part)
{
	struct toy_object *object;
	unsigned int i;

	for (i = 0; (object = toy_store_at(toy, i)); i++)
		if (strstr(object->name, part))
			return object;
	return NULL;
}

uint64_t toy_store_gets(struct toy_store *toy)
{
	uint64_t gets;

	pthread_mutex_lock(&toy->lock);
	gets = toy->gets;
	pthread_mutex_unlock(&toy->lock);
	return gets;
}

void toy_store_forget_gets(struct toy_store *toy)
{
	unsigned int i;

	pthread_mutex_lock(&toy->lock);
	toy->gets = 0;
	for (i = 0; i < toy->n; i++)
		toy->objects[i].gets = 0;
	pthread_mutex_unlock(&toy->lock);
}

void toy_store_set_room(struct toy_store *toy, uint64_t bytes)
{
	pthread_mutex_lock(&toy->lock);
	toy->room = bytes;
	pthread_mutex_unlock(&toy->lock);
}

void toy_store_set_failure(struct toy_store *toy, enum store_verb verb, uint64_t nth, int code)
{
	pthread_mutex_lock(&toy->lock);
	toy->fail_verb = verb;
	toy->fail_in = nth;
	toy->fail_code = code;
	pthread_mutex_unlock(&toy->lock);
}

void toy_store_set_unsure(struct toy_store *toy, const char *part, int code)
{
	pthread_mutex_lock(&toy->lock);
	toy->unsure = part;
	toy->unsure_code = code;
	pthread_mutex_unlock(&toy->lock);
}

void toy_store_wait_held(struct toy_store *toy, unsigned int n)
{
	pthread_mutex_lock(&toy->lock);
	while (toy->n_held < n)
		pthread_cond_wait(&toy->changed, &toy->lock);
	pthread_mutex_unlock(&toy->lock);
}

void toy_store_set_hook(struct toy_store *toy,
			void (*hook)(void *arg, const struct store_request *), void *arg)
{
	toy->hook_arg = arg;
	toy->hook = hook;
}
