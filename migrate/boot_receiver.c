// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "migrate/boot_receiver.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

enum { KERNEL, INITRD, FILES };

static const char *const names[FILES] = { "kernel", "initial RAM disk" };

static struct boot_file *boot_receiver_file_of(struct boot_receiver *r, unsigned int i)
{
	return i == KERNEL ? &r->files.kernel : &r->files.initrd;
}

void boot_receiver_init(struct boot_receiver *r)
{
	*r = (struct boot_receiver){ 0 };
	boot_files_init(&r->files);
}

void boot_receiver_fini(struct boot_receiver *r)
{
	boot_files_fini(&r->files);
	XXH3_freeState(r->hash);
	boot_receiver_init(r);
}

static int line_take(char **to, bool has, const char *line, struct err *err)
{
	if (!has)
		return 0;
	if (strlen(line) > BOOT_LINE_MAX)
		return err_set(err, -E2BIG,
			       "a command line of %zu bytes: at most %u are taken along",
			       strlen(line), BOOT_LINE_MAX);
	*to = strdup(line);
	return *to ? 0 : err_set(err, -ENOMEM, "no memory for a command line");
}

static int file_make(struct boot_receiver *r, unsigned int i, struct err *err)
{
	struct boot_file *file = boot_receiver_file_of(r, i);

	if (asprintf(&file->path, "%s that came with the guest", names[i]) < 0) {
		file->path = NULL;
		return err_set(err, -ENOMEM, "no memory for a name");
	}
	file->fd = memfd_create(i == KERNEL ? "postern-kernel" : "postern-initrd", MFD_CLOEXEC |
				MFD_ALLOW_SEALING);
	return file->fd < 0 ? err_errno(err, -errno, "memory for the %s", names[i]) : 0;
}

static int hash_make(struct boot_receiver *r, struct err *err)
{
	r->hash = XXH3_createState();
	if (!r->hash)
		return err_set(err, -ENOMEM, "no memory for a checksum");
	XXH3_64bits_reset(r->hash);
	return 0;
}

/* Sums of what the peer says are made after it is known not to overflow. */
static int check_sizes(const Postern__Wire__Boot *boot, enum boot_type type, uint64_t limit_bytes,
		       struct err *err)
{
	if (type != BOOT_FILES)
		return boot->kernel_bytes || boot->initrd_bytes ?
		       err_set(err, -EBADMSG,
		       "Boot of a guest that starts from its disk, with files") : 0;
	if (!boot->kernel_bytes)
		return err_set(err, -EBADMSG, "Boot without a kernel");
	if (boot->kernel_bytes > RAM_FILE_MAX || boot->initrd_bytes > RAM_FILE_MAX ||
	    boot->kernel_bytes + boot->initrd_bytes > limit_bytes)
		return err_set(err, -E2BIG, "a kernel of %" PRIu64
			       " bytes and an initial RAM disk of %" PRIu64
			       ": they do not fit into "
			       "the guest's memory", boot->kernel_bytes, boot->initrd_bytes);
	return 0;
}

int boot_receiver_take_boot(struct boot_receiver *r, const Postern__Wire__Boot *boot,
			    enum boot_type type, uint64_t limit_bytes,
			    struct err *err)
{
	int result;

	if (r->begun)
		return err_set(err, -EBADMSG, "Boot a second time");
	result = check_sizes(boot, type, limit_bytes, err);
	if (!result)
		result = line_take(&r->files.cmdline, boot->has_cmdline, boot->cmdline, err);
	if (!result && type == BOOT_DISK)
		result = line_take(&r->files.append, boot->has_append, boot->append, err);
	if (!result && type == BOOT_FILES)
		result = file_make(r, KERNEL, err);
	if (!result && boot->initrd_bytes)
		result = file_make(r, INITRD, err);
	if (!result && type == BOOT_FILES)
		result = hash_make(r, err);
	r->files.type = type;
	r->bytes[KERNEL] = boot->kernel_bytes;
	r->bytes[INITRD] = boot->initrd_bytes;
	r->begun = true;
	return result;
}

static int file_write(int fd, uint64_t offset, const uint8_t *data, size_t len)
{
	ssize_t n;

	while (len) {
		n = pwrite(fd, data, len, (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		data += n;
		offset += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int boot_receiver_take_data(struct boot_receiver *r, const Postern__Wire__BootData *data,
			    struct err *err)
{
	unsigned int i = r->done[KERNEL] < r->bytes[KERNEL] ? KERNEL : INITRD;
	uint64_t left = r->bytes[i] - r->done[i];
	uint64_t due = left < BOOT_PIECE_BYTES ? left : BOOT_PIECE_BYTES;
	int result;

	if (!r->begun || !due || data->data.len != due ||
	    data->offset != r->done[KERNEL] + r->done[INITRD])
		return err_set(err, -EBADMSG, "BootData of %zu bytes at %" PRIu64 ", where %" PRIu64
			       " at %" PRIu64 " are due",
			       data->data.len, data->offset, due, r->done[KERNEL] +
			       r->done[INITRD]);
	result = file_write(boot_receiver_file_of(r, i)->fd, r->done[i], data->data.data,
			    data->data.len);
	if (result < 0)
		return err_errno(err, result, "keeping the %s that comes along", names[i]);
	XXH3_64bits_update(r->hash, data->data.data, data->data.len);
	r->done[i] += due;
	if (r->done[i] == r->bytes[i]) {
		r->sum[i] = XXH3_64bits_digest(r->hash);
		XXH3_64bits_reset(r->hash);
	}
	return 0;
}

static int boot_receiver_file_end(struct boot_receiver *r, unsigned int i, uint64_t sum,
				  struct err *err)
{
	if (r->sum[i] != sum)
		return err_set(err, -EBADMSG, "the %s has the checksum %016" PRIx64 ", and not %016"
			       PRIx64, names[i], r->sum[i], sum);
	if (r->bytes[i] &&
	    fcntl(boot_receiver_file_of(r, i)->fd, F_ADD_SEALS,
		  F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
		return err_errno(err, -errno, "sealing the %s", names[i]);
	return 0;
}

int boot_receiver_take_end(struct boot_receiver *r, const Postern__Wire__BootEnd *end,
			   struct err *err)
{
	int result;

	if (!r->begun || r->done[KERNEL] != r->bytes[KERNEL] || r->done[INITRD] != r->bytes[INITRD])
		return err_set(err, -EBADMSG, "BootEnd after %" PRIu64 " of %" PRIu64 " bytes",
			       r->done[KERNEL] + r->done[INITRD],
			       r->bytes[KERNEL] + r->bytes[INITRD]);
	result = boot_receiver_file_end(r, KERNEL, end->kernel_xxh3, err);
	return result < 0 ? result : boot_receiver_file_end(r, INITRD, end->initrd_xxh3, err);
}
