/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A staging area: room for one huge page, into which a source receives pages before it hands them over. Where the kernel can
 * (UFFDIO_MOVE, Linux 6.8 and later) they are moved into the guest, not copied; 512 pages at once as one huge page.
 */
#ifndef POSTERN_MEMORY_STAGE_H
#define POSTERN_MEMORY_STAGE_H

#include "memory/memory.h"

struct memory_stage;

/* One thread uses it; mem outlives it. -ENOMEM. */
int memory_stage_new(struct memory_stage **out, struct memory *mem, struct err *err);
void memory_stage_free(struct memory_stage *stage);

/* Where page gfn's data is to be put: the area is laid out as the huge page that gfn lies in. */
uint8_t *memory_stage_at(struct memory_stage *stage, gfn_t gfn);

/*
 * memory_fill of n pages from `first` on, all of one huge page, whose data lies at memory_stage_at(). All that the area held is
 * gone afterwards.
 */
int64_t memory_fill_staged(struct memory_stage *stage, gfn_t first, uint64_t n);

#endif
