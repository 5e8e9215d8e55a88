/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Between board.c, which has what every board has, and board_<architecture>.c,
 * which puts devices at their places: all that a new architecture's board is.
 */
#ifndef POSTERN_MACHINE_BOARD_INTERNAL_H
#define POSTERN_MACHINE_BOARD_INTERNAL_H

#include "device/identity.h"
#include "device/pci/host.h"
#include "device/serial.h"
#include "device/virtio/set.h"
#include "machine/board.h"

/* An architecture's own devices, beside those of the virtio set. */
#define BOARD_OWN_MAX 8
#define BOARD_DEVICES_MAX (BOARD_OWN_MAX + VIRTIO_DEVICES_MAX)

struct board {
	struct vm *vm;
	struct device_event_sink events;
	struct chardev *chardev;	/* the far side of the serial port */
	struct serial *serial;
	struct identity *identity;
	struct pci_host *pci;		/* NULL: this board has no PCI bus */
	struct virtio_set *virtio;
	struct device device[BOARD_DEVICES_MAX];
	unsigned int devices;
	void *own;			/* the architecture's, allocated */
};

/* ---- board_<architecture>.c ---- */

/*
 * Makes the serial port, the identity, and the PCI bus if there is one, as below, and
 * whatever else this board has; puts each on a bus. board_own_free is called
 * after an error as well.
 */
int board_own_new(struct board *board, const struct board_config *config, struct err *err);
void board_own_free(struct board *board);
/* board.h's board_press_power_button is the architecture's, too. */

/* ---- board.c, for them ---- */

/* A serial port with this interrupt line; the caller puts it on a bus. */
int board_add_serial(struct board *board, const struct irq_line *line, struct err *err);
/* What tells a guest which machine it is, in vm_device_pages, with this interrupt line. */
int board_add_identity(struct board *board, const struct irq_line *line, struct err *err);
/*
 * A PCI bus whose BARs answer in these windows, and configuration space (ECAM),
 * all of it on `mmio`.
 */
int board_add_pci(struct board *board, struct bus *mmio, uint64_t ecam,
		  const struct pci_range window[PCI_WINDOWS], struct err *err);
/* Has state, saved in the order in which they are added. */
void board_add_device(struct board *board, const struct device_ops *ops, void *dev);

#endif
