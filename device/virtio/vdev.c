// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "device/virtio/vdev.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/log.h"
#include "base/loop.h"
#include "base/proto.h"
#include "virtio.pb-c.h"

#define BIT(n) (UINT64_C(1) << (n))
#define FEATURES_COMMON                                                                           \
	(BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_RING_F_INDIRECT_DESC) | \
	 BIT(VIRTIO_RING_F_EVENT_IDX))
#define FAILURES_LOGGED 16
#define STATUS_ALL                                                                                                     \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FEATURES_OK | \
	 VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED)

typedef Postern__Device__VirtioState VirtioState;
typedef Postern__Device__VirtioQueue VirtioQueue;

/* A queue's eventfd in the main loop; freed once the loop has let go of it. */
struct vdev_watch {
	uv_poll_t poll;
	struct vdev *dev;
	unsigned int queue;
};

void vdev_lock(struct vdev *dev)
{
	pthread_mutex_lock(&dev->fn.lock);
}

void vdev_unlock(struct vdev *dev)
{
	pthread_mutex_unlock(&dev->fn.lock);
}

/* ---- interrupts and failure ---- */

static void interrupt_config(struct vdev *dev)
{
	dev->isr |= VIRTIO_PCI_ISR_CONFIG;
	msix_fire(&dev->fn.msix, dev->config_vector);
}

static void interrupt_queue(struct vdev *dev, const struct vqueue *q)
{
	dev->isr |= 1;
	msix_fire(&dev->fn.msix, q->vector);
}

void vdev_config_changed(struct vdev *dev)
{
	dev->generation++;
	if (dev->status & VIRTIO_CONFIG_S_DRIVER_OK && !dev->resetting)
		interrupt_config(dev);
}

bool vdev_has(const struct vdev *dev, unsigned int n)
{
	return dev->status & VIRTIO_CONFIG_S_DRIVER_OK && dev->accepted & BIT(n);
}

void vdev_fail(struct vdev *dev, const char *fmt, ...)
{
	char why[160];
	va_list args;
	unsigned int i;

	if (dev->status & VIRTIO_CONFIG_S_NEEDS_RESET)
		return;
	va_start(args, fmt);
	vsnprintf(why, sizeof(why), fmt, args);
	va_end(args);
	/* A guest that fails and resets in a loop does not fill the log. */
	log_line(dev->failures++ < FAILURES_LOGGED ? LOG_WARN : LOG_DEBUG,
		 "%s: the guest's driver is wrong, the device needs a reset: %s", dev->name, why);
	dev->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	for (i = 0; i < dev->queues; i++)
		vqueue_abandon(&dev->queue[i]);
	/* 2.1.2: told only to a driver that is there. */
	if (dev->status & VIRTIO_CONFIG_S_DRIVER_OK)
		interrupt_config(dev);
}

/* ---- reset ---- */

static unsigned int in_flight(const struct vdev *dev)
{
	unsigned int i, n = 0;

	for (i = 0; i < dev->queues; i++)
		n += dev->queue[i].in_flight;
	return n;
}

static void reset_finish(struct vdev *dev)
{
	if (!dev->resetting || in_flight(dev))
		return;
	dev->resetting = false;
	dev->accepted = 0;
	dev->device_select = dev->driver_select = 0;
	dev->queue_select = 0;
	dev->config_vector = VIRTIO_MSI_NO_VECTOR;
	dev->status = dev->isr = 0;
	if (dev->ops->reset)
		dev->ops->reset(dev->arg);
}

static void reset_start(struct vdev *dev)
{
	unsigned int i;

	dev->resetting = true;
	for (i = 0; i < dev->queues; i++)
		vqueue_reset(&dev->queue[i]);
	reset_finish(dev);
}

/* ---- queues ---- */

bool vdev_may_run(const struct vdev *dev, const struct vqueue *q)
{
	return dev->running && !dev->resetting && q->enabled && pci_function_is_master(&dev->fn) &&
	       dev->status & VIRTIO_CONFIG_S_DRIVER_OK &&
	       !(dev->status & VIRTIO_CONFIG_S_NEEDS_RESET);
}

/* What came of giving chains back, or of taking one. */
static void outcome(struct vdev *dev, struct vqueue *q, int r)
{
	if (r > 0)
		interrupt_queue(dev, q);
	else if (r == -EPROTO)
		vdev_fail(dev, "queue %u: %s", q->index, q->why);
	else if (r == -ENOMEM)
		vdev_fail(dev, "queue %u: no memory for a chain of %u buffers", q->index,
			  q->pieces);
	/* -EAGAIN: a page wakes it. -EIO, -EINTR: the machine stops, and starts it again. */
}

bool vdev_take(struct vdev *dev, struct vqueue *q, struct vchain **out)
{
	int r;

	if (!vdev_may_run(dev, q))
		return false;
	r = vqueue_pop(q, out);
	if (r < 0)
		outcome(dev, q, r);
	return r > 0;
}

void vdev_give_all(struct vdev *dev, struct vqueue *q, struct vchain *const *chain, unsigned int n)
{
	unsigned int i;

	/*
	 * Not the driver's any more: it asked for a reset meanwhile, or has to.
	 * Or the device may no longer write to memory: then this goes nowhere,
	 * as it would with hardware.
	 */
	if (dev->resetting || dev->status & VIRTIO_CONFIG_S_NEEDS_RESET ||
	    !pci_function_is_master(&dev->fn)) {
		for (i = 0; i < n; i++)
			vqueue_drop(q, chain[i]);
		reset_finish(dev);
	} else {
		outcome(dev, q, vqueue_push_all(q, chain, n));
	}
	if (!dev->running && !in_flight(dev))
		device_event(&dev->env.events, &(struct device_event){ .type = DEVICE_EVENT_IDLE });
}

void vdev_give(struct vdev *dev, struct vqueue *q, struct vchain *chain, uint32_t written)
{
	chain->written = written;
	vdev_give_all(dev, q, &chain, 1);
}

void vdev_run(struct vdev *dev, unsigned int i)
{
	struct vqueue *q = &dev->queue[i];

	vdev_lock(dev);
	if (vdev_may_run(dev, q)) {
		outcome(dev, q, vqueue_resume(q));
		dev->ops->queue(dev->arg, q);
	}
	vdev_unlock(dev);
}

static void vdev_on_event(uv_poll_t *poll, int status, int events)
{
	struct vdev_watch *watch = poll->data;
	eventfd_t value;

	(void)status;
	(void)events;
	if (eventfd_read(watch->dev->queue[watch->queue].fd, &value) == 0)
		vdev_run(watch->dev, watch->queue);
}

static int vdev_watch_new(struct vdev *dev, unsigned int i, struct err *err)
{
	struct vdev_watch *watch = calloc(1, sizeof(*watch));
	int r;

	if (!watch)
		return err_set(err, -ENOMEM, "no memory for a queue");
	r = uv_poll_init(loop_uv(dev->env.loop), &watch->poll, dev->queue[i].fd);
	if (r < 0) {
		free(watch);
		return err_errno(err, r, "event loop");
	}
	watch->dev = dev;
	watch->queue = i;
	watch->poll.data = watch;
	uv_poll_start(&watch->poll, UV_READABLE, vdev_on_event);
	dev->watch[i] = watch;
	return 0;
}

unsigned int vdev_in_flight(struct vdev *dev)
{
	unsigned int i, n;

	vdev_lock(dev);
	for (i = 0; i < dev->queues; i++)
		if (dev->queue[i].done)
			outcome(dev, &dev->queue[i], vqueue_resume(&dev->queue[i]));
	n = in_flight(dev);
	vdev_unlock(dev);
	return n;
}

void vdev_start(struct vdev *dev)
{
	unsigned int i;

	vdev_lock(dev);
	vdev_update_ioeventfds(dev);
	dev->running = true;
	/*
	 * KVM may bring an event to an interrupt controller some time after it
	 * was written (irqfd), and so after the controller's state was taken.
	 * One interrupt too many does no harm, one too few is a hang.
	 */
	if (dev->arrived && dev->status & VIRTIO_CONFIG_S_DRIVER_OK && !dev->resetting)
		interrupt_config(dev);
	for (i = 0; dev->arrived && i < dev->queues; i++)
		if (vdev_may_run(dev, &dev->queue[i]))
			interrupt_queue(dev, &dev->queue[i]);
	dev->arrived = false;
	if (dev->ops->start)
		dev->ops->start(dev->arg);
	/* Each looks for itself whether there is something to do. */
	for (i = 0; i < dev->queues; i++)
		if (dev->queue[i].enabled)
			vqueue_kick(&dev->queue[i]);
	vdev_unlock(dev);
}

void vdev_memory_complete(struct vdev *dev)
{
	vdev_lock(dev);
	vdev_update_ioeventfds(dev);
	vdev_unlock(dev);
}

void vdev_stop(struct vdev *dev)
{
	unsigned int i;

	vdev_lock(dev);
	dev->running = false;
	for (i = 0; i < dev->queues; i++)
		vqueue_stop(&dev->queue[i]);
	if (dev->ops->stop)
		dev->ops->stop(dev->arg);
	vdev_unlock(dev);
}

/* ---- what registers do ---- */

void vdev_enable_queue(struct vdev *dev, struct vqueue *q)
{
	if (q->enabled || dev->resetting)
		return;
	if (!(dev->status & VIRTIO_CONFIG_S_FEATURES_OK)) {
		vdev_fail(dev, "queue %u is enabled before features are agreed on", q->index);
		return;
	}
	if (vqueue_enable(q, dev->accepted) < 0)
		vdev_fail(dev, "queue %u: %s", q->index, q->why);
	else
		vqueue_kick(q);
}

static bool features_are_right(const struct vdev *dev)
{
	return dev->accepted & BIT(VIRTIO_F_VERSION_1) && !(dev->accepted & ~dev->offered);
}

void vdev_write_status(struct vdev *dev, uint8_t value)
{
	unsigned int i;

	if (!value) {
		reset_start(dev);
		return;
	}
	if (dev->resetting)
		return;
	/* Bits are not taken back (2.1.1), and one is the device's. */
	value = (uint8_t)(dev->status | (value & STATUS_ALL & ~VIRTIO_CONFIG_S_NEEDS_RESET));
	if (value & ~dev->status & VIRTIO_CONFIG_S_FEATURES_OK && !features_are_right(dev)) {
		log_debug("%s: the driver's features 0x%" PRIx64 " are refused, of 0x%" PRIx64,
			  dev->name, dev->accepted, dev->offered);
		value = (uint8_t)(value & ~VIRTIO_CONFIG_S_FEATURES_OK);
	}
	if (value & ~dev->status & VIRTIO_CONFIG_S_DRIVER_OK &&
	    !(value & VIRTIO_CONFIG_S_FEATURES_OK)) {
		vdev_fail(dev, "the driver goes ahead without agreed features");
		return;
	}
	dev->status = value;
	for (i = 0; i < dev->queues; i++)
		if (dev->queue[i].enabled)
			vqueue_kick(&dev->queue[i]);
}

/* ---- state ---- */

static void dev_reset(void *arg)
{
	struct vdev *dev = arg;

	vdev_lock(dev);
	reset_start(dev);
	pci_function_reset(&dev->fn);
	vdev_unlock(dev);
}

static void queue_to(VirtioQueue *msg, const struct vqueue *q)
{
	postern__device__virtio_queue__init(msg);
	msg->size = q->size;
	msg->vector = q->vector;
	msg->desc = q->desc;
	msg->driver = q->driver;
	msg->device = q->device;
	msg->enabled = q->enabled;
	msg->avail = q->avail;
	msg->used = q->used;
	msg->avail_wrap = q->avail_wrap;
	msg->used_wrap = q->used_wrap;
}

static int state_pack(struct vdev *dev, struct buf *function, struct buf *own, struct buf *out,
		      struct err *err)
{
	VirtioQueue queue[VDEV_QUEUES_MAX], *queues[VDEV_QUEUES_MAX];
	VirtioState msg = POSTERN__DEVICE__VIRTIO_STATE__INIT;
	unsigned int i;
	uint8_t *to;

	msg.function.data = function->data;
	msg.function.len = function->len;
	msg.own.data = own->data;
	msg.own.len = own->len;
	msg.features = dev->accepted;
	msg.status = dev->status;
	msg.isr = dev->isr;
	msg.config_vector = dev->config_vector;
	msg.device_select = dev->device_select;
	msg.driver_select = dev->driver_select;
	msg.queue_select = dev->queue_select;
	for (i = 0; i < dev->queues; i++) {
		queue_to(&queue[i], &dev->queue[i]);
		queues[i] = &queue[i];
	}
	msg.queues = queues;
	msg.n_queues = dev->queues;
	to = buf_reserve(out, postern__device__virtio_state__get_packed_size(&msg));
	if (!to)
		return err_set(err, -ENOMEM, "no memory for the state of %s", dev->name);
	out->len += postern__device__virtio_state__pack(&msg, to);
	return 0;
}

static int dev_save(void *arg, struct buf *out, struct err *err)
{
	struct buf function = { 0 }, own = { 0 };
	struct vdev *dev = arg;
	unsigned int n;
	int r;

	vdev_lock(dev);
	n = in_flight(dev);
	if (n)
		r = err_set(err, -EBUSY, "%u requests are under way", n);
	else
		r = pci_function_save(&dev->fn, &function, err);
	if (!r && dev->ops->save)
		r = dev->ops->save(dev->arg, &own, err);
	if (!r)
		r = state_pack(dev, &function, &own, out, err);
	vdev_unlock(dev);
	buf_fini(&own);
	buf_fini(&function);
	return r;
}

/* Into a queue that is reset. */
static int queue_from(struct vqueue *q, const VirtioQueue *msg, uint64_t features, struct err *err)
{
	if (msg->size > UINT16_MAX || msg->vector > UINT16_MAX || msg->avail > UINT16_MAX ||
	    msg->used > UINT16_MAX)
		return err_set(err, -EINVAL, "queue %u: a field is larger than 16 bits", q->index);
	q->size = (uint16_t)msg->size;
	q->vector = (uint16_t)msg->vector;
	q->desc = msg->desc;
	q->driver = msg->driver;
	q->device = msg->device;
	if (!msg->enabled && (msg->avail || msg->used || !msg->avail_wrap || !msg->used_wrap))
		return err_set(err, -EINVAL, "queue %u: it is not enabled and has moved", q->index);
	if (msg->enabled && vqueue_restore(q, features, (uint16_t)msg->avail, msg->avail_wrap,
					   (uint16_t)msg->used, msg->used_wrap) < 0)
		return err_set(err, -EINVAL, "queue %u: %s", q->index, q->why);
	return 0;
}

static int vdev_state_check(const struct vdev *dev, const VirtioState *msg, vdev_load_fn load,
			    struct err *err)
{
	struct vqueue *trial;
	size_t i;
	int r = 0;

	/* First, since it can say what a feature that is missing means. */
	if (load && load(dev->arg, msg->own.data, msg->own.len, false, err) < 0)
		return -EINVAL;
	if (msg->features & ~(dev->offered | dev->arriving) &&
	    msg->status & VIRTIO_CONFIG_S_FEATURES_OK)
		return err_set(err, -EINVAL, "features 0x%" PRIx64 ", this device has 0x%" PRIx64,
			       msg->features, dev->offered);
	if (msg->status & ~(uint32_t)STATUS_ALL || msg->isr & ~3u ||
	    msg->config_vector > UINT16_MAX || msg->queue_select > UINT16_MAX)
		return err_set(err, -EINVAL, "a register has bits that do not exist");
	if (msg->n_queues != dev->queues)
		return err_set(err, -EINVAL, "%zu queues, this device has %u", msg->n_queues,
			       dev->queues);
	if (!load && msg->own.len)
		return err_set(err, -EINVAL, "%zu bytes of its own, this device has none",
			       msg->own.len);
	trial = malloc(sizeof(*trial));
	if (!trial)
		return err_set(err, -ENOMEM, "no memory to check a state");
	for (i = 0; i < msg->n_queues && !r; i++) {
		/* Nothing of it but its settings is used. */
		*trial = (struct vqueue){ .index = (unsigned int)i, .size_max = dev->queue[i].size_max };
		r = queue_from(trial, msg->queues[i], msg->features, err);
	}
	free(trial);
	return r;
}

static void state_apply(struct vdev *dev, const VirtioState *msg, vdev_load_fn load)
{
	unsigned int i;

	reset_start(dev);
	dev->arrived = true;
	dev->accepted = msg->features;
	dev->offered |= msg->features & dev->arriving;
	dev->status = (uint8_t)msg->status;
	dev->isr = (uint8_t)msg->isr;
	dev->config_vector = (uint16_t)msg->config_vector;
	dev->device_select = msg->device_select;
	dev->driver_select = msg->driver_select;
	dev->queue_select = (uint16_t)msg->queue_select;
	for (i = 0; i < dev->queues; i++)
		queue_from(&dev->queue[i], msg->queues[i], msg->features, NULL);
	if (load)
		load(dev->arg, msg->own.data, msg->own.len, true, NULL);
}

/* load: of what is the device's own, or NULL. */
static int state_load(struct vdev *dev, vdev_load_fn load, const uint8_t *data, size_t len,
		      struct err *err)
{
	VirtioState *msg = proto_unpack(&postern__device__virtio_state__descriptor, data, len,
					PROTO_FIELDS_MAX, err);
	int r;

	if (!msg)
		return -EINVAL;
	vdev_lock(dev);
	if (in_flight(dev))
		r = err_set(err, -EBUSY, "requests are under way");
	else
		r = vdev_state_check(dev, msg, load, err);
	/* The last that may say no. */
	if (!r)
		r = pci_function_load(&dev->fn, msg->function.data, msg->function.len, err);
	if (!r)
		state_apply(dev, msg, load);
	vdev_unlock(dev);
	postern__device__virtio_state__free_unpacked(msg, NULL);
	return r;
}

static int dev_load(void *arg, const uint8_t *data, size_t len, struct err *err)
{
	struct vdev *dev = arg;

	return state_load(dev, dev->ops->load, data, len, err);
}

static int dev_load_previous(void *arg, const uint8_t *data, size_t len, struct err *err)
{
	struct vdev *dev = arg;

	return state_load(dev, dev->ops->load_previous, data, len, err);
}

/* ---- life ---- */

int vdev_init(struct vdev *dev, const struct vdev_ops *ops, void *arg, const struct vdev_env *env,
	      const struct vdev_config *config, struct err *err)
{
	unsigned int i;
	int r;

	*dev = (struct vdev){
		.ops = ops, .arg = arg, .env = *env, .config = config->config, .config_len = config->config_len,
		.offered = config->features | FEATURES_COMMON, .arriving = config->arriving,
		.config_vector = VIRTIO_MSI_NO_VECTOR,
	};
	snprintf(dev->name, sizeof(dev->name), "%s%u", ops->name, config->number);
	dev->device_ops = (struct device_ops){
		.name = dev->name, .version = ops->version, .save = dev_save, .load = dev_load,
		.load_previous = ops->version > 1 ? dev_load_previous : NULL, .reset = dev_reset,
	};
	for (i = 0; i < config->queues; i++) {
		r = vqueue_init(&dev->queue[i], env->mem, i, config->queue_size);
		if (r < 0)
			return err_errno(err, r, "event for a queue of %s", dev->name);
		dev->queues = i + 1;
		r = env->loop ? vdev_watch_new(dev, i, err) : 0;
		if (r < 0)
			return r;
	}
	return vdev_transport_init(dev, err);
}

void vdev_free(struct vdev *dev)
{
	dev->ops->free(dev->arg);
}

int vdev_drain(struct vdev *dev, int64_t deadline_ns, struct err *err)
{
	if (dev->ops->drain)
		return dev->ops->drain(dev->arg, deadline_ns, err);
	if (vdev_in_flight(dev))
		return err_set(err, -ETIMEDOUT, "%s waits for a page of its ring", dev->name);
	return 0;
}

int vdev_claim(struct vdev *dev, struct err *err)
{
	return dev->ops->claim ? dev->ops->claim(dev->arg, err) : 0;
}

void vdev_release(struct vdev *dev)
{
	if (dev->ops->release)
		dev->ops->release(dev->arg);
}

void vdev_renew(struct vdev *dev)
{
	vdev_lock(dev);
	if (dev->ops->renew)
		dev->ops->renew(dev->arg);
	vdev_unlock(dev);
}

void vdev_fini(struct vdev *dev)
{
	unsigned int i;

	for (i = 0; i < dev->queues; i++) {
		if (dev->watch[i])
			loop_close((uv_handle_t *)&dev->watch[i]->poll, dev->watch[i]);
		vqueue_fini(&dev->queue[i]);
	}
	dev->queues = 0;
	if (dev->fn.name)
		pci_function_fini(&dev->fn);
}
