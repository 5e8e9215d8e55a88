// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/* See model.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

uint64_t model_random(struct model *model, uint64_t below)
{
	uint64_t z = (model->state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return (z ^ (z >> 31)) % below;
}

void model_init(struct model *model, unsigned int first_huge, unsigned int second_huge,
		uint64_t seed)
{
	memset(model, 0, sizeof(*model));
	model->state = seed;
	strcpy(model->machine.architecture, "x86_64");
	strcpy(model->machine.postern, "0.1.0");
	model->machine.cpus = 2;
	model->machine.ranges[0] = (struct memory_range){ GPA(0), first_huge * HUGE_BYTES };
	model->machine.ranges[1] =
		(struct memory_range){ GPA(UINT64_C(4) << 30), second_huge * HUGE_BYTES };
	model->machine.n_ranges = second_huge ? 2 : 1;
	model->pages = (first_huge + second_huge) * HUGE_PAGES;
	model->content = calloc(model->pages, sizeof(*model->content));
	model->changed = calloc(model->pages, 1);
}

void model_fini(struct model *model)
{
	free(model->content);
	free(model->changed);
}

gfn_t model_gfn(const struct model *model, uint64_t index)
{
	uint64_t first = model->machine.ranges[0].len_bytes / PAGE_BYTES;

	return index < first ? GFN(index) : GFN((UINT64_C(1) << 20) + index - first);
}

static void set(struct model *model, uint64_t index, uint64_t content)
{
	model->content[index] = content;
	model->changed[index] = 1;
}

static uint64_t some_content(struct model *model)
{
	return model_random(model, 4) ? 1 + model_random(model, 1u << 30) : 0;
}

void model_fill(struct model *model, bool absent)
{
	uint64_t index = 0;

	while (index < model->pages) {
		uint64_t run = 1 + model_random(model, model_random(model, 4) ? 40 : 3000);
		unsigned int kind = (unsigned int)model_random(model, absent ? 4 : 3);

		for (; run && index < model->pages; run--, index++)
			set(model, index,
			    kind == 0 ? 0 :
			    kind == 3 ? MODEL_ABSENT :
			    kind == 1 ? some_content(model) :
					1 + index);
	}
}

void model_touch(struct model *model, unsigned int n)
{
	uint64_t index = 0;

	for (; n; n--) {
		index = model_random(model, 3) ? model_random(model, model->pages) :
						 (index + 1) % model->pages;
		set(model, index, some_content(model));
	}
}

/* Of what it is made: a third each can be compressed well, a little, not at all. */
void model_page(const struct model *model, uint64_t index, uint8_t *page)
{
	uint64_t content = model->content[index], x = content, i;
	uint64_t *word = (uint64_t *)page;

	memset(page, 0, PAGE_BYTES);
	if (!content)
		return;
	for (i = 0; i < PAGE_BYTES / 8; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		word[i] = content % 3 == 0 ? content : content % 3 == 1 ? x & 0xff0f : x;
	}
}

/* What a run of the same kind is told as. */
static int write_run(struct model *model, struct image_writer *writer, uint64_t index, uint64_t n,
		     struct err *err)
{
	gfn_t gfn = model_gfn(model, index);

	if (model->content[index] == MODEL_ABSENT)
		return image_writer_absent(writer, gfn, n, err);
	return image_writer_zero(writer, gfn, n, err);
}

static int write_span(struct model *model, struct image_writer *writer, uint64_t index, bool all,
		      struct err *err)
{
	uint8_t data[IMAGE_SPAN_PAGES * PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));
	uint32_t mask = 0;
	unsigned int i;
	int r = 0;

	for (i = 0; !r && i < IMAGE_SPAN_PAGES; i++) {
		if (!all && !model->changed[index + i])
			continue;
		/* Zero pages are found by the writer, or named: both. */
		if (model->content[index + i] == MODEL_ABSENT ||
		    (!model->content[index + i] && (index & IMAGE_SPAN_PAGES))) {
			r = write_run(model, writer, index + i, 1, err);
			continue;
		}
		model_page(model, index + i, data + i * PAGE_BYTES);
		mask |= UINT32_C(1) << i;
	}
	return r ? r : image_writer_span(writer, model_gfn(model, index), mask, data, err);
}

int model_write(struct model *model, struct image_writer *writer, bool all, struct err *err)
{
	uint64_t index;
	int r = 0;

	for (index = 0; !r && index < model->pages; index += IMAGE_SPAN_PAGES)
		r = write_span(model, writer, index, all, err);
	return r;
}

int model_save(struct model *model, struct store *store, const char *name, struct image *parent,
	       const struct image_writer_config *given, struct err *err)
{
	struct image_writer_config config = given ? *given : (struct image_writer_config){ 0 };
	struct image_writer *writer;
	int r;

	config.machine = model->machine;
	config.parent = parent;
	config.rest = parent ? IMAGE_REST_KEPT : IMAGE_REST_REFUSED;
	r = image_writer_new(&writer, store, NULL, name, &config, err);
	if (r)
		return r;
	r = model_write(model, writer, !parent, err);
	if (!r)
		r = image_writer_object(writer, IMAGE_STATE, name, strlen(name), err);
	if (!r)
		r = image_writer_finish(writer, err);
	image_writer_free(writer);
	if (!r)
		memset(model->changed, 0, model->pages);
	return r;
}

static void check_page(const struct model *model, uint64_t index, const uint8_t *data, bool zero)
{
	uint8_t want[PAGE_BYTES] __attribute__((aligned(8)));

	model_page(model, index, want);
	if (zero ? model->content[index] != 0 : memcmp(want, data, PAGE_BYTES) != 0)
		fail_msg("page 0x%llx is wrong", (unsigned long long)model_gfn(model, index).v);
}

void model_compare(const struct model *model, struct image *image)
{
	uint8_t *data = malloc(HUGE_BYTES);
	uint64_t index = 0, i;
	struct err err;
	bool zero;

	while (index < model->pages) {
		int64_t n =
			image_read(image, model_gfn(model, index), HUGE_PAGES, data, &zero, &err);

		if (n == -ENODATA && model->content[index] == MODEL_ABSENT) {
			index++;
			continue;
		}
		if (n <= 0 || model->content[index] == MODEL_ABSENT)
			fail_msg("page %llu: %lld: %s", (unsigned long long)index, (long long)n,
				 n < 0 ? err.text : "it should be absent");
		assert_true((uint64_t)n <= HUGE_PAGES);
		for (i = 0; i < (uint64_t)n; i++)
			check_page(model, index + i, data + i * PAGE_BYTES, zero);
		index += (uint64_t)n;
	}
	free(data);
}

int model_compare_page(const struct model *model, struct image *image, uint64_t index,
		       struct err *err)
{
	uint8_t data[PAGE_BYTES];
	bool zero;
	int64_t n = image_read(image, model_gfn(model, index), 1, data, &zero, err);

	if (n < 0)
		return (int)n;
	assert_int_equal(n, 1);
	check_page(model, index, data, zero);
	return 0;
}
