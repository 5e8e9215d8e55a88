// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "machine/boot_files.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void boot_files_init(struct boot_files *files)
{
	*files = (struct boot_files){ .kernel.fd = -1, .initrd.fd = -1 };
}

static void boot_file_fini(struct boot_file *file)
{
	free(file->path);
	if (file->fd >= 0)
		close(file->fd);
}

void boot_files_fini(struct boot_files *files)
{
	boot_file_fini(&files->kernel);
	boot_file_fini(&files->initrd);
	free(files->cmdline);
	free(files->append);
	boot_files_init(files);
}

void boot_files_move(struct boot_files *to, struct boot_files *from)
{
	boot_files_fini(to);
	*to = *from;
	boot_files_init(from);
}

static int boot_files_copy(char **to, const char *from, struct err *err)
{
	*to = from ? strdup(from) : NULL;
	return !from || *to ? 0 :
		err_set(err, -ENOMEM, "no memory for what the machine starts with");
}

int boot_files_set_paths(struct boot_files *to, const char *kernel, const char *initrd,
			 const char *cmdline, struct err *err)
{
	int r;

	boot_files_fini(to);
	to->type = BOOT_FILES;
	r = boot_files_copy(&to->kernel.path, kernel, err);
	if (!r)
		r = boot_files_copy(&to->initrd.path, initrd, err);
	return r ? r : boot_files_copy(&to->cmdline, cmdline, err);
}

static int boot_file_open(const struct boot_file *file, struct ram_file *opened, const char *what,
			  struct err *err)
{
	int r = file->fd >= 0 ? ram_file_open_fd(opened, file->path, file->fd, err) :
		ram_file_open(opened, file->path, err);

	if (r < 0)
		err_prefix(err, r, "%s", what);
	return r;
}

int boot_files_open(const struct boot_files *files, struct boot_opened *opened, struct err *err)
{
	int r;

	*opened = (struct boot_opened){
		.initrd.fd = -1, .has_initrd = files->initrd.path, .cmdline = files->cmdline,
	};
	r = boot_file_open(&files->kernel, &opened->kernel, "kernel", err);
	if (r < 0 || !opened->has_initrd)
		return r;
	r = boot_file_open(&files->initrd, &opened->initrd, "initrd", err);
	if (r < 0)
		ram_file_close(&opened->kernel);
	return r;
}

void boot_opened_close(struct boot_opened *opened)
{
	ram_file_close(&opened->kernel);
	ram_file_close(&opened->initrd);
}
