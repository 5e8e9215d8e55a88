/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A PCI function: its configuration space, base address registers,
 * capabilities, MSI-X (PCI Local Bus Specification 3.0, chapter 6). What the
 * guest writes there is hostile: each bit is writable only where that was said,
 * and a base address counts only where the bridge has a window.
 *
 * How it works. `config` is the space as it reads; `writable` has a one for
 * each bit that a write changes. All that follows from a write is worked out
 * anew from the bytes afterwards: where BARs answer, what MSI-X does.
 *
 * The function's lock guards all of it, and whatever its device keeps: every
 * callback comes with the lock held, and the device takes it when it starts
 * something itself. After it come the bridge's and the interrupt carrier's
 * locks.
 */
#ifndef POSTERN_DEVICE_PCI_FUNCTION_H
#define POSTERN_DEVICE_PCI_FUNCTION_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "device/pci/msix.h"

#define PCI_CONFIG_BYTES 256
#define PCI_BARS 6

struct pci_host;

struct pci_ids {
	uint16_t vendor, device, subsystem_vendor, subsystem;
	uint32_t class_code;	/* base class, subclass, interface: 24 bits */
	uint8_t revision;
};

/* Each may be NULL. With the function's lock held; must not wait. */
struct pci_function_ops {
	/*
	 * An access of 1 to 8 bytes, wholly inside the BAR; MSI-X's parts of it
	 * never get here. Filled with ones when read.
	 */
	void (*bar)(void *arg, unsigned int bar, uint64_t offset, bool write, uint8_t *data,
		    unsigned int size);
	/* The BAR answers at `base` from now on, or (mapped false) no longer does. */
	void (*moved)(void *arg, unsigned int bar, bool mapped, uint64_t base);
	/* Before a read of configuration space, and after a write to it. */
	void (*config)(void *arg, unsigned int offset, bool write, unsigned int size);
};

struct pci_bar {
	uint64_t size;		/* 0: there is none */
	uint64_t home;		/* where it is after a reset, as firmware would have put it */
	uint64_t base;		/* where it answers, if mapped */
	bool mapped;
};

struct pci_function {
	const char *name;
	const struct pci_function_ops *ops;
	void *arg;
	struct pci_host *host;
	pthread_mutex_t lock;
	uint8_t config[PCI_CONFIG_BYTES], writable[PCI_CONFIG_BYTES], initial[PCI_CONFIG_BYTES];
	unsigned int end;	/* of the capabilities */
	unsigned int last;	/* capability: where the next one is linked */
	struct pci_bar bar[PCI_BARS];
	struct msix msix;
	unsigned int msix_at, msix_bar;
	uint64_t msix_table, msix_pending;
};

/* ---- while the machine is built ---- */

/* name: static text or as long-lived as the function. */
void pci_function_init(struct pci_function *fn, const char *name, const struct pci_ids *ids,
		       const struct pci_function_ops *ops, void *arg);
void pci_function_fini(struct pci_function *fn);
/*
 * A 64-bit memory BAR, in registers `bar` and `bar` + 1; size a power of two of
 * 16 bytes to 2 GiB.
 */
void pci_function_add_bar(struct pci_function *fn, unsigned int bar, uint64_t size);
/*
 * Appends a capability: `len` bytes behind its two header bytes. writable: as
 * many bytes, ones for bits that the guest may change, or NULL. Returns where
 * its header is.
 */
unsigned int pci_function_add_capability(struct pci_function *fn, uint8_t id, const void *body,
					 size_t len, const void *writable);
/*
 * MSI-X, with table and pending bits at these offsets of a BAR (8-byte aligned,
 * not overlapping).
 */
int pci_function_add_msix(struct pci_function *fn, const struct msi *msi, unsigned int vectors,
			  unsigned int bar, uint64_t table, uint64_t pending, struct err *err);

/* ---- the guest; any thread, takes the lock ---- */

/* Registers of 1 to 4 bytes; beyond PCI_CONFIG_BYTES there is nothing (all ones). */
void pci_function_config_access(struct pci_function *fn, unsigned int offset, bool write,
				uint8_t *data, unsigned int size);
/* At an address that the BAR answered at a moment ago. False: it does so no longer. */
bool pci_function_bar_access(struct pci_function *fn, unsigned int bar, uint64_t address,
			     bool write, uint8_t *data, unsigned int size);

/* ---- the device; lock held ---- */

/*
 * Reads or writes a BAR as the guest would (virtio's access through
 * configuration space). All ones outside of it.
 */
void pci_function_bar_touch(struct pci_function *fn, unsigned int bar, uint64_t offset, bool write,
			    uint8_t *data, unsigned int size);
/* May it read and write memory (bus master, 6.2.2)? */
bool pci_function_is_master(const struct pci_function *fn);
/* To power-on state, with BARs where firmware would have put them. */
void pci_function_reset(struct pci_function *fn);
/* The guest's part of the state, a PciFunctionState message (device/pci.proto). 0 or -ENOMEM. */
int pci_function_save(struct pci_function *fn, struct buf *out, struct err *err);
/* Hostile input: on an error nothing has changed. */
int pci_function_load(struct pci_function *fn, const uint8_t *data, size_t len, struct err *err);

#endif
