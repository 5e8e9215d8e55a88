// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * board_x86.c - the PC's few devices that are not in the kernel's KVM: serial port, power management, clock,
 * and the PCI bus.
 */
#include <errno.h>
#include <stdlib.h>

#include "arch/x86/board.h"
#include "base/log.h"
#include "device/pci/host.h"
#include "device/power.h"
#include "device/rtc.h"
#include "device/serial.h"
#include "device/virtio/balloon.h"
#include "device/virtio/kind.h"
#include "kvm/irq.h"
#include "machine/board.h"

#define RTC_PORT 0x70
#define PORT_A 0x92
/* serial, power, clock, bridge */
#define BOARD_DEVICES_MAX (4 + VIRTIO_DEVICES_MAX)

/* A line to the interrupt controllers. */
struct wire {
	struct vm *vm;
	unsigned int gsi;
};

struct board {
	struct wire com1, sci;
	struct chardev *chardev;
	struct serial *serial;
	struct power *power;
	struct rtc *rtc;
	struct pci_host *pci;
	struct vdev *virtio[VIRTIO_DEVICES_MAX];
	unsigned int virtios;
	struct device device[BOARD_DEVICES_MAX];
	unsigned int devices;
	struct device_event_sink events;
};

static void wire_set(void *arg, bool level)
{
	const struct wire *wire = arg;
	int r = vm_irq_line(wire->vm, wire->gsi, level);

	if (r < 0)
		log_debug("interrupt line %u: error %d", wire->gsi, r);
}

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

	device_event(&board->events, &(struct device_event){ .kind = DEVICE_EVENT_QUIT });
}

/* The reset port is byte 1 of the PCI address register, which takes whole words only. */
static void config_port_access(void *arg, uint64_t offset, bool write, uint8_t *data, unsigned int size)
{
	struct board *board = arg;

	if (offset == BOARD_RESET_PORT - BOARD_PCI_CONFIG && size == 1)
		power_reset_access(board->power, 0, write, data, size);
	else
		pci_host_port_access(board->pci, offset, write, data, size);
}

static void device_add(struct board *board, const struct device_ops *ops, void *dev)
{
	board->device[board->devices++] = (struct device){ ops, dev };
}

static int devices_new(struct board *board, const struct board_config *config, struct err *err)
{
	struct irq_line com1 = { .fn = wire_set, .arg = &board->com1 };
	struct serial_wire wire = {
		.output = serial_output, .accept_input = serial_accept, .arg = board,
	};
	struct power_config power = {
		.sci = { .fn = wire_set, .arg = &board->sci },
		.events = config->events,
		.s5_slp_typ = BOARD_S5_SLP_TYP,
	};
	const struct pci_range windows[PCI_WINDOWS] = {
		{ BOARD_PCI_LOW_BASE, BOARD_PCI_LOW_BYTES },
		{ BOARD_PCI_HIGH_BASE, BOARD_PCI_HIGH_BYTES },
	};
	int r;

	_Static_assert(BOARD_PM_TIMER_HZ == POWER_TIMER_HZ, "one PM timer");
	board->com1 = (struct wire){ config->vm, BOARD_COM1_GSI };
	board->sci = (struct wire){ config->vm, BOARD_SCI_GSI };
	r = serial_new(&board->serial, &com1, &wire, err);
	if (r < 0)
		return r;
	r = power_new(&board->power, &power, err);
	if (r < 0)
		return r;
	r = rtc_new(&board->rtc, NULL, err);
	if (r < 0)
		return r;
	r = pci_host_new(&board->pci, windows, err);
	if (r < 0)
		return r;
	device_add(board, &serial_device_ops, board->serial);
	device_add(board, &power_device_ops, board->power);
	device_add(board, &rtc_device_ops, board->rtc);
	device_add(board, &pci_host_device_ops, board->pci);
	return 0;
}

/* ---- virtio ---- */

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

static int virtio_make(struct board *board, const struct virtio_choice *choice, const struct vdev_env *env, unsigned int number,
		       struct err *err)
{
	struct vdev *dev;
	unsigned int slot;
	int r = choice->kind->make(&dev, env, choice->text, number, err);

	if (r < 0)
		return err_prefix(err, "--%s", choice->kind->option);
	board->virtio[board->virtios++] = dev;
	device_add(board, &dev->device_ops, dev);
	return pci_host_add(board->pci, &dev->fn, &slot, err);
}

static int virtio_new(struct board *board, const struct board_config *config, struct err *err)
{
	const struct vdev_env env = {
		.mem = vm_memory(config->vm), .loop = config->loop, .cpus = vm_vcpus(config->vm), .machine = config->name,
		.msi = { &msi_ops, config->vm },
		.event_add = event_add, .event_remove = event_remove, .arg = config->vm,
		.incoming = config->incoming, .events = config->events,
	};
	const struct virtio_choices *choices = config->virtio;
	unsigned int i, k, number;
	int r = 0;

	for (k = 0; k < virtio_kinds_n; k++)
		for (i = number = 0; i < choices->n && !r; i++)
			if (choices->choice[i].kind == virtio_kinds[k])
				r = virtio_make(board, &choices->choice[i], &env, number++, err);
	return r;
}

struct vdev *board_balloon(const struct board *board)
{
	unsigned int i;

	for (i = 0; i < board->virtios; i++)
		if (balloon_is(board->virtio[i]))
			return board->virtio[i];
	return NULL;
}

void board_start(struct board *board)
{
	unsigned int i;

	for (i = 0; i < board->virtios; i++)
		vdev_start(board->virtio[i]);
}

void board_stop(struct board *board)
{
	unsigned int i;

	for (i = 0; i < board->virtios; i++)
		vdev_stop(board->virtio[i]);
}

void board_memory_complete(struct board *board)
{
	unsigned int i;

	for (i = 0; i < board->virtios; i++)
		vdev_memory_complete(board->virtio[i]);
}

int board_drain(struct board *board, int64_t deadline_ns, struct err *err)
{
	unsigned int i;
	int r = 0;

	for (i = 0; i < board->virtios && !r; i++)
		r = vdev_drain(board->virtio[i], deadline_ns, err);
	return r;
}

bool board_is_busy(struct board *board)
{
	unsigned int i, n = 0;

	for (i = 0; i < board->virtios; i++)
		n += vdev_in_hand(board->virtio[i]);
	return n;
}

int board_claim(struct board *board, struct err *err)
{
	unsigned int i;
	int r = 0;

	for (i = 0; i < board->virtios && !r; i++)
		r = vdev_claim(board->virtio[i], err);
	return r;
}

void board_release(struct board *board)
{
	unsigned int i;

	for (i = 0; i < board->virtios; i++)
		vdev_release(board->virtio[i]);
}

bool board_disk(struct board *board, unsigned int i, struct disk_info *info)
{
	unsigned int k;

	for (k = 0; k < board->virtios; k++)
		if (vdev_disk_info(board->virtio[k], info) && !i--)
			return true;
	return false;
}

/* ---- buses ---- */

static int memory_add(const struct board *board, struct bus *mmio, struct err *err)
{
	int r;

	_Static_assert(BOARD_PCI_ECAM_BYTES == PCI_ECAM_BYTES, "configuration space of one bus");
	r = bus_add(mmio, "PCI configuration", BOARD_PCI_ECAM, BOARD_PCI_ECAM_BYTES, 4, pci_host_ecam_access, board->pci,
		    err);
	if (!r)
		r = bus_add(mmio, "PCI window", BOARD_PCI_LOW_BASE, BOARD_PCI_LOW_BYTES, 8, pci_host_window_access,
			    pci_host_window(board->pci, 0), err);
	if (!r)
		r = bus_add(mmio, "PCI window above 4 GiB", BOARD_PCI_HIGH_BASE, BOARD_PCI_HIGH_BYTES, 8,
			    pci_host_window_access, pci_host_window(board->pci, 1), err);
	return r;
}

static int ports_add(struct board *board, struct bus *pio, struct err *err)
{
	const struct {
		const char *owner;
		uint16_t port, len;
		unsigned int width;
		bus_access_fn access;
		void *arg;
	} ports[] = {
		{ "serial", BOARD_COM1, BOARD_COM1_PORTS, 1, serial_access, board->serial },
		{ "rtc", RTC_PORT, RTC_PORTS, 1, rtc_access, board->rtc },
		{ "pm1 event", BOARD_PM1_EVENT, BOARD_PM1_EVENT_BYTES, 1, power_event_access, board->power },
		{ "pm1 control", BOARD_PM1_CONTROL, BOARD_PM1_CONTROL_BYTES, 1, power_control_access,
		  board->power },
		{ "pm timer", BOARD_PM_TIMER, BOARD_PM_TIMER_BYTES, 4, power_timer_access, board->power },
		{ "PCI configuration", BOARD_PCI_CONFIG, BOARD_PCI_CONFIG_PORTS, 4, config_port_access, board },
		{ "i8042", BOARD_I8042_COMMAND, 1, 1, power_i8042_access, board->power },
		{ "port a", PORT_A, 1, 1, power_port_a_access, board->power },
	};
	size_t i;
	int r = 0;

	for (i = 0; i < sizeof(ports) / sizeof(ports[0]) && r == 0; i++)
		r = bus_add(pio, ports[i].owner, ports[i].port, ports[i].len, ports[i].width,
			    ports[i].access, ports[i].arg, err);
	return r;
}

int board_new(struct board **out, const struct board_config *config, struct err *err)
{
	struct board *board = calloc(1, sizeof(*board));
	struct chardev_ops ops = {
		.input = chardev_input, .quit = chardev_quit, .arg = board,
	};
	int r;

	if (!board)
		return err_set(err, -ENOMEM, "no memory for the board");
	board->events = config->events;
	r = devices_new(board, config, err);
	if (r == 0)
		r = ports_add(board, config->pio, err);
	if (r == 0)
		r = memory_add(board, config->mmio, err);
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
	unsigned int i;

	if (!board)
		return;
	chardev_free(board->chardev);
	for (i = 0; i < board->virtios; i++)
		vdev_free(board->virtio[i]);
	serial_free(board->serial);
	power_free(board->power);
	rtc_free(board->rtc);
	pci_host_free(board->pci);
	free(board);
}

const struct device *board_devices(const struct board *board, unsigned int *n)
{
	*n = board->devices;
	return board->device;
}

void board_press_power_button(struct board *board)
{
	power_press_button(board->power);
}
