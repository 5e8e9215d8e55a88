/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A thread that is about to wait for a request may carry it out itself: then nobody has to be
 * woken for it, neither to ask nor to take the answer. store_wait says so while it begins the
 * request; a store that takes it up does nothing until it is called.
 */
#ifndef POSTERN_STORE_HELPER_H
#define POSTERN_STORE_HELPER_H

#include <stdatomic.h>
#include <stdbool.h>

struct store_helper {
	/*
	 * Of the store that took it up; NULL: none has. `help` carries out what was begun, and what
	 * others begin meanwhile; returns once `enough` is set, or there is nothing to be done.
	 */
	void (*help)(struct store_helper *helper);
	void (*wake)(struct store_helper *helper);	/* any thread; never sleeps: look at enough */
	void *arg;
	_Atomic bool enough;
};

/* The one whose thread this is, while it begins its request; otherwise NULL. */
struct store_helper *store_helper_here(void);

#endif
