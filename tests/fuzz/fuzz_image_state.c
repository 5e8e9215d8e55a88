// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// A store's bytes: an image's state, and its working set, as they are and with the checksum that
// makes them believed.
#include <stdlib.h>
#include <string.h>

#include "image/state.h"
#include "image/sum.h"
#include "image/working_set.h"

static void state(const uint8_t *data, size_t size)
{
	struct image_state state;
	const uint8_t *page;
	struct err err;
	unsigned int i;

	if (image_state_decode(&state, data, size, "x", &err))
		return;
	if ((const uint8_t *)state.machine + state.machine_bytes > data + size)
		__builtin_trap();
	for (i = 0; i < state.n_pages; i++) {
		image_state_page(&state, i, &page);
		if (page < data || page + PAGE_BYTES > data + size)
			__builtin_trap();
	}
}

static void set(const uint8_t *data, size_t size)
{
	struct working_set set;
	struct buf out = { 0 };
	struct err err;

	if (working_set_decode(&set, data, size, "x", &err))
		return;
	if (working_set_encode(&set, &out, &err) || out.len != size || memcmp(out.data, data, size))
		__builtin_trap();
	if (!working_set_merge(&set, (struct working_set_touch[]){ { 3, 1 }, { 9, 2 } }, 2, NULL,
			       &err) &&
	    set.n_pages > 65536)
		__builtin_trap();
	working_set_fini(&set);
	buf_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size + SUM_BYTES);

	state(data, size);
	set(data, size);
	memcpy(copy, data, size);
	sum_bytes(data, size, copy + size);
	set(copy, size + SUM_BYTES);
	free(copy);
	return 0;
}
