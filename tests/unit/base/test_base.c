// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/cond.h"
#include "base/err.h"
#include "base/hist.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/page.h"

static void test_err_keeps_code_and_gathers_context(void **unused)
{
	struct err err;

	(void)unused;
	assert_int_equal(err_errno(&err, -ENOENT, "opening %s", "x"), -ENOENT);
	assert_string_equal(err.text, "opening x: No such file or directory");
	assert_int_equal(err_prefix(&err, err.code, "disk %d", 1), -ENOENT);
	assert_string_equal(err.text, "disk 1: opening x: No such file or directory");
	assert_int_equal(err_set(NULL, -EIO, "nobody reads this"), -EIO);
	assert_int_equal(err_errno(NULL, -EIO, "nobody reads this"), -EIO);
	assert_int_equal(err_prefix(NULL, -EIO, "nobody reads this"), -EIO);
}

static void test_err_never_overflows(void **unused)
{
	struct err err;
	char longer[2 * sizeof(err.text)];
	int i;

	(void)unused;
	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = 0;
	err_errno(&err, -EIO, "%s", longer);
	for (i = 0; i < 4; i++)
		err_prefix(&err, -EIO, "%s", longer);
	assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
}

static void test_buf_grows_and_consumes(void **unused)
{
	struct buf buf = { 0 };
	uint8_t chunk[1000];
	int i;

	(void)unused;
	for (i = 0; i < 10; i++) {
		memset(chunk, i, sizeof(chunk));
		assert_int_equal(buf_append(&buf, chunk, sizeof(chunk)), 0);
	}
	assert_int_equal(buf.len, 10000);
	buf_consume(&buf, 1500);
	assert_int_equal(buf.len, 8500);
	assert_int_equal(buf.data[0], 1);
	assert_int_equal(buf.data[8499], 9);
	assert_null(buf_reserve(&buf, SIZE_MAX));
	buf_fini(&buf);
	assert_int_equal(buf.len, 0);
}

static void test_hist_quantiles(void **unused)
{
	struct hist hist = { 0 };
	int i;

	(void)unused;
	assert_int_equal(hist_quantile(&hist, 0.5), 0);
	for (i = 0; i < 99; i++)
		hist_add(&hist, 1000);
	hist_add(&hist, 1000000);
	hist_add(&hist, -5);
	assert_int_equal(hist_quantile(&hist, 0.5), 1024);
	assert_int_equal(hist_quantile(&hist, 1.0), 1 << 20);
	assert_int_equal(hist.count, 101);
	assert_int_equal(hist.max_ns, 1000000);
}

static char logged[64];

static void keep_line(enum log_level level, const char *line)
{
	snprintf(logged, sizeof(logged), "%d %s", (int)level, line);
}

static void test_log_lines_go_to_the_handler(void **unused)
{
	(void)unused;
	log_set_handler(keep_line);
	log_warn("page %d", 7);
	assert_string_equal(logged, "1 page 7");
	log_info("not asked for");
	assert_string_equal(logged, "1 page 7");
	log_set_level(LOG_INFO);
	log_info("asked for");
	assert_string_equal(logged, "2 asked for");
	log_set_level(LOG_WARN);
	log_set_handler(NULL);
}

static pthread_mutex_t waited_with = PTHREAD_MUTEX_INITIALIZER;
static bool woken;

static void *wake_once(void *arg)
{
	pthread_cond_t *cond = arg;

	pthread_mutex_lock(&waited_with);
	woken = true;
	pthread_cond_signal(cond);
	pthread_mutex_unlock(&waited_with);
	return NULL;
}

static void test_cond_waits_by_the_monotonic_clock(void **unused)
{
	int64_t start = clock_now_ns();
	pthread_cond_t cond;
	pthread_t thread;

	(void)unused;
	cond_init(&cond);
	pthread_mutex_lock(&waited_with);
	/* One that followed the time of day would find this long past. */
	while (cond_wait(&cond, &waited_with, start + 20 * NS_PER_MS) != ETIMEDOUT)
		;
	assert_true(clock_now_ns() - start >= 20 * NS_PER_MS);
	assert_int_equal(pthread_create(&thread, NULL, wake_once, &cond), 0);
	while (!woken)
		assert_int_equal(cond_wait(&cond, &waited_with, INT64_MAX), 0);
	pthread_mutex_unlock(&waited_with);
	pthread_join(thread, NULL);
	pthread_cond_destroy(&cond);
}

#define POSTS 1000

struct posts {
	struct loop *loop;
	int seen;
	pthread_t main;
	int other_thread;
};

static void on_post(void *arg)
{
	struct posts *posts = arg;

	posts->other_thread += !pthread_equal(pthread_self(), posts->main);
	if (++posts->seen == POSTS)
		loop_stop(posts->loop);
}

static void *poster(void *arg)
{
	struct posts *posts = arg;
	int i;

	for (i = 0; i < POSTS; i++)
		loop_post(posts->loop, on_post, posts);
	return NULL;
}

static void test_loop_runs_each_post_once_on_the_main_thread(void **unused)
{
	struct posts posts = { .main = pthread_self() };
	pthread_t thread;

	(void)unused;
	assert_int_equal(loop_new(&posts.loop, NULL), 0);
	assert_int_equal(pthread_create(&thread, NULL, poster, &posts), 0);
	loop_run(posts.loop);
	pthread_join(thread, NULL);
	assert_int_equal(posts.seen, POSTS);
	assert_int_equal(posts.other_thread, 0);
	/* What is still queued when the loop ends runs too. */
	loop_post(posts.loop, on_post, &posts);
	loop_free(posts.loop);
	assert_int_equal(posts.seen, POSTS + 1);
}

/* free(3), as the linker has it (--wrap): of what is looked for, how often. */
static void *looked_for;
static unsigned int freed;

void __real_free(void *memory);
void __wrap_free(void *memory);

void __wrap_free(void *memory)
{
	freed += memory && memory == looked_for;
	__real_free(memory);
}

static void test_loop_frees_what_a_closed_handle_is_in(void **unused)
{
	struct alone {
		int before;
		uv_timer_t timer;
	} *alone = calloc(1, sizeof(*alone));
	struct two {
		unsigned int handles;
		uv_timer_t first, second;
	} *two = calloc(1, sizeof(*two));
	struct loop *loop;

	(void)unused;
	assert_int_equal(loop_new(&loop, NULL), 0);
	uv_timer_init(loop_uv(loop), &alone->timer);
	uv_timer_init(loop_uv(loop), &two->first);
	uv_timer_init(loop_uv(loop), &two->second);
	two->handles = 2;
	looked_for = alone;
	loop_close((uv_handle_t *)&alone->timer, alone);
	assert_int_equal(freed, 0);
	uv_run(loop_uv(loop), UV_RUN_NOWAIT);
	assert_int_equal(freed, 1);
	looked_for = two;
	loop_close_one_of((uv_handle_t *)&two->first, &two->handles);
	uv_run(loop_uv(loop), UV_RUN_NOWAIT);
	assert_int_equal(freed, 1);
	loop_close_one_of((uv_handle_t *)&two->second, &two->handles);
	uv_run(loop_uv(loop), UV_RUN_NOWAIT);
	assert_int_equal(freed, 2);
	looked_for = NULL;
	loop_free(loop);
}

static unsigned int lines_shown;
static unsigned long long lines_reported;

static void count_lines(enum log_level level, const char *line)
{
	(void)level;
	if (sscanf(line, "%llu more lines like this were left out: ", &lines_reported) != 1)
		lines_shown++;
}

/* Lines that the log leaves out are told of though nobody logs any more. */
static void test_loop_tells_what_the_log_has_left_out(void **unused)
{
	struct loop *loop;
	int i;

	(void)unused;
	assert_int_equal(loop_new(&loop, NULL), 0);
	log_set_handler(count_lines);
	for (i = 0; i < 1000; i++)
		log_warn("again");
	assert_true(lines_shown < 1000);
	while (!lines_reported)
		uv_run(loop_uv(loop), UV_RUN_ONCE);
	assert_int_equal(lines_shown + lines_reported, 1000);
	log_set_handler(NULL);
	loop_free(loop);
}

#define SLOW_POSTS 100

/* A job that takes its time, and knows its place. */
struct slow_job {
	struct loop *loop;
	int *seen;
	int place;
	bool again;	/* posts another when it runs */
};

static void on_slow_post(void *arg)
{
	struct slow_job *job = arg;
	int64_t until = clock_now_ns() + LOOP_TURN_NS / 4;

	assert_int_equal((*job->seen)++, job->place);
	while (clock_now_ns() < until)
		;
	if (!job->again)
		return;
	job->again = false;
	job->place = SLOW_POSTS;
	loop_post(job->loop, on_slow_post, job);
}

/*
 * However many jobs there are, the rest of the loop has its turn between them;
 * their order stays.
 */
static void test_loop_does_not_run_all_posts_in_one_turn(void **unused)
{
	struct slow_job job[SLOW_POSTS];
	int seen = 0, before, turns, i;
	struct loop *loop;

	(void)unused;
	assert_int_equal(loop_new(&loop, NULL), 0);
	for (i = 0; i < SLOW_POSTS; i++) {
		job[i] = (struct slow_job){ .loop = loop, .seen = &seen, .place = i, .again = !i };
		loop_post(loop, on_slow_post, &job[i]);
	}
	for (turns = 0; turns < 10000 && seen < SLOW_POSTS / 2; turns++) {
		before = seen;
		uv_run(loop_uv(loop), UV_RUN_NOWAIT);
		assert_in_range(seen - before, 0, 5);
	}
	assert_true(seen >= SLOW_POSTS / 2);
	assert_true(turns >= SLOW_POSTS / 10);
	/* The rest, and the one that was posted meanwhile, when the loop ends. */
	loop_free(loop);
	assert_int_equal(seen, SLOW_POSTS + 1);
}

static void test_zero_page_is_told_from_one_with_a_last_bit(void **state)
{
	uint8_t *page = aligned_alloc(PAGE_BYTES, PAGE_BYTES);
	size_t i;

	(void)state;
	memset(page, 0, PAGE_BYTES);
	assert_true(page_is_zero(page));
	for (i = 0; i < PAGE_BYTES; i++) {
		page[i] = 0x80;
		assert_false(page_is_zero(page));
		page[i] = 0;
	}
	free(page);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_zero_page_is_told_from_one_with_a_last_bit),
		cmocka_unit_test(test_err_keeps_code_and_gathers_context),
		cmocka_unit_test(test_err_never_overflows),
		cmocka_unit_test(test_buf_grows_and_consumes),
		cmocka_unit_test(test_hist_quantiles),
		cmocka_unit_test(test_log_lines_go_to_the_handler),
		cmocka_unit_test(test_cond_waits_by_the_monotonic_clock),
		cmocka_unit_test(test_loop_runs_each_post_once_on_the_main_thread),
		cmocka_unit_test(test_loop_does_not_run_all_posts_in_one_turn),
		cmocka_unit_test(test_loop_frees_what_a_closed_handle_is_in),
		cmocka_unit_test(test_loop_tells_what_the_log_has_left_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
