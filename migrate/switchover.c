// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Who may run the guest, and when.
 *
 * The rule: at no moment may the guest run on both sides, whatever is cut,
 * whoever dies, whatever is repeated. Two steps make it so. The source decides,
 * in its own state, that it will never run the guest again, and only then says
 * Run. The destination runs the guest on Run and on nothing else. Between
 * decision and Run's arrival nobody runs it, and both keep what they have until
 * the next link brings Run.
 *
 *   the link is cut                         source                          destination
 *   1 before Hello is answered              runs on; failed                 listens again
 *   2 before any page was placed            runs on; failed                 listens again
 *   3 after a page was placed, before       runs on; failed                 drops what was placed; listens again
 *     State was loaded
 *   4 State loaded, StateReply not          runs on; failed; the session    never runs; postcopy-paused, prepared, for
 *     arrived                               is dead for ever                a Run that will not come
 *   5 StateReply arrived = the decision;    never runs; postcopy-paused     never runs yet; postcopy-paused, prepared
 *     Run not arrived
 *   6 Run arrived, RunReply not             never runs; postcopy-paused     runs; postcopy-paused; waits at missing pages
 *   7 later, pages missing                  never runs; postcopy-paused     runs; postcopy-paused
 *   8 every page is there, Complete or its  never runs; postcopy-paused     runs; completed
 *     ack lost
 *
 * In 4 the destination cannot tell that from 5. It is safe because the source
 * never says Run in a session that it gave up: the next migration has a new
 * session id, and the destination takes Run in its own session only. From 5 to
 * 8 a resume (the same session, a higher epoch) tells the source which of them
 * it was: it says Run in 5, goes on in 6 and 7, and is done in 8.
 *
 * The decision is taken in switchover_decide() and nowhere else; the guest is
 * let run on a destination in switchover_enter() and nowhere else.
 */
#include <errno.h>
#include <inttypes.h>

#include "base/clock.h"
#include "base/log.h"
#include "memory/gup.h"
#include "migrate/internal.h"

#define EARLY_GFNS_MAX 262144u
#define EARLY_RUN_PAGES 64u

/* ---- the source: pause and send ---- */

struct early {
	const struct memory *mem;
	struct buf gfns;	/* of uint64_t, ascending */
};

static int early_add(void *arg, gfn_t gfn)
{
	struct early *early = arg;

	/* Descriptor tables and the like may point anywhere; only RAM is ours to send. */
	if (gfn.v >= FRAME_GFN_LIMIT || !memory_is_ram(early->mem, gfn_to_gpa(gfn), PAGE_BYTES))
		return 0;
	if (early->gfns.len >= EARLY_GFNS_MAX * sizeof(gfn.v))
		return -E2BIG;
	return buf_append(&early->gfns, &gfn.v, sizeof(gfn.v));
}

static int early_send_run(struct outgoing *o, gfn_t first, uint32_t n, struct err *err)
{
	struct memory *mem = machine_memory(o->m->machine);
	struct gup_span span;
	int r;

	memory_map_lock(mem);
	r = gup(mem, gfn_to_gpa(first), n * PAGE_BYTES, GUP_NOWAIT, NULL, &span);
	memory_map_unlock(mem);
	if (r < 0)
		return err_errno(err, r, "reading %u pages from 0x%" PRIx64, n, first.v);
	link_send_pages(o->session.link, first, n, span.hva);
	gup_put(mem, &span);
	return sender_mark_given(o->sender, first, n);
}

/*
 * How many of the n sorted page numbers make one run of one region; *pages gets
 * the run's length.
 */
static size_t early_run(const struct memory *mem, const uint64_t *gfn, size_t n, uint32_t *pages)
{
	uint64_t last = gfn[0];
	size_t i;

	for (i = 1; i < n && gfn[i] <= last + 1 && gfn[i] - gfn[0] < EARLY_RUN_PAGES; i++) {
		if (!memory_is_ram(mem, gfn_to_gpa(GFN(gfn[0])),
				   (gfn[i] - gfn[0] + 1) * PAGE_BYTES))
			break;
		last = gfn[i];
	}
	*pages = (uint32_t)(last - gfn[0] + 1);
	return i;
}

/* Sends the pages that the destination needs before its vCPUs first run, in runs. */
static int early_send(struct outgoing *o, struct err *err)
{
	struct early early = { .mem = machine_memory(o->m->machine) };
	uint32_t pages, sent = 0;
	uint64_t *gfn;
	size_t i, n;
	int r;

	r = machine_early_pages(o->m->machine, early_add, &early, err);
	gfn = (uint64_t *)(void *)early.gfns.data;
	n = early.gfns.len / sizeof(*gfn);
	for (i = 0; i < n && r >= 0; sent += pages) {
		size_t used = early_run(early.mem, gfn + i, n - i, &pages);

		r = early_send_run(o, GFN(gfn[i]), pages, err);
		i += used;
	}
	buf_fini(&early.gfns);
	if (r < 0) {
		err_prefix(err, r, "sending the first pages");
		return r;
	}
	log_info("migration: %u pages went before switchover", sent);
	return 0;
}

/*
 * Pauses the guest and sends all that the destination needs to take it over. On
 * an error the caller calls switchover_back.
 */
int switchover_send(struct outgoing *o, struct err *err)
{
	Postern__Wire__State state = POSTERN__WIRE__STATE__INIT;
	struct buf buf = { 0 };
	int r;

	o->was_running = machine_is_to_run(o->m->machine);
	o->session.paused_ns = clock_now_ns();
	r = machine_enter_migrate(o->m->machine, err);
	if (r < 0)
		return r;
	r = early_send(o, err);
	if (!r)
		r = machine_save(o->m->machine, &buf, err);
	if (!r) {
		state.machine.data = buf.data;
		state.machine.len = buf.len;
		state.run = o->was_running;
		link_send(o->session.link, WIRE(STATE), &state);
	}
	buf_fini(&buf);
	return r;
}

/*
 * Not decided, and will not be: the guest is the source's again, as it was.
 * When somebody has stopped it meanwhile, that stands.
 */
void switchover_back(struct outgoing *o)
{
	struct err err;

	if (machine_state(o->m->machine) != RUN_STATE_FINISH_MIGRATE)
		return;
	if (machine_leave_migrate(o->m->machine, o->was_running, &err) < 0)
		log_error("migration: the guest cannot go on here: %s", err.text);
}

/*
 * The decision. After 0 this side never runs the guest again; what fails later
 * is a matter for recovery. With an error nothing is decided.
 */
int switchover_decide(struct outgoing *o, struct err *err)
{
	int r;

	if (machine_state(o->m->machine) != RUN_STATE_FINISH_MIGRATE)
		return err_set(err, -ECANCELED, "the guest was %s while it was being switched over",
			       machine_is_running(o->m->machine) ? "started" : "stopped");
	r = machine_commit_migrate(o->m->machine, err);
	if (r < 0)
		return r;
	o->phase = OUT_DECIDED;
	return 0;
}

/* After the decision only: says Run. */
void switchover_run(struct outgoing *o)
{
	Postern__Wire__Run run = POSTERN__WIRE__RUN__INIT;

	link_send(o->session.link, WIRE(RUN), &run);
}

/* ---- the destination: load and run ---- */

int switchover_load(struct incoming *in, const Postern__Wire__State *state, struct err *err)
{
	int r = machine_load(in->m->machine, state->machine.data, state->machine.len, err);

	if (!r && in->boot_receiver.begun)
		r = machine_boot_take(in->m->machine, &in->boot_receiver.files, err);
	if (r < 0) {
		err_prefix(err, r, "loading the machine's state");
		return r;
	}
	in->run_flag = state->run;
	in->phase = IN_PREPARED;
	return 0;
}

/* Run came, in this session, for a machine that is prepared. */
void switchover_enter(struct incoming *in)
{
	Postern__Wire__RunReply reply = POSTERN__WIRE__RUN_REPLY__INIT;
	struct err err = { 0 };

	in->phase = IN_RUNNING;
	in->session.ran_ns = clock_now_ns();
	if (machine_leave_migrate(in->m->machine, in->run_flag, &err) < 0) {
		err_prefix(&err, err.code, "starting the guest");
		migration_note(in->m, &err);
		reply.error = err.text;
	}
	reply.running = machine_is_running(in->m->machine);
	link_send(in->session.link, WIRE(RUN_REPLY), &reply);
}
