// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "arch/ram.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "memory/gup.h"

static int check_type(struct ram_file *file, struct err *err)
{
	struct stat st;

	if (fstat(file->fd, &st) < 0)
		return err_errno(err, -errno, "%s", file->path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "%s: not a regular file", file->path);
	if (st.st_size <= 0 || (uint64_t)st.st_size > RAM_FILE_MAX)
		return err_set(err, -EINVAL, "%s: %s", file->path, st.st_size ?
			       "larger than 2 GiB" : "empty");
	file->len = (uint64_t)st.st_size;
	posix_fadvise(file->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	return 0;
}

static int take_fd(struct ram_file *file, const char *path, int fd, struct err *err)
{
	int r;

	*file = (struct ram_file){ .path = path, .fd = fd };
	if (fd < 0)
		return err_errno(err, -errno, "%s", path);
	r = check_type(file, err);
	if (r < 0)
		ram_file_close(file);
	return r;
}

int ram_file_open(struct ram_file *file, const char *path, struct err *err)
{
	/* Not blocking: a FIFO would wait for its writer. */
	return take_fd(file, path, open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), err);
}

int ram_file_open_fd(struct ram_file *file, const char *name, int fd, struct err *err)
{
	return take_fd(file, name, fcntl(fd, F_DUPFD_CLOEXEC, 0), err);
}

void ram_file_of_bytes(struct ram_file *file, const char *name, const void *data, size_t len)
{
	*file = (struct ram_file){ .path = name, .fd = -1, .data = data, .len = len };
}

void ram_file_close(struct ram_file *file)
{
	if (file->fd >= 0)
		close(file->fd);
	file->fd = -1;
}

static int shortened(const struct ram_file *file, uint64_t at, struct err *err)
{
	return err_set(err, -EIO, "the file ended at byte %" PRIu64 " of %" PRIu64
		       ": it was shortened while it was read; put it "
		       "back whole and try again", at, file->len);
}

int ram_file_read(const struct ram_file *file, uint64_t offset, void *to, size_t len,
		  struct err *err)
{
	uint8_t *at = to;
	ssize_t n;

	if (offset > file->len || len > file->len - offset)
		return shortened(file, file->len, err);
	if (file->data) {
		memcpy(to, file->data + offset, len);
		return 0;
	}
	while (len) {
		n = pread(file->fd, at, len, (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(err, -errno, "reading it");
		if (!n)
			return shortened(file, offset, err);
		at += n;
		offset += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

static int write_error(struct err *err, int code, uint64_t gpa, uint64_t len, const char *what)
{
	if (code == -EFAULT)
		return err_set(err, code, "%s: 0x%llx to 0x%llx is not RAM", what,
			       (unsigned long long)gpa, (unsigned long long)(gpa + len - 1));
	return err_errno(err, code, "%s: write guest memory at 0x%llx", what,
			 (unsigned long long)gpa);
}

int ram_write(struct memory *mem, uint64_t gpa, const void *data, size_t len, const char *what,
	      struct err *err)
{
	int result;

	if (!len)
		return 0;
	if (!memory_is_ram(mem, GPA(gpa), len))
		return write_error(err, -EFAULT, gpa, len, what);
	result = gup_write(mem, GPA(gpa), data, len, GUP_WRITE | GUP_NOWAIT, NULL);
	return result ? write_error(err, result, gpa, len, what) : 0;
}

int ram_zero(struct memory *mem, uint64_t gpa, uint64_t len, const char *what, struct err *err)
{
	static const uint8_t zeros[16 * PAGE_BYTES];

	if (!len)
		return 0;
	if (!memory_is_ram(mem, GPA(gpa), len))
		return write_error(err, -EFAULT, gpa, len, what);
	while (len) {
		size_t part = len < sizeof(zeros) ? (size_t)len : sizeof(zeros);
		int result = ram_write(mem, gpa, zeros, part, what, err);

		if (result)
			return result;
		gpa += part;
		len -= part;
	}
	return 0;
}

int ram_load(struct memory *mem, uint64_t gpa, const struct ram_file *file, uint64_t offset,
	     uint64_t len, const char *what,
	     struct err *err)
{
	uint8_t piece[16 * PAGE_BYTES];
	int result = 0;

	if (len && !memory_is_ram(mem, GPA(gpa), len))
		return write_error(err, -EFAULT, gpa, len, what);
	while (len && !result) {
		size_t part = len < sizeof(piece) ? (size_t)len : sizeof(piece);

		result = ram_file_read(file, offset, piece, part, err);
		if (!result)
			result = ram_write(mem, gpa, piece, part, what, err);
		gpa += part;
		offset += part;
		len -= part;
	}
	return result;
}
