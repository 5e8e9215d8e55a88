// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Whose turn it is at a web server's client: what is urgent never waits for what is not, and
 * whatever nobody wants any more ends at once, wherever it is: waiting for its turn, for an answer,
 * or for a resolver that does not answer.
 */
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/cond.h"
#include "store/http.h"
#include "store/web.h"
#include "web_server.h"

#define BYTES 64u
#define MANY 40u
#define LONG_NS (20 * NS_PER_SEC)

/* ---- requests, and waiting for them ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed;

struct one {
	struct store_request request;
	char data[BYTES];
	bool done;
};

static void one_done(struct store_request *request)
{
	struct one *one = request->arg;

	pthread_mutex_lock(&lock);
	assert_false(one->done);
	one->done = true;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static void one_begin(struct store *store, struct one *one, const char *object, unsigned int flags)
{
	memset(one, 0, sizeof(*one));
	one->request = (struct store_request){ .verb = STORE_GET, .flags = flags, .object = object,
					       .data = one->data, .len = BYTES, .done = one_done,
					       .arg = one };
	store_begin(store, &one->request);
}

static void one_wait(struct one *one, int64_t result)
{
	int64_t until = clock_now_ns() + LONG_NS;

	pthread_mutex_lock(&lock);
	while (!one->done)
		assert_int_equal(cond_wait(&changed, &lock, until), 0);
	pthread_mutex_unlock(&lock);
	if (one->request.result != result)
		fail_msg("%d: %s", (int)one->request.result, one->request.err.text);
}

/* ---- a server that holds whatever is called "held" until it may go on ---- */

struct gate {
	bool open;
	unsigned int held;
};

static void answer_ok(struct web_client *client)
{
	char body[BYTES] = "";

	web_client_say(client, "HTTP/1.1 206 x\r\nContent-Range: bytes 0-%u/1000\r\n"
		       "Content-Length: %u\r\n\r\n", BYTES - 1, BYTES);
	web_client_send(client, body, BYTES);
}

static void answer_gate(struct web_client *client, void *arg)
{
	struct gate *gate = arg;

	if (web_client_is(client, "GET", "/held")) {
		pthread_mutex_lock(&lock);
		gate->held++;
		pthread_cond_broadcast(&changed);
		while (!gate->open)
			pthread_cond_wait(&changed, &lock);
		pthread_mutex_unlock(&lock);
	}
	answer_ok(client);
}

static void wait_held(struct gate *gate, unsigned int n)
{
	int64_t until = clock_now_ns() + LONG_NS;

	pthread_mutex_lock(&lock);
	while (gate->held < n)
		assert_int_equal(cond_wait(&changed, &lock, until), 0);
	pthread_mutex_unlock(&lock);
}

static void open_gate(struct gate *gate)
{
	pthread_mutex_lock(&lock);
	gate->open = true;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static struct store *open_at(const char *host, unsigned int port)
{
	struct store_url url;
	struct store *store;
	struct err err;
	char text[256];

	snprintf(text, sizeof(text), "http://%s:%u", host, port);
	assert_int_equal(store_url_parse(&url, text, &err), 0);
	if (http_store_new(&store, &url, NULL, &err) < 0)
		fail_msg("%s", err.text);
	return store;
}

/* ---- the tests ---- */

static void urgent_reads_pass_all_others(void **state)
{
	struct gate gate = { 0 };
	struct web_server *server = web_server_new(0, answer_gate, &gate);
	struct store *store = open_at("127.0.0.1", web_server_port(server));
	struct one *held = calloc(MANY, sizeof(*held)), urgent;
	unsigned int i;

	(void)state;
	for (i = 0; i < MANY; i++)
		one_begin(store, &held[i], "held", 0);
	wait_held(&gate, WEB_BULK_MAX);
	for (i = 0; i < 5; i++) {
		one_begin(store, &urgent, "quick", STORE_URGENT);
		one_wait(&urgent, BYTES);
	}
	assert_int_equal(gate.held, WEB_BULK_MAX);
	open_gate(&gate);
	for (i = 0; i < MANY; i++)
		one_wait(&held[i], BYTES);
	assert_in_range(web_server_connections(server), WEB_BULK_MAX, WEB_BULK_MAX + 1);
	store_free(store);
	web_server_free(server);
	free(held);
}

/* And while any is under way, few others are begun. */
static void others_make_room_for_urgent_reads(void **state)
{
	struct gate gate = { 0 };
	struct web_server *server = web_server_new(0, answer_gate, &gate);
	struct store *store = open_at("127.0.0.1", web_server_port(server));
	struct one *held = calloc(MANY, sizeof(*held)), urgent[WEB_URGENT_MAX + 1];
	unsigned int i;

	(void)state;
	for (i = 0; i < WEB_URGENT_MAX + 1; i++)
		one_begin(store, &urgent[i], "held", STORE_URGENT);
	wait_held(&gate, WEB_URGENT_MAX);
	for (i = 0; i < MANY; i++)
		one_begin(store, &held[i], "held", 0);
	wait_held(&gate, WEB_URGENT_MAX + WEB_BULK_BESIDE);
	open_gate(&gate);
	for (i = 0; i < WEB_URGENT_MAX + 1; i++)
		one_wait(&urgent[i], BYTES);
	for (i = 0; i < MANY; i++)
		one_wait(&held[i], BYTES);
	store_free(store);
	web_server_free(server);
	free(held);
}

/* But not for want of what somebody will wait for soon. */
static void what_is_wanted_soon_is_begun_beside_urgent_reads(void **state)
{
	struct gate gate = { 0 };
	struct web_server *server = web_server_new(0, answer_gate, &gate);
	struct store *store = open_at("127.0.0.1", web_server_port(server));
	struct one *held = calloc(MANY, sizeof(*held)), *soon = calloc(MANY, sizeof(*soon)), urgent;
	unsigned int i;

	(void)state;
	one_begin(store, &urgent, "held", STORE_URGENT);
	wait_held(&gate, 1);
	for (i = 0; i < MANY; i++)
		one_begin(store, &held[i], "held", 0);
	wait_held(&gate, 1 + WEB_BULK_BESIDE);
	for (i = 0; i < MANY; i++)
		one_begin(store, &soon[i], "held", STORE_SOON);
	wait_held(&gate, 1 + WEB_BULK_MAX);
	open_gate(&gate);
	one_wait(&urgent, BYTES);
	for (i = 0; i < MANY; i++) {
		one_wait(&soon[i], BYTES);
		one_wait(&held[i], BYTES);
	}
	store_free(store);
	web_server_free(server);
	free(held);
	free(soon);
}

static void what_is_cancelled_ends_at_once(void **state)
{
	struct gate gate = { 0 };
	struct web_server *server = web_server_new(0, answer_gate, &gate);
	struct store *store = open_at("127.0.0.1", web_server_port(server));
	struct one *held = calloc(MANY, sizeof(*held)), quick;
	int64_t from;
	unsigned int i;

	(void)state;
	for (i = 0; i < MANY; i++)
		one_begin(store, &held[i], "held", i % 2 ? STORE_URGENT : 0);
	wait_held(&gate, WEB_URGENT_MAX);
	from = clock_now_ns();
	for (i = 0; i < MANY; i++)
		store_cancel(store, &held[i].request);
	for (i = 0; i < MANY; i++)
		one_wait(&held[i], -ECANCELED);
	assert_true(clock_now_ns() - from < NS_PER_SEC);
	one_begin(store, &quick, "quick", 0);
	one_wait(&quick, BYTES);
	/* After the end, and before the beginning. */
	store_cancel(store, &quick.request);
	memset(&held[0], 0, sizeof(held[0]));
	held[0].request = (struct store_request){ .verb = STORE_GET, .object = "held",
						  .data = held[0].data, .len = BYTES,
						  .done = one_done, .arg = &held[0] };
	store_cancel(store, &held[0].request);
	store_begin(store, &held[0].request);
	one_wait(&held[0], -ECANCELED);
	open_gate(&gate);
	store_free(store);
	web_server_free(server);
	free(held);
}

/* ---- threads that wait, and carry out what they wait for ---- */

struct waiter {
	struct store *store;
	struct store_scope scope;
	const char *object;
	pthread_t thread;
	int64_t result;
};

static void *waiter_main(void *arg)
{
	struct waiter *waiter = arg;
	char data[BYTES];

	waiter->result = store_get(waiter->store, &waiter->scope, waiter->object, 0, data, BYTES,
				   STORE_URGENT, NULL);
	return NULL;
}

static void waiter_start(struct waiter *waiter, struct store *store, const char *object)
{
	*waiter = (struct waiter){ .store = store, .object = object };
	store_scope_init(&waiter->scope);
	assert_int_equal(pthread_create(&waiter->thread, NULL, waiter_main, waiter), 0);
}

static void waiter_join(struct waiter *waiter, int64_t result)
{
	pthread_join(waiter->thread, NULL);
	assert_int_equal(waiter->result, result);
	store_scope_fini(&waiter->scope);
}

static void who_waits_is_ended_by_its_scope(void **state)
{
	struct gate gate = { 0 };
	struct web_server *server = web_server_new(0, answer_gate, &gate);
	struct store *store = open_at("127.0.0.1", web_server_port(server));
	struct waiter waiter;
	int64_t from;

	(void)state;
	waiter_start(&waiter, store, "held");
	wait_held(&gate, 1);
	from = clock_now_ns();
	store_scope_cancel(&waiter.scope);
	waiter_join(&waiter, -ECANCELED);
	assert_true(clock_now_ns() - from < NS_PER_SEC);
	open_gate(&gate);
	store_free(store);
	web_server_free(server);
}

/* What others begin goes on while he waits, and after he has gone. */
static void who_waits_holds_up_nobody(void **state)
{
	struct gate gate = { 0 };
	struct web_server *server = web_server_new(0, answer_gate, &gate);
	struct store *store = open_at("127.0.0.1", web_server_port(server));
	struct one quick, held;
	struct waiter waiter;

	(void)state;
	waiter_start(&waiter, store, "held");
	wait_held(&gate, 1);
	one_begin(store, &quick, "quick", STORE_URGENT);
	one_wait(&quick, BYTES);
	one_begin(store, &held, "held", STORE_URGENT);
	wait_held(&gate, 2);
	store_scope_cancel(&waiter.scope);
	waiter_join(&waiter, -ECANCELED);
	one_begin(store, &quick, "quick", STORE_URGENT);
	one_wait(&quick, BYTES);
	open_gate(&gate);
	one_wait(&held, BYTES);
	store_free(store);
	web_server_free(server);
}

#define WAITERS 8
#define ROUNDS 40

/* Answers and cancels in any order: nobody waits for ever. */
static void of_many_that_wait_each_is_answered(void **state)
{
	struct gate gate = { .open = true };
	struct web_server *server = web_server_new(0, answer_gate, &gate);
	struct store *store = open_at("127.0.0.1", web_server_port(server));
	struct waiter waiter[WAITERS];
	unsigned int i, round;

	(void)state;
	for (round = 0; round < ROUNDS; round++) {
		for (i = 0; i < WAITERS; i++)
			waiter_start(&waiter[i], store, i % 2 ? "held" : "quick");
		store_scope_cancel(&waiter[round % WAITERS].scope);
		for (i = 0; i < WAITERS; i++) {
			pthread_join(waiter[i].thread, NULL);
			if (i != round % WAITERS || waiter[i].result != -ECANCELED)
				assert_int_equal(waiter[i].result, BYTES);
			store_scope_fini(&waiter[i].scope);
		}
	}
	store_free(store);
	web_server_free(server);
}

/* ---- a resolver that does not answer ---- */

static _Atomic bool resolver_stuck, resolver_asked;

/* Instead of the system's, also for libcurl: it finds nothing, and not soon. */
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
		struct addrinfo **found)
{
	(void)node, (void)service, (void)hints;
	pthread_mutex_lock(&lock);
	resolver_asked = true;
	pthread_cond_broadcast(&changed);
	while (resolver_stuck)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
	*found = NULL;
	return EAI_AGAIN;
}

static void a_resolver_that_hangs_holds_up_no_cancel(void **state)
{
	struct store *store = open_at("stuck.example.com", 80);
	struct waiter waiter;
	struct one one;
	int64_t from, until = clock_now_ns() + LONG_NS;

	(void)state;
	resolver_stuck = true;
	one_begin(store, &one, "quick", 0);
	pthread_mutex_lock(&lock);
	while (!resolver_asked)
		assert_int_equal(cond_wait(&changed, &lock, until), 0);
	pthread_mutex_unlock(&lock);
	waiter_start(&waiter, store, "quick");
	from = clock_now_ns();
	store_cancel(store, &one.request);
	one_wait(&one, -ECANCELED);
	store_scope_cancel(&waiter.scope);
	waiter_join(&waiter, -ECANCELED);
	store_free(store);
	assert_true(clock_now_ns() - from < NS_PER_SEC);
	pthread_mutex_lock(&lock);
	resolver_stuck = false;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static void a_name_that_is_not_found_may_be_found_later(void **state)
{
	struct store *store = open_at("none.example.com", 80);
	struct one one;
	int i;

	(void)state;
	/* Each of them by the same handle of libcurl's. */
	for (i = 0; i < 3; i++) {
		one_begin(store, &one, "quick", STORE_URGENT);
		one_wait(&one, -EAGAIN);
		assert_non_null(strstr(one.request.err.text, "none.example.com"));
	}
	store_free(store);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(urgent_reads_pass_all_others),
		cmocka_unit_test(others_make_room_for_urgent_reads),
		cmocka_unit_test(what_is_wanted_soon_is_begun_beside_urgent_reads),
		cmocka_unit_test(what_is_cancelled_ends_at_once),
		cmocka_unit_test(who_waits_is_ended_by_its_scope),
		cmocka_unit_test(who_waits_holds_up_nobody),
		cmocka_unit_test(of_many_that_wait_each_is_answered),
		cmocka_unit_test(a_resolver_that_hangs_holds_up_no_cancel),
		cmocka_unit_test(a_name_that_is_not_found_may_be_found_later),
	};

	cond_init(&changed);
	/* No proxy stands between. */
	setenv("no_proxy", "*", 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
