// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// store/wait.c: threads that wait for a store, and what ends their waits.
#include "folder.h"

#include <pthread.h>
#include <stdio.h>

/* A store that answers nothing but a cancel, by a thread, as each must. */
struct silent {
	struct store store;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct store_request *request, *cancelled;
	unsigned int begun;
	bool stop;
	pthread_t thread;
};

static void silent_begin(struct store *store, struct store_request *request)
{
	struct silent *silent = (struct silent *)store;

	pthread_mutex_lock(&silent->lock);
	assert_null(silent->request);
	silent->request = request;
	silent->begun++;
	if (store_is_cancelled(request))
		silent->cancelled = request;
	pthread_cond_broadcast(&silent->cond);
	pthread_mutex_unlock(&silent->lock);
}

static void silent_cancel(struct store *store, struct store_request *request)
{
	struct silent *silent = (struct silent *)store;

	pthread_mutex_lock(&silent->lock);
	if (silent->request == request)
		silent->cancelled = request;
	pthread_cond_broadcast(&silent->cond);
	pthread_mutex_unlock(&silent->lock);
}

static const struct store_ops silent_ops = {
	.name = "silent",
	.begin = silent_begin,
	.cancel = silent_cancel,
};

static void *silent_main(void *arg)
{
	struct silent *silent = arg;
	struct store_request *request;

	pthread_mutex_lock(&silent->lock);
	while (!silent->stop || silent->cancelled) {
		request = silent->cancelled;
		if (!request) {
			pthread_cond_wait(&silent->cond, &silent->lock);
			continue;
		}
		silent->request = silent->cancelled = NULL;
		pthread_mutex_unlock(&silent->lock);
		store_fail(&silent->store, request, -ECANCELED, "cancelled");
		pthread_mutex_lock(&silent->lock);
	}
	pthread_mutex_unlock(&silent->lock);
	return NULL;
}

static void silent_start(struct silent *silent)
{
	*silent = (struct silent){ .begun = 0 };
	store_init(&silent->store, &silent_ops, "silent");
	pthread_mutex_init(&silent->lock, NULL);
	pthread_cond_init(&silent->cond, NULL);
	assert_int_equal(pthread_create(&silent->thread, NULL, silent_main, silent), 0);
}

static void silent_stop(struct silent *silent)
{
	pthread_mutex_lock(&silent->lock);
	silent->stop = true;
	pthread_cond_broadcast(&silent->cond);
	pthread_mutex_unlock(&silent->lock);
	pthread_join(silent->thread, NULL);
}

/* Waits until n requests have come. */
static void silent_wait(struct silent *silent, unsigned int n)
{
	pthread_mutex_lock(&silent->lock);
	while (silent->begun < n)
		pthread_cond_wait(&silent->cond, &silent->lock);
	pthread_mutex_unlock(&silent->lock);
}

struct waiter {
	struct silent silent;
	struct store_scope scope;
	struct err err;
	int64_t result;
};

static void *wait_for_it(void *arg)
{
	struct waiter *w = arg;
	char byte;

	w->result = store_get(&w->silent.store, &w->scope, "x", 0, &byte, 1, 0, &w->err);
	return NULL;
}

static void test_a_scope_ends_what_waits_and_what_comes(void **state)
{
	struct waiter w;
	struct err err;
	pthread_t thread;
	char byte;

	(void)state;
	silent_start(&w.silent);
	store_scope_init(&w.scope);
	assert_int_equal(pthread_create(&thread, NULL, wait_for_it, &w), 0);
	silent_wait(&w.silent, 1);
	store_scope_cancel(&w.scope);
	pthread_join(thread, NULL);
	expect_error(w.result, &w.err, -ECANCELED, "silent: get \"x\": cancelled");
	expect_error(store_get(&w.silent.store, &w.scope, "y", 0, &byte, 1, 0, &err), &err,
		     -ECANCELED, "before it began");
	assert_int_equal(w.silent.begun, 1);
	/* Open again, it waits again. */
	store_scope_open(&w.scope);
	assert_int_equal(pthread_create(&thread, NULL, wait_for_it, &w), 0);
	silent_wait(&w.silent, 2);
	store_scope_cancel(&w.scope);
	pthread_join(thread, NULL);
	assert_int_equal(w.result, -ECANCELED);
	store_scope_fini(&w.scope);
	silent_stop(&w.silent);
}

static void *cancel_often(void *arg)
{
	struct waiter *w = arg;
	unsigned int i;

	for (i = 0; i < 2000; i++) {
		store_scope_cancel(&w->scope);
		store_scope_open(&w->scope);
	}
	store_scope_cancel(&w->scope);
	return NULL;
}

/* However early it comes: between the scope and the store as well. */
static void test_no_cancel_is_lost(void **state)
{
	struct waiter w;
	pthread_t thread;
	unsigned int i = 0;

	(void)state;
	silent_start(&w.silent);
	store_scope_init(&w.scope);
	assert_int_equal(pthread_create(&thread, NULL, cancel_often, &w), 0);
	do {
		wait_for_it(&w);
		assert_int_equal(w.result, -ECANCELED);
	} while (++i < 1000);
	pthread_join(thread, NULL);
	store_scope_fini(&w.scope);
	silent_stop(&w.silent);
}

static void test_get_all_is_bounded(void **state)
{
	struct folder *f = *state;
	size_t n = 300000;
	uint8_t *data = calloc(1, n);
	struct buf out = { 0 };
	struct err err;

	data[n - 1] = 7;
	assert_int_equal(store_put(f->store, NULL, "x", data, n, 0, &err), n);
	assert_int_equal(buf_append(&out, "head", 4), 0);
	assert_int_equal(store_get_all(f->store, NULL, "x", n, &out, &err), n);
	assert_int_equal(out.len, n + 4);
	assert_memory_equal(out.data, "head", 4);
	assert_memory_equal(out.data + 4, data, n);
	out.len = 4;
	expect_error(store_get_all(f->store, NULL, "x", n - 1, &out, &err), &err, -EFBIG, "299999");
	assert_int_equal(out.len, 4);
	expect_error(store_get_all(f->store, NULL, "x", 0, &out, &err), &err, -EFBIG, "more than");
	assert_int_equal(store_get_all(f->store, NULL, "x", SIZE_MAX, &out, &err), n);
	out.len = 4;
	expect_error(store_get_all(f->store, NULL, "none", n, &out, &err), &err, -ENOENT, "none");
	assert_int_equal(store_put(f->store, NULL, "empty", data, 0, 0, &err), 0);
	assert_int_equal(store_get_all(f->store, NULL, "empty", 0, &out, &err), 0);
	assert_int_equal(out.len, 4);
	buf_fini(&out);
	free(data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_scope_ends_what_waits_and_what_comes),
		cmocka_unit_test(test_no_cancel_is_lost),
		cmocka_unit_test_setup_teardown(test_get_all_is_bounded, folder_setup,
						folder_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
