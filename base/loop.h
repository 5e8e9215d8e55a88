/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Glue around libuv's loop: the main thread runs it; every other thread hands work to the main
 * thread with loop_post. Nothing that runs on the loop may wait for a page, a peer or a disk.
 */
#ifndef POSTERN_BASE_LOOP_H
#define POSTERN_BASE_LOOP_H

#include <stdbool.h>
#include <uv.h>

#include "base/err.h"

struct loop;

/* Main thread. */
int loop_new(struct loop **out, struct err *err);
/*
 * Closes what loop_new opened and runs pending callbacks. False: a request that nobody can cancel, the look-up of a host name,
 * is still under way after a moment; nothing was freed, and only _exit leaves without waiting for it.
 */
bool loop_free(struct loop *loop);
uv_loop_t *loop_uv(struct loop *loop);
/* Runs until loop_stop. */
void loop_run(struct loop *loop);
void loop_stop(struct loop *loop);

/*
 * Any thread: fn(arg) runs on the main thread, in the order of posting, each post exactly once (also
 * those still queued when the loop ends: they run in loop_free). Never fails: it aborts only when
 * memory for 32 bytes cannot be had.
 */
void loop_post(struct loop *loop, void (*fn)(void *arg), void *arg);

#endif
