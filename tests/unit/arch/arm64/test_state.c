// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// State of real vCPUs: a guest runs in one VM, goes on in another, is reset. The guest is three instructions that count, and write each
// number where no RAM is. Skipped where there is no KVM.
#include "../common.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "arch/arch.h"
#include "arch/arm64/arm64.h"
#include "base/clock.h"
#include "memory/eject.h"

#define CPUS 2
#define RAM (4 << 20)
#define CODE 0x1000
#define PAUSE_MS 10000
#define MUTATIONS 60

struct guest {
	struct memory *mem;
	uint8_t *ram;
	struct vm *vm;
	struct vcpu_parked *held[CPUS];	/* until it runs */
	pthread_mutex_t lock;		/* guards the rest */
	pthread_cond_t changed;
	uint32_t count;			/* last number that came */
	uint32_t jumps;			/* numbers that did not follow the last one */
	char strange[200];		/* an event that nobody expects */
};

/* What a machine's state is made of. */
struct saved {
	struct buf vm, vcpu[CPUS];
};

static void on_pio(void *arg, uint16_t port, bool write, void *data, unsigned int size)
{
	(void)arg, (void)port, (void)write, (void)data, (void)size;
}

static void on_mmio(void *arg, gpa_t gpa, bool write, void *data, unsigned int len)
{
	struct guest *guest = arg;
	uint32_t value;

	(void)gpa;
	if (!write || len != sizeof(value))
		return;
	memcpy(&value, data, sizeof(value));
	pthread_mutex_lock(&guest->lock);
	if (guest->count && value != guest->count + 1)
		guest->jumps++;
	guest->count = value;
	pthread_cond_broadcast(&guest->changed);
	pthread_mutex_unlock(&guest->lock);
}

static void on_event(void *arg, struct vcpu *vcpu, const struct vm_event *event)
{
	struct guest *guest = arg;

	(void)vcpu;
	pthread_mutex_lock(&guest->lock);
	snprintf(guest->strange, sizeof(guest->strange), "event %d: %s", (int)event->kind, event->text);
	pthread_cond_broadcast(&guest->changed);
	pthread_mutex_unlock(&guest->lock);
}

static const struct vm_exit_ops ops = { .pio = on_pio, .mmio = on_mmio, .event = on_event };

static struct guest *guest_new(void)
{
	const struct memory_range range = { .base = GPA(0), .len_bytes = RAM };
	struct guest *guest = calloc(1, sizeof(*guest));
	struct err err = { 0 };
	unsigned int n;

	assert_non_null(guest);
	pthread_mutex_init(&guest->lock, NULL);
	pthread_cond_init(&guest->changed, NULL);
	assert_int_equal(memory_new(&guest->mem, &range, 1, &err), 0);
	memory_set_way_out(guest->mem, WAY_OUT_KERNEL);
	guest->ram = memory_regions(guest->mem, &n)[0].host;
	if (vm_new(&guest->vm, guest->mem, CPUS, &ops, guest, &err))
		fail_msg("%s", err.text);
	return guest;
}

/* A vCPU of the guest, which is parked. */
static struct vcpu_parked *held(struct guest *guest, unsigned int cpu)
{
	struct err err = { 0 };

	if (!guest->held[cpu])
		guest->held[cpu] = vcpu_hold(vm_vcpu(guest->vm, cpu), &err);
	if (!guest->held[cpu])
		fail_msg("%s", err.text);
	return guest->held[cpu];
}

static void let_go(struct guest *guest)
{
	unsigned int i;

	for (i = 0; i < CPUS; i++) {
		if (guest->held[i])
			vcpu_release(guest->held[i]);
		guest->held[i] = NULL;
	}
}

static void guest_free(struct guest *guest)
{
	let_go(guest);
	vm_end_vcpus(guest->vm);
	memory_shut(guest->mem);
	vm_free(guest->vm);
	memory_free(guest->mem);
	pthread_cond_destroy(&guest->changed);
	pthread_mutex_destroy(&guest->lock);
	free(guest);
}

static void guest_boot(struct guest *guest)
{
	static const uint32_t code[] = {
		0xd2a14001,	/* mov x1, #0xa000000 */
		0x11000442,	/* add w2, w2, #1 */
		0xb9000022,	/* str w2, [x1] */
		0x17fffffe,	/* back to the add */
	};
	const struct arch_boot boot = { .cpus = CPUS, .entry = CODE };
	struct err err = { 0 };
	unsigned int i;

	memcpy(guest->ram + CODE, code, sizeof(code));
	guest->count = 0;
	for (i = 0; i < CPUS; i++)
		if (arch_vcpu_boot(held(guest, i), &boot, &err))
			fail_msg("%s", err.text);
}

/* Runs until so many more numbers have come. */
static void guest_run(struct guest *guest, uint32_t more)
{
	struct timespec until = clock_to_timespec(0);
	struct err err = { 0 };
	uint32_t want;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 60;
	pthread_mutex_lock(&guest->lock);
	want = guest->count + more;
	pthread_mutex_unlock(&guest->lock);
	let_go(guest);
	vm_resume(guest->vm);
	pthread_mutex_lock(&guest->lock);
	while (guest->count < want && !guest->strange[0])
		if (pthread_cond_timedwait(&guest->changed, &guest->lock, &until) == ETIMEDOUT)
			break;
	want -= guest->count < want ? guest->count : want;
	pthread_mutex_unlock(&guest->lock);
	if (vm_pause(guest->vm, PAUSE_MS, &err))
		fail_msg("%s", err.text);
	assert_string_equal(guest->strange, "");
	assert_int_equal(want, 0);
	assert_int_equal(guest->jumps, 0);
}

static void save(struct guest *guest, struct saved *saved)
{
	struct err err = { 0 };
	unsigned int i;

	memset(saved, 0, sizeof(*saved));
	if (arch_vm_save(guest->vm, &saved->vm, &err))
		fail_msg("%s", err.text);
	for (i = 0; i < CPUS; i++)
		if (arch_vcpu_save(held(guest, i), &saved->vcpu[i], &err))
			fail_msg("%s", err.text);
}

static void load(struct guest *guest, const struct saved *saved)
{
	struct err err = { 0 };
	unsigned int i;

	if (arch_vm_load(guest->vm, saved->vm.data, saved->vm.len, &err))
		fail_msg("%s", err.text);
	for (i = 0; i < CPUS; i++)
		if (arch_vcpu_load(held(guest, i), saved->vcpu[i].data, saved->vcpu[i].len, &err))
			fail_msg("%s", err.text);
}

static void saved_fini(struct saved *saved)
{
	unsigned int i;

	buf_fini(&saved->vm);
	for (i = 0; i < CPUS; i++)
		buf_fini(&saved->vcpu[i]);
}

static int no_kvm(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return 1;
	close(fd);
	return 0;
}

#define NEEDS_KVM() do { if (no_kvm()) { print_message("skipped: no /dev/kvm\n"); skip(); } } while (0)

static void test_goes_on_in_another_vm(void **state)
{
	uint8_t before[2048], after[2048];
	struct guest *from, *to;
	struct saved saved, again;
	struct err err = { 0 };

	(void)state;
	NEEDS_KVM();
	from = guest_new();
	to = guest_new();
	guest_boot(from);
	guest_run(from, 100);
	save(from, &saved);
	memcpy(to->ram, from->ram, RAM);
	to->count = from->count;
	load(to, &saved);
	assert_true(arch_gdb_regs_bytes() <= sizeof(before));
	assert_int_equal(arch_gdb_read_regs(held(from, 0), before, &err), 0);
	assert_int_equal(arch_gdb_read_regs(held(to, 0), after, &err), 0);
	assert_memory_equal(before, after, arch_gdb_regs_bytes());
	/* What was loaded is what would be saved. */
	save(to, &again);
	assert_int_equal(again.vcpu[0].len, saved.vcpu[0].len);
	assert_memory_equal(again.vcpu[1].data, saved.vcpu[1].data, saved.vcpu[1].len);
	guest_run(to, 100);
	saved_fini(&again);
	saved_fini(&saved);
	guest_free(from);
	guest_free(to);
}

static void test_the_counter_stands_still_meanwhile(void **state)
{
	uint64_t counter, frequency, shown;
	struct guest *guest;
	struct err err = { 0 };
	int64_t start, took;

	(void)state;
	NEEDS_KVM();
	__asm__ volatile("mrs %0, cntfrq_el0" : "=r"(frequency));
	guest = guest_new();
	guest_boot(guest);
	guest_run(guest, 10);
	assert_int_equal(arch_clock_stop(guest->vm, &counter, &err), 0);
	usleep(20000);		/* not a wait: the time that must not be seen */
	start = clock_now_ns();
	assert_int_equal(arch_clock_start(guest->vm, counter, &err), 0);
	assert_int_equal(reg_get64(held(guest, 1), KVM_REG_ARM_TIMER_CNT, &shown, &err), 0);
	took = clock_now_ns() - start;
	assert_true(shown >= counter);
	assert_true((shown - counter) <= (uint64_t)(took + NS_PER_MS) * frequency / NS_PER_SEC);
	guest_free(guest);
}

static void test_a_reset_starts_anew(void **state)
{
	struct guest *guest;
	struct saved fresh, again;
	uint64_t value = 1;
	struct err err = { 0 };

	(void)state;
	NEEDS_KVM();
	guest = guest_new();
	guest_boot(guest);
	save(guest, &fresh);
	guest_run(guest, 50);
	guest_boot(guest);
	save(guest, &again);
	assert_int_equal(reg_get64(held(guest, 0), CORE_REG(regs.regs[2]), &value, &err), 0);
	assert_int_equal(value, 0);
	assert_int_equal(again.vcpu[1].len, fresh.vcpu[1].len);
	assert_memory_equal(again.vcpu[1].data, fresh.vcpu[1].data, fresh.vcpu[1].len);
	guest_run(guest, 50);
	saved_fini(&fresh);
	saved_fini(&again);
	guest_free(guest);
}

/* An error or not; but no end of the process, and the right state is still taken. */
static void test_hostile_state(void **state)
{
	struct guest *guest;
	struct saved saved;
	struct err err = { 0 };
	uint8_t *copy;
	unsigned int i;

	(void)state;
	NEEDS_KVM();
	guest = guest_new();
	guest_boot(guest);
	guest_run(guest, 10);
	save(guest, &saved);
	assert_err(arch_vcpu_load(held(guest, 1), saved.vcpu[0].data, saved.vcpu[0].len, &err), -EPROTO, err,
		   "of vCPU 0");
	assert_int_equal(arch_vcpu_load(held(guest, 0), saved.vm.data, saved.vm.len, &err), -EPROTO);
	assert_int_equal(arch_vm_load(guest->vm, saved.vcpu[0].data, saved.vcpu[0].len, &err), -EPROTO);
	assert_int_equal(arch_vm_load(guest->vm, NULL, 0, &err), -EPROTO);
	assert_int_equal(arch_vcpu_load(held(guest, 0), NULL, 0, &err), -EPROTO);
	copy = malloc(saved.vcpu[0].len);
	assert_non_null(copy);
	srandom(1);
	for (i = 0; i < MUTATIONS; i++) {
		size_t at = (size_t)random() % saved.vcpu[0].len;

		memcpy(copy, saved.vcpu[0].data, saved.vcpu[0].len);
		copy[at] ^= (uint8_t)(1 << random() % 8);
		arch_vcpu_load(held(guest, 0), copy, saved.vcpu[0].len, &err);
		memcpy(copy, saved.vm.data, saved.vm.len);
		copy[at % saved.vm.len] ^= (uint8_t)(1 << random() % 8);
		arch_vm_load(guest->vm, copy, saved.vm.len, &err);
		assert_true(arch_vcpu_load(held(guest, 0), saved.vcpu[0].data, at, &err) < 0);
	}
	free(copy);
	load(guest, &saved);
	guest_run(guest, 10);
	saved_fini(&saved);
	guest_free(guest);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_goes_on_in_another_vm),
		cmocka_unit_test(test_the_counter_stands_still_meanwhile),
		cmocka_unit_test(test_a_reset_starts_anew),
		cmocka_unit_test(test_hostile_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
