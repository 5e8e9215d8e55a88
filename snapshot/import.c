// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "snapshot/import.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "base/page.h"

/* One that is under way. Bytes count through all ranges. */
struct import {
	struct memory_file *file;
	const struct import_config *config;
	struct manifest_machine machine;
	struct image_writer *writer;
	uint64_t bytes; /* of all ranges */
	uint8_t *span; /* MEMORY_FILE_SPAN */
};

static int import_ranges(struct import *import, struct err *err)
{
	const struct import_config *config = import->config;
	struct manifest_machine *machine = &import->machine;
	uint64_t file = memory_file_bytes(import->file);
	unsigned int i;

	machine->n_ranges = config->n_ranges;
	memcpy(machine->ranges, config->ranges, sizeof(machine->ranges));
	if (!machine->n_ranges) {
		machine->n_ranges = 1;
		machine->ranges[0].len_bytes = (file + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1);
	}
	for (i = 0; i < machine->n_ranges; i++) {
		const struct memory_range *range = &machine->ranges[i];

		if (!range->len_bytes || (range->base.v | range->len_bytes) & (HUGE_BYTES - 1) ||
		    range->len_bytes > UINT64_C(1) << 52 || range->base.v > UINT64_C(1) << 52 ||
		    (i && range->base.v < range[-1].base.v + range[-1].len_bytes))
			return err_set(err, -EINVAL,
				       "ranges of RAM ascend, and are made of 2 MiB; not one of "
				       "0x%" PRIx64 " bytes at 0x%" PRIx64,
				       range->len_bytes, range->base.v);
		import->bytes += range->len_bytes;
	}
	if (import->bytes < file || import->bytes - file >= HUGE_BYTES)
		return err_set(err, -EINVAL,
			       "the ranges have %" PRIu64 " bytes, and the file %" PRIu64
			       ": they have to be the same, but for less than 2 MiB",
			       import->bytes, file);
	return 0;
}

/* The page that a byte of the file is in. */
static gfn_t import_gfn(const struct import *import, uint64_t at)
{
	const struct memory_range *range = import->machine.ranges;

	for (; at >= range->len_bytes; range++)
		at -= range->len_bytes;
	return GFN((range->base.v + at) >> PAGE_SHIFT);
}

static int import_span(struct import *import, uint64_t at, struct err *err)
{
	uint64_t file = memory_file_bytes(import->file);
	uint32_t mask = (UINT32_C(1) << IMAGE_SPAN_PAGES) - 1;
	int r = memory_file_read(import->file, at, import->span, err);

	if (file - at < MEMORY_FILE_SPAN)
		mask = (UINT32_C(1) << (file - at) / PAGE_BYTES) - 1;
	return r ? r :
		   image_writer_span(import->writer, import_gfn(import, at), mask, import->span,
				     err);
}

/* What nobody names is zero: holes. */
static int import_pages(struct import *import, struct err *err)
{
	const struct import_config *config = import->config;
	uint64_t file = memory_file_bytes(import->file);
	int64_t at = 0;
	int r = 0;

	while (!r) {
		at = memory_file_next(import->file, (uint64_t)at, err);
		if (at < 0 || (uint64_t)at >= file)
			break;
		r = import_span(import, (uint64_t)at, err);
		at += MEMORY_FILE_SPAN;
		if (config->progress && !(at % (16 << 20)))
			config->progress(config->arg, (uint64_t)at >> PAGE_SHIFT,
					 file >> PAGE_SHIFT);
	}
	if (at < 0)
		r = (int)at;
	if (!r && import->bytes > file)
		r = image_writer_absent(import->writer, import_gfn(import, file),
					(import->bytes - file) >> PAGE_SHIFT, err);
	return r;
}

static void import_machine(struct import *import)
{
	struct manifest_machine *machine = &import->machine;
	const char *architecture = import->config->architecture;
	struct utsname host;

	if (!architecture)
		architecture = uname(&host) < 0 ? "unknown" : host.machine;
	snprintf(machine->architecture, sizeof(machine->architecture), "%.15s", architecture);
	snprintf(machine->postern, sizeof(machine->postern), "%s", POSTERN_VERSION);
	machine->memory_only = true;
	machine->cpus = 1;
}

int import_memory(struct store *store, struct store_scope *scope, const char *name,
		  struct memory_file *file, const struct import_config *config,
		  struct image_writer_stats *stats, struct err *err)
{
	struct import *import = calloc(1, sizeof(*import));
	struct image_writer_config writer = { .rest = IMAGE_REST_ZERO,
					      .level = config->level,
					      .key = config->key };
	int r;

	if (!import || !(import->span = page_buffer_new(MEMORY_FILE_SPAN))) {
		free(import);
		return err_set(err, -ENOMEM, "no memory to import");
	}
	import->file = file;
	import->config = config;
	import_machine(import);
	r = import_ranges(import, err);
	if (!r) {
		writer.machine = import->machine;
		r = image_writer_new(&import->writer, store, scope, name, &writer, err);
	}
	if (!r)
		r = import_pages(import, err);
	if (!r)
		r = image_writer_finish(import->writer, err);
	if (!r)
		image_writer_stats(import->writer, stats);
	image_writer_free(import->writer);
	page_buffer_free(import->span, MEMORY_FILE_SPAN);
	free(import);
	return r;
}
