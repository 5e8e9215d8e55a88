// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/log_text.h"
#include "base/rotate.h"

static void test_json_strings(void **unused)
{
	static const struct {
		const char *text, *json;
	} cases[] = {
		{ "", "" },
		{ "plain", "plain" },
		{ "a \"b\" \\ /", "a \\\"b\\\" \\\\ /" },
		{ "\t\n\x1b[31m\x7f", "\\u0009\\u000a\\u001b[31m\\u007f" },
		{ "z\xc3\xbcrich \xe2\x82\xac \xf0\x9f\x98\x80", "z\xc3\xbcrich \xe2\x82\xac \xf0\x9f\x98\x80" },
		/* alone, cut off, too long a form, a surrogate, beyond U+10FFFF */
		{ "\xff", "\xef\xbf\xbd" },
		{ "x\xc3", "x\xef\xbf\xbd" },
		{ "\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd" },
		{ "\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
		{ "\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
	};
	char out[128];
	size_t i;

	(void)unused;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(log_json_string(out, sizeof(out), cases[i].text),
				 strlen(cases[i].json));
		assert_string_equal(out, cases[i].json);
	}
}

static void test_json_strings_are_cut_between_characters(void **unused)
{
	char out[8];
	size_t room;

	(void)unused;
	for (room = 1; room <= sizeof(out); room++) {
		memset(out, 'x', sizeof(out));
		assert_true(log_json_string(out, room, "\x01\x02") < room);
		assert_string_equal(out, room > 6 ? "\\u0001" : "");
		log_json_string(out, room, "\xe2\x82\xac\xe2\x82\xac");
		assert_string_equal(out, room > 6 ? "\xe2\x82\xac\xe2\x82\xac" :
					 room > 3 ? "\xe2\x82\xac" :
						    "");
	}
}

static void test_plain_text_has_no_control_characters(void **unused)
{
	char text[] = "a\nb\x1b[0m\x7f\xc2\x9b z\xc3\xbc\xe2\x82\xac\x9b";

	(void)unused;
	log_plain(text);
	assert_string_equal(text, "a?b?[0m??? z\xc3\xbc\xe2\x82\xac?");
}

static void test_times_and_areas(void **unused)
{
	static const struct {
		const char *file, *area;
	} files[] = {
		{ "../memory/watch.c", "memory" }, { "memory/watch.c", "memory" }, { "../../device/virtio/blk.c", "device" },
		{ "./cli/run.c", "cli" }, { "main.c", "" }, { "/src/cli/run.c", "" }, { "", "" },
		{ "a_folder_with_a_long_name/x.c", "a_folder_with_a" },
	};
	char text[LOG_TIME_BYTES], area[LOG_AREA_BYTES];
	size_t i;

	(void)unused;
	log_time(text, &(struct timespec){ .tv_sec = 1795200575, .tv_nsec = 1234999 });
	assert_string_equal(text, "2026-11-20T18:49:35.001234Z");
	log_time(text, &(struct timespec){ 0 });
	assert_string_equal(text, "1970-01-01T00:00:00.000000Z");
	for (i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		log_area(area, files[i].file);
		assert_string_equal(area, files[i].area);
	}
}

/* What the file has, behind the time. */
static void assert_file(const char *path, const char *before, const char *after)
{
	char text[8192];
	FILE *f = fopen(path, "r");

	assert_non_null(f);
	text[fread(text, 1, sizeof(text) - 1, f)] = '\0';
	fclose(f);
	assert_memory_equal(text, before, strlen(before));
	assert_string_equal(text + strlen(before) + strlen("2026-11-20T18:49:35.001234Z"), after);
	assert_int_equal(unlink(path), 0);
}

static void test_lines_in_a_file(void **unused)
{
	char dir[] = "/tmp/postern-log-XXXXXX", path[64];
	static struct log_site site;
	struct stat st;

	(void)unused;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/log", dir);
	assert_int_equal(log_open_file(path, 0, NULL), 0);
	log_info("dropped");
	log_warn("disk %s: gone", "a\nb");
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0640);
	log_close_file();
	assert_file(path, "", " warning: disk a?b: gone\n");

	log_set_format(LOG_JSON);
	assert_int_equal(log_open_file(path, 0, NULL), 0);
	log_line_from(&site, "../device/virtio/disk.c", LOG_ERROR, "disk %s: gone", "\"a\nb\"");
	log_close_file();
	log_set_format(LOG_TEXT);
	assert_file(path, "{\"time\":\"",
		    "\",\"level\":\"error\",\"area\":\"device\",\"message\":\"disk \\\"a\\u000ab\\\": gone\"}\n");
	assert_int_equal(rmdir(dir), 0);
}

static void test_the_longest_line_is_whole(void **unused)
{
	char dir[] = "/tmp/postern-log-XXXXXX", path[64], evil[3000], text[8192];
	size_t n;
	FILE *f;

	(void)unused;
	memset(evil, 1, sizeof(evil) - 1);
	evil[sizeof(evil) - 1] = '\0';
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/log", dir);
	assert_int_equal(log_open_file(path, 0, NULL), 0);
	log_set_format(LOG_JSON);
	log_warn("%s", evil);
	log_set_format(LOG_TEXT);
	log_close_file();
	f = fopen(path, "r");
	assert_non_null(f);
	n = fread(text, 1, sizeof(text), f);
	fclose(f);
	assert_memory_equal(text + n - 9, "\\u0001\"}\n", 9);
	assert_true(n > 6 * 1023);
	unlink(path);
	rmdir(dir);
}

static void read_all(char *text, size_t room, const char *path)
{
	FILE *f = fopen(path, "re");

	assert_non_null(f);
	text[fread(text, 1, room - 1, f)] = '\0';
	fclose(f);
}

/* Lines that cannot be written are counted, and lines_reported of as soon as one can be. */
static void test_a_full_disk_is_survived(void **unused)
{
	char dir[] = "/tmp/postern-log-XXXXXX", path[64], text[8192];
	struct rlimit limit;

	(void)unused;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/log", dir);
	assert_int_equal(log_open_file(path, 0, NULL), 0);
	log_warn("before");
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
	limit.rlim_cur = 100;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	log_warn("one that is torn: %0100d", 1);
	log_warn("second");
	log_warn("third");
	limit.rlim_cur = limit.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	log_warn("after");
	log_close_file();
	read_all(text, sizeof(text), path);
	assert_non_null(strstr(text, " warning: before\n"));
	assert_null(strstr(text, "second"));
	assert_non_null(strstr(text, "\n20"));	/* the torn line has an end */
	assert_non_null(strstr(text, "3 lines of this log are missing here: File too large\n"));
	assert_non_null(strstr(text, " warning: after\n"));
	assert_true(strstr(text, "missing here") < strstr(text, "after"));
	unlink(path);
	assert_int_equal(rmdir(dir), 0);
}

static void test_a_log_has_a_limit(void **unused)
{
	char dir[] = "/tmp/postern-log-XXXXXX", path[64], old[80], line[900], text[8192];
	struct stat st;
	int i;

	(void)unused;
	memset(line, 'x', sizeof(line) - 1);
	line[sizeof(line) - 1] = '\0';
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/log", dir);
	snprintf(old, sizeof(old), "%s.1", path);
	assert_int_equal(log_open_file(path, ROTATE_LIMIT_MIN, NULL), 0);
	for (i = 0; i < 1000; i++) {
		struct log_site site = { 0 };

		log_line_from(&site, __FILE__, LOG_WARN, "%d %s", i, line);
		assert_int_equal(stat(path, &st), 0);
		assert_true((uint64_t)st.st_size <= ROTATE_LIMIT_MIN);
	}
	log_close_file();
	assert_int_equal(stat(old, &st), 0);
	assert_true((uint64_t)st.st_size <= ROTATE_LIMIT_MIN);
	/* Lines stay whole. */
	read_all(text, sizeof(text), path);
	assert_memory_equal(text, "20", 2);
	unlink(path);
	unlink(old);
	assert_int_equal(rmdir(dir), 0);
}

static void test_places_that_cannot_be_written(void **unused)
{
	char dir[] = "/tmp/postern-log-XXXXXX", path[64];
	struct err err = { 0 };

	(void)unused;
	assert_non_null(mkdtemp(dir));
	assert_int_equal(log_open_file(dir, 0, &err), -EISDIR);
	assert_non_null(strstr(err.text, dir));
	snprintf(path, sizeof(path), "%s/none/log", dir);
	assert_int_equal(log_open_file(path, 0, &err), -ENOENT);
	/* A pipe without a reader is an error, not a wait. */
	snprintf(path, sizeof(path), "%s/pipe", dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(log_open_file(path, 0, &err), -ENXIO);
	unlink(path);
	rmdir(dir);
}

static unsigned int shown;
static unsigned long long lines_reported;
static char latest[256];

static void count_lines(enum log_level level, const char *line)
{
	unsigned long long n;

	(void)level;
	if (sscanf(line, "%llu more lines like this were left out: ", &n) == 1)
		lines_reported += n;
	else
		shown++;
	snprintf(latest, sizeof(latest), "%s", line);
}

#define LINES 100000

/*
 * What a peer or a guest can have said without end does not fill the log, and
 * nothing is left out in silence.
 */
static void test_a_place_that_logs_without_end_is_cut_short_and_counted(void **unused)
{
	int64_t start = clock_now_ns();
	int i;

	(void)unused;
	shown = 0;
	lines_reported = 0;
	log_set_handler(count_lines);
	for (i = 1; i <= LINES; i++)
		log_warn("peer %d is wrong", i);
	/* Those that the bucket had, and those that it got meanwhile. */
	assert_in_range(shown, 1, 100 + (clock_now_ns() - start) / NS_PER_SEC + 1);
	log_report_left_out();
	assert_int_equal(shown + lines_reported, LINES);
	assert_string_equal(strstr(latest, "were left out"), "were left out: peer 100000 is wrong");
	/* Told once. */
	latest[0] = '\0';
	log_report_left_out();
	assert_string_equal(latest, "");
	/* Another place is not held to it. */
	log_warn("a guest arrives");
	assert_string_equal(latest, "a guest arrives");
	log_set_handler(NULL);
}

#define SECOND NS_PER_SEC

static void test_a_place_gets_its_lines_back(void **unused)
{
	struct log_left_out left_out;
	/* It is listed for good. */
	static struct log_site site;
	int64_t now = 7 * SECOND;
	unsigned int i;

	(void)unused;
	for (i = 0; i < LOG_BURST; i++)
		assert_true(log_limit_take(&site, "a.c", LOG_INFO, "x", now, &left_out));
	assert_false(log_limit_take(&site, "a.c", LOG_WARN, "y", now, &left_out));
	assert_false(log_limit_take(&site, "a.c", LOG_WARN, "z", now + SECOND - 1, &left_out));
	/* One a second, which says what was left out before it. */
	assert_true(log_limit_take(&site, "a.c", LOG_INFO, "x", now + SECOND, &left_out));
	assert_int_equal(left_out.lines, 2);
	assert_int_equal(left_out.level, LOG_WARN);
	assert_string_equal(left_out.last, "z");
	assert_false(log_limit_take(&site, "a.c", LOG_INFO, "last", now + SECOND, &left_out));
	/* After a quiet while, all of them, and not more. */
	now += 1000 * SECOND;
	for (i = 0; i < LOG_BURST; i++)
		assert_true(log_limit_take(&site, "a.c", LOG_INFO, "x", now, &left_out));
	assert_false(log_limit_take(&site, "a.c", LOG_INFO, "x", now, &left_out));
	assert_true(log_limit_next(&left_out));
	assert_int_equal(left_out.lines, 1);
	assert_false(log_limit_next(&left_out));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_json_strings),
		cmocka_unit_test(test_json_strings_are_cut_between_characters),
		cmocka_unit_test(test_plain_text_has_no_control_characters),
		cmocka_unit_test(test_times_and_areas),
		cmocka_unit_test(test_lines_in_a_file),
		cmocka_unit_test(test_the_longest_line_is_whole),
		cmocka_unit_test(test_a_full_disk_is_survived),
		cmocka_unit_test(test_a_log_has_a_limit),
		cmocka_unit_test(test_places_that_cannot_be_written),
		cmocka_unit_test(test_a_place_that_logs_without_end_is_cut_short_and_counted),
		cmocka_unit_test(test_a_place_gets_its_lines_back),
	};

	signal(SIGXFSZ, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
