// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// postern run's command line over its file of options.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cli/options.h"

static char path[64];

static int parse(struct options *o, const char *file, char **words, struct err *err)
{
	FILE *out = fopen(path, "w");
	char *argv[16] = { "run", "--config", path };
	int argc = 3;

	assert_non_null(out);
	fputs(file, out);
	fclose(out);
	while (*words)
		argv[argc++] = *words++;
	return options_parse(o, argc, argv, err);
}
#define PARSE(o, file, err, ...) parse(o, file, (char *[]){ __VA_ARGS__ __VA_OPT__(,) NULL }, err)

static void test_a_file_is_as_good_as_options(void **state)
{
	struct options o;
	struct err err;

	(void)state;
	assert_int_equal(
		PARSE(&o,
		      "{\"kernel\": \"k\", \"initrd\": \"i\", \"cmdline\": \"c\", \"cpus\": 3, \"memory\": \"1G\", "
		      "\"name\": \"web\", \"serial\": \"null\", \"no-reboot\": true, \"paused\": true, "
		      "\"qmp\": [\"unix:a\", \"unix:b\"], \"gdb\": \"auto\", \"gdb-page-timeout\": 7, "
		      "\"way-out\": \"eject\", \"link-timeout\": 123, \"bandwidth\": 4096, "
		      "\"log-level\": \"debug\", \"log-format\": \"json\", \"log-file\": \"f\", "
		      "\"pid-file\": \"p\"}",
		      &err),
		0);
	assert_string_equal(o.machine.kernel, "k");
	assert_string_equal(o.machine.initrd, "i");
	assert_string_equal(o.machine.cmdline, "c");
	assert_string_equal(o.machine.name, "web");
	assert_int_equal(o.machine.cpus, 3);
	assert_int_equal(o.machine.memory_bytes, 1 << 30);
	assert_int_equal(o.machine.serial.type, CHARDEV_NULL);
	assert_true(o.machine.no_reboot && o.paused);
	assert_int_equal(o.nqmp, 2);
	assert_string_equal(o.qmp[1], "unix:b");
	assert_string_equal(o.gdb, "auto");
	assert_int_equal(o.gdb_page_timeout_ms, 7);
	assert_int_equal(o.machine.way_out, WAY_OUT_EJECT);
	assert_int_equal(o.link_timeout_ms, 123);
	assert_int_equal(o.bandwidth, 4096);
	assert_int_equal(o.log_level, LOG_DEBUG);
	assert_int_equal(o.log_format, LOG_JSON);
	assert_string_equal(o.log_file, "f");
	assert_string_equal(o.pid_file, "p");
	options_fini(&o);
}

static void test_the_command_line_goes_over_the_file(void **state)
{
	struct options o;
	struct err err;

	(void)state;
	assert_int_equal(
		PARSE(&o,
		      "{\"kernel\": \"k\", \"cpus\": 3, \"memory\": 33554432, \"qmp\": \"unix:a\"}",
		      &err, "--kernel", "l", "-c", "5", "--qmp", "unix:x", "--qmp", "unix:y"),
		0);
	assert_string_equal(o.machine.kernel, "l");
	assert_int_equal(o.machine.cpus, 5);
	assert_int_equal(o.machine.memory_bytes, 32 << 20);
	assert_int_equal(o.nqmp, 2);
	assert_string_equal(o.qmp[0], "unix:x");
	assert_string_equal(o.qmp[1], "unix:y");
	options_fini(&o);
}

static void test_a_value_out_of_range_names_file_line_and_key(void **state)
{
	static const char *const bad[][2] = {
		{ "{\"kernel\": \"k\",\n\"cpus\": 129}", ":2: --cpus 129" }, { "{\"cpus\": -1}", ":1: --cpus -1" },
		{ "{\"memory\": \"3M\"}", ":1: --memory 3M" }, { "{\"way-out\": \"window\"}", ":1: --way-out window" },
		{ "{\"serial\": \"x\"}", ":1: --serial" }, { "{\"config\": \"x\"}", ":1: \"config\"" },
		{ "{\"help\": true}", ":1: \"help\"" }, { "{\"qmp\": \"a\", \"cpu\": 2}", ":1: \"cpu\"" },
	};
	struct options o;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(PARSE(&o, bad[i][0], &err, "--kernel", "k"), -EINVAL);
		options_fini(&o);
		if (strncmp(err.text, path, strlen(path)) != 0 || !strstr(err.text, bad[i][1]))
			fail_msg("%s says %s", bad[i][0], err.text);
	}
}

static void test_only_one_file_is_read(void **state)
{
	struct options o;
	struct err err;

	(void)state;
	assert_int_equal(PARSE(&o, "{}", &err, "--config", path), -EINVAL);
	options_fini(&o);
	assert_int_equal(PARSE(&o, "{}", &err), -EINVAL);	/* no kernel */
	assert_non_null(strstr(err.text, "--kernel"));
	options_fini(&o);
}

static int set_up(void **state)
{
	int fd;

	(void)state;
	strcpy(path, "/tmp/postern-options-XXXXXX");
	fd = mkstemp(path);
	return fd < 0 ? -1 : close(fd);
}

static int tear_down(void **state)
{
	(void)state;
	return unlink(path);
}

static void test_what_a_machine_starts_from(void **state)
{
	struct options o;
	struct err err;

	(void)state;
	assert_int_equal(PARSE(&o, "{}", &err, "--kernel", "k", "--disk", "d", "--append", "b",
			       "--cmdline", "a"),
			 0);
	assert_string_equal(o.machine.cmdline, "a b");
	assert_null(o.boot_disk);
	options_fini(&o);
	assert_int_equal(PARSE(&o, "{}", &err, "--kernel", "k", "--append", "b"), 0);
	assert_string_equal(o.machine.cmdline, "b");
	options_fini(&o);
	assert_int_equal(PARSE(&o, "{}", &err, "--rng", "--disk", "d,readonly", "--disk", "e",
			       "--append", "b"),
			 0);
	assert_string_equal(o.boot_disk, "d,readonly");
	assert_null(o.machine.cmdline);
	assert_string_equal(o.append, "b");
	options_fini(&o);
	assert_int_equal(PARSE(&o, "{}", &err, "--rng"), -EINVAL);
	assert_non_null(strstr(err.text, "--disk"));
	options_fini(&o);
}

static void test_a_virtio_console_may_have_stdio(void **state)
{
	struct options o;
	struct err err;

	(void)state;
	assert_int_equal(PARSE(&o, "{\"kernel\": \"k\"}", &err, "--console", "stdio"), 0);
	assert_int_equal(o.machine.serial.type, CHARDEV_NULL);
	assert_int_equal(o.machine.virtio.n, 1);
	options_fini(&o);
	/* Elsewhere it leaves the serial port alone. */
	assert_int_equal(
		PARSE(&o, "{\"kernel\": \"k\", \"console\": \"stdio\"}", &err, "--console", "pty"),
		0);
	assert_int_equal(o.machine.serial.type, CHARDEV_STDIO);
	assert_int_equal(o.machine.virtio.n, 1);
	options_fini(&o);
	assert_int_equal(
		PARSE(&o, "{\"kernel\": \"k\"}", &err, "--console", "stdio", "--serial", "stdio"),
		-EINVAL);
	assert_non_null(strstr(err.text, "only one"));
	options_fini(&o);
	assert_int_equal(PARSE(&o, "{\"kernel\": \"k\"}", &err, "--console", "tape"), -EINVAL);
	options_fini(&o);
}

static void test_how_a_store_is_reached(void **state)
{
	struct store_options store;
	struct options o;
	struct err err;

	(void)state;
	assert_int_equal(PARSE(&o, "{\"restore\": \"/i/web\", \"store-deadline\": 700}", &err,
			       "--store-cache", "/c,d,limit=1G", "--second-store", "s3://b/p",
			       "--second-store-after", "20", "--store-credentials", "login"),
			 0);
	store = store_args_options(&o.store);
	assert_int_equal(store.deadline_ms, 700);
	assert_string_equal(store.cache, "/c,d");
	assert_int_equal(store.cache_bytes, 1 << 30);
	assert_string_equal(store.second, "s3://b/p");
	assert_int_equal(store.second_ms, 20);
	assert_string_equal(store.credentials, "login");
	options_fini(&o);
	assert_int_equal(PARSE(&o, "{}", &err, "--restore", "/i/web"), 0);
	store = store_args_options(&o.store);
	assert_null(store.cache);
	assert_null(store.second);
	assert_null(store.credentials);
	options_fini(&o);
}

static void test_what_a_store_is_not_reached_by(void **state)
{
	static const char *const bad[][3] = {
		{ "--store-cache", "/c,limit=15M", "16M at least" },
		{ "--store-cache", "/c,size=1G", "limit=SIZE" },
		{ "--store-cache", "/c,limit=16M,limit=17M", "one limit=" },
		{ "--store-cache", ",limit=1G", "missing" },
		{ "--store-deadline", "5s", "100 to 3600000" },
		{ "--second-store", "mirror", "no scheme" },
		{ "--second-store", "https://u:geheim@host/", "user or password" },
		{ "--second-store-after", "0", "1 to 60000" },
		{ "--second-store-after", "5", "needs --second-store" },
	};
	struct options o;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(PARSE(&o, "{\"restore\": \"/i/web\"}", &err, (char *)bad[i][0],
				       (char *)bad[i][1]),
				 -EINVAL);
		options_fini(&o);
		if (!strstr(err.text, bad[i][2]) || strstr(err.text, "geheim"))
			fail_msg("%s %s says %s", bad[i][0], bad[i][1], err.text);
	}
	assert_int_equal(PARSE(&o, "{\"kernel\": \"k\"}", &err, "--store-deadline", "100"),
			 -EINVAL);
	assert_non_null(strstr(err.text, "--store-deadline: needs --restore"));
	options_fini(&o);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_file_is_as_good_as_options),
		cmocka_unit_test(test_what_a_machine_starts_from),
		cmocka_unit_test(test_the_command_line_goes_over_the_file),
		cmocka_unit_test(test_a_value_out_of_range_names_file_line_and_key),
		cmocka_unit_test(test_only_one_file_is_read),
		cmocka_unit_test(test_a_virtio_console_may_have_stdio),
		cmocka_unit_test(test_how_a_store_is_reached),
		cmocka_unit_test(test_what_a_store_is_not_reached_by),
	};

	return cmocka_run_group_tests_name("options", tests, set_up, tear_down);
}
