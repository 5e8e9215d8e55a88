/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What comes on a migration's connections: frames are read, checked, and what they bring is handed
 * to a sink. docs/architecture.md has a page's whole way.
 */
#ifndef POSTERN_WIRE_RECEIVER_H
#define POSTERN_WIRE_RECEIVER_H

#include "memory/memory.h"
#include "wire/stream.h"

/* One connection's, for the thread that serves it. */
struct receiver {
	struct stream_reader reader;
	struct memory *mem;		/* says what RAM is */
	struct page_sink *sink;
	bool bulk;			/* nobody waits for the pages: by room and commit */
	uint8_t *sums;
	uint8_t *pages;			/* where urgent pages are read to; NULL in the bulk */
};

/* channel: WIRE_URGENT or WIRE_BULK of the pair. -ENOMEM. To be finished also when it failed. */
int receiver_init(struct receiver *receiver, const struct stream_pair *pair,
		  enum wire_channel channel, struct memory *mem, struct page_sink *sink,
		  struct err *err);
void receiver_fini(struct receiver *receiver);

/*
 * Reads a frame, and hands on what it brings; *frame tells what it was. 0, or a negative errno: the
 * connection is of no more use.
 */
int receiver_frame(struct receiver *receiver, struct frame *frame, struct err *err);

/*
 * Hands on what a frame brought that was read whole (PAGES: with its checksums and pages), after
 * checking it: as receiver_frame.
 */
int receiver_place(struct memory *mem, struct page_sink *sink, const struct frame *frame,
		   const uint8_t *sums, const uint8_t *pages, struct err *err);

#endif
