/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * malloc's memory.
 */
#ifndef POSTERN_BASE_HEAP_H
#define POSTERN_BASE_HEAP_H

/*
 * One heap for all threads. glibc would give each of them one of its own, for a
 * few small pieces: calls into the kernel that hold up a guest's first page, and
 * pages in each of many machines. Before there are threads.
 */
void heap_share(void);

/*
 * What was freed is the system's again. For who has done with work that took much, on threads that
 * have ended: malloc would keep it for threads to come. Takes about a millisecond, in which others
 * may wait for malloc. Any thread.
 */
void heap_trim(void);

#endif
