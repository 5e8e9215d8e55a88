// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * boot.c - what a machine starts with, and its way into memory.
 */
#include "machine/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int boot_copy(char **to, const char *from, struct err *err)
{
	*to = from ? strdup(from) : NULL;
	return !from || *to ? 0 : err_set(err, -ENOMEM, "no memory for the command line");
}

int machine_boot_configure(struct machine *m, const struct machine_config *config, struct err *err)
{
	struct boot_files *boot = &m->boot_files;
	int r;

	if (config->kernel)
		return boot_files_set_paths(boot, config->kernel, config->initrd, config->cmdline,
					    err);
	if (config->boot_find)
		boot->type = BOOT_DISK;
	else if (!config->loads_no_kernel)
		return err_set(err, -EINVAL, "no kernel: only a machine that arrives by migration "
			       "can do without");
	r = boot_copy(&boot->cmdline, config->cmdline, err);
	return r ? r : boot_copy(&boot->append, config->append, err);
}

const struct boot_files *machine_boot(const struct machine *m)
{
	return &m->boot_files;
}

/* The command line of our own options, in one piece. */
static int own_line(const struct boot_files *own, char **line, struct err *err)
{
	const char *cmdline = own->cmdline ? own->cmdline : "";
	const char *append = own->append ? own->append : "";

	if (asprintf(line, "%s%s%s", cmdline, *cmdline && *append ? " " : "", append) >= 0)
		return 0;
	*line = NULL;
	return err_set(err, -ENOMEM, "no memory for the command line");
}

int machine_boot_take(struct machine *m, struct boot_files *from, struct err *err)
{
	struct boot_files *own = &m->boot_files;
	bool has_line = own->cmdline || own->append;
	char *line;
	int r;

	if (own->type == BOOT_FILES)
		return 0;
	/* The disk that starts it is this machine's in any case. */
	if (from->type == BOOT_DISK && has_line)
		return 0;
	if (has_line) {
		r = own_line(own, &line, err);
		if (r < 0)
			return r;
		free(from->cmdline);
		from->cmdline = line;
	}
	boot_files_move(own, from);
	return 0;
}

int machine_boot_check(const struct machine *m, struct err *err)
{
	struct boot_opened opened;
	int r;

	if (m->boot_files.type == BOOT_NOTHING)
		return err_set(err, -EINVAL,
			       "there is nothing to load: the machine was started without "
			       "--kernel, and none came with its guest");
	if (m->boot_files.type == BOOT_DISK)
		return 0;
	r = boot_files_open(&m->boot_files, &opened, err);
	if (!r)
		boot_opened_close(&opened);
	return r;
}

int machine_boot_load(struct machine *m, const struct boot_opened *opened, struct err *err)
{
	const struct arch_boot_config config = {
		.kernel = &opened->kernel,
		.initrd = opened->has_initrd ? &opened->initrd : NULL,
		.cmdline = opened->cmdline,
		.cpus = m->config.cpus,
	};
	int r = arch_boot_load(&m->boot, &config, m->mem, err);

	return r ? r : vm_boot(m->vm, &m->boot, err);
}

int machine_boot_first(struct machine *m, const struct boot_files *found, struct err *err)
{
	struct boot_opened opened;
	int r = boot_files_open(found ? found : &m->boot_files, &opened, err);

	if (r < 0)
		return r;
	r = machine_boot_load(m, &opened, err);
	boot_opened_close(&opened);
	return r;
}
