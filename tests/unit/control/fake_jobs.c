// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// What is asked to do something with the machine in fake.h: a migration, a
// snapshot, a dump.
#include "fake.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- migrate/ ---- */

const char *migration_status_name(enum migration_status status)
{
	static const char *const names[] = {
		"none", "setup", "cancelling", "cancelled", "device", "postcopy-active",
		"postcopy-paused", "postcopy-recover", "completed", "failed",
	};

	return names[status];
}

void migration_observe(struct migration *migration, const struct migration_observer *observer)
{
	migration->observer = *observer;
}

static int called(struct migration *migration, const char *name, const char *uri,
		  const struct migration_trust *trust, struct err *err)
{
	snprintf(migration->last, sizeof(migration->last), "%s %s%s", name, uri,
		 !trust ? "" : trust->insecure ? " insecure" : " with a secret");
	return migration->fail ? err_set(err, -EIO, "no \xff luck") : 0;
}

int migration_trust_read(struct migration_trust *trust, const char *secret_file, bool insecure,
			 struct err *err)
{
	(void)err;
	*trust = (struct migration_trust){ .secret.given = secret_file, .insecure = insecure };
	return 0;
}

int migration_incoming(struct migration *migration, const char *uri,
		       const struct migration_trust *trust, struct err *err)
{
	return called(migration, "incoming", uri, trust, err);
}

int migration_outgoing(struct migration *migration, const char *uri, bool resume,
		       const struct migration_trust *trust, struct err *err)
{
	return called(migration, resume ? "resume" : "outgoing", uri, trust, err);
}

int migration_recover(struct migration *migration, const char *uri,
		      const struct migration_trust *trust, struct err *err)
{
	return called(migration, "recover", uri, trust, err);
}

int migration_pause(struct migration *migration, struct err *err)
{
	return called(migration, "pause", "", NULL, err);
}

int migration_cancel(struct migration *migration, struct err *err)
{
	return called(migration, "cancel", "", NULL, err);
}

int migration_reclaim(struct migration *migration, struct err *err)
{
	return called(migration, "reclaim", "", NULL, err);
}

void migration_params_get(struct migration *migration, struct migration_params *params)
{
	*params = migration->params;
}

int migration_params_set(struct migration *migration, const struct migration_params *params,
			 struct err *err)
{
	(void)err;
	migration->params = *params;
	return 0;
}

void migration_query(struct migration *migration, struct migration_info *info)
{
	*info = migration->info;
}

/* ---- snapshots ---- */

const char *save_phase_name(enum save_phase phase)
{
	return phase == SAVE_FAILED ? "failed" : phase == SAVE_COMPLETED ? "completed" : "copying";
}

void snapshot_observe(struct snapshot *snapshot, const struct snapshot_observer *observer)
{
	snapshot->observer = *observer;
}

int snapshot_save(struct snapshot *snapshot, const struct snapshot_save_args *args, char *id,
		  struct err *err)
{
	snprintf(snapshot->last, sizeof(snapshot->last), "save %s %s %d%s%s %u%s%s%s%s%s%s%s",
		 args->place, args->id ? args->id : "-", args->level, args->credentials ? " " : "",
		 args->credentials ? args->credentials : "", args->deadline_ms,
		 args->paused ? " paused" : "", args->track ? " track" : "",
		 args->incremental ? " incremental" : "", args->parent ? " " : "",
		 args->parent ? args->parent : "", args->key_file ? " " : "",
		 args->key_file ? args->key_file : "");
	if (snapshot->fail)
		return err_set(err, -EBUSY, "fake failure");
	strcpy(id, args->id ? args->id : "save-1");
	return 0;
}

int snapshot_cancel(struct snapshot *snapshot, const char *id, struct err *err)
{
	snprintf(snapshot->last, sizeof(snapshot->last), "cancel %s", id ? id : "-");
	return snapshot->fail ? err_set(err, -ENOENT, "there is no such job") : 0;
}

bool snapshot_query(struct snapshot *snapshot, struct snapshot_info *info)
{
	*info = snapshot->info;
	return snapshot->saved;
}

bool snapshot_get_source(struct snapshot *snapshot, struct snapshot_source *source)
{
	*source = (struct snapshot_source){ .store = "/images",
					    .name = "web1",
					    .id = "00",
					    .info.fill = snapshot->fill,
					    .info.replay = { .state = WORKER_REPLAY_RUNNING,
							     .set = 40,
							     .present = 30,
							     .missed = 2 },
					    .has_replay = true,
					    .replay = { .mode = "on",
							.phase = REPLAY_LOADED,
							.record = REPLAY_RECORDING,
							.runs = 3 } };
	return snapshot->restored;
}

int snapshot_set_fill(struct snapshot *snapshot, const struct worker_fill *fill, struct err *err)
{
	if (!snapshot->restored)
		return err_set(err, -ENOENT, "the machine was not restored from an image");
	snapshot->fill = *fill;
	return 0;
}

/* ---- dumps ---- */

struct dump {
	struct dump_config config;
	struct dump_info info;
};

const char *dump_status_name(enum dump_status status)
{
	return status == DUMP_ACTIVE	? "active" :
	       status == DUMP_COMPLETED ? "completed" :
	       status == DUMP_FAILED	? "failed" :
					  "none";
}

int dump_new(struct dump **out, const struct dump_config *config, struct err *err)
{
	struct dump *dump;

	if (!strcmp(config->path, "/nowhere"))
		return err_set(err, -ENOENT, "/nowhere: fake failure");
	dump = calloc(1, sizeof(*dump));
	if (!dump)
		return err_set(err, -ENOMEM, "no memory");
	dump->config = *config;
	dump->info = (struct dump_info){ DUMP_ACTIVE, config->length ? config->length : 8192,
					 4096, config->begin >> PAGE_SHIFT, { 0 } };
	*out = dump;
	return 0;
}

void dump_cancel(struct dump *dump)
{
	if (dump->info.status != DUMP_ACTIVE)
		return;
	dump->info.status = DUMP_FAILED;
	err_set(&dump->info.err, -ECANCELED, "cancelled");
	dump->config.changed(dump->config.arg);
}

void dump_query(struct dump *dump, struct dump_info *info)
{
	*info = dump->info;
}

void dump_free(struct dump *dump)
{
	free(dump);
}
