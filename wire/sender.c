// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Two threads. The bulk thread sends what is not marked sent, huge page by huge
 * page (the destination can then place each in one piece): first those around
 * the pages that were asked for last, since whoever missed one page is about to
 * miss its neighbours, and else in ascending order. Runs of zero pages go as
 * one header, runs of others as one frame each, no faster than the limit. The
 * urgent thread reads requests and
 * answers each at once, whatever the bulk does; it also sends pages that are
 * marked sent, since the bulk may have them in flight behind megabytes of
 * others. The destination keeps whichever comes first.
 *
 * A guest that begins to run at the destination misses many pages one after the
 * other: the bulk lets the first answers go before it, for a few milliseconds
 * at most.
 *
 * The guest is paused, so its memory does not change between the checksum and
 * the send, and pages are sent from where they are. They are got with
 * GUP_NOWAIT: a migration out of memory that is itself late is refused before
 * it starts, so a page that is not here is an error, and never a wait.
 *
 * A mark is an atomic bit. Bulk and urgent may both take a page; the mark only
 * decides who counts it and what the bulk skips.
 *
 * A second bit is never taken back: the page's data has been handed to a
 * connection, on this link or an earlier one. A destination cannot have a page
 * without it, whatever it says. Both bits are set before the page is sent:
 * afterwards, the destination could be faster with its word that it has
 * everything.
 */
#include "wire/sender.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/bucket.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/cond.h"
#include "base/count.h"
#include "base/page.h"
#include "base/thread.h"
#include "memory/gup.h"

#define RUN_PAGES FRAME_PAGES_MAX		/* pages of one frame of data */
#define ZERO_RUN_PAGES ((uint32_t)HUGE_PAGES)	/* pages of one frame of zeros */
#define FIRST_WAIT_NS (5 * NS_PER_MS)		/* how long the bulk waits for the first request */
#define FIRST_BURST_NS NS_PER_MS		/* and then for those that follow it */
#define HINTS 64u				/* latest huge pages that were asked for */

struct sender_region {
	gfn_t first;
	uint64_t pages;
	_Atomic uint64_t *sent;		/* a bit a page: not to be sent on this link */
	_Atomic uint64_t *given;	/* a bit a page: its data was sent once */
};

struct sender {
	struct memory *mem;
	struct stream_pair pair;
	pthread_t urgent_thread, bulk_thread;
	bool started;
	_Atomic bool stop, lost;

	pthread_mutex_t hint_lock;	/* guards the hints: a stack that forgets its oldest */
	gfn_t hint[HINTS];
	unsigned int hints, hint_top;

	pthread_mutex_t lock;		/* guards limit and answered, and the bulk thread's sleep */
	pthread_cond_t changed;		/* limit, answered or stop */
	uint64_t limit;
	bool answered;			/* a request, on this link */

	uint64_t pages;
	_Atomic uint64_t unsent, ungiven;
	_Atomic uint64_t bytes, pages_normal, pages_zero, pages_urgent, pages_lost;
	unsigned int nregions;
	struct sender_region region[MEMORY_REGIONS_MAX];
};

static void sender_lost(struct sender *sender, enum wire_channel channel, struct err *err)
{
	if (atomic_load(&sender->stop) || atomic_exchange(&sender->lost, true))
		return;
	err_prefix(err, err->code, "%s connection", wire_channel_name(channel));
	sender->pair.lost(sender->pair.arg, err);
}

/* ---- marks ---- */

static struct sender_region *region_of(struct sender *sender, gfn_t gfn)
{
	unsigned int i;

	for (i = 0; i < sender->nregions; i++)
		if (gfn.v - sender->region[i].first.v < sender->region[i].pages)
			return &sender->region[i];
	return NULL;
}

static bool bit_is_set(const _Atomic uint64_t *bits, uint64_t page)
{
	/*
	 * The marks order nothing: page contents do not change, and either
	 * thread may send any page.
	 */
	return atomic_load_explicit(&bits[page / 64], memory_order_relaxed) >> (page % 64) & 1;
}

static bool is_sent(const struct sender_region *region, uint64_t page)
{
	return bit_is_set(region->sent, page);
}

/* The page's data goes out. */
static void mark_given(struct sender *sender, struct sender_region *region, uint64_t page)
{
	uint64_t bit = UINT64_C(1) << (page % 64);

	if (!(atomic_fetch_or_explicit(&region->given[page / 64], bit, memory_order_relaxed) & bit))
		atomic_fetch_sub_explicit(&sender->ungiven, 1, memory_order_relaxed);
}

/* Returns whether it was not marked before. */
static bool mark_sent(struct sender *sender, struct sender_region *region, uint64_t page)
{
	uint64_t bit = UINT64_C(1) << (page % 64);

	if (atomic_fetch_or_explicit(&region->sent[page / 64], bit, memory_order_relaxed) & bit)
		return false;
	atomic_fetch_sub_explicit(&sender->unsent, 1, memory_order_relaxed);
	return true;
}

/* The region that has all n pages from `first` on, and where in it they begin; NULL: none. */
static struct sender_region *region_with(struct sender *sender, gfn_t first, uint64_t n,
					 uint64_t *page)
{
	struct sender_region *region = region_of(sender, first);

	if (!region)
		return NULL;
	*page = first.v - region->first.v;
	return n <= region->pages - *page ? region : NULL;
}

int sender_mark_given(struct sender *sender, gfn_t first, uint64_t n)
{
	uint64_t page, end;
	struct sender_region *region = region_with(sender, first, n, &page);

	if (!region)
		return -EFAULT;
	for (end = page + n; page < end; page++) {
		mark_sent(sender, region, page);
		mark_given(sender, region, page);
	}
	return 0;
}

/* n (1 to 64) bits from the at-th on, the first of them lowest. */
static uint64_t bits_at(const uint8_t *bits, uint64_t at, unsigned int n)
{
	uint64_t value = 0;
	unsigned int i, take;

	if (at % 8 == 0 && n == 64)
		return get64(bits + at / 8);
	for (i = 0; i < n; i += take, at += take) {
		take = 8 - (unsigned int)(at % 8);
		take = take < n - i ? take : n - i;
		value |= (uint64_t)(bits[at / 8] >> at % 8 & ((1u << take) - 1)) << i;
	}
	return value;
}

/* The pages of one word of marks: those in `missing` are not there, those in `here` are. */
static int mark_reported_word(struct sender *sender, struct sender_region *region, uint64_t word,
			      uint64_t missing, uint64_t here, struct err *err)
{
	uint64_t false_word =
			 here & ~atomic_load_explicit(&region->given[word], memory_order_relaxed),
		 old;

	if (false_word)
		return err_set(err, -EBADMSG,
			       "the destination says that it has page 0x%" PRIx64
			       ", which was never sent",
			       region->first.v + 64 * word + (uint64_t)__builtin_ctzll(false_word));
	/* Stopped: nobody else marks. */
	old = atomic_load_explicit(&region->sent[word], memory_order_relaxed);
	atomic_store_explicit(&region->sent[word], (old & ~missing) | here, memory_order_relaxed);
	atomic_fetch_add_explicit(&sender->unsent, (uint64_t)__builtin_popcountll(old & missing),
				  memory_order_relaxed);
	atomic_fetch_sub_explicit(&sender->unsent, (uint64_t)__builtin_popcountll(here & ~old),
				  memory_order_relaxed);
	return 0;
}

int64_t sender_mark_reported(struct sender *sender, gfn_t first, uint64_t n, const uint8_t *missing,
			     struct err *err)
{
	uint64_t page, done, mask, bits;
	struct sender_region *region = region_with(sender, first, n, &page);
	int64_t sum = 0;
	unsigned int in, part;
	int r;

	if (!region)
		return err_set(err, -EFAULT,
			       "%" PRIu64 " pages from 0x%" PRIx64
			       ", which are not this guest's RAM",
			       n, first.v);
	for (done = 0; done < n; done += part) {
		in = (unsigned int)((page + done) % 64);
		part = 64 - in < n - done ? 64 - in : (unsigned int)(n - done);
		mask = UINT64_MAX >> (64 - part) << in;
		bits = bits_at(missing, done, part) << in;
		r = mark_reported_word(sender, region, (page + done) / 64, bits, mask & ~bits, err);
		if (r < 0)
			return r;
		sum += __builtin_popcountll(bits);
	}
	return sum;
}

/* The first page from `page` on that is not sent; region->pages: none. */
static uint64_t next_unsent(const struct sender_region *region, uint64_t page)
{
	while (page < region->pages) {
		uint64_t word =
			~atomic_load_explicit(&region->sent[page / 64], memory_order_relaxed);

		word &= UINT64_MAX << (page % 64);
		if (word) {
			page = (page & ~UINT64_C(63)) + (uint64_t)__builtin_ctzll(word);
			return page < region->pages ? page : region->pages;
		}
		page = (page | 63) + 1;
	}
	return region->pages;
}

/* How many pages from `page` (which is unsent) on are unsent, at most max. */
static uint32_t unsent_run(const struct sender_region *region, uint64_t page, uint32_t max)
{
	uint32_t n = 1;

	/* Never across a huge page's end. */
	if (max > HUGE_PAGES - page % HUGE_PAGES)
		max = (uint32_t)(HUGE_PAGES - page % HUGE_PAGES);
	while (n < max && !is_sent(region, page + n))
		n++;
	return n;
}

/* ---- hints ---- */

/* The huge page around gfn, which was just asked for. */
static void hint_push(struct sender *sender, struct sender_region *region, gfn_t gfn)
{
	uint64_t page = gfn.v - region->first.v;
	gfn_t huge = GFN(region->first.v + page - page % HUGE_PAGES);

	pthread_mutex_lock(&sender->hint_lock);
	sender->hint[sender->hint_top++ % HINTS] = huge;
	if (sender->hints < HINTS)
		sender->hints++;
	pthread_mutex_unlock(&sender->hint_lock);
}

static bool hint_pop(struct sender *sender, gfn_t *gfn)
{
	bool any;

	pthread_mutex_lock(&sender->hint_lock);
	any = sender->hints;
	if (any) {
		sender->hints--;
		*gfn = sender->hint[--sender->hint_top % HINTS];
	}
	pthread_mutex_unlock(&sender->hint_lock);
	return any;
}

/* ---- reading guest memory ---- */

/*
 * Gets up to n pages: the span's pages, as many as can be had in one piece. 0;
 * -EIO: the first page is LOST here; else an error that ends the link.
 */
static int pages_get(struct sender *sender, gfn_t first, uint32_t n, struct gup_span *span,
		     struct err *err)
{
	int r;

	memory_map_lock(sender->mem);
	r = gup(sender->mem, gfn_to_gpa(first), n * PAGE_BYTES, GUP_NOWAIT, NULL, span);
	/* Whether it is the first or a later page: ask for the first alone. */
	if (r == -EIO && n > 1)
		r = gup(sender->mem, gfn_to_gpa(first), PAGE_BYTES, GUP_NOWAIT, NULL, span);
	memory_map_unlock(sender->mem);
	if (!r || r == -EIO)
		return r;
	return err_errno(err, r, "reading page 0x%" PRIx64 " of the guest", first.v);
}

/*
 * How many pages from the span's start on are alike: all zero (at most
 * ZERO_RUN_PAGES) or none (at most RUN_PAGES).
 */
static uint32_t run_alike(const struct gup_span *span, bool *zero)
{
	uint32_t n = 1, max;

	*zero = page_is_zero(span->hva);
	max = *zero ? ZERO_RUN_PAGES : RUN_PAGES;
	while (n < max && n < span->pages && page_is_zero(span->hva + n * PAGE_BYTES) == *zero)
		n++;
	return n;
}

/* Sends n alike pages and counts them. */
static int run_send(struct sender *sender, struct conn *conn, const struct gup_span *span,
		    uint32_t n, bool zero, struct err *err)
{
	int r;

	if (zero)
		r = stream_send_bare(conn, FRAME_ZERO, span->first, n, err);
	else
		r = stream_send_pages(conn, span->first, n, span->hva, err);
	if (r < 0)
		return r;
	count_add(&sender->bytes, FRAME_BYTES + (zero ? 0 : FRAME_PAGES_BYTES(n)));
	count_add(zero ? &sender->pages_zero : &sender->pages_normal, n);
	return 0;
}

static int lost_send(struct sender *sender, struct conn *conn, gfn_t gfn, struct err *err)
{
	int r = stream_send_bare(conn, FRAME_LOST, gfn, 1, err);

	if (r < 0)
		return r;
	count_add(&sender->bytes, FRAME_BYTES);
	count_add(&sender->pages_lost, 1);
	return 0;
}

/* ---- bulk ---- */

/* Waits until `bytes` may be sent. False: stop. */
static bool bulk_wait(struct sender *sender, struct bucket *bucket, uint64_t bytes)
{
	int64_t wait_ns;

	pthread_mutex_lock(&sender->lock);
	for (;;) {
		int64_t now = clock_now_ns();

		if (sender->limit != bucket->rate)
			bucket_set_rate(bucket, sender->limit, now);
		if (atomic_load(&sender->stop))
			break;
		wait_ns = bucket_take(bucket, bytes, now);
		if (!wait_ns)
			break;
		cond_wait(&sender->changed, &sender->lock, now + wait_ns);
	}
	pthread_mutex_unlock(&sender->lock);
	return !atomic_load(&sender->stop);
}

/*
 * Lets the first requests go before: until they have been answered for a
 * moment, or none came for a while, or stop.
 */
static void bulk_wait_first(struct sender *sender)
{
	int64_t until_ns = clock_now_ns() + FIRST_WAIT_NS;
	bool answered = false;

	pthread_mutex_lock(&sender->lock);
	while (!atomic_load(&sender->stop)) {
		if (sender->answered && !answered) {
			answered = true;
			until_ns = clock_now_ns() + FIRST_BURST_NS;
		}
		if (cond_wait(&sender->changed, &sender->lock, until_ns) == ETIMEDOUT)
			break;
	}
	pthread_mutex_unlock(&sender->lock);
}

/*
 * Marks pages from `page` on, up to n, whose data goes out, stopping at one
 * that the urgent thread was faster with; how many.
 */
static uint32_t bulk_claim(struct sender *sender, struct sender_region *region, uint64_t page,
			   uint32_t n)
{
	uint32_t i;

	for (i = 0; i < n && mark_sent(sender, region, page + i); i++)
		mark_given(sender, region, page + i);
	return i;
}

/* Sends one frame that begins with the unsent page; *done gets the pages dealt with. */
static int bulk_step(struct sender *sender, struct bucket *bucket, struct sender_region *region,
		     uint64_t page, uint32_t *done, struct err *err)
{
	gfn_t gfn = GFN(region->first.v + page);
	struct gup_span span;
	uint32_t n;
	bool zero;
	int r;

	r = pages_get(sender, gfn, unsent_run(region, page, ZERO_RUN_PAGES), &span, err);
	*done = 1;
	if (r == -EIO)
		return mark_sent(sender, region, page) ?
			       lost_send(sender, sender->pair.bulk, gfn, err) :
			       0;
	if (r < 0)
		return r;
	n = run_alike(&span, &zero);
	if (bulk_wait(sender, bucket, FRAME_BYTES + (zero ? 0 : FRAME_PAGES_BYTES(n)))) {
		n = bulk_claim(sender, region, page, n);
		if (n) {
			*done = n;
			r = run_send(sender, sender->pair.bulk, &span, n, zero, err);
		}
	}
	gup_put(sender->mem, &span);
	return r;
}

/* Sends what is unsent of the huge page that `page` lies in, from `page` on. */
static int bulk_huge_page(struct sender *sender, struct bucket *bucket,
			  struct sender_region *region, uint64_t page, struct err *err)
{
	uint64_t end = page - page % HUGE_PAGES + HUGE_PAGES;

	page = next_unsent(region, page);
	while (page < end && page < region->pages && !atomic_load(&sender->stop)) {
		uint32_t done;
		int r = bulk_step(sender, bucket, region, page, &done, err);

		if (r < 0)
			return r;
		page = next_unsent(region, page + done);
		thread_give_way();
	}
	return 0;
}

/* The huge pages that were asked for last, as far as they are unsent. */
static int bulk_hints(struct sender *sender, struct bucket *bucket, struct err *err)
{
	struct sender_region *region;
	gfn_t gfn;
	int r;

	while (hint_pop(sender, &gfn)) {
		region = region_of(sender, gfn);
		r = region ? bulk_huge_page(sender, bucket, region, gfn.v - region->first.v, err) :
			     0;
		if (r < 0)
			return r;
	}
	return 0;
}

static int bulk_walk(struct sender *sender, struct bucket *bucket, struct err *err)
{
	unsigned int i;
	int r;

	for (i = 0; i < sender->nregions; i++) {
		struct sender_region *region = &sender->region[i];
		/* While the link lasts nothing becomes unsent. */
		uint64_t page = 0;

		while (!atomic_load(&sender->stop)) {
			r = bulk_hints(sender, bucket, err);
			if (r < 0)
				return r;
			page = next_unsent(region, page);
			if (page >= region->pages)
				break;
			r = bulk_huge_page(sender, bucket, region, page, err);
			if (r < 0)
				return r;
		}
	}
	return 0;
}

/*
 * When everything is sent the thread ends. It does not tell: completion is the
 * destination's to declare, and a connection that breaks is noticed by the
 * others.
 */
static void *sender_bulk_main(void *arg)
{
	struct sender *sender = arg;
	struct bucket bucket;
	struct err err = { 0 };

	pthread_setname_np(pthread_self(), "send-bulk");
	thread_is_bulk();
	bulk_wait_first(sender);
	bucket_init(&bucket, 0, clock_now_ns());
	if (bulk_walk(sender, &bucket, &err) < 0)
		sender_lost(sender, WIRE_BULK, &err);
	return NULL;
}

/* ---- urgent ---- */

/* Sends what the span begins with; *done gets the pages dealt with. */
static int urgent_send(struct sender *sender, struct sender_region *region,
		       const struct gup_span *span, uint32_t *done, struct err *err)
{
	uint64_t page = span->first.v - region->first.v;
	uint32_t i;
	bool zero;

	*done = run_alike(span, &zero);
	for (i = 0; i < *done; i++) {
		mark_sent(sender, region, page + i);
		mark_given(sender, region, page + i);
	}
	count_add(&sender->pages_urgent, *done);
	return run_send(sender, sender->pair.urgent, span, *done, zero, err);
}

static int urgent_answer(struct sender *sender, struct sender_region *region, gfn_t first,
			 uint32_t count_left, struct err *err)
{
	while (count_left) {
		struct gup_span span;
		uint32_t n = 1;
		int r;

		r = pages_get(sender, first, count_left < RUN_PAGES ? count_left : RUN_PAGES, &span,
			      err);
		if (r == -EIO) {
			mark_sent(sender, region, first.v - region->first.v);
			r = lost_send(sender, sender->pair.urgent, first, err);
		} else if (!r) {
			r = urgent_send(sender, region, &span, &n, err);
			gup_put(sender->mem, &span);
		}
		if (r < 0)
			return r;
		first.v += n;
		count_left -= n;
	}
	return 0;
}

/* The bulk may begin. */
static void urgent_answered(struct sender *sender)
{
	/* Written by this thread alone. */
	if (sender->answered)
		return;
	pthread_mutex_lock(&sender->lock);
	sender->answered = true;
	pthread_cond_broadcast(&sender->changed);
	pthread_mutex_unlock(&sender->lock);
}

static int urgent_step(struct sender *sender, struct err *err)
{
	struct sender_region *region;
	uint8_t head[FRAME_BYTES];
	struct frame frame;
	int r;

	r = stream_receive(sender->pair.urgent, head, sizeof(head), sender->pair.heard_ns, err);
	if (r < 0)
		return r;
	r = frame_decode(&frame, head, err);
	if (r < 0)
		return r;
	if (frame.type != FRAME_REQUEST)
		return err_set(err, -EBADMSG, "%s frame from the destination",
			       frame_type_name(frame.type));
	region = region_of(sender, frame.gfn);
	if (!region || frame.count > region->pages - (frame.gfn.v - region->first.v))
		return err_set(err, -EBADMSG,
			       "request of %u pages from 0x%" PRIx64 ", which are not this guest's RAM",
			       frame.count, frame.gfn.v);
	r = urgent_answer(sender, region, frame.gfn, frame.count, err);
	if (r < 0)
		return r;
	hint_push(sender, region, frame.gfn);
	urgent_answered(sender);
	return 0;
}

static void *sender_urgent_main(void *arg)
{
	struct sender *sender = arg;
	struct err err = { 0 };

	pthread_setname_np(pthread_self(), "send-urgent");
	thread_is_urgent();
	while (!urgent_step(sender, &err))
		;
	sender_lost(sender, WIRE_URGENT, &err);
	return NULL;
}

/* ---- life ---- */

static void sender_init_waits(struct sender *sender)
{
	pthread_mutex_init(&sender->lock, NULL);
	pthread_mutex_init(&sender->hint_lock, NULL);
	cond_init(&sender->changed);
}

int sender_new(struct sender **out, struct memory *mem, struct err *err)
{
	struct sender *sender = calloc(1, sizeof(*sender));
	const struct memory_region *regions;
	unsigned int i, n;

	if (!sender)
		return err_set(err, -ENOMEM, "no memory for the migration");
	sender_init_waits(sender);
	sender->mem = mem;
	regions = memory_regions(mem, &n);
	for (i = 0; i < n; i++) {
		struct sender_region *region = &sender->region[i];

		region->first = regions[i].first;
		region->pages = regions[i].pages;
		region->sent = calloc(region->pages / 64 + 1, sizeof(*region->sent));
		region->given = calloc(region->pages / 64 + 1, sizeof(*region->given));
		sender->nregions++;
		if (!region->sent || !region->given) {
			sender_free(sender);
			return err_set(err, -ENOMEM, "no memory for the migration");
		}
		sender->pages += region->pages;
	}
	sender->unsent = sender->ungiven = sender->pages;
	*out = sender;
	return 0;
}

int sender_start(struct sender *sender, const struct stream_pair *pair, struct err *err)
{
	int r;

	sender->pair = *pair;
	sender->answered = false;
	atomic_store(&sender->stop, false);
	atomic_store(&sender->lost, false);
	r = thread_start(&sender->urgent_thread, sender_urgent_main, sender);
	if (r < 0)
		return err_errno(err, r, "starting the urgent thread");
	r = thread_start(&sender->bulk_thread, sender_bulk_main, sender);
	if (r < 0) {
		atomic_store(&sender->stop, true);
		conn_shutdown(pair->urgent);
		pthread_join(sender->urgent_thread, NULL);
		return err_errno(err, r, "starting the bulk thread");
	}
	sender->started = true;
	return 0;
}

void sender_stop(struct sender *sender)
{
	if (!sender->started)
		return;
	pthread_mutex_lock(&sender->lock);
	atomic_store(&sender->stop, true);
	pthread_cond_broadcast(&sender->changed);
	pthread_mutex_unlock(&sender->lock);
	conn_shutdown(sender->pair.urgent);
	conn_shutdown(sender->pair.bulk);
	pthread_join(sender->urgent_thread, NULL);
	pthread_join(sender->bulk_thread, NULL);
	sender->started = false;
}

/* Without marks there is nothing left to send. */
static void drop_marks(struct sender *sender)
{
	unsigned int i;

	for (i = 0; i < sender->nregions; i++) {
		free(sender->region[i].sent);
		free(sender->region[i].given);
	}
	sender->nregions = 0;
}

void sender_free(struct sender *sender)
{
	if (!sender)
		return;
	sender_stop(sender);
	drop_marks(sender);
	pthread_cond_destroy(&sender->changed);
	pthread_mutex_destroy(&sender->lock);
	pthread_mutex_destroy(&sender->hint_lock);
	free(sender);
}

void sender_forget(struct sender *sender)
{
	sender_stop(sender);
	drop_marks(sender);
}

void sender_limit(struct sender *sender, uint64_t bytes_per_second)
{
	pthread_mutex_lock(&sender->lock);
	sender->limit = bytes_per_second;
	pthread_cond_broadcast(&sender->changed);
	pthread_mutex_unlock(&sender->lock);
}

void sender_stats(const struct sender *sender, struct sender_stats *stats)
{
	*stats = (struct sender_stats){
		.pages = sender->pages,
		.unsent = count_get(&sender->unsent),
		.never_sent = count_get(&sender->ungiven),
		.bytes = count_get(&sender->bytes),
		.pages_normal = count_get(&sender->pages_normal),
		.pages_zero = count_get(&sender->pages_zero),
		.pages_urgent = count_get(&sender->pages_urgent),
		.pages_lost = count_get(&sender->pages_lost),
	};
}
