// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// See fake.h.
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

/* ---- memory/ ---- */

struct memory_thread *memory_thread_new(struct memory *mem, const char *name, int cpu)
{
	(void)name;
	(void)cpu;
	mem->thread.mem = mem;
	return &mem->thread;
}

void memory_thread_free(struct memory_thread *thread)
{
	(void)thread;
}

void memory_thread_bind(struct memory_thread *thread)
{
	(void)thread;
}

void memory_thread_unbind(struct memory_thread *thread)
{
	(void)thread;
}

enum kick_result memory_thread_kick(struct memory_thread *thread)
{
	pthread_mutex_lock(&thread->mem->lock);
	thread->kicked = true;
	pthread_cond_broadcast(&thread->mem->changed);
	pthread_mutex_unlock(&thread->mem->lock);
	return KICK_DONE;
}

void memory_thread_clear(struct memory_thread *thread)
{
	pthread_mutex_lock(&thread->mem->lock);
	thread->kicked = false;
	pthread_mutex_unlock(&thread->mem->lock);
}

enum way_out memory_way_out(const struct memory *mem)
{
	(void)mem;
	return WAY_OUT_KERNEL;
}

bool memory_is_ram(const struct memory *mem, gpa_t gpa, uint64_t len)
{
	(void)mem;
	return gpa.v >= FAKE_GPA && gpa.v + len <= FAKE_GPA + FAKE_PAGES * PAGE_BYTES;
}

enum page_state memory_page_state(const struct memory *mem, gfn_t gfn)
{
	return mem->page[gfn.v - FAKE_GPA / PAGE_BYTES];
}

const struct memory_region *memory_regions(const struct memory *mem, unsigned int *n)
{
	static const struct memory_region region = { .first = { FAKE_GPA / PAGE_BYTES }, .pages = FAKE_PAGES };

	(void)mem;
	*n = 1;
	return &region;
}

uint64_t memory_pages(const struct memory *mem)
{
	(void)mem;
	return FAKE_PAGES;
}

void memory_stats(const struct memory *mem, struct memory_stats *stats)
{
	unsigned int i;

	*stats = (struct memory_stats){ .pages = FAKE_PAGES, .faults = 7, .direct_accesses = 2 };
	for (i = 0; i < FAKE_PAGES; i++) {
		stats->missing += mem->page[i] != PAGE_PRESENT;
		stats->requested += mem->page[i] == PAGE_REQUESTED;
		stats->lost += mem->page[i] == PAGE_LOST;
	}
}

struct hist *memory_latency(struct memory *mem)
{
	return &mem->latency;
}

unsigned int memory_waiters(struct memory *mem, struct memory_waiter *waiters, unsigned int max)
{
	unsigned int n = mem->nwaiters < max ? mem->nwaiters : max;

	memcpy(waiters, mem->waiter, n * sizeof(*waiters));
	return n;
}

/* Waits as gup does; `missing` may become false by another thread. */
static int fake_wait(struct memory *mem, const bool *table, const enum page_state *page, unsigned int flags,
		     const struct gup_opts *opts)
{
	int r = 0;

	pthread_mutex_lock(&mem->lock);
	while (table ? *table : *page != PAGE_PRESENT) {
		if (flags & GUP_INTERRUPTIBLE && opts->self->kicked)
			r = -EINTR;
		else if (page && *page == PAGE_LOST)
			r = -EIO;
		else if (flags & GUP_NOWAIT)
			r = -EAGAIN;
		else if (opts && opts->deadline_ns && clock_now_ns() >= opts->deadline_ns)
			r = -ETIMEDOUT;
		if (r)
			break;
		mem->waits++;
		cond_wait(&mem->changed, &mem->lock, opts && opts->deadline_ns ? opts->deadline_ns : INT64_MAX);
	}
	pthread_mutex_unlock(&mem->lock);
	return r;
}

static int fake_page(struct memory *mem, gpa_t gpa, size_t len, unsigned int flags,
		     const struct gup_opts *opts, uint8_t **at)
{
	if (!memory_is_ram(mem, gpa, len))
		return -EFAULT;
	*at = mem->ram + (gpa.v - FAKE_GPA);
	return fake_wait(mem, NULL, &mem->page[(gpa.v - FAKE_GPA) / PAGE_BYTES], flags, opts);
}

int gup_read(struct memory *mem, gpa_t gpa, void *to, size_t len, unsigned int flags,
	     const struct gup_opts *opts)
{
	uint8_t *at;
	int r = fake_page(mem, gpa, len, flags, opts, &at);

	if (r == 0)
		memcpy(to, at, len);
	return r;
}

int gup_write(struct memory *mem, gpa_t gpa, const void *from, size_t len, unsigned int flags,
	      const struct gup_opts *opts)
{
	uint8_t *at;
	int r = fake_page(mem, gpa, len, flags, opts, &at);

	if (r == 0)
		memcpy(at, from, len);
	return r;
}

int gup(struct memory *mem, gpa_t gpa, size_t len, unsigned int flags, const struct gup_opts *opts,
	struct gup_span *span)
{
	uint8_t *at;
	int r = fake_page(mem, gpa, len, flags, opts, &at);

	if (r < 0)
		return r;
	*span = (struct gup_span){ .hva = at, .len = len, .first = gpa_to_gfn(gpa), .pages = 1 };
	mem->held++;
	return 0;
}

void gup_put(struct memory *mem, struct gup_span *span)
{
	assert_non_null(span->hva);
	assert_true(mem->held);
	mem->held--;
	*span = (struct gup_span){ 0 };
}

void memory_map_lock(struct memory *mem)
{
	(void)mem;
}

void memory_map_unlock(struct memory *mem)
{
	(void)mem;
}

/* ---- arch/ ---- */

static void assert_held(const struct vcpu_parked *vcpu)
{
	assert_true(vcpu->vcpu->parked);
	assert_true(vcpu->vcpu->holds);
}

int arch_mmu_get(struct vcpu_parked *vcpu, struct arch_mmu *mmu, struct err *err)
{
	(void)err;
	assert_held(vcpu);
	*mmu = (struct arch_mmu){ 0 };
	return 0;
}

int arch_translate(struct memory *mem, const struct arch_mmu *mmu, gva_t gva, unsigned int flags,
		   const struct gup_opts *opts, gpa_t *gpa, uint64_t *left)
{
	int r;

	(void)mmu;
	r = fake_wait(mem, &mem->table_missing, NULL, flags, opts);
	if (r < 0)
		return r;
	if (gva.v >= FAKE_ALIAS)
		gva.v -= FAKE_ALIAS - FAKE_GVA;
	/* One page more is mapped than there is memory. */
	if (gva.v < FAKE_GVA || gva.v >= FAKE_GVA + (FAKE_PAGES + 1) * PAGE_BYTES)
		return -EFAULT;
	*gpa = GPA(gva.v - FAKE_GVA + FAKE_GPA);
	*left = PAGE_BYTES - gva.v % PAGE_BYTES;
	return 0;
}

const char *arch_gdb_xml(void)
{
	return "<target>fake</target>";
}

size_t arch_gdb_regs_bytes(void)
{
	return FAKE_REGS_BYTES;
}

int arch_gdb_read_regs(struct vcpu_parked *vcpu, uint8_t *regs, struct err *err)
{
	struct vm *vm = vcpu->vcpu->vm;
	int64_t until = clock_now_ns() + vm->regs_ns;

	(void)err;
	assert_held(vcpu);
	while (vm->regs_ns && clock_now_ns() < until)
		;
	vm->regs_read++;
	memcpy(regs, vcpu->vcpu->regs, FAKE_REGS_BYTES);
	return 0;
}

int arch_gdb_write_regs(struct vcpu_parked *vcpu, const uint8_t *regs, struct err *err)
{
	(void)err;
	assert_held(vcpu);
	memcpy(vcpu->vcpu->regs, regs, FAKE_REGS_BYTES);
	return 0;
}

bool arch_gdb_reg(unsigned int number, size_t *offset, size_t *bytes)
{
	*offset = 8 * (size_t)number;
	*bytes = 8;
	return number < 3;
}

int arch_gdb_pc(struct vcpu_parked *vcpu, uint64_t *pc, struct err *err)
{
	(void)err;
	*pc = vcpu->vcpu->regs[2];
	return 0;
}

int arch_debug_set(struct vcpu_parked *vcpu, const struct arch_debug *debug, struct err *err)
{
	unsigned int i;

	assert_held(vcpu);
	for (i = 0; i < debug->nwatch; i++)
		if (debug->watch[i].type == ARCH_WATCH_READ)
			return err_set(err, -EINVAL, "no such watchpoint");
	vcpu->vcpu->debug = *debug;
	return 0;
}

bool arch_debug_hit(struct vcpu_parked *vcpu, const struct arch_debug *debug, unsigned int *index)
{
	(void)debug;
	*index = (unsigned int)vcpu->vcpu->hit;
	return vcpu->vcpu->hit >= 0;
}

const uint8_t *arch_breakpoint(size_t *len)
{
	static const uint8_t insn[] = { 0xcc, 0xdd };

	*len = sizeof(insn);
	return insn;
}

/* ---- migrate/ ---- */

const char *migration_status_name(enum migration_status status)
{
	static const char *const names[] = {
		"none", "setup", "cancelling", "cancelled", "device", "postcopy-active",
		"postcopy-paused", "postcopy-recover", "completed", "failed",
	};

	return names[status];
}

void migration_observe(struct migration *migration, const struct migration_observer *observer)
{
	migration->observer = *observer;
}

static int called(struct migration *migration, const char *name, const char *uri, const struct migration_trust *trust,
		  struct err *err)
{
	snprintf(migration->last, sizeof(migration->last), "%s %s%s", name, uri,
		 !trust ? "" : trust->insecure ? " insecure" : " with a secret");
	return migration->fail ? err_set(err, -EIO, "no \xff luck") : 0;
}

int migration_trust_read(struct migration_trust *trust, const char *secret_file, bool insecure, struct err *err)
{
	(void)err;
	*trust = (struct migration_trust){ .secret.given = secret_file, .insecure = insecure };
	return 0;
}

int migration_incoming(struct migration *migration, const char *uri, const struct migration_trust *trust, struct err *err)
{
	return called(migration, "incoming", uri, trust, err);
}

int migration_outgoing(struct migration *migration, const char *uri, bool resume, const struct migration_trust *trust,
		       struct err *err)
{
	return called(migration, resume ? "resume" : "outgoing", uri, trust, err);
}

int migration_recover(struct migration *migration, const char *uri, const struct migration_trust *trust, struct err *err)
{
	return called(migration, "recover", uri, trust, err);
}

int migration_pause(struct migration *migration, struct err *err)
{
	return called(migration, "pause", "", NULL, err);
}

int migration_cancel(struct migration *migration, struct err *err)
{
	return called(migration, "cancel", "", NULL, err);
}

int migration_reclaim(struct migration *migration, struct err *err)
{
	return called(migration, "reclaim", "", NULL, err);
}

void migration_params_get(struct migration *migration, struct migration_params *params)
{
	*params = migration->params;
}

int migration_params_set(struct migration *migration, const struct migration_params *params, struct err *err)
{
	(void)err;
	migration->params = *params;
	return 0;
}

void migration_query(struct migration *migration, struct migration_info *info)
{
	*info = migration->info;
}
