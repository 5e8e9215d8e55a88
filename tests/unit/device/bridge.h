/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A PCI bridge with virtio devices behind it, as a driver sees them: registers of the one whose BAR
 * is at `bar` in the bridge's window.
 */
#ifndef POSTERN_TESTS_DEVICE_BRIDGE_H
#define POSTERN_TESTS_DEVICE_BRIDGE_H

#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>

#include "device/pci/host.h"
#include "device/virtio/vdev.h"
#include "driver.h"
#include "fixture.h"

#define BRIDGE_WINDOW UINT64_C(0xc0000000)
#define BRIDGE_NOTIFY 0x3000
#define BRIDGE_TABLE 0x4000
/* As a driver that takes its device over. */
#define BRIDGE_FEATURES_OK \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK)

static inline struct pci_host *bridge_new(void)
{
	const struct pci_range windows[PCI_WINDOWS] = { { BRIDGE_WINDOW, 0x100000 }, { 0, 0 } };
	struct pci_host *host;
	struct err err;

	assert_int_equal(pci_host_new(&host, windows, &err), 0);
	return host;
}

/* Puts a device behind it, and switches it on. */
static inline void bridge_add(struct pci_host *host, struct vdev *dev)
{
	uint16_t command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	unsigned int slot;
	struct err err;

	assert_int_equal(pci_host_add(host, &dev->fn, &slot, &err), 0);
	pci_host_ecam_access(host, slot << 15 | PCI_COMMAND, true, (uint8_t *)&command, 2);
}

static inline uint64_t bridge_get(struct pci_host *host, uint64_t at, unsigned int size)
{
	uint64_t value = 0;

	pci_host_window_access(pci_host_window(host, 0), at, false, (uint8_t *)&value, size);
	return value;
}

static inline void bridge_put(struct pci_host *host, uint64_t at, uint64_t value, unsigned int size)
{
	pci_host_window_access(pci_host_window(host, 0), at, true, (uint8_t *)&value, size);
}

/* What the device offers. */
static inline uint64_t bridge_features(struct pci_host *host, uint64_t bar)
{
	uint64_t value;

	bridge_put(host, bar + VIRTIO_PCI_COMMON_DFSELECT, 1, 4);
	value = bridge_get(host, bar + VIRTIO_PCI_COMMON_DF, 4) << 32;
	bridge_put(host, bar + VIRTIO_PCI_COMMON_DFSELECT, 0, 4);
	return value | bridge_get(host, bar + VIRTIO_PCI_COMMON_DF, 4);
}

static inline void bridge_accept(struct pci_host *host, uint64_t bar, uint64_t features)
{
	bridge_put(host, bar + VIRTIO_PCI_COMMON_GFSELECT, 0, 4);
	bridge_put(host, bar + VIRTIO_PCI_COMMON_GF, features & UINT32_MAX, 4);
	bridge_put(host, bar + VIRTIO_PCI_COMMON_GFSELECT, 1, 4);
	bridge_put(host, bar + VIRTIO_PCI_COMMON_GF, features >> 32, 4);
	bridge_put(host, bar + VIRTIO_PCI_COMMON_STATUS, BRIDGE_FEATURES_OK, 1);
}

/* Enables MSI-X of the device in that slot, n vectors unmasked. */
static inline void bridge_vectors(struct pci_host *host, unsigned int slot, uint64_t bar,
				  unsigned int n)
{
	uint16_t on = PCI_MSIX_FLAGS_ENABLE;
	unsigned int at;

	for (at = 0x34; at < 0x100;) {
		uint8_t cap[2];

		pci_host_ecam_access(host, slot << 15 | at, false, cap, 2);
		at = at == 0x34 ? cap[0] : cap[1];
		pci_host_ecam_access(host, slot << 15 | at, false, cap, 2);
		if (cap[0] == PCI_CAP_ID_MSIX)
			break;
	}
	pci_host_ecam_access(host, slot << 15 | (at + PCI_MSIX_FLAGS), true, (uint8_t *)&on, 2);
	for (at = 0; at < n; at++) {
		bridge_put(host, bar + BRIDGE_TABLE + 16 * at, 0xfee00000, 4);
		bridge_put(host, bar + BRIDGE_TABLE + 16 * at + 12, 0, 4);
	}
}

/* Enables queue i with the driver's rings and a vector. */
static inline void bridge_queue(struct pci_host *host, uint64_t bar, unsigned int i,
				const struct driver *d, unsigned int vector)
{
	bridge_put(host, bar + VIRTIO_PCI_COMMON_Q_SELECT, i, 2);
	bridge_put(host, bar + VIRTIO_PCI_COMMON_Q_SIZE, d->size, 2);
	bridge_put(host, bar + VIRTIO_PCI_COMMON_Q_MSIX, vector, 2);
	bridge_put(host, bar + VIRTIO_PCI_COMMON_Q_DESCLO, d->desc, 4);
	bridge_put(host, bar + VIRTIO_PCI_COMMON_Q_AVAILLO, d->avail, 4);
	bridge_put(host, bar + VIRTIO_PCI_COMMON_Q_USEDLO, d->used, 8);
	bridge_put(host, bar + VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
}

#endif
