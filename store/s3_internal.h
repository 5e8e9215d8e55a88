/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What s3.c, s3_list.c (LIST) and s3_upload.c (long objects, in parts) share.
 * On the thread of the request's lane.
 */
#ifndef POSTERN_STORE_S3_INTERNAL_H
#define POSTERN_STORE_S3_INTERNAL_H

#include "store/s3_xml.h"
#include "store/web_store.h"

#define S3_PART_BYTES (UINT64_C(8) << 20)	/* 5 MiB at least, says S3 */
#define S3_UPLOAD_BYTES (UINT64_C(16) << 20)	/* longer objects are sent in parts */

struct s3_store {
	struct web_store web;
	char *bucket_url;		/* what LIST asks */
	char *prefix;			/* of all keys: "" or with '/' at its end */
	char *credentials;		/* a file, or NULL */
	pthread_mutex_t renewing;	/* renewed_ns, and who may write web.login */
	int64_t renewed_ns;		/* when it was last read again */
};

/* Any thread. */
void s3_list(struct s3_store *s3, struct store_request *request);
void s3_upload(struct s3_store *s3, struct store_request *request);

/*
 * An <Error> in an answer's body. False: there is none. Otherwise *code is the
 * store's errno, unless it is one that this does not know, and text gets "
 * (CODE: MESSAGE)", without anything that a terminal obeys.
 */
bool s3_error_read(const void *data, size_t n, int *code, char *text, size_t size);

#endif
