// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * See state.h. Field by field:
 *
 *   header  0 magic 8, 8 version 4, 12 early pages 4, 16 bytes of the machine's state 8
 *   then the machine's state, then for each early page: 0 gfn 8, 8 its PAGE_BYTES
 */
#include "image/state.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "base/state_version.h"
#include "image/index.h"

#define STATE_MAGIC "PSTNSTAT"
#define HEADER_BYTES 24u
#define RECORD_BYTES (8u + PAGE_BYTES)

int image_state_begin(struct buf *out, const void *machine, size_t machine_bytes, struct err *err)
{
	uint8_t header[HEADER_BYTES];

	if (!machine_bytes || machine_bytes > IMAGE_STATE_MACHINE_MAX)
		return err_set(err, -EINVAL, "a machine's state of %zu bytes", machine_bytes);
	memcpy(header, STATE_MAGIC, 8);
	put32(header + 8, IMAGE_STATE_VERSION);
	put32(header + 12, 0);
	put64(header + 16, machine_bytes);
	buf_consume(out, out->len);
	if (buf_append(out, header, sizeof(header)) || buf_append(out, machine, machine_bytes))
		return err_set(err, -ENOMEM, "no memory for the machine's state");
	return 0;
}

int image_state_add_page(struct buf *out, gfn_t gfn, const void *page, struct err *err)
{
	uint8_t *count = out->data + 12;
	uint32_t n = get32(count);
	uint8_t number[8];

	if (gfn.v >= GFN_LIMIT || n == IMAGE_STATE_PAGES_MAX ||
	    (n && get64(out->data + out->len - RECORD_BYTES) >= gfn.v))
		return err_set(err, -EINVAL,
			       "early page 0x%" PRIx64 " is too many, or out of order", gfn.v);
	put32(count, n + 1);
	put64(number, gfn.v);
	if (buf_append(out, number, sizeof(number)) || buf_append(out, page, PAGE_BYTES))
		return err_set(err, -ENOMEM, "no memory for early pages");
	return 0;
}

gfn_t image_state_page(const struct image_state *state, unsigned int i, const uint8_t **page)
{
	const uint8_t *record = state->pages + (size_t)i * RECORD_BYTES;

	if (page)
		*page = record + 8;
	return GFN(get64(record));
}

static int state_check_pages(const struct image_state *state, const char *where, struct err *err)
{
	unsigned int i;

	for (i = 0; i < state->n_pages; i++) {
		uint64_t gfn = image_state_page(state, i, NULL).v;

		if (gfn >= GFN_LIMIT || (i && image_state_page(state, i - 1, NULL).v >= gfn))
			return err_set(err, -EBADMSG,
				       "%s: damaged: early page 0x%" PRIx64 " is out of order",
				       where, gfn);
	}
	return 0;
}

int image_state_decode(struct image_state *state, const void *bytes, size_t len, const char *where,
		       struct err *err)
{
	const uint8_t *data = bytes;
	uint64_t machine;
	int r;

	memset(state, 0, sizeof(*state));
	if (len < HEADER_BYTES || memcmp(data, STATE_MAGIC, 8))
		return err_set(err, -EBADMSG, "%s: not an image's state", where);
	r = state_version_check(where, get32(data + 8), IMAGE_STATE_VERSION, err);
	if (r)
		return r;
	state->n_pages = get32(data + 12);
	machine = get64(data + 16);
	if (!machine || machine > IMAGE_STATE_MACHINE_MAX ||
	    state->n_pages > IMAGE_STATE_PAGES_MAX ||
	    len != HEADER_BYTES + machine + (uint64_t)state->n_pages * RECORD_BYTES)
		return err_set(err, -EBADMSG,
			       "%s: damaged: %zu bytes for a state of %" PRIu64 " and %u pages",
			       where, len, machine, state->n_pages);
	state->machine = data + HEADER_BYTES;
	state->machine_bytes = (size_t)machine;
	state->pages = data + HEADER_BYTES + machine;
	return state_check_pages(state, where, err);
}
