// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * transport.c - virtio over PCI (virtio 1.2, section 4.1): all register
 * structures are in one BAR, MSI-X too; there is no interrupt line.
 *
 *   0x0000 common configuration    0x1000 ISR    0x2000 device configuration
 *   0x3000 notifications, 4 bytes a queue        0x4000 MSI-X table    0x5000 pending bits
 */
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <stddef.h>
#include <string.h>

#include "base/bytes.h"
#include "device/virtio/vdev.h"

#define BAR 0
#define BAR_BYTES 0x8000
#define COMMON_AT 0x0000
#define COMMON_BYTES 56
#define ISR_AT 0x1000
#define DEVICE_AT 0x2000
#define NOTIFY_AT 0x3000
#define NOTIFY_STRIDE 4
#define TABLE_AT 0x4000
#define PENDING_AT 0x5000
#define REGION_BYTES 0x1000

#define VENDOR 0x1af4
#define DEVICE_BASE 0x1040	/* + virtio type (4.1.2.1) */
#define SUBSYSTEM_MIN 0x1100	/* no legacy driver takes it */
#define REVISION 1

/* ---- the common structure (4.1.4.3) ---- */

static struct vqueue *selected(struct vdev *dev)
{
	return dev->queue_select < dev->queues ? &dev->queue[dev->queue_select] : NULL;
}

static uint32_t half(uint64_t value, uint32_t select)
{
	return select > 1 ? 0 : (uint32_t)(value >> 32 * select);
}

static void half_set(uint64_t *value, unsigned int select, uint32_t to)
{
	if (select <= 1)
		*value = (*value & ~((uint64_t)UINT32_MAX << 32 * select)) | (uint64_t)to << 32 * select;
}

/* The structure as it reads now. */
static void common_image(struct vdev *dev, uint8_t *image)
{
	const struct vqueue *q = selected(dev);

	memset(image, 0, COMMON_BYTES);
	put32(image + VIRTIO_PCI_COMMON_DFSELECT, dev->device_select);
	put32(image + VIRTIO_PCI_COMMON_DF, half(dev->offered, dev->device_select));
	put32(image + VIRTIO_PCI_COMMON_GFSELECT, dev->driver_select);
	put32(image + VIRTIO_PCI_COMMON_GF, half(dev->accepted, dev->driver_select));
	put16(image + VIRTIO_PCI_COMMON_MSIX, dev->config_vector);
	put16(image + VIRTIO_PCI_COMMON_NUMQ, (uint16_t)dev->queues);
	image[VIRTIO_PCI_COMMON_STATUS] = dev->status;
	image[VIRTIO_PCI_COMMON_CFGGENERATION] = dev->generation;
	put16(image + VIRTIO_PCI_COMMON_Q_SELECT, dev->queue_select);
	if (!q)
		return;
	put16(image + VIRTIO_PCI_COMMON_Q_SIZE, q->size);
	put16(image + VIRTIO_PCI_COMMON_Q_MSIX, q->vector);
	put16(image + VIRTIO_PCI_COMMON_Q_ENABLE, q->enabled);
	put16(image + VIRTIO_PCI_COMMON_Q_NOFF, (uint16_t)q->index);
	memcpy(image + VIRTIO_PCI_COMMON_Q_DESCLO, &q->desc, sizeof(q->desc));
	memcpy(image + VIRTIO_PCI_COMMON_Q_AVAILLO, &q->driver, sizeof(q->driver));
	memcpy(image + VIRTIO_PCI_COMMON_Q_USEDLO, &q->device, sizeof(q->device));
}

/* A vector that there is not reads back as none (4.1.5.1.2). */
static uint16_t vector(const struct vdev *dev, uint32_t value)
{
	return value < dev->fn.msix.vectors ? (uint16_t)value : VIRTIO_MSI_NO_VECTOR;
}

static void queue_write16(struct vdev *dev, unsigned int at, uint16_t value)
{
	struct vqueue *q = selected(dev);

	if (!q || dev->resetting)
		return;
	switch (at) {
	case VIRTIO_PCI_COMMON_Q_SIZE:
		if (!q->enabled)
			q->size = value;
		break;
	case VIRTIO_PCI_COMMON_Q_MSIX:
		q->vector = vector(dev, value);
		break;
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		/* 0 is not to be written (4.1.4.3.2). */
		if (value == 1)
			vdev_enable_queue(dev, q);
		break;
	}
}

static void queue_write32(struct vdev *dev, unsigned int at, uint32_t value)
{
	struct vqueue *q = selected(dev);
	uint64_t *address;

	if (!q || q->enabled || dev->resetting)
		return;
	address = at < VIRTIO_PCI_COMMON_Q_AVAILLO ? &q->desc :
		  at < VIRTIO_PCI_COMMON_Q_USEDLO  ? &q->driver :
						     &q->device;
	half_set(address, at / 4 % 2, value);
}

static void common_write32(struct vdev *dev, unsigned int at, uint32_t value)
{
	switch (at) {
	case VIRTIO_PCI_COMMON_DFSELECT:
		dev->device_select = value;
		break;
	case VIRTIO_PCI_COMMON_GFSELECT:
		dev->driver_select = value;
		break;
	case VIRTIO_PCI_COMMON_GF:
		if (!(dev->status & VIRTIO_CONFIG_S_FEATURES_OK))
			half_set(&dev->accepted, dev->driver_select, value);
		break;
	default:
		if (at >= VIRTIO_PCI_COMMON_Q_DESCLO && at <= VIRTIO_PCI_COMMON_Q_USEDHI)
			queue_write32(dev, at, value);
	}
}

/* A field is written whole, a 64-bit one also by halves (4.1.3.1); anything else is dropped. */
static void common_write(struct vdev *dev, unsigned int at, const uint8_t *data, unsigned int size)
{
	uint16_t word = 0;
	uint32_t dword = 0;

	if (at % size)
		return;
	switch (size) {
	case 1:
		if (at == VIRTIO_PCI_COMMON_STATUS)
			vdev_write_status(dev, *data);
		break;
	case 2:
		memcpy(&word, data, sizeof(word));
		if (at == VIRTIO_PCI_COMMON_MSIX)
			dev->config_vector = vector(dev, word);
		else if (at == VIRTIO_PCI_COMMON_Q_SELECT)
			dev->queue_select = word;
		else
			queue_write16(dev, at, word);
		break;
	case 8:
		if (at < VIRTIO_PCI_COMMON_Q_DESCLO)
			break;
		memcpy(&dword, data + 4, sizeof(dword));
		common_write32(dev, at + 4, dword);
		/* fall through */
	case 4:
		memcpy(&dword, data, sizeof(dword));
		common_write32(dev, at, dword);
		break;
	}
}

/* ---- the BAR ---- */

static void read_slice(uint8_t *data, unsigned int size, const uint8_t *from, size_t len,
		       uint64_t at)
{
	memset(data, 0, size);
	if (at < len)
		memcpy(data, from + at, len - at < size ? len - at : size);
}

static void on_bar(void *arg, unsigned int bar, uint64_t offset, bool write, uint8_t *data,
		   unsigned int size)
{
	uint64_t region = offset & ~(uint64_t)(REGION_BYTES - 1), at = offset & (REGION_BYTES - 1);
	uint8_t image[COMMON_BYTES];
	struct vdev *dev = arg;

	(void)bar;
	switch (region) {
	case COMMON_AT:
		if (write && at + size <= COMMON_BYTES)
			common_write(dev, (unsigned int)at, data, size);
		if (write)
			break;
		common_image(dev, image);
		read_slice(data, size, image, sizeof(image), at);
		break;
	case ISR_AT:
		if (write)
			break;
		/* Reading clears it (4.1.4.5). */
		read_slice(data, size, &dev->isr, 1, at);
		if (!at)
			dev->isr = 0;
		break;
	case DEVICE_AT:
		if (!write)
			read_slice(data, size, dev->config, dev->config_len, at);
		else if (dev->ops->config_write && at + size <= dev->config_len && !dev->resetting)
			dev->ops->config_write(dev->arg, (unsigned int)at, data, size);
		break;
	case NOTIFY_AT:
		if (write && at % NOTIFY_STRIDE == 0 && at / NOTIFY_STRIDE < dev->queues)
			vqueue_kick(&dev->queue[at / NOTIFY_STRIDE]);
		break;
	}
}

/* What fails, twice at one place say, is an exit as any other write. */
static void events_change(struct vdev *dev, int (*change)(void *arg, uint64_t gpa, int fd),
			  uint64_t base)
{
	unsigned int i;

	for (i = 0; base && i < dev->queues; i++)
		change(dev->env.arg, base + NOTIFY_AT + i * NOTIFY_STRIDE, dev->queue[i].fd);
}

/*
 * To register an event, KVM waits for every vCPU that is inside a fault, and
 * that vCPU for its page. So, while memory is late, events stay as they were
 * when the guest was last let run: where they are no longer right,
 * notifications are exits, and an event too many looks at a queue in vain.
 */
void vdev_update_ioeventfds(struct vdev *dev)
{
	if (dev->events_at == dev->events_wanted || !dev->env.event_add ||
	    (dev->running && memory_is_late(dev->env.mem)))
		return;
	events_change(dev, dev->env.event_remove, dev->events_at);
	events_change(dev, dev->env.event_add, dev->events_wanted);
	dev->events_at = dev->events_wanted;
}

static void on_moved(void *arg, unsigned int bar, bool mapped, uint64_t base)
{
	struct vdev *dev = arg;

	(void)bar;
	dev->events_wanted = mapped ? base : 0;
	vdev_update_ioeventfds(dev);
}

/* The window in configuration space through which a BAR can be reached (4.1.4.9). */
static void on_config(void *arg, unsigned int offset, bool write, unsigned int size)
{
	struct vdev *dev = arg;
	uint8_t *cap = dev->fn.config + dev->pci_cfg_at,
		*data = cap + sizeof(struct virtio_pci_cap);
	unsigned int data_at = dev->pci_cfg_at + (unsigned int)sizeof(struct virtio_pci_cap);
	struct virtio_pci_cap window;
	unsigned int i;

	/* What was notified while the device was no bus master is still there. */
	for (i = 0;
	     write && offset <= PCI_COMMAND + 1 && offset + size > PCI_COMMAND && i < dev->queues;
	     i++)
		if (dev->queue[i].enabled)
			vqueue_kick(&dev->queue[i]);
	if (offset >= data_at + 4 || offset + size <= data_at)
		return;
	memcpy(&window, cap, sizeof(window));
	if ((window.length != 1 && window.length != 2 && window.length != 4) ||
	    window.offset % window.length)
		return;
	pci_function_bar_touch(&dev->fn, window.bar, window.offset, write, data, window.length);
}

static const struct pci_function_ops function_ops = { .bar = on_bar,
						      .moved = on_moved,
						      .config = on_config };

/* A structure's place as a capability (4.1.4); the first two bytes are the capability's header. */
static unsigned int place(struct vdev *dev, uint8_t type, uint32_t offset, uint32_t length,
			  size_t extra, uint32_t value)
{
	struct {
		struct virtio_pci_cap cap;
		uint32_t value;
	} body = {
		.cap = { .cap_len = (uint8_t)(sizeof(body.cap) + extra), .cfg_type = type, .bar = BAR,
			 .offset = offset, .length = length },
		.value = value,
	}, writable = { .value = UINT32_MAX };
	const bool window = type == VIRTIO_PCI_CAP_PCI_CFG;

	writable.cap =
		(struct virtio_pci_cap){ .bar = 0xff, .offset = UINT32_MAX, .length = UINT32_MAX };
	return pci_function_add_capability(&dev->fn, 0x09, (uint8_t *)&body + 2,
					   sizeof(body.cap) - 2 + extra,
					   window ? (uint8_t *)&writable + 2 : NULL);
}

int vdev_transport_init(struct vdev *dev, struct err *err)
{
	const struct pci_ids ids = {
		.vendor = VENDOR, .device = (uint16_t)(DEVICE_BASE + dev->ops->type), .subsystem_vendor = VENDOR,
		.subsystem = SUBSYSTEM_MIN, .class_code = dev->ops->pci_class, .revision = REVISION,
	};

	pci_function_init(&dev->fn, dev->name, &ids, &function_ops, dev);
	pci_function_add_bar(&dev->fn, BAR, BAR_BYTES);
	place(dev, VIRTIO_PCI_CAP_COMMON_CFG, COMMON_AT, COMMON_BYTES, 0, 0);
	place(dev, VIRTIO_PCI_CAP_ISR_CFG, ISR_AT, 1, 0, 0);
	if (dev->config_len)
		place(dev, VIRTIO_PCI_CAP_DEVICE_CFG, DEVICE_AT, (uint32_t)dev->config_len, 0, 0);
	place(dev, VIRTIO_PCI_CAP_NOTIFY_CFG, NOTIFY_AT, dev->queues * NOTIFY_STRIDE, 4,
	      NOTIFY_STRIDE);
	dev->pci_cfg_at = place(dev, VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 4, 0);
	/* A vector for each queue and one for the configuration. */
	return pci_function_add_msix(&dev->fn, &dev->env.msi, dev->queues + 1, BAR, TABLE_AT,
				     PENDING_AT, err);
}
