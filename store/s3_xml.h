/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The XML that S3 servers send, read as it comes by expat (loaded when first needed). Hostile: no
 * document type and so no entities, few levels, short texts; whatever else there is ends it. One
 * thread at a time.
 */
#ifndef POSTERN_STORE_S3_XML_H
#define POSTERN_STORE_S3_XML_H

#include <stddef.h>

#include "base/err.h"

#define S3_XML_DEPTH_MAX 8u
#define S3_XML_TEXT_MAX 4096u	/* a key has 1024 bytes, which encoded are 3072 */
#define S3_XML_NAME_MAX 64u
#define S3_XML_DOCUMENT_MAX (8u << 20)

struct s3_xml;

/*
 * An element is over. path: "Error/Code", from the root on; text: what stands in it, or NULL where
 * other elements do. Both are valid during the call.
 */
typedef void s3_xml_value(void *arg, const char *path, const char *text);

/* -ENOSYS: no expat; -ENOMEM. */
int s3_xml_new(struct s3_xml **out, s3_xml_value *value, void *arg, struct err *err);
void s3_xml_free(struct s3_xml *xml);
/* The next bytes. -EBADMSG: not such a document; -ENOMEM. */
int s3_xml_feed(struct s3_xml *xml, const void *data, size_t n, struct err *err);
/* That was all of it. */
int s3_xml_end(struct s3_xml *xml, struct err *err);

#endif
