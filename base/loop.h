/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Glue around libuv's loop: the main thread runs it; every other thread hands
 * work to the main thread with loop_post. Nothing that runs on the loop may
 * wait for a page, a peer or a disk, and nothing that comes from outside may
 * keep it busy: whoever carries out what a peer, a client or a guest has sent
 * does so until loop_turn_end(), leaves the rest for the next turn, and takes
 * no more from it until that is done. So the others have their turn, however
 * much one of them sends at once.
 */
#ifndef POSTERN_BASE_LOOP_H
#define POSTERN_BASE_LOOP_H

#include <stdbool.h>
#include <uv.h>

#include "base/clock.h"
#include "base/err.h"

struct loop;

/*
 * How long one callback goes on with what there is: each piece of work is begun
 * within it, and at least one is done.
 */
#define LOOP_TURN_NS (2 * NS_PER_MS)

/* CLOCK_MONOTONIC: when the turn that begins now is over. */
static inline int64_t loop_turn_end(void)
{
	return clock_now_ns() + LOOP_TURN_NS;
}

/* Main thread. */
int loop_new(struct loop **out, struct err *err);
/*
 * Closes what loop_new opened and runs pending callbacks. False: a request that
 * nobody can cancel, a write to a file whose disk hangs, is still under way
 * after a moment; nothing was freed, and only _exit leaves without waiting for
 * it.
 */
bool loop_free(struct loop *loop);
uv_loop_t *loop_uv(struct loop *loop);
/* Runs until loop_stop. */
void loop_run(struct loop *loop);
void loop_stop(struct loop *loop);
/* Main thread: is this within loop_run, where nothing may wait? */
bool loop_is_running(const struct loop *loop);

/*
 * Main thread. Closes a handle, whose callbacks come no more (a stream's requests still end, with
 * an error), and frees `memory`, in which it is, once the loop has let go of it.
 */
void loop_close(uv_handle_t *handle, void *memory);
/*
 * As loop_close, for memory with several handles in it: it begins with `handles`, how many of them
 * the loop still has, and goes with the last.
 */
void loop_close_one_of(uv_handle_t *handle, unsigned int *handles);

/*
 * Any thread: fn(arg) runs on the main thread, in the order of posting, each
 * post exactly once (also those still queued when the loop ends: they run in
 * loop_free). Never fails: it aborts only when memory for 32 bytes cannot be
 * had. So whoever posts what others cause posts once, and gathers the rest
 * until that has run: the queue has no bound of its own.
 */
void loop_post(struct loop *loop, void (*fn)(void *arg), void *arg);

#endif
