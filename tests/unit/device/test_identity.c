// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// The pages that tell a guest which machine it is, as its drivers read them.
#include "device/identity.h"

#include <string.h>

#include "fixture.h"

/* How often the line rose and fell, and what the pages were then. */
struct ear {
	unsigned int rises, falls;
	struct identity *identity;
	uint8_t id[IDENTITY_ID_BYTES];
	_Alignas(PAGE_BYTES) uint8_t pages[IDENTITY_PAGES * PAGE_BYTES];
};

static void ear_line(void *arg, bool level)
{
	struct ear *ear = arg;

	ear->rises += level;
	ear->falls += !level;
	if (level && ear->identity)
		memcpy(ear->id, ear->pages, sizeof(ear->id));
}

static struct identity *make(struct ear *ear)
{
	const struct irq_line line = { .fn = ear_line, .arg = ear };
	struct identity *identity;
	struct err err;

	memset(ear, 0, sizeof(*ear));
	assert_int_equal(identity_new(&identity, ear->pages, &line, &err), 0);
	ear->identity = identity;
	return identity;
}

static uint64_t clock_get(const struct ear *ear, unsigned int at, unsigned int bytes)
{
	const uint8_t *page = ear->pages + IDENTITY_CLOCK_AT;
	uint64_t value = 0;

	memcpy(&value, page + at, bytes);
	return value;
}

/* By its interface, in which Linux' driver looks for it. */
enum { SEQ = 12, MARKER = 16, FLAGS = 24, GENERATION = 104 };

static void the_pages_are_as_drivers_want_them(void **state)
{
	static const uint8_t none[IDENTITY_ID_BYTES];
	struct identity *identity, *other;
	struct ear ear, ear2;
	uint8_t id[IDENTITY_ID_BYTES];

	(void)state;
	identity = make(&ear);
	other = make(&ear2);
	identity_id(identity, id);
	assert_memory_equal(ear.pages, id, sizeof(id));
	assert_memory_not_equal(id, none, sizeof(id));
	assert_memory_not_equal(ear2.pages, id, sizeof(id));
	assert_int_equal(clock_get(&ear, 0, 4), 0x4b4c4356);
	assert_int_equal(clock_get(&ear, 4, 4), PAGE_BYTES);
	assert_int_equal(clock_get(&ear, 8, 2), 1);
	/* It tells no time. */
	assert_int_equal(clock_get(&ear, 10, 1), 0xff);
	assert_int_equal(clock_get(&ear, 34, 1), 0);
	assert_int_equal(clock_get(&ear, FLAGS, 8), 0x300);
	assert_int_equal(clock_get(&ear, SEQ, 4) % 2, 0);
	assert_int_equal(ear.rises, 0);
	identity_free(identity);
	identity_free(other);
	identity_free(NULL);
}

static void a_guest_that_goes_on_as_another_is_told(void **state)
{
	struct identity *identity;
	uint8_t before[IDENTITY_ID_BYTES];
	uint64_t seq, marker;
	struct ear ear;
	struct err err;

	(void)state;
	identity = make(&ear);
	identity_id(identity, before);
	seq = clock_get(&ear, SEQ, 4);
	marker = clock_get(&ear, MARKER, 8);
	assert_int_equal(identity_renew(identity, &err), 0);
	assert_memory_not_equal(ear.pages, before, sizeof(before));
	assert_int_equal(clock_get(&ear, GENERATION, 8), 1);
	assert_true(clock_get(&ear, MARKER, 8) != marker);
	assert_int_equal(clock_get(&ear, SEQ, 4) % 2, 0);
	assert_true(clock_get(&ear, SEQ, 4) != seq);
	/* Once, by an edge, when all was written. */
	assert_int_equal(ear.rises, 1);
	assert_int_equal(ear.falls, 1);
	assert_memory_equal(ear.id, ear.pages, sizeof(ear.id));
	identity_free(identity);
}

static void a_guest_that_migrates_stays_who_it_is(void **state)
{
	struct identity *from, *to;
	uint8_t id[IDENTITY_ID_BYTES];
	struct ear ear, ear2;
	struct buf buf = { 0 };
	struct err err;

	(void)state;
	from = make(&ear);
	to = make(&ear2);
	assert_int_equal(identity_renew(from, &err), 0);
	assert_int_equal(identity_device_ops.save(from, &buf, &err), 0);
	assert_int_equal(identity_device_ops.load(to, buf.data, buf.len, &err), 0);
	identity_disrupt(to);
	identity_id(from, id);
	assert_memory_equal(ear2.pages, id, sizeof(id));
	assert_int_equal(clock_get(&ear2, GENERATION, 8), 1);
	/* But what it knew of its clocks is void. */
	assert_true(clock_get(&ear2, MARKER, 8) != clock_get(&ear, MARKER, 8));
	assert_int_equal(clock_get(&ear2, SEQ, 4) % 2, 0);
	assert_int_equal(ear2.rises, 1);
	/* A reset changes nothing. */
	identity_device_ops.reset(to);
	assert_memory_equal(ear2.pages, id, sizeof(id));
	buf_fini(&buf);
	identity_free(from);
	identity_free(to);
}

static void its_state_survives_torture(void **state)
{
	struct identity *from, *to;
	struct ear ear, ear2;

	(void)state;
	from = make(&ear);
	to = make(&ear2);
	state_torture(&identity_device_ops, from, to);
	assert_memory_equal(ear2.pages, ear.pages, IDENTITY_PAGES * PAGE_BYTES);
	assert_int_equal(ear2.rises, 0);
	identity_free(from);
	identity_free(to);
}

static void a_wrong_state_is_refused(void **state)
{
	struct identity *identity;
	struct ear ear;

	(void)state;
	identity = make(&ear);
	assert_refused(&identity_device_ops, identity, "", "0 bytes");
	assert_refused(&identity_device_ops, identity, "\x0a\x02" "ab", "2 bytes");
	assert_refused(&identity_device_ops, identity, "\x0a\x10" "0123456789abcdef" "\x20\x03",
		       "sequence count 3 is odd");
	assert_refused(&identity_device_ops, identity, "\x0a\x7f", "IdentityState");
	identity_free(identity);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_pages_are_as_drivers_want_them),
		cmocka_unit_test(a_guest_that_goes_on_as_another_is_told),
		cmocka_unit_test(a_guest_that_migrates_stays_who_it_is),
		cmocka_unit_test(its_state_survives_torture),
		cmocka_unit_test(a_wrong_state_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
