// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// QMP commands on the machine.
#include <string.h>
#include <sys/utsname.h>

#include "base/clock.h"
#include "control/qmp_internal.h"

#define WAITERS_MAX (VM_VCPUS_MAX + 32u)

static int cmd_status(struct qmp_call *call, struct err *err)
{
	struct machine *machine = call->qmp->machine;

	(void)err;
	call->result =
		json_pack("{s:b,s:b,s:s}", "running", machine_is_running(machine), "singlestep",
			  false, "status", run_state_name(machine_state(machine)));
	return 0;
}

static int cmd_name(struct qmp_call *call, struct err *err)
{
	const char *name = machine_config(call->qmp->machine)->name;

	(void)err;
	call->result = json_object();
	if (name)
		json_object_set_new(call->result, "name", qmp_string(name));
	return 0;
}

static int cmd_kvm(struct qmp_call *call, struct err *err)
{
	(void)err;
	call->result = json_pack("{s:b,s:b}", "enabled", true, "present", true);
	return 0;
}

static int cmd_stop(struct qmp_call *call, struct err *err)
{
	return machine_stop(call->qmp->machine, RUN_STATE_PAUSED, err);
}

static int cmd_cont(struct qmp_call *call, struct err *err)
{
	return machine_cont(call->qmp->machine, err);
}

static void qmp_quit(struct qmp *qmp)
{
	machine_shutdown(qmp->machine, false, "host-qmp-quit");
}

static int cmd_quit(struct qmp_call *call, struct err *err)
{
	(void)err;
	call->after = qmp_quit;
	return 0;
}

static int cmd_powerdown(struct qmp_call *call, struct err *err)
{
	return machine_powerdown(call->qmp->machine, err);
}

static int cmd_reset(struct qmp_call *call, struct err *err)
{
	return machine_reset(call->qmp->machine, false, err);
}

/* The page that vCPU `index` waits for, or NULL. */
static json_t *waiting_page(const struct memory_waiter *waiters, unsigned int n, unsigned int index)
{
	int64_t now = clock_now_ns();
	unsigned int i;

	for (i = 0; i < n; i++)
		if (waiters[i].cpu == (int)index)
			return json_pack("{s:o,s:I}", "gpa", qmp_uint(waiters[i].gpa.v), "since-us",
					 (json_int_t)((now - waiters[i].since_ns) / NS_PER_US));
	return NULL;
}

static json_t *cpu_to_json(struct vcpu *vcpu, const char *target, json_t *waits)
{
	char path[64];

	snprintf(path, sizeof(path), "/machine/unattached/device[%u]", vcpu_index(vcpu));
	return json_pack("{s:i,s:s,s:i,s:s,s:{s:i,s:i,s:i},s:{s:b,s:o*}}", "cpu-index",
			 (int)vcpu_index(vcpu), "qom-path", path, "thread-id", (int)vcpu_tid(vcpu),
			 "target", target, "props", "socket-id", (int)vcpu_index(vcpu), "core-id",
			 0, "thread-id", 0, "x-postern", "parked", vcpu_is_parked(vcpu),
			 "waits-for", waits);
}

static int cmd_cpus(struct qmp_call *call, struct err *err)
{
	struct vm *vm = machine_vm(call->qmp->machine);
	struct memory_waiter waiters[WAITERS_MAX];
	unsigned int i,
		n = memory_waiters(machine_memory(call->qmp->machine), waiters, WAITERS_MAX);
	struct utsname host = { .machine = "" };

	(void)err;
	uname(&host);	/* the guest is of the host's architecture */
	call->result = json_array();
	for (i = 0; i < vm_vcpus(vm); i++)
		json_array_append_new(call->result, cpu_to_json(vm_vcpu(vm, i), host.machine,
								waiting_page(waiters, n, i)));
	return 0;
}

static json_t *disk_to_json(const struct disk_info *disk)
{
	json_t *image =
		json_pack("{s:o,s:s,s:o,s:b}", "filename", qmp_string(disk->file), "format",
			  disk->format, "virtual-size", qmp_uint(disk->bytes), "dirty-flag", false);
	json_t *inserted =
		json_pack("{s:o,s:s,s:s,s:b,s:b,s:s,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:o}", "file",
			  qmp_string(disk->file), "node-name", disk->device, "drv", disk->format,
			  "ro", disk->readonly, "encrypted", false, "detect_zeroes", "off", "bps",
			  0, "bps_rd", 0, "bps_wr", 0, "iops", 0, "iops_rd", 0, "iops_wr", 0,
			  "write_threshold", 0, "image", image);

	json_t *in_doubt = disk->doubt.ms ? json_integer(disk->doubt.ms) : NULL;
	json_t *held = disk->doubt.ms ? json_integer(disk->doubt.held) : NULL;

	return json_pack("{s:s,s:s,s:s,s:b,s:b,s:s,s:o,s:{s:s,s:b,s:i,s:o*,s:o*,s:o*}}", "device",
			 disk->device, "qdev", disk->device, "type", "unknown", "removable", false,
			 "locked", false, "io-status", disk->away ? "failed" : "ok", "inserted",
			 inserted, "x-postern", "driver", disk->driver, "away", disk->away != NULL,
			 "requests", (int)disk->jobs, "reason",
			 disk->away ? qmp_string(disk->away) : NULL, "in-doubt-ms", in_doubt,
			 "held", held);
}

static int cmd_block(struct qmp_call *call, struct err *err)
{
	struct disk_info disk;
	unsigned int i;

	(void)err;
	call->result = json_array();
	for (i = 0; machine_disk(call->qmp->machine, i, &disk); i++)
		json_array_append_new(call->result, disk_to_json(&disk));
	return 0;
}

/* As QEMU's: its class tells clients that there is no balloon. */
static int balloon_result(struct qmp_call *call, int r)
{
	if (r == -ENODEV)
		call->error_class = "DeviceNotActive";
	return r;
}

static int cmd_balloon(struct qmp_call *call, struct err *err)
{
	uint64_t value = qmp_arg_uint(call, "value", 0);

	if (!value)
		return err_set(err, -EINVAL, "Parameter 'value' expects a size");
	return balloon_result(call, machine_set_balloon(call->qmp->machine, value, err));
}

static int cmd_query_balloon(struct qmp_call *call, struct err *err)
{
	uint64_t bytes;
	int r = machine_balloon(call->qmp->machine, &bytes, err);

	if (!r)
		call->result = json_pack("{s:o}", "actual", qmp_uint(bytes));
	return balloon_result(call, r);
}

static const struct qmp_arg balloon_args[] = { { "value", QMP_UINT, false }, { 0 } };

const struct qmp_command qmp_machine_commands[] = {
	{ "query-status", cmd_status, NULL, false },
	{ "query-name", cmd_name, NULL, false },
	{ "query-kvm", cmd_kvm, NULL, false },
	{ "query-cpus-fast", cmd_cpus, NULL, false },
	{ "query-block", cmd_block, NULL, false },
	{ "stop", cmd_stop, NULL, false },
	{ "cont", cmd_cont, NULL, false },
	{ "quit", cmd_quit, NULL, false },
	{ "system_powerdown", cmd_powerdown, NULL, false },
	{ "system_reset", cmd_reset, NULL, false },
	{ "balloon", cmd_balloon, balloon_args, false },
	{ "query-balloon", cmd_query_balloon, NULL, false },
	{ 0 },
};
