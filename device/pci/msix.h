/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A function's message signalled interrupts, MSI-X (PCI Local Bus Specification
 * 3.0, section 6.8.2): the table of where each vector goes, and the pending
 * bits of those that are masked.
 *
 * Nothing here has a lock: all calls are made with the function's held.
 */
#ifndef POSTERN_DEVICE_PCI_MSIX_H
#define POSTERN_DEVICE_PCI_MSIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* One 64-bit word of pending bits. */
#define MSIX_VECTORS_MAX 64
#define MSIX_ENTRY_BYTES 16

/*
 * Who carries the messages; handles are its own. set and fire: any thread, with
 * the function's lock held; must not wait.
 */
struct msi_ops {
	int (*open)(void *arg, unsigned int *handle, struct err *err);
	void (*close)(void *arg, unsigned int handle);
	/* A negative errno: there is no such place. */
	int (*set)(void *arg, unsigned int handle, uint64_t address, uint32_t data);
	void (*fire)(void *arg, unsigned int handle);
};

struct msi {
	const struct msi_ops *ops;
	void *arg;
};

struct msix_vector {
	uint64_t address;
	uint32_t data;
	bool masked;
	bool routed;		/* `address` and `data` are where the carrier brings it */
	unsigned int handle;
};

struct msix {
	struct msi msi;
	unsigned int vectors;
	struct msix_vector vector[MSIX_VECTORS_MAX];
	uint64_t pending;
	bool enabled, masked;	/* message control: MSI-X enable, function mask */
};

/* 1 to MSIX_VECTORS_MAX vectors, all masked. msi is copied. */
int msix_init(struct msix *msix, const struct msi *msi, unsigned int vectors, struct err *err);
void msix_fini(struct msix *msix);
void msix_reset(struct msix *msix);
/* The guest has written message control. */
void msix_control(struct msix *msix, bool enabled, bool masked);
/*
 * The table and the pending bits, as bus_access_fn; accesses that are not of 4
 * or 8 bytes, aligned, read as ones and are dropped.
 */
void msix_table_access(struct msix *msix, uint64_t offset, bool write, uint8_t *data,
		       unsigned int size);
void msix_pending_access(struct msix *msix, uint64_t offset, bool write, uint8_t *data,
			 unsigned int size);
/*
 * The function has something to say. A vector that there is not is dropped
 * (virtio's VIRTIO_MSI_NO_VECTOR).
 */
void msix_fire(struct msix *msix, unsigned int vector);

#endif
