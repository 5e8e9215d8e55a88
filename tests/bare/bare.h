// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * bare.h - what the bare guest and its host share.
 *
 * The guest is a static ELF64 file, linked at 1 MiB, physical = virtual. An ELF note (name
 * "postern", type BARE_NOTE_TYPE) carries a struct bare_note: a loader that finds it starts
 * every vCPU in ring 3 of 64-bit mode with
 *
 *	RIP = entry		RSP = stack_top - cpu * stack_stride
 *	CR3 = cr3		CR0 = 0x80050033, CR4 = 0x620, EFER = 0x500
 *	CS  = 0x33 (64-bit code, DPL 3)	SS = DS = ES = 0x2b (data, DPL 3)
 *	RFLAGS = 0x3002 (IOPL 3, interrupts off)
 *	RDI = cpu, RSI = number of cpus
 *	RDX = bytes of RAM below 4 GiB, RCX = bytes of RAM from 4 GiB up
 *	R8  = the TSC's frequency in kHz, or 0
 *	R9  = bytes of RAM from 64 GiB up; what lies from 4 GiB up ends below
 *
 * The guest needs no descriptor table, no interrupt and no device but a 16550 at port
 * 0x3f8. The page tables map all RAM one to one, in 2 MiB pages that are already accessed and
 * dirty: those of the first 20 GiB are in the image, cpu 0 writes what more is needed. The
 * first BARE_MAX_CPUS cpus do as they are told, the others wait in a loop.
 *
 * Commands on the serial port; n is a decimal number that ends with a newline, the others
 * act at once. Only cpu 0 reads them, between two touches. Every reply is one line.
 *
 *	letter  does                                   reply
 *	i       information                            I version= pages= total= cpus= base= ...
 *	f       fill every page, generation 1          F pages= (when done)
 *	g       walk: read pages at random             G
 *	w       walk: write pages at random            W
 *	q       walk: read pages in order              Q
 *	W       walk: write pages in order             WS
 *	a       each page of the cpu's share, once     A
 *	c       verify a page and rewrite it, at random C
 *	s       stop what goes on                      T
 *	v       verify every word of every page        V pages= errors= bad= first= word= got= want=
 *	r       reset statistics                       R
 *	o       rewind the cursors of 'a'              O
 *	p       statistics of all cpus                 S name=value ...
 *	d       histogram, touches by cycles           H low:count ...
 *	e       first error of the walks               E errors= cpu= page= word= got= want= tsc=
 *	h       heartbeat on or off                    B on= then lines ".<count>"
 *	y       reboot, by the reset port of a PC         Y
 *	k n     heartbeat every n us (1000)            K us=
 *	m n     use the first n pages (0: all)         M pages=
 *	t n     touch page n                           T page= val= ok= cycles=
 *	x n     flip a bit in page n; again to undo    X page=
 *	b n     a mark                                 B mark= tsc= touches=
 *	l n     touches of n cycles and more are slow  L thr=
 *	u n     walks run on the cpus in bit mask n    U mask=
 *	z n     the TSC's frequency in kHz (R8)        Z khz=
 *	other                                          ? <code>
 *
 * "T" alone answers 's', "T page=" answers 't'. 'f' and 'v' go on between commands;
 * whatever changes the mode abandons them, with a line "J abandoned=". 'a' starts where it
 * stopped; 'f', 'm' and 'o' rewind it.
 *
 * Pages are numbered from the start of the work area; low memory first, then what lies
 * above 4 GiB. Only cpu (page % cpus) writes a page, so that nothing races. A page holds
 * 512 words of 64 bits:
 *
 *	word 0			generation, and a check of page and generation
 *	word bare_slot()	constant for the page: what the read walks check
 *	the word after it	count of write touches, and a check of page and count
 *	all others		a hash of page, generation and word
 *
 * The ledger, 4 bytes a page and outside the work area, says which generation and count the
 * page must have: a page that is whole but stale is an error too.
 */
#ifndef POSTERN_TESTS_BARE_H
#define POSTERN_TESTS_BARE_H

#include <stdint.h>

#define BARE_NOTE_NAME "postern"
#define BARE_NOTE_TYPE 1u
#define BARE_VERSION 1u
#define BARE_MAX_CPUS 16u
#define BARE_BUCKETS 2048u
#define BARE_PAGE_WORDS 512u
#define BARE_HIGH_GPA (1ull << 32)
/* Page tables of the RAM beyond 20 GiB, a page for each GiB; there if there is such RAM. */
#define BARE_TABLES_GPA (4ull << 20)
#define BARE_MAPPED_GIB 20u
#define BARE_GIB_MAX 1536u
#define BARE_HIGH_MAX (28ull << 30)
#define BARE_TOP_GPA (1ull << 36)
#define BARE_TOP_MAX (1ull << 40)

/* The note's descriptor. The file holds it with 4-byte alignment: copy it out. */
struct bare_note {
	uint32_t version;	/* BARE_VERSION */
	uint32_t max_cpus;
	uint64_t cr3;
	uint64_t entry;
	uint64_t stack_top;	/* of cpu 0 */
	uint64_t stack_stride;
	uint64_t cfg;		/* GPA of one struct bare_cfg */
	uint64_t stats;		/* GPA of max_cpus times struct bare_stats */
};

/* Written by cpu 0, read by all. Every word is written in one piece. */
struct bare_cfg {
	uint64_t ready;		/* set last at start */
	uint64_t cpus;
	uint64_t low_bytes;	/* RAM below 4 GiB */
	uint64_t high_bytes;	/* RAM from 4 GiB up */
	uint64_t ledger;	/* GPA of struct bare_ledger for each page */
	uint64_t base;		/* GPA of page 0 */
	uint64_t low_pages;	/* pages of the work area below 4 GiB */
	uint64_t total_pages;
	uint64_t pages;		/* in use */
	uint64_t thr;		/* cycles from which a touch is slow */
	uint64_t tsc_khz;
	uint64_t beat_us;	/* period of the heartbeat */
	uint64_t walk_mask;	/* cpus that walk */
	uint64_t mode;		/* a command letter: f g w q W a c v, or s */
	uint64_t mode_seq;	/* how often mode was set */
	uint64_t reset_seq;	/* how often statistics were reset */
	uint64_t rewind_seq;	/* how often the cursors of 'a' were rewound */
	uint64_t seq;		/* bumped after any of the three above */
	uint64_t top_bytes;	/* RAM from 64 GiB up */
};

/* Where a wrong word was found. */
struct bare_error {
	uint64_t page;
	uint64_t word;
	uint64_t got;
	uint64_t want;
	uint64_t tsc;
};

/* One a cpu, written by that cpu alone. Times are TSC cycles. */
struct bare_stats {
	/* protocol */
	uint64_t mode_seq;	/* orders taken up so far, see struct bare_cfg */
	uint64_t reset_seq;
	uint64_t rewind_seq;
	uint64_t done_seq;	/* mode_seq of the last fill or verify completed here */
	uint64_t cursor;	/* pages of its share that 'a' has touched */
	/* the last verify */
	uint64_t verify_pages;
	uint64_t verify_errors;	/* wrong words */
	uint64_t verify_bad;	/* pages with wrong words */
	struct bare_error verify_first;
	/* since the last reset */
	uint64_t touches;
	uint64_t passes;
	uint64_t errors;
	struct bare_error first;
	uint64_t slow;
	uint64_t sum_slow;
	uint64_t max;
	uint64_t t_first;	/* start of the first slow touch */
	uint64_t t_last;	/* end of the last slow touch */
	uint64_t gap_max;	/* longest round of the main loop */
	uint64_t gap_at;
	uint64_t hist[BARE_BUCKETS];
} __attribute__((aligned(4096)));

struct bare_ledger {
	uint16_t gen;
	uint16_t writes;
};

/* Histogram: 32 linear buckets for each power of two. */
static inline unsigned int bare_bucket(uint64_t v)
{
	unsigned int e, b;

	if (v < 32)
		return (unsigned int)v;
	e = 63u - (unsigned int)__builtin_clzll(v);
	b = (e - 4) * 32 + (unsigned int)((v >> (e - 5)) & 31);
	return b < BARE_BUCKETS ? b : BARE_BUCKETS - 1;
}

/* The least value that falls into bucket b. */
static inline uint64_t bare_low(unsigned int b)
{
	unsigned int e = b / 32 + 4;

	if (b < 64)
		return b;
	return (1ull << e) + ((uint64_t)(b % 32) << (e - 5));
}

static inline uint64_t bare_hash(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

/* The page's constant word: even, from 2 to 510. */
static inline unsigned int bare_slot(uint64_t page)
{
	return 2 + 2 * (unsigned int)((bare_hash(page) >> 8) % 255);
}

static inline uint64_t bare_const_word(uint64_t page)
{
	return bare_hash(~page);
}

static inline uint64_t bare_write_word(uint64_t page, uint32_t writes)
{
	uint64_t h = bare_hash(page * 0x100000001b3ull ^ (uint64_t)writes << 40);

	return (h & ~0xffffffffull) | writes;
}

static inline uint64_t bare_gen_word(uint64_t page, uint32_t gen)
{
	uint64_t h = bare_hash((page ^ 0x5bd1e995ull) + ((uint64_t)gen << 40));

	return (h & ~0xffffffffull) | gen;
}

static inline uint64_t bare_data_word(uint64_t page, uint32_t gen, unsigned int word)
{
	return bare_hash(page * BARE_PAGE_WORDS + word + ((uint64_t)gen << 44));
}

#endif
