// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * blk.c - virtio-blk: a disk (virtio 1.2, section 5.2) on a raw file or a block device: reads, writes, flush, discard, zeroes, identity.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "device/virtio/disk.h"
#include "device/virtio/kind.h"

#define BIT(n) (UINT64_C(1) << (n))
#define SECTOR_BYTES 512u
#define QUEUE_SIZE 256
/* Header and status take a descriptor each. */
#define SEG_MAX (QUEUE_SIZE - 2)
/* Of one discard or zeroes request. */
#define RANGE_SECTORS_MAX (UINT32_C(1) << 16)

/* A disk has a queue for each vCPU, as far as that helps: one thread works them off. */
#define QUEUES_MAX 4
/* What VIRTIO_BLK_T_GET_ID returns. */
#define SERIAL_BYTES 20

struct blk_config {
	char *path;
	char serial[SERIAL_BYTES + 1];	/* may be empty */
	bool readonly;
};

struct blk {
	struct vdev dev;
	struct disk *disk;
	struct virtio_blk_config config;
	struct blk_config given;
	uint32_t starved;	/* queues that wait for the disk to have room */
};

struct request {
	struct disk_job job;
	struct blk *blk;
	struct vqueue *q;
	struct vchain *chain;
	uint32_t written;	/* when it succeeds, with the status */
	struct iovec iov[];
};

/* path is to be freed. */
static int parse(struct blk_config *config, const char *text, struct err *err)
{
	char *copy = strdup(text), *at, *word;

	*config = (struct blk_config){ .path = copy };
	if (!copy)
		return err_set(err, -ENOMEM, "no memory for a disk's configuration");
	at = strchr(copy, ',');
	if (at)
		*at++ = '\0';
	while ((word = strsep(&at, ","))) {
		if (!strcmp(word, "readonly")) {
			config->readonly = true;
		} else if (!strncmp(word, "serial=", 7) && strlen(word + 7) <= SERIAL_BYTES) {
			strcpy(config->serial, word + 7);
		} else {
			free(copy);
			return err_set(err, -EINVAL, "%s: FILE[,readonly][,serial=TEXT] is allowed, TEXT of at most %d bytes",
				       text, SERIAL_BYTES);
		}
	}
	if (!*copy) {
		free(copy);
		return err_set(err, -EINVAL, "%s: the file is missing", text);
	}
	return 0;
}

/* ---- requests; the device's lock is held ---- */

static void answer(struct blk *blk, struct vqueue *q, struct vchain *chain, uint8_t status, uint32_t written)
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

	vdev_lock(&blk->dev);
	if (result < 0)
		answer(blk, request->q, request->chain, VIRTIO_BLK_S_IOERR, 0);
	else
		answer(blk, request->q, request->chain, VIRTIO_BLK_S_OK, request->written);
	for (i = 0; blk->starved; i++, blk->starved >>= 1)
		if (blk->starved & 1)
			vqueue_kick(&blk->dev.queue[i]);
	vdev_unlock(&blk->dev);
	free(request);
}

static bool in_disk(const struct blk *blk, uint64_t sector, uint64_t len)
{
	uint64_t bytes = disk_bytes(blk->disk);

	return len % SECTOR_BYTES == 0 && len <= bytes && sector <= (bytes - len) / SECTOR_BYTES;
}

static uint8_t start(struct blk *blk, struct vqueue *q, struct vchain *chain, enum disk_op op, uint64_t sector, uint64_t len,
		     bool unmap)
{
	bool in = op == DISK_READ, data = in || op == DISK_WRITE;
	struct request *request;

	if (op != DISK_FLUSH && !in_disk(blk, sector, len))
		return VIRTIO_BLK_S_IOERR;
	if (op != DISK_READ && op != DISK_FLUSH && blk->given.readonly)
		return VIRTIO_BLK_S_IOERR;
	request = malloc(sizeof(*request) + (chain->n_in + chain->n_out) * sizeof(request->iov[0]));
	if (!request)
		return VIRTIO_BLK_S_IOERR;
	*request = (struct request){
		.job = { .op = op, .offset = sector * SECTOR_BYTES, .len = len, .unmap = unmap, .done = on_done },
		.blk = blk, .q = q, .chain = chain, .written = in ? (uint32_t)chain->in_bytes : 1,
	};
	request->job.iov = request->iov;
	if (data)
		request->job.iovs = vchain_iovec(chain, in, in ? 0 : sizeof(struct virtio_blk_outhdr), len, request->iov);
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
	return start(blk, q, chain, discard ? DISK_DISCARD : DISK_ZERO, range.sector,
		     (uint64_t)range.num_sectors * SECTOR_BYTES, range.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
}

static void answer_id(struct blk *blk, struct vqueue *q, struct vchain *chain)
{
	uint8_t id[SERIAL_BYTES] = { 0 };
	uint64_t room = chain->in_bytes - 1, n = room < sizeof(id) ? room : sizeof(id);

	memcpy(id, blk->given.serial, strlen(blk->given.serial));
	vchain_write(chain, 0, id, n);
	answer(blk, q, chain, VIRTIO_BLK_S_OK, (uint32_t)(n == room ? n + 1 : n));
}

static void take(struct blk *blk, struct vqueue *q, struct vchain *chain)
{
	struct virtio_blk_outhdr header;
	uint8_t status;

	if (!vchain_read(chain, 0, &header, sizeof(header)) || !chain->in_bytes) {
		vqueue_drop(q, chain);
		vdev_fail(&blk->dev, "queue %u: a request without header or without room for its status", q->index);
		return;
	}
	switch (header.type) {
	case VIRTIO_BLK_T_IN:
		status = start(blk, q, chain, DISK_READ, header.sector, chain->in_bytes - 1, false);
		break;
	case VIRTIO_BLK_T_OUT:
		status = start(blk, q, chain, DISK_WRITE, header.sector, chain->out_bytes - sizeof(header), false);
		break;
	case VIRTIO_BLK_T_FLUSH:
		status = start(blk, q, chain, DISK_FLUSH, 0, 0, false);
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
		answer(blk, q, chain, status, 0);
}

static void on_queue(void *arg, struct vqueue *q)
{
	struct blk *blk = arg;
	struct vchain *chain;
	unsigned int n;

	for (n = 0; n < VDEV_TURN_CHAINS && disk_jobs(blk->disk) < DISK_JOBS_MAX && vdev_take(&blk->dev, q, &chain); n++)
		take(blk, q, chain);
	if (n)
		disk_submit(blk->disk);
	if (disk_jobs(blk->disk) == DISK_JOBS_MAX)
		blk->starved |= UINT32_C(1) << q->index;
	else if (n == VDEV_TURN_CHAINS)
		vqueue_kick(q);
}

/* ---- drain ---- */

/* A flush of our own. */
struct own_flush {
	struct disk_job job;
	bool done;
	int result;
};

static void on_own_flush(struct disk_job *job, int result)
{
	struct own_flush *flush = (struct own_flush *)(void *)job;

	flush->done = true;
	flush->result = result;
}

static int drain_flush(struct blk *blk, int64_t deadline_ns, struct err *err)
{
	struct own_flush *flush = calloc(1, sizeof(*flush));
	int r = 0;

	if (!flush)
		return err_set(err, -ENOMEM, "no memory for a flush");
	flush->job.op = DISK_FLUSH;
	flush->job.done = on_own_flush;
	disk_add(blk->disk, &flush->job);
	while (!flush->done && clock_now_ns() < deadline_ns)
		disk_wait(blk->disk, deadline_ns);
	/* Left alone where it is: the disk will still write to it. */
	if (!flush->done)
		return err_set(err, -ETIMEDOUT, "disk %s: what was written does not reach it in time", blk->given.path);
	if (flush->result < 0)
		r = err_errno(err, flush->result, "disk %s: flush", blk->given.path);
	free(flush);
	return r;
}

static int blk_drain(void *arg, int64_t deadline_ns, struct err *err)
{
	struct blk *blk = arg;
	const struct timespec moment = { .tv_nsec = NS_PER_MS };
	unsigned int n;

	while ((n = vdev_in_hand(&blk->dev)) && clock_now_ns() < deadline_ns) {
		/* Without jobs it is the ring's page that is missing. */
		if (disk_jobs(blk->disk))
			disk_wait(blk->disk, deadline_ns);
		else
			nanosleep(&moment, NULL);
	}
	if (n)
		return err_set(err, -ETIMEDOUT, "disk %s: %u requests are not finished in time", blk->given.path, n);
	/* Also what was written long ago: the host that goes on has a cache of its own. */
	return blk->given.readonly ? 0 : drain_flush(blk, deadline_ns, err);
}

/* ---- life ---- */

static uint64_t config_fill(struct blk *blk, unsigned int queues)
{
	struct virtio_blk_config *c = &blk->config;
	uint64_t features = BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) | BIT(VIRTIO_BLK_F_FLUSH);

	c->capacity = disk_bytes(blk->disk) / SECTOR_BYTES;
	c->seg_max = SEG_MAX;
	c->blk_size = SECTOR_BYTES;
	c->num_queues = (uint16_t)queues;
	if (queues > 1)
		features |= BIT(VIRTIO_BLK_F_MQ);
	if (blk->given.readonly)
		return features | BIT(VIRTIO_BLK_F_RO);
	c->max_discard_sectors = c->max_write_zeroes_sectors = RANGE_SECTORS_MAX;
	c->max_discard_seg = c->max_write_zeroes_seg = 1;
	c->discard_sector_alignment = DISK_DIRECT_BYTES / SECTOR_BYTES;
	c->write_zeroes_may_unmap = 1;
	return features | BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES);
}

static void blk_free(void *arg)
{
	struct blk *blk = arg;

	if (blk->disk)
		disk_close(blk->disk);
	vdev_fini(&blk->dev);
	free(blk->given.path);
	free(blk);
}

static const struct vdev_ops blk_ops = {
	.name = "virtio-blk",
	.type = VIRTIO_ID_BLOCK,
	.pci_class = 0x010000,
	.queue = on_queue,
	.free = blk_free,
	.drain = blk_drain,
};

static int blk_check(const char *text, struct err *err)
{
	struct blk_config config;
	int r = parse(&config, text, err);

	if (!r)
		free(config.path);
	return r;
}

static int blk_make(struct vdev **out, const struct vdev_env *env, const char *text, unsigned int number, struct err *err)
{
	struct blk *blk = calloc(1, sizeof(*blk));
	unsigned int queues = env->cpus < QUEUES_MAX ? env->cpus : QUEUES_MAX;
	struct vdev_config config = {
		.number = number, .queues = queues, .queue_size = QUEUE_SIZE, .config_len = sizeof(blk->config),
	};
	int r;

	if (!blk)
		return err_set(err, -ENOMEM, "no memory for a disk");
	r = parse(&blk->given, text, err);
	if (r < 0) {
		free(blk);
		return r;
	}
	r = disk_open(&blk->disk, env->loop, blk->given.path, blk->given.readonly, err);
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

const struct virtio_kind blk_kind = { .option = "disk", .max = 8, .check = blk_check, .make = blk_make };
