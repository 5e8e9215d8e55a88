// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/* QEMU's mapped-ram files, whole and hostile, and sparse memory files with diffs: what is read of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "snapshot/mapped_ram.h"
#include "snapshot/memory_file.h"

#define PAGES 40u /* of the block "pc.ram"; two spans and a half */

/* ---- a file as QEMU writes it ---- */

static void put_be(struct buf *out, uint64_t value, unsigned int bytes)
{
	uint8_t data[8];
	unsigned int i;

	for (i = 0; i < bytes; i++)
		data[i] = (uint8_t)(value >> 8 * (bytes - 1 - i));
	assert_int_equal(buf_append(out, data, bytes), 0);
}

static void put_name(struct buf *out, const char *name)
{
	put_be(out, strlen(name), 1);
	assert_int_equal(buf_append(out, name, strlen(name)), 0);
}

static void put_zeros(struct buf *out, size_t until)
{
	static const uint8_t zeros[65536];
	size_t n;

	for (; out->len < until; assert_int_equal(buf_append(out, zeros, n), 0))
		n = until - out->len < sizeof(zeros) ? until - out->len : sizeof(zeros);
}

/* What a test changes of it. */
struct shape {
	uint64_t total, bytes, page, pages_offset, bitmap_offset;
	uint32_t version, ram_version, header;
	const char *capability, *section;
	size_t cut; /* the file ends here; 0: it is whole */
	bool empty; /* no bit is set */
};

static const struct shape good = {
	.total = PAGES * 4096 + 8192,
	.bytes = PAGES * 4096,
	.page = 4096,
	.version = 3,
	.ram_version = 4,
	.header = 1,
	.capability = "mapped-ram",
	.section = "ram",
};

static void put_block(struct buf *out, const struct shape *shape, const char *name, uint64_t bytes)
{
	uint64_t bitmap, pages;

	put_name(out, name);
	put_be(out, bytes, 8);
	put_be(out, shape->header, 4);
	put_be(out, shape->page, 8);
	bitmap = out->len + 16;
	pages = (bitmap + 8 + 0xfffff) & ~UINT64_C(0xfffff);
	put_be(out, shape->bitmap_offset ? shape->bitmap_offset : bitmap, 8);
	put_be(out, shape->pages_offset ? shape->pages_offset : pages, 8);
	/* Pages 1, 2 and 33 to 35; bits behind the end of the block as well. */
	put_be(out, 0, 8);
	if (!shape->empty) {
		out->data[bitmap] = 6;
		out->data[bitmap + 4] = 0x0e;
		out->data[bitmap + 7] = 0xff;
	}
	put_zeros(out, pages + bytes);
}

/* What is 0 is as in a good file. */
static struct shape shape_in_full(struct shape shape)
{
	shape.total = shape.total ? shape.total : good.total;
	shape.bytes = shape.bytes ? shape.bytes : good.bytes;
	shape.page = shape.page ? shape.page : good.page;
	shape.version = shape.version ? shape.version : good.version;
	shape.ram_version = shape.ram_version ? shape.ram_version : good.ram_version;
	shape.header = shape.header ? shape.header : good.header;
	shape.capability = shape.capability ? shape.capability : good.capability;
	shape.section = shape.section ? shape.section : good.section;
	return shape;
}

static void qemu_file(struct buf *out, const struct shape *of)
{
	const struct shape full = shape_in_full(*of), *shape = &full;
	unsigned int i;

	put_be(out, 0x5145564d, 4);
	put_be(out, shape->version, 4);
	put_be(out, 7, 1);
	put_be(out, 9, 4);
	assert_int_equal(buf_append(out, "pc-q35-9.", 9), 0);
	put_be(out, 5, 1);
	put_name(out, "configuration/capabilities");
	put_be(out, 1, 4);
	put_be(out, 1, 4);
	put_name(out, shape->capability);
	put_be(out, 1, 1);
	put_be(out, 2, 4);
	put_name(out, shape->section);
	put_be(out, 0, 4);
	put_be(out, shape->ram_version, 4);
	put_be(out, shape->total | 4, 8);
	put_block(out, shape, "pc.ram", shape->bytes);
	/* Each page of the block: its number; what has no bit is stale. */
	for (i = 0; i < shape->bytes / 4096 && out->len >= (1 << 20) + shape->bytes; i++)
		memset(out->data + (1 << 20) + i * 4096, (int)i + 1, 4096);
	put_block(out, shape, "vga.vram", 8192);
	put_be(out, 0x10, 8);
	if (shape->cut)
		out->len = shape->cut;
}

static int buf_read(void *arg, uint64_t at, void *data, size_t len, struct err *err)
{
	const struct buf *buf = arg;

	(void)err;
	assert_true(at <= buf->len && len <= buf->len - at);
	memcpy(data, buf->data + at, len);
	return 0;
}

static int parse(struct mapped_ram *ram, const struct shape *shape, struct err *err)
{
	struct buf file = { 0 };
	struct mapped_ram_input input = { .read = buf_read, .arg = &file };
	int r;

	qemu_file(&file, shape);
	input.bytes = file.len;
	r = mapped_ram_parse(ram, &input, 0, err);
	buf_fini(&file);
	return r;
}

/* ---- mapped-ram ---- */

static void test_blocks_are_found(void **state)
{
	struct mapped_ram ram;
	struct err err = { 0 };

	(void)state;
	assert_int_equal(parse(&ram, &good, &err), 0);
	assert_int_equal(ram.n, 2);
	assert_string_equal(ram.blocks[0].name, "pc.ram");
	assert_int_equal(ram.blocks[0].bytes, PAGES * 4096);
	assert_int_equal(ram.blocks[0].pages_offset, 1 << 20);
	assert_string_equal(ram.blocks[1].name, "vga.vram");
}

static void test_what_cannot_be_is_refused(void **state)
{
	static const struct {
		struct shape shape;
		int code;
		const char *text;
	} cases[] = {
		/* What is not said is as in a good file. */
		{ { .version = 4 }, -EPROTO, "version than 3" },
		{ { .capability = "multifd" }, -EBADMSG, "without the capability" },
		{ { .section = "slirp" }, -EPROTO, "another section" },
		{ { .ram_version = 5 }, -EPROTO, "of another version than 4" },
		{ { .header = 2 }, -EPROTO, "header of another version" },
		{ { .page = 16384 }, -EPROTO, "4 KiB" },
		{ { .bytes = 5000 }, -EPROTO, "4 KiB" },
		{ { .bytes = 1 << 30 }, -EBADMSG, "as long as all RAM" },
		{ { .total = 4096 }, -EBADMSG, "as long as all RAM" },
		{ { .total = UINT64_C(1) << 62 }, -EBADMSG, "more RAM than" },
		{ { .bitmap_offset = UINT64_C(1) << 40 }, -EBADMSG, "bitmap that is not" },
		{ { .bitmap_offset = UINT64_MAX }, -EBADMSG, "bitmap that is not" },
		{ { .pages_offset = UINT64_MAX - 4095 }, -EBADMSG, "pages where" },
		{ { .pages_offset = 4 }, -EBADMSG, "pages where" },
		{ { .bitmap_offset = (1 << 20) + 64 }, -EBADMSG, "pages over the bitmap" },
		{ { .cut = 2 }, -EBADMSG, "ends here" },
		{ { .cut = 40 }, -EBADMSG, "ends" },
		{ { .cut = (1 << 20) + PAGES * 4096 + 3 }, -EBADMSG, "ends" },
	};
	struct mapped_ram ram;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		err = (struct err){ 0 };
		if (parse(&ram, &cases[i].shape, &err) != cases[i].code ||
		    !strstr(err.text, cases[i].text))
			fail_msg("case %zu: %d %s", i, err.code, err.text);
	}
}

/* Wherever it ends before its last block begins, that is an error. */
static void test_a_file_that_is_cut_is_refused(void **state)
{
	struct mapped_ram ram;
	struct shape shape = good;
	struct err err;

	(void)state;
	for (shape.cut = 1; shape.cut < 140; shape.cut++)
		assert_int_equal(parse(&ram, &shape, &err), -EBADMSG);
}

static char *write_file(const struct buf *data, uint64_t offset)
{
	char *path = strdup("/tmp/postern-memory-XXXXXX");
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, data->data, data->len, (off_t)offset), (ssize_t)data->len);
	close(fd);
	return path;
}

static void drop(char *path)
{
	unlink(path);
	free(path);
}

/* The bitmap decides, and not what lies at a page's place. */
static void test_only_pages_whose_bit_is_set_are_read(void **state)
{
	static uint8_t span[MEMORY_FILE_SPAN];
	struct memory_file *file;
	struct buf data = { 0 };
	struct err err = { 0 };
	unsigned int i;
	char *path;

	(void)state;
	qemu_file(&data, &good);
	path = write_file(&data, 0);
	if (memory_file_open_mapped_ram(&file, path, 0, NULL, &err))
		fail_msg("%s", err.text);
	assert_int_equal(memory_file_bytes(file), PAGES * 4096);
	assert_int_equal(memory_file_next(file, 0, &err), 0);
	assert_int_equal(memory_file_next(file, MEMORY_FILE_SPAN, &err), 2 * MEMORY_FILE_SPAN);
	assert_int_equal(memory_file_next(file, 3 * MEMORY_FILE_SPAN, &err), 3 * MEMORY_FILE_SPAN);
	assert_int_equal(memory_file_read(file, 0, span, &err), 0);
	for (i = 0; i < 16; i++)
		assert_int_equal(span[i * 4096 + 77], i == 1 || i == 2 ? i + 1 : 0);
	assert_int_equal(memory_file_read(file, 2 * MEMORY_FILE_SPAN, span, &err), 0);
	for (i = 0; i < 16; i++)
		assert_int_equal(span[i * 4096], i >= 1 && i <= 3 ? i + 33 : 0);
	memory_file_free(file);
	assert_int_equal(memory_file_open_mapped_ram(&file, path, 0, "nothing", &err), -ENOENT);
	assert_non_null(strstr(err.text, "pc.ram, vga.vram"));
	assert_int_equal(memory_file_open_mapped_ram(&file, path, 1, NULL, &err), -EBADMSG);
	drop(path);
	buf_fini(&data);
}

static void test_one_without_a_page_was_not_finished(void **state)
{
	struct shape shape = good;
	struct memory_file *file;
	struct buf data = { 0 };
	struct err err = { 0 };
	char *path;

	(void)state;
	shape.empty = true;
	qemu_file(&data, &shape);
	path = write_file(&data, 0);
	assert_int_equal(memory_file_open_mapped_ram(&file, path, 0, NULL, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "background-snapshot"));
	drop(path);
	buf_fini(&data);
}

/* ---- raw ---- */

static char *sparse(const unsigned int *pages, unsigned int n, uint8_t byte, uint64_t bytes)
{
	char *path = strdup("/tmp/postern-memory-XXXXXX");
	int fd = mkstemp(path);
	uint8_t page[4096];
	unsigned int i;

	assert_true(fd >= 0);
	memset(page, byte, sizeof(page));
	for (i = 0; i < n; i++)
		assert_int_equal(pwrite(fd, page, sizeof(page), (off_t)pages[i] * 4096), 4096);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	close(fd);
	return path;
}

static void test_diffs_go_over_each_other(void **state)
{
	static uint8_t span[MEMORY_FILE_SPAN];
	static const unsigned int base[] = { 0, 1, 2, 100 }, one[] = { 1, 2, 200 }, two[] = { 2 };
	const char *paths[3];
	char *file_of[3];
	struct memory_file *file;
	struct err err = { 0 };

	(void)state;
	file_of[0] = sparse(base, 4, 0xa, 1 << 20);
	file_of[1] = sparse(one, 3, 0xb, 1 << 20);
	file_of[2] = sparse(two, 1, 0, 1 << 20); /* zeros that are written */
	memcpy(paths, file_of, sizeof(paths));
	if (memory_file_open_raw(&file, paths, 3, &err))
		fail_msg("%s", err.text);
	assert_int_equal(memory_file_bytes(file), 1 << 20);
	assert_int_equal(memory_file_next(file, 0, &err), 0);
	assert_int_equal(memory_file_read(file, 0, span, &err), 0);
	assert_int_equal(span[0], 0xa);
	assert_int_equal(span[4096], 0xb);
	assert_int_equal(span[8192], 0);
	assert_int_equal(span[3 * 4096], 0);
	assert_int_equal(memory_file_next(file, 65536, &err), 6 * 65536);
	assert_int_equal(memory_file_read(file, 6 * 65536, span, &err), 0);
	assert_int_equal(span[4 * 4096], 0xa);
	assert_int_equal(memory_file_next(file, 7 * 65536, &err), 12 * 65536);
	assert_int_equal(memory_file_next(file, 13 * 65536, &err), 1 << 20);
	memory_file_free(file);
	drop(file_of[0]);
	drop(file_of[1]);
	drop(file_of[2]);
}

static void test_files_that_are_none(void **state)
{
	static const unsigned int first[] = { 0 };
	char *short_one = sparse(first, 1, 1, 4096), *long_one = sparse(first, 1, 1, 8192);
	char *odd = sparse(first, 1, 1, 5000), *empty = sparse(first, 0, 1, 0);
	const char *paths[2] = { short_one, long_one };
	struct memory_file *file;
	struct err err = { 0 };

	(void)state;
	assert_int_equal(memory_file_open_raw(&file, paths, 2, &err), -EINVAL);
	assert_non_null(strstr(err.text, "longer"));
	paths[0] = odd;
	assert_int_equal(memory_file_open_raw(&file, paths, 1, &err), -EINVAL);
	paths[0] = empty;
	assert_int_equal(memory_file_open_raw(&file, paths, 1, &err), -EINVAL);
	paths[0] = "/dev/zero";
	assert_int_equal(memory_file_open_raw(&file, paths, 1, &err), -EINVAL);
	paths[0] = "/nowhere/at/all";
	assert_int_equal(memory_file_open_raw(&file, paths, 1, &err), -ENOENT);
	drop(short_one);
	drop(long_one);
	drop(odd);
	drop(empty);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_blocks_are_found),
		cmocka_unit_test(test_what_cannot_be_is_refused),
		cmocka_unit_test(test_a_file_that_is_cut_is_refused),
		cmocka_unit_test(test_only_pages_whose_bit_is_set_are_read),
		cmocka_unit_test(test_one_without_a_page_was_not_finished),
		cmocka_unit_test(test_diffs_go_over_each_other),
		cmocka_unit_test(test_files_that_are_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
