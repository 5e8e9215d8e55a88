// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Run control. gdb sees one process that either runs, and then it waits for a
// stop reply, or is stopped. Continuing is the machine's cont; a step, or a
// continue of some vCPUs only, lets just those run while the machine stays in
// RUN_STATE_DEBUG.
//
// The machine has other masters too. When QMP or a migration stops it, gdb gets
// a stop reply with a signal that says so; when QMP lets it run behind gdb's
// back, what needs a parked vCPU is an error until gdb continues or interrupts.
// While a migration comes in, continue and interrupt say whether the guest is
// to run once it has come (machine/run_control.c).
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "control/gdb_internal.h"

/* Text on gdb's console; only while gdb waits for a stop reply. */
static void console(struct gdb_client *client, const char *text)
{
	struct buf out = { 0 };

	if (buf_append(&out, "O", 1) == 0 && gdb_hex_append(&out, text, strlen(text)) == 0 &&
	    gdb_hex_append(&out, "\n", 1) == 0)
		gdb_reply_bytes(client, out.data, out.len);
	buf_fini(&out);
}

/* reason: "" or "name:value;". */
static void stopped(struct gdb_client *client, enum gdb_signal signal, const char *reason)
{
	client->running = false;
	gdb_reply(client, "T%02x%sthread:%x;", signal, reason, client->thread + 1);
}

bool gdb_all_parked(const struct gdb *gdb)
{
	unsigned int i;

	for (i = 0; i < vm_vcpus(gdb->vm); i++)
		if (!vcpu_is_parked(vm_vcpu(gdb->vm, i)))
			return false;
	return true;
}

/* Parks whatever runs, also vCPUs that step while the machine does not run. */
static int park(struct gdb *gdb, struct err *err)
{
	if (!gdb_all_parked(gdb))
		gdb_note_waits(gdb);
	return machine_stop(gdb->machine, RUN_STATE_DEBUG, err);
}

/*
 * Parks all, for a stop reply. False: not all have come out of the guest. gdb
 * is not told that they have: it reads why, and waits on, so that it can
 * interrupt again.
 */
static bool park_to_report(struct gdb_client *client)
{
	struct err err = { 0 };

	if (park(client->gdb, &err) == 0)
		return client->gdb != NULL;
	client->running = true;
	console(client, err.text);
	return false;
}

static void stop_and_report(struct gdb_client *client, enum gdb_signal signal)
{
	if (park_to_report(client))
		stopped(client, signal, "");
}

/* gdb asks when it attaches. It knows of no text before the first stop reply. */
void gdb_run_report(struct gdb_client *client)
{
	struct err err = { 0 };

	if (park(client->gdb, &err) == 0) {
		gdb_reply(client, "T%02xthread:%x;", GDB_SIGTRAP, client->thread + 1);
		return;
	}
	client->running = true;
	log_warn("gdb: %s", err.text);
}

struct debugging {
	struct gdb *gdb;
	const char *action;
};

static int set_debug_of(struct vcpu_parked *vcpu, void *arg, struct err *err)
{
	const struct debugging *debugging = arg;
	struct gdb *gdb = debugging->gdb;
	unsigned int i = parked_index(vcpu);
	struct arch_debug *debug = &gdb->debug[i];

	*debug = (struct arch_debug){
		.step = debugging->action && debugging->action[i] == 's',
		.sw_breakpoints = gdb->breaks.nsoft > 0,
		.nwatch = gdb->breaks.nwatch,
	};
	memcpy(debug->watch, gdb->breaks.watch, sizeof(debug->watch));
	return arch_debug_set(vcpu, debug, err);
}

int gdb_run_set_debug(struct gdb *gdb, const char action[VM_VCPUS_MAX], struct err *err)
{
	struct debugging debugging = { gdb, action };

	return vm_each(gdb->vm, set_debug_of, &debugging, err);
}

/* ---- attach and detach ---- */

void gdb_run_attach(struct gdb_client *client)
{
	struct gdb *gdb = client->gdb;
	struct err err = { 0 };

	client->leave_running = machine_is_running(gdb->machine) || machine_autostart(gdb->machine);
	if (park(gdb, &err) < 0)
		log_warn("gdb: attached, but the machine has not stopped: %s", err.text);
}

/*
 * May the machine be continued by who leaves it behind? What others, or its own
 * errors, have stopped stays so.
 */
static bool is_left_stopped(enum run_state state)
{
	return state == RUN_STATE_DEBUG || state == RUN_STATE_PAUSED ||
	       state == RUN_STATE_PRELAUNCH || state == RUN_STATE_INMIGRATE;
}

/* The state in which a debugger leaves the machine behind. */
static void leave(struct gdb_client *client)
{
	struct machine *machine = client->gdb->machine;
	enum run_state state = machine_state(machine);
	struct err err = { 0 };
	int r = 0;

	if (client->leave_running && is_left_stopped(state))
		r = machine_cont(machine, &err);
	else if (state == RUN_STATE_DEBUG)
		r = machine_stop(machine, RUN_STATE_PAUSED, &err);
	if (r < 0)
		log_warn("gdb: detached, but the machine does not go on: %s", err.text);
}

void gdb_run_detach(struct gdb_client *client)
{
	struct gdb *gdb = client->gdb;
	struct err err = { 0 };
	int r;

	client->running = false;
	r = park(gdb, &err);
	gdb_breaks_clear(&gdb->breaks, gdb->mem);
	/* If not now, then when a vCPU stops for a debugger that is gone: undo_debug. */
	if (r == 0)
		r = gdb_run_set_debug(gdb, NULL, &err);
	if (r < 0)
		log_warn("gdb: detach: %s", err.text);
	leave(client);
}

/* ---- continue and step ---- */

/* Lets vCPUs with the action `which` run, and no other; the machine is not said to run. */
static int resume_some(struct gdb *gdb, const char action[VM_VCPUS_MAX], char which,
		       struct err *err)
{
	struct vcpu_set vcpus = { 0 };
	unsigned int i;

	for (i = 0; i < vm_vcpus(gdb->vm); i++)
		if (action[i] == which)
			vcpu_set_add(&vcpus, i);
	return machine_cont_vcpus(gdb->machine, &vcpus, err);
}

static int gdb_run_actions(struct gdb_client *client, const char action[VM_VCPUS_MAX],
			   struct err *err)
{
	struct gdb *gdb = client->gdb;
	unsigned int i, n = vm_vcpus(gdb->vm), steps = 0, conts = 0;
	int r;

	for (i = 0; i < n; i++) {
		steps += action[i] == 's';
		conts += action[i] == 'c';
	}
	/* No guest is here yet that breakpoints could be set for. */
	if (machine_state(gdb->machine) == RUN_STATE_INMIGRATE && !steps)
		return machine_cont(gdb->machine, err);
	/*
	 * Somebody else's cont: there is nothing to begin a step at, and so it
	 * would have no end.
	 */
	if (machine_is_running(gdb->machine))
		return steps ? err_set(err, -EBUSY,
				       "the machine ran already, somebody else had let it: no step was made") :
			       0;
	if (!gdb_all_parked(gdb))
		return err_set(err, -EBUSY, "a vCPU has not parked yet");
	r = gdb_run_set_debug(gdb, action, err);
	if (r < 0)
		return r;
	memset(gdb->waited, 0, sizeof(gdb->waited));
	/*
	 * A step is of one instruction: the others need not run for it, and
	 * then cannot get in its way.
	 */
	if (steps)
		return resume_some(gdb, action, 's', err);
	if (conts < n)
		return resume_some(gdb, action, 'c', err);
	return machine_cont(gdb->machine, err);
}

void gdb_run_resume(struct gdb_client *client, const char action[VM_VCPUS_MAX])
{
	struct err err = { 0 };

	client->running = true;
	if (gdb_run_actions(client, action, &err) < 0) {
		console(client, err.text);
		if (client->gdb)
			stop_and_report(client, GDB_SIGINT);
		return;
	}
	client->leave_running = true;
}

void gdb_run_interrupt(struct gdb_client *client)
{
	if (client->running)
		stop_and_report(client, GDB_SIGINT);
}

/* ---- what the machine tells ---- */

/* Which signal a stop is that gdb did not ask for; 0: not a stop that gdb hears of here. */
static unsigned int signal_of(enum run_state state)
{
	switch (state) {
	case RUN_STATE_PAUSED:
	case RUN_STATE_PRELAUNCH:	/* a reset, asked for while the machine did not run as a whole */
		return GDB_SIGINT;
	case RUN_STATE_SHUTDOWN:
		return GDB_SIGQUIT;
	case RUN_STATE_IO_ERROR:
		return GDB_SIGIO;
	case RUN_STATE_INTERNAL_ERROR:
	case RUN_STATE_GUEST_PANICKED:
		return GDB_SIGABRT;
	case RUN_STATE_FINISH_MIGRATE:
	case RUN_STATE_POSTMIGRATE:
		return GDB_SIGXCPU;
	case RUN_STATE_SAVE_VM:		/* for a moment, and then it is what it was */
	case RUN_STATE_INMIGRATE:
	case RUN_STATE_RUNNING:
	case RUN_STATE_DEBUG:
		break;
	}
	return 0;
}

void gdb_run_on_state(void *arg, enum run_state old, enum run_state now)
{
	struct gdb *gdb = arg;
	struct gdb_client *client = gdb->client;
	unsigned int signal = signal_of(now);

	if (now == RUN_STATE_DEBUG && old != now)
		gdb->debug_from_running = old == RUN_STATE_RUNNING;
	if (!client || client->detached)
		return;
	/* Guest memory that travels, or is saved, has no breakpoints in it. */
	if (now == RUN_STATE_FINISH_MIGRATE || now == RUN_STATE_POSTMIGRATE ||
	    now == RUN_STATE_SAVE_VM)
		gdb_breaks_lift(&gdb->breaks, gdb->mem);
	else
		gdb_breaks_plant(&gdb->breaks, gdb->mem);
	if (now == RUN_STATE_RUNNING)
		client->leave_running = true;
	else if (now == RUN_STATE_PAUSED)
		client->leave_running = false;
	/* One that runs alone, by a step, may still have to be parked. */
	if (client->running && signal)
		stop_and_report(client, signal);
}

/* What a breakpoint instruction at pc is, of which gdb knows nothing at that address. */
static void report_breakpoint(struct gdb_client *client, struct vcpu_parked *vcpu, uint64_t pc)
{
	struct gdb *gdb = client->gdb;
	const struct gdb_soft *soft = NULL;
	struct gup_opts opts = { 0 };
	struct arch_mmu mmu;
	uint64_t left;
	char text[160];
	gpa_t gpa;

	if (!arch_mmu_get(vcpu, &mmu, NULL) &&
	    !arch_translate(gdb->mem, &mmu, GVA(pc), GUP_NOWAIT, &opts, &gpa, &left))
		soft = gdb_breaks_find_at(&gdb->breaks, gpa);
	if (soft)
		snprintf(text, sizeof(text),
			 "vCPU %u: the breakpoint at 0x%" PRIx64 ", met at 0x%" PRIx64
			 ", which is the same place: delete it to go on",
			 parked_index(vcpu), soft->gva.v, pc);
	else
		snprintf(text, sizeof(text),
			 "vCPU %u: a breakpoint instruction of the guest's own at 0x%" PRIx64,
			 parked_index(vcpu), pc);
	console(client, text);
}

/* Writes the stop reason of the vCPU into `reason`. */
static void find_reason(struct gdb_client *client, struct vcpu_parked *vcpu, char *reason,
			size_t bytes)
{
	static const char *const names[] = { [ARCH_WATCH_EXEC] = "hwbreak",
					     [ARCH_WATCH_WRITE] = "watch",
					     [ARCH_WATCH_READ] = "rwatch",
					     [ARCH_WATCH_ACCESS] = "awatch" };
	struct gdb *gdb = client->gdb;
	struct arch_debug *debug = &gdb->debug[parked_index(vcpu)];
	unsigned int index;
	uint64_t pc;

	reason[0] = '\0';
	if (arch_debug_hit(vcpu, debug, &index) && index < debug->nwatch) {
		if (debug->watch[index].type != ARCH_WATCH_EXEC)
			snprintf(reason, bytes, "%s:%" PRIx64 ";", names[debug->watch[index].type],
				 debug->watch[index].gva.v);
		else if (client->hwbreak)
			snprintf(reason, bytes, "hwbreak:;");
		return;
	}
	if (arch_gdb_pc(vcpu, &pc, NULL) < 0)
		return;
	if (gdb_breaks_find(&gdb->breaks, GVA(pc))) {
		if (client->swbreak)
			snprintf(reason, bytes, "swbreak:;");
	} else if (!debug->step) {
		report_breakpoint(client, vcpu, pc);
	}
}

/*
 * A stop that was on its way when the debugger left: the breakpoint is gone,
 * the instruction there is tried again.
 */
static void undo_debug(struct gdb *gdb)
{
	struct err err = { 0 };
	int r;

	/*
	 * The detach may not have come so far; the guest's own breakpoints
	 * would stop it again and again.
	 */
	if (gdb_run_set_debug(gdb, NULL, &err) < 0)
		log_warn("gdb: %s", err.text);
	if (gdb->debug_from_running)
		r = machine_cont(gdb->machine, &err);
	else
		r = machine_stop(gdb->machine, RUN_STATE_PAUSED, &err);
	if (r < 0)
		log_warn("gdb: a stop without a debugger: %s", err.text);
}

void gdb_run_on_debug(void *arg, struct vcpu *vcpu)
{
	struct gdb *gdb = arg;
	struct gdb_client *client = gdb->client;
	struct vcpu_parked *parked;
	char reason[64] = "";

	if (!client || client->detached) {
		undo_debug(gdb);
		return;
	}
	/*
	 * Of several vCPUs that stop at once one is told; the others meet their
	 * breakpoint again when they go on.
	 */
	if (!client->running)
		return;
	client->thread = vcpu_index(vcpu);
	if (!park_to_report(client))
		return;
	parked = vcpu_hold(vcpu, NULL);
	if (parked) {
		find_reason(client, parked, reason, sizeof(reason));
		vcpu_release(parked);
	}
	if (client->gdb)
		stopped(client, GDB_SIGTRAP, reason);
}
