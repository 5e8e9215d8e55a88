/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The firmware's tables for the guest (ACPI specification 6.5, chapter 5).
 */
#ifndef POSTERN_ARCH_X86_ACPI_H
#define POSTERN_ARCH_X86_ACPI_H

#include "base/buf.h"
#include "base/err.h"
#include "base/types.h"

/* Where guests look for the root pointer when nobody tells them; the tables follow it. */
#define ACPI_GPA 0xe0000ull
#define ACPI_BYTES_MAX 0x20000u

/*
 * Appends to an empty buffer what is to be written at ACPI_GPA: the RSDP and
 * behind it XSDT, FADT, FACS, DSDT, MADT, MCFG. -ENOMEM.
 */
int acpi_build(struct buf *out, unsigned int cpus, struct err *err);

#endif
