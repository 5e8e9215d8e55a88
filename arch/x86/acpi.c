// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A full-hardware ACPI machine without SMI: it is in ACPI mode from the start.
 * Tables are written field by field in the order in which the specification
 * lists them; each is placed as soon as all that it points to is.
 */
#include "arch/x86/acpi.h"

#include <errno.h>
#include <string.h>

#include "arch/x86/board.h"

/* What iasl writes is neither static nor const; both words fit in front of it. */
static const
#include "dsdt.hex"

#define HEADER_BYTES 36u
#define LENGTH_AT 4u
#define CHECKSUM_AT 9u

/* FADT flags (table 5.10) */
#define FADT_WBINVD (1u << 0)
#define FADT_PROC_C1 (1u << 2)
#define FADT_SLP_BUTTON_ABSENT (1u << 5)
#define FADT_FIX_RTC_ABSENT (1u << 6)
#define FADT_TMR_VAL_EXT (1u << 8)
#define FADT_RESET_REG_SUP (1u << 10)
/* IA-PC boot architecture flags (table 5.11): no keyboard controller, and no VGA. */
#define BOOT_VGA_ABSENT (1u << 2)

#define SPACE_IO 1u
#define ACCESS_BYTE 1u
#define ACCESS_WORD 2u
#define ACCESS_DWORD 3u

static void bytes(struct buf *out, const void *data, size_t len)
{
	/* Room was reserved: see acpi_build. */
	memcpy(out->data + out->len, data, len);
	out->len += len;
}

static void zeros(struct buf *out, size_t len)
{
	memset(out->data + out->len, 0, len);
	out->len += len;
}

static void u8(struct buf *out, uint32_t value)
{
	uint8_t byte = (uint8_t)value;

	bytes(out, &byte, sizeof(byte));
}

static void u16(struct buf *out, uint32_t value)
{
	uint16_t word = (uint16_t)value;

	bytes(out, &word, sizeof(word));
}

static void u32(struct buf *out, uint32_t value)
{
	bytes(out, &value, sizeof(value));
}

static void u64(struct buf *out, uint64_t value)
{
	bytes(out, &value, sizeof(value));
}

static void align(struct buf *out, size_t to)
{
	zeros(out, (to - out->len % to) % to);
}

static uint8_t acpi_checksum(const uint8_t *data, size_t len)
{
	uint8_t sum = 0;

	while (len--)
		sum = (uint8_t)(sum + *data++);
	return (uint8_t)-sum;
}

static uint64_t here(const struct buf *out)
{
	return ACPI_GPA + out->len;
}

/* Table header; returns where the table starts. */
static size_t acpi_begin(struct buf *out, const char *signature, uint8_t revision)
{
	size_t at;

	align(out, 16);
	at = out->len;
	bytes(out, signature, 4);
	u32(out, 0);
	u8(out, revision);
	u8(out, 0);
	bytes(out, "POSTRN", 6);
	bytes(out, "POSTERN ", 8);
	u32(out, 1);
	bytes(out, "PSTN", 4);
	u32(out, 1);
	return at;
}

static void end(struct buf *out, size_t at)
{
	uint32_t len = (uint32_t)(out->len - at);

	memcpy(out->data + at + LENGTH_AT, &len, sizeof(len));
	out->data[at + CHECKSUM_AT] = acpi_checksum(out->data + at, len);
}

/* Generic address structure (5.2.3.2). */
static void io_address(struct buf *out, uint32_t port, uint32_t len_bytes, uint32_t access)
{
	u8(out, SPACE_IO);
	u8(out, len_bytes * 8);
	u8(out, 0);
	u8(out, access);
	u64(out, port);
}

static void no_address(struct buf *out)
{
	zeros(out, 12);
}

static uint64_t facs(struct buf *out)
{
	uint64_t at;

	align(out, 64);
	at = here(out);
	bytes(out, "FACS", 4);
	u32(out, 64);
	zeros(out, 24);
	u8(out, 2);
	zeros(out, 31);
	return at;
}

static uint64_t dsdt(struct buf *out)
{
	uint64_t at;

	align(out, 16);
	at = here(out);
	bytes(out, dsdt_aml_code, sizeof(dsdt_aml_code));
	return at;
}

/* 5.2.9 */
static uint64_t fadt(struct buf *out, uint64_t facs_at, uint64_t dsdt_at)
{
	size_t at = acpi_begin(out, "FACP", 6);

	u32(out, (uint32_t)facs_at);
	u32(out, (uint32_t)dsdt_at);
	u8(out, 0);
	u8(out, 0);				/* preferred profile: unspecified */
	u16(out, BOARD_SCI_GSI);
	u32(out, 0);				/* no SMI command port */
	zeros(out, 4);				/* ACPI enable, disable, S4BIOS, P-state control */
	u32(out, BOARD_PM1_EVENT);
	u32(out, 0);
	u32(out, BOARD_PM1_CONTROL);
	u32(out, 0);
	u32(out, 0);				/* PM2 control */
	u32(out, BOARD_PM_TIMER);
	u32(out, 0);				/* GPE0, GPE1 */
	u32(out, 0);
	u8(out, BOARD_PM1_EVENT_BYTES);
	u8(out, BOARD_PM1_CONTROL_BYTES);
	u8(out, 0);
	u8(out, BOARD_PM_TIMER_BYTES);
	zeros(out, 4);				/* GPE0, GPE1 lengths, GPE1 base, C-state control */
	u16(out, 0xfff);			/* C2 and C3 latency: not there */
	u16(out, 0xfff);
	zeros(out, 8);				/* flush size and stride, duty offset and width, day and month alarm */
	u8(out, 0);				/* century: not kept */
	u16(out, BOOT_VGA_ABSENT);
	u8(out, 0);
	u32(out, FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON_ABSENT | FADT_FIX_RTC_ABSENT |
		 FADT_TMR_VAL_EXT | FADT_RESET_REG_SUP);
	io_address(out, BOARD_RESET_PORT, 1, ACCESS_BYTE);
	u8(out, BOARD_RESET_VALUE);
	u16(out, 0);
	u8(out, 0);				/* minor version */
	u64(out, 0);				/* FACS: given above; both would be an error */
	u64(out, dsdt_at);
	io_address(out, BOARD_PM1_EVENT, BOARD_PM1_EVENT_BYTES, ACCESS_WORD);
	no_address(out);
	io_address(out, BOARD_PM1_CONTROL, BOARD_PM1_CONTROL_BYTES, ACCESS_WORD);
	no_address(out);
	no_address(out);
	io_address(out, BOARD_PM_TIMER, BOARD_PM_TIMER_BYTES, ACCESS_DWORD);
	no_address(out);
	no_address(out);
	no_address(out);			/* sleep control and status */
	no_address(out);
	bytes(out, "POSTERN", 8);
	end(out, at);
	return ACPI_GPA + at;
}

/* 5.2.12 */
static uint64_t madt(struct buf *out, unsigned int cpus)
{
	size_t at = acpi_begin(out, "APIC", 5);
	unsigned int i;

	u32(out, BOARD_LAPIC_BASE);
	u32(out, 1);				/* there are 8259s */
	for (i = 0; i < cpus; i++) {
		u8(out, 0);			/* local APIC */
		u8(out, 8);
		u8(out, i);
		u8(out, i);
		u32(out, 1);			/* enabled */
	}
	u8(out, 1);				/* I/O APIC */
	u8(out, 12);
	u8(out, 0);
	u8(out, 0);
	u32(out, BOARD_IOAPIC_BASE);
	u32(out, 0);
	u8(out, 2);				/* override: the timer's line 0 is pin 2 */
	u8(out, 10);
	u8(out, 0);
	u8(out, 0);
	u32(out, 2);
	u16(out, 0);
	u8(out, 2);				/* override: the SCI is active high, level */
	u8(out, 10);
	u8(out, 0);
	u8(out, BOARD_SCI_GSI);
	u32(out, BOARD_SCI_GSI);
	u16(out, 0xd);
	u8(out, 4);				/* NMI: LINT1 of all */
	u8(out, 6);
	u8(out, 0xff);
	u16(out, 0);
	u8(out, 1);
	end(out, at);
	return ACPI_GPA + at;
}

/* PCI Firmware Specification 3.0, section 4.1.2 */
static uint64_t mcfg(struct buf *out)
{
	size_t at = acpi_begin(out, "MCFG", 1);

	zeros(out, 8);
	u64(out, BOARD_PCI_ECAM);
	u16(out, 0);				/* segment */
	u8(out, 0);				/* buses: from, to */
	u8(out, 0);
	u32(out, 0);
	end(out, at);
	return ACPI_GPA + at;
}

static uint64_t xsdt(struct buf *out, uint64_t fadt_at, uint64_t madt_at, uint64_t mcfg_at)
{
	size_t at = acpi_begin(out, "XSDT", 1);

	u64(out, fadt_at);
	u64(out, madt_at);
	u64(out, mcfg_at);
	end(out, at);
	return ACPI_GPA + at;
}

/* 5.2.5.3 */
static void rsdp(uint8_t *to, uint64_t xsdt_at)
{
	uint32_t len = 36;

	memcpy(to, "RSD PTR ", 8);
	memcpy(to + 9, "POSTRN", 6);
	to[15] = 2;
	memcpy(to + 20, &len, sizeof(len));
	memcpy(to + 24, &xsdt_at, sizeof(xsdt_at));
	to[8] = acpi_checksum(to, 20);
	to[32] = acpi_checksum(to, 36);
}

int acpi_build(struct buf *out, unsigned int cpus, struct err *err)
{
	uint64_t facs_at, dsdt_at, fadt_at, madt_at, mcfg_at;

	_Static_assert(sizeof(dsdt_aml_code) < ACPI_BYTES_MAX / 2, "the tables have room");
	if (!buf_reserve(out, ACPI_BYTES_MAX))
		return err_set(err, -ENOMEM, "no memory for ACPI tables");
	zeros(out, HEADER_BYTES);
	facs_at = facs(out);
	dsdt_at = dsdt(out);
	fadt_at = fadt(out, facs_at, dsdt_at);
	madt_at = madt(out, cpus);
	mcfg_at = mcfg(out);
	rsdp(out->data, xsdt(out, fadt_at, madt_at, mcfg_at));
	return 0;
}
