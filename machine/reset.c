// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * reset.c - a machine's reset, and what it waits for.
 *
 * A reset puts every part back to where it was after machine_new, and loads the kernel anew. It waits, with the machine paused, until all
 * memory has come, disks have finished what they were asked for and, with boot_find, the kernel on a disk has been found; reset_resumes
 * says whether the machine then runs. A migration that has the guest meanwhile takes the reset along.
 */
#include "machine/internal.h"

#include <errno.h>

#include "base/log.h"
#include "machine/run_state.h"

const char *machine_reset_waits_for(const struct machine *m)
{
	if (!m->reset_waits)
		return NULL;
	if (m->boot_wanted)
		return "the kernel on its disk";
	return memory_is_late(m->mem) ? "the pages that are still missing" : "requests that its disks have not finished";
}

static int reset_failed(struct machine *m, struct err *err)
{
	log_error("reset: %s", err->text);
	machine_set_state(m, RUN_STATE_INTERNAL_ERROR);
	return err->code;
}

/* What keeps a reset from being done now, or NULL. */
static const char *reset_obstacle(struct machine *m)
{
	if (m->config.incoming && memory_is_late(m->mem))
		return "until all of its memory has come";
	/* They may still be writing to where the kernel will be. */
	return board_is_busy(m->board) ? "until its disks have finished what they were asked for" : NULL;
}

/* All vCPUs are parked. */
static int parts_reset(struct machine *m, const struct boot_opened *opened, struct err *err)
{
	const struct device *device;
	unsigned int i, n;
	int r;

	device = board_devices(m->board, &n);
	for (i = 0; i < n; i++)
		device[i].ops->reset(device[i].dev);
	r = vm_settle(m->vm, true, err);
	if (!r)
		r = arch_vm_reset(m->vm, err);
	return r < 0 ? r : machine_boot_load(m, opened, err);
}

/* All pages are there, nothing is in hand. found: what lies on the disk, or NULL. */
static int reset_now(struct machine *m, bool by_guest, bool resume, const struct boot_files *found,
		     struct err *err)
{
	struct boot_opened opened;
	int r;

	m->reset_waits = false;
	/*
	 * It may have waited, and a debugger have let a vCPU run meanwhile: KVM
	 * would let this thread wait for that one.
	 */
	r = machine_park_vcpus(m, err);
	if (r < 0)
		return reset_failed(m, err);
	r = boot_files_open(found ? found : &m->boot_files, &opened, err);
	if (!r) {
		r = parts_reset(m, &opened, err);
		boot_opened_close(&opened);
	}
	if (r < 0)
		return reset_failed(m, err);
	/* What it asked for before is void now. */
	atomic_store(&m->asked, 0);
	MACHINE_TELL(m, reset, by_guest);
	if (resume) {
		machine_run(m);
	} else {
		/* As QEMU: what was stopped has, after a reset, not been started. */
		machine_set_state(m, RUN_STATE_PRELAUNCH);
	}
	return 0;
}

/* As reset_now, but for a machine whose kernel has to be found first: paused until then. */
static int reset_begin(struct machine *m, bool by_guest, bool resume, struct err *err)
{
	int r;

	if (m->boot_files.kind != BOOT_DISK)
		return reset_now(m, by_guest, resume, NULL, err);
	m->reset_by_guest = by_guest;
	m->reset_resumes = resume;
	m->reset_waits = true;
	if (m->state == RUN_STATE_RUNNING)
		machine_set_state(m, RUN_STATE_PAUSED);
	if (m->boot_wanted)
		return 0;
	r = m->config.boot_find(m->config.boot_arg, m, err);
	m->boot_wanted = !r;
	if (!r)
		return 0;
	m->reset_waits = m->reset_resumes = false;
	return reset_failed(m, err);
}

void machine_boot_found(struct machine *m, const struct boot_files *found, const struct err *failed)
{
	struct err err = { 0 };
	bool resume = m->reset_resumes;

	m->boot_wanted = false;
	/* A migration has the guest meanwhile: the reset travels, or begins anew when it stays here after all. */
	if (m->state == RUN_STATE_FINISH_MIGRATE || m->state == RUN_STATE_POSTMIGRATE)
		return;
	m->reset_waits = m->reset_resumes = false;
	if (m->state == RUN_STATE_SHUTDOWN)
		return;
	if (failed) {
		err = *failed;
		reset_failed(m, &err);
	} else {
		reset_now(m, m->reset_by_guest, resume, found, &err);
	}
}

void machine_reset_retry(struct machine *m)
{
	bool resume = m->reset_resumes;
	struct err err;

	if (!m->reset_waits || m->boot_wanted || m->state == RUN_STATE_FINISH_MIGRATE || m->state == RUN_STATE_POSTMIGRATE ||
	    m->state == RUN_STATE_INMIGRATE || reset_obstacle(m))
		return;
	m->reset_resumes = false;
	/* What fails is logged and shows in the run state. */
	reset_begin(m, m->reset_by_guest, resume, &err);
}

int machine_reset(struct machine *m, bool by_guest, struct err *err)
{
	struct err local = { 0 };
	bool resume = m->state == RUN_STATE_RUNNING || m->reset_resumes;
	const char *obstacle;
	int r;

	if (!err)
		err = &local;
	if (m->state == RUN_STATE_INMIGRATE || m->state == RUN_STATE_FINISH_MIGRATE ||
	    m->state == RUN_STATE_POSTMIGRATE || m->state == RUN_STATE_SHUTDOWN)
		return err_set(err, -EBUSY, "a machine in state %s cannot be reset",
			       run_state_name(m->state));
	if (by_guest && m->config.no_reboot) {
		machine_shutdown(m, true, "guest-reset");
		return 0;
	}
	r = machine_park(m, err);
	if (r < 0)
		return r;
	m->reset_resumes = false;
	r = machine_boot_check(m, err);
	if (r < 0) {
		if (by_guest)
			return reset_failed(m, err);
		/* What the guest is doing is worth more than a reset that cannot be. */
		if (resume)
			machine_run(m);
		return r;
	}
	obstacle = reset_obstacle(m);
	if (!obstacle)
		return reset_begin(m, by_guest, resume, err);
	log_warn("the machine's reset waits %s", obstacle);
	m->reset_waits = true;
	m->reset_by_guest = by_guest;
	m->reset_resumes = resume;
	if (m->state == RUN_STATE_RUNNING)
		machine_set_state(m, RUN_STATE_PAUSED);
	return 0;
}
