/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A machine out of an image: it runs before its memory is there.
 *
 *   restore_open   on a thread: the store, and what the image is
 *   (the caller builds the machine that restore_machine describes, and that thread goes on)
 *   restore_await  the rest: index and state, and the early pages in their places; all is
 *                  checked that can be
 *   restore_load   the machine's state, the page source
 *   restore_run    the guest runs
 *
 * What the guest reboots with is fetched while it runs (restore_boot_find). It lives as long as the
 * machine, whose memory may still come from it, and who is saved again may name its pages.
 *
 * Main thread; no call waits for the store.
 */
#ifndef POSTERN_SNAPSHOT_RESTORE_H
#define POSTERN_SNAPSHOT_RESTORE_H

#include "machine/machine.h"
#include "snapshot/place.h"
#include "snapshot/replay.h"
#include "source/image.h"

struct restore;

struct restore_options {
	const struct store_options *store; /* NULL: none; borrowed until done */
	/* Of an encrypted image: the restore's from now on, also when it fails; NULL: none. */
	struct image_key *key;
	bool allow_unencrypted; /* image/image.h */
	struct replay_options working_set;
	/* On the thread, when all that restore_load needs is there: it has time then. NULL: nothing. */
	void (*meanwhile)(void *arg);
	void *meanwhile_arg; /* outlives the restore */
};

/*
 * Begins to open; `done`, on the loop, once: it is known what machine the image has, or err says
 * why not. -EINVAL: no place of an image; -ENOMEM.
 */
int restore_open(struct restore **out, struct loop *loop, const char *place,
		 const struct restore_options *options,
		 void (*done)(void *arg, const struct err *err), void *arg, struct err *err);

/*
 * `done`, on the loop, once: all is there that restore_load needs, or err says why not. After
 * restore_open's was told of no error; 1: it is there already, and `done` is not called; or a
 * negative errno.
 */
int restore_await(struct restore *restore, void (*done)(void *arg, const struct err *err),
		  void *arg, struct err *err);

/*
 * Once it is known. Sets of config what the image says: cpus, memory, and what a machine has whose
 * guest comes from elsewhere. Where cpus or memory_bytes are not 0 they have to be the image's:
 * -EINVAL.
 */
int restore_machine(struct restore *restore, struct machine_config *config, struct err *err);
/* Of the image. */
const struct image_id *restore_id(const struct restore *restore);
/* Does the image have a kernel for the guest's reboots? */
bool restore_has_boot(const struct restore *restore);

/* What the user says of it. */
struct restore_terms {
	bool changed_disks; /* it is known to be fine that disks are not as they were */
	char *const *below; /* as host_check_disks takes it */
	bool clock_realtime; /* the guest's clocks show the time since it was saved */
};

/*
 * After restore_await. The machine is in INMIGRATE, nothing of its memory was touched. -ESTALE: disks have changed
 * (host.h); -ENODATA: the image does not say when its guest was saved. Before the loop runs; looks
 * at disks' files.
 */
int restore_load(struct restore *restore, struct machine *machine,
		 const struct restore_terms *terms, const struct worker_fill *fill,
		 struct err *err);
/* Lets it run, unless it was stopped meanwhile. Errors as machine_leave_migrate. */
int restore_run(struct restore *restore, struct err *err);

/* For machine_config's boot_find: machine_boot_found comes when it is there. */
int restore_boot_find(struct restore *restore, struct err *err);

/* Is what the guest reboots with here, so that it can be saved? -EAGAIN: not yet. */
int restore_check_boot(struct restore *restore, struct err *err);

const struct snapshot_place *restore_place(const struct restore *restore);
struct store *restore_store(struct restore *restore);
struct image *restore_image(struct restore *restore);
/* Its own; NULL: none was given. */
const struct image_key *restore_key(const struct restore *restore);
/* NULL before restore_load. */
struct image_source *restore_source(struct restore *restore);

/* NULL: nothing is done with a working set. */
struct replay *restore_replay(struct restore *restore);

/* Of the machine, before machine_free: its memory is detached, threads end. NULL is nothing. */
void restore_free(struct restore *restore);

#endif
