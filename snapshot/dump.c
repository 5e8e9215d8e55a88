// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The main thread takes the moment: the guest paused, its registers. A thread
 * then looks which pages are here, writes the core's head and the pages, and
 * asks the main thread, by a post, to let the guest go on.
 *
 * Memory may still be arriving: a page that comes after the look is left out all
 * the same. One that is on its way into a huge page is not PRESENT for some
 * microseconds; so one that is REQUESTED is given a moment before it counts as
 * missing.
 */
#include "snapshot/dump.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "arch/arch.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/outfile.h"
#include "base/page.h"
#include "base/path.h"
#include "base/thread.h"
#include "memory/gup.h"
#include "snapshot/elf_core.h"

#define PART_PAGES 512u
/* For a page on its way into a huge page; and, of one that was here, for good. */
#define MOMENT_NS NS_PER_MS
#define PATIENCE_NS (2 * NS_PER_SEC)

struct dump {
	struct dump_config config;
	struct memory *mem;
	char *path;
	int fd;
	struct stat file;
	struct elf_core core;
	pthread_t thread;
	unsigned int refs; /* the owner's, and the post's; the main thread's */
	bool active, gone;
	atomic_bool cancelled;
	_Atomic uint64_t total, done, missing;
	enum dump_status status;
	struct err err; /* the thread's, until it was joined */
};

const char *dump_status_name(enum dump_status status)
{
	static const char *const names[] = {
		[DUMP_NONE] = "none",
		[DUMP_ACTIVE] = "active",
		[DUMP_COMPLETED] = "completed",
		[DUMP_FAILED] = "failed",
	};

	return names[status];
}

/* ---- which pages are here ---- */

static bool dump_page_is_here(const struct dump *dump, gfn_t gfn, bool own)
{
	const struct gup_opts opts = { .deadline_ns = clock_now_ns() + MOMENT_NS };
	enum page_state state = memory_page_state(dump->mem, gfn);
	struct gup_span span;
	int r;

	if (state == PAGE_PRESENT)
		return true;
	if (state != PAGE_REQUESTED && !own)
		return false;
	memory_map_lock(dump->mem);
	r = gup(dump->mem, gfn_to_gpa(gfn), PAGE_BYTES, 0, &opts, &span);
	memory_map_unlock(dump->mem);
	if (!r)
		gup_put(dump->mem, &span);
	return !r;
}

/* n pages of a region, at most PART_PAGES. */
static int dump_look(struct dump *dump, gfn_t first, uint64_t n, struct err *err)
{
	uint8_t own[PART_PAGES / 8] = { 0 };
	uint64_t i;
	int r = 0;

	if (memory_is_backed(dump->mem)) {
		/* What others have brought, and what this machine has written. */
		memory_refresh(dump->mem, first, n);
		if (memory_written(dump->mem, first, n, own) < 0)
			return err_set(err, -EIO, "which pages are this machine's own");
	}
	for (i = 0; i < n && !r; i++) {
		if (dump_page_is_here(dump, GFN(first.v + i), own[i / 8] >> i % 8 & 1))
			r = elf_core_add_pages(&dump->core, GFN(first.v + i), 1, err);
		else
			atomic_fetch_add(&dump->missing, 1);
	}
	return r;
}

static int dump_ended(const struct dump *dump, struct err *err)
{
	return atomic_load(&dump->cancelled) ? err_set(err, -ECANCELED, "cancelled") : 0;
}

/* The part of a region that is asked for: false: none. */
static bool dump_clip(const struct dump *dump, const struct memory_region *region, uint64_t *first,
		      uint64_t *end)
{
	uint64_t from = dump->config.begin >> PAGE_SHIFT;
	uint64_t to = from + (dump->config.length >> PAGE_SHIFT);

	*first = region->first.v;
	*end = region->first.v + region->pages;
	if (!dump->config.length)
		return true;
	*first = from > *first ? from : *first;
	*end = to < *end ? to : *end;
	return *first < *end;
}

static int dump_look_all(struct dump *dump, struct err *err)
{
	const struct memory_region *region;
	unsigned int i, n;
	int r = 0;

	region = memory_regions(dump->mem, &n);
	for (i = 0; i < n && !r; i++) {
		uint64_t first, end, part;

		if (!dump_clip(dump, &region[i], &first, &end))
			continue;
		for (; first < end && !r; first += part) {
			part = end - first < PART_PAGES ? end - first : PART_PAGES;
			r = dump_look(dump, GFN(first), part, err);
			r = r ? r : dump_ended(dump, err);
		}
	}
	return r;
}

/* ---- the file ---- */

static int dump_write(struct dump *dump, uint64_t offset, const uint8_t *data, size_t len,
		      struct err *err)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pwrite(dump->fd, data + done, len - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return err_errno(err, n ? -errno : -EIO, "%s", dump->path);
		done += (size_t)n;
	}
	return 0;
}

/* Pages of zeros are holes. */
static int dump_write_pages(struct dump *dump, uint64_t offset, const uint8_t *data, uint64_t n,
			    struct err *err)
{
	uint64_t i = 0, end;
	int r = 0;

	while (i < n && !r) {
		if (page_is_zero(data + i * PAGE_BYTES)) {
			i++;
			continue;
		}
		for (end = i + 1; end < n && !page_is_zero(data + end * PAGE_BYTES); end++)
			;
		r = dump_write(dump, offset + i * PAGE_BYTES, data + i * PAGE_BYTES,
			       (size_t)(end - i) * PAGE_BYTES, err);
		i = end;
	}
	return r;
}

static int dump_part(struct dump *dump, gfn_t first, uint64_t n, uint64_t offset, struct err *err)
{
	const struct gup_opts opts = { .deadline_ns = clock_now_ns() + PATIENCE_NS };
	struct gup_span span;
	int r;

	memory_map_lock(dump->mem);
	r = gup(dump->mem, gfn_to_gpa(first), n * PAGE_BYTES, 0, &opts, &span);
	memory_map_unlock(dump->mem);
	if (r < 0)
		return err_errno(err, r, "page 0x%" PRIx64 ", which was here", gfn_to_gpa(first).v);
	r = dump_write_pages(dump, offset, span.hva, n, err);
	gup_put(dump->mem, &span);
	atomic_fetch_add(&dump->done, n * PAGE_BYTES);
	return r ? r : dump_ended(dump, err);
}

static int dump_run(struct dump *dump, const struct elf_core_run *run, struct err *err)
{
	uint64_t at, n;
	int r = 0;

	for (at = 0; at < run->pages && !r; at += n) {
		n = run->pages - at < PART_PAGES ? run->pages - at : PART_PAGES;
		r = dump_part(dump, GFN(run->first.v + at), n, run->offset + at * PAGE_BYTES, err);
	}
	return r;
}

static int dump_all(struct dump *dump, struct err *err)
{
	struct buf head = { 0 };
	uint64_t total = 0;
	size_t i;
	int r = dump_look_all(dump, err);

	for (i = 0; !r && i < dump->core.n_runs; i++)
		total += dump->core.runs[i].pages * PAGE_BYTES;
	atomic_store(&dump->total, total);
	if (!r && elf_core_head(&dump->core, &head))
		r = err_set(err, -ENOMEM, "no memory for an ELF core");
	if (!r)
		r = dump_write(dump, 0, head.data, head.len, err);
	for (i = 0; !r && i < dump->core.n_runs; i++)
		r = dump_run(dump, &dump->core.runs[i], err);
	if (!r && (ftruncate(dump->fd, (off_t)dump->core.bytes) < 0 || fsync(dump->fd) < 0))
		r = err_errno(err, -errno, "%s", dump->path);
	buf_fini(&head);
	return r;
}

/* ---- its life ---- */

static void dump_put(struct dump *dump)
{
	if (--dump->refs)
		return;
	elf_core_fini(&dump->core);
	free(dump->path);
	free(dump);
}

/* What has no name here is whoever's who passed it. */
static void dump_remove(const struct dump *dump)
{
	if (!dump->config.fd_given)
		path_remove(dump->path, &dump->file);
}

/* The thread has ended, or never was: the guest goes on. */
static void dump_end(struct dump *dump)
{
	uint64_t missing = atomic_load(&dump->missing);

	dump->active = false;
	machine_leave_save(dump->config.machine);
	machine_finish_save(dump->config.machine);
	if (dump->err.code)
		dump_remove(dump);
	close(dump->fd);
	dump->fd = -1;
	dump->status = dump->err.code ? DUMP_FAILED : DUMP_COMPLETED;
	if (dump->err.code)
		log_error("the guest's memory could not be dumped: %s", dump->err.text);
	else if (missing)
		log_warn("the guest's memory is in %s, but for %" PRIu64 " pages that are not here",
			 dump->path, missing);
	else
		log_info("the guest's memory is in %s", dump->path);
}

static void on_dumped(void *arg)
{
	struct dump *dump = arg;

	if (!dump->gone) {
		pthread_join(dump->thread, NULL);
		dump_end(dump);
		if (dump->config.changed)
			dump->config.changed(dump->config.arg);
	}
	dump_put(dump);
}

static void *dump_main(void *arg)
{
	struct dump *dump = arg;

	pthread_setname_np(pthread_self(), "dump");
	thread_is_bulk();
	dump_all(dump, &dump->err);
	loop_post(machine_loop(dump->config.machine), on_dumped, dump);
	return NULL;
}

static int dump_check(const struct dump_config *config, struct err *err)
{
	enum run_state state = machine_state(config->machine);
	const struct memory_region *region;
	uint64_t end;
	unsigned int i, n;

	if (state == RUN_STATE_INMIGRATE || state == RUN_STATE_FINISH_MIGRATE ||
	    state == RUN_STATE_POSTMIGRATE || machine_is_saving(config->machine))
		return err_set(err, -EBUSY,
			       "the guest is not here, or is being saved (%s): its memory cannot "
			       "be dumped now",
			       run_state_name(state));
	if (!config->length)
		return 0;
	if ((config->begin | config->length) & (PAGE_BYTES - 1) ||
	    __builtin_add_overflow(config->begin, config->length, &end))
		return err_set(err, -EINVAL, "begin and length have to be multiples of %u",
			       (unsigned int)PAGE_BYTES);
	region = memory_regions(machine_memory(config->machine), &n);
	for (i = 0; i < n; i++)
		if (config->begin < gfn_to_gpa(GFN(region[i].first.v + region[i].pages)).v &&
		    end > gfn_to_gpa(region[i].first).v)
			return 0;
	return err_set(err, -EINVAL, "there is no RAM between begin and begin + length");
}

static int dump_open(struct dump *dump, struct err *err)
{
	int flags;

	if (!dump->config.fd_given)
		dump->fd = outfile_open(dump->path, O_WRONLY | O_CREAT, 0600, err);
	if (dump->fd < 0)
		return dump->fd;
	flags = fcntl(dump->fd, F_GETFL);
	if ((flags & O_ACCMODE) == O_RDONLY)
		return err_set(err, -EPERM, "%s: it is open for reading alone", dump->path);
	/* It is written at places, not from one end to the other. */
	if (flags & O_APPEND)
		return err_set(err, -EPERM, "%s: it is open for appending", dump->path);
	if (fstat(dump->fd, &dump->file) < 0 || !S_ISREG(dump->file.st_mode))
		return err_set(err, -EPERM, "%s: it is no plain file", dump->path);
	if (ftruncate(dump->fd, 0) < 0)
		return err_errno(err, -errno, "%s", dump->path);
	return 0;
}

static int dump_add_cpu(void *arg, const uint8_t *regs, size_t bytes)
{
	return elf_core_add_cpu(arg, regs, bytes);
}

/* Afterwards the guest stands still. */
static int dump_moment(struct dump *dump, struct err *err)
{
	struct machine *machine = dump->config.machine;
	struct buf state = { 0 };
	int r = machine_enter_save(machine, err);

	if (r < 0)
		return r;
	r = machine_save(machine, &state, err);
	if (!r) {
		r = machine_state_registers(state.data, state.len, dump_add_cpu, &dump->core, err);
		if (r == -ENOMEM)
			err_set(err, r, "no memory for an ELF core");
	}
	buf_fini(&state);
	if (!r) {
		r = thread_start(&dump->thread, dump_main, dump);
		if (r < 0)
			err_errno(err, r, "starting a thread to dump the guest's memory");
	}
	if (r < 0) {
		machine_leave_save(machine);
		machine_finish_save(machine);
	}
	return r;
}

int dump_new(struct dump **out, const struct dump_config *config, struct err *err)
{
	struct dump *dump;
	int r = dump_check(config, err);

	if (r < 0)
		return r;
	dump = calloc(1, sizeof(*dump));
	if (!dump || !(dump->path = strdup(config->path))) {
		free(dump);
		return err_set(err, -ENOMEM, "no memory to dump the guest's");
	}
	dump->config = *config;
	dump->mem = machine_memory(config->machine);
	dump->core.machine = arch_core_machine();
	dump->refs = 2;
	dump->fd = config->fd_given ? config->fd : -1;
	r = dump_open(dump, err);
	if (!r) {
		dump->active = true;
		dump->status = DUMP_ACTIVE;
		r = dump_moment(dump, err);
		if (r < 0)
			dump_remove(dump);
	}
	if (r < 0) {
		if (dump->fd >= 0 && !config->fd_given)
			close(dump->fd);
		dump->refs = 1;
		dump_put(dump);
		return r;
	}
	*out = dump;
	return 0;
}

void dump_cancel(struct dump *dump)
{
	atomic_store(&dump->cancelled, true);
}

void dump_query(struct dump *dump, struct dump_info *info)
{
	*info = (struct dump_info){
		.status = dump->status,
		.total_bytes = atomic_load(&dump->total),
		.done_bytes = atomic_load(&dump->done),
		.missing_pages = atomic_load(&dump->missing),
	};
	if (!dump->active)
		info->err = dump->err;
}

void dump_free(struct dump *dump)
{
	if (!dump)
		return;
	dump->gone = true;
	if (dump->active) {
		dump_cancel(dump);
		pthread_join(dump->thread, NULL);
		dump_end(dump);
	}
	dump_put(dump);
}
