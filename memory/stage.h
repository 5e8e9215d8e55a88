/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A staging area: room for one huge page, into which pages are received before they become
 * visible. Once nothing of the huge page is missing any more, it takes the guest's place for it in
 * one piece (UFFDIO_MOVE, Linux 6.8 and later), together with the pages that came earlier and
 * alone; the guest has a huge page again. What is not whole, and on older kernels everything, is
 * copied page by page. Pages that came earlier are taken along only with WAY_OUT_KERNEL
 * (memory/eject.h).
 *
 * Memory's own: sources ask memory_sink for room, which has these areas (sink.c).
 */
#ifndef POSTERN_MEMORY_STAGE_H
#define POSTERN_MEMORY_STAGE_H

#include "memory/memory.h"

struct memory_stage;
struct wakes;

/* One thread at a time uses it; mem outlives it. -ENOMEM. */
int memory_stage_new(struct memory_stage **out, struct memory *mem, struct err *err);
/* Placed or not, what it holds is gone. */
void memory_stage_free(struct memory_stage *stage);

/* Where page gfn's data is to be put: the area is laid out as the huge page that gfn lies in. */
uint8_t *memory_stage_at(struct memory_stage *stage, gfn_t gfn);

/*
 * The data of n pages from `first` on lies at memory_stage_at() (zero: they are
 * zero, and nothing lies there) and waits to be placed. -EFAULT: no RAM, or not
 * what the stage takes.
 */
int memory_stage_add(struct memory_stage *stage, gfn_t first, uint64_t n, bool zero);

/* Does nothing wait to be placed? */
bool memory_stage_is_empty(const struct memory_stage *stage);
/* Can these be added: does nothing wait, or only other pages of the huge page that they are of? */
bool memory_stage_takes(const struct memory_stage *stage, gfn_t first, uint64_t n);
/*
 * Is it time to place what waits? Every page of the huge page is here, in the
 * guest or in the stage; or somebody waits for one of them; or this kernel
 * cannot place them together anyway.
 */
bool memory_stage_is_due(const struct memory_stage *stage);

/*
 * memory_fill of all that waits; the stage is empty afterwards. With an error what has not come in
 * still waits, to be placed again or dropped; if the stage is empty all the same, it is of no
 * more use. memory_stage_place_apart does it page by page, while others write into the area.
 */
int64_t memory_stage_place(struct memory_stage *stage);
int64_t memory_stage_place_apart(struct memory_stage *stage);
void memory_stage_drop(struct memory_stage *stage);
/* Of these pages, of its huge page, nothing waits any more; sets in *forgotten which ones did. */
void memory_stage_forget(struct memory_stage *stage, gfn_t first, uint64_t n,
			 struct wakes *forgotten);

#endif
