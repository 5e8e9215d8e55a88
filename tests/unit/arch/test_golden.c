// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The state of a VM and of a vCPU as it was recorded (tests/golden/README.md),
 * on a KVM of paper: it gives back what it was told, so that every field can
 * have a value that no other has, on any host. What is saved of these values is
 * byte for byte what was recorded; what was recorded, loaded into a KVM that
 * knows nothing, tells it these values.
 */
#include "common.h"

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "arch/arch.h"
#include "arch/x86/board.h"
#include "arch/x86/cpuid.h"
#include "arch/x86/host.h"
#include "arch/x86/state.h"
#include "arch/x86/x86.h"
#include "memory/memory.h"

#include "../../golden.h"

#define VCPU 1 /* 0 would not be written */
#define RAM_BYTES (16ull << 20)
#define XSAVE_BYTES 4096
#define MSRS 256
#define NESTED_DATA 128
#define TSC_KHZ 2400000

/* What KVM holds; compared whole, so what has no field in the state stays zero. */
struct paper {
	struct kvm_pic_state pic[2];
	struct kvm_ioapic_state ioapic;
	struct kvm_pit_state2 pit;
	uint64_t clock;
	struct kvm_regs regs;
	struct kvm_sregs2 sregs;
	struct kvm_debugregs debug;
	struct kvm_lapic_state lapic;
	struct kvm_mp_state mp;
	struct kvm_vcpu_events events;
	struct kvm_xcrs xcrs;
	uint8_t xsave[XSAVE_BYTES];
	struct {
		struct kvm_nested_state head;
		uint8_t data[NESTED_DATA];
	} nested;
	struct cpuid_table cpuid;
	struct kvm_msr_entry msr[MSRS];
	unsigned int msrs;
	uint32_t tsc_khz;
};

struct vm {
	struct x86_host host;
	struct memory *mem;
	struct paper paper;
};

struct vcpu_parked {
	struct vm *vm;
};

static struct vm *the_vm;
/* What every KVM of paper has: those of the index list, and a CPU. */
static struct x86_asked asked;
static const uint32_t msr_indices[] = {
	MSR_TSC,
	MSR_FEATURE_CONTROL,
	0x174,
	0x277,
	MSR_TSC_DEADLINE,
	0xc0000081,
	MSR_KERNEL_GS_BASE,
	MSR_PV_SYSTEM_TIME,
	MSR_PV_STEAL_TIME,
	MSR_PV_ASYNC_PF,
	MSR_PV_ASYNC_PF_INT,
	MSR_PV_EOI,
	MSR_PV_POLL_CONTROL,
};
#define N(array) (sizeof(array) / sizeof((array)[0]))

/* ---- kvm/, of paper ---- */

void *vm_arch(const struct vm *vm)
{
	return (void *)&vm->host;
}

void vm_set_arch(struct vm *vm, void *arch, void (*fini)(void *arch))
{
	(void)vm, (void)arch, (void)fini;
}

int vm_fd(const struct vm *vm)
{
	(void)vm;
	return -1;
}

int vm_kvm_fd(const struct vm *vm)
{
	(void)vm;
	return -1;
}

const void *vm_asked(const struct vm *vm)
{
	(void)vm;
	return &asked;
}

struct memory *vm_memory(const struct vm *vm)
{
	return vm->mem;
}

int vm_irq_routes_init(struct vm *vm, struct err *err)
{
	(void)vm, (void)err;
	return 0;
}

int vm_each(struct vm *vm, int (*fn)(struct vcpu_parked *parked, void *arg, struct err *err),
	    void *arg, struct err *err)
{
	(void)vm, (void)fn, (void)arg, (void)err;
	return 0;
}

unsigned int parked_index(const struct vcpu_parked *parked)
{
	(void)parked;
	return VCPU;
}

struct vm *parked_vm(const struct vcpu_parked *parked)
{
	return parked->vm;
}

static int copy(void *to, const void *from, size_t len)
{
	memcpy(to, from, len);
	return 0;
}

static int irqchip_get(struct paper *p, struct kvm_irqchip *chip)
{
	if (chip->chip_id == KVM_IRQCHIP_IOAPIC)
		return copy(&chip->chip.ioapic, &p->ioapic, sizeof(p->ioapic));
	return copy(&chip->chip.pic, &p->pic[chip->chip_id], sizeof(p->pic[0]));
}

static int irqchip_set(struct paper *p, const struct kvm_irqchip *chip)
{
	if (chip->chip_id == KVM_IRQCHIP_IOAPIC)
		return copy(&p->ioapic, &chip->chip.ioapic, sizeof(p->ioapic));
	return copy(&p->pic[chip->chip_id], &chip->chip.pic, sizeof(p->pic[0]));
}

/* Machine-check banks are not there: what cannot be read is left out. */
static bool has_msr(uint32_t index)
{
	return index < 0x400 || index >= 0x480;
}

static int msrs_get(const struct paper *p, struct kvm_msrs *msrs)
{
	unsigned int i, k;

	for (i = 0; i < msrs->nmsrs && has_msr(msrs->entries[i].index); i++)
		for (k = 0; k < p->msrs; k++)
			if (p->msr[k].index == msrs->entries[i].index)
				msrs->entries[i].data = p->msr[k].data;
	return (int)i;
}

static int msrs_set(struct paper *p, const struct kvm_msrs *msrs)
{
	unsigned int i, k;

	for (i = 0; i < msrs->nmsrs; i++) {
		for (k = 0; k < p->msrs && p->msr[k].index != msrs->entries[i].index; k++)
			;
		assert_true(k < MSRS);
		p->msr[k] = msrs->entries[i];
		p->msrs += k == p->msrs;
	}
	return (int)i;
}

static int msr_indices_get(struct kvm_msr_list *list)
{
	list->nmsrs = N(msr_indices);
	return copy(list->indices, msr_indices, sizeof(msr_indices));
}

static int capability(long which)
{
	switch (which) {
	case KVM_CAP_NESTED_STATE:
		return sizeof(((struct paper *)NULL)->nested);
	case KVM_CAP_SREGS2:
	case KVM_CAP_XCRS:
	case KVM_CAP_X86_SMM:
	case KVM_CAP_EXCEPTION_PAYLOAD:
	case KVM_CAP_X86_TRIPLE_FAULT_EVENT:
		return 1;
	default:
		return 0;
	}
}

static int cpuid_copy(struct cpuid_table *to, const struct cpuid_table *from)
{
	return copy(to, from,
		    offsetof(struct cpuid_table, entries) + from->nent * sizeof(from->entries[0]));
}

static int ask_vm(struct paper *p, unsigned long request, void *arg)
{
	struct kvm_clock_data *clock = arg;

	switch (request) {
	case KVM_GET_IRQCHIP:
		return irqchip_get(p, arg);
	case KVM_SET_IRQCHIP:
		return irqchip_set(p, arg);
	case KVM_GET_PIT2:
		return copy(arg, &p->pit, sizeof(p->pit));
	case KVM_SET_PIT2:
		return copy(&p->pit, arg, sizeof(p->pit));
	case KVM_GET_CLOCK:
		clock->clock = p->clock;
		return 0;
	case KVM_SET_CLOCK:
		p->clock = clock->clock;
		return 0;
	case KVM_GET_MSR_INDEX_LIST:
		return msr_indices_get(arg);
	default:
		fail_msg("the VM is asked 0x%lx", request);
		return -1;
	}
}

int __wrap_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...)
{
	va_list args;
	void *arg;

	(void)fd;
	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	if (request == KVM_CHECK_EXTENSION)
		return capability((long)(intptr_t)arg);
	return ask_vm(&the_vm->paper, request, arg);
}

/* What is as it was told. */
#define HELD(F)                                             \
	F(KVM_GET_REGS, KVM_SET_REGS, regs)                 \
	F(KVM_GET_SREGS2, KVM_SET_SREGS2, sregs)            \
	F(KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, debug)      \
	F(KVM_GET_LAPIC, KVM_SET_LAPIC, lapic)              \
	F(KVM_GET_MP_STATE, KVM_SET_MP_STATE, mp)           \
	F(KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, events) \
	F(KVM_GET_XCRS, KVM_SET_XCRS, xcrs)                 \
	F(KVM_GET_XSAVE, KVM_SET_XSAVE, xsave)

int parked_ioctl(struct vcpu_parked *parked, unsigned long request, void *arg, const char *what,
		 struct err *err)
{
	struct paper *p = &parked->vm->paper;

	switch (request) {
#define CASES(get, set, field)                                 \
	case get:                                              \
		return copy(arg, &p->field, sizeof(p->field)); \
	case set:                                              \
		return copy(&p->field, arg, sizeof(p->field));
		HELD(CASES)
#undef CASES
	case KVM_GET_NESTED_STATE:
		return copy(arg, &p->nested, sizeof(p->nested));
	case KVM_SET_NESTED_STATE:
		return copy(&p->nested, arg, ((struct kvm_nested_state *)arg)->size);
	case KVM_GET_CPUID2:
		return cpuid_copy(arg, &p->cpuid);
	case KVM_SET_CPUID2:
		return cpuid_copy(&p->cpuid, arg);
	case KVM_GET_MSRS:
		return msrs_get(p, arg);
	case KVM_SET_MSRS:
		return msrs_set(p, arg);
	case KVM_GET_TSC_KHZ:
		return (int)p->tsc_khz;
	case KVM_SET_TSC_KHZ:
		p->tsc_khz = (uint32_t)(uintptr_t)arg;
		return 0;
	case KVM_KVMCLOCK_CTRL:
		return err_set(err, -EINVAL, "%s", what);
	default:
		fail_msg("a vCPU is asked 0x%lx: %s", request, what);
		return -1;
	}
}

/* ---- values ---- */

/* Bytes none of which is 0, others in each place. */
static void fill(void *to, size_t len, unsigned int seed)
{
	uint8_t *at = to;
	size_t i;

	for (i = 0; i < len; i++)
		at[i] = (uint8_t)(1 + (seed * 37 + i * 11 + i / 23) % 255);
}

static void fill_vm(struct paper *p)
{
	unsigned int i;

	for (i = 0; i < 2; i++) {
		fill(&p->pic[i], sizeof(p->pic[i]), 1 + i);
		p->pic[i].priority_add = (uint8_t)(5 + i);
		p->pic[i].init_state = (uint8_t)(2 + i);
	}
	fill(&p->ioapic, sizeof(p->ioapic), 3);
	p->ioapic.base_address = BOARD_IOAPIC_BASE;
	p->ioapic.pad = 0;
	fill(&p->pit, sizeof(p->pit), 4);
	for (i = 0; i < 3; i++) {
		p->pit.channels[i].count = i ? 0x1234 + i : 0x10000;
		p->pit.channels[i].count_load_time = 0;
	}
	p->pit.flags = KVM_PIT_FLAGS_HPET_LEGACY | KVM_PIT_FLAGS_SPEAKER_DATA_ON;
	memset(p->pit.reserved, 0, sizeof(p->pit.reserved));
	p->clock = 0x0123456789abcdef;
}

static struct kvm_segment segment(unsigned int i)
{
	struct kvm_segment s = {
		.base = 0xffff800000000000 + i * 0x1001001,
		.limit = 0x12340000 + i,
		.selector = (uint16_t)(0x1008 + 8 * i),
		.type = (uint8_t)(1 + i),
		.s = i & 1,
		.dpl = (uint8_t)(i % 4),
		.present = i >> 1 & 1,
		.avl = i >> 2 & 1,
		.l = !(i & 1),
		.db = !(i >> 1 & 1),
		.g = !(i >> 2 & 1),
		.unusable = i == 3,
	};

	return s;
}

static void fill_sregs(struct kvm_sregs2 *s)
{
	struct kvm_segment *list[] = { &s->cs, &s->ds, &s->es, &s->fs,
				       &s->gs, &s->ss, &s->tr, &s->ldt };
	unsigned int i;

	for (i = 0; i < N(list); i++)
		*list[i] = segment(i);
	s->gdt = (struct kvm_dtable){ .base = 0xfffffe0000001000, .limit = 0x7f };
	s->idt = (struct kvm_dtable){ .base = 0xfffffe0000002000, .limit = 0xfff };
	s->cr0 = 0x80050033;
	s->cr2 = 0x7f0000001234;
	s->cr3 = 0x5000;
	s->cr4 = 0x6f8;
	s->cr8 = 9;
	s->efer = 0x801;
	s->apic_base = 0xfee00800;
	s->flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
	for (i = 0; i < 4; i++)
		s->pdptrs[i] = 0x100001 + i * 0x1000;
}

static void fill_events(struct kvm_vcpu_events *e)
{
	e->exception.injected = e->exception.has_error_code = e->exception.pending = 1;
	e->exception.nr = 14;
	e->exception.error_code = 0x12345678;
	e->exception_has_payload = 1;
	e->exception_payload = 0x123456789abcdef0;
	e->interrupt.injected = e->interrupt.soft = 1;
	e->interrupt.nr = 0xec;
	e->interrupt.shadow = 3;
	e->nmi.injected = e->nmi.masked = 1;
	e->nmi.pending = 2;
	e->sipi_vector = 0x9a;
	e->flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |
		   KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM |
		   KVM_VCPUEVENT_VALID_PAYLOAD | KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	e->smi.smm = e->smi.pending = e->smi.smm_inside_nmi = e->smi.latched_init = 1;
	e->triple_fault.pending = 1;
}

static void fill_msrs(struct vm *vm)
{
	const struct msr_table *list = msr_list(vm);
	struct paper *p = &vm->paper;
	uint32_t i;

	for (i = 0; i < list->nmsrs; i++)
		if (has_msr(list->entries[i].index))
			p->msr[p->msrs++] = (struct kvm_msr_entry){
				.index = list->entries[i].index,
				.data = 0x1122334400000000 +
					list->entries[i].index * UINT64_C(0x10001),
			};
}

static void fill_nested(struct paper *p, unsigned int format)
{
	struct kvm_nested_state *head = &p->nested.head;

	fill(p->nested.data, sizeof(p->nested.data), 5);
	memset(head, 0, sizeof(*head));
	head->size = sizeof(p->nested);
	head->format = (uint16_t)format;
	if (format == KVM_STATE_NESTED_FORMAT_SVM) {
		head->flags = KVM_STATE_NESTED_GIF_SET | KVM_STATE_NESTED_GUEST_MODE;
		head->hdr.svm.vmcb_pa = 0x9000;
		return;
	}
	head->flags = KVM_STATE_NESTED_RUN_PENDING;
	head->hdr.vmx.vmxon_pa = 0x7000;
	head->hdr.vmx.vmcs12_pa = 0x8000;
	head->hdr.vmx.smm.flags = KVM_STATE_NESTED_SMM_VMXON;
	head->hdr.vmx.flags = KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE;
	head->hdr.vmx.preemption_timer_deadline = 0x0fedcba987654321;
}

static void fill_vcpu(struct vm *vm, unsigned int nested)
{
	struct paper *p = &vm->paper;
	unsigned int i;

	fill(&p->regs, sizeof(p->regs), 6);
	fill_sregs(&p->sregs);
	fill(p->debug.db, sizeof(p->debug.db), 7);
	p->debug.dr6 = 0xffff0ff0;
	p->debug.dr7 = 0x403;
	fill(&p->lapic, sizeof(p->lapic), 8);
	p->mp.mp_state = KVM_MP_STATE_HALTED;
	fill_events(&p->events);
	p->xcrs.nr_xcrs = 2;
	for (i = 0; i < 2; i++)
		p->xcrs.xcrs[i] = (struct kvm_xcr){ .xcr = i + 3, .value = 7 + i };
	fill(p->xsave, sizeof(p->xsave), 9);
	fill_nested(p, nested);
	p->cpuid = asked.cpuid;
	fill_msrs(vm);
	p->tsc_khz = TSC_KHZ;
}

/* ---- tests ---- */

static struct vm *vm_make(void)
{
	const struct memory_range range = { .base = GPA(0), .len_bytes = RAM_BYTES };
	struct vm *vm = calloc(1, sizeof(*vm));
	struct err err = { 0 };

	assert_non_null(vm);
	assert_int_equal(memory_new(&vm->mem, &range, 1, &err), 0);
	vm->paper.tsc_khz = 1000;
	vm->paper.nested.head.size = sizeof(vm->paper.nested);
	vm->paper.nested.head.hdr.vmx.vmxon_pa = vm->paper.nested.head.hdr.vmx.vmcs12_pa = ~0ull;
	the_vm = vm;
	return vm;
}

static void vm_unmake(struct vm *vm)
{
	memory_shut(vm->mem);
	memory_free(vm->mem);
	free(vm);
}

#define assert_same(a, b, field)                                          \
	do {                                                              \
		if (memcmp(&(a)->field, &(b)->field, sizeof((a)->field))) \
			fail_msg("%s is not what it was", #field);        \
	} while (0)

static struct buf vm_reload(void *arg, uint32_t version, const uint8_t *data, size_t len)
{
	struct vm *vm = vm_make();
	struct buf buf = { 0 };
	struct err err = { 0 };

	(void)version; /* stands in the state */
	if (arch_vm_load(vm, data, len, &err) || arch_vm_save(vm, &buf, &err))
		fail_msg("%s", err.text);
	*(struct paper *)arg = vm->paper;
	vm_unmake(vm);
	return buf;
}

static void a_vm(void **state)
{
	struct vm *vm = vm_make();
	struct paper *got = calloc(1, sizeof(*got));
	struct buf buf = { 0 };
	struct err err = { 0 };

	(void)state;
	fill_vm(&vm->paper);
	assert_int_equal(arch_vm_save(vm, &buf, &err), 0);
	golden_saved(&buf, "arch/x86-vm", VM_STATE_VERSION);
	golden_loads("arch/x86-vm", VM_STATE_VERSION, vm_reload, got);
	assert_same(got, &vm->paper, pic);
	assert_same(got, &vm->paper, ioapic);
	assert_same(got, &vm->paper, pit);
	assert_same(got, &vm->paper, clock);
	buf_fini(&buf);
	free(got);
	vm_unmake(vm);
}

static struct buf vcpu_reload(void *arg, uint32_t version, const uint8_t *data, size_t len)
{
	struct vm *vm = vm_make();
	struct vcpu_parked vcpu = { vm };
	struct buf buf = { 0 };
	struct err err = { 0 };

	(void)version;
	if (arch_vcpu_load(&vcpu, data, len, &err) || arch_vcpu_save(&vcpu, &buf, &err))
		fail_msg("%s", err.text);
	*(struct paper *)arg = vm->paper;
	vm_unmake(vm);
	return buf;
}

static void msrs_are_same(const struct paper *a, const struct paper *b)
{
	unsigned int i, k;

	assert_int_equal(a->msrs, b->msrs);
	for (i = 0; i < a->msrs; i++) {
		for (k = 0; k < b->msrs && b->msr[k].index != a->msr[i].index; k++)
			;
		if (k == b->msrs || b->msr[k].data != a->msr[i].data)
			fail_msg("MSR 0x%x is not what it was", a->msr[i].index);
	}
}

static void check_vcpu(unsigned int nested, const char *name)
{
	struct vm *vm = vm_make();
	struct vcpu_parked vcpu = { vm };
	struct paper *got = calloc(1, sizeof(*got));
	struct buf buf = { 0 };
	struct err err = { 0 };

	fill_vcpu(vm, nested);
	if (arch_vcpu_save(&vcpu, &buf, &err))
		fail_msg("%s", err.text);
	golden_saved(&buf, name, VCPU_STATE_VERSION);
	golden_loads(name, VCPU_STATE_VERSION, vcpu_reload, got);
#define SAME(get, set, field) assert_same(got, &vm->paper, field);
	HELD(SAME)
#undef SAME
	assert_same(got, &vm->paper, nested);
	assert_same(got, &vm->paper, cpuid);
	assert_same(got, &vm->paper, tsc_khz);
	msrs_are_same(got, &vm->paper);
	buf_fini(&buf);
	free(got);
	vm_unmake(vm);
}

static void a_vcpu(void **state)
{
	(void)state;
	check_vcpu(KVM_STATE_NESTED_FORMAT_VMX, "arch/x86-vcpu");
	check_vcpu(KVM_STATE_NESTED_FORMAT_SVM, "arch/x86-vcpu+svm");
}

static uint64_t msr_of(struct vcpu_parked *vcpu, uint32_t index)
{
	uint64_t value = 0;

	assert_int_equal(msr_get(vcpu, index, &value), 0);
	return value;
}

/* Clocks that show how long the guest was away: all by the same, whatever the frequency. */
static void clocks_advance(void **state)
{
	const uint64_t away_ns = UINT64_C(400) * 24 * 3600 * 1000000000 + 1000;
	struct vm *vm = vm_make();
	struct vcpu_parked vcpu = { vm };
	struct err err = { 0 };
	uint64_t tsc, deadline;

	(void)state;
	fill_vcpu(vm, KVM_STATE_NESTED_FORMAT_VMX);
	vm->paper.clock = 123456789;
	assert_int_equal(arch_clock_advance(vm, away_ns, &err), 0);
	assert_int_equal(vm->paper.clock, 123456789 + away_ns);
	tsc = msr_of(&vcpu, MSR_TSC);
	deadline = msr_of(&vcpu, MSR_TSC_DEADLINE);
	assert_int_equal(arch_vcpu_clock_advance(&vcpu, away_ns, &err), 0);
	assert_int_equal(msr_of(&vcpu, MSR_TSC) - tsc,
			 UINT64_C(400) * 24 * 3600 * 1000 * TSC_KHZ + TSC_KHZ / 1000);
	assert_int_equal(msr_of(&vcpu, MSR_TSC_DEADLINE), deadline);
	vm_unmake(vm);
}

/* A CPU with VMX, and a leaf with an index. */
static void cpu_make(void)
{
	const struct kvm_cpuid_entry2 entries[] = {
		{ .function = 0,
		  .eax = 0xd,
		  .ebx = 0x756e6547,
		  .ecx = 0x6c65746e,
		  .edx = 0x49656e69 },
		{ .function = 1,
		  .eax = 0x906ea,
		  .ebx = 0x1000800,
		  .ecx = 1u << 5 | 1u << 26,
		  .edx = 0x178bfbff },
		{ .function = 4,
		  .index = 1,
		  .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
		  .eax = 0x122,
		  .ebx = 0x1c0003f,
		  .ecx = 0x3f,
		  .edx = 1 },
	};

	asked.cpuid.nent = N(entries);
	memcpy(asked.cpuid.entries, entries, sizeof(entries));
	assert_int_equal(msr_list_ask(-1, &asked.msrs, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_vm),
		cmocka_unit_test(a_vcpu),
		cmocka_unit_test(clocks_advance),
	};

	if (!getenv("POSTERN_GOLDEN")) {
		fprintf(stderr, "POSTERN_GOLDEN is not set: meson sets it\n");
		return 1;
	}
	cpu_make();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
