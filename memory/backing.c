// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Guest RAM that clones of one image share: a private mapping of a memfd, which
// holds the image's pages as far as they have come.
//
// There are two mappings of it. Guest RAM is the private one: the kernel maps a
// page that the memfd holds by itself, gives who writes a copy, and raises an
// event for a hole. The other one is shared, has a userfaultfd of its own and is
// never touched: by UFFDIO_COPY into it a page enters the memfd whole and in one
// step, or is refused because another machine was faster. UFFDIO_COPY into the
// private mapping would make an anonymous page of this machine's alone; so only
// zeros are put there (UFFDIO_ZEROPAGE), which take no memory.
//
// The byte of a page may say MISSING although the memfd holds it, and although
// the guest may have it, and a copy of it, for long: another machine has brought
// it. So nothing of a page whose byte is not PRESENT may ever be dropped. Who
// needs the page looks (memory_look): lseek(SEEK_DATA) knows holes, also from
// what is swapped out.
//
// A hole must never be touched unwatched. The kernel would fill it with zeros,
// for all who share the memfd; so
//   - guest RAM stays registered when all has come (fill.c), and what is dropped
//     is replaced by zeros of this machine's own (memory_backing_zero);
//   - it is unmapped before the userfaultfd is closed (memory_backing_leave);
//   - who is killed leaves that to somebody who holds his userfaultfd
//     (memory_retire);
//   - huge pages are not wanted: before Linux 6.4, khugepaged fills the holes of
//     what it collapses.
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/log.h"
#include "memory/internal.h"

#define BACKING_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
/* How often a page is dropped anew that the guest touches while it is discarded. */
#define ZERO_TRIES 3
/*
 * How often an ioctl is repeated that finds a memory map that changes, of a
 * process that has ended.
 */
#define RETIRE_TRIES 1000

/* ---- the memfd ---- */

int memory_backing_new(uint64_t len_bytes, struct err *err)
{
	int fd, r = 0;

	if (!len_bytes || len_bytes % HUGE_BYTES || len_bytes > INT64_MAX)
		return err_set(err, -EINVAL,
			       "%" PRIu64 " bytes of shared RAM are not a multiple of 2 MiB",
			       len_bytes);
	fd = memfd_create("postern-image", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return err_errno(err, -errno, "memory for shared pages");
	if (ftruncate(fd, (off_t)len_bytes) < 0 || fcntl(fd, F_ADD_SEALS, BACKING_SEALS) < 0)
		r = err_errno(err, -errno, "memory for shared pages");
	if (r < 0) {
		close(fd);
		return r;
	}
	return fd;
}

/* Somebody else has made it. */
static int backing_check(const struct memory *mem, int memfd, struct err *err)
{
	uint64_t len_bytes = mem->pages * PAGE_BYTES;
	struct statfs fs;
	struct stat st;
	int seals = fcntl(memfd, F_GET_SEALS);

	if (fstat(memfd, &st) < 0 || fstatfs(memfd, &fs) < 0)
		return err_errno(err, -errno, "shared RAM");
	if (seals < 0 || fs.f_type != TMPFS_MAGIC)
		return err_set(err, -EINVAL, "shared RAM is no memfd of small pages");
	if ((seals & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW))
		return err_set(err, -EINVAL, "shared RAM may change its size: it is not sealed");
	if (seals & F_SEAL_WRITE)
		return err_set(err, -EINVAL, "shared RAM cannot be filled: it is sealed");
	if ((uint64_t)st.st_size != len_bytes)
		return err_set(err, -EINVAL,
			       "shared RAM has %" PRIu64 " MiB, this machine %" PRIu64
			       ": it is another image's", (uint64_t)st.st_size >> 20, len_bytes >> 20);
	return 0;
}

/* Where the memfd has page `offset`, in bytes. */
static uint64_t backing_at(const struct memory *mem, unsigned int region, uint64_t offset)
{
	unsigned int i;

	for (i = 0; i < region; i++)
		offset += mem->region[i].pages;
	return offset * PAGE_BYTES;
}

static void backing_advise(void *map, uint64_t len_bytes, bool dumpable)
{
	madvise(map, len_bytes, MADV_NOHUGEPAGE);
	madvise(map, len_bytes, MADV_DONTFORK);
	if (!dumpable)
		madvise(map, len_bytes, MADV_DONTDUMP);
}

/* Guest RAM, at the place where it is, is anonymous or the memfd's from now on. */
static int backing_map(struct memory *mem, unsigned int region, int memfd)
{
	uint64_t len_bytes = mem->region[region].pages * PAGE_BYTES;
	int flags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE | (memfd < 0 ? MAP_ANONYMOUS : 0);
	off_t at = memfd < 0 ? 0 : (off_t)backing_at(mem, region, 0);

	if (mmap(mem->region[region].host, len_bytes, PROT_READ | PROT_WRITE, flags, memfd, at) ==
	    MAP_FAILED)
		return -errno;
	backing_advise(mem->region[region].host, len_bytes, mem->dumpable);
	return 0;
}

int memory_set_backing(struct memory *mem, int memfd, struct err *err)
{
	uint64_t len_bytes = mem->pages * PAGE_BYTES;
	unsigned int i;
	int r = backing_check(mem, memfd, err);

	if (!r && (mem->uffd >= 0 || memory_is_backed(mem)))
		r = err_set(err, -EINVAL, "this memory is in use already");
	if (r < 0)
		return r;
	mem->backing = fcntl(memfd, F_DUPFD_CLOEXEC, 0);
	if (mem->backing < 0)
		return err_errno(err, -errno, "shared RAM");
	mem->backing_map = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
				mem->backing, 0);
	if (mem->backing_map == MAP_FAILED) {
		mem->backing_map = NULL;
		r = -errno;
	} else {
		backing_advise(mem->backing_map, len_bytes, false);
	}
	for (i = 0; i < mem->regions && !r; i++)
		r = backing_map(mem, i, mem->backing);
	if (r < 0) {
		/* As it was, but for its advice; nobody has used it. */
		for (i = 0; i < mem->regions; i++)
			backing_map(mem, i, -1);
		memory_backing_fini(mem);
		return err_errno(err, r, "mapping shared RAM");
	}
	return 0;
}

bool memory_is_backed(const struct memory *mem)
{
	return mem->backing >= 0;
}

/* ---- watching, and its end ---- */

int memory_backing_watch(struct memory *mem, struct err *err)
{
	struct uffdio_register reg = {
		.range = { .start = (uintptr_t)mem->backing_map, .len = mem->pages * PAGE_BYTES },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	uint64_t there;

	mem->backing_uffd = memory_uffd_open(0, &there, err);
	if (mem->backing_uffd < 0)
		return mem->backing_uffd;
	if (ioctl(mem->backing_uffd, UFFDIO_REGISTER, &reg) < 0)
		return err_errno(err, -errno, "userfaultfd: registering shared RAM");
	return 0;
}

void memory_backing_leave(struct memory *mem)
{
	unsigned int i;

	for (i = 0; i < mem->regions; i++) {
		if (backing_map(mem, i, -1) < 0)
			log_error("shared RAM cannot be unmapped: errno %d", errno);
		/* Whoever still waits finds anonymous memory. */
		memory_wake_kernel(mem, i, 0, mem->region[i].pages);
	}
	if (mem->backing_uffd >= 0)
		close(mem->backing_uffd);
	mem->backing_uffd = -1;
}

void memory_backing_fini(struct memory *mem)
{
	if (mem->backing_map)
		munmap(mem->backing_map, mem->pages * PAGE_BYTES);
	mem->backing_map = NULL;
	if (mem->backing >= 0)
		close(mem->backing);
	mem->backing = -1;
}

/* ---- pages ---- */

int64_t memory_backing_copy(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n,
			    const uint8_t *pages)
{
	struct uffdio_copy copy = {
		.dst = (uintptr_t)mem->backing_map + backing_at(mem, region, offset),
		.src = (uintptr_t)pages,
		.len = n * PAGE_BYTES,
	};
	int64_t got = (int64_t)n;

	if (ioctl(mem->backing_uffd, UFFDIO_COPY, &copy) < 0)
		got = copy.copy > 0 ? copy.copy / (int64_t)PAGE_BYTES : -errno;
	/* It has woken nobody: who waits does so at the other mapping. */
	if (got > 0)
		memory_wake_kernel(mem, region, offset, (uint64_t)got);
	return got;
}

/*
 * The first page from `at` on, before `end`, that the memfd holds, and how many
 * there are in a row; 0: none. In bytes.
 */
static uint64_t backing_find(int memfd, uint64_t *at, uint64_t end)
{
	off_t data = lseek(memfd, (off_t)*at, SEEK_DATA), hole;

	if (data < 0 || (uint64_t)data >= end)
		return 0;
	hole = lseek(memfd, data, SEEK_HOLE);
	if (hole <= data)
		return 0;
	*at = (uint64_t)data;
	return ((uint64_t)hole < end ? (uint64_t)hole : end) - *at;
}

uint64_t memory_backing_run(const struct memory *mem, unsigned int region, uint64_t offset,
			    uint64_t n)
{
	uint64_t start = backing_at(mem, region, offset), at = start;
	uint64_t len_bytes = backing_find(mem->backing, &at, start + n * PAGE_BYTES);

	return at == start ? len_bytes / PAGE_BYTES : 0;
}

static int64_t zero_put(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n)
{
	int64_t got;

	do
		got = memory_fill_copy(mem, region, offset, n, NULL);
	while (got == -EAGAIN);
	return got;
}

uint64_t memory_backing_zero(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n)
{
	uint64_t i = 0, done = 0;
	unsigned int tries = 0;
	int64_t got;

	while (i < n) {
		got = zero_put(mem, region, offset + i, n - i);
		if (got == -ENOENT)	/* cut in pieces by an eject */
			got = zero_put(mem, region, offset + i, 1);
		if (got > 0) {
			done += (uint64_t)got;
		} else if (tries++ < ZERO_TRIES &&
			   !madvise(mem->region[region].host + (offset + i) * PAGE_BYTES,
				    PAGE_BYTES, MADV_DONTNEED)) {
			/* The guest has touched it meanwhile. */
			continue;
		}
		i += got > 0 ? (uint64_t)got : 1;
		tries = 0;
	}
	return done;
}

/* Of one huge page. */
static uint64_t look_huge(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n)
{
	uint64_t start = backing_at(mem, region, offset), at = start, len, i, fresh = 0;
	pthread_mutex_t *lock = memory_huge_lock(mem, region, offset);
	struct wakes wakes = { 0 };

	while ((len = backing_find(mem->backing, &at, start + n * PAGE_BYTES))) {
		for (i = (at - start) / PAGE_BYTES; i < (at - start + len) / PAGE_BYTES; i++) {
			if (memory_fill_is_over(mem, region, offset + i))
				continue;
			memory_wake_kernel(mem, region, offset + i, 1);
			fresh += memory_publish(mem, region, offset + i, 1, &wakes);
		}
		at += len;
	}
	pthread_mutex_unlock(lock);
	memory_wake_published(mem, region, offset, &wakes);
	memory_count_fresh(mem, fresh);
	return fresh;
}

uint64_t memory_look(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n)
{
	uint64_t i, part, fresh = 0;

	if (!memory_is_backed(mem))
		return 0;
	for (i = 0; i < n; i += part) {
		part = HUGE_PAGES - (offset + i) % HUGE_PAGES;
		part = part < n - i ? part : n - i;
		fresh += look_huge(mem, region, offset + i, part);
	}
	return fresh;
}

int64_t memory_refresh(struct memory *mem, gfn_t first, uint64_t n)
{
	unsigned int region;
	uint64_t offset;

	if (!memory_find(mem, first, n, &region, &offset))
		return -EFAULT;
	return (int64_t)memory_look(mem, region, offset, n);
}

/* ---- of another process, which has ended ---- */

/* How many pages became zeros, or a negative errno of the first. */
static int64_t retire_zero(int uffd, uint64_t host, uint64_t n)
{
	struct uffdio_zeropage zero = { .range = { .start = host, .len = n * PAGE_BYTES } };
	unsigned int tries = 0;

	while (ioctl(uffd, UFFDIO_ZEROPAGE, &zero) < 0) {
		if (zero.zeropage > 0)
			return zero.zeropage / (int64_t)PAGE_BYTES;
		if (errno != EAGAIN || ++tries > RETIRE_TRIES)
			return -errno;
		sched_yield();
	}
	return (int64_t)n;
}

static int retire_region(int uffd, const struct memory_region *region)
{
	struct uffdio_range all = {
		.start = (uintptr_t)region->host, .len = region->pages * PAGE_BYTES,
	};
	uint64_t i = 0, batch = region->pages;
	int64_t got;

	while (i < region->pages) {
		batch = batch < region->pages - i ? batch : region->pages - i;
		got = retire_zero(uffd, all.start + i * PAGE_BYTES, batch);
		if (got == -ESRCH)
			return 0;	/* its memory is gone, and nobody waits */
		if (got == -ENOENT && batch > 1) {
			/* In pieces: an eject was under way. */
			batch = batch > HUGE_PAGES ? HUGE_PAGES : 1;
			continue;
		}
		if (got < 0 && got != -EEXIST && got != -ENOENT)
			return (int)got;
		i += got > 0 ? (uint64_t)got : 1;
	}
	return ioctl(uffd, UFFDIO_WAKE, &all) < 0 ? -errno : 0;
}

int memory_retire(int uffd, const struct memory_region *regions, unsigned int n)
{
	unsigned int i;
	int r = 0;

	for (i = 0; i < n && !r; i++)
		r = retire_region(uffd, &regions[i]);
	return r;
}
