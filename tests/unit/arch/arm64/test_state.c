// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// State of real vCPUs: a guest runs in one VM, goes on in another, is reset.
// The guest is three instructions that count, and write each number where no
// RAM is. Skipped where there is no KVM.
#include "../guest.h"

#include <fcntl.h>
#include <unistd.h>

#include "arch/arm64/arm64.h"

#define RAM (4 << 20)
#define CODE 0x1000
#define MUTATIONS 60

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
	guest_counted(guest, 0, value);
}

static const struct vm_exit_ops ops = { .pio = on_pio, .mmio = on_mmio, .event = guest_on_event };

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
	guest->count[0] = 0;
	for (i = 0; i < CPUS; i++)
		if (arch_vcpu_boot(held(guest, i), &boot, &err))
			fail_msg("%s", err.text);
}

/* Runs until so many more numbers have come. */
static void guest_run(struct guest *guest, uint32_t more)
{
	guest_run_to(guest, (const uint32_t[CPUS]){ guest->count[0] + more });
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
	from = guest_new(&ops, RAM);
	to = guest_new(&ops, RAM);
	guest_boot(from);
	guest_run(from, 100);
	save(from, &saved);
	memcpy(to->ram, from->ram, RAM);
	to->count[0] = from->count[0];
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
	guest = guest_new(&ops, RAM);
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
	guest = guest_new(&ops, RAM);
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
	guest = guest_new(&ops, RAM);
	guest_boot(guest);
	guest_run(guest, 10);
	save(guest, &saved);
	assert_err(arch_vcpu_load(held(guest, 1), saved.vcpu[0].data, saved.vcpu[0].len, &err),
		   -EPROTO, err, "of vCPU 0");
	assert_int_equal(arch_vcpu_load(held(guest, 0), saved.vm.data, saved.vm.len, &err),
			 -EPROTO);
	assert_int_equal(arch_vm_load(guest->vm, saved.vcpu[0].data, saved.vcpu[0].len, &err),
			 -EPROTO);
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
