// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A destination that says what cannot be true. The guest's pages are at the
 * source alone until they were sent, so the source goes by what it knows of its
 * own: a false word is a lost link, and the true destination gets the guest by
 * a resume.
 */
#include <string.h>

#include "migrate/message.h"
#include "steps.h"

/* The destination says this, in between. */
static void say(struct world *w, wire_body body, const void *content)
{
	struct buf buf = { 0 };

	assert_int_equal(message_pack(&buf, body, content), 0);
	relay_say(w->relay, true, buf.data, buf.len);
	buf_fini(&buf);
}

/* The destination says this in place of its next such message. */
static void say_instead(struct world *w, enum cut_at at, wire_body body, const void *content)
{
	struct buf buf = { 0 };

	assert_int_equal(message_pack(&buf, body, content), 0);
	relay_replace(w->relay, at, buf.data, buf.len);
	buf_fini(&buf);
}

/* Postcopy with nearly all pages still at the source. */
static void begin(struct world *w)
{
	limit(w, TRICKLE);
	world_migrate(w, false);
	until_active(w);
	world_until(w, relay_has_passed(w->relay, AT_RUN_REPLY));
}

static void begin_and_cut(struct world *w)
{
	begin(w);
	relay_cut_now(w->relay);
	until_paused(w);
}

static void expect_paused(struct world *w, const char *reason)
{
	until_paused(w);
	if (!strstr(query(&w->from).error, reason))
		fail_msg("'%s' lacks '%s'", query(&w->from).error, reason);
	assert_int_equal(w->from.machine.state, RUN_STATE_POSTMIGRATE);
}

/* Nothing is lost by it: the pages are still here, and the destination gets them. */
static void resume(struct world *w)
{
	limit(w, 0);
	world_migrate(w, true);
	until_completed(w);
	world_free(w);
}

static void test_a_complete_with_pages_unsent_is_a_lost_link(void **state)
{
	Postern__Wire__Complete complete = POSTERN__WIRE__COMPLETE__INIT;
	struct world w;

	(void)state;
	NEEDS(&w);
	begin(&w);
	complete.pages = WORLD_PAGES;
	say(&w, WIRE(COMPLETE), &complete);
	expect_paused(&w, "the destination says that it has every page, but ");
	assert_non_null(
		strstr(query(&w.from).error,
		       " of 6144 were never sent; when the destination can be reached again"));
	assert_true(query(&w.from).ram_remaining_bytes > WORLD_PAGES / 2 * PAGE_BYTES);
	resume(&w);
}

static void test_a_complete_of_another_guest_is_a_lost_link(void **state)
{
	Postern__Wire__Complete complete = POSTERN__WIRE__COMPLETE__INIT;
	struct world w;

	(void)state;
	NEEDS(&w);
	complete.pages = WORLD_PAGES - 1;
	say_instead(&w, AT_COMPLETE, WIRE(COMPLETE), &complete);
	world_migrate(&w, false);
	world_until(&w, world_status(&w.from) == MIGRATION_POSTCOPY_PAUSED &&
				world_status(&w.to) == MIGRATION_COMPLETED);
	assert_non_null(strstr(query(&w.from).error, "all of 6143 pages, this guest has 6144"));
	resume(&w);
}

static void test_a_resume_reply_that_says_complete_too_early(void **state)
{
	Postern__Wire__ResumeReply reply = POSTERN__WIRE__RESUME_REPLY__INIT;
	struct world w;

	(void)state;
	NEEDS(&w);
	begin_and_cut(&w);
	reply.phase = POSTERN__WIRE__PHASE__PHASE_COMPLETE;
	say_instead(&w, AT_RESUME_REPLY, WIRE(RESUME_REPLY), &reply);
	world_migrate(&w, true);
	expect_paused(&w, "the destination says that it has every page, but ");
	resume(&w);
}

/*
 * A page that was sent and did not arrive is still asked for: what was sent
 * once is no proof, only a bound.
 */
static void test_pages_that_were_sent_and_lost_come_again(void **state)
{
	struct world w;

	(void)state;
	NEEDS(&w);
	begin(&w);
	relay_hold(w.relay, true);
	limit(&w, 0);
	/* As much as the connections hold is sent; nothing of it arrives. */
	world_until(&w, query(&w.from).ram_remaining_bytes < (WORLD_PAGES - 32) * PAGE_BYTES);
	relay_cut_now(w.relay);
	relay_hold(w.relay, false);
	until_paused(&w);
	resume(&w);
}

/*
 * The next bitmap, that of the first region, says that the pages of [from, to)
 * are there, and the others are not.
 */
static void claim(struct world *w, unsigned int from, unsigned int to)
{
	Postern__Wire__Missing piece = POSTERN__WIRE__MISSING__INIT;
	uint8_t bits[4096 / 8];
	unsigned int i;

	memset(bits, 0xff, sizeof(bits));
	for (i = from; i < to; i++)
		bits[i / 8] &= (uint8_t)~(1u << i % 8);
	piece.pages = 4096;
	piece.bits.data = bits;
	piece.bits.len = sizeof(bits);
	say_instead(w, AT_MISSING, WIRE(MISSING), &piece);
}

static void test_a_page_that_was_never_sent_cannot_be_there(void **state)
{
	struct world w;

	(void)state;
	NEEDS(&w);
	begin_and_cut(&w);
	/* At this pace and from below, the bulk has not come there. */
	claim(&w, 4000, 4001);
	world_migrate(&w, true);
	expect_paused(&w, "the destination says that it has page 0xfa0, which was never sent");
	resume(&w);
}

/* An earlier link's word does not make it true on a later one. */
static void test_what_was_claimed_before_is_not_believed_later(void **state)
{
	Postern__Wire__Complete complete = POSTERN__WIRE__COMPLETE__INIT;
	struct world w;

	(void)state;
	NEEDS(&w);
	begin_and_cut(&w);
	claim(&w, 4000, 4096);
	world_migrate(&w, true);
	expect_paused(&w, "which was never sent");
	world_migrate(&w, true);
	until_active(&w);
	complete.pages = WORLD_PAGES;
	say(&w, WIRE(COMPLETE), &complete);
	expect_paused(&w, "were never sent");
	resume(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_complete_with_pages_unsent_is_a_lost_link),
		cmocka_unit_test(test_a_complete_of_another_guest_is_a_lost_link),
		cmocka_unit_test(test_a_resume_reply_that_says_complete_too_early),
		cmocka_unit_test(test_pages_that_were_sent_and_lost_come_again),
		cmocka_unit_test(test_a_page_that_was_never_sent_cannot_be_there),
		cmocka_unit_test(test_what_was_claimed_before_is_not_believed_later),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
