/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A PCI host bridge with one bus: configuration space by ECAM (PCI Express Base
 * Specification, section 7.2.2) and by configuration mechanism #1 (PCI 3.0,
 * section 3.2.2.3.2), and the windows in which BARs answer.
 *
 * Functions are added while the machine is built. The bus never changes; which
 * function answers where in a window does, and is looked up under the bridge's
 * lock, which is taken after a function's and held for the look-up alone.
 */
#ifndef POSTERN_DEVICE_PCI_HOST_H
#define POSTERN_DEVICE_PCI_HOST_H

#include "device/device.h"
#include "device/pci/function.h"

#define PCI_SLOTS 32
#define PCI_WINDOWS 2
/* Ports 0xcf8 to 0xcff: address, data. */
#define PCI_PORTS 8
/* Of the one bus. */
#define PCI_ECAM_BYTES (UINT64_C(1) << 20)

struct pci_range {
	uint64_t base, len;
};

struct pci_host;

extern const struct device_ops pci_host_device_ops;

/*
 * BARs are put into windows in the order in which they stand here; a length of
 * 0: no window. -ENOMEM.
 */
int pci_host_new(struct pci_host **out, const struct pci_range window[PCI_WINDOWS],
		 struct err *err);
/* After its functions' users have gone. */
void pci_host_free(struct pci_host *host);
/*
 * As function 0 of the next slot; its BARs are given a place. -ENOSPC. The
 * function outlives the bridge's use.
 */
int pci_host_add(struct pci_host *host, struct pci_function *fn, unsigned int *slot,
		 struct err *err);

/* bus_access_fns; any thread. `window` is an element of pci_host_windows. */
void pci_host_port_access(void *host, uint64_t offset, bool write, uint8_t *data,
			  unsigned int size);
void pci_host_ecam_access(void *host, uint64_t offset, bool write, uint8_t *data,
			  unsigned int size);
void pci_host_window_access(void *window, uint64_t offset, bool write, uint8_t *data,
			    unsigned int size);
void *pci_host_window(struct pci_host *host, unsigned int i);

/* ---- for function.c; its function's lock is held ---- */

bool pci_host_has_window(const struct pci_host *host, uint64_t base, uint64_t len);
void pci_host_map(struct pci_host *host, struct pci_function *fn, unsigned int bar);
void pci_host_unmap(struct pci_host *host, struct pci_function *fn, unsigned int bar);

#endif
