/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A machine saved into an image: one job, from its start to its end.
 *
 *   OPENING    a thread opens the store and looks that the name is free
 *   PREPARING  all memory is protected against writes, while the guest runs
 *   PAUSING    the main thread takes the moment: the guest paused, its state
 *   COPYING    threads take memory as it was then and write it; the guest goes
 *              on, unless the save is a paused one
 *   FINISHING  state, what it reboots with, index, manifest; the guest goes on by now
 *   COMPLETED, FAILED, CANCELLED
 *
 * A save is live where that can be (memory/snapshot.h). It is a paused one if
 * the host cannot report writes, if memory is one that clones share, if the
 * guest is stopped anyway, or if that was asked for.
 *
 * Main thread, all of it, and no call waits: for a store, a disk or a page wait
 * threads of the job's own, and a cancel ends each of these waits. Until the
 * manifest is written, which is last, there is no image of that name.
 */
#ifndef POSTERN_SNAPSHOT_SAVE_H
#define POSTERN_SNAPSHOT_SAVE_H

#include <limits.h>

#include "image/image.h"
#include "machine/machine.h"
#include "memory/snapshot.h"
#include "snapshot/place.h"

enum save_phase {
	SAVE_OPENING,
	SAVE_PREPARING,
	SAVE_PAUSING,
	SAVE_COPYING,
	SAVE_FINISHING,
	SAVE_COMPLETED,
	SAVE_FAILED,
	SAVE_CANCELLED,
};
/* "opening", "pausing", ... */
const char *save_phase_name(enum save_phase phase);
static inline bool save_phase_is_over(enum save_phase phase)
{
	return phase >= SAVE_COMPLETED;
}

#define SAVE_REASON_MAX 508

struct save_config {
	struct machine *machine;
	struct snapshot_place place;
	unsigned int threads; /* that read and compress; 0: 2 */
	int level; /* zstd's; 0: the default */
	bool paused; /* the guest is to stand still until memory has been read */
	bool track; /* afterwards, notice what is written: memory/snapshot.h */
	uint64_t buffer_bytes; /* for copies before a first write; 0: memory/snapshot.h's */
	/*
	 * Write only what has changed since the parent, as far as that is known: memory_knows says
	 * that what is tracked is tracked since the parent was saved.
	 */
	bool incremental, memory_knows;
	/*
	 * An image of the same store that has, or had, all that this guest does not have itself
	 * yet: what has not come is named as it lies there. By its id; "": none.
	 */
	char parent[IMAGE_NAME_MAX];
	char parent_id[IMAGE_ID_TEXT];
	/* Of place, if somebody has it open: else NULL. */
	struct store *store;
	/* What the image is encrypted with: the save's from now on, also when it fails; or NULL. */
	struct image_key *key;
	/* Of a store that is opened for this. */
	unsigned int deadline_ms; /* of each request; 0: the usual */
	char credentials[PATH_MAX]; /* a file; "": from the environment */
	/*
	 * Main thread: another phase. After the last one save_free may come,
	 * and not from inside.
	 */
	void (*changed)(void *arg);
	void *arg;
};

struct save_info {
	enum save_phase phase;
	uint64_t pages, pages_done;
	uint64_t data_pages, zero_pages, kept_pages;
	uint64_t stored_bytes;
	int64_t started_ns, ended_ns; /* CLOCK_MONOTONIC; 0: not yet */
	int64_t paused_ns; /* for how long the guest stood still, so far */
	bool live; /* it goes on while memory is read; known from PAUSING on */
	char reason[SAVE_REASON_MAX]; /* why it does not; "" */
	bool tracked; /* COMPLETED: what is written from now on is noticed */
	struct memory_snapshot_stats memory; /* buffer, throttling; all 0 where there is none */
	char id[IMAGE_ID_TEXT]; /* of the image; "" before it has one */
	struct err err; /* FAILED */
};

struct save;

/*
 * Begins. -EBUSY: the guest is not here, or its memory is still arriving from
 * another host; a kernel that it reboots with and that cannot be opened. What
 * else goes wrong is FAILED. The config's strings are copied.
 */
int save_new(struct save **out, const struct save_config *config, struct err *err);
/* The guest goes on at once. */
void save_cancel(struct save *save);
void save_info(struct save *save, struct save_info *info);
/* Cancels, ends the threads. Waits for none of what a cancel ends. NULL is nothing. */
void save_free(struct save *save);

#endif
