// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// State of real vCPUs: a guest runs in one VM, goes on in another, is reset.
// The guest is a few bytes of ring-3 code that count in EAX and report each
// number at port 0x80 + CPU, so that it runs on every KVM.
#include "guest.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "arch/x86/cpuid.h"
#include "arch/x86/msr.h"
#include "arch/x86/state.h"
#include "arch/x86/x86.h"

#define RAM (16 << 20)
#define CODE 0x100000
#define TABLES 0x101000
#define STACK 0x180000
#define CLOCK_PAGE 0x300000
#define STEAL_PAGE 0x301000

static char no_kvm[64];

/* The port says which CPU. */
static void on_pio(void *arg, uint16_t port, bool write, void *data, unsigned int size)
{
	struct guest *guest = arg;
	uint32_t value = 0, cpu;

	if (!write || size != 4)
		return;
	memcpy(&value, data, sizeof(value));
	cpu = port - 0x80u;
	if (cpu < CPUS)
		guest_counted(guest, cpu, value);
}

static void on_mmio(void *arg, gpa_t gpa, bool write, void *data, unsigned int len)
{
	(void)arg;
	(void)gpa;
	if (!write)
		memset(data, 0, len);
}

static const struct vm_exit_ops ops = { .pio = on_pio, .mmio = on_mmio, .event = guest_on_event };

static void guest_boot(struct guest *guest)
{
	/* inc %eax; movl %edi, %edx; addl $0x80, %edx; outl %eax, %dx; jmp back */
	static const uint8_t code[] = {
		0xff, 0xc0, 0x89, 0xfa, 0x81, 0xc2, 0x80, 0, 0, 0, 0xef, 0xeb, 0xf3,
	};
	const struct arch_boot boot = {
		.bare = true,
		.cpus = CPUS,
		.entry = CODE,
		.stack = STACK,
		.stack_stride = 0x1000,
		.page_table = TABLES,
		.ram_low = RAM,
	};
	struct err err = { 0 };
	unsigned int i;

	memcpy(guest->ram + CODE, code, sizeof(code));
	put64(guest->ram + TABLES, (TABLES + 0x1000) | 0x27);
	put64(guest->ram + TABLES + 0x1000, (TABLES + 0x2000) | 0x27);
	for (i = 0; i < RAM / HUGE_BYTES; i++)
		put64(guest->ram + TABLES + 0x2000 + i * 8, i * HUGE_BYTES | 0xe7);
	memset(guest->count, 0, sizeof(guest->count));
	for (i = 0; i < CPUS; i++)
		if (arch_vcpu_boot(held(guest, i), &boot, &err))
			fail_msg("%s", err.text);
}

/* Runs until each CPU has counted to `count`, then parks. */
static void guest_run(struct guest *guest, uint32_t count)
{
	guest_run_to(guest, (const uint32_t[CPUS]){ count, count });
}

/*
 * All that KVM tells of a vCPU and that must be the same after a save and a
 * load, or after a reset.
 */
struct picture {
	struct kvm_regs regs;
	struct kvm_sregs2 sregs;
	struct kvm_debugregs debug;
	struct kvm_lapic_state lapic;
	struct kvm_mp_state mp;
	struct kvm_vcpu_events events;
	struct kvm_xcrs xcrs;
	struct msr_table msrs;
	uint8_t xsave[16384];
};

static struct picture *picture_new(struct guest *guest, unsigned int cpu)
{
	struct vcpu_parked *vcpu = held(guest, cpu);
	struct picture *p = calloc(1, sizeof(*p));
	uint32_t i;

	assert_non_null(p);
	assert_int_equal(parked_ioctl(vcpu, KVM_GET_REGS, &p->regs, "regs", NULL), 0);
	assert_int_equal(x86_sregs_get(vcpu, &p->sregs, NULL), 0);
	assert_int_equal(parked_ioctl(vcpu, KVM_GET_DEBUGREGS, &p->debug, "debugregs", NULL), 0);
	assert_int_equal(parked_ioctl(vcpu, KVM_GET_LAPIC, &p->lapic, "lapic", NULL), 0);
	assert_int_equal(parked_ioctl(vcpu, KVM_GET_MP_STATE, &p->mp, "mp", NULL), 0);
	assert_int_equal(parked_ioctl(vcpu, KVM_GET_VCPU_EVENTS, &p->events, "events", NULL), 0);
	assert_int_equal(parked_ioctl(vcpu, KVM_GET_XCRS, &p->xcrs, "xcrs", NULL), 0);
	assert_true(xsave_bytes(guest->vm) <= sizeof(p->xsave));
	assert_int_equal(xsave_get(vcpu, p->xsave, NULL), 0);
	assert_int_equal(msr_read(vcpu, &p->msrs, NULL), 0);
	for (i = 0; i < p->msrs.nmsrs; i++)
		if (p->msrs.entries[i].index == MSR_TSC)
			p->msrs.entries[i].data = 0;
	return p;
}

static void picture_compare(struct picture *a, struct picture *b)
{
	uint32_t i;

	assert_memory_equal(&a->regs, &b->regs, sizeof(a->regs));
	assert_memory_equal(&a->sregs, &b->sregs, sizeof(a->sregs));
	assert_memory_equal(&a->debug, &b->debug, sizeof(a->debug));
	assert_memory_equal(&a->lapic, &b->lapic, sizeof(a->lapic));
	assert_int_equal(a->mp.mp_state, b->mp.mp_state);
	assert_memory_equal(&a->events, &b->events, sizeof(a->events));
	assert_memory_equal(&a->xcrs, &b->xcrs, sizeof(a->xcrs));
	assert_memory_equal(a->xsave, b->xsave, sizeof(a->xsave));
	assert_int_equal(a->msrs.nmsrs, b->msrs.nmsrs);
	for (i = 0; i < a->msrs.nmsrs; i++) {
		assert_int_equal(a->msrs.entries[i].index, b->msrs.entries[i].index);
		if (a->msrs.entries[i].data != b->msrs.entries[i].data)
			fail_msg("MSR 0x%x: 0x%llx and 0x%llx", a->msrs.entries[i].index,
				 (unsigned long long)a->msrs.entries[i].data,
				 (unsigned long long)b->msrs.entries[i].data);
	}
	free(a);
	free(b);
}

static void set_msr(struct vcpu_parked *vcpu, uint32_t index, uint64_t value)
{
	struct err err = { 0 };

	if (msr_set(vcpu, index, value, &err))
		fail_msg("%s", err.text);
}

/* Puts something unlike the reset value wherever a guest could. */
static void disturb(struct guest *guest)
{
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };
	unsigned int i;

	for (i = 0; i < CPUS; i++) {
		struct vcpu_parked *vcpu = held(guest, i);
		struct kvm_debugregs debug;
		struct kvm_lapic_state lapic;
		uint8_t area[16384];

		assert_int_equal(xsave_get(vcpu, area, NULL), 0);
		put32(area + 24, 0x1fa0);				/* MXCSR */
		memset(area + 160 + 3 * 16, 0x5a, 16);			/* XMM3 */
		area[512] |= 3;						/* XSTATE_BV */
		assert_int_equal(xsave_set(vcpu, area, NULL), 0);
		assert_int_equal(parked_ioctl(vcpu, KVM_GET_DEBUGREGS, &debug, "debugregs", NULL),
				 0);
		debug.db[2] = 0x1234;
		assert_int_equal(parked_ioctl(vcpu, KVM_SET_DEBUGREGS, &debug, "debugregs", NULL),
				 0);
		assert_int_equal(parked_ioctl(vcpu, KVM_GET_LAPIC, &lapic, "lapic", NULL), 0);
		put32((uint8_t *)lapic.regs + 0xf0, 0x1ff);		/* enabled */
		put32((uint8_t *)lapic.regs + 0x320, 0x100ef);		/* timer */
		assert_int_equal(parked_ioctl(vcpu, KVM_SET_LAPIC, &lapic, "lapic", NULL), 0);
		set_msr(vcpu, 0xc0000082, 0xffffffff81000000 + i);	/* LSTAR */
		set_msr(vcpu, MSR_KERNEL_GS_BASE, 0xffff888000000000 + i);
		set_msr(vcpu, 0x277, 0x0407050600070106);		/* PAT, as Linux sets it */
		set_msr(vcpu, MSR_PV_SYSTEM_TIME, (CLOCK_PAGE + i * 64) | 1);
		set_msr(vcpu, MSR_PV_STEAL_TIME, (STEAL_PAGE + i * 64) | 1);
	}
	assert_int_equal(x86_vm_ioctl(guest->vm, KVM_GET_IRQCHIP, &chip, "ioapic", NULL), 0);
	chip.chip.ioapic.redirtbl[4].bits = 0x31;
	assert_int_equal(x86_vm_ioctl(guest->vm, KVM_SET_IRQCHIP, &chip, "ioapic", NULL), 0);
}

static bool skipped(void)
{
	if (!no_kvm[0])
		return false;
	print_message("skipped: %s\n", no_kvm);
	skip();
	return true;
}

static void test_goes_on_elsewhere(void **state)
{
	struct guest *a, *b;
	struct saved saved;
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };
	unsigned int i;

	(void)state;
	if (skipped())
		return;
	a = guest_new(&ops, RAM);
	b = guest_new(&ops, RAM);
	guest_boot(a);
	guest_run(a, 100);
	disturb(a);
	guest_run(a, a->count[0] + 10);
	save(a, &saved);
	memcpy(b->ram, a->ram, RAM);
	memcpy(b->count, a->count, sizeof(b->count));
	load(b, &saved);
	for (i = 0; i < CPUS; i++)
		picture_compare(picture_new(a, i), picture_new(b, i));
	assert_int_equal(x86_vm_ioctl(b->vm, KVM_GET_IRQCHIP, &chip, "ioapic", NULL), 0);
	assert_int_equal(chip.chip.ioapic.redirtbl[4].bits, 0x31);
	guest_run(b, a->count[0] + 100);
	/* And once more into a VM that has run. */
	memcpy(b->ram, a->ram, RAM);
	memcpy(b->count, a->count, sizeof(b->count));
	load(b, &saved);
	guest_run(b, a->count[0] + 100);
	saved_fini(&saved);
	guest_free(b);
	guest_free(a);
}

#define AWAY_S 3600u

/* A KVM without hardware beneath may show guests the host's, and takes none. */
static bool tsc_can_be_set(struct guest *guest)
{
	uint64_t was, now;
	unsigned int i;

	assert_int_equal(msr_get(held(guest, 0), MSR_TSC, &was), 0);
	for (i = 0; i < CPUS; i++)
		set_msr(held(guest, i), MSR_TSC, was + (UINT64_C(1) << 50));
	assert_int_equal(msr_get(held(guest, 0), MSR_TSC, &now), 0);
	return now - was >= UINT64_C(1) << 50;
}

static void check_tscs_advance(struct guest *guest, uint64_t away_ns)
{
	const int khz = parked_ioctl(held(guest, 0), KVM_GET_TSC_KHZ, NULL, "frequency", NULL);
	uint64_t was[CPUS], now[CPUS], ms;
	struct err err = { 0 };
	unsigned int i;

	assert_true(khz > 0);
	for (i = 0; i < CPUS; i++)
		assert_int_equal(msr_get(held(guest, i), MSR_TSC, &was[i]), 0);
	for (i = 0; i < CPUS; i++)
		if (arch_vcpu_clock_advance(held(guest, i), away_ns, &err))
			fail_msg("%s", err.text);
	for (i = 0; i < CPUS; i++) {
		assert_int_equal(msr_get(held(guest, i), MSR_TSC, &now[i]), 0);
		ms = (now[i] - was[i]) / (unsigned int)khz;
		assert_true(ms >= AWAY_S * 1000 && ms < (AWAY_S + 60) * 1000);
	}
	assert_true((now[1] - now[0]) / (unsigned int)khz < 1000);
}

/* The guest's clocks show that it was away: the paravirtual one, and the TSC of all vCPUs alike. */
static void test_clocks_advance(void **state)
{
	const uint64_t away_ns = AWAY_S * (uint64_t)NS_PER_SEC;
	struct guest *guest;
	struct err err = { 0 };
	uint64_t clock[2];

	(void)state;
	if (skipped())
		return;
	guest = guest_new(&ops, RAM);
	guest_boot(guest);
	guest_run(guest, 100);
	assert_int_equal(arch_clock_stop(guest->vm, &clock[0], &err), 0);
	assert_int_equal(arch_clock_advance(guest->vm, away_ns, &err), 0);
	assert_int_equal(arch_clock_stop(guest->vm, &clock[1], &err), 0);
	assert_true(clock[1] - clock[0] >= away_ns);
	assert_true(clock[1] - clock[0] < away_ns + 60u * (uint64_t)NS_PER_SEC);
	if (tsc_can_be_set(guest))
		check_tscs_advance(guest, away_ns);
	else
		print_message("skipped: this KVM lets no TSC be set\n");
	guest_run(guest, guest->count[0] + 100);
	guest_free(guest);
}

/* After a reset nothing is left of what the guest did: all is as in a VM that never ran. */
static void test_reset(void **state)
{
	struct guest *a, *fresh;
	unsigned int i;

	(void)state;
	if (skipped())
		return;
	a = guest_new(&ops, RAM);
	fresh = guest_new(&ops, RAM);
	guest_boot(a);
	guest_run(a, 100);
	disturb(a);
	guest_run(a, a->count[0] + 10);
	guest_boot(a);
	guest_boot(fresh);
	for (i = 0; i < CPUS; i++)
		picture_compare(picture_new(a, i), picture_new(fresh, i));
	guest_run(a, 100);
	guest_free(fresh);
	guest_free(a);
}

/*
 * Every vCPU state with one byte changed, or cut short, is taken or refused,
 * with a text; the good one can then still be loaded.
 */
static void test_hostile_state(void **state)
{
	struct guest *a;
	struct saved saved;
	unsigned int refused = 0, i;
	uint32_t seed = 1;

	(void)state;
	if (skipped())
		return;
	a = guest_new(&ops, RAM);
	guest_boot(a);
	guest_run(a, 10);
	save(a, &saved);
	for (i = 0; i < 2000; i++) {
		struct buf *from = i % 8 ? &saved.vcpu[0] : &saved.vm;
		uint8_t *copy = malloc(from->len);
		size_t len = from->len;
		struct err err = { 0 };
		int result;

		assert_non_null(copy);
		memcpy(copy, from->data, len);
		seed = seed * 1103515245 + 12345;
		if (i % 5 == 0)
			len = (seed >> 8) % len;
		else
			copy[(seed >> 8) % len] ^= (uint8_t)(1u << (i % 8));
		result = i % 8 ? arch_vcpu_load(held(a, 0), copy, len, &err) :
				 arch_vm_load(a->vm, copy, len, &err);
		if (result) {
			assert_true(result < 0);
			assert_int_equal(result, err.code);
			assert_true(err.text[0] != 0);
			refused++;
		}
		free(copy);
	}
	/* All that were cut short lack something. */
	assert_true(refused >= 400);
	load(a, &saved);
	guest_run(a, a->count[0] + 100);
	saved_fini(&saved);
	guest_free(a);
}

static void test_wrong_state(void **state)
{
	struct guest *a;
	struct saved saved;
	struct err err = { 0 };
	struct vcpu_parked *vcpu;

	(void)state;
	if (skipped())
		return;
	a = guest_new(&ops, RAM);
	guest_boot(a);
	save(a, &saved);
	vcpu = held(a, 0);
	assert_err(arch_vcpu_load(vcpu, saved.vcpu[1].data, saved.vcpu[1].len, &err), -EPROTO, err,
		   "vCPU 0: got the state of vCPU 1");
	assert_err(arch_vcpu_load(vcpu, NULL, 0, &err), -EPROTO, err, "version 0");
	assert_err(arch_vm_load(a->vm, saved.vcpu[0].data, 1, &err), -EPROTO, err,
		   "not a VmState message");
	/* A later version, by a field that comes again: the last one counts. */
	assert_int_equal(buf_append(&saved.vcpu[0], "\x08\x02", 2), 0);
	assert_err(arch_vcpu_load(vcpu, saved.vcpu[0].data, saved.vcpu[0].len, &err), -EPROTO, err,
		   "version 2, this postern knows 1");
	/* An MSR that no KVM has: field 10, index 0x12345. */
	assert_int_equal(buf_append(&saved.vcpu[0], "\x08\x01\x52\x04\x08\xc5\xc6\x04", 8), 0);
	assert_err(arch_vcpu_load(vcpu, saved.vcpu[0].data, saved.vcpu[0].len, &err), -ENOTSUP, err,
		   "no MSR 0x12345");
	saved_fini(&saved);
	guest_free(a);
}

static int mark(void *arg, gfn_t gfn)
{
	uint8_t *seen = arg;

	assert_in_range(gfn.v, 0, RAM / PAGE_BYTES - 1);
	seen[gfn.v] = 1;
	return 0;
}

static int stop(void *arg, gfn_t gfn)
{
	(void)arg;
	(void)gfn;
	return -ECANCELED;
}

static void test_early_pages(void **state)
{
	static const uint64_t wanted[] = { CODE,       TABLES,	   TABLES + 0x1000, TABLES + 0x2000,
					   CLOCK_PAGE, STEAL_PAGE, STACK - 8 };
	static uint8_t seen[RAM / PAGE_BYTES];
	struct guest *a;
	struct err err = { 0 };
	unsigned int i;

	(void)state;
	if (skipped())
		return;
	a = guest_new(&ops, RAM);
	guest_boot(a);
	disturb(a);
	guest_run(a, 10);
	assert_int_equal(arch_vcpu_early_pages(held(a, 0), mark, seen, &err), 0);
	for (i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
		if (!seen[wanted[i] / PAGE_BYTES])
			fail_msg("page 0x%llx is missing", (unsigned long long)wanted[i]);
	assert_false(seen[0x800]);
	assert_int_equal(arch_vcpu_early_pages(held(a, 0), stop, NULL, &err), -ECANCELED);
	guest_free(a);
}

static void test_debugger(void **state)
{
	uint8_t regs[1024];
	struct guest *a;
	struct vcpu_parked *vcpu;
	struct arch_mmu mmu;
	struct arch_debug debug = { .nwatch = 1,
				    .watch = { { ARCH_WATCH_WRITE, GVA(0x1001), 4 } } };
	struct err err = { 0 };
	uint64_t pc, left;
	gpa_t gpa;

	(void)state;
	if (skipped())
		return;
	a = guest_new(&ops, RAM);
	guest_boot(a);
	guest_run(a, 10);
	vcpu = held(a, 1);
	assert_int_equal(arch_gdb_read_regs(vcpu, regs, &err), 0);
	assert_int_equal(arch_gdb_pc(vcpu, &pc, &err), 0);
	assert_int_equal(get64(regs + 128), pc);
	assert_in_range(pc, CODE, CODE + 12);
	assert_int_equal(get64(regs + 5 * 8), 1);		/* rdi: the CPU */
	assert_int_equal(arch_mmu_get(vcpu, &mmu, &err), 0);
	assert_int_equal(arch_translate(a->mem, &mmu, GVA(pc), GUP_NOWAIT, NULL, &gpa, &left), 0);
	assert_int_equal(gpa.v, pc);
	put64(regs + 8, 0xb0b0);					/* rbx */
	put64(regs + 276 + 5 * 16, 0x5e5e);			/* xmm5 */
	assert_int_equal(arch_gdb_write_regs(vcpu, regs, &err), 0);
	memset(regs, 0, sizeof(regs));
	assert_int_equal(arch_gdb_read_regs(vcpu, regs, &err), 0);
	assert_int_equal(get64(regs + 8), 0xb0b0);
	assert_int_equal(get64(regs + 276 + 5 * 16), 0x5e5e);
	assert_int_equal(get64(regs + 128), pc);

	assert_err(arch_debug_set(vcpu, &debug, &err), -EINVAL, err, "aligned");
	debug.watch[0] = (struct arch_watch){ ARCH_WATCH_READ, GVA(0x1000), 4 };
	assert_err(arch_debug_set(vcpu, &debug, &err), -EINVAL, err, "reads alone");
	debug.watch[0] = (struct arch_watch){ ARCH_WATCH_EXEC, GVA(0x1000), 2 };
	assert_err(arch_debug_set(vcpu, &debug, &err), -EINVAL, err, "aligned");
	debug.watch[0] = (struct arch_watch){ ARCH_WATCH_ACCESS, GVA(0x1000), 8 };
	assert_int_equal(arch_debug_set(vcpu, &debug, &err), 0);
	debug = (struct arch_debug){ 0 };
	assert_int_equal(arch_debug_set(vcpu, &debug, &err), 0);
	guest_run(a, a->count[0] + 10);
	guest_free(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_goes_on_elsewhere), cmocka_unit_test(test_reset),
		cmocka_unit_test(test_clocks_advance),	  cmocka_unit_test(test_hostile_state),
		cmocka_unit_test(test_wrong_state),	  cmocka_unit_test(test_early_pages),
		cmocka_unit_test(test_debugger),
	};
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		snprintf(no_kvm, sizeof(no_kvm), "/dev/kvm: %s", strerror(errno));
	else
		close(fd);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
