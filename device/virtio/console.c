// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * console.c - virtio-console (virtio 1.2, section 5.3): one port on a character
 * back end, /dev/hvc0 for a guest.
 *
 * Input is taken from the back end only as far as the driver has buffers for
 * it. While there are none, or the queue waits for a page, or the machine is
 * stopped, the rest stays with the back end, which then no longer reads: back
 * pressure reaches the far side. Any kick of the queue (buffers, the page, the
 * start) asks for it again.
 *
 * Output is given back to the driver at once, taken or not: drivers spin until
 * it is. What does not fit into the back end's ring drives out the oldest
 * there.
 */
#include <errno.h>
#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>

#include "device/chardev.h"
#include "device/virtio/type.h"

#define QUEUE_SIZE 64
#define PIECE_BYTES 4096

enum { QUEUE_RX, QUEUE_TX, QUEUES };

struct console {
	struct vdev dev;
	struct chardev *chardev;
	struct virtio_console_config config;
};

/* ---- input ---- */

/* chardev_ops.input. Main thread. */
static size_t on_input(void *arg, const uint8_t *data, size_t len)
{
	struct console *console = arg;
	struct vqueue *q = &console->dev.queue[QUEUE_RX];
	struct vchain *chain;
	size_t taken = 0, part;
	unsigned int n;

	vdev_lock(&console->dev);
	for (n = 0; taken < len && n < VDEV_TURN_CHAINS && vdev_take(&console->dev, q, &chain);
	     n++) {
		part = chain->in_bytes < len - taken ? (size_t)chain->in_bytes : len - taken;
		vchain_write(chain, 0, data + taken, part);
		taken += part;
		vdev_give(&console->dev, q, chain, (uint32_t)part);
	}
	/* Others' turn; the kick asks for the rest. */
	if (n == VDEV_TURN_CHAINS)
		vqueue_kick(q);
	vdev_unlock(&console->dev);
	return taken;
}

/* ---- output; the device's lock is held ---- */

static void console_output(struct console *console, const struct vchain *chain)
{
	uint8_t piece[PIECE_BYTES];
	uint64_t at = 0, end = chain->out_bytes;
	size_t part;

	/* More than the last of it is not kept in any case. */
	if (end > CHARDEV_RING_BYTES) {
		at = end - CHARDEV_RING_BYTES;
		chardev_skip(console->chardev, at);
	}
	for (; at < end; at += part) {
		part = end - at < sizeof(piece) ? (size_t)(end - at) : sizeof(piece);
		if (!vchain_read(chain, at, piece, part))
			break;
		chardev_write(console->chardev, piece, part);
	}
}

static void console_on_queue(void *arg, struct vqueue *q)
{
	struct console *console = arg;
	struct vchain *chain;
	unsigned int n = 0;

	if (q->index == QUEUE_RX) {
		chardev_accept_input(console->chardev);
		return;
	}
	for (; n < VDEV_TURN_CHAINS && vdev_take(&console->dev, q, &chain); n++) {
		console_output(console, chain);
		vdev_give(&console->dev, q, chain, 0);
	}
	if (n == VDEV_TURN_CHAINS)
		vqueue_kick(q);
}

/* ---- life ---- */

static void on_quit(void *arg)
{
	const struct console *console = arg;

	device_event(&console->dev.env.events, &(struct device_event){ .type = DEVICE_EVENT_QUIT });
}

static void console_free(void *arg)
{
	struct console *console = arg;

	if (console->chardev)
		chardev_free(console->chardev);
	vdev_fini(&console->dev);
	free(console);
}

static const struct vdev_ops console_ops = {
	.name = "virtio-console",
	.version = 1,
	.type = VIRTIO_ID_CONSOLE,
	.pci_class = 0x078000,
	.queue = console_on_queue,
	.free = console_free,
};

static int console_check(const char *text, struct err *err)
{
	struct chardev_config config;

	return chardev_parse(&config, text, err);
}

static int console_make(struct vdev **out, const struct vdev_env *env, const char *text,
			unsigned int number, struct err *err)
{
	struct console *console = calloc(1, sizeof(*console));
	struct chardev_ops ops = { .input = on_input, .quit = on_quit, .arg = console };
	struct vdev_config config = { .number = number,
				      .queues = QUEUES,
				      .queue_size = QUEUE_SIZE };
	struct chardev_config chardev;
	int r;

	if (!console)
		return err_set(err, -ENOMEM, "no memory for virtio-console");
	config.config = &console->config;
	config.config_len = sizeof(console->config);
	/* The device is there before the first input. */
	r = vdev_init(&console->dev, &console_ops, console, env, &config, err);
	if (!r)
		r = chardev_parse(&chardev, text, err);
	if (!r)
		r = chardev_new(&console->chardev, env->loop, &chardev, &ops, err);
	if (r < 0) {
		console_free(console);
		return r;
	}
	*out = &console->dev;
	return 0;
}

const struct virtio_type console_type = { .option = "console",
					  .max = 1,
					  .check = console_check,
					  .make = console_make };
