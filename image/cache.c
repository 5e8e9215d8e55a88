// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * See cache.h. A slot is free; or loading or ready, and then in its hash chain;
 * or out of the chain and still in use: failed, or proved wrong. The last one who
 * puts such a slot frees it.
 */
#include "image/cache.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#define NONE UINT32_MAX

enum slot_state { SLOT_FREE, SLOT_LOADING, SLOT_READY, SLOT_FAILED };

struct cache_slot {
	uint64_t key;
	enum slot_state state;
	unsigned int users;
	bool chained, recent, loaded;	/* loaded: there is something to drop */
	uint32_t next;			/* in its hash chain */
	int error;
	struct err err;
};

struct cache {
	struct cache_ops ops;
	void *arg;
	uint32_t n, hand, mask;
	pthread_mutex_t lock;		/* guards the rest */
	pthread_cond_t changed;		/* a load has ended, or nobody uses a slot */
	uint32_t *heads;
	struct cache_slot *slots;
};

struct cache *cache_new(unsigned int n, const struct cache_ops *ops, void *arg)
{
	struct cache *cache = calloc(1, sizeof(*cache));
	uint32_t heads = 1, i;

	while (heads < 2 * n)
		heads *= 2;
	if (!cache)
		return NULL;
	cache->slots = calloc(n, sizeof(*cache->slots));
	cache->heads = malloc(heads * sizeof(*cache->heads));
	if (!cache->slots || !cache->heads) {
		free(cache->slots);
		free(cache->heads);
		free(cache);
		return NULL;
	}
	for (i = 0; i < heads; i++)
		cache->heads[i] = NONE;
	cache->mask = heads - 1;
	cache->n = n;
	cache->ops = *ops;
	cache->arg = arg;
	pthread_mutex_init(&cache->lock, NULL);
	pthread_cond_init(&cache->changed, NULL);
	return cache;
}

static uint32_t *chain_of(struct cache *cache, uint64_t key)
{
	key *= UINT64_C(0x9e3779b97f4a7c15);
	return &cache->heads[(key >> 32) & cache->mask];
}

static void cache_chain(struct cache *cache, uint32_t i)
{
	uint32_t *head = chain_of(cache, cache->slots[i].key);

	cache->slots[i].next = *head;
	cache->slots[i].chained = true;
	*head = i;
}

static void cache_unchain(struct cache *cache, uint32_t i)
{
	uint32_t *at = chain_of(cache, cache->slots[i].key);

	if (!cache->slots[i].chained)
		return;
	while (*at != i)
		at = &cache->slots[*at].next;
	*at = cache->slots[i].next;
	cache->slots[i].chained = false;
}

static uint32_t cache_find(struct cache *cache, uint64_t key)
{
	uint32_t i = *chain_of(cache, key);

	while (i != NONE && cache->slots[i].key != key)
		i = cache->slots[i].next;
	return i;
}

/* Nobody uses it. */
static void cache_clear(struct cache *cache, uint32_t i)
{
	struct cache_slot *slot = &cache->slots[i];

	cache_unchain(cache, i);
	if (slot->loaded && cache->ops.drop)
		cache->ops.drop(cache->arg, i);
	slot->loaded = false;
	slot->state = SLOT_FREE;
}

void cache_free(struct cache *cache)
{
	uint32_t i;

	if (!cache)
		return;
	for (i = 0; i < cache->n; i++)
		cache_clear(cache, i);
	pthread_cond_destroy(&cache->changed);
	pthread_mutex_destroy(&cache->lock);
	free(cache->heads);
	free(cache->slots);
	free(cache);
}

/*
 * A slot that nobody uses, cleared; NONE: there is none. Two rounds: the first one takes
 * `recent` away.
 */
static uint32_t cache_victim(struct cache *cache)
{
	uint32_t turn;

	for (turn = 0; turn < 2 * cache->n; turn++) {
		uint32_t i = cache->hand;
		struct cache_slot *slot = &cache->slots[i];

		cache->hand = (cache->hand + 1) % cache->n;
		if (slot->users)
			continue;
		if (slot->recent) {
			slot->recent = false;
			continue;
		}
		cache_clear(cache, i);
		return i;
	}
	return NONE;
}

static void cache_release(struct cache *cache, uint32_t i)
{
	struct cache_slot *slot = &cache->slots[i];

	if (--slot->users)
		return;
	if (!slot->chained)
		cache_clear(cache, i);
	pthread_cond_broadcast(&cache->changed);
}

/* Another thread loads it, or has. With the lock. */
static int cache_join(struct cache *cache, uint32_t i, unsigned int *out, struct err *err)
{
	struct cache_slot *slot = &cache->slots[i];
	int r;

	slot->users++;
	slot->recent = true;
	while (slot->state == SLOT_LOADING)
		pthread_cond_wait(&cache->changed, &cache->lock);
	*out = i;
	if (slot->state == SLOT_READY)
		return 1;
	r = slot->error;
	if (err)
		*err = slot->err;
	cache_release(cache, i);
	return r;
}

/* With the lock, given up while it loads. */
static int cache_load(struct cache *cache, uint32_t i, uint64_t key, void *what, unsigned int *out,
		      struct err *err)
{
	struct cache_slot *slot = &cache->slots[i];
	struct err why = { 0 };
	int r;

	slot->key = key;
	slot->state = SLOT_LOADING;
	slot->users = 1;
	slot->recent = true;
	cache_chain(cache, i);
	pthread_mutex_unlock(&cache->lock);
	r = cache->ops.load(cache->arg, i, key, what, &why);
	pthread_mutex_lock(&cache->lock);
	slot->state = r ? SLOT_FAILED : SLOT_READY;
	slot->loaded = !r;
	slot->error = r;
	slot->err = why;
	*out = i;
	if (r) {
		if (err)
			*err = why;
		cache_unchain(cache, i);
		cache_release(cache, i);
	}
	pthread_cond_broadcast(&cache->changed);
	return r;
}

int cache_get(struct cache *cache, uint64_t key, void *what, unsigned int *slot, struct err *err)
{
	uint32_t i, free_slot;
	int r;

	pthread_mutex_lock(&cache->lock);
	while ((i = cache_find(cache, key)) == NONE && (free_slot = cache_victim(cache)) == NONE)
		pthread_cond_wait(&cache->changed, &cache->lock);
	r = i != NONE ? cache_join(cache, i, slot, err) :
			cache_load(cache, free_slot, key, what, slot, err);
	pthread_mutex_unlock(&cache->lock);
	return r;
}

bool cache_has(struct cache *cache, uint64_t key)
{
	bool has;

	pthread_mutex_lock(&cache->lock);
	has = cache_find(cache, key) != NONE;
	pthread_mutex_unlock(&cache->lock);
	return has;
}

void cache_add(struct cache *cache, uint64_t key, void *what)
{
	uint32_t i = NONE;
	unsigned int slot;

	pthread_mutex_lock(&cache->lock);
	if (cache_find(cache, key) == NONE)
		i = cache_victim(cache);
	if (i != NONE && !cache_load(cache, i, key, what, &slot, NULL))
		cache_release(cache, i);
	pthread_mutex_unlock(&cache->lock);
}

void cache_put(struct cache *cache, unsigned int slot)
{
	pthread_mutex_lock(&cache->lock);
	cache_release(cache, slot);
	pthread_mutex_unlock(&cache->lock);
}

void cache_put_first(struct cache *cache, unsigned int slot)
{
	pthread_mutex_lock(&cache->lock);
	cache->slots[slot].recent = false;
	cache->hand = slot;
	cache_release(cache, slot);
	pthread_mutex_unlock(&cache->lock);
}

void cache_put_bad(struct cache *cache, unsigned int slot)
{
	pthread_mutex_lock(&cache->lock);
	cache_unchain(cache, slot);
	cache_release(cache, slot);
	pthread_mutex_unlock(&cache->lock);
}

void cache_empty(struct cache *cache, void (*each)(void *arg, unsigned int slot))
{
	uint32_t i;

	pthread_mutex_lock(&cache->lock);
	for (i = 0; i < cache->n; i++) {
		if (cache->slots[i].users)
			continue;
		cache_clear(cache, i);
		if (each)
			each(cache->arg, i);
	}
	pthread_mutex_unlock(&cache->lock);
}
