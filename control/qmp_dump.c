// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// dump-guest-memory and what belongs to it, as QEMU has them (qapi/dump.json there): an ELF core of
// the guest, written while it stands still. It is always as with detach: the reply says that it has
// begun, and DUMP_COMPLETED that it is over.
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "control/qmp_internal.h"

/* What lies behind: members that QEMU does not have. */
static json_t *dump_to_json(const struct dump_info *info)
{
	return json_pack("{s:s,s:o,s:o,s:o}", "status", dump_status_name(info->status), "completed",
			 qmp_uint(info->done_bytes), "total", qmp_uint(info->total_bytes),
			 "x-postern-missing-pages", qmp_uint(info->missing_pages));
}

static void on_dump(void *arg)
{
	struct qmp *qmp = arg;
	struct dump_info info;

	dump_query(qmp->dump, &info);
	qmp_event(qmp, "DUMP_COMPLETED",
		  json_pack("{s:o,s:o*}", "result", dump_to_json(&info), "error",
			    info.status == DUMP_FAILED ? qmp_string(info.err.text) : NULL));
}

static int dump_range(struct qmp_call *call, struct dump_config *config, struct err *err)
{
	bool begin = json_object_get(call->args, "begin");
	bool length = json_object_get(call->args, "length");

	if (begin != length)
		return err_set(err, -EINVAL, "Parameter '%s' is missing",
			       begin ? "length" : "begin");
	config->begin = qmp_arg_uint(call, "begin", 0);
	config->length = qmp_arg_uint(call, "length", 0);
	if (length && !config->length)
		return err_set(err, -EINVAL, "Parameter 'length' expects a number that is not 0");
	return 0;
}

/* A descriptor is taken from the client, as QEMU does, whatever becomes of the dump. */
static int dump_protocol(struct qmp_call *call, struct dump_config *config, struct err *err)
{
	const char *protocol = qmp_arg_string(call, "protocol");

	if (!strncmp(protocol, "fd:", 3)) {
		config->path = protocol;
		config->fd = qmp_take_fd(call, protocol + 3, err);
		config->fd_given = config->fd >= 0;
		return config->fd_given ? 0 : config->fd;
	}
	if (strncmp(protocol, "file:", 5) || !protocol[5])
		return err_set(
			err, -EINVAL,
			"Parameter 'protocol' expects a protocol of file: and a path, or fd: "
			"and a name given by getfd");
	config->path = protocol + 5;
	return 0;
}

static int cmd_dump(struct qmp_call *call, struct err *err)
{
	struct qmp *qmp = call->qmp;
	struct dump_config config = { .machine = qmp->machine, .changed = on_dump, .arg = qmp };
	const char *format = qmp_arg_string(call, "format");
	struct dump_info info = { 0 };
	struct snapshot_info save;
	struct dump *dump;
	int r;

	if (qmp->dump)
		dump_query(qmp->dump, &info);
	if (info.status == DUMP_ACTIVE)
		return err_set(err, -EBUSY, "There is a dump in process, please wait.");
	/* Also one whose moment is still to come. */
	if (qmp->snapshot && snapshot_query(qmp->snapshot, &save) &&
	    !save_phase_is_over(save.save.phase))
		return err_set(err, -EBUSY,
			       "the machine is being saved (job %s): its memory cannot be dumped "
			       "now",
			       save.id);
	if (qmp_arg_bool(call, "paging"))
		return err_set(err, -EINVAL,
			       "Parameter 'paging' expects false: addresses are physical ones");
	if (format && strcmp(format, "elf"))
		return err_set(err, -EINVAL, "Parameter 'format' does not accept value '%.32s'",
			       format);
	r = dump_range(call, &config, err);
	if (!r)
		r = dump_protocol(call, &config, err);
	if (!r)
		r = dump_new(&dump, &config, err);
	if (r < 0 && config.fd_given)
		close(config.fd);
	if (r < 0)
		return r;
	dump_free(qmp->dump);
	qmp->dump = dump;
	return 0;
}

static int cmd_dump_query(struct qmp_call *call, struct err *err)
{
	struct dump_info info = { 0 };

	(void)err;
	if (call->qmp->dump)
		dump_query(call->qmp->dump, &info);
	call->result = dump_to_json(&info);
	return 0;
}

static int cmd_dump_cancel(struct qmp_call *call, struct err *err)
{
	(void)err;
	if (call->qmp->dump)
		dump_cancel(call->qmp->dump);
	return 0;
}

static int cmd_dump_capability(struct qmp_call *call, struct err *err)
{
	(void)err;
	call->result = json_pack("{s:[s]}", "formats", "elf");
	return 0;
}

static const struct qmp_arg dump_args[] = {
	{ "paging", QMP_BOOL, false },
	{ "protocol", QMP_STRING, false },
	{ "detach", QMP_BOOL, true },
	{ "begin", QMP_UINT, true },
	{ "length", QMP_UINT, true },
	{ "format", QMP_STRING, true },
	{ 0 },
};

const struct qmp_command qmp_dump_commands[] = {
	{ "dump-guest-memory", cmd_dump, dump_args, false },
	{ "query-dump", cmd_dump_query, NULL, false },
	{ "query-dump-guest-memory-capability", cmd_dump_capability, NULL, false },
	{ "postern-dump-cancel", cmd_dump_cancel, NULL, false },
	{ 0 },
};
