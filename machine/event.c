// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * event.c - what other threads have to say to the machine: exits of vCPUs, devices' events, fates of pages.
 *
 * Everything is posted to the main thread. A guest's wish for a reset or a power-off is also kept in
 * machine->asked from the moment at which it is uttered: when a migration pauses the machine before the
 * post arrives, the wish is part of the saved state and comes true on the other side.
 */
#include "machine/internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"

enum post_kind { POST_ASKED, POST_DEBUG, POST_CRASH, POST_ERROR, POST_LOST, POST_COMPLETE, POST_IDLE, POST_DEAF, POST_POISONED };

struct post {
	struct machine_mail *mail;
	enum post_kind kind;
	struct vcpu *vcpu;
	gfn_t gfn;		/* POST_POISONED */
	char text[160];
};

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
static void deliver(void *arg)
{
	struct post *post = arg;
	struct machine *m = post->mail->machine;

	if (m && !m->shut) {
		switch (post->kind) {
		case POST_ASKED:
			machine_do_asked(m);
			break;
		case POST_DEBUG:
			machine_debug_event(m, post->vcpu);
			break;
		case POST_CRASH:
			machine_crash_event(m, post->text);
			break;
		case POST_ERROR:
			machine_error_event(m, post->text);
			break;
		case POST_LOST:
			machine_lost_event(m);
			break;
		case POST_POISONED:
			machine_poisoned_event(m, post->gfn);
			break;
		case POST_COMPLETE:
			machine_complete_event(m);
			break;
		case POST_DEAF:
			machine_deaf_event(m, post->text);
			break;
		case POST_IDLE:
			machine_idle_event(m);
			break;
		}
	}
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
	loop_post(m->loop, deliver, post);
}

static void ask(struct machine *m, unsigned int what)
{
	/* Once is enough: a guest that asks in a loop does not fill the queue. */
	if (atomic_fetch_or(&m->asked, what) & what)
		return;
	/* The others are to do as little as possible from now on. */
	vm_ask_pause(m->vm);
	post_send(m, &(struct post){ .kind = POST_ASKED });
}

void machine_on_lost(void *machine, gfn_t gfn)
{
	struct machine *m = machine;

	if (lost_gather_add(&m->lost, gfn))
		post_send(m, &(struct post){ .kind = POST_LOST });
}

void machine_on_complete(void *machine)
{
	post_send(machine, &(struct post){ .kind = POST_COMPLETE });
}

void machine_on_deaf(void *machine, int error)
{
	struct post post = { .kind = POST_DEAF };

	snprintf(post.text, sizeof(post.text), "the kernel's page faults cannot be read any more (errno %d)", -error);
	post_send(machine, &post);
}

/* ---- devices ---- */

void machine_on_device(void *machine, const struct device_event *event)
{
	struct machine *m = machine;

	switch (event->kind) {
	case DEVICE_EVENT_RESET:
		ask(m, ASKED_RESET);
		break;
	case DEVICE_EVENT_SHUTDOWN:
		ask(m, ASKED_SHUTDOWN);
		break;
	case DEVICE_EVENT_IDLE:
		post_send(m, &(struct post){ .kind = POST_IDLE });
		break;
	case DEVICE_EVENT_QUIT:
		machine_shutdown(m, false, "host-ui");
		break;
	default:	/* on the main thread, and none of the machine's business */
		MACHINE_TELL(m, device, event);
	}
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

static void exit_event(void *arg, struct vcpu *vcpu, const struct vm_event *event)
{
	struct post post = { .vcpu = vcpu };
	struct machine *m = arg;

	snprintf(post.text, sizeof(post.text), "%s", event->text);
	switch (event->kind) {
	case VM_EVENT_RESET:
		ask(m, ASKED_RESET);
		return;
	case VM_EVENT_SHUTDOWN:
		ask(m, ASKED_SHUTDOWN);
		return;
	case VM_EVENT_DEBUG:
		post.kind = POST_DEBUG;
		break;
	case VM_EVENT_CRASH:
		post.kind = POST_CRASH;
		break;
	case VM_EVENT_POISONED:
		post.kind = POST_POISONED;
		post.gfn = event->gfn;
		break;
	case VM_EVENT_ERROR:
		post.kind = POST_ERROR;
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
