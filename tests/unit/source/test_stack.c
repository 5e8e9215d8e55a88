// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * All wrappers at once, in every order, between real memory and a source with a
 * thread of its own; and the end of such stacks while everything waits.
 */
#include "ends.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/log.h"
#include "memory/gup.h"
#include "memory/memory.h"
#include "source/delay.h"
#include "source/inject.h"
#include "source/retry.h"
#include "source/throttle.h"
#include "source/verify.h"

#define PAGES 512
#define READERS 2

enum layer_type { THROTTLE, DELAY, INJECT, RETRY, VERIFY, TYPES };

/* ---- a source that answers from a thread ---- */

struct server {
	struct page_source source;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool wanted[PAGES];
	uint64_t bulk;		/* the next page to be pushed: every fourth is, unasked */
	bool stop;
};

static int server_request(struct page_source *source, gfn_t first, uint64_t n)
{
	struct server *server = (struct server *)source;
	uint64_t i;

	pthread_mutex_lock(&server->lock);
	for (i = 0; i < n; i++)
		server->wanted[first.v + i] = true;
	pthread_cond_signal(&server->changed);
	pthread_mutex_unlock(&server->lock);
	return 0;
}

static const struct page_source_ops server_ops = { .name = "server", .request = server_request };

/* Called with the lock held: what is asked for first, then the bulk. */
static bool server_pick(struct server *server, uint64_t *gfn, bool *bulk)
{
	*bulk = false;
	for (*gfn = 0; *gfn < PAGES; (*gfn)++)
		if (server->wanted[*gfn]) {
			server->wanted[*gfn] = false;
			return true;
		}
	*bulk = true;
	*gfn = server->bulk;
	server->bulk += 4;
	return *gfn < PAGES;
}

/* What nobody asked for comes by commit. */
static void server_bring(struct server *server, uint64_t gfn, bool bulk)
{
	struct page_sink *sink = server->source.sink;
	uint8_t page[PAGE_BYTES];
	void *room = page;

	if (bulk && gfn % 8)
		assert_int_equal(sink->ops->room(sink, GFN(gfn), 1, &room), 1);
	ends_page(room, gfn);
	if (bulk)
		sink->ops->commit(sink, GFN(gfn), 1, gfn % 8 ? room : NULL);
	else
		sink->ops->fill(sink, GFN(gfn), 1, gfn % 4 ? page : NULL);
}

static void *server_main(void *arg)
{
	struct server *server = arg;
	uint64_t gfn;
	bool bulk;

	pthread_mutex_lock(&server->lock);
	while (!server->stop) {
		if (!server_pick(server, &gfn, &bulk)) {
			pthread_cond_wait(&server->changed, &server->lock);
			continue;
		}
		pthread_mutex_unlock(&server->lock);
		server_bring(server, gfn, bulk);
		pthread_mutex_lock(&server->lock);
	}
	pthread_mutex_unlock(&server->lock);
	return NULL;
}

static void server_start(struct server *server)
{
	*server = (struct server){ .source.ops = &server_ops };
	pthread_mutex_init(&server->lock, NULL);
	pthread_cond_init(&server->changed, NULL);
}

static void server_stop(void *arg)
{
	struct server *server = arg;

	pthread_mutex_lock(&server->lock);
	server->stop = true;
	pthread_cond_signal(&server->changed);
	pthread_mutex_unlock(&server->lock);
	pthread_join(server->thread, NULL);
}

static void server_release(void *arg)
{
	struct server *server = arg;

	pthread_cond_destroy(&server->changed);
	pthread_mutex_destroy(&server->lock);
	server->stop = false;	/* seen by the test: it was called, and once */
}

/* ---- layers in an order ---- */

static uint64_t sums[PAGES];
static struct verify_table table = { { 0 }, PAGES, sums };

static void make_sums(void)
{
	uint8_t page[PAGE_BYTES];
	uint64_t i;

	for (i = 0; i < PAGES; i++) {
		ends_page(page, i);
		sums[i] = XXH3_64bits(page, sizeof(page));
	}
}

/* The n-th order of the five kinds, 0 to 119. */
static void order_of(unsigned int n, enum layer_type *order)
{
	enum layer_type left[TYPES] = { THROTTLE, DELAY, INJECT, RETRY, VERIFY };
	unsigned int i, k, at;

	for (i = 0; i < TYPES; i++) {
		at = n % (TYPES - i);
		n /= TYPES - i;
		order[i] = left[at];
		for (k = at; k + 1 < TYPES - i; k++)
			left[k] = left[k + 1];
	}
}

static bool is_above(const enum layer_type *order, enum layer_type a, enum layer_type b)
{
	unsigned int i;

	for (i = 0; order[i] != a && order[i] != b; i++)
		;
	return order[i] == a;
}

/* Faults only where a layer above is there to heal them. */
static struct layer *new_inject(const enum layer_type *order, uint64_t seed)
{
	struct inject_rule rules[3];
	struct inject *inject;
	unsigned int n = 0;

	if (is_above(order, VERIFY, INJECT))
		rules[n++] = (struct inject_rule){ .fault = INJECT_CORRUPT, .chance = 0.05 };
	if (is_above(order, RETRY, INJECT)) {
		rules[n++] = (struct inject_rule){ .fault = INJECT_SILENCE, .chance = 0.05 };
		rules[n++] = (struct inject_rule){ .fault = INJECT_FAIL, .chance = 0.05 };
	}
	assert_int_equal(inject_new(&inject, rules, n, seed, NULL), 0);
	return inject_layer(inject);
}

static struct layer *new_layer(enum layer_type type, const enum layer_type *order,
			       unsigned int seed, bool stuck)
{
	const struct verify_config verify_config = { verify_table_sum, &table, 50, PAGES };
	const struct retry_config retry_config = {
		.deadline_ns = (stuck ? 1 : 5) * NS_PER_MS, .deadline_max_ns = 20 * NS_PER_MS, .tries = 3,
		.pages_max = PAGES, .seed = seed,
	};
	const struct delay_config delay_config = {
		.request_spread_ns = stuck ? 10 * NS_PER_SEC : 200 * NS_PER_US,
		.fill_ns = stuck ? 3000 * NS_PER_SEC : 0,
		.fill_spread_ns = 200 * NS_PER_US, .bytes_max = HUGE_BYTES, .seed = seed,
	};
	struct throttle *throttle;
	struct verify *verify;
	struct delay *delay;
	struct retry *retry;

	switch (type) {
	case THROTTLE:
		assert_int_equal(throttle_new(&throttle, stuck ? 1 : 8000000, PAGES, NULL), 0);
		return throttle_layer(throttle);
	case DELAY:
		assert_int_equal(delay_new(&delay, &delay_config, NULL), 0);
		return delay_layer(delay);
	case RETRY:
		assert_int_equal(retry_new(&retry, &retry_config, NULL), 0);
		return retry_layer(retry);
	case VERIFY:
		assert_int_equal(verify_new(&verify, &verify_config, NULL), 0);
		return verify_layer(verify);
	default:
		return new_inject(order, seed + 1);
	}
}

static struct stack *new_stack(const enum layer_type *order, unsigned int seed, bool stuck,
			       struct page_sink *sink, struct page_source *bottom)
{
	struct layer *layer[TYPES];
	struct stack *stack;
	unsigned int i;

	for (i = 0; i < TYPES; i++)
		layer[i] = new_layer(order[i], order, seed, stuck);
	assert_int_equal(stack_new(&stack, sink, layer, TYPES, bottom, NULL), 0);
	return stack;
}

/* ---- readers ---- */

struct reader {
	pthread_t thread;
	struct memory *mem;
	unsigned int first, wrong;
};

static void *reader_main(void *arg)
{
	struct reader *reader = arg;
	uint8_t is[PAGE_BYTES], should[PAGE_BYTES];
	uint64_t gfn;

	for (gfn = reader->first; gfn < PAGES; gfn += 5) {
		ends_page(should, gfn);
		if (gup_read(reader->mem, gfn_to_gpa(GFN(gfn)), is, sizeof(is), 0, NULL) < 0 ||
		    memcmp(is, should, sizeof(is)))
			reader->wrong++;
	}
	return NULL;
}

static void run_order(unsigned int number)
{
	struct reader reader[READERS];
	struct memory *mem = ends_late_memory(HUGE_BYTES);
	enum layer_type order[TYPES];
	struct server server;
	struct stack *stack;
	unsigned int i;

	order_of(number, order);
	server_start(&server);
	stack = new_stack(order, number, false, memory_sink(mem), &server.source);
	assert_int_equal(stack_own(stack, server_stop, server_release, &server), 0);
	assert_int_equal(pthread_create(&server.thread, NULL, server_main, &server), 0);
	memory_attach(mem, stack_top(stack));
	for (i = 0; i < READERS; i++) {
		reader[i] = (struct reader){ .mem = mem, .first = i * 2 };
		assert_int_equal(pthread_create(&reader[i].thread, NULL, reader_main, &reader[i]),
				 0);
	}
	for (i = 0; i < READERS; i++) {
		pthread_join(reader[i].thread, NULL);
		assert_int_equal(reader[i].wrong, 0);
	}
	memory_detach(mem);
	stack_stop(stack);
	assert_true(server.stop);
	stack_free(stack);
	assert_false(server.stop);
	memory_shut(mem);
	memory_free(mem);
}

static void test_every_order_brings_every_page_whole(void **state)
{
	unsigned int i;

	(void)state;
	make_sums();
	for (i = 0; i < 120; i++)
		run_order(i);
}

/* ---- the end ---- */

struct pusher {
	pthread_t thread;
	struct far *far;
	_Atomic bool stop;
	_Atomic unsigned int pushed;	/* fills begun */
};

static void *pusher_main(void *arg)
{
	struct pusher *pusher = arg;

	while (!pusher->stop) {
		far_fill_wrong(pusher->far, 1, 300, pusher->pushed++ % 2 ? 5 : UINT64_MAX);
		far_commit_wrong(pusher->far, 1, 300, pusher->pushed % 2 ? 5 : UINT64_MAX);
	}
	return NULL;
}

static void pusher_stop(void *arg)
{
	struct pusher *pusher = arg;

	pusher->stop = true;
	pthread_join(pusher->thread, NULL);
}

/*
 * In every order: a source that never answers but pushes into a throttle of a
 * byte a second and a delay of an hour.
 */
static void test_the_end_waits_for_nothing(void **state)
{
	struct near *near = malloc(sizeof(*near));
	struct far *far = malloc(sizeof(*far));
	enum layer_type order[TYPES];
	struct pusher pusher;
	struct stack *stack;
	unsigned int i, k;
	int64_t begin;

	(void)state;
	assert_true(near && far);
	make_sums();
	for (i = 0; i < 120; i++) {
		far_init(far);
		near_init(near);
		order_of(i, order);
		stack = new_stack(order, i, true, &near->sink, &far->source);
		pusher = (struct pusher){ .far = far };
		assert_int_equal(stack_own(stack, pusher_stop, NULL, &pusher), 0);
		assert_int_equal(pthread_create(&pusher.thread, NULL, pusher_main, &pusher), 0);
		for (k = 400; k < 420; k++)
			assert_int_equal(ask(stack_top(stack), k, 1), 0);
		/*
		 * One of the first two fills is held up, by throttle or delay.
		 * The end comes before, at, and after that moment.
		 */
		wait_until(pusher.pushed);
		for (k = 0; k < i % 16; k++)
			wait_a_little();
		begin = clock_now_ns();
		stack_stop(stack);
		assert_true(clock_now_ns() - begin < 5 * NS_PER_SEC);
		assert_int_equal(ask(stack_top(stack), 1, 1), -ENOTCONN);
		k = near->fills;
		assert_int_equal(far_fill(far, 500, 1), 0);
		assert_int_equal(near->fills, k);
		assert_int_equal(near->rooms, 0);
		assert_int_equal(near->wrong, 0);
		stack_free(stack);
	}
	free(near);
	free(far);
}

/* ---- stacks of stacks, and none ---- */

static void lower_stop(void *arg)
{
	stack_stop(arg);
}

static void lower_free(void *arg)
{
	stack_free(arg);
}

static void test_a_stack_can_be_the_second_source_of_another(void **state)
{
	const struct retry_config config = {
		.deadline_ns = 3600 * NS_PER_SEC, .deadline_max_ns = 3600 * NS_PER_SEC, .tries = 1, .pages_max = 4,
	};
	const struct verify_config verify_config = { verify_table_sum, &table, 1, 4 };
	struct near *near = malloc(sizeof(*near));
	struct far *far = malloc(2 * sizeof(*far));
	struct stack *upper, *lower;
	struct layer *layer;
	struct verify *verify;
	struct retry *retry;

	(void)state;
	assert_true(near && far);
	make_sums();
	near_init(near);
	far_init(&far[0]);
	far_init(&far[1]);
	assert_int_equal(verify_new(&verify, &verify_config, NULL), 0);
	layer = verify_layer(verify);
	assert_int_equal(stack_new(&lower, NULL, &layer, 1, &far[1].source, NULL), 0);
	assert_int_equal(retry_new(&retry, &config, NULL), 0);
	layer = retry_layer(retry);
	assert_int_equal(stack_new(&upper, &near->sink, &layer, 1, &far[0].source, NULL), 0);
	assert_int_equal(retry_add(retry, stack_top(lower)), 0);
	assert_int_equal(stack_own(upper, lower_stop, lower_free, lower), 0);
	assert_int_equal(ask(stack_top(upper), 7, 1), 0);
	assert_int_equal(far_lose(&far[0], 7), 0);
	assert_int_equal(far[1].asked[7], 1);
	assert_int_equal(far_fill_wrong(&far[1], 7, 1, 7), 0);
	assert_int_equal(far_fill(&far[1], 7, 1), 1);
	assert_int_equal(near->losses, 0);
	assert_int_equal(near->wrong, 0);
	stack_free(upper);
	free(near);
	free(far);
}

static void test_an_empty_stack_is_its_source(void **state)
{
	struct layer *many[STACK_LAYERS_MAX + 1] = { NULL };
	struct near *near = malloc(sizeof(*near));
	struct far *far = malloc(sizeof(*far));
	struct stack *stack;
	struct err err;
	int i;

	(void)state;
	assert_true(near && far);
	near_init(near);
	far_init(far);
	assert_int_equal(
		stack_new(&stack, &near->sink, many, STACK_LAYERS_MAX + 1, &far->source, &err),
		-EINVAL);
	assert_int_equal(stack_new(&stack, &near->sink, NULL, 0, &far->source, &err), 0);
	assert_ptr_equal(stack_top(stack), &far->source);
	assert_int_equal(far_fill(far, 3, 5), 5);
	for (i = 0; i < STACK_PARTS_MAX; i++)
		assert_int_equal(stack_own(stack, NULL, NULL, NULL), 0);
	assert_int_equal(stack_own(stack, NULL, NULL, NULL), -ENOSPC);
	stack_free(stack);
	stack_free(NULL);
	free(near);
	free(far);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_order_brings_every_page_whole),
		cmocka_unit_test(test_the_end_waits_for_nothing),
		cmocka_unit_test(test_a_stack_can_be_the_second_source_of_another),
		cmocka_unit_test(test_an_empty_stack_is_its_source),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
