// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// XML from S3 servers: read in pieces of the length that the first byte says, and as an error.
#include <stdlib.h>
#include <string.h>

#include "store/s3_internal.h"

static void value(void *arg, const char *path, const char *text)
{
	(void)arg;
	if (strlen(path) >= S3_XML_DEPTH_MAX * S3_XML_NAME_MAX ||
	    (text && strlen(text) > S3_XML_TEXT_MAX))
		__builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t piece = size ? (size_t)data[0] + 1 : 0, n;
	struct s3_xml *xml;
	char text[200] = "";
	struct err err;
	int code = 0, r = 0;

	if (!size || s3_xml_new(&xml, value, NULL, &err) < 0)
		return 0;
	data++, size--;
	s3_error_read(data, size, &code, text, sizeof(text));
	if (strpbrk(text, "\r\n\033"))
		__builtin_trap();
	for (; !r && size; data += n, size -= n) {
		n = size < piece ? size : piece;
		r = s3_xml_feed(xml, data, n, &err);
	}
	if (!r)
		s3_xml_end(xml, &err);
	s3_xml_free(xml);
	return 0;
}
