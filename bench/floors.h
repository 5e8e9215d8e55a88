/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What the files of the floors program share. A floor is the least that a
 * figure can cost on this host: the same guest and the same kernel calls, with
 * nothing in between that a VMM would add.
 */
#ifndef POSTERN_BENCH_FLOORS_H
#define POSTERN_BENCH_FLOORS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

/*
 * Prints "floors: what: errno's text" and ends the process: a measuring program
 * has nothing to save.
 */
_Noreturn void floor_die(const char *what);
_Noreturn void floor_die_err(const struct err *err);

/* len_bytes of private or shared anonymous memory at a huge page's boundary; never returns NULL. */
uint8_t *floor_map(uint64_t len_bytes, bool shared);
/*
 * A userfaultfd whose read() blocks unless flags has O_NONBLOCK; *features (may
 * be NULL) gets what the kernel has.
 */
int floor_uffd(int flags, uint64_t wanted, uint64_t *features);
void floor_register(int uffd, void *start, uint64_t len_bytes);
/* Two ends of a TCP connection over the loopback, no delay set. */
void floor_tcp_pair(int *a, int *b);
/* All of it, or false when the other side has closed. */
bool floor_send(int fd, const void *data, uint64_t len_bytes);
bool floor_receive(int fd, void *data, uint64_t len_bytes);

/* ---- a guest whose pages come late (floor_guest.c, floor_fetch.c) ---- */

/*
 * One 64-byte request: which page of the reference is wanted. The answer is the
 * page, and nothing else.
 */
struct floor_request {
	uint64_t page;
	uint64_t unused[7];
};

struct floor_fetch;

/* Before any thread is started: forks the process that serves pages over TCP. */
struct floor_fetch *floor_fetch_new(uint64_t most_bytes);
/*
 * Takes [start, start + pages) away; from now on each touch is resolved by one
 * thread: from the reference copy in this process, or from the other process
 * over TCP. The guest must be paused. The same range at every call.
 */
void floor_fetch_late(struct floor_fetch *fetch, uint8_t *start, uint64_t pages, bool remote);
/*
 * Everything is there again, on huge pages where the kernel has some, and
 * nothing is watched. Guest paused.
 */
void floor_fetch_whole(struct floor_fetch *fetch);
/* Since floor_fetch_late: pages that were asked for, and messages that asked. */
void floor_fetch_count(struct floor_fetch *fetch, uint64_t *pages, uint64_t *messages);
/*
 * A CPU each for the handler's thread and the process that serves, -1: wherever
 * the scheduler likes.
 */
void floor_fetch_place(struct floor_fetch *fetch, int handler_cpu, int server_cpu);
/* The same for any thread; ends the process when it cannot be done. */
void floor_place(pid_t tid, int cpu);

/* `floors serve`: see floor_guest.c. Returns the exit code. */
int floor_serve(int argc, char **argv);

/* ---- rates and kicks (floor_rates.c, floor_kick.c): print one line a figure ---- */
int floor_rates(int argc, char **argv);
int floor_kick(int argc, char **argv);
/* The same of stores (floor_store.c). */
int floor_store(int argc, char **argv);
/* The same of encryption (floor_cipher.c). */
int floor_cipher(int argc, char **argv);

#endif
