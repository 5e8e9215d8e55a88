// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A peer that is dead is noticed by the link. One that lives, answers Pings and says nothing
 * that is of use would hold a session for ever, and with it the guest or the destination: so
 * whatever is waited for has its time, in every phase and on both sides. It runs from when the
 * wait began and is not prolonged by bytes that come or go in the meantime; a second is added
 * for each BYTES_A_SECOND that have to pass first. Four waits last as long as there is progress:
 * that for pages that the guest needs, that for the destination to take what is sent, that for the
 * end once all has been sent, and that for a kernel to be taken, since the guest runs meanwhile.
 *
 * A destination waits twice as long as a source: who has the guest decides first what becomes
 * of it.
 */
#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "migrate/internal.h"

/* In link timeouts. */
#define SOURCE_TIMEOUTS 3u
#define BYTES_A_SECOND (UINT64_C(256) << 10)

/* What the peer has not done. */
static const char *const undone[] = {
	[AWAITED_HELLO] = "said Hello",
	[AWAITED_BOOT] = "sent what its guest reboots with",
	[AWAITED_STATE] = "sent the machine's state",
	[AWAITED_RUN] = "said Run",
	[AWAITED_RESUME] = "said Resume",
	[AWAITED_RESUME_ACK] = "gone on after it was told what is missing",
	[AWAITED_PAGE] = "sent any page that was asked for",
	[AWAITED_COMPLETE_ACK] = "confirmed the end",
	[AWAITED_HELLO_REPLY] = "answered the Hello",
	[AWAITED_BOOT_REPLY] = "taken what the guest reboots with",
	[AWAITED_STATE_REPLY] = "answered the machine's state",
	[AWAITED_RUN_REPLY] = "answered Run",
	[AWAITED_RESUME_REPLY] = "answered the Resume",
	[AWAITED_MISSING] = "said all that is missing there",
	[AWAITED_TAKEN] = "taken any more of the pages that were sent",
	[AWAITED_COMPLETE] = "said that it has every page, all of which were sent",
	[AWAITED_CLOSE] = "closed the link of a migration that is complete",
};

/* Whole milliseconds, so that no number overflows. */
static uint64_t ms_of_bytes(uint64_t bytes)
{
	return bytes * (NS_PER_SEC / NS_PER_MS) / BYTES_A_SECOND;
}

static unsigned int source_limit_ms(const struct migration *m)
{
	return connect_timeout_ms(SOURCE_TIMEOUTS * m->params.link_timeout_ms);
}

/* What is awaited now, and how far it is: a wait goes on, or begins anew. */
static void await_note(struct session *session, enum awaited what, uint64_t progress)
{
	struct await *await = &session->await;

	if (what == await->what && progress == await->progress)
		return;
	*await = (struct await){
		.what = what,
		.since_ns = clock_now_ns(),
		.progress = progress,
		.unsent = session->link ? link_unsent(session->link) : 0,
	};
}

/* bytes: those that have to pass before it can come. */
static bool await_is_over(const struct await *await, unsigned int limit_ms, uint64_t bytes)
{
	uint64_t ms = (uint64_t)((clock_now_ns() - await->since_ns) / NS_PER_MS);

	return await->what != AWAITED_NOTHING && ms >= limit_ms + ms_of_bytes(bytes);
}

/* ---- the destination ---- */

/* Is there a page that was asked for and has not come? (One that is lost is asked for no more.) */
static bool is_page_awaited(const struct incoming *in)
{
	struct memory_stats stats;

	memory_stats(machine_memory(in->m->machine), &stats);
	return stats.requested;
}

static enum awaited destination_awaits(const struct incoming *in)
{
	if (!in->session.link)
		return AWAITED_NOTHING;
	if (in->resume != IN_RESUME_NONE)
		return in->resume == IN_RESUME_AWAITED ? AWAITED_RESUME : AWAITED_RESUME_ACK;
	switch (in->phase) {
	case IN_HELLO:
		return AWAITED_HELLO;
	case IN_BOOT:
		return AWAITED_BOOT;
	case IN_STATE:
		return AWAITED_STATE;
	case IN_PREPARED:
		return AWAITED_RUN;
	case IN_RUNNING:
		return is_page_awaited(in) ? AWAITED_PAGE : AWAITED_NOTHING;
	case IN_COMPLETE:
		return AWAITED_COMPLETE_ACK;
	default:
		return AWAITED_NOTHING;
	}
}

/* What makes the wait for a page begin anew; otherwise 0. */
static uint64_t destination_progress(const struct incoming *in, enum awaited what)
{
	struct wire_source_stats got;

	if (what != AWAITED_PAGE)
		return 0;
	wire_source_stats(in->wire_source, &got);
	return got.pages_urgent;
}

static uint64_t destination_bytes_before(const struct incoming *in)
{
	uint64_t ram = memory_pages(machine_memory(in->m->machine)) * PAGE_BYTES;

	switch (in->session.await.what) {
	case AWAITED_PAGE:
		/* It lasts as long as there is progress. */
		return 0;
	case AWAITED_BOOT:
		return in->boot_receiver.done[0] + in->boot_receiver.done[1];
	case AWAITED_STATE:
		/* What came before it came in that time; no page is needed twice. */
		return in->early_bytes < ram ? in->early_bytes : ram;
	default:
		return in->session.await.unsent;
	}
}

void awaited_check_incoming(struct incoming *in)
{
	enum awaited what = destination_awaits(in);
	unsigned int limit_ms = 2 * source_limit_ms(in->m);
	struct err err;

	await_note(&in->session, what, destination_progress(in, what));
	if (!await_is_over(&in->session.await, limit_ms, destination_bytes_before(in)))
		return;
	err_set(&err, -ETIMEDOUT, "the source lives, but has not %s within %u ms", undone[what],
		limit_ms);
	incoming_lost(in, &err);
}

/* ---- the source ---- */

static bool is_all_sent(const struct outgoing *o)
{
	struct sender_stats sent;

	sender_stats(o->sender, &sent);
	/* With a page lost there is no end to wait for. */
	return !sent.unsent && !sent.pages_lost;
}

/* It is our turn: the next piece of a file is being read. */
static bool is_boot_taken(const struct outgoing *o)
{
	return !boot_sender_is_done(o->boot_sender) && !link_queued(o->session.link);
}

static enum awaited running_source_awaits(const struct outgoing *o)
{
	if (is_all_sent(o))
		return AWAITED_COMPLETE;
	/* Where a limit holds pages back, or a page is lost, nothing is on its way. */
	return link_unsent(o->session.link) ? AWAITED_TAKEN : AWAITED_NOTHING;
}

static enum awaited source_awaits(const struct outgoing *o)
{
	if (!o->session.link)
		return AWAITED_NOTHING;
	if (o->resume != OUT_RESUME_NONE)
		return o->resume == OUT_RESUME_ASKED ? AWAITED_RESUME_REPLY : AWAITED_MISSING;
	switch (o->phase) {
	case OUT_HELLO:
		return AWAITED_HELLO_REPLY;
	case OUT_BOOT:
		return is_boot_taken(o) ? AWAITED_NOTHING : AWAITED_BOOT_REPLY;
	case OUT_STATE:
		return AWAITED_STATE_REPLY;
	case OUT_DECIDED:
		return AWAITED_RUN_REPLY;
	case OUT_RUNNING:
		return running_source_awaits(o);
	case OUT_DONE:
		return AWAITED_CLOSE;
	default:
		return AWAITED_NOTHING;
	}
}

/* What makes three of the waits begin anew; otherwise 0. */
static uint64_t source_progress(const struct outgoing *o, enum awaited what)
{
	struct sender_stats sent;

	if (what == AWAITED_BOOT_REPLY)
		return boot_sender_sent(o->boot_sender);
	if (what != AWAITED_TAKEN && what != AWAITED_COMPLETE)
		return 0;
	sender_stats(o->sender, &sent);
	return what == AWAITED_TAKEN ? sent.bytes - link_unsent(o->session.link) : sent.bytes;
}

void awaited_check_outgoing(struct outgoing *o)
{
	enum awaited what = source_awaits(o);
	unsigned int limit_ms = source_limit_ms(o->m);
	const struct await *await = &o->session.await;
	struct err err;

	await_note(&o->session, what, source_progress(o, what));
	/* A wait for what is sent to be taken lasts as long as there is progress. */
	if (!await_is_over(await, limit_ms, what == AWAITED_TAKEN ? 0 : await->unsent))
		return;
	err_set(&err, -ETIMEDOUT, "the destination lives, but has not %s within %u ms%s",
		undone[what], limit_ms,
		o->phase < OUT_DECIDED ? ": look at its log, or try another" : "");
	outgoing_lost(o, &err, false);
}
