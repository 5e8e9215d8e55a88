// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * What stop and go mean in which state, when a machine may run, and what
 * becomes of a reset that waits: run_control.c and reset.c with real memory,
 * and without VM, board and architecture.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "machine/internal.h"
#include "tests/own_dir.h"
#include "tests/unit/machine/fake_parts.h"

#define MEMORY_BYTES ((uint64_t)2 << 20)

/* ---- a machine ---- */

static const struct vcpu_set first_vcpu = { { 1 } };

struct world {
	struct loop *loop;
	struct machine *machine;
	struct machine_observer observer;
	unsigned int lost, resets, resets_by_guest, finds, shutdowns;
	gfn_t lost_gfn;
};

static void on_lost(void *arg, const struct lost_pages *lost)
{
	((struct world *)arg)->lost++;
	((struct world *)arg)->lost_gfn = lost->lowest;
}

static void on_reset(void *arg, bool by_guest)
{
	struct world *w = arg;

	w->resets++;
	w->resets_by_guest += by_guest;
}

static void on_shutdown(void *arg, bool by_guest, const char *reason)
{
	(void)by_guest, (void)reason;
	((struct world *)arg)->shutdowns++;
}

static int boot_find(void *arg, struct machine *machine, struct err *err)
{
	(void)machine, (void)err;
	((struct world *)arg)->finds++;
	return 0;
}

/* Nobody looks into them here. */
#define SOME_FILE "/proc/self/exe"
static const struct boot_files on_disk = {
	.type = BOOT_FILES, .kernel = { .path = (char *)(uintptr_t)SOME_FILE, .fd = -1 }, .initrd =
		{ .fd = -1 },
};

static void world_start(struct world *w, const struct machine_config *config)
{
	struct err err = { 0 };
	int r;

	assert_int_equal(loop_new(&w->loop, &err), 0);
	r = machine_new(&w->machine, w->loop, config, &err);
	if (r == -EPERM || r == -ENOSYS) {
		loop_free(w->loop);
		free(w);
		print_message("skipped: %s\n", err.text);
		skip();
	}
	assert_int_equal(r, 0);
	w->observer = (struct machine_observer){ .pages_lost = on_lost, .reset = on_reset, .shutdown = on_shutdown, .arg = w };
	machine_observe(w->machine, &w->observer);
}

static struct world *world_new(bool incoming, bool finds)
{
	struct world *w = calloc(1, sizeof(*w));
	struct machine_config config = {
		.cpus = 1, .memory_bytes = MEMORY_BYTES, .kernel = finds ? NULL : SOME_FILE,
			.starts_inmigrate = incoming, .ram_is_late = incoming,
		.disks_elsewhere = incoming, .loads_no_kernel = incoming,
		.found = &on_disk, .boot_find = finds ? boot_find : NULL, .boot_arg = w, .serial =
			{ .type = CHARDEV_NULL },
	};

	world_start(w, &config);
	return w;
}

static void world_free(struct world *w)
{
	assert_int_equal(machine_free(w->machine), 0);
	loop_free(w->loop);
	free(w);
}

static void turn(struct world *w)
{
	unsigned int i;

	for (i = 0; i < 4; i++)
		uv_run(loop_uv(w->loop), UV_RUN_NOWAIT);
}

static void lose(struct world *w)
{
	assert_int_equal(memory_lose(machine_memory(w->machine), GFN(7)), 0);
	turn(w);
	assert_int_equal(w->lost, 1);
}

static void find(struct world *w)
{
	assert_int_equal(memory_fill(machine_memory(w->machine), GFN(7), 1, NULL), 1);
}

/* ---- stop and go ---- */

/*
 * Nothing runs that could be stopped: whoever says so says what is to be once
 * the guest has arrived.
 */
static void while_a_migration_comes_in_stop_and_cont_say_what_is_to_be(void **state)
{
	static const enum run_state stops[] = { RUN_STATE_PAUSED, RUN_STATE_DEBUG };
	struct err err;
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(stops) / sizeof(stops[0]); i++) {
		struct world *w = world_new(true, false);

		assert_true(machine_autostart(w->machine));
		assert_int_equal(machine_stop(w->machine, stops[i], &err), 0);
		assert_false(machine_autostart(w->machine));
		assert_int_equal(machine_cont(w->machine, &err), 0);
		assert_true(machine_autostart(w->machine));
		assert_int_equal(machine_cont_vcpus(w->machine, &first_vcpu, &err), -EBUSY);
		assert_int_equal(machine_stop(w->machine, stops[i], &err), 0);
		assert_int_equal(machine_state(w->machine), RUN_STATE_INMIGRATE);
		assert_int_equal(machine_leave_migrate(w->machine, true, &err), 0);
		assert_int_equal(machine_state(w->machine), RUN_STATE_PAUSED);
		assert_false(fake_vm.running || machine_autostart(w->machine));
		/* Nor does it run here before anybody says so. */
		assert_int_equal(machine_cont(w->machine, &err), 0);
		assert_true(machine_is_running(w->machine));
		world_free(w);
	}
}

/* As in QEMU: a machine that does not run is stopped, and keeps its state. */
static void a_stop_leaves_a_stopped_machine_as_it_is(void **state)
{
	struct world *w = world_new(false, false);
	struct err err;

	(void)state;
	assert_int_equal(machine_stop(w->machine, RUN_STATE_PAUSED, &err), 0);
	assert_int_equal(machine_stop(w->machine, RUN_STATE_DEBUG, &err), 0);
	assert_int_equal(machine_state(w->machine), RUN_STATE_PRELAUNCH);
	assert_int_equal(machine_cont(w->machine, &err), 0);
	assert_int_equal(machine_stop(w->machine, RUN_STATE_DEBUG, &err), 0);
	assert_int_equal(machine_state(w->machine), RUN_STATE_DEBUG);
	assert_int_equal(machine_stop(w->machine, RUN_STATE_PAUSED, &err), 0);
	assert_int_equal(machine_state(w->machine), RUN_STATE_PAUSED);
	assert_int_equal(machine_stop(w->machine, RUN_STATE_DEBUG, &err), 0);
	assert_int_equal(machine_state(w->machine), RUN_STATE_PAUSED);
	assert_int_equal(machine_enter_migrate(w->machine, &err), 0);
	assert_int_equal(machine_stop(w->machine, RUN_STATE_DEBUG, &err), 0);
	assert_int_equal(machine_state(w->machine), RUN_STATE_FINISH_MIGRATE);
	assert_int_equal(machine_commit_migrate(w->machine, &err), 0);
	assert_int_equal(machine_stop(w->machine, RUN_STATE_PAUSED, &err), 0);
	assert_int_equal(machine_stop(w->machine, RUN_STATE_DEBUG, &err), 0);
	assert_int_equal(machine_state(w->machine), RUN_STATE_POSTMIGRATE);
	world_free(w);
}

/* They are parked by the next stop, whoever says it. */
static void a_debugger_lets_single_vcpus_run(void **state)
{
	struct world *w = world_new(false, false);
	struct err err;

	(void)state;
	assert_int_equal(machine_cont_vcpus(w->machine, &first_vcpu, &err), 0);
	assert_int_equal(machine_state(w->machine), RUN_STATE_DEBUG);
	assert_int_equal(fake_vm.alone, 1);
	assert_int_equal(machine_stop(w->machine, RUN_STATE_DEBUG, &err), 0);
	assert_int_equal(fake_vm.alone, 0);
	assert_int_equal(machine_cont(w->machine, &err), 0);
	assert_int_equal(machine_cont_vcpus(w->machine, &first_vcpu, &err), -EBUSY);
	assert_int_equal(machine_stop(w->machine, RUN_STATE_GUEST_PANICKED, &err), 0);
	assert_int_equal(machine_cont_vcpus(w->machine, &first_vcpu, &err), -EBUSY);
	assert_int_equal(fake_vm.alone, 0);
	world_free(w);
}

/* ---- lost pages ---- */

static void assert_may_not_run(struct world *w)
{
	enum run_state before = machine_state(w->machine);
	struct err err;

	assert_int_equal(machine_cont(w->machine, &err), -EBUSY);
	assert_non_null(strstr(err.text, "lost"));
	assert_int_equal(machine_state(w->machine), before);
	assert_false(fake_vm.running);
}

/*
 * The host's memory fails where the guest touches it: an event names the page,
 * and the machine is paused for good.
 */
static void a_machine_with_a_poisoned_page_is_paused(void **state)
{
	static const enum run_state states[] = { RUN_STATE_RUNNING, RUN_STATE_DEBUG, RUN_STATE_PAUSED };
	struct vm_event event = { .type = VM_EVENT_POISONED };
	struct memory *mem;
	struct err err;
	unsigned int i, n;

	(void)state;
	for (i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
		struct world *w = world_new(false, false);

		mem = machine_memory(w->machine);
		assert_int_equal(machine_cont(w->machine, &err), 0);
		if (states[i] != RUN_STATE_RUNNING)
			assert_int_equal(machine_stop(w->machine, states[i], &err), 0);
		assert_int_equal(memory_poison(mem, memory_regions(mem, &n)[0].host + 5 * PAGE_BYTES, &event.gfn), 1);
		machine_exit_ops.event(w->machine, NULL, &event);
		turn(w);
		assert_int_equal(w->lost, 1);
		assert_int_equal(w->lost_gfn.v, 5);
		assert_int_equal(machine_state(w->machine), states[i] == RUN_STATE_PAUSED ? RUN_STATE_PAUSED : RUN_STATE_IO_ERROR);
		assert_may_not_run(w);
		world_free(w);
	}
}

/* Whoever stopped it: it is not to go on before the page is there. */
static void a_machine_without_one_of_its_pages_is_not_continued(void **state)
{
	static const enum run_state states[] = { RUN_STATE_PAUSED, RUN_STATE_DEBUG, RUN_STATE_GUEST_PANICKED, RUN_STATE_RUNNING };
	struct err err;
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
		struct world *w = world_new(true, false);

		assert_int_equal(machine_leave_migrate(w->machine, true, &err), 0);
		assert_true(fake_vm.running);
		if (states[i] != RUN_STATE_RUNNING)
			assert_int_equal(machine_stop(w->machine, states[i], &err), 0);
		lose(w);
		assert_int_equal(machine_state(w->machine), states[i] == RUN_STATE_RUNNING ? RUN_STATE_IO_ERROR : states[i]);
		assert_may_not_run(w);
		find(w);
		assert_int_equal(machine_cont(w->machine, &err), 0);
		assert_true(fake_vm.running);
		world_free(w);
	}
}

static void a_machine_that_arrives_without_one_of_its_pages_does_not_run(void **state)
{
	struct world *w = world_new(true, false);
	struct err err;

	(void)state;
	lose(w);
	assert_int_equal(machine_state(w->machine), RUN_STATE_INMIGRATE);
	/* It only says what it wants. */
	assert_int_equal(machine_cont(w->machine, &err), 0);
	assert_int_equal(machine_leave_migrate(w->machine, true, &err), -EBUSY);
	assert_non_null(strstr(err.text, "1 pages of guest memory are lost"));
	assert_int_equal(machine_state(w->machine), RUN_STATE_IO_ERROR);
	assert_may_not_run(w);
	find(w);
	assert_int_equal(machine_cont(w->machine, &err), 0);
	assert_true(fake_vm.running);
	world_free(w);
}

/* One that is not to run anyway is paused, as it was told. */
/* Whose state comes is one thing, where its RAM is another. */
static void a_machine_may_wait_for_a_state_alone_or_for_its_ram_alone(void **state)
{
	struct machine_config config = {
		.cpus = 1, .memory_bytes = MEMORY_BYTES, .serial = { .type = CHARDEV_NULL },
		.loads_no_kernel = true,
	};
	struct world *w = calloc(1, sizeof(*w));

	(void)state;
	config.starts_inmigrate = true;
	world_start(w, &config);
	assert_int_equal(machine_state(w->machine), RUN_STATE_INMIGRATE);
	assert_false(memory_is_late(machine_memory(w->machine)));
	world_free(w);
	w = calloc(1, sizeof(*w));
	config.starts_inmigrate = false;
	config.ram_is_late = true;
	world_start(w, &config);
	assert_int_equal(machine_state(w->machine), RUN_STATE_PRELAUNCH);
	assert_true(memory_is_late(machine_memory(w->machine)));
	world_free(w);
}

static void a_machine_that_is_not_to_run_arrives_paused(void **state)
{
	struct world *w = world_new(true, false);
	struct err err;

	(void)state;
	lose(w);
	assert_int_equal(machine_leave_migrate(w->machine, false, &err), 0);
	assert_int_equal(machine_state(w->machine), RUN_STATE_PAUSED);
	assert_may_not_run(w);
	world_free(w);
}

/* ---- resets that wait ---- */

static struct world *world_in_reset(bool by_guest)
{
	struct world *w = world_new(false, true);
	struct err err;

	assert_int_equal(machine_cont(w->machine, &err), 0);
	assert_int_equal(machine_reset(w->machine, by_guest, &err), 0);
	assert_int_equal(machine_state(w->machine), RUN_STATE_PAUSED);
	assert_int_equal(w->finds, 1);
	assert_true(machine_is_to_run(w->machine));
	return w;
}

/* The migration fails: it is reset here, and runs. The kernel is found before, or afterwards. */
static void a_reset_survives_a_migration_that_fails(void **state)
{
	unsigned int early, by_guest;
	struct err err;

	(void)state;
	for (early = 0; early < 2; early++) {
		for (by_guest = 0; by_guest < 2; by_guest++) {
			struct world *w = world_in_reset(by_guest);

			assert_int_equal(machine_enter_migrate(w->machine, &err), 0);
			if (early)
				machine_boot_found(w->machine, &on_disk, NULL);
			assert_int_equal(w->resets, 0);
			assert_int_equal(machine_leave_migrate(w->machine, true, &err), 0);
			assert_false(fake_vm.running);
			assert_int_equal(w->finds, 1 + early);
			machine_boot_found(w->machine, &on_disk, NULL);
			assert_int_equal(w->resets, 1);
			assert_int_equal(w->resets_by_guest, by_guest);
			assert_int_equal(machine_state(w->machine), RUN_STATE_RUNNING);
			world_free(w);
		}
	}
}

/*
 * It takes place on the other side, by whom it was asked for, once all memory
 * is there; and then the guest runs.
 */
static void a_reset_travels(void **state)
{
	unsigned int early, by_guest, gfn;
	struct err err;

	(void)state;
	for (early = 0; early < 2; early++) {
		for (by_guest = 0; by_guest < 2; by_guest++) {
			struct world *w = world_in_reset(by_guest);
			struct buf buf = { 0 };

			assert_int_equal(machine_enter_migrate(w->machine, &err), 0);
			if (early)
				machine_boot_found(w->machine, &on_disk, NULL);
			assert_int_equal(machine_save(w->machine, &buf, &err), 0);
			world_free(w);
			w = world_new(true, true);
			assert_int_equal(machine_load(w->machine, buf.data, buf.len, &err), 0);
			buf_fini(&buf);
			assert_int_equal(machine_leave_migrate(w->machine, true, &err), 0);
			assert_int_equal(machine_state(w->machine), RUN_STATE_PAUSED);
			for (gfn = 0; gfn < MEMORY_BYTES / PAGE_BYTES; gfn++)
				assert_int_equal(memory_fill(machine_memory(w->machine), GFN(gfn), 1, NULL), 1);
			turn(w);
			assert_int_equal(w->finds, 1);
			machine_boot_found(w->machine, &on_disk, NULL);
			assert_int_equal(w->resets, 1);
			assert_int_equal(w->resets_by_guest, by_guest);
			assert_int_equal(machine_state(w->machine), RUN_STATE_RUNNING);
			world_free(w);
		}
	}
}

/*
 * Memory is still read after the guest has gone on: a reset waits for that, and no switchover
 * begins.
 */
static void a_reset_waits_for_a_snapshot(void **state)
{
	unsigned int by_guest;
	struct err err;

	(void)state;
	for (by_guest = 0; by_guest < 2; by_guest++) {
		struct world *w = world_new(false, false);

		assert_int_equal(machine_cont(w->machine, &err), 0);
		assert_int_equal(machine_enter_save(w->machine, &err), 0);
		assert_int_equal(machine_state(w->machine), RUN_STATE_SAVE_VM);
		assert_int_equal(machine_enter_save(w->machine, &err), -EBUSY);
		machine_leave_save(w->machine);
		assert_int_equal(machine_state(w->machine), RUN_STATE_RUNNING);
		assert_true(machine_is_saving(w->machine));
		assert_int_equal(machine_enter_save(w->machine, &err), -EBUSY);
		assert_int_equal(machine_enter_migrate(w->machine, &err), -EBUSY);
		assert_int_equal(machine_state(w->machine), RUN_STATE_RUNNING);
		assert_int_equal(machine_reset(w->machine, by_guest, &err), 0);
		assert_int_equal(machine_state(w->machine), RUN_STATE_PAUSED);
		assert_true(machine_is_to_run(w->machine));
		assert_int_equal(machine_cont(w->machine, &err), -EBUSY);
		assert_non_null(strstr(err.text, "snapshot"));
		assert_int_equal(w->resets, 0);
		machine_finish_save(w->machine);
		assert_false(machine_is_saving(w->machine));
		assert_int_equal(w->resets, 1);
		assert_int_equal(machine_state(w->machine), RUN_STATE_RUNNING);
		world_free(w);
	}
}

/* Whoever stops the machine in between has the last word, and the reset is done all the same. */
static void a_stop_during_switchover_stands(void **state)
{
	unsigned int early;
	struct err err;

	(void)state;
	for (early = 0; early < 2; early++) {
		struct world *w = world_in_reset(false);

		assert_int_equal(machine_enter_migrate(w->machine, &err), 0);
		if (early)
			machine_boot_found(w->machine, &on_disk, NULL);
		assert_int_equal(machine_stop(w->machine, RUN_STATE_PAUSED, &err), 0);
		assert_false(machine_is_to_run(w->machine));
		assert_int_equal(w->finds, 1 + early);
		machine_boot_found(w->machine, &on_disk, NULL);
		assert_int_equal(w->resets, 1);
		assert_int_equal(machine_state(w->machine), RUN_STATE_PRELAUNCH);
		assert_false(fake_vm.running);
		assert_int_equal(machine_cont(w->machine, &err), 0);
		world_free(w);
	}
}

/*
 * Asked for again while its kernel is away, it waits on: the guest does not
 * run, and is reset once it can be.
 */
static void a_reset_that_waits_is_not_undone_by_one_that_cannot_be(void **state)
{
	struct world *w = world_new(true, false);
	struct own_dir dir = own_dir_new();
	struct boot_files boot;
	char kernel[64];
	struct err err;
	gfn_t gfn;

	(void)state;
	snprintf(kernel, sizeof(kernel), "%s/kernel", dir.path);
	assert_int_equal(symlink(SOME_FILE, kernel), 0);
	boot_files_init(&boot);
	assert_int_equal(boot_files_set_paths(&boot, kernel, NULL, NULL, &err), 0);
	boot_files_move(&w->machine->boot_files, &boot);
	assert_int_equal(machine_leave_migrate(w->machine, true, &err), 0);
	assert_int_equal(machine_reset(w->machine, false, &err), 0);
	assert_int_equal(w->resets, 0);
	unlink(kernel);
	assert_int_equal(machine_reset(w->machine, false, &err), -ENOENT);
	assert_int_equal(machine_state(w->machine), RUN_STATE_PAUSED);
	assert_false(fake_vm.running);
	assert_int_equal(symlink(SOME_FILE, kernel), 0);
	for (gfn = GFN(0); gfn.v < MEMORY_BYTES / PAGE_BYTES; gfn.v++)
		assert_int_equal(memory_fill(machine_memory(w->machine), gfn, 1, NULL), 1);
	turn(w);
	assert_int_equal(w->resets, 1);
	assert_true(machine_is_running(w->machine));
	unlink(kernel);
	own_dir_free(&dir);
	world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(while_a_migration_comes_in_stop_and_cont_say_what_is_to_be),
		cmocka_unit_test(a_stop_leaves_a_stopped_machine_as_it_is),
		cmocka_unit_test(a_debugger_lets_single_vcpus_run),
		cmocka_unit_test(a_machine_with_a_poisoned_page_is_paused),
		cmocka_unit_test(a_machine_without_one_of_its_pages_is_not_continued),
		cmocka_unit_test(a_machine_that_arrives_without_one_of_its_pages_does_not_run),
		cmocka_unit_test(a_machine_may_wait_for_a_state_alone_or_for_its_ram_alone),
		cmocka_unit_test(a_machine_that_is_not_to_run_arrives_paused),
		cmocka_unit_test(a_reset_survives_a_migration_that_fails),
		cmocka_unit_test(a_reset_travels),
		cmocka_unit_test(a_reset_waits_for_a_snapshot),
		cmocka_unit_test(a_stop_during_switchover_stands),
		cmocka_unit_test(a_reset_that_waits_is_not_undone_by_one_that_cannot_be),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
