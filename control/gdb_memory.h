/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The debugger's accesses to guest memory by guest virtual address. They may
 * have to wait for a page, so a worker thread does them, with GUP_INTERRUPTIBLE
 * and a deadline; the main thread hears of the end by a callback. Started and
 * cancelled on the main thread.
 */
#ifndef POSTERN_CONTROL_GDB_MEMORY_H
#define POSTERN_CONTROL_GDB_MEMORY_H

#include "arch/arch.h"
#include "base/loop.h"

#define GDB_PIECES_MAX 8u

struct gdb_worker;

/* What of an access lies within one page of the guest's memory. */
struct gdb_piece {
	gpa_t gpa;
	size_t len;
};

enum gdb_job_stage {
	GDB_JOB_TRANSLATE,	/* walking the guest's page tables */
	GDB_JOB_ACCESS,		/* at the page itself */
};

/* One access. The caller fills the first part, the worker the second. */
struct gdb_job {
	struct arch_mmu mmu;
	gva_t gva;
	size_t len;
	bool write;
	int64_t deadline_ns;	/* CLOCK_MONOTONIC */
	void (*complete)(void *arg, struct gdb_job *job);	/* main thread; not called once cancelled */
	void *arg;

	int result;		/* 0 or negative errno: gup's, arch_translate's */
	size_t done;		/* bytes that were read or written, also when result is an error */
	enum gdb_job_stage stage;	/* where an error arose */
	struct gdb_piece piece[GDB_PIECES_MAX];	/* of the `done` bytes, in their order */
	unsigned int pieces;
	gpa_t failed;		/* the page, for an error at GDB_JOB_ACCESS */

	/* the worker's own */
	struct gdb_worker *worker;
	struct gdb_job *next;
	bool cancelled;		/* guarded by the worker's lock */
	uint8_t data[];
};

int gdb_worker_new(struct gdb_worker **out, struct memory *mem, struct loop *loop, struct err *err);
/*
 * Interrupts what goes on and joins the thread; all jobs are cancelled. Never
 * waits for a page. NULL is allowed.
 */
void gdb_worker_free(struct gdb_worker *worker);

/* A job with room for len bytes of data, at most GDB_PACKET_MAX, or NULL: no memory. */
struct gdb_job *gdb_job_new(size_t len);
/* The worker owns the job from here, and frees it after `complete`. */
void gdb_job_start(struct gdb_worker *worker, struct gdb_job *job);
/* `complete` will not be called; an access under way is interrupted. */
void gdb_job_cancel(struct gdb_job *job);

#endif
