// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A fill is cut into runs of good pages, which are passed on whole, and single
 * wrong ones. Only pages that were wrong before are remembered (how often), so
 * a source without faults costs the checksums and no lock.
 *
 * If the source is gone when a wrong page is to be asked again, the page stays
 * asked for and missing: whoever brings the next source (memory_attach) or
 * waits with a deadline (retry) asks again.
 */
#include "source/verify.h"

#include <stdlib.h>
#include <xxhash.h>

#include "base/count.h"
#include "source/page_table.h"

struct verify {
	struct layer layer;
	struct verify_config config;
	uint64_t zero_sum;
	pthread_mutex_t lock;		/* guards bad */
	struct page_table bad;
	_Atomic size_t bad_count;	/* as bad.count, to be read without the lock */
	_Atomic uint64_t good, unknown, wrong, again, lost;
};

bool verify_table_sum(void *arg, gfn_t gfn, uint64_t *sum)
{
	const struct verify_table *table = arg;

	if (gfn.v < table->first.v || gfn.v - table->first.v >= table->n)
		return false;
	*sum = table->sums[gfn.v - table->first.v];
	return true;
}

static bool page_is_good(struct verify *verify, gfn_t gfn, const uint8_t *page)
{
	uint64_t should, is;

	if (!verify->config.sum(verify->config.arg, gfn, &should)) {
		count_add(&verify->unknown, 1);
		return true;
	}
	is = page ? XXH3_64bits(page, PAGE_BYTES) : verify->zero_sum;
	count_add(is == should ? &verify->good : &verify->wrong, 1);
	return is == should;
}

/* A page was right: it need not be remembered. */
static void verify_forget(struct verify *verify, gfn_t gfn)
{
	/*
	 * Who missed the count asked and was answered while another thread
	 * noted this page: a stale note, no harm.
	 */
	if (!atomic_load_explicit(&verify->bad_count, memory_order_relaxed))
		return;
	pthread_mutex_lock(&verify->lock);
	page_table_take(&verify->bad, gfn);
	atomic_store_explicit(&verify->bad_count, verify->bad.count, memory_order_relaxed);
	pthread_mutex_unlock(&verify->lock);
}

/* A page was wrong: once more, or no more. */
static int reject(struct verify *verify, gfn_t gfn)
{
	struct page_note *note;
	bool again;

	pthread_mutex_lock(&verify->lock);
	note = page_table_find(&verify->bad, gfn);
	if (!note)
		note = page_table_add(&verify->bad, gfn);
	again = note && note->tries < verify->config.tries;
	if (again)
		note->tries++;
	else if (note)
		page_table_remove(&verify->bad, note);
	atomic_store_explicit(&verify->bad_count, verify->bad.count, memory_order_relaxed);
	pthread_mutex_unlock(&verify->lock);
	count_add(again ? &verify->again : &verify->lost, 1);
	if (!again)
		return layer_lose(&verify->layer, gfn);
	layer_ask(&verify->layer, gfn, 1);
	return 0;
}

/* *whole: are all of the pages right? Then nothing has been handed on yet. */
static int64_t fill_good(struct verify *verify, gfn_t first, uint64_t n, const void *data,
			 bool *whole)
{
	uint64_t i = 0, start;
	int64_t r, done = 0;

	while (i < n) {
		for (start = i; i < n && page_is_good(verify, GFN(first.v + i), fill_page(data, i));
		     i++)
			verify_forget(verify, GFN(first.v + i));
		if (i - start == n) {
			*whole = true;
			return 0;
		}
		if (i > start) {
			r = layer_fill(&verify->layer, GFN(first.v + start), i - start,
				       fill_page(data, start));
			if (r < 0)
				return r;
			done += r;
		}
		if (i == n)
			break;
		r = reject(verify, GFN(first.v + i));
		if (r < 0)
			return r;
		i++;
	}
	return done;
}

static int64_t verify_fill(struct page_sink *sink, gfn_t first, uint64_t n, const void *data)
{
	struct verify *verify = (struct verify *)layer_of_sink(sink);	/* the first member */
	bool whole = false;
	int64_t r = fill_good(verify, first, n, data, &whole);

	return whole ? layer_fill(&verify->layer, first, n, data) : r;
}

/*
 * Nothing of the room is visible yet. With a wrong page in it the right ones go by fill, and the
 * room is given back.
 */
static int64_t verify_commit(struct page_sink *sink, gfn_t first, uint64_t n, const void *data)
{
	struct verify *verify = (struct verify *)layer_of_sink(sink);
	bool whole = !n;
	int64_t r = fill_good(verify, first, n, data, &whole);

	if (whole)
		return layer_commit(&verify->layer, first, n, data);
	if (data)
		layer_commit(&verify->layer, first, 0, data);
	return r;
}

static int verify_lose(struct page_sink *sink, gfn_t gfn)
{
	struct verify *verify = (struct verify *)layer_of_sink(sink);

	verify_forget(verify, gfn);
	return layer_lose(&verify->layer, gfn);
}

static int verify_request(struct page_source *source, gfn_t first, uint64_t n)
{
	return layer_ask((struct layer *)source, first, n);	/* the first member */
}

static void verify_free(struct layer *layer)
{
	struct verify *verify = (struct verify *)layer;

	page_table_fini(&verify->bad);
	pthread_mutex_destroy(&verify->lock);
	free(verify);
}

static const struct page_source_ops source_ops = { .name = "verify", .request = verify_request };
static const struct page_sink_ops sink_ops = {
	.name = "verify",
	.fill = verify_fill,
	.lose = verify_lose,
	.room = layer_room_above,
	.commit = verify_commit,
};
static const struct layer_ops layer_ops = { .free = verify_free };

int verify_new(struct verify **out, const struct verify_config *config, struct err *err)
{
	static const uint8_t zeros[PAGE_BYTES];
	struct verify *verify;
	int r;

	if (!config->sum || config->tries > UINT8_MAX)
		return err_set(err, -EINVAL,
			       "verify: a checksum provider is needed, and 0 to 255 tries");
	verify = calloc(1, sizeof(*verify));
	if (!verify)
		return err_set(err, -ENOMEM, "no memory to verify pages");
	r = page_table_init(&verify->bad, config->bad_max, err);
	if (r < 0) {
		free(verify);
		return err_prefix(err, r, "verify");
	}
	layer_init(&verify->layer, &source_ops, &sink_ops, &layer_ops);
	verify->config = *config;
	verify->zero_sum = XXH3_64bits(zeros, sizeof(zeros));
	pthread_mutex_init(&verify->lock, NULL);
	*out = verify;
	return 0;
}

struct layer *verify_layer(struct verify *verify)
{
	return &verify->layer;
}

void verify_stats(const struct verify *verify, struct verify_stats *stats)
{
	*stats = (struct verify_stats){
		.good = count_get(&verify->good),
		.unknown = count_get(&verify->unknown),
		.wrong = count_get(&verify->wrong),
		.again = count_get(&verify->again),
		.lost = count_get(&verify->lost),
	};
}
