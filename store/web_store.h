/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What stores at a web server have in common, whatever they speak over HTTP: a request as an
 * operation of one exchange after the other, and how a range is read and checked. For http.c and
 * s3*.c alone. All but the verbs run on the thread of the request's lane (store/web.h).
 */
#ifndef POSTERN_STORE_WEB_STORE_H
#define POSTERN_STORE_WEB_STORE_H

#include "store/pins.h"
#include "store/store.h"
#include "store/url.h"
#include "store/web.h"

#define WEB_REDIRECTS_MAX 5u
/* A server that knows no ranges sends the object from its beginning: so much is read for a part. */
#define WEB_SKIP_MAX (UINT64_C(4) << 20)

struct web_op;

struct web_store {
	struct store store;
	struct web *web;
	struct pins *pins;
	char *base;			/* URL, encoded, without a '/' at its end */
	/*
	 * Who asks; each is unchanged once it is here. Those that were renewed stay until the store
	 * goes, since requests may be under way with them.
	 */
	_Atomic(struct web_login *) login;
	bool follows;			/* redirects, of what only reads */
	/* Reads the login again where it is kept; true: it is another now. NULL. */
	bool (*renew)(struct web_store *ws);
	_Atomic bool conditions_checked, conditions_ignored;	/* If-None-Match: see web_put.c */
	/*
	 * Adds what an error's body and head say to *code and text, which has
	 * size bytes. NULL: nothing.
	 */
	void (*explain)(struct web_store *ws, struct web_exchange *x, int *code, char *text,
			size_t size);
};

/* One request on its way. Freed when it is done. */
struct web_op {
	struct web_exchange x;		/* the first: an exchange is its operation */
	struct web_store *ws;
	struct store_request *request;	/* NULL: it is done, and this tidies up after it */
	void (*next)(struct web_op *op);	/* a whole answer has come */
	void (*drop)(struct web_op *op);	/* frees what else there is; NULL */
	unsigned int redirects;
	bool renewed;			/* asked once more, with another login */
	bool tolerant;			/* `next` also where the exchange failed */
	/* web_get.c */
	uint64_t want, skip, expected, got;
	bool up_to, has_expected, until_enough;
	uint8_t scratch;
	/* web_put.c */
	void (*write)(struct web_op *op);
	/* of others */
	void *own;
};

/*
 * ws is zeroed but for base, login and what the kind of store adds. Takes ownership of base. Where
 * it fails, web_store_free all the same.
 */
int web_store_init(struct web_store *ws, const struct store_ops *ops, const struct store_url *url,
		   const struct web_config *config, struct err *err);
void web_store_free(struct store *store);
/* An empty login, put before others there may be. NULL: no memory. */
struct web_login *web_store_login_new(struct web_store *ws);
void web_store_cancel(struct store *store, struct store_request *request);
/* Parameters that all such stores know: cafile, timeout (seconds). -EINVAL. */
int web_store_config(struct web_config *config, const struct store_url *url, struct err *err);

/* As for the path of a URL, without and with '/' as a plain byte. malloc'd, or NULL. */
char *web_escape(const char *text, bool keep_slashes);
/* The object's URL, and a query behind it where that is not NULL. malloc'd, or NULL. */
char *web_object_url(const struct web_store *ws, const char *object, const char *query);

/* Any thread. NULL: no memory, and the request is done. */
struct web_op *web_op_new(struct web_store *ws, struct store_request *request);
/*
 * Makes the next exchange ready, of which the caller fills in what it needs, and then lets it go;
 * url is malloc'd. false: it is NULL, no memory, and the request has failed.
 */
bool web_op_ask(struct web_op *op, enum web_method method, char *url,
		void (*next)(struct web_op *op));
void web_op_go(struct web_op *op);
void web_op_done(struct web_op *op, int64_t result);
void web_op_fail(struct web_op *op, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* Fails with what an answer's status says, or the exchange's own error. */
void web_op_refused(struct web_op *op);
static inline struct web_op *web_op_of(struct web_exchange *x)
{
	return (struct web_op *)x;
}
static inline bool web_op_succeeded(const struct web_op *op)
{
	return op->x.answer.status >= 200 && op->x.answer.status <= 299;
}

/* The verbs. */
void web_get(struct web_store *ws, struct store_request *request);
void web_put(struct web_store *ws, struct store_request *request);
void web_delete(struct web_store *ws, struct store_request *request);
/* STORE_NEW: fails with -EEXIST where the object is there, and else goes on with op->write. */
void web_put_ask(struct web_op *op);
/* If-None-Match: * failed the write: what that means. */
void web_put_exists(struct web_op *op);

#endif
