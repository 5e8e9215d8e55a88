/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The board: ports, interrupt lines and addresses that the firmware tables
 * promise the guest and that device/ implements. Plain constants: dsdt.asl
 * repeats some of them and a unit test compares.
 */
#ifndef POSTERN_ARCH_X86_BOARD_H
#define POSTERN_ARCH_X86_BOARD_H

/*
 * RAM has three places, one after the other: up to 3 GiB, where device windows
 * and the APICs begin; from 4 GiB up to PCI's high window at 32 GiB, and from
 * that window's end at 64 GiB on.
 */
#define BOARD_LOW_RAM_END 0xc0000000ull
#define BOARD_HIGH_RAM_BASE 0x100000000ull
#define BOARD_TOP_RAM_BASE (BOARD_PCI_HIGH_BASE + BOARD_PCI_HIGH_BYTES)

/*
 * PCI: windows for BARs behind the low RAM, and in the high RAM's middle;
 * configuration space (ECAM) of bus 0, the only one, 1 MiB.
 */
#define BOARD_PCI_LOW_BASE BOARD_LOW_RAM_END
#define BOARD_PCI_LOW_BYTES 0x20000000ull
#define BOARD_PCI_HIGH_BASE 0x800000000ull
#define BOARD_PCI_HIGH_BYTES 0x800000000ull
#define BOARD_PCI_ECAM 0xe0000000ull
#define BOARD_PCI_ECAM_BYTES 0x100000ull
#define BOARD_PCI_CONFIG 0xcf8			/* address and data; the reset port lies between them */
#define BOARD_PCI_CONFIG_PORTS 8

#define BOARD_IOAPIC_BASE 0xfec00000u
#define BOARD_LAPIC_BASE 0xfee00000u
/* KVM's own pages (Intel only): below the 4 GiB boundary, clear of RAM and of the APICs. */
#define BOARD_IDENTITY_MAP 0xfeffc000ull
#define BOARD_TSS 0xfeffd000ull

/*
 * What tells the guest which machine it is (device/identity.h): two pages below
 * those of KVM, the second one (vmclock) where QEMU has it. An edge of the line
 * says that they have changed.
 */
#define BOARD_IDENTITY 0xfeffa000ull
#define BOARD_IDENTITY_BYTES 0x2000ull
#define BOARD_IDENTITY_GSI 5

/* ACPI fixed hardware (ACPI 6.5 section 4.8): three register blocks, one after the other. */
#define BOARD_PM_BASE 0x600
#define BOARD_PM1_EVENT BOARD_PM_BASE		/* status (2 bytes), enable (2 bytes) */
#define BOARD_PM1_EVENT_BYTES 4
#define BOARD_PM1_CONTROL (BOARD_PM_BASE + 4)
#define BOARD_PM1_CONTROL_BYTES 2
#define BOARD_PM_TIMER (BOARD_PM_BASE + 8)	/* 32 bits wide, 3.579545 MHz */
#define BOARD_PM_TIMER_BYTES 4
#define BOARD_PM_TIMER_HZ 3579545
#define BOARD_S5_SLP_TYP 5			/* soft off, in PM1 control bits 10 to 12 */
#define BOARD_SCI_GSI 9				/* level, active high */

/* Reset control register as in Intel's chip sets: bit 1 kind of reset, bit 2 do it. */
#define BOARD_RESET_PORT 0xcf9
#define BOARD_RESET_VALUE 0x06
/*
 * The keyboard controller's command port: command 0xfe pulses the reset line;
 * Linux's first resort.
 */
#define BOARD_I8042_COMMAND 0x64
#define BOARD_I8042_RESET 0xfe

#define BOARD_COM1 0x3f8
#define BOARD_COM1_PORTS 8
#define BOARD_COM1_GSI 4

#define BOARD_RTC 0x70			/* index and data */

#endif
