/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Versions of saved states. Each state (a machine's, a vCPU's, a device's) has
 * a number that says how it is to be read. Who writes version N reads N and
 * N - 1, and refuses all others by name. docs/state.md says what each version
 * means, and when a number goes up. Pure; any thread.
 */
#ifndef POSTERN_BASE_STATE_VERSION_H
#define POSTERN_BASE_STATE_VERSION_H

#include <stdint.h>

#include "base/err.h"

/*
 * May a state of this version be read by who writes `current`? `what` names
 * it: "state of device rtc". 0, or -EPROTO with which state, which version,
 * which are read here, and what to do.
 */
int state_version_check(const char *what, uint32_t version, uint32_t current, struct err *err);

#endif
