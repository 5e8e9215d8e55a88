// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * disk_files.c - libext2fs, reading through a struct disk_reader: an I/O
 * manager of our own that reads inside of one partition and does nothing else.
 *
 * libext2fs hands an I/O manager nothing but the device's name, so the name is
 * our context's address, written in hexadecimal.
 */
#include "cli/disk_files.h"

#include <ctype.h>
#include <ext2fs/ext2fs.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/dynamic.h"

#define CHUNK (256u << 10)
#define BOOT_ENTRIES_MAX 10000

#define EXT2_FUNCTIONS(f)                                                                          \
	f(ext2fs_open) f(ext2fs_free) f(ext2fs_namei_follow) f(ext2fs_read_inode)                  \
	f(ext2fs_dir_iterate) f(ext2fs_dirent_name_len) f(ext2fs_file_open) f(ext2fs_file_close)   \
	f(ext2fs_file_get_lsize) f(ext2fs_file_read) f(initialize_ext2_error_table) f(error_message)

struct ext2_library {
	DYNAMIC_TABLE(EXT2_FUNCTIONS)
};

struct disk_files_reader {
	struct ext2_library library;
};

struct volume {
	const struct ext2_library *lib;
	const struct disk_reader *disk;
	const struct disk_partition *partition;
	ext2_filsys fs;
};

/* ---- the I/O manager ---- */

static errcode_t volume_read(io_channel channel, unsigned long long block, int count, void *to)
{
	const struct volume *v = channel->private_data;
	uint64_t offset, bytes = count < 0 ? (uint64_t) - (int64_t)count :
					     (uint64_t)count * (unsigned int)channel->block_size;

	if (__builtin_mul_overflow(block, (uint64_t)channel->block_size, &offset) ||
	    offset > v->partition->size_bytes || bytes > v->partition->size_bytes - offset)
		return EXT2_ET_SHORT_READ;
	return disk_read(v->disk, v->partition->offset + offset, to, bytes) < 0 ?
		       EXT2_ET_SHORT_READ :
		       0;
}

static errcode_t volume_read_short(io_channel channel, unsigned long block, int count, void *to)
{
	return volume_read(channel, block, count, to);
}

static errcode_t volume_write(io_channel channel, unsigned long long block, int count,
			      const void *from)
{
	(void)channel, (void)block, (void)count, (void)from;
	return EXT2_ET_RO_FILSYS;
}

static errcode_t volume_write_short(io_channel channel, unsigned long block, int count,
				    const void *from)
{
	return volume_write(channel, block, count, from);
}

static errcode_t volume_blksize(io_channel channel, int bytes)
{
	channel->block_size = bytes;
	return 0;
}

static errcode_t volume_flush(io_channel channel)
{
	(void)channel;
	return 0;
}

static errcode_t volume_close(io_channel channel)
{
	if (--channel->refcount)
		return 0;
	free(channel->name);
	free(channel);
	return 0;
}

static errcode_t volume_open(const char *name, int flags, io_channel *out);

static struct struct_io_manager volume_manager = {
	.magic = EXT2_ET_MAGIC_IO_MANAGER,
	.name = "postern",
	.open = volume_open,
	.close = volume_close,
	.set_blksize = volume_blksize,
	.read_blk = volume_read_short,
	.read_blk64 = volume_read,
	.write_blk = volume_write_short,
	.write_blk64 = volume_write,
	.flush = volume_flush,
};

static errcode_t volume_open(const char *name, int flags, io_channel *out)
{
	io_channel channel = calloc(1, sizeof(*channel));
	uintptr_t address;

	(void)flags;
	if (!channel || sscanf(name, "%" SCNxPTR, &address) != 1) {
		free(channel);
		return EXT2_ET_NO_MEMORY;
	}
	channel->magic = EXT2_ET_MAGIC_IO_CHANNEL;
	channel->manager = &volume_manager;
	channel->name = strdup(name);
	channel->private_data = (void *)address;
	channel->block_size = 1024;
	channel->refcount = 1;
	if (!channel->name) {
		free(channel);
		return EXT2_ET_NO_MEMORY;
	}
	*out = channel;
	return 0;
}

/* ---- files ---- */

static int ext_failed(const struct volume *v, struct err *err, errcode_t code, const char *what)
{
	return err_set(err, code == EXT2_ET_NO_MEMORY ? -ENOMEM : -EINVAL, "%s: %s", what,
		       v->lib->error_message(code));
}

/* The regular file of that path, symbolic links followed; 0: there is none. */
static ext2_ino_t volume_find(struct volume *v, const char *path)
{
	struct ext2_inode inode;
	ext2_ino_t ino;

	if (v->lib->ext2fs_namei_follow(v->fs, EXT2_ROOT_INO, EXT2_ROOT_INO, path, &ino) ||
	    v->lib->ext2fs_read_inode(v->fs, ino, &inode) || !LINUX_S_ISREG(inode.i_mode))
		return 0;
	return ino;
}

static int write_all(int fd, const char *data, size_t len)
{
	ssize_t n;

	while (len) {
		n = write(fd, data, len);
		if (n < 0)
			return -errno;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

/* As much as may be copied, and what is left of the guest's memory for it. */
struct room {
	uint64_t max, memory_bytes;
};

static int size_check(uint64_t bytes, const struct room *room, const char *path, struct err *err)
{
	if (!bytes || bytes > room->max)
		return err_set(err, bytes ? -EFBIG : -EINVAL,
			       "%s: %" PRIu64 " bytes; 1 to %" PRIu64 " are allowed", path, bytes,
			       room->max);
	return bytes <= room->memory_bytes ?
		       0 :
		       err_set(err, -EFBIG,
			       "%s: its %" PRIu64
			       " bytes do not fit into the guest's memory, of which there are %" PRIu64
			       " bytes for it",
			       path, bytes, room->memory_bytes);
}

static int copy_open(const struct volume *v, ext2_file_t file, int fd, struct room *room,
		     const char *path, struct err *err)
{
	char *chunk = malloc(CHUNK);
	uint64_t left = 0;
	unsigned int got;
	errcode_t code;
	int r = 0;

	if (!chunk)
		return err_set(err, -ENOMEM, "no memory");
	code = v->lib->ext2fs_file_get_lsize(file, (__u64 *)&left);
	if (code)
		r = ext_failed(v, err, code, path);
	else
		r = size_check(left, room, path, err);
	if (!r)
		room->memory_bytes -= left;
	while (!r && left) {
		code = v->lib->ext2fs_file_read(file, chunk,
						left < CHUNK ? (unsigned int)left : CHUNK, &got);
		if (code || !got || got > left) {
			r = code ? ext_failed(v, err, code, path) :
				   err_set(err, -EINVAL, "%s: it ends early", path);
			break;
		}
		left -= got;
		r = write_all(fd, chunk, got);
		if (r < 0)
			err_errno(err, r, "%s: copying it", path);
	}
	free(chunk);
	return r;
}

static int volume_copy(struct volume *v, ext2_ino_t ino, int fd, struct room *room,
		       const char *path, struct err *err)
{
	ext2_file_t file;
	errcode_t code = v->lib->ext2fs_file_open(v->fs, ino, 0, &file);
	int r;

	if (code)
		return ext_failed(v, err, code, path);
	r = copy_open(v, file, fd, room, path, err);
	v->lib->ext2fs_file_close(file);
	return r;
}

/* ---- which kernel ---- */

int disk_version_compare(const char *a, const char *b)
{
	size_t i, j;

	while (*a && *b) {
		if (isdigit((unsigned char)*a) && isdigit((unsigned char)*b)) {
			a += strspn(a, "0");
			b += strspn(b, "0");
			i = strspn(a, "0123456789");
			j = strspn(b, "0123456789");
			if (i != j)
				return i < j ? -1 : 1;
			for (; i; i--, a++, b++)
				if (*a != *b)
					return *a < *b ? -1 : 1;
		} else if (*a != *b) {
			/* "6.1~rc1" comes before "6.1", as in Debian */
			return *a == '~' ? -1 : *b == '~' ? 1 : *a < *b ? -1 : 1;
		} else {
			a++;
			b++;
		}
	}
	return *a == *b ? 0 : *a == '~' ? -1 : *b == '~' ? 1 : *a ? 1 : -1;
}

struct search {
	struct volume *volume;
	char newest[EXT2_NAME_LEN + 1];		/* version; empty: none yet */
	unsigned int seen;
};

static int look_at(struct ext2_dir_entry *entry, int offset, int block_bytes, char *block,
		   void *arg)
{
	static const char stem[] = "vmlinuz-";
	char name[EXT2_NAME_LEN + 1], path[DISK_FILES_PATH_MAX];
	struct search *s = arg;
	int len;

	(void)offset, (void)block_bytes, (void)block;
	len = s->volume->lib->ext2fs_dirent_name_len(entry);
	if (s->seen++ == BOOT_ENTRIES_MAX)
		return DIRENT_ABORT;
	if (len <= (int)sizeof(stem) - 1 || len > EXT2_NAME_LEN ||
	    memcmp(entry->name, stem, sizeof(stem) - 1) != 0)
		return 0;
	memcpy(name, entry->name, (size_t)len);
	name[len] = '\0';
	snprintf(path, sizeof(path), "/boot/%s", name);
	if (strlen(name) != (size_t)len || strstr(name, "-rescue-") ||
	    (*s->newest && disk_version_compare(name + sizeof(stem) - 1, s->newest) <= 0) ||
	    !volume_find(s->volume, path))
		return 0;
	strcpy(s->newest, name + sizeof(stem) - 1);
	return 0;
}

/* Names of the newest kernel and its initial RAM disk, whether the latter is there or not. */
static ext2_ino_t newest(struct volume *v, struct disk_files *files)
{
	static const char *const patterns[] = { "/boot/initrd.img-%s", "/boot/initramfs-%s.img",
						"/boot/initrd-%s" };
	struct search s = { .volume = v };
	ext2_ino_t boot;
	size_t i;

	if (v->lib->ext2fs_namei_follow(v->fs, EXT2_ROOT_INO, EXT2_ROOT_INO, "/boot", &boot) ||
	    v->lib->ext2fs_dir_iterate(v->fs, boot, 0, NULL, look_at, &s) || !*s.newest)
		return 0;
	snprintf(files->kernel, sizeof(files->kernel), "/boot/vmlinuz-%s", s.newest);
	for (i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		snprintf(files->initrd, sizeof(files->initrd), patterns[i], s.newest);
#pragma GCC diagnostic pop
		if (volume_find(v, files->initrd))
			break;
	}
	return volume_find(v, files->kernel);
}

static ext2_ino_t choose(struct volume *v, struct disk_files *files)
{
	static const struct disk_files fixed[] = { { "/vmlinuz", "/initrd.img" }, { "/boot/vmlinuz", "/boot/initrd.img" } };
	ext2_ino_t ino;
	size_t i;

	for (i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++) {
		*files = fixed[i];
		ino = volume_find(v, files->kernel);
		if (ino)
			return ino;
	}
	return newest(v, files);
}

static int copy_both(struct volume *v, struct disk_files *files, int kernel_fd, int initrd_fd,
		     uint64_t memory_bytes, struct err *err)
{
	struct room room = { .max = DISK_KERNEL_MAX, .memory_bytes = memory_bytes };
	ext2_ino_t kernel = choose(v, files), initrd;
	int r;

	if (!kernel)
		return err_set(
			err, -ENOENT,
			"there is no kernel: neither /vmlinuz nor /boot/vmlinuz nor /boot/vmlinuz-VERSION");
	r = volume_copy(v, kernel, kernel_fd, &room, files->kernel, err);
	initrd = volume_find(v, files->initrd);
	room.max = DISK_INITRD_MAX;
	if (!r && initrd)
		r = volume_copy(v, initrd, initrd_fd, &room, files->initrd, err);
	if (!initrd)
		*files->initrd = '\0';
	return r;
}

struct disk_files_reader *disk_files_reader_new(struct err *err)
{
	static const char *const names[] = { DYNAMIC_NAMES(EXT2_FUNCTIONS) };
	static const struct dynamic_library library = { "libext2fs.so.2", "libext2fs2",
							"reading a disk's file system" };
	struct disk_files_reader *reader = calloc(1, sizeof(*reader));

	if (!reader) {
		err_set(err, -ENOMEM, "no memory");
		return NULL;
	}
	if (dynamic_load(&reader->library, names, sizeof(names) / sizeof(names[0]), &library, err) <
	    0) {
		free(reader);
		return NULL;
	}
	reader->library.initialize_ext2_error_table();
	return reader;
}

void disk_files_reader_free(struct disk_files_reader *reader)
{
	free(reader);
}

int disk_files_copy(struct disk_files_reader *reader, struct disk_files *files,
		    const struct disk_reader *disk, const struct disk_partition *partition,
		    int kernel_fd, int initrd_fd, uint64_t memory_bytes, struct err *err)
{
	struct volume v = { .lib = &reader->library, .disk = disk, .partition = partition };
	char name[2 * sizeof(uintptr_t) + 1];
	errcode_t code;
	int r;

	snprintf(name, sizeof(name), "%" PRIxPTR, (uintptr_t)&v);
	code = reader->library.ext2fs_open(name, EXT2_FLAG_64BITS, 0, 0, &volume_manager, &v.fs);
	if (code) {
		r = ext_failed(&v, err, code, "it has no file system that can be read");
		return r == -EINVAL ? -ENOENT : r;
	}
	r = copy_both(&v, files, kernel_fd, initrd_fd, memory_bytes, err);
	reader->library.ext2fs_free(v.fs);
	return r;
}
