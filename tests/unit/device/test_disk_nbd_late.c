// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A disk behind a server of the test's that is late (late_server.h): what it may
 * still do after its connection was lost undoes nothing, and what it had not made
 * stable is written again before a flush is said to be done. And blocks: it gets
 * such as it takes.
 */
#include <linux/virtio_blk.h>

#include "device/disk/nbd_kept.h"
#include "device/virtio/blk.h"
#include "disks.h"
#include "late_server.h"
#include "small.h"

struct late {
	struct media *media;
	struct late_server *server;
	struct disks d;
};

static void late_begin(struct late *late, const char *options)
{
	static const struct late_options both = { .flush = true, .fua = true };
	char text[160];

	late->media = media_new(1 << 20, 1);
	late->server = late_server_new(late->media, &both, 1);
	snprintf(text, sizeof(text), "%s%s", late_server_uri(late->server), options);
	disks_open(&late->d, text, false);
}

static void late_end(struct late *late)
{
	disks_close(&late->d);
	late_server_free(late->server);
	media_free(late->media);
}

/*
 * Writes that the server has and has not answered when its link is cut: of
 * many, some are done late.
 */
static void late_lose(struct late *late, struct job *job, unsigned int n, uint8_t *memory)
{
	unsigned int i;

	late_server_hold(late->server, true);
	for (i = 0; i < n; i++)
		job_start(&late->d, &job[i], DISK_WRITE, i * UINT64_C(4096), memory, 4096, 1);
	while (late_server_pending(late->server) < n)
		uv_run(loop_uv(late->d.loop), UV_RUN_NOWAIT);
	late_server_cut_links(late->server);
	disks_until(&late->d, late->d.gone == 1);
	late_server_hold(late->server, false);
}

/*
 * The same again is done at once, and so is what lies elsewhere; what would
 * change the same bytes waits until the server is known to have dropped the old
 * connection. So nothing of that undoes it.
 */
static void what_is_done_late_undoes_nothing(void **state)
{
	static uint8_t old[4096], new[4096], in[4096];
	struct job job[32], newer;
	struct disk_doubt doubt;
	struct late late;
	unsigned int i;

	(void)state;
	memset(old, 0x11, sizeof(old));
	memset(new, 0x22, sizeof(new));
	late_begin(&late, ",quiesce=3600");
	disk_doubt(late.d.disk, &doubt);
	assert_int_equal(doubt.ms, 0);
	late_lose(&late, job, 32, old);
	disks_until(&late.d, !disk_jobs(late.d.disk));
	assert_int_equal(late.d.back, 1);
	for (i = 0; i < 32; i++)
		assert_int_equal(job[i].result, 0);
	job_start(&late.d, &newer, DISK_WRITE, 512, new, sizeof(new), 1);
	assert_int_equal(job_run(&late.d, DISK_WRITE, 1 << 19, new, sizeof(new), 1), 0);
	assert_int_equal(job_run(&late.d, DISK_FLUSH, 0, NULL, 0, 0), 0);
	assert_int_equal(job_run(&late.d, DISK_READ, 4096, in, sizeof(in), 1), 0);
	assert_memory_equal(in, old, sizeof(in));
	disk_doubt(late.d.disk, &doubt);
	assert_true(doubt.ms > 1800 * 1000);
	assert_int_equal(doubt.held, 1);
	assert_false(newer.done);
	late_server_finish(late.server);
	assert_true(late_server_late(late.server) > 0);
	disk_fenced(late.d.disk);
	disks_until(&late.d, newer.done);
	assert_int_equal(newer.result, 0);
	assert_int_equal(job_run(&late.d, DISK_READ, 512, in, sizeof(in), 1), 0);
	assert_memory_equal(in, new, sizeof(in));
	disk_doubt(late.d.disk, &doubt);
	assert_int_equal(doubt.ms | doubt.held, 0);
	late_end(&late);
}

/*
 * Where nobody says so, doubt ends when its time has come; one that failed in
 * the meantime stays in doubt as long.
 */
static void doubt_ends(void **state)
{
	static uint8_t old[4096], new[4096], in[4096];
	struct disk_doubt doubt;
	struct job job[8];
	struct late late;

	(void)state;
	memset(new, 0x22, sizeof(new));
	late_begin(&late, ",quiesce=1,reconnect=0");
	late_lose(&late, job, 8, old);
	disks_until(&late.d, job[7].done);
	assert_int_equal(job[0].result, -EIO);
	disks_until(&late.d, late.d.back == 1);
	disk_doubt(late.d.disk, &doubt);
	assert_true(doubt.ms > 0);
	assert_int_equal(job_run(&late.d, DISK_WRITE, 0, new, sizeof(new), 1), 0);
	disk_doubt(late.d.disk, &doubt);
	assert_int_equal(doubt.ms, 0);
	assert_int_equal(job_run(&late.d, DISK_READ, 0, in, sizeof(in), 1), 0);
	assert_memory_equal(in, new, sizeof(in));
	late_end(&late);
}

/*
 * The server loses its power with what it had in its cache. The guest's flush
 * says that all is stable: then it is.
 */
static void a_flush_does_not_lie(void **state)
{
	static uint8_t out[65536], in[65536];
	struct late late;
	unsigned int i;

	(void)state;
	late_begin(&late, "");
	for (i = 0; i < 16; i++) {
		memset(out + i * 4096, (int)(0x11 + i), 4096);
		assert_int_equal(job_run(&late.d, DISK_WRITE, i * 4096, out + i * 4096, 4096, 1),
				 0);
	}
	memset(out + 2048, 0, 8192);
	assert_int_equal(job_run(&late.d, DISK_ZERO, 2048, NULL, 8192, 0), 0);
	late_server_cut_power(late.server);
	disks_until(&late.d, late.d.back == 1);
	assert_int_equal(job_run(&late.d, DISK_READ, 0, in, sizeof(in), 1), 0);
	assert_memory_equal(in, out, sizeof(in));
	assert_int_equal(job_run(&late.d, DISK_FLUSH, 0, NULL, 0, 0), 0);
	late_server_lock(late.server);
	assert_memory_equal(late.media->stable, out, sizeof(out));
	late_server_unlock(late.server);
	late_end(&late);
}

/* More than is kept at once: it is flushed by us meanwhile, and nothing is lost either. */
static void what_is_kept_is_bounded(void **state)
{
	enum { TOTAL = 96 << 20, PIECE = 1 << 20, N = TOTAL / PIECE };
	static const struct late_options both = { .flush = true };
	static uint8_t out[PIECE];
	static struct job job[N];
	struct media *media = media_new(TOTAL, 1);
	struct late_server *server = late_server_new(media, &both, 1);
	struct disks d;
	unsigned int i;

	(void)state;
	disks_open(&d, late_server_uri(server), false);
	memset(out, 0x33, sizeof(out));
	for (i = 0; i < N; i++)
		job_start(&d, &job[i], DISK_WRITE, i * (uint64_t)PIECE, out, PIECE, 1);
	disks_until(&d, !disk_jobs(d.disk));
	assert_true(late_server_flushes(server) >= 2);
	late_server_cut_power(server);
	disks_until(&d, d.back == 1);
	assert_int_equal(job_run(&d, DISK_FLUSH, 0, NULL, 0, 0), 0);
	late_server_lock(server);
	for (i = 0; i < TOTAL; i += 4096)
		assert_int_equal(media->stable[i], 0x33);
	late_server_unlock(server);
	disks_close(&d);
	late_server_free(server);
	media_free(media);
}

/*
 * A guest that changes a little of much, again and again, does not make the
 * main thread copy all of it each time.
 */
static void what_is_kept_is_kept_in_pieces(void **state)
{
	enum { BYTES_KEPT = 1 << 20, AT = 4608, HOLE = 512 };
	static uint8_t in[BYTES_KEPT], out[BYTES_KEPT];
	const struct iovec iov[] = { { in, 1000 }, { in + 1000, 0 }, { in + 1000, 300000 }, { in + 301000, BYTES_KEPT - 301000 } };
	struct nbd_kept_range *range;
	struct nbd_kept kept = { 0 };
	unsigned int i;

	(void)state;
	for (i = 0; i < BYTES_KEPT; i++)
		in[i] = (uint8_t)(i * 2654435761u >> 24);
	assert_int_equal(nbd_kept_put(&kept, AT, BYTES_KEPT, iov, 1), 0);
	assert_int_equal(nbd_kept_cut(&kept, AT + 70000, HOLE), 0);
	memset(in + 70000, 0, HOLE);
	for (range = kept.first; range; range = range->next) {
		assert_true(range->len <= 65536);
		assert_in_range(range->at, AT, AT + BYTES_KEPT - range->len);
		memcpy(out + range->at - AT, range->data, range->len);
	}
	assert_memory_equal(out, in, BYTES_KEPT);
	nbd_kept_flushed(&kept, 1);
	assert_null(kept.first);
	assert_int_equal(kept.bytes, 0);
}

/*
 * One that leaves no room for the little that is kept already waits for a flush
 * of ours, and not for the guest's.
 */
static void a_large_write_makes_itself_room(void **state)
{
	enum { LITTLE = 1 << 20, LARGE = (32 << 20) - LITTLE / 2, TOTAL = 64 << 20 };
	static const struct late_options both = { .flush = true };
	static uint8_t out[LARGE];
	struct media *media = media_new(TOTAL, 1);
	struct late_server *server = late_server_new(media, &both, 1);
	struct disks d;

	(void)state;
	disks_open(&d, late_server_uri(server), false);
	assert_int_equal(job_run(&d, DISK_WRITE, 0, out, LITTLE, 1), 0);
	assert_int_equal(late_server_flushes(server), 0);
	assert_int_equal(job_run(&d, DISK_WRITE, LITTLE, out, LARGE, 1), 0);
	assert_true(late_server_flushes(server) >= 1);
	disks_close(&d);
	late_server_free(server);
	media_free(media);
}

/* Another host's writes would be undone. */
static void what_is_in_doubt_stays_on_this_host(void **state)
{
	static const struct late_options both = { .flush = true, .fua = true };
	struct media *media = media_new(1 << 20, 1);
	struct late_server *server = late_server_new(media, &both, 1);
	const struct virtio_blk_outhdr header = { .type = VIRTIO_BLK_T_OUT };
	const struct driver_buf bufs[] = {
		{ SMALL_DATA, sizeof(header), false }, { SMALL_DATA + 4096, 4096, false }, { SMALL_DATA + 64, 1, true },
	};
	struct small *small = small_new(&blk_type, late_server_uri(server), false);
	struct disk_info info;
	struct err err;
	uint32_t len;

	(void)state;
	small_start(small, 0);
	late_server_hold(server, true);
	memcpy(small->ram + SMALL_DATA, &header, sizeof(header));
	driver_add(&small->driver[0], bufs, 3, 0);
	small_notify(small, 0);
	small_until(small, late_server_pending(server) == 1);
	late_server_cut_links(server);
	small_until(small, vdev_disk_info(small->dev, &info) && info.away);
	late_server_hold(server, false);
	small_until(small, driver_used(&small->driver[0], 3, &len) == 0);
	vdev_stop(small->dev);
	assert_int_equal(vdev_drain(small->dev, clock_now_ns() + NS_PER_SEC, &err), -EAGAIN);
	assert_non_null(strstr(err.text, "a lost connection had asked"));
	assert_true(vdev_disk_fenced(small->dev));
	assert_int_equal(vdev_drain(small->dev, clock_now_ns() + NS_PER_SEC, &err), 0);
	small_free(small);
	late_server_free(server);
	media_free(media);
}

static void an_export_has_the_longest_name_there_is(void **state)
{
	static const struct late_options both = { .flush = true };
	struct media *media = media_new(1 << 20, 1);
	struct late_server *server = late_server_new(media, &both, 1);
	char text[NBD_NAME_BYTES + 100], name[NBD_NAME_BYTES + 1];
	struct disks d;

	(void)state;
	memset(name, 'n', NBD_NAME_BYTES);
	name[NBD_NAME_BYTES] = '\0';
	snprintf(text, sizeof(text), "nbd+unix:///%s%s", name, strchr(late_server_uri(server), '?'));
	disks_open(&d, text, false);
	assert_int_equal(late_server_name_bytes(server), NBD_NAME_BYTES);
	disks_close(&d);
	late_server_free(server);
	media_free(media);
}

/* What a server wants of requests, its own words for it, and whether it says so on the wire. */
static void a_server_gets_blocks_that_it_takes(void **state)
{
	static const struct late_options wants[] = {
		{ true, true, 4096, 4096, 8192 }, { true, false, 65536, 65536, 65536 }, { true, true, 512, 1024, 4096 },
		{ true, true, 1, 4096, 33554432 }, { false, false, 2048, 2048, 10240 },
	};
	struct late_server *server;
	struct media *media;
	struct disks d;
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(wants) / sizeof(wants[0]); i++) {
		media = media_new(1 << 20, 1);
		server = late_server_new(media, &wants[i], 1);
		disks_open(&d, late_server_uri(server), false);
		assert_int_equal(disk_limits(d.disk)->physical, wants[i].block_preferred);
		disk_exercise(&d);
		assert_int_equal(late_server_refused(server), 0);
		assert_true(late_server_largest(server) <= wants[i].block_max);
		disks_close(&d);
		late_server_free(server);
		media_free(media);
	}
}

/* Writes of neighbours cross in one block of the server's: none undoes another. */
static void edges_do_not_cross(void **state)
{
	static const struct late_options wants = { true, true, 65536, 65536, 65536 };
	static uint8_t out[128][512], in[65536];
	struct job job[128];
	struct late_server *server;
	struct media *media = media_new(1 << 20, 1);
	struct disks d;
	unsigned int i, round;

	(void)state;
	server = late_server_new(media, &wants, 1);
	disks_open(&d, late_server_uri(server), false);
	for (round = 0; round < 3; round++) {
		for (i = 0; i < 128; i++) {
			memset(out[i], (int)(i + round), sizeof(out[i]));
			job_start(&d, &job[i], i % 16 == 15 ? DISK_ZERO : DISK_WRITE, i * 512,
				  out[i], 512, i % 16 == 15 ? 0 : 1);
		}
		disks_until(&d, !disk_jobs(d.disk));
		assert_int_equal(job_run(&d, DISK_READ, 0, in, sizeof(in), 1), 0);
		for (i = 0; i < 128; i++) {
			assert_int_equal(job[i].result, 0);
			assert_int_equal(in[i * 512], i % 16 == 15 ? 0 : (uint8_t)(i + round));
		}
	}
	assert_int_equal(late_server_refused(server), 0);
	disks_close(&d);
	late_server_free(server);
	media_free(media);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_done_late_undoes_nothing),
		cmocka_unit_test(doubt_ends),
		cmocka_unit_test(a_flush_does_not_lie),
		cmocka_unit_test(what_is_kept_is_bounded),
		cmocka_unit_test(what_is_kept_is_kept_in_pieces),
		cmocka_unit_test(a_large_write_makes_itself_room),
		cmocka_unit_test(what_is_in_doubt_stays_on_this_host),
		cmocka_unit_test(an_export_has_the_longest_name_there_is),
		cmocka_unit_test(a_server_gets_blocks_that_it_takes),
		cmocka_unit_test(edges_do_not_cross),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
