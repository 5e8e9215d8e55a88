// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * CPUID. The guest gets what KVM_GET_SUPPORTED_CPUID says, with the topology
 * made its own (Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E): the
 * topology leaves of the host say where the calling host CPU sits.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "arch/arch.h"
#include "arch/x86/cpuid.h"
#include "arch/x86/host.h"
#include "arch/x86/x86.h"

#define SIGNIFICANT KVM_CPUID_FLAG_SIGNIFCANT_INDEX

_Static_assert(offsetof(struct cpuid_table, entries) == offsetof(struct kvm_cpuid2, entries),
	       "a cpuid_table is a kvm_cpuid2");

struct kvm_cpuid_entry2 *cpuid_find(struct cpuid_table *table, uint32_t function, uint32_t index)
{
	uint32_t i;

	for (i = 0; i < table->nent; i++) {
		struct kvm_cpuid_entry2 *entry = &table->entries[i];

		if (entry->function == function &&
		    (!(entry->flags & SIGNIFICANT) || entry->index == index))
			return entry;
	}
	return NULL;
}

static void cpuid_drop(struct cpuid_table *table, uint32_t function)
{
	uint32_t from, to = 0;

	for (from = 0; from < table->nent; from++)
		if (table->entries[from].function != function)
			table->entries[to++] = table->entries[from];
	table->nent = to;
}

static int cpuid_add(struct cpuid_table *table, struct kvm_cpuid_entry2 entry)
{
	if (table->nent == CPUID_ENTRIES_MAX)
		return -E2BIG;
	table->entries[table->nent++] = entry;
	return 0;
}

/* Bits that hold numbers from 0 to count - 1. */
static uint32_t bits_for(uint32_t count)
{
	return count > 1 ? 32u - (uint32_t)__builtin_clz(count - 1) : 0;
}

static bool vendor_is_amd(struct cpuid_table *table)
{
	struct kvm_cpuid_entry2 *leaf = cpuid_find(table, 0, 0);

	/* "AuthenticAMD", "HygonGenuine" */
	return leaf && (leaf->ebx == 0x68747541 || leaf->ebx == 0x6f677948);
}

static void set_bit(uint32_t *reg, uint32_t bit, bool value)
{
	*reg = value ? *reg | 1u << bit : *reg & ~(1u << bit);
}

static void shape_features(struct cpuid_table *table, uint32_t id, uint32_t cpus, bool tsc_deadline)
{
	struct kvm_cpuid_entry2 *leaf = cpuid_find(table, 1, 0);

	if (leaf) {
		leaf->ebx = (leaf->ebx & 0x0000ffff) | (1u << bits_for(cpus)) << 16 | id << 24;
		set_bit(&leaf->ecx, 15, false);			/* PDCM */
		set_bit(&leaf->ecx, 24, tsc_deadline);
		set_bit(&leaf->ecx, 27, false);			/* OSXSAVE: KVM sets it with CR4 */
		set_bit(&leaf->ecx, 31, true);			/* hypervisor */
		set_bit(&leaf->edx, 28, cpus > 1);		/* HTT: more than one logical CPU */
	}
	leaf = cpuid_find(table, 6, 0);
	if (leaf)
		*leaf = (struct kvm_cpuid_entry2){ .function = 6, .eax = 1u << 2 };	/* ARAT */
	leaf = cpuid_find(table, 0xa, 0);
	if (leaf)
		*leaf = (struct kvm_cpuid_entry2){ .function = 0xa };
	cpuid_drop(table, 0x80000022);
	leaf = cpuid_find(table, 0x80000007, 0);
	if (leaf)
		set_bit(&leaf->edx, 8, false);			/* invariant TSC */
}

/* Leaf 4 of Intel and 0x8000001d of AMD: caches; all cores share the last one. */
static void shape_caches(struct cpuid_table *table, uint32_t cpus)
{
	uint32_t i, shared = (1u << bits_for(cpus)) - 1;
	/* The field for the package's cores has 6 bits; with more of them leaf 0xb tells. */
	uint32_t cores = shared < 0x3f ? shared : 0x3f;

	for (i = 0; i < table->nent; i++) {
		struct kvm_cpuid_entry2 *entry = &table->entries[i];
		uint32_t level = entry->eax >> 5 & 7;

		if ((entry->function != 4 && entry->function != 0x8000001d) || !(entry->eax & 0x1f))
			continue;
		if (entry->function == 4)
			entry->eax = (entry->eax & 0x3fff) | cores << 26;
		else
			entry->eax &= 0x3fff;
		if (level >= 3)
			entry->eax |= shared << 14;
	}
}

static int shape_extended_topology(struct cpuid_table *table, uint32_t function, uint32_t id,
				   uint32_t cpus)
{
	struct kvm_cpuid_entry2 entry = { .function = function, .flags = SIGNIFICANT, .edx = id };
	int result;

	cpuid_drop(table, function);
	entry.ebx = 1;
	entry.ecx = 1u << 8;				/* threads of a core */
	result = cpuid_add(table, entry);
	entry.index = 1;
	entry.eax = bits_for(cpus);
	entry.ebx = cpus;
	entry.ecx = 1u | 2u << 8;			/* cores of the package */
	result = result ? result : cpuid_add(table, entry);
	entry.index = 2;
	entry.eax = entry.ebx = 0;
	entry.ecx = 2;
	return result ? result : cpuid_add(table, entry);
}

static void shape_amd(struct cpuid_table *table, uint32_t id, uint32_t cpus)
{
	struct kvm_cpuid_entry2 *leaf = cpuid_find(table, 0x80000001, 0);

	if (leaf) {
		set_bit(&leaf->ecx, 1, cpus > 1);	/* CmpLegacy */
		set_bit(&leaf->ecx, 23, false);		/* core performance counters */
	}
	leaf = cpuid_find(table, 0x80000008, 0);
	if (leaf)
		leaf->ecx = (cpus - 1) | bits_for(cpus) << 12;
	leaf = cpuid_find(table, 0x8000001e, 0);
	if (leaf) {
		leaf->eax = id;
		leaf->ebx = id;
		leaf->ecx = 0;
		leaf->edx = 0;
	}
}

int cpuid_shape(struct cpuid_table *table, uint32_t id, uint32_t cpus, bool tsc_deadline,
		struct err *err)
{
	struct kvm_cpuid_entry2 *leaf = cpuid_find(table, 0, 0);
	uint32_t top = leaf ? leaf->eax : 0;
	int result = 0;

	shape_features(table, id, cpus, tsc_deadline);
	shape_caches(table, cpus);
	if (vendor_is_amd(table))
		shape_amd(table, id, cpus);
	if (top >= 0xb)
		result = shape_extended_topology(table, 0xb, id, cpus);
	if (!result && top >= 0x1f)
		result = shape_extended_topology(table, 0x1f, id, cpus);
	if (result)
		return err_set(err, result, "CPUID of this host has more than %u entries",
			       CPUID_ENTRIES_MAX);
	return 0;
}

const struct cpuid_table *cpuid_supported(const struct vm *vm)
{
	return &x86_asked(vm)->cpuid;
}

int cpuid_get(struct vcpu_parked *vcpu, struct cpuid_table *table, struct err *err)
{
	int result;

	memset(table, 0, sizeof(*table));
	table->nent = CPUID_ENTRIES_MAX;
	result = parked_ioctl(vcpu, KVM_GET_CPUID2, table, "get CPUID", err);
	return result < 0 ? result : 0;
}

/* Without what KVM changes by itself as the guest changes CR4, XCR0 and the APIC base. */
static struct kvm_cpuid_entry2 at_rest(struct kvm_cpuid_entry2 entry)
{
	memset(entry.padding, 0, sizeof(entry.padding));
	if (entry.function == 1) {
		set_bit(&entry.ecx, 27, false);		/* OSXSAVE */
		set_bit(&entry.ecx, 3, false);		/* MWAIT */
		set_bit(&entry.edx, 9, false);		/* APIC */
	} else if (entry.function == 7 && entry.index == 0) {
		set_bit(&entry.ecx, 4, false);		/* OSPKE */
	} else if (entry.function == 0xd && entry.index <= 1) {
		entry.ebx = 0;				/* size of the enabled state */
	}
	return entry;
}

static bool same(const struct cpuid_table *a, const struct cpuid_table *b)
{
	uint32_t i;

	if (a->nent != b->nent)
		return false;
	for (i = 0; i < a->nent; i++) {
		struct kvm_cpuid_entry2 x = at_rest(a->entries[i]), y = at_rest(b->entries[i]);

		if (memcmp(&x, &y, sizeof(x)))
			return false;
	}
	return true;
}

int cpuid_set(struct vcpu_parked *vcpu, const struct cpuid_table *table, struct err *err)
{
	struct cpuid_table *work = malloc(sizeof(*work));
	int result;

	if (!work)
		return err_set(err, -ENOMEM, "no memory for CPUID");
	result = cpuid_get(vcpu, work, NULL);
	if (result || !same(work, table)) {
		*work = *table;
		result = parked_ioctl(vcpu, KVM_SET_CPUID2, work, "set CPUID", err);
		result = result < 0 ? result : 1;
	}
	free(work);
	return result;
}

bool cpuid_has_nesting(struct cpuid_table *table)
{
	struct kvm_cpuid_entry2 *basic = cpuid_find(table, 1, 0);
	struct kvm_cpuid_entry2 *extended = cpuid_find(table, 0x80000001, 0);

	return (basic && (basic->ecx & 1u << 5)) || (extended && (extended->ecx & 1u << 2));
}

static int check_register(uint32_t function, uint32_t index, const char *name, uint32_t guest,
			  uint32_t host, struct err *err)
{
	uint32_t missing = guest & ~host;

	if (!missing)
		return 0;
	return err_set(err, -ENOTSUP,
		       "the guest uses a CPU feature that this host lacks: CPUID leaf 0x%x.%u %s bit %u", function,
		       index, name, (unsigned int)__builtin_ctz(missing));
}

/* The leaves whose registers are feature bits, and which of them are. */
static const struct features {
	uint32_t function, index, eax, ebx, ecx, edx;
} features[] = {
	/* but x2APIC, TSC deadline, OSXSAVE, hypervisor; but HTT */
	{ 0x1, 0, 0, 0, 0x76dfffff, 0xefffffff },
	{ 0x7, 0, 0, ~0u, ~0x10u, ~0u },
	{ 0x7, 1, ~0u, ~0u, ~0u, ~0u },
	{ 0xd, 0, ~0u, 0, 0, ~0u },
	{ 0xd, 1, ~0u, 0, ~0u, ~0u },
	{ 0x80000001, 0, 0, 0, ~2u, ~0u },
	{ 0x80000008, 0, 0, ~0u, 0, 0 },
	{ 0x40000001, 0, 0x00ffffff, 0, 0, 0 },
};
#define FEATURES (sizeof(features) / sizeof(features[0]))

void cpuid_merge(struct cpuid_table *host, struct cpuid_table *vcpu)
{
	unsigned int i;

	for (i = 0; i < FEATURES; i++) {
		struct kvm_cpuid_entry2 *h =
			cpuid_find(host, features[i].function, features[i].index);
		struct kvm_cpuid_entry2 *v =
			cpuid_find(vcpu, features[i].function, features[i].index);

		if (!h || !v)
			continue;
		h->eax |= v->eax & features[i].eax;
		h->ebx |= v->ebx & features[i].ebx;
		h->ecx |= v->ecx & features[i].ecx;
		h->edx |= v->edx & features[i].edx;
	}
}

int cpuid_check(const struct cpuid_table *guest, struct cpuid_table *host, struct err *err)
{
	struct cpuid_table *copy = malloc(sizeof(*copy));
	unsigned int i;
	int result = 0;

	if (!copy)
		return err_set(err, -ENOMEM, "no memory for CPUID");
	*copy = *guest;
	for (i = 0; i < FEATURES && !result; i++) {
		uint32_t function = features[i].function, index = features[i].index;
		struct kvm_cpuid_entry2 none = { 0 };
		struct kvm_cpuid_entry2 *g = cpuid_find(copy, function, index);
		struct kvm_cpuid_entry2 *h = cpuid_find(host, function, index);

		if (!g)
			continue;
		h = h ? h : &none;
		result = check_register(function, index, "EAX", g->eax & features[i].eax, h->eax,
					err);
		if (!result)
			result = check_register(function, index, "EBX", g->ebx & features[i].ebx,
						h->ebx, err);
		if (!result)
			result = check_register(function, index, "ECX", g->ecx & features[i].ecx,
						h->ecx, err);
		if (!result)
			result = check_register(function, index, "EDX", g->edx & features[i].edx,
						h->edx, err);
	}
	free(copy);
	return result;
}

/* As many banks for machine checks as other VMMs give; without it a guest sees 32. */
static void mce_setup(struct vcpu_parked *vcpu)
{
	uint64_t banks = 10, cap = 0;

	if (ioctl(vm_kvm_fd(parked_vm(vcpu)), KVM_X86_GET_MCE_CAP_SUPPORTED, &cap) < 0)
		return;
	/*
	 * MCG_CTL_P and MCG_SER_P, where KVM has them. A failure leaves KVM's
	 * default, which works too.
	 */
	cap = (cap & (1ull << 8 | 1ull << 24)) | banks;
	parked_ioctl(vcpu, KVM_X86_SETUP_MCE, &cap, "set up machine checks", NULL);
}

int arch_vcpu_create(struct vcpu_parked *vcpu, unsigned int cpus, struct err *err)
{
	struct vm *vm = parked_vm(vcpu);
	struct cpuid_table *table = malloc(sizeof(*table));
	int result;

	if (!table)
		return err_set(err, -ENOMEM, "no memory for CPUID");
	*table = *cpuid_supported(vm);
	result = cpuid_shape(table, parked_index(vcpu), cpus,
			     x86_capability(vm, KVM_CAP_TSC_DEADLINE_TIMER) != 0, err);
	if (!result)
		result = cpuid_set(vcpu, table, err);
	free(table);
	if (result < 0)
		return result;
	mce_setup(vcpu);
	return msr_learn(vcpu, err);
}
