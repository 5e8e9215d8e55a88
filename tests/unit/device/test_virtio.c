// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Whole virtio devices behind a PCI bridge, as a driver sees them: registers in
 * a BAR, rings in guest memory, interrupts.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "bridge.h"
#include "device/virtio/type.h"
#include "msi.h"
#include "turns.h"

#define RAM_BYTES (UINT64_C(2) << 20)
#define RNG_BAR BRIDGE_WINDOW
#define BLK_BAR (BRIDGE_WINDOW + 0x8000)
#define DEVICE_AT 0x2000
#define RNG_RINGS 0x10000
#define BLK_RINGS 0x20000
#define HEADER 0x30000
#define STATUS 0x30100
#define DATA 0x40000
#define SIZE 16
#define DISK_BYTES (1 << 20)
#define EVENT (UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX)
#define VERSION (UINT64_C(1) << VIRTIO_F_VERSION_1)
#define PACKED (UINT64_C(1) << VIRTIO_F_RING_PACKED)

struct rig {
	struct loop *loop;
	struct memory *mem;
	uint8_t *ram;
	struct pci_host *host;
	struct vdev *rng, *blk;
	struct fake_msi msi;
	struct driver rng_driver, blk_driver;
	char path[32];
	int fd;
};

/* The devices, on memory that is there already; a second rig may share memory and disk. */
static void devices_new(struct rig *r, bool readonly, bool incoming)
{
	const struct vdev_env env = {
		.mem = r->mem, .loop = r->loop, .cpus = 2, .msi = { &fake_msi_ops, &r->msi },
		.disks_elsewhere = incoming,
	};
	char disk[80];
	struct err err;

	r->host = bridge_new();
	snprintf(disk, sizeof(disk), "%s,serial=postern%s", r->path, readonly ? ",readonly" : "");
	if (rng_type.make(&r->rng, &env, "", 0, &err) < 0 ||
	    blk_type.make(&r->blk, &env, disk, 0, &err) < 0)
		fail_msg("%s", err.text);
	bridge_add(r->host, r->rng);
	bridge_add(r->host, r->blk);
	vdev_start(r->rng);
	vdev_start(r->blk);
}

static void devices_free(struct rig *r)
{
	vdev_free(r->rng);
	vdev_free(r->blk);
	assert_int_equal(r->msi.open, 0);
	pci_host_free(r->host);
}

static struct rig *rig_new(bool late, bool readonly)
{
	struct memory *mem;
	uint8_t *ram = ram_new(&mem, RAM_BYTES, late);
	struct rig *r = calloc(1, sizeof(*r));
	struct err err;
	unsigned int i;

	r->mem = mem;
	r->ram = ram;
	assert_int_equal(loop_new(&r->loop, &err), 0);
	strcpy(r->path, "/tmp/postern-disk-XXXXXX");
	r->fd = mkstemp(r->path);
	assert_true(r->fd >= 0);
	for (i = 0; i < DISK_BYTES; i += 4)
		assert_int_equal(pwrite(r->fd, &i, 4, i), 4);
	devices_new(r, readonly, false);
	return r;
}

static void rig_free(struct rig *r)
{
	devices_free(r);
	ram_free(r->mem);
	assert_true(loop_free(r->loop));
	close(r->fd);
	unlink(r->path);
	free(r);
}

/* ---- registers ---- */

static uint64_t get(struct rig *r, uint64_t gpa, unsigned int size)
{
	return bridge_get(r->host, gpa - BRIDGE_WINDOW, size);
}

static void put(struct rig *r, uint64_t gpa, uint64_t value, unsigned int size)
{
	bridge_put(r->host, gpa - BRIDGE_WINDOW, value, size);
}

static uint8_t status(struct rig *r, uint64_t bar)
{
	return (uint8_t)get(r, bar + VIRTIO_PCI_COMMON_STATUS, 1);
}

static void set_status(struct rig *r, uint64_t bar, unsigned int value)
{
	put(r, bar + VIRTIO_PCI_COMMON_STATUS, value, 1);
}

static uint64_t features(struct rig *r, uint64_t bar)
{
	return bridge_features(r->host, bar - BRIDGE_WINDOW);
}

static void accept_features(struct rig *r, uint64_t bar, uint64_t value)
{
	bridge_accept(r->host, bar - BRIDGE_WINDOW, value);
}

/* As a driver starts: queue 0 with vector 1, the configuration with vector 0, all unmasked. */
static void driver_start(struct rig *r, uint64_t bar, struct driver *d, uint64_t rings,
			 uint64_t with)
{
	bridge_vectors(r->host, bar == RNG_BAR ? 1 : 2, bar - BRIDGE_WINDOW, 2);
	driver_init(d, r->ram, rings, SIZE, with & PACKED);
	accept_features(r, bar, VERSION | with);
	assert_true(status(r, bar) & VIRTIO_CONFIG_S_FEATURES_OK);
	put(r, bar + VIRTIO_PCI_COMMON_MSIX, 0, 2);
	bridge_queue(r->host, bar - BRIDGE_WINDOW, 0, d, 1);
	set_status(r, bar, 0xf);
	assert_int_equal(status(r, bar), 0xf);
}

static void notify(struct rig *r, uint64_t bar)
{
	put(r, bar + BRIDGE_NOTIFY, 0, 2);
}

static void features_are_negotiated(void **state)
{
	struct rig *r = rig_new(false, false);

	(void)state;
	assert_int_equal(features(r, RNG_BAR),
			 VERSION | PACKED | EVENT | 1u << VIRTIO_RING_F_INDIRECT_DESC);
	put(r, RNG_BAR + VIRTIO_PCI_COMMON_DFSELECT, 2, 4);
	assert_int_equal(get(r, RNG_BAR + VIRTIO_PCI_COMMON_DF, 4), 0);
	assert_int_equal(get(r, RNG_BAR + VIRTIO_PCI_COMMON_NUMQ, 2), 1);
	/*
	 * Legacy is refused, and so is what is not offered; the driver sees
	 * that its bit does not stay.
	 */
	accept_features(r, RNG_BAR, EVENT);
	assert_int_equal(status(r, RNG_BAR), 3);
	accept_features(r, RNG_BAR, VERSION | UINT64_C(1) << 33);
	assert_int_equal(status(r, RNG_BAR), 3);
	accept_features(r, RNG_BAR, VERSION);
	assert_int_equal(status(r, RNG_BAR), 0xb);
	/* Settled now. */
	put(r, RNG_BAR + VIRTIO_PCI_COMMON_GF, 0, 4);
	assert_int_equal(get(r, RNG_BAR + VIRTIO_PCI_COMMON_GF, 4), 1);
	put(r, RNG_BAR + VIRTIO_PCI_COMMON_MSIX, 2, 2);
	assert_int_equal(get(r, RNG_BAR + VIRTIO_PCI_COMMON_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
	put(r, RNG_BAR + VIRTIO_PCI_COMMON_Q_SELECT, 1, 2);
	assert_int_equal(get(r, RNG_BAR + VIRTIO_PCI_COMMON_Q_SIZE, 2), 0);
	set_status(r, RNG_BAR, 0);
	assert_int_equal(status(r, RNG_BAR), 0);
	assert_int_equal(get(r, RNG_BAR + VIRTIO_PCI_COMMON_GF, 4), 0);
	rig_free(r);
}

static void entropy_comes_and_interrupts(void **state)
{
	const struct driver_buf buf = { DATA, 64, true };
	struct rig *r = rig_new(false, false);
	uint8_t zeros[64] = { 0 };
	uint32_t len;

	(void)state;
	driver_start(r, RNG_BAR, &r->rng_driver, RNG_RINGS, PACKED | EVENT);
	driver_add(&r->rng_driver, &buf, 1, 0);
	turns(r->loop);
	/* The enabling of the queue was its first notification; the second one finds nothing. */
	notify(r, RNG_BAR);
	run_until(r, driver_used(&r->rng_driver, 1, &len) >= 0);
	assert_int_equal(len, 64);
	assert_memory_not_equal(r->ram + DATA, zeros, 64);
	assert_int_equal(r->msi.fired_of[1], 1);
	assert_int_equal(get(r, RNG_BAR + 0x1000, 1), 1);
	assert_int_equal(get(r, RNG_BAR + 0x1000, 1), 0);
	rig_free(r);
}

/* ---- disk ---- */

/* One request; returns its status. in: the device writes the data. */
static uint8_t request(struct rig *r, uint32_t type, uint64_t sector, uint64_t data, uint32_t len,
		       bool in)
{
	const struct virtio_blk_outhdr header = { .type = type, .sector = sector };
	const struct driver_buf bufs[] = { { HEADER, sizeof(header), false }, { data, len, in }, { STATUS, 1, true } };
	const struct driver_buf without[] = { { HEADER, sizeof(header), false }, { STATUS, 1, true } };
	uint32_t written;
	int id;

	memcpy(r->ram + HEADER, &header, sizeof(header));
	r->ram[STATUS] = 0xff;
	id = driver_add(&r->blk_driver, len ? bufs : without, len ? 3 : 2, 0);
	notify(r, BLK_BAR);
	run_until(r, driver_used(&r->blk_driver, len ? 3 : 2, &written) == id);
	if (!r->ram[STATUS])
		assert_int_equal(written, in ? len + 1 : 1);
	return r->ram[STATUS];
}

static void disk_read(struct rig *r, uint8_t *to, size_t len, off_t at)
{
	assert_int_equal(pread(r->fd, to, len, at), len);
}

static void a_disk_does_what_it_is_asked(uint64_t with)
{
	struct virtio_blk_discard_write_zeroes range = { .sector = 64, .num_sectors = 16 };
	struct rig *r = rig_new(false, false);
	static uint8_t file[65536];
	const uint8_t zeros[8192] = { 0 };
	uint32_t word;

	driver_start(r, BLK_BAR, &r->blk_driver, BLK_RINGS, with);
	assert_int_equal(get(r, BLK_BAR + DEVICE_AT, 8), DISK_BYTES / 512);
	/* Aligned and not, in memory and on the disk. */
	assert_int_equal(request(r, VIRTIO_BLK_T_IN, 8, DATA, 8192, true), VIRTIO_BLK_S_OK);
	disk_read(r, file, 8192, 4096);
	assert_memory_equal(r->ram + DATA, file, 8192);
	assert_int_equal(request(r, VIRTIO_BLK_T_IN, 3, DATA + 20, 1024, true), VIRTIO_BLK_S_OK);
	memcpy(&word, r->ram + DATA + 20, 4);
	assert_int_equal(word, 3 * 512);
	memset(r->ram + DATA, 0x77, 8192);
	assert_int_equal(request(r, VIRTIO_BLK_T_OUT, 64, DATA, 8192, false), VIRTIO_BLK_S_OK);
	assert_int_equal(request(r, VIRTIO_BLK_T_OUT, 1, DATA, 512, false), VIRTIO_BLK_S_OK);
	assert_int_equal(request(r, VIRTIO_BLK_T_FLUSH, 0, 0, 0, false), VIRTIO_BLK_S_OK);
	disk_read(r, file, 8192, 64 * 512);
	assert_memory_equal(file, r->ram + DATA, 8192);
	disk_read(r, file, 1536, 0);
	assert_int_equal(file[511], 0);
	assert_int_equal(file[512], 0x77);
	assert_int_equal(file[1024], 0);
	/* Zeroes, discard. */
	memcpy(r->ram + DATA, &range, sizeof(range));
	assert_int_equal(request(r, VIRTIO_BLK_T_WRITE_ZEROES, 0, DATA, sizeof(range), false),
			 VIRTIO_BLK_S_OK);
	disk_read(r, file, 8192, 64 * 512);
	assert_memory_equal(file, zeros, 8192);
	assert_int_equal(request(r, VIRTIO_BLK_T_DISCARD, 0, DATA, sizeof(range), false),
			 VIRTIO_BLK_S_OK);
	range.flags = 2;
	memcpy(r->ram + DATA, &range, sizeof(range));
	assert_int_equal(request(r, VIRTIO_BLK_T_WRITE_ZEROES, 0, DATA, sizeof(range), false),
			 VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(request(r, VIRTIO_BLK_T_GET_ID, 0, DATA, 20, true), VIRTIO_BLK_S_OK);
	assert_string_equal((char *)r->ram + DATA, "postern");
	/* Over the end, by one and by wrapping round; half a sector; what there is not. */
	assert_int_equal(request(r, VIRTIO_BLK_T_IN, DISK_BYTES / 512 - 1, DATA, 1024, true),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(r, VIRTIO_BLK_T_OUT, UINT64_MAX / 512 + 1, DATA, 512, false),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(r, VIRTIO_BLK_T_IN, 0, DATA, 100, true), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(r, 77, 0, DATA, 512, true), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(status(r, BLK_BAR), 0xf);
	rig_free(r);
}

static void a_disk_with_a_split_ring(void **state)
{
	(void)state;
	a_disk_does_what_it_is_asked(0);
}

static void a_disk_with_a_packed_ring(void **state)
{
	(void)state;
	a_disk_does_what_it_is_asked(PACKED | EVENT);
}

static void a_readonly_disk_is_one(void **state)
{
	struct rig *r = rig_new(false, true);

	(void)state;
	assert_true(features(r, BLK_BAR) & 1u << VIRTIO_BLK_F_RO);
	driver_start(r, BLK_BAR, &r->blk_driver, BLK_RINGS, 0);
	assert_int_equal(request(r, VIRTIO_BLK_T_OUT, 0, DATA, 512, false), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(r, VIRTIO_BLK_T_IN, 0, DATA, 512, true), VIRTIO_BLK_S_OK);
	rig_free(r);
}

/* ---- a driver that is wrong ---- */

static void a_wrong_driver_needs_a_reset(void **state)
{
	const struct driver_buf buf = { RAM_BYTES, 64, true }, good = { DATA, 64, true };
	struct rig *r = rig_new(false, false);
	uint32_t len;

	(void)state;
	driver_start(r, RNG_BAR, &r->rng_driver, RNG_RINGS, 0);
	driver_add(&r->rng_driver, &buf, 1, 0);
	notify(r, RNG_BAR);
	run_until(r, status(r, RNG_BAR) & VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_int_equal(r->msi.fired_of[0], 1);
	assert_int_equal(get(r, RNG_BAR + 0x1000, 1), VIRTIO_PCI_ISR_CONFIG);
	/* Nothing more is done until it is reset. */
	driver_add(&r->rng_driver, &good, 1, 0);
	notify(r, RNG_BAR);
	turns(r->loop);
	assert_int_equal(driver_used(&r->rng_driver, 1, &len), -1);
	set_status(r, RNG_BAR, 0);
	assert_int_equal(status(r, RNG_BAR), 0);
	memset(r->ram + RNG_RINGS, 0, 0x3000);
	driver_start(r, RNG_BAR, &r->rng_driver, RNG_RINGS, 0);
	driver_add(&r->rng_driver, &good, 1, 0);
	notify(r, RNG_BAR);
	run_until(r, driver_used(&r->rng_driver, 1, &len) >= 0);
	/*
	 * A used ring that is nowhere: what cannot be given back is forgotten,
	 * nobody waits for it.
	 */
	set_status(r, RNG_BAR, 0);
	memset(r->ram + RNG_RINGS, 0, 0x3000);
	accept_features(r, RNG_BAR, VERSION);
	put(r, RNG_BAR + VIRTIO_PCI_COMMON_Q_SIZE, SIZE, 2);
	put(r, RNG_BAR + VIRTIO_PCI_COMMON_Q_DESCLO, RNG_RINGS, 4);
	put(r, RNG_BAR + VIRTIO_PCI_COMMON_Q_AVAILLO, RNG_RINGS + 0x1000, 4);
	put(r, RNG_BAR + VIRTIO_PCI_COMMON_Q_USEDLO, RAM_BYTES, 8);
	put(r, RNG_BAR + VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
	set_status(r, RNG_BAR, 0xf);
	driver_init(&r->rng_driver, r->ram, RNG_RINGS, SIZE, false);
	driver_add(&r->rng_driver, &good, 1, 0);
	notify(r, RNG_BAR);
	run_until(r, status(r, RNG_BAR) & VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_int_equal(vdev_in_flight(r->rng), 0);
	/* Out of order: a queue before features, work before features. */
	set_status(r, RNG_BAR, 0);
	put(r, RNG_BAR + VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
	assert_int_equal(status(r, RNG_BAR), VIRTIO_CONFIG_S_NEEDS_RESET);
	set_status(r, RNG_BAR, 0);
	set_status(r, RNG_BAR, VIRTIO_CONFIG_S_DRIVER_OK);
	assert_int_equal(status(r, RNG_BAR), VIRTIO_CONFIG_S_NEEDS_RESET);
	/* A disk's request without header, and one without room for a status. */
	driver_start(r, BLK_BAR, &r->blk_driver, BLK_RINGS, 0);
	driver_add(&r->blk_driver, &good, 1, 0);
	notify(r, BLK_BAR);
	run_until(r, status(r, BLK_BAR) & VIRTIO_CONFIG_S_NEEDS_RESET);
	set_status(r, BLK_BAR, 0);
	assert_int_equal(status(r, BLK_BAR), 0);
	rig_free(r);
}

/* ---- missing pages ---- */

static void fill(struct rig *r, uint64_t gpa, unsigned int pages)
{
	assert_int_equal(memory_fill(r->mem, gpa_to_gfn(GPA(gpa)), pages, NULL), pages);
}

static void a_page_that_is_missing_holds_up_one_device(void **state)
{
	const struct driver_buf late = { DATA, 64, true }, here = { DATA + 0x1000, 64, true };
	struct rig *r = rig_new(true, false);
	uint32_t len;

	(void)state;
	fill(r, RNG_RINGS, 3);
	fill(r, BLK_RINGS, 3);
	fill(r, HEADER, 1);
	fill(r, DATA + 0x1000, 1);
	driver_start(r, RNG_BAR, &r->rng_driver, RNG_RINGS, 0);
	driver_start(r, BLK_BAR, &r->blk_driver, BLK_RINGS, 0);
	driver_add(&r->rng_driver, &late, 1, 0);
	notify(r, RNG_BAR);
	run_until(r, vqueue_is_parked(&r->rng->queue[0]));
	/* The other device goes on, and so does the machine: registers, a state. */
	assert_int_equal(request(r, VIRTIO_BLK_T_IN, 0, DATA + 0x1000, 512, true), VIRTIO_BLK_S_OK);
	assert_int_equal(status(r, RNG_BAR), 0xf);
	assert_int_equal(driver_used(&r->rng_driver, 1, &len), -1);
	/* Stopped: the page comes, and nothing is done until it is started. */
	vdev_stop(r->rng);
	assert_false(vqueue_is_parked(&r->rng->queue[0]));
	fill(r, DATA, 1);
	turns(r->loop);
	assert_int_equal(driver_used(&r->rng_driver, 1, &len), -1);
	vdev_start(r->rng);
	run_until(r, driver_used(&r->rng_driver, 1, &len) >= 0);
	/* A chain behind a missing page; the driver gives up and resets. */
	driver_add(&r->rng_driver, &(struct driver_buf){ DATA + 0x5000, 64, true }, 1, 0);
	driver_add(&r->rng_driver, &here, 1, 0);
	notify(r, RNG_BAR);
	run_until(r, vqueue_is_parked(&r->rng->queue[0]));
	set_status(r, RNG_BAR, 0);
	assert_int_equal(status(r, RNG_BAR), 0);
	rig_free(r);
}

/* Unplugged, or the process ends, while it waits. */
static void the_end_comes_while_parked(void **state)
{
	struct rig *r = rig_new(true, false);

	(void)state;
	fill(r, RNG_RINGS + 0x2000, 1);
	fill(r, RNG_RINGS, 1);
	driver_start(r, RNG_BAR, &r->rng_driver, RNG_RINGS, 0);
	notify(r, RNG_BAR);
	run_until(r, vqueue_is_parked(&r->rng->queue[0]));
	rig_free(r);
}

/* ---- state ---- */

static void a_reset_waits_for_what_is_under_way(void **state)
{
	const struct virtio_blk_outhdr header = { .type = VIRTIO_BLK_T_IN };
	const struct driver_buf bufs[] = { { HEADER, sizeof(header), false }, { DATA, 65536, true }, { STATUS, 1, true } };
	struct rig *r = rig_new(false, false);
	struct vdev *dev = r->blk;
	struct buf buf = { 0 };
	struct err err;
	uint32_t len;

	(void)state;
	driver_start(r, BLK_BAR, &r->blk_driver, BLK_RINGS, 0);
	turns(r->loop);
	memcpy(r->ram + HEADER, &header, sizeof(header));
	driver_add(&r->blk_driver, bufs, 3, 0);
	/* Handed to the disk; the loop does not look at what it answers. */
	vdev_run(dev, 0);
	assert_int_equal(vdev_in_flight(dev), 1);
	assert_int_equal(dev->device_ops.save(dev, &buf, &err), -EBUSY);
	set_status(r, BLK_BAR, 0);
	assert_int_equal(status(r, BLK_BAR), 0xf);
	run_until(r, status(r, BLK_BAR) == 0);
	assert_int_equal(vdev_in_flight(dev), 0);
	assert_int_equal(driver_used(&r->blk_driver, 3, &len), -1);
	/* Again, and it is drained: then there is a state. */
	memset(r->ram + BLK_RINGS, 0, 0x3000);
	driver_start(r, BLK_BAR, &r->blk_driver, BLK_RINGS, 0);
	turns(r->loop);
	driver_add(&r->blk_driver, bufs, 3, 0);
	vdev_run(dev, 0);
	vdev_stop(dev);
	assert_int_equal(vdev_drain(r->blk, clock_now_ns() + 10 * NS_PER_SEC, &err), 0);
	assert_int_equal(driver_used(&r->blk_driver, 3, &len), 0);
	assert_int_equal(len, 65537);
	assert_int_equal(dev->device_ops.save(dev, &buf, &err), 0);
	buf_fini(&buf);
	rig_free(r);
}

static void state_travels(uint64_t with)
{
	struct rig *r = rig_new(false, false), there = { 0 };
	struct vdev *from = r->blk, *to;
	struct err err;

	driver_start(r, BLK_BAR, &r->blk_driver, BLK_RINGS, with);
	assert_int_equal(request(r, VIRTIO_BLK_T_IN, 0, DATA, 512, true), VIRTIO_BLK_S_OK);
	vdev_stop(from);
	/* Another machine with the same memory, the same disk. */
	there = *r;
	there.msi = (struct fake_msi){ 0 };
	devices_new(&there, false, true);
	to = there.blk;
	vdev_stop(to);
	state_torture(&from->device_ops, from, to);
	/* The disk is the other's until it gives it up. */
	assert_int_equal(vdev_claim(to, &err), -EBUSY);
	assert_non_null(strstr(err.text, r->path));
	vdev_release(from);
	assert_int_equal(vdev_claim(to, &err), 0);
	assert_int_equal(vdev_claim(to, &err), 0);
	assert_int_equal(vdev_claim(from, &err), -EBUSY);
	/*
	 * What the source told may have been on its way to the guest: it is
	 * told once more, of the configuration too.
	 */
	there.msi = (struct fake_msi){ .open = there.msi.open };
	vdev_start(to);
	assert_int_equal(there.msi.fired_of[2], 1);
	assert_int_equal(there.msi.fired_of[2 + 1], 1);
	vdev_stop(to);
	vdev_start(to);
	assert_int_equal(there.msi.fired, 2);
	/* Its ring goes on where it was, interrupts come where they were asked for. */
	assert_int_equal(request(&there, VIRTIO_BLK_T_IN, 64, DATA, 4096, true), VIRTIO_BLK_S_OK);
	assert_int_equal(*(uint32_t *)(void *)(r->ram + DATA), 64 * 512);
	assert_true(there.msi.fired_of[2 + 1] >= 1);
	assert_int_equal(status(&there, BLK_BAR), 0xf);
	devices_free(&there);
	rig_free(r);
}

static void state_travels_with_either_ring(void **state)
{
	(void)state;
	state_travels(0);
	state_travels(PACKED | EVENT);
}

/* What the driver knows of the disk holds on the other side, or it does not go there. */
static void the_state_of_another_disk_is_refused(void **state)
{
	struct rig *r = rig_new(false, true);
	struct buf buf = { 0 };
	struct err err;

	(void)state;
	vdev_stop(r->blk);
	assert_int_equal(r->blk->device_ops.save(r->blk, &buf, &err), 0);
	devices_free(r);
	r->msi = (struct fake_msi){ 0 };
	assert_int_equal(ftruncate(r->fd, DISK_BYTES / 2), 0);
	devices_new(r, true, false);
	assert_int_equal(r->blk->device_ops.load(r->blk, buf.data, buf.len, &err), -EINVAL);
	assert_non_null(strstr(err.text, "has 524288 bytes, the source's 1048576"));
	devices_free(r);
	r->msi = (struct fake_msi){ 0 };
	assert_int_equal(ftruncate(r->fd, DISK_BYTES), 0);
	devices_new(r, false, false);
	assert_int_equal(r->blk->device_ops.load(r->blk, buf.data, buf.len, &err), -EINVAL);
	buf_fini(&buf);
	rig_free(r);
}

/*
 * A function that is no bus master reads and writes no memory; what was
 * notified meanwhile is done once it is one.
 */
static void a_device_that_is_no_bus_master_leaves_memory_alone(void **state)
{
	const struct driver_buf buf = { DATA, 64, true };
	uint16_t off = PCI_COMMAND_MEMORY, on = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	struct rig *r = rig_new(false, false);
	uint32_t len;

	(void)state;
	driver_start(r, RNG_BAR, &r->rng_driver, RNG_RINGS, 0);
	turns(r->loop);
	pci_host_ecam_access(r->host, 1 << 15 | PCI_COMMAND, true, (uint8_t *)&off, 2);
	driver_add(&r->rng_driver, &buf, 1, 0);
	notify(r, RNG_BAR);
	turns(r->loop);
	assert_int_equal(driver_used(&r->rng_driver, 1, &len), -1);
	pci_host_ecam_access(r->host, 1 << 15 | PCI_COMMAND, true, (uint8_t *)&on, 2);
	run_until(r, driver_used(&r->rng_driver, 1, &len) >= 0);
	assert_int_equal(len, 64);
	rig_free(r);
}

static void count_idle(void *arg, const struct device_event *event)
{
	*(unsigned int *)arg += event->type == DEVICE_EVENT_IDLE;
}

/* A machine that has stopped is told when it may be reset. */
static void a_stopped_device_tells_when_it_is_done(void **state)
{
	const struct virtio_blk_outhdr header = { .type = VIRTIO_BLK_T_IN };
	const struct driver_buf bufs[] = { { HEADER, sizeof(header), false }, { DATA, 65536, true }, { STATUS, 1, true } };
	struct rig *r = rig_new(false, false);
	unsigned int events = 0;
	uint32_t len;

	(void)state;
	r->blk->env.events = (struct device_event_sink){ count_idle, &events };
	driver_start(r, BLK_BAR, &r->blk_driver, BLK_RINGS, EVENT);
	assert_int_equal(request(r, VIRTIO_BLK_T_IN, 0, DATA, 512, true), VIRTIO_BLK_S_OK);
	assert_int_equal(events, 0);
	memcpy(r->ram + HEADER, &header, sizeof(header));
	driver_add(&r->blk_driver, bufs, 3, 0);
	vdev_run(r->blk, 0);
	vdev_stop(r->blk);
	assert_int_equal(vdev_in_flight(r->blk), 1);
	run_until(r, events);
	assert_int_equal(vdev_in_flight(r->blk), 0);
	assert_true(driver_used(&r->blk_driver, 3, &len) >= 0);
	rig_free(r);
}

/* Large requests do not keep the loop from its other work. */
static void a_turn_has_an_end(void **state)
{
	const struct virtio_blk_outhdr header = { .type = VIRTIO_BLK_T_IN };
	const struct driver_buf bufs[] = { { HEADER, sizeof(header), false }, { DATA, DISK_BYTES, true }, { STATUS, 1, true } };
	const uint64_t tables = BLK_RINGS + 0x4000;
	struct rig *r = rig_new(false, false);
	unsigned int i, used = 0;
	uint32_t len;

	(void)state;
	driver_start(r, BLK_BAR, &r->blk_driver, BLK_RINGS,
		     UINT64_C(1) << VIRTIO_RING_F_INDIRECT_DESC);
	turns(r->loop);
	memcpy(r->ram + HEADER, &header, sizeof(header));
	for (i = 0; i < SIZE; i++)
		driver_add(&r->blk_driver, bufs, 3, tables + i * 64);
	vdev_run(r->blk, 0);
	assert_int_equal(vdev_in_flight(r->blk), (8 << 20) / DISK_BYTES);
	/* Nobody has to notify again. */
	run_until(r, (used += driver_used(&r->blk_driver, 1, &len) >= 0) == SIZE);
	rig_free(r);
}

/*
 * As many and as large segments as are offered make a chain that is taken; all
 * in one turn of none of them longer than its share.
 */
static void what_a_disk_offers_it_takes(void **state)
{
	const struct virtio_blk_outhdr header = { .type = VIRTIO_BLK_T_IN };
	struct driver_buf bufs[SIZE] = { { HEADER, sizeof(header), false } };
	struct rig *r = rig_new(false, false);
	uint32_t size_max, seg_max, written;
	unsigned int i;
	int id;

	(void)state;
	assert_true(features(r, BLK_BAR) & 1u << VIRTIO_BLK_F_SIZE_MAX &&
		    features(r, BLK_BAR) & 1u << VIRTIO_BLK_F_SEG_MAX);
	size_max = (uint32_t)get(r, BLK_BAR + DEVICE_AT + 8, 4);
	seg_max = (uint32_t)get(r, BLK_BAR + DEVICE_AT + 12, 4);
	assert_int_equal(seg_max, 254);
	assert_true((uint64_t)size_max * seg_max <= VCHAIN_BYTES_MAX);
	driver_start(r, BLK_BAR, &r->blk_driver, BLK_RINGS, 0);
	memcpy(r->ram + HEADER, &header, sizeof(header));
	/* Of odd lengths, so that none is aligned. */
	for (i = 1; i < SIZE - 1; i++)
		bufs[i] = (struct driver_buf){ DATA + i * 8192 + 3,
					       i == SIZE - 2 ? 13 * 3 + 512 : 512 - 3, true };
	bufs[SIZE - 1] = (struct driver_buf){ STATUS, 1, true };
	id = driver_add(&r->blk_driver, bufs, SIZE, 0);
	notify(r, BLK_BAR);
	run_until(r, driver_used(&r->blk_driver, SIZE, &written) == id);
	assert_int_equal(r->ram[STATUS], VIRTIO_BLK_S_OK);
	assert_int_equal(written, 14 * 512 + 1);
	memcpy(&written, r->ram + DATA + (SIZE - 2) * 8192 + 3 + 512 - 13 * 509 % 512,
	       sizeof(written));
	assert_int_equal(written, 13 * 512);
	rig_free(r);
}

static void hostile_state_is_refused(void **state)
{
	struct rig *r = rig_new(false, false);
	struct vdev *dev = r->rng;

	(void)state;
	assert_refused(&dev->device_ops, dev, "\x08", "VirtioState");
	assert_refused(&dev->device_ops, dev, "\x18\x80\x02", "bits");	/* status 0x100 */
	assert_refused(&dev->device_ops, dev, "", "0 queues");
	assert_refused(&dev->device_ops, dev, "\x4a\x00", "not enabled and has moved");
	/* Enabled, with 3 entries; as large as 2^17. */
	assert_refused(&dev->device_ops, dev, "\x4a\x04\x08\x03\x30\x01", "no power of two");
	assert_refused(&dev->device_ops, dev, "\x4a\x04\x08\x80\x80\x08", "16 bits");
	assert_int_equal(status(r, RNG_BAR), 0);
	rig_free(r);
}

static void what_is_no_disk_says_why(void **state)
{
	const struct vdev_env env = { .msi = { &fake_msi_ops, &(struct fake_msi){ 0 } }, .cpus = 1 };
	struct vdev *blk;
	struct err err;

	(void)state;
	assert_int_equal(blk_type.make(&blk, &env, "/nonexistent/disk", 0, &err), -ENOENT);
	assert_non_null(strstr(err.text, "/nonexistent/disk"));
	assert_true(blk_type.make(&blk, &env, "/tmp", 0, &err) < 0);
	assert_int_equal(blk_type.make(&blk, &env, "/dev/null", 0, &err), -EINVAL);
	assert_non_null(strstr(err.text, "neither a file"));
	assert_int_equal(blk_type.check("a,readonly,serial=x", &err), 0);
	assert_int_equal(blk_type.check("a,writable", &err), -EINVAL);
	assert_int_equal(blk_type.check(",readonly", &err), -EINVAL);
	assert_int_equal(blk_type.check("a,serial=123456789012345678901", &err), -EINVAL);
}

static void devices_are_chosen_by_their_options(void **state)
{
	struct virtio_options options = { 0 };
	struct err err;
	int i;

	(void)state;
	for (i = 0; i < 8; i++)
		assert_int_equal(virtio_options_add(&options, "disk", "a", &err), 0);
	assert_int_equal(virtio_options_add(&options, "disk", "b", &err), -EINVAL);
	assert_string_equal(err.text, "--disk b: at most 8 allowed");
	assert_int_equal(virtio_options_add(&options, "disk", "", &err), -EINVAL);
	assert_int_equal(virtio_options_add(&options, "tape", "", &err), -EINVAL);
	assert_int_equal(virtio_options_add(&options, "rng", "", &err), 0);
	assert_int_equal(options.n, 9);
	assert_ptr_equal(options.option[8].type, &rng_type);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(features_are_negotiated),
		cmocka_unit_test(entropy_comes_and_interrupts),
		cmocka_unit_test(a_disk_with_a_split_ring),
		cmocka_unit_test(a_disk_with_a_packed_ring),
		cmocka_unit_test(a_readonly_disk_is_one),
		cmocka_unit_test(a_wrong_driver_needs_a_reset),
		cmocka_unit_test(a_page_that_is_missing_holds_up_one_device),
		cmocka_unit_test(the_end_comes_while_parked),
		cmocka_unit_test(a_reset_waits_for_what_is_under_way),
		cmocka_unit_test(state_travels_with_either_ring),
		cmocka_unit_test(the_state_of_another_disk_is_refused),
		cmocka_unit_test(a_device_that_is_no_bus_master_leaves_memory_alone),
		cmocka_unit_test(what_a_disk_offers_it_takes),
		cmocka_unit_test(a_stopped_device_tells_when_it_is_done),
		cmocka_unit_test(a_turn_has_an_end),
		cmocka_unit_test(hostile_state_is_refused),
		cmocka_unit_test(what_is_no_disk_says_why),
		cmocka_unit_test(devices_are_chosen_by_their_options),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
