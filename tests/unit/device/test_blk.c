// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * virtio-blk's promises, one by one: what the specification (virtio 1.2) says a
 * device must do, should do or may be relied on for when it is set up (5.2.5)
 * and when it works (5.2.6). Each is a row of a table, held against each back
 * end: a file, and NBD servers with FUA, with flush alone, and with neither.
 * What a loss of power leaves is seen on a medium with a volatile cache
 * (media.h).
 */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "late_server.h"
#include "small.h"
#include "tape.h"

#define BYTES (1 << 20)
#define SECTORS (BYTES / 512)
#define HEADER SMALL_DATA
#define STATUS (SMALL_DATA + 0x1000)
#define DATA (SMALL_DATA + 0x2000)
#define BIT(n) (UINT64_C(1) << (n))
#define FLUSH BIT(VIRTIO_BLK_F_FLUSH)

enum back { BACK_FILE, BACK_FUA, BACK_FLUSH, BACK_NEITHER };

static const char *const back_name[] = { "a file", "NBD with FUA", "NBD with flush",
					 "NBD with neither" };

struct rig {
	enum back back;
	struct small *small;
	struct media *media;
	struct late_server *server;
	struct virtio_blk_config config;
	uint64_t offered;
	uint32_t used;			/* of the last request: what the device says it wrote */
	char path[40];
};

static void rig_open(struct rig *rig, enum back back, const char *options)
{
	const struct late_options server = { .flush = back != BACK_NEITHER,
					     .fua = back == BACK_FUA };
	char text[160];
	int fd;

	*rig = (struct rig){ .back = back, .media = media_new(BYTES, 1) };
	strcpy(rig->path, "/tmp/postern-blk-XXXXXX");
	fd = mkstemp(rig->path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, BYTES), 0);
	close(fd);
	tape_start(back == BACK_FILE ? rig->media : NULL);
	if (back != BACK_FILE)
		rig->server = late_server_new(rig->media, &server, 1);
	snprintf(text, sizeof(text), "%s%s", rig->server ? late_server_uri(rig->server) : rig->path,
		 options);
	rig->small = small_new(&blk_type, text, false);
	small_put(rig->small->dev, VIRTIO_PCI_COMMON_DFSELECT, 0, 4);
	rig->offered = small_get(rig->small->dev, VIRTIO_PCI_COMMON_DF, 4);
	memcpy(&rig->config, rig->small->dev->config, sizeof(rig->config));
}

static void rig_close(struct rig *rig)
{
	small_free(rig->small);
	if (rig->server)
		late_server_free(rig->server);
	tape_start(NULL);
	media_free(rig->media);
	unlink(rig->path);
}

/* One request; returns its status. in: the device writes the data. */
static uint8_t ask(struct rig *rig, uint32_t type, uint64_t sector, uint64_t data, uint32_t len,
		   bool in)
{
	const struct virtio_blk_outhdr header = { .type = type, .sector = sector };
	const struct driver_buf bufs[] = { { HEADER, sizeof(header), false }, { data, len, in }, { STATUS, 1, true } };
	const struct driver_buf without[] = { { HEADER, sizeof(header), false }, { STATUS, 1, true } };
	struct small *s = rig->small;
	int id;

	memcpy(s->ram + HEADER, &header, sizeof(header));
	s->ram[STATUS] = 0xff;
	id = driver_add(&s->driver[0], len ? bufs : without, len ? 3 : 2, 0);
	small_notify(s, 0);
	small_until(s, driver_used(&s->driver[0], len ? 3 : 2, &rig->used) == id);
	return s->ram[STATUS];
}

static uint8_t ask_range(struct rig *rig, uint32_t type, uint64_t sector, uint32_t sectors,
			 uint32_t flags)
{
	const struct virtio_blk_discard_write_zeroes range = { .sector = sector,
							       .num_sectors = sectors,
							       .flags = flags };

	memcpy(rig->small->ram + DATA, &range, sizeof(range));
	return ask(rig, type, 0, DATA, sizeof(range), false);
}

static uint8_t write_byte(struct rig *rig, uint64_t sector, uint64_t at, uint32_t len, int byte)
{
	memset(rig->small->ram + at, byte, len);
	return ask(rig, VIRTIO_BLK_T_OUT, sector, at, len, false);
}

static bool is_all(const uint8_t *data, size_t len, int byte)
{
	size_t i;

	for (i = 0; i < len; i++)
		if (data[i] != byte)
			return false;
	return true;
}

static bool reads(struct rig *rig, uint64_t sector, uint32_t len, int byte)
{
	memset(rig->small->ram + DATA, 0xee, len);
	return ask(rig, VIRTIO_BLK_T_IN, sector, DATA, len, true) == VIRTIO_BLK_S_OK &&
	       is_all(rig->small->ram + DATA, len, byte);
}

/* Would it be there if the power failed now? */
static bool is_stable(struct rig *rig, uint64_t sector, uint32_t len, int byte)
{
	bool yes;

	if (rig->server)
		late_server_lock(rig->server);
	else
		tape_look();
	yes = is_all(rig->media->stable + sector * 512, len, byte);
	if (rig->server)
		late_server_unlock(rig->server);
	return yes;
}

/* ---- 5.2.5: device initialization ---- */

static bool capacity_is_in_sectors(struct rig *rig)
{
	return rig->config.capacity == SECTORS && rig->config.blk_size == 512 &&
	       rig->offered & BIT(VIRTIO_BLK_F_BLK_SIZE);
}

static bool flush_is_offered(struct rig *rig)
{
	return rig->offered & FLUSH;
}

static bool wce_comes_with_flush(struct rig *rig)
{
	return !(rig->offered & BIT(VIRTIO_BLK_F_CONFIG_WCE)) || rig->offered & FLUSH;
}

/*
 * It is not offered, so it is not to be had; a driver that looks all the same
 * sees no write cache that it could not flush.
 */
static bool writeback_is_off_without_flush(struct rig *rig)
{
	small_start(rig->small, 0);
	return !(rig->offered & BIT(VIRTIO_BLK_F_CONFIG_WCE)) &&
	       !small_get(rig->small->dev, SMALL_CONFIG + offsetof(struct virtio_blk_config, wce),
			  1);
}

static bool padding_is_zero(struct rig *rig)
{
	return !rig->config.unused && is_all(rig->config.unused1, sizeof(rig->config.unused1), 0);
}

static bool topology_is_whole(struct rig *rig)
{
	const struct virtio_blk_config *c = &rig->config;

	return rig->offered & BIT(VIRTIO_BLK_F_TOPOLOGY) && 512u << c->physical_block_exp == 4096 &&
	       !c->alignment_offset && c->min_io_size == 8 && !c->opt_io_size;
}

static bool limits_of_ranges_are_told(struct rig *rig)
{
	const struct virtio_blk_config *c = &rig->config;

	return rig->offered & BIT(VIRTIO_BLK_F_DISCARD) &&
	       rig->offered & BIT(VIRTIO_BLK_F_WRITE_ZEROES) && c->max_discard_sectors &&
	       c->max_discard_seg == 1 && c->discard_sector_alignment == 8 &&
	       c->max_write_zeroes_sectors && c->max_write_zeroes_seg == 1;
}

static bool limits_of_requests_are_told(struct rig *rig)
{
	return rig->offered & BIT(VIRTIO_BLK_F_SIZE_MAX) &&
	       rig->offered & BIT(VIRTIO_BLK_F_SEG_MAX) && rig->config.size_max &&
	       rig->config.seg_max;
}

static bool zeroes_may_unmap(struct rig *rig)
{
	return rig->config.write_zeroes_may_unmap == 1;
}

static bool readonly_is_told(struct rig *rig)
{
	return rig->offered & BIT(VIRTIO_BLK_F_RO) && rig->offered & FLUSH &&
	       !(rig->offered & BIT(VIRTIO_BLK_F_DISCARD)) &&
	       !(rig->offered & BIT(VIRTIO_BLK_F_WRITE_ZEROES));
}

static bool nothing_more_is_offered(struct rig *rig)
{
	/* 15: life time, 16: secure erase, 17: zoned; not in every header. */
	return !(rig->offered & (BIT(VIRTIO_BLK_F_GEOMETRY) | BIT(15) | BIT(16) | BIT(17)));
}

/* ---- 5.2.6: device operation ---- */

static bool what_is_written_is_read(struct rig *rig)
{
	small_start(rig->small, FLUSH);
	return write_byte(rig, 3, DATA + 20, 1024, 0x11) == VIRTIO_BLK_S_OK && rig->used == 1 &&
	       reads(rig, 3, 1024, 0x11) && rig->used == 1025 && reads(rig, 2, 512, 0) &&
	       reads(rig, 5, 512, 0) &&
	       write_byte(rig, SECTORS - 8, DATA, 4096, 0x12) == VIRTIO_BLK_S_OK &&
	       reads(rig, SECTORS - 8, 4096, 0x12);
}

static bool half_sectors_are_refused(struct rig *rig)
{
	small_start(rig->small, FLUSH);
	return ask(rig, VIRTIO_BLK_T_IN, 0, DATA, 100, true) == VIRTIO_BLK_S_IOERR &&
	       write_byte(rig, 0, DATA, 100, 0x11) == VIRTIO_BLK_S_IOERR && reads(rig, 0, 512, 0);
}

static bool the_end_is_one(struct rig *rig)
{
	small_start(rig->small, FLUSH);
	return write_byte(rig, SECTORS - 1, DATA, 1024, 0x11) == VIRTIO_BLK_S_IOERR &&
	       write_byte(rig, UINT64_MAX / 512 + 1, DATA, 512, 0x11) == VIRTIO_BLK_S_IOERR &&
	       ask(rig, VIRTIO_BLK_T_IN, SECTORS, DATA, 512, true) == VIRTIO_BLK_S_IOERR &&
	       ask_range(rig, VIRTIO_BLK_T_WRITE_ZEROES, SECTORS - 1, 2, 0) == VIRTIO_BLK_S_IOERR &&
	       ask_range(rig, VIRTIO_BLK_T_DISCARD, UINT64_MAX, 2, 0) == VIRTIO_BLK_S_IOERR &&
	       reads(rig, SECTORS - 1, 512, 0);
}

static bool the_id_has_20_bytes(struct rig *rig)
{
	static const char id[20] = "a serial number";

	small_start(rig->small, FLUSH);
	return ask(rig, VIRTIO_BLK_T_GET_ID, 0, DATA, 20, true) == VIRTIO_BLK_S_OK &&
	       rig->used == 21 && !memcmp(rig->small->ram + DATA, id, 20);
}

static bool what_it_does_not_know_is_unsupported(struct rig *rig)
{
	small_start(rig->small, FLUSH);
	/* 10 is the life time, 14 the secure erase: not offered. */
	return ask(rig, 10, 0, DATA, 512, true) == VIRTIO_BLK_S_UNSUPP &&
	       ask(rig, 14, 0, DATA, 16, false) == VIRTIO_BLK_S_UNSUPP &&
	       ask(rig, 77, 0, DATA, 512, true) == VIRTIO_BLK_S_UNSUPP &&
	       small_status(rig->small) == 0xf;
}

static bool readonly_is_not_written(struct rig *rig)
{
	small_start(rig->small, 0);
	return write_byte(rig, 0, DATA, 4096, 0x11) == VIRTIO_BLK_S_IOERR &&
	       ask_range(rig, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0) == VIRTIO_BLK_S_IOERR &&
	       ask_range(rig, VIRTIO_BLK_T_DISCARD, 0, 8, 0) == VIRTIO_BLK_S_IOERR &&
	       !rig->media->sequence &&
	       ask(rig, VIRTIO_BLK_T_FLUSH, 0, 0, 0, false) == VIRTIO_BLK_S_OK &&
	       reads(rig, 0, 4096, 0);
}

static bool unknown_flags_are_unsupported(struct rig *rig)
{
	small_start(rig->small, FLUSH);
	return write_byte(rig, 0, DATA, 4096, 0x11) == VIRTIO_BLK_S_OK &&
	       ask_range(rig, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 2) == VIRTIO_BLK_S_UNSUPP &&
	       ask_range(rig, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 3) == VIRTIO_BLK_S_UNSUPP &&
	       ask_range(rig, VIRTIO_BLK_T_DISCARD, 0, 8, 2) == VIRTIO_BLK_S_UNSUPP &&
	       reads(rig, 0, 4096, 0x11);
}

static bool discard_with_unmap_is_unsupported(struct rig *rig)
{
	small_start(rig->small, FLUSH);
	return write_byte(rig, 0, DATA, 4096, 0x11) == VIRTIO_BLK_S_OK &&
	       ask_range(rig, VIRTIO_BLK_T_DISCARD, 0, 8, 1) == VIRTIO_BLK_S_UNSUPP &&
	       reads(rig, 0, 4096, 0x11);
}

static bool discard_leaves_the_rest(struct rig *rig)
{
	small_start(rig->small, FLUSH);
	return write_byte(rig, 0, DATA, 12288, 0x11) == VIRTIO_BLK_S_OK &&
	       ask_range(rig, VIRTIO_BLK_T_DISCARD, 9, 6, 0) == VIRTIO_BLK_S_OK &&
	       ask_range(rig, VIRTIO_BLK_T_DISCARD, 8, 8, 0) == VIRTIO_BLK_S_OK &&
	       reads(rig, 0, 4096, 0x11) && reads(rig, 16, 4096, 0x11);
}

static bool zeroes_read_as_zeros(struct rig *rig)
{
	uint32_t unmap;

	small_start(rig->small, FLUSH);
	for (unmap = 0; unmap < 2; unmap++)
		if (write_byte(rig, 0, DATA, 16384, 0x11) != VIRTIO_BLK_S_OK ||
		    ask_range(rig, VIRTIO_BLK_T_WRITE_ZEROES, 1, 17, unmap) != VIRTIO_BLK_S_OK ||
		    !reads(rig, 1, 17 * 512, 0) || !reads(rig, 0, 512, 0x11) ||
		    !reads(rig, 18, 512, 0x11))
			return false;
	return true;
}

/*
 * Stable as soon as they are completed: aligned and not, which are two ways
 * into a file; what goes past the cache of it too.
 */
static bool writes_are_stable_without_flush(struct rig *rig)
{
	small_start(rig->small, 0);
	return write_byte(rig, 0, DATA, 8192, 0x11) == VIRTIO_BLK_S_OK &&
	       is_stable(rig, 0, 8192, 0x11) &&
	       write_byte(rig, 33, DATA + 12, 512, 0x12) == VIRTIO_BLK_S_OK &&
	       is_stable(rig, 33, 512, 0x12);
}

static bool zeroes_are_stable_without_flush(struct rig *rig)
{
	static const int how[] = { 0, -EOPNOTSUPP, -EINVAL };
	unsigned int i;

	small_start(rig->small, 0);
	for (i = 0; i < 3; i++) {
		tape.fallocate_error = how[i];
		if (write_byte(rig, 0, DATA, 8192, 0x11) != VIRTIO_BLK_S_OK ||
		    ask_range(rig, VIRTIO_BLK_T_WRITE_ZEROES, 0, 15, 1) != VIRTIO_BLK_S_OK ||
		    !is_stable(rig, 0, 15 * 512, 0))
			return false;
	}
	return true;
}

static bool discards_are_stable_without_flush(struct rig *rig)
{
	small_start(rig->small, 0);
	return write_byte(rig, 0, DATA, 8192, 0x11) == VIRTIO_BLK_S_OK &&
	       ask_range(rig, VIRTIO_BLK_T_DISCARD, 0, 16, 0) == VIRTIO_BLK_S_OK &&
	       is_stable(rig, 0, 8192, 0);
}

static bool writes_are_stable_after_a_flush(struct rig *rig)
{
	small_start(rig->small, FLUSH);
	if (write_byte(rig, 0, DATA, 8192, 0x11) != VIRTIO_BLK_S_OK ||
	    write_byte(rig, 33, DATA + 12, 512, 0x12) != VIRTIO_BLK_S_OK ||
	    ask_range(rig, VIRTIO_BLK_T_WRITE_ZEROES, 2, 3, 0) != VIRTIO_BLK_S_OK)
		return false;
	/* Who can flush pays for it when it does. */
	if (rig->back != BACK_NEITHER && is_stable(rig, 0, 1024, 0x11))
		return false;
	return ask(rig, VIRTIO_BLK_T_FLUSH, 0, 0, 0, false) == VIRTIO_BLK_S_OK &&
	       is_stable(rig, 0, 1024, 0x11) && is_stable(rig, 2, 1536, 0) &&
	       is_stable(rig, 5, 11 * 512, 0x11) && is_stable(rig, 33, 512, 0x12);
}

static bool a_flush_unasked_for_is_one(struct rig *rig)
{
	small_start(rig->small, 0);
	return ask(rig, VIRTIO_BLK_T_FLUSH, 0, 0, 0, false) == VIRTIO_BLK_S_OK && rig->used == 1;
}

static const struct promise {
	const char *where, *what;
	bool (*holds)(struct rig *rig);
	const char *options;
} promises[] = {
	{ "5.2.5", "capacity counts sectors of 512 bytes, whatever else the disk likes", capacity_is_in_sectors, "" },
	{ "5.2.5", "topology is told with VIRTIO_BLK_F_TOPOLOGY, in logical blocks", topology_is_whole, "" },
	{ "5.2.5", "limits of requests are told", limits_of_requests_are_told, "" },
	{ "5.2.5", "limits of discard and zeroes are told, in sectors", limits_of_ranges_are_told, "" },
	{ "5.2.5", "VIRTIO_BLK_F_RO is offered for what is not written to", readonly_is_told, ",readonly" },
	{ "5.2.5", "no other feature's fields have a meaning", nothing_more_is_offered, "" },
	{ "5.2.5.2", "VIRTIO_BLK_F_FLUSH is offered", flush_is_offered, "" },
	{ "5.2.5.2", "VIRTIO_BLK_F_CONFIG_WCE is not offered without it", wce_comes_with_flush, "" },
	{ "5.2.5.2", "writeback is 0 where FLUSH is not accepted", writeback_is_off_without_flush, "" },
	{ "5.2.5.2", "padding is 0", padding_is_zero, "" },
	{ "5.2.6", "what is written is read", what_is_written_is_read, "" },
	{ "5.2.6", "data is a multiple of 512 bytes", half_sectors_are_refused, "" },
	{ "5.2.6", "nothing lies behind the end", the_end_is_one, "" },
	{ "5.2.6", "the identity has 20 bytes, padded with 0", the_id_has_20_bytes, ",serial=a serial number" },
	{ "5.2.6", "what the device does not have is UNSUPP", what_it_does_not_know_is_unsupported, "" },
	{ "5.2.6.2", "a write to a read-only device is IOERR and writes nothing", readonly_is_not_written, ",readonly" },
	{ "5.2.6.2", "unknown flags of a range are UNSUPP", unknown_flags_are_unsupported, "" },
	{ "5.2.6.2", "discard with unmap is UNSUPP", discard_with_unmap_is_unsupported, "" },
	{ "5.2.6.2", "discard gives up its range and nothing else", discard_leaves_the_rest, "" },
	{ "5.2.6.2", "zeroes read as zeros, with and without unmap", zeroes_read_as_zeros, "" },
	{ "5.2.6.2", "write_zeroes_may_unmap says so", zeroes_may_unmap, "" },
	{ "5.2.6.2", "without FLUSH a completed write is stable", writes_are_stable_without_flush, "" },
	{ "5.2.6.2", "... completed zeroes are", zeroes_are_stable_without_flush, "" },
	{ "5.2.6.2", "... and a completed discard is", discards_are_stable_without_flush, "" },
	{ "5.2.6.2", "with FLUSH, completed writes are stable after one", writes_are_stable_after_a_flush, "" },
	{ "5.2.6.2", "a flush is one also where the feature was not accepted", a_flush_unasked_for_is_one, "" },
};

static void a_disk_keeps_its_promises(enum back back)
{
	unsigned int i, broken = 0;
	struct rig rig;

	for (i = 0; i < sizeof(promises) / sizeof(promises[0]); i++) {
		rig_open(&rig, back, promises[i].options);
		if (!promises[i].holds(&rig)) {
			print_error("%s: %s: %s: does not hold\n", back_name[back],
				    promises[i].where, promises[i].what);
			broken++;
		}
		rig_close(&rig);
	}
	assert_int_equal(broken, 0);
}

static void a_file_keeps_them(void **state)
{
	(void)state;
	a_disk_keeps_its_promises(BACK_FILE);
}

#ifdef POSTERN_NBD
static void a_server_with_fua_keeps_them(void **state)
{
	(void)state;
	a_disk_keeps_its_promises(BACK_FUA);
}

static void a_server_with_flush_keeps_them(void **state)
{
	(void)state;
	a_disk_keeps_its_promises(BACK_FLUSH);
}

static void a_server_with_neither_keeps_them(void **state)
{
	(void)state;
	a_disk_keeps_its_promises(BACK_NEITHER);
}
#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_file_keeps_them),
#ifdef POSTERN_NBD
		cmocka_unit_test(a_server_with_fua_keeps_them),
		cmocka_unit_test(a_server_with_flush_keeps_them),
		cmocka_unit_test(a_server_with_neither_keeps_them),
#endif
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
