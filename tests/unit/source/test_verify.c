// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "ends.h"

#include <xxhash.h>

#include "source/verify.h"

static uint64_t sums[512];
static struct verify_table table = { { 0 }, 512, sums };

static struct verify *start(struct ends *f, unsigned int tries, size_t bad_max,
			    struct page_source **top)
{
	struct verify_config config = { verify_table_sum, &table, tries, bad_max };
	struct verify *verify;
	uint8_t page[PAGE_BYTES];
	uint64_t i;

	for (i = 0; i < 512; i++) {
		ends_page(page, i);
		sums[i] = XXH3_64bits(page, sizeof(page));
	}
	assert_int_equal(verify_new(&verify, &config, NULL), 0);
	*top = ends_put(f, verify_layer(verify));
	return verify;
}

static void test_a_wrong_page_is_asked_for_again_and_the_others_pass(void **state)
{
	struct ends *f = *state;
	struct verify_stats stats;
	struct page_source *top;
	struct verify *verify = start(f, 3, 8, &top);

	assert_int_equal(far_fill_wrong(&f->far, 10, 20, 17), 19);
	assert_int_equal(f->near.filled[17], 0);
	assert_int_equal(f->far.asked[17], 1);
	assert_int_equal(f->far.requests, 1);
	assert_int_equal(far_fill(&f->far, 17, 1), 1);
	/* A page of zeros whose checksum is another's, and one with data that should be zero. */
	assert_int_equal(f->far.source.sink->ops->fill(f->far.source.sink, GFN(33), 1, NULL), 0);
	assert_int_equal(far_fill_wrong(&f->far, 36, 1, 36), 0);
	assert_int_equal(far_fill(&f->far, 36, 1), 1);
	verify_stats(verify, &stats);
	assert_int_equal(stats.good, 21);
	assert_int_equal(stats.wrong, 3);
	assert_int_equal(stats.again, 3);
	assert_int_equal(stats.lost, 0);
	assert_int_equal(f->near.wrong, 0);
}

static void test_a_page_that_stays_wrong_is_lost_after_its_tries(void **state)
{
	struct ends *f = *state;
	struct verify_stats stats;
	struct page_source *top;
	struct verify *verify = start(f, 3, 8, &top);
	unsigned int i;

	assert_int_equal(ask(top, 5, 1), 0);
	for (i = 0; i < 4; i++) {
		assert_int_equal(f->near.lost[5], 0);
		assert_int_equal(far_fill_wrong(&f->far, 5, 1, 5), 0);
	}
	assert_int_equal(f->near.lost[5], 1);
	assert_int_equal(f->far.asked[5], 4);
	verify_stats(verify, &stats);
	assert_int_equal(stats.wrong, 4);
	assert_int_equal(stats.lost, 1);
	/* A right one forgives: the next wrong one has all its tries again. */
	for (i = 0; i < 20; i++) {
		assert_int_equal(far_fill_wrong(&f->far, 6, 1, 6), 0);
		far_fill(&f->far, 6, 1);
	}
	assert_int_equal(f->near.lost[6], 0);
	assert_int_equal(f->near.wrong, 0);
}

static void test_too_many_wrong_pages_are_lost_never_passed(void **state)
{
	struct ends *f = *state;
	struct page_source *top;
	uint64_t i;

	start(f, 3, 4, &top);
	for (i = 1; i <= 6; i++)
		far_fill_wrong(&f->far, i, 1, i);
	assert_int_equal(f->near.losses, 2);
	assert_int_equal(f->near.fills, 0);
}

static void test_pages_without_a_checksum_pass_and_are_counted(void **state)
{
	struct ends *f = *state;
	struct verify_stats stats;
	struct page_source *top;
	struct verify *verify = start(f, 3, 4, &top);

	assert_int_equal(far_fill(&f->far, 510, 4), 4);
	verify_stats(verify, &stats);
	assert_int_equal(stats.unknown, 2);
	assert_int_equal(stats.good, 2);
}

static void test_refusals_and_errors_pass_through(void **state)
{
	struct ends *f = *state;
	struct page_source *top;

	start(f, 3, 4, &top);
	f->far.answer = -ENOTCONN;
	assert_int_equal(ask(top, 1, 1), -ENOTCONN);
	f->near.answer = -ENOMEM;
	assert_int_equal(far_fill(&f->far, 1, 1), -ENOMEM);
	assert_int_equal(far_lose(&f->far, 2), 0);
	assert_int_equal(f->near.lost[2], 1);
	stack_stop(f->stack);
	f->far.answer = f->near.answer = 0;
	assert_int_equal(ask(top, 1, 1), -ENOTCONN);
	assert_int_equal(far_fill(&f->far, 1, 1), 0);
	assert_int_equal(f->near.filled[1], 0);
}

static void test_what_is_committed_goes_on_in_its_room(void **state)
{
	struct ends *f = *state;
	struct verify_stats stats;
	struct page_source *top;
	struct verify *verify = start(f, 3, 8, &top);
	struct page_sink *sink = f->far.source.sink;

	assert_int_equal(far_commit(&f->far, 1, 100), 100);
	assert_int_equal(f->near.commits, 2);
	assert_int_equal(far_commit(&f->far, 104, 1), 1);
	assert_int_equal(f->near.commits, 3);
	assert_int_equal(f->near.fills, 0);
	/* Around a wrong page they go by fill, and nothing of its room is committed. */
	assert_int_equal(far_commit_wrong(&f->far, 200, 20, 217), 19);
	assert_int_equal(f->near.filled[217], 0);
	assert_int_equal(f->far.asked[217], 1);
	assert_int_equal(f->near.fills, 2);
	assert_int_equal(far_commit(&f->far, 217, 1), 1);
	assert_int_equal(sink->ops->commit(sink, GFN(33), 1, NULL), 0);
	assert_int_equal(f->far.asked[33], 1);
	assert_int_equal(f->near.wrong, 0);
	verify_stats(verify, &stats);
	assert_int_equal(stats.wrong, 2);
	assert_int_equal(stats.good, 121);
	/* Stopped, it gives room that goes back. */
	stack_stop(f->stack);
	assert_int_equal(far_commit(&f->far, 300, 20), 0);
	assert_int_equal(f->near.filled[300], 0);
	assert_int_equal(f->near.rooms, 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, ends_setup, ends_teardown)
	const struct CMUnitTest tests[] = {
		T(test_a_wrong_page_is_asked_for_again_and_the_others_pass),
		T(test_a_page_that_stays_wrong_is_lost_after_its_tries),
		T(test_too_many_wrong_pages_are_lost_never_passed),
		T(test_pages_without_a_checksum_pass_and_are_counted),
		T(test_refusals_and_errors_pass_through),
		T(test_what_is_committed_goes_on_in_its_room),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
