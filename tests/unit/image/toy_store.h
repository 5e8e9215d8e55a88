/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A store in memory for tests of image/: what is in it can be damaged, it can
 * be full, fail, or hold back its answers.
 */
#ifndef POSTERN_TESTS_TOY_STORE_H
#define POSTERN_TESTS_TOY_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "store/store.h"

struct toy_object {
	char name[256];
	uint8_t *data;
	size_t len;
	uint64_t gets;		/* since it was there, or since toy_store_forget_gets */
};

struct toy_store;

struct toy_store *toy_store_new(void);
struct store *toy_store(struct toy_store *toy);
void toy_store_free(struct toy_store *toy);

/* Any thread, but the pointer holds only until the next PUT or DELETE. NULL: there is none. */
struct toy_object *toy_store_find(struct toy_store *toy, const char *name);
/* The i-th object, in the order of names; NULL: there are not so many. */
struct toy_object *toy_store_at(struct toy_store *toy, unsigned int i);
unsigned int toy_store_count(struct toy_store *toy);
/* The first whose name has this in it. */
struct toy_object *toy_store_like(struct toy_store *toy, const char *part);
uint64_t toy_store_gets(struct toy_store *toy);
void toy_store_forget_gets(struct toy_store *toy);

/* PUTs of more than so many bytes in all fail with -ENOSPC; UINT64_MAX: none. */
void toy_store_set_room(struct toy_store *toy, uint64_t bytes);
/*
 * The nth request of that verb from now on (1 is the next), and all further ones, fail with the
 * code. 0: none.
 */
void toy_store_set_failure(struct toy_store *toy, enum store_verb verb, uint64_t nth, int code);
/* A PUT whose name has this in it is done, and fails all the same. NULL: none. */
void toy_store_set_unsure(struct toy_store *toy, const char *part, int code);
/* GETs of packs are answered only once it is false again. */
void toy_store_hold(struct toy_store *toy, bool hold);
/* Waits until so many are held back. */
void toy_store_wait_held(struct toy_store *toy, unsigned int n);
/* Called before each request, on its thread, with no lock. NULL: nothing is. */
void toy_store_set_hook(struct toy_store *toy,
			void (*hook)(void *arg, const struct store_request *), void *arg);

#endif
