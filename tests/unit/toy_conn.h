/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A second kind of connection (base/conn.h), for tests: what one that encrypts
 * would do to its users, without a cipher. The far end must be one, too.
 *
 * - Each side says hello, and nothing passes before it has heard the other's:
 *   so a first send has to receive, and a first receive to send.
 * - Bytes travel in records, scrambled by their place in the stream: one that is
 *   lost, doubled or read past the connection shows.
 * - Whatever has come is read at once, and given out in small odd pieces: most
 *   of the time some is pending that no poll shows.
 * - A record that is sent in part is offered again with the same bytes, or the
 *   toy aborts; as it does when two threads send at once, or receive.
 * - Its descriptor is no socket, and can be polled and nothing more.
 */
#ifndef POSTERN_TESTS_UNIT_TOY_CONN_H
#define POSTERN_TESTS_UNIT_TOY_CONN_H

#include <stdatomic.h>

#include "base/conn.h"

struct toy_wrapper {
	struct conn_wrapper wrapper;
	/* over all connections */
	_Atomic unsigned int made, freed;
	_Atomic unsigned int hellos_awaited; /* calls that could not begin yet */
	_Atomic unsigned int parts; /* receives that left something pending */
	_Atomic unsigned int halves; /* records that were sent in more than one call */
};

void toy_wrapper_init(struct toy_wrapper *toys);

#endif
