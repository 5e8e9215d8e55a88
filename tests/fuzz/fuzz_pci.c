// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// A PCI bus: a function's state from a peer, then what a guest writes to ports,
// configuration space and windows.
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

static void on_bar(void *arg, unsigned int bar, uint64_t offset, bool write, uint8_t *data,
		   unsigned int size)
{
	(void)arg;
	if (bar || offset + size > 0x4000 ||
	    (offset < 0x1000 + 3 * MSIX_ENTRY_BYTES && offset + size > 0x1000 && size <= 8 &&
	     offset >= 0x1000 && offset + size <= 0x1000 + 3 * MSIX_ENTRY_BYTES))
		__builtin_trap();
	if (!write)
		memset(data, 0x5a, size);
}

static const struct pci_function_ops ops = { .bar = on_bar };
static const struct msi_ops msi_ops = { msi_open, msi_none, msi_set, msi_none };

#define BAR_BYTES 0x4000

struct step {
	uint8_t type;		/* write, size, where */
	uint8_t value[8];
	uint32_t offset;
} __attribute__((packed));

static void config_write(struct pci_host *host, unsigned int slot, unsigned int reg, uint32_t value,
			 unsigned int size)
{
	uint8_t bytes[4];

	memcpy(bytes, &value, 4);
	pci_host_ecam_access(host, ((uint64_t)slot << 15) + reg, true, bytes, size);
}

/*
 * To a place in one of the windows, or near it, with memory decoding switched
 * on: as a guest assigns it.
 */
static void bar_move(struct pci_host *host, unsigned int slot, const struct step *s)
{
	uint64_t base = (s->value[0] & 1 ? HIGH : LOW) + s->offset % (2 * WINDOW_BYTES);

	config_write(host, slot, 0x10, (uint32_t)base, 4);
	config_write(host, slot, 0x14, (uint32_t)(base >> 32), 4);
	config_write(host, slot, 0x04, s->value[1] & 2 ? 0 : 2, 2);
}

/* Where the BAR is now: its registers, MSI-X's table and pending bits. */
static void bar_access(struct pci_host *host, struct pci_function *fn, struct step *s, bool write,
		       unsigned int size)
{
	static const uint32_t part[4] = { 0, 0x1000, 0x2000, 0 };
	uint64_t offset = s->offset & 0x80000000 ? part[s->offset >> 29 & 3] + s->offset % 64 :
						   s->offset % BAR_BYTES;
	uint64_t base = fn->bar[0].base;
	bool high = base >= HIGH;

	if (!fn->bar[0].mapped)
		return;
	pci_host_window_access(pci_host_window(host, high), base - (high ? HIGH : LOW) + offset,
			       write, s->value, size);
}

static void fire(struct pci_function *fn, unsigned int vector)
{
	pthread_mutex_lock(&fn->lock);
	msix_fire(&fn->msix, vector);
	pthread_mutex_unlock(&fn->lock);
}

static void step_do(struct pci_host *host, struct pci_function *fns, unsigned int first,
		    struct step *s)
{
	unsigned int size = 1u << (s->type >> 4 & 3), which = s->type >> 3 & 1;
	struct pci_function *fn = &fns[which];
	bool write = s->type & 0x80;

	switch (s->type & 7) {
	case 0:
		if (size <= 4)
			pci_host_port_access(host, s->offset % (PCI_PORTS - size + 1), write,
					     s->value, size);
		break;
	case 1:
		if (size <= 4)
			pci_host_ecam_access(host, s->offset % (PCI_ECAM_BYTES - 3), write,
					     s->value, size);
		break;
	case 2:
		if (size <= 4)
			pci_host_ecam_access(
				host, ((first + which) << 15) + s->offset % (PCI_CONFIG_BYTES - 3),
				write, s->value, size);
		break;
	case 3:
		bar_move(host, first + which, s);
		break;
	case 4:
	case 5:
		bar_access(host, fn, s, write, size);
		break;
	case 6:
		fire(fn, s->offset % 5);
		break;
	default:
		pci_host_window_access(pci_host_window(host, which), s->offset % (WINDOW_BYTES - 7),
				       write, s->value, size);
	}
}

/* What answers lies in a window, at a multiple of its size. */
static void check(const struct pci_function *fn)
{
	const struct pci_bar *bar = &fn->bar[0];
	uint64_t window = bar->base >= HIGH ? HIGH : LOW;

	if (bar->mapped && (bar->base % BAR_BYTES || bar->base < window ||
			    bar->base - window > WINDOW_BYTES - BAR_BYTES))
		__builtin_trap();
	if (fn->msix.pending >> fn->msix.vectors)
		__builtin_trap();
}

static void function_make(struct pci_host *host, struct pci_function *fn, unsigned int *slot)
{
	const struct pci_ids ids = { .vendor = 0x1af4, .device = 0x1044 };
	const struct msi msi = { &msi_ops, NULL };
	struct err err;

	pci_function_init(fn, "fuzz", &ids, &ops, NULL);
	pci_function_add_bar(fn, 0, BAR_BYTES);
	if (pci_function_add_msix(fn, &msi, 3, 0, 0x1000, 0x2000, &err) ||
	    pci_host_add(host, fn, slot, &err))
		__builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct pci_range windows[PCI_WINDOWS] = { { LOW, WINDOW_BYTES }, { HIGH, WINDOW_BYTES } };
	struct pci_function fn[2];
	struct pci_host *host;
	struct buf state = { 0 };
	unsigned int slot[2], i;
	struct step step;
	/* Mostly steps; of every fourth input the first half is a state. */
	size_t at = size && !(data[0] & 3) ? size / 2 : 0;
	struct err err;

	if (pci_host_new(&host, windows, &err))
		return 0;
	for (i = 0; i < 2; i++)
		function_make(host, &fn[i], &slot[i]);
	if (slot[1] != slot[0] + 1)
		__builtin_trap();
	pci_function_load(&fn[0], data, at, &err);
	for (; size - at >= sizeof(step); at += sizeof(step)) {
		memcpy(&step, data + at, sizeof(step));
		step_do(host, fn, slot[0], &step);
		check(&fn[0]);
		check(&fn[1]);
	}
	/* Whatever it went through, its state can be saved and loaded. */
	if (pci_function_save(&fn[0], &state, &err) ||
	    pci_function_load(&fn[0], state.data, state.len, &err))
		__builtin_trap();
	buf_fini(&state);
	pci_host_device_ops.reset(host);
	for (i = 0; i < 2; i++) {
		pci_function_reset(&fn[i]);
		check(&fn[i]);
		pci_function_fini(&fn[i]);
	}
	pci_host_free(host);
	return 0;
}
