// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The machine with the bare guest, on a real KVM. POSTERN_BARE is the path of its ELF file.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "machine/internal.h"

#define CPUS 2
#define MEMORY_BYTES ((uint64_t)16 << 20)

struct world {
	struct loop *loop;
	struct machine *machine;
	struct machine_observer observer;
	unsigned int resets, resets_by_guest, shutdowns, powerdowns, states, completes, lost;
	uint64_t lost_gfn, lost_pages;
	bool parked;		/* at the last reset */
	char reason[32];
};

static void on_state(void *arg, enum run_state old, enum run_state now)
{
	struct world *w = arg;

	assert_int_not_equal(old, now);
	w->states++;
}

static void on_reset(void *arg, bool by_guest)
{
	struct world *w = arg;

	w->resets++;
	w->resets_by_guest += by_guest;
	w->parked = vcpu_is_parked(vm_vcpu(machine_vm(w->machine), 0)) &&
		    vcpu_is_parked(vm_vcpu(machine_vm(w->machine), 1));
}

static void on_shutdown(void *arg, bool by_guest, const char *reason)
{
	struct world *w = arg;

	(void)by_guest;
	w->shutdowns++;
	snprintf(w->reason, sizeof(w->reason), "%s", reason);
}

static void on_powerdown(void *arg)
{
	((struct world *)arg)->powerdowns++;
}

static void on_lost(void *arg, const struct lost_pages *lost)
{
	struct world *w = arg;

	w->lost++;
	w->lost_pages += lost->pages;
	w->lost_gfn = lost->lowest.v;
}

static void on_complete(void *arg)
{
	((struct world *)arg)->completes++;
}

static struct world *world_make(bool incoming, bool no_reboot,
				int (*boot_find)(void *, struct machine *, struct err *))
{
	const struct boot_files found = { .type = BOOT_FILES, .kernel =
		{ getenv("POSTERN_BARE"), -1 }, .initrd.fd = -1 };
	struct machine_config config = {
		.cpus = CPUS, .memory_bytes = MEMORY_BYTES, .kernel = boot_find ? NULL :
			getenv("POSTERN_BARE"), .found = &found,
		.way_out = WAY_OUT_AUTO, .no_reboot = no_reboot,
		.starts_inmigrate = incoming, .ram_is_late = incoming,
		.disks_elsewhere = incoming, .loads_no_kernel = incoming,
		.serial = { .type = CHARDEV_NULL }, .boot_find = boot_find,
	};
	struct world *w = calloc(1, sizeof(*w));
	struct err err = { 0 };

	assert_int_equal(loop_new(&w->loop, &err), 0);
	if (machine_new(&w->machine, w->loop, &config, &err) < 0)
		fail_msg("%s", err.text);
	w->observer = (struct machine_observer){
		.state = on_state, .reset = on_reset, .shutdown = on_shutdown, .powerdown = on_powerdown,
		.pages_lost = on_lost, .memory_complete = on_complete, .arg = w,
	};
	machine_observe(w->machine, &w->observer);
	return w;
}

static struct world *world_new(bool incoming, bool no_reboot)
{
	return world_make(incoming, no_reboot, NULL);
}

static void world_free(struct world *w)
{
	assert_int_equal(machine_free(w->machine), 0);
	loop_free(w->loop);
	free(w);
}

#define run_until(w, condition)                                                                \
	do {                                                                                   \
		int64_t end_ = clock_now_ns() + 20 * NS_PER_SEC;                               \
		while (!(condition)) {                                                         \
			assert_true(clock_now_ns() < end_);                                    \
			uv_run(loop_uv((w)->loop), UV_RUN_NOWAIT);                             \
		}                                                                              \
	} while (0)

static uint64_t exits(struct world *w)
{
	struct vcpu_stats stats;

	vcpu_stats(vm_vcpu(machine_vm(w->machine), 0), &stats);
	return stats.exits;
}

/* ---- run state ---- */

static void stop_and_cont_do_what_they_say(void **state)
{
	struct world *w = world_new(false, false);
	struct machine *m = w->machine;
	struct buf buf = { 0 };
	struct err err;
	uint64_t before;

	(void)state;
	assert_int_equal(machine_state(m), RUN_STATE_PRELAUNCH);
	assert_int_equal(machine_stop(m, RUN_STATE_PAUSED, &err), 0);
	assert_int_equal(machine_state(m), RUN_STATE_PRELAUNCH);
	assert_int_equal(machine_cont(m, &err), 0);
	assert_true(machine_is_running(m));
	run_until(w, exits(w) > 0);
	assert_int_equal(machine_save(m, &buf, &err), -EBUSY);
	assert_int_equal(machine_load(m, buf.data, buf.len, &err), -EBUSY);
	assert_int_equal(machine_stop(m, RUN_STATE_PAUSED, &err), 0);
	assert_true(vcpu_is_parked(vm_vcpu(machine_vm(m), 0)));
	assert_true(vcpu_is_parked(vm_vcpu(machine_vm(m), 1)));
	assert_int_equal(machine_cont(m, &err), 0);
	before = exits(w);
	run_until(w, exits(w) > before);
	assert_int_equal(w->states, 3);
	world_free(w);
}

static void a_guest_that_leaves_is_not_continued(void **state)
{
	struct world *w = world_new(false, false);
	struct machine *m = w->machine;
	struct err err;

	(void)state;
	assert_int_equal(machine_leave_migrate(m, true, &err), -EBUSY);
	assert_int_equal(machine_commit_migrate(m, &err), -EBUSY);
	assert_int_equal(machine_cont(m, &err), 0);
	assert_int_equal(machine_enter_migrate(m, &err), 0);
	assert_int_equal(machine_cont(m, &err), -EBUSY);
	assert_int_equal(machine_reset(m, false, &err), -EBUSY);
	assert_int_equal(machine_powerdown(m, &err), -EBUSY);
	assert_int_equal(machine_commit_migrate(m, &err), 0);
	assert_int_equal(machine_cont(m, &err), -EBUSY);
	assert_non_null(strstr(err.text, "another host"));
	assert_int_equal(machine_leave_migrate(m, true, &err), 0);
	assert_true(machine_is_running(m));
	world_free(w);
}

static void the_first_end_counts(void **state)
{
	struct world *w = world_new(false, false);
	struct err err;

	(void)state;
	assert_int_equal(machine_cont(w->machine, &err), 0);
	machine_shutdown(w->machine, false, "host-signal");
	machine_shutdown(w->machine, false, "host-qmp-quit");
	assert_int_equal(w->shutdowns, 1);
	assert_string_equal(w->reason, "host-signal");
	assert_int_equal(machine_state(w->machine), RUN_STATE_SHUTDOWN);
	assert_int_equal(machine_cont(w->machine, &err), -EBUSY);
	/* The loop ends at once. */
	loop_run(w->loop);
	world_free(w);
}

static void the_power_button_is_pressed(void **state)
{
	struct world *w = world_new(false, false);
	struct err err;

	(void)state;
	assert_int_equal(machine_powerdown(w->machine, &err), 0);
	assert_int_equal(w->powerdowns, 1);
	world_free(w);
}

/* ---- what the guest asks for ---- */

static void a_guest_s_reset_starts_it_anew(void **state)
{
	struct world *w = world_new(false, false);
	struct err err;

	(void)state;
	assert_int_equal(machine_cont(w->machine, &err), 0);
	/* As its vCPU threads do; many times, as a guest in a loop does. */
	machine_on_device(w->machine, &(struct device_event){ .type = DEVICE_EVENT_RESET });
	machine_on_device(w->machine, &(struct device_event){ .type = DEVICE_EVENT_RESET });
	run_until(w, w->resets == 1);
	assert_int_equal(w->resets_by_guest, 1);
	assert_true(machine_is_running(w->machine));
	assert_int_equal(machine_stop(w->machine, RUN_STATE_PAUSED, &err), 0);
	assert_int_equal(machine_reset(w->machine, false, &err), 0);
	assert_int_equal(w->resets, 2);
	assert_int_equal(machine_state(w->machine), RUN_STATE_PRELAUNCH);
	world_free(w);
}

static int find_later(void *arg, struct machine *machine, struct err *err)
{
	(void)arg, (void)machine, (void)err;
	return 0;
}

/*
 * Whoever lets a vCPU run while a reset waits finds it parked when the reset is
 * done: KVM would let the main thread wait for it.
 */
static void a_reset_that_has_waited_parks_the_guest(void **state)
{
	struct boot_files boot;
	struct world *w = world_make(false, false, find_later);
	struct machine *m = w->machine;
	uint64_t before;
	struct err err;

	(void)state;
	boot_files_init(&boot);
	assert_int_equal(boot_files_set_paths(&boot, getenv("POSTERN_BARE"), NULL, NULL, &err), 0);
	assert_int_equal(machine_cont(m, &err), 0);
	run_until(w, exits(w) > 0);
	assert_int_equal(machine_reset(m, false, &err), 0);
	assert_int_equal(w->resets, 0);
	assert_int_equal(machine_may_run(m, &err), -EBUSY);
	before = exits(w);
	vcpu_resume(vm_vcpu(machine_vm(m), 0));
	run_until(w, exits(w) > before);
	machine_boot_found(m, &boot, NULL);
	assert_int_equal(w->resets, 1);
	assert_true(w->parked);
	assert_true(machine_is_running(m));
	assert_int_equal(machine_may_run(m, &err), 0);
	boot_files_fini(&boot);
	world_free(w);
}

static void without_reboot_a_reset_ends(void **state)
{
	struct world *w = world_new(false, true);
	struct err err;

	(void)state;
	assert_int_equal(machine_cont(w->machine, &err), 0);
	machine_on_device(w->machine, &(struct device_event){ .type = DEVICE_EVENT_RESET });
	loop_run(w->loop);
	assert_int_equal(w->resets, 0);
	assert_string_equal(w->reason, "guest-reset");
	world_free(w);
}

static void power_off_ends(void **state)
{
	struct world *w = world_new(false, false);
	struct err err;

	(void)state;
	assert_int_equal(machine_cont(w->machine, &err), 0);
	machine_on_device(w->machine, &(struct device_event){ .type = DEVICE_EVENT_SHUTDOWN });
	loop_run(w->loop);
	assert_string_equal(w->reason, "guest-shutdown");
	world_free(w);
}

/* A wish that is uttered just before switchover must come true, on the other side. */
static void a_wish_travels(void **state)
{
	struct world *from = world_new(false, false), *to = world_new(true, false);
	struct buf buf = { 0 };
	struct err err;

	(void)state;
	assert_int_equal(machine_cont(from->machine, &err), 0);
	assert_int_equal(machine_enter_migrate(from->machine, &err), 0);
	machine_on_device(from->machine, &(struct device_event){ .type = DEVICE_EVENT_SHUTDOWN });
	uv_run(loop_uv(from->loop), UV_RUN_NOWAIT);
	assert_int_equal(from->shutdowns, 0);
	assert_int_equal(machine_save(from->machine, &buf, &err), 0);
	assert_int_equal(machine_load(to->machine, buf.data, buf.len, &err), 0);
	assert_int_equal(to->shutdowns, 0);
	assert_int_equal(machine_leave_migrate(to->machine, true, &err), 0);
	assert_string_equal(to->reason, "guest-shutdown");
	/* And where it came from, should the migration fail. */
	assert_int_equal(machine_leave_migrate(from->machine, true, &err), 0);
	assert_string_equal(from->reason, "guest-shutdown");
	loop_run(from->loop);
	loop_run(to->loop);
	buf_fini(&buf);
	world_free(from);
	world_free(to);
}

/* ---- time away ---- */

static uint64_t clock_shown(struct machine *m)
{
	struct err err;
	uint64_t clock;

	assert_int_equal(arch_clock_stop(machine_vm(m), &clock, &err), 0);
	return clock;
}

/* In ns: the clock's unit on x86; on others what is checked is that it goes on. */
#ifdef __x86_64__
#define CLOCK_SECOND NS_PER_SEC
#else
#define CLOCK_SECOND 1000
#endif

static void clocks_show_the_time_away_or_not(void **state)
{
	struct world *from = world_new(false, false), *to = world_new(true, false);
	struct machine_away away = { .shown = true };
	struct buf buf = { 0 };
	int64_t parked;
	struct err err;
	uint64_t was;

	(void)state;
	was = clock_shown(from->machine);
	assert_int_equal(machine_cont(from->machine, &err), 0);
	assert_int_equal(machine_stop(from->machine, RUN_STATE_PAUSED, &err), 0);
	parked = machine_parked_ns(from->machine);
	assert_true(clock_wall_ns() - parked < 100 * NS_PER_SEC && clock_wall_ns() >= parked);
	assert_int_equal(machine_save(from->machine, &buf, &err), 0);
	/* When it was saved is not known. */
	assert_int_equal(machine_load_away(to->machine, buf.data, buf.len, &away, &err), -ENODATA);
	away.parked_ns = clock_wall_ns() - 3600 * NS_PER_SEC;
	assert_int_equal(machine_load_away(to->machine, buf.data, buf.len, &away, &err), 0);
	assert_true(clock_shown(to->machine) - was >= 3600u * CLOCK_SECOND);
	assert_true(clock_wall_ns() - machine_parked_ns(to->machine) < 100 * NS_PER_SEC);
	away.shown = false;
	assert_int_equal(machine_load_away(to->machine, buf.data, buf.len, &away, &err), 0);
	assert_true(clock_shown(to->machine) - was < 100 * NS_PER_SEC);
	/* It has not run: it is as far behind as it was, should it be saved again. */
	assert_true(machine_parked_ns(to->machine) - away.parked_ns < 100 * NS_PER_SEC);
	/* This host's clock is behind. */
	away = (struct machine_away){ .parked_ns = clock_wall_ns() * 2, .shown = true };
	assert_int_equal(machine_load_away(to->machine, buf.data, buf.len, &away, &err), 0);
	assert_true(clock_shown(to->machine) - was < 100 * NS_PER_SEC);
	buf_fini(&buf);
	world_free(from);
	world_free(to);
}

/* ---- late memory ---- */

static void fill_all_but(struct machine *m, uint64_t but)
{
	const struct memory_region *region;
	unsigned int i, n;
	uint64_t at;

	region = memory_regions(machine_memory(m), &n);
	for (i = 0; i < n; i++)
		for (at = region[i].first.v; at < region[i].first.v + region[i].pages; at++)
			if (at != but)
				assert_true(memory_fill(machine_memory(m), GFN(at), 1, NULL) >= 0);
}

static void a_reset_waits_for_late_memory(void **state)
{
	struct world *w = world_new(true, false);
	struct machine *m = w->machine;
	struct err err;

	(void)state;
	assert_int_equal(machine_state(m), RUN_STATE_INMIGRATE);
	assert_int_equal(machine_reset(m, false, &err), -EBUSY);
	assert_int_equal(machine_cont(m, &err), 0);
	assert_true(machine_autostart(m));
	assert_int_equal(machine_stop(m, RUN_STATE_PAUSED, &err), 0);
	assert_false(machine_autostart(m));
	assert_int_equal(machine_state(m), RUN_STATE_INMIGRATE);
	assert_int_equal(machine_leave_migrate(m, false, &err), 0);
	assert_int_equal(machine_reset(m, false, &err), 0);
	assert_int_equal(w->resets, 0);
	assert_int_equal(machine_cont(m, &err), -EBUSY);
	fill_all_but(m, UINT64_MAX);
	run_until(w, w->completes == 1);
	assert_int_equal(w->resets, 1);
	assert_int_equal(machine_state(m), RUN_STATE_PRELAUNCH);
	assert_int_equal(machine_cont(m, &err), 0);
	run_until(w, exits(w) > 0);
	world_free(w);
}

struct pages {
	struct memory *from, *to;
};

static int page_copy(void *arg, gfn_t gfn)
{
	const struct pages *pages = arg;
	uint8_t data[PAGE_BYTES];

	assert_int_equal(gup_read(pages->from, gfn_to_gpa(gfn), data, sizeof(data), 0, NULL), 0);
	assert_true(memory_fill(pages->to, gfn, 1, data) >= 0);
	return 0;
}

/* A migration in small: the pages that must come early, the state, and go. */
static void arrive(struct world *from, struct world *to)
{
	struct pages pages = { machine_memory(from->machine), machine_memory(to->machine) };
	struct buf buf = { 0 };
	struct err err;

	assert_int_equal(machine_early_pages(from->machine, page_copy, &pages, &err), 0);
	assert_int_equal(machine_save(from->machine, &buf, &err), 0);
	assert_int_equal(machine_load(to->machine, buf.data, buf.len, &err), 0);
	assert_int_equal(machine_leave_migrate(to->machine, true, &err), 0);
	assert_true(machine_is_running(to->machine));
	buf_fini(&buf);
}

static void a_lost_page_stops_the_guest(void **state)
{
	struct world *from = world_new(false, false), *w = world_new(true, false);
	const uint64_t lost = MEMORY_BYTES / PAGE_BYTES - 1;
	struct machine *m = w->machine;
	struct err err;

	(void)state;
	arrive(from, w);
	assert_int_equal(memory_lose(machine_memory(m), GFN(lost)), 0);
	run_until(w, w->lost == 1);
	assert_int_equal(w->lost_gfn, lost);
	assert_int_equal(machine_state(m), RUN_STATE_IO_ERROR);
	assert_int_equal(machine_cont(m, &err), -EBUSY);
	assert_non_null(strstr(err.text, "lost"));
	assert_true(memory_fill(machine_memory(m), GFN(lost), 1, NULL) == 1);
	assert_int_equal(machine_cont(m, &err), 0);
	assert_true(machine_is_running(m));
	world_free(from);
	/* Its vCPUs wait for pages that will never come; world_free ends them all the same. */
	world_free(w);
}

/*
 * However many a source loses, the loop has one thing to do, and whoever
 * listens hears of it once a while: nothing grows with them.
 */
static void lost_pages_are_told_of_together(void **state)
{
	struct world *from = world_new(false, false), *w = world_new(true, false);
	const uint64_t pages = MEMORY_BYTES / PAGE_BYTES / 2;
	struct memory *mem = machine_memory(w->machine);
	uint64_t gfn;

	(void)state;
	arrive(from, w);
	for (gfn = pages; gfn < 2 * pages; gfn++)
		assert_int_equal(memory_lose(mem, GFN(gfn)), 0);
	run_until(w, w->lost_pages == pages);
	assert_int_equal(w->lost, 1);
	assert_int_equal(w->lost_gfn, pages);
	assert_int_equal(machine_state(w->machine), RUN_STATE_IO_ERROR);
	/*
	 * What comes later is told of later, without another of the guest's
	 * pages having to be lost.
	 */
	for (gfn = 1000; gfn < 1100; gfn++)
		assert_int_equal(memory_lose(mem, GFN(gfn)), 0);
	run_until(w, w->lost_pages == pages + 100);
	assert_int_equal(w->lost, 2);
	assert_int_equal(w->lost_gfn, 1000);
	world_free(from);
	world_free(w);
}

/*
 * The kernel does not tell any more who waits for which page: the guest waits,
 * paused, until all has come without being asked for.
 */
static void a_guest_whose_faults_cannot_be_read_is_stopped(void **state)
{
	struct world *from = world_new(false, false), *w = world_new(true, false);
	struct memory *mem = machine_memory(w->machine);
	struct err err;
	uint64_t gfn;

	(void)state;
	arrive(from, w);
	machine_on_watch_failed(w->machine, -EBADF);
	run_until(w, machine_state(w->machine) == RUN_STATE_INTERNAL_ERROR);
	assert_int_equal(machine_cont(w->machine, &err), -EBUSY);
	assert_non_null(strstr(err.text, "when all of its memory has come"));
	for (gfn = 0; gfn < MEMORY_BYTES / PAGE_BYTES; gfn++)
		assert_int_equal(page_copy(&(struct pages){ machine_memory(from->machine), mem }, GFN(gfn)), 0);
	run_until(w, w->completes == 1);
	assert_int_equal(machine_state(w->machine), RUN_STATE_INTERNAL_ERROR);
	assert_int_equal(machine_cont(w->machine, &err), 0);
	assert_true(machine_is_running(w->machine));
	/* Too late to matter. */
	machine_on_watch_failed(w->machine, -EBADF);
	world_free(from);
	world_free(w);
}

/* ---- state ---- */

static int early_check(void *arg, gfn_t gfn)
{
	uint64_t *last = arg;

	assert_true(*last == UINT64_MAX || gfn.v > *last);
	*last = gfn.v;
	return 0;
}

static int early_stop(void *arg, gfn_t gfn)
{
	(void)arg;
	(void)gfn;
	return -ENOSPC;
}

static void early_pages_come_once_each(void **state)
{
	struct world *w = world_new(false, false);
	uint64_t last = UINT64_MAX;
	struct err err;

	(void)state;
	assert_int_equal(machine_early_pages(w->machine, early_check, &last, &err), 0);
	assert_int_not_equal(last, UINT64_MAX);
	assert_int_equal(machine_early_pages(w->machine, early_stop, NULL, &err), -ENOSPC);
	world_free(w);
}

static uint8_t *find(const struct buf *buf, const char *what, size_t len)
{
	uint8_t *at = memmem(buf->data, buf->len, what, len);

	assert_non_null(at);
	return at;
}

#define assert_load_fails(m, buf, len, words)                                                  \
	do {                                                                                   \
		struct err err_ = { 0 };                                                       \
		assert_true(machine_load(m, (buf)->data, len, &err_) < 0);                     \
		if (!strstr(err_.text, words))                                                 \
			fail_msg("\"%s\" lacks \"%s\"", err_.text, words);                     \
	} while (0)

static void state_of_another_shape_is_refused(void **state)
{
	struct world *w = world_new(false, false);
	struct machine *m = w->machine;
	struct buf buf = { 0 };
	struct err err;
	uint8_t *at;

	(void)state;
	assert_int_equal(machine_save(m, &buf, &err), 0);
	assert_int_equal(machine_load(m, buf.data, buf.len, &err), 0);
	/* The message begins with its version (field 1) and the number of vCPUs (field 2). */
	assert_memory_equal(buf.data, "\x08\x03\x10\x02", 4);
	buf.data[1] = 1;
	assert_load_fails(m, &buf, buf.len, "version 1");
	buf.data[1] = 2;
	assert_load_fails(m, &buf, buf.len,
			  "identity, in a machine state of version 2, which has none");
	buf.data[1] = 3;
	buf.data[3] = 3;
	assert_load_fails(m, &buf, buf.len, "3 vCPUs");
	buf.data[3] = 2;
	at = find(&buf, "power", 5);
	*at = 'P';
	assert_load_fails(m, &buf, buf.len, "\"Power\"");
	*at = 'p';
	/*
	 * Devices are its last field: without the last of them, with one twice,
	 * with a version of its own.
	 */
	at = find(&buf, "\x0a\x03rtc", 5);
	while (*at != 0x32)
		at--;
	assert_load_fails(m, &buf, (size_t)(at - buf.data), "no state of device rtc");
	at = find(&buf, "rtc\x10\x01", 5);
	at[4] = 7;
	assert_load_fails(m, &buf, buf.len, "version 7");
	at[4] = 1;
	buf_append(&buf, "\x32\x09\x0a\x03rtc\x10\x01\x1a", 10);
	buf_append(&buf, "", 1);
	assert_load_fails(m, &buf, buf.len, "rtc comes twice");
	buf.len -= 11;
	buf_append(&buf, "\x1a", 1);
	buf_append(&buf, "", 1);
	assert_load_fails(m, &buf, buf.len, "2 ranges of RAM");
	buf.len -= 2;
	/* A vCPU too many. */
	buf_append(&buf, "\x2a", 1);
	buf_append(&buf, "", 1);
	assert_load_fails(m, &buf, buf.len, "3 present");
	buf.len -= 2;
	assert_int_equal(machine_load(m, buf.data, buf.len, &err), 0);
	buf_fini(&buf);
	world_free(w);
}

/*
 * No piece loads, and what is whole loads afterwards. A flipped bit may well
 * load, but does the VMM no harm.
 */
static void damaged_state_does_no_harm(void **state)
{
	struct world *w = world_new(false, false);
	struct buf buf = { 0 };
	struct err err;
	size_t i;

	(void)state;
	assert_int_equal(machine_save(w->machine, &buf, &err), 0);
	for (i = 0; i < buf.len - 1; i += 1 + i / 64)
		assert_true(machine_load(w->machine, buf.data, i, &err) < 0);
	if (machine_load(w->machine, buf.data, buf.len, &err) < 0)
		fail_msg("%s", err.text);
	for (i = 0; i < buf.len; i += 1 + i / 64) {
		buf.data[i] ^= (uint8_t)(1u << i % 8);
		machine_load(w->machine, buf.data, buf.len, &err);
		buf.data[i] ^= (uint8_t)(1u << i % 8);
	}
	buf_fini(&buf);
	world_free(w);
}

static void what_cannot_be_built_says_why(void **state)
{
	struct machine_config config = {
		.cpus = 1, .memory_bytes = MEMORY_BYTES, .serial = { .type = CHARDEV_NULL },
	};
	struct machine *m;
	struct loop *loop;
	struct err err;

	(void)state;
	assert_int_equal(loop_new(&loop, &err), 0);
	assert_int_equal(machine_new(&m, loop, &config, &err), -EINVAL);
	assert_non_null(strstr(err.text, "no kernel"));
	config.kernel = "/nonexistent/kernel";
	assert_int_equal(machine_new(&m, loop, &config, &err), -ENOENT);
	assert_non_null(strstr(err.text, "/nonexistent/kernel"));
	config.kernel = getenv("POSTERN_BARE");
	config.cpus = VM_VCPUS_MAX + 1;
	assert_int_equal(machine_new(&m, loop, &config, &err), -EINVAL);
	loop_free(loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stop_and_cont_do_what_they_say),
		cmocka_unit_test(a_guest_that_leaves_is_not_continued),
		cmocka_unit_test(the_first_end_counts),
		cmocka_unit_test(the_power_button_is_pressed),
		cmocka_unit_test(a_guest_s_reset_starts_it_anew),
		cmocka_unit_test(a_reset_that_has_waited_parks_the_guest),
		cmocka_unit_test(without_reboot_a_reset_ends),
		cmocka_unit_test(power_off_ends),
		cmocka_unit_test(a_wish_travels),
		cmocka_unit_test(a_reset_waits_for_late_memory),
		cmocka_unit_test(a_lost_page_stops_the_guest),
		cmocka_unit_test(lost_pages_are_told_of_together),
		cmocka_unit_test(a_guest_whose_faults_cannot_be_read_is_stopped),
		cmocka_unit_test(clocks_show_the_time_away_or_not),
		cmocka_unit_test(early_pages_come_once_each),
		cmocka_unit_test(state_of_another_shape_is_refused),
		cmocka_unit_test(damaged_state_does_no_harm),
		cmocka_unit_test(what_cannot_be_built_says_why),
	};

	if (access("/dev/kvm", R_OK | W_OK) < 0 || !getenv("POSTERN_BARE")) {
		fprintf(stderr, "skipped: needs /dev/kvm and the bare guest (POSTERN_BARE)\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
