/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * An ELF core of a machine (System V ABI, chapter 4 and 5; Linux' core notes):
 * ET_CORE, a PT_LOAD for each run of pages that are there, at its guest physical
 * address, and an NT_PRSTATUS note for each vCPU, with its number + 1 as the
 * process's. Addresses are physical: p_vaddr is p_paddr. Pages that are in no
 * run are left out. 64-bit, little-endian. Pure.
 */
#ifndef POSTERN_SNAPSHOT_ELF_CORE_H
#define POSTERN_SNAPSHOT_ELF_CORE_H

#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/types.h"

/* Beyond it a guest has so many holes that no tool would open its core. */
#define ELF_CORE_RUNS_MAX (1u << 20)

struct elf_core_run {
	gfn_t first;
	uint64_t pages;
	uint64_t offset; /* in the file; set by elf_core_head */
};

/* Zeroed: empty, but for machine. */
struct elf_core {
	unsigned int machine; /* e_machine */
	struct buf notes;
	unsigned int cpus;
	struct elf_core_run *runs;
	size_t n_runs, room;
	uint64_t bytes; /* of the file; set by elf_core_head */
};

void elf_core_fini(struct elf_core *core);
/* The next vCPU's general registers, pr_reg. 0 or -ENOMEM. */
int elf_core_add_cpu(struct elf_core *core, const void *regs, size_t bytes);
/* Pages behind all that were added before. -E2BIG: too many runs; -ENOMEM. */
int elf_core_add_pages(struct elf_core *core, gfn_t first, uint64_t n, struct err *err);
/*
 * What the file begins with, appended to out; the runs' pages follow at their
 * offsets, and nothing else. 0 or -ENOMEM.
 */
int elf_core_head(struct elf_core *core, struct buf *out);

#endif
