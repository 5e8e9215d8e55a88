// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Whole migrations between two machines without KVM. The moments at which a
 * link can be cut are those of the table on top of switchover.c; the machines
 * themselves fail the test when the guest runs on both sides.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "memory/gup.h"
#include "steps.h"

static bool has_seen(const struct side *side, enum migration_status status)
{
	unsigned int i;

	for (i = 0; i < side->nseen; i++)
		if (side->seen[i] == status)
			return true;
	return false;
}

static void test_all_goes_well(void **state)
{
	struct migration_info from, to;
	struct world w;

	(void)state;
	NEEDS(&w);
	world_migrate(&w, false);
	until_completed(&w);
	from = query(&w.from);
	to = query(&w.to);
	assert_int_equal(from.ram_total_bytes, WORLD_PAGES * PAGE_BYTES);
	assert_int_equal(from.ram_remaining_bytes, 0);
	assert_int_equal(to.ram_remaining_bytes, 0);
	/* Of the eleven early pages of the machine seven are RAM and different. */
	assert_in_range(from.pages_normal + from.pages_zero, WORLD_PAGES - 7, WORLD_PAGES + 64);
	assert_true(from.pages_zero >= WORLD_PAGES / 5 - 7);
	assert_string_equal(from.error, "");
	assert_true(from.downtime_ms >= 0 && from.downtime_ms <= from.total_ms);
	assert_true(has_seen(&w.from, MIGRATION_SETUP) && has_seen(&w.from, MIGRATION_DEVICE) &&
		    has_seen(&w.from, MIGRATION_POSTCOPY_ACTIVE));
	assert_false(has_seen(&w.from, MIGRATION_POSTCOPY_PAUSED));
	world_free(&w);
}

static void test_a_paused_guest_arrives_paused(void **state)
{
	struct world w;

	(void)state;
	NEEDS(&w);
	w.from.machine.state = RUN_STATE_PAUSED;
	world_migrate(&w, false);
	world_until(&w, world_status(&w.from) == MIGRATION_COMPLETED);
	assert_int_equal(w.to.machine.state, RUN_STATE_PAUSED);
	assert_false(w.to.machine.ran);
	world_free(&w);
}

/* It is paused for a reset that waits, and would run after that. */
static void test_a_guest_that_is_to_run_arrives_running(void **state)
{
	struct world w;

	(void)state;
	NEEDS(&w);
	w.from.machine.state = RUN_STATE_PAUSED;
	w.from.machine.to_run = true;
	world_migrate(&w, false);
	world_until(&w, world_status(&w.from) == MIGRATION_COMPLETED);
	assert_int_equal(w.to.machine.state, RUN_STATE_RUNNING);
	world_free(&w);
}

/* ---- the table of moments ---- */

struct moment {
	const char *name;
	enum cut_at at;
	bool deliver;
	enum migration_status from, to;
	bool from_runs, to_runs;
};

#define F MIGRATION_FAILED
#define S MIGRATION_SETUP
#define P MIGRATION_POSTCOPY_PAUSED
#define C MIGRATION_COMPLETED

static const struct moment moments[] = {
	{ "Hello kept", AT_HELLO, false, F, S, true, false },
	{ "Hello delivered", AT_HELLO, true, F, S, true, false },
	{ "HelloReply kept", AT_HELLO_REPLY, false, F, S, true, false },
	{ "HelloReply delivered", AT_HELLO_REPLY, true, F, S, true, false },
	{ "Boot kept", AT_BOOT, false, F, S, true, false },
	{ "Boot delivered", AT_BOOT, true, F, S, true, false },
	{ "BootData kept", AT_BOOT_DATA, false, F, S, true, false },
	{ "BootData delivered", AT_BOOT_DATA, true, F, S, true, false },
	{ "BootEnd kept", AT_BOOT_END, false, F, S, true, false },
	{ "BootEnd delivered", AT_BOOT_END, true, F, S, true, false },
	{ "BootReply kept", AT_BOOT_REPLY, false, F, S, true, false },
	{ "BootReply delivered", AT_BOOT_REPLY, true, F, S, true, false },
	{ "early page kept", AT_PAGES, false, F, S, true, false },
	{ "early page delivered", AT_PAGES, true, F, S, true, false },
	{ "State kept", AT_STATE, false, F, S, true, false },
	{ "State delivered", AT_STATE, true, F, P, true, false },
	{ "StateReply kept", AT_STATE_REPLY, false, F, P, true, false },
	{ "StateReply delivered", AT_STATE_REPLY, true, P, P, false, false },
	{ "Run kept", AT_RUN, false, P, P, false, false },
	{ "Run delivered", AT_RUN, true, P, P, false, true },
	{ "RunReply kept", AT_RUN_REPLY, false, P, P, false, true },
	{ "RunReply delivered", AT_RUN_REPLY, true, P, P, false, true },
	{ "Complete kept", AT_COMPLETE, false, P, C, false, true },
	{ "Complete delivered", AT_COMPLETE, true, C, C, false, true },
	{ "CompleteAck kept", AT_COMPLETE_ACK, false, C, C, false, true },
	{ "CompleteAck delivered", AT_COMPLETE_ACK, true, C, C, false, true },
};

/*
 * A source that runs on tries once more: at the same destination it arrives, or
 * is told to find another.
 */
static void try_again(struct world *w, const struct moment *moment)
{
	world_migrate(w, false);
	if (moment->to == MIGRATION_SETUP) {
		until_completed(w);
		return;
	}
	world_until(w, world_status(&w->from) == MIGRATION_FAILED);
	if (!strstr(query(&w->from).error, "start a new destination"))
		fail_msg("%s: '%s'", moment->name, query(&w->from).error);
	assert_int_equal(w->from.machine.state, RUN_STATE_RUNNING);
	assert_false(w->to.machine.ran);
}

static void check_moment(const struct moment *moment)
{
	struct world w;

	NEEDS(&w);
	/* So that pages are missing when the link is cut in postcopy. */
	if (moment->at == AT_RUN || moment->at == AT_RUN_REPLY) {
		struct migration_params params;

		migration_params_get(w.from.migration, &params);
		params.max_postcopy_bandwidth = 1 << 20;
		assert_int_equal(migration_params_set(w.from.migration, &params, NULL), 0);
	}
	relay_cut_at(w.relay, moment->at, moment->deliver);
	world_migrate(&w, false);
	world_until(&w, relay_has_cut(w.relay));
	world_until(&w, world_status(&w.from) == moment->from && world_status(&w.to) == moment->to);
	if (moment->from_runs != (w.from.machine.state == RUN_STATE_RUNNING) ||
	    moment->to_runs != (w.to.machine.state == RUN_STATE_RUNNING))
		fail_msg("%s: source %s, destination %s", moment->name,
			 w.from.machine.state == RUN_STATE_RUNNING ? "runs" : "does not run",
			 w.to.machine.state == RUN_STATE_RUNNING ? "runs" : "does not run");
	assert_int_equal(w.to.machine.ran, moment->to_runs);
	if (moment->from == MIGRATION_POSTCOPY_PAUSED) {
		struct migration_params params;

		migration_params_get(w.from.migration, &params);
		params.max_postcopy_bandwidth = 0;
		assert_int_equal(migration_params_set(w.from.migration, &params, NULL), 0);
		world_migrate(&w, true);
		until_completed(&w);
	} else if (moment->from_runs) {
		try_again(&w, moment);
	} else {
		world_check_arrived(&w);
	}
	world_free(&w);
}

/*
 * Pages were placed, the source went on, and the guest wrote there again: what
 * arrives in the end is the last.
 */
static void test_pages_of_a_session_that_failed_are_not_kept(void **state)
{
	uint8_t page[PAGE_BYTES], is[PAGE_BYTES];
	struct memory_stats stats;
	struct world w;

	(void)state;
	NEEDS(&w);
	relay_cut_at(w.relay, AT_STATE, false);
	world_migrate(&w, false);
	world_until(&w, world_status(&w.from) == MIGRATION_FAILED &&
				world_status(&w.to) == MIGRATION_SETUP && relay_has_cut(w.relay));
	memory_stats(w.to.machine.mem, &stats);
	assert_int_equal(stats.missing, WORLD_PAGES);
	/* One of the early ones. */
	memset(page, 0xee, sizeof(page));
	assert_int_equal(
		gup_write(w.from.machine.mem, GPA(3 * PAGE_BYTES), page, PAGE_BYTES, 0, NULL), 0);
	world_migrate(&w, false);
	world_until(&w, world_status(&w.from) == MIGRATION_COMPLETED &&
				world_status(&w.to) == MIGRATION_COMPLETED);
	assert_int_equal(
		gup_read(w.to.machine.mem, GPA(3 * PAGE_BYTES), is, PAGE_BYTES, GUP_NOWAIT, NULL),
		0);
	assert_memory_equal(is, page, PAGE_BYTES);
	world_free(&w);
}

static void test_every_moment_of_a_cut(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(moments) / sizeof(*moments); i++)
		check_moment(&moments[i]);
}

/* ---- recovery ---- */

/* Each message of a resume is cut before and after, and in the end it gets through all the same. */
static void test_a_resume_may_be_cut_anywhere(void **state)
{
	static const enum cut_at at[] = { AT_RESUME, AT_RESUME_REPLY, AT_MISSING, AT_MISSING_END,
					  AT_RESUME_ACK };
	struct world w;
	size_t i, deliver;

	(void)state;
	NEEDS(&w);
	limit(&w, TRICKLE);
	world_migrate(&w, false);
	until_active(&w);
	relay_cut_now(w.relay);
	until_paused(&w);
	for (i = 0; i < sizeof(at) / sizeof(*at); i++)
		for (deliver = 0; deliver < 2; deliver++) {
			relay_cut_at(w.relay, at[i], deliver);
			world_migrate(&w, true);
			world_until(&w, relay_has_cut(w.relay));
			until_paused(&w);
			assert_int_not_equal(query(&w.from).error[0], 0);
		}
	limit(&w, 0);
	world_migrate(&w, true);
	until_completed(&w);
	world_free(&w);
}

/* The same while the destination is only prepared: Run itself is cut, again and again. */
static void test_run_may_be_cut_again_and_again(void **state)
{
	struct world w;
	int i;

	(void)state;
	NEEDS(&w);
	relay_cut_at(w.relay, AT_RUN, false);
	world_migrate(&w, false);
	until_paused(&w);
	for (i = 0; i < 3; i++) {
		relay_cut_at(w.relay, AT_RUN, false);
		world_migrate(&w, true);
		world_until(&w, relay_has_cut(w.relay));
		until_paused(&w);
		assert_false(w.to.machine.ran);
		assert_int_equal(w.from.machine.state, RUN_STATE_POSTMIGRATE);
	}
	world_migrate(&w, true);
	until_completed(&w);
	world_free(&w);
}

static void test_many_cuts_in_the_flow(void **state)
{
	struct world w;
	int i;

	(void)state;
	NEEDS(&w);
	limit(&w, 1 << 20);
	world_migrate(&w, false);
	for (i = 0; i < 12; i++) {
		uint64_t left;

		until_active(&w);
		left = query(&w.to).ram_remaining_bytes;
		world_until(&w, query(&w.to).ram_remaining_bytes < left);
		relay_cut_now(w.relay);
		until_paused(&w);
		world_migrate(&w, true);
	}
	until_active(&w);
	assert_int_equal(query(&w.from).recoveries, 12);
	assert_int_equal(query(&w.to).recoveries, 12);
	limit(&w, 0);
	until_completed(&w);
	world_free(&w);
}

static void test_pause_and_recover_by_command(void **state)
{
	char uri[160];
	struct world w;
	struct err err;

	(void)state;
	NEEDS(&w);
	snprintf(uri, sizeof(uri), "%s2", w.direct_uri);
	assert_true(migration_pause(w.from.migration, &err) < 0);
	limit(&w, TRICKLE);
	world_migrate(&w, false);
	until_active(&w);
	assert_true(migration_recover(w.to.migration, uri, NULL, &err) < 0);
	assert_int_equal(migration_pause(w.to.migration, &err), 0);
	until_paused(&w);
	assert_non_null(strstr(query(&w.to).error, "migrate-pause at the destination"));
	assert_non_null(strstr(query(&w.from).error, "migrate-pause at the destination"));
	assert_int_equal(migration_recover(w.to.migration, uri, NULL, &err), 0);
	assert_int_equal(migration_outgoing(w.from.migration, uri, true, NULL, &err), 0);
	until_active(&w);
	/* What is mended is no error any more. */
	assert_string_equal(query(&w.to).error, "");
	assert_string_equal(query(&w.from).error, "");
	assert_int_equal(migration_pause(w.from.migration, &err), 0);
	until_paused(&w);
	/* The URI it listens at already. */
	assert_int_equal(migration_recover(w.to.migration, uri, NULL, &err), 0);
	assert_int_equal(migration_outgoing(w.from.migration, uri, true, NULL, &err), 0);
	limit(&w, 0);
	until_completed(&w);
	world_free(&w);
}

static void test_a_complete_destination_tells_a_source_that_missed_it(void **state)
{
	char uri[160];
	struct world w;
	struct err err;

	(void)state;
	NEEDS(&w);
	snprintf(uri, sizeof(uri), "%s2", w.direct_uri);
	relay_cut_at(w.relay, AT_COMPLETE, false);
	world_migrate(&w, false);
	world_until(&w, world_status(&w.to) == MIGRATION_COMPLETED &&
		    world_status(&w.from) == MIGRATION_POSTCOPY_PAUSED);
	assert_int_equal(migration_recover(w.to.migration, uri, NULL, &err), 0);
	assert_int_equal(migration_outgoing(w.from.migration, uri, true, NULL, &err), 0);
	until_completed(&w);
	world_free(&w);
}

/* ---- silence, garbage, refusal ---- */

static void timeouts(struct world *w, unsigned int ms)
{
	struct side *sides[] = { &w->from, &w->to };
	struct migration_params params;
	int i;

	for (i = 0; i < 2; i++) {
		migration_params_get(sides[i]->migration, &params);
		params.link_timeout_ms = ms;
		assert_int_equal(migration_params_set(sides[i]->migration, &params, NULL), 0);
	}
}

static void test_silence_is_a_lost_link(void **state)
{
	struct world w;

	(void)state;
	NEEDS(&w);
	timeouts(&w, 400);
	limit(&w, TRICKLE);
	world_migrate(&w, false);
	until_active(&w);
	relay_hold(w.relay, true);
	until_paused(&w);
	/* One notices first, and the other perhaps by that. */
	assert_true(strstr(query(&w.from).error, "nothing heard") ||
		    strstr(query(&w.to).error, "nothing heard"));
	relay_cut_now(w.relay);
	relay_hold(w.relay, false);
	limit(&w, 0);
	world_migrate(&w, true);
	until_completed(&w);
	world_free(&w);
}

static void test_quiet_links_live_on_by_heartbeats(void **state)
{
	int64_t end = clock_now_ns() + 4 * NS_PER_SEC;
	struct world w;

	(void)state;
	NEEDS(&w);
	timeouts(&w, 1500);
	limit(&w, 1);
	world_migrate(&w, false);
	until_active(&w);
	world_until(&w, clock_now_ns() > end);
	assert_int_equal(world_status(&w.from), MIGRATION_POSTCOPY_ACTIVE);
	assert_int_equal(world_status(&w.to), MIGRATION_POSTCOPY_ACTIVE);
	limit(&w, 0);
	until_completed(&w);
	world_free(&w);
}

static void until_refused(struct world *w, const char *word)
{
	world_until(w, world_status(&w->from) == MIGRATION_FAILED);
	if (!strstr(query(&w->from).error, word))
		fail_msg("'%s' lacks '%s'", query(&w->from).error, word);
	assert_int_equal(w->from.machine.state, RUN_STATE_RUNNING);
}

static void expect_refusal(struct world *w, const char *word)
{
	world_migrate(w, false);
	until_refused(w, word);
}

/*
 * Migrates to a destination that lives, and does not answer, until the source
 * has given up. On a machine so busy that the source hears nothing at all for
 * its link's timeout it gives up for that: then anew.
 */
static void without_answer(struct world *w, enum cut_at answer)
{
	struct migration_params params;
	unsigned int tries;

	for (tries = 0; ; tries++) {
		NEEDS(w);
		/* Only the source's, since three of them are an answer's time. */
		migration_params_get(w->from.migration, &params);
		params.link_timeout_ms = 1600;
		assert_int_equal(migration_params_set(w->from.migration, &params, NULL), 0);
		relay_swallow(w->relay, answer);
		world_migrate(w, false);
		world_until(w, world_status(&w->from) == MIGRATION_FAILED);
		if (tries == 5 || !strstr(query(&w->from).error, "nothing heard"))
			return;
		world_free(w);
	}
}

/*
 * A destination that lives, and hears everything, and does not answer: the
 * guest goes on where it was.
 */
static void test_an_answer_that_does_not_come(void **state)
{
	static const struct {
		enum cut_at at;
		const char *said;
		enum migration_status to;
	} answer[] = {
		{ AT_HELLO_REPLY, "has not answered the Hello within 5000 ms", MIGRATION_SETUP },
		{ AT_BOOT_REPLY, "has not taken what the guest reboots with within 5000 ms", MIGRATION_SETUP },
		/* It is prepared, and not for another. */
		{ AT_STATE_REPLY, "has not answered the machine's state within 5000 ms",
			MIGRATION_POSTCOPY_PAUSED },
	};
	struct world w;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(answer) / sizeof(*answer); i++) {
		without_answer(&w, answer[i].at);
		until_refused(&w, answer[i].said);
		/* The other side is told. */
		world_until(&w, strstr(query(&w.to).error, answer[i].said));
		assert_int_equal(world_status(&w.to), answer[i].to);
		assert_false(w.to.machine.ran);
		world_free(&w);
	}
}

static void test_damage_on_any_connection_loses_the_link_and_nothing_else(void **state)
{
	static const struct {
		enum wire_channel channel;
		bool from_source;
	} where[] = {
		{ WIRE_BULK, true }, { WIRE_CONTROL, true }, { WIRE_CONTROL, false },
	};
	struct world w;
	size_t i;

	(void)state;
	NEEDS(&w);
	timeouts(&w, 1000);
	limit(&w, TRICKLE);
	world_migrate(&w, false);
	for (i = 0; i < sizeof(where) / sizeof(*where); i++) {
		until_active(&w);
		relay_damage(w.relay, where[i].channel, where[i].from_source);
		until_paused(&w);
		world_migrate(&w, true);
	}
	until_active(&w);
	limit(&w, 0);
	until_completed(&w);
	world_free(&w);
}

static void test_another_shape_is_refused_by_name_and_the_next_may_try(void **state)
{
	struct world w;

	(void)state;
	NEEDS(&w);
	w.to.machine.config.cpus = 4;
	expect_refusal(&w, "the source has 2 CPUs, this destination 4");
	world_until(&w, world_status(&w.to) == MIGRATION_SETUP);
	w.to.machine.config.cpus = 2;
	world_migrate(&w, false);
	until_completed(&w);
	world_free(&w);
}

static void test_a_state_that_cannot_be_saved_or_loaded(void **state)
{
	struct world w;

	(void)state;
	NEEDS(&w);
	w.from.machine.early_pages = 0;
	w.from.machine.save_error = -EIO;
	expect_refusal(&w, "cannot save");
	w.from.machine.save_error = 0;
	w.to.machine.load_error = -EINVAL;
	world_until(&w, world_status(&w.to) == MIGRATION_SETUP);
	expect_refusal(&w, "cannot load");
	/* No page was placed: it may be tried again. */
	world_until(&w, world_status(&w.to) == MIGRATION_SETUP);
	w.to.machine.load_error = 0;
	world_migrate(&w, false);
	until_completed(&w);
	world_free(&w);
}

static void test_cancel_before_and_after_the_decision(void **state)
{
	struct world w;
	struct err err;

	(void)state;
	NEEDS(&w);
	relay_hold(w.relay, true);
	world_migrate(&w, false);
	assert_int_equal(migration_cancel(w.from.migration, &err), 0);
	assert_int_equal(world_status(&w.from), MIGRATION_CANCELLED);
	assert_int_equal(w.from.machine.state, RUN_STATE_RUNNING);
	relay_cut_now(w.relay);
	relay_hold(w.relay, false);
	world_until(&w, world_status(&w.to) == MIGRATION_SETUP);
	limit(&w, TRICKLE);
	world_migrate(&w, false);
	until_active(&w);
	assert_true(migration_cancel(w.from.migration, &err) < 0);
	assert_non_null(strstr(err.text, "too late"));
	limit(&w, 0);
	until_completed(&w);
	world_free(&w);
}

static void test_stop_during_switchover_stands(void **state)
{
	struct world w;

	(void)state;
	NEEDS(&w);
	world_migrate(&w, false);
	world_until(&w, w.from.machine.state == RUN_STATE_FINISH_MIGRATE);
	w.from.machine.state = RUN_STATE_PAUSED;	/* what `stop` does */
	world_until(&w, world_status(&w.from) == MIGRATION_FAILED);
	assert_int_equal(w.from.machine.state, RUN_STATE_PAUSED);
	assert_non_null(strstr(query(&w.from).error, "stopped while"));
	assert_false(w.to.machine.ran);
	world_free(&w);
}

/*
 * An operator takes the guest back by force, since the destination is dead:
 * that migration must never be resumed.
 */
static void test_a_reclaimed_guest_cannot_be_resumed_elsewhere(void **state)
{
	struct world w;
	struct err err;

	(void)state;
	NEEDS(&w);
	assert_int_equal(migration_reclaim(w.from.migration, &err), -EINVAL);
	assert_non_null(strstr(err.text, "this is the source of one that is none"));
	relay_cut_at(w.relay, AT_RUN, false);
	world_migrate(&w, false);
	until_paused(&w);
	assert_int_equal(migration_reclaim(w.to.migration, &err), -EINVAL);
	assert_non_null(strstr(err.text, "this is the destination of one that is postcopy-paused"));
	assert_false(query(&w.from).reclaimed);
	assert_int_equal(migration_reclaim(w.from.migration, &err), 0);
	assert_int_equal(w.from.machine.state, RUN_STATE_RUNNING);
	assert_true(query(&w.from).reclaimed);
	assert_int_equal(migration_reclaim(w.from.migration, &err), -EALREADY);
	assert_int_equal(migration_outgoing(w.from.migration, w.relay_uri, true, NULL, &err),
			 -EPERM);
	assert_non_null(strstr(err.text, "would let it run twice"));
	assert_int_equal(world_status(&w.from), MIGRATION_POSTCOPY_PAUSED);
	/* A new migration is another session: this destination is not the one for it. */
	expect_refusal(&w, "start a new destination");
	assert_false(w.to.machine.ran);
	world_free(&w);
}

/* At each of these a process may be ended: nothing may wait, leak or crash. */
static void test_free_at_any_moment(void **state)
{
	static const enum cut_at at[] = { AT_HELLO, AT_STATE,	  AT_STATE_REPLY,
					  AT_RUN,   AT_RUN_REPLY, AT_COMPLETE };
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(at) / sizeof(*at); i++) {
		struct world w;
		int64_t start;

		NEEDS(&w);
		relay_cut_at(w.relay, at[i], true);
		world_migrate(&w, false);
		world_until(&w, relay_has_cut(w.relay));
		start = clock_now_ns();
		world_free(&w);
		assert_true(clock_now_ns() - start < 5 * NS_PER_SEC);
	}
	for (i = 0; i < 40; i++) {
		struct world w;
		size_t step;

		NEEDS(&w);
		world_migrate(&w, false);
		for (step = 0; step < i; step++)
			uv_run(loop_uv(w.loop), UV_RUN_ONCE);
		world_free(&w);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_goes_well),
		cmocka_unit_test(test_a_paused_guest_arrives_paused),
		cmocka_unit_test(test_a_guest_that_is_to_run_arrives_running),
		cmocka_unit_test(test_every_moment_of_a_cut),
		cmocka_unit_test(test_pages_of_a_session_that_failed_are_not_kept),
		cmocka_unit_test(test_a_resume_may_be_cut_anywhere),
		cmocka_unit_test(test_run_may_be_cut_again_and_again),
		cmocka_unit_test(test_many_cuts_in_the_flow),
		cmocka_unit_test(test_pause_and_recover_by_command),
		cmocka_unit_test(test_a_complete_destination_tells_a_source_that_missed_it),
		cmocka_unit_test(test_silence_is_a_lost_link),
		cmocka_unit_test(test_quiet_links_live_on_by_heartbeats),
		cmocka_unit_test(test_an_answer_that_does_not_come),
		cmocka_unit_test(test_damage_on_any_connection_loses_the_link_and_nothing_else),
		cmocka_unit_test(test_another_shape_is_refused_by_name_and_the_next_may_try),
		cmocka_unit_test(test_a_state_that_cannot_be_saved_or_loaded),
		cmocka_unit_test(test_cancel_before_and_after_the_decision),
		cmocka_unit_test(test_stop_during_switchover_stands),
		cmocka_unit_test(test_a_reclaimed_guest_cannot_be_resumed_elsewhere),
		cmocka_unit_test(test_free_at_any_moment),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
