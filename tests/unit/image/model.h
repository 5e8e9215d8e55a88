/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What the memory of a made-up guest holds, page by page: so that an image of it
 * can be written, and compared with what is read out of it. Two memory ranges,
 * with a gap between them. All of it follows from a seed.
 */
#ifndef POSTERN_TESTS_MODEL_H
#define POSTERN_TESTS_MODEL_H

#include <stdint.h>

#include "image/image.h"
#include "image/writer.h"

#define MODEL_ABSENT UINT64_MAX

struct model {
	struct manifest_machine machine;
	uint64_t pages;		/* of both ranges */
	uint64_t *content;	/* of each: 0: zeros; MODEL_ABSENT; else what it is made from */
	uint8_t *changed;	/* since the last image */
	uint64_t state;		/* of the random numbers */
};

/* first_huge, second_huge: 2 MiB each; the second range begins at 4 GiB, or there is none. */
void model_init(struct model *model, unsigned int first_huge, unsigned int second_huge,
		uint64_t seed);
void model_fini(struct model *model);
uint64_t model_random(struct model *model, uint64_t below);
/* Fills everything: zeros, runs and single pages of several kinds. absent: some are. */
void model_fill(struct model *model, bool absent);
/* Changes n pages, some to zeros. */
void model_touch(struct model *model, unsigned int n);
gfn_t model_gfn(const struct model *model, uint64_t index);
/* PAGE_BYTES, what page `index` holds; not of one that is absent. */
void model_page(const struct model *model, uint64_t index, uint8_t *page);

/*
 * Writes it all, or, on top of a parent, what has changed, and finishes. 0 or the writer's
 * error.
 */
int model_save(struct model *model, struct store *store, const char *name, struct image *parent,
	       const struct image_writer_config *config, struct err *err);
/* Names all pages to a writer, or what has changed. */
int model_write(struct model *model, struct image_writer *writer, bool all, struct err *err);
/* Reads all of it and compares. Fails the test where anything is wrong. */
void model_compare(const struct model *model, struct image *image);
/* The same of page `index` alone; returns image_read's error, or 0 when the page is right. */
int model_compare_page(const struct model *model, struct image *image, uint64_t index,
		       struct err *err);

#endif
