// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * board.c - what the boards of all architectures have: a serial port with its
 * character device, a PCI bus with the virtio devices on it, and their ways to
 * KVM. Where they are, and what else there is, says board_<architecture>.c.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "device/identity.h"
#include "kvm/irq.h"
#include "machine/board_internal.h"

/* ---- the serial port ---- */

static void serial_output(void *arg, const uint8_t *data, size_t len)
{
	const struct board *board = arg;

	chardev_write(board->chardev, data, len);
}

static void serial_accept(void *arg)
{
	const struct board *board = arg;

	chardev_accept_input(board->chardev);
}

static size_t chardev_input(void *arg, const uint8_t *data, size_t len)
{
	const struct board *board = arg;

	return serial_input(board->serial, data, len);
}

static void chardev_quit(void *arg)
{
	const struct board *board = arg;

	device_event(&board->events, &(struct device_event){ .type = DEVICE_EVENT_QUIT });
}

int board_add_serial(struct board *board, const struct irq_line *line, struct err *err)
{
	struct serial_wire wire = {
		.output = serial_output, .accept_input = serial_accept, .arg = board,
	};
	int r = serial_new(&board->serial, line, &wire, err);

	if (r < 0)
		return r;
	board_add_device(board, &serial_device_ops, board->serial);
	return 0;
}

/* ---- which machine it is ---- */

int board_add_identity(struct board *board, const struct irq_line *line, struct err *err)
{
	int r = identity_new(&board->identity, vm_device_pages(board->vm), line, err);

	if (r < 0)
		return r;
	board_add_device(board, &identity_device_ops, board->identity);
	return 0;
}

struct identity *board_identity(const struct board *board)
{
	return board->identity;
}

/* ---- PCI and virtio ---- */

static int msi_open(void *vm, unsigned int *handle, struct err *err)
{
	return vm_msi_open(vm, handle, err);
}

static void msi_close(void *vm, unsigned int handle)
{
	vm_msi_close(vm, handle);
}

static int msi_set(void *vm, unsigned int handle, uint64_t address, uint32_t data)
{
	return vm_msi_set(vm, handle, address, data);
}

static void msi_fire(void *vm, unsigned int handle)
{
	vm_msi_fire(vm, handle);
}

static const struct msi_ops msi_ops = { msi_open, msi_close, msi_set, msi_fire };

static int event_add(void *vm, uint64_t gpa, int fd)
{
	return vm_ioeventfd_add(vm, GPA(gpa), fd);
}

static int event_remove(void *vm, uint64_t gpa, int fd)
{
	return vm_ioeventfd_remove(vm, GPA(gpa), fd);
}

int board_add_pci(struct board *board, struct bus *mmio, uint64_t ecam,
		  const struct pci_range window[PCI_WINDOWS], struct err *err)
{
	static const char *const owner[PCI_WINDOWS] = { "PCI window", "PCI window above 4 GiB" };
	unsigned int i;
	int r = pci_host_new(&board->pci, window, err);

	if (r < 0)
		return r;
	board_add_device(board, &pci_host_device_ops, board->pci);
	r = bus_add(mmio, "PCI configuration", ecam, PCI_ECAM_BYTES, 4, pci_host_ecam_access,
		    board->pci, err);
	for (i = 0; i < PCI_WINDOWS && !r; i++)
		if (window[i].len)
			r = bus_add(mmio, owner[i], window[i].base, window[i].len, 8,
				    pci_host_window_access, pci_host_window(board->pci, i), err);
	return r;
}

static int virtio_new(struct board *board, const struct board_config *config, struct err *err)
{
	const struct vdev_env env = {
		.mem = vm_memory(config->vm), .loop = config->loop,
		.cpus = vm_vcpus(config->vm), .machine = config->name,
		.msi = { &msi_ops, config->vm },
		.event_add = event_add, .event_remove = event_remove, .arg = config->vm,
		.disks_elsewhere = config->disks_elsewhere, .events = config->events,
	};
	unsigned int i;
	int r = virtio_set_new(&board->virtio, board->pci, config->virtio, &env, err);

	for (i = 0; !r && i < virtio_set_count(board->virtio); i++) {
		struct vdev *dev = virtio_set_device(board->virtio, i);

		board_add_device(board, &dev->device_ops, dev);
	}
	return r;
}

/* ---- life ---- */

int board_new(struct board **out, const struct board_config *config, struct err *err)
{
	struct board *board = calloc(1, sizeof(*board));
	struct chardev_ops ops = {
		.input = chardev_input, .quit = chardev_quit, .arg = board,
	};
	int r;

	if (!board)
		return err_set(err, -ENOMEM, "no memory for the board");
	board->vm = config->vm;
	board->events = config->events;
	r = board_own_new(board, config, err);
	if (r == 0)
		r = virtio_new(board, config, err);
	if (r == 0)
		r = chardev_new(&board->chardev, config->loop, config->serial, &ops, err);
	if (r < 0) {
		board_free(board);
		return r;
	}
	*out = board;
	return 0;
}

void board_free(struct board *board)
{
	if (!board)
		return;
	chardev_free(board->chardev);
	virtio_set_free(board->virtio);
	serial_free(board->serial);
	board_own_free(board);
	pci_host_free(board->pci);
	/* Its pages last as long as the VM's descriptor may be used: no vCPU is left. */
	identity_free(board->identity);
	free(board);
}

void board_add_device(struct board *board, const struct device_ops *ops, void *dev)
{
	board->device[board->devices++] = (struct device){ ops, dev };
}

const struct device *board_devices(const struct board *board, unsigned int *n)
{
	*n = board->devices;
	return board->device;
}

/* ---- what is done to all that may have requests of the guest's ---- */

struct vdev *board_balloon(const struct board *board)
{
	return virtio_set_balloon(board->virtio);
}

bool board_disk(struct board *board, unsigned int i, struct disk_info *info)
{
	return virtio_set_disk(board->virtio, i, info);
}

void board_start(struct board *board)
{
	virtio_set_start(board->virtio);
}

void board_stop(struct board *board)
{
	virtio_set_stop(board->virtio);
}

void board_memory_complete(struct board *board)
{
	virtio_set_memory_complete(board->virtio);
}

int board_drain(struct board *board, int64_t deadline_ns, struct err *err)
{
	return virtio_set_drain(board->virtio, deadline_ns, err);
}

bool board_is_busy(struct board *board)
{
	return virtio_set_is_busy(board->virtio);
}

int board_claim(struct board *board, struct err *err)
{
	return virtio_set_claim(board->virtio, err);
}

void board_release(struct board *board)
{
	virtio_set_release(board->virtio);
}

int board_renew(struct board *board, struct err *err)
{
	int r = identity_renew(board_identity(board), err);

	if (!r)
		virtio_set_renew(board->virtio);
	return r;
}
