// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * park.c - the guest runs, or it is parked: vCPUs, devices and clock together,
 * and the run state that goes with it.
 *
 * A running machine is parked by machine_park() and let run by
 * machine_let_run() alone. The run state changes only in machine_set_state();
 * run_state.c has the table of what may follow what. Who may do that, and when,
 * run_control.c and reset.c know, which call this.
 */
#include "machine/internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mark.h"
#include "machine/run_state.h"

enum run_state machine_state(const struct machine *m)
{
	return m->state;
}

void machine_set_state(struct machine *m, enum run_state state)
{
	enum run_state old = m->state;

	if (old == state)
		return;
	if (!run_state_may_follow(old, state))
		log_warn("run state goes from %s to %s", run_state_name(old),
			 run_state_name(state));
	m->state = state;
	log_info("run state: %s", run_state_name(state));
	MACHINE_NOTIFY(m, state, old, state);
}

void machine_clock_back(struct machine *m)
{
	struct err err;

	if (m->clock_stopped && arch_clock_start(m->vm, m->clock, &err) < 0)
		log_warn("the guest sees the time that it was stopped: %s", err.text);
}

void machine_let_run(struct machine *m)
{
	machine_clock_back(m);
	m->clock_stopped = false;
	board_start(m->board);
	vm_resume(m->vm);
	mark_time("the guest runs");
}

void machine_run(struct machine *m)
{
	machine_set_state(m, RUN_STATE_RUNNING);
	machine_let_run(m);
}

/*
 * In states other than RUNNING, a vCPU that a debugger lets run, or that has
 * not parked yet. On a timeout a running machine goes on as it was, rather than
 * half of it.
 */
int machine_park(struct machine *m, struct err *err)
{
	int r = vm_pause(m->vm, MACHINE_PAUSE_MS, err);

	if (m->state != RUN_STATE_RUNNING)
		return r;
	if (r < 0) {
		vm_resume(m->vm);
		return r;
	}
	m->clock_stopped = !arch_clock_stop(m->vm, &m->clock, NULL);
	m->parked_ns = clock_wall_ns();
	board_stop(m->board);
	return 0;
}

int64_t machine_parked_ns(const struct machine *m)
{
	return m->parked_ns ? m->parked_ns : clock_wall_ns() - m->behind_ns;
}

int machine_drain(struct machine *m, struct err *err)
{
	int r = vm_complete_io(m->vm, false, err);

	if (r < 0)
		return r;
	return board_drain(m->board, clock_now_ns() + MACHINE_DRAIN_MS * NS_PER_MS, err);
}

void machine_shutdown(struct machine *m, bool by_guest, const char *reason)
{
	if (m->shut)
		return;
	m->shut = true;
	log_info("shutting down: %s", reason);
	vm_ask_pause(m->vm);
	MACHINE_NOTIFY(m, shutdown, by_guest, reason);
	machine_set_state(m, RUN_STATE_SHUTDOWN);
	loop_stop(m->loop);
}
