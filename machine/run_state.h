/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Which run state may follow which. The states stand in machine.h, the table in run_state.c.
 */
#ifndef POSTERN_MACHINE_RUN_STATE_H
#define POSTERN_MACHINE_RUN_STATE_H

#include <stdbool.h>

#include "machine/machine.h"

/* May a machine that is in `old` go to `now`? Staying where it is is always allowed. */
bool run_state_may_follow(enum run_state old, enum run_state now);

#endif
