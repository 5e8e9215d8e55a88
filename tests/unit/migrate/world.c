// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The machine_* functions here take the place of machine/'s: what migrate/
 * needs of a machine and no more.
 */
#include "world.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "memory/gup.h"

static const struct memory_range ranges[] = {
	{ GPA(0), UINT64_C(16) << 20 },
	{ GPA(UINT64_C(1) << 32), UINT64_C(8) << 20 },
};
const struct migration_trust world_open = { .insecure = true };

static const char saved_state[] = WORLD_STATE;

/* ---- machine_* ---- */

static void machine_set(struct machine *machine, enum run_state state)
{
	struct world *world = machine->world;
	struct machine *other =
		machine == &world->from.machine ? &world->to.machine : &world->from.machine;

	machine->state = state;
	if (state != RUN_STATE_RUNNING)
		return;
	machine->ran = true;
	/* What all of this is about. */
	assert_int_not_equal(other->state, RUN_STATE_RUNNING);
	if (machine == &world->from.machine)
		assert_false(other->ran);
	else
		assert_int_equal(other->state, RUN_STATE_POSTMIGRATE);
}

const struct machine_config *machine_config(const struct machine *machine)
{
	return &machine->config;
}

struct memory *machine_memory(const struct machine *machine)
{
	return machine->mem;
}

struct loop *machine_loop(const struct machine *machine)
{
	return machine->world->loop;
}

enum run_state machine_state(const struct machine *machine)
{
	return machine->state;
}

bool machine_is_saving(const struct machine *machine)
{
	return machine->saving;
}

const char *run_state_name(enum run_state state)
{
	(void)state;
	return "somehow";
}

bool machine_is_to_run(const struct machine *machine)
{
	return machine_is_running(machine) || machine->to_run;
}

void machine_observe(struct machine *machine, struct machine_observer *observer)
{
	observer->next = machine->observers;
	machine->observers = observer;
}

void machine_unobserve(struct machine *machine, struct machine_observer *observer)
{
	assert_ptr_equal(machine->observers, observer);
	machine->observers = observer->next;
}

int machine_enter_migrate(struct machine *machine, struct err *err)
{
	(void)err;
	machine_set(machine, RUN_STATE_FINISH_MIGRATE);
	return 0;
}

int machine_commit_migrate(struct machine *machine, struct err *err)
{
	(void)err;
	machine_set(machine, RUN_STATE_POSTMIGRATE);
	return 0;
}

int machine_leave_migrate(struct machine *machine, bool run, struct err *err)
{
	(void)err;
	run = run && (machine->state != RUN_STATE_INMIGRATE || machine->autostart);
	machine_set(machine, run ? RUN_STATE_RUNNING : RUN_STATE_PAUSED);
	return 0;
}

int machine_save(struct machine *machine, struct buf *out, struct err *err)
{
	if (machine->save_error)
		return err_set(err, machine->save_error, "cannot save");
	return buf_append(out, saved_state, sizeof(saved_state));
}

int machine_load(struct machine *machine, const uint8_t *data, size_t len, struct err *err)
{
	if (machine->load_error)
		return err_set(err, machine->load_error, "cannot load");
	assert_int_equal(len, sizeof(saved_state));
	assert_memory_equal(data, saved_state, len);
	return 0;
}

const struct boot_files *machine_boot(const struct machine *machine)
{
	return &machine->boot;
}

int machine_boot_take(struct machine *machine, struct boot_files *from, struct err *err)
{
	(void)err;
	boot_files_move(&machine->boot, from);
	return 0;
}

int machine_early_pages(struct machine *machine, int (*fn)(void *arg, gfn_t gfn), void *arg,
			struct err *err)
{
	/* Some are no RAM. */
	static const uint64_t gfn[] = {
		3, 4, 5, 700, 4095, 4096, 0x100000, 0x100001, 0x100007ff, UINT64_MAX,
	};
	size_t i;
	int r = 0;

	(void)err;
	for (i = 0; i < machine->early_pages && i < sizeof(gfn) / sizeof(*gfn) && !r; i++)
		r = fn(arg, GFN(gfn[i]));
	return r;
}

/* ---- what it starts with ---- */

uint8_t world_boot_byte(uint64_t offset)
{
	return (uint8_t)(offset % 253 + offset / 65536);
}

static void boot_file_make(struct boot_file *file, const char *name, uint64_t from, size_t len)
{
	uint8_t *bytes = malloc(len);
	size_t i;

	file->path = strdup(name);
	file->fd = memfd_create(name, MFD_CLOEXEC);
	for (i = 0; i < len; i++)
		bytes[i] = world_boot_byte(from + i);
	assert_int_equal(write(file->fd, bytes, len), len);
	free(bytes);
}

static void boot_make(struct boot_files *boot)
{
	boot->type = BOOT_FILES;
	boot->cmdline = strdup(WORLD_CMDLINE);
	boot_file_make(&boot->kernel, "kernel", 0, WORLD_KERNEL_BYTES);
	boot_file_make(&boot->initrd, "initrd", WORLD_KERNEL_BYTES, WORLD_INITRD_BYTES);
}

static void boot_file_check(const struct boot_file *file, uint64_t from, size_t len)
{
	uint8_t *bytes = malloc(len + 1);
	size_t i;

	assert_int_equal(pread(file->fd, bytes, len + 1, 0), len);
	for (i = 0; i < len; i++)
		assert_int_equal(bytes[i], world_boot_byte(from + i));
	free(bytes);
}

void world_check_boot(struct world *world)
{
	const struct boot_files *boot = &world->to.machine.boot;

	assert_int_equal(boot->type, BOOT_FILES);
	assert_string_equal(boot->cmdline, WORLD_CMDLINE);
	boot_file_check(&boot->kernel, 0, WORLD_KERNEL_BYTES);
	boot_file_check(&boot->initrd, WORLD_KERNEL_BYTES, WORLD_INITRD_BYTES);
	/* Nobody changes it any more. */
	assert_int_equal(ftruncate(boot->kernel.fd, 0), -1);
	assert_int_equal(ftruncate(boot->initrd.fd, 0), -1);
}

/* ---- memory ---- */

static gfn_t page_gfn(unsigned int i)
{
	return GFN(i < 4096 ? i : (ranges[1].base.v >> PAGE_SHIFT) + i - 4096);
}

static void page_fill(uint8_t *page, unsigned int i)
{
	memset(page, i % 5 ? (int)(i % 251) + 1 : 0, PAGE_BYTES);
	if (i % 5)
		memcpy(page + 128, &i, sizeof(i));
}

static void on_complete_main(void *arg)
{
	struct machine *machine = arg;

	if (machine->observers && machine->observers->memory_complete)
		machine->observers->memory_complete(machine->observers->arg);
}

static void on_complete(void *arg)
{
	struct machine *machine = arg;

	loop_post(machine->world->loop, on_complete_main, machine);
}

static bool side_new(struct world *world, struct side *side, bool incoming)
{
	struct machine *machine = &side->machine;
	struct memory_events events = { .complete = on_complete, .arg = machine };
	uint8_t page[PAGE_BYTES];
	struct err err;
	unsigned int i;

	*machine = (struct machine){ .world = world, .autostart = true, .early_pages = 10 };
	machine->config = (struct machine_config){ .cpus = 2, .starts_inmigrate = incoming };
	boot_files_init(&machine->boot);
	if (!incoming)
		boot_make(&machine->boot);
	machine->state = incoming ? RUN_STATE_INMIGRATE : RUN_STATE_RUNNING;
	assert_int_equal(memory_new(&machine->mem, ranges, 2, &err), 0);
	if (incoming && memory_watch(machine->mem, &events, &err) < 0) {
		print_message("skipped: %s\n", err.text);
		return false;
	}
	for (i = 0; !incoming && i < WORLD_PAGES; i++) {
		page_fill(page, i);
		assert_int_equal(
			gup_write(machine->mem, gfn_to_gpa(page_gfn(i)), page, PAGE_BYTES, 0, NULL),
			0);
	}
	return true;
}

/* ---- the world ---- */

static void on_status(void *arg, enum migration_status status)
{
	struct side *side = arg;

	if (side->nseen < sizeof(side->seen) / sizeof(*side->seen))
		side->seen[side->nseen++] = status;
}

static void on_tick(uv_timer_t *timer)
{
	(void)timer;
}

static void side_start(struct side *side)
{
	struct migration_observer observer = { .status = on_status, .arg = side };

	assert_int_equal(migration_new(&side->migration, &side->machine, NULL), 0);
	migration_observe(side->migration, &observer);
}

bool world_new(struct world *world)
{
	char relay_path[108], direct_path[108];
	struct err err;

	*world = (struct world){ 0 };
	assert_int_equal(loop_new(&world->loop, NULL), 0);
	if (!side_new(world, &world->from, false) || !side_new(world, &world->to, true))
		return false;
	uv_timer_init(loop_uv(world->loop), &world->tick);
	uv_timer_start(&world->tick, on_tick, 5, 5);
	snprintf(world->dir, sizeof(world->dir), "/tmp/postern-test-XXXXXX");
	assert_non_null(mkdtemp(world->dir));
	snprintf(relay_path, sizeof(relay_path), "%s/relay", world->dir);
	snprintf(direct_path, sizeof(direct_path), "%s/direct", world->dir);
	snprintf(world->relay_uri, sizeof(world->relay_uri), "unix:%s", relay_path);
	snprintf(world->direct_uri, sizeof(world->direct_uri), "unix:%s", direct_path);
	world->relay = relay_new(relay_path, direct_path);
	side_start(&world->from);
	side_start(&world->to);
	assert_int_equal(migration_incoming(world->to.migration, world->direct_uri, NULL, &err), 0);
	return true;
}

void world_free(struct world *world)
{
	char path[128];

	migration_free(world->from.migration);
	migration_free(world->to.migration);
	relay_free(world->relay);
	uv_close((uv_handle_t *)&world->tick, NULL);
	loop_free(world->loop);
	boot_files_fini(&world->from.machine.boot);
	boot_files_fini(&world->to.machine.boot);
	memory_shut(world->from.machine.mem);
	memory_shut(world->to.machine.mem);
	memory_free(world->from.machine.mem);
	memory_free(world->to.machine.mem);
	snprintf(path, sizeof(path), "%s/relay", world->dir);
	unlink(path);
	/* The destination has removed its socket: an empty directory is left. */
	assert_int_equal(rmdir(world->dir), 0);
}

int64_t world_deadline(void)
{
	return clock_now_ns() + 30 * NS_PER_SEC;
}

void world_step(struct world *world, int64_t deadline, const char *what)
{
	struct migration_info from, to;

	uv_run(loop_uv(world->loop), UV_RUN_ONCE);
	if (clock_now_ns() < deadline)
		return;
	migration_query(world->from.migration, &from);
	migration_query(world->to.migration, &to);
	fail_msg("waited in vain for: %s (source %s '%s', destination %s '%s')", what,
		 migration_status_name(from.status), from.error, migration_status_name(to.status),
		 to.error);
}

enum migration_status world_status(const struct side *side)
{
	struct migration_info info;

	migration_query(side->migration, &info);
	return info.status;
}

void world_migrate(struct world *world, bool resume)
{
	struct err err;

	if (migration_outgoing(world->from.migration, world->relay_uri, resume, NULL, &err) < 0)
		fail_msg("migrate: %s", err.text);
}

void world_check_arrived(struct world *world)
{
	uint8_t is[PAGE_BYTES], should[PAGE_BYTES];
	unsigned int i;

	assert_int_equal(world->from.machine.state, RUN_STATE_POSTMIGRATE);
	assert_int_equal(world->to.machine.state, RUN_STATE_RUNNING);
	assert_false(memory_is_late(world->to.machine.mem));
	if (world->from.machine.boot.type == BOOT_FILES && world->to.machine.boot.type ==
	    BOOT_FILES)
		world_check_boot(world);
	for (i = 0; i < WORLD_PAGES; i++) {
		page_fill(should, i);
		assert_int_equal(gup_read(world->to.machine.mem, gfn_to_gpa(page_gfn(i)), is,
					  PAGE_BYTES, GUP_NOWAIT, NULL),
				 0);
		assert_memory_equal(is, should, PAGE_BYTES);
	}
}
