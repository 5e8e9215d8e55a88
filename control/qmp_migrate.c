// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// QMP commands on migration, named and shaped as QEMU's.
#include <errno.h>
#include <string.h>

#include "control/qmp_internal.h"

#define US_PER_S 1000000.0

/*
 * What QEMU 7.2 has a switch for. Postern migrates one way, so all but "events"
 * stand where they stand.
 */
struct capability {
	const char *name;
	bool on;
};
static const struct capability capabilities[] = {
	{ "xbzrle", false },
	{ "rdma-pin-all", false },
	{ "auto-converge", false },
	{ "zero-blocks", false },
	{ "compress", false },
	{ "events", true },
	{ "postcopy-ram", true },
	{ "x-colo", false },
	{ "release-ram", false },
	{ "block", false },
	{ "return-path", true },
	{ "pause-before-switchover", false },
	{ "multifd", false },
	{ "dirty-bitmaps", false },
	{ "postcopy-blocktime", false },
	{ "late-block-activate", false },
	{ "x-ignore-shared", false },
	{ "validate-uuid", false },
	{ "background-snapshot", false },
	{ "zero-copy-send", false },
	{ "postcopy-preempt", true },
};
#define NCAPABILITIES (sizeof(capabilities) / sizeof(capabilities[0]))

/* Each with the command's own trust, or NULL where it brings none. */
typedef int (*trusting_fn)(struct qmp_call *call, const struct migration_trust *trust,
			   struct err *err);

static int with_trust(struct qmp_call *call, trusting_fn fn, struct err *err)
{
	const char *secret_file = qmp_arg_string(call, "x-postern-secret-file");
	bool insecure = qmp_arg_bool(call, "x-postern-insecure");
	struct migration_trust trust;
	int r;

	if (!secret_file && !insecure)
		return fn(call, NULL, err);
	r = migration_trust_read(&trust, secret_file, insecure, err);
	if (!r)
		r = fn(call, &trust, err);
	explicit_bzero(&trust, sizeof(trust));
	return r;
}

static int migrate(struct qmp_call *call, const struct migration_trust *trust, struct err *err)
{
	return migration_outgoing(call->qmp->migration, qmp_arg_string(call, "uri"),
				  qmp_arg_bool(call, "resume"), trust, err);
}

static int cmd_migrate(struct qmp_call *call, struct err *err)
{
	if (qmp_arg_bool(call, "blk") || qmp_arg_bool(call, "inc"))
		return err_set(err, -ENOTSUP, "migration of disks (blk, inc) is not supported");
	return with_trust(call, migrate, err);
}

static int incoming(struct qmp_call *call, const struct migration_trust *trust, struct err *err)
{
	return migration_incoming(call->qmp->migration, qmp_arg_string(call, "uri"), trust, err);
}

static int cmd_incoming(struct qmp_call *call, struct err *err)
{
	if (machine_state(call->qmp->machine) != RUN_STATE_INMIGRATE)
		return err_set(err, -EINVAL, "'-incoming' was not specified on the command line");
	return with_trust(call, incoming, err);
}

static int cmd_pause(struct qmp_call *call, struct err *err)
{
	return migration_pause(call->qmp->migration, err);
}

static int recover(struct qmp_call *call, const struct migration_trust *trust, struct err *err)
{
	return migration_recover(call->qmp->migration, qmp_arg_string(call, "uri"), trust, err);
}

static int cmd_recover(struct qmp_call *call, struct err *err)
{
	return with_trust(call, recover, err);
}

static int cmd_cancel(struct qmp_call *call, struct err *err)
{
	return migration_cancel(call->qmp->migration, err);
}

/*
 * Postcopy is all there is, and it starts by itself: only the moments at which
 * QEMU refuses are refused.
 */
static int cmd_start_postcopy(struct qmp_call *call, struct err *err)
{
	struct migration_info info;

	migration_query(call->qmp->migration, &info);
	switch (info.status) {
	case MIGRATION_SETUP:
	case MIGRATION_DEVICE:
	case MIGRATION_POSTCOPY_ACTIVE:
	case MIGRATION_POSTCOPY_PAUSED:
	case MIGRATION_POSTCOPY_RECOVER:
	case MIGRATION_COMPLETED:
		return 0;
	case MIGRATION_NONE:
	case MIGRATION_CANCELLING:
	case MIGRATION_CANCELLED:
	case MIGRATION_FAILED:
		break;
	}
	return err_set(err, -EINVAL, "Start a migration before switching to postcopy");
}

static json_t *ram_to_json(const struct migration_info *info)
{
	double mbps = (double)info->bytes_per_second * 8.0 / US_PER_S;

	return json_pack("{s:o,s:o,s:o,s:o,s:i,s:o,s:o,s:i,s:f,s:i,s:o,s:i,s:o,s:o,s:i,s:i,s:o}",
			 "transferred", qmp_uint(info->ram_sent_bytes), "remaining",
			 qmp_uint(info->ram_remaining_bytes), "total",
			 qmp_uint(info->ram_total_bytes), "duplicate", qmp_uint(info->pages_zero),
			 "skipped", 0, "normal", qmp_uint(info->pages_normal), "normal-bytes",
			 qmp_uint(info->pages_normal * PAGE_BYTES), "dirty-pages-rate", 0, "mbps",
			 mbps, "dirty-sync-count", 0, "page-size", qmp_uint(PAGE_BYTES),
			 "multifd-bytes", 0, "postcopy-requests", qmp_uint(info->pages_urgent),
			 "pages-per-second", qmp_uint(info->bytes_per_second / PAGE_BYTES),
			 "precopy-bytes", 0, "downtime-bytes", 0, "postcopy-bytes",
			 qmp_uint(info->ram_sent_bytes));
}

static json_t *postern_to_json(const struct migration_info *info)
{
	return json_pack("{s:b,s:o,s:o,s:o,s:b}", "incoming", info->incoming, "recoveries",
			 qmp_uint(info->recoveries), "bytes-per-second",
			 qmp_uint(info->bytes_per_second), "urgent-pages",
			 qmp_uint(info->pages_urgent), "reclaimed", info->reclaimed);
}

/* What went wrong and was mended is no error any more. */
static bool has_error(enum migration_status status)
{
	return status == MIGRATION_FAILED || status == MIGRATION_CANCELLED ||
	       status == MIGRATION_POSTCOPY_PAUSED || status == MIGRATION_POSTCOPY_RECOVER;
}

static int cmd_query(struct qmp_call *call, struct err *err)
{
	struct migration_info info;
	json_t *out = json_object();

	(void)err;
	migration_query(call->qmp->migration, &info);
	json_object_set_new(out, "status", json_string(migration_status_name(info.status)));
	json_object_set_new(out, "postern", postern_to_json(&info));
	call->result = out;
	if (info.status == MIGRATION_NONE)
		return 0;
	json_object_set_new(out, "total-time", json_integer(info.total_ms));
	json_object_set_new(out, "setup-time", json_integer(info.setup_ms));
	json_object_set_new(out, "downtime", json_integer(info.downtime_ms));
	if (info.ram_total_bytes)
		json_object_set_new(out, "ram", ram_to_json(&info));
	if (info.error[0] && has_error(info.status))
		json_object_set_new(out, "error-desc", qmp_string(info.error));
	return 0;
}

static int cmd_set_parameters(struct qmp_call *call, struct err *err)
{
	struct migration_params params;
	uint64_t downtime, timeout;

	migration_params_get(call->qmp->migration, &params);
	params.max_postcopy_bandwidth =
		qmp_arg_uint(call, "max-postcopy-bandwidth", params.max_postcopy_bandwidth);
	params.max_bandwidth = qmp_arg_uint(call, "max-bandwidth", params.max_bandwidth);
	downtime = qmp_arg_uint(call, "downtime-limit", params.downtime_limit_ms);
	if (downtime > 2000000)
		return err_set(err, -EINVAL,
			       "Parameter 'downtime-limit' expects an integer in the range of 0 to 2000000 ms");
	timeout = qmp_arg_uint(call, "x-postern-link-timeout", params.link_timeout_ms);
	if (timeout < 100 || timeout > 600000)
		return err_set(
			err, -EINVAL,
			"Parameter 'x-postern-link-timeout' expects an integer in the range of "
			"100 to 600000 ms");
	params.downtime_limit_ms = (unsigned int)downtime;
	params.link_timeout_ms = (unsigned int)timeout;
	return migration_params_set(call->qmp->migration, &params, err);
}

static int cmd_query_parameters(struct qmp_call *call, struct err *err)
{
	struct migration_params params;

	(void)err;
	migration_params_get(call->qmp->migration, &params);
	call->result =
		json_pack("{s:o,s:o,s:o,s:o}", "max-bandwidth", qmp_uint(params.max_bandwidth),
			  "downtime-limit", qmp_uint(params.downtime_limit_ms),
			  "max-postcopy-bandwidth", qmp_uint(params.max_postcopy_bandwidth),
			  "x-postern-link-timeout", qmp_uint(params.link_timeout_ms));
	return 0;
}

static int check_capability(const struct qmp_input *input, const json_t *item, bool *events,
			    struct err *err)
{
	static const struct qmp_arg spec[] = {
		{ "capability", QMP_STRING, false },
		{ "state", QMP_BOOL, false },
		{ 0 },
	};
	const char *name;
	bool on;
	size_t i;
	int r;

	if (!json_is_object(item))
		return err_set(err, -EINVAL,
			       "Invalid parameter type for 'capabilities[]', expected: object");
	r = qmp_args_check(input, item, spec, err);
	if (r < 0)
		return r;
	name = json_string_value(json_object_get(item, "capability"));
	on = json_is_true(json_object_get(item, "state"));
	for (i = 0; i < NCAPABILITIES && strcmp(capabilities[i].name, name) != 0; i++)
		;
	if (i == NCAPABILITIES)
		return err_set(err, -EINVAL, "Parameter 'capability' does not accept value '%s'",
			       name);
	if (!strcmp(name, "events"))
		*events = on;
	else if (on != capabilities[i].on)
		return err_set(err, -ENOTSUP, on ? "capability '%s' is not supported" :
						   "capability '%s' is always on: postcopy is how postern migrates",
			       name);
	return 0;
}

static int cmd_set_capabilities(struct qmp_call *call, struct err *err)
{
	const json_t *list = json_object_get(call->args, "capabilities");
	bool events = call->qmp->migration_events;
	json_t *item;
	size_t i;
	int r;

	json_array_foreach(list, i, item) {
		r = check_capability(call->input, item, &events, err);
		if (r < 0)
			return r;
	}
	call->qmp->migration_events = events;
	return 0;
}

static int cmd_query_capabilities(struct qmp_call *call, struct err *err)
{
	bool on;
	size_t i;

	(void)err;
	call->result = json_array();
	for (i = 0; i < NCAPABILITIES; i++) {
		/*
		 * Clients take what is in the list for what can be had, and
		 * switch some of it on unasked.
		 */
		if (!capabilities[i].on)
			continue;
		on = strcmp(capabilities[i].name, "events") ? true : call->qmp->migration_events;
		json_array_append_new(call->result, json_pack("{s:b,s:s}", "state", on,
							      "capability", capabilities[i].name));
	}
	return 0;
}

static const struct qmp_arg migrate_args[] = {
	{ "uri", QMP_STRING, false },
	{ "blk", QMP_BOOL, true },
	{ "inc", QMP_BOOL, true },
	{ "detach", QMP_BOOL, true },
	{ "resume", QMP_BOOL, true },
	{ "x-postern-secret-file", QMP_STRING, true },
	{ "x-postern-insecure", QMP_BOOL, true },
	{ 0 },
};
static const struct qmp_arg listen_args[] = {
	{ "uri", QMP_STRING, false },
	{ "x-postern-secret-file", QMP_STRING, true },
	{ "x-postern-insecure", QMP_BOOL, true },
	{ 0 },
};
static const struct qmp_arg parameters_args[] = {
	{ "max-bandwidth", QMP_UINT, true },
	{ "downtime-limit", QMP_UINT, true },
	{ "max-postcopy-bandwidth", QMP_UINT, true },
	{ "x-postern-link-timeout", QMP_UINT, true },
	{ 0 },
};
static const struct qmp_arg capabilities_args[] = { { "capabilities", QMP_ARRAY, false }, { 0 } };

const struct qmp_command qmp_migrate_commands[] = {
	{ "migrate", cmd_migrate, migrate_args, false },
	{ "migrate-incoming", cmd_incoming, listen_args, false },
	{ "migrate-pause", cmd_pause, NULL, true },
	{ "migrate-recover", cmd_recover, listen_args, true },
	{ "migrate_cancel", cmd_cancel, NULL, false },
	{ "migrate-start-postcopy", cmd_start_postcopy, NULL, false },
	{ "query-migrate", cmd_query, NULL, false },
	{ "migrate-set-parameters", cmd_set_parameters, parameters_args, false },
	{ "query-migrate-parameters", cmd_query_parameters, NULL, false },
	{ "migrate-set-capabilities", cmd_set_capabilities, capabilities_args, false },
	{ "query-migrate-capabilities", cmd_query_capabilities, NULL, false },
	{ 0 },
};
