// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "arch/ram.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "memory/gup.h"

#define FILE_MAX (2ull << 30)

int ram_file_open(struct ram_file *file, const char *path, struct err *err)
{
	struct stat st;
	void *data;
	/* Not blocking: a FIFO would wait for its writer. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	int result = 0;

	*file = (struct ram_file){ .path = path };
	if (fd < 0)
		return err_errno(err, -errno, "%s", path);
	if (fstat(fd, &st) < 0)
		result = err_errno(err, -errno, "%s", path);
	else if (!S_ISREG(st.st_mode))
		result = err_set(err, -EINVAL, "%s: not a regular file", path);
	else if (st.st_size <= 0 || (uint64_t)st.st_size > FILE_MAX)
		result = err_set(err, -EINVAL, "%s: %s", path, st.st_size ? "larger than 2 GiB" : "empty");
	if (!result) {
		data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (data == MAP_FAILED) {
			result = err_errno(err, -errno, "%s: map", path);
		} else {
			file->data = data;
			file->len = (size_t)st.st_size;
			madvise(data, file->len, MADV_SEQUENTIAL);
		}
	}
	close(fd);
	return result;
}

void ram_file_close(struct ram_file *file)
{
	if (file->data)
		munmap((void *)(uintptr_t)file->data, file->len);
	file->data = NULL;
}

static int write_error(struct err *err, int code, uint64_t gpa, uint64_t len, const char *what)
{
	if (code == -EFAULT)
		return err_set(err, code, "%s: 0x%llx to 0x%llx is not RAM", what, (unsigned long long)gpa,
			       (unsigned long long)(gpa + len - 1));
	return err_errno(err, code, "%s: write guest memory at 0x%llx", what, (unsigned long long)gpa);
}

int ram_write(struct memory *mem, uint64_t gpa, const void *data, size_t len, const char *what, struct err *err)
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
