// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "common.h"

#include "arch/x86/acpi.h"
#include "arch/x86/board.h"

static struct buf image;

static int build(void **state)
{
	(void)state;
	return acpi_build(&image, 3, NULL);
}

static int drop(void **state)
{
	(void)state;
	buf_fini(&image);
	return 0;
}

static uint8_t sum(const uint8_t *data, size_t len)
{
	uint8_t s = 0;

	while (len--)
		s = (uint8_t)(s + *data++);
	return s;
}

/* A table by its guest address, its length and checksum checked. */
static const uint8_t *table(uint64_t gpa, const char *signature)
{
	const uint8_t *at;

	assert_in_range(gpa, ACPI_GPA, ACPI_GPA + image.len - 36);
	at = image.data + (gpa - ACPI_GPA);
	assert_memory_equal(at, signature, 4);
	assert_in_range(get32(at + 4), 36, image.len - (gpa - ACPI_GPA));
	if (strcmp(signature, "FACS"))
		assert_int_equal(sum(at, get32(at + 4)), 0);
	return at;
}

static const uint8_t *root(void)
{
	assert_memory_equal(image.data, "RSD PTR ", 8);
	assert_int_equal(sum(image.data, 20), 0);
	assert_int_equal(sum(image.data, 36), 0);
	return table(get64(image.data + 24), "XSDT");
}

static void test_fadt(void **state)
{
	const uint8_t *xsdt = root(), *fadt, *facs;

	(void)state;
	assert_int_equal(get32(xsdt + 4), 36 + 3 * 8);
	fadt = table(get64(xsdt + 36), "FACP");
	/*
	 * ACPI 6.0's length; a shorter or longer table means that a field is
	 * missing or too many.
	 */
	assert_int_equal(get32(fadt + 4), 276);
	assert_int_equal(fadt[46], BOARD_SCI_GSI);
	assert_int_equal(get32(fadt + 56), BOARD_PM1_EVENT);
	assert_int_equal(get32(fadt + 64), BOARD_PM1_CONTROL);
	assert_int_equal(get32(fadt + 76), BOARD_PM_TIMER);
	assert_int_equal(fadt[88], 4);
	assert_int_equal(fadt[89], 2);
	assert_int_equal(fadt[91], 4);
	/*
	 * A fixed power button: bit 4 clear; reset register: bit 10. Not
	 * hardware-reduced: bit 20.
	 */
	assert_int_equal(get32(fadt + 112) & (1u << 4 | 1u << 10 | 1u << 20), 1u << 10);
	assert_int_equal(get64(fadt + 120), BOARD_RESET_PORT);
	assert_int_equal(fadt[128], BOARD_RESET_VALUE);
	assert_int_equal(get64(fadt + 140), get32(fadt + 40));
	assert_int_equal(get64(fadt + 152), BOARD_PM1_EVENT);
	assert_int_equal(get64(fadt + 176), BOARD_PM1_CONTROL);
	assert_int_equal(get64(fadt + 212), BOARD_PM_TIMER);
	facs = table(get32(fadt + 36), "FACS");
	assert_int_equal(get32(facs + 4), 64);
	assert_int_equal((get32(fadt + 36)) % 64, 0);
}

/* The numbers in dsdt.asl are those of board.h: looked for as the bytes that AML has for them. */
static void test_dsdt(void **state)
{
	const uint8_t s5[] = { '_', 'S', '5', '_', 0x12, 0x08, 0x04, 0x0a, BOARD_S5_SLP_TYP };
	const uint8_t com1[] = { 0x47,
				 1,
				 BOARD_COM1 & 0xff,
				 BOARD_COM1 >> 8,
				 BOARD_COM1 & 0xff,
				 BOARD_COM1 >> 8,
				 1,
				 BOARD_COM1_PORTS,
				 0x22,
				 1 << BOARD_COM1_GSI,
				 0 };
	const uint8_t rtc[] = { 0x47, 1, BOARD_RTC, 0, BOARD_RTC, 0, 1, 2 };
	const uint8_t *xsdt = root(),
		      *dsdt = table(get32(table(get64(xsdt + 36), "FACP") + 40), "DSDT");
	size_t len = get32(dsdt + 4);

	(void)state;
	assert_non_null(memmem(dsdt, len, s5, sizeof(s5)));
	assert_non_null(memmem(dsdt, len, com1, sizeof(com1)));
	assert_non_null(memmem(dsdt, len, rtc, sizeof(rtc)));
}

/*
 * The windows in the DSDT are those of board.h, clear of RAM; so is ECAM, in
 * the DSDT and in the MCFG.
 */
static void test_pci(void **state)
{
	const uint8_t *xsdt = root(),
		      *dsdt = table(get32(table(get64(xsdt + 36), "FACP") + 40), "DSDT");
	const uint8_t *mcfg = table(get64(xsdt + 52), "MCFG");
	/* Resource descriptors: granularity, first, last, translation, length; base, length. */
	const uint32_t low[] = { 0, (uint32_t)BOARD_PCI_LOW_BASE,
				 (uint32_t)(BOARD_PCI_LOW_BASE + BOARD_PCI_LOW_BYTES - 1), 0,
				 (uint32_t)BOARD_PCI_LOW_BYTES };
	const uint64_t high[] = { 0, BOARD_PCI_HIGH_BASE,
				  BOARD_PCI_HIGH_BASE + BOARD_PCI_HIGH_BYTES - 1, 0,
				  BOARD_PCI_HIGH_BYTES };
	const uint32_t ecam[] = { (uint32_t)BOARD_PCI_ECAM, (uint32_t)BOARD_PCI_ECAM_BYTES };
	size_t len = get32(dsdt + 4);

	(void)state;
	assert_non_null(memmem(dsdt, len, low, sizeof(low)));
	assert_non_null(memmem(dsdt, len, high, sizeof(high)));
	assert_non_null(memmem(dsdt, len, ecam, sizeof(ecam)));
	assert_int_equal(get32(mcfg + 4), 60);
	assert_int_equal(get64(mcfg + 44), BOARD_PCI_ECAM);
	assert_int_equal(get64(mcfg + 52), 0);
	assert_true(BOARD_PCI_LOW_BASE >= BOARD_LOW_RAM_END);
	assert_true(BOARD_PCI_LOW_BASE + BOARD_PCI_LOW_BYTES <= BOARD_PCI_ECAM);
	assert_true(BOARD_PCI_ECAM + BOARD_PCI_ECAM_BYTES <= BOARD_IOAPIC_BASE);
	assert_true(BOARD_HIGH_RAM_BASE < BOARD_PCI_HIGH_BASE);
	assert_true(BOARD_PCI_HIGH_BASE + BOARD_PCI_HIGH_BYTES <= BOARD_TOP_RAM_BASE);
}

/* So are the pages and the line that tell which machine it is, clear of what KVM has there. */
static void test_identity(void **state)
{
	const uint8_t *xsdt = root(),
		      *dsdt = table(get32(table(get64(xsdt + 36), "FACP") + 40), "DSDT");
	const uint64_t clock = BOARD_IDENTITY + PAGE_BYTES;
	const uint64_t page[] = { 0, clock, clock + PAGE_BYTES - 1, 0, PAGE_BYTES };
	/* A package of two numbers: a double word, zero. */
	uint8_t addr[] = { 'A', 'D', 'D', 'R', 0x12, 0x08, 0x02, 0x0c, 0, 0, 0, 0, 0x00 };
	/* Extended interrupt: consumer, edge, active high, exclusive; one of them. */
	const uint8_t line[] = { 0x89, 6, 0, 0x03, 1, BOARD_IDENTITY_GSI, 0, 0, 0 };
	const uint32_t low = (uint32_t)BOARD_IDENTITY;
	size_t len = get32(dsdt + 4);

	(void)state;
	memcpy(addr + 8, &low, sizeof(low));
	assert_non_null(memmem(dsdt, len, addr, sizeof(addr)));
	assert_non_null(memmem(dsdt, len, page, sizeof(page)));
	assert_non_null(memmem(dsdt, len, line, sizeof(line)));
	assert_non_null(memmem(dsdt, len, "VM_Gen_Counter", 15));
	assert_int_equal(BOARD_IDENTITY + BOARD_IDENTITY_BYTES, BOARD_IDENTITY_MAP);
	assert_true(BOARD_IDENTITY_GSI != BOARD_SCI_GSI && BOARD_IDENTITY_GSI != BOARD_COM1_GSI);
}

static void test_madt(void **state)
{
	const uint8_t *madt = table(get64(root() + 44), "APIC");
	size_t at = 44, len = get32(madt + 4);
	unsigned int cpus = 0, ioapics = 0, overrides = 0;

	(void)state;
	assert_int_equal(get32(madt + 36), BOARD_LAPIC_BASE);
	for (; at < len; at += madt[at + 1]) {
		assert_in_range(madt[at + 1], 6, len - at);
		if (madt[at] == 0) {
			assert_int_equal(madt[at + 3], cpus);
			assert_int_equal(get32(madt + at + 4), 1);
			cpus++;
		} else if (madt[at] == 1) {
			assert_int_equal(get32(madt + at + 4), BOARD_IOAPIC_BASE);
			ioapics++;
		} else if (madt[at] == 2) {
			overrides++;
		}
	}
	assert_int_equal(at, len);
	assert_int_equal(cpus, 3);
	assert_int_equal(ioapics, 1);
	assert_int_equal(overrides, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fadt),
		cmocka_unit_test(test_dsdt),
		cmocka_unit_test(test_pci),
		cmocka_unit_test(test_identity),
		cmocka_unit_test(test_madt),
	};

	return cmocka_run_group_tests(tests, build, drop);
}
