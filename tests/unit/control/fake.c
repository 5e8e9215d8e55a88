// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// The tests' side of the machine in fake.h, and its machine/ and kvm/.
#include "fake.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/cond.h"

#define PUMP_NS (5 * NS_PER_SEC)

/* ---- the tests' side ---- */

struct machine *fake_machine_new(void)
{
	struct machine *machine = calloc(1, sizeof(*machine));
	unsigned int i;

	assert_non_null(machine);
	assert_int_equal(loop_new(&machine->loop, NULL), 0);
	pthread_mutex_init(&machine->mem.lock, NULL);
	cond_init(&machine->mem.changed);
	for (i = 0; i < FAKE_PAGES; i++)
		machine->mem.page[i] = PAGE_PRESENT;
	for (i = 0; i < FAKE_CPUS; i++)
		machine->vm.vcpu[i] =
			(struct vcpu){ .vm = &machine->vm, .index = i, .parked = true, .hit = -1 };
	machine->config.name = "fake";
	machine->state = RUN_STATE_PAUSED;
	return machine;
}

void fake_machine_free(struct machine *machine)
{
	assert_null(machine->observers);
	loop_free(machine->loop);
	pthread_cond_destroy(&machine->mem.changed);
	pthread_mutex_destroy(&machine->mem.lock);
	free(machine);
}

void fake_pump(struct machine *machine, int fd, bool (*done)(void *arg), void *arg)
{
	int64_t end = clock_now_ns() + PUMP_NS;
	struct pollfd p = { .fd = fd, .events = POLLIN };

	for (;;) {
		uv_run(loop_uv(machine->loop), UV_RUN_NOWAIT);
		if (done ? done(arg) : poll(&p, 1, 1) > 0)
			return;
		assert_true(clock_now_ns() < end);
	}
}

int fake_connect(struct machine *machine, const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)machine;
	assert_true(fd >= 0);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

void fake_expect_closed(struct machine *machine, int fd)
{
	char bytes[4096];
	ssize_t n;

	do {
		fake_pump(machine, fd, NULL, NULL);
		n = read(fd, bytes, sizeof(bytes));
	} while (n > 0);
	assert_true(n == 0 || errno == ECONNRESET);
	close(fd);
}

void fake_expect_turns(struct machine *machine, const unsigned int *done)
{
	unsigned int before, most = 0, turns;

	for (turns = 0; *done < FAKE_FLOOD; turns++) {
		before = *done;
		uv_run(loop_uv(machine->loop), UV_RUN_NOWAIT);
		if (*done - before > most)
			most = *done - before;
		assert_true(turns < 100000);
	}
	/* Also where one turn's end and the next one's beginning meet. */
	assert_in_range(most, 1, 10);
}

void fake_set_state(struct machine *machine, enum run_state state)
{
	enum run_state old = machine->state;
	struct machine_observer *l, *next;
	unsigned int i;

	machine->state = state;
	if (old == state)
		return;
	for (l = machine->observers; l; l = next) {
		next = l->next;
		if (l->state)
			l->state(l->arg, old, state);
	}
	for (i = 0; i < FAKE_CPUS; i++)
		if (state == RUN_STATE_RUNNING || !machine->vm.stuck)
			machine->vm.vcpu[i].parked = state != RUN_STATE_RUNNING;
}

void fake_debug_event(struct machine *machine, unsigned int cpu)
{
	struct machine_observer *l;

	machine->vm.vcpu[cpu].parked = true;
	vm_pause(&machine->vm, 0, NULL);
	fake_set_state(machine, RUN_STATE_DEBUG);
	for (l = machine->observers; l; l = l->next)
		if (l->debug)
			l->debug(l->arg, &machine->vm.vcpu[cpu]);
}

void fake_migration_status(struct migration *migration, enum migration_status status)
{
	migration->info.status = status;
	if (migration->observer.status)
		migration->observer.status(migration->observer.arg, status);
}

/* ---- machine/ ---- */

const char *run_state_name(enum run_state state)
{
	static const char *const names[] = {
		"prelaunch", "inmigrate", "running", "paused", "debug", "finish-migrate",
		"postmigrate", "io-error", "internal-error", "guest-panicked", "shutdown",
	};

	return names[state];
}

void machine_observe(struct machine *machine, struct machine_observer *observer)
{
	observer->next = machine->observers;
	machine->observers = observer;
}

void machine_unobserve(struct machine *machine, struct machine_observer *observer)
{
	struct machine_observer **p;

	for (p = &machine->observers; *p != observer; p = &(*p)->next)
		assert_non_null(*p);
	*p = observer->next;
}

const struct machine_config *machine_config(const struct machine *machine)
{
	return &machine->config;
}

struct memory *machine_memory(const struct machine *machine)
{
	return (struct memory *)&machine->mem;
}

struct vm *machine_vm(const struct machine *machine)
{
	return (struct vm *)&machine->vm;
}

struct loop *machine_loop(const struct machine *machine)
{
	return machine->loop;
}

enum run_state machine_state(const struct machine *machine)
{
	return machine->state;
}

/* As machine/run_control.c: its own tests say what it does in which state. */
int machine_stop(struct machine *machine, enum run_state as, struct err *err)
{
	int r;

	if (machine->state == RUN_STATE_INMIGRATE) {
		machine->autostart = false;
		return 0;
	}
	if (as == RUN_STATE_PAUSED && machine->state != RUN_STATE_RUNNING &&
	    machine->state != RUN_STATE_DEBUG && machine->state != RUN_STATE_FINISH_MIGRATE)
		return 0;
	r = vm_pause(&machine->vm, 0, err);
	if (!r && (as != RUN_STATE_DEBUG || machine->state == RUN_STATE_RUNNING))
		fake_set_state(machine, as);
	return r;
}

static int may_run(const struct machine *machine, struct err *err)
{
	if (machine->reset_waits)
		return err_set(err, -EBUSY, "a reset waits");
	return machine->state == RUN_STATE_POSTMIGRATE ?
		       err_set(err, -EBUSY, "the guest runs elsewhere") :
		       0;
}

int machine_cont(struct machine *machine, struct err *err)
{
	int r = may_run(machine, err);

	if (r < 0)
		return r;
	if (machine->state == RUN_STATE_INMIGRATE)
		machine->autostart = true;
	else
		fake_set_state(machine, RUN_STATE_RUNNING);
	return 0;
}

int machine_cont_vcpus(struct machine *machine, const struct vcpu_set *vcpus, struct err *err)
{
	unsigned int i;
	int r = may_run(machine, err);

	if (r < 0)
		return r;
	fake_set_state(machine, RUN_STATE_DEBUG);
	for (i = 0; i < FAKE_CPUS; i++)
		if (vcpu_set_has(vcpus, i))
			vcpu_resume(&machine->vm.vcpu[i]);
	return 0;
}

int machine_leave_migrate(struct machine *machine, bool run, struct err *err)
{
	(void)err;
	fake_set_state(machine, run ? RUN_STATE_RUNNING : RUN_STATE_PAUSED);
	return 0;
}

void machine_generation_id(struct machine *machine, uint8_t id[MACHINE_ID_BYTES])
{
	unsigned int i;

	(void)machine;
	for (i = 0; i < MACHINE_ID_BYTES; i++)
		id[i] = (uint8_t)(i + 1);
}

int machine_disk_fenced(struct machine *machine, const char *device)
{
	if (strcmp(device, "disk0") != 0)
		return -ENODEV;
	machine->doubt = (struct disk_doubt){ 0 };
	return 0;
}

bool machine_disk(struct machine *machine, unsigned int i, struct disk_info *info)
{
	*info = (struct disk_info){
		.device = "disk0", .file = "nbd://host/x", .driver = "nbd", .format = "raw", .away = "gone", .bytes = 512, .jobs = 3,
		.doubt = machine->doubt,
	};
	return i == 0;
}

bool machine_autostart(const struct machine *machine)
{
	return machine->state == RUN_STATE_INMIGRATE && machine->autostart;
}

int machine_reset(struct machine *machine, bool by_guest, struct err *err)
{
	struct machine_observer *l;

	(void)err;
	machine->resets++;
	for (l = machine->observers; l; l = l->next)
		if (l->reset)
			l->reset(l->arg, by_guest);
	return 0;
}

int machine_set_balloon(struct machine *machine, uint64_t memory_bytes, struct err *err)
{
	struct machine_observer *l;

	if (!machine->balloon)
		return err_set(err, -ENODEV, "No balloon device has been activated");
	machine->balloon_bytes = memory_bytes;
	for (l = machine->observers; l; l = l->next)
		if (l->device)
			l->device(l->arg, &(struct device_event){ .type = DEVICE_EVENT_BALLOON });
	return 0;
}

int machine_balloon(struct machine *machine, uint64_t *memory_bytes, struct err *err)
{
	if (!machine->balloon)
		return err_set(err, -ENODEV, "No balloon device has been activated");
	*memory_bytes = machine->balloon_bytes;
	return 0;
}

int machine_powerdown(struct machine *machine, struct err *err)
{
	int64_t until = clock_now_ns() + machine->powerdown_ns;

	while (machine->powerdown_ns && clock_now_ns() < until)
		;
	struct machine_observer *l;

	(void)err;
	machine->powerdowns++;
	for (l = machine->observers; l; l = l->next)
		if (l->powerdown)
			l->powerdown(l->arg);
	return 0;
}

void machine_shutdown(struct machine *machine, bool by_guest, const char *reason)
{
	struct machine_observer *l;

	for (l = machine->observers; l; l = l->next)
		if (l->shutdown)
			l->shutdown(l->arg, by_guest, reason);
	machine->ended = true;
}

/* ---- kvm/ ---- */

unsigned int vm_vcpus(const struct vm *vm)
{
	(void)vm;
	return FAKE_CPUS;
}

struct vcpu *vm_vcpu(const struct vm *vm, unsigned int index)
{
	return index < FAKE_CPUS ? (struct vcpu *)&vm->vcpu[index] : NULL;
}

int vm_pause(struct vm *vm, int timeout_ms, struct err *err)
{
	unsigned int i;

	(void)timeout_ms;
	for (i = 0; i < FAKE_CPUS; i++)
		if (vm->stuck && !vm->vcpu[i].parked)
			return err_set(err, -ETIMEDOUT, "vCPU %u is stuck", i);
	for (i = 0; i < FAKE_CPUS; i++)
		vm->vcpu[i].parked = true;
	return 0;
}

unsigned int vcpu_index(const struct vcpu *vcpu)
{
	return vcpu->index;
}

pid_t vcpu_tid(const struct vcpu *vcpu)
{
	return 1000 + (pid_t)vcpu->index;
}

bool vcpu_is_parked(const struct vcpu *vcpu)
{
	return vcpu->parked;
}

void vcpu_resume(struct vcpu *vcpu)
{
	assert_false(vcpu->holds);
	vcpu->parked = false;
}

struct vcpu_parked *vcpu_hold(struct vcpu *vcpu, struct err *err)
{
	if (!vcpu->parked) {
		err_set(err, -EBUSY, "vCPU %u runs", vcpu->index);
		return NULL;
	}
	vcpu->holds++;
	vcpu->held.vcpu = vcpu;
	return &vcpu->held;
}

void vcpu_release(struct vcpu_parked *parked)
{
	assert_true(parked->vcpu->holds);
	parked->vcpu->holds--;
}

unsigned int parked_index(const struct vcpu_parked *parked)
{
	return parked->vcpu->index;
}

int vm_each(struct vm *vm, int (*fn)(struct vcpu_parked *parked, void *arg, struct err *err),
	    void *arg, struct err *err)
{
	struct vcpu_parked *parked;
	unsigned int i;
	int r = 0;

	for (i = 0; i < FAKE_CPUS && !r; i++) {
		parked = vcpu_hold(&vm->vcpu[i], err);
		if (!parked)
			return -EBUSY;
		r = fn(parked, arg, err);
		vcpu_release(parked);
	}
	return r;
}
