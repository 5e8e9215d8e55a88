// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A disk behind a server of the test's that is wrong: no NBD server at all, one
 * whose answers lack their data, one that is slow, one whose flush hangs.
 */
#include <endian.h>

#include "device/virtio/blk.h"
#include "nbd_servers.h"
#include "small.h"

/* Who listens there is no NBD server at all. */
static void a_server_that_talks_nonsense_is_refused(void **state)
{
	static const char *const says[] = { "", "HTTP/1.1 400 Bad Request\r\n\r\n",
					    "NBDMAGICIHAVEOPT\xff\xff" };
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
	} __attribute__((packed))
	head = { htobe64(UINT64_C(0x3e889045565a9)), htobe32(option), htobe32(type), htobe32(len) };

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
		server_disk_end(&s, &d);

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

/*
 * Something has ended without the server, something else waits for it: who
 * waits, as a drain does, sleeps meanwhile.
 */
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
	server_disk_end(&s, &d);
}

/*
 * Drains that give up leave one flush behind, not one each; and the one that
 * ends well has flushed what came after it.
 */
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
	small = small_new(&blk_type, s.uri, false);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_server_that_talks_nonsense_is_refused),
		cmocka_unit_test(an_answer_without_data_is_none),
		cmocka_unit_test(who_waits_sleeps),
		cmocka_unit_test(a_flush_that_hangs_is_one),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
