/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Threads that may wait for late pages, in KVM_RUN or in gup, are known by a
 * memory_thread: so it can be told who waits for which page (memory_waiters),
 * and they can be brought out of the wait (eject.h).
 */
#ifndef POSTERN_MEMORY_WAIT_H
#define POSTERN_MEMORY_WAIT_H

#include "memory/memory.h"

struct memory_thread;

/*
 * Registers a thread-to-be. name: at most 15 bytes are kept; cpu: vCPU index or
 * -1. NULL: no memory.
 */
struct memory_thread *memory_thread_new(struct memory *mem, const char *name, int cpu);
/* Its thread has unbound it or was never bound, and nobody kicks it. */
void memory_thread_free(struct memory_thread *thread);
/* On the thread itself, before its first wait. */
void memory_thread_bind(struct memory_thread *thread);
/*
 * On the thread itself, before it ends: its waits are over, and no signal
 * (eject.h) comes any more.
 */
void memory_thread_unbind(struct memory_thread *thread);

#endif
