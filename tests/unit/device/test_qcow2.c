// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Which files a qcow2 image has: what its header says of them, what the user
 * says, and what its qemu-nbd can reach. Headers are made here; whole images by
 * qemu-img, without which those tests are skipped.
 */
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#include "base/helper.h"
#include "device/disk/qcow2_header.h"
#include "device/disk/qcow2_image.h"
#include "disks.h"

#define CLUSTER 65536u

static void run(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void run(const char *format, ...)
{
	char command[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	if (system(command) != 0)
		fail_msg("%s", command);
}

static void need_images(void)
{
	char command[] = "command -v qemu-img >/dev/null && command -v qemu-nbd >/dev/null";

	if (!system(command))
		return;
	print_message("skipped: qemu-utils is not installed\n");
	skip();
}

/* ---- headers ---- */

static void put32(uint8_t *data, size_t at, uint32_t value)
{
	value = __builtin_bswap32(value);
	memcpy(data + at, &value, 4);
}

static void put64(uint8_t *data, size_t at, uint64_t value)
{
	value = __builtin_bswap64(value);
	memcpy(data + at, &value, 8);
}

static void header_make(uint8_t *data, unsigned int version)
{
	memset(data, 0, CLUSTER);
	memcpy(data, QCOW2_MAGIC, 4);
	put32(data, 4, version);
	put32(data, 20, 16);
	put64(data, 24, 1 << 20);
	if (version == 3)
		put32(data, 100, 104);
}

static size_t extension_put(uint8_t *data, size_t at, uint32_t type, const char *text)
{
	uint32_t n = (uint32_t)strlen(text);

	put32(data, at, type);
	put32(data, at + 4, n);
	memcpy(data + at + 8, text, n);
	return at + 8 + (n + 7) / 8 * 8;
}

static void backing_put(uint8_t *data, uint64_t at, const char *name)
{
	put64(data, 8, at);
	put32(data, 16, (uint32_t)strlen(name));
	memcpy(data + at, name, strlen(name));
}

static void a_header_says_which_files_it_names(void **state)
{
	static uint8_t data[CLUSTER];
	struct qcow2_header header;
	unsigned int version;
	struct err err;
	size_t at;

	(void)state;
	for (version = 2; version <= 3; version++) {
		header_make(data, version);
		assert_int_equal(qcow2_header_bytes(data, 24), CLUSTER);
		assert_int_equal(qcow2_header_parse(&header, data, sizeof(data), &err), 0);
		assert_int_equal(header.version, version);
		assert_int_equal(header.bytes, 1 << 20);
		assert_int_equal(header.cluster_bytes, CLUSTER);
		assert_string_equal(header.backing, "");
		assert_string_equal(header.backing_format, "");
		assert_false(header.has_data_file);
		at = extension_put(data, version == 2 ? 72 : 104, 0xe2792aca, "qcow2");
		at = extension_put(data, at, 0x6803f857, "some features' names");
		at = extension_put(data, at, 0x44415441, "data.raw");
		at = extension_put(data, at, 0, "");
		backing_put(data, at, "nbd://elsewhere/x");
		if (version == 3)
			put64(data, 72, 1 << 2);
		assert_int_equal(qcow2_header_parse(&header, data, sizeof(data), &err), 0);
		assert_string_equal(header.backing, "nbd://elsewhere/x");
		assert_string_equal(header.backing_format, "qcow2");
		assert_string_equal(header.data_file, "data.raw");
		assert_int_equal(header.has_data_file, version == 3);
	}
	/* A file that is shorter than a cluster has its header nevertheless. */
	assert_int_equal(qcow2_header_parse(&header, data, 512, &err), 0);
	assert_string_equal(header.backing, "nbd://elsewhere/x");
}

static void wrong_headers_are_refused(void **state)
{
	static const struct {
		size_t at;
		unsigned int bytes;
		uint64_t value;
		const char *words;
	} wrong[] = {
		{ 0, 4, 0x514649fa, "no qcow2 image" }, { 4, 4, 1, "version 1" }, { 4, 4, 4,
			"version 4" }, { 20, 4, 8, "2^8 bytes" },
		{ 20, 4, 22, "2^22 bytes" }, { 20, 4, 0xffffffff, "2^4294967295 bytes" }, { 24, 8,
			0, "has 0 bytes" },
		{ 24, 8, UINT64_MAX, "has 18446744073709551615 bytes" }, { 32, 4, 1, "encrypted" },
			{ 32, 4, 2, "encrypted" },
		{ 72, 8, 1 << 5, "features that are not known (0x20)" }, { 72, 8, UINT64_C(1) << 63,
			"features" },
		{ 100, 4, 103, "has 103 bytes" }, { 100, 4, CLUSTER + 1, "has 65537 bytes" }, { 100,
			4, UINT32_MAX, "has 4294967295 bytes" },
		{ 8, 8, CLUSTER - 3, "outside of its first cluster" }, { 8, 8, 50,
			"outside of its first cluster" },
		{ 8, 8, UINT64_MAX - 2, "outside of its first cluster" }, { 16, 4, UINT32_MAX,
			"outside of its first cluster" },
		{ 16, 4, 1024, "an image below it of 1024 bytes" }, { 602, 1, 0, "a byte of 0" },
			{ 104, 4, 0x0537be77, "encrypted" },
		{ 108, 4, 16, "a format of 16 bytes" }, { 108, 4, 600,
			"extension 0xe2792aca of 600 bytes" },
		{ 108, 4, UINT32_MAX, "extension 0xe2792aca of 4294967295 bytes" }, { 113, 1, 0,
			"a byte of 0" },
	};
	static uint8_t data[CLUSTER];
	struct qcow2_header header;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		header_make(data, 3);
		extension_put(data, extension_put(data, 104, 0xe2792aca, "qcow2"), 0, "");
		backing_put(data, 600, "base.img");
		if (wrong[i].bytes == 1)
			data[wrong[i].at] = (uint8_t)wrong[i].value;
		else if (wrong[i].bytes == 4)
			put32(data, wrong[i].at, (uint32_t)wrong[i].value);
		else
			put64(data, wrong[i].at, wrong[i].value);
		err.text[0] = '\0';
		if (qcow2_header_parse(&header, data, sizeof(data), &err) != -EINVAL ||
		    !strstr(err.text, wrong[i].words))
			fail_msg("%s: %s", wrong[i].words, err.text);
	}
	header_make(data, 3);
	for (i = 0; i < 104; i++)
		assert_int_equal(qcow2_header_parse(&header, data, i, &err), -EINVAL);
	assert_int_equal(qcow2_header_parse(&header, data, 104, &err), 0);
}

/* ---- what the user says of it ---- */

static void options_say_what_is_wrong(void **state)
{
	static const char *const wrong[] = {
		"a,format=raw,backing=b", "a,backing=b", "a,format=qcow2,backing=",
			"a,format=qcow2,data-file=", "a,data-file=b",
		"nbd://h,backing=b",
			"a,format=qcow2,backing=1,backing=2,backing=3,backing=4,backing=5,backing=6,backing=7", "a,format=qcow2,",
	};
	struct disk_config config;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		assert_int_equal(disk_config_parse(&config, wrong[i], &err), -EINVAL);
	assert_int_equal(disk_config_parse(&config,
					   "a,,1,backing=b,,2,format=qcow2,backing=c=3,data-file=d,,4,readonly", &err), 0);
	assert_string_equal(config.path, "a,1");
	assert_int_equal(config.backings, 2);
	assert_string_equal(config.backing[0], "b,2");
	assert_string_equal(config.backing[1], "c=3");
	assert_string_equal(config.data_file, "d,4");
	assert_true(config.readonly);
	disk_config_fini(&config);
}

/*
 * Opens a disk as --disk says; the error's text, "" if it goes well and its
 * first byte is `first`.
 */
static const char *try(const char *dir, const char *text, int first)
{
	static uint8_t data[4096];
	static char said[512];
	char name[1024], *to = name;
	struct disks d = { 0 };
	struct err err = { 0 };

	/* % is the directory. */
	for (; *text; text++)
		to += *text == '%' ? snprintf(to, sizeof(name) - (size_t)(to - name), "%s",
					      dir) : snprintf(to, 2, "%c", *text);
	assert_int_equal(loop_new(&d.loop, &err), 0);
	said[0] = '\0';
	if (disks_try(&d, name, false, &err) < 0) {
		snprintf(said, sizeof(said), "%s", err.text);
		assert_true(loop_free(d.loop));
		return said;
	}
	assert_int_equal(job_run(&d, DISK_READ, 0, data, sizeof(data), 1), 0);
	assert_int_equal(data[0], first);
	disks_close(&d);
	return said;
}

static void place_make(char dir[64])
{
	strcpy(dir, "/tmp/postern-qcow2-XXXXXX");
	assert_non_null(mkdtemp(dir));
}

static void place_remove(const char *dir)
{
	run("rm -r %s", dir);
}

/*
 * Whoever has made an image would see any file of the host's that he can name.
 */
static void no_file_is_opened_because_a_header_names_it(void **state)
{
	static const struct {
		const char *make, *option, *words;
	} tries[] = {
		{ "qemu-img create -q -u -f qcow2 -F raw -b /etc/passwd a 1M", "%/a,format=qcow2",
			"names \"/etc/passwd\" as the image below" },
		{ "qemu-img create -q -u -f qcow2 -F raw -b nbd://127.0.0.1/x a 1M",
			"%/a,format=qcow2,readonly", "names \"nbd://127.0.0.1/x\"" },
		{ "qemu-img create -q -u -f qcow2 -F raw -b 'json:{\"driver\":\"null-co\"}' a 1M",
			"%/a,format=qcow2,backing=%/x", "names \"json:{" },
		{ "qemu-img create -q -u -f qcow2 -F raw -b base a 1M",
			"%/a,format=qcow2,backing=%/other", "but its header names \"base\"" },
		{ "qemu-img create -q -u -f qcow2 -F vmdk -b base a 1M",
			"%/a,format=qcow2,backing=%/base", "\"vmdk\": raw and qcow2 are" },
		{ "qemu-img create -q -f qcow2 a 1M", "%/a,format=qcow2,backing=%/base",
			"but its header names nothing as the image below it" },
		{ "qemu-img create -q -f qcow2 a 1M", "%/a,format=qcow2,data-file=%/base",
			"but its header names nothing as the file that has its data" },
		{ "qemu-img create -q -f qcow2 -o data_file=data a 1M", "%/a,format=qcow2",
			"names \"data\" as the file" },
		/* One step down. */
		{ "qemu-img create -q -u -f qcow2 -F raw -b /etc/passwd base 1M; qemu-img create "
		  "-q -u -f qcow2 -F qcow2 -b base a 1M",
		  "%/a,format=qcow2,backing=%/base",
			  "/base: its header names \"/etc/passwd\" as the image below it" },
		{ "qemu-img create -q -f qcow2 -o data_file=data base 1M; qemu-img create -q -u "
		  "-f qcow2 -F qcow2 -b base a 1M",
		  "%/a,format=qcow2,backing=%/base", "not supported below another image" },
		/* A raw one is raw, whatever it begins with. */
		{ "qemu-img create -q -u -f qcow2 -F raw -b base a 1M; mkfifo base",
			"%/a,format=qcow2,backing=%/base", "neither a file" },
	};
	char dir[64];
	size_t i;

	(void)state;
	need_images();
	for (i = 0; i < sizeof(tries) / sizeof(tries[0]); i++) {
		place_make(dir);
		run("cd %s && %s", dir, tries[i].make);
		if (!strstr(try(dir, tries[i].option, -1), tries[i].words))
			fail_msg("%s: %s", tries[i].words, try(dir, tries[i].option, -1));
		place_remove(dir);
	}
}

static void what_the_user_names_too_is_opened(void **state)
{
	char dir[64];

	(void)state;
	need_images();
	place_make(dir);
	run("cd %s; head -c 1048576 /dev/zero | tr '\\0' A > lowest", dir);
	run("cd %s; qemu-img create -q -f qcow2 -F raw -b lowest middle && qemu-img create -q -f "
	    "qcow2 -F qcow2 -b %s/middle top", dir, dir);
	assert_string_equal(try(dir, "%/top,format=qcow2,backing=%/middle,backing=%/lowest", 'A'),
			    "");
	assert_string_equal(try(dir,
				"%/top,format=qcow2,readonly,backing=%/middle,backing=%/lowest",
					'A'), "");
	/* All of them have moved. */
	run("cd %s; mkdir new; mv lowest middle top new", dir);
	assert_string_equal(try(dir,
				"%/new/top,format=qcow2,backing=%/new/middle,backing=%/new/lowest",
					'A'), "");
	run("cd %s; qemu-img create -q -f qcow2 -o data_file=data split 1M; qemu-io -f qcow2 -c "
	    "'write -P 0x42 0 64k' split >/dev/null", dir);
	assert_string_equal(try(dir, "%/split,format=qcow2,data-file=%/data", 'B'), "");
	place_remove(dir);
}

/* ---- what a reader of it can reach ---- */

/*
 * qemu-img, as qemu-nbd is started, reads an image whose header names another,
 * and is not told to leave that alone.
 */
static bool reads(const char *dir, unsigned int flags, bool described)
{
	char top[96], json[QCOW2_JSON_BYTES],
		path[] =
			"json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"/proc/self/fd/3\"}}";
	char *words[] = { "qemu-img", "bench", "-c", "1", "-d", "1", described ? json : path,
		NULL };
	struct disk_config config;
	struct qcow2_image image;
	struct helper *h;
	struct err err;
	char end[64];

	snprintf(top, sizeof(top), "%s/top,format=qcow2,readonly", dir);
	assert_int_equal(disk_config_parse(&config, top, &err), 0);
	/* As if its header had named nothing when it was looked at. */
	run("cd %s; qemu-img rebase -u -f qcow2 -b '' top", dir);
	assert_int_equal(qcow2_image_open(&image, &config, &err), 0);
	run("cd %s; qemu-img rebase -u -f qcow2 -F raw -b %s/lowest top", dir, dir);
	qcow2_image_describe(&image, HELPER_FD, json);
	if (helper_start(&h, NULL, &(struct helper_config){ .program = "qemu-img", .words = words,
		.fds = image.fd, .n_fds = image.n,
							    .flags = flags, .readable = 1 },
								    &err) < 0)
		fail_msg("%s", err.text);
	assert_true(helper_wait(h, 60 * NS_PER_SEC));
	helper_describe_end(h, end, sizeof(end));
	helper_free(h, 0);
	qcow2_image_close(&image);
	disk_config_fini(&config);
	return !strcmp(end, "ended with status 0");
}

static void a_header_that_changes_leads_nowhere(void **state)
{
	char dir[64];

	(void)state;
	need_images();
	place_make(dir);
	/* Anybody may read them. */
	run("chmod 755 %s; cd %s; umask 022; truncate -s 1M lowest; qemu-img create -q -f qcow2 "
	    "top 1M", dir, dir);
	assert_true(reads(dir, 0, false));
	assert_false(reads(dir, HELPER_CONFINED, false));
	/* Nor is it tried. */
	assert_true(reads(dir, HELPER_CONFINED, true));
	place_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_header_says_which_files_it_names),
		cmocka_unit_test(wrong_headers_are_refused),
		cmocka_unit_test(options_say_what_is_wrong),
		cmocka_unit_test(no_file_is_opened_because_a_header_names_it),
		cmocka_unit_test(what_the_user_names_too_is_opened),
		cmocka_unit_test(a_header_that_changes_leads_nowhere),
	};

	signal(SIGPIPE, SIG_IGN);
	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
