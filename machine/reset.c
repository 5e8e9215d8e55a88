// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * reset.c - a machine's reset, what it waits for, and the guest's wish for one.
 *
 * A reset puts every part back to where it was after machine_new, and loads the
 * kernel anew. With the machine paused it goes through the phases of struct
 * reset, which changes only here but for `resumes`:
 *
 *   NONE -- asked for --> WAITS, until all memory has come, no disk has a
 *                         request in flight, and no snapshot reads memory
 *        -------------->  FINDS, until machine_boot_found: then it is done
 *
 * where a migration that has the guest by then sends it back to WAITS.
 * Without boot_find there is nothing to find, and WAITS is done at once. A
 * migration that has the guest meanwhile takes the reset along (machine_save);
 * one that fails leaves it here, and it goes on.
 */
#include "machine/internal.h"

#include <errno.h>

#include "base/log.h"
#include "machine/run_state.h"

const char *machine_reset_waits_for(const struct machine *m)
{
	if (m->reset.phase == RESET_NONE)
		return NULL;
	if (m->reset.phase == RESET_FINDS)
		return "the kernel that it starts with";
	if (memory_is_late(m->mem))
		return "the pages that are still missing";
	return m->saving ? "the snapshot that reads its memory" :
			   "requests that its disks have not finished";
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
	if (memory_is_late(m->mem))
		return "until all of its memory has come";
	/* It is loaded by this thread, which cannot be held up as a writer is (memory/snapshot.h). */
	if (m->saving)
		return "until a snapshot has read its memory";
	/* They may still be writing to where the kernel will be. */
	return board_is_busy(m->board) ?
		       "until its disks have finished what they were asked for" : NULL;
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
	r = vm_complete_io(m->vm, true, err);
	if (!r)
		r = arch_vm_reset(m->vm, err);
	return r < 0 ? r : machine_boot_load(m, opened, err);
}

/* All pages are there, nothing is in flight. found: what lies on the disk, or NULL. */
static int reset_now(struct machine *m, const struct boot_files *found, struct err *err)
{
	const struct reset reset = m->reset;
	struct boot_opened opened;
	int r;

	m->reset = (struct reset){ .phase = RESET_NONE };
	/*
	 * It may have waited, and a debugger have let a vCPU run meanwhile: KVM
	 * would let this thread wait for that one.
	 */
	r = vm_pause(m->vm, MACHINE_PAUSE_MS, err);
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
	MACHINE_NOTIFY(m, reset, reset.by_guest);
	if (reset.resumes) {
		machine_run(m);
	} else {
		/* As QEMU: what was stopped has, after a reset, not been started. */
		machine_set_state(m, RUN_STATE_PRELAUNCH);
	}
	return 0;
}

/*
 * Nothing is in the way of the reset that WAITS, but perhaps that its kernel
 * has to be found first.
 */
static int reset_go_on(struct machine *m, struct err *err)
{
	int r;

	if (m->boot_files.type != BOOT_DISK)
		return reset_now(m, NULL, err);
	if (m->state == RUN_STATE_RUNNING)
		machine_set_state(m, RUN_STATE_PAUSED);
	if (m->reset.phase == RESET_FINDS)
		return 0;
	r = m->config.boot_find(m->config.boot_arg, m, err);
	if (r) {
		m->reset = (struct reset){ .phase = RESET_NONE };
		return reset_failed(m, err);
	}
	m->reset.phase = RESET_FINDS;
	return 0;
}

void machine_boot_found(struct machine *m, const struct boot_files *found, const struct err *failed)
{
	struct err err = { 0 };

	m->reset.phase = RESET_WAITS;
	/*
	 * A migration has the guest meanwhile: the reset travels, or begins
	 * anew when it stays here after all.
	 */
	if (run_state_is_away(m->state))
		return;
	if (m->state != RUN_STATE_SHUTDOWN && !failed) {
		reset_now(m, found, &err);
		return;
	}
	m->reset = (struct reset){ .phase = RESET_NONE };
	if (m->state == RUN_STATE_SHUTDOWN)
		return;
	err = *failed;
	reset_failed(m, &err);
}

void machine_reset_retry(struct machine *m)
{
	struct err err;

	/* What fails is logged and shows in the run state. */
	if (m->reset.phase == RESET_WAITS && !run_state_is_away(m->state) && !reset_obstacle(m))
		reset_go_on(m, &err);
}

/* A reset cannot be, for what it would load is not there. */
static int reset_refused(struct machine *m, bool by_guest, bool resume, struct err *err)
{
	/* One that waits may still be: its files are looked at again then. */
	if (!by_guest && m->reset.phase != RESET_NONE)
		return err->code;
	m->reset.resumes = false;
	if (by_guest)
		return reset_failed(m, err);
	/* What the guest is doing is worth more than a reset that cannot be. */
	if (resume)
		machine_run(m);
	return err->code;
}

int machine_reset(struct machine *m, bool by_guest, struct err *err)
{
	bool resume = m->state == RUN_STATE_RUNNING || m->reset.resumes;
	struct err local = { 0 };
	const char *obstacle;

	if (!err)
		err = &local;
	if (run_state_is_away(m->state) || m->state == RUN_STATE_SHUTDOWN)
		return err_set(err, -EBUSY, "a machine in state %s cannot be reset",
			       run_state_name(m->state));
	if (by_guest && m->config.no_reboot) {
		machine_shutdown(m, true, "guest-reset");
		return 0;
	}
	if (machine_park(m, err) < 0)
		return err->code;
	if (machine_boot_check(m, err) < 0)
		return reset_refused(m, by_guest, resume, err);
	if (m->reset.phase == RESET_NONE)
		m->reset.phase = RESET_WAITS;
	m->reset.by_guest = by_guest;
	m->reset.resumes = resume;
	obstacle = reset_obstacle(m);
	if (!obstacle)
		return reset_go_on(m, err);
	log_warn("the machine's reset waits %s", obstacle);
	if (m->state == RUN_STATE_RUNNING)
		machine_set_state(m, RUN_STATE_PAUSED);
	return 0;
}

void machine_do_asked(struct machine *m)
{
	struct err err = { 0 };
	unsigned int asked;

	/* It travels with the guest's state, or is done when the guest stays here after all. */
	if (run_state_is_away(m->state))
		return;
	asked = atomic_exchange(&m->asked, 0);
	if (asked & ASKED_SHUTDOWN)
		machine_shutdown(m, true, "guest-shutdown");
	else if (asked & ASKED_RESET && machine_reset(m, !(asked & ASKED_BY_HOST), &err) < 0)
		log_error("%s reset: %s", asked & ASKED_BY_HOST ? "the" : "the guest's", err.text);
}
