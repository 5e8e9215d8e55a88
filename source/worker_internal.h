/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What worker.c, which has requests and the urgent threads, and worker_bulk.c, which has the
 * background fill, share. The lock guards all that stands below it.
 */
#ifndef POSTERN_SOURCE_WORKER_INTERNAL_H
#define POSTERN_SOURCE_WORKER_INTERNAL_H

#include <pthread.h>

#include "base/bit_tree.h"
#include "base/bucket.h"
#include "source/pace.h"
#include "source/window.h"
#include "source/worker.h"

#define WORKER_RING 256u
#define WORKER_NOBODY UINT64_MAX
#define WORKER_HELD 64u
#define WORKER_PAUSE_NS (10 * NS_PER_MS)	/* after the first failure in a row; doubles */
#define WORKER_PAUSE_MAX_NS (5 * NS_PER_SEC)

/* A page whose last read has failed. */
struct held {
	uint64_t index;
	int64_t until;			/* INT64_MAX: it is wanted again, or being read */
	unsigned int failures;
	unsigned int damaged;		/* of these, the last in a row that said so */
};

/* The bulk's: a bit, or a number, a huge page. */
struct bulk {
	uint64_t *taken;
	uint64_t next;			/* all before it are taken */
	uint64_t *left;			/* taken, and left over */
	uint16_t *begin;		/* the page in it with which a visit begins */
	uint64_t n_left;
	unsigned int rounds;		/* through those left over, since one brought a page */
	uint64_t brought;		/* stats.bulk_pages when this one began */
	int64_t begins;			/* nothing is read before */
	int64_t round_until;		/* the next one does not begin before */
	struct worker_fill fill;
	struct bucket bucket;
	struct pace pace;		/* of its pages */
};

/* The replay's; a bit a span. */
struct replay {
	enum worker_replay_state state;
	struct worker_replay config;	/* gfns is not kept */
	uint64_t *order;		/* a page of each span, as its number; not changed while it runs */
	uint64_t n, next;		/* all before it were taken */
	uint64_t *set, *pending;	/* of the set; of these, not taken and not asked for */
	struct window window;
	uint64_t in_flight;		/* pages that are being read */
	unsigned int takes, failures;	/* failures: in a row */
	uint64_t asked, missed, reads, pages, bytes;
	int64_t begun_ns, ended_ns;
	bool starting;			/* its threads, without the lock */
	unsigned int threads, running;	/* to be joined; not at their end */
	pthread_t thread[WORKER_THREADS_MAX];
};

/* What was read and not filled: worker_watch.c. */
#define WATCHED_MAX 64u

struct watched {
	uint64_t span;
	uint64_t have; /* of its pages, a bit each */
};

struct watch {
	uint8_t *pages; /* of all of them; NULL: of none yet */
	struct watched watched[WATCHED_MAX];
	unsigned int n;
	bool over; /* none is kept any more */
};

struct worker {
	struct page_source source;
	struct memory *mem;
	struct worker_config config;
	const struct memory_region *regions;
	unsigned int n_regions;
	uint64_t pages;
	uint8_t *buffers;		/* an urgent read's pages, for each urgent thread */

	pthread_mutex_t lock;		/* guards the rest */
	pthread_t thread[2 * WORKER_THREADS_MAX];
	unsigned int threads; /* grows while it runs; after that worker_stop has them */
	unsigned int urgent;	/* of these: urgent ones */
	unsigned int starting, idle;	/* of these: not begun yet; that sleep or were woken */
	bool has_bulk; /* the bulk's are among them */
	unsigned int buffers_used;
	pthread_cond_t changed;		/* something is wanted or held, or stop; for urgent threads */
	pthread_cond_t bulk_changed; /* for the bulk's: stop, the fill's settings, nobody waits */
	bool running;			/* else request() says -ENOTCONN, and the threads end */
	struct bit_tree wanted;		/* pages to be read now */
	struct bit_tree later;		/* pages, not before their time; then they are not wanted */
	struct held held[WORKER_HELD];
	unsigned int n_held;
	int64_t others_until;		/* the time of those without a place in held, or INT64_MAX */
	uint64_t ring[WORKER_RING];	/* pages in the order of their requests */
	unsigned int ring_first, ring_len;
	unsigned int answering;		/* urgent threads that read */
	uint64_t hint;			/* the page that was requested last, or WORKER_NOBODY */
	struct bulk bulk;
	struct replay replay;
	struct watch watch;
	pthread_cond_t replay_changed;	/* for the replay's: stop, a read has ended; and for stop */
	struct worker_stats stats;
};

gfn_t worker_gfn(const struct worker *worker, uint64_t index);
/* Was it another before? */
bool worker_bit_change(uint64_t *bits, uint64_t i, bool on);
/* When to try again after the `failures`th failure in a row. */
int64_t worker_time_after(unsigned int failures);
bool worker_is_missing(const struct worker *worker, gfn_t gfn);
/* Starts one more. With the lock held, while it runs. */
int worker_add_thread(struct worker *worker, void *(*main)(void *worker));
/* Does anybody wait for a page? With the lock held. */
bool worker_is_busy(const struct worker *worker);

unsigned int worker_span_pages(const struct worker *worker);
/* False: not RAM. */
bool worker_index_of(const struct worker *worker, gfn_t gfn, uint64_t *index);

/* ---- worker_replay.c; with the lock held, but for forget ---- */

/* Somebody waits for a page: it is urgent now. */
void worker_replay_asked(struct worker *worker, uint64_t index);
/* Until when the bulk has to wait for it, or 0. */
int64_t worker_replay_until(const struct worker *worker);
/* The worker is stopped: gives the lock up until none of its threads is left. */
void worker_replay_join(struct worker *worker);
/* As before a replay began. */
void worker_replay_forget(struct worker *worker);

/* ---- worker_watch.c; without the lock ---- */

/* Pages of one span, zeros where data is NULL. False: there is no place for them. */
bool worker_watch_keep(struct worker *worker, uint64_t at, uint64_t n, const void *data);
/* Those of them that are kept: how many from the first on, perhaps none. */
int64_t worker_watch_read(struct worker *worker, uint64_t at, uint64_t n, void *data);

/* ---- worker_bulk.c ---- */

bool worker_bulk_init(struct bulk *bulk, uint64_t pages);
void worker_bulk_fini(struct bulk *bulk);
/*
 * Starts its threads, unless they run or the fill is off; the log says how many there are fewer
 * than there should be. With the lock held, while it runs.
 */
void worker_bulk_need(struct worker *worker);

#endif
