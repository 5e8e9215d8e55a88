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

/* ---- the destination ---- */

/* Is there a page that was asked for and has not come? (One that is lost is asked for no more.) */
static bool is_page_awaited(const struct migration *m)
{
	struct memory_stats stats;

	memory_stats(machine_memory(m->machine), &stats);
	return stats.requested;
}

static enum awaited destination_awaits(const struct migration *m)
{
	if (m->resume != RESUME_NONE)
		return m->resume == RESUME_ASKED ? AWAITED_RESUME : AWAITED_RESUME_ACK;
	switch (m->in) {
	case IN_HELLO:
		return AWAITED_HELLO;
	case IN_BOOT:
		return AWAITED_BOOT;
	case IN_STATE:
		return AWAITED_STATE;
	case IN_PREPARED:
		return AWAITED_RUN;
	case IN_RUNNING:
		return is_page_awaited(m) ? AWAITED_PAGE : AWAITED_NOTHING;
	case IN_COMPLETE:
		return AWAITED_COMPLETE_ACK;
	default:
		return AWAITED_NOTHING;
	}
}

/* ---- the source ---- */

static bool is_all_sent(const struct migration *m)
{
	struct sender_stats sent;

	sender_stats(m->sender, &sent);
	/* With a page lost there is no end to wait for. */
	return !sent.unsent && !sent.pages_lost;
}

/* It is our turn: the next piece of a file is being read. */
static bool is_boot_taken(const struct migration *m)
{
	return !boot_sender_is_done(m->boot_sender) && !link_queued(m->link);
}

static enum awaited running_source_awaits(const struct migration *m)
{
	if (is_all_sent(m))
		return AWAITED_COMPLETE;
	/* Where a limit holds pages back, or a page is lost, nothing is on its way. */
	return link_unsent(m->link) ? AWAITED_TAKEN : AWAITED_NOTHING;
}

static enum awaited source_awaits(const struct migration *m)
{
	if (m->resume != RESUME_NONE)
		return m->resume == RESUME_ASKED ? AWAITED_RESUME_REPLY : AWAITED_MISSING;
	switch (m->out) {
	case OUT_HELLO:
		return AWAITED_HELLO_REPLY;
	case OUT_BOOT:
		return is_boot_taken(m) ? AWAITED_NOTHING : AWAITED_BOOT_REPLY;
	case OUT_STATE:
		return AWAITED_STATE_REPLY;
	case OUT_DECIDED:
		return AWAITED_RUN_REPLY;
	case OUT_RUNNING:
		return running_source_awaits(m);
	case OUT_DONE:
		return AWAITED_CLOSE;
	default:
		return AWAITED_NOTHING;
	}
}

/* ---- both ---- */

/* What makes four of the waits begin anew; otherwise 0. */
static uint64_t progress(const struct migration *m, enum awaited what)
{
	struct sender_stats sent;
	struct peer_stats got;

	if (what == AWAITED_PAGE) {
		peer_stats(m->peer, &got);
		return got.pages_urgent;
	}
	if (what == AWAITED_BOOT_REPLY)
		return boot_sender_sent(m->boot_sender);
	if (what != AWAITED_TAKEN && what != AWAITED_COMPLETE)
		return 0;
	sender_stats(m->sender, &sent);
	return what == AWAITED_TAKEN ? sent.bytes - link_unsent(m->link) : sent.bytes;
}

/* Bytes that have to pass before it can come. */
static uint64_t bytes_before(const struct migration *m, enum awaited what)
{
	uint64_t ram = memory_pages(machine_memory(m->machine)) * PAGE_BYTES;

	/* They last as long as there is progress. */
	if (what == AWAITED_TAKEN || what == AWAITED_PAGE)
		return 0;
	if (what == AWAITED_BOOT)
		return m->boot_receiver.done[0] + m->boot_receiver.done[1];
	if (what != AWAITED_STATE)
		return m->awaited_unsent;
	/* What came before it came in that time; no page is needed twice. */
	return m->early_bytes < ram ? m->early_bytes : ram;
}

static unsigned int limit_ms(const struct migration *m)
{
	unsigned int ms = connect_timeout_ms(SOURCE_TIMEOUTS * m->params.link_timeout_ms);

	return m->incoming ? 2 * ms : ms;
}

static bool is_over(const struct migration *m, int64_t now_ns)
{
	/* Whole milliseconds, so that no number overflows. */
	uint64_t bytes_ms = bytes_before(m, m->awaited) * (NS_PER_SEC / NS_PER_MS) / BYTES_A_SECOND;

	return (uint64_t)((now_ns - m->awaited_ns) / NS_PER_MS) >= limit_ms(m) + bytes_ms;
}

static void give_up(struct migration *m)
{
	const char *who = m->incoming ? "source" : "destination";
	bool ours = !m->incoming && m->out < OUT_DECIDED;
	struct err err;

	err_set(&err, -ETIMEDOUT, "the %s lives, but has not %s within %u ms%s", who, undone[m->awaited], limit_ms(m),
		ours ? ": look at its log, or try another" : "");
	if (m->incoming)
		incoming_lost(m, &err);
	else
		outgoing_lost(m, &err, false);
}

void awaited_check(struct migration *m)
{
	enum awaited what = !m->link ? AWAITED_NOTHING : m->incoming ? destination_awaits(m) : source_awaits(m);
	uint64_t at = progress(m, what);
	int64_t now = clock_now_ns();

	if (what != m->awaited || at != m->awaited_progress) {
		m->awaited = what;
		m->awaited_progress = at;
		m->awaited_unsent = m->link ? link_unsent(m->link) : 0;
		m->awaited_ns = now;
	}
	if (what != AWAITED_NOTHING && is_over(m, now))
		give_up(m);
}
