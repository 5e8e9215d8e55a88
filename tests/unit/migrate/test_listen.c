// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * How two machines without KVM find each other: who may connect while others
 * do, who is told what, and over which connections.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "migrate/listen.h"
#include "steps.h"
#include "tests/unit/crowd.h"

#define CROWD LISTENER_CLIENTS_MAX

/*
 * Connects to the destination with this preface and waits until it has answered
 * or closed; true: its answer has the word.
 */
static bool is_refused(struct world *w, const struct preface *preface, const char *word)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	uint8_t bytes[PREFACE_BYTES], answer[1024];
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	size_t len = 0;
	ssize_t got = -1;

	memcpy(addr.sun_path, w->direct_uri + 5, strlen(w->direct_uri + 5) + 1);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	preface_encode(preface, bytes);
	assert_int_equal(send(fd, bytes, sizeof(bytes), 0), sizeof(bytes));
	world_until(w, (got = recv(fd, answer + len, sizeof(answer) - len, MSG_DONTWAIT)) == 0 ||
		    (got < 0 && errno != EAGAIN) || (got > 0 && (len += (size_t)got, false)));
	close(fd);
	return memmem(answer, len, word, strlen(word));
}

static void test_strangers_do_not_disturb(void **state)
{
	struct preface preface, other;
	struct world w;

	(void)state;
	NEEDS(&w);
	other = (struct preface){ .version = WIRE_MAJOR, .epoch = 3 };
	assert_true(is_refused(&w, &other, "no migration that could be resumed"));
	other.version = 9;
	assert_true(is_refused(&w, &other, "version 9"));
	limit(&w, TRICKLE);
	world_migrate(&w, false);
	until_active(&w);
	relay_cut_now(w.relay);
	until_paused(&w);
	world_migrate(&w, true);
	until_active(&w);
	preface = relay_preface(w.relay);
	assert_int_equal(preface.epoch, 1);
	preface.channel = WIRE_CONTROL;
	assert_true(is_refused(&w, &preface, "epoch 1 was here already"));
	preface.epoch = 0;
	assert_true(is_refused(&w, &preface, "epoch 1 was here already"));
	preface.epoch = 2;
	preface.session[0] ^= 1;
	assert_true(is_refused(&w, &preface, "the guest of another migration runs here"));
	assert_int_equal(world_status(&w.to), MIGRATION_POSTCOPY_ACTIVE);
	limit(&w, 0);
	until_completed(&w);
	assert_int_equal(query(&w.to).recoveries, 1);
	world_free(&w);
}

/* So many connections that say nothing, and the source's three among them, one after the other. */
static void test_a_crowd_of_strangers_does_not_keep_a_source_out(void **state)
{
	struct preface preface = { .version = WIRE_MAJOR, .session = "a new session" };
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	uint8_t bytes[PREFACE_BYTES], byte;
	int crowd[3 * CROWD], mine[3], i, turns;
	struct world w;

	(void)state;
	NEEDS(&w);
	memcpy(addr.sun_path, w.direct_uri + 5, strlen(w.direct_uri + 5) + 1);
	for (i = 0; i < 3 * CROWD; i++) {
		if (i % CROWD == CROWD / 2) {
			int *fd = &mine[i / CROWD];

			*fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
			assert_int_equal(connect(*fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
			preface.channel = (enum wire_channel)(i / CROWD);
			preface_encode(&preface, bytes);
			assert_int_equal(send(*fd, bytes, sizeof(bytes), 0), sizeof(bytes));
		}
		crowd[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_int_equal(connect(crowd[i], (struct sockaddr *)&addr, sizeof(addr)), 0);
		/* They are let in, and the others dropped for them. */
		turns = 0;
		world_until(&w, turns++ >= 3);
		world_until(&w, i < 2 * CROWD ||
					recv(crowd[i - 2 * CROWD], &byte, 1, MSG_DONTWAIT) == 0);
	}
	/* Linked: a migration has begun. */
	world_until(&w, query(&w.to).total_ms > 0);
	for (i = 0; i < 3 * CROWD; i++)
		close(crowd[i]);
	for (i = 0; i < 3; i++)
		close(mine[i]);
	world_until(&w, world_status(&w.to) == MIGRATION_SETUP);
	world_migrate(&w, false);
	until_completed(&w);
	world_free(&w);
}

/*
 * There is no descriptor for the source's connections: they wait, and the loop
 * does not run in circles.
 */
static void test_a_source_waits_for_a_descriptor(void **state)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct world w;
	struct err err;
	int fd;

	(void)state;
	NEEDS(&w);
	memcpy(addr.sun_path, w.direct_uri + 5, strlen(w.direct_uri + 5) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_in_range(turns_without_descriptor(loop_uv(w.loop), fd), 1, 100);
	close(fd);
	/* Not by the relay: its thread polls more than it now may. */
	assert_int_equal(migration_outgoing(w.from.migration, w.direct_uri, false, NULL, &err), 0);
	until_completed(&w);
	world_free(&w);
}

/*
 * While one source is let in, another waits for a moment and is then told; its
 * guest runs on, and the first arrives.
 */
static void test_a_second_source_is_told_that_the_destination_is_busy(void **state)
{
	struct migration_info info;
	struct migration *second;
	struct machine machine;
	struct world w;
	struct err err;

	(void)state;
	NEEDS(&w);
	machine = w.from.machine;
	machine.observers = NULL;
	assert_int_equal(migration_new(&second, &machine, &err), 0);
	relay_hold(w.relay, true);
	world_migrate(&w, false);
	world_until(&w, query(&w.to).total_ms > 0);
	assert_int_equal(migration_outgoing(second, w.direct_uri, false, NULL, &err), 0);
	world_until(&w, (migration_query(second, &info), info.status == MIGRATION_FAILED));
	assert_non_null(strstr(info.error, "busy with another migration"));
	assert_int_equal(machine.state, RUN_STATE_RUNNING);
	relay_hold(w.relay, false);
	until_completed(&w);
	migration_free(second);
	world_free(&w);
}

static void test_nobody_there(void **state)
{
	struct world w;
	struct err err;

	(void)state;
	NEEDS(&w);
	assert_int_equal(
		migration_outgoing(w.from.migration, "unix:/nowhere/at/all", false, NULL, &err), 0);
	world_until(&w, world_status(&w.from) == MIGRATION_FAILED);
	assert_non_null(strstr(query(&w.from).error, "unix:/nowhere/at/all"));
	assert_int_equal(w.from.machine.state, RUN_STATE_RUNNING);
	assert_int_equal(
		migration_outgoing(w.from.migration, "tcp:127.0.0.1:1", false, &world_open, &err),
		0);
	world_until(&w, world_status(&w.from) == MIGRATION_FAILED);
	assert_non_null(strstr(query(&w.from).error, "127.0.0.1 port 1"));
	assert_true(migration_outgoing(w.from.migration, "tcp:127.0.0.1:1", true, &world_open,
				       &err) < 0);
	w.from.machine.saving = true;
	assert_true(migration_outgoing(w.from.migration, "unix:/nowhere", false, NULL, &err) < 0);
	assert_non_null(strstr(err.text, "being saved"));
	w.from.machine.saving = false;
	assert_true(migration_outgoing(w.to.migration, w.direct_uri, false, NULL, &err) < 0);
	assert_non_null(strstr(err.text, "have not come yet"));
	world_free(&w);
}

static void test_over_tcp_and_over_given_descriptors(void **state)
{
	struct world w;
	struct err err;
	char from[64], to[64];
	int a[2], b[2], c[2];

	(void)state;
	NEEDS(&w);
	migration_free(w.to.migration);
	assert_int_equal(migration_new(&w.to.migration, &w.to.machine, &err), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, a), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, b), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, c), 0);
	snprintf(from, sizeof(from), "fd:%d,%d,%d", a[0], b[0], c[0]);
	snprintf(to, sizeof(to), "fd:%d,%d,%d", a[1], b[1], c[1]);
	limit(&w, TRICKLE);
	assert_int_equal(migration_incoming(w.to.migration, to, NULL, &err), 0);
	assert_int_equal(migration_outgoing(w.from.migration, from, false, NULL, &err), 0);
	until_active(&w);
	assert_int_equal(migration_pause(w.from.migration, &err), 0);
	until_paused(&w);
	assert_int_equal(
		migration_recover(w.to.migration, "tcp:127.0.0.1:17871", &world_open, &err), 0);
	assert_int_equal(migration_outgoing(w.from.migration, "tcp:localhost:17871", true,
					    &world_open, &err),
			 0);
	limit(&w, 0);
	until_completed(&w);
	world_free(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_strangers_do_not_disturb),
		cmocka_unit_test(test_a_crowd_of_strangers_does_not_keep_a_source_out),
		cmocka_unit_test(test_a_source_waits_for_a_descriptor),
		cmocka_unit_test(test_a_second_source_is_told_that_the_destination_is_busy),
		cmocka_unit_test(test_nobody_there),
		cmocka_unit_test(test_over_tcp_and_over_given_descriptors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
