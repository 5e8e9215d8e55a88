// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "snapshot/memory_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/types.h"
#include "snapshot/mapped_ram.h"

/* Of the bitmap, at a time. */
#define BITMAP_PART 4096u

/* One of the raw files, and the part of it with data that was looked up last. */
struct raw_file {
	const char *path;
	int fd;
	uint64_t bytes, data, end;
};

struct memory_file {
	struct raw_file files[1 + MEMORY_FILE_DIFFS_MAX];
	unsigned int n;
	uint64_t bytes; /* of RAM */
	/* mapped-ram, of files[0] */
	bool mapped;
	struct mapped_ram_block block;
	uint8_t bitmap[BITMAP_PART]; /* from byte bitmap_at on */
	uint64_t bitmap_at; /* UINT64_MAX: nothing is there */
};

/* ---- files ---- */

static int raw_file_open(struct raw_file *file, const char *path, struct err *err)
{
	struct stat st;

	file->path = path;
	/* Not to wait for who writes to a FIFO. */
	file->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (file->fd < 0 || fstat(file->fd, &st) < 0)
		return err_errno(err, -errno, "%s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "%s: it is no plain file", path);
	file->bytes = (uint64_t)st.st_size;
	return 0;
}

static int raw_file_read(const struct raw_file *file, uint64_t at, void *data, size_t len,
			 struct err *err)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread(file->fd, (uint8_t *)data + done, len - done, (off_t)(at + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(err, -errno, "%s", file->path);
		if (!n)
			return err_set(err, -EIO,
				       "%s: it ends at %" PRIu64 ", before all of it was read",
				       file->path, at + done);
		done += (size_t)n;
	}
	return 0;
}

/* What was cut off looks like a hole, and would become zeros. */
static int raw_file_check_length(const struct raw_file *file, struct err *err)
{
	struct stat st;

	if (fstat(file->fd, &st) < 0)
		return err_errno(err, -errno, "%s", file->path);
	if ((uint64_t)st.st_size >= file->bytes)
		return 0;
	return err_set(err, -EIO,
		       "%s: it has become shorter while it was read: %" PRIu64
		       " bytes instead of %" PRIu64,
		       file->path, (uint64_t)st.st_size, file->bytes);
}

/* Looks up the first part with data that ends behind `at`; none: it begins at the file's end. */
static int raw_file_seek(struct raw_file *file, uint64_t at, struct err *err)
{
	off_t data, end;

	if (at < file->end || file->data >= file->bytes)
		return 0;
	data = at < file->bytes ? lseek(file->fd, (off_t)at, SEEK_DATA) : -1;
	if (data < 0 && (at >= file->bytes || errno == ENXIO)) {
		file->data = file->end = file->bytes;
		return raw_file_check_length(file, err);
	}
	end = data < 0 ? -1 : lseek(file->fd, data, SEEK_HOLE);
	if (end < 0)
		return err_errno(err, -errno, "%s: looking for its holes", file->path);
	file->data = (uint64_t)data;
	file->end = (uint64_t)end;
	return 0;
}

/* ---- raw ---- */

int memory_file_open_raw(struct memory_file **out, const char *const *paths, unsigned int n,
			 struct err *err)
{
	struct memory_file *file = calloc(1, sizeof(*file));
	int r = 0;

	if (!file)
		return err_set(err, -ENOMEM, "no memory to read %s", paths[0]);
	if (!n || n > 1 + MEMORY_FILE_DIFFS_MAX)
		r = err_set(err, -EINVAL, "at most %u diffs go over a memory file",
			    MEMORY_FILE_DIFFS_MAX);
	for (; !r && file->n < n; file->n++) {
		file->files[file->n].fd = -1;
		r = raw_file_open(&file->files[file->n], paths[file->n], err);
		if (!r && file->files[file->n].bytes > file->files[0].bytes)
			r = err_set(err, -EINVAL, "%s: a diff that is longer than %s",
				    paths[file->n], paths[0]);
	}
	if (!r)
		file->bytes = file->files[0].bytes;
	if (!r && (!file->bytes || file->bytes % PAGE_BYTES))
		r = err_set(err, -EINVAL, "%s: %" PRIu64 " bytes are not made of pages", paths[0],
			    file->bytes);
	if (r) {
		memory_file_free(file);
		return r;
	}
	*out = file;
	return 0;
}

static int64_t raw_next(struct memory_file *file, uint64_t at, struct err *err)
{
	uint64_t least = UINT64_MAX;
	unsigned int i;
	int r;

	for (i = 0; i < file->n; i++) {
		struct raw_file *raw = &file->files[i];
		uint64_t data;

		r = raw_file_seek(raw, at, err);
		if (r)
			return r;
		data = raw->data > at ? raw->data : at;
		if (raw->data < raw->bytes && data < least)
			least = data;
	}
	if (least > file->bytes)
		least = file->bytes + MEMORY_FILE_SPAN - 1;
	return (int64_t)(least & ~(uint64_t)(MEMORY_FILE_SPAN - 1));
}

/* What of a file lies in [at, at + len) goes over data. */
static int raw_overlay(struct raw_file *file, uint64_t at, uint8_t *data, size_t len,
		       struct err *err)
{
	uint64_t from = at, end = at + len;
	int r = 0;

	while (!r && from < end) {
		uint64_t to;

		r = raw_file_seek(file, from, err);
		if (r || file->data >= end || file->data >= file->bytes)
			return r;
		from = file->data > from ? file->data : from;
		to = file->end < end ? file->end : end;
		r = raw_file_read(file, from, data + (from - at), (size_t)(to - from), err);
		from = to;
	}
	return r;
}

/* ---- mapped-ram ---- */

static int mapped_read(void *arg, uint64_t at, void *data, size_t len, struct err *err)
{
	return raw_file_read(arg, at, data, len, err);
}

static int mapped_choose(struct memory_file *file, const struct mapped_ram *ram, const char *name,
			 struct err *err)
{
	char all[256] = "";
	size_t used = 0;
	unsigned int i;

	for (i = 0; i < ram->n; i++) {
		const struct mapped_ram_block *block = &ram->blocks[i];

		if ((name && !strcmp(block->name, name)) ||
		    (!name && (ram->n == 1 || !strcmp(block->name, "pc.ram")))) {
			file->block = *block;
			file->bytes = block->bytes;
			return 0;
		}
		if (used + strlen(block->name) + 3 < sizeof(all))
			used += (size_t)snprintf(all + used, sizeof(all) - used, "%s%.255s",
						 used ? ", " : "", block->name);
	}
	return err_set(err, -ENOENT, "it has no RAM block %.64s; it has %s: --block says which",
		       name ? name : "pc.ram", all);
}

/* The part of the bitmap that has this byte. */
static int mapped_bitmap(struct memory_file *file, uint64_t byte, struct err *err)
{
	uint64_t at = byte / BITMAP_PART * BITMAP_PART;
	uint64_t all = mapped_ram_bitmap_bytes(&file->block);
	size_t len = all - at < BITMAP_PART ? (size_t)(all - at) : BITMAP_PART;
	int r;

	if (file->bitmap_at == at)
		return 0;
	file->bitmap_at = UINT64_MAX;
	r = raw_file_read(&file->files[0], file->block.bitmap_offset + at, file->bitmap, len, err);
	memset(file->bitmap + len, 0, BITMAP_PART - len);
	if (!r)
		file->bitmap_at = at;
	return r;
}

/* The 16 bits of a span, page by page. What is clear may have old bytes at its place. */
static int mapped_bits(struct memory_file *file, uint64_t at, uint16_t *bits, struct err *err)
{
	uint64_t byte = at / PAGE_BYTES / 8;
	int r = mapped_bitmap(file, byte, err);

	*bits = r ? 0 : get16(file->bitmap + (byte - file->bitmap_at));
	return r;
}

static int64_t mapped_next(struct memory_file *file, uint64_t at, struct err *err)
{
	uint16_t bits = 0;

	for (; at < file->bytes; at += MEMORY_FILE_SPAN) {
		int r = mapped_bits(file, at, &bits, err);

		if (r)
			return r;
		if (bits)
			break;
	}
	return (int64_t)at;
}

static int mapped_span(struct memory_file *file, uint64_t at, uint8_t *data, struct err *err)
{
	unsigned int page = 0, n;
	uint16_t bits;
	int r = mapped_bits(file, at, &bits, err);

	/* Bits behind the end of the block mean nothing. */
	if (file->bytes - at < MEMORY_FILE_SPAN)
		bits &= (uint16_t)((1u << (file->bytes - at) / PAGE_BYTES) - 1);
	while (!r && bits >> page) {
		page += (unsigned int)__builtin_ctz((unsigned int)bits >> page);
		n = (unsigned int)__builtin_ctz(~((unsigned int)bits >> page));
		r = raw_file_read(&file->files[0],
				  file->block.pages_offset + at + page * PAGE_BYTES,
				  data + page * PAGE_BYTES, n * PAGE_BYTES, err);
		page += n;
	}
	return r;
}

/* One without a page is what a migration leaves that did not end. */
static int mapped_check_whole(struct memory_file *file, struct err *err)
{
	int64_t first = mapped_next(file, 0, err);

	if (first < 0)
		return (int)first;
	if ((uint64_t)first < file->bytes)
		return 0;
	return err_set(err, -EBADMSG,
		       "no page of RAM block %s is in it: QEMU did not finish it, or wrote it "
		       "with background-snapshot, which leaves its bitmap empty",
		       file->block.name);
}

int memory_file_open_mapped_ram(struct memory_file **out, const char *path, uint64_t offset,
				const char *block, struct err *err)
{
	struct memory_file *file = calloc(1, sizeof(*file));
	struct mapped_ram ram;
	int r;

	if (!file)
		return err_set(err, -ENOMEM, "no memory to read %s", path);
	file->mapped = true;
	file->bitmap_at = UINT64_MAX;
	file->n = 1;
	file->files[0].fd = -1;
	r = raw_file_open(&file->files[0], path, err);
	if (!r) {
		const struct mapped_ram_input input = {
			.read = mapped_read,
			.arg = &file->files[0],
			.bytes = file->files[0].bytes,
		};

		r = mapped_ram_parse(&ram, &input, offset, err);
		if (!r)
			r = mapped_choose(file, &ram, block, err);
		if (!r)
			r = mapped_check_whole(file, err);
		if (r)
			err_prefix(err, r, "%s", path);
	}
	if (r) {
		memory_file_free(file);
		return r;
	}
	*out = file;
	return 0;
}

/* ---- both ---- */

void memory_file_free(struct memory_file *file)
{
	unsigned int i;

	if (!file)
		return;
	for (i = 0; i < sizeof(file->files) / sizeof(file->files[0]); i++)
		if (file->files[i].path && file->files[i].fd >= 0)
			close(file->files[i].fd);
	free(file);
}

uint64_t memory_file_bytes(const struct memory_file *file)
{
	return file->bytes;
}

int64_t memory_file_next(struct memory_file *file, uint64_t at, struct err *err)
{
	return file->mapped ? mapped_next(file, at, err) : raw_next(file, at, err);
}

int memory_file_read(struct memory_file *file, uint64_t at, uint8_t data[MEMORY_FILE_SPAN],
		     struct err *err)
{
	unsigned int i;
	int r = 0;

	memset(data, 0, MEMORY_FILE_SPAN);
	if (file->mapped)
		return mapped_span(file, at, data, err);
	for (i = 0; !r && i < file->n; i++)
		r = raw_overlay(&file->files[i], at, data, MEMORY_FILE_SPAN, err);
	return r;
}
