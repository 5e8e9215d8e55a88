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
 * From DECIDED on a lost link changes no phase. A resume connects anew
 * (OUT_RESUME_CONNECT), asks (OUT_RESUME_ASKED), is told what the destination
 * has (OUT_RESUME_ANSWERED), and goes on where the phase is.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/log.h"
#include "migrate/internal.h"

static const char *outgoing_phase_name(enum out_phase phase)
{
	static const char *const names[] = { "idle", "connecting", "hello", "boot", "state",
		"decided", "running",
					     "done" };

	return names[phase];
}

/* Cuts the link, joins the threads on it, closes it. reason, if any, is told to the peer. */
static void outgoing_drop_link(struct outgoing *o, const char *reason)
{
	struct session *session = &o->session;

	if (!session->link)
		return;
	link_cut(session->link, reason);
	if (o->sender)
		sender_stop(o->sender);
	link_free(session->link);
	session->link = NULL;
	session->await.what = AWAITED_NOTHING;
}

void outgoing_lost(struct outgoing *o, const struct err *err, bool cancelled)
{
	connector_free(o->connector);
	o->connector = NULL;
	boot_sender_free(o->boot_sender);
	o->boot_sender = NULL;
	outgoing_drop_link(o, o->phase == OUT_DONE ? NULL : err->text);
	if (o->phase == OUT_DONE && o->sender)
		sender_forget(o->sender);
	if (o->phase == OUT_DONE || o->phase == OUT_IDLE)
		return;
	if (o->phase >= OUT_DECIDED)
		migration_note_advice(
			o->m, err,
			"when the destination can be reached again: migrate-recover there, "
			"then migrate with 'resume' here");
	else if (!cancelled)
		migration_note(o->m, err);
	o->resume = OUT_RESUME_NONE;
	if (o->phase >= OUT_DECIDED) {
		migration_set_status(o->m, MIGRATION_POSTCOPY_PAUSED);
		return;
	}
	switchover_back(o);
	o->phase = OUT_IDLE;
	sender_free(o->sender);
	o->sender = NULL;
	o->session.ended_ns = clock_now_ns();
	migration_set_status(o->m, cancelled ? MIGRATION_CANCELLED : MIGRATION_FAILED);
}

void outgoing_forget(struct outgoing *o)
{
	connector_free(o->connector);
	o->connector = NULL;
	outgoing_drop_link(o, "given up at the source");
	sender_free(o->sender);
	o->sender = NULL;
	o->resume = OUT_RESUME_NONE;
	o->phase = OUT_IDLE;
	migration_set_status(o->m, MIGRATION_FAILED);
}

/* The sender's threads begin, or go on. */
static void outgoing_flow(struct outgoing *o)
{
	struct stream_pair pair;
	struct err err;

	link_pair(o->session.link, &pair);
	if (sender_start(o->sender, &pair, &err) < 0)
		link_fail(o->session.link, &err);
}

static void done(struct outgoing *o)
{
	Postern__Wire__CompleteAck ack = POSTERN__WIRE__COMPLETE_ACK__INIT;

	/* The link is left to the destination to close, so that the ack arrives. */
	link_send(o->session.link, WIRE(COMPLETE_ACK), &ack);
	o->resume = OUT_RESUME_NONE;
	o->phase = OUT_DONE;
	o->session.ended_ns = clock_now_ns();
	migration_set_status(o->m, MIGRATION_COMPLETED);
}

/*
 * The destination says that it has every page. That ends what this side can do
 * for the guest, so it is believed only where it can be true: a page that was
 * never sent is nowhere but here.
 */
static int check_complete(const struct outgoing *o, struct err *err)
{
	struct sender_stats sent;

	sender_stats(o->sender, &sent);
	if (!sent.never_sent)
		return 0;
	return err_set(err, -EBADMSG,
		       "the destination says that it has every page, but %" PRIu64 " of %" PRIu64
		       " were never sent",
		       sent.never_sent, sent.pages);
}

/* ---- messages ---- */

static int outgoing_on_complete(struct outgoing *o, const Postern__Wire__Complete *complete,
				struct err *err)
{
	uint64_t pages = memory_pages(machine_memory(o->m->machine));
	int r;

	if (complete->pages != pages)
		return err_set(err, -EBADMSG,
			       "the destination says that it has all of %" PRIu64
			       " pages, this guest has %" PRIu64,
			       complete->pages, pages);
	r = check_complete(o, err);
	if (!r)
		done(o);
	return r;
}

/* On to the switchover. */
static int begin_state(struct outgoing *o, struct err *err)
{
	int r = sender_new(&o->sender, machine_memory(o->m->machine), err);

	if (r < 0)
		return r;
	sender_limit(o->sender, o->m->params.max_postcopy_bandwidth);
	o->phase = OUT_STATE;
	migration_set_status(o->m, MIGRATION_DEVICE);
	/* An observer may have cancelled. */
	return o->phase == OUT_STATE ? switchover_send(o, err) : 0;
}

static void on_boot_failed(void *arg, const struct err *err)
{
	outgoing_lost(arg, err, false);
}

static int begin_boot(struct outgoing *o, struct err *err)
{
	o->phase = OUT_BOOT;
	return boot_sender_new(&o->boot_sender, o->m->loop, o->session.link,
			       machine_boot(o->m->machine), on_boot_failed, o, err);
}

static int on_hello_reply(struct outgoing *o, const Postern__Wire__HelloReply *reply,
			  struct err *err)
{
	char text[PEER_TEXT_BYTES];

	if (reply->error && *reply->error)
		return err_set(err, -ECONNREFUSED, "the destination refuses: %s",
			       message_peer_text(text, reply->error));
	if (reply->major != WIRE_MAJOR)
		return err_set(err, -EPROTONOSUPPORT,
			       "the destination speaks version %u of the migration protocol, this postern version %u",
			       reply->major, WIRE_MAJOR);
	o->session.hello_ns = clock_now_ns();
	if (reply->boot_wanted && machine_boot(o->m->machine)->type != BOOT_NOTHING)
		return begin_boot(o, err);
	return begin_state(o, err);
}

static int on_boot_reply(struct outgoing *o, const Postern__Wire__BootReply *reply, struct err *err)
{
	char text[PEER_TEXT_BYTES];

	if (reply->error && *reply->error)
		return err_set(err, -EREMOTEIO,
			       "the destination cannot take along what the guest reboots with: %s",
			       message_peer_text(text, reply->error));
	if (!boot_sender_is_done(o->boot_sender))
		return err_set(err, -EBADMSG, "BootReply before BootEnd");
	boot_sender_free(o->boot_sender);
	o->boot_sender = NULL;
	return begin_state(o, err);
}

static int on_state_reply(struct outgoing *o, const Postern__Wire__StateReply *reply,
			  struct err *err)
{
	char text[PEER_TEXT_BYTES];
	int r;

	if (reply->error && *reply->error)
		return err_set(err, -EREMOTEIO, "the destination cannot take the guest over: %s",
			       message_peer_text(text, reply->error));
	r = switchover_decide(o, err);
	if (r < 0)
		return r;
	migration_set_status(o->m, MIGRATION_POSTCOPY_ACTIVE);
	/* Whoever was told so may have cut the link: then a resume says Run. */
	if (!o->session.link)
		return 0;
	switchover_run(o);
	outgoing_flow(o);
	return 0;
}

static void on_run_reply(struct outgoing *o, const Postern__Wire__RunReply *reply)
{
	char text[PEER_TEXT_BYTES];
	struct err err;

	o->phase = OUT_RUNNING;
	o->session.ran_ns = clock_now_ns();
	if (!reply->error || !*reply->error)
		return;
	err_set(&err, -EREMOTEIO, "at the destination: %s", message_peer_text(text, reply->error));
	migration_note(o->m, &err);
}

static int on_resume_reply(struct outgoing *o, const Postern__Wire__ResumeReply *reply,
			   struct err *err)
{
	char text[PEER_TEXT_BYTES];
	int r;

	if (reply->error && *reply->error)
		return err_set(err, -ECONNREFUSED, "the destination refuses: %s",
			       message_peer_text(text, reply->error));
	switch (reply->phase) {
	case POSTERN__WIRE__PHASE__PHASE_COMPLETE:
		r = check_complete(o, err);
		if (!r)
			done(o);
		return r;
	case POSTERN__WIRE__PHASE__PHASE_PREPARED:
		/* It ran once: what we know is more than what this destination says. */
		if (o->phase != OUT_DECIDED)
			return err_set(
				err, -EBADMSG,
				"the destination says that the guest never ran there, but it did");
		break;
	case POSTERN__WIRE__PHASE__PHASE_RUNNING:
		break;
	default:
		return err_set(err, -EBADMSG, "ResumeReply with an unknown phase %d",
			       (int)reply->phase);
	}
	o->reply_prepared = reply->phase == POSTERN__WIRE__PHASE__PHASE_PREPARED;
	o->reply_missing = reply->missing;
	o->resume = OUT_RESUME_ANSWERED;
	recover_begin(o);
	return 0;
}

static int on_missing_end(struct outgoing *o, struct err *err)
{
	Postern__Wire__ResumeAck ack = POSTERN__WIRE__RESUME_ACK__INIT;
	int r = recover_end(o, err);

	if (r < 0)
		return r;
	o->resume = OUT_RESUME_NONE;
	o->session.recoveries++;
	o->m->error[0] = 0;
	if (o->reply_prepared) {
		switchover_run(o);
	} else {
		if (o->phase == OUT_DECIDED) /* its RunReply was lost */
			o->session.ran_ns = clock_now_ns();
		o->phase = OUT_RUNNING;
		link_send(o->session.link, WIRE(RESUME_ACK), &ack);
	}
	outgoing_flow(o);
	migration_set_status(o->m, MIGRATION_POSTCOPY_ACTIVE);
	return 0;
}

/* Is this message due? */
static bool outgoing_is_due(const struct outgoing *o, wire_body body)
{
	switch (body) {
	case WIRE(HELLO_REPLY):
		return o->phase == OUT_HELLO;
	case WIRE(BOOT_REPLY):
		return o->phase == OUT_BOOT;
	case WIRE(STATE_REPLY):
		return o->phase == OUT_STATE;
	case WIRE(RUN_REPLY):
		return o->phase == OUT_DECIDED && o->resume == OUT_RESUME_NONE;
	case WIRE(COMPLETE):
		return o->phase == OUT_RUNNING && o->resume == OUT_RESUME_NONE;
	case WIRE(RESUME_REPLY):
		return o->resume == OUT_RESUME_ASKED;
	case WIRE(MISSING):
	case WIRE(MISSING_END):
		return o->resume == OUT_RESUME_ANSWERED;
	default:
		return false;
	}
}

static void outgoing_on_message(void *arg, wire_message *message)
{
	struct outgoing *o = arg;
	struct err err = { 0 };
	int r = 0;

	if (!outgoing_is_due(o, message->body_case))
		r = err_set(&err, -EBADMSG, "unexpected %s message from the destination (phase %s)",
			    message_name(message->body_case), outgoing_phase_name(o->phase));
	else if (message->body_case == WIRE(HELLO_REPLY))
		r = on_hello_reply(o, message->hello_reply, &err);
	else if (message->body_case == WIRE(BOOT_REPLY))
		r = on_boot_reply(o, message->boot_reply, &err);
	else if (message->body_case == WIRE(STATE_REPLY))
		r = on_state_reply(o, message->state_reply, &err);
	else if (message->body_case == WIRE(RUN_REPLY))
		on_run_reply(o, message->run_reply);
	else if (message->body_case == WIRE(COMPLETE))
		r = outgoing_on_complete(o, message->complete, &err);
	else if (message->body_case == WIRE(RESUME_REPLY))
		r = on_resume_reply(o, message->resume_reply, &err);
	else if (message->body_case == WIRE(MISSING))
		r = recover_take_missing(o, message->missing, &err);
	else
		r = on_missing_end(o, &err);
	if (r < 0)
		outgoing_lost(o, &err, false);
}

static void outgoing_on_pages(void *arg, const struct frame *frame, const uint8_t *payload)
{
	struct err err;

	(void)payload;
	err_set(&err, -EBADMSG, "unexpected %s frame from the destination",
		frame_type_name(frame->type));
	outgoing_lost(arg, &err, false);
}

static void outgoing_on_lost(void *arg, const struct err *err)
{
	outgoing_lost(arg, err, false);
}

static void on_drained(void *arg)
{
	struct outgoing *o = arg;

	if (o->boot_sender)
		boot_sender_go_on(o->boot_sender);
}

static const struct link_ops link_ops = {
	.message = outgoing_on_message,
	.pages = outgoing_on_pages,
	.lost = outgoing_on_lost,
	.drained = on_drained,
};

/* ---- start ---- */

static void say_hello(struct outgoing *o)
{
	Postern__Wire__Hello hello = POSTERN__WIRE__HELLO__INIT;
	Postern__Wire__Shape shape = POSTERN__WIRE__SHAPE__INIT;

	migration_fill_shape(o->m, &shape);
	hello.major = WIRE_MAJOR;
	hello.minor = WIRE_MINOR;
	hello.postern = (char *)(uintptr_t)POSTERN_VERSION;
	hello.session.data = o->session.id;
	hello.session.len = SESSION_BYTES;
	hello.shape = &shape;
	hello.boot = boot_type_to_wire(machine_boot(o->m->machine)->type);
	o->phase = OUT_HELLO;
	link_send(o->session.link, WIRE(HELLO), &hello);
	migration_drop_shape(&shape);
}

static void say_resume(struct outgoing *o)
{
	Postern__Wire__Resume resume = POSTERN__WIRE__RESUME__INIT;

	resume.session.data = o->session.id;
	resume.session.len = SESSION_BYTES;
	resume.epoch = o->session.epoch;
	o->resume = OUT_RESUME_ASKED;
	link_send(o->session.link, WIRE(RESUME), &resume);
}

static void outgoing_on_connected(void *arg, struct conn *const conn[WIRE_CHANNELS])
{
	struct outgoing *o = arg;
	struct err err;

	connector_free(o->connector);
	o->connector = NULL;
	if (link_new(&o->session.link, o->m->loop, conn, o->m->params.link_timeout_ms, &link_ops, o,
		     &err) < 0) {
		o->session.link = NULL;
		outgoing_lost(o, &err, false);
		return;
	}
	if (o->phase >= OUT_DECIDED)
		say_resume(o);
	else
		say_hello(o);
}

static void on_connect_failed(void *arg, const struct err *err)
{
	outgoing_lost(arg, err, false);
}

static const struct connector_ops connector_ops = {
	.connected = outgoing_on_connected,
	.failed = on_connect_failed,
};

static int connect_to(struct outgoing *o, const uint8_t id[SESSION_BYTES], uint32_t epoch,
		      const struct uri *uri, const struct migration_trust *trust, struct err *err)
{
	struct preface preface = { .epoch = epoch };
	int r;

	memcpy(preface.session, id, SESSION_BYTES);
	r = connector_new(&o->connector, o->m->loop, uri, &preface, trust,
			  connect_timeout_ms(o->m->params.link_timeout_ms), &connector_ops, o, err);
	if (r < 0)
		return r;
	o->session.trust = *trust;
	memcpy(o->session.id, preface.session, SESSION_BYTES);
	o->session.epoch = epoch;
	return 0;
}

/* May this machine be migrated away now? */
static int check_machine(struct outgoing *o, struct err *err)
{
	enum run_state state = machine_state(o->m->machine);
	struct memory_stats stats;

	if (memory_is_late(machine_memory(o->m->machine))) {
		memory_stats(machine_memory(o->m->machine), &stats);
		return err_set(err, -EBUSY,
			       "%" PRIu64 " pages of this guest's own memory have not come yet; migrate when they have",
			       stats.missing);
	}
	if (machine_is_saving(o->m->machine))
		return err_set(err, -EBUSY,
			       "the machine is being saved: migrate when its memory has been read");
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
		return err_set(err, -EBUSY, "a machine in state %s cannot be migrated",
			       run_state_name(state));
	}
}

int outgoing_start(struct outgoing *o, const struct uri *uri, const struct migration_trust *trust,
		   struct err *err)
{
	struct session *session = &o->session;
	uint8_t id[SESSION_BYTES];
	int r = check_machine(o, err);

	if (r < 0)
		return r;
	if (getrandom(id, SESSION_BYTES, 0) != SESSION_BYTES)
		return err_errno(err, -errno, "a new session's number");
	r = connect_to(o, id, 0, uri, trust, err);
	if (r < 0)
		return r;
	migration_begin(o->m, false);
	session->recoveries = 0;
	session->started_ns = clock_now_ns();
	session->hello_ns = session->paused_ns = session->ran_ns = session->ended_ns = 0;
	o->phase = OUT_CONNECT;
	migration_set_status(o->m, MIGRATION_SETUP);
	return 0;
}

int outgoing_resume(struct outgoing *o, const struct uri *uri, const struct migration_trust *trust,
		    struct err *err)
{
	int r;

	if (o->session.epoch == UINT32_MAX)
		return err_set(err, -EOVERFLOW, "resumed too often");
	r = connect_to(o, o->session.id, o->session.epoch + 1, uri, trust, err);
	if (r < 0)
		return r;
	o->resume = OUT_RESUME_CONNECT;
	migration_set_status(o->m, MIGRATION_POSTCOPY_RECOVER);
	return 0;
}

void outgoing_fini(struct outgoing *o)
{
	outgoing_drop_link(o, o->phase == OUT_DONE ? NULL : "postern ends there");
	connector_free(o->connector);
	boot_sender_free(o->boot_sender);
	sender_free(o->sender);
	explicit_bzero(&o->session.trust, sizeof(o->session.trust));
}
