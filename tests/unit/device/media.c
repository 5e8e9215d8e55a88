// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "media.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct media *media_new(size_t bytes, unsigned int seed)
{
	struct media *media = calloc(1, sizeof(*media));

	assert(media);
	media->bytes = bytes;
	media->seed = seed;
	media->stable = calloc(1, bytes);
	media->now = calloc(1, bytes);
	media->stable_sequence = calloc(bytes / MEDIA_SECTOR, sizeof(*media->stable_sequence));
	assert(media->stable && media->now && media->stable_sequence);
	return media;
}

void media_free(struct media *media)
{
	while (media->n)
		free(media->write[--media->n].data);
	free(media->stable);
	free(media->now);
	free(media->stable_sequence);
	free(media);
}

void media_put(struct media *media, uint64_t id, uint64_t at, const void *data, size_t len)
{
	struct media_write *write = &media->write[media->n++];

	assert(media->n < MEDIA_WRITES_MAX && at + len <= media->bytes);
	*write = (struct media_write){ .id = id, .at = at, .len = len, .sequence = ++media->sequence };
	write->data = calloc(1, len);
	assert(write->data);
	if (data)
		memcpy(write->data, data, len);
	memcpy(media->now + at, write->data, len);
}

static void make_stable(struct media *media, const struct media_write *write)
{
	size_t i;

	for (i = 0; i < write->len; i += MEDIA_SECTOR) {
		uint64_t *sequence = &media->stable_sequence[(write->at + i) / MEDIA_SECTOR];

		if (*sequence > write->sequence)
			continue;
		*sequence = write->sequence;
		memcpy(media->stable + write->at + i, write->data + i, MEDIA_SECTOR);
	}
}

static void forget(struct media *media, unsigned int i)
{
	free(media->write[i].data);
	memmove(&media->write[i], &media->write[i + 1], (--media->n - i) * sizeof(media->write[0]));
}

void media_acknowledge(struct media *media, uint64_t id, bool stable)
{
	unsigned int i;

	for (i = 0; i < media->n; i++) {
		if (media->write[i].id != id || media->write[i].acknowledged)
			continue;
		media->write[i].acknowledged = ++media->time;
		if (stable)
			make_stable(media, &media->write[i]);
	}
}

uint64_t media_flush_begin(struct media *media)
{
	return ++media->time;
}

void media_flush_end(struct media *media, uint64_t begin)
{
	unsigned int i = 0;

	while (i < media->n) {
		if (!media->write[i].acknowledged || media->write[i].acknowledged > begin) {
			i++;
			continue;
		}
		make_stable(media, &media->write[i]);
		forget(media, i);
	}
}

void media_cut(struct media *media)
{
	unsigned int i;

	/* In order: the cache may have written any of them back, or none. */
	for (i = 0; i < media->n; i++) {
		struct media_write piece = media->write[i];
		size_t k;

		for (k = 0; k < media->write[i].len; k += MEDIA_SECTOR) {
			piece.at = media->write[i].at + k;
			piece.data = media->write[i].data + k;
			piece.len = MEDIA_SECTOR;
			if (rand_r(&media->seed) % 4 == 0)
				make_stable(media, &piece);
		}
	}
	while (media->n)
		forget(media, media->n - 1);
	memcpy(media->now, media->stable, media->bytes);
}
