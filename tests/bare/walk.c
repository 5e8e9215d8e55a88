// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * walk.c - the bare guest's work area: fill, touch, verify, churn.
 *
 * A touch is one timed access of a page. A read touch reads the page's constant word; a
 * write touch exchanges the page's write word, which faults as a write and yet shows the
 * old value, so a lost write is seen at the next touch. The ledger is read before the clock
 * starts. Random walks visit each page once a pass, in an order of their own for each cpu:
 * a full-period generator over the next power of two, mixed so that low bits are not
 * regular, and skipping what lies outside.
 */
#include "guest.h"

/* A pseudo-random order of 0 .. n - 1 */
struct order {
	uint64_t n;
	uint64_t mask;
	unsigned int shift;
	uint64_t pos;
	uint64_t step;
};

struct walker {
	uint64_t mode;
	uint64_t pages;		/* in the whole area */
	uint64_t cpus;
	uint64_t n;		/* pages that this mode visits on this cpu */
	uint64_t next;		/* next page in order, as an index below n */
	uint64_t visited;	/* in this pass */
	struct order order;
} __attribute__((aligned(64)));

static struct walker walkers[BARE_MAX_CPUS];

uint64_t *walk_page(uint64_t page)
{
	if (page < cfg.low_pages)
		return (uint64_t *)(cfg.base + (page << 12));
	page -= cfg.low_pages;
	if (page < cfg.high_bytes >> 12)
		return (uint64_t *)(BARE_HIGH_GPA + (page << 12));
	return (uint64_t *)(BARE_TOP_GPA + ((page - (cfg.high_bytes >> 12)) << 12));
}

static struct bare_ledger *ledger_of(uint64_t page)
{
	return (struct bare_ledger *)cfg.ledger + page;
}

static void order_init(struct order *o, uint64_t n, uint64_t seed)
{
	unsigned int bits = 0;

	while (bits < 63 && 1ull << bits < n)
		bits++;
	o->n = n;
	o->mask = (1ull << bits) - 1;
	o->shift = bits / 2 + 1;
	o->pos = bare_hash(seed) & o->mask;
	o->step = bare_hash(~seed) | 1;
}

static uint64_t order_next(struct order *o)
{
	uint64_t x;

	do {
		o->pos = (o->pos * 0x5851f42d4c957f2dull + o->step) & o->mask;
		x = o->pos ^ o->pos >> o->shift;
		x = x * 0x9e3779b97f4a7c15ull & o->mask;
		x ^= x >> o->shift;
	} while (x >= o->n);
	return x;
}

static uint64_t share_start(uint64_t pages, uint64_t cpus, uint64_t cpu)
{
	return pages * cpu / cpus;
}

uint64_t walk_share(unsigned int cpu)
{
	return share_start(cfg.pages, cfg.cpus, cpu + 1) - share_start(cfg.pages, cfg.cpus, cpu);
}

static void stats_reset(struct bare_stats *st)
{
	st->touches = st->passes = st->errors = 0;
	st->first = (struct bare_error){ 0 };
	st->slow = st->sum_slow = st->max = 0;
	st->t_first = st->t_last = 0;
	st->gap_max = st->gap_at = 0;
	memset(st->hist, 0, sizeof(st->hist));
}

static void mode_start(struct walker *w, struct bare_stats *st, unsigned int cpu)
{
	w->mode = READ(cfg.mode);
	w->pages = READ(cfg.pages);
	w->cpus = cfg.cpus;
	w->next = 0;
	w->visited = 0;
	switch (w->mode) {
	case 'g':
	case 'q':
		w->n = w->pages;
		w->next = share_start(w->pages, w->cpus, cpu);
		break;
	case 'a':
		w->n = walk_share(cpu);
		break;
	default:
		w->n = w->pages > cpu ? (w->pages - cpu + w->cpus - 1) / w->cpus : 0;
	}
	order_init(&w->order, w->n, cpu);
	if (w->mode == 'v') {
		st->verify_pages = st->verify_errors = st->verify_bad = 0;
		st->verify_first = (struct bare_error){ 0 };
	}
}

void walk_accept(unsigned int cpu)
{
	struct bare_stats *st = &stats[cpu];
	uint64_t reset = READ(cfg.reset_seq);
	uint64_t rewind = READ(cfg.rewind_seq);
	uint64_t mode = READ(cfg.mode_seq);

	if (st->rewind_seq != rewind) {
		st->cursor = 0;
		WRITE(st->rewind_seq, rewind);
	}
	if (st->mode_seq != mode) {
		mode_start(&walkers[cpu], st, cpu);
		WRITE(st->mode_seq, mode);
	}
	if (st->reset_seq != reset) {
		stats_reset(st);
		WRITE(st->reset_seq, reset);
	}
}

static void error_note(uint64_t *errors, struct bare_error *first, uint64_t page,
		       uint64_t word, uint64_t got, uint64_t want)
{
	if (!*errors)
		*first = (struct bare_error){ page, word, got, want, tsc() };
	WRITE(*errors, *errors + 1);
}

static void touch_note(struct bare_stats *st, uint64_t from, uint64_t to)
{
	uint64_t cycles = to - from;

	st->hist[bare_bucket(cycles)]++;
	if (cycles > st->max)
		st->max = cycles;
	if (cycles >= cfg.thr) {
		st->slow++;
		st->sum_slow += cycles;
		if (!st->t_first)
			st->t_first = from;
		st->t_last = to;
	}
	WRITE(st->touches, st->touches + 1);
}

static void touch_read(struct bare_stats *st, uint64_t page)
{
	unsigned int word = bare_slot(page);
	volatile uint64_t *p = walk_page(page) + word;
	uint64_t want = bare_const_word(page), got, from, to;

	from = tsc();
	got = *p;
	to = tsc();
	touch_note(st, from, to);
	if (got != want)
		error_note(&st->errors, &st->first, page, word, got, want);
}

static void touch_write(struct bare_stats *st, uint64_t page)
{
	unsigned int word = bare_slot(page) + 1;
	volatile uint64_t *p = walk_page(page) + word;
	struct bare_ledger *l = ledger_of(page);
	uint64_t want = bare_write_word(page, l->writes), from, to;
	uint64_t v = bare_write_word(page, (uint16_t)(l->writes + 1));

	from = tsc();
	__asm__ volatile("xchgq %0,%1" : "+r"(v), "+m"(*p) : : "memory");
	to = tsc();
	l->writes++;
	touch_note(st, from, to);
	if (v != want)
		error_note(&st->errors, &st->first, page, word, v, want);
	if (p[-1] != bare_const_word(page))
		error_note(&st->errors, &st->first, page, word - 1, p[-1], bare_const_word(page));
}

static uint64_t word_of(uint64_t page, struct bare_ledger l, unsigned int word, unsigned int slot)
{
	if (word == 0)
		return bare_gen_word(page, l.gen);
	if (word == slot)
		return bare_const_word(page);
	if (word == slot + 1)
		return bare_write_word(page, l.writes);
	return bare_data_word(page, l.gen, word);
}

static void page_write(uint64_t page, struct bare_ledger l)
{
	volatile uint64_t *p = walk_page(page);
	unsigned int word, slot = bare_slot(page);

	for (word = 0; word < BARE_PAGE_WORDS; word++)
		p[word] = word_of(page, l, word, slot);
	*ledger_of(page) = l;
}

/* Returns the number of wrong words, counted in *errors as well. */
static uint64_t page_check(uint64_t page, uint64_t *errors, struct bare_error *first)
{
	struct bare_ledger l = *ledger_of(page);
	const volatile uint64_t *p = walk_page(page);
	unsigned int word, slot = bare_slot(page);
	uint64_t before = *errors, got, want;

	for (word = 0; word < BARE_PAGE_WORDS; word++) {
		got = p[word];
		want = word_of(page, l, word, slot);
		if (got != want)
			error_note(errors, first, page, word, got, want);
	}
	/* generation 0 is a page that was never filled, whatever it holds */
	if (!l.gen && *errors == before)
		error_note(errors, first, page, 0, p[0], bare_gen_word(page, 1));
	return *errors - before;
}

static void page_churn(struct bare_stats *st, uint64_t page)
{
	const volatile uint64_t *p = walk_page(page);
	struct bare_ledger l = *ledger_of(page);
	uint64_t from, to;

	from = tsc();
	(void)p[0];
	to = tsc();
	touch_note(st, from, to);
	page_check(page, &st->errors, &st->first);
	/* 0 stands for "never filled" */
	l.gen = l.gen == UINT16_MAX ? 1 : (uint16_t)(l.gen + 1);
	page_write(page, l);
}

static void page_verify(struct bare_stats *st, uint64_t page)
{
	if (page_check(page, &st->verify_errors, &st->verify_first))
		st->verify_bad++;
	WRITE(st->verify_pages, st->verify_pages + 1);
}

/* The page of a walk over the cpu's own pages. */
static uint64_t page_own(const struct walker *w, unsigned int cpu, uint64_t i)
{
	return i * w->cpus + cpu;
}

static uint64_t next_in_order(struct walker *w)
{
	uint64_t i = w->next;

	w->next = i + 1 < w->n ? i + 1 : 0;
	return i;
}

/* 'f' and 'v': one pass in order, then done. They run on every cpu whatever the mask says. */
static void step_job(struct walker *w, struct bare_stats *st, unsigned int cpu)
{
	uint64_t page;

	if (w->visited == w->n) {
		WRITE(st->done_seq, st->mode_seq);
		relax();
		return;
	}
	page = page_own(w, cpu, w->visited++);
	if (w->mode == 'f')
		page_write(page, (struct bare_ledger){ .gen = 1 });
	else
		page_verify(st, page);
}

/* 'a': the share in order, no page twice. */
static void step_once(struct walker *w, struct bare_stats *st, unsigned int cpu)
{
	if (st->cursor >= w->n) {
		relax();
		return;
	}
	touch_read(st, share_start(w->pages, w->cpus, cpu) + st->cursor);
	WRITE(st->cursor, st->cursor + 1);
}

static void step_walk(struct walker *w, struct bare_stats *st, unsigned int cpu)
{
	switch (w->mode) {
	case 'g':
		touch_read(st, order_next(&w->order));
		break;
	case 'w':
		touch_write(st, page_own(w, cpu, order_next(&w->order)));
		break;
	case 'q':
		touch_read(st, next_in_order(w));
		break;
	case 'W':
		touch_write(st, page_own(w, cpu, next_in_order(w)));
		break;
	case 'c':
		page_churn(st, page_own(w, cpu, order_next(&w->order)));
		break;
	}
	if (++w->visited == w->n) {
		w->visited = 0;
		st->passes++;
	}
}

void walk_step(unsigned int cpu)
{
	struct walker *w = &walkers[cpu];
	struct bare_stats *st = &stats[cpu];

	if (w->mode == 'f' || w->mode == 'v')
		step_job(w, st, cpu);
	else if (!w->mode || w->mode == 's' || !w->n || !(cfg.walk_mask >> cpu & 1))
		relax();
	else if (w->mode == 'a')
		step_once(w, st, cpu);
	else
		step_walk(w, st, cpu);
}
