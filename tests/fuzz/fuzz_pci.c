// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// A PCI bus: a function's state from a peer, then what a guest writes to ports, configuration space and windows.
#include <string.h>

#include "device/pci/host.h"

#define LOW UINT64_C(0xc0000000)
#define HIGH UINT64_C(0x800000000)
#define WINDOW_BYTES 0x100000

static int msi_open(void *arg, unsigned int *handle, struct err *err)
{
	(void)arg, (void)err;
	*handle = 0;
	return 0;
}

static void msi_none(void *arg, unsigned int handle)
{
	(void)arg, (void)handle;
}

static int msi_set(void *arg, unsigned int handle, uint64_t address, uint32_t data)
{
	(void)arg, (void)handle, (void)data;
	return address >> 32 ? -1 : 0;
}

static void on_bar(void *arg, unsigned int bar, uint64_t offset, bool write, uint8_t *data, unsigned int size)
{
	(void)arg;
	if (bar || offset + size > 0x4000)
		__builtin_trap();
	if (!write)
		memset(data, 0x5a, size);
}

static const struct pci_function_ops ops = { .bar = on_bar };
static const struct msi_ops msi_ops = { msi_open, msi_none, msi_set, msi_none };

struct step {
	uint8_t kind;		/* where, write, size */
	uint8_t value[8];
	uint32_t offset;
} __attribute__((packed));

static void step_do(struct pci_host *host, struct step *s)
{
	unsigned int size = 1u << (s->kind >> 4 & 3);
	bool write = s->kind & 0x80;

	switch (s->kind & 3) {
	case 0:
		if (size <= 4)
			pci_host_port_access(host, s->offset % (PCI_PORTS - size + 1), write, s->value, size);
		break;
	case 1:
		if (size <= 4)
			pci_host_ecam_access(host, s->offset % (PCI_ECAM_BYTES - 3), write, s->value, size);
		break;
	default:
		pci_host_window_access(pci_host_window(host, s->kind & 1), s->offset % (WINDOW_BYTES - 7), write, s->value,
				       size);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct pci_range windows[PCI_WINDOWS] = { { LOW, WINDOW_BYTES }, { HIGH, WINDOW_BYTES } };
	const struct pci_ids ids = { .vendor = 0x1af4, .device = 0x1044 };
	const struct msi msi = { &msi_ops, NULL };
	struct pci_function fn;
	struct pci_host *host;
	struct buf state = { 0 };
	unsigned int slot;
	struct step step;
	size_t at = size / 2;
	struct err err;

	if (pci_host_new(&host, windows, &err))
		return 0;
	pci_function_init(&fn, "fuzz", &ids, &ops, NULL);
	pci_function_add_bar(&fn, 0, 0x4000);
	if (pci_function_add_msix(&fn, &msi, 3, 0, 0x1000, 0x2000, &err) || pci_host_add(host, &fn, &slot, &err))
		__builtin_trap();
	pci_function_load(&fn, data, at, &err);
	for (; size - at >= sizeof(step); at += sizeof(step)) {
		memcpy(&step, data + at, sizeof(step));
		step_do(host, &step);
	}
	/* Whatever it went through, its state can be saved and loaded. */
	if (pci_function_save(&fn, &state, &err) || pci_function_load(&fn, state.data, state.len, &err))
		__builtin_trap();
	buf_fini(&state);
	pci_host_device_ops.reset(host);
	pci_function_reset(&fn);
	pci_function_fini(&fn);
	pci_host_free(host);
	return 0;
}
