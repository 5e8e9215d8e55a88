// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * machine.c - a machine's life, and what is asked of its devices.
 *
 * machine_new puts the parts together in the one order that works: the
 * userfaultfd is opened before the VM, so that the end of the process, however
 * it comes, closes it first (see memory.h). machine_free is its mirror. In
 * between, run_control.c stops it and lets it go, reset.c resets it, event.c
 * hears what other threads have to say; boot.c knows what it boots, state.c
 * saves and loads it.
 */
#include "machine/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/loop.h"
#include "base/mark.h"
#include "device/virtio/balloon.h"
#include "machine/run_state.h"

/* Threads of ours that touch missing pages themselves. */
#ifdef POSTERN_TOUCH_CHECK
#define DIRECT_ACCESS MEMORY_DIRECT_ACCESS_ABORT
#else
#define DIRECT_ACCESS MEMORY_DIRECT_ACCESS_LOG
#endif

/* ---- small things ---- */

const struct machine_config *machine_config(const struct machine *m)
{
	return &m->config;
}

struct memory *machine_memory(const struct machine *m)
{
	return m->mem;
}

struct vm *machine_vm(const struct machine *m)
{
	return m->vm;
}

struct loop *machine_loop(const struct machine *m)
{
	return m->loop;
}

void machine_observe(struct machine *m, struct machine_observer *observer)
{
	struct machine_observer **at = &m->observers;

	while (*at)
		at = &(*at)->next;
	observer->next = NULL;
	*at = observer;
}

void machine_unobserve(struct machine *m, struct machine_observer *observer)
{
	struct machine_observer **at = &m->observers;

	while (*at && *at != observer)
		at = &(*at)->next;
	if (*at)
		*at = observer->next;
}

/* ---- life ---- */

static int machine_copy(const char **to, const char *from, struct err *err)
{
	*to = from ? strdup(from) : NULL;
	return !from || *to ? 0 : err_set(err, -ENOMEM, "no memory for the configuration");
}

static int machine_config_copy(struct machine *m, const struct machine_config *config,
			       struct err *err)
{
	struct machine_config *to = &m->config;
	unsigned int i;
	int r;

	*to = *config;
	to->kernel = to->initrd = to->cmdline = to->append = to->name = NULL;
	to->found = NULL;
	for (i = 0; i < config->virtio.n; i++)
		to->virtio.option[i].text = NULL;
	r = machine_boot_configure(m, config, err);
	if (!r)
		r = machine_copy(&to->name, config->name, err);
	for (i = 0; i < config->virtio.n && !r; i++)
		r = machine_copy(&to->virtio.option[i].text, config->virtio.option[i].text, err);
	return r;
}

static int memory_make(struct machine *m, struct err *err)
{
	const struct memory_events events = {
		.lost = machine_on_lost, .complete = machine_on_complete, .watch_failed = machine_on_watch_failed, .arg = m,
	};
	struct memory_range ranges[MEMORY_REGIONS_MAX];
	unsigned int n;
	int r;

	r = arch_memory_layout(m->config.memory_bytes, ranges, &n, err);
	if (!r)
		r = (m->config.ram_is_late ? memory_new_missing : memory_new)(&m->mem, ranges, n,
									      err);
	if (!r && m->config.dump_guest_core && (r = memory_set_dumpable(m->mem)) < 0)
		err_errno(err, r, "guest RAM for core dumps");
	if (!r && m->config.ram_memfd)
		r = memory_set_backing(m->mem, m->config.ram_memfd, err);
	if (!r && m->config.ram_is_late)
		r = memory_watch(m->mem, &events, err);
	if (r < 0)
		return r;
	mark_time("guest RAM");
	memory_set_direct_access(m->mem, DIRECT_ACCESS);
	if (m->config.way_out != WAY_OUT_AUTO)
		memory_set_way_out(m->mem, m->config.way_out);
	if (m->config.ram_made && m->config.ram_is_late && !m->config.ram_memfd)
		m->config.ram_made(m->config.ram_arg, m->mem);
	return 0;
}

static int vm_make(struct machine *m, struct err *err)
{
	struct board_config board = {
		.loop = m->loop, .pio = &m->pio, .mmio = &m->mmio, .serial = &m->config.serial,
		.virtio = &m->config.virtio, .name = m->config.name,
		.events = { machine_on_device, m }, .disks_elsewhere = m->config.disks_elsewhere,
	};
	int r;

	r = vm_new(&m->vm, m->config.host, m->mem, m->config.cpus, &machine_exit_ops, m, err);
	if (r < 0)
		return r;
	mark_time("VM");
	board.vm = m->vm;
	r = board_new(&m->board, &board, err);
	mark_time("devices");
	return r;
}

int machine_new(struct machine **out, struct loop *loop, const struct machine_config *config,
		struct err *err)
{
	struct machine *m = calloc(1, sizeof(*m));
	int r;

	if (!m || !(m->mail = machine_mail_new(m)) ||
	    !(m->lost_rest = calloc(1, sizeof(*m->lost_rest)))) {
		if (m)
			machine_mail_close(m->mail);
		free(m);
		return err_set(err, -ENOMEM, "no memory for the machine");
	}
	m->loop = loop;
	lost_gather_init(&m->lost);
	uv_timer_init(loop_uv(loop), m->lost_rest);
	m->lost_rest->data = m;
	/* It keeps no loop alive by itself. */
	uv_unref((uv_handle_t *)m->lost_rest);
	boot_files_init(&m->boot_files);
	m->state = config->starts_inmigrate ? RUN_STATE_INMIGRATE : RUN_STATE_PRELAUNCH;
	m->autostart = true;
	bus_init(&m->pio, "port");
	bus_init(&m->mmio, "MMIO");
	r = machine_config_copy(m, config, err);
	/* What a reset will load; who named it wrongly is told now. */
	if (!r && config->loads_no_kernel && m->boot_files.type == BOOT_FILES)
		r = machine_boot_check(m, err);
	if (!r)
		r = memory_make(m, err);
	if (!r)
		r = vm_make(m, err);
	if (!r && !config->loads_no_kernel)
		r = machine_boot_first(m, config->found, err);
	/* Last: what it does is not in the way of the machine's own start. */
	if (!r)
		r = machine_way_out_find(m, err);
	if (r < 0) {
		if (config->ram_made)
			config->ram_made(config->ram_arg, NULL);
		machine_free(m);
		return r;
	}
	*out = m;
	return 0;
}

int machine_free(struct machine *m)
{
	unsigned int i;

	if (!m)
		return 0;
	machine_way_out_end(m);
	if (m->vm && vm_end_vcpus(m->vm) < 0) {
		chardev_restore_terminal();
		log_error("a vCPU does not come out of the guest");
		return -ETIMEDOUT;
	}
	board_free(m->board);
	if (m->mem)
		memory_shut(m->mem);
	if (m->vm)
		vm_free(m->vm);
	if (m->mem)
		memory_free(m->mem);
	machine_mail_close(m->mail);
	loop_close((uv_handle_t *)m->lost_rest, m->lost_rest);
	lost_gather_fini(&m->lost);
	boot_files_fini(&m->boot_files);
	free((char *)m->config.name);
	for (i = 0; i < m->config.virtio.n; i++)
		free((char *)m->config.virtio.option[i].text);
	free(m);
	return 0;
}

/* ---- power, end ---- */

int machine_powerdown(struct machine *m, struct err *err)
{
	if (run_state_is_away(m->state) || m->state == RUN_STATE_SHUTDOWN)
		return err_set(err, -EBUSY, "a machine in state %s has no power button",
			       run_state_name(m->state));
	board_press_power_button(m->board);
	MACHINE_NOTIFY(m, powerdown);
	return 0;
}

/* ---- disks, the balloon ---- */

bool machine_disk(struct machine *m, unsigned int i, struct disk_info *info)
{
	return board_disk(m->board, i, info);
}

int machine_disk_fenced(struct machine *m, const char *device)
{
	struct disk_info info;
	unsigned int i;

	for (i = 0; machine_disk(m, i, &info); i++)
		if (!strcmp(info.device, device) && vdev_disk_fenced(info.dev))
			return 0;
	return -ENODEV;
}


static int balloon_of(const struct machine *m, struct vdev **out, struct err *err)
{
	*out = board_balloon(m->board);
	return *out ? 0 : err_set(err, -ENODEV, "No balloon device has been activated");
}

int machine_set_balloon(struct machine *m, uint64_t memory_bytes, struct err *err)
{
	struct vdev *balloon;
	int r = balloon_of(m, &balloon, err);

	if (r < 0)
		return r;
	if (!memory_bytes)
		return err_set(err, -EINVAL, "the guest cannot do without any memory");
	if (run_state_is_away(m->state))
		return err_set(err, -EBUSY, "the balloon of a machine in state %s cannot be set",
			       run_state_name(m->state));
	if (memory_bytes > m->config.memory_bytes)
		memory_bytes = m->config.memory_bytes;
	balloon_set_target(balloon,
			   (uint32_t)((m->config.memory_bytes - memory_bytes) / PAGE_BYTES));
	return 0;
}

int machine_balloon(struct machine *m, uint64_t *memory_bytes, struct err *err)
{
	struct vdev *balloon;
	uint64_t given;
	int r = balloon_of(m, &balloon, err);

	if (r < 0)
		return r;
	/* What the guest has left of its memory; what it says need not make sense. */
	given = (uint64_t)balloon_actual(balloon) * PAGE_BYTES;
	*memory_bytes = given < m->config.memory_bytes ? m->config.memory_bytes - given : 0;
	return 0;
}
