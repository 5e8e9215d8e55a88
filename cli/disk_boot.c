// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "cli/disk_boot.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/helper.h"
#include "base/log.h"
#include "device/disk/config.h"

/* A disk that is far away and busy may take long; one that never answers is to be heard of. */
#define FETCH_MS 30000

void disk_boot_init(struct disk_boot *boot)
{
	unsigned int i;

	for (i = 0; i < DISK_BOOT_FILES; i++)
		boot->fds[i] = -1;
	boot_files_init(&boot->found);
}

void disk_boot_drop(struct disk_boot *boot)
{
	unsigned int i;

	for (i = 0; i < DISK_BOOT_FILES; i++) {
		if (boot->fds[i] >= 0)
			close(boot->fds[i]);
		boot->fds[i] = -1;
	}
	boot_files_fini(&boot->found);
	free(boot->path);
	boot->path = NULL;
}

/* What --disk's value names. */
static int value_take(struct disk_boot *boot, struct err *err)
{
	struct disk_config config;
	int r = disk_config_parse(&config, boot->disk, err);

	if (r < 0)
		return r;
	if (config.nbd || config.format == DISK_FORMAT_QCOW2) {
		disk_config_fini(&config);
		return err_set(
			err, -EINVAL,
			"%s: a kernel can be taken out of raw files and block devices alone: give --kernel",
			boot->disk);
	}
	boot->path = config.path;
	boot->readonly = config.readonly;
	return 0;
}

static int disk_boot_disk_open(const struct disk_boot *boot, struct err *err)
{
	struct stat st;
	/* Not blocking: a FIFO would wait for its writer. */
	int fd = open(boot->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return err_errno(err, -errno,
				 "%s: looking for a kernel there, as there is no --kernel",
				 boot->path);
	if (fstat(fd, &st) < 0 || (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))) {
		close(fd);
		return err_set(err, -EINVAL, "%s: neither a file nor a block device; give --kernel",
			       boot->path);
	}
	return fd;
}

static int files_make(struct disk_boot *boot, struct err *err)
{
	static const char *const names[] = { "postern-report", "postern-kernel", "postern-initrd" };
	unsigned int i;

	for (i = 0; i < DISK_BOOT_FILES; i++) {
		boot->fds[i] = memfd_create(names[i], MFD_CLOEXEC);
		/* The child may be another user. */
		if (boot->fds[i] < 0 || fchmod(boot->fds[i], 0600) < 0)
			return err_errno(err, -errno, "memory for a kernel from a disk");
	}
	return 0;
}

/* ---- what the child said ---- */

static void text_clean(char *text, size_t size)
{
	text[size - 1] = '\0';
	for (; *text; text++)
		if (*text < ' ' || *text > '~')
			*text = '?';
}

static bool uuid_is_sane(const char *uuid)
{
	return strspn(uuid, "0123456789abcdef-") == strlen(uuid);
}

/* The usual command line, what was given instead, and what goes behind it. */
static int line_make(struct disk_boot *boot, const char *uuid, struct err *err)
{
	const char *mode = boot->readonly ? "ro" : "rw", *append = boot->append ? boot->append : "";
	const char *blank = *append ? " " : "";
	int r;

	if (boot->cmdline)
		r = asprintf(&boot->found.cmdline, "%s%s%s", boot->cmdline, blank, append);
	else if (*uuid)
		r = asprintf(&boot->found.cmdline, "console=ttyS0 root=PARTUUID=%s %s%s%s", uuid,
			     mode, blank, append);
	else
		r = asprintf(&boot->found.cmdline, "console=ttyS0 root=/dev/vda %s%s%s", mode,
			     blank, append);
	if (r < 0)
		boot->found.cmdline = NULL;
	return r < 0 ? err_set(err, -ENOMEM, "no memory for a command line") : 0;
}

/* The memory file becomes what the machine loads. */
static int file_found(struct disk_boot *boot, unsigned int i, const char *name,
		      struct boot_file *file, struct err *err)
{
	if (asprintf(&file->path, "%s: %s", boot->path, name) < 0) {
		file->path = NULL;
		return err_set(err, -ENOMEM, "no memory for a name");
	}
	file->fd = boot->fds[i];
	boot->fds[i] = -1;
	return 0;
}

static int report_take(struct disk_boot *boot, struct err *err)
{
	struct disk_report report = { 0 };
	struct stat kernel, initrd;
	int r;

	if (pread(boot->fds[0], &report, sizeof(report), 0) != sizeof(report))
		return err_set(err, -EIO, "%s: its reader ended without a word", boot->path);
	text_clean(report.text, sizeof(report.text));
	text_clean(report.uuid, sizeof(report.uuid));
	text_clean(report.files.kernel, sizeof(report.files.kernel));
	text_clean(report.files.initrd, sizeof(report.files.initrd));
	if (report.code)
		return err_set(err, report.code < 0 && report.code > -4096 ? report.code : -EIO,
			       "%s: no kernel taken out of it: %s", boot->path, report.text);
	if (!uuid_is_sane(report.uuid) || fstat(boot->fds[1], &kernel) < 0 ||
	    fstat(boot->fds[2], &initrd) < 0 ||
	    (uint64_t)kernel.st_size + (uint64_t)initrd.st_size > boot->memory_bytes)
		return err_set(err, -EIO, "%s: its reader does not make sense", boot->path);
	log_info("%s: kernel %s, %lld bytes%s%s", boot->path, report.files.kernel,
		 (long long)kernel.st_size, initrd.st_size ? ", initial RAM disk " : "",
		 report.files.initrd);
	r = line_make(boot, report.uuid, err);
	if (r < 0)
		return r;
	boot->found.type = BOOT_FILES;
	r = file_found(boot, 1, report.files.kernel, &boot->found.kernel, err);
	return r < 0 || !initrd.st_size ? r : file_found(boot, 2, report.files.initrd,
							 &boot->found.initrd, err);
}

/* ---- the child ---- */

static int disk_boot_begin(struct disk_boot *boot, struct err *err);

static void disk_boot_on_closed(uv_handle_t *handle)
{
	struct disk_boot *boot = handle->data;
	struct err err = { 0 };

	boot->closing = false;
	if (!boot->wanted)
		return;
	boot->wanted = false;
	if (disk_boot_begin(boot, &err) < 0)
		boot->done(boot->arg, NULL, &err);
}

static void timer_close(struct disk_boot *boot)
{
	boot->closing = true;
	uv_close((uv_handle_t *)&boot->timer, disk_boot_on_closed);
}

static void disk_boot_on_timer(uv_timer_t *timer)
{
	struct disk_boot *boot = timer->data;

	boot->late = true;
	helper_kill(boot->child);
}

static void on_child_end(void *arg)
{
	struct disk_boot *boot = arg;
	struct err err = { 0 };
	char how[64];

	helper_describe_end(boot->child, how, sizeof(how));
	if (boot->late)
		err_set(&err, -ETIMEDOUT, "%s: no kernel taken out of it in %d s", boot->path,
			FETCH_MS / 1000);
	else if (!helper_ended_well(boot->child))
		err_set(&err, -EINVAL,
			"%s: no kernel taken out of it: its reader %s; the file system is damaged, or meant to do harm",
			boot->path, how);
	else
		report_take(boot, &err);
	helper_free(boot->child, 0);
	boot->child = NULL;
	timer_close(boot);
	boot->busy = false;
	if (err.code)
		disk_boot_drop(boot);
	boot->done(boot->arg, err.code ? NULL : &boot->found, err.code ? &err : NULL);
}

static int disk_boot_spawn(struct disk_boot *boot, int disk, struct err *err)
{
	char memory[24], name[] = "postern", command[] = "disk-child";
	char *const words[] = { name, command, memory, NULL };
	const int fds[] = {
		[DISK_CHILD_DISK - HELPER_FD] = disk,
		[DISK_CHILD_REPORT - HELPER_FD] = boot->fds[0],
		[DISK_CHILD_KERNEL - HELPER_FD] = boot->fds[1],
		[DISK_CHILD_INITRD - HELPER_FD] = boot->fds[2],
	};
	const struct helper_config config = {
		.program = "/proc/self/exe", .words = words, .fds = fds, .n_fds = sizeof(fds) / sizeof(fds[0]), .ended = on_child_end,
		.arg = boot,
	};
	int r;

	snprintf(memory, sizeof(memory), "%" PRIu64, boot->memory_bytes);
	r = helper_start(&boot->child, boot->loop, &config, err);
	if (r < 0)
		return err_prefix(err, r, "%s: looking for a kernel there", boot->path);
	boot->late = false;
	uv_timer_init(loop_uv(boot->loop), &boot->timer);
	boot->timer.data = boot;
	uv_timer_start(&boot->timer, disk_boot_on_timer, FETCH_MS, 0);
	return 0;
}

static int disk_boot_begin(struct disk_boot *boot, struct err *err)
{
	int disk, r;

	disk_boot_drop(boot);
	r = value_take(boot, err);
	if (r < 0)
		return r;
	disk = disk_boot_disk_open(boot, err);
	r = disk < 0 ? disk : files_make(boot, err);
	if (!r)
		r = disk_boot_spawn(boot, disk, err);
	boot->busy = !r;
	if (disk >= 0)
		close(disk);
	if (r < 0)
		disk_boot_drop(boot);
	return r;
}

int disk_boot_fetch(struct disk_boot *boot, disk_boot_done done, void *arg, struct err *err)
{
	if (boot->busy || boot->wanted)
		return err_set(err, -EBUSY, "a kernel is being taken out of the disk already");
	boot->done = done;
	boot->arg = arg;
	/* The last one's timer is closing: when it has, this one begins. */
	boot->wanted = boot->closing;
	return boot->wanted ? 0 : disk_boot_begin(boot, err);
}

void disk_boot_fini(struct disk_boot *boot)
{
	boot->wanted = false;
	if (boot->busy) {
		helper_free(boot->child, 0);
		boot->child = NULL;
		timer_close(boot);
		boot->busy = false;
	}
	disk_boot_drop(boot);
}
