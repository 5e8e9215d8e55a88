// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * blk.c - virtio-blk: a disk (virtio 1.2, section 5.2): reads, writes, flush,
 * discard, zeroes, identity. Where the data lies is device/disk's matter.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/proto.h"
#include "device/disk/disk.h"
#include "device/virtio/blk.h"
#include "device/virtio/type.h"
#include "disk.pb-c.h"

#define BIT(n) (UINT64_C(1) << (n))
#define QUEUE_SIZE 256
/*
 * Header and status take a descriptor each; all of them together stay below
 * what a chain may have.
 */
#define SEG_MAX (QUEUE_SIZE - 2)
#define SEG_BYTES (UINT32_C(128) << 10)
_Static_assert((uint64_t)SEG_MAX * SEG_BYTES < VCHAIN_BYTES_MAX, "what is offered is taken");
/* Of one discard or zeroes request. */
#define RANGE_SECTORS_MAX (UINT32_C(1) << 16)
/* Handed to the disk before the main loop gets its turn; a request more than that is not cut. */
#define TURN_BYTES (UINT64_C(8) << 20)

/* A disk has a queue for each vCPU, as far as that helps: one thread works them off. */
#define QUEUES_MAX 4
/* Failures are told at most so often. */
#define FAILURE_REPORT_NS NS_PER_SEC

struct blk {
	struct vdev dev;
	char name[16];		/* as users see it */
	struct disk *disk;
	struct virtio_blk_config config;
	struct disk_config given;
	uint64_t turn_bytes;	/* handed over in this turn */
	uint32_t starved;	/* queues that wait for the disk to have room */
	int64_t failure_reported_ns;
	struct own_flush *flush;	/* under way, for a drain */
	int flush_result;		/* of the last one */
};

struct request {
	struct disk_job job;
	struct blk *blk;
	struct vqueue *q;
	struct vchain *chain;
	uint32_t written;	/* when it succeeds, with the status */
	struct iovec iov[];
};

/* ---- events ---- */

static void on_away(void *arg, const char *why)
{
	struct blk *blk = arg;

	device_event(&blk->dev.env.events, &(struct device_event){
		.type = why ? DEVICE_EVENT_DISK_AWAY : DEVICE_EVENT_DISK_BACK, .device = blk->name, .reason = why,
		.requests = disk_jobs(blk->disk),
	});
}

static void failure_report(struct blk *blk, enum disk_op op, int error)
{
	int64_t now = clock_now_ns();

	if (blk->failure_reported_ns && now - blk->failure_reported_ns < FAILURE_REPORT_NS)
		return;
	blk->failure_reported_ns = now;
	log_warn("disk %s: a request of the guest's fails: %s", blk->given.path, strerror(-error));
	device_event(&blk->dev.env.events, &(struct device_event){
		.type = DEVICE_EVENT_DISK_ERROR, .device = blk->name, .read = op == DISK_READ, .error = error,
	});
}

/* ---- requests; the device's lock is held ---- */

static void blk_answer(struct blk *blk, struct vqueue *q, struct vchain *chain, uint8_t status,
		       uint32_t written)
{
	vchain_write(chain, chain->in_bytes - 1, &status, 1);
	/* What counts are bytes from the start on (2.7.8.2): of a failed read there may be none. */
	if (status != VIRTIO_BLK_S_OK)
		written = chain->in_bytes == 1;
	vdev_give(&blk->dev, q, chain, written);
}

/* The disk has done it. Not locked. */
static void on_done(struct disk_job *job, int result)
{
	struct request *request = (struct request *)(void *)job;
	struct blk *blk = request->blk;
	unsigned int i;

	if (result < 0 && result != -ECANCELED)
		failure_report(blk, job->op, result);
	vdev_lock(&blk->dev);
	if (result == -ECANCELED)
		vqueue_drop(request->q, request->chain);
	else if (result < 0)
		blk_answer(blk, request->q, request->chain, VIRTIO_BLK_S_IOERR, 0);
	else
		blk_answer(blk, request->q, request->chain, VIRTIO_BLK_S_OK, request->written);
	for (i = 0; blk->starved; i++, blk->starved >>= 1)
		if (blk->starved & 1)
			vqueue_kick(&blk->dev.queue[i]);
	vdev_unlock(&blk->dev);
	free(request);
}

static bool in_disk(const struct blk *blk, uint64_t sector, uint64_t len)
{
	uint64_t bytes = disk_bytes(blk->disk);

	return len % DISK_SECTOR_BYTES == 0 && len <= bytes &&
	       sector <= (bytes - len) / DISK_SECTOR_BYTES;
}

static uint8_t blk_start(struct blk *blk, struct vqueue *q, struct vchain *chain, enum disk_op op,
			 uint64_t sector, uint64_t len, bool unmap)
{
	bool in = op == DISK_READ, data = in || op == DISK_WRITE;
	bool changes = op != DISK_READ && op != DISK_FLUSH;
	struct request *request;

	if (op != DISK_FLUSH && (!len || !in_disk(blk, sector, len)))
		return VIRTIO_BLK_S_IOERR;
	if (changes && blk->given.readonly)
		return VIRTIO_BLK_S_IOERR;
	request = malloc(sizeof(*request) + (chain->n_in + chain->n_out) * sizeof(request->iov[0]));
	if (!request)
		return VIRTIO_BLK_S_IOERR;
	*request = (struct request){
		.job = {
			.op = op, .offset = sector * DISK_SECTOR_BYTES, .len = len, .unmap = unmap,
			/* Who cannot flush is promised stable writes (5.2.6.2). */
			.stable = changes && !vdev_has(&blk->dev, VIRTIO_BLK_F_FLUSH),
			.done = on_done,
		},
		.blk = blk, .q = q, .chain = chain, .written = in ? (uint32_t)chain->in_bytes : 1,
	};
	request->job.iov = request->iov;
	if (data)
		request->job.iovs = vchain_iovec(
			chain, in, in ? 0 : sizeof(struct virtio_blk_outhdr), len, request->iov);
	if (data)
		blk->turn_bytes += len;
	disk_add(blk->disk, &request->job);
	return VIRTIO_BLK_S_OK;
}

/* Discard and zeroes: one range (5.2.6). */
static uint8_t start_range(struct blk *blk, struct vqueue *q, struct vchain *chain, bool discard)
{
	struct virtio_blk_discard_write_zeroes range;
	uint32_t flags = discard ? 0 : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;

	if (chain->out_bytes != sizeof(struct virtio_blk_outhdr) + sizeof(range) ||
	    !vchain_read(chain, sizeof(struct virtio_blk_outhdr), &range, sizeof(range)))
		return VIRTIO_BLK_S_UNSUPP;
	if (range.flags & ~flags)
		return VIRTIO_BLK_S_UNSUPP;
	if (range.num_sectors > RANGE_SECTORS_MAX || !range.num_sectors)
		return VIRTIO_BLK_S_IOERR;
	return blk_start(blk, q, chain, discard ? DISK_DISCARD : DISK_ZERO, range.sector,
			 (uint64_t)range.num_sectors * DISK_SECTOR_BYTES,
			 range.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
}

static void answer_id(struct blk *blk, struct vqueue *q, struct vchain *chain)
{
	uint8_t id[DISK_SERIAL_BYTES] = { 0 };
	uint64_t room = chain->in_bytes - 1, n = room < sizeof(id) ? room : sizeof(id);

	memcpy(id, blk->given.serial, strlen(blk->given.serial));
	vchain_write(chain, 0, id, n);
	blk_answer(blk, q, chain, VIRTIO_BLK_S_OK, (uint32_t)(n == room ? n + 1 : n));
}

static void blk_take(struct blk *blk, struct vqueue *q, struct vchain *chain)
{
	struct virtio_blk_outhdr header;
	uint8_t status;

	if (!vchain_read(chain, 0, &header, sizeof(header)) || !chain->in_bytes) {
		vqueue_drop(q, chain);
		vdev_fail(&blk->dev,
			  "queue %u: a request without header or without room for its status",
			  q->index);
		return;
	}
	switch (header.type) {
	case VIRTIO_BLK_T_IN:
		status = blk_start(blk, q, chain, DISK_READ, header.sector, chain->in_bytes - 1,
				   false);
		break;
	case VIRTIO_BLK_T_OUT:
		status = blk_start(blk, q, chain, DISK_WRITE, header.sector,
				   chain->out_bytes - sizeof(header), false);
		break;
	case VIRTIO_BLK_T_FLUSH:
		status = blk_start(blk, q, chain, DISK_FLUSH, 0, 0, false);
		break;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		status = start_range(blk, q, chain, header.type == VIRTIO_BLK_T_DISCARD);
		break;
	case VIRTIO_BLK_T_GET_ID:
		answer_id(blk, q, chain);
		return;
	default:
		status = VIRTIO_BLK_S_UNSUPP;
	}
	if (status != VIRTIO_BLK_S_OK)
		blk_answer(blk, q, chain, status, 0);
}

static void blk_on_queue(void *arg, struct vqueue *q)
{
	struct blk *blk = arg;
	struct vchain *chain;
	unsigned int n;

	blk->turn_bytes = 0;
	for (n = 0; n < VDEV_TURN_CHAINS && blk->turn_bytes < TURN_BYTES &&
		    disk_jobs(blk->disk) < DISK_JOBS_MAX && vdev_take(&blk->dev, q, &chain);
	     n++)
		blk_take(blk, q, chain);
	if (n)
		disk_submit(blk->disk);
	if (disk_jobs(blk->disk) == DISK_JOBS_MAX)
		blk->starved |= UINT32_C(1) << q->index;
	else if (n == VDEV_TURN_CHAINS || blk->turn_bytes >= TURN_BYTES)
		vqueue_kick(q);
}

/* ---- drain ---- */

/*
 * A flush of our own. Its memory is the disk's until it is done, which it may
 * not be when the disk is closed.
 */
struct own_flush {
	struct disk_job job;
	struct blk *blk;
};

static void blk_on_own_flush(struct disk_job *job, int result)
{
	struct own_flush *flush = (struct own_flush *)(void *)job;

	flush->blk->flush = NULL;
	flush->blk->flush_result = result;
	free(flush);
}

static int away(const struct blk *blk, struct err *err)
{
	return err_set(err, -ETIMEDOUT, "disk %s is away: %s; %u requests wait for it",
		       blk->given.path, disk_away(blk->disk), disk_jobs(blk->disk));
}

/* The flush that is under way. */
static int flush_wait(struct blk *blk, int64_t deadline_ns, struct err *err)
{
	while (blk->flush && !disk_away(blk->disk) && clock_now_ns() < deadline_ns)
		disk_wait(blk->disk, deadline_ns);
	if (blk->flush && disk_away(blk->disk))
		return away(blk, err);
	if (blk->flush)
		return err_set(err, -ETIMEDOUT,
			       "disk %s: what was written does not reach it in time",
			       blk->given.path);
	if (blk->flush_result < 0)
		return err_errno(err, blk->flush_result, "disk %s: flush", blk->given.path);
	return 0;
}

static int drain_flush(struct blk *blk, int64_t deadline_ns, struct err *err)
{
	int r;

	/*
	 * One that an earlier drain gave up, if it is still under way: no
	 * second one beside it. It need not have what was written since.
	 */
	blk->flush_result = 0;
	r = flush_wait(blk, deadline_ns, err);
	if (r < 0)
		return r;
	blk->flush = calloc(1, sizeof(*blk->flush));
	if (!blk->flush)
		return err_set(err, -ENOMEM, "no memory for a flush");
	blk->flush->blk = blk;
	blk->flush->job.op = DISK_FLUSH;
	blk->flush->job.done = blk_on_own_flush;
	disk_add(blk->disk, &blk->flush->job);
	return flush_wait(blk, deadline_ns, err);
}

/* What is done late would undo what another host has written by then. */
static int doubt_check(const struct blk *blk, struct err *err)
{
	struct disk_doubt doubt;

	disk_doubt(blk->disk, &doubt);
	if (!doubt.ms)
		return 0;
	return err_set(err, -EAGAIN,
		       "disk %s: its server may do for %" PRId64
		       " s more what a lost connection had asked; "
		       "try again then, or after postern-disk-fenced",
		       blk->given.path, doubt.ms / 1000 + 1);
}

static int blk_drain(void *arg, int64_t deadline_ns, struct err *err)
{
	struct blk *blk = arg;
	const struct timespec moment = { .tv_nsec = NS_PER_MS };
	unsigned int n;
	int r;

	while ((n = vdev_in_flight(&blk->dev)) && !disk_away(blk->disk) &&
	       clock_now_ns() < deadline_ns) {
		/* Without jobs it is the ring's page that is missing. */
		if (disk_jobs(blk->disk))
			disk_wait(blk->disk, deadline_ns);
		else
			nanosleep(&moment, NULL);
	}
	/* Not waited for: it may be long. */
	if (disk_away(blk->disk) && (n || !blk->given.readonly))
		return away(blk, err);
	if (n)
		return err_set(err, -ETIMEDOUT, "disk %s: %u requests are not finished in time",
			       blk->given.path, n);
	/* Also what was written long ago: the host that goes on has a cache of its own. */
	r = blk->given.readonly ? 0 : drain_flush(blk, deadline_ns, err);
	return r < 0 ? r : doubt_check(blk, err);
}

static int blk_claim(void *arg, struct err *err)
{
	struct blk *blk = arg;
	int r = disk_claim(blk->disk, err);

	return r < 0 ? err_prefix(err, r, "disk %s", blk->given.path) : 0;
}

static void blk_release(void *arg)
{
	struct blk *blk = arg;

	disk_release(blk->disk);
}

/* ---- state: what the driver was told is so on both sides ---- */

static int blk_save(void *arg, struct buf *out, struct err *err)
{
	Postern__Device__DiskState msg = POSTERN__DEVICE__DISK_STATE__INIT;
	struct blk *blk = arg;
	uint8_t *to;

	msg.bytes = disk_bytes(blk->disk);
	msg.readonly = blk->given.readonly;
	to = buf_reserve(out, postern__device__disk_state__get_packed_size(&msg));
	if (!to)
		return err_set(err, -ENOMEM, "no memory for the state of %s", blk->name);
	out->len += postern__device__disk_state__pack(&msg, to);
	return 0;
}

static int blk_load(void *arg, const uint8_t *data, size_t len, bool apply, struct err *err)
{
	Postern__Device__DiskState *msg;
	struct blk *blk = arg;
	int r = 0;

	if (apply)
		return 0;
	msg = proto_unpack(&postern__device__disk_state__descriptor, data, len, PROTO_FIELDS_MAX,
			   err);
	if (!msg)
		return -EINVAL;
	if (msg->bytes != disk_bytes(blk->disk))
		r = err_set(err, -EINVAL, "disk %s has %" PRIu64 " bytes, the source's %" PRIu64,
			    blk->given.path, disk_bytes(blk->disk), msg->bytes);
	else if (msg->readonly != blk->given.readonly)
		r = err_set(err, -EINVAL, "disk %s is for reading %s, the source's is not",
			    blk->given.path, blk->given.readonly ? "only" : "and writing");
	postern__device__disk_state__free_unpacked(msg, NULL);
	return r;
}

/* ---- life ---- */

/*
 * Sectors stay 512 bytes, so that a disk's partitions are where they were wherever it lies; what
 * its storage likes better is told beside it, as a host disk of that kind ("512e") tells it.
 */
static void topology_fill(struct blk *blk)
{
	const struct disk_limits *limits = disk_limits(blk->disk);
	struct virtio_blk_config *c = &blk->config;
	uint32_t sectors = limits->physical / DISK_SECTOR_BYTES;

	c->blk_size = DISK_SECTOR_BYTES;
	c->physical_block_exp = (uint8_t)__builtin_ctz(sectors);
	c->min_io_size = (uint16_t)(sectors < UINT16_MAX ? sectors : 0);
	c->opt_io_size = limits->optimal / DISK_SECTOR_BYTES;
}

static uint64_t config_fill(struct blk *blk, unsigned int queues)
{
	struct virtio_blk_config *c = &blk->config;
	uint64_t features = BIT(VIRTIO_BLK_F_SIZE_MAX) | BIT(VIRTIO_BLK_F_SEG_MAX) |
			    BIT(VIRTIO_BLK_F_BLK_SIZE) | BIT(VIRTIO_BLK_F_TOPOLOGY) |
			    BIT(VIRTIO_BLK_F_FLUSH);

	topology_fill(blk);
	c->capacity = disk_bytes(blk->disk) / DISK_SECTOR_BYTES;
	c->size_max = SEG_BYTES;
	c->seg_max = SEG_MAX;
	c->num_queues = (uint16_t)queues;
	if (queues > 1)
		features |= BIT(VIRTIO_BLK_F_MQ);
	if (blk->given.readonly)
		return features | BIT(VIRTIO_BLK_F_RO);
	c->max_discard_sectors = c->max_write_zeroes_sectors = RANGE_SECTORS_MAX;
	c->max_discard_seg = c->max_write_zeroes_seg = 1;
	c->discard_sector_alignment = disk_limits(blk->disk)->discard / DISK_SECTOR_BYTES;
	c->write_zeroes_may_unmap = 1;
	return features | BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES);
}

static void blk_free(void *arg)
{
	struct blk *blk = arg;

	if (blk->disk)
		disk_close(blk->disk);
	vdev_fini(&blk->dev);
	disk_config_fini(&blk->given);
	free(blk);
}

static const struct vdev_ops blk_ops = {
	.name = "virtio-blk",
	.version = 1,
	.type = VIRTIO_ID_BLOCK,
	.pci_class = 0x010000,
	.queue = blk_on_queue,
	.free = blk_free,
	.drain = blk_drain,
	.claim = blk_claim,
	.release = blk_release,
	.save = blk_save,
	.load = blk_load,
};

bool vdev_disk_info(struct vdev *dev, struct disk_info *info)
{
	const struct blk *blk = dev->arg;

	if (dev->ops != &blk_ops)
		return false;
	*info = (struct disk_info){
		.dev = dev, .file = blk->given.path, .driver = blk->disk->ops->driver, .away = disk_away(blk->disk),
		.format = blk->given.format == DISK_FORMAT_QCOW2 ? "qcow2" : "raw",
		.bytes = disk_bytes(blk->disk), .readonly = blk->given.readonly, .jobs = disk_jobs(blk->disk),
	};
	strcpy(info->device, blk->name);
	disk_doubt(blk->disk, &info->doubt);
	return true;
}

bool vdev_disk_fenced(struct vdev *dev)
{
	const struct blk *blk = dev->arg;

	if (dev->ops != &blk_ops)
		return false;
	disk_fenced(blk->disk);
	return true;
}

static int blk_check(const char *text, struct err *err)
{
	struct disk_config config;
	int r = disk_config_parse(&config, text, err);

	if (!r)
		disk_config_fini(&config);
	return r;
}

static int blk_make(struct vdev **out, const struct vdev_env *env, const char *text,
		    unsigned int number, struct err *err)
{
	struct blk *blk = calloc(1, sizeof(*blk));
	unsigned int queues = env->cpus < QUEUES_MAX ? env->cpus : QUEUES_MAX;
	struct vdev_config config = {
		.number = number, .queues = queues, .queue_size = QUEUE_SIZE, .config_len = sizeof(blk->config),
	};
	struct disk_env disk_env = {
		.loop = env->loop, .elsewhere = env->disks_elsewhere, .away = on_away, .arg = blk,
	};
	int r;

	if (!blk)
		return err_set(err, -ENOMEM, "no memory for a disk");
	snprintf(blk->name, sizeof(blk->name), "disk%u", number);
	r = disk_config_parse(&blk->given, text, err);
	if (r < 0) {
		free(blk);
		return r;
	}
	r = disk_open(&blk->disk, &blk->given, &disk_env, err);
	if (!r) {
		config.features = config_fill(blk, queues);
		config.config = &blk->config;
		r = vdev_init(&blk->dev, &blk_ops, blk, env, &config, err);
	}
	if (r < 0) {
		blk_free(blk);
		return r;
	}
	*out = &blk->dev;
	return 0;
}

const struct virtio_type blk_type = { .option = "disk",
				      .max = 8,
				      .check = blk_check,
				      .make = blk_make };
