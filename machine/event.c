// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * event.c - what other threads have to say to the machine, and what comes of
 * it: exits of vCPUs, devices' events, fates of pages.
 *
 * An entry for other threads (machine_on_..., exit_event) posts a function to
 * the main thread, where it decides. A guest's wish for a reset or a power-off
 * is also kept in machine->asked from the moment at which it is uttered: when a
 * migration pauses the machine before the post arrives, the wish is part of the
 * saved state and comes true on the other side.
 */
#include "machine/internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "machine/run_state.h"

/* How long lost pages are gathered after the last event that told of some. */
#define LOST_REST_MS 100

struct post {
	struct machine_mail *mail;
	/* Main thread; not called once the machine is shut down or gone. */
	void (*fn)(struct machine *m, const struct post *post);
	struct vcpu *vcpu;
	gfn_t gfn;
	char text[160];
};

/* ---- posts ---- */

struct machine_mail *machine_mail_new(struct machine *m)
{
	struct machine_mail *mail = calloc(1, sizeof(*mail));

	if (!mail)
		return NULL;
	atomic_init(&mail->refs, 1);
	mail->machine = m;
	return mail;
}

static void mail_put(struct machine_mail *mail)
{
	if (atomic_fetch_sub(&mail->refs, 1) == 1)
		free(mail);
}

void machine_mail_close(struct machine_mail *mail)
{
	if (!mail)
		return;
	mail->machine = NULL;
	mail_put(mail);
}

/* Main thread. */
static void post_deliver(void *arg)
{
	struct post *post = arg;
	struct machine *m = post->mail->machine;

	if (m && !m->shut)
		post->fn(m, post);
	mail_put(post->mail);
	free(post);
}

static void post_send(struct machine *m, const struct post *from)
{
	struct post *post = malloc(sizeof(*post));

	/* As in loop_post: without memory for this nothing can go on, and nothing may be lost. */
	if (!post)
		abort();
	*post = *from;
	post->mail = m->mail;
	atomic_fetch_add(&m->mail->refs, 1);
	loop_post(m->loop, post_deliver, post);
}

/* ---- what the guest asks for ---- */

static void asked(struct machine *m, const struct post *post)
{
	(void)post;
	machine_do_asked(m);
}

static void event_ask(struct machine *m, unsigned int what)
{
	/* Once is enough: a guest that asks in a loop does not fill the queue. */
	if (atomic_fetch_or(&m->asked, what) & what)
		return;
	/* The others are to do as little as possible from now on. */
	vm_ask_pause(m->vm);
	post_send(m, &(struct post){ .fn = asked });
}

/* ---- devices ---- */

static void idle(struct machine *m, const struct post *post)
{
	(void)post;
	machine_reset_retry(m);
}

void machine_on_device(void *machine, const struct device_event *event)
{
	struct machine *m = machine;

	switch (event->type) {
	case DEVICE_EVENT_RESET:
		event_ask(m, ASKED_RESET);
		break;
	case DEVICE_EVENT_SHUTDOWN:
		event_ask(m, ASKED_SHUTDOWN);
		break;
	case DEVICE_EVENT_IDLE:
		post_send(m, &(struct post){ .fn = idle });
		break;
	case DEVICE_EVENT_QUIT:
		machine_shutdown(m, false, "host-ui");
		break;
	default:	/* on the main thread, and none of the machine's business */
		MACHINE_NOTIFY(m, device, event);
	}
}

/* ---- pages ---- */

static void lost_log(const struct lost_pages *lost)
{
	uint64_t lowest = gfn_to_gpa(lost->lowest).v;

	if (lost->pages == 1)
		log_error("the page at guest physical address 0x%" PRIx64 " is lost", lowest);
	else if (lost->range[0].pages == lost->pages)
		log_error("%" PRIu64 " pages from guest physical address 0x%" PRIx64 " on are lost",
			  lost->pages, lowest);
	else
		log_error("%" PRIu64
			  " pages are lost, here and there from guest physical address 0x%" PRIx64
			  " on",
			  lost->pages, lowest);
}

static void on_lost_rest(uv_timer_t *timer);

static void lost(struct machine *m, const struct post *post)
{
	struct lost_pages pages;

	(void)post;
	if (!lost_gather_take(&m->lost, &pages))
		return;
	uv_timer_start(m->lost_rest, on_lost_rest, LOST_REST_MS, 0);
	lost_log(&pages);
	if (m->state == RUN_STATE_RUNNING)
		machine_stop_for(m, RUN_STATE_IO_ERROR);
	MACHINE_NOTIFY(m, pages_lost, &pages);
}

static void on_lost_rest(uv_timer_t *timer)
{
	struct machine *m = timer->data;

	if (!m->shut)
		lost(m, NULL);
}

void machine_on_lost(void *machine, gfn_t gfn)
{
	struct machine *m = machine;

	if (lost_gather_add(&m->lost, gfn))
		post_send(m, &(struct post){ .fn = lost });
}

static void complete(struct machine *m, const struct post *post)
{
	(void)post;
	log_info("all of the guest's memory has come");
	board_memory_complete(m->board);
	MACHINE_NOTIFY(m, memory_complete);
	machine_reset_retry(m);
}

void machine_on_complete(void *machine)
{
	post_send(machine, &(struct post){ .fn = complete });
}

static void watch_failed(struct machine *m, const struct post *post)
{
	/* The bulk comes all the same, and with it, at the end, every page. */
	log_error("%s: the machine is paused; let the migration complete, then continue it",
		  post->text);
	if (!memory_is_late(m->mem))
		return;
	m->watch_failed = true;
	machine_stop_for(m, RUN_STATE_INTERNAL_ERROR);
}

void machine_on_watch_failed(void *machine, int error)
{
	struct post post = { .fn = watch_failed };

	snprintf(post.text, sizeof(post.text),
		 "the kernel's page faults cannot be read any more (errno %d)", -error);
	post_send(machine, &post);
}

/* ---- exits of vCPUs ---- */

static void exit_pio(void *arg, uint16_t port, bool write, void *data, unsigned int size)
{
	struct machine *m = arg;

	bus_access(&m->pio, port, write, data, size);
}

static void exit_mmio(void *arg, gpa_t gpa, bool write, void *data, unsigned int len)
{
	struct machine *m = arg;

	bus_access(&m->mmio, gpa.v, write, data, len);
}

static void debug(struct machine *m, const struct post *post)
{
	machine_debug_event(m, post->vcpu);
}

static void crash(struct machine *m, const struct post *post)
{
	log_warn("the guest reports a panic%s%s", *post->text ? ": " : "", post->text);
	machine_stop_for(m, RUN_STATE_GUEST_PANICKED);
}

static void poisoned(struct machine *m, const struct post *post)
{
	const struct lost_pages page = {
		.pages = 1, .lowest = post->gfn, .ranges = 1, .range = { { post->gfn, 1 } },
	};

	log_error("the host's memory behind the page at guest physical address 0x%" PRIx64
		  " has failed (the kernel has poisoned it, see its log): what the page held is lost, "
		  "and the guest cannot go on here", gfn_to_gpa(post->gfn).v);
	/* A debugger may have let the vCPU run alone. */
	if (m->state == RUN_STATE_RUNNING || m->state == RUN_STATE_DEBUG)
		machine_stop_for(m, RUN_STATE_IO_ERROR);
	MACHINE_NOTIFY(m, pages_lost, &page);
}

static void error(struct machine *m, const struct post *post)
{
	log_error("%s", post->text);
	machine_stop_for(m, RUN_STATE_INTERNAL_ERROR);
}

static void exit_event(void *arg, struct vcpu *vcpu, const struct vm_event *event)
{
	struct post post = { .vcpu = vcpu, .gfn = event->gfn };
	struct machine *m = arg;

	snprintf(post.text, sizeof(post.text), "%s", event->text);
	switch (event->type) {
	case VM_EVENT_RESET:
		event_ask(m, ASKED_RESET);
		return;
	case VM_EVENT_SHUTDOWN:
		event_ask(m, ASKED_SHUTDOWN);
		return;
	case VM_EVENT_DEBUG:
		post.fn = debug;
		break;
	case VM_EVENT_CRASH:
		post.fn = crash;
		break;
	case VM_EVENT_POISONED:
		post.fn = poisoned;
		break;
	case VM_EVENT_ERROR:
		post.fn = error;
		break;
	}
	vm_ask_pause(m->vm);
	post_send(m, &post);
}

const struct vm_exit_ops machine_exit_ops = {
	.pio = exit_pio,
	.mmio = exit_mmio,
	.event = exit_event,
};
