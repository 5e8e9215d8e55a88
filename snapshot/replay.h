/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The working set of an image, of one restored machine: what it touches first is recorded and
 * merged into the set that lies beside the image, and what the set says is read before it is wanted
 * (docs/image.md, The working set; docs/snapshots.md).
 *
 * One thread does it all: it reads the set while the state is being read, hands it to the source,
 * and writes it anew some seconds after the guest ran. Nobody waits for it: not the guest, not a
 * fault, not the machine's end. A set that cannot be read, is of another image, or cannot be
 * written is said once, in the log, and is no error.
 *
 * Main thread, but for replay_new.
 */
#ifndef POSTERN_SNAPSHOT_REPLAY_H
#define POSTERN_SNAPSHOT_REPLAY_H

#include "memory/memory.h"
#include "source/image.h"

struct replay;

struct replay_options {
	bool off; /* neither of the two */
	bool record, replay;
};

/* "on", "off", "record", "replay". 0 or -EINVAL. */
int replay_options_parse(struct replay_options *options, const char *text);

enum replay_phase {
	REPLAY_LOADING, /* the set is on its way, or the machine is not there yet */
	REPLAY_NO_SET, /* there is none, or none that can be used */
	REPLAY_LOADED,
	REPLAY_BY_ANOTHER, /* that shares its pages with this one */
};

enum replay_record {
	REPLAY_RECORD_OFF,
	REPLAY_RECORDING,
	REPLAY_RECORDED, /* it has come to its end, and was written */
	REPLAY_NOT_RECORDED, /* the store refuses */
};

struct replay_info {
	struct replay_options options;
	const char *mode; /* these options' name */
	enum replay_phase phase;
	enum replay_record record;
	uint32_t runs; /* that the set was made of */
	uint64_t touches; /* noted so far */
	uint64_t written; /* pages of the set that was written last; 0: none was */
};

/*
 * Any thread. Begins to read the set of `image`; key: of an encrypted one, else NULL. store and key
 * outlive it. -ENOMEM, or what a thread's start fails with.
 */
int replay_new(struct replay **out, const struct replay_options *options, struct store *store,
	       const char *image, const struct image_key *key, struct err *err);
/*
 * The image is open: what the source is to tell of touches, for its config; NULL: nothing is
 * recorded. -ENOMEM.
 */
int replay_open(struct replay *replay, const struct manifest *manifest, struct touches **out,
		struct err *err);
/*
 * The source is started. mem and source outlive the replay. memfd: what it shares with others, of
 * whom one replays; or -1.
 */
void replay_attach(struct replay *replay, struct image_source *source, struct memory *mem,
		   int memfd);
/* The guest runs from now on; further calls do nothing. */
void replay_guest_runs(struct replay *replay);
/* All memory has come: nothing more will be seen. */
void replay_complete(struct replay *replay);
void replay_get_info(struct replay *replay, struct replay_info *info);
/* Ends what is under way. Before the source is freed; NULL is nothing. */
void replay_free(struct replay *replay);

#endif
