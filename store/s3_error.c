// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// What S3 servers say when they refuse: an XML document, <Error>, with a code and a message.
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "store/s3_internal.h"

struct s3_error {
	char code[64];
	char message[160];
};

static const struct {
	const char *code;
	int error;
	const char *advice;
} s3_codes[] = {
	{ "AccessDenied", -EACCES, NULL },
	{ "AuthorizationHeaderMalformed", -EINVAL, "name the bucket's region in the URL: ?region=" },
	{ "EntityTooLarge", -EFBIG, NULL },
	{ "ExpiredToken", -EACCES, "renew the session token" },
	{ "InvalidAccessKeyId", -EACCES, "is this the right endpoint for these credentials?" },
	{ "InvalidRegion", -EINVAL, "name the bucket's region in the URL: ?region=" },
	{ "NoSuchBucket", -ENOENT, "make the bucket, or mend the URL" },
	{ "PermanentRedirect", -EINVAL, "name the bucket's region in the URL: ?region=" },
	{ "QuotaExceeded", -ENOSPC, NULL },
	{ "RequestTimeTooSkewed", -EACCES, "set this host's clock" },
	{ "RequestTimeout", -EAGAIN, NULL },
	{ "SignatureDoesNotMatch", -EACCES, "is the secret access key the right one?" },
	{ "SlowDown", -EAGAIN, NULL },
};

static void error_copy(char *out, size_t size, const char *text)
{
	size_t i;

	for (i = 0; text[i] && i + 1 < size; i++)
		out[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
	out[i] = 0;
}

static void error_value(void *arg, const char *path, const char *text)
{
	struct s3_error *error = arg;

	if (text && !strcmp(path, "Error/Code"))
		error_copy(error->code, sizeof(error->code), text);
	else if (text && !strcmp(path, "Error/Message"))
		error_copy(error->message, sizeof(error->message), text);
}

bool s3_error_read(const void *data, size_t n, int *code, char *text, size_t size)
{
	struct s3_error error = { "", "" };
	const char *said = error.message;
	struct s3_xml *xml;
	size_t i;

	if (s3_xml_new(&xml, error_value, &error, NULL) < 0)
		return false;
	/* Its beginning may be all there is of it. */
	s3_xml_feed(xml, data, n, NULL);
	s3_xml_free(xml);
	if (!error.code[0])
		return false;
	for (i = 0; i < sizeof(s3_codes) / sizeof(s3_codes[0]); i++) {
		if (strcmp(error.code, s3_codes[i].code))
			continue;
		*code = s3_codes[i].error;
		if (s3_codes[i].advice)
			said = s3_codes[i].advice;
	}
	snprintf(text, size, " (%s%s%s)", error.code, *said ? ": " : "", said);
	return true;
}
