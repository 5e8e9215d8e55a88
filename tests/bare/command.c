// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * command.c - the bare guest's commands: cpu 0 reads them, orders the others about, prints
 * replies.
 *
 * An empty look at the serial port happens at most once a millisecond; while characters
 * arrive, one is taken each round of the main loop. The letters and replies stand in
 * bare.h.
 */
#include "guest.h"

#define NUMBER_MAX (1ull << 60)

static uint64_t next_look;
static uint64_t next_beat;
static uint64_t beats;
static bool beating;
static int pending;		/* the letter whose number is being read, or 0 */
static uint64_t number;
static int job;			/* 'f' or 'v' while its reply is owed */
static uint64_t merged[BARE_BUCKETS];

static void kv(const char *key, uint64_t v)
{
	serial_puts(key);
	serial_num(v);
}

static void reply_u64(const char *key, uint64_t v)
{
	kv(key, v);
	serial_putc('\n');
}

static void order_all(void)
{
	WRITE(cfg.seq, cfg.seq + 1);
}

static void rewind_all(void)
{
	WRITE(cfg.rewind_seq, cfg.rewind_seq + 1);
}

static void mode_set(int mode)
{
	if (job) {
		serial_puts("J abandoned=");
		serial_putc((char)job);
		serial_putc('\n');
	}
	job = mode == 'f' || mode == 'v' ? mode : 0;
	WRITE(cfg.mode, (uint64_t)mode);
	WRITE(cfg.mode_seq, cfg.mode_seq + 1);
	order_all();
}

static void walk(int mode, const char *reply)
{
	mode_set(mode);
	serial_puts(reply);
}

void command_info(const char *prefix)
{
	serial_puts(prefix);
	kv(" version=", BARE_VERSION);
	kv(" pages=", cfg.pages);
	kv(" total=", cfg.total_pages);
	kv(" cpus=", cfg.cpus);
	kv(" base=", cfg.base);
	kv(" lowpages=", cfg.low_pages);
	kv(" low=", cfg.low_bytes);
	kv(" high=", cfg.high_bytes);
	kv(" thr=", cfg.thr);
	kv(" khz=", cfg.tsc_khz);
	kv(" mask=", cfg.walk_mask);
	serial_puts(" mode=");
	serial_putc((char)cfg.mode);
	serial_putc('\n');
}

/* A cpu that has not taken the last reset up yet (it may wait for a page) counts as empty. */
static bool stats_fresh(unsigned int cpu)
{
	return READ(stats[cpu].reset_seq) == cfg.reset_seq;
}

static void hist_merge(void)
{
	unsigned int cpu, i;

	memset(merged, 0, sizeof(merged));
	for (cpu = 0; cpu < cfg.cpus; cpu++) {
		if (!stats_fresh(cpu))
			continue;
		for (i = 0; i < BARE_BUCKETS; i++)
			merged[i] += stats[cpu].hist[i];
	}
}

/* The permille-th touch among those of at least thr cycles, as the least value of its bucket. */
static uint64_t percentile(uint64_t thr, uint64_t permille)
{
	uint64_t n = 0, seen = 0, want;
	unsigned int i, from = bare_bucket(thr);

	for (i = from; i < BARE_BUCKETS; i++)
		n += merged[i];
	want = (n * permille + 999) / 1000;
	for (i = from; n && i < BARE_BUCKETS; i++) {
		seen += merged[i];
		if (seen >= want)
			return bare_low(i);
	}
	return 0;
}

static void print_percentiles(void)
{
	kv(" all50=", percentile(0, 500));
	kv(" all99=", percentile(0, 990));
	kv(" all999=", percentile(0, 999));
	kv(" p50=", percentile(cfg.thr, 500));
	kv(" p90=", percentile(cfg.thr, 900));
	kv(" p99=", percentile(cfg.thr, 990));
	kv(" p999=", percentile(cfg.thr, 999));
}

/* Taken in one go before a reply, since a reply takes milliseconds and the cpus walk on. */
static struct bare_stats sum;	/* its histogram stays empty */
static uint64_t touches_of[BARE_MAX_CPUS];
static uint64_t gap_of[BARE_MAX_CPUS];
static uint64_t passes_min;

static void stats_merge(void)
{
	unsigned int cpu;

	memset(&sum, 0, sizeof(sum));
	passes_min = UINT64_MAX;
	for (cpu = 0; cpu < cfg.cpus; cpu++) {
		const struct bare_stats *st = &stats[cpu];

		touches_of[cpu] = gap_of[cpu] = 0;
		if (!stats_fresh(cpu)) {
			passes_min = 0;
			continue;
		}
		touches_of[cpu] = READ(st->touches);
		gap_of[cpu] = st->gap_max;
		sum.touches += touches_of[cpu];
		sum.passes += st->passes;
		if (st->passes < passes_min)
			passes_min = st->passes;
		sum.errors += st->errors;
		sum.slow += st->slow;
		sum.sum_slow += st->sum_slow;
		if (st->max > sum.max)
			sum.max = st->max;
		if (st->t_first && (!sum.t_first || st->t_first < sum.t_first))
			sum.t_first = st->t_first;
		if (st->t_last > sum.t_last)
			sum.t_last = st->t_last;
		if (gap_of[cpu] > sum.gap_max) {
			sum.gap_max = gap_of[cpu];
			sum.gap_at = st->gap_at;
		}
	}
}

static void print_cpus(const char *key, const uint64_t *values)
{
	unsigned int cpu;

	for (cpu = 0; cpu < cfg.cpus; cpu++) {
		serial_putc(' ');
		serial_puts(key);
		serial_num(cpu);
		kv("=", values[cpu]);
	}
}

static uint64_t pages_left(void)
{
	uint64_t left = 0, share;
	unsigned int cpu;

	for (cpu = 0; cpu < cfg.cpus; cpu++) {
		share = walk_share(cpu);
		if (READ(stats[cpu].rewind_seq) != cfg.rewind_seq)
			left += share;
		else if (stats[cpu].cursor < share)
			left += share - stats[cpu].cursor;
	}
	return left;
}

/* How many cpus have taken up the last mode: fewer than all means that some wait for a page. */
static uint64_t cpus_taken(void)
{
	uint64_t n = 0;
	unsigned int cpu;

	for (cpu = 0; cpu < cfg.cpus; cpu++)
		n += READ(stats[cpu].mode_seq) == cfg.mode_seq;
	return n;
}

static void print_stats(void)
{
	uint64_t taken, left;

	stats_merge();
	hist_merge();
	taken = cpus_taken();
	left = pages_left();
	serial_puts("S mode=");
	serial_putc((char)cfg.mode);
	kv(" cpus=", cfg.cpus);
	kv(" taken=", taken);
	kv(" touches=", sum.touches);
	kv(" passes=", sum.passes);
	kv(" minpasses=", passes_min);
	kv(" errors=", sum.errors);
	kv(" slow=", sum.slow);
	print_percentiles();
	kv(" max=", sum.max);
	kv(" sumslow=", sum.sum_slow);
	kv(" span=", sum.t_last - sum.t_first);
	kv(" gapmax=", sum.gap_max);
	kv(" gapat=", sum.gap_at);
	kv(" tfirst=", sum.t_first);
	kv(" tlast=", sum.t_last);
	kv(" left=", left);
	print_cpus("cpu", touches_of);
	print_cpus("gap", gap_of);
	reply_u64(" tsc=", tsc());
}

static void print_hist(void)
{
	unsigned int i;

	hist_merge();
	serial_putc('H');
	for (i = 0; i < BARE_BUCKETS; i++) {
		if (!merged[i])
			continue;
		kv(" ", bare_low(i));
		kv(":", merged[i]);
	}
	serial_putc('\n');
}

static void print_where(const struct bare_error *e)
{
	kv(" word=", e->word);
	serial_puts(" got=");
	serial_hex(e->got);
	serial_puts(" want=");
	serial_hex(e->want);
}

static void print_first_error(void)
{
	unsigned int cpu, first = 0;

	stats_merge();
	for (cpu = 0; cpu < cfg.cpus; cpu++)
		if (stats_fresh(cpu) && stats[cpu].errors &&
		    (!stats[first].errors || stats[cpu].first.tsc < stats[first].first.tsc))
			first = cpu;
	kv("E errors=", sum.errors);
	kv(" cpu=", first);
	kv(" page=", stats[first].first.page);
	print_where(&stats[first].first);
	reply_u64(" tsc=", stats[first].first.tsc);
}

static void print_verify(void)
{
	uint64_t pages = 0, errors = 0, bad = 0;
	const struct bare_error *first = NULL;
	unsigned int cpu;

	for (cpu = 0; cpu < cfg.cpus; cpu++) {
		const struct bare_stats *st = &stats[cpu];

		pages += st->verify_pages;
		errors += st->verify_errors;
		bad += st->verify_bad;
		if (st->verify_errors && (!first || st->verify_first.page < first->page))
			first = &st->verify_first;
	}
	kv("V pages=", pages);
	kv(" errors=", errors);
	kv(" bad=", bad);
	if (first) {
		kv(" first=", first->page);
		print_where(first);
	} else {
		serial_puts(" first=-1");
	}
	serial_putc('\n');
}

/* A fill or verify is over when it is over on every cpu. */
static void job_poll(void)
{
	unsigned int cpu;
	int done = job;

	for (cpu = 0; cpu < cfg.cpus; cpu++)
		if (READ(stats[cpu].done_seq) != cfg.mode_seq)
			return;
	job = 0;
	mode_set('s');
	if (done == 'f')
		reply_u64("F pages=", cfg.pages);
	else
		print_verify();
	gap_skip();
}

static void print_touch(uint64_t page)
{
	volatile uint64_t *p;
	uint64_t from, to, v;

	if (page >= cfg.total_pages) {
		reply_u64("? ", 't');
		return;
	}
	p = walk_page(page) + bare_slot(page);
	from = tsc();
	v = *p;
	to = tsc();
	kv("T page=", page);
	serial_puts(" val=");
	serial_hex(v);
	kv(" ok=", v == bare_const_word(page));
	reply_u64(" cycles=", to - from);
}

static void corrupt(uint64_t page)
{
	volatile uint64_t *p;

	if (page >= cfg.total_pages) {
		reply_u64("? ", 'x');
		return;
	}
	/* word 1 is never one of the special ones */
	p = walk_page(page) + 1;
	*p ^= 1;
	reply_u64("X page=", page);
}

static void mark(uint64_t n)
{
	uint64_t now = tsc();

	stats_merge();
	kv("B mark=", n);
	kv(" tsc=", now);
	reply_u64(" touches=", sum.touches);
}

static void limit(uint64_t n)
{
	cfg.pages = n && n < cfg.total_pages ? n : cfg.total_pages;
	rewind_all();
	mode_set('s');
	reply_u64("M pages=", cfg.pages);
}

static void command_number(int c, uint64_t n)
{
	switch (c) {
	case 'b':
		mark(n);
		break;
	case 'k':
		cfg.beat_us = n ? n : 1;
		reply_u64("K us=", cfg.beat_us);
		break;
	case 'l':
		WRITE(cfg.thr, n);
		reply_u64("L thr=", n);
		break;
	case 'm':
		limit(n);
		break;
	case 't':
		print_touch(n);
		break;
	case 'u':
		WRITE(cfg.walk_mask, n);
		reply_u64("U mask=", n);
		break;
	case 'x':
		corrupt(n);
		break;
	case 'z':
		cfg.tsc_khz = n ? n : 1;
		reply_u64("Z khz=", cfg.tsc_khz);
		break;
	}
}

static void command_letter(int c)
{
	switch (c) {
	case 'g':
		walk(c, "G\n");
		break;
	case 'w':
		walk(c, "W\n");
		break;
	case 'q':
		walk(c, "Q\n");
		break;
	case 'W':
		walk(c, "WS\n");
		break;
	case 'a':
		walk(c, "A\n");
		break;
	case 'c':
		walk(c, "C\n");
		break;
	case 's':
		walk(c, "T\n");
		break;
	case 'f':
		rewind_all();
		mode_set(c);
		break;
	case 'v':
		mode_set(c);
		break;
	case 'r':
		WRITE(cfg.reset_seq, cfg.reset_seq + 1);
		order_all();
		serial_puts("R\n");
		break;
	case 'o':
		rewind_all();
		order_all();
		serial_puts("O\n");
		break;
	case 'i':
		command_info("I");
		break;
	case 'p':
		print_stats();
		break;
	case 'd':
		print_hist();
		break;
	case 'e':
		print_first_error();
		break;
	case 'h':
		beating = !beating;
		reply_u64("B on=", beating);
		break;
	case 'y':
		serial_puts("Y\n");
		outb(RESET_PORT, RESET_CPU | RESET_SYSTEM);
		break;
	default:
		reply_u64("? ", (uint64_t)c);
	}
}

static bool takes_number(int c)
{
	static const char letters[] = "bklmtuxz";
	unsigned int i;

	for (i = 0; letters[i]; i++)
		if (letters[i] == c)
			return true;
	return false;
}

static void command_char(int c)
{
	int letter = pending;

	if (!letter) {
		if (takes_number(c)) {
			pending = c;
			number = 0;
		} else if (c != '\n' && c != '\r' && c != ' ') {
			command_letter(c);
		}
	} else if (c >= '0' && c <= '9' && number < NUMBER_MAX / 10) {
		number = number * 10 + (uint64_t)(c - '0');
	} else if (c == '\n' || c == '\r') {
		pending = 0;
		command_number(letter, number);
	} else if (c != ' ') {
		pending = 0;
		reply_u64("? ", (uint64_t)letter);
	}
}

/* Time differences below 2^62: a clock that was set back, as after a restore, counts as due. */
static bool due(uint64_t now, uint64_t *at, uint64_t period)
{
	if (*at - now - 1 < period)
		return false;
	*at = now + period;
	return true;
}

static void beat(uint64_t now)
{
	if (!due(now, &next_beat, cfg.beat_us * cfg.tsc_khz / 1000))
		return;
	beats++;
	/* nobody reads: skip it rather than wait */
	if (!serial_idle())
		return;
	serial_putc('.');
	serial_num(beats);
	serial_putc('\n');
	gap_skip();
}

void command_poll(uint64_t now)
{
	int c;

	if (beating)
		beat(now);
	if (!due(now, &next_look, cfg.tsc_khz))
		return;
	if (job)
		job_poll();
	c = serial_get();
	if (c < 0)
		return;
	next_look = now;
	command_char(c);
	gap_skip();
}
