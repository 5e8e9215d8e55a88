/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A wrapper that makes faults, for tests and for drills: requests that fail,
 * requests that nobody hears, pages with a bit flipped, pages that are lost. At
 * the n-th page or by chance; the same seed and the same order of pages make
 * the same faults.
 */
#ifndef POSTERN_SOURCE_INJECT_H
#define POSTERN_SOURCE_INJECT_H

#include "source/layer.h"

#define INJECT_RULES_MAX 8

struct inject;

enum inject_fault {
	INJECT_FAIL,		/* a request with this page fails: -ENOTCONN, nothing is passed on */
	INJECT_SILENCE,		/* a page's request is swallowed */
	INJECT_CORRUPT,		/* a page comes with one bit flipped */
	INJECT_LOSE,		/* a page that comes is reported lost */
};
#define INJECT_FAULTS 4

/* One kind of fault; each rule counts the pages that it sees (requested, or coming) from 1. */
struct inject_rule {
	enum inject_fault fault;
	uint64_t nth;		/* from this page on; 0: by chance */
	uint64_t pages;		/* so many pages from there; 0: all */
	double chance;		/* 0 to 1, a page; used when nth is 0 */
};

struct inject_stats {
	uint64_t pages[INJECT_FAULTS];	/* hit, by kind of fault (INJECT_FAIL: requests) */
};

/* Up to INJECT_RULES_MAX rules. seed 0: one is picked. The seed is logged. -EINVAL, -ENOMEM. */
int inject_new(struct inject **out, const struct inject_rule *rules, unsigned int n, uint64_t seed,
	       struct err *err);
/* To put into a stack, which frees it. */
struct layer *inject_layer(struct inject *inject);
/* Any thread: the faults end, or begin again. They are on at first. */
void inject_enable(struct inject *inject, bool on);
uint64_t inject_seed(const struct inject *inject);
void inject_stats(const struct inject *inject, struct inject_stats *stats);

#endif
