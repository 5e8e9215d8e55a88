// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "ends.h"

#include <stdlib.h>

#include "source/inject.h"

static struct inject *start(struct ends *f, const struct inject_rule *rules, unsigned int n,
			    uint64_t seed, struct page_source **top)
{
	struct inject *inject;

	assert_int_equal(inject_new(&inject, rules, n, seed, NULL), 0);
	*top = ends_put(f, inject_layer(inject));
	return inject;
}

static void test_the_nth_request_fails_and_the_nth_is_swallowed(void **state)
{
	const struct inject_rule rules[] = {
		{ .fault = INJECT_FAIL, .nth = 3, .pages = 2 },
		{ .fault = INJECT_SILENCE, .nth = 2, .pages = 1 },
	};
	struct ends *f = *state;
	struct inject_stats stats;
	struct page_source *top;
	struct inject *inject = start(f, rules, 2, 1, &top);
	uint64_t i;

	for (i = 1; i <= 6; i++)
		assert_int_equal(ask(top, i, 1), i == 3 || i == 4 ? -ENOTCONN : 0);
	for (i = 1; i <= 6; i++)
		assert_int_equal(f->far.asked[i], i == 1 || i >= 5);
	inject_stats(inject, &stats);
	assert_int_equal(stats.pages[INJECT_FAIL], 2);
	assert_int_equal(stats.pages[INJECT_SILENCE], 1);
}

static void test_silence_cuts_a_request_in_runs(void **state)
{
	const struct inject_rule rule = { .fault = INJECT_SILENCE, .nth = 4, .pages = 2 };
	struct ends *f = *state;
	struct page_source *top;
	uint64_t i;

	start(f, &rule, 1, 1, &top);
	assert_int_equal(ask(top, 100, 8), 0);
	for (i = 0; i < 8; i++)
		assert_int_equal(f->far.asked[100 + i], i != 3 && i != 4);
	assert_int_equal(f->far.requests, 2);
}

static void test_one_page_is_corrupt_one_lost_the_rest_whole(void **state)
{
	const struct inject_rule rules[] = {
		{ .fault = INJECT_CORRUPT, .nth = 5, .pages = 1 },
		{ .fault = INJECT_LOSE, .nth = 9, .pages = 1 },
	};
	struct ends *f = *state;
	struct page_source *top;
	uint64_t i;

	start(f, rules, 2, 1, &top);
	/* The corrupt page, 204, is one of zeros. */
	assert_int_equal(far_fill(&f->far, 200, 16), 15);
	for (i = 0; i < 16; i++)
		assert_int_equal(f->near.filled[200 + i], i != 8);
	assert_int_equal(f->near.wrong, 1);
	assert_int_equal(f->near.lost[208], 1);
	assert_int_equal(f->near.losses, 1);
}

static void test_commits_are_cut_around_faults(void **state)
{
	const struct inject_rule rules[] = {
		{ .fault = INJECT_CORRUPT, .nth = 5, .pages = 1 },
		{ .fault = INJECT_LOSE, .nth = 9, .pages = 1 },
	};
	struct ends *f = *state;
	struct page_source *top;
	uint64_t i;

	start(f, rules, 2, 1, &top);
	assert_int_equal(far_commit(&f->far, 200, 16), 15);
	for (i = 0; i < 16; i++)
		assert_int_equal(f->near.filled[200 + i], i != 8);
	assert_int_equal(f->near.wrong, 1);
	assert_int_equal(f->near.lost[208], 1);
	assert_int_equal(f->near.commits, 0);
	assert_int_equal(far_commit(&f->far, 300, 16), 16);
	assert_int_equal(f->near.commits, 1);
	assert_int_equal(f->near.rooms, 0);
}

static void count_by_chance(uint64_t seed, unsigned int *hit, unsigned int *first)
{
	const struct inject_rule rule = { .fault = INJECT_SILENCE, .chance = 0.1 };
	struct inject *inject;
	struct far far;
	unsigned int i;

	far_init(&far);
	assert_int_equal(inject_new(&inject, &rule, 1, seed, NULL), 0);
	layer_put_on(inject_layer(inject), &far.source);
	assert_int_equal(inject_seed(inject), seed);
	for (i = 0, *hit = 0, *first = 1000; i < 1000; i++) {
		assert_int_equal(ask(&inject_layer(inject)->source, i, 1), 0);
		if (far.asked[i])
			continue;
		*first = *first == 1000 ? i : *first;
		(*hit)++;
	}
	inject_layer(inject)->ops->free(inject_layer(inject));
}

static void test_chance_is_kept_and_a_seed_repeats(void **state)
{
	unsigned int hit, first, seed, again, first_again, differ = 0;

	(void)state;
	for (seed = 1; seed <= 20; seed++) {
		count_by_chance(seed, &hit, &first);
		count_by_chance(seed, &again, &first_again);
		assert_int_equal(hit, again);
		assert_int_equal(first, first_again);
		/* 100 are expected, with a deviation of 9.5. */
		assert_in_range(hit, 50, 150);
		count_by_chance(seed + 100, &again, &first_again);
		differ += first != first_again;
	}
	assert_true(differ > 10);
}

static void test_disabled_it_is_not_there(void **state)
{
	const struct inject_rule rules[] = {
		{ .fault = INJECT_FAIL, .chance = 1 }, { .fault = INJECT_CORRUPT, .nth = 1 },
	};
	struct ends *f = *state;
	struct page_source *top;
	struct inject *inject = start(f, rules, 2, 0, &top);

	assert_true(inject_seed(inject));
	assert_int_equal(ask(top, 1, 4), -ENOTCONN);
	inject_enable(inject, false);
	assert_int_equal(ask(top, 1, 4), 0);
	assert_int_equal(far_fill(&f->far, 1, 4), 4);
	assert_int_equal(f->near.wrong, 0);
	inject_enable(inject, true);
	assert_int_equal(ask(top, 1, 4), -ENOTCONN);
}

static void test_rules_are_checked(void **state)
{
	struct inject_rule rules[INJECT_RULES_MAX + 1] = { { .chance = 1.5 } };
	struct inject *inject;
	struct err err;

	(void)state;
	assert_int_equal(inject_new(&inject, rules, 1, 1, &err), -EINVAL);
	rules[0].chance = __builtin_nan("");
	assert_int_equal(inject_new(&inject, rules, 1, 1, &err), -EINVAL);
	rules[0] = (struct inject_rule){ .fault = (enum inject_fault)INJECT_FAULTS };
	assert_int_equal(inject_new(&inject, rules, 1, 1, &err), -EINVAL);
	rules[0].fault = INJECT_FAIL;
	assert_int_equal(inject_new(&inject, rules, INJECT_RULES_MAX + 1, 1, &err), -EINVAL);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, ends_setup, ends_teardown)
	const struct CMUnitTest tests[] = {
		T(test_the_nth_request_fails_and_the_nth_is_swallowed),
		T(test_silence_cuts_a_request_in_runs),
		T(test_one_page_is_corrupt_one_lost_the_rest_whole),
		T(test_commits_are_cut_around_faults),
		T(test_chance_is_kept_and_a_seed_repeats),
		T(test_disabled_it_is_not_there),
		T(test_rules_are_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
