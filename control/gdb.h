/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A gdb stub (GDB manual, appendix "Remote Serial Protocol"): all vCPUs as
 * threads of one process, registers, memory by our own page-table walk,
 * software and hardware breakpoints, watchpoints, step, interrupt, detach. A
 * page that is missing gives an error reply after a bounded wait; QMP and
 * everything else go on meanwhile.
 */
#ifndef POSTERN_CONTROL_GDB_H
#define POSTERN_CONTROL_GDB_H

#include "base/err.h"
#include "machine/machine.h"

struct gdb;

/*
 * spec: "tcp:HOST:PORT", "tcp::PORT" or "unix:PATH". page_timeout_ms: how long
 * a read or write waits for a missing page.
 */
int gdb_new(struct gdb **out, struct machine *machine, const char *spec, int page_timeout_ms,
	    struct err *err);
void gdb_free(struct gdb *gdb);

#endif
