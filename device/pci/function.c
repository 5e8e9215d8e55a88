// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "device/pci/function.h"

#include <assert.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/proto.h"
#include "device/pci/host.h"
#include "pci.pb-c.h"

#define COMMAND_WRITABLE (PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE)
/* Offset in a BAR and which BAR share a register (6.8.2.4): the low three bits. */
#define MSIX_BODY_BYTES 10

/* ---- building ---- */

void pci_function_init(struct pci_function *fn, const char *name, const struct pci_ids *ids,
		       const struct pci_function_ops *ops, void *arg)
{
	uint8_t *c = fn->config;

	*fn = (struct pci_function){ .name = name, .ops = ops, .arg = arg, .end = PCI_STD_HEADER_SIZEOF };
	pthread_mutex_init(&fn->lock, NULL);
	put16(c + PCI_VENDOR_ID, ids->vendor);
	put16(c + PCI_DEVICE_ID, ids->device);
	put32(c + PCI_CLASS_REVISION, ids->class_code << 8 | ids->revision);
	put16(c + PCI_SUBSYSTEM_VENDOR_ID, ids->subsystem_vendor);
	put16(c + PCI_SUBSYSTEM_ID, ids->subsystem);
	put16(fn->writable + PCI_COMMAND, COMMAND_WRITABLE);
	/* Left for software to use as it likes (6.2.4). */
	fn->writable[PCI_INTERRUPT_LINE] = 0xff;
	fn->writable[PCI_CACHE_LINE_SIZE] = 0xff;
	memcpy(fn->initial, c, sizeof(fn->initial));
}

void pci_function_fini(struct pci_function *fn)
{
	msix_fini(&fn->msix);
	pthread_mutex_destroy(&fn->lock);
}

void pci_function_add_bar(struct pci_function *fn, unsigned int bar, uint64_t size)
{
	unsigned int at = PCI_BASE_ADDRESS_0 + bar * 4;

	assert(bar + 1 < PCI_BARS && size >= 16 && size <= UINT64_C(2) << 30 &&
	       !(size & (size - 1)));
	fn->bar[bar].size = size;
	put32(fn->config + at, PCI_BASE_ADDRESS_MEM_TYPE_64);
	put32(fn->writable + at, ~(uint32_t)(size - 1));
	put32(fn->writable + at + 4, UINT32_MAX);
	memcpy(fn->initial, fn->config, sizeof(fn->initial));
}

unsigned int pci_function_add_capability(struct pci_function *fn, uint8_t id, const void *body,
					 size_t len, const void *writable)
{
	unsigned int at = fn->end;

	assert(at + 2 + len <= PCI_CONFIG_BYTES);
	if (fn->last) {
		fn->config[fn->last + 1] = (uint8_t)at;
	} else {
		fn->config[PCI_CAPABILITY_LIST] = (uint8_t)at;
		fn->config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	}
	fn->config[at] = id;
	memcpy(fn->config + at + 2, body, len);
	if (writable)
		memcpy(fn->writable + at + 2, writable, len);
	fn->last = at;
	/* Capabilities are aligned (6.7). */
	fn->end = (unsigned int)(at + 2 + len + 3) & ~3u;
	memcpy(fn->initial, fn->config, sizeof(fn->initial));
	return at;
}

int pci_function_add_msix(struct pci_function *fn, const struct msi *msi, unsigned int vectors,
			  unsigned int bar, uint64_t table, uint64_t pending, struct err *err)
{
	uint8_t body[MSIX_BODY_BYTES] = { 0 }, writable[MSIX_BODY_BYTES] = { 0 };
	int r;

	assert(vectors >= 1 && vectors <= MSIX_VECTORS_MAX && !(table % 8) && !(pending % 8));
	r = msix_init(&fn->msix, msi, vectors, err);
	if (r < 0)
		return r;
	put16(body, (uint16_t)(vectors - 1));
	put32(body + PCI_MSIX_TABLE - 2, (uint32_t)table | bar);
	put32(body + PCI_MSIX_PBA - 2, (uint32_t)pending | bar);
	put16(writable, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	fn->msix_bar = bar;
	fn->msix_table = table;
	fn->msix_pending = pending;
	fn->msix_at =
		pci_function_add_capability(fn, PCI_CAP_ID_MSIX, body, sizeof(body), writable);
	return 0;
}

/* ---- what follows from the bytes ---- */

static void bar_update(struct pci_function *fn, unsigned int i)
{
	const uint8_t *at = fn->config + PCI_BASE_ADDRESS_0 + i * 4;
	struct pci_bar *bar = &fn->bar[i];
	uint64_t base = (get32(at) & ~(uint32_t)0xf) | (uint64_t)get32(at + 4) << 32;
	bool mapped;

	if (!bar->size)
		return;
	mapped = get16(fn->config + PCI_COMMAND) & PCI_COMMAND_MEMORY && fn->host &&
		 pci_host_has_window(fn->host, base, bar->size);
	if (mapped == bar->mapped && (!mapped || base == bar->base))
		return;
	if (bar->mapped) {
		bar->mapped = false;
		pci_host_unmap(fn->host, fn, i);
		if (fn->ops->moved)
			fn->ops->moved(fn->arg, i, false, bar->base);
	}
	if (!mapped)
		return;
	bar->mapped = true;
	bar->base = base;
	pci_host_map(fn->host, fn, i);
	if (fn->ops->moved)
		fn->ops->moved(fn->arg, i, true, base);
}

static void config_update(struct pci_function *fn)
{
	unsigned int i;
	uint16_t flags;

	for (i = 0; i < PCI_BARS; i++)
		bar_update(fn, i);
	if (!fn->msix_at)
		return;
	flags = get16(fn->config + fn->msix_at + PCI_MSIX_FLAGS);
	msix_control(&fn->msix, flags & PCI_MSIX_FLAGS_ENABLE, flags & PCI_MSIX_FLAGS_MASKALL);
}

/* ---- the guest ---- */

void pci_function_config_access(struct pci_function *fn, unsigned int offset, bool write,
				uint8_t *data, unsigned int size)
{
	unsigned int i;

	if (offset >= PCI_CONFIG_BYTES || size > PCI_CONFIG_BYTES - offset) {
		if (!write)
			memset(data, 0xff, size);
		return;
	}
	pthread_mutex_lock(&fn->lock);
	if (!write) {
		if (fn->ops->config)
			fn->ops->config(fn->arg, offset, false, size);
		memcpy(data, fn->config + offset, size);
	} else {
		for (i = 0; i < size; i++) {
			uint8_t *byte = &fn->config[offset + i], mask = fn->writable[offset + i];

			*byte = (uint8_t)((*byte & ~mask) | (data[i] & mask));
		}
		config_update(fn);
		if (fn->ops->config)
			fn->ops->config(fn->arg, offset, true, size);
	}
	pthread_mutex_unlock(&fn->lock);
}

/* Is [offset, offset + size) inside [base, base + len)? */
static bool inside(uint64_t offset, unsigned int size, uint64_t base, uint64_t len)
{
	return offset >= base && offset - base < len && len - (offset - base) >= size;
}

void pci_function_bar_touch(struct pci_function *fn, unsigned int bar, uint64_t offset, bool write,
			    uint8_t *data, unsigned int size)
{
	struct msix *msix = &fn->msix;

	if (!write)
		memset(data, 0xff, size);
	if (bar >= PCI_BARS || !inside(offset, size, 0, fn->bar[bar].size))
		return;
	if (msix->vectors && bar == fn->msix_bar &&
	    inside(offset, size, fn->msix_table, msix->vectors * MSIX_ENTRY_BYTES))
		msix_table_access(msix, offset - fn->msix_table, write, data, size);
	else if (msix->vectors && bar == fn->msix_bar &&
		 inside(offset, size, fn->msix_pending, sizeof(msix->pending)))
		msix_pending_access(msix, offset - fn->msix_pending, write, data, size);
	else if (fn->ops->bar)
		fn->ops->bar(fn->arg, bar, offset, write, data, size);
}

bool pci_function_bar_access(struct pci_function *fn, unsigned int i, uint64_t address, bool write,
			     uint8_t *data, unsigned int size)
{
	const struct pci_bar *bar = &fn->bar[i];
	bool answers;

	pthread_mutex_lock(&fn->lock);
	answers = bar->mapped && inside(address, size, bar->base, bar->size);
	if (answers)
		pci_function_bar_touch(fn, i, address - bar->base, write, data, size);
	pthread_mutex_unlock(&fn->lock);
	return answers;
}

/* ---- the device ---- */

bool pci_function_is_master(const struct pci_function *fn)
{
	return get16(fn->config + PCI_COMMAND) & PCI_COMMAND_MASTER;
}

void pci_function_reset(struct pci_function *fn)
{
	unsigned int i;

	memcpy(fn->config, fn->initial, sizeof(fn->config));
	for (i = 0; i < PCI_BARS; i++) {
		uint8_t *at = fn->config + PCI_BASE_ADDRESS_0 + i * 4;

		if (!fn->bar[i].size)
			continue;
		put32(at, (get32(at) & 0xf) | (uint32_t)fn->bar[i].home);
		put32(at + 4, (uint32_t)(fn->bar[i].home >> 32));
	}
	msix_reset(&fn->msix);
	config_update(fn);
}

int pci_function_save(struct pci_function *fn, struct buf *out, struct err *err)
{
	Postern__Device__PciVector vector[MSIX_VECTORS_MAX], *vectors[MSIX_VECTORS_MAX];
	Postern__Device__PciFunctionState msg = POSTERN__DEVICE__PCI_FUNCTION_STATE__INIT;
	unsigned int i;
	uint8_t *to;

	msg.config.data = fn->config;
	msg.config.len = sizeof(fn->config);
	for (i = 0; i < fn->msix.vectors; i++) {
		postern__device__pci_vector__init(&vector[i]);
		vector[i].address = fn->msix.vector[i].address;
		vector[i].data = fn->msix.vector[i].data;
		vector[i].masked = fn->msix.vector[i].masked;
		vectors[i] = &vector[i];
	}
	msg.vectors = vectors;
	msg.n_vectors = fn->msix.vectors;
	msg.pending = fn->msix.pending;
	to = buf_reserve(out, postern__device__pci_function_state__get_packed_size(&msg));
	if (!to)
		return err_set(err, -ENOMEM, "no memory for the state of PCI function %s",
			       fn->name);
	out->len += postern__device__pci_function_state__pack(&msg, to);
	return 0;
}

static int function_state_check(const struct pci_function *fn,
				const Postern__Device__PciFunctionState *msg, struct err *err)
{
	size_t i;

	if (msg->config.len != PCI_CONFIG_BYTES)
		return err_set(err, -EINVAL, "%zu bytes of PCI configuration, %d are needed",
			       msg->config.len, PCI_CONFIG_BYTES);
	for (i = 0; i < PCI_CONFIG_BYTES; i++)
		if ((msg->config.data[i] ^ fn->config[i]) & ~fn->writable[i])
			return err_set(err, -EINVAL,
				       "another PCI function: its configuration has 0x%02x at 0x%zx, this one's 0x%02x",
				       msg->config.data[i], i, fn->config[i]);
	if (msg->n_vectors != fn->msix.vectors)
		return err_set(err, -EINVAL, "%zu MSI-X vectors, this function has %u",
			       msg->n_vectors, fn->msix.vectors);
	if (fn->msix.vectors < MSIX_VECTORS_MAX && msg->pending >> fn->msix.vectors)
		return err_set(err, -EINVAL, "an MSI-X vector is pending that there is not");
	for (i = 0; i < msg->n_vectors; i++)
		if (msg->vectors[i]->address & 3)
			return err_set(err, -EINVAL,
				       "the address of MSI-X vector %zu is not aligned", i);
	return 0;
}

int pci_function_load(struct pci_function *fn, const uint8_t *data, size_t len, struct err *err)
{
	Postern__Device__PciFunctionState *msg = proto_unpack(
		&postern__device__pci_function_state__descriptor, data, len, PROTO_FIELDS_MAX, err);
	size_t i;
	int r;

	if (!msg)
		return -EINVAL;
	r = function_state_check(fn, msg, err);
	if (!r) {
		msix_reset(&fn->msix);
		for (i = 0; i < msg->n_vectors; i++) {
			fn->msix.vector[i].address = msg->vectors[i]->address;
			fn->msix.vector[i].data = msg->vectors[i]->data;
			fn->msix.vector[i].masked = msg->vectors[i]->masked;
		}
		fn->msix.pending = msg->pending;
		memcpy(fn->config, msg->config.data, sizeof(fn->config));
		config_update(fn);
	}
	postern__device__pci_function_state__free_unpacked(msg, NULL);
	return r;
}
