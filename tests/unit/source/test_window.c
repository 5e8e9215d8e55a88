// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * How much is under way at once, on a made-up line: its rate and its delay say what is right.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "source/window.h"

#define LEAST 16u
#define MOST 4096u
#define REQUEST 16u

/* A line that brings `rate` pages a second, one request after the other, each `delay_ns` late. */
static void run_line(struct window *window, double rate, int64_t delay_ns, unsigned int requests)
{
	struct window_mark mark[MOST / REQUEST];
	int64_t due[MOST / REQUEST], now = NS_PER_SEC, free_at = now;
	unsigned int first = 0, last = 0, n = MOST / REQUEST;

	while (requests) {
		while ((last - first) * REQUEST < window->size && last - first < n) {
			mark[last % n] = window_begin(window, now);
			free_at = free_at > now ? free_at : now;
			free_at += (int64_t)(REQUEST * (double)NS_PER_SEC / rate);
			due[last % n] = free_at + delay_ns;
			last++;
		}
		now = due[first % n];
		window_end(window, &mark[first % n], REQUEST, now);
		first++;
		requests--;
	}
}

static void test_it_fills_a_line_and_no_more(void **state)
{
	static const struct {
		double rate;
		int64_t delay_ns;
	} lines[] = {
		{ 100000, 5 * NS_PER_MS },
		{ 100000, 20 * NS_PER_MS },
		{ 20000, 50 * NS_PER_MS },
	};
	struct window window;
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		double fits = lines[i].rate * (double)lines[i].delay_ns / (double)NS_PER_SEC;

		window_init(&window, LEAST, MOST);
		run_line(&window, lines[i].rate, lines[i].delay_ns, 4000);
		assert_true((double)window.size >= fits);
		assert_true((double)window.size <= 4 * fits);
	}
}

static void test_it_keeps_its_bounds(void **state)
{
	struct window window;

	(void)state;
	window_init(&window, LEAST, MOST);
	assert_int_equal(window.size, LEAST);
	/* A line that is slow and near: a few requests are enough. */
	run_line(&window, 1000, NS_PER_US, 100);
	assert_in_range(window.size, LEAST, 4 * REQUEST);
	/* And one that is as long as none is. */
	window_init(&window, LEAST, MOST);
	run_line(&window, 1e7, NS_PER_SEC, 4000);
	assert_int_equal(window.size, MOST);
}

/* Requests that bring nothing, and clocks that stand, say nothing. */
static void test_nothing_that_comes_changes_nothing(void **state)
{
	struct window window;
	struct window_mark mark;

	(void)state;
	window_init(&window, LEAST, MOST);
	mark = window_begin(&window, 5);
	window_end(&window, &mark, 0, 100);
	assert_int_equal(window.size, LEAST);
	assert_int_equal(window.shortest_ns, 0);
	window_end(&window, &mark, 3, 5);
	assert_true(window.size >= LEAST && window.size <= MOST);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_it_fills_a_line_and_no_more),
		cmocka_unit_test(test_it_keeps_its_bounds),
		cmocka_unit_test(test_nothing_that_comes_changes_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
