// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * See packer.h. Buffers go round: one is being filled, full ones wait for a
 * thread that writes them. A pack's number is given when its buffer begins to
 * fill, so that who adds knows at once where its bytes will be.
 *
 * What is to be sealed is given its place first, which is bound to it, and sealed
 * there without the lock, by many threads at once; so a full buffer may have to
 * wait for some of them, and the pack's checksum is made when it is written.
 */
#include "image/packer.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/page.h"
#include "base/thread.h"
#include "image/index.h"
#include "image/name.h"

enum buffer_state { BUFFER_FREE, BUFFER_FILLING, BUFFER_FULL, BUFFER_WRITING };

struct buffer {
	enum buffer_state state;
	uint8_t *data;			/* of pack_bytes, once it was needed */
	size_t len;
	uint32_t number;
	unsigned int sealing; /* calls that have a place in it, and still write there */
};

struct packer {
	struct store *store;
	struct store_scope *scope;
	const char *name;
	struct image_id id;
	size_t pack_bytes;
	struct seal *seal;
	struct sum_stream *sum;		/* of the pack that is filled; guarded by lock */
	pthread_t thread[PACKER_THREADS];
	unsigned int threads;

	pthread_mutex_t lock;		/* guards the rest */
	pthread_cond_t changed;		/* a buffer's state, stop, or error */
	struct buffer buffers[PACKER_BUFFERS];
	struct packer_pack *packs;
	uint32_t n_packs, room;
	uint64_t written, added;
	bool stop;
	struct err error;		/* code 0: none so far */
};

static struct buffer *buffer_in(struct packer *packer, enum buffer_state state)
{
	unsigned int i;

	for (i = 0; i < PACKER_BUFFERS; i++)
		if (packer->buffers[i].state == state)
			return &packer->buffers[i];
	return NULL;
}

/* Full, and nobody writes to it any more. */
static struct buffer *buffer_ready(struct packer *packer)
{
	unsigned int i;

	for (i = 0; i < PACKER_BUFFERS; i++)
		if (packer->buffers[i].state == BUFFER_FULL && !packer->buffers[i].sealing)
			return &packer->buffers[i];
	return NULL;
}

static void packer_fail(struct packer *packer, const struct err *why)
{
	if (!packer->error.code)
		packer->error = *why;
	pthread_cond_broadcast(&packer->changed);
}

/* Its pack goes to a thread. With the lock. */
static void buffer_close(struct packer *packer, struct buffer *buffer)
{
	struct packer_pack *pack = &packer->packs[buffer->number];

	pack->bytes = buffer->len;
	if (!packer->seal)
		sum_stream_get(packer->sum, pack->sum);
	buffer->state = BUFFER_FULL;
	pthread_cond_broadcast(&packer->changed);
}

/* ---- the threads that write ---- */

static int buffer_write(struct packer *packer, const struct buffer *buffer, struct err *err)
{
	char name[NAME_ROOM];
	uint8_t sum[SUM_BYTES];
	int64_t n;

	if (packer->seal) {
		sum_bytes(buffer->data, buffer->len, sum);
		pthread_mutex_lock(&packer->lock);
		memcpy(packer->packs[buffer->number].sum, sum, SUM_BYTES);
		pthread_mutex_unlock(&packer->lock);
	}

	image_name_pack(name, packer->name, buffer->number, &packer->id);
	n = store_put(packer->store, packer->scope, name, buffer->data, buffer->len, 0, err);
	return n < 0 ? err_prefix(err, (int)n, "image %s", packer->name) : 0;
}

static void *packer_main(void *arg)
{
	struct packer *packer = arg;
	struct buffer *buffer = NULL;
	struct err err = { 0 };

	pthread_setname_np(pthread_self(), "image-pack");
	thread_is_bulk();
	pthread_mutex_lock(&packer->lock);
	for (;;) {
		while (!packer->stop && !(buffer = buffer_ready(packer)))
			pthread_cond_wait(&packer->changed, &packer->lock);
		if (packer->stop)
			break;
		buffer->state = BUFFER_WRITING;
		pthread_mutex_unlock(&packer->lock);
		if (buffer_write(packer, buffer, &err)) {
			pthread_mutex_lock(&packer->lock);
			packer_fail(packer, &err);
		} else {
			pthread_mutex_lock(&packer->lock);
			packer->written += buffer->len;
		}
		buffer->state = BUFFER_FREE;
		pthread_cond_broadcast(&packer->changed);
	}
	pthread_mutex_unlock(&packer->lock);
	return NULL;
}

/* ---- a packer ---- */

int packer_new(struct packer **out, const struct packer_config *config, struct err *err)
{
	struct packer *packer = calloc(1, sizeof(*packer));
	const char *name = config->name;
	int r = 0;

	if (!packer)
		return err_set(err, -ENOMEM, "image %s: no memory", name);
	packer->store = config->store;
	packer->scope = config->scope;
	packer->name = name;
	packer->id = config->id;
	packer->pack_bytes = config->pack_bytes;
	packer->seal = config->seal;
	pthread_mutex_init(&packer->lock, NULL);
	pthread_cond_init(&packer->changed, NULL);
	packer->sum = sum_stream_new();
	if (!packer->sum)
		r = err_set(err, -ENOMEM, "image %s: no memory", name);
	for (; !r && packer->threads < PACKER_THREADS; packer->threads++) {
		r = thread_start(&packer->thread[packer->threads], packer_main, packer);
		if (r) {
			err_errno(err, r, "image %s: a thread", name);
			break;
		}
	}
	if (r) {
		packer_free(packer);
		return r;
	}
	*out = packer;
	return 0;
}

/* A buffer begins to fill. */
static int buffer_open(struct packer *packer, struct buffer *buffer, struct err *err)
{
	if (!buffer->data)
		buffer->data = page_buffer_new(packer->pack_bytes);
	if (packer->n_packs == packer->room) {
		uint32_t room = packer->room ? 2 * packer->room : 64;
		struct packer_pack *more = realloc(packer->packs, room * sizeof(*more));

		if (more) {
			packer->packs = more;
			packer->room = room;
		}
	}
	if (!buffer->data || packer->n_packs == packer->room)
		return err_set(err, -ENOMEM, "image %s: no memory for a pack", packer->name);
	if (packer->n_packs == ROOT_PACKS_MAX)
		return err_set(err, -EFBIG, "image %s: more than %u packs", packer->name,
			       ROOT_PACKS_MAX);
	buffer->state = BUFFER_FILLING;
	buffer->len = 0;
	buffer->number = packer->n_packs++;
	sum_stream_reset(packer->sum);
	return 0;
}

/* One with room for len bytes; waits for it. With the lock. */
static int buffer_get(struct packer *packer, size_t len, struct buffer **out, struct err *err)
{
	for (;;) {
		struct buffer *buffer = buffer_in(packer, BUFFER_FILLING);
		int r;

		if (packer->error.code) {
			if (err)
				*err = packer->error;
			return packer->error.code;
		}
		*out = buffer;
		if (buffer && len <= packer->pack_bytes - buffer->len)
			return 0;
		if (buffer)
			buffer_close(packer, buffer);
		*out = buffer = buffer_in(packer, BUFFER_FREE);
		if (!buffer) {
			pthread_cond_wait(&packer->changed, &packer->lock);
			continue;
		}
		r = buffer_open(packer, buffer, err);
		if (r)
			return r;
	}
}

/* To the place that was given, without the lock. With the lock. */
static int buffer_seal(struct packer *packer, struct buffer *buffer, const struct seal_place *place,
		       const void *data, struct err *err)
{
	struct err why;
	int r;

	buffer->sealing++;
	pthread_mutex_unlock(&packer->lock);
	r = seal_pack(packer->seal, place, data, buffer->data + place->offset);
	pthread_mutex_lock(&packer->lock);
	if (!--buffer->sealing)
		pthread_cond_broadcast(&packer->changed);
	if (!r)
		return 0;
	/* There is a hole in the pack now. */
	err_set(&why, r, "image %s: no memory to encrypt pages", packer->name);
	packer_fail(packer, &why);
	if (err)
		*err = why;
	return r;
}

int packer_add(struct packer *packer, enum seal_kind kind, const void *data, size_t len,
	       struct packer_place *place, struct err *err)
{
	size_t stored = len + (packer->seal ? SEAL_TAG_BYTES : 0);
	struct buffer *buffer = NULL;
	struct seal_place sealed;
	int r;

	pthread_mutex_lock(&packer->lock);
	r = buffer_get(packer, stored, &buffer, err);
	if (!r) {
		*place = (struct packer_place){ buffer->number, (uint32_t)buffer->len };
		sealed = (struct seal_place){ place->pack, place->offset, (uint32_t)len, kind };
		buffer->len += stored;
		packer->added += stored;
		if (packer->seal) {
			r = buffer_seal(packer, buffer, &sealed, data, err);
		} else {
			memcpy(buffer->data + place->offset, data, len);
			sum_stream_add(packer->sum, data, len);
		}
	}
	pthread_mutex_unlock(&packer->lock);
	return r;
}

int packer_finish(struct packer *packer, struct err *err)
{
	struct buffer *buffer;
	int r;

	pthread_mutex_lock(&packer->lock);
	buffer = buffer_in(packer, BUFFER_FILLING);
	if (buffer)
		buffer_close(packer, buffer);
	while (!packer->error.code &&
	       (buffer_in(packer, BUFFER_FULL) || buffer_in(packer, BUFFER_WRITING)))
		pthread_cond_wait(&packer->changed, &packer->lock);
	r = packer->error.code;
	if (r && err)
		*err = packer->error;
	pthread_mutex_unlock(&packer->lock);
	return r;
}

uint32_t packer_packs(struct packer *packer, const struct packer_pack **packs)
{
	uint32_t n;

	pthread_mutex_lock(&packer->lock);
	n = packer->n_packs;
	if (packs)
		*packs = packer->packs;
	pthread_mutex_unlock(&packer->lock);
	return n;
}

void packer_progress(struct packer *packer, uint64_t *written, uint64_t *added)
{
	pthread_mutex_lock(&packer->lock);
	*written = packer->written;
	*added = packer->added;
	pthread_mutex_unlock(&packer->lock);
}

bool packer_has_room(struct packer *packer)
{
	bool has;

	pthread_mutex_lock(&packer->lock);
	has = buffer_in(packer, BUFFER_FREE) != NULL;
	pthread_mutex_unlock(&packer->lock);
	return has;
}

void packer_stop(struct packer *packer)
{
	pthread_mutex_lock(&packer->lock);
	packer->stop = true;
	pthread_cond_broadcast(&packer->changed);
	pthread_mutex_unlock(&packer->lock);
	while (packer->threads)
		pthread_join(packer->thread[--packer->threads], NULL);
}

void packer_free(struct packer *packer)
{
	unsigned int i;

	if (!packer)
		return;
	packer_stop(packer);
	for (i = 0; i < PACKER_BUFFERS; i++)
		page_buffer_free(packer->buffers[i].data, packer->pack_bytes);
	sum_stream_free(packer->sum);
	free(packer->packs);
	pthread_cond_destroy(&packer->changed);
	pthread_mutex_destroy(&packer->lock);
	free(packer);
}
