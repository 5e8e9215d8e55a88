// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A disk behind a real NBD server, nbdkit, that is killed and started again.
 * Skipped where it is not installed.
 */
#include "nbd_servers.h"

static void a_server_is_a_disk(void **state)
{
	struct server s;
	struct disks d;

	(void)state;
	server_disk(&s, &d);
	assert_int_equal(disk_bytes(d.disk), atol(SERVER_BYTES));
	disk_exercise(&d);
	assert_int_equal(d.gone, 0);
	server_disk_end(&s, &d);
}

/*
 * Killed with requests under way, and while there are none: those are done that
 * were asked for meanwhile, each once.
 */
static void requests_outlive_their_server(void **state)
{
	static uint8_t out[1 << 20], in[1 << 20];
	struct job job[64];
	struct server s;
	struct disks d;
	unsigned int i, round;

	(void)state;
	server_disk(&s, &d);
	for (round = 0; round < 3; round++) {
		memset(out, (int)(0x11 + round), sizeof(out));
		/* The second time nothing is under way. */
		for (i = 0; round != 1 && i < 32; i++)
			job_start(&d, &job[i], DISK_WRITE, i * UINT64_C(16384), out + i * 16384,
				  16384, 1 + i % 3);
		server_kill(&s);
		disks_until(&d, disk_away(d.disk));
		assert_int_equal(d.gone, round + 1);
		assert_true(*d.why);
		for (i = round != 1 ? 32 : 0; i < 64; i++)
			job_start(&d, &job[i], DISK_WRITE, i * UINT64_C(16384), out + i * 16384,
				  16384, 1 + i % 3);
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
	server_disk_end(&s, &d);
}

static void the_end_comes_while_it_is_away(void **state)
{
	static uint8_t memory[4096];
	int64_t start;
	struct server s;
	struct disks d;
	struct job job;

	(void)state;
	server_disk(&s, &d);
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
	server_disk_end(&s, &d);
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
	server_disk_end(&s, &d);
}

/* As nbdkit holds a client to it. */
static void nbdkit_refuses_nothing(void **state)
{
	struct server s;
	struct disks d;

	(void)state;
	need("nbdkit");
	server_new(&s);
	server_start_with(&s, (const char *const[]){
				      "--filter=blocksize-policy", "file", "blocksize-minimum=4096",
				      "blocksize-preferred=4096", "blocksize-maximum=64K",
				      "blocksize-error-policy=error", NULL });
	disks_open(&d, s.uri, false);
	disk_exercise(&d);
	server_disk_end(&s, &d);
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
	server_disk_end(&s, &d);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_server_is_a_disk),
		cmocka_unit_test(requests_outlive_their_server),
		cmocka_unit_test(the_end_comes_while_it_is_away),
		cmocka_unit_test(patience_can_be_given_an_end),
		cmocka_unit_test(an_error_is_one),
		cmocka_unit_test(nbdkit_refuses_nothing),
		cmocka_unit_test(another_export_is_not_taken),
		cmocka_unit_test(each_disk_says_its_own_reason),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
