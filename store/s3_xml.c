// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "store/s3_xml.h"

#include <errno.h>
#include <expat.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/dynamic.h"

/* expat reads a token again from its start with every piece: so one may not be much longer. */
#define TOKEN_MAX (64 << 10)
#define PIECE 16384u

#define EXPAT_FUNCTIONS(f)                                                                         \
	f(XML_ParserCreate) f(XML_ParserFree) f(XML_Parse) f(XML_StopParser) f(XML_SetUserData)    \
	f(XML_SetElementHandler) f(XML_SetCharacterDataHandler) f(XML_SetDoctypeDeclHandler)       \
	f(XML_GetErrorCode) f(XML_ErrorString) f(XML_GetCurrentByteIndex)

struct expat_lib {
	DYNAMIC_TABLE(EXPAT_FUNCTIONS)
};

struct s3_xml {
	XML_Parser parser;
	s3_xml_value *value;
	void *arg;
	char path[S3_XML_DEPTH_MAX * S3_XML_NAME_MAX];
	unsigned int depth;
	char text[S3_XML_TEXT_MAX + 1];
	size_t text_len, fed;
	bool has_children;	/* the element that ended last was inside of this one */
	const char *flaw;	/* why the parser was stopped */
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct expat_lib expat;
static struct err expat_err;

static void expat_load(void)
{
	static const char *const names[] = { DYNAMIC_NAMES(EXPAT_FUNCTIONS) };
	static const struct dynamic_library library = { "libexpat.so.1", "libexpat1",
							"an S3 store" };

	dynamic_load(&expat, names, sizeof(names) / sizeof(names[0]), &library, &expat_err);
}

static void xml_stop(struct s3_xml *xml, const char *flaw)
{
	xml->flaw = flaw;
	expat.XML_StopParser(xml->parser, XML_FALSE);
}

static void xml_on_doctype(void *arg, const XML_Char *name, const XML_Char *system,
			   const XML_Char *public, int has_internal)
{
	(void)name, (void)system, (void)public, (void)has_internal;
	xml_stop(arg, "it has a document type");
}

/* Without a name space's prefix. */
static const char *local_name(const char *name)
{
	const char *colon = strrchr(name, ':');

	return colon ? colon + 1 : name;
}

static void xml_on_start(void *arg, const XML_Char *name, const XML_Char **attributes)
{
	struct s3_xml *xml = arg;
	size_t used = strlen(xml->path), n;

	(void)attributes;
	name = local_name(name);
	n = strlen(name);
	if (xml->flaw)
		return;
	if (xml->depth == S3_XML_DEPTH_MAX || n >= S3_XML_NAME_MAX - 1) {
		xml_stop(xml, "it is nested too deeply, or has a name that is too long");
		return;
	}
	if (xml->depth++)
		xml->path[used++] = '/';
	memcpy(xml->path + used, name, n + 1);
	xml->text_len = 0;
	xml->has_children = false;
}

static void xml_on_end(void *arg, const XML_Char *name)
{
	struct s3_xml *xml = arg;
	char *slash;

	(void)name;
	if (xml->flaw)
		return;
	xml->text[xml->text_len] = 0;
	xml->value(xml->arg, xml->path, xml->has_children ? NULL : xml->text);
	slash = strrchr(xml->path, '/');
	*(slash ? slash : xml->path) = 0;
	xml->depth--;
	xml->text_len = 0;
	xml->has_children = true;
}

static void xml_on_text(void *arg, const XML_Char *text, int len)
{
	struct s3_xml *xml = arg;
	size_t n = (size_t)len;

	if (xml->flaw)
		return;
	if (n > S3_XML_TEXT_MAX - xml->text_len) {
		xml_stop(xml, "it has a text that is too long");
		return;
	}
	memcpy(xml->text + xml->text_len, text, n);
	xml->text_len += n;
}

int s3_xml_new(struct s3_xml **out, s3_xml_value *value, void *arg, struct err *err)
{
	struct s3_xml *xml;

	pthread_once(&once, expat_load);
	if (expat_err.code)
		return err_set(err, expat_err.code, "%s", expat_err.text);
	xml = calloc(1, sizeof(*xml));
	if (xml)
		xml->parser = expat.XML_ParserCreate(NULL);
	if (!xml || !xml->parser) {
		free(xml);
		return err_set(err, -ENOMEM, "no memory to read XML");
	}
	xml->value = value;
	xml->arg = arg;
	expat.XML_SetUserData(xml->parser, xml);
	expat.XML_SetElementHandler(xml->parser, xml_on_start, xml_on_end);
	expat.XML_SetCharacterDataHandler(xml->parser, xml_on_text);
	expat.XML_SetDoctypeDeclHandler(xml->parser, xml_on_doctype, NULL);
	*out = xml;
	return 0;
}

void s3_xml_free(struct s3_xml *xml)
{
	if (!xml)
		return;
	expat.XML_ParserFree(xml->parser);
	free(xml);
}

static int parse_piece(struct s3_xml *xml, const char *data, size_t n, bool last, struct err *err)
{
	enum XML_Error code;
	long at;

	if (expat.XML_Parse(xml->parser, data, (int)n, last) == XML_STATUS_OK) {
		xml->fed += n;
		at = (long)expat.XML_GetCurrentByteIndex(xml->parser);
		if (xml->fed > S3_XML_DOCUMENT_MAX)
			return err_set(err, -EBADMSG, "the server sends more than %u MiB of XML",
				       S3_XML_DOCUMENT_MAX >> 20);
		if (!last && (long)xml->fed - at > TOKEN_MAX)
			return err_set(err, -EBADMSG,
				       "the server's XML has a tag that is too long");
		return 0;
	}
	code = expat.XML_GetErrorCode(xml->parser);
	if (code == XML_ERROR_NO_MEMORY)
		return err_set(err, -ENOMEM, "no memory to read XML");
	return err_set(err, -EBADMSG, "the server's XML cannot be read: %s",
		       xml->flaw ? xml->flaw : expat.XML_ErrorString(code));
}

int s3_xml_feed(struct s3_xml *xml, const void *data, size_t n, struct err *err)
{
	const char *at = data;
	size_t piece;
	int r = 0;

	for (; !r && n; at += piece, n -= piece) {
		piece = n < PIECE ? n : PIECE;
		r = parse_piece(xml, at, piece, false, err);
	}
	return r;
}

int s3_xml_end(struct s3_xml *xml, struct err *err)
{
	return parse_piece(xml, "", 0, true, err);
}
