/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The machine's map: what the device tree tells the guest, KVM is set up with,
 * and device/ implements.
 */
#ifndef POSTERN_ARCH_ARM64_BOARD_H
#define POSTERN_ARCH_ARM64_BOARD_H

#include <stdint.h>

#define BOARD_GIC_DISTRIBUTOR 0x08000000ull
#define BOARD_GIC_DISTRIBUTOR_BYTES 0x10000ull
#define BOARD_GIC_REDISTRIBUTORS 0x080a0000ull		/* of up to 16 vCPUs */
#define BOARD_GIC_REDISTRIBUTORS_MANY 0x10000000ull	/* of more, which end below RAM */
#define BOARD_GIC_REDISTRIBUTOR_BYTES 0x20000ull	/* for each vCPU */

#define BOARD_SERIAL 0x09000000ull
#define BOARD_SERIAL_BYTES 8
#define BOARD_SERIAL_HZ 1843200

/* What tells the guest which machine it is (device/identity.h). */
#define BOARD_IDENTITY 0x09010000ull
#define BOARD_IDENTITY_BYTES 0x2000ull

#define BOARD_RAM_BASE 0x40000000ull

/* Shared peripheral interrupts, counted from 0; the GIC's number is 32 more. */
#define BOARD_SPIS 96
#define BOARD_SERIAL_SPI 1
#define BOARD_IDENTITY_SPI 2		/* edge */

/*
 * A shared interrupt as vm_irq_line takes it (KVM_IRQ_LINE: type in bits 24 on,
 * number in the low 16).
 */
#define BOARD_IRQ_LINE(spi) (1u << 24 | (32u + (spi)))

static inline uint64_t board_redistributors(unsigned int cpus)
{
	return cpus <= 16 ? BOARD_GIC_REDISTRIBUTORS : BOARD_GIC_REDISTRIBUTORS_MANY;
}

/* A vCPU's affinity as KVM gives it out: 16 in each cluster, which is affinity level 1. */
static inline uint32_t board_affinity(unsigned int cpu)
{
	return (cpu & 15) | cpu >> 4 << 8;
}

#endif
