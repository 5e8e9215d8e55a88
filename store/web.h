/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A client of one web server, over libcurl: exchanges (one request and its answer), which threads
 * of the client's own carry out, many at a time over connections that they keep. Stores are made
 * of it (store/http.h, store/s3.h); it knows nothing of objects.
 *
 * Two lanes. Urgent exchanges have a thread and connections of their own, so that no other is ever
 * in their way; and while there are any, only few of the others are begun. A thread that waits for
 * an urgent one may do that lane's work meanwhile (store/helper.h). HTTP/1.1 throughout: with
 * HTTP/2 exchanges would share one connection.
 *
 * All that an exchange calls is called on its lane's thread, or the one that does its work, must
 * not sleep, and may begin other exchanges. Bounds: the head WEB_HEAD_MAX, silence and a
 * connection's setup the client's patience, the whole time that and what `bytes` take at
 * WEB_SLOWEST.
 */
#ifndef POSTERN_STORE_WEB_H
#define POSTERN_STORE_WEB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "store/web_answer.h"

#define WEB_URGENT_MAX 16u		/* exchanges under way, of each lane */
#define WEB_BULK_MAX 8u
#define WEB_BULK_BESIDE 2u		/* ... while there are urgent ones; but for those wanted soon */
#define WEB_SLOWEST (128u << 10)	/* bytes a second */
#define WEB_ERROR_MAX 4096u		/* bytes kept of an error's body */

enum web_method { WEB_GET, WEB_HEAD, WEB_PUT, WEB_POST, WEB_DELETE };

enum web_login_kind { WEB_ANONYMOUS, WEB_BASIC, WEB_BEARER, WEB_AWS };

/* Who asks. Secret: wiped by whoever frees it, never printed. */
struct web_login {
	enum web_login_kind kind;
	char user[256];			/* BASIC; AWS: access key's id */
	char secret[1024];		/* BASIC: password; BEARER: token; AWS: secret access key */
	char session[4096];		/* AWS: session token, or "" */
	char region[64];		/* AWS */
	struct web_login *older;	/* its owner's */
};

struct web_config {
	const char *ca_file;		/* NULL: the system's */
	unsigned int patience_ms;
};

struct web;
struct curl_slist;

struct web_exchange {
	/* The caller's, from web_exchange_init on; unchanged while it is under way. */
	enum web_method method;
	bool urgent;
	bool soon;			/* not urgent, and begun beside those that are all the same */
	char *url;			/* malloc'd; web_exchange_fini frees it */
	char range[48];			/* "0-99", or "" */
	const struct web_login *login;	/* NULL: anonymous */
	const void *body;		/* PUT, POST */
	size_t body_len;
	uint64_t bytes;			/* how many will move, about: for the time-out */
	/* It is its turn: headers and such. NULL, 0, or a negative errno with err set. */
	int (*prepare)(struct web_exchange *x);
	/*
	 * Does nobody want it any more? Looked at before it begins, and
	 * whenever web_look is called.
	 */
	bool (*unwanted)(struct web_exchange *x);
	/* A success's head is there. NULL, 0, or a negative errno with err set, which ends it. */
	int (*head)(struct web_exchange *x);
	/*
	 * Bytes of a success's body. NULL: they are dropped. 0; 1: that is
	 * enough; an errno as above.
	 */
	int (*take)(struct web_exchange *x, const uint8_t *data, size_t n);
	/* Exactly once. May free or begin it again. */
	void (*done)(struct web_exchange *x);

	/* What came of it. */
	int result;			/* 0: an answer, of whatever status. Otherwise err says what */
	struct err err;
	struct web_answer answer;
	unsigned int retry_after_s;	/* the server's wish, or 0 */
	char *redirect;			/* where an answer leads, or NULL; the exchange's */
	struct buf error;		/* the beginning of an error's body */

	/* The client's own. */
	struct web *web;
	struct web_exchange *next;
	struct curl_slist *headers;
	uint64_t taken, sent;
	bool stopped;
	char reason[256];		/* libcurl's */
};

/* -ENOSYS: no libcurl; -EINVAL: it does not know what is needed; -ENOMEM, -EAGAIN: no thread. */
int web_new(struct web **out, const struct web_config *config, struct err *err);
/* Begun exchanges get a moment to end, and are ended. Others may no longer be begun. */
void web_free(struct web *web);

void web_exchange_init(struct web_exchange *x, enum web_method method);
void web_exchange_fini(struct web_exchange *x);
/* Adds "Name: value"; from `prepare` or before. -ENOMEM with err set. */
int web_exchange_header(struct web_exchange *x, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* Any thread; never sleeps. x stays in place until done. */
void web_begin(struct web *web, struct web_exchange *x);
/* Any thread; never sleeps, calls nothing: some exchange may be unwanted. */
void web_look(struct web *web);

/*
 * Do two URLs have the same scheme, host and port, so that a login for one is
 * good for the other?
 */
bool web_same_origin(const char *a, const char *b);

#endif
