/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What the files of a save share: save.c has its phases and the main thread's
 * part, save_work.c what its thread does, save_memory.c how it gets memory into
 * the image, save_shared.c the same for memory that clones share, save_early.c
 * the pages that a restore needs at once.
 */
#ifndef POSTERN_SNAPSHOT_SAVE_INTERNAL_H
#define POSTERN_SNAPSHOT_SAVE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "image/writer.h"
#include "memory/snapshot.h"
#include "memory/wait.h"
#include "snapshot/host.h"
#include "snapshot/save.h"

#define SAVE_THREADS_MAX 8

/* A page that has to be there before a restored guest runs. */
struct save_early_page {
	gfn_t gfn;
	bool known, lost;
	uint8_t *data; /* NULL: zeros */
};

struct save {
	struct save_config config;
	struct loop *loop;
	struct memory *mem;
	pthread_t thread;
	bool started;
	/* Each thread's, so that a wait for a page can be ended. */
	struct memory_thread *waiter[SAVE_THREADS_MAX];

	/* Of the moment: written by the main thread in PAUSING, the thread's afterwards. */
	struct host_list *list;
	struct buf machine_state;
	struct save_early_page *early; /* ascending */
	size_t n_early;
	int begin_error; /* memory_snapshot_begin's, where paused is the way out */
	struct boot_opened boot;
	bool boot_open;
	/* The main thread's: the machine is in SAVE_VM for this; a reset waits for this. */
	bool holds_guest, holds_memory;

	/* The thread's. */
	struct store *store; /* config.store, or its own */
	struct store_scope scope;
	struct image *parent; /* NULL: none */
	struct image_writer *writer;
	_Atomic uint64_t next_huge; /* the next huge page that nobody has taken */
	_Atomic uint64_t pages_done;
	atomic_bool cancelled;

	pthread_mutex_t lock; /* guards the rest */
	pthread_cond_t changed;
	enum save_phase phase;
	bool gone; /* the main thread does not want to hear of it any more */
	bool whole; /* the image is there, whatever came since */
	/* Changed by the thread alone, and by the main thread in PAUSING. NULL: clones share it. */
	struct memory_snapshot *snapshot;
	bool live, tracked;
	char reason[SAVE_REASON_MAX];
	struct memory_snapshot_stats memory_stats; /* once snapshot is NULL again */
	int64_t started_ns, ended_ns, paused_at_ns, paused_ns;
	char id[IMAGE_ID_TEXT];
	struct image_writer_stats stats;
	struct err err; /* the first */
	unsigned int refs; /* this, and what was posted */
};

/* One of the threads that read memory. */
struct save_reader {
	struct save *save;
	struct memory_thread *self;
	pthread_t thread;
};

/* ---- save.c: for the thread ---- */

/* The next phase, and its observer is told. */
void save_enter_phase(struct save *save, enum save_phase phase);
/* Has the main thread take the moment, and waits for it. 0, or why not; -ECANCELED. */
int save_moment(struct save *save, struct err *err);
/* The guest may go on; has_memory: memory has been read, too, or will not be. */
void save_let_go(struct save *save, bool has_memory);
/* Keeps the first; the others are told by it. Returns err's code. */
int save_fail(struct save *save, const struct err *err);
static inline bool save_is_cancelled(const struct save *save)
{
	return atomic_load(&save->cancelled);
}
/* -ECANCELED. */
int save_cancelled(struct err *err);

/* ---- save_work.c ---- */

void *save_main(void *save);

/* ---- save_memory.c ---- */

/* How memory will be read: live or paused; while the guest runs still. */
int save_prepare(struct save *save, struct err *err);
/* In SAVE_VM: all that begins with the moment. Main thread. */
int save_begin(struct save *save, struct err *err);
/* After the moment: where it could not be live after all, the guest stands still. */
int save_fall_back(struct save *save, struct err *err);
/* Reads all of memory into the writer. */
int save_memory(struct save *save, struct err *err);
/* Of memory; nothing is watched any more, or only for the next save. */
void save_end_snapshot(struct save *save, bool saved);

/* ---- save_shared.c: memory that clones share ---- */

int save_shared_run(const struct save_reader *reader, struct err *err);

/* ---- save_early.c ---- */

/* Main thread: makes the list. 0 or a negative errno. */
int save_early_list(struct save *save, struct err *err);
/*
 * Pages of a span, of `mask` from `first` on, are known: at data + i * PAGE_BYTES, or zeros (NULL).
 * Any thread; each page once. 0 or -ENOMEM.
 */
int save_early_note(struct save *save, gfn_t first, uint32_t mask, const uint8_t *data);
/* Nobody has these. */
void save_early_lose(struct save *save, gfn_t first, uint32_t mask);
/*
 * After all of memory has been read: the state's object. Those that are neither are as the parent
 * has them. -ENODATA: lost; or what reading the parent fails with.
 */
int save_early_encode(struct save *save, struct buf *out, struct err *err);
void save_early_fini(struct save *save);

#endif
