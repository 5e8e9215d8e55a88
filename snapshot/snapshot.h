/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Snapshots of one machine: the save that is under way, or was last, and the image that it was
 * restored from, if it was. What control/ speaks to. Main thread; no call waits.
 */
#ifndef POSTERN_SNAPSHOT_SNAPSHOT_H
#define POSTERN_SNAPSHOT_SNAPSHOT_H

#include "snapshot/restore.h"
#include "snapshot/save.h"

#define SNAPSHOT_ID_MAX 64

struct snapshot;

struct snapshot_save_args {
	const char *place; /* STORE/NAME */
	const char *id; /* of the job; NULL: one is made */
	int level; /* zstd's; 0: the default */
	/*
	 * Who asks the store, a file, and what one request may take. NULL and 0: as of the image
	 * that the machine was restored from, where that is in this store; else the usual.
	 */
	const char *credentials;
	unsigned int deadline_ms;
	bool paused; /* the guest stands still until its memory has been read */
	bool track; /* afterwards, notice what is written, for the next one */
	uint64_t buffer_bytes; /* for what the guest writes meanwhile; 0: the usual */
	/* On top of the image that the machine was last saved into, or restored from. */
	bool incremental;
	const char *parent; /* with incremental: that has to have this name; NULL: whatever */
	/*
	 * What it is encrypted with: a file, named from / on. NULL: the key of the image that the
	 * machine was last saved into, or restored from, if any.
	 */
	const char *key_file;
	/* Or a descriptor that has it whole, so that nothing is waited for; stays the caller's. */
	bool key_fd_given;
	int key_fd;
};

struct snapshot_info {
	char id[SNAPSHOT_ID_MAX + 1];
	char store[STORE_URL_MAX];
	char name[IMAGE_NAME_MAX];
	char parent[IMAGE_NAME_MAX]; /* of an incremental save; "" */
	struct save_info save;
};

/* Where late memory comes from. */
struct snapshot_source {
	const char *store, *name; /* until the next call */
	char id[IMAGE_ID_TEXT];
	struct image_source_info info;
	bool has_replay;
	struct replay_info replay;
};

struct snapshot_observer {
	/* It is in another phase; and once a second while it is under way. */
	void (*progress)(void *arg, const struct snapshot_info *info);
	void *arg;
};

/* restore, which is the snapshot's from now on also when this fails, may be NULL. */
int snapshot_new(struct snapshot **out, struct machine *machine, struct restore *restore,
		 struct err *err);
/* Before machine_free. NULL is nothing. */
void snapshot_free(struct snapshot *snapshot);
/* One. */
void snapshot_observe(struct snapshot *snapshot, const struct snapshot_observer *observer);

/*
 * Begins to save the machine. id, of SNAPSHOT_ID_MAX + 1 bytes, gets the job's. -EBUSY: another
 * save is under way; -ENOENT: incremental, and there is no image that this could be on top of;
 * -EINVAL: it is not `parent`, or lies in another store; to track in a paused save; save_new's
 * errors, and image_key_load's.
 */
int snapshot_save(struct snapshot *snapshot, const struct snapshot_save_args *args, char *id,
		  struct err *err);
/* id: NULL is any. -ENOENT: there is no such job; one that is over stays what it is: 0. */
int snapshot_cancel(struct snapshot *snapshot, const char *id, struct err *err);
/* False: nothing was ever saved. */
bool snapshot_query(struct snapshot *snapshot, struct snapshot_info *info);

/* False: the machine was not restored. */
bool snapshot_get_source(struct snapshot *snapshot, struct snapshot_source *source);
/* -ENOENT: it was not. */
int snapshot_set_fill(struct snapshot *snapshot, const struct worker_fill *fill, struct err *err);

#endif
