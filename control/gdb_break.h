/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The debugger's breakpoints. A software breakpoint is an instruction written
 * into guest memory, known by the guest physical address that its virtual
 * address had when it was set; what it covers is kept and put back. Its page is
 * there when it is set, and is held (pinned) as long as the instruction is in
 * it. Main thread.
 */
#ifndef POSTERN_CONTROL_GDB_BREAK_H
#define POSTERN_CONTROL_GDB_BREAK_H

#include "arch/arch.h"
#include "base/types.h"
#include "control/gdb_memory.h"
#include "memory/gup.h"

#define GDB_SOFT_MAX 256u
#define GDB_SOFT_BYTES 8u	/* longest breakpoint instruction */

struct gdb_soft {
	gva_t gva;
	gpa_t gpa;
	uint8_t old[GDB_SOFT_BYTES];	/* what it covers */
	bool planted;			/* the instruction is in memory */
	struct gup_span span;		/* its bytes, held by one of those that are planted at the same place */
};

/* Zero-initialised it is empty. */
struct gdb_breaks {
	struct gdb_soft soft[GDB_SOFT_MAX];
	unsigned int nsoft;
	struct arch_watch watch[ARCH_WATCH_MAX];
	unsigned int nwatch;
};

struct gdb_soft *gdb_breaks_find(struct gdb_breaks *breaks, gva_t gva);
/* One that is in memory at this place, by whatever address it was set. NULL: none. */
const struct gdb_soft *gdb_breaks_find_at(const struct gdb_breaks *breaks, gpa_t gpa);
/*
 * Adds a breakpoint and writes it. Setting one that is set is fine. -ENOSPC:
 * GDB_SOFT_MAX are set; or gup's error (-EAGAIN: the page is not there).
 */
int gdb_breaks_set(struct gdb_breaks *breaks, struct memory *mem, gva_t gva, gpa_t gpa);
/*
 * Takes it out, and puts back what it covered unless the guest has overwritten
 * it. -ENOENT: not set.
 */
int gdb_breaks_remove(struct gdb_breaks *breaks, struct memory *mem, gva_t gva);
/* Out of memory, but not forgotten: guest memory is about to leave for another host. */
void gdb_breaks_lift(struct gdb_breaks *breaks, struct memory *mem);
/* Writes those that are not in memory. */
void gdb_breaks_plant(struct gdb_breaks *breaks, struct memory *mem);
/* Takes all out, watchpoints too. */
void gdb_breaks_clear(struct gdb_breaks *breaks, struct memory *mem);

/*
 * Shows what breakpoints cover, in `len` bytes that were read at gpa, by
 * whatever virtual address.
 */
void gdb_breaks_mask(const struct gdb_breaks *breaks, gpa_t gpa, uint8_t *data, size_t len);
/*
 * The debugger has written these n pieces, by whatever virtual address:
 * breakpoints that were overwritten cover the new bytes, and are written again.
 */
void gdb_breaks_written(struct gdb_breaks *breaks, const struct gdb_piece *piece, unsigned int n);

/* -ENOSPC: ARCH_WATCH_MAX are set. Setting one that is set is fine. */
int gdb_breaks_watch(struct gdb_breaks *breaks, const struct arch_watch *watch);
/* -ENOENT: not set. */
int gdb_breaks_unwatch(struct gdb_breaks *breaks, const struct arch_watch *watch);

#endif
