// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/* The state object, and working sets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "image/state.h"
#include "image/sum.h"
#include "image/working_set.h"
#include "toy_store.h"

/* ---- the state ---- */

static void encode_state(struct buf *out)
{
	static uint8_t pages[2][PAGE_BYTES] = { { 1 }, { 2 } };
	struct err err;

	assert_int_equal(image_state_begin(out, "machine", 7, &err), 0);
	assert_int_equal(image_state_add_page(out, GFN(5), pages[0], &err), 0);
	assert_int_equal(image_state_add_page(out, GFN(5), pages[0], &err), -EINVAL);
	assert_int_equal(image_state_add_page(out, GFN(UINT64_C(1) << 40), pages[0], &err),
			 -EINVAL);
	assert_int_equal(image_state_add_page(out, GFN(9), pages[1], &err), 0);
}

static void test_state_comes_back(void **state)
{
	struct buf bytes = { 0 };
	struct image_state back;
	const uint8_t *page;
	struct err err;

	(void)state;
	encode_state(&bytes);
	assert_int_equal(image_state_decode(&back, bytes.data, bytes.len, "x", &err), 0);
	assert_int_equal(back.machine_bytes, 7);
	assert_memory_equal(back.machine, "machine", 7);
	assert_int_equal(back.n_pages, 2);
	assert_int_equal(image_state_page(&back, 1, &page).v, 9);
	assert_int_equal(page[0], 2);
	buf_fini(&bytes);
}

static void test_state_that_is_wrong_is_refused(void **state)
{
	static const struct {
		size_t at;
		uint64_t value;
		int code;
	} changes[] = {
		{ 0, 0, -EBADMSG },
		{ 8, 2 | UINT64_C(2) << 32, -EPROTO },
		{ 8, UINT64_C(2) << 32, -EPROTO },
		{ 8, 1 | UINT64_C(3) << 32, -EBADMSG },
		{ 8, 1 | UINT64_MAX << 32, -EBADMSG },
		{ 16, 0, -EBADMSG },
		{ 16, 8, -EBADMSG },
		{ 16, UINT64_MAX, -EBADMSG },
		{ 16, IMAGE_STATE_MACHINE_MAX + 1, -EBADMSG },
		{ 31, 9, -EBADMSG },
		{ 31, UINT64_MAX, -EBADMSG },
	};
	struct buf bytes = { 0 };
	struct image_state back;
	struct err err;
	size_t i;

	(void)state;
	encode_state(&bytes);
	for (i = 0; i < sizeof(changes) / sizeof(*changes); i++) {
		uint64_t old = get64(bytes.data + changes[i].at);
		int r;

		put64(bytes.data + changes[i].at, changes[i].value);
		r = image_state_decode(&back, bytes.data, bytes.len, "db/state", &err);
		if (r != changes[i].code || !strstr(err.text, "db/state"))
			fail_msg("change %zu: %d", i, r);
		put64(bytes.data + changes[i].at, old);
	}
	for (i = 0; i < bytes.len; i += i < 64 ? 1 : 97)
		assert_int_equal(image_state_decode(&back, bytes.data, i, "x", &err), -EBADMSG);
	assert_int_equal(image_state_begin(&bytes, "", 0, &err), -EINVAL);
	buf_fini(&bytes);
}

/* ---- working sets ---- */

static void merge(struct working_set *set, const struct working_set_touch *touches, size_t n,
		  const struct working_set_limits *limits)
{
	struct err err;

	if (working_set_merge(set, touches, n, limits, &err))
		fail_msg("%s", err.text);
}

static const struct working_set_page *find(const struct working_set *set, uint64_t gfn)
{
	uint32_t i;

	for (i = 0; i < set->n_pages; i++)
		if (set->pages[i].gfn == gfn)
			return &set->pages[i];
	return NULL;
}

static bool is_even(void *arg, uint64_t gfn)
{
	(void)arg;
	return gfn % 2 == 0;
}

/* What was here before anybody asked for it stays as it was; what was not here was not touched. */
static void test_what_nobody_can_know_does_not_age(void **state)
{
	static const struct working_set_touch both[] = { { 8, 10 }, { 9, 20 } }, third = { 3, 5 };
	const struct working_set_run run = { .touches = &third, .n = 1, .unseen = is_even };
	struct working_set set = { 0 };
	uint16_t score;
	struct err err;
	unsigned int i;

	(void)state;
	merge(&set, both, 2, NULL);
	score = find(&set, 8)->score;
	for (i = 0; i < 4; i++)
		assert_int_equal(working_set_merge_run(&set, &run, NULL, &err), 0);
	assert_int_equal(find(&set, 8)->score, score);
	assert_int_equal(find(&set, 8)->first_us, 10);
	assert_null(find(&set, 9));
	assert_int_equal(set.n_pages, 2);
	working_set_fini(&set);
}

static void test_a_working_set_is_in_the_order_of_first_touch(void **state)
{
	static const struct working_set_touch touches[] = {
		{ 50, 300 }, { 7, 100 }, { 50, 900 }, { 9, 200 }, { 7, 50 }, { 1, 20000000 },
	};
	struct working_set set = { 0 };

	(void)state;
	merge(&set, touches, 6, NULL);
	/* What came after ten seconds does not count. */
	assert_int_equal(set.n_pages, 3);
	assert_int_equal(set.pages[0].gfn, 7);
	assert_int_equal(set.pages[0].first_us, 50);
	assert_int_equal(set.pages[1].gfn, 9);
	assert_int_equal(set.pages[2].gfn, 50);
	assert_int_equal(set.pages[2].first_us, 300);
	working_set_fini(&set);
}

static void test_a_page_is_forgotten_after_four_runs_without_it(void **state)
{
	static const struct working_set_touch both[] = { { 1, 10 }, { 2, 20 } },
					      one[] = { { 1, 30 } };
	struct working_set set = { 0 };
	unsigned int i;

	(void)state;
	merge(&set, both, 2, NULL);
	for (i = 0; i < 3; i++) {
		merge(&set, one, 1, NULL);
		assert_non_null(find(&set, 2));
		assert_true(find(&set, 1)->score > find(&set, 2)->score);
	}
	merge(&set, one, 1, NULL);
	assert_null(find(&set, 2));
	assert_int_equal(set.runs, 5);
	/* The time follows the last runs. */
	assert_true(find(&set, 1)->first_us > 25 && find(&set, 1)->first_us < 30);
	working_set_fini(&set);
}

/*
 * A clone that touches everything, again and again, does not fill it, nor push out what all
 * touch.
 */
static void test_a_run_that_touches_everything_cannot_poison_it(void **state)
{
	static const struct working_set_limits limits = { .us = 1000, .pages = 100 };
	static struct working_set_touch all[50000], common[50];
	struct working_set set = { 0 };
	unsigned int i, round;

	(void)state;
	for (i = 0; i < 50000; i++)
		all[i] = (struct working_set_touch){ 1000 + i, i };
	for (i = 0; i < 50; i++)
		common[i] = (struct working_set_touch){ i, 500 + i };
	for (round = 0; round < 4; round++)
		merge(&set, common, 50, &limits);
	merge(&set, all, 50000, &limits);
	assert_int_equal(set.n_pages, 100);
	merge(&set, common, 50, &limits);
	for (i = 0; i < 50; i++)
		assert_non_null(find(&set, i));
	assert_true(set.n_pages <= 100);
	working_set_fini(&set);
}

static void test_bad_touches_leave_the_set_as_it_was(void **state)
{
	static const struct working_set_touch good = { 1, 1 }, bad = { UINT64_MAX, 1 };
	static const struct working_set_limits limits = { .us = UINT32_MAX };
	struct working_set set = { 0 };
	struct err err;

	(void)state;
	merge(&set, &good, 1, NULL);
	assert_int_equal(working_set_merge(&set, &bad, 1, NULL, &err), -EINVAL);
	assert_int_equal(working_set_merge(&set, &good, 1, &limits, &err), -EINVAL);
	assert_int_equal(working_set_merge(&set, &good, WORKING_SET_PAGES_MAX + 1, NULL, &err),
			 -EINVAL);
	assert_int_equal(set.runs, 1);
	assert_int_equal(set.n_pages, 1);
	merge(&set, NULL, 0, NULL);
	assert_int_equal(set.runs, 2);
	working_set_fini(&set);
}

static void encode_set(struct buf *out)
{
	static const struct working_set_touch touches[] = { { 50, 300 }, { 7, 100 }, { 9, 200 } };
	struct working_set set = { .id = { { 3 } } };
	struct err err;

	merge(&set, touches, 3, NULL);
	assert_int_equal(working_set_encode(&set, out, &err), 0);
	working_set_fini(&set);
}

static void test_a_working_set_comes_back(void **state)
{
	struct image_id id = { { 3 } }, other = { { 4 } };
	struct toy_store *toy = toy_store_new();
	struct working_set set;
	struct buf bytes = { 0 };
	struct err err;

	(void)state;
	encode_set(&bytes);
	assert_int_equal(working_set_decode(&set, bytes.data, bytes.len, "x", &err), 0);
	assert_int_equal(working_set_save(&set, toy_store(toy), NULL, "db", NULL, &err), 0);
	working_set_fini(&set);
	assert_int_equal(working_set_load(&set, toy_store(toy), NULL, "db", &other, NULL, &err),
			 -ESTALE);
	assert_int_equal(working_set_load(&set, toy_store(toy), NULL, "dc", &id, NULL, &err),
			 -ENOENT);
	assert_int_equal(working_set_load(&set, toy_store(toy), NULL, "db", &id, NULL, &err), 0);
	assert_int_equal(set.n_pages, 3);
	assert_int_equal(set.pages[1].gfn, 9);
	assert_int_equal(set.pages[1].score, 32768);
	working_set_fini(&set);
	buf_fini(&bytes);
	toy_store_free(toy);
}

static void resum(struct buf *bytes)
{
	sum_bytes(bytes->data, bytes->len - SUM_BYTES, bytes->data + bytes->len - SUM_BYTES);
}

static void test_a_working_set_that_is_wrong_is_refused(void **state)
{
	static const struct {
		size_t at;
		uint32_t value;
		int code;
	} changes[] = {
		{ 0, 0, -EBADMSG },	      { 8, 2, -EPROTO },     { 32, 2, -EBADMSG },
		{ 32, UINT32_MAX, -EBADMSG }, { 36, 1, -EBADMSG },   { 40, 9, -EBADMSG },
		{ 44, UINT32_MAX, -EBADMSG }, { 48, 201, -EBADMSG }, { 48, UINT32_MAX, -EBADMSG },
		{ 52, 1u << 16, -EBADMSG },
	};
	struct buf bytes = { 0 };
	struct working_set set;
	struct err err;
	size_t i;

	(void)state;
	encode_set(&bytes);
	for (i = 0; i < sizeof(changes) / sizeof(*changes); i++) {
		uint32_t old = get32(bytes.data + changes[i].at);
		int r;

		put32(bytes.data + changes[i].at, changes[i].value);
		resum(&bytes);
		r = working_set_decode(&set, bytes.data, bytes.len, "x", &err);
		if (r != changes[i].code)
			fail_msg("change %zu: %d", i, r);
		put32(bytes.data + changes[i].at, old);
	}
	resum(&bytes);
	for (i = 0; i < bytes.len; i++) {
		int r;

		assert_int_equal(working_set_decode(&set, bytes.data, i, "x", &err), -EBADMSG);
		bytes.data[i] ^= 1;
		r = working_set_decode(&set, bytes.data, bytes.len, "x", &err);
		assert_true(r == -EBADMSG || (r == -EPROTO && i >= 8 && i < 12));
		bytes.data[i] ^= 1;
	}
	buf_fini(&bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_state_comes_back),
		cmocka_unit_test(test_state_that_is_wrong_is_refused),
		cmocka_unit_test(test_what_nobody_can_know_does_not_age),
		cmocka_unit_test(test_a_working_set_is_in_the_order_of_first_touch),
		cmocka_unit_test(test_a_page_is_forgotten_after_four_runs_without_it),
		cmocka_unit_test(test_a_run_that_touches_everything_cannot_poison_it),
		cmocka_unit_test(test_bad_touches_leave_the_set_as_it_was),
		cmocka_unit_test(test_a_working_set_comes_back),
		cmocka_unit_test(test_a_working_set_that_is_wrong_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
