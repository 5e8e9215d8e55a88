// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "device/pci/host.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>

#include "base/proto.h"
#include "base/types.h"
#include "pci.pb-c.h"

/* Red Hat's generic PCI Express host bridge. */
#define BRIDGE_VENDOR 0x1b36
#define BRIDGE_DEVICE 0x0008
#define BRIDGE_CLASS 0x060000

/* Configuration mechanism #1: the address register's fields. */
#define ADDRESS_ENABLE 0x80000000u
#define ADDRESS_WRITABLE 0x80fffffcu

/* A BAR that answers. */
struct mapping {
	struct pci_function *fn;
	unsigned int bar;
	uint64_t base, len;
};

struct pci_window {
	struct pci_host *host;
	struct pci_range range;
	uint64_t used;		/* by BARs at home */
};

struct pci_host {
	struct pci_window window[PCI_WINDOWS];
	struct pci_function *slot[PCI_SLOTS];	/* never changes once the machine is built */
	unsigned int slots;
	struct pci_function self;
	pthread_mutex_t lock;			/* guards all below */
	struct mapping mapping[PCI_SLOTS * PCI_BARS];
	unsigned int mappings;
	uint32_t address;
};

static const struct pci_function_ops self_ops = { 0 };

int pci_host_new(struct pci_host **out, const struct pci_range window[PCI_WINDOWS], struct err *err)
{
	const struct pci_ids ids = {
		.vendor = BRIDGE_VENDOR, .device = BRIDGE_DEVICE, .class_code = BRIDGE_CLASS,
	};
	struct pci_host *host = calloc(1, sizeof(*host));
	unsigned int i;

	if (!host)
		return err_set(err, -ENOMEM, "no memory for the PCI host bridge");
	pthread_mutex_init(&host->lock, NULL);
	for (i = 0; i < PCI_WINDOWS; i++)
		host->window[i] = (struct pci_window){ .host = host, .range = window[i] };
	pci_function_init(&host->self, "host bridge", &ids, &self_ops, host);
	host->self.host = host;
	host->slot[host->slots++] = &host->self;
	*out = host;
	return 0;
}

void pci_host_free(struct pci_host *host)
{
	if (!host)
		return;
	pci_function_fini(&host->self);
	pthread_mutex_destroy(&host->lock);
	free(host);
}

/* The first place in a window for so many bytes, aligned to them. */
static int home_find(struct pci_host *host, uint64_t size, uint64_t *home)
{
	unsigned int i;

	for (i = 0; i < PCI_WINDOWS; i++) {
		struct pci_window *w = &host->window[i];
		uint64_t at;

		/* Whole pages, so that no two functions share one. */
		if (size < PAGE_BYTES)
			size = PAGE_BYTES;
		at = (w->range.base + w->used + size - 1) & ~(size - 1);
		if (at - w->range.base > w->range.len || w->range.len - (at - w->range.base) < size)
			continue;
		w->used = at - w->range.base + size;
		*home = at;
		return 0;
	}
	return -ENOSPC;
}

int pci_host_add(struct pci_host *host, struct pci_function *fn, unsigned int *slot,
		 struct err *err)
{
	unsigned int i;

	if (host->slots == PCI_SLOTS)
		return err_set(err, -ENOSPC, "PCI: no slot is left for %s", fn->name);
	for (i = 0; i < PCI_BARS; i++)
		if (fn->bar[i].size && home_find(host, fn->bar[i].size, &fn->bar[i].home) < 0)
			return err_set(err, -ENOSPC, "PCI: no room for BAR %u of %s", i, fn->name);
	fn->host = host;
	*slot = host->slots;
	host->slot[host->slots++] = fn;
	pthread_mutex_lock(&fn->lock);
	pci_function_reset(fn);
	pthread_mutex_unlock(&fn->lock);
	return 0;
}

/* ---- configuration ---- */

static void config_access(struct pci_host *host, unsigned int slot, unsigned int function,
			  unsigned int offset, bool write, uint8_t *data, unsigned int size)
{
	if (slot < host->slots && !function) {
		pci_function_config_access(host->slot[slot], offset, write, data, size);
		return;
	}
	if (!write)
		memset(data, 0xff, size);
}

void pci_host_ecam_access(void *arg, uint64_t offset, bool write, uint8_t *data, unsigned int size)
{
	config_access(arg, offset >> 15 & 0x1f, offset >> 12 & 7, offset & 0xfff, write, data,
		      size);
}

/*
 * The address register takes whole words only (3.2.2.3.2): other accesses to it
 * are for other devices.
 */
static void address_access(struct pci_host *host, uint64_t offset, bool write, uint8_t *data,
			   unsigned int size)
{
	uint32_t value;

	if (!write)
		memset(data, 0xff, size);
	if (offset || size != 4)
		return;
	pthread_mutex_lock(&host->lock);
	if (write) {
		memcpy(&value, data, 4);
		host->address = value & ADDRESS_WRITABLE;
	} else {
		memcpy(data, &host->address, 4);
	}
	pthread_mutex_unlock(&host->lock);
}

void pci_host_port_access(void *arg, uint64_t offset, bool write, uint8_t *data, unsigned int size)
{
	struct pci_host *host = arg;
	uint32_t address;

	if (offset < 4) {
		address_access(host, offset, write, data, size);
		return;
	}
	pthread_mutex_lock(&host->lock);
	address = host->address;
	pthread_mutex_unlock(&host->lock);
	/* There is no bus but 0. */
	if (address & ADDRESS_ENABLE && !(address >> 16 & 0xff)) {
		config_access(host, address >> 11 & 0x1f, address >> 8 & 7,
			      (address & 0xfc) | (offset & 3), write, data, size);
		return;
	}
	if (!write)
		memset(data, 0xff, size);
}

/* ---- windows ---- */

void *pci_host_window(struct pci_host *host, unsigned int i)
{
	return &host->window[i];
}

bool pci_host_has_window(const struct pci_host *host, uint64_t base, uint64_t len)
{
	unsigned int i;

	for (i = 0; i < PCI_WINDOWS; i++) {
		const struct pci_range *w = &host->window[i].range;

		if (base >= w->base && base - w->base < w->len && w->len - (base - w->base) >= len)
			return true;
	}
	return false;
}

void pci_host_map(struct pci_host *host, struct pci_function *fn, unsigned int bar)
{
	pthread_mutex_lock(&host->lock);
	host->mapping[host->mappings++] = (struct mapping){
		.fn = fn, .bar = bar, .base = fn->bar[bar].base, .len = fn->bar[bar].size,
	};
	pthread_mutex_unlock(&host->lock);
}

void pci_host_unmap(struct pci_host *host, struct pci_function *fn, unsigned int bar)
{
	unsigned int i;

	pthread_mutex_lock(&host->lock);
	for (i = 0; i < host->mappings; i++) {
		if (host->mapping[i].fn != fn || host->mapping[i].bar != bar)
			continue;
		host->mapping[i] = host->mapping[--host->mappings];
		break;
	}
	pthread_mutex_unlock(&host->lock);
}

void pci_host_window_access(void *arg, uint64_t offset, bool write, uint8_t *data,
			    unsigned int size)
{
	struct pci_window *window = arg;
	struct pci_host *host = window->host;
	uint64_t address = window->range.base + offset;
	struct mapping found = { 0 };
	unsigned int i;

	/* Of BARs that the guest has put over one another, any answers. */
	pthread_mutex_lock(&host->lock);
	for (i = 0; i < host->mappings && !found.fn; i++)
		if (address >= host->mapping[i].base &&
		    address - host->mapping[i].base < host->mapping[i].len)
			found = host->mapping[i];
	pthread_mutex_unlock(&host->lock);
	if (found.fn && pci_function_bar_access(found.fn, found.bar, address, write, data, size))
		return;
	if (!write)
		memset(data, 0xff, size);
}

/* ---- state ---- */

static void pci_host_reset(void *dev)
{
	struct pci_host *host = dev;

	pthread_mutex_lock(&host->lock);
	host->address = 0;
	pthread_mutex_unlock(&host->lock);
	pthread_mutex_lock(&host->self.lock);
	pci_function_reset(&host->self);
	pthread_mutex_unlock(&host->self.lock);
}

static int pci_host_save(void *dev, struct buf *out, struct err *err)
{
	Postern__Device__PciHostState msg = POSTERN__DEVICE__PCI_HOST_STATE__INIT;
	struct pci_host *host = dev;
	struct buf self = { 0 };
	uint8_t *to;
	int r;

	pthread_mutex_lock(&host->self.lock);
	r = pci_function_save(&host->self, &self, err);
	pthread_mutex_unlock(&host->self.lock);
	if (r < 0)
		return r;
	pthread_mutex_lock(&host->lock);
	msg.address = host->address;
	pthread_mutex_unlock(&host->lock);
	msg.function.data = self.data;
	msg.function.len = self.len;
	to = buf_reserve(out, postern__device__pci_host_state__get_packed_size(&msg));
	if (to)
		out->len += postern__device__pci_host_state__pack(&msg, to);
	else
		r = err_set(err, -ENOMEM, "no memory for the PCI host bridge's state");
	buf_fini(&self);
	return r;
}

static int pci_host_load(void *dev, const uint8_t *data, size_t len, struct err *err)
{
	Postern__Device__PciHostState *msg = proto_unpack(
		&postern__device__pci_host_state__descriptor, data, len, PROTO_FIELDS_MAX, err);
	struct pci_host *host = dev;
	int r;

	if (!msg)
		return -EINVAL;
	if (msg->address & ~ADDRESS_WRITABLE) {
		r = err_set(err, -EINVAL,
			    "the configuration address 0x%" PRIx32 " has bits that do not exist",
			    msg->address);
	} else {
		pthread_mutex_lock(&host->self.lock);
		r = pci_function_load(&host->self, msg->function.data, msg->function.len, err);
		pthread_mutex_unlock(&host->self.lock);
	}
	if (!r) {
		pthread_mutex_lock(&host->lock);
		host->address = msg->address;
		pthread_mutex_unlock(&host->lock);
	}
	postern__device__pci_host_state__free_unpacked(msg, NULL);
	return r;
}

const struct device_ops pci_host_device_ops = {
	.name = "pci-host",
	.version = 1,
	.save = pci_host_save,
	.load = pci_host_load,
	.reset = pci_host_reset,
};
