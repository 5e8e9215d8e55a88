// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * run_state.c - the run states' names and transitions.
 *
 *   state            entered by                                   left by
 *   PRELAUNCH        machine_new; reset of a stopped machine      cont, migrate, quit
 *   INMIGRATE        machine_new with starts_inmigrate            the migration (machine_leave_migrate), quit
 *   RUNNING          cont; end of a migration                     everything that stops
 *   PAUSED           stop; a reset that waits (pages, a kernel)    cont, reset, migrate
 *   DEBUG            breakpoint, watchpoint, step                 cont (gdb's too), stop, reset, migrate
 *   FINISH_MIGRATE   source: switchover begins                    POSTMIGRATE, or back when it failed
 *   SAVE_VM          a snapshot's moment (machine_enter_save)     machine_leave_save
 *   POSTMIGRATE      source: the guest runs elsewhere, or may     only back by the migration, or quit
 *   IO_ERROR         a page turned out lost, or was on arrival    cont once it is there, reset, migrate
 *   INTERNAL_ERROR   KVM gave up                                  reset
 *                    page faults cannot be read                   cont once all memory is there, reset
 *   GUEST_PANICKED   the guest said so                            cont, reset
 *   SHUTDOWN         quit, power-off                              never
 *
 * What leaves PAUSED-like states towards RUNNING is machine_cont's to refuse;
 * the table only says what makes sense.
 */
#include "machine/run_state.h"

#define BIT(state) (1u << (state))
#define STOPS (BIT(RUN_STATE_PAUSED) | BIT(RUN_STATE_DEBUG) | BIT(RUN_STATE_IO_ERROR) | \
	       BIT(RUN_STATE_INTERNAL_ERROR) | BIT(RUN_STATE_GUEST_PANICKED))
#define END BIT(RUN_STATE_SHUTDOWN)

static const unsigned int next[] = {
	[RUN_STATE_PRELAUNCH] = BIT(RUN_STATE_RUNNING) | BIT(RUN_STATE_FINISH_MIGRATE) |
				BIT(RUN_STATE_DEBUG) | BIT(RUN_STATE_INTERNAL_ERROR) |
				BIT(RUN_STATE_SAVE_VM) | END,
	[RUN_STATE_INMIGRATE] = BIT(RUN_STATE_RUNNING) | BIT(RUN_STATE_PAUSED) |
				BIT(RUN_STATE_IO_ERROR) | BIT(RUN_STATE_INTERNAL_ERROR) | END,
	[RUN_STATE_RUNNING] = STOPS | BIT(RUN_STATE_FINISH_MIGRATE) | BIT(RUN_STATE_SAVE_VM) | END,
	[RUN_STATE_PAUSED] = STOPS | BIT(RUN_STATE_RUNNING) | BIT(RUN_STATE_PRELAUNCH) |
			     BIT(RUN_STATE_FINISH_MIGRATE) | BIT(RUN_STATE_SAVE_VM) | END,
	[RUN_STATE_DEBUG] = STOPS | BIT(RUN_STATE_RUNNING) | BIT(RUN_STATE_PRELAUNCH) |
			    BIT(RUN_STATE_FINISH_MIGRATE) | BIT(RUN_STATE_SAVE_VM) | END,
	[RUN_STATE_FINISH_MIGRATE] = BIT(RUN_STATE_RUNNING) | BIT(RUN_STATE_PAUSED) |
				     BIT(RUN_STATE_POSTMIGRATE) | BIT(RUN_STATE_IO_ERROR) |
				     BIT(RUN_STATE_INTERNAL_ERROR) | END,
	[RUN_STATE_SAVE_VM] = STOPS | BIT(RUN_STATE_RUNNING) | BIT(RUN_STATE_PRELAUNCH) | END,
	[RUN_STATE_POSTMIGRATE] = BIT(RUN_STATE_RUNNING) | BIT(RUN_STATE_PAUSED) |
				  BIT(RUN_STATE_IO_ERROR) | BIT(RUN_STATE_INTERNAL_ERROR) | END,
	[RUN_STATE_IO_ERROR] = BIT(RUN_STATE_RUNNING) | BIT(RUN_STATE_PRELAUNCH) |
			       BIT(RUN_STATE_INTERNAL_ERROR) | BIT(RUN_STATE_FINISH_MIGRATE) |
			       BIT(RUN_STATE_SAVE_VM) | END,
	[RUN_STATE_INTERNAL_ERROR] = BIT(RUN_STATE_RUNNING) | BIT(RUN_STATE_PRELAUNCH) | END,
	[RUN_STATE_GUEST_PANICKED] = BIT(RUN_STATE_RUNNING) | BIT(RUN_STATE_PRELAUNCH) |
				     BIT(RUN_STATE_INTERNAL_ERROR) | BIT(RUN_STATE_FINISH_MIGRATE) |
				     BIT(RUN_STATE_SAVE_VM) | END,
	[RUN_STATE_SHUTDOWN] = 0,
};

bool run_state_may_follow(enum run_state old, enum run_state now)
{
	return old == now || next[old] & BIT(now);
}

bool run_state_is_away(enum run_state state)
{
	return state == RUN_STATE_INMIGRATE || state == RUN_STATE_FINISH_MIGRATE ||
	       state == RUN_STATE_SAVE_VM || state == RUN_STATE_POSTMIGRATE;
}

const char *run_state_name(enum run_state state)
{
	static const char *const names[] = {
		[RUN_STATE_PRELAUNCH] = "prelaunch",
		[RUN_STATE_INMIGRATE] = "inmigrate",
		[RUN_STATE_RUNNING] = "running",
		[RUN_STATE_PAUSED] = "paused",
		[RUN_STATE_DEBUG] = "debug",
		[RUN_STATE_FINISH_MIGRATE] = "finish-migrate",
		[RUN_STATE_SAVE_VM] = "save-vm",
		[RUN_STATE_POSTMIGRATE] = "postmigrate",
		[RUN_STATE_IO_ERROR] = "io-error",
		[RUN_STATE_INTERNAL_ERROR] = "internal-error",
		[RUN_STATE_GUEST_PANICKED] = "guest-panicked",
		[RUN_STATE_SHUTDOWN] = "shutdown",
	};

	return names[state];
}
