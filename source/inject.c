// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "source/inject.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/count.h"
#include "base/log.h"

struct rule {
	struct inject_rule is;
	_Atomic uint64_t seen;		/* pages */
};

struct inject {
	struct layer layer;
	struct rule rule[INJECT_RULES_MAX];
	unsigned int rules;
	uint64_t seed;
	_Atomic bool on;
	_Atomic uint64_t pages[INJECT_FAULTS];
};

/*
 * Does a rule for this fault hit the next page? The count is the page's number:
 * it orders nothing else.
 */
static bool hits(struct inject *inject, enum inject_fault fault)
{
	bool hit = false;
	unsigned int i;

	if (!atomic_load_explicit(&inject->on, memory_order_relaxed))
		return false;
	for (i = 0; i < inject->rules; i++) {
		struct rule *rule = &inject->rule[i];
		uint64_t k;

		if (rule->is.fault != fault)
			continue;
		k = atomic_fetch_add_explicit(&rule->seen, 1, memory_order_relaxed) + 1;
		if (rule->is.nth)
			hit |= k >= rule->is.nth &&
			       (!rule->is.pages || k - rule->is.nth < rule->is.pages);
		else
			/* 53 bits: what a double holds. */
			hit |= (double)(random_at(inject->seed + i, k) >> 11) <
			       rule->is.chance * 0x1p53;
	}
	return hit;
}

static int inject_request(struct page_source *source, gfn_t first, uint64_t n)
{
	struct inject *inject = (struct inject *)source;	/* the first member */
	uint64_t i, start;
	bool fail = false;
	int r = 0;

	for (i = 0; i < n; i++)
		fail |= hits(inject, INJECT_FAIL);
	if (fail) {
		count_add(&inject->pages[INJECT_FAIL], 1);
		return -ENOTCONN;
	}
	for (i = 0; i < n && !r; i++) {
		for (start = i; i < n && !hits(inject, INJECT_SILENCE); i++)
			;
		if (i > start)
			r = layer_ask(&inject->layer, GFN(first.v + start), i - start);
		count_add(&inject->pages[INJECT_SILENCE], i < n);
	}
	return r;
}

static int64_t fill_corrupt(struct inject *inject, gfn_t gfn, const uint8_t *page)
{
	uint64_t at = random_at(inject->seed, count_get(&inject->pages[INJECT_CORRUPT])) %
		      (PAGE_BYTES * 8);
	uint8_t wrong[PAGE_BYTES] = { 0 };

	count_add(&inject->pages[INJECT_CORRUPT], 1);
	if (page)
		memcpy(wrong, page, sizeof(wrong));
	wrong[at / 8] ^= (uint8_t)(1u << at % 8);
	return layer_fill(&inject->layer, gfn, 1, wrong);
}

/* [start, i) of a fill is whole. */
static int64_t inject_fill_run(struct inject *inject, gfn_t first, uint64_t start, uint64_t i,
			       const void *data)
{
	return i > start ? layer_fill(&inject->layer, GFN(first.v + start), i - start,
				      fill_page(data, start)) :
			   0;
}

/* What is committed goes on whole; around a fault it goes by fill, and the room is given back. */
static int64_t inject_pass(struct inject *inject, bool commit, gfn_t first, uint64_t n,
			   const void *data)
{
	uint64_t i, start = 0;
	int64_t r = 0, done = 0;

	for (i = 0; i < n; i++) {
		bool lose = hits(inject, INJECT_LOSE), corrupt = hits(inject, INJECT_CORRUPT);
		gfn_t gfn = GFN(first.v + i);

		if (!lose && !corrupt)
			continue;
		r = inject_fill_run(inject, first, start, i, data);
		done += r > 0 ? r : 0;
		start = i + 1;
		if (r >= 0) {
			count_add(&inject->pages[INJECT_LOSE], lose);
			r = lose ? layer_lose(&inject->layer, gfn) :
				   fill_corrupt(inject, gfn, fill_page(data, i));
			done += r > 0 ? r : 0;
		}
		if (r < 0)
			break;
	}
	if (commit && !start)
		return layer_commit(&inject->layer, first, n, data);
	if (r >= 0)
		r = inject_fill_run(inject, first, start, n, data);
	if (commit && data)
		layer_commit(&inject->layer, first, 0, data);
	return r < 0 ? r : done + r;
}

static int64_t inject_fill(struct page_sink *sink, gfn_t first, uint64_t n, const void *data)
{
	return inject_pass((struct inject *)layer_of_sink(sink), false, first, n, data);
}

static int64_t inject_commit(struct page_sink *sink, gfn_t first, uint64_t n, const void *data)
{
	return inject_pass((struct inject *)layer_of_sink(sink), true, first, n, data);
}

static int inject_lose(struct page_sink *sink, gfn_t gfn)
{
	return layer_lose(layer_of_sink(sink), gfn);
}

static void inject_layer_free(struct layer *layer)
{
	free(layer);
}

static const struct page_source_ops source_ops = { .name = "inject", .request = inject_request };
static const struct page_sink_ops sink_ops = {
	.name = "inject",
	.fill = inject_fill,
	.lose = inject_lose,
	.room = layer_room_above,
	.commit = inject_commit,
};
static const struct layer_ops layer_ops = { .free = inject_layer_free };

int inject_new(struct inject **out, const struct inject_rule *rules, unsigned int n, uint64_t seed,
	       struct err *err)
{
	struct inject *inject;
	unsigned int i;

	if (n > INJECT_RULES_MAX)
		return err_set(err, -EINVAL, "inject: %u rules, at most %d are possible", n,
			       INJECT_RULES_MAX);
	for (i = 0; i < n; i++)
		/* Written so that a NaN is refused too. */
		if ((unsigned int)rules[i].fault >= INJECT_FAULTS ||
		    !(rules[i].chance >= 0 && rules[i].chance <= 1))
			return err_set(
				err, -EINVAL,
				"inject: rule %u: an unknown fault, or a chance not in 0 to 1", i);
	inject = calloc(1, sizeof(*inject));
	if (!inject)
		return err_set(err, -ENOMEM, "no memory to inject faults");
	layer_init(&inject->layer, &source_ops, &sink_ops, &layer_ops);
	for (i = 0; i < n; i++)
		inject->rule[i].is = rules[i];
	inject->rules = n;
	if (!seed && getrandom(&seed, sizeof(seed), GRND_NONBLOCK) != (ssize_t)sizeof(seed))
		seed = (uint64_t)clock_now_ns();
	inject->seed = seed;
	atomic_init(&inject->on, true);
	log_warn("page faults are injected, seed 0x%" PRIx64, seed);
	*out = inject;
	return 0;
}

struct layer *inject_layer(struct inject *inject)
{
	return &inject->layer;
}

void inject_enable(struct inject *inject, bool on)
{
	atomic_store_explicit(&inject->on, on, memory_order_relaxed);
}

uint64_t inject_seed(const struct inject *inject)
{
	return inject->seed;
}

void inject_stats(const struct inject *inject, struct inject_stats *stats)
{
	unsigned int i;

	for (i = 0; i < INJECT_FAULTS; i++)
		stats->pages[i] = count_get(&inject->pages[i]);
}
