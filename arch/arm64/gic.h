/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The interrupt controller: KVM's GICv3, by its device (Linux:
 * Documentation/virt/kvm/devices/arm-vgic-v3.rst; registers: Arm IHI 0069). No
 * ITS: there are no message signalled interrupts, and the controller keeps
 * nothing in guest memory.
 */
#ifndef POSTERN_ARCH_ARM64_GIC_H
#define POSTERN_ARCH_ARM64_GIC_H

#include "base/err.h"
#include "kvm/vm.h"

/* Before any vCPU; *fd gets the device. An error: no GICv3 on this host. */
int gic_create(struct vm *vm, int *fd, struct err *err);
/* After the last of the `cpus` vCPUs, before any runs. */
int gic_init(int fd, unsigned int cpus, struct err *err);

/*
 * State, as lists of values in an order that gic.c fixes: what the vCPUs share,
 * and each vCPU's own. While no vCPU runs. Values that are loaded may be
 * hostile: KVM judges what it takes; -EPROTO: no register's value.
 */
size_t gic_shared_n(void);
size_t gic_private_n(void);
int gic_shared_save(int fd, uint64_t *values, struct err *err);
int gic_shared_load(int fd, const uint64_t *values, struct err *err);
int gic_private_save(int fd, unsigned int cpu, uint64_t *values, struct err *err);
int gic_private_load(int fd, unsigned int cpu, const uint64_t *values, struct err *err);

#endif
