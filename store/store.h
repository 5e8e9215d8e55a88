/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Where objects lie: a folder, a web server, S3. An object has a name and bytes, is written whole
 * or not at all, and is never changed afterwards. All stores have this one interface, and so have
 * the layers over them (retry, deadline, second, cache), which stack in any order. docs/stores.md
 * tells what each failure looks like.
 *
 * A request is the caller's memory. It is zeroed, filled in, begun, and nobody else's again once
 * `done` has been called, which happens exactly once. Whoever may sleep uses the functions at the
 * end of this header instead, which wait.
 *
 * What a store sends is hostile: no more than `len` bytes are ever written, and names are checked.
 */
#ifndef POSTERN_STORE_STORE_H
#define POSTERN_STORE_STORE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

/* A name: segments of A-Z a-z 0-9 . _ -, joined by '/'; no segment is empty, "." or "..". */
#define STORE_NAME_MAX 255
/* The largest object that a PUT writes, and the most that one GET reads. */
#define STORE_OBJECT_MAX (UINT64_C(1) << 30)

struct store;

enum store_verb { STORE_GET, STORE_PUT, STORE_DELETE, STORE_LIST };

enum store_flag {
	STORE_NEW = 1,		/* PUT: -EEXIST where there is one already; of several one wins */
	STORE_UP_TO = 2,	/* GET: fewer than len bytes only where the object ends; 0 behind it */
	STORE_URGENT = 4,	/* somebody waits: goes first */
	STORE_SOON = 16,	/* GET: will be wanted soon; who asks bounds how much is under way */
	STORE_SHALLOW = 8,	/* LIST: what lies deeper is told once, as "FOLDER/" with 0 bytes */
};

/*
 * result is the number of bytes of a GET or PUT (len, unless STORE_UP_TO), 0
 * for DELETE and LIST, or
 *
 *   -ENOENT	there is no such object (DELETE: that is a success, 0)
 *   -EEXIST	STORE_NEW: there is one
 *   -EACCES, -EPERM	not allowed; a name that leads out of the store; not a plain file
 *   -EAGAIN	may work later: busy, reset, refused, no answer from below
 *   -EBADMSG	other bytes than asked for, or an object that is too short
 *   -ESTALE	the object changed while it was being read
 *   -ENOSPC, -EDQUOT	no room
 *   -EINVAL	a name or size that cannot be, or a URL
 *   -ENOTSUP	this store cannot do that (a plain web server has no LIST)
 *   -ENOMEM
 *   -ECANCELED	by store_cancel
 *   -ETIMEDOUT	by a deadline of ours
 *   another	the system's own, such as -EIO
 *
 * err then names the store, the object, and what to do.
 */
struct store_request {
	enum store_verb verb;
	unsigned int flags;	/* of enum store_flag */
	const char *object;	/* LIST: what names begin with: "", or a name's first bytes */
	uint64_t offset;	/* GET */
	/*
	 * GET: tells the object from another that once had its name (of an
	 * image: from its id). Only what has one is kept in a cache; 0: it is
	 * always read from where it lies.
	 */
	uint64_t version;
	void *data;		/* GET: undefined after an error. PUT: only read */
	size_t len;
	/* LIST: each, in no order, one at a time, before done. Bytes may be 0 where not known. */
	void (*name)(struct store_request *request, const char *object, uint64_t bytes);
	/*
	 * On a thread of the store's, or one that waits for another request (store_wait), or from
	 * inside of store_begin; never from inside of store_cancel, and never with a lock of the
	 * store's held. Must not sleep. May begin other requests, and free this one.
	 */
	void (*done)(struct store_request *request);
	void *arg;
	int64_t result;
	struct err err;		/* set when result is negative */
	unsigned int again_ms;	/* -EAGAIN: the server wants so long a pause; 0: it says nothing */
	/* the store's; zeroed by the caller */
	_Atomic bool cancelled;
	void *own;
	struct store_request *next, *prev;
	uint64_t own_word[4];
};

/*
 * Any thread; never sleeps. May be done before it returns (a page-cache hit). A name that cannot
 * be is refused here (-EINVAL), for all stores.
 */
void store_begin(struct store *store, struct store_request *request);
/*
 * Any thread, from when the request was zeroed until its done has returned; more than once as well.
 * done comes soon then, with -ECANCELED unless it was faster, also while the store hangs. A PUT or
 * DELETE that was cancelled may have happened all the same. Never sleeps and calls nothing of the
 * caller's, so that the caller may hold a lock that done takes.
 */
void store_cancel(struct store *store, struct store_request *request);
/*
 * Nothing is under way, and no `done` calls this. NULL is fine. Frees the
 * stores beneath as well.
 */
void store_free(struct store *store);
/* What errors call it: a URL without secrets. */
const char *store_label(const struct store *store);

/* Is this an object's name? Otherwise *why, if not NULL, says what is wrong with it. */
bool store_name_is_valid(const char *name, const char **why);
/* The same for what names begin with. */
bool store_prefix_is_valid(const char *prefix, const char **why);

/* ---- opening (store/open.c) ---- */

struct store_options {
	unsigned int attempts;		/* of each request; 1: none is repeated. 0: 5 */
	/* Of each request, with all attempts, and its bytes at 1 MiB/s. 0: 30 s */
	unsigned int deadline_ms;
	unsigned int attempt_ms;	/* the same of each attempt. 0: a third of that, 10 s at most */
	const char *second;		/* another URL with the same objects; NULL: none */
	unsigned int second_ms;		/* it is asked after so long. 0: 50 ms */
	const char *cache;		/* a local folder; NULL: none */
	uint64_t cache_bytes;		/* 0: 10 GiB */
	const char *credentials;	/* a file; NULL: from the environment (docs/stores.md) */
};

/*
 * /path, ./path, dir:/path, http://host[:port]/path, https://...,
 * s3://bucket/prefix?endpoint=..&region=.. (docs/stores.md). Options may be
 * NULL. Connects to nothing: the first request does. -EINVAL: not such a URL;
 * -ENOENT, -ENOTDIR, -EACCES: the folder; -ENOSYS: what it needs is not
 * installed. Looks at the folder, which may sleep where its file system hangs.
 */
int store_open(struct store **out, const char *url, const struct store_options *options,
	       struct err *err);

/*
 * ---- for threads that may wait ----
 *
 * With no lock held that a request's `done` takes: who waits may carry out others meanwhile.
 */

/*
 * Gathers what threads wait for, so that another can end that. Its owner's memory; outlives every
 * wait in it. NULL instead of a scope: nobody ends the wait but the store.
 */
struct store_scope {
	pthread_mutex_t lock;
	struct store_wait *first;
	bool cancelled;
};

void store_scope_init(struct store_scope *scope);
void store_scope_fini(struct store_scope *scope);
/*
 * Any thread; never sleeps: ends what is under way, and what begins until the
 * scope is opened again.
 */
void store_scope_cancel(struct store_scope *scope);
void store_scope_open(struct store_scope *scope);

/* Each returns what `result` above says; err may be NULL. */
int64_t store_get(struct store *store, struct store_scope *scope, const char *object,
		  uint64_t offset, void *data, size_t len, unsigned int flags, struct err *err);
/* All of an object is appended to out; -EFBIG: it has more than max bytes. */
int64_t store_get_all(struct store *store, struct store_scope *scope, const char *object,
		      size_t max, struct buf *out, struct err *err);
int64_t store_put(struct store *store, struct store_scope *scope, const char *object,
		  const void *data, size_t len, unsigned int flags, struct err *err);
int store_delete(struct store *store, struct store_scope *scope, const char *object,
		 struct err *err);
/* each: on another thread, one at a time, while store_list waits. */
int store_list(struct store *store, struct store_scope *scope, const char *prefix,
	       unsigned int flags, void (*each)(void *arg, const char *object, uint64_t bytes),
	       void *arg, struct err *err);
/* Any request, filled in but for done and arg. Returns its result. */
int64_t store_wait(struct store *store, struct store_scope *scope, struct store_request *request);

/* ---- for stores and layers, which begin with a struct store ---- */

struct store_ops {
	const char *name;
	/*
	 * The request is well-formed. Under its lock an implementation notes
	 * the request where cancel finds it, and then looks at
	 * request->cancelled: so no cancel is lost, however early.
	 */
	void (*begin)(struct store *store, struct store_request *request);
	/*
	 * `cancelled` is set. The request may not be known yet, or not be any more: then nothing.
	 * A layer may call store_cancel of what is beneath with its own lock held, never done.
	 */
	void (*cancel)(struct store *store, struct store_request *request);
	void (*free)(struct store *store);
};

struct store {
	const struct store_ops *ops;
	char label[300];
};

void store_init(struct store *store, const struct store_ops *ops, const char *label_format, ...)
	__attribute__((format(printf, 3, 4)));
static inline bool store_is_cancelled(struct store_request *request)
{
	return atomic_load(&request->cancelled);
}
/* Calls done; the caller holds no lock and does not touch the request afterwards. */
void store_done(struct store_request *request, int64_t result);
/*
 * As store_done with a negative errno, and sets err to "LABEL: OBJECT: TEXT"
 * (store_errno: and the text of the errno).
 */
void store_fail(struct store *store, struct store_request *request, int code, const char *format,
		...) __attribute__((format(printf, 4, 5)));
void store_errno(struct store *store, struct store_request *request, int code, const char *format,
		 ...) __attribute__((format(printf, 4, 5)));

#endif
