// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * What a guest reboots with goes along: whole, while the guest runs, and under
 * the eyes of two machines without KVM. And what becomes of a migration where
 * it cannot.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "steps.h"

static void until_failed(struct world *w, const char *word)
{
	world_until(w, world_status(&w->from) == MIGRATION_FAILED);
	if (!strstr(query(&w->from).error, word))
		fail_msg("'%s' lacks '%s'", query(&w->from).error, word);
	assert_int_equal(w->from.machine.state, RUN_STATE_RUNNING);
	assert_false(w->to.machine.ran);
}

/*
 * The destination has heard of it (why, where the connection could still take
 * that), and waits for the next one.
 */
static void until_refused(struct world *w)
{
	world_until(w, strstr(query(&w->to).error, "the peer "));
	assert_int_equal(world_status(&w->to), MIGRATION_SETUP);
}

/*
 * Files, as the command line names them, instead of memory; the initial RAM
 * disk is larger than what connections hold.
 */
static void on_files(struct world *w, char kernel[128], char initrd[128], uint64_t initrd_bytes)
{
	struct boot_files *boot = &w->from.machine.boot;
	struct err err;
	int fd;

	snprintf(kernel, 128, "%s/kernel", w->dir);
	snprintf(initrd, 128, "%s/initrd", w->dir);
	fd = open(kernel, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_int_equal(write(fd, "kernel", 6), 6);
	close(fd);
	fd = open(initrd, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(fd, (off_t)initrd_bytes), 0);
	close(fd);
	assert_int_equal(boot_files_set_paths(boot, kernel, initrd, NULL, &err), 0);
}

static void files_remove(const char *kernel, const char *initrd)
{
	unlink(kernel);
	unlink(initrd);
}

static void test_it_goes_along_while_the_guest_runs(void **state)
{
	struct world w;

	(void)state;
	NEEDS(&w);
	relay_swallow(w.relay, AT_BOOT_REPLY);
	world_migrate(&w, false);
	/* All of it is there, and the guest is still where it was, not even paused. */
	world_until(&w, w.to.migration && world_status(&w.from) == MIGRATION_SETUP &&
		    query(&w.from).setup_ms >= 0 &&
		    relay_has_swallowed(w.relay));
	assert_int_equal(w.from.machine.state, RUN_STATE_RUNNING);
	assert_int_equal(migration_cancel(w.from.migration, NULL), 0);
	assert_int_equal(world_status(&w.from), MIGRATION_CANCELLED);
	assert_int_equal(w.from.machine.state, RUN_STATE_RUNNING);
	/* Nothing of it is left behind at the destination: the next one is another. */
	until_refused(&w);
	assert_int_equal(w.to.machine.boot.type, BOOT_NOTHING);
	world_migrate(&w, false);
	until_completed(&w);
	world_check_boot(&w);
	world_free(&w);
}

static void test_a_cancel_in_the_middle_is_heard(void **state)
{
	char kernel[128], initrd[128];
	struct world w;

	(void)state;
	NEEDS(&w);
	on_files(&w, kernel, initrd, 16 << 20);
	relay_hold_at(w.relay, AT_BOOT_DATA);
	world_migrate(&w, false);
	world_until(&w, relay_holds(w.relay));
	assert_int_equal(migration_cancel(w.from.migration, NULL), 0);
	assert_int_equal(world_status(&w.from), MIGRATION_CANCELLED);
	assert_int_equal(w.from.machine.state, RUN_STATE_RUNNING);
	relay_hold(w.relay, false);
	until_refused(&w);
	files_remove(kernel, initrd);
	world_free(&w);
}

/*
 * One that comes meanwhile is busy's matter: a source that tries again may be
 * faster than the end of what it tried before.
 */
static void test_who_comes_in_the_middle_waits_a_moment(void **state)
{
	char kernel[128], initrd[128];
	struct migration_info info;
	struct migration *second;
	struct machine machine;
	struct world w;
	struct err err;

	(void)state;
	NEEDS(&w);
	on_files(&w, kernel, initrd, 16 << 20);
	machine = w.from.machine;
	machine.observers = NULL;
	assert_int_equal(migration_new(&second, &machine, &err), 0);
	relay_hold_at(w.relay, AT_BOOT_DATA);
	world_migrate(&w, false);
	world_until(&w, relay_holds(w.relay));
	assert_int_equal(migration_outgoing(second, w.direct_uri, false, NULL, &err), 0);
	world_until(&w, (migration_query(second, &info), info.status == MIGRATION_FAILED));
	assert_non_null(strstr(info.error, "busy with another migration"));
	relay_hold(w.relay, false);
	world_until(&w, world_status(&w.from) == MIGRATION_COMPLETED);
	migration_free(second);
	files_remove(kernel, initrd);
	world_free(&w);
}

static void test_a_destination_with_a_kernel_of_its_own_keeps_it(void **state)
{
	struct boot_files *own;
	struct world w;

	(void)state;
	NEEDS(&w);
	own = &w.to.machine.boot;
	assert_int_equal(boot_files_set_paths(own, "/own", NULL, NULL, NULL), 0);
	/* The source's is not even looked for. */
	assert_int_equal(boot_files_set_paths(&w.from.machine.boot, "/nonexistent", NULL, NULL,
					      NULL), 0);
	relay_cut_at(w.relay, AT_BOOT, false);
	world_migrate(&w, false);
	world_until(&w, world_status(&w.from) == MIGRATION_COMPLETED);
	assert_false(relay_has_cut(w.relay));
	assert_string_equal(own->kernel.path, "/own");
	world_free(&w);
}

static void test_a_guest_that_starts_from_its_disk_does_so_there(void **state)
{
	struct world w;

	(void)state;
	NEEDS(&w);
	boot_files_fini(&w.from.machine.boot);
	w.from.machine.boot.type = BOOT_DISK;
	w.from.machine.boot.append = strdup("ip=dhcp");
	world_migrate(&w, false);
	until_failed(&w, "start it with the same --disk, or with --kernel");
	until_refused(&w);
	w.to.machine.boot.type = BOOT_DISK;
	world_migrate(&w, false);
	world_until(&w, world_status(&w.from) == MIGRATION_COMPLETED);
	assert_int_equal(w.to.machine.boot.type, BOOT_DISK);
	assert_string_equal(w.to.machine.boot.append, "ip=dhcp");
	assert_null(w.to.machine.boot.cmdline);
	world_free(&w);
}

static void test_a_guest_without_a_kernel_loses_nothing(void **state)
{
	struct world w;

	(void)state;
	NEEDS(&w);
	boot_files_fini(&w.from.machine.boot);
	world_migrate(&w, false);
	world_until(&w, world_status(&w.from) == MIGRATION_COMPLETED);
	assert_int_equal(w.to.machine.boot.type, BOOT_NOTHING);
	world_free(&w);
}

static void test_a_source_that_does_not_say_is_refused_unless_there_is_a_kernel(void **state)
{
	struct world w;

	(void)state;
	NEEDS(&w);
	relay_hush(w.relay);
	world_migrate(&w, false);
	until_failed(&w, "start this destination with --kernel");
	until_refused(&w);
	assert_int_equal(boot_files_set_paths(&w.to.machine.boot, "/own", NULL, NULL, NULL), 0);
	boot_files_fini(&w.from.machine.boot);
	world_migrate(&w, false);
	until_completed(&w);
	world_free(&w);
}

static void test_files_that_are_missing_keep_the_guest(void **state)
{
	struct world w;

	(void)state;
	NEEDS(&w);
	assert_int_equal(boot_files_set_paths(&w.from.machine.boot, "/nonexistent", NULL, NULL,
					      NULL), 0);
	world_migrate(&w, false);
	until_failed(&w, "/nonexistent");
	assert_non_null(strstr(query(&w.from).error,
			       "put it back, or start the destination with --kernel"));
	world_free(&w);
}

/* Somebody writes to a file while it is sent. */
static void test_files_that_change_keep_the_guest(void **state)
{
	char kernel[128], initrd[128];
	unsigned int grows;
	struct world w;

	(void)state;
	for (grows = 0; grows < 2; grows++) {
		NEEDS(&w);
		on_files(&w, kernel, initrd, 16 << 20);
		relay_hold_at(w.relay, AT_BOOT_DATA);
		world_migrate(&w, false);
		world_until(&w, relay_holds(w.relay));
		assert_int_equal(truncate(initrd, grows ? 17 << 20 : 1 << 20), 0);
		relay_hold(w.relay, false);
		until_failed(&w, initrd);
		assert_non_null(strstr(query(&w.from).error, "migrate again when it is whole"));
		/* Whole again, it goes along. */
		until_refused(&w);
		world_migrate(&w, false);
		world_until(&w, world_status(&w.from) == MIGRATION_COMPLETED);
		files_remove(kernel, initrd);
		world_free(&w);
	}
}

static void test_what_does_not_fit_is_refused(void **state)
{
	char kernel[128], initrd[128];
	struct world w;

	(void)state;
	NEEDS(&w);
	on_files(&w, kernel, initrd, WORLD_PAGES * PAGE_BYTES);
	world_migrate(&w, false);
	until_failed(&w, "do not fit into the guest's memory");
	until_refused(&w);
	assert_int_equal(truncate(initrd, 100), 0);
	world_migrate(&w, false);
	world_until(&w, world_status(&w.from) == MIGRATION_COMPLETED);
	files_remove(kernel, initrd);
	world_free(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_it_goes_along_while_the_guest_runs),
		cmocka_unit_test(test_a_cancel_in_the_middle_is_heard),
		cmocka_unit_test(test_who_comes_in_the_middle_waits_a_moment),
		cmocka_unit_test(test_a_destination_with_a_kernel_of_its_own_keeps_it),
		cmocka_unit_test(test_a_guest_that_starts_from_its_disk_does_so_there),
		cmocka_unit_test(test_a_guest_without_a_kernel_loses_nothing),
		cmocka_unit_test(
			test_a_source_that_does_not_say_is_refused_unless_there_is_a_kernel),
		cmocka_unit_test(test_files_that_are_missing_keep_the_guest),
		cmocka_unit_test(test_files_that_change_keep_the_guest),
		cmocka_unit_test(test_what_does_not_fit_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
