// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A disk behind a real NBD server, nbdkit, that is killed and started again; a qcow2 image behind a qemu-nbd of ours. Skipped where these
 * programs are not installed. And behind a server of the test's, which is wrong.
 */
#include <dirent.h>
#include <endian.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "device/disk/nbd_kept.h"
#include "device/virtio/blk.h"
#include "disks.h"
#include "late_server.h"
#include "small.h"

#define BYTES "4194304"

struct server {
	char dir[64], socket[80], image[80], uri[160];
	pid_t pid;
};

static void run(const char *const *argv, pid_t *pid)
{
	*pid = fork();
	assert_true(*pid >= 0);
	if (!*pid) {
		/* It complains of every client that goes without a word. */
		dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), 2);
		execvp(argv[0], (char *const *)argv);
		_exit(127);
	}
}

static int run_to_end(const char *const *argv)
{
	int status;
	pid_t pid;

	run(argv, &pid);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static bool have(const char *program)
{
	char text[64];

	snprintf(text, sizeof(text), "command -v %s >/dev/null", program);
	return system(text) == 0;
}

static void need(const char *program)
{
	if (have(program))
		return;
	print_message("skipped: %s is not installed\n", program);
	skip();
}

static bool listens(const struct server *s)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), r;

	strcpy(at.sun_path, s->socket);
	r = connect(fd, (struct sockaddr *)&at, sizeof(at));
	close(fd);
	return r == 0;
}

static void server_start_with(struct server *s, const char *const *words)
{
	char file[96];
	const char *argv[16] = { "nbdkit", "-f", "-U", s->socket };
	int64_t end = clock_now_ns() + 20 * NS_PER_SEC;
	unsigned int n = 4;

	snprintf(file, sizeof(file), "file=%s", s->image);
	while (*words)
		argv[n++] = *words++;
	argv[n++] = file;
	unlink(s->socket);
	run(argv, &s->pid);
	while (!listens(s))
		assert_true(clock_now_ns() < end);
}

/* extra: parameters that are nbdkit's, or NULL. */
static void server_start(struct server *s, const char *filter, const char *extra)
{
	const char *words[4] = { NULL };
	unsigned int n = 0;

	if (filter)
		words[n++] = filter;
	words[n++] = "file";
	words[n] = extra;
	server_start_with(s, words);
}

static void server_kill(struct server *s)
{
	kill(s->pid, SIGKILL);
	waitpid(s->pid, NULL, 0);
}

static void server_new(struct server *s)
{
	int fd;

	strcpy(s->dir, "/tmp/postern-nbd-test-XXXXXX");
	assert_non_null(mkdtemp(s->dir));
	snprintf(s->socket, sizeof(s->socket), "%s/s", s->dir);
	snprintf(s->image, sizeof(s->image), "%s/image", s->dir);
	snprintf(s->uri, sizeof(s->uri), "nbd+unix:///?socket=%s", s->socket);
	fd = open(s->image, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(fd, atol(BYTES)), 0);
	close(fd);
}

static void server_free(struct server *s)
{
	unlink(s->socket);
	unlink(s->image);
	assert_int_equal(rmdir(s->dir), 0);
}

static void a_server_is_a_disk(void **state)
{
	struct server s;
	struct disks d;

	(void)state;
	need("nbdkit");
	server_new(&s);
	server_start(&s, NULL, NULL);
	disks_open(&d, s.uri, false);
	assert_int_equal(disk_bytes(d.disk), atol(BYTES));
	disk_exercise(&d);
	assert_int_equal(d.gone, 0);
	disks_close(&d);
	server_kill(&s);
	server_free(&s);
}

/* Killed with requests under way, and while there are none: those are done that were asked for meanwhile, each once. */
static void requests_outlive_their_server(void **state)
{
	static uint8_t out[1 << 20], in[1 << 20];
	struct job job[64];
	struct server s;
	struct disks d;
	unsigned int i, round;

	(void)state;
	need("nbdkit");
	server_new(&s);
	server_start(&s, NULL, NULL);
	disks_open(&d, s.uri, false);
	for (round = 0; round < 3; round++) {
		memset(out, (int)(0x11 + round), sizeof(out));
		/* The second time nothing is under way. */
		for (i = 0; round != 1 && i < 32; i++)
			job_start(&d, &job[i], DISK_WRITE, i * UINT64_C(16384), out + i * 16384, 16384, 1 + i % 3);
		server_kill(&s);
		disks_until(&d, disk_away(d.disk));
		assert_int_equal(d.gone, round + 1);
		assert_true(*d.why);
		for (i = round != 1 ? 32 : 0; i < 64; i++)
			job_start(&d, &job[i], DISK_WRITE, i * UINT64_C(16384), out + i * 16384, 16384, 1 + i % 3);
		/* Nobody waits for it: neither a drain nor a turn of the loop. */
		disk_wait(d.disk, clock_now_ns() + 100 * NS_PER_SEC);
		uv_run(loop_uv(d.loop), UV_RUN_NOWAIT);
		assert_true(disk_jobs(d.disk) >= 32);
		server_start(&s, NULL, NULL);
		disks_until(&d, !disk_jobs(d.disk));
		assert_int_equal(d.back, round + 1);
		for (i = 0; i < 64; i++)
			assert_int_equal(job[i].result, 0);
		assert_int_equal(job_run(&d, DISK_READ, 0, in, sizeof(in), 1), 0);
		assert_memory_equal(in, out, sizeof(in));
	}
	disks_close(&d);
	server_kill(&s);
	server_free(&s);
}

static void the_end_comes_while_it_is_away(void **state)
{
	static uint8_t memory[4096];
	int64_t start;
	struct server s;
	struct disks d;
	struct job job;

	(void)state;
	need("nbdkit");
	server_new(&s);
	server_start(&s, NULL, NULL);
	disks_open(&d, s.uri, false);
	server_kill(&s);
	disks_until(&d, disk_away(d.disk));
	job_start(&d, &job, DISK_READ, 0, memory, sizeof(memory), 1);
	start = clock_now_ns();
	disks_close(&d);
	assert_true(clock_now_ns() - start < NS_PER_SEC);
	assert_int_equal(job.result, -ECANCELED);
	server_free(&s);
}

static void patience_can_be_given_an_end(void **state)
{
	static uint8_t memory[4096];
	char text[200];
	struct server s;
	struct disks d;
	struct job job;

	(void)state;
	need("nbdkit");
	server_new(&s);
	server_start(&s, NULL, NULL);
	snprintf(text, sizeof(text), "%s,reconnect=1", s.uri);
	disks_open(&d, text, false);
	server_kill(&s);
	disks_until(&d, disk_away(d.disk));
	job_start(&d, &job, DISK_WRITE, 0, memory, sizeof(memory), 1);
	assert_false(job.done);
	disks_until(&d, job.done);
	assert_int_equal(job.result, -EIO);
	/* From then on at once. */
	assert_int_equal(job_run(&d, DISK_READ, 0, memory, sizeof(memory), 1), -EIO);
	server_start(&s, NULL, NULL);
	disks_until(&d, !disk_away(d.disk));
	assert_int_equal(job_run(&d, DISK_READ, 0, memory, sizeof(memory), 1), 0);
	disks_close(&d);
	server_kill(&s);
	server_free(&s);
}

/* An error that the server answers is the guest's to know, and no reason to connect again. */
static void an_error_is_one(void **state)
{
	static uint8_t memory[8192];
	struct server s;
	struct disks d;

	(void)state;
	need("nbdkit");
	server_new(&s);
	server_start(&s, "--filter=error", "error-pwrite-rate=100%");
	disks_open(&d, s.uri, false);
	assert_int_equal(job_run(&d, DISK_WRITE, 0, memory, sizeof(memory), 2), -EIO);
	assert_int_equal(job_run(&d, DISK_READ, 0, memory, sizeof(memory), 2), 0);
	assert_int_equal(d.gone, 0);
	disks_close(&d);
	server_kill(&s);
	server_free(&s);
}

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

/* Writes that the server has and has not answered when its link is cut: of many, some are done late. */
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
 * The same again is done at once, and so is what lies elsewhere; what would change the same bytes waits until the server is known to have
 * dropped the old connection. So nothing of that undoes it.
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
	late_server_settle(late.server);
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

/* Where nobody says so, doubt ends when its time has come; one that failed in the meantime stays in doubt as long. */
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

/* The server loses its power with what it had in its cache. The guest's flush says that all is stable: then it is. */
static void a_flush_does_not_lie(void **state)
{
	static uint8_t out[65536], in[65536];
	struct late late;
	unsigned int i;

	(void)state;
	late_begin(&late, "");
	for (i = 0; i < 16; i++) {
		memset(out + i * 4096, (int)(0x11 + i), 4096);
		assert_int_equal(job_run(&late.d, DISK_WRITE, i * 4096, out + i * 4096, 4096, 1), 0);
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

/* A guest that changes a little of much, again and again, does not make the main thread copy all of it each time. */
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

/* One that leaves no room for the little that is kept already waits for a flush of ours, and not for the guest's. */
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
	struct small *small = small_new(&blk_kind, late_server_uri(server), false);
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
			job_start(&d, &job[i], i % 16 == 15 ? DISK_ZERO : DISK_WRITE, i * 512, out[i], 512, i % 16 == 15 ? 0 : 1);
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

/* As nbdkit holds a client to it. */
static void nbdkit_refuses_nothing(void **state)
{
	struct server s;
	struct disks d;

	(void)state;
	need("nbdkit");
	server_new(&s);
	server_start_with(&s, (const char *const[]){ "--filter=blocksize-policy", "file", "blocksize-minimum=4096",
						     "blocksize-preferred=4096", "blocksize-maximum=64K",
						     "blocksize-error-policy=error", NULL });
	disks_open(&d, s.uri, false);
	disk_exercise(&d);
	disks_close(&d);
	server_kill(&s);
	server_free(&s);
}

static void another_export_is_not_taken(void **state)
{
	struct server s;
	struct disks d = { 0 };
	struct err err;

	(void)state;
	need("nbdkit");
	server_new(&s);
	assert_int_equal(loop_new(&d.loop, &err), 0);
	assert_true(disks_try(&d, s.uri, false, &err) < 0);
	assert_non_null(strstr(err.text, s.uri));
	server_start(&s, "--filter=readahead", NULL);
	assert_int_equal(disks_try(&d, s.uri, false, &err), 0);
	server_kill(&s);
	assert_int_equal(truncate(s.image, 1 << 20), 0);
	disks_until(&d, disk_away(d.disk));
	server_start(&s, NULL, NULL);
	/* The reason for its being away is a new one, at the next attempt. */
	disks_until(&d, disk_away(d.disk) && strstr(disk_away(d.disk), "1048576 bytes now"));
	disks_close(&d);
	server_kill(&s);
	server_free(&s);
}

/* And not of another disk's connection, which libnbd has said something of meanwhile. */
static void each_disk_says_its_own_reason(void **state)
{
	struct disks d[2];
	struct server s[2];
	unsigned int i;

	(void)state;
	need("nbdkit");
	for (i = 0; i < 2; i++) {
		server_new(&s[i]);
		server_start(&s[i], NULL, NULL);
		disks_open(&d[i], s[i].uri, false);
	}
	for (i = 0; i < 2; i++) {
		server_kill(&s[i]);
		disks_until(&d[i], disk_away(d[i].disk));
		assert_string_equal(disk_away(d[i].disk), "the server has ended the connection");
	}
	for (i = 0; i < 2; i++) {
		disks_close(&d[i]);
		server_free(&s[i]);
	}
}

/* Who listens there is no NBD server at all. */
static void a_server_that_talks_nonsense_is_refused(void **state)
{
	static const char *const says[] = { "", "HTTP/1.1 400 Bad Request\r\n\r\n", "NBDMAGICIHAVEOPT\xff\xff" };
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	struct disks d = { 0 };
	struct server s;
	struct err err;
	unsigned int i;
	int fd, client;

	(void)state;
	server_new(&s);
	strcpy(at.sun_path, s.socket);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(loop_new(&d.loop, &err), 0);
	for (i = 0; i < sizeof(says) / sizeof(says[0]); i++) {
		s.pid = fork();
		assert_true(s.pid >= 0);
		if (!s.pid) {
			client = accept(fd, NULL, NULL);
			_exit(write(client, says[i], strlen(says[i])) < 0);
		}
		assert_true(disks_try(&d, s.uri, false, &err) < 0);
		assert_non_null(strstr(err.text, s.uri));
		assert_int_equal(waitpid(s.pid, NULL, 0), s.pid);
	}
	assert_true(loop_free(d.loop));
	close(fd);
	server_free(&s);
}

/* ---- a server that is wrong ---- */

#define WRONG_BYTE 0x77

enum wrong {
	WRONG_IF_ASKED,		/* structured replies without their data, to who has agreed on such */
	WRONG_ANYHOW,		/* ... to anybody */
	WRONG_SLOW,		/* right, after a while */
	WRONG_STUCK,		/* right, but a flush is not done before there is a file, whose length then counts them */
};

struct nbd_request {
	uint32_t magic;
	uint16_t flags, type;
	uint64_t cookie, offset;
	uint32_t len;
} __attribute__((packed));

static void take_bytes(int fd, void *to, size_t len)
{
	if (len && recv(fd, to, len, MSG_WAITALL) != (ssize_t)len)
		_exit(0);
}

static void say_bytes(int fd, const void *from, size_t len)
{
	if (send(fd, from, len, MSG_NOSIGNAL) != (ssize_t)len)
		_exit(0);
}

static void say_reply(int fd, uint32_t option, uint32_t type, const void *data, uint32_t len)
{
	const struct {
		uint64_t magic;
		uint32_t option, type, len;
	} __attribute__((packed)) head = { htobe64(UINT64_C(0x3e889045565a9)), htobe32(option), htobe32(type), htobe32(len) };

	say_bytes(fd, &head, sizeof(head));
	say_bytes(fd, data, len);
}

/* Of 1 MiB, without trim. Returns whether structured replies are agreed on. */
static bool wrong_handshake(int fd, bool flush)
{
	static const uint8_t hello[] = "NBDMAGICIHAVEOPT\0\x03";
	uint8_t info[] = "\0\0" "\0\0\0\0\0\x10\0\0" "\0\x01";
	struct {
		uint64_t magic;
		uint32_t option, len;
	} __attribute__((packed)) ask;
	bool structured = false;
	uint8_t data[4096];
	uint32_t option;

	info[11] |= flush ? 4 : 0;
	say_bytes(fd, hello, 18);
	take_bytes(fd, data, 4);
	do {
		take_bytes(fd, &ask, sizeof(ask));
		take_bytes(fd, data, be32toh(ask.len) % sizeof(data));
		option = be32toh(ask.option);
		structured |= option == 8;
		if (option == 7)
			say_reply(fd, option, 3, info, 12);
		say_reply(fd, option, option == 7 || option == 8 ? 1 : 0x80000001, NULL, 0);
	} while (option != 7);
	return structured;
}

static void wrong_serve(int listener, enum wrong wrong, const char *go)
{
	int fd = accept(listener, NULL, NULL);
	bool structured = wrong_handshake(fd, wrong == WRONG_STUCK);
	off_t flushes = 0;
	struct nbd_request request;
	static uint8_t data[65536];

	memset(data, WRONG_BYTE, sizeof(data));
	for (;;) {
		struct {
			uint32_t magic;
			uint16_t flags, type;
			uint64_t cookie;
			uint32_t len;
		} __attribute__((packed)) nothing = { htobe32(0x668e33ef), htobe16(1), 0, 0, 0 };
		struct {
			uint32_t magic, error;
			uint64_t cookie;
		} __attribute__((packed)) simple = { htobe32(0x67446698), 0, 0 };

		take_bytes(fd, &request, sizeof(request));
		if (be16toh(request.type) == 2)
			_exit(0);
		nothing.cookie = simple.cookie = request.cookie;
		while (be16toh(request.type) == 3 && access(go, F_OK) < 0)
			usleep(1000);
		if (be16toh(request.type) == 3 && truncate(go, ++flushes) < 0)
			_exit(1);
		if (wrong == WRONG_SLOW)
			usleep(200000);
		if (wrong == WRONG_ANYHOW || (wrong == WRONG_IF_ASKED && structured)) {
			say_bytes(fd, &nothing, sizeof(nothing));
			continue;
		}
		say_bytes(fd, &simple, sizeof(simple));
		say_bytes(fd, data, be16toh(request.type) == 0 ? be32toh(request.len) : 0);
	}
}

static void wrong_begin(struct server *s, enum wrong wrong)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	server_new(s);
	strcpy(at.sun_path, s->socket);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(listen(fd, 1), 0);
	s->pid = fork();
	assert_true(s->pid >= 0);
	if (!s->pid)
		wrong_serve(fd, wrong, s->image);
	close(fd);
}

static void wrong_start(struct server *s, struct disks *d, enum wrong wrong)
{
	wrong_begin(s, wrong);
	disks_open(d, s->uri, false);
	assert_int_equal(disk_bytes(d->disk), 1 << 20);
}

/* A read that ends well has read the disk: not what this process had in the buffer. */
static void an_answer_without_data_is_none(void **state)
{
	static uint8_t memory[8192];
	unsigned int i, pieces;
	struct server s;
	struct disks d;
	struct job job;

	(void)state;
	/* In place, and through a buffer. */
	for (pieces = 1; pieces <= 2; pieces++) {
		wrong_start(&s, &d, WRONG_IF_ASKED);
		memset(memory, 0x11, sizeof(memory));
		assert_int_equal(job_run(&d, DISK_READ, 0, memory, sizeof(memory), pieces), 0);
		for (i = 0; i < sizeof(memory); i++)
			assert_int_equal(memory[i], WRONG_BYTE);
		disks_close(&d);
		server_kill(&s);
		server_free(&s);

		wrong_start(&s, &d, WRONG_ANYHOW);
		job_start(&d, &job, DISK_READ, 0, memory, sizeof(memory), pieces);
		disks_until(&d, d.gone == 1);
		assert_false(job.done);
		disks_close(&d);
		assert_int_equal(job.result, -ECANCELED);
		server_kill(&s);
		server_free(&s);
	}
}

/* Something has ended without the server, something else waits for it: who waits, as a drain does, sleeps meanwhile. */
static void who_waits_sleeps(void **state)
{
	static uint8_t memory[4096];
	unsigned int waits = 0;
	struct job slow, flush;
	struct server s;
	struct disks d;
	int64_t end;

	(void)state;
	wrong_start(&s, &d, WRONG_SLOW);
	job_start(&d, &slow, DISK_READ, 0, memory, sizeof(memory), 1);
	job_start(&d, &flush, DISK_FLUSH, 0, NULL, 0, 0);
	end = clock_now_ns() + 20 * NS_PER_SEC;
	for (; disk_jobs(d.disk) && clock_now_ns() < end; waits++)
		disk_wait(d.disk, end);
	assert_true(slow.done && flush.done);
	assert_int_equal(slow.result | flush.result, 0);
	assert_in_range(waits, 1, 10);
	disks_close(&d);
	server_kill(&s);
	server_free(&s);
}

/* Drains that give up leave one flush behind, not one each; and the one that ends well has flushed what came after it. */
static void a_flush_that_hangs_is_one(void **state)
{
	struct disk_info info;
	struct server s;
	struct stat st;
	struct small *small;
	struct err err;
	unsigned int i;
	int64_t moment;

	(void)state;
	wrong_begin(&s, WRONG_STUCK);
	unlink(s.image);
	small = small_new(&blk_kind, s.uri, false);
	vdev_stop(small->dev);
	for (i = 0; i < DISK_JOBS_MAX + 10; i++) {
		moment = clock_now_ns() + NS_PER_MS / 10;
		assert_int_equal(vdev_drain(small->dev, moment, &err), -ETIMEDOUT);
		assert_non_null(strstr(err.text, "does not reach it in time"));
		assert_true(vdev_disk_info(small->dev, &info));
		assert_int_equal(info.jobs, 1);
	}
	close(open(s.image, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	assert_int_equal(vdev_drain(small->dev, clock_now_ns() + 20 * NS_PER_SEC, &err), 0);
	assert_true(vdev_disk_info(small->dev, &info));
	assert_int_equal(info.jobs, 0);
	assert_int_equal(stat(s.image, &st), 0);
	assert_int_equal(st.st_size, 2);
	small_free(small);
	server_kill(&s);
	server_free(&s);
}

/* ---- qcow2 ---- */

static pid_t child_of_ours(void)
{
	char path[300], comm[32];
	struct dirent *entry;
	pid_t found = 0;
	DIR *dir = opendir("/proc");
	int parent;
	FILE *stat;

	while ((entry = readdir(dir))) {
		snprintf(path, sizeof(path), "/proc/%.16s/stat", entry->d_name);
		stat = atoi(entry->d_name) ? fopen(path, "re") : NULL;
		if (stat && fscanf(stat, "%*d (%31[^)]) %*c %d", comm, &parent) == 2 && parent == getpid() && !strcmp(comm, "qemu-nbd"))
			found = atoi(entry->d_name);
		if (stat)
			fclose(stat);
	}
	closedir(dir);
	return found;
}

static void a_qcow2_image_is_a_disk(void **state)
{
	char text[120], *const path = text;
	const char *const create[] = { "qemu-img", "create", "-q", "-f", "qcow2", path, "8M", NULL };
	static uint8_t out[65536], in[65536];
	struct disks d, other = { 0 };
	struct err err;
	struct server s;
	pid_t child;
	int fd;

	(void)state;
	need("qemu-nbd");
	server_new(&s);
	strcpy(text, s.image);
	assert_int_equal(run_to_end(create), 0);
	strcat(text, ",format=qcow2");
	disks_open(&d, text, false);
	assert_int_equal(disk_bytes(d.disk), 8 << 20);
	disk_exercise(&d);
	memset(out, 0x5a, sizeof(out));
	assert_int_equal(job_run(&d, DISK_WRITE, 65536, out, sizeof(out), 1), 0);
	/* Its server dies: another one is started. What was not flushed may be gone; what was is not. */
	assert_int_equal(job_run(&d, DISK_FLUSH, 0, NULL, 0, 0), 0);
	child = child_of_ours();
	assert_true(child > 0);
	kill(child, SIGKILL);
	disks_until(&d, d.gone == 1);
	assert_int_equal(job_run(&d, DISK_READ, 65536, in, sizeof(in), 1), 0);
	assert_memory_equal(in, out, sizeof(in));
	assert_int_equal(d.back, 1);
	/* A migration's destination has the size at once, and the image when it is its own. */
	other.loop = d.loop;
	assert_int_equal(disks_try(&other, text, true, &err), 0);
	assert_int_equal(disk_bytes(other.disk), 8 << 20);
	disk_release(d.disk);
	assert_int_equal(disk_claim(other.disk, &err), 0);
	memset(in, 0, sizeof(in));
	assert_int_equal(job_run(&other, DISK_READ, 65536, in, sizeof(in), 1), 0);
	assert_memory_equal(in, out, sizeof(in));
	disk_close(other.disk);
	disks_close(&d);
	assert_int_equal(child_of_ours(), 0);
	/* Read only; and what is none. */
	strcat(text, ",readonly");
	disks_open(&d, text, false);
	assert_int_equal(job_run(&d, DISK_READ, 65536, in, sizeof(in), 1), 0);
	disks_close(&d);
	assert_int_equal(truncate(s.image, 0) | truncate(s.image, 65536), 0);
	other = (struct disks){ 0 };
	assert_int_equal(loop_new(&other.loop, &err), 0);
	assert_int_equal(disks_try(&other, text, false, &err), -EINVAL);
	assert_non_null(strstr(err.text, "no qcow2 image"));
	/* A table that is nowhere: qemu-nbd says so. */
	text[strlen(s.image)] = '\0';
	assert_int_equal(run_to_end(create), 0);
	fd = open(s.image, O_RDWR | O_CLOEXEC);
	assert_int_equal(pwrite(fd, "\0\0\0\x63", 4, 44), 4);
	close(fd);
	strcat(text, ",format=qcow2");
	assert_true(disks_try(&other, text, false, &err) < 0);
	assert_non_null(strstr(err.text, "qemu-nbd: "));
	assert_true(loop_free(other.loop));
	server_free(&s);
}

/* What qemu-nbd has of the image's tables in its memory goes with it; what the guest wrote does not. */
static void a_qcow2_image_keeps_what_was_not_flushed(void **state)
{
	char text[120], *const path = text;
	const char *const create[] = { "qemu-img", "create", "-q", "-f", "qcow2", path, "64M", NULL };
	static uint8_t out[65536], in[65536];
	struct server s;
	struct disks d;
	unsigned int i, round;

	(void)state;
	need("qemu-nbd");
	server_new(&s);
	strcpy(text, s.image);
	assert_int_equal(run_to_end(create), 0);
	strcat(text, ",format=qcow2");
	disks_open(&d, text, false);
	for (round = 1; round <= 3; round++) {
		memset(out, (int)round, sizeof(out));
		for (i = 0; i < 32; i++)
			assert_int_equal(job_run(&d, DISK_WRITE, i * UINT64_C(1114112), out, sizeof(out), 1), 0);
		kill(child_of_ours(), SIGKILL);
		disks_until(&d, d.gone == round);
		for (i = 0; i < 32; i++) {
			assert_int_equal(job_run(&d, DISK_READ, i * UINT64_C(1114112), in, sizeof(in), 1), 0);
			assert_memory_equal(in, out, sizeof(in));
		}
	}
	disks_close(&d);
	server_free(&s);
}

/* Another machine may have the image from then on: nothing of ours writes to it, whatever qemu-nbd is at. */
static void a_release_waits_for_qemu_nbd(void **state)
{
	char text[120], *const path = text;
	const char *const create[] = { "qemu-img", "create", "-q", "-f", "qcow2", path, "8M", NULL };
	struct server s;
	struct disks d;
	int hung;

	(void)state;
	need("qemu-nbd");
	server_new(&s);
	strcpy(text, s.image);
	assert_int_equal(run_to_end(create), 0);
	strcat(text, ",format=qcow2");
	for (hung = 0; hung < 2; hung++) {
		disks_open(&d, text, false);
		assert_true(child_of_ours() > 0);
		if (hung)
			kill(child_of_ours(), SIGSTOP);
		disk_release(d.disk);
		assert_int_equal(child_of_ours(), 0);
		disks_close(&d);
	}
	server_free(&s);
}

static void a_missing_program_is_named(void **state)
{
	struct disks d = { 0 };
	char text[120], *path;
	struct server s;
	struct err err;
	int fd;

	(void)state;
	server_new(&s);
	fd = open(s.image, O_RDWR | O_CLOEXEC);
	assert_int_equal(pwrite(fd, "QFI\xfb\0\0\0\3", 8, 0), 8);
	assert_int_equal(pwrite(fd, "\0\0\0\x10\0\0\0\0\0\x10\0\0", 12, 20), 12);
	assert_int_equal(pwrite(fd, "\0\0\0\x68", 4, 100), 4);
	close(fd);
	assert_int_equal(loop_new(&d.loop, &err), 0);
	path = strdup(getenv("PATH"));
	setenv("PATH", "/nonexistent", 1);
	snprintf(text, sizeof(text), "%s,format=qcow2", s.image);
	assert_int_equal(disks_try(&d, text, false, &err), -ENOENT);
	setenv("PATH", path, 1);
	free(path);
	assert_non_null(strstr(err.text, "apt install qemu-utils"));
	assert_true(loop_free(d.loop));
	server_free(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_server_is_a_disk),
		cmocka_unit_test(requests_outlive_their_server),
		cmocka_unit_test(the_end_comes_while_it_is_away),
		cmocka_unit_test(patience_can_be_given_an_end),
		cmocka_unit_test(an_error_is_one),
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
		cmocka_unit_test(nbdkit_refuses_nothing),
		cmocka_unit_test(another_export_is_not_taken),
		cmocka_unit_test(each_disk_says_its_own_reason),
		cmocka_unit_test(a_server_that_talks_nonsense_is_refused),
		cmocka_unit_test(an_answer_without_data_is_none),
		cmocka_unit_test(who_waits_sleeps),
		cmocka_unit_test(a_flush_that_hangs_is_one),
		cmocka_unit_test(a_qcow2_image_is_a_disk),
		cmocka_unit_test(a_qcow2_image_keeps_what_was_not_flushed),
		cmocka_unit_test(a_release_waits_for_qemu_nbd),
		cmocka_unit_test(a_missing_program_is_named),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
