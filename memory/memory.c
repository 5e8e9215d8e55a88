// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Regions, their allocation and look-up; the statistics. Where pages come from
// and who waits for them is in watch.c, fill.c and wait.c.
#include "memory/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cond.h"
#include "base/zeroed.h"
#include "memory/internal.h"

static int memory_check_ranges(const struct memory_range *ranges, unsigned int n, struct err *err)
{
	uint64_t end, last = 0;
	unsigned int i;

	if (n < 1 || n > MEMORY_REGIONS_MAX)
		return err_set(err, -EINVAL, "%u memory ranges, 1 to %d are possible", n,
			       MEMORY_REGIONS_MAX);
	for (i = 0; i < n; i++) {
		if (!ranges[i].len_bytes || ranges[i].len_bytes % HUGE_BYTES ||
		    ranges[i].base.v % HUGE_BYTES)
			return err_set(err, -EINVAL,
				       "memory range %u (0x%" PRIx64 ", 0x%" PRIx64
				       " bytes) is not a multiple of 2 MiB", i, ranges[i].base.v,
				       ranges[i].len_bytes);
		if (__builtin_add_overflow(ranges[i].base.v, ranges[i].len_bytes, &end) ||
		    ranges[i].base.v < last)
			return err_set(err, -EINVAL, "memory range %u overlaps or wraps", i);
		last = end;
	}
	return 0;
}

/*
 * Anonymous private memory at a huge page's boundary; the kernel then maps 2
 * MiB at a time where it can.
 */
static uint8_t *memory_map(uint64_t len_bytes)
{
	uint64_t head;
	uint8_t *p;

	p = mmap(NULL, len_bytes + HUGE_BYTES, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	head = (HUGE_BYTES - (uintptr_t)p % HUGE_BYTES) % HUGE_BYTES;
	if (head)
		munmap(p, head);
	munmap(p + head + len_bytes, HUGE_BYTES - head);
	p += head;
	/*
	 * Advice, not conditions: without huge pages it is slower, a fork is
	 * never wanted, nor what the guest has in a core dump.
	 */
	madvise(p, len_bytes, MADV_HUGEPAGE);
	madvise(p, len_bytes, MADV_DONTFORK);
	madvise(p, len_bytes, MADV_DONTDUMP);
	return p;
}

static void memory_init_locks(struct memory *mem)
{
	unsigned int i;

	for (i = 0; i < MEMORY_HUGE_LOCKS; i++)
		pthread_mutex_init(&mem->huge_lock[i], NULL);
	pthread_rwlock_init(&mem->map_lock, NULL);
	pthread_rwlock_init(&mem->source_lock, NULL);
	pthread_mutex_init(&mem->wait_lock, NULL);
	pthread_mutex_init(&mem->eject_lock, NULL);
	cond_init(&mem->no_sleepers);
	cond_init(&mem->eject_over);
	pthread_cond_init(&mem->room, NULL);
	pthread_mutex_init(&mem->collapse_lock, NULL);
	memory_spans_init(mem);
	memory_rooms_init(mem);
}

static size_t begun_bytes(const struct memory_region *region)
{
	return (region->pages / HUGE_PAGES + 63) / 64 * sizeof(uint64_t);
}

static int region_new(struct memory *mem, const struct memory_range *range, struct err *err)
{
	struct memory_region *region = &mem->region[mem->regions];
	unsigned int i = mem->regions++;

	region->first = gpa_to_gfn(range->base);
	region->pages = range->len_bytes / PAGE_BYTES;
	region->host = memory_map(range->len_bytes);
	mem->state[i] = zeroed_new(region->pages);
	mem->begun[i] = zeroed_new(begun_bytes(region));
	mem->pages += region->pages;
	if (region->host && mem->state[i] && mem->begun[i])
		return 0;
	return err_set(err, -ENOMEM,
		       "the host has no %" PRIu64 " MiB of address space for guest RAM",
		       range->len_bytes >> 20);
}

int memory_new_missing(struct memory **out, const struct memory_range *ranges, unsigned int n,
		       struct err *err)
{
	struct memory *mem;
	unsigned int i;
	int r;

	r = memory_check_ranges(ranges, n, err);
	if (r < 0)
		return r;
	mem = calloc(1, sizeof(*mem));
	if (!mem)
		return err_set(err, -ENOMEM, "no memory for the page states");
	memory_init_locks(mem);
	mem->sink.ops = &memory_sink_ops;
	mem->uffd = -1;
	mem->uffd_place = eventfd(0, EFD_CLOEXEC);
	mem->stop_fd = -1;
	mem->pagemap = -1;
	mem->backing = -1;
	mem->backing_uffd = -1;
	mem->way = WAY_OUT_EJECT;
	mem->eject_after_ns = EJECT_AFTER_NS;
	for (i = 0; i < n && !r; i++)
		r = region_new(mem, &ranges[i], err);
	if (r < 0) {
		memory_free(mem);
		return r;
	}
	*out = mem;
	return 0;
}

int memory_new(struct memory **out, const struct memory_range *ranges, unsigned int n,
	       struct err *err)
{
	struct memory *mem;
	unsigned int i;
	int r;

	r = memory_new_missing(&mem, ranges, n, err);
	if (r < 0)
		return r;
	for (i = 0; i < mem->regions; i++) {
		memset((void *)mem->state[i], PAGE_PRESENT, mem->region[i].pages);
		memset((void *)mem->begun[i], 0xff, begun_bytes(&mem->region[i]));
	}
	*out = mem;
	return 0;
}

void memory_make_missing(struct memory *mem)
{
	unsigned int i;

	for (i = 0; i < mem->regions; i++) {
		zeroed_clear((void *)mem->state[i], mem->region[i].pages);
		zeroed_clear((void *)mem->begun[i], begun_bytes(&mem->region[i]));
	}
}

uint64_t memory_next_begun(const struct memory *mem, unsigned int region, uint64_t offset)
{
	uint64_t pages = mem->region[region].pages, huge = offset / HUGE_PAGES, word;

	if (offset >= pages)
		return pages;
	if (memory_is_begun(mem, region, offset))
		return offset;
	for (huge++; huge < pages / HUGE_PAGES; huge = (huge | 63) + 1) {
		word = atomic_load(&mem->begun[region][huge / 64]) >> (huge % 64);
		if (!word)
			continue;
		huge += (uint64_t)__builtin_ctzll(word);
		break;
	}
	/* What stands behind the last huge page is nobody's. */
	return huge < pages / HUGE_PAGES ? huge * HUGE_PAGES : pages;
}

int memory_set_dumpable(struct memory *mem)
{
	unsigned int i;

	mem->dumpable = true;
	for (i = 0; i < mem->regions; i++)
		if (madvise(mem->region[i].host, mem->region[i].pages * PAGE_BYTES, MADV_DODUMP) <
		    0)
			return -errno;
	return 0;
}

void memory_shut(struct memory *mem)
{
	/*
	 * Sequentially consistent: a sleeper either sees it, or is seen by
	 * memory_wake_all under wait_lock.
	 */
	atomic_store(&mem->shut, true);
	memory_wake_all(mem);
	memory_rooms_end(mem);
	memory_collapse_end(mem);
	memory_unwatch(mem);
}

void memory_free(struct memory *mem)
{
	unsigned int i;

	if (!mem)
		return;
	memory_shut(mem);
	memory_rooms_fini(mem);
	memory_backing_fini(mem);
	for (i = 0; i < mem->regions; i++) {
		if (mem->region[i].host)
			munmap(mem->region[i].host, mem->region[i].pages * PAGE_BYTES);
		zeroed_free((void *)mem->state[i], mem->region[i].pages);
		zeroed_free((void *)mem->begun[i], begun_bytes(&mem->region[i]));
	}
	memory_spans_fini(mem);
	if (mem->pagemap >= 0)
		close(mem->pagemap);
	if (mem->uffd_place >= 0)
		close(mem->uffd_place);
	pthread_mutex_destroy(&mem->collapse_lock);
	pthread_cond_destroy(&mem->room);
	pthread_cond_destroy(&mem->eject_over);
	pthread_cond_destroy(&mem->no_sleepers);
	pthread_mutex_destroy(&mem->eject_lock);
	pthread_mutex_destroy(&mem->wait_lock);
	pthread_rwlock_destroy(&mem->source_lock);
	pthread_rwlock_destroy(&mem->map_lock);
	for (i = 0; i < MEMORY_HUGE_LOCKS; i++)
		pthread_mutex_destroy(&mem->huge_lock[i]);
	free(mem);
}

const struct memory_region *memory_regions(const struct memory *mem, unsigned int *n)
{
	*n = mem->regions;
	return mem->region;
}

uint64_t memory_pages(const struct memory *mem)
{
	return mem->pages;
}

bool memory_find(const struct memory *mem, gfn_t first, uint64_t pages, unsigned int *region,
		 uint64_t *offset)
{
	unsigned int i;

	for (i = 0; i < mem->regions; i++) {
		const struct memory_region *r = &mem->region[i];

		if (first.v < r->first.v || first.v - r->first.v >= r->pages)
			continue;
		*region = i;
		*offset = first.v - r->first.v;
		return pages && pages <= r->pages - *offset;
	}
	return false;
}

bool memory_find_host(const struct memory *mem, uint64_t address, unsigned int *region,
		      uint64_t *offset)
{
	unsigned int i;

	for (i = 0; i < mem->regions; i++) {
		uint64_t host = (uintptr_t)mem->region[i].host;

		if (address < host || (address - host) / PAGE_BYTES >= mem->region[i].pages)
			continue;
		*region = i;
		*offset = (address - host) / PAGE_BYTES;
		return true;
	}
	return false;
}

bool memory_is_ram(const struct memory *mem, gpa_t gpa, uint64_t len_bytes)
{
	unsigned int region;
	uint64_t offset, last;

	if (!len_bytes || __builtin_add_overflow(gpa.v, len_bytes - 1, &last))
		return false;
	return memory_find(mem, gpa_to_gfn(gpa), last / PAGE_BYTES - gpa.v / PAGE_BYTES + 1,
			   &region, &offset);
}

bool memory_is_late(const struct memory *mem)
{
	return atomic_load(&mem->late);
}

enum page_state memory_page_state(const struct memory *mem, gfn_t gfn)
{
	unsigned int region;
	uint64_t offset;

	if (!memory_find(mem, gfn, 1, &region, &offset) || !memory_is_begun(mem, region, offset))
		return PAGE_MISSING;
	return state_of(state_load(&mem->state[region][offset]));
}

int64_t memory_missing_bitmap(const struct memory *mem, gfn_t first, uint64_t n, uint8_t *bits)
{
	unsigned int region;
	uint64_t offset, i;
	int64_t missing;

	if (!memory_find(mem, first, n, &region, &offset))
		return -EFAULT;
	/* Of a huge page that is not begun all are. */
	memset(bits, 0xff, n / 8);
	if (n % 8)
		bits[n / 8] = (uint8_t)((1u << (n % 8)) - 1);
	missing = (int64_t)n;
	for (i = memory_next_begun(mem, region, offset); i < offset + n;
	     i = memory_next_begun(mem, region, i + 1)) {
		if (state_of(state_load(&mem->state[region][i])) != PAGE_PRESENT)
			continue;
		bits[(i - offset) / 8] &= (uint8_t)~(1u << ((i - offset) % 8));
		missing--;
	}
	return missing;
}

void memory_stats(const struct memory *mem, struct memory_stats *stats)
{
	*stats = (struct memory_stats){
		.pages = mem->pages,
		.missing = count_get(&mem->n_missing),
		.requested = count_get(&mem->n_requested),
		.lost = count_get(&mem->n_lost),
		.faults = count_get(&mem->n_faults),
		.requests = count_get(&mem->n_requests),
		.filled = count_get(&mem->n_filled),
		.duplicates = count_get(&mem->n_duplicates),
		.kicks = count_get(&mem->n_kicks),
		.ejects = count_get(&mem->n_ejects),
		.split_huge = count_get(&mem->n_split_huge),
		.gup_sleeps = count_get(&mem->n_gup_sleeps),
		.direct_accesses = count_get(&mem->n_direct_accesses),
		.strays = count_get(&mem->n_direct_accesses),
		.discarded = count_get(&mem->n_discarded),
	};
}

struct hist *memory_latency(struct memory *mem)
{
	return &mem->latency;
}
