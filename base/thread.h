/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Threads, and how they take turns with each other. The latter is advice to the
 * scheduler that needs no privilege; where it is refused or not known, the
 * thread runs as any other. Measured on two CPUs with a guest that never rests:
 * docs/architecture.md.
 */
#ifndef POSTERN_BASE_THREAD_H
#define POSTERN_BASE_THREAD_H

#include <pthread.h>

/*
 * pthread_create of a thread that takes no signals: those are the main thread's
 * and the vCPUs'. 0 or a negative errno.
 */
int thread_start(pthread_t *thread, void *(*main)(void *arg), void *arg);

/*
 * The calling thread is part of a fault's way: it runs for microseconds and
 * somebody waits for it. It asks for the shortest turns (sched_setattr's
 * runtime, Linux 6.12 and later), and so runs at once when it wakes up.
 */
void thread_is_urgent(void);

/*
 * The calling thread moves much and is in no hurry: it does not push aside who
 * runs when it wakes up (SCHED_BATCH), and takes short turns, so that whoever
 * wakes up on its CPU, a vCPU above all, does not wait for the next tick. No
 * lower priority than that: on a busy host the migration would not end.
 */
void thread_is_bulk(void);

/*
 * A thread of the bulk calls this every few hundred microseconds: who waits for
 * its CPU goes first. Costs next to nothing when nobody does; without it they
 * wait for the clock's tick, up to 4 ms.
 */
void thread_give_way(void);

#endif
