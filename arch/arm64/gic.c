// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * One table has every register that makes up the controller's state; saving
 * reads it from top to bottom, loading writes it so. Where a register sets bits
 * and another clears them, a load clears all first. What is level or edge, and
 * the lines' levels, come before what is pending: KVM works out the latch from
 * them.
 */
#include "arch/arm64/gic.h"

#include <errno.h>
#include <sys/ioctl.h>

#include "arch/arm64/arm64.h"
#include "arch/arm64/board.h"

#define IRQS (32u + BOARD_SPIS)
#define NONE 0xffffffffu

/* Distributor; banks of one, two, eight bits an interrupt, and 64 */
#define GICD_CTLR 0x0000u
#define GICD_IGROUPR 0x0080u
#define GICD_ISENABLER 0x0100u
#define GICD_ICENABLER 0x0180u
#define GICD_ISPENDR 0x0200u
#define GICD_ISACTIVER 0x0300u
#define GICD_ICACTIVER 0x0380u
#define GICD_IPRIORITYR 0x0400u
#define GICD_ICFGR 0x0c00u
#define GICD_IROUTER 0x6000u
/* Redistributor: its second frame has the private interrupts, at the distributor's offsets */
#define GICR_PRIVATE 0x10000u

/*
 * A run of registers: `count` of them, 4 bytes apart; `clear`: where all ones
 * are written first, or NONE.
 */
struct bank {
	uint32_t group;
	uint32_t offset;
	uint32_t clear;
	uint32_t count;
};

static const struct bank shared[] = {
	{ KVM_DEV_ARM_VGIC_GRP_DIST_REGS, GICD_CTLR, NONE, 1 },
	{ KVM_DEV_ARM_VGIC_GRP_DIST_REGS, GICD_IGROUPR + 4, NONE, BOARD_SPIS / 32 },
	{ KVM_DEV_ARM_VGIC_GRP_DIST_REGS, GICD_ISENABLER + 4, GICD_ICENABLER + 4, BOARD_SPIS / 32 },
	{ KVM_DEV_ARM_VGIC_GRP_DIST_REGS, GICD_ICFGR + 8, NONE, BOARD_SPIS / 16 },
	{ KVM_DEV_ARM_VGIC_GRP_DIST_REGS, GICD_IPRIORITYR + 32, NONE, BOARD_SPIS / 4 },
	{ KVM_DEV_ARM_VGIC_GRP_DIST_REGS, GICD_IROUTER + 32 * 8, NONE, BOARD_SPIS * 2 },
	{ KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, 32, NONE, BOARD_SPIS / 32 },
	{ KVM_DEV_ARM_VGIC_GRP_DIST_REGS, GICD_ISPENDR + 4, NONE, BOARD_SPIS / 32 },
	{ KVM_DEV_ARM_VGIC_GRP_DIST_REGS, GICD_ISACTIVER + 4, GICD_ICACTIVER + 4, BOARD_SPIS / 32 },
};

static const struct bank private[] = {
	{ KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, GICR_PRIVATE + GICD_IGROUPR, NONE, 1 },
	{ KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, GICR_PRIVATE + GICD_ISENABLER, GICR_PRIVATE + GICD_ICENABLER, 1 },
	{ KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, GICR_PRIVATE + GICD_ICFGR, NONE, 2 },
	{ KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, GICR_PRIVATE + GICD_IPRIORITYR, NONE, 8 },
	{ KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, 0, NONE, 1 },
	{ KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, GICR_PRIVATE + GICD_ISPENDR, NONE, 1 },
	{ KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, GICR_PRIVATE + GICD_ISACTIVER, GICR_PRIVATE + GICD_ICACTIVER, 1 },
};

/*
 * The CPU interface's system registers. How many active priorities registers
 * there are depends on the host: absent reads as zero.
 */
#define ICC(op0, op1, crn, crm, op2) ((op0) << 14 | (op1) << 11 | (crn) << 7 | (crm) << 3 | (op2))
static const struct icc {
	uint16_t reg;
	bool optional;
} icc[] = {
	{ ICC(3, 0, 12, 12, 5), false },	/* ICC_SRE_EL1 */
	{ ICC(3, 0, 12, 12, 4), false },	/* ICC_CTLR_EL1 */
	{ ICC(3, 0, 12, 12, 6), false },	/* ICC_IGRPEN0_EL1 */
	{ ICC(3, 0, 12, 12, 7), false },	/* ICC_IGRPEN1_EL1 */
	{ ICC(3, 0, 4, 6, 0), false },		/* ICC_PMR_EL1 */
	{ ICC(3, 0, 12, 8, 3), false },		/* ICC_BPR0_EL1 */
	{ ICC(3, 0, 12, 12, 3), false },	/* ICC_BPR1_EL1 */
	{ ICC(3, 0, 12, 8, 4), false },		/* ICC_AP0R0_EL1 */
	{ ICC(3, 0, 12, 8, 5), true }, { ICC(3, 0, 12, 8, 6), true }, { ICC(3, 0, 12, 8, 7), true },
	{ ICC(3, 0, 12, 9, 0), false },		/* ICC_AP1R0_EL1 */
	{ ICC(3, 0, 12, 9, 1), true }, { ICC(3, 0, 12, 9, 2), true }, { ICC(3, 0, 12, 9, 3), true },
};

#define N(array) (sizeof(array) / sizeof((array)[0]))

static int attr_access(int fd, unsigned long request, uint32_t group, uint64_t attr,
		       const void *value, struct err *err)
{
	struct kvm_device_attr access = { .group = group, .attr = attr, .addr = (uintptr_t)value };

	if (ioctl(fd, request, &access) >= 0)
		return 0;
	return err_errno(err, -errno, "interrupt controller: %s attribute 0x%llx of group %u",
			 request == KVM_SET_DEVICE_ATTR ? "set" : "get", (unsigned long long)attr,
			 group);
}

int gic_create(struct vm *vm, int *fd, struct err *err)
{
	struct kvm_create_device create = { .type = KVM_DEV_TYPE_ARM_VGIC_V3 };
	uint64_t distributor = BOARD_GIC_DISTRIBUTOR;
	uint32_t irqs = IRQS;
	int r;

	if (ioctl(vm_fd(vm), KVM_CREATE_DEVICE, &create) < 0)
		return err_errno(err, -errno,
				 "KVM: no GICv3, which this host's interrupt controller must be");
	*fd = (int)create.fd;
	r = attr_access(*fd, KVM_SET_DEVICE_ATTR, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &irqs, err);
	if (!r)
		r = attr_access(*fd, KVM_SET_DEVICE_ATTR, KVM_DEV_ARM_VGIC_GRP_ADDR,
				KVM_VGIC_V3_ADDR_TYPE_DIST, &distributor, err);
	return r;
}

int gic_init(int fd, unsigned int cpus, struct err *err)
{
	uint64_t redistributors = board_redistributors(cpus);
	int r;

	r = attr_access(fd, KVM_SET_DEVICE_ATTR, KVM_DEV_ARM_VGIC_GRP_ADDR,
			KVM_VGIC_V3_ADDR_TYPE_REDIST, &redistributors, err);
	if (r < 0)
		return r;
	return attr_access(fd, KVM_SET_DEVICE_ATTR, KVM_DEV_ARM_VGIC_GRP_CTRL,
			   KVM_DEV_ARM_VGIC_CTRL_INIT, NULL, err);
}

/* ---- state ---- */

static size_t banks_n(const struct bank *bank, size_t n)
{
	size_t values = 0, i;

	for (i = 0; i < n; i++)
		values += bank[i].count;
	return values;
}

size_t gic_shared_n(void)
{
	return banks_n(shared, N(shared));
}

size_t gic_private_n(void)
{
	return banks_n(private, N(private)) + N(icc);
}

/* The vCPU in an attribute: its affinity. */
static uint64_t attr_cpu(unsigned int cpu)
{
	_Static_assert(VM_VCPUS_MAX <= 16 * 256, "affinity levels 0 and 1 have the whole number");
	return (uint64_t)board_affinity(cpu) << KVM_DEV_ARM_VGIC_V3_MPIDR_SHIFT;
}

static uint64_t attr_of(const struct bank *bank, uint32_t i, unsigned int cpu)
{
	uint64_t attr = attr_cpu(cpu);

	if (bank->group == KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO)
		return attr | VGIC_LEVEL_INFO_LINE_LEVEL << KVM_DEV_ARM_VGIC_LINE_LEVEL_INFO_SHIFT |
		       (bank->offset + i * 32);
	return attr | (bank->offset + i * 4);
}

static int banks_save(int fd, const struct bank *bank, size_t n, unsigned int cpu, uint64_t *values,
		      struct err *err)
{
	uint32_t i, value;
	int r;

	for (; n; n--, bank++) {
		for (i = 0; i < bank->count; i++) {
			value = 0;
			r = attr_access(fd, KVM_GET_DEVICE_ATTR, bank->group, attr_of(bank, i, cpu),
					&value, err);
			if (r < 0)
				return r;
			*values++ = value;
		}
	}
	return 0;
}

static int bank_clear(int fd, const struct bank *bank, uint32_t i, unsigned int cpu,
		      struct err *err)
{
	struct bank clear = *bank;
	uint32_t ones = ~0u;

	if (bank->clear == NONE)
		return 0;
	clear.offset = bank->clear;
	return attr_access(fd, KVM_SET_DEVICE_ATTR, bank->group, attr_of(&clear, i, cpu), &ones,
			   err);
}

static int banks_load(int fd, const struct bank *bank, size_t n, unsigned int cpu,
		      const uint64_t *values, struct err *err)
{
	uint32_t i, value;
	int r;

	for (; n; n--, bank++) {
		for (i = 0; i < bank->count; i++) {
			if (*values > UINT32_MAX)
				return err_set(
					err, -EPROTO,
					"interrupt controller: a register of 32 bits is 0x%llx",
					(unsigned long long)*values);
			value = (uint32_t)*values++;
			r = bank_clear(fd, bank, i, cpu, err);
			if (!r)
				r = attr_access(fd, KVM_SET_DEVICE_ATTR, bank->group,
						attr_of(bank, i, cpu), &value, err);
			if (r < 0)
				return r;
		}
	}
	return 0;
}

int gic_shared_save(int fd, uint64_t *values, struct err *err)
{
	return banks_save(fd, shared, N(shared), 0, values, err);
}

int gic_shared_load(int fd, const uint64_t *values, struct err *err)
{
	return banks_load(fd, shared, N(shared), 0, values, err);
}

int gic_private_save(int fd, unsigned int cpu, uint64_t *values, struct err *err)
{
	uint64_t attr;
	size_t i;
	int r;

	r = banks_save(fd, private, N(private), cpu, values, err);
	values += banks_n(private, N(private));
	for (i = 0; i < N(icc) && !r; i++) {
		attr = attr_cpu(cpu) | icc[i].reg;
		values[i] = 0;
		r = attr_access(fd, KVM_GET_DEVICE_ATTR, KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, attr,
				&values[i], icc[i].optional ? NULL : err);
		if (icc[i].optional)
			r = 0;
	}
	return r;
}

int gic_private_load(int fd, unsigned int cpu, const uint64_t *values, struct err *err)
{
	uint64_t attr;
	size_t i;
	int r;

	r = banks_load(fd, private, N(private), cpu, values, err);
	values += banks_n(private, N(private));
	for (i = 0; i < N(icc) && !r; i++) {
		if (icc[i].optional && !values[i])
			continue;
		attr = attr_cpu(cpu) | icc[i].reg;
		r = attr_access(fd, KVM_SET_DEVICE_ATTR, KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, attr,
				&values[i], err);
	}
	return r;
}
