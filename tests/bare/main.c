// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * main.c - where the bare guest's cpus arrive in ring 3, and the loop that they never
 * leave.
 *
 * cpu 0 lays the work area out and says so in cfg.ready; the others wait for that. Then
 * each goes round: take up a new order if there is one, do one touch (or one page), note
 * how long the round took, and on cpu 0 look for a command. Memory: the image at 1 MiB, the
 * ledger at 4 MiB, or with more than 20 GiB of RAM behind page tables that begin there, the
 * work area from the next multiple of 2 MiB on.
 */
#include "guest.h"

#define MIB (1ull << 20)
#define LEDGER_GPA (4 * MIB)
#define LARGE_PAGE (2 * MIB)
#define LARGE_ENTRY 0xe7u	/* as in start.S */
#define TABLE_ENTRY 0x27u
#define TSC_KHZ_GUESS 3000000	/* rather look too seldom for commands than too often */

/* What a multiboot loader leaves; see the multiboot specification, 0.6.96, section 3.3. */
struct mb_info {
	uint32_t flags;
	uint32_t mem_lower_kib;
	uint32_t mem_upper_kib;
	uint32_t unused[8];
	uint32_t mmap_bytes;
	uint32_t mmap;
};

struct mb_range {
	uint32_t size;		/* of what follows */
	uint64_t base;
	uint64_t bytes;
	uint32_t type;		/* 1: RAM */
} __attribute__((packed));

#define MB_INFO_MEM (1u << 0)
#define MB_INFO_MMAP (1u << 6)

extern uint64_t pdpt[BARE_GIB_MAX];	/* in start.S */
struct bare_cfg cfg __attribute__((aligned(64)));
struct bare_stats stats[BARE_MAX_CPUS];
static uint64_t loop_at[BARE_MAX_CPUS][8];	/* a cache line each, first word used */

_Static_assert(sizeof(struct bare_note) == 56, "start.S lays the note out");
_Static_assert(BARE_HIGH_GPA + BARE_HIGH_MAX <= BARE_TOP_GPA, "one after the other");
_Static_assert(BARE_TOP_GPA + BARE_TOP_MAX <= (uint64_t)BARE_GIB_MAX << 30,
	       "start.S points to so much");

void bare_main(uint64_t cpu, uint64_t cpus, uint64_t low_bytes, uint64_t high_bytes,
	       uint64_t tsc_khz, uint64_t top_bytes);
void bare_main_pc(const struct mb_info *mb);

void *memset(void *to, int c, size_t n)
{
	void *at = to;

	__asm__ volatile("rep stosb" : "+D"(at), "+c"(n) : "a"(c) : "memory");
	return to;
}

void *memcpy(void *to, const void *from, size_t n)
{
	void *at = to;

	__asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(n) : : "memory");
	return to;
}

void gap_skip(void)
{
	loop_at[0][0] = tsc();
}

static uint64_t pages_between(uint64_t from, uint64_t to)
{
	return to > from ? (to - from) >> 12 : 0;
}

/* Maps [from, to), of which nothing is mapped yet: a table first, then who points to it. */
static void map(uint64_t from, uint64_t to)
{
	uint64_t at, table;

	for (at = from; at < to; at += LARGE_PAGE) {
		table = BARE_TABLES_GPA + ((at >> 30) - BARE_MAPPED_GIB) * 4096;
		WRITE(((uint64_t *)table)[at >> 21 & 511], at | LARGE_ENTRY);
		if ((at >> 21 & 511) == 511 || at + LARGE_PAGE == to)
			WRITE(pdpt[at >> 30], table | TABLE_ENTRY);
	}
}

/* Where the ledger may begin: behind the image, or behind page tables. */
static uint64_t map_rest(uint64_t high_bytes, uint64_t top_bytes)
{
	uint64_t mapped = (uint64_t)BARE_MAPPED_GIB << 30, high_end = BARE_HIGH_GPA + high_bytes;

	if (high_end <= mapped)
		return LEDGER_GPA;
	map(mapped, high_end);
	map(BARE_TOP_GPA, BARE_TOP_GPA + top_bytes);
	return BARE_TABLES_GPA + (BARE_GIB_MAX - BARE_MAPPED_GIB) * 4096ull;
}

static void layout(uint64_t cpus, uint64_t low_bytes, uint64_t high_bytes, uint64_t top_bytes,
		   uint64_t tsc_khz)
{
	uint64_t most;

	if (low_bytes > BARE_HIGH_GPA)
		low_bytes = BARE_HIGH_GPA;
	if (high_bytes > BARE_HIGH_MAX)
		high_bytes = BARE_HIGH_MAX;
	if (top_bytes > BARE_TOP_MAX)
		top_bytes = BARE_TOP_MAX;
	/* sized for more pages than are left once the ledger has its share */
	most = pages_between(LEDGER_GPA, low_bytes) + ((high_bytes + top_bytes) >> 12);
	cfg.low_bytes = low_bytes;
	cfg.high_bytes = high_bytes;
	cfg.top_bytes = top_bytes;
	cfg.ledger = map_rest(high_bytes, top_bytes);
	cfg.base = cfg.ledger + most * sizeof(struct bare_ledger);
	cfg.base = (cfg.base + LARGE_PAGE - 1) & ~(LARGE_PAGE - 1);
	cfg.low_pages = pages_between(cfg.base, low_bytes);
	cfg.total_pages = cfg.low_pages ? cfg.low_pages + ((high_bytes + top_bytes) >> 12) : 0;
	cfg.pages = cfg.total_pages;
	cfg.cpus = cpus;
	cfg.thr = 6900;
	cfg.tsc_khz = tsc_khz && tsc_khz < 1ull << 32 ? tsc_khz : TSC_KHZ_GUESS;
	cfg.beat_us = 1000;
	cfg.walk_mask = (1ull << BARE_MAX_CPUS) - 1;
	cfg.mode = 's';
}

static void loop(unsigned int cpu)
{
	struct bare_stats *st = &stats[cpu];
	uint64_t seq = 0, now, gap;

	loop_at[cpu][0] = tsc();
	for (;;) {
		if (READ(cfg.seq) != seq) {
			seq = READ(cfg.seq);
			walk_accept(cpu);
		}
		walk_step(cpu);
		now = tsc();
		gap = now - loop_at[cpu][0];
		if (gap > st->gap_max && gap < 1ull << 62) {
			st->gap_max = gap;
			st->gap_at = loop_at[cpu][0];
		}
		loop_at[cpu][0] = now;
		if (cpu == 0)
			command_poll(now);
	}
}

void bare_main(uint64_t cpu, uint64_t cpus, uint64_t low_bytes, uint64_t high_bytes,
	       uint64_t tsc_khz, uint64_t top_bytes)
{
	if (cpu >= BARE_MAX_CPUS)
		for (;;)
			relax();
	if (cpus > BARE_MAX_CPUS)
		cpus = BARE_MAX_CPUS;
	if (cpu == 0) {
		layout(cpus ? cpus : 1, low_bytes, high_bytes, top_bytes, tsc_khz);
		serial_init();
		serial_putc('\n');
		command_info("bare ready");
		WRITE(cfg.ready, 1);
	}
	while (!READ(cfg.ready))
		relax();
	loop((unsigned int)cpu);
}

/* Started by a multiboot loader, on one cpu: find the memory, then go on as above. */
void bare_main_pc(const struct mb_info *mb)
{
	uint64_t low = 0, high = 0, at, end;

	if (mb->flags & MB_INFO_MEM)
		low = MIB + ((uint64_t)mb->mem_upper_kib << 10);
	end = mb->flags & MB_INFO_MMAP ? (uint64_t)mb->mmap + mb->mmap_bytes : 0;
	for (at = mb->mmap; at < end; at += ((const struct mb_range *)at)->size + 4ull) {
		const struct mb_range *r = (const struct mb_range *)at;

		if (r->type != 1)
			continue;
		if (r->base <= MIB && r->base + r->bytes > MIB)
			low = r->base + r->bytes;
		else if (r->base == BARE_HIGH_GPA)
			high = r->bytes;
	}
	bare_main(0, 1, low, high, 0, 0);
}
