// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * balloon.c - virtio-balloon (virtio 1.2, section 5.5): the guest gives pages
 * up when it is asked to (inflate), takes them back (deflate), and tells of
 * pages that are free (free page reporting, 5.5.6.7).
 *
 * What becomes of such a page is memory_discard's to say. The device never
 * takes hold of it, or waits for it: a page that has not come is not fetched to
 * be thrown away. Queues of reports therefore yield addresses only (vqueue's
 * `addresses`).
 *
 * A page that the guest takes back needs nothing: it is there, zero, as soon as
 * it is touched.
 *
 * Queues (5.5.2) are those of the features that are offered, in their order:
 * inflate, deflate, reports.
 */
#include "device/virtio/balloon.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/loop.h"
#include "base/proto.h"
#include "device/virtio/type.h"
#include "virtio.pb-c.h"

#define BIT(n) (UINT64_C(1) << (n))
#define QUEUE_SIZE 128
#define CONFIG_BYTES 8		/* what comes behind belongs to features that are not offered */
/*
 * Of one chain; a driver sends 256. More is taken as read and nothing is given
 * up: it may be long, and others want the loop.
 */
#define PFNS_MAX 1024
/* Chains of a turn: each may give up much. */
#define TURN_CHAINS 8
/* Of one chain of reports; a driver sends 32 of 4 MiB each. */
#define REPORT_PAGES_MAX (UINT64_C(1) << 16)
/* Who listens is told of changes so often at most. */
#define NOTIFY_MS 1000

enum { QUEUE_INFLATE, QUEUE_DEFLATE, QUEUE_REPORT, QUEUES };

/*
 * Tells the host of changes: on the main loop, and not too often, whatever the
 * guest does. Goes when both handles are closed.
 */
struct notifier {
	unsigned int handles;	/* first: see loop_close_one_of */
	uv_async_t wake;
	uv_timer_t timer;
	struct balloon *balloon;
	int64_t last_ns;
};

struct balloon {
	struct vdev dev;
	struct virtio_balloon_config config;	/* guarded by the device's lock */
	struct notifier *notifier;
	uint32_t notified;
};

/* ---- the host's side ---- */

static void notifier_send(struct notifier *notifier)
{
	struct balloon *balloon = notifier->balloon;
	uint32_t actual = balloon_actual(&balloon->dev);

	if (actual == balloon->notified)
		return;
	balloon->notified = actual;
	notifier->last_ns = clock_now_ns();
	device_event(&balloon->dev.env.events,
		     &(struct device_event){ .type = DEVICE_EVENT_BALLOON, .pages = actual });
}

static void balloon_on_timer(uv_timer_t *timer)
{
	notifier_send(timer->data);
}

static void balloon_on_wake(uv_async_t *wake)
{
	struct notifier *notifier = wake->data;
	int64_t left = notifier->last_ns + NOTIFY_MS * NS_PER_MS - clock_now_ns();

	if (uv_is_active((uv_handle_t *)&notifier->timer))
		return;
	if (left <= 0 || !notifier->last_ns)
		notifier_send(notifier);
	else
		uv_timer_start(&notifier->timer, balloon_on_timer,
			       (uint64_t)(left / NS_PER_MS) + 1, 0);
}

static int notifier_new(struct balloon *balloon, struct err *err)
{
	struct notifier *notifier = calloc(1, sizeof(*notifier));
	int r;

	if (!notifier)
		return err_set(err, -ENOMEM, "no memory for virtio-balloon");
	r = uv_async_init(loop_uv(balloon->dev.env.loop), &notifier->wake, balloon_on_wake);
	if (r < 0) {
		free(notifier);
		return err_errno(err, r, "event loop");
	}
	uv_timer_init(loop_uv(balloon->dev.env.loop), &notifier->timer);
	notifier->wake.data = notifier->timer.data = notifier;
	notifier->handles = 2;
	notifier->balloon = balloon;
	balloon->notifier = notifier;
	return 0;
}

bool balloon_is(const struct vdev *dev)
{
	return dev->ops->type == VIRTIO_ID_BALLOON;
}

void balloon_set_target(struct vdev *dev, uint32_t pages)
{
	struct balloon *balloon = dev->arg;

	vdev_lock(dev);
	balloon->config.num_pages = htole32(pages);
	vdev_config_changed(dev);
	vdev_unlock(dev);
}

uint32_t balloon_actual(struct vdev *dev)
{
	struct balloon *balloon = dev->arg;
	uint32_t actual;

	vdev_lock(dev);
	actual = le32toh(balloon->config.actual);
	vdev_unlock(dev);
	return actual;
}

/* ---- the driver's; the device's lock is held ---- */

static int pfn_order(const void *a, const void *b)
{
	uint32_t one = *(const uint32_t *)a, other = *(const uint32_t *)b;

	return one < other ? -1 : one > other;
}

/*
 * [first, first + n) of the guest's pages. A range that is no RAM is the
 * driver's mistake, and its own.
 */
static bool balloon_give_up(struct balloon *balloon, const struct vqueue *q, uint64_t first,
			    uint64_t n)
{
	if (memory_discard(balloon->dev.env.mem, GFN(first), n) >= 0)
		return true;
	vdev_fail(&balloon->dev, "queue %u: pages 0x%" PRIx64 " to 0x%" PRIx64 " are not RAM",
		  q->index, first, first + n - 1);
	return false;
}

/*
 * Page numbers, in any order; neighbours are given up together, so that huge
 * pages go in one piece.
 */
static bool inflate(struct balloon *balloon, const struct vqueue *q, const struct vchain *chain)
{
	uint32_t pfn[PFNS_MAX];
	unsigned int i, start, n;

	n = chain->out_bytes / sizeof(pfn[0]) < PFNS_MAX ?
		    (unsigned int)(chain->out_bytes / sizeof(pfn[0])) :
		    PFNS_MAX;
	if (!vchain_read(chain, 0, pfn, n * sizeof(pfn[0])))
		return true;
	for (i = 0; i < n; i++)
		pfn[i] = le32toh(pfn[i]);
	qsort(pfn, n, sizeof(pfn[0]), pfn_order);
	for (i = 0; i < n; i++) {
		/* Regions end at huge pages' boundaries: no run goes over one. */
		for (start = i; i + 1 < n && pfn[i + 1] - pfn[i] <= 1 &&
				pfn[i + 1] / HUGE_PAGES == pfn[i] / HUGE_PAGES;
		     i++)
			;
		if (!balloon_give_up(balloon, q, pfn[start], (uint64_t)pfn[i] - pfn[start] + 1))
			return false;
	}
	return true;
}

static bool report(struct balloon *balloon, const struct vqueue *q, const struct vchain *chain)
{
	uint64_t left = REPORT_PAGES_MAX, pages;
	unsigned int i;

	for (i = 0; i < chain->n_out + chain->n_in && left; i++) {
		pages = chain->span[i].pages < left ? chain->span[i].pages : left;
		left -= pages;
		if (pages && !balloon_give_up(balloon, q, chain->span[i].first.v, pages))
			return false;
	}
	return true;
}

static void balloon_on_queue(void *arg, struct vqueue *q)
{
	struct balloon *balloon = arg;
	struct vchain *chain;
	unsigned int n = 0;
	bool well = true;

	for (; well && n < TURN_CHAINS && vdev_take(&balloon->dev, q, &chain); n++) {
		if (q->index == QUEUE_INFLATE)
			well = inflate(balloon, q, chain);
		else if (q->index == QUEUE_REPORT)
			well = report(balloon, q, chain);
		vdev_give(&balloon->dev, q, chain, 0);
	}
	if (n == TURN_CHAINS)
		vqueue_kick(q);
}

/* Only `actual` is the driver's to write (5.5.4). */
static void on_config_write(void *arg, unsigned int offset, const uint8_t *data, unsigned int size)
{
	const unsigned int at = offsetof(struct virtio_balloon_config, actual);
	struct balloon *balloon = arg;
	unsigned int i;

	for (i = 0; i < size; i++)
		if (offset + i >= at && offset + i < at + sizeof(balloon->config.actual))
			((uint8_t *)&balloon->config)[offset + i] = data[i];
	uv_async_send(&balloon->notifier->wake);
}

/*
 * Nobody has given up anything any more: the driver's pages are its own again.
 * What the host asked for stands.
 */
static void balloon_on_reset(void *arg)
{
	struct balloon *balloon = arg;

	balloon->config.actual = 0;
	uv_async_send(&balloon->notifier->wake);
}

/* ---- state ---- */

static int on_save(void *arg, struct buf *out, struct err *err)
{
	Postern__Device__BalloonState msg = POSTERN__DEVICE__BALLOON_STATE__INIT;
	const struct balloon *balloon = arg;
	uint8_t *to;

	msg.target = le32toh(balloon->config.num_pages);
	msg.actual = le32toh(balloon->config.actual);
	to = buf_reserve(out, postern__device__balloon_state__get_packed_size(&msg));
	if (!to)
		return err_set(err, -ENOMEM, "no memory for the state of %s", balloon->dev.name);
	out->len += postern__device__balloon_state__pack(&msg, to);
	return 0;
}

static int balloon_on_load(void *arg, const uint8_t *data, size_t len, bool apply, struct err *err)
{
	Postern__Device__BalloonState *msg = proto_unpack(
		&postern__device__balloon_state__descriptor, data, len, PROTO_FIELDS_MAX, err);
	struct balloon *balloon = arg;

	if (!msg)
		return -EINVAL;
	if (apply) {
		balloon->config.num_pages = htole32(msg->target);
		balloon->config.actual = htole32(msg->actual);
	}
	postern__device__balloon_state__free_unpacked(msg, NULL);
	return 0;
}

/* ---- life ---- */

static void balloon_free(void *arg)
{
	struct balloon *balloon = arg;

	if (balloon->notifier) {
		loop_close_one_of((uv_handle_t *)&balloon->notifier->wake,
				  &balloon->notifier->handles);
		loop_close_one_of((uv_handle_t *)&balloon->notifier->timer,
				  &balloon->notifier->handles);
	}
	vdev_fini(&balloon->dev);
	free(balloon);
}

static const struct vdev_ops balloon_ops = {
	.name = "virtio-balloon",
	.version = 1,
	.type = VIRTIO_ID_BALLOON,
	.pci_class = 0x00ff00,
	.queue = balloon_on_queue,
	.free = balloon_free,
	.config_write = on_config_write,
	.reset = balloon_on_reset,
	.save = on_save,
	.load = balloon_on_load,
};

static int balloon_check(const char *text, struct err *err)
{
	(void)text;
	(void)err;
	return 0;
}

static int balloon_make(struct vdev **out, const struct vdev_env *env, const char *text,
			unsigned int number, struct err *err)
{
	struct balloon *balloon = calloc(1, sizeof(*balloon));
	struct vdev_config config = {
		.number = number, .queues = QUEUES, .queue_size = QUEUE_SIZE, .config_len = CONFIG_BYTES,
		.features = BIT(VIRTIO_BALLOON_F_DEFLATE_ON_OOM) | BIT(VIRTIO_BALLOON_F_REPORTING),
	};
	int r;

	(void)text;
	if (!balloon)
		return err_set(err, -ENOMEM, "no memory for virtio-balloon");
	config.config = &balloon->config;
	r = vdev_init(&balloon->dev, &balloon_ops, balloon, env, &config, err);
	if (!r)
		r = notifier_new(balloon, err);
	if (r < 0) {
		balloon_free(balloon);
		return r;
	}
	balloon->dev.queue[QUEUE_REPORT].addresses = true;
	*out = &balloon->dev;
	return 0;
}

const struct virtio_type balloon_type = { .option = "balloon",
					  .max = 1,
					  .check = balloon_check,
					  .make = balloon_make };
