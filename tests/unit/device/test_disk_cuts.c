// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A guest's disk while power and links are cut, many times over, at random from
 * a seed: `test_device_disk_cuts [ROUNDS [SEED]]`.
 *
 * A driver, which has accepted FLUSH or not, keeps reads, writes, zeroes,
 * discards and flushes under way on a few sectors, so that they cross. Behind
 * the device is a file whose medium has a volatile cache (tape.h), or an NBD
 * server at its worst (late_server.h). The checker knows which contents each
 * sector may have:
 *
 *   - live: of the last write that had ended before the read began, or of one
 *     that had not; whatever happens to links and servers;
 *   - after the guest's own loss of power: of the last write that was stable by
 *     virtio 1.2, 5.2.6.2, or of a later one.
 *
 * A sector is the unit: which of two writes that cross it takes is not known,
 * but none stays torn. A read that crosses a write may see a part of each, as
 * one of the host's cache does: the specification promises nothing of requests
 * that cross.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "device/virtio/blk.h"
#include "late_server.h"
#include "small.h"
#include "tape.h"

#define SECTORS 192u
#define BYTES (SECTORS * 512)
#define HOT 24u			/* of them are asked for more often */
#define SLOTS 16u
#define SLOT_BYTES 0x10000
#define SLOT_SECTORS 8u
#define SLOT(i) (SMALL_DATA + (i) * (uint64_t)SLOT_BYTES)
#define SLOT_TABLE 0x800
#define SLOT_STATUS 0x900
#define SLOT_DATA 0x1000
#define FLUSH (UINT64_C(1) << VIRTIO_BLK_F_FLUSH)
#define INDIRECT (UINT64_C(1) << VIRTIO_RING_F_INDIRECT_DESC)
/* A sector's writes that its content may still be of. */
#define HISTORY_MAX 256
#define ANY UINT64_MAX		/* a discard's: any content */
#define NEVER UINT64_MAX

/* In the driver's time, which counts what it sees. */
struct event {
	uint64_t value;		/* what it wrote all over the sector; 0: zeros */
	uint64_t begin, end, stable;	/* NEVER: not yet */
};

struct sector {
	struct event event[HISTORY_MAX];
	unsigned int n;
};

struct slot {
	bool busy;
	uint32_t type;
	unsigned int at, n;
	uint64_t data;		/* where it lies */
	uint64_t value, begin;
	uint16_t id;
};

static struct world {
	unsigned int seed;
	struct media *media;
	struct late_server *server;
	struct small *small;
	char path[40], text[160];
	bool flush;
	uint64_t now, value, violations;
	struct sector sector[SECTORS];
	struct slot slot[SLOTS];
	/* What has happened, for the last line. */
	unsigned int requests, links, powers, blackouts, late;
} w;

static unsigned int dice(unsigned int n)
{
	return (unsigned int)rand_r(&w.seed) % n;
}

/* ---- the checker ---- */

static void violation(const char *what, unsigned int at, uint64_t value)
{
	const struct sector *s = &w.sector[at];
	unsigned int i;

	if (w.violations++ >= 3)
		return;
	print_error("%s: sector %u has %llx, time %llu; of\n", what, at, (unsigned long long)value,
		    (unsigned long long)w.now);
	for (i = 0; i < s->n; i++)
		print_error("  %llx: %llu to %lld, stable %lld\n",
			    (unsigned long long)s->event[i].value,
			    (unsigned long long)s->event[i].begin, (long long)s->event[i].end,
			    (long long)s->event[i].stable);
}

static void write_begins(unsigned int at, unsigned int n, uint64_t value)
{
	unsigned int i;

	for (i = at; i < at + n; i++) {
		struct sector *s = &w.sector[i];

		assert_true(s->n < HISTORY_MAX);
		s->event[s->n++] = (struct event){ .value = value,
						   .begin = w.now,
						   .end = NEVER,
						   .stable = NEVER };
	}
}

static void write_ends(unsigned int at, unsigned int n, uint64_t begin)
{
	unsigned int i, k;

	for (i = at; i < at + n; i++) {
		for (k = 0; k < w.sector[i].n && w.sector[i].event[k].begin != begin; k++)
			;
		assert_true(k < w.sector[i].n);
		w.sector[i].event[k].end = w.now;
		if (!w.flush)
			w.sector[i].event[k].stable = w.now;
	}
}

static void flush_ends(uint64_t begin)
{
	unsigned int i, k;

	for (i = 0; i < SECTORS; i++)
		for (k = 0; k < w.sector[i].n; k++)
			if (w.sector[i].event[k].end < begin &&
			    w.sector[i].event[k].stable == NEVER)
				w.sector[i].event[k].stable = w.now;
}

/*
 * Is this content old: has another write come wholly after it, which had ended
 * (stable: was stable) before `by`?
 */
static bool is_old(const struct sector *s, const struct event *event, uint64_t by, bool stable)
{
	unsigned int i;

	for (i = 0; i < s->n; i++)
		if (s->event[i].begin > event->end &&
		    (stable ? s->event[i].stable : s->event[i].end) < by)
			return true;
	return false;
}

static bool may_have(unsigned int at, uint64_t value, uint64_t by, bool stable)
{
	const struct sector *s = &w.sector[at];
	unsigned int i;

	for (i = 0; i < s->n; i++)
		if ((s->event[i].value == value || s->event[i].value == ANY) &&
		    !is_old(s, &s->event[i], by, stable))
			return true;
	return false;
}

/* Was a write under way at any time since then? */
static bool is_crossed(unsigned int at, uint64_t since)
{
	const struct sector *s = &w.sector[at];
	unsigned int i;

	for (i = 0; i < s->n; i++)
		if (s->event[i].end > since)
			return true;
	return false;
}

/* What no read and no cut can bring back is forgotten. */
static void forget(void)
{
	uint64_t oldest = w.now;
	unsigned int i, k, kept;

	for (i = 0; i < SLOTS; i++)
		if (w.slot[i].busy && w.slot[i].begin < oldest)
			oldest = w.slot[i].begin;
	for (i = 0; i < SECTORS; i++) {
		struct sector *s = &w.sector[i], was = *s;

		for (k = kept = 0; k < was.n; k++)
			if (!is_old(&was, &was.event[k], oldest, true))
				s->event[kept++] = was.event[k];
		s->n = kept;
	}
}

/* What a sector is full of; torn: ANY. */
static uint64_t content(const uint8_t *data)
{
	uint64_t first, word;
	unsigned int i;

	memcpy(&first, data, 8);
	for (i = 8; i < 512; i += 8) {
		memcpy(&word, data + i, 8);
		if (word != first)
			return ANY;
	}
	return first;
}

static void start_from(const uint8_t *disk)
{
	unsigned int i;

	for (i = 0; i < SECTORS; i++) {
		w.sector[i].n = 1;
		w.sector[i].event[0] = (struct event){ .value = content(disk + i * 512) };
	}
}

/* The power is back: what each sector has is what it may have. */
static void check_all(const uint8_t *disk)
{
	unsigned int i;

	for (i = 0; i < SECTORS; i++)
		if (!may_have(i, content(disk + i * 512), NEVER, true))
			violation("after the power was cut", i, content(disk + i * 512));
}

/* ---- the driver ---- */

static void slot_end(struct slot *slot, unsigned int i)
{
	const uint8_t *ram = w.small->ram + SLOT(i), *data = w.small->ram + slot->data;
	unsigned int k;

	slot->busy = false;
	w.now++;
	if (ram[SLOT_STATUS] != VIRTIO_BLK_S_OK) {
		violation("a request failed", slot->at, ram[SLOT_STATUS]);
		return;
	}
	if (slot->type == VIRTIO_BLK_T_FLUSH)
		flush_ends(slot->begin);
	else if (slot->type != VIRTIO_BLK_T_IN)
		write_ends(slot->at, slot->n, slot->begin);
	for (k = 0; slot->type == VIRTIO_BLK_T_IN && k < slot->n; k++) {
		uint64_t value = content(data + k * 512);

		if (!may_have(slot->at + k, value, slot->begin, false) &&
		    !(value == ANY && is_crossed(slot->at + k, slot->begin)))
			violation("read", slot->at + k, value);
	}
}

static void turn(void)
{
	unsigned int i;
	uint32_t len;
	int id;

	uv_run(loop_uv(w.small->loop), UV_RUN_NOWAIT);
	while ((id = driver_used(&w.small->driver[0], 1, &len)) >= 0)
		for (i = 0; i < SLOTS; i++)
			if (w.slot[i].busy && w.slot[i].id == id) {
				slot_end(&w.slot[i], i);
				break;
			}
}

static void slot_choose(struct slot *slot)
{
	static const uint32_t types[] = {
		VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_WRITE_ZEROES,
		VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_FLUSH,
	};

	*slot = (struct slot){ .busy = true, .type = types[dice(w.flush ? 9 : 7)], .begin = ++w.now };
	slot->at = dice(dice(2) ? SECTORS : HOT);
	slot->n = 1 + dice(SLOT_SECTORS);
	/* Aligned and not: two ways to a file's data. */
	slot->data = SLOT(slot - w.slot) + SLOT_DATA + (dice(3) ? 0 : 4);
	if (slot->n > SECTORS - slot->at)
		slot->n = SECTORS - slot->at;
	slot->value = slot->type == VIRTIO_BLK_T_OUT	 ? ++w.value :
		      slot->type == VIRTIO_BLK_T_DISCARD ? ANY :
							   0;
	if (slot->type != VIRTIO_BLK_T_IN && slot->type != VIRTIO_BLK_T_FLUSH)
		write_begins(slot->at, slot->n, slot->value);
}

static void slot_begin(unsigned int i)
{
	struct slot *slot = &w.slot[i];
	uint64_t base = SLOT(i);
	struct virtio_blk_outhdr header = { 0 };
	struct virtio_blk_discard_write_zeroes range = { 0 };
	bool none, ranged;
	uint32_t len;
	unsigned int k;

	slot_choose(slot);
	none = slot->type == VIRTIO_BLK_T_FLUSH;
	ranged = slot->type == VIRTIO_BLK_T_DISCARD || slot->type == VIRTIO_BLK_T_WRITE_ZEROES;
	len = ranged ? sizeof(range) : slot->n * 512;
	header.type = slot->type;
	header.sector = ranged || none ? 0 : slot->at;
	range.sector = slot->at;
	range.num_sectors = slot->n;
	memcpy(w.small->ram + base, &header, sizeof(header));
	for (k = 0; !ranged && k < slot->n * 512; k += 8)
		memcpy(w.small->ram + slot->data + k, &slot->value, 8);
	if (ranged)
		memcpy(w.small->ram + slot->data, &range, sizeof(range));
	w.small->ram[base + SLOT_STATUS] = 0xff;
	const struct driver_buf bufs[] = {
		{ base, sizeof(header), false }, { slot->data, len, slot->type == VIRTIO_BLK_T_IN },
		{ base + SLOT_STATUS, 1, true },
	};
	const struct driver_buf without[] = { bufs[0], bufs[2] };

	/* Its own place in the ring: they end in any order. */
	w.small->driver[0].next = (uint16_t)i;
	slot->id = driver_add(&w.small->driver[0], none ? without : bufs, none ? 2 : 3,
			      base + SLOT_TABLE);
	w.requests++;
}

static unsigned int busy(void)
{
	unsigned int i, n = 0;

	for (i = 0; i < SLOTS; i++)
		n += w.slot[i].busy;
	return n;
}

static void requests_begin(void)
{
	unsigned int i;

	for (i = 0; i < SLOTS; i++)
		if (!w.slot[i].busy && dice(3))
			slot_begin(i);
	small_notify(w.small, 0);
	forget();
}

/* ---- the world ---- */

static void guest_starts(void)
{
	uint64_t features = INDIRECT;

	w.flush = dice(2);
	features |= w.flush ? FLUSH : 0;
	w.small = small_new(&blk_type, w.text, false);
	small_start(w.small, features);
	memset(w.slot, 0, sizeof(w.slot));
}

static void disk_read_back(uint8_t *disk)
{
	int fd = open(w.path, O_RDONLY | O_CLOEXEC);

	assert_int_equal(pread(fd, disk, BYTES, 0), BYTES);
	close(fd);
}

static void disk_write_back(const uint8_t *disk)
{
	int fd = open(w.path, O_WRONLY | O_CLOEXEC);

	assert_int_equal(pwrite(fd, disk, BYTES, 0), BYTES);
	close(fd);
}

/* The host's power fails, with the guest's and the server's. */
static void blackout(void)
{
	static uint8_t disk[BYTES];

	w.blackouts++;
	if (w.server)
		late_server_cut_power(w.server);
	else
		tape_look();
	if (w.server)
		late_server_lock(w.server);
	else
		media_cut(w.media);
	memcpy(disk, w.media->now, BYTES);
	if (w.server)
		late_server_unlock(w.server);
	/* What the process does from here on it would not have done. */
	tape_start(NULL);
	small_free(w.small);
	/* A server that is asked on the way out knows nothing of that. */
	if (w.server) {
		late_server_cut_power(w.server);
		late_server_lock(w.server);
		memcpy(w.media->now, disk, BYTES);
		memcpy(w.media->stable, disk, BYTES);
		late_server_unlock(w.server);
	} else {
		disk_write_back(disk);
		disk_read_back(disk);
		tape_start(w.media);
	}
	check_all(disk);
	start_from(disk);
	guest_starts();
}

/* The server's threads have their turn. */
static void breathe(void)
{
	const struct timespec moment = { .tv_nsec = 100000 };

	nanosleep(&moment, NULL);
}

static void some_turns(unsigned int most)
{
	unsigned int n = dice(most);

	while (n--) {
		turn();
		breathe();
	}
}

/*
 * All of it ends, once the server has no more of old connections: then it is
 * said so, as an operator would who had it fenced.
 */
static void finish_all(void)
{
	int64_t end = clock_now_ns() + 30 * NS_PER_SEC;

	while (busy()) {
		assert_true(clock_now_ns() < end);
		if (w.server) {
			late_server_finish(w.server);
			vdev_disk_fenced(w.small->dev);
		}
		turn();
		breathe();
	}
}

/* Reads all of it, by the driver. */
static void read_all(void)
{
	unsigned int at;

	for (at = 0; at < SECTORS; at += SLOT_SECTORS) {
		struct virtio_blk_outhdr header = { .type = VIRTIO_BLK_T_IN, .sector = at };
		const struct driver_buf bufs[] = {
			{ SLOT(0), sizeof(header), false }, { SLOT(0) + SLOT_DATA, SLOT_SECTORS * 512, true },
			{ SLOT(0) + SLOT_STATUS, 1, true },
		};

		w.slot[0] = (struct slot){ .busy = true,
					   .type = VIRTIO_BLK_T_IN,
					   .at = at,
					   .n = SLOT_SECTORS,
					   .begin = ++w.now };
		w.slot[0].data = SLOT(0) + SLOT_DATA;
		memcpy(w.small->ram + SLOT(0), &header, sizeof(header));
		w.small->driver[0].next = 0;
		w.slot[0].id = driver_add(&w.small->driver[0], bufs, 3, SLOT(0) + SLOT_TABLE);
		small_notify(w.small, 0);
		finish_all();
	}
}

static void something_happens(void)
{
	unsigned int what = dice(w.server ? 8 : 4);

	if (!what) {
		blackout();
	} else if (what >= 6) {
		w.powers++;
		late_server_cut_power(w.server);
	} else if (what >= 2 && w.server) {
		w.links++;
		late_server_cut_links(w.server);
	}
	if (w.server)
		late_server_hold(w.server, false);
}

/* Mostly until its server is, with all that it does late still to come. */
static void come_back(void)
{
	int64_t end = clock_now_ns() + 30 * NS_PER_SEC;
	bool wait = dice(8);
	struct disk_info info;

	some_turns(10);
	while (wait && vdev_disk_info(w.small->dev, &info) && info.away) {
		assert_true(clock_now_ns() < end);
		turn();
		breathe();
	}
}

static void world_begins(bool file, unsigned int seed)
{
	struct late_options options;
	int fd;

	w = (struct world){ .seed = seed };
	w.media = media_new(BYTES, seed);
	if (file) {
		strcpy(w.path, "/tmp/postern-cuts-XXXXXX");
		fd = mkstemp(w.path);
		assert_int_equal(ftruncate(fd, BYTES), 0);
		close(fd);
		tape_start(w.media);
		strcpy(w.text, w.path);
	} else {
		options = (struct late_options){ .flush = true, .fua = dice(2) };
		if (dice(2))
			options.block_min = options.block_preferred = 4096,
			options.block_max = 8192;
		w.server = late_server_new(w.media, &options, seed);
		snprintf(w.text, sizeof(w.text), "%s,quiesce=3600", late_server_uri(w.server));
	}
	start_from(w.media->now);
}

static void world_ends(void)
{
	small_free(w.small);
	tape_start(NULL);
	if (w.server)
		w.late += late_server_late(w.server);
	if (w.server)
		late_server_free(w.server);
	media_free(w.media);
	if (*w.path)
		unlink(w.path);
}

static unsigned int rounds = 15, first_seed = 1;

static void cuts(bool file)
{
	unsigned int i, k, requests = 0, links = 0, powers = 0, blackouts = 0, late = 0,
			   violations = 0;

	for (i = 0; i < rounds; i++) {
		world_begins(file, first_seed + i);
		guest_starts();
		for (k = 0; k < 4; k++) {
			some_turns(20);
			if (w.server)
				late_server_hold(w.server, dice(2));
			requests_begin();
			some_turns(20);
			something_happens();
			come_back();
			requests_begin();
			some_turns(60);
			requests_begin();
		}
		finish_all();
		read_all();
		blackout();
		if (w.violations)
			print_error("seed %u: %llu violations\n", first_seed + i,
				    (unsigned long long)w.violations);
		world_ends();
		requests += w.requests;
		links += w.links;
		powers += w.powers;
		blackouts += w.blackouts;
		late += w.late;
		violations += w.violations != 0;
	}
	print_message(
		"%u rounds, %u requests; %u links, %u servers and %u hosts cut; %u requests done late: "
		"%u rounds with violations\n",
		rounds, requests, links, powers, blackouts, late, violations);
	assert_int_equal(violations, 0);
	assert_true(file || rounds < 10 || (links && powers && late));
}

static void a_file_keeps_what_it_promised(void **state)
{
	(void)state;
	cuts(true);
}

#ifdef POSTERN_NBD
static void a_server_keeps_what_it_promised(void **state)
{
	(void)state;
	cuts(false);
}
#endif

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_file_keeps_what_it_promised),
#ifdef POSTERN_NBD
		cmocka_unit_test(a_server_keeps_what_it_promised),
#endif
	};

	if (argc > 1)
		rounds = (unsigned int)strtoul(argv[1], NULL, 10);
	if (argc > 2)
		first_seed = (unsigned int)strtoul(argv[2], NULL, 10);
	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
