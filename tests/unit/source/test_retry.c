// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "ends.h"

#include <stdlib.h>

#include "source/retry.h"

static const struct retry_config quick = {
	.deadline_ns = 2 * NS_PER_MS, .deadline_max_ns = 8 * NS_PER_MS, .tries = 3, .pages_max = 256, .seed = 1,
};

static struct retry *start(struct ends *f, const struct retry_config *config,
			   struct page_source **top)
{
	struct retry *retry;

	assert_int_equal(retry_new(&retry, config, NULL), 0);
	*top = ends_put(f, retry_layer(retry));
	return retry;
}

static struct retry_stats stats_of(struct retry *retry)
{
	struct retry_stats stats;

	retry_stats(retry, &stats);
	return stats;
}

static void test_silence_is_asked_again_until_the_page_comes(void **state)
{
	struct ends *f = *state;
	struct page_source *top;
	struct retry *retry = start(f, &quick, &top);
	unsigned int asked, i;

	assert_int_equal(ask(top, 10, 3), 0);
	assert_int_equal(f->far.requests, 1);
	/* Beyond its tries: one source only, and the policy is to wait. */
	wait_until(f->far.asked[11] >= 8);
	assert_int_equal(stats_of(retry).outstanding, 3);
	assert_int_equal(stats_of(retry).overdue, 3);
	assert_true(stats_of(retry).oldest_ns > quick.deadline_ns);
	assert_int_equal(far_fill(&f->far, 10, 3), 3);
	assert_int_equal(stats_of(retry).outstanding, 0);
	assert_int_equal(stats_of(retry).oldest_ns, 0);
	assert_int_equal(f->near.losses, 0);
	/* It is quiet now: one question may have been under way. */
	asked = f->far.asked[11];
	for (i = 0; i < 500; i++)
		wait_a_little();
	assert_true(f->far.asked[11] <= asked + 1);
}

static void test_patience_doubles_up_to_its_limit(void **state)
{
	const struct retry_config config = {
		.deadline_ns = 20 * NS_PER_MS, .deadline_max_ns = 80 * NS_PER_MS, .tries = 10, .pages_max = 16,
	};
	struct ends *f = *state;
	struct page_source *top;
	int64_t begin = clock_now_ns();

	start(f, &config, &top);
	assert_int_equal(ask(top, 1, 1), 0);
	wait_until(f->far.asked[1] == 5);
	/* 20 + 40 + 80 + 80, less an eighth at most. */
	assert_true(clock_now_ns() - begin >= 192 * NS_PER_MS);
}

static void test_the_next_source_is_asked_then_the_page_is_lost(void **state)
{
	struct retry_config config = quick;
	struct ends *f = *state;
	struct page_source *top;
	struct retry *retry;
	struct far second;

	config.policy = RETRY_LOSE;
	retry = start(f, &config, &top);
	far_init(&second);
	assert_int_equal(retry_add(retry, &second.source), 0);
	assert_int_equal(ask(top, 4, 1), 0);
	wait_until(f->near.lost[4]);
	assert_int_equal(f->far.asked[4], 3);
	assert_int_equal(second.asked[4], 3);
	assert_int_equal(f->near.losses, 1);
	assert_int_equal(stats_of(retry).lost, 1);
	assert_int_equal(stats_of(retry).moved, 1);
}

static void test_a_page_that_the_next_source_has_is_not_lost(void **state)
{
	struct retry_config config = {
		.deadline_ns = 3600 * NS_PER_SEC, .deadline_max_ns = 3600 * NS_PER_SEC, .tries = 1,
		.policy = RETRY_LOSE, .pages_max = 4,
	};
	struct ends *f = *state;
	struct page_source *top;
	struct retry *retry;
	struct far second;

	retry = start(f, &config, &top);
	far_init(&second);
	assert_int_equal(retry_add(retry, &second.source), 0);
	assert_int_equal(ask(top, 5, 1), 0);
	assert_int_equal(far_lose(&f->far, 5), 0);
	wait_until(second.asked[5]);
	assert_int_equal(far_fill(&second, 5, 1), 1);
	assert_int_equal(stats_of(retry).outstanding, 0);
	assert_int_equal(f->near.losses, 0);
}

static void test_waiting_goes_round_all_sources(void **state)
{
	struct ends *f = *state;
	struct page_source *top;
	struct retry *retry = start(f, &quick, &top);
	struct far second;

	far_init(&second);
	assert_int_equal(retry_add(retry, &second.source), 0);
	assert_int_equal(ask(top, 4, 1), 0);
	wait_until(second.asked[4] >= 3 && f->far.asked[4] >= 5);
	assert_int_equal(f->near.losses, 0);
	assert_int_equal(far_fill(&f->far, 4, 1), 1);
}

static void test_a_refused_page_is_asked_of_the_others_at_once(void **state)
{
	struct retry_config config = { .deadline_ns = 3600 * NS_PER_SEC,
				       .deadline_max_ns = 3600 * NS_PER_SEC,
				       .tries = 1,
				       .pages_max = 4 };
	struct ends *f = *state;
	struct page_source *top;
	struct retry *retry = start(f, &config, &top);
	struct far second, third;

	far_init(&second);
	far_init(&third);
	assert_int_equal(retry_add(retry, &second.source), 0);
	assert_int_equal(retry_add(retry, &third.source), 0);
	assert_int_equal(ask(top, 4, 1), 0);
	assert_int_equal(far_lose(&f->far, 4), 0);
	assert_int_equal(second.asked[4], 1);
	/* A late word of one that is not asked now moves nothing. */
	assert_int_equal(far_lose(&third, 4), 0);
	assert_int_equal(f->near.losses, 0);
	assert_int_equal(far_lose(&second, 4), 0);
	assert_int_equal(f->near.lost[4], 1);
	assert_int_equal(third.asked[4], 0);
	/* Nobody asked for this one; still the others may have it. */
	assert_int_equal(far_lose(&f->far, 9), 0);
	assert_int_equal(second.asked[9], 1);
	assert_int_equal(far_fill(&second, 9, 1), 1);
	assert_int_equal(f->near.losses, 1);
	assert_int_equal(stats_of(retry).outstanding, 0);
}

static void test_a_source_that_is_gone_is_bridged(void **state)
{
	/* Nobody asks again before the test has looked. */
	const struct retry_config patient = {
		.deadline_ns = 60 * NS_PER_SEC, .deadline_max_ns = 60 * NS_PER_SEC, .tries = quick.tries, .pages_max = 16,
	};
	struct ends *f = *state;
	struct page_source *top;
	struct retry *retry = start(f, &quick, &top);
	struct far second;

	/* All are gone for a while. */
	f->far.answer = -ENOTCONN;
	assert_int_equal(ask(top, 1, 1), 0);
	wait_until(f->far.requests > 4);
	f->far.answer = 0;
	wait_until(f->far.asked[1]);
	assert_int_equal(far_fill(&f->far, 1, 1), 1);
	stack_free(f->stack);
	/* Another is there. */
	retry = start(f, &patient, &top);
	far_init(&second);
	assert_int_equal(retry_add(retry, &second.source), 0);
	f->far.answer = -ENOTCONN;
	assert_int_equal(ask(top, 2, 1), 0);
	assert_int_equal(second.asked[2], 1);
	stack_stop(f->stack);
	assert_int_equal(ask(top, 2, 1), -ENOTCONN);
}

static void test_a_full_table_still_asks(void **state)
{
	struct retry_config config = quick;
	struct ends *f = *state;
	struct page_source *top;
	struct retry *retry;

	config.pages_max = 4;
	retry = start(f, &config, &top);
	assert_int_equal(ask(top, 0, 10), 0);
	assert_int_equal(f->far.asked[9], 1);
	assert_int_equal(stats_of(retry).unwatched, 6);
	assert_int_equal(stats_of(retry).outstanding, 4);
	/* A page that is not watched, and nobody to ask: the caller has to know. */
	f->far.answer = -ENOTCONN;
	assert_int_equal(ask(top, 20, 1), -ENOTCONN);
	f->far.answer = 0;
	/* A refused page without a note is lost, not forgotten. */
	assert_int_equal(far_lose(&f->far, 9), 0);
	assert_int_equal(f->near.lost[9], 1);
}

static void test_no_room_in_memory_is_asked_again(void **state)
{
	struct ends *f = *state;
	struct page_source *top;
	struct retry *retry = start(f, &quick, &top);
	unsigned int asked;

	assert_int_equal(ask(top, 30, 1), 0);
	f->near.answer = -ENOMEM;
	assert_int_equal(far_fill(&f->far, 29, 3), -ENOMEM);
	assert_int_equal(stats_of(retry).outstanding, 1);
	asked = f->far.asked[30];
	wait_until(f->far.asked[30] > asked);
	f->near.answer = 0;
	assert_int_equal(far_fill(&f->far, 29, 3), 3);
	assert_int_equal(stats_of(retry).outstanding, 0);
}

static void test_commits_answer_requests_of_every_source(void **state)
{
	struct ends *f = *state;
	struct page_source *top;
	struct retry *retry = start(f, &quick, &top);
	static struct far second;

	far_init(&second);
	assert_int_equal(retry_add(retry, &second.source), 0);
	assert_int_equal(ask(top, 10, 3), 0);
	assert_int_equal(far_commit(&f->far, 9, 3), 3);
	assert_int_equal(stats_of(retry).outstanding, 1);
	f->near.answer = -ENOMEM;
	assert_int_equal(far_commit(&second, 12, 1), -ENOMEM);
	assert_int_equal(stats_of(retry).outstanding, 1);
	f->near.answer = 0;
	assert_int_equal(far_commit(&second, 12, 1), 1);
	assert_int_equal(stats_of(retry).outstanding, 0);
	assert_int_equal(f->near.rooms, 0);
	assert_int_equal(f->near.fills, 0);
}

/* More than a batch, lost in one go: every page once. */
static void test_many_pages_are_lost_once_each(void **state)
{
	struct retry_config config = quick;
	struct ends *f = *state;
	struct page_source *top;
	uint64_t i;

	config.policy = RETRY_LOSE;
	config.tries = 1;
	start(f, &config, &top);
	assert_int_equal(ask(top, 100, 200), 0);
	wait_until(f->near.losses == 200);
	for (i = 0; i < 200; i++)
		assert_int_equal(f->near.lost[100 + i], 1);
}

static void test_values_are_checked(void **state)
{
	struct retry_config config = quick;
	struct retry *retry;
	struct err err;

	(void)state;
	config.tries = 0;
	assert_int_equal(retry_new(&retry, &config, &err), -EINVAL);
	config = quick;
	config.deadline_max_ns = 1;
	assert_int_equal(retry_new(&retry, &config, &err), -EINVAL);
	config = quick;
	config.pages_max = 0;
	assert_int_equal(retry_new(&retry, &config, &err), -EINVAL);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, ends_setup, ends_teardown)
	const struct CMUnitTest tests[] = {
		T(test_silence_is_asked_again_until_the_page_comes),
		T(test_patience_doubles_up_to_its_limit),
		T(test_the_next_source_is_asked_then_the_page_is_lost),
		T(test_a_page_that_the_next_source_has_is_not_lost),
		T(test_waiting_goes_round_all_sources),
		T(test_a_refused_page_is_asked_of_the_others_at_once),
		T(test_a_source_that_is_gone_is_bridged),
		T(test_a_full_table_still_asks),
		T(test_no_room_in_memory_is_asked_again),
		T(test_commits_answer_requests_of_every_source),
		T(test_many_pages_are_lost_once_each),
		T(test_values_are_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
