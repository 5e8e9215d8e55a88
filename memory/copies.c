// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Copies of spans that were about to be written, until the snapshot's threads
// have taken them (span.h): a buffer of bounded size, allocated before the
// moment. Who can wait gets no more than was asked for; the reserve beyond is
// for those that cannot.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "memory/internal.h"
#include "memory/span.h"

/*
 * What all vCPUs may touch on their way out of the guest, what KVM's workers
 * touch for them, and a huge page.
 */
#define COPIES_RESERVE 1280u

/* Newer than some headers: Linux' include/uapi/asm-generic/mman-common.h. */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

struct memory_copies {
	struct memory *mem;
	pthread_mutex_t lock; /* all of it but the data of what was got and not pushed */
	uint8_t *data;
	unsigned int slots;
	struct memory_span *span; /* what is in each slot */
	unsigned int *free; /* a stack: what was used last is warm */
	unsigned int n_free;
	unsigned int *queue; /* a ring of those that wait */
	unsigned int first, n_queue;
};

static size_t copies_bytes(const struct memory_copies *copies)
{
	return copies->slots * MEMORY_SPAN_BYTES;
}

static int copies_map(struct memory_copies *copies, unsigned int usual)
{
	copies->data = mmap(NULL, copies_bytes(copies), PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (copies->data == MAP_FAILED) {
		copies->data = NULL;
		return -ENOMEM;
	}
	madvise(copies->data, copies_bytes(copies), MADV_HUGEPAGE);
	if (!copies->mem->dumpable)
		madvise(copies->data, copies_bytes(copies), MADV_DONTDUMP);
	/*
	 * Now, rather than while a guest waits. The reserve is hardly ever
	 * used.
	 */
	madvise(copies->data, usual * MEMORY_SPAN_BYTES, MADV_POPULATE_WRITE);
	return 0;
}

int memory_copies_new(struct memory_copies **out, struct memory *mem, uint64_t bytes)
{
	struct memory_copies *copies = calloc(1, sizeof(*copies));
	unsigned int usual = (unsigned int)(bytes / MEMORY_SPAN_BYTES), i;

	if (!copies)
		return -ENOMEM;
	copies->mem = mem;
	copies->slots = usual + COPIES_RESERVE;
	copies->span = calloc(copies->slots, sizeof(*copies->span));
	copies->free = calloc(copies->slots, sizeof(*copies->free));
	copies->queue = calloc(copies->slots, sizeof(*copies->queue));
	pthread_mutex_init(&copies->lock, NULL);
	if (!copies->span || !copies->free || !copies->queue || copies_map(copies, usual) < 0) {
		memory_copies_free(copies);
		return -ENOMEM;
	}
	for (i = 0; i < copies->slots; i++)
		copies->free[i] = copies->slots - 1 - i;
	copies->n_free = copies->slots;
	*out = copies;
	return 0;
}

void memory_copies_free(struct memory_copies *copies)
{
	if (!copies)
		return;
	if (copies->data)
		munmap(copies->data, copies_bytes(copies));
	free(copies->span);
	free(copies->free);
	free(copies->queue);
	pthread_mutex_destroy(&copies->lock);
	free(copies);
}

uint8_t *memory_copies_get(struct memory_copies *copies, enum spans_room room)
{
	struct memory_spans *spans = &copies->mem->spans;
	uint8_t *data = NULL;
	unsigned int used;

	pthread_mutex_lock(&copies->lock);
	used = copies->slots - copies->n_free;
	if (copies->n_free && (room == SPANS_ROOM_RESERVE || used < atomic_load(&spans->high))) {
		data = copies->data + copies->free[--copies->n_free] * MEMORY_SPAN_BYTES;
		atomic_store(&spans->used, ++used);
		if (used > atomic_load(&spans->used_max))
			atomic_store(&spans->used_max, used);
	}
	pthread_mutex_unlock(&copies->lock);
	return data;
}

void memory_copies_push(struct memory_copies *copies, const struct memory_span *span, uint8_t *data)
{
	unsigned int slot = (unsigned int)((size_t)(data - copies->data) / MEMORY_SPAN_BYTES);

	pthread_mutex_lock(&copies->lock);
	copies->span[slot] = *span;
	copies->queue[(copies->first + copies->n_queue++) % copies->slots] = slot;
	pthread_mutex_unlock(&copies->lock);
}

bool memory_copies_pop(struct memory_copies *copies, struct memory_span *span, uint8_t *data)
{
	struct memory_spans *spans = &copies->mem->spans;
	unsigned int slot;

	pthread_mutex_lock(&copies->lock);
	if (!copies->n_queue) {
		pthread_mutex_unlock(&copies->lock);
		return false;
	}
	slot = copies->queue[copies->first];
	copies->first = (copies->first + 1) % copies->slots;
	copies->n_queue--;
	*span = copies->span[slot];
	pthread_mutex_unlock(&copies->lock);
	memcpy(data, copies->data + slot * MEMORY_SPAN_BYTES, MEMORY_SPAN_BYTES);
	pthread_mutex_lock(&copies->lock);
	copies->free[copies->n_free++] = slot;
	atomic_store(&spans->used, copies->slots - copies->n_free);
	pthread_mutex_unlock(&copies->lock);
	memory_room_came(copies->mem);
	return true;
}
