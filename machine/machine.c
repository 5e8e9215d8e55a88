// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * machine.c - a machine's life and its run state.
 *
 * machine_new puts the parts together in the one order that works: the userfaultfd is opened before the VM,
 * so that the end of the process, however it comes, closes it first (see memory.h). machine_free is its
 * mirror. The run state changes only in machine_set_state; run_state.c has the table. A reset is reset.c's.
 */
#include "machine/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "device/virtio/balloon.h"
#include "kvm/probe.h"
#include "machine/run_state.h"

/* How long news of lost pages wait after the last. */
#define LOST_REST_MS 100

/* Threads of ours that touch missing pages themselves. */
#ifdef POSTERN_TOUCH_CHECK
#define STRAY MEMORY_STRAY_ABORT
#else
#define STRAY MEMORY_STRAY_LOG
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

enum run_state machine_state(const struct machine *m)
{
	return m->state;
}

bool machine_is_to_run(const struct machine *m)
{
	return machine_is_running(m) || (m->reset_waits && m->reset_resumes);
}

void machine_set_autostart(struct machine *m, bool run)
{
	m->autostart = run;
}

bool machine_autostart(const struct machine *m)
{
	return m->autostart;
}

void machine_listen(struct machine *m, struct machine_listener *listener)
{
	struct machine_listener **at = &m->listeners;

	while (*at)
		at = &(*at)->next;
	listener->next = NULL;
	*at = listener;
}

void machine_unlisten(struct machine *m, struct machine_listener *listener)
{
	struct machine_listener **at = &m->listeners;

	while (*at && *at != listener)
		at = &(*at)->next;
	if (*at)
		*at = listener->next;
}

void machine_set_state(struct machine *m, enum run_state state)
{
	enum run_state old = m->state;

	if (old == state)
		return;
	if (!run_state_may_follow(old, state))
		log_warn("run state goes from %s to %s", run_state_name(old), run_state_name(state));
	m->state = state;
	log_info("run state: %s", run_state_name(state));
	MACHINE_TELL(m, state, old, state);
}

/* ---- life ---- */

static int copy(const char **to, const char *from, struct err *err)
{
	*to = from ? strdup(from) : NULL;
	return !from || *to ? 0 : err_set(err, -ENOMEM, "no memory for the configuration");
}

static int config_copy(struct machine *m, const struct machine_config *config, struct err *err)
{
	struct machine_config *to = &m->config;
	unsigned int i;
	int r;

	*to = *config;
	to->kernel = to->initrd = to->cmdline = to->append = to->name = NULL;
	to->found = NULL;
	for (i = 0; i < config->virtio.n; i++)
		to->virtio.choice[i].text = NULL;
	r = machine_boot_configure(m, config, err);
	if (!r)
		r = copy(&to->name, config->name, err);
	for (i = 0; i < config->virtio.n && !r; i++)
		r = copy(&to->virtio.choice[i].text, config->virtio.choice[i].text, err);
	return r;
}

static int memory_make(struct machine *m, struct err *err)
{
	const struct memory_events events = {
		.lost = machine_on_lost, .complete = machine_on_complete, .deaf = machine_on_deaf, .arg = m,
	};
	struct memory_range ranges[MEMORY_REGIONS_MAX];
	enum way_out way = m->config.way_out;
	unsigned int n;
	int64_t us;
	int r;

	r = arch_memory_layout(m->config.memory_bytes, ranges, &n, err);
	if (!r)
		r = memory_new(&m->mem, ranges, n, err);
	if (!r && m->config.dump_guest_core && (r = memory_set_dumpable(m->mem)) < 0)
		err_errno(err, r, "guest RAM for core dumps");
	if (!r && m->config.incoming)
		r = memory_watch(m->mem, &events, err);
	if (r < 0)
		return r;
	memory_set_stray(m->mem, STRAY);
	if (way == WAY_OUT_AUTO && m->config.incoming) {
		r = probe_way_out(&way, &us, err);
		if (r < 0)
			return err_prefix(err, "finding the way out of a wait for a page");
		log_info("way out of a wait for a page: %s, %" PRId64 " us",
			 way == WAY_OUT_KERNEL ? "kernel" : "eject", us);
	}
	if (way != WAY_OUT_AUTO)
		memory_set_way_out(m->mem, way);
	return 0;
}

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

/* What the guest has left of its memory; what it says need not make sense. */
static uint64_t balloon_left(const struct machine *m, uint32_t pages)
{
	uint64_t given = (uint64_t)pages * PAGE_BYTES;

	return given < m->config.memory_bytes ? m->config.memory_bytes - given : 0;
}

static int vm_make(struct machine *m, struct err *err)
{
	struct board_config board = {
		.loop = m->loop, .pio = &m->pio, .mmio = &m->mmio, .serial = &m->config.serial,
		.virtio = &m->config.virtio, .name = m->config.name,
		.events = { machine_on_device, m }, .incoming = m->config.incoming,
	};
	int r;

	r = vm_new(&m->vm, m->mem, m->config.cpus, &machine_exit_ops, m, err);
	if (r < 0)
		return r;
	board.vm = m->vm;
	return board_new(&m->board, &board, err);
}

int machine_new(struct machine **out, struct loop *loop, const struct machine_config *config, struct err *err)
{
	struct machine *m = calloc(1, sizeof(*m));
	int r;

	if (!m || !(m->mail = machine_mail_new(m)) || !(m->lost_rest = calloc(1, sizeof(*m->lost_rest)))) {
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
	m->state = config->incoming ? RUN_STATE_INMIGRATE : RUN_STATE_PRELAUNCH;
	bus_init(&m->pio, "port");
	bus_init(&m->mmio, "MMIO");
	r = config_copy(m, config, err);
	if (!r)
		r = memory_make(m, err);
	if (!r)
		r = vm_make(m, err);
	if (!r && !config->incoming)
		r = machine_boot_first(m, config->found, err);
	if (r < 0) {
		machine_free(m);
		return r;
	}
	*out = m;
	return 0;
}

static void on_lost_rest_closed(uv_handle_t *handle)
{
	free(handle);
}

int machine_free(struct machine *m)
{
	unsigned int i;

	if (!m)
		return 0;
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
	uv_close((uv_handle_t *)m->lost_rest, on_lost_rest_closed);
	lost_gather_fini(&m->lost);
	boot_files_fini(&m->boot_files);
	free((char *)m->config.name);
	for (i = 0; i < m->config.virtio.n; i++)
		free((char *)m->config.virtio.choice[i].text);
	free(m);
	return 0;
}

/* ---- run state ---- */

void machine_clock_back(struct machine *m)
{
	struct err err;

	if (m->clock_stopped && arch_clock_start(m->vm, m->clock, &err) < 0)
		log_warn("the guest sees the time that it was stopped: %s", err.text);
}

static void unpark(struct machine *m)
{
	machine_clock_back(m);
	m->clock_stopped = false;
	board_start(m->board);
	vm_resume(m->vm);
}

void machine_run(struct machine *m)
{
	machine_clock_back(m);
	m->clock_stopped = false;
	machine_set_state(m, RUN_STATE_RUNNING);
	unpark(m);
}

int machine_drain(struct machine *m, struct err *err)
{
	int r = vm_settle(m->vm, false, err);

	return r < 0 ? r : board_drain(m->board, clock_now_ns() + MACHINE_DRAIN_MS * NS_PER_MS, err);
}

int machine_park(struct machine *m, struct err *err)
{
	int r = vm_pause(m->vm, MACHINE_PAUSE_MS, err);

	if (r < 0) {
		vm_resume(m->vm);
		return r;
	}
	m->clock_stopped = !arch_clock_stop(m->vm, &m->clock, NULL);
	board_stop(m->board);
	return 0;
}

int machine_pause(struct machine *m, enum run_state state, struct err *err)
{
	bool switched;
	int r;

	if (m->state == RUN_STATE_INMIGRATE && state == RUN_STATE_PAUSED) {
		m->autostart = false;
		return 0;
	}
	/* Nor is it to run once a reset that waits is done. */
	if (state == RUN_STATE_PAUSED && (m->state == RUN_STATE_PAUSED || m->state == RUN_STATE_FINISH_MIGRATE))
		m->reset_resumes = false;
	/* A stop during switchover stands: the migration notices, and ends. */
	if (state == RUN_STATE_PAUSED && m->state != RUN_STATE_RUNNING && m->state != RUN_STATE_DEBUG &&
	    m->state != RUN_STATE_FINISH_MIGRATE)
		return 0;
	if (state == RUN_STATE_RUNNING || !run_state_may_follow(m->state, state))
		return err_set(err, -EBUSY, "the machine is in state %s and cannot go to %s",
			       run_state_name(m->state), run_state_name(state));
	/* In DEBUG a vCPU may be stepping, or not have parked yet. */
	r = m->state == RUN_STATE_RUNNING ? machine_park(m, err) : vm_pause(m->vm, MACHINE_PAUSE_MS, err);
	if (r < 0)
		return r;
	/* Before any page is sent: a disk may still be writing into it. */
	if (state == RUN_STATE_FINISH_MIGRATE) {
		board_stop(m->board);
		r = machine_drain(m, err);
		if (r < 0) {
			if (m->state == RUN_STATE_RUNNING)
				unpark(m);
			return r;
		}
	}
	switched = m->state == RUN_STATE_FINISH_MIGRATE;
	machine_set_state(m, state);
	/* Nobody else runs the guest before this is decided, and nobody here afterwards. */
	if (state == RUN_STATE_POSTMIGRATE)
		board_release(m->board);
	/* What a reset waits for may have come while the migration had the guest. */
	else if (switched)
		machine_reset_retry(m);
	return 0;
}

/* The state that memory puts the machine into instead of letting it run, and why; RUNNING: it may. */
static enum run_state memory_allows(const struct machine *m, struct err *err)
{
	struct memory_stats stats;

	if (m->deaf && memory_is_late(m->mem)) {
		err_set(err, -EBUSY, "missing pages cannot be asked for any more; the machine can go on when all of its "
				     "memory has come, which query-postern-faults shows");
		return RUN_STATE_INTERNAL_ERROR;
	}
	/* Whoever touches such a page waits for good, and nobody is told a second time. */
	memory_stats(m->mem, &stats);
	if (stats.lost) {
		err_set(err, -EBUSY, "%" PRIu64 " pages of guest memory are lost", stats.lost);
		return RUN_STATE_IO_ERROR;
	}
	return RUN_STATE_RUNNING;
}

int machine_may_run(const struct machine *m, struct err *err)
{
	if (m->reset_waits)
		return err_set(err, -EBUSY, "the machine's reset waits for %s",
			       m->boot_wanted ? "the kernel on its disk" :
			       memory_is_late(m->mem) ? "the pages that are still missing" :
							"requests that its disks have not finished");
	if (memory_allows(m, err) != RUN_STATE_RUNNING)
		return -EBUSY;
	switch (m->state) {
	case RUN_STATE_FINISH_MIGRATE:
		return err_set(err, -EBUSY, "the guest is being switched over to another host");
	case RUN_STATE_POSTMIGRATE:
		return err_set(err, -EBUSY, "the guest runs on another host, or may");
	case RUN_STATE_SHUTDOWN:
		return err_set(err, -EBUSY, "the machine is shut down");
	case RUN_STATE_INTERNAL_ERROR:
		if (m->deaf)
			return 0;
		return err_set(err, -EBUSY, "the machine has had an internal error: reset it first");
	default:
		return 0;
	}
}

int machine_cont(struct machine *m, struct err *err)
{
	int r;

	machine_do_asked(m);
	if (m->state == RUN_STATE_RUNNING)
		return 0;
	if (m->state == RUN_STATE_INMIGRATE) {
		m->autostart = true;
		return 0;
	}
	r = machine_may_run(m, err);
	if (!r)
		r = board_claim(m->board, err);
	if (r < 0)
		return r;
	machine_run(m);
	return 0;
}

int machine_leave_migrate(struct machine *m, bool resume, struct err *err)
{
	enum run_state state;
	int r;

	if (m->state != RUN_STATE_FINISH_MIGRATE && m->state != RUN_STATE_INMIGRATE &&
	    m->state != RUN_STATE_POSTMIGRATE)
		return err_set(err, -EBUSY, "no migration has the machine: it is in state %s",
			       run_state_name(m->state));
	/* It is this machine that may run now, whether it does at once or not. */
	r = board_claim(m->board, err);
	if (r < 0) {
		log_error("%s", err ? err->text : "a disk is another machine's");
		machine_set_state(m, RUN_STATE_PAUSED);
		return r;
	}
	if (!resume || m->reset_waits || atomic_load(&m->asked)) {
		machine_set_state(m, RUN_STATE_PAUSED);
		/* A reset or power-off that was under way when the guest was paused. */
		m->reset_resumes |= resume;
		machine_do_asked(m);
		machine_reset_retry(m);
		return 0;
	}
	state = memory_allows(m, err);
	if (state != RUN_STATE_RUNNING) {
		machine_set_state(m, state);
		log_error("the guest cannot go on: %s", err ? err->text : run_state_name(state));
		return -EBUSY;
	}
	machine_run(m);
	return 0;
}

/* ---- power, end ---- */

void machine_do_asked(struct machine *m)
{
	struct err err = { 0 };
	unsigned int asked;

	/* It travels with the guest's state, or is done when the guest stays here after all. */
	if (m->state == RUN_STATE_INMIGRATE || m->state == RUN_STATE_FINISH_MIGRATE ||
	    m->state == RUN_STATE_POSTMIGRATE)
		return;
	asked = atomic_exchange(&m->asked, 0);
	if (asked & ASKED_SHUTDOWN)
		machine_shutdown(m, true, "guest-shutdown");
	else if (asked & ASKED_RESET && machine_reset(m, !(asked & ASKED_BY_HOST), &err) < 0)
		log_error("%s reset: %s", asked & ASKED_BY_HOST ? "the" : "the guest's", err.text);
}

int machine_powerdown(struct machine *m, struct err *err)
{
	switch (m->state) {
	case RUN_STATE_INMIGRATE:
	case RUN_STATE_FINISH_MIGRATE:
	case RUN_STATE_POSTMIGRATE:
	case RUN_STATE_SHUTDOWN:
		return err_set(err, -EBUSY, "a machine in state %s has no power button",
			       run_state_name(m->state));
	default:
		board_press_power_button(m->board);
		MACHINE_TELL(m, powerdown);
		return 0;
	}
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
	if (m->state == RUN_STATE_INMIGRATE || m->state == RUN_STATE_FINISH_MIGRATE || m->state == RUN_STATE_POSTMIGRATE)
		return err_set(err, -EBUSY, "the balloon of a machine in state %s cannot be set", run_state_name(m->state));
	if (memory_bytes > m->config.memory_bytes)
		memory_bytes = m->config.memory_bytes;
	balloon_set_target(balloon, (uint32_t)((m->config.memory_bytes - memory_bytes) / PAGE_BYTES));
	return 0;
}

int machine_balloon(struct machine *m, uint64_t *memory_bytes, struct err *err)
{
	struct vdev *balloon;
	int r = balloon_of(m, &balloon, err);

	if (!r)
		*memory_bytes = balloon_left(m, balloon_actual(balloon));
	return r;
}

void machine_shutdown(struct machine *m, bool by_guest, const char *reason)
{
	if (m->shut)
		return;
	m->shut = true;
	log_info("shutting down: %s", reason);
	vm_ask_pause(m->vm);
	MACHINE_TELL(m, shutdown, by_guest, reason);
	machine_set_state(m, RUN_STATE_SHUTDOWN);
	loop_stop(m->loop);
}

/* ---- events, on the main thread ---- */

/* Stops a running machine for a reason of its own; there is nobody to report to. */
static void stop_for(struct machine *m, enum run_state state)
{
	struct err err;

	if (m->state == state || !run_state_may_follow(m->state, state))
		return;
	if (machine_pause(m, state, &err) < 0)
		log_error("%s", err.text);
}

void machine_debug_event(struct machine *m, struct vcpu *vcpu)
{
	struct err err;

	if (m->state == RUN_STATE_DEBUG || m->state == RUN_STATE_RUNNING || m->state == RUN_STATE_PAUSED) {
		/* In DEBUG too: a step lets a single vCPU run. */
		if (vm_pause(m->vm, MACHINE_PAUSE_MS, &err) < 0) {
			log_error("%s", err.text);
			if (m->state == RUN_STATE_RUNNING) {
				/* All go on, rather than all but one; this one meets its breakpoint again. */
				vm_resume(m->vm);
				return;
			}
		}
		board_stop(m->board);
		machine_set_state(m, RUN_STATE_DEBUG);
		MACHINE_TELL(m, debug, vcpu);
	}
}

void machine_crash_event(struct machine *m, const char *text)
{
	log_warn("the guest reports a panic%s%s", *text ? ": " : "", text);
	stop_for(m, RUN_STATE_GUEST_PANICKED);
}

void machine_error_event(struct machine *m, const char *text)
{
	log_error("%s", text);
	stop_for(m, RUN_STATE_INTERNAL_ERROR);
}

void machine_deaf_event(struct machine *m, const char *text)
{
	/* The bulk comes all the same, and with it, at the end, every page. */
	log_error("%s: the machine is paused; let the migration complete, then continue it", text);
	if (!memory_is_late(m->mem))
		return;
	m->deaf = true;
	if (m->state == RUN_STATE_INMIGRATE)
		m->autostart = false;
	else
		stop_for(m, RUN_STATE_INTERNAL_ERROR);
}

static void on_lost_rest(uv_timer_t *timer)
{
	struct machine *m = timer->data;

	if (!m->shut)
		machine_lost_event(m);
}

static void lost_log(const struct lost_pages *lost)
{
	uint64_t lowest = gfn_to_gpa(lost->lowest).v;

	if (lost->pages == 1)
		log_error("the page at guest physical address 0x%" PRIx64 " is lost", lowest);
	else if (lost->range[0].pages == lost->pages)
		log_error("%" PRIu64 " pages from guest physical address 0x%" PRIx64 " on are lost", lost->pages, lowest);
	else
		log_error("%" PRIu64 " pages are lost, here and there from guest physical address 0x%" PRIx64 " on", lost->pages, lowest);
}

void machine_lost_event(struct machine *m)
{
	struct lost_pages lost;

	if (!lost_gather_take(&m->lost, &lost))
		return;
	uv_timer_start(m->lost_rest, on_lost_rest, LOST_REST_MS, 0);
	lost_log(&lost);
	if (m->state == RUN_STATE_RUNNING)
		stop_for(m, RUN_STATE_IO_ERROR);
	MACHINE_TELL(m, pages_lost, &lost);
}

void machine_poisoned_event(struct machine *m, gfn_t gfn)
{
	const struct lost_pages lost = { .pages = 1, .lowest = gfn, .ranges = 1, .range = { { gfn, 1 } } };

	log_error("the host's memory behind the page at guest physical address 0x%" PRIx64 " has failed (the kernel has poisoned it, see its log): "
		  "what the page held is lost, and the guest cannot go on here", gfn_to_gpa(gfn).v);
	/* A debugger may have let the vCPU run alone. */
	if (m->state == RUN_STATE_RUNNING || m->state == RUN_STATE_DEBUG)
		stop_for(m, RUN_STATE_IO_ERROR);
	MACHINE_TELL(m, pages_lost, &lost);
}

void machine_complete_event(struct machine *m)
{
	log_info("all of the guest's memory has come");
	board_memory_complete(m->board);
	MACHINE_TELL(m, memory_complete);
	machine_reset_retry(m);
}

void machine_idle_event(struct machine *m)
{
	machine_reset_retry(m);
}
