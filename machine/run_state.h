/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Which run state may follow which, and what they have in common. The states
 * stand in machine.h, the table in run_state.c.
 */
#ifndef POSTERN_MACHINE_RUN_STATE_H
#define POSTERN_MACHINE_RUN_STATE_H

#include <stdbool.h>

#include "machine/machine.h"

/* May a machine that is in `old` go to `now`? Staying where it is is always allowed. */
bool run_state_may_follow(enum run_state old, enum run_state now);
/*
 * A migration has the guest: it is not here yet, or not any more, or is being switched over; or a
 * snapshot has it, for a moment.
 */
bool run_state_is_away(enum run_state state);

#endif
