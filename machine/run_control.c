// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * run_control.c - stop and go: one verb for each thing that is done to a
 * machine, and what it means in each run state.
 *
 *   verb                   who                                goes to
 *   machine_stop           QMP, gdb, the machine itself       PAUSED, DEBUG, or why it stopped
 *   machine_cont           QMP, gdb, the command line         RUNNING
 *   machine_cont_vcpus     gdb: a step, or some vCPUs only    DEBUG, with these running
 *   machine_enter_migrate  source: switchover begins          FINISH_MIGRATE
 *   machine_commit_migrate source: another host runs it       POSTMIGRATE
 *   machine_leave_migrate  the guest is here: it has arrived, RUNNING, PAUSED, or why it cannot run
 *                          stays, or was taken back
 *
 *   machine_enter_save     a snapshot begins                  SAVE_VM
 *   machine_leave_save     the guest may go on                what it was
 *   machine_finish_save    its memory has been read           stays
 *
 * While a migration comes in there is nothing to stop: machine_stop and
 * machine_cont then say whether the guest is to run once it has arrived; and
 * while it is being saved, whether it is to run afterwards.
 */
#include "machine/internal.h"

#include <errno.h>
#include <inttypes.h>

#include "base/log.h"
#include "device/identity.h"
#include "machine/run_state.h"

/* ---- what it is ---- */

bool machine_is_to_run(const struct machine *m)
{
	return machine_is_running(m) || (machine_reset_waits_for(m) && m->reset.resumes);
}

bool machine_autostart(const struct machine *m)
{
	return m->state == RUN_STATE_INMIGRATE && m->autostart;
}

static int check_follows(const struct machine *m, enum run_state state, struct err *err)
{
	if (run_state_may_follow(m->state, state))
		return 0;
	return err_set(err, -EBUSY, "the machine is in state %s and cannot go to %s",
		       run_state_name(m->state), run_state_name(state));
}

/* ---- stop ---- */

/*
 * A machine that does not run is stopped already, whatever its state, and keeps
 * that state: as in QEMU.
 */
static bool is_stopped_already(const struct machine *m, enum run_state as)
{
	if (m->state == RUN_STATE_RUNNING)
		return false;
	/* A stop during switchover stands: the migration notices, and ends. */
	if (as == RUN_STATE_PAUSED)
		return m->state != RUN_STATE_DEBUG && m->state != RUN_STATE_FINISH_MIGRATE;
	return as == RUN_STATE_DEBUG;
}

int machine_stop(struct machine *m, enum run_state as, struct err *err)
{
	bool switched = m->state == RUN_STATE_FINISH_MIGRATE;
	int r;

	/* What ends the machine is told at once; the rest is for when the guest is here. */
	if (m->state == RUN_STATE_INMIGRATE && (as == RUN_STATE_PAUSED || as == RUN_STATE_DEBUG)) {
		m->autostart = false;
		return 0;
	}
	if (m->state == RUN_STATE_SAVE_VM && (as == RUN_STATE_PAUSED || as == RUN_STATE_DEBUG)) {
		if (m->saved_from == RUN_STATE_RUNNING)
			m->saved_from = as;
		m->reset.resumes = false;
		return 0;
	}
	/* Nor is it to run once a reset that waits is done. */
	if (as == RUN_STATE_PAUSED && (m->state == RUN_STATE_PAUSED || switched))
		m->reset.resumes = false;
	if (is_stopped_already(m, as))
		return as == RUN_STATE_DEBUG ? machine_park(m, err) : 0;
	r = check_follows(m, as, err);
	if (!r)
		r = machine_park(m, err);
	if (r < 0)
		return r;
	machine_set_state(m, as);
	/* What a reset waits for may have come while the migration had the guest. */
	if (switched)
		machine_reset_retry(m);
	return 0;
}

void machine_stop_for(struct machine *m, enum run_state why)
{
	struct err err;

	if (m->state == why || !run_state_may_follow(m->state, why))
		return;
	if (machine_stop(m, why, &err) < 0)
		log_error("%s", err.text);
}

void machine_debug_event(struct machine *m, struct vcpu *vcpu)
{
	struct err err;

	if (m->state != RUN_STATE_DEBUG && m->state != RUN_STATE_RUNNING &&
	    m->state != RUN_STATE_PAUSED)
		return;
	/* In DEBUG too: a step lets a single vCPU run. */
	if (vm_pause(m->vm, MACHINE_PAUSE_MS, &err) < 0) {
		log_error("%s", err.text);
		if (m->state == RUN_STATE_RUNNING) {
			/*
			 * All go on, rather than all but one; this one meets
			 * its breakpoint again.
			 */
			vm_resume(m->vm);
			return;
		}
	}
	board_stop(m->board);
	machine_set_state(m, RUN_STATE_DEBUG);
	MACHINE_NOTIFY(m, debug, vcpu);
}

/* ---- go ---- */

/*
 * The state that memory puts the machine into instead of letting it run, and
 * why; RUNNING: it may.
 */
static enum run_state memory_allows(const struct machine *m, struct err *err)
{
	struct memory_stats stats;

	if (m->watch_failed && memory_is_late(m->mem)) {
		err_set(err, -EBUSY,
			"missing pages cannot be asked for any more; the machine can go on when all of "
			"its memory has come, which query-postern-faults shows");
		return RUN_STATE_INTERNAL_ERROR;
	}
	/* Whoever touches such a page waits for good, and nobody is told a second time. */
	memory_stats(m->mem, &stats);
	if (stats.lost) {
		err_set(err, -EBUSY, "%" PRIu64 " pages of guest memory are lost", stats.lost);
		return RUN_STATE_IO_ERROR;
	}
	return RUN_STATE_RUNNING;
}

int machine_may_run(const struct machine *m, struct err *err)
{
	const char *waits_for = machine_reset_waits_for(m);

	if (waits_for)
		return err_set(err, -EBUSY, "the machine's reset waits for %s", waits_for);
	if (memory_allows(m, err) != RUN_STATE_RUNNING)
		return -EBUSY;
	switch (m->state) {
	case RUN_STATE_FINISH_MIGRATE:
		return err_set(err, -EBUSY, "the guest is being switched over to another host");
	case RUN_STATE_POSTMIGRATE:
		return err_set(err, -EBUSY, "the guest runs on another host, or may");
	case RUN_STATE_SHUTDOWN:
		return err_set(err, -EBUSY, "the machine is shut down");
	case RUN_STATE_INTERNAL_ERROR:
		if (m->watch_failed)
			return 0;
		return err_set(err, -EBUSY,
			       "the machine has had an internal error: reset it first");
	default:
		return 0;
	}
}

int machine_cont(struct machine *m, struct err *err)
{
	int r;

	if (m->state == RUN_STATE_INMIGRATE) {
		m->autostart = true;
		return 0;
	}
	if (m->state != RUN_STATE_RUNNING)
		machine_do_asked(m);
	if (m->state == RUN_STATE_RUNNING)
		return 0;
	if (m->state == RUN_STATE_SAVE_VM) {
		r = machine_may_run(m, err);
		if (!r)
			m->saved_from = RUN_STATE_RUNNING;
		return r;
	}
	r = machine_may_run(m, err);
	if (!r)
		r = board_claim(m->board, err);
	if (r < 0)
		return r;
	machine_run(m);
	return 0;
}

int machine_cont_vcpus(struct machine *m, const struct vcpu_set *vcpus, struct err *err)
{
	unsigned int i;
	int r;

	if (m->state != RUN_STATE_DEBUG && m->state != RUN_STATE_PAUSED &&
	    m->state != RUN_STATE_PRELAUNCH)
		return err_set(err, -EBUSY, "the machine may not run now, it is %s",
			       run_state_name(m->state));
	r = machine_may_run(m, err);
	if (!r)
		r = machine_park(m, err);
	if (r < 0)
		return r;
	machine_set_state(m, RUN_STATE_DEBUG);
	for (i = 0; i < m->config.cpus; i++)
		if (vcpu_set_has(vcpus, i))
			vcpu_resume(vm_vcpu(m->vm, i));
	return 0;
}

/* ---- a migration ---- */

int machine_enter_migrate(struct machine *m, struct err *err)
{
	int r = check_follows(m, RUN_STATE_FINISH_MIGRATE, err);

	if (!r && m->saving)
		r = err_set(err, -EBUSY, "the machine's memory is being saved");
	if (!r)
		r = machine_park(m, err);
	if (r < 0)
		return r;
	/* Before any page is sent: a disk may still be writing into it. */
	board_stop(m->board);
	r = machine_drain(m, err);
	if (r < 0) {
		if (m->state == RUN_STATE_RUNNING)
			machine_let_run(m);
		return r;
	}
	machine_set_state(m, RUN_STATE_FINISH_MIGRATE);
	return 0;
}

int machine_commit_migrate(struct machine *m, struct err *err)
{
	int r = check_follows(m, RUN_STATE_POSTMIGRATE, err);

	if (!r)
		r = machine_park(m, err);
	if (r < 0)
		return r;
	machine_set_state(m, RUN_STATE_POSTMIGRATE);
	/* Nobody else runs the guest before this is decided, and nobody here afterwards. */
	board_release(m->board);
	return 0;
}

int machine_leave_migrate(struct machine *m, bool run, struct err *err)
{
	enum run_state state;
	int r;

	if (!run_state_is_away(m->state))
		return err_set(err, -EBUSY, "no migration has the machine: it is in state %s",
			       run_state_name(m->state));
	run = run && (m->state != RUN_STATE_INMIGRATE || m->autostart);
	/* The host's clocks are others. */
	if (m->state == RUN_STATE_INMIGRATE)
		identity_disrupt(board_identity(m->board));
	/* It is this machine that may run now, whether it does at once or not. */
	r = board_claim(m->board, err);
	if (r < 0) {
		log_error("%s", err ? err->text : "a disk is another machine's");
		machine_set_state(m, RUN_STATE_PAUSED);
		return r;
	}
	if (!run || machine_reset_waits_for(m) || atomic_load(&m->asked)) {
		machine_set_state(m, RUN_STATE_PAUSED);
		/* A reset or power-off that was under way when the guest was paused. */
		m->reset.resumes |= run;
		machine_do_asked(m);
		machine_reset_retry(m);
		return 0;
	}
	state = memory_allows(m, err);
	if (state != RUN_STATE_RUNNING) {
		machine_set_state(m, state);
		log_error("the guest cannot go on: %s", err ? err->text : run_state_name(state));
		return -EBUSY;
	}
	machine_run(m);
	return 0;
}

/* ---- a snapshot ---- */

int machine_enter_save(struct machine *m, struct err *err)
{
	enum run_state from = m->state;
	int r;

	/* Of two who read memory neither would know what the machine was before. */
	if (m->saving)
		return err_set(err, -EBUSY, "the guest's memory is being saved or dumped already");
	r = check_follows(m, RUN_STATE_SAVE_VM, err);
	if (!r)
		r = machine_park(m, err);
	if (r < 0)
		return r;
	board_stop(m->board);
	r = machine_drain(m, err);
	if (r < 0) {
		if (from == RUN_STATE_RUNNING)
			machine_let_run(m);
		return r;
	}
	m->saved_from = from;
	m->saving = true;
	machine_set_state(m, RUN_STATE_SAVE_VM);
	return 0;
}

void machine_leave_save(struct machine *m)
{
	struct err err = { 0 };

	if (m->state != RUN_STATE_SAVE_VM)
		return;
	if (m->saved_from != RUN_STATE_RUNNING) {
		machine_set_state(m, m->saved_from);
		machine_reset_retry(m);
	} else if (machine_leave_migrate(m, true, &err) < 0) {
		log_error("the guest cannot go on after it was saved: %s", err.text);
	}
}

void machine_finish_save(struct machine *m)
{
	m->saving = false;
	if (m->state != RUN_STATE_SHUTDOWN)
		machine_reset_retry(m);
}

bool machine_is_saving(const struct machine *m)
{
	return m->saving;
}
