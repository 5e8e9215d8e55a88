// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// What a peer sends as a guest's kernel: hostile until it has been checked.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "migrate/boot_receiver.h"

#define LIMIT (UINT64_C(64) << 20)
#define KERNEL_BYTES (BOOT_PIECE_BYTES + 7)
#define INITRD_BYTES (size_t)100

static uint8_t bytes[KERNEL_BYTES + INITRD_BYTES];

static int boot(struct boot_receiver *r, enum boot_type type, uint64_t kernel, uint64_t initrd,
		struct err *err)
{
	Postern__Wire__Boot message = POSTERN__WIRE__BOOT__INIT;

	message.kernel_bytes = kernel;
	message.initrd_bytes = initrd;
	message.has_cmdline = true;
	message.cmdline = (char *)(uintptr_t)"quiet";
	return boot_receiver_take_boot(r, &message, type, LIMIT, err);
}

static int data(struct boot_receiver *r, uint64_t offset, size_t len, struct err *err)
{
	Postern__Wire__BootData message = POSTERN__WIRE__BOOT_DATA__INIT;

	message.offset = offset;
	message.data.data = bytes + (offset < sizeof(bytes) ? offset : 0);
	message.data.len = len;
	return boot_receiver_take_data(r, &message, err);
}

static int end(struct boot_receiver *r, bool right, struct err *err)
{
	Postern__Wire__BootEnd message = POSTERN__WIRE__BOOT_END__INIT;

	message.kernel_xxh3 = XXH3_64bits(bytes, KERNEL_BYTES);
	message.initrd_xxh3 = XXH3_64bits(bytes + KERNEL_BYTES, INITRD_BYTES) ^ !right;
	return boot_receiver_take_end(r, &message, err);
}

static void begin(struct boot_receiver *r)
{
	struct err err;

	boot_receiver_init(r);
	assert_int_equal(boot(r, BOOT_FILES, KERNEL_BYTES, INITRD_BYTES, &err), 0);
}

static void pieces(struct boot_receiver *r)
{
	struct err err;

	assert_int_equal(data(r, 0, BOOT_PIECE_BYTES, &err), 0);
	assert_int_equal(data(r, BOOT_PIECE_BYTES, 7, &err), 0);
	assert_int_equal(data(r, KERNEL_BYTES, INITRD_BYTES, &err), 0);
}

static void test_what_is_right_is_kept(void **state)
{
	static uint8_t got[sizeof(bytes)];
	struct boot_receiver r;
	struct err err;

	(void)state;
	begin(&r);
	pieces(&r);
	assert_int_equal(data(&r, sizeof(bytes), 1, &err), -EBADMSG);
	assert_int_equal(end(&r, true, &err), 0);
	assert_int_equal(r.files.type, BOOT_FILES);
	assert_string_equal(r.files.cmdline, "quiet");
	assert_int_equal(pread(r.files.kernel.fd, got, sizeof(got), 0), KERNEL_BYTES);
	assert_memory_equal(got, bytes, KERNEL_BYTES);
	assert_int_equal(pread(r.files.initrd.fd, got, sizeof(got), 0), INITRD_BYTES);
	assert_memory_equal(got, bytes + KERNEL_BYTES, INITRD_BYTES);
	/* Sealed: no byte changes any more, by whomever. */
	assert_int_equal(pwrite(r.files.kernel.fd, "x", 1, 0), -1);
	assert_int_equal(ftruncate(r.files.initrd.fd, 0), -1);
	boot_receiver_fini(&r);
}

static void test_sizes_that_cannot_be(void **state)
{
	static const struct {
		enum boot_type type;
		uint64_t kernel, initrd;
		int result;
	} bad[] = {
		{ BOOT_FILES, 0, 0, -EBADMSG },
		{ BOOT_FILES, 0, 5, -EBADMSG },
		{ BOOT_FILES, LIMIT + 1, 0, -E2BIG },
		{ BOOT_FILES, LIMIT, 1, -E2BIG },
		{ BOOT_FILES, 1, LIMIT, -E2BIG },
		{ BOOT_FILES, UINT64_MAX, 2, -E2BIG },
		{ BOOT_FILES, 2, UINT64_MAX, -E2BIG },
		{ BOOT_DISK, 1, 0, -EBADMSG },
		{ BOOT_DISK, 0, 1, -EBADMSG },
	};
	struct boot_receiver r;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		boot_receiver_init(&r);
		assert_int_equal(boot(&r, bad[i].type, bad[i].kernel, bad[i].initrd, &err),
				 bad[i].result);
		boot_receiver_fini(&r);
	}
}

static void test_lines_too_long(void **state)
{
	Postern__Wire__Boot message = POSTERN__WIRE__BOOT__INIT;
	char *line = calloc(1, BOOT_LINE_MAX + 2);
	struct boot_receiver r;
	struct err err;

	(void)state;
	memset(line, 'x', BOOT_LINE_MAX + 1);
	message.has_append = true;
	message.append = line;
	boot_receiver_init(&r);
	assert_int_equal(boot_receiver_take_boot(&r, &message, BOOT_DISK, LIMIT, &err), -E2BIG);
	boot_receiver_fini(&r);
	line[BOOT_LINE_MAX] = 0;
	assert_int_equal(boot_receiver_take_boot(&r, &message, BOOT_DISK, LIMIT, &err), 0);
	assert_string_equal(r.files.append, line);
	boot_receiver_fini(&r);
	free(line);
}

/* Pieces that are not due, and the end before its time. */
static void test_out_of_order(void **state)
{
	struct boot_receiver r;
	struct err err;

	(void)state;
	boot_receiver_init(&r);
	assert_int_equal(data(&r, 0, 1, &err), -EBADMSG);
	assert_int_equal(end(&r, true, &err), -EBADMSG);
	begin(&r);
	assert_int_equal(boot(&r, BOOT_FILES, 1, 0, &err), -EBADMSG);
	assert_int_equal(data(&r, 0, BOOT_PIECE_BYTES - 1, &err), -EBADMSG);
	assert_int_equal(data(&r, 0, BOOT_PIECE_BYTES + 1, &err), -EBADMSG);
	assert_int_equal(data(&r, 0, 0, &err), -EBADMSG);
	assert_int_equal(data(&r, 1, BOOT_PIECE_BYTES, &err), -EBADMSG);
	assert_int_equal(data(&r, UINT64_MAX, BOOT_PIECE_BYTES, &err), -EBADMSG);
	assert_int_equal(data(&r, 0, BOOT_PIECE_BYTES, &err), 0);
	assert_int_equal(data(&r, 0, BOOT_PIECE_BYTES, &err), -EBADMSG);
	/* Not over the end of one file into the next. */
	assert_int_equal(data(&r, BOOT_PIECE_BYTES, 8, &err), -EBADMSG);
	assert_int_equal(end(&r, true, &err), -EBADMSG);
	boot_receiver_fini(&r);
}

static void test_what_was_not_sent_is_noticed(void **state)
{
	struct boot_receiver r;
	struct err err;

	(void)state;
	begin(&r);
	pieces(&r);
	assert_int_equal(end(&r, false, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "initial RAM disk has the checksum"));
	boot_receiver_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_right_is_kept),
		cmocka_unit_test(test_sizes_that_cannot_be),
		cmocka_unit_test(test_lines_too_long),
		cmocka_unit_test(test_out_of_order),
		cmocka_unit_test(test_what_was_not_sent_is_noticed),
	};
	size_t i;

	for (i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 31 >> 3);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
