// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "cli/overlays.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* An image's header says where the one below lies, wherever it is opened from. */
static int below_in_full(struct disk_config *config, struct err *err)
{
	char cwd[PATH_MAX], *full;

	if (config->nbd || *config->path == '/')
		return 0;
	if (!getcwd(cwd, sizeof(cwd)))
		return err_errno(err, -errno, "the working directory");
	if (asprintf(&full, "%s/%s", cwd, config->path) < 0)
		return err_set(err, -ENOMEM, "no memory for a disk's name");
	free(config->path);
	config->path = full;
	return 0;
}

/* A value of --disk has each comma of a name twice. */
static void value_put(FILE *out, const char *word, const char *value)
{
	fputs(word, out);
	for (; *value; value++) {
		if (*value == ',')
			fputc(',', out);
		fputc(*value, out);
	}
}

/* The value of --disk for an overlay at that path. NULL: no memory. */
static char *overlay_value(const char *path, const struct disk_config *below)
{
	char *text = NULL;
	unsigned int i;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	if (!out)
		return NULL;
	value_put(out, "", path);
	value_put(out, ",format=qcow2,backing=", below->path);
	for (i = 0; i < below->backings; i++)
		value_put(out, ",backing=", below->backing[i]);
	if (*below->serial)
		value_put(out, ",serial=", below->serial);
	if (below->reconnect_s >= 0)
		fprintf(out, ",reconnect=%d", below->reconnect_s);
	return fclose(out) ? NULL : text;
}

static int overlay_add(struct overlays *o, const char *dir, const char *name, unsigned int number,
		       const struct disk_config *below, struct err *err)
{
	struct disk_overlay file;
	struct disk_config config;
	char *path = NULL, *text = NULL;
	int r = 0;

	if (asprintf(&path, "%s/%s%sdisk%u.qcow2", dir, name ? name : "", name ? "-" : "", number) <
	    0)
		path = NULL;
	if (path)
		text = overlay_value(path, below);
	if (!text || !(o->below[number] = strdup(below->path)))
		r = err_set(err, -ENOMEM, "no memory for a disk's name");
	/* Before there is a file: it may have too many images below it. */
	if (!r)
		r = disk_config_parse(&config, text, err);
	if (!r) {
		disk_config_fini(&config);
		r = disk_overlay_make(&file, path, below, err);
	}
	if (r < 0) {
		free(path);
		free(text);
		return r;
	}
	o->made[o->n].path = path;
	o->made[o->n].text = text;
	o->made[o->n++].file = file;
	return 0;
}

static int overlay_for(struct overlays *o, const char *dir, const char *name, unsigned int number,
		       struct virtio_option *option, struct err *err)
{
	struct disk_config config;
	int r = disk_config_parse(&config, option->text, err);

	if (r < 0)
		return r;
	if (!config.readonly) {
		r = below_in_full(&config, err);
		if (!r)
			r = overlay_add(o, dir, name, number, &config, err);
		if (!r)
			option->text = o->made[o->n - 1].text;
	}
	disk_config_fini(&config);
	return r;
}

int overlays_make(struct overlays *o, const char *dir, const char *name,
		  struct virtio_options *options, struct err *err)
{
	struct virtio_options with = *options;
	unsigned int i, number = 0;
	int r = 0;

	*o = (struct overlays){ 0 };
	for (i = 0; i < with.n && !r; i++)
		if (with.option[i].type == &blk_type)
			r = overlay_for(o, dir, name, number++, &with.option[i], err);
	if (r < 0) {
		overlays_remove(o);
		return err_prefix(err, r, "--overlay");
	}
	*options = with;
	return 0;
}

void overlays_remove(struct overlays *o)
{
	unsigned int i;

	for (i = 0; i < o->n; i++)
		disk_overlay_remove(&o->made[i].file, o->made[i].path);
}

void overlays_fini(struct overlays *o)
{
	unsigned int i;

	for (i = 0; i < o->n; i++) {
		free(o->made[i].path);
		free(o->made[i].text);
	}
	for (i = 0; i < MANIFEST_DISKS_MAX; i++)
		free(o->below[i]);
	*o = (struct overlays){ 0 };
}
