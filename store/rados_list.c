// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * LIST. librados lists all of a namespace, in the order of hashes, and waits while it does: so each
 * has a thread, which holds a reference of the store, and is left to itself where it was cancelled.
 * Names that are no object's are passed over.
 *
 * Pieces that a writer left behind that died are nobody's, and nobody else sees them: they are
 * removed here when they are an hour old, as are those whose removal failed.
 */
#include <errno.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/thread.h"
#include "store/rados_internal.h"

/* So many may hang in a cluster that does not answer. */
#define LISTS_MOST 8u
#define STRAY_SECONDS 3600
/* More are left to the next list. */
#define STRAYS_BYTES_MOST (4u << 20)

struct rados_listing {
	struct rados_store *rs;
	struct rados_op *op;
	void *folders; /* those that were told */
	struct buf pieces; /* names, each ended by NUL */
};

static int compare_names(const void *a, const void *b)
{
	return strcmp(a, b);
}

/* false: nobody waits any more. */
static bool tell(struct rados_listing *list, const char *name)
{
	if (!rados_op_begin(list->op))
		return false;
	list->op->request->name(list->op->request, name, 0);
	return rados_op_end(list->op);
}

/* A folder, "NAME/" of n bytes. -ECANCELED: nobody waits any more. */
static int tell_folder(struct rados_listing *list, const char *name, size_t n)
{
	char *folder = strndup(name, n), **found;

	found = folder ? tsearch(folder, &list->folders, compare_names) : NULL;
	if (!found || *found != folder) {
		free(folder);
		return found ? 0 : -ENOMEM;
	}
	return tell(list, folder) ? 0 : -ECANCELED;
}

/* What is asked for is of the request, which may go: so its text is copied before. */
struct wanted {
	char prefix[STORE_NAME_MAX + 1];
	bool shallow;
};

static int listing_name(struct rados_listing *list, const struct wanted *wanted, const char *name)
{
	size_t n = strlen(wanted->prefix);
	const char *slash;

	if (strncmp(name, wanted->prefix, n) || !store_name_is_valid(name, NULL))
		return 0;
	slash = wanted->shallow ? strchr(name + n, '/') : NULL;
	if (slash)
		return tell_folder(list, name, (size_t)(slash + 1 - name));
	return tell(list, name) ? 0 : -ECANCELED;
}

static void note_piece(struct rados_listing *list, const char *oid)
{
	char token[RADOS_TOKEN_DIGITS + 1];
	size_t head;

	if (rados_piece_name_parse(oid, &head, token) && list->pieces.len < STRAYS_BYTES_MOST)
		buf_append(&list->pieces, oid, strlen(oid) + 1);
}

static int list_walk(struct rados_listing *list, const struct wanted *wanted, rados_list_ctx_t walk)
{
	const struct rados_store *rs = list->rs;
	size_t prefix = strlen(rs->prefix), len;
	const char *oid;
	int r = 0;

	while (!r) {
		r = rs->lib->rados_nobjects_list_next2(walk, &oid, NULL, NULL, &len, NULL, NULL);
		if (r < 0)
			return r == -ENOENT ? 0 : r;
		if (strlen(oid) != len || strncmp(oid, rs->prefix, prefix))
			continue;
		note_piece(list, oid);
		r = listing_name(list, wanted, oid + prefix);
	}
	return r;
}

/* ---- strays ---- */

static bool is_stray(const struct rados_store *rs, const char *oid)
{
	char head[RADOS_OID_MAX], token[RADOS_TOKEN_DIGITS + 1], text[RADOS_PIECES_TEXT_MAX];
	struct rados_pieces pieces;
	uint64_t bytes;
	time_t mtime;
	size_t n;
	int r;

	if (!rados_piece_name_parse(oid, &n, token) || n >= sizeof(head))
		return false;
	/* First how old it is: its head may be written in between. */
	if (rs->lib->rados_stat(rs->io, oid, &bytes, &mtime) < 0 ||
	    time(NULL) - mtime < STRAY_SECONDS)
		return false;
	memcpy(head, oid, n);
	head[n] = 0;
	r = rs->lib->rados_getxattr(rs->io, head, RADOS_PIECES_XATTR, text, sizeof(text));
	if (r < 0)
		return r == -ENOENT || r == -ENODATA;
	return rados_pieces_parse(&pieces, text, (size_t)r) && strcmp(pieces.token, token);
}

static void remove_strays(struct rados_listing *list)
{
	const struct rados_store *rs = list->rs;
	const char *at = (const char *)list->pieces.data, *end = at + list->pieces.len;

	for (; at < end; at += strlen(at) + 1)
		if (is_stray(rs, at) && rs->lib->rados_remove(rs->io, at) < 0)
			return;
}

/* ---- thread ---- */

static int list_all(struct rados_listing *list, const struct wanted *wanted)
{
	const struct rados_store *rs = list->rs;
	rados_list_ctx_t walk;
	int r = rs->lib->rados_nobjects_list_open(rs->io, &walk);

	if (r < 0)
		return r;
	r = list_walk(list, wanted, walk);
	rs->lib->rados_nobjects_list_close(walk);
	return r;
}

static void list_answer(struct rados_listing *list, int r)
{
	if (!rados_op_begin(list->op))
		rados_op_free(list->op);
	else if (r == -ENOMEM)
		rados_op_fail(list->op, -ENOMEM, "no memory for a list");
	else if (r < 0)
		rados_op_refused(list->op, r);
	else
		rados_op_done(list->op, 0);
}

static void *list_main(void *arg)
{
	struct rados_listing list = { .op = arg, .rs = ((struct rados_op *)arg)->rs };
	struct rados_store *rs = list.rs;
	struct wanted wanted = { .shallow = false };
	int r = -ECANCELED;

	pthread_setname_np(pthread_self(), "rados-list");
	if (rados_op_begin(list.op)) {
		wanted.shallow = list.op->request->flags & STORE_SHALLOW;
		strcpy(wanted.prefix, list.op->request->object);
		if (rados_op_end(list.op))
			r = list_all(&list, &wanted);
	}
	if (!r)
		remove_strays(&list);
	tdestroy(list.folders, free);
	buf_fini(&list.pieces);
	list_answer(&list, r);
	pthread_mutex_lock(&rs->lock);
	rs->lists--;
	pthread_mutex_unlock(&rs->lock);
	rados_store_put(rs);
	return NULL;
}

/* The op is busy. */
void rados_list_begin(struct rados_op *op)
{
	struct rados_store *rs = op->rs;
	pthread_t thread;
	int r = -EAGAIN;

	pthread_mutex_lock(&rs->lock);
	if (rs->lists < LISTS_MOST) {
		rs->lists++;
		rados_store_get(rs);
		r = 0;
	}
	pthread_mutex_unlock(&rs->lock);
	if (r < 0) {
		rados_op_fail(op, r, "%u lists are under way already", LISTS_MOST);
		return;
	}
	/* It begins and ends its turns itself from now on; a cancel before that is seen there. */
	rados_op_end(op);
	r = thread_start(&thread, list_main, op);
	if (!r) {
		pthread_detach(thread);
		return;
	}
	pthread_mutex_lock(&rs->lock);
	rs->lists--;
	rs->refs--;
	pthread_mutex_unlock(&rs->lock);
	if (rados_op_begin(op))
		rados_op_fail(op, -EAGAIN, "starting a thread: errno %d", -r);
	else
		rados_op_free(op);
}
