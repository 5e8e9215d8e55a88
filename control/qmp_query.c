// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// QMP queries by which clients find out what they talk to, with QEMU's shapes
// (qapi/machine.json, qapi/misc.json, qapi/char.json there). Nothing here is
// made up: what postern does not have is an empty list, or a command that is
// not found.
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "control/qmp_internal.h"

static int cmd_target(struct qmp_call *call, struct err *err)
{
	struct utsname host = { .machine = "" };

	(void)err;
	uname(&host); /* the guest is of the host's architecture */
	call->result = json_pack("{s:o}", "arch", qmp_string(host.machine));
	return 0;
}

/* As in QEMU where none was given. */
static int cmd_uuid(struct qmp_call *call, struct err *err)
{
	(void)err;
	call->result = json_pack("{s:s}", "UUID", "00000000-0000-0000-0000-000000000000");
	return 0;
}

static int cmd_machines(struct qmp_call *call, struct err *err)
{
	(void)err;
	call->result = json_pack("[{s:s,s:b,s:i,s:b,s:b,s:b,s:b}]", "name", "postern", "is-default",
				 true, "cpu-max", (int)VM_VCPUS_MAX, "hotpluggable-cpus", false,
				 "numa-mem-supported", false, "deprecated", false, "acpi", true);
	return 0;
}

static int cmd_memory_size(struct qmp_call *call, struct err *err)
{
	(void)err;
	call->result = json_pack("{s:o}", "base-memory",
				 qmp_uint(machine_config(call->qmp->machine)->memory_bytes));
	return 0;
}

/* Requests of disks are the kernel's: there are no such threads. */
static int cmd_iothreads(struct qmp_call *call, struct err *err)
{
	(void)err;
	call->result = json_array();
	return 0;
}

/* As QEMU names them; a pty's number is in the log. */
static void chardev_filename(char *text, size_t room, const struct chardev_config *config)
{
	static const char *const names[] = {
		[CHARDEV_NULL] = "null", [CHARDEV_STDIO] = "stdio", [CHARDEV_PTY] = "pty",
		[CHARDEV_FILE] = "file", [CHARDEV_UNIX] = "unix",
	};

	if (*config->path)
		snprintf(text, room, "%s:%s%s", names[config->type], config->path,
			 config->type == CHARDEV_UNIX ? ",server=on" : "");
	else
		snprintf(text, room, "%s", names[config->type]);
}

static int cmd_chardev(struct qmp_call *call, struct err *err)
{
	char filename[PATH_MAX + 32];

	(void)err;
	chardev_filename(filename, sizeof(filename), &machine_config(call->qmp->machine)->serial);
	call->result = json_pack("[{s:s,s:o,s:b}]", "label", "serial0", "filename",
				 qmp_string(filename), "frontend-open", true);
	return 0;
}

/* As a GUID is written: its first three fields are little endian in memory. */
static int cmd_generation_id(struct qmp_call *call, struct err *err)
{
	static const uint8_t order[MACHINE_ID_BYTES] = {
		3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15,
	};
	uint8_t id[MACHINE_ID_BYTES];
	char text[2 * MACHINE_ID_BYTES + 5], *to = text;
	unsigned int i;

	(void)err;
	machine_generation_id(call->qmp->machine, id);
	for (i = 0; i < MACHINE_ID_BYTES; i++)
		to += sprintf(to, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
			      id[order[i]]);
	call->result = json_pack("{s:s}", "guid", text);
	return 0;
}

const struct qmp_command qmp_query_commands[] = {
	{ "query-target", cmd_target, NULL, false },
	{ "query-uuid", cmd_uuid, NULL, false },
	{ "query-vm-generation-id", cmd_generation_id, NULL, false },
	{ "query-machines", cmd_machines, NULL, false },
	{ "query-memory-size-summary", cmd_memory_size, NULL, false },
	{ "query-iothreads", cmd_iothreads, NULL, false },
	{ "query-chardev", cmd_chardev, NULL, false },
	{ 0 },
};
