// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include <linux/pci_regs.h>
#include <stdlib.h>

#include "device/pci/host.h"
#include "fixture.h"
#include "msi.h"

#define LOW UINT64_C(0xc0000000)
#define HIGH UINT64_C(0x800000000)
#define BAR_BYTES 0x4000
#define VECTORS 3
#define TABLE 0x1000
#define PENDING 0x2000

/* A bridge with one function in slot 1, which remembers. */
struct box {
	struct pci_host *host;
	struct pci_function fn;
	struct fake_msi msi;
	unsigned int moves;
	bool mapped;
	uint64_t base, offset;
	uint8_t byte;
	unsigned int accesses;
};

static void on_bar(void *arg, unsigned int bar, uint64_t offset, bool write, uint8_t *data,
		   unsigned int size)
{
	struct box *b = arg;

	assert_int_equal(bar, 0);
	assert_true(offset + size <= BAR_BYTES);
	b->accesses++;
	b->offset = offset;
	if (write)
		b->byte = data[0];
	else
		data[0] = b->byte;
}

static void on_moved(void *arg, unsigned int bar, bool mapped, uint64_t base)
{
	struct box *b = arg;

	assert_int_equal(bar, 0);
	b->moves++;
	b->mapped = mapped;
	b->base = base;
}

static const struct pci_function_ops ops = { .bar = on_bar, .moved = on_moved };

static struct box *box_new(void)
{
	const struct pci_range windows[PCI_WINDOWS] = { { LOW, 0x100000 }, { HIGH, 0x100000 } };
	const struct pci_ids ids = { .vendor = 0x1af4,
				     .device = 0x1044,
				     .class_code = 0x00ff00,
				     .revision = 1 };
	struct box *b = calloc(1, sizeof(*b));
	struct msi msi = { &fake_msi_ops, &b->msi };
	unsigned int slot;
	struct err err;

	assert_int_equal(pci_host_new(&b->host, windows, &err), 0);
	pci_function_init(&b->fn, "test", &ids, &ops, b);
	pci_function_add_bar(&b->fn, 0, BAR_BYTES);
	assert_int_equal(pci_function_add_msix(&b->fn, &msi, VECTORS, 0, TABLE, PENDING, &err), 0);
	assert_int_equal(pci_host_add(b->host, &b->fn, &slot, &err), 0);
	assert_int_equal(slot, 1);
	return b;
}

static void box_free(struct box *b)
{
	pci_function_fini(&b->fn);
	assert_int_equal(b->msi.open, 0);
	pci_host_free(b->host);
	free(b);
}

static int setup(void **state)
{
	*state = box_new();
	return 0;
}

static int teardown(void **state)
{
	box_free(*state);
	return 0;
}

static uint32_t config(struct box *b, unsigned int slot, unsigned int at, unsigned int size)
{
	uint32_t value = 0;

	pci_host_ecam_access(b->host, slot << 15 | at, false, (uint8_t *)&value, size);
	return value;
}

static void set(struct box *b, unsigned int at, uint32_t value, unsigned int size)
{
	pci_host_ecam_access(b->host, 1 << 15 | at, true, (uint8_t *)&value, size);
}

static uint32_t memory(struct box *b, uint64_t gpa)
{
	uint32_t value = 0;

	pci_host_window_access(pci_host_window(b->host, gpa >= HIGH),
			       gpa - (gpa >= HIGH ? HIGH : LOW), false, (uint8_t *)&value, 4);
	return value;
}

static void set_memory(struct box *b, uint64_t gpa, uint32_t value)
{
	pci_host_window_access(pci_host_window(b->host, gpa >= HIGH),
			       gpa - (gpa >= HIGH ? HIGH : LOW), true, (uint8_t *)&value, 4);
}

static void enable(struct box *b)
{
	set(b, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
}

static void both_ways_lead_to_configuration_space(void **state)
{
	struct box *b = *state;
	uint32_t address = 0x80000000 | 1 << 11, value = 0;

	assert_int_equal(config(b, 0, 0, 4), 0x00081b36);
	assert_int_equal(config(b, 0, PCI_CLASS_DEVICE, 2), 0x0600);
	assert_int_equal(config(b, 1, 0, 4), 0x10441af4);
	assert_int_equal(config(b, 2, 0, 4), UINT32_MAX);
	/* Another function of the slot, the extended space, over the end. */
	assert_int_equal(config(b, 1, 1 << 12, 4), UINT32_MAX);
	assert_int_equal(config(b, 1, 0x100, 4), UINT32_MAX);
	assert_int_equal(config(b, 1, 0xfe, 4), UINT32_MAX);
	pci_host_port_access(b->host, 0, true, (uint8_t *)&address, 4);
	pci_host_port_access(b->host, 0, false, (uint8_t *)&value, 4);
	assert_int_equal(value, address);
	pci_host_port_access(b->host, 4, false, (uint8_t *)&value, 4);
	assert_int_equal(value, 0x10441af4);
	pci_host_port_access(b->host, 6, false, (uint8_t *)&value, 2);
	assert_int_equal(value & 0xffff, 0x1044);
	/* Bytes are not for it; another bus and a cleared enable bit lead nowhere. */
	pci_host_port_access(b->host, 0, true, (uint8_t *)&(uint8_t){ 4 }, 1);
	pci_host_port_access(b->host, 0, false, (uint8_t *)&value, 4);
	assert_int_equal(value, address);
	for (address = 1 << 11; address;
	     address = address & 0x80000000 ? 0 : 0x80010000 | 1 << 11) {
		pci_host_port_access(b->host, 0, true, (uint8_t *)&address, 4);
		pci_host_port_access(b->host, 4, false, (uint8_t *)&value, 4);
		assert_int_equal(value, UINT32_MAX);
	}
}

static void what_is_fixed_stays(void **state)
{
	struct box *b = *state;
	uint8_t before[PCI_CONFIG_BYTES];
	unsigned int at;

	memcpy(before, b->fn.config, sizeof(before));
	for (at = 0; at < PCI_CONFIG_BYTES; at += 4)
		set(b, at, UINT32_MAX, 4);
	for (at = 0; at < PCI_CONFIG_BYTES; at++)
		assert_int_equal((b->fn.config[at] ^ before[at]) & ~b->fn.writable[at], 0);
	assert_int_equal(config(b, 1, PCI_COMMAND, 2),
			 PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
	assert_int_equal(config(b, 1, 0, 4), 0x10441af4);
}

static void a_bar_tells_its_size_and_answers_where_it_is_put(void **state)
{
	struct box *b = *state;

	/* Firmware has given it a place, where it answers once it is allowed to. */
	assert_int_equal(config(b, 1, PCI_BASE_ADDRESS_0, 4),
			 (uint32_t)LOW | PCI_BASE_ADDRESS_MEM_TYPE_64);
	assert_int_equal(memory(b, LOW), UINT32_MAX);
	b->byte = 7;
	enable(b);
	assert_true(b->mapped);
	assert_int_equal(memory(b, LOW + 8) & 0xff, 7);
	assert_int_equal(b->offset, 8);
	/* Sizing, with decoding on as a careless guest does it: it answers nowhere meanwhile. */
	set(b, PCI_BASE_ADDRESS_0, UINT32_MAX, 4);
	set(b, PCI_BASE_ADDRESS_1, UINT32_MAX, 4);
	assert_int_equal(config(b, 1, PCI_BASE_ADDRESS_0, 4),
			 (uint32_t)-BAR_BYTES | PCI_BASE_ADDRESS_MEM_TYPE_64);
	assert_int_equal(config(b, 1, PCI_BASE_ADDRESS_1, 4), UINT32_MAX);
	assert_false(b->mapped);
	assert_int_equal(memory(b, LOW + 8), UINT32_MAX);
	/* Above 4 GiB, byte by byte. */
	set(b, PCI_BASE_ADDRESS_0, 0x40, 1);
	set(b, PCI_BASE_ADDRESS_0 + 1, 0x40, 1);
	set(b, PCI_BASE_ADDRESS_0 + 2, 0, 2);
	set(b, PCI_BASE_ADDRESS_1, HIGH >> 32, 4);
	assert_true(b->mapped);
	assert_int_equal(b->base, HIGH + 0x4000);
	set_memory(b, HIGH + 0x4000 + BAR_BYTES - 4, 9);
	assert_int_equal(b->byte, 9);
	assert_int_equal(memory(b, HIGH + 0x4000 + BAR_BYTES), UINT32_MAX);
	/* Over its end, and where there is no window: RAM above all. */
	assert_int_equal(memory(b, HIGH + 0x4000 + BAR_BYTES - 2), UINT32_MAX);
	set(b, PCI_BASE_ADDRESS_1, 0, 4);
	assert_false(b->mapped);
	set(b, PCI_COMMAND, 0, 2);
	assert_false(b->mapped);
}

static void msi_x_is_found_and_sends(void **state)
{
	struct box *b = *state;
	unsigned int at = config(b, 1, PCI_CAPABILITY_LIST, 1);

	assert_int_equal(config(b, 1, PCI_STATUS, 2) & PCI_STATUS_CAP_LIST, PCI_STATUS_CAP_LIST);
	assert_int_equal(config(b, 1, at, 1), PCI_CAP_ID_MSIX);
	assert_int_equal(config(b, 1, at + PCI_MSIX_FLAGS, 2), VECTORS - 1);
	assert_int_equal(config(b, 1, at + PCI_MSIX_TABLE, 4), TABLE);
	assert_int_equal(config(b, 1, at + PCI_MSIX_PBA, 4), PENDING);
	enable(b);
	assert_int_equal(memory(b, LOW + TABLE + 12), 1);
	set_memory(b, LOW + TABLE + 16, 0xfee01003);
	set_memory(b, LOW + TABLE + 24, 0x31);
	assert_int_equal(memory(b, LOW + TABLE + 16), 0xfee01000);
	/*
	 * Not enabled: lost. Enabled and masked: pending, and sent when
	 * unmasked, by the vector's bit and the function's.
	 */
	msix_fire(&b->fn.msix, 1);
	assert_int_equal(memory(b, LOW + PENDING), 0);
	set(b, at + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE, 2);
	msix_fire(&b->fn.msix, 1);
	assert_int_equal(b->msi.fired, 0);
	assert_int_equal(memory(b, LOW + PENDING), 2);
	set(b, at + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL, 2);
	set_memory(b, LOW + TABLE + 28, 0);
	assert_int_equal(b->msi.fired, 0);
	set(b, at + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE, 2);
	assert_int_equal(b->msi.fired, 1);
	assert_int_equal(b->msi.address, 0xfee01000);
	assert_int_equal(b->msi.data, 0x31);
	assert_int_equal(memory(b, LOW + PENDING), 0);
	msix_fire(&b->fn.msix, 1);
	assert_int_equal(b->msi.fired, 2);
	/* KVM was told where once. */
	assert_int_equal(b->msi.sets, 1);
	msix_fire(&b->fn.msix, VECTORS);
	msix_fire(&b->fn.msix, 0xffff);
	assert_int_equal(b->msi.fired, 2);
}

static void a_message_that_goes_nowhere_does_no_harm(void **state)
{
	struct box *b = *state;
	unsigned int at = config(b, 1, PCI_CAPABILITY_LIST, 1);

	enable(b);
	b->msi.refuse = true;
	set(b, at + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE, 2);
	set_memory(b, LOW + TABLE + 4, UINT32_MAX);
	set_memory(b, LOW + TABLE + 12, 0);
	msix_fire(&b->fn.msix, 0);
	assert_int_equal(b->msi.fired, 0);
	b->msi.refuse = false;
	set_memory(b, LOW + TABLE + 4, 0);
	msix_fire(&b->fn.msix, 0);
	assert_int_equal(b->msi.fired, 1);
	/* Bytes and words are not for the table. */
	pci_host_window_access(pci_host_window(b->host, 0), TABLE + 12, true, (uint8_t *)&(uint8_t){ 1 }, 1);
	assert_int_equal(memory(b, LOW + TABLE + 12), 0);
}

/* The function alone, as a device_ops for state_torture. */
static int fn_save(void *dev, struct buf *out, struct err *err)
{
	return pci_function_save(&((struct box *)dev)->fn, out, err);
}

static int fn_load(void *dev, const uint8_t *data, size_t len, struct err *err)
{
	return pci_function_load(&((struct box *)dev)->fn, data, len, err);
}

static const struct device_ops fn_ops = { .name = "test", .save = fn_save, .load = fn_load };

static void state_travels(void **state)
{
	struct box *b = *state, *c = box_new();
	unsigned int at = config(b, 1, PCI_CAPABILITY_LIST, 1);
	uint32_t address = 0x80000004;

	enable(b);
	set(b, PCI_BASE_ADDRESS_0, (uint32_t)LOW + 0x8000, 4);
	set(b, at + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE, 2);
	set_memory(b, LOW + 0x8000 + TABLE, 0xfee02000);
	msix_fire(&b->fn.msix, 0);
	pci_host_port_access(b->host, 0, true, (uint8_t *)&address, 4);
	state_torture(&fn_ops, b, c);
	assert_int_equal(c->base, LOW + 0x8000);
	assert_true(c->mapped);
	/* What was pending is sent there. */
	c->msi.fired = 0;
	set_memory(c, LOW + 0x8000 + TABLE + 12, 0);
	assert_int_equal(c->msi.fired, 1);
	assert_int_equal(c->msi.address, 0xfee02000);
	state_torture(&pci_host_device_ops, b->host, c->host);
	address = 0;
	pci_host_port_access(c->host, 0, false, (uint8_t *)&address, 4);
	assert_int_equal(address, 0x80000004);
	/* After a reset all is as firmware leaves it. */
	pci_function_reset(&c->fn);
	assert_false(c->mapped);
	assert_int_equal(config(c, 1, PCI_BASE_ADDRESS_0, 4),
			 (uint32_t)LOW | PCI_BASE_ADDRESS_MEM_TYPE_64);
	assert_int_equal(config(c, 1, at + PCI_MSIX_FLAGS, 2), VECTORS - 1);
	box_free(c);
}

static void hostile_state_is_refused(void **state)
{
	struct box *b = *state;
	struct buf buf = { 0 };
	struct err err;

	assert_refused(&fn_ops, b, "\x08", "PciFunctionState");
	assert_refused(&fn_ops, b, "", "0 bytes");
	assert_int_equal(fn_save(b, &buf, &err), 0);
	/* Field 1, 256 bytes: their second one is the vendor's. */
	assert_memory_equal(buf.data, "\x0a\x80\x02\xf4\x1a", 5);
	buf.data[4] = 0x1b;
	assert_int_equal(fn_load(b, buf.data, buf.len, &err), -EINVAL);
	assert_non_null(strstr(err.text, "another PCI function"));
	buf.data[4] = 0x1a;
	buf_append(&buf, "\x12", 2);
	assert_int_equal(fn_load(b, buf.data, buf.len, &err), -EINVAL);
	assert_non_null(strstr(err.text, "4 MSI-X vectors"));
	buf.len -= 2;
	buf_append(&buf, "\x18\x08", 2);
	assert_int_equal(fn_load(b, buf.data, buf.len, &err), -EINVAL);
	assert_non_null(strstr(err.text, "pending"));
	buf_fini(&buf);
	assert_refused(&pci_host_device_ops, b->host, "\x08\x01", "bits");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(both_ways_lead_to_configuration_space),
		TEST(what_is_fixed_stays),
		TEST(a_bar_tells_its_size_and_answers_where_it_is_put),
		TEST(msi_x_is_found_and_sends),
		TEST(a_message_that_goes_nowhere_does_no_harm),
		TEST(state_travels),
		TEST(hostile_state_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
