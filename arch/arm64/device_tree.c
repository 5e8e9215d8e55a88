// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "arch/arm64/device_tree.h"

#include <endian.h>
#include <errno.h>
#include <libfdt.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "arch/arm64/board.h"

#define GIC_PHANDLE 1u
/* Cells of an interrupt: kind, number, trigger. */
#define SPI 0u
#define PPI 1u
#define EDGE_RISING 1u
#define LEVEL_HIGH 4u
/* Private interrupts of the timers: secure, non-secure, virtual, hypervisor's. */
#define TIMER_PPIS { 13, 14, 11, 10 }

/* libfdt's calls, one after the other: the first that fails stays the result. */
struct tree {
	void *fdt;
	int result;
};

static void tree_take(struct tree *t, int result)
{
	if (!t->result && result < 0)
		t->result = result;
}

static void tree_begin(struct tree *t, const char *name)
{
	tree_take(t, fdt_begin_node(t->fdt, name));
}

static void begin_at(struct tree *t, const char *name, uint64_t address)
{
	char full[48];

	snprintf(full, sizeof(full), "%s@%llx", name, (unsigned long long)address);
	tree_begin(t, full);
}

static void end(struct tree *t)
{
	tree_take(t, fdt_end_node(t->fdt));
}

static void text(struct tree *t, const char *name, const char *value)
{
	tree_take(t, fdt_property(t->fdt, name, value, (int)strlen(value) + 1));
}

static void cell(struct tree *t, const char *name, uint32_t value)
{
	tree_take(t, fdt_property_u32(t->fdt, name, value));
}

static void empty(struct tree *t, const char *name)
{
	tree_take(t, fdt_property(t->fdt, name, NULL, 0));
}

static void cells64(struct tree *t, const char *name, const uint64_t *values, unsigned int n)
{
	uint64_t raw[8];
	unsigned int i;

	for (i = 0; i < n && i < 8; i++)
		raw[i] = htobe64(values[i]);
	tree_take(t, fdt_property(t->fdt, name, raw, (int)(i * sizeof(raw[0]))));
}

static void range(struct tree *t, uint64_t base, uint64_t bytes)
{
	const uint64_t reg[] = { base, bytes };

	cells64(t, "reg", reg, 2);
}

static void interrupts(struct tree *t, uint32_t type, uint32_t trigger, const uint32_t *numbers,
		       unsigned int n)
{
	uint32_t raw[3 * 4];
	unsigned int i;

	for (i = 0; i < n && i < 4; i++) {
		raw[i * 3] = htobe32(type);
		raw[i * 3 + 1] = htobe32(numbers[i]);
		raw[i * 3 + 2] = htobe32(trigger);
	}
	tree_take(t, fdt_property(t->fdt, "interrupts", raw, (int)(i * 3 * sizeof(raw[0]))));
}

/* Randomness that the guest's kernel starts from; without any it goes without. */
static void seeds(struct tree *t)
{
	uint8_t seed[64];
	uint64_t kaslr;

	if (getrandom(seed, sizeof(seed), GRND_NONBLOCK) == sizeof(seed))
		tree_take(t, fdt_property(t->fdt, "rng-seed", seed, sizeof(seed)));
	if (getrandom(&kaslr, sizeof(kaslr), GRND_NONBLOCK) == sizeof(kaslr))
		cells64(t, "kaslr-seed", &kaslr, 1);
}

static void chosen(struct tree *t, const struct device_tree_config *config)
{
	char path[32];

	tree_begin(t, "chosen");
	text(t, "bootargs", config->cmdline ? config->cmdline : "");
	snprintf(path, sizeof(path), "/serial@%llx", (unsigned long long)BOARD_SERIAL);
	text(t, "stdout-path", path);
	if (config->initrd < config->initrd_end) {
		cells64(t, "linux,initrd-start", &config->initrd, 1);
		cells64(t, "linux,initrd-end", &config->initrd_end, 1);
	}
	seeds(t);
	end(t);
}

static void cpus(struct tree *t, unsigned int n)
{
	unsigned int i;

	tree_begin(t, "cpus");
	cell(t, "#address-cells", 1);
	cell(t, "#size-cells", 0);
	for (i = 0; i < n; i++) {
		begin_at(t, "cpu", board_affinity(i));
		text(t, "device_type", "cpu");
		text(t, "compatible", "arm,armv8");
		cell(t, "reg", board_affinity(i));
		text(t, "enable-method", "psci");
		end(t);
	}
	end(t);
}

static void firmware(struct tree *t)
{
	static const char versions[] = "arm,psci-1.0\0arm,psci-0.2";
	static const uint32_t timers[] = TIMER_PPIS;

	tree_begin(t, "psci");
	tree_take(t, fdt_property(t->fdt, "compatible", versions, sizeof(versions)));
	text(t, "method", "hvc");
	end(t);
	tree_begin(t, "timer");
	text(t, "compatible", "arm,armv8-timer");
	empty(t, "always-on");
	interrupts(t, PPI, LEVEL_HIGH, timers, 4);
	end(t);
}

static void controller(struct tree *t, unsigned int cpus_n)
{
	const uint64_t reg[] = {
		BOARD_GIC_DISTRIBUTOR, BOARD_GIC_DISTRIBUTOR_BYTES,
		board_redistributors(cpus_n), cpus_n * BOARD_GIC_REDISTRIBUTOR_BYTES,
	};

	begin_at(t, "interrupt-controller", BOARD_GIC_DISTRIBUTOR);
	text(t, "compatible", "arm,gic-v3");
	empty(t, "interrupt-controller");
	cell(t, "#interrupt-cells", 3);
	cells64(t, "reg", reg, 4);
	cell(t, "phandle", GIC_PHANDLE);
	end(t);
}

static void serial(struct tree *t)
{
	static const uint32_t spi[] = { BOARD_SERIAL_SPI };

	begin_at(t, "serial", BOARD_SERIAL);
	text(t, "compatible", "ns16550a");
	range(t, BOARD_SERIAL, BOARD_SERIAL_BYTES);
	cell(t, "clock-frequency", BOARD_SERIAL_HZ);
	interrupts(t, SPI, LEVEL_HIGH, spi, 1);
	end(t);
}

/*
 * Linux' Documentation/devicetree/bindings/rng/microsoft,vmgenid.yaml. Of
 * vmclock there is no binding yet.
 */
static void generation_id(struct tree *t)
{
	static const uint32_t spi[] = { BOARD_IDENTITY_SPI };

	begin_at(t, "rng", BOARD_IDENTITY);
	text(t, "compatible", "microsoft,vmgenid");
	range(t, BOARD_IDENTITY, 4096);
	interrupts(t, SPI, EDGE_RISING, spi, 1);
	end(t);
}

int device_tree_build(void *to, size_t room, const struct device_tree_config *config,
		      struct err *err)
{
	struct tree tree = { .fdt = to }, *t = &tree;

	tree_take(t, fdt_create(to, (int)room));
	tree_take(t, fdt_finish_reservemap(to));
	tree_begin(t, "");
	text(t, "compatible", "linux,dummy-virt");
	text(t, "model", "postern");
	cell(t, "#address-cells", 2);
	cell(t, "#size-cells", 2);
	cell(t, "interrupt-parent", GIC_PHANDLE);
	chosen(t, config);
	begin_at(t, "memory", BOARD_RAM_BASE);
	text(t, "device_type", "memory");
	range(t, BOARD_RAM_BASE, config->ram_bytes);
	end(t);
	cpus(t, config->cpus);
	firmware(t);
	controller(t, config->cpus);
	serial(t);
	generation_id(t);
	end(t);
	tree_take(t, fdt_finish(to));
	if (tree.result == -FDT_ERR_NOSPACE)
		return err_set(err, -ENOSPC,
			       "the device tree, with the command line, has no room in %zu bytes",
			       room);
	return tree.result ? err_set(err, -EINVAL, "device tree: %s", fdt_strerror(tree.result)) :
			     0;
}
