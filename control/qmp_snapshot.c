// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// QMP commands on snapshots, which QEMU has none like: a save is a job that is begun, and then told
// of by events; and where the memory of a machine comes from that was restored out of one.
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "control/qmp_internal.h"

#define LEVEL_MAX 19u
#define DEADLINE_MIN_MS 100u
#define DEADLINE_MAX_MS 3600000u

static const char *status_of(enum save_phase phase)
{
	return save_phase_is_over(phase) ? save_phase_name(phase) : "running";
}

/* How it gets memory: whether the guest goes on meanwhile, and what that costs it. */
static void add_memory(json_t *job, const struct save_info *save)
{
	const struct memory_snapshot_stats *memory = &save->memory;
	json_t *more;

	/* Before, it is not known. */
	if (save->phase >= SAVE_PAUSING)
		json_object_set_new(job, "mode", json_string(save->live ? "live" : "paused"));
	if (save->phase >= SAVE_PAUSING && !save->live && *save->reason)
		json_object_set_new(job, "paused-because", qmp_string(save->reason));
	more = json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:b}", "prepare-us",
			 qmp_uint((uint64_t)(memory->prepare_ns / NS_PER_US)), "copied-pages",
			 qmp_uint(memory->copied * MEMORY_SPAN_PAGES), "buffered-bytes",
			 qmp_uint(memory->buffered * MEMORY_SPAN_BYTES), "buffered-max-bytes",
			 qmp_uint(memory->buffered_max * MEMORY_SPAN_BYTES), "throttled",
			 qmp_uint(memory->throttled), "throttled-us",
			 qmp_uint((uint64_t)(memory->throttled_ns / NS_PER_US)), "tracked",
			 save->tracked);
	json_object_update(job, more);
	json_decref(more);
}

static json_t *job_to_json(const struct snapshot_info *info)
{
	const struct save_info *save = &info->save;
	int64_t end = save->ended_ns ? save->ended_ns : clock_now_ns();
	json_t *job;

	job = json_pack(
		"{s:s,s:s,s:s,s:o,s:o,s:o*,s:o*,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o*}", "id",
		info->id, "status", status_of(save->phase), "phase", save_phase_name(save->phase),
		"store", qmp_string(info->store), "image", qmp_string(info->name), "image-id",
		*save->id ? json_string(save->id) : NULL, "parent",
		*info->parent ? qmp_string(info->parent) : NULL, "total-pages",
		qmp_uint(save->pages), "done-pages", qmp_uint(save->pages_done), "data-pages",
		qmp_uint(save->data_pages), "zero-pages", qmp_uint(save->zero_pages), "kept-pages",
		qmp_uint(save->kept_pages), "stored-bytes", qmp_uint(save->stored_bytes),
		"downtime-us", qmp_uint((uint64_t)(save->paused_ns / NS_PER_US)), "total-us",
		qmp_uint((uint64_t)((end - save->started_ns) / NS_PER_US)), "error-desc",
		save->phase == SAVE_FAILED ? qmp_string(save->err.text) : NULL);
	if (job)
		add_memory(job, save);
	return job;
}

void qmp_on_snapshot(void *arg, const struct snapshot_info *info)
{
	qmp_event(arg, "POSTERN_SNAPSHOT", job_to_json(info));
}

static int no_snapshots(struct err *err)
{
	return err_set(err, -ENOTSUP, "this machine has no snapshots");
}

/* *fd: the descriptor of the key, or -1. */
static int key_fd_take(struct qmp_call *call, int *fd, struct err *err)
{
	const char *name = qmp_arg_string(call, "key-fd");

	*fd = name ? qmp_take_fd(call, name, err) : -1;
	if (!name || *fd < 0)
		return name ? *fd : 0;
	if (qmp_fd_is_whole(*fd))
		return 0;
	close(*fd);
	*fd = -1;
	return err_set(err, -EAGAIN,
		       "Parameter 'key-fd' expects a file, or a pipe whose other end is closed: "
		       "nobody here waits for what is still to come");
}

static int cmd_snapshot_save(struct qmp_call *call, struct err *err)
{
	uint64_t deadline = qmp_arg_uint(call, "store-deadline", 0);
	const char *parent = qmp_arg_string(call, "parent");
	struct snapshot_save_args args = {
		.place = qmp_arg_string(call, "to"),
		.id = qmp_arg_string(call, "id"),
		.level = (int)qmp_arg_uint(call, "level", 0),
		.credentials = qmp_arg_string(call, "store-credentials"),
		.deadline_ms = (unsigned int)deadline,
		.paused = qmp_arg_bool(call, "paused"),
		.track = qmp_arg_bool(call, "track"),
		.buffer_bytes = qmp_arg_uint(call, "buffer", 0),
		.incremental = qmp_arg_bool(call, "incremental") || parent,
		.parent = parent,
		.key_file = qmp_arg_string(call, "key-file"),
	};
	char id[SNAPSHOT_ID_MAX + 1];
	int r;

	if (!call->qmp->snapshot)
		return no_snapshots(err);
	if (qmp_arg_uint(call, "level", 0) > LEVEL_MAX)
		return err_set(err, -EINVAL,
			       "Parameter 'level' expects an integer in the range of 0 to %u",
			       LEVEL_MAX);
	if (deadline && (deadline < DEADLINE_MIN_MS || deadline > DEADLINE_MAX_MS))
		return err_set(err, -EINVAL,
			       "Parameter 'store-deadline' expects milliseconds in the range of %u "
			       "to %u",
			       DEADLINE_MIN_MS, DEADLINE_MAX_MS);
	r = key_fd_take(call, &args.key_fd, err);
	args.key_fd_given = args.key_fd >= 0;
	if (!r)
		r = snapshot_save(call->qmp->snapshot, &args, id, err);
	if (args.key_fd_given)
		close(args.key_fd);
	if (!r)
		call->result = json_pack("{s:s}", "id", id);
	return r;
}

static int cmd_snapshot_cancel(struct qmp_call *call, struct err *err)
{
	if (!call->qmp->snapshot)
		return no_snapshots(err);
	return snapshot_cancel(call->qmp->snapshot, qmp_arg_string(call, "id"), err);
}

static int cmd_snapshot_query(struct qmp_call *call, struct err *err)
{
	struct snapshot_info info;

	(void)err;
	call->result = json_array();
	if (call->qmp->snapshot && snapshot_query(call->qmp->snapshot, &info))
		json_array_append_new(call->result, job_to_json(&info));
	return 0;
}

static int cmd_fill(struct qmp_call *call, struct err *err)
{
	const char *fill = qmp_arg_string(call, "fill");
	struct worker_fill wanted = { .rate = qmp_arg_uint(call, "rate", 0) };

	if (strcmp(fill, "on") && strcmp(fill, "off"))
		return err_set(err, -EINVAL, "Parameter 'fill' expects 'on' or 'off'");
	wanted.off = !strcmp(fill, "off");
	if (!call->qmp->snapshot)
		return no_snapshots(err);
	return snapshot_set_fill(call->qmp->snapshot, &wanted, err);
}

static const char *replay_state(const struct snapshot_source *source)
{
	static const char *const states[] = {
		[WORKER_REPLAY_NONE] = "none",
		[WORKER_REPLAY_RUNNING] = "running",
		[WORKER_REPLAY_ENDED] = "ended",
		[WORKER_REPLAY_FAILED] = "failed",
	};

	if (source->replay.options.replay && source->replay.phase == REPLAY_LOADING)
		return "loading";
	return source->replay.phase == REPLAY_BY_ANOTHER ? "by-another" :
							   states[source->info.replay.state];
}

/* What the guest touches first, as it was known, and as it is seen now. */
static json_t *working_set_to_json(const struct snapshot_source *source)
{
	static const char *const records[] = {
		[REPLAY_RECORD_OFF] = "off",
		[REPLAY_RECORDING] = "running",
		[REPLAY_RECORDED] = "ended",
		[REPLAY_NOT_RECORDED] = "failed",
	};
	const struct replay_info *info = &source->replay;
	const struct worker_replay_stats *stats = &source->info.replay;

	return json_pack("{s:s,s:o,s:s,s:o,s:o,s:o,s:o,s:o,s:o,s:s,s:o,s:o}", "mode", info->mode,
			 "runs", qmp_uint(info->runs), "replay", replay_state(source), "replay-us",
			 qmp_uint((uint64_t)(stats->took_ns / NS_PER_US)), "spans",
			 qmp_uint(stats->set), "present", qmp_uint(stats->present), "asked",
			 qmp_uint(stats->asked), "missed", qmp_uint(stats->missed),
			 "replayed-pages", qmp_uint(stats->pages), "record", records[info->record],
			 "touches", qmp_uint(info->touches), "written", qmp_uint(info->written));
}

static json_t *source_to_json(const struct snapshot_source *source)
{
	const struct image_source_info *info = &source->info;
	int64_t since = info->failing_since_ns;
	json_t *out;

	out = json_pack("{s:s,s:o,s:o,s:s,s:s,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "kind", "image",
			"store", qmp_string(source->store), "image", qmp_string(source->name),
			"image-id", source->id, "fill", info->fill.off ? "off" : "on", "rate",
			qmp_uint(info->fill.rate), "waiting", qmp_uint(info->worker.waiting),
			"urgent-reads", qmp_uint(info->worker.urgent_reads), "urgent-pages",
			qmp_uint(info->worker.urgent_pages), "span-pages",
			qmp_uint(info->worker.span_pages), "bulk-pages",
			qmp_uint(info->worker.bulk_pages), "failed-reads",
			qmp_uint(info->worker.failed), "read-bytes", qmp_uint(info->image.bytes));
	if (out)
		json_object_set_new(out, "fill-rate",
				    qmp_uint(info->worker.bulk_rate * PAGE_BYTES));
	if (out && source->has_replay)
		json_object_set_new(out, "working-set", working_set_to_json(source));
	if (out && since) {
		json_object_set_new(out, "failing-us",
				    qmp_uint((uint64_t)((clock_now_ns() - since) / NS_PER_US)));
		json_object_set_new(out, "error-desc", qmp_string(info->error));
	}
	return out;
}

json_t *qmp_source(struct qmp *qmp)
{
	struct snapshot_source source;
	struct migration_info info;

	if (qmp->snapshot && snapshot_get_source(qmp->snapshot, &source))
		return source_to_json(&source);
	migration_query(qmp->migration, &info);
	if (!info.incoming || info.status == MIGRATION_NONE)
		return NULL;
	return json_pack("{s:s,s:s}", "kind", "migration", "status",
			 migration_status_name(info.status));
}

static const struct qmp_arg save_args[] = {
	{ "to", QMP_STRING, false },	      { "id", QMP_STRING, true },
	{ "level", QMP_UINT, true },	      { "paused", QMP_BOOL, true },
	{ "track", QMP_BOOL, true },	      { "incremental", QMP_BOOL, true },
	{ "parent", QMP_STRING, true },	      { "store-credentials", QMP_STRING, true },
	{ "store-deadline", QMP_UINT, true }, { "key-file", QMP_STRING, true },
	{ "key-fd", QMP_STRING, true },	      { "buffer", QMP_UINT, true },
	{ 0 },
};
static const struct qmp_arg cancel_args[] = { { "id", QMP_STRING, true }, { 0 } };
static const struct qmp_arg fill_args[] = {
	{ "fill", QMP_STRING, false },
	{ "rate", QMP_UINT, true },
	{ 0 },
};

const struct qmp_command qmp_snapshot_commands[] = {
	{ "postern-snapshot-save", cmd_snapshot_save, save_args, false },
	{ "postern-snapshot-cancel", cmd_snapshot_cancel, cancel_args, false },
	{ "query-postern-snapshots", cmd_snapshot_query, NULL, false },
	{ "postern-set-fill", cmd_fill, fill_args, false },
	{ 0 },
};
