/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Made-up guests for tests of snapshots: threads that write guest memory as
 * vCPUs do, all the time, and savers that check what is handed out.
 *
 * Each word of a page that a guest writes is the page's number and a count that
 * goes up with each write, and is written into a shadow as well. While all
 * guests are parked the shadow is the memory; a copy of it is what a snapshot
 * that begins then must hand out, word for word.
 */
#ifndef POSTERN_TESTS_MEMORY_GUEST_H
#define POSTERN_TESTS_MEMORY_GUEST_H

#include "fixture.h"

#include <pthread.h>

#include "memory/eject.h"
#include "memory/snapshot.h"

#define GUESTS_MAX 3

struct guests;

struct guest {
	struct guests *of;
	unsigned int number;
	pthread_t thread;
	struct memory_thread *waits;
	_Atomic bool parked; /* outside the made-up KVM_RUN, and stays there */
	_Atomic bool inside;
	_Atomic bool signalled;
	_Atomic uint64_t writes;
};

struct guests {
	struct memory *mem;
	uint64_t *shadow; /* of the first region */
	uint64_t pages;
	uint64_t first, n; /* the pages that are written */
	unsigned int guests;
	struct guest guest[GUESTS_MAX];
	_Atomic bool park, end;
};

/*
 * They write pages [first, first + n) of the first region, each its own of
 * them, until they are stopped; parked at first.
 */
void guests_start(struct guests *guests, struct memory *mem, unsigned int n_guests, uint64_t first,
		  uint64_t n);
/* All are parked when it returns, also those that wait for room; and go on. */
void guests_park(struct guests *guests);
void guests_go(struct guests *guests);
void guests_stop(struct guests *guests);
uint64_t guests_writes(const struct guests *guests);

/* What the first region holds, with all guests parked: to be freed. */
uint64_t *guests_copy(const struct guests *guests);
/* A write of the test's own while they are parked, as a guest's. */
void guests_write(struct guests *guests, uint64_t page, unsigned int word, uint64_t value);

/*
 * Takes spans until there are none, checks each against `want`, and that each
 * page comes once.
 */
struct saver {
	struct memory_snapshot *snapshot;
	const uint64_t *want; /* of the first region; NULL: what it holds is not looked at */
	uint64_t pages;
	_Atomic uint8_t *seen; /* by page; a letter: h z l x (lost) s */
	unsigned int delay_us; /* after each span */
	_Atomic int result; /* memory_snapshot_next's last */
	_Atomic uint64_t wrong; /* words */
	pthread_t thread;
};

void saver_init(struct saver *saver, struct memory_snapshot *snapshot, const uint64_t *want,
		uint64_t pages);
/* On this thread; or on one of its own. */
void saver_run(struct saver *saver);
void saver_start(struct saver *saver);
void saver_join(struct saver *saver);
/* Each page has come, nothing was wrong. How many came with this letter. */
void saver_check(const struct saver *saver);
uint64_t saver_count(const struct saver *saver, char letter);
void saver_fini(struct saver *saver);

/*
 * new, prepare, and with the guests parked begin. *want: what it must hand out.
 * Skips the test where the host cannot do it.
 */
struct memory_snapshot *snapshot_at_once(struct guests *guests,
					 const struct memory_snapshot_config *config,
					 uint64_t **want);

#endif
