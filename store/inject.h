/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A layer that makes faults, for tests and for drills: requests that fail, that nobody hears, that
 * are answered late, reads that end too early or have a bit flipped, writes that happen and are
 * not confirmed. At the n-th request or by chance; the same seed and the same order of requests
 * make the same faults.
 */
#ifndef POSTERN_STORE_INJECT_H
#define POSTERN_STORE_INJECT_H

#include "store/store.h"
#include "store/timer.h"

#define STORE_INJECT_RULES_MAX 8

enum store_fault {
	STORE_FAULT_FAIL,	/* fails with the rule's code; nothing is passed on */
	STORE_FAULT_SILENCE,	/* is swallowed: ends with a cancel alone */
	STORE_FAULT_DELAY,	/* is answered so many ms later */
	STORE_FAULT_SHORT,	/* GET: the last half of what came is missing: -EBADMSG, UP_TO: fewer */
	STORE_FAULT_CORRUPT,	/* GET: one bit is flipped */
	STORE_FAULT_UNSURE,	/* is done, and fails with the rule's code all the same */
};
#define STORE_FAULTS 6

/*
 * One kind of fault. Each rule counts the requests of its verbs from 1; the
 * first rule that hits has it.
 */
struct store_inject_rule {
	enum store_fault fault;
	unsigned int verbs;	/* bits 1 << STORE_GET, ...; 0: all */
	uint64_t nth;		/* from this request on; 0: by chance */
	uint64_t requests;	/* so many from there; 0: all */
	double chance;		/* 0 to 1; used when nth is 0 */
	int code;		/* FAIL, UNSURE: 0 is -EAGAIN */
	unsigned int ms;	/* DELAY */
};

struct store_inject_stats {
	uint64_t requests;
	uint64_t hit[STORE_FAULTS];
};

struct inject_store;

/* Takes `below`, also where it fails. seed 0: one is picked, and logged. -EINVAL, -ENOMEM. */
int inject_store_new(struct inject_store **out, struct store *below, struct timers *timers,
		     const struct store_inject_rule *rules, unsigned int n, uint64_t seed,
		     struct err *err);
struct store *inject_store(struct inject_store *inject);
/* Any thread: the faults end, or begin again. They are on at first. */
void inject_store_enable(struct inject_store *inject, bool on);
void inject_store_stats(struct inject_store *inject, struct store_inject_stats *stats);

#endif
