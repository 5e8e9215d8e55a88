// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Whole migrations over connections that are not plain sockets: they read
 * ahead, have a hello of their own, and their descriptors can be polled and
 * nothing else (tests/unit/toy_conn.h). Who passes by the connection to its
 * socket gets an error, or bytes that make no sense.
 */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "steps.h"
#include "tests/unit/toy_conn.h"

/* A world whose two sides wrap all connections, without a relay, which could not read these. */
struct town {
	struct world w;
	struct toy_wrapper toys;
	struct migration_trust trust;
};

static bool town_new(struct town *t, const char *secret)
{
	struct err err;

	if (!world_new(&t->w))
		return false;
	toy_wrapper_init(&t->toys);
	t->trust = (struct migration_trust){ .wrapper = &t->toys.wrapper };
	if (secret)
		assert_int_equal(secret_derive(&t->trust.secret, secret, strlen(secret), &err), 0);
	migration_free(t->w.to.migration);
	assert_int_equal(migration_new(&t->w.to.migration, &t->w.to.machine, &err), 0);
	migration_trust(t->w.to.migration, &t->trust);
	migration_trust(t->w.from.migration, &t->trust);
	assert_int_equal(migration_incoming(t->w.to.migration, t->w.direct_uri, NULL, &err), 0);
	return true;
}

#define NEEDS_TOWN(t, secret)             \
	do {                              \
		if (!town_new(t, secret)) \
			skip();           \
	} while (0)

static void town_free(struct town *t)
{
	world_free(&t->w);
	assert_true(t->toys.made > 0);
	assert_int_equal(t->toys.made, t->toys.freed);
	/* It was about something. */
	assert_true(t->toys.hellos_awaited > 0);
	assert_true(t->toys.parts > 0);
}

static void migrate(struct town *t, bool resume)
{
	struct err err;

	if (migration_outgoing(t->w.from.migration, t->w.direct_uri, resume, NULL, &err) < 0)
		fail_msg("migrate: %s", err.text);
}

static void test_a_migration_completes(void **state)
{
	struct town t;

	(void)state;
	NEEDS_TOWN(&t, NULL);
	migrate(&t, false);
	until_completed(&t.w);
	assert_int_equal(t.toys.made, 2 * WIRE_CHANNELS);
	town_free(&t);
}

static void test_a_migration_with_a_secret_completes(void **state)
{
	struct town t;

	(void)state;
	NEEDS_TOWN(&t, "not much of a secret");
	migrate(&t, false);
	until_completed(&t.w);
	town_free(&t);
}

static void test_a_cut_link_is_resumed(void **state)
{
	struct town t;
	struct err err;
	int i;

	(void)state;
	NEEDS_TOWN(&t, NULL);
	limit(&t.w, TRICKLE);
	migrate(&t, false);
	until_active(&t.w);
	for (i = 0; i < 3; i++) {
		assert_int_equal(migration_pause((i & 1 ? &t.w.to : &t.w.from)->migration, &err),
				 0);
		until_paused(&t.w);
		migrate(&t, true);
		until_active(&t.w);
	}
	limit(&t.w, 0);
	until_completed(&t.w);
	assert_int_equal(query(&t.w.to).recoveries, 3);
	town_free(&t);
}

/* The connections are there before anybody listens. */
static void test_given_descriptors_are_wrapped(void **state)
{
	char from[64], to[64];
	struct town t;
	struct err err;
	int a[2], b[2], c[2];

	(void)state;
	NEEDS_TOWN(&t, NULL);
	migration_free(t.w.to.migration);
	assert_int_equal(migration_new(&t.w.to.migration, &t.w.to.machine, &err), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, a), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, b), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, c), 0);
	snprintf(from, sizeof(from), "fd:%d,%d,%d", a[0], b[0], c[0]);
	snprintf(to, sizeof(to), "fd:%d,%d,%d", a[1], b[1], c[1]);
	assert_int_equal(migration_incoming(t.w.to.migration, to, &t.trust, &err), 0);
	assert_int_equal(migration_outgoing(t.w.from.migration, from, false, NULL, &err), 0);
	until_completed(&t.w);
	town_free(&t);
}

/* Who cannot be let in is told why, through the wrapper. */
static void test_a_refusal_is_told(void **state)
{
	struct town t;

	(void)state;
	NEEDS_TOWN(&t, "the destination's secret");
	t.trust.secret.key[0] ^= 1;
	migration_trust(t.w.from.migration, &t.trust);
	migrate(&t, false);
	world_until(&t.w, world_status(&t.w.from) == MIGRATION_FAILED);
	assert_non_null(strstr(query(&t.w.from).error, "secret"));
	assert_int_equal(t.w.from.machine.state, RUN_STATE_RUNNING);
	world_free(&t.w);
	assert_int_equal(t.toys.made, t.toys.freed);
}

/* Only one side wraps: neither takes the other for a peer, and the guest runs on. */
static void test_a_side_that_does_not_wrap_is_not_let_in(void **state)
{
	struct town t;
	struct err err;

	(void)state;
	NEEDS_TOWN(&t, NULL);
	assert_int_equal(
		migration_outgoing(t.w.from.migration, t.w.direct_uri, false, &world_open, &err),
		0);
	world_until(&t.w, world_status(&t.w.from) == MIGRATION_FAILED);
	assert_int_equal(t.w.from.machine.state, RUN_STATE_RUNNING);
	assert_int_equal(world_status(&t.w.to), MIGRATION_SETUP);
	migrate(&t, false);
	until_completed(&t.w);
	town_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_migration_completes),
		cmocka_unit_test(test_a_migration_with_a_secret_completes),
		cmocka_unit_test(test_a_cut_link_is_resumed),
		cmocka_unit_test(test_given_descriptors_are_wrapped),
		cmocka_unit_test(test_a_refusal_is_told),
		cmocka_unit_test(test_a_side_that_does_not_wrap_is_not_let_in),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
