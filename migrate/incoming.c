// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The destination's side of the conversation.
 *
 *   LISTEN --linked--> HELLO --welcome--> BOOT --all of it--> STATE
 *     ^                  |                  |                   |
 *     +------------------+------------------+-------------------+--pages placed that cannot
 *                                                                  be taken back--> FAILED
 *   STATE --State loaded--> PREPARED --Run--> RUNNING --all here--> COMPLETE --ack--> DONE
 *
 * BOOT is left out where nothing is wanted.
 *
 * From PREPARED on a lost link changes no phase. The listener stays open until DONE, so that
 * the source can resume at the same URI without a command here; migrate-recover puts another in
 * its place.
 *
 * A connection with this session and a higher epoch is the source's word that it holds the
 * present link for lost, so it is lost here too, even when nothing was noticed yet.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "migrate/internal.h"
#include "wire/receiver.h"

static const char *incoming_phase_name(enum in_phase phase)
{
	static const char *const names[] = {
		"idle", "listening", "hello", "boot", "state", "prepared", "running", "complete",
		"done", "failed",
	};

	return names[phase];
}

static void first_session_lost(struct incoming *in, const struct err *why)
{
	struct err err = *why;

	/* What was placed may be stale for the next attempt. */
	if (in->pages_placed && !memory_take_back(machine_memory(in->m->machine)))
		in->pages_placed = false;
	if (!in->pages_placed && in->listener) {
		migration_note(in->m, &err);
		in->phase = IN_LISTEN;
		migration_set_status(in->m, MIGRATION_SETUP);
		return;
	}
	/* Only where somebody holds one: the debugger, say. */
	if (in->pages_placed)
		err_prefix(
			&err, err.code,
			"start a new destination, this one holds pages of a migration that failed");
	migration_note(in->m, &err);
	in->phase = IN_FAILED;
	in->session.ended_ns = clock_now_ns();
	migration_set_status(in->m, MIGRATION_FAILED);
}

/* Cuts the link, joins the threads on it, closes it. reason, if any, is told to the peer. */
static void incoming_drop_link(struct incoming *in, const char *reason)
{
	struct session *session = &in->session;

	if (!session->link)
		return;
	link_cut(session->link, reason);
	if (in->wire_source) {
		wire_source_stop(in->wire_source);
		memory_detach(machine_memory(in->m->machine));
	}
	link_free(session->link);
	session->link = NULL;
	session->await.what = AWAITED_NOTHING;
}

void incoming_lost(struct incoming *in, const struct err *err)
{
	incoming_drop_link(in, in->phase == IN_DONE ? NULL : err->text);
	in->resume = IN_RESUME_NONE;
	switch (in->phase) {
	case IN_HELLO:
	case IN_BOOT:
	case IN_STATE:
		boot_receiver_fini(&in->boot_receiver);
		first_session_lost(in, err);
		break;
	case IN_PREPARED:
	case IN_RUNNING:
		migration_note_advice(
			in->m, err,
			"when the source can be reached again, have it resume: migrate-recover "
			"here listens anew, migrate with 'resume' there connects");
		migration_set_status(in->m, MIGRATION_POSTCOPY_PAUSED);
		break;
	case IN_COMPLETE:
		log_info("migration: complete, but the source may not know: %s", err->text);
		migration_set_status(in->m, MIGRATION_COMPLETED);
		break;
	default:
		break;
	}
}

/* The page source's threads begin, or go on. */
static void incoming_flow(struct incoming *in)
{
	struct stream_pair pair;
	struct err err;

	link_pair(in->session.link, &pair);
	if (wire_source_start(in->wire_source, &pair, &err) < 0)
		link_fail(in->session.link, &err);
	else
		memory_attach(machine_memory(in->m->machine),
			      wire_source_page_source(in->wire_source));
}

static void say_complete(struct incoming *in)
{
	Postern__Wire__Complete complete = POSTERN__WIRE__COMPLETE__INIT;

	complete.pages = memory_pages(machine_memory(in->m->machine));
	in->complete_sent = true;
	link_send(in->session.link, WIRE(COMPLETE), &complete);
}

void incoming_memory_complete(struct incoming *in)
{
	if (in->phase != IN_RUNNING || memory_is_late(machine_memory(in->m->machine)))
		return;
	in->phase = IN_COMPLETE;
	in->session.ended_ns = clock_now_ns();
	if (!in->session.link)
		migration_set_status(in->m, MIGRATION_COMPLETED);
	else if (in->resume == IN_RESUME_NONE)
		say_complete(in);
}

/* ---- messages of the first link ---- */

/* Compares the source's shape with ours; the first difference is the error. */
static int check_shape(const Postern__Wire__Shape *theirs, const Postern__Wire__Shape *ours,
		       struct err *err)
{
	char text[PEER_TEXT_BYTES];
	size_t i;

	if (!theirs)
		return err_set(err, -EBADMSG, "Hello without the machine's shape");
	if (!theirs->arch || strcmp(theirs->arch, ours->arch))
		return err_set(err, -EINVAL,
			       "the source's architecture is %s, this destination's %s",
			       message_peer_text(text, theirs->arch), ours->arch);
	if (theirs->page_bytes != ours->page_bytes)
		return err_set(err, -EINVAL,
			       "the source's pages have %u bytes, this destination's %u",
			       theirs->page_bytes, ours->page_bytes);
	if (theirs->cpus != ours->cpus)
		return err_set(err, -EINVAL, "the source has %u CPUs, this destination %u",
			       theirs->cpus, ours->cpus);
	if (theirs->n_ranges != ours->n_ranges)
		return err_set(err, -EINVAL,
			       "the source's memory has %zu ranges, this destination's %zu",
			       theirs->n_ranges, ours->n_ranges);
	for (i = 0; i < ours->n_ranges; i++)
		if (theirs->ranges[i]->start != ours->ranges[i]->start ||
		    theirs->ranges[i]->len_bytes != ours->ranges[i]->len_bytes)
			return err_set(err, -EINVAL,
				       "the source has 0x%" PRIx64 " bytes of memory at 0x%" PRIx64
				       ", this destination 0x%" PRIx64 " at 0x%" PRIx64,
				       theirs->ranges[i]->len_bytes, theirs->ranges[i]->start,
				       ours->ranges[i]->len_bytes, ours->ranges[i]->start);
	return 0;
}

static int check_hello(struct incoming *in, const Postern__Wire__Hello *hello, struct err *err)
{
	Postern__Wire__Shape shape = POSTERN__WIRE__SHAPE__INIT;
	int r;

	if (hello->major != WIRE_MAJOR)
		return err_set(err, -EPROTONOSUPPORT,
			       "the source speaks version %u of the migration protocol, this postern (%s) version %u",
			       hello->major, POSTERN_VERSION, WIRE_MAJOR);
	if (hello->session.len != SESSION_BYTES ||
	    memcmp(hello->session.data, in->session.id, SESSION_BYTES))
		return err_set(err, -EBADMSG, "Hello for another session than its connection's");
	migration_fill_shape(in->m, &shape);
	r = check_shape(hello->shape, &shape, err);
	migration_drop_shape(&shape);
	return r;
}

/*
 * What the guest is to reboot with: *wanted, from the source. A kernel that
 * this destination was started with goes over the source's. Where there would
 * be neither, the guest is better off where it is.
 */
static int check_boot(struct incoming *in, const Postern__Wire__Hello *hello, bool *wanted,
		      struct err *err)
{
	enum boot_type own = machine_boot(in->m->machine)->type, type;

	*wanted = false;
	if (own == BOOT_FILES)
		return 0;
	if (!boot_type_from_wire(&type, hello->boot)) {
		if (own == BOOT_DISK)
			return 0;
		return err_set(err, -EINVAL,
			       "the source does not say in a way known here what its guest reboots "
			       "with: start this destination with --kernel, --initrd and --cmdline");
	}
	if (type == BOOT_DISK && own != BOOT_DISK)
		return err_set(err, -EINVAL,
			       "the source's guest starts from its first disk, which this "
			       "destination has not: start it with the same --disk, or with "
			       "--kernel");
	if (type == BOOT_NOTHING)
		log_warn("migration: the source has no kernel for this guest: a reboot will be its "
			 "end");
	in->boot_type = type;
	*wanted = type != BOOT_NOTHING;
	return 0;
}

static void on_hello(struct incoming *in, const Postern__Wire__Hello *hello)
{
	Postern__Wire__HelloReply reply = POSTERN__WIRE__HELLO_REPLY__INIT;
	char text[PEER_TEXT_BYTES];
	bool wanted = false;
	struct err err;

	reply.major = WIRE_MAJOR;
	reply.minor = WIRE_MINOR;
	reply.postern = (char *)(uintptr_t)POSTERN_VERSION;
	in->session.hello_ns = clock_now_ns();
	if (check_hello(in, hello, &err) < 0 || check_boot(in, hello, &wanted, &err) < 0) {
		migration_note(in->m, &err);
		reply.error = err.text;
		in->refused = true;
	} else {
		in->phase = wanted ? IN_BOOT : IN_STATE;
		reply.boot_wanted = wanted;
		log_info("migration: a guest comes from postern %s (protocol %u.%u)",
			 message_peer_text(text, hello->postern), hello->major, hello->minor);
	}
	link_send(in->session.link, WIRE(HELLO_REPLY), &reply);
}

/*
 * Boot, BootData or BootEnd. With an error the source cuts the link; what it
 * has sent before it knows is nothing to complain of.
 */
static void on_boot(struct incoming *in, const wire_message *message)
{
	Postern__Wire__BootReply reply = POSTERN__WIRE__BOOT_REPLY__INIT;
	uint64_t limit = memory_pages(machine_memory(in->m->machine)) * PAGE_BYTES;
	struct err err;
	int r;

	if (in->refused)
		return;
	if (message->body_case == WIRE(BOOT))
		r = boot_receiver_take_boot(&in->boot_receiver, message->boot, in->boot_type, limit,
					    &err);
	else if (message->body_case == WIRE(BOOT_DATA))
		r = boot_receiver_take_data(&in->boot_receiver, message->boot_data, &err);
	else
		r = boot_receiver_take_end(&in->boot_receiver, message->boot_end, &err);
	if (r < 0) {
		migration_note(in->m, &err);
		reply.error = err.text;
		in->refused = true;
	} else if (message->body_case != WIRE(BOOT_END)) {
		return;
	} else {
		in->phase = IN_STATE;
		log_info("migration: what the guest reboots with has come: %" PRIu64
			 " bytes of kernel, %" PRIu64 " of initial RAM disk",
			 in->boot_receiver.bytes[0], in->boot_receiver.bytes[1]);
	}
	link_send(in->session.link, WIRE(BOOT_REPLY), &reply);
}

static void incoming_on_state(struct incoming *in, const Postern__Wire__State *state)
{
	Postern__Wire__StateReply reply = POSTERN__WIRE__STATE_REPLY__INIT;
	struct err err;

	in->session.paused_ns = clock_now_ns();
	if (switchover_load(in, state, &err) < 0) {
		migration_note(in->m, &err);
		reply.error = err.text;
		in->refused = true;
	}
	/*
	 * With an error the source cuts the link, and incoming_lost() decides what becomes of
	 * us.
	 */
	link_send(in->session.link, WIRE(STATE_REPLY), &reply);
	/*
	 * While Run is on its way, not after it: the guest misses pages from its first
	 * instruction on.
	 */
	if (in->phase == IN_PREPARED)
		incoming_flow(in);
	migration_set_status(in->m, MIGRATION_DEVICE);
}

static void on_run(struct incoming *in)
{
	if (in->resume != IN_RESUME_NONE) {
		in->session.recoveries++;
		in->m->error[0] = 0;
		incoming_flow(in);
	}
	in->resume = IN_RESUME_NONE;
	switchover_enter(in);
	migration_set_status(in->m, MIGRATION_POSTCOPY_ACTIVE);
	incoming_memory_complete(in);
}

static void on_ack(struct incoming *in)
{
	in->phase = IN_DONE;
	in->resume = IN_RESUME_NONE;
	listener_free(in->listener);
	in->listener = NULL;
	incoming_drop_link(in, NULL);
	wire_source_stop(in->wire_source);
	migration_set_status(in->m, MIGRATION_COMPLETED);
}

/* ---- messages of a resume ---- */

static int on_resume(struct incoming *in, const Postern__Wire__Resume *resume, struct err *err)
{
	Postern__Wire__ResumeReply reply = POSTERN__WIRE__RESUME_REPLY__INIT;

	if (resume->session.len != SESSION_BYTES ||
	    memcmp(resume->session.data, in->session.id, SESSION_BYTES) ||
	    resume->epoch != in->session.epoch)
		return err_set(err, -EBADMSG,
			       "Resume of another session or epoch than its connection's");
	reply.missing = recover_count_missing(in->m);
	reply.phase = in->phase == IN_PREPARED ? POSTERN__WIRE__PHASE__PHASE_PREPARED :
		      in->phase == IN_RUNNING  ? POSTERN__WIRE__PHASE__PHASE_RUNNING :
						 POSTERN__WIRE__PHASE__PHASE_COMPLETE;
	in->resume = IN_RESUME_ANSWERED;
	in->complete_sent = in->phase == IN_COMPLETE;
	link_send(in->session.link, WIRE(RESUME_REPLY), &reply);
	if (in->phase != IN_COMPLETE)
		recover_send_missing(in);
	return 0;
}

static void on_resume_ack(struct incoming *in)
{
	in->resume = IN_RESUME_NONE;
	in->session.recoveries++;
	in->m->error[0] = 0;
	incoming_flow(in);
	migration_set_status(in->m, MIGRATION_POSTCOPY_ACTIVE);
	if (in->phase == IN_COMPLETE)
		say_complete(in);
	else
		incoming_memory_complete(in);
}

/* Is this message due? */
static bool incoming_is_due(const struct incoming *in, wire_body body)
{
	switch (body) {
	case WIRE(HELLO):
		return in->phase == IN_HELLO && !in->refused;
	case WIRE(BOOT):
	case WIRE(BOOT_DATA):
	case WIRE(BOOT_END):
		return in->phase == IN_BOOT;
	case WIRE(STATE):
		return in->phase == IN_STATE && !in->refused;
	case WIRE(RUN):
		return in->phase == IN_PREPARED && in->resume != IN_RESUME_AWAITED;
	case WIRE(RESUME):
		return in->resume == IN_RESUME_AWAITED;
	case WIRE(RESUME_ACK):
		return in->resume == IN_RESUME_ANSWERED && in->phase != IN_PREPARED;
	case WIRE(COMPLETE_ACK):
		return in->phase == IN_COMPLETE && in->complete_sent;
	default:
		return false;
	}
}

static void incoming_on_message(void *arg, wire_message *message)
{
	struct incoming *in = arg;
	struct err err = { 0 };
	int r = 0;

	if (!incoming_is_due(in, message->body_case))
		r = err_set(&err, -EBADMSG, "unexpected %s message from the source (phase %s)",
			    message_name(message->body_case), incoming_phase_name(in->phase));
	else if (message->body_case == WIRE(HELLO))
		on_hello(in, message->hello);
	else if (in->phase == IN_BOOT)
		on_boot(in, message);
	else if (message->body_case == WIRE(STATE))
		incoming_on_state(in, message->state);
	else if (message->body_case == WIRE(RUN))
		on_run(in);
	else if (message->body_case == WIRE(RESUME))
		r = on_resume(in, message->resume, &err);
	else if (message->body_case == WIRE(RESUME_ACK))
		on_resume_ack(in);
	else
		on_ack(in);
	if (r < 0)
		incoming_lost(in, &err);
}

/* Pages that must be there before the guest runs. */
static void incoming_on_pages(void *arg, const struct frame *frame, const uint8_t *payload)
{
	struct incoming *in = arg;
	struct err err;
	int r;

	if (in->phase != IN_STATE || in->refused) {
		r = err_set(&err, -EBADMSG, "unexpected %s frame from the source (phase %s)",
			    frame_type_name(frame->type), incoming_phase_name(in->phase));
	} else if (frame->count >= recover_count_missing(in->m)) {
		/* Were all there, they could not be taken back. */
		r = err_set(&err, -EBADMSG, "all of the guest's memory before its state");
	} else {
		struct memory *mem = machine_memory(in->m->machine);

		in->pages_placed = true;
		in->early_bytes += FRAME_BYTES + frame->payload_bytes;
		r = receiver_place(mem, memory_sink(mem), frame, payload,
				   payload + FRAME_SUMS_BYTES(frame->count), &err);
	}
	if (r < 0) {
		err_prefix(&err, err.code, "control connection");
		incoming_lost(in, &err);
	}
}

static void incoming_on_lost(void *arg, const struct err *err)
{
	incoming_lost(arg, err);
}

static const struct link_ops link_ops = {
	.message = incoming_on_message,
	.pages = incoming_on_pages,
	.lost = incoming_on_lost,
};

/* ---- the listener ---- */

static int judge_first(const struct incoming *in, const struct preface *preface, struct err *why)
{
	switch (in->phase) {
	case IN_LISTEN:
		if (!preface->epoch)
			return 0;
		return err_set(why, -ENOENT,
			       "this destination has no migration that could be resumed");
	case IN_HELLO:
	case IN_BOOT:
	case IN_STATE:
		/* One that has just failed at its source may only have to be noticed. */
		return err_set(why, -EAGAIN, "this destination is busy with another migration");
	case IN_FAILED:
		return err_set(why, -EBUSY,
			       "start a new destination, this one holds pages of a migration that failed");
	default:
		return err_set(why, -EBUSY, "this destination does not wait for a migration");
	}
}

static int incoming_judge(void *arg, const struct preface *preface, struct err *why)
{
	const struct incoming *in = arg;

	if (!incoming_is_prepared(in))
		return judge_first(in, preface, why);
	if (memcmp(preface->session, in->session.id, SESSION_BYTES))
		return err_set(
			why, -EBUSY,
			in->phase == IN_PREPARED ?
				"start a new destination, this one is prepared for a migration that never came to run here" :
				"the guest of another migration runs here");
	if (preface->epoch <= in->session.epoch)
		return err_set(why, -ESTALE,
			       "connection of epoch %u, but epoch %u was here already",
			       preface->epoch, in->session.epoch);
	return 0;
}

static void on_linked(void *arg, struct conn *const conn[WIRE_CHANNELS],
		      const struct preface *preface)
{
	struct incoming *in = arg;
	bool first = in->phase == IN_LISTEN;
	struct err err;
	unsigned int i;

	/* Between the preface and now another may have been faster. */
	if (incoming_judge(in, preface, &err) < 0) {
		log_warn("migration: dropped a link: %s", err.text);
		for (i = 0; i < WIRE_CHANNELS; i++)
			conn_free(conn[i]);
		return;
	}
	if (in->session.link) {
		err_set(&err, -ECONNABORTED,
			"the source has given up this link (epoch %u) and resumes with epoch %u",
			in->session.epoch, preface->epoch);
		incoming_lost(in, &err);
	}
	in->session.epoch = preface->epoch;
	in->complete_sent = false;
	in->refused = false;
	in->early_bytes = 0;
	if (first) {
		memcpy(in->session.id, preface->session, SESSION_BYTES);
		in->phase = IN_HELLO;
		in->m->error[0] = 0;
		in->session.started_ns = clock_now_ns();
	} else {
		in->resume = IN_RESUME_AWAITED;
	}
	if (link_new(&in->session.link, in->m->loop, conn, in->m->params.link_timeout_ms, &link_ops,
		     in, &err) < 0) {
		in->session.link = NULL;
		incoming_lost(in, &err);
	} else if (!first && in->phase != IN_COMPLETE) {
		migration_set_status(in->m, MIGRATION_POSTCOPY_RECOVER);
	}
}

static void on_listen_failed(void *arg, const struct err *err)
{
	struct incoming *in = arg;

	listener_free(in->listener);
	in->listener = NULL;
	in->listen_uri[0] = 0;
	if (in->phase == IN_LISTEN) {
		first_session_lost(in, err);
		return;
	}
	migration_note(in->m, err);
}

static const struct listener_ops listener_ops = {
	.judge = incoming_judge,
	.linked = on_linked,
	.failed = on_listen_failed,
};

/* Opens the listener, unless it is open there. */
static int open_listener(struct incoming *in, const struct uri *uri, const char *text,
			 struct err *err)
{
	struct listener *listener;
	int r;

	/* The same address cannot be bound twice, and need not be. */
	if (in->listener && uri->type != URI_FD && !strcmp(text, in->listen_uri))
		return 0;
	r = listener_new(&listener, in->m->loop, uri, &in->session.trust,
			 handshake_timeout_ms(in->m->params.link_timeout_ms), &listener_ops, in,
			 err);
	if (r < 0)
		return r;
	listener_free(in->listener);
	in->listener = listener;
	snprintf(in->listen_uri, sizeof(in->listen_uri), "%s", text);
	return 0;
}

int incoming_listen(struct incoming *in, const struct uri *uri, const char *text,
		    const struct migration_trust *trust, struct err *err)
{
	struct migration_trust old = in->session.trust;
	int r;

	/* Connections that come with the URI are made at once: the trust is theirs by then. */
	in->session.trust = *trust;
	r = open_listener(in, uri, text, err);
	if (r < 0)
		in->session.trust = old;
	else
		trust_warn(trust, uri);
	explicit_bzero(&old, sizeof(old));
	return r;
}

int incoming_start(struct incoming *in, const struct uri *uri, const char *text,
		   const struct migration_trust *trust, struct err *err)
{
	struct memory *mem = machine_memory(in->m->machine);
	int r = in->wire_source ? 0 : wire_source_new(&in->wire_source, mem, err);

	if (!r)
		r = incoming_listen(in, uri, text, trust, err);
	if (r < 0)
		return r;
	migration_begin(in->m, true);
	in->phase = IN_LISTEN;
	migration_set_status(in->m, MIGRATION_SETUP);
	return 0;
}

void incoming_leave(struct incoming *in)
{
	if (in->phase == IN_IDLE)
		return;
	listener_free(in->listener);
	in->listener = NULL;
	in->phase = IN_DONE;
}

void incoming_fini(struct incoming *in)
{
	incoming_drop_link(in, in->phase == IN_DONE ? NULL : "postern ends there");
	boot_receiver_fini(&in->boot_receiver);
	listener_free(in->listener);
	wire_source_free(in->wire_source);
	explicit_bzero(&in->session.trust, sizeof(in->session.trust));
}
