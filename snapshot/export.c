// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "snapshot/export.h"

#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "arch/arch.h"
#include "base/page.h"
#include "image/state.h"
#include "machine/machine.h"
#include "snapshot/elf_core.h"

/* As many as image_read hands out at once, and so many more that it reads ahead. */
#define PART_PAGES 64u
#define ASK_PAGES (16u * PART_PAGES)
#define TELL_PAGES 4096u

struct export
{
	struct image *image;
	int fd;
	const struct export_config *config;
	struct export_result *result;
	uint64_t told; /* pages that were looked at, by the last progress */
	uint64_t looked, all;
	uint8_t *data, *before; /* PART_PAGES each */
};

static int export_write(const struct export *e, uint64_t offset, const void *data, size_t len,
			struct err *err)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pwrite(e->fd, (const uint8_t *)data + done, len - done,
				   (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return err_errno(err, n ? -errno : -EIO, "%s", e->config->path);
		done += (size_t)n;
	}
	return 0;
}

static void export_progress(struct export *e, uint64_t n)
{
	e->looked += n;
	if (!e->config->progress || e->looked - e->told < TELL_PAGES)
		return;
	e->told = e->looked;
	e->config->progress(e->config->arg, e->looked, e->all);
}

/* ---- whole pages ---- */

/* n pages from first on, all of which are there, to offset. */
static int export_pages(struct export *e, gfn_t first, uint64_t n, uint64_t offset, struct err *err)
{
	while (n) {
		bool zero;
		int64_t got = image_read(e->image, first, n < ASK_PAGES ? n : ASK_PAGES, e->data,
					 &zero, err);
		int r = 0;

		if (got < 0)
			return (int)got;
		if (!zero)
			r = export_write(e, offset, e->data, (size_t)got * PAGE_BYTES, err);
		if (r)
			return r;
		e->result->pages += zero ? 0 : (uint64_t)got;
		export_progress(e, (uint64_t)got);
		first.v += (uint64_t)got;
		offset += (uint64_t)got * PAGE_BYTES;
		n -= (uint64_t)got;
	}
	return 0;
}

/* ---- what differs from the parent ---- */

/* At most n pages of an image, as bytes. Returns how many. */
static int64_t export_bytes(struct image *image, gfn_t first, uint64_t n, uint8_t *data,
			    struct err *err)
{
	bool zero;
	int64_t got = image_read(image, first, n, data, &zero, err);

	if (got > 0 && zero) {
		got = got < (int64_t)n ? got : (int64_t)n;
		memset(data, 0, (size_t)got * PAGE_BYTES);
	}
	return got;
}

/* One run of pages of the image that the parent has as well. */
static int64_t diff_part(struct export *e, gfn_t first, uint64_t n, uint64_t offset,
			 struct err *err)
{
	int64_t now = export_bytes(e->image, first, n < PART_PAGES ? n : PART_PAGES, e->data, err);
	int64_t was, i;
	int r = 0;

	if (now < 0)
		return now;
	was = export_bytes(e->config->parent, first, (uint64_t)now, e->before, err);
	/* What the parent never had is new. */
	if (was == -ENODATA) {
		was = 1;
		memcpy(e->before, e->data, PAGE_BYTES);
		e->before[0] ^= 1;
	}
	if (was < 0)
		return err_prefix(err, (int)was, "the parent");
	for (i = 0; i < was && !r; i++) {
		if (!memcmp(e->data + i * PAGE_BYTES, e->before + i * PAGE_BYTES, PAGE_BYTES))
			continue;
		r = export_write(e, offset + (uint64_t)i * PAGE_BYTES, e->data + i * PAGE_BYTES,
				 PAGE_BYTES, err);
		e->result->pages++;
	}
	return r ? r : was;
}

static int diff_pages(struct export *e, gfn_t first, uint64_t n, uint64_t offset, struct err *err)
{
	while (n) {
		enum image_page now, was;
		int64_t got = image_look(e->image, first, n, &now, err), other;

		if (got > 0) {
			other = image_look(e->config->parent, first, (uint64_t)got, &was, err);
			got = other < got ? other : got;
		}
		if (got > 0 && (now != IMAGE_PAGE_ZERO || was != IMAGE_PAGE_ZERO))
			got = diff_part(e, first, (uint64_t)got, offset, err);
		if (got < 0)
			return (int)got;
		export_progress(e, (uint64_t)got);
		first.v += (uint64_t)got;
		offset += (uint64_t)got * PAGE_BYTES;
		n -= (uint64_t)got;
	}
	return 0;
}

static int diff_check(const struct export *e, struct err *err)
{
	const struct manifest_machine *now = &image_manifest(e->image)->machine;
	const struct manifest_machine *was = &image_manifest(e->config->parent)->machine;
	unsigned int i;
	bool same = now->n_ranges == was->n_ranges;

	for (i = 0; same && i < now->n_ranges; i++)
		same = now->ranges[i].base.v == was->ranges[i].base.v &&
		       now->ranges[i].len_bytes == was->ranges[i].len_bytes;
	return same ? 0 : err_set(err, -EINVAL, "its parent has other ranges of RAM");
}

/* ---- raw ---- */

/* How many pages at the end of all are absent: the file ends before them. */
static int export_tail(struct export *e, uint64_t *tail, struct err *err)
{
	const struct manifest_machine *machine = &image_manifest(e->image)->machine;
	const struct memory_range *last = &machine->ranges[machine->n_ranges - 1];
	/* What does not fill 2 MiB is all that an import leaves absent. */
	uint64_t n = HUGE_PAGES, at = 0;
	gfn_t first = GFN(((last->base.v + last->len_bytes) >> PAGE_SHIFT) - n);

	*tail = 0;
	while (at < n) {
		enum image_page kind;
		int64_t got = image_look(e->image, GFN(first.v + at), n - at, &kind, err);

		if (got < 0)
			return (int)got;
		at += (uint64_t)got;
		*tail = kind == IMAGE_PAGE_ABSENT ? *tail + (uint64_t)got : 0;
	}
	return 0;
}

static int export_raw(struct export *e, struct err *err)
{
	const struct manifest *manifest = image_manifest(e->image);
	bool diff = e->config->format == EXPORT_DIFF;
	uint64_t offset = 0, tail;
	unsigned int i;
	int r = diff ? diff_check(e, err) : 0;

	if (!r)
		r = export_tail(e, &tail, err);
	if (!r && tail != manifest->absent_pages)
		r = err_set(err, -ENODATA,
			    "%" PRIu64 " pages are absent, and would be zeros in such a file: an "
			    "ELF core can leave them out",
			    manifest->absent_pages);
	for (i = 0; !r && i < manifest->machine.n_ranges; i++) {
		const struct memory_range *range = &manifest->machine.ranges[i];
		uint64_t n = range->len_bytes >> PAGE_SHIFT;

		if (i == manifest->machine.n_ranges - 1)
			n -= tail;
		r = diff ? diff_pages(e, gpa_to_gfn(range->base), n, offset, err) :
			   export_pages(e, gpa_to_gfn(range->base), n, offset, err);
		offset += n << PAGE_SHIFT;
	}
	e->result->absent_pages = manifest->absent_pages;
	e->result->bytes = offset;
	return r;
}

/* ---- ELF ---- */

static int export_add_cpu(void *arg, const uint8_t *regs, size_t bytes)
{
	return elf_core_add_cpu(arg, regs, bytes);
}

/* The registers of an architecture are taken apart by that architecture's postern alone. */
static int export_cpus(struct export *e, struct elf_core *core, struct err *err)
{
	const struct manifest_machine *machine = &image_manifest(e->image)->machine;
	struct image_state state;
	struct buf bytes = { 0 };
	struct utsname host;
	int r;

	core->machine = arch_core_machine();
	if (uname(&host) < 0 || strcmp(host.machine, machine->architecture))
		return err_set(err, -EPROTO,
			       "a machine of architecture %s: its registers can be read by "
			       "postern on such a host alone",
			       machine->architecture);
	if (machine->memory_only)
		return 0;
	r = image_get_object(e->image, IMAGE_STATE, &bytes, err);
	if (!r)
		r = image_state_decode(&state, bytes.data, bytes.len, image_name(e->image), err);
	if (!r) {
		r = machine_state_registers(state.machine, state.machine_bytes, export_add_cpu,
					    core, err);
		if (r == -ENOMEM)
			err_set(err, r, "no memory for an ELF core");
	}
	buf_fini(&bytes);
	return r;
}

/* What is there of it, run by run. */
static int export_runs(struct export *e, struct elf_core *core, struct err *err)
{
	const struct manifest_machine *machine = &image_manifest(e->image)->machine;
	unsigned int i;

	for (i = 0; i < machine->n_ranges; i++) {
		gfn_t at = gpa_to_gfn(machine->ranges[i].base);
		uint64_t n = machine->ranges[i].len_bytes >> PAGE_SHIFT;

		while (n) {
			enum image_page kind;
			int64_t got = image_look(e->image, at, n, &kind, err);
			int r = 0;

			if (got < 0)
				return (int)got;
			if (kind == IMAGE_PAGE_ABSENT)
				e->result->absent_pages += (uint64_t)got;
			else
				r = elf_core_add_pages(core, at, (uint64_t)got, err);
			if (r)
				return r;
			at.v += (uint64_t)got;
			n -= (uint64_t)got;
		}
	}
	return 0;
}

static int export_elf(struct export *e, struct err *err)
{
	struct elf_core core = { 0 };
	struct buf head = { 0 };
	size_t i;
	int r = export_cpus(e, &core, err);

	if (!r)
		r = export_runs(e, &core, err);
	if (!r && elf_core_head(&core, &head))
		r = err_set(err, -ENOMEM, "no memory for an ELF core");
	if (!r)
		r = export_write(e, 0, head.data, head.len, err);
	for (i = 0; !r && i < core.n_runs; i++)
		r = export_pages(e, core.runs[i].first, core.runs[i].pages, core.runs[i].offset,
				 err);
	e->result->bytes = core.bytes;
	buf_fini(&head);
	elf_core_fini(&core);
	return r;
}

int export_image(struct image *image, int fd, const struct export_config *config,
		 struct export_result *result, struct err *err)
{
	const size_t bytes = PART_PAGES * PAGE_BYTES;
	struct export e = {
		.image = image,
		.fd = fd,
		.config = config,
		.result = result,
		.all = manifest_pages(image_manifest(image)),
		.data = page_buffer_new(bytes),
		.before = page_buffer_new(bytes),
	};
	int r = -ENOMEM;

	*result = (struct export_result){ 0 };
	if (!e.data || !e.before)
		err_set(err, r, "no memory to export");
	else
		r = config->format == EXPORT_ELF ? export_elf(&e, err) : export_raw(&e, err);
	if (!r && ftruncate(fd, (off_t)result->bytes) < 0)
		r = err_errno(err, -errno, "%s", config->path);
	page_buffer_free(e.data, bytes);
	page_buffer_free(e.before, bytes);
	return r;
}
