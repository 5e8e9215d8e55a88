// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A frame's header is read and checked, then what it promises is read and checked, and only then
 * does a sink see it.
 *
 * Urgent pages are read to a buffer and filled. Those of the bulk are read to where the sink has
 * room for them, which is part of a huge page on its way (memory/sink.c), so that nobody copies
 * them. A page may be there already: the urgent and the bulk connection race, which is harmless.
 */
#include "wire/receiver.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/page.h"

int receiver_init(struct receiver *receiver, const struct stream_pair *pair,
		  enum wire_channel channel, struct memory *mem, struct page_sink *sink,
		  struct err *err)
{
	*receiver = (struct receiver){
		.reader = {
			.conn = channel == WIRE_BULK ? pair->bulk : pair->urgent,
			.heard_ns = pair->heard_ns,
		},
		.mem = mem,
		.sink = sink,
		.bulk = channel == WIRE_BULK,
		.sums = malloc(FRAME_SUMS_BYTES(FRAME_PAGES_MAX)),
	};
	if (!receiver->bulk)
		receiver->pages = page_buffer_new(FRAME_PAGES_MAX * PAGE_BYTES);
	if (receiver->sums && (receiver->bulk || receiver->pages))
		return 0;
	return err_set(err, -ENOMEM, "no memory to receive pages");
}

void receiver_fini(struct receiver *receiver)
{
	free(receiver->sums);
	page_buffer_free(receiver->pages, FRAME_PAGES_MAX * PAGE_BYTES);
}

static int check_range(const struct memory *mem, const struct frame *frame, struct err *err)
{
	if (memory_is_ram(mem, gfn_to_gpa(frame->gfn), frame->count * PAGE_BYTES))
		return 0;
	return err_set(err, -EBADMSG,
		       "%s frame of %u pages from 0x%" PRIx64 ", which are not this guest's RAM",
		       frame_type_name(frame->type), frame->count, frame->gfn.v);
}

/* What a sink said. */
static int check_placed(const struct frame *frame, int64_t r, struct err *err)
{
	if (r >= 0)
		return 0;
	return err_errno(err, (int)r, "placing %u pages from 0x%" PRIx64, frame->count,
			 frame->gfn.v);
}

int receiver_place(struct memory *mem, struct page_sink *sink, const struct frame *frame,
		   const uint8_t *sums, const uint8_t *pages, struct err *err)
{
	int64_t r = check_range(mem, frame, err);

	if (r < 0)
		return (int)r;
	switch (frame->type) {
	case FRAME_PAGES:
		r = frame_check_pages(frame, sums, pages, err);
		if (r < 0)
			return (int)r;
		r = sink->ops->fill(sink, frame->gfn, frame->count, pages);
		break;
	case FRAME_ZERO:
		r = sink->ops->fill(sink, frame->gfn, frame->count, NULL);
		break;
	case FRAME_LOST:
		r = sink->ops->lose(sink, frame->gfn);
		break;
	default:
		return err_set(err, -EBADMSG, "%s frame from the source",
			       frame_type_name(frame->type));
	}
	return check_placed(frame, r, err);
}

/* Pages of a frame of the bulk from *done on, as many as there is room for in one piece. */
static int receive_run(struct receiver *receiver, const struct frame *frame, uint32_t *done,
		       struct err *err)
{
	struct page_sink *sink = receiver->sink;
	struct frame run = {
		.type = frame->type, .gfn = GFN(frame->gfn.v + *done), .count = frame->count - *done,
	};
	int64_t n, placed;
	void *pages;
	int r = check_range(receiver->mem, &run, err);

	if (r < 0)
		return r;
	n = sink->ops->room(sink, run.gfn, run.count, &pages);
	if (n < 0)
		return check_placed(&run, n, err);
	run.count = (uint32_t)n;
	r = stream_read(&receiver->reader, pages, run.count * PAGE_BYTES, err);
	if (!r)
		r = frame_check_pages(&run, receiver->sums + FRAME_SUMS_BYTES(*done), pages, err);
	placed = sink->ops->commit(sink, run.gfn, r < 0 ? 0 : run.count, pages);
	*done += run.count;
	return r < 0 ? r : check_placed(&run, placed, err);
}

static int receive_zeros(struct receiver *receiver, const struct frame *frame, struct err *err)
{
	struct page_sink *sink = receiver->sink;
	int r = check_range(receiver->mem, frame, err);

	if (r < 0)
		return r;
	return check_placed(frame, sink->ops->commit(sink, frame->gfn, frame->count, NULL), err);
}

int receiver_frame(struct receiver *receiver, struct frame *frame, struct err *err)
{
	struct stream_reader *reader = &receiver->reader;
	uint8_t head[FRAME_BYTES];
	uint32_t done = 0;
	int r = stream_read(reader, head, sizeof(head), err);

	if (!r)
		r = frame_decode(frame, head, err);
	if (!r && frame->type == FRAME_MESSAGE)
		r = err_set(err, -EBADMSG, "a message where only pages belong");
	if (!r && frame->type == FRAME_PAGES)
		r = stream_read(reader, receiver->sums, FRAME_SUMS_BYTES(frame->count), err);
	if (r < 0)
		return r;
	if (receiver->bulk && frame->type == FRAME_ZERO)
		return receive_zeros(receiver, frame, err);
	if (receiver->bulk && frame->type == FRAME_PAGES) {
		while (!r && done < frame->count)
			r = receive_run(receiver, frame, &done, err);
		return r;
	}
	if (frame->type == FRAME_PAGES)
		r = stream_read(reader, receiver->pages, frame->count * PAGE_BYTES, err);
	if (r < 0)
		return r;
	return receiver_place(receiver->mem, receiver->sink, frame, receiver->sums,
			      receiver->pages, err);
}
