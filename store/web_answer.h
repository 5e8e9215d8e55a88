/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The head of a web server's answer (RFC 9110, 9112): the fields that stores look at, read line by
 * line. Whatever a server sends is bounded; what is malformed and matters ends the answer. Pure
 * functions over a caller's structure; one thread at a time.
 */
#ifndef POSTERN_STORE_WEB_ANSWER_H
#define POSTERN_STORE_WEB_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Of all heads of one exchange, interim ones and trailers too. */
#define WEB_HEAD_MAX (64u << 10)
#define WEB_TAG_MAX 136

struct web_answer {
	unsigned int status;
	bool has_length;	/* Content-Length */
	uint64_t length;
	bool has_range;		/* Content-Range with bytes: first to last, both among them */
	uint64_t first, last;
	bool has_total;		/* Content-Range says how long the object is */
	uint64_t total;
	bool encoded;		/* Content-Encoding: these are not the object's own bytes */
	/* ETag as it was sent, or "" for none that can be used; weak ones begin with W/ */
	char etag[WEB_TAG_MAX];
	char modified[40];	/* Last-Modified */
	char region[40];	/* x-amz-bucket-region */
	/* the reader's own */
	size_t head_bytes;
	bool whole;		/* the head is over; what follows are trailers */
};

/*
 * The next line with or without its CR LF; a structure zeroed before the first. 1: it was the last
 * line of the final head. 0: more follows. -EMSGSIZE: more than WEB_HEAD_MAX. -EBADMSG: malformed,
 * or contradicting itself.
 */
int web_answer_line(struct web_answer *answer, const char *line, size_t len);

/* What a status that is no success means as a store's errno (store/store.h). */
int web_answer_errno(unsigned int status);
/* Its name, as in RFC 9110, or "". */
const char *web_answer_phrase(unsigned int status);

#endif
