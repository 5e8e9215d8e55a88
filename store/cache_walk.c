// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// See cache_walk.h. A block that is missing is locked by whoever fetches it, and with it as many
// behind it as the request wants and nobody has: they come by one request.
#include "store/cache_walk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/count.h"
#include "base/log.h"
#include "store/cache_file.h"

/* Fetched by one request. */
#define RUN_BLOCKS 32
/* How long somebody else may fetch what we want before we read it ourselves. */
#define PATIENCE_NS (2 * NS_PER_SEC)
#define PATIENCE_URGENT_NS (100 * NS_PER_MS)

struct walk {
	struct cache_place *place;
	struct store_request *request;
	const struct cache_wait *wait;
	uint8_t *file;			/* CACHE_FILE_MAX */
	uint8_t *run;			/* RUN_BLOCKS; NULL: none was fetched yet */
	uint64_t at;			/* the next byte wanted */
};

/* ---- one block ---- */

static uint64_t request_end(const struct store_request *request)
{
	return request->offset + request->len;
}

/* Gives the request what it wants of n bytes that begin at byte `from` of the object. */
static void walk_take(struct walk *walk, uint64_t from, const uint8_t *data, uint64_t n)
{
	struct store_request *request = walk->request;
	uint64_t end = from + n < request_end(request) ? from + n : request_end(request);

	if (end <= walk->at)
		return;
	memcpy((uint8_t *)request->data + (walk->at - request->offset), data + (walk->at - from),
	       (size_t)(end - walk->at));
	walk->at = end;
}

/* How many bytes the block has, which were taken; or as cache_file_read. */
static int64_t walk_read(struct walk *walk, const struct cache_key *key, uint64_t block,
			 bool nowait)
{
	uint64_t start = block * CACHE_BLOCK_BYTES, to = request_end(walk->request) - start;
	int64_t r = cache_file_read(walk->place->dir, key, (size_t)(walk->at - start),
				    to < CACHE_BLOCK_BYTES ? (size_t)to : CACHE_BLOCK_BYTES,
				    walk->file, nowait);

	if (r >= 0) {
		walk_take(walk, start, walk->file + CACHE_HEAD_BYTES + key->len, (uint64_t)r);
		count_add(&walk->place->hits, 1);
	}
	count_add(&walk->place->damaged, r == -EBADMSG);
	return r;
}

static void key_of(const struct walk *walk, struct cache_key *key, uint64_t block)
{
	cache_key_make(key, store_label(walk->place->below), walk->request->object,
		       walk->request->version, block);
}

/* ---- what is fetched ---- */

/* Blocks that this thread fetches, one after the other. */
struct run {
	uint64_t first;
	unsigned int n;
	int lock[RUN_BLOCKS];
	struct cache_key key[RUN_BLOCKS];
};

static int64_t fetch(struct walk *walk, uint64_t from, void *data, size_t len, unsigned int flags)
{
	struct store_request get = {
		.verb = STORE_GET,
		.flags = flags | (walk->request->flags & STORE_URGENT),
		.object = walk->request->object,
		.version = walk->request->version,
		.offset = from,
		.data = data,
		.len = len,
	};
	int64_t r = store_wait(walk->place->below, walk->wait->scope, &get);

	if (r < 0)
		walk->request->err = get.err;
	return r;
}

/* A folder that cannot be written to is told once; the guest's memory comes all the same. */
static void complain(struct cache_place *place, int code)
{
	char reason[96];

	count_add(&place->not_kept, 1);
	if (code == -EBUSY || atomic_exchange(&place->complained, true))
		return;
	log_warn("%s: its cache keeps nothing more for now: %s", store_label(place->below),
		 strerror_r(-code, reason, sizeof(reason)));
}

/* Keeps `bytes` of a run, and gives up its locks. */
static void run_keep(struct walk *walk, struct run *run, int64_t bytes)
{
	size_t at, n;
	unsigned int i;
	int r;

	for (i = 0; i < run->n; i++) {
		at = i * CACHE_BLOCK_BYTES;
		n = bytes > (int64_t)at ? (size_t)bytes - at : 0;
		if (n > CACHE_BLOCK_BYTES)
			n = CACHE_BLOCK_BYTES;
		r = n ? cache_file_write(walk->place->dir, walk->place->limit, &run->key[i],
					 run->lock[i], walk->run + at, n) :
			0;
		if (r < 0)
			complain(walk->place, r);
		cache_file_unlock(walk->place->dir, &run->key[i], run->lock[i]);
	}
}

/* As many blocks after the first, which is ours, as are missing and nobody's. */
static void run_grow(struct walk *walk, struct run *run)
{
	uint64_t last = (request_end(walk->request) - 1) / CACHE_BLOCK_BYTES;
	struct cache_key *key;

	for (; run->n < RUN_BLOCKS && run->first + run->n <= last; run->n++) {
		key = &run->key[run->n];
		key_of(walk, key, run->first + run->n);
		if (!faccessat(walk->place->dir, key->name, F_OK, 0))
			return;
		run->lock[run->n] = cache_file_lock(walk->place->dir, key);
		if (run->lock[run->n] < 0)
			return;
	}
}

/*
 * Fetches the blocks that begin with one that is ours. Bytes, fewer than asked
 * where the object ends.
 */
static int64_t run_fetch(struct walk *walk, struct run *run)
{
	uint64_t from = run->first * CACHE_BLOCK_BYTES;
	int64_t r;

	run_grow(walk, run);
	if (!walk->run)
		walk->run = malloc(RUN_BLOCKS * CACHE_BLOCK_BYTES);
	if (!walk->run) {
		run_keep(walk, run, 0);
		return err_set(&walk->request->err, -ENOMEM, "no memory to fetch for the cache");
	}
	r = fetch(walk, from, walk->run, run->n * CACHE_BLOCK_BYTES, STORE_UP_TO);
	if (r > 0)
		walk_take(walk, from, walk->run, (uint64_t)r);
	count_add(&walk->place->misses, run->n);
	run_keep(walk, run, r);
	return r;
}

/* The rest, without the cache. */
static int64_t fetch_past(struct walk *walk)
{
	struct store_request *request = walk->request;
	uint8_t *to = (uint8_t *)request->data + (walk->at - request->offset);
	int64_t r =
		fetch(walk, walk->at, to, (size_t)(request_end(request) - walk->at), STORE_UP_TO);

	if (r > 0)
		walk->at += (uint64_t)r;
	return r < 0 ? r : 0;
}

/*
 * The block with byte walk->at, and perhaps more. Returns 0, 1: the object ends here; or a negative
 * errno.
 */
static int64_t walk_block(struct walk *walk)
{
	struct run run = { .first = walk->at / CACHE_BLOCK_BYTES };
	bool urgent = walk->request->flags & STORE_URGENT, waited = false;
	int64_t until_ns = clock_now_ns() + (urgent ? PATIENCE_URGENT_NS : PATIENCE_NS);
	int64_t r;

	key_of(walk, &run.key[0], run.first);
	while (true) {
		r = walk_read(walk, &run.key[0], run.first, false);
		if (r >= 0)
			return r < (int64_t)CACHE_BLOCK_BYTES;
		run.lock[0] = cache_file_lock(walk->place->dir, &run.key[0]);
		if (run.lock[0] >= 0)
			break;
		if (run.lock[0] != -EBUSY)
			complain(walk->place, run.lock[0]);
		if (run.lock[0] != -EBUSY || clock_now_ns() >= until_ns) {
			r = fetch_past(walk);
			return r < 0 ? r : 1;
		}
		count_add(&walk->place->waited, !waited);
		waited = true;
		if (!walk->wait->pause(walk->wait->arg))
			return err_set(&walk->request->err, -ECANCELED, "cancelled");
	}
	run.n = 1;
	/* It may have come between the two. */
	r = walk_read(walk, &run.key[0], run.first, false);
	if (r >= 0) {
		cache_file_unlock(walk->place->dir, &run.key[0], run.lock[0]);
		return r < (int64_t)CACHE_BLOCK_BYTES;
	}
	r = run_fetch(walk, &run);
	return r < 0 ? r : r < (int64_t)(run.n * CACHE_BLOCK_BYTES);
}

/* A request's result, once `at` is as far as it gets. */
static int64_t walk_end(struct walk *walk)
{
	struct store_request *request = walk->request;

	if (walk->at == request_end(request) || request->flags & STORE_UP_TO)
		return (int64_t)(walk->at - request->offset);
	return err_set(&request->err, -EBADMSG,
		       "%s: get \"%s\": it is too short: it ends before byte "
		       "%llu",
		       store_label(walk->place->below), request->object,
		       (unsigned long long)request_end(request));
}

int64_t cache_walk(struct cache_place *place, struct store_request *request,
		   const struct cache_wait *wait)
{
	struct walk walk = {
		.place = place,
		.request = request,
		.wait = wait,
		.at = request->offset,
		.file = malloc(CACHE_FILE_MAX),
	};
	int64_t r = 0;

	if (!walk.file)
		return err_set(&request->err, -ENOMEM, "no memory to read the cache");
	while (!r && walk.at < request_end(request))
		r = walk_block(&walk);
	free(walk.file);
	free(walk.run);
	return r < 0 ? r : walk_end(&walk);
}

int64_t cache_walk_cached(struct cache_place *place, struct store_request *request)
{
	struct walk walk = { .place = place, .request = request, .at = request->offset };
	uint64_t block = request->offset / CACHE_BLOCK_BYTES;
	uint8_t file[CACHE_FILE_MAX];
	struct cache_key key;
	int64_t r;

	if (!request->len || (request_end(request) - 1) / CACHE_BLOCK_BYTES != block)
		return -EAGAIN;
	walk.file = file;
	key_of(&walk, &key, block);
	r = walk_read(&walk, &key, block, true);
	return r < 0 ? -EAGAIN : walk_end(&walk);
}
