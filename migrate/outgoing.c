// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The source's side of the conversation.
 *
 *   CONNECT --connected--> HELLO --welcome--> BOOT --BootReply--> STATE
 *      |                     |                  |                   |
 *      +---------------------+------------------+-------------------+--> IDLE: the guest
 *                                                          runs on here (switchover_back)
 *   STATE --StateReply--> DECIDED --RunReply--> RUNNING --Complete--> DONE
 *
 * BOOT is left out where the destination wants nothing.
 *
 * From DECIDED on a lost link changes no phase. A resume connects anew (RESUME_CONNECT), asks (RESUME_ASKED), is told what the
 * destination has (RESUME_ANSWERED), and goes on where the phase is.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/log.h"
#include "migrate/internal.h"

static const char *phase_name(enum out_phase phase)
{
	static const char *const names[] = { "idle", "connecting", "hello", "boot", "state",
		"decided", "running",
					     "done" };

	return names[phase];
}

void outgoing_lost(struct migration *m, const struct err *err, bool cancelled)
{
	connector_free(m->connector);
	m->connector = NULL;
	boot_sender_free(m->boot_sender);
	m->boot_sender = NULL;
	migration_drop_link(m, m->out == OUT_DONE ? NULL : err->text);
	if (m->out == OUT_DONE && m->sender)
		sender_forget(m->sender);
	if (m->out == OUT_DONE || m->out == OUT_IDLE)
		return;
	if (m->out >= OUT_DECIDED)
		migration_note_advice(m, err, "when the destination can be reached again: migrate-recover there, "
				      "then migrate with 'resume' here");
	else if (!cancelled)
		migration_note(m, err);
	m->resume = RESUME_NONE;
	if (m->out >= OUT_DECIDED) {
		migration_set_status(m, MIGRATION_POSTCOPY_PAUSED);
		return;
	}
	switchover_back(m);
	m->out = OUT_IDLE;
	sender_free(m->sender);
	m->sender = NULL;
	m->ended_ns = clock_now_ns();
	migration_set_status(m, cancelled ? MIGRATION_CANCELLED : MIGRATION_FAILED);
}

void outgoing_forget(struct migration *m)
{
	connector_free(m->connector);
	m->connector = NULL;
	migration_drop_link(m, "given up at the source");
	sender_free(m->sender);
	m->sender = NULL;
	m->resume = RESUME_NONE;
	m->out = OUT_IDLE;
	migration_set_status(m, MIGRATION_FAILED);
}

/* The sender's threads begin, or go on. */
static void flow(struct migration *m)
{
	struct stream_pair pair;
	struct err err;

	link_pair(m->link, &pair);
	if (sender_start(m->sender, &pair, &err) < 0)
		link_fail(m->link, &err);
}

static void done(struct migration *m)
{
	Postern__Wire__CompleteAck ack = POSTERN__WIRE__COMPLETE_ACK__INIT;

	/* The link is left to the destination to close, so that the ack arrives. */
	link_send(m->link, WIRE(COMPLETE_ACK), &ack);
	m->resume = RESUME_NONE;
	m->out = OUT_DONE;
	m->ended_ns = clock_now_ns();
	migration_set_status(m, MIGRATION_COMPLETED);
}

/*
 * The destination says that it has every page. That ends what this side can do for the guest, so it is believed only where it can be true:
 * a page that was never sent is nowhere but here.
 */
static int check_complete(const struct migration *m, struct err *err)
{
	struct sender_stats sent;

	sender_stats(m->sender, &sent);
	if (!sent.never_sent)
		return 0;
	return err_set(err, -EBADMSG, "the destination says that it has every page, but %" PRIu64 " of %" PRIu64
		       " were never sent", sent.never_sent, sent.pages);
}

/* ---- messages ---- */

static int on_complete(struct migration *m, const Postern__Wire__Complete *complete, struct err *err)
{
	uint64_t pages = memory_pages(machine_memory(m->machine));
	int r;

	if (complete->pages != pages)
		return err_set(err, -EBADMSG, "the destination says that it has all of %" PRIu64 " pages, this guest has %" PRIu64,
			       complete->pages, pages);
	r = check_complete(m, err);
	if (!r)
		done(m);
	return r;
}

/* On to the switchover. */
static int begin_state(struct migration *m, struct err *err)
{
	int r = sender_new(&m->sender, machine_memory(m->machine), err);

	if (r < 0)
		return r;
	sender_limit(m->sender, m->params.max_postcopy_bandwidth);
	m->out = OUT_STATE;
	migration_set_status(m, MIGRATION_DEVICE);
	/* A listener may have cancelled. */
	return m->out == OUT_STATE ? switchover_send(m, err) : 0;
}

static void on_boot_failed(void *arg, const struct err *err)
{
	outgoing_lost(arg, err, false);
}

static int begin_boot(struct migration *m, struct err *err)
{
	m->out = OUT_BOOT;
	return boot_sender_new(&m->boot_sender, m->loop, m->link, machine_boot(m->machine),
			       on_boot_failed, m, err);
}

static int on_hello_reply(struct migration *m, const Postern__Wire__HelloReply *reply, struct err *err)
{
	char text[PEER_TEXT_BYTES];

	if (reply->error && *reply->error)
		return err_set(err, -ECONNREFUSED, "the destination refuses: %s",
			       message_peer_text(text, reply->error));
	if (reply->major != WIRE_MAJOR)
		return err_set(err, -EPROTONOSUPPORT,
			       "the destination speaks version %u of the migration protocol, this postern version %u",
			       reply->major, WIRE_MAJOR);
	m->hello_ns = clock_now_ns();
	if (reply->boot_wanted && machine_boot(m->machine)->kind != BOOT_NOTHING)
		return begin_boot(m, err);
	return begin_state(m, err);
}

static int on_boot_reply(struct migration *m, const Postern__Wire__BootReply *reply,
			 struct err *err)
{
	char text[PEER_TEXT_BYTES];

	if (reply->error && *reply->error)
		return err_set(err, -EREMOTEIO,
			       "the destination cannot take along what the guest reboots with: %s",
			       message_peer_text(text, reply->error));
	if (!boot_sender_is_done(m->boot_sender))
		return err_set(err, -EBADMSG, "BootReply before BootEnd");
	boot_sender_free(m->boot_sender);
	m->boot_sender = NULL;
	return begin_state(m, err);
}

static int on_state_reply(struct migration *m, const Postern__Wire__StateReply *reply, struct err *err)
{
	char text[PEER_TEXT_BYTES];
	int r;

	if (reply->error && *reply->error)
		return err_set(err, -EREMOTEIO, "the destination cannot take the guest over: %s",
			       message_peer_text(text, reply->error));
	r = switchover_decide(m, err);
	if (r < 0)
		return r;
	migration_set_status(m, MIGRATION_POSTCOPY_ACTIVE);
	/* Whoever was told so may have cut the link: then a resume says Run. */
	if (!m->link)
		return 0;
	switchover_run(m);
	flow(m);
	return 0;
}

static void on_run_reply(struct migration *m, const Postern__Wire__RunReply *reply)
{
	char text[PEER_TEXT_BYTES];
	struct err err;

	m->out = OUT_RUNNING;
	m->ran_ns = clock_now_ns();
	if (!reply->error || !*reply->error)
		return;
	err_set(&err, -EREMOTEIO, "at the destination: %s", message_peer_text(text, reply->error));
	migration_note(m, &err);
}

static int on_resume_reply(struct migration *m, const Postern__Wire__ResumeReply *reply, struct err *err)
{
	char text[PEER_TEXT_BYTES];
	int r;

	if (reply->error && *reply->error)
		return err_set(err, -ECONNREFUSED, "the destination refuses: %s",
			       message_peer_text(text, reply->error));
	switch (reply->phase) {
	case POSTERN__WIRE__PHASE__PHASE_COMPLETE:
		r = check_complete(m, err);
		if (!r)
			done(m);
		return r;
	case POSTERN__WIRE__PHASE__PHASE_PREPARED:
		/* It ran once: what we know is more than what this destination says. */
		if (m->out != OUT_DECIDED)
			return err_set(err, -EBADMSG, "the destination says that the guest never ran there, but it did");
		break;
	case POSTERN__WIRE__PHASE__PHASE_RUNNING:
		break;
	default:
		return err_set(err, -EBADMSG, "ResumeReply with an unknown phase %d", (int)reply->phase);
	}
	m->reply_prepared = reply->phase == POSTERN__WIRE__PHASE__PHASE_PREPARED;
	m->reply_missing = reply->missing;
	m->resume = RESUME_ANSWERED;
	recover_begin(m);
	return 0;
}

static int on_missing_end(struct migration *m, struct err *err)
{
	Postern__Wire__ResumeAck ack = POSTERN__WIRE__RESUME_ACK__INIT;
	int r = recover_end(m, err);

	if (r < 0)
		return r;
	m->resume = RESUME_NONE;
	m->recoveries++;
	m->error[0] = 0;
	if (m->reply_prepared) {
		switchover_run(m);
	} else {
		if (m->out == OUT_DECIDED)	/* its RunReply was lost */
			m->ran_ns = clock_now_ns();
		m->out = OUT_RUNNING;
		link_send(m->link, WIRE(RESUME_ACK), &ack);
	}
	flow(m);
	migration_set_status(m, MIGRATION_POSTCOPY_ACTIVE);
	return 0;
}

/* Is this message due? */
static bool is_due(const struct migration *m, wire_body body)
{
	switch (body) {
	case WIRE(HELLO_REPLY):
		return m->out == OUT_HELLO;
	case WIRE(BOOT_REPLY):
		return m->out == OUT_BOOT;
	case WIRE(STATE_REPLY):
		return m->out == OUT_STATE;
	case WIRE(RUN_REPLY):
		return m->out == OUT_DECIDED && m->resume == RESUME_NONE;
	case WIRE(COMPLETE):
		return m->out == OUT_RUNNING && m->resume == RESUME_NONE;
	case WIRE(RESUME_REPLY):
		return m->resume == RESUME_ASKED;
	case WIRE(MISSING):
	case WIRE(MISSING_END):
		return m->resume == RESUME_ANSWERED;
	default:
		return false;
	}
}

static void on_message(void *arg, wire_message *message)
{
	struct migration *m = arg;
	struct err err = { 0 };
	int r = 0;

	if (!is_due(m, message->body_case))
		r = err_set(&err, -EBADMSG, "unexpected %s message from the destination (phase %s)",
			    message_name(message->body_case), phase_name(m->out));
	else if (message->body_case == WIRE(HELLO_REPLY))
		r = on_hello_reply(m, message->hello_reply, &err);
	else if (message->body_case == WIRE(BOOT_REPLY))
		r = on_boot_reply(m, message->boot_reply, &err);
	else if (message->body_case == WIRE(STATE_REPLY))
		r = on_state_reply(m, message->state_reply, &err);
	else if (message->body_case == WIRE(RUN_REPLY))
		on_run_reply(m, message->run_reply);
	else if (message->body_case == WIRE(COMPLETE))
		r = on_complete(m, message->complete, &err);
	else if (message->body_case == WIRE(RESUME_REPLY))
		r = on_resume_reply(m, message->resume_reply, &err);
	else if (message->body_case == WIRE(MISSING))
		r = recover_take_missing(m, message->missing, &err);
	else
		r = on_missing_end(m, &err);
	if (r < 0)
		outgoing_lost(m, &err, false);
}

static void on_pages(void *arg, const struct frame *frame, const uint8_t *payload)
{
	struct err err;

	(void)payload;
	err_set(&err, -EBADMSG, "unexpected %s frame from the destination", frame_type_name(frame->type));
	outgoing_lost(arg, &err, false);
}

static void on_lost(void *arg, const struct err *err)
{
	outgoing_lost(arg, err, false);
}

static void on_drained(void *arg)
{
	struct migration *m = arg;

	if (m->boot_sender)
		boot_sender_go_on(m->boot_sender);
}

static const struct link_ops link_ops = {
	.message = on_message,
	.pages = on_pages,
	.lost = on_lost,
	.drained = on_drained,
};

/* ---- start ---- */

static void say_hello(struct migration *m)
{
	Postern__Wire__Hello hello = POSTERN__WIRE__HELLO__INIT;
	Postern__Wire__Shape shape = POSTERN__WIRE__SHAPE__INIT;

	migration_fill_shape(m, &shape);
	hello.major = WIRE_MAJOR;
	hello.minor = WIRE_MINOR;
	hello.postern = (char *)(uintptr_t)POSTERN_VERSION;
	hello.session.data = m->session;
	hello.session.len = SESSION_BYTES;
	hello.shape = &shape;
	hello.boot = boot_kind_to_wire(machine_boot(m->machine)->kind);
	m->out = OUT_HELLO;
	link_send(m->link, WIRE(HELLO), &hello);
	migration_drop_shape(&shape);
}

static void say_resume(struct migration *m)
{
	Postern__Wire__Resume resume = POSTERN__WIRE__RESUME__INIT;

	resume.session.data = m->session;
	resume.session.len = SESSION_BYTES;
	resume.epoch = m->epoch;
	m->resume = RESUME_ASKED;
	link_send(m->link, WIRE(RESUME), &resume);
}

static void on_connected(void *arg, struct conn *const conn[WIRE_CHANNELS])
{
	struct migration *m = arg;
	struct err err;

	connector_free(m->connector);
	m->connector = NULL;
	if (link_new(&m->link, m->loop, conn, m->params.link_timeout_ms, &link_ops, m, &err) < 0) {
		m->link = NULL;
		outgoing_lost(m, &err, false);
		return;
	}
	if (m->out >= OUT_DECIDED)
		say_resume(m);
	else
		say_hello(m);
}

static void on_connect_failed(void *arg, const struct err *err)
{
	outgoing_lost(arg, err, false);
}

static const struct connector_ops connector_ops = {
	.connected = on_connected,
	.failed = on_connect_failed,
};

static int connect_to(struct migration *m, const struct uri *uri, const struct migration_trust *trust, struct err *err)
{
	struct preface preface = { .epoch = m->epoch };
	int r;

	memcpy(preface.session, m->session, SESSION_BYTES);
	r = connector_new(&m->connector, m->loop, uri, &preface, trust,
			  connect_timeout_ms(m->params.link_timeout_ms), &connector_ops, m, err);
	if (!r)
		m->trust = *trust;
	return r;
}

/* May this machine be migrated away now? */
static int check_machine(struct migration *m, struct err *err)
{
	enum run_state state = machine_state(m->machine);
	struct memory_stats stats;

	if (memory_is_late(machine_memory(m->machine))) {
		memory_stats(machine_memory(m->machine), &stats);
		return err_set(err, -EBUSY,
			       "%" PRIu64 " pages of this guest's own memory have not come yet; migrate when they have",
			       stats.missing);
	}
	switch (state) {
	case RUN_STATE_PRELAUNCH:
	case RUN_STATE_RUNNING:
	case RUN_STATE_PAUSED:
	case RUN_STATE_DEBUG:
	case RUN_STATE_GUEST_PANICKED:
		return 0;
	case RUN_STATE_POSTMIGRATE:
		return err_set(err, -EBUSY, "the guest has been migrated away from here");
	default:
		return err_set(err, -EBUSY, "a machine in state %s cannot be migrated", run_state_name(state));
	}
}

int outgoing_start(struct migration *m, const struct uri *uri, const struct migration_trust *trust, struct err *err)
{
	uint8_t old[SESSION_BYTES];
	uint32_t old_epoch = m->epoch;
	int r = check_machine(m, err);

	if (r < 0)
		return r;
	memcpy(old, m->session, SESSION_BYTES);
	if (getrandom(m->session, SESSION_BYTES, 0) != SESSION_BYTES)
		return err_errno(err, -errno, "a new session's number");
	m->epoch = 0;
	r = connect_to(m, uri, trust, err);
	if (r < 0) {
		/* Whoever waits to resume the last session still can. */
		memcpy(m->session, old, SESSION_BYTES);
		m->epoch = old_epoch;
		return r;
	}
	m->incoming = false;
	m->error[0] = 0;
	m->recoveries = 0;
	m->sampled_bytes = m->bytes_per_second = 0;
	m->started_ns = clock_now_ns();
	m->hello_ns = m->paused_ns = m->ran_ns = m->ended_ns = 0;
	m->out = OUT_CONNECT;
	migration_set_status(m, MIGRATION_SETUP);
	return 0;
}

int outgoing_resume(struct migration *m, const struct uri *uri, const struct migration_trust *trust, struct err *err)
{
	int r;

	if (m->epoch == UINT32_MAX)
		return err_set(err, -EOVERFLOW, "resumed too often");
	m->epoch++;
	r = connect_to(m, uri, trust, err);
	if (r < 0)
		return r;
	m->resume = RESUME_CONNECT;
	migration_set_status(m, MIGRATION_POSTCOPY_RECOVER);
	return 0;
}
