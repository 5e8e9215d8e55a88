// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// A store's URL, taken apart. See url.h.
#include "store/url.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char url_forms[] =
	"a store is /path, dir:/path, http://host/path, https://host/path, "
	"s3://bucket/prefix?endpoint=..&region=.. or rados://pool/prefix?id=..&conf=..";

static const struct {
	const char *prefix;
	enum store_scheme scheme;
} schemes[] = {
	{ "dir:", STORE_DIR }, { "http://", STORE_HTTP },   { "https://", STORE_HTTPS },
	{ "s3://", STORE_S3 }, { "rados://", STORE_RADOS },
};

static int url_hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/*
 * n bytes of text without their %XX. -EINVAL: a % without two digits, a control
 * character; -ENAMETOOLONG.
 */
static int url_decode(char *out, size_t size, const char *text, size_t n)
{
	size_t i, used = 0;
	int c;

	for (i = 0; i < n; i++) {
		c = (unsigned char)text[i];
		if (c == '%') {
			if (n - i < 3 || url_hex(text[i + 1]) < 0 || url_hex(text[i + 2]) < 0)
				return -EINVAL;
			c = url_hex(text[i + 1]) * 16 + url_hex(text[i + 2]);
			i += 2;
		}
		if (c < ' ' || c == 0x7f)
			return -EINVAL;
		if (used + 1 >= size)
			return -ENAMETOOLONG;
		out[used++] = (char)c;
	}
	out[used] = 0;
	return 0;
}

/* No bytes of the URL are printed where it may hold a secret, or what a terminal obeys. */
static int url_refuse(struct err *err, const char *what)
{
	return err_set(err, -EINVAL, "the store's URL %s: %s", what, url_forms);
}

static int parse_port(struct store_url *url, const char *text, size_t n, struct err *err)
{
	unsigned int port = 0;
	size_t i;

	for (i = 0; i < n; i++) {
		if (text[i] < '0' || text[i] > '9' || i >= 5)
			return url_refuse(err, "has a port that is not a number");
		port = port * 10 + (unsigned int)(text[i] - '0');
	}
	if (!port || port > 65535)
		return url_refuse(err, "has a port that is not 1 to 65535");
	url->port = port;
	return 0;
}

static bool host_byte(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '.' || c == '-' || c == '_';
}

static bool address_byte(char c)
{
	return url_hex(c) >= 0 || c == ':' || c == '.';
}

static const struct {
	const char *none, *bad;
} host_words[] = {
	[STORE_HTTP] = { "has no host", "has a host that is not one" },
	[STORE_HTTPS] = { "has no host", "has a host that is not one" },
	[STORE_S3] = { "has no bucket", "has a bucket that is not one" },
	[STORE_RADOS] = { "has no pool", "has a pool that is not one" },
};

static bool has_bucket(const struct store_url *url)
{
	return url->scheme == STORE_S3 || url->scheme == STORE_RADOS;
}

/* host, host:port, [v6] or [v6]:port; of S3 a bucket, of RADOS a pool. */
static int parse_host(struct store_url *url, const char *text, size_t n, struct err *err)
{
	const char *end = text + n, *at = text;

	if (memchr(text, '@', n))
		return url_refuse(err, "has a user or password, which everybody could see (ps): "
				       "give them in a file");
	if (n && *at == '[') {
		for (at++; at < end && address_byte(*at); at++)
			;
		if (at == end || *at != ']' || at == text + 1)
			return url_refuse(err, "has an IPv6 address that is not one");
		at++;
	} else {
		for (; at < end && host_byte(*at); at++)
			;
	}
	if (at == text)
		return url_refuse(err, host_words[url->scheme].none);
	if ((size_t)(at - text) >= sizeof(url->host))
		return url_refuse(err, "has a host that is too long");
	memcpy(url->host, text, (size_t)(at - text));
	url->host[at - text] = 0;
	if (at == end)
		return 0;
	if (*at != ':' || has_bucket(url))
		return url_refuse(err, host_words[url->scheme].bad);
	return parse_port(url, at + 1, (size_t)(end - at - 1), err);
}

static int parse_parameter(struct store_url *url, const char *text, size_t n, struct err *err)
{
	struct store_parameter *parameter = &url->parameter[url->parameters];
	const char *equals = memchr(text, '=', n);

	if (!equals || equals == text)
		return url_refuse(err, "has a parameter that is not NAME=VALUE");
	if (url->parameters == STORE_URL_PARAMETERS_MAX)
		return url_refuse(err, "has too many parameters");
	if (url_decode(parameter->name, sizeof(parameter->name), text, (size_t)(equals - text)) ||
	    url_decode(parameter->value, sizeof(parameter->value), equals + 1,
		       n - (size_t)(equals - text) - 1))
		return url_refuse(err, "has a parameter that is too long or not well-formed");
	if (store_url_get(url, parameter->name))
		return url_refuse(err, "has a parameter twice");
	url->parameters++;
	return 0;
}

static int parse_query(struct store_url *url, const char *text, struct err *err)
{
	size_t n;
	int r = 0;

	while (!r && *text) {
		n = strcspn(text, "&");
		r = parse_parameter(url, text, n, err);
		text += n + (text[n] == '&');
	}
	return r;
}

/* Each segment would go to the server as it is: ".." there is somebody else's folder. */
static bool path_climbs(const char *path)
{
	const char *at = path;
	size_t n;

	for (;; at += n + 1) {
		n = strcspn(at, "/");
		if ((n == 1 && at[0] == '.') || (n == 2 && at[0] == '.' && at[1] == '.'))
			return true;
		if (!at[n])
			return false;
	}
}

static int parse_remote(struct store_url *url, const char *text, struct err *err)
{
	size_t host = strcspn(text, "/?#"), path, n;
	const char *from = text + host;
	int r = parse_host(url, text, host, err);

	if (r < 0)
		return r;
	path = strcspn(from, "?#");
	if (from[path] == '#')
		return url_refuse(err, "has a fragment (#), which no server is told");
	if (url_decode(url->path, sizeof(url->path), from, path))
		return url_refuse(err, "has a path that is too long or not well-formed");
	if (path_climbs(url->path))
		return url_refuse(err, "has \".\" or \"..\" in its path");
	for (n = strlen(url->path); n && url->path[n - 1] == '/'; n--)
		url->path[n - 1] = 0;
	if (has_bucket(url) && n)
		memmove(url->path, url->path + 1, n);
	if (from[path] != '?')
		return 0;
	if (strchr(from + path, '#'))
		return url_refuse(err, "has a fragment (#), which no server is told");
	return parse_query(url, from + path + 1, err);
}

static int parse_dir(struct store_url *url, const char *text, struct err *err)
{
	size_t i, n = strlen(text);

	for (i = 0; i < n; i++)
		if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
			return url_refuse(err, "has a control character");
	if (!n || n >= sizeof(url->path))
		return url_refuse(err, n ? "has a path that is too long" : "has no path");
	memcpy(url->path, text, n + 1);
	return 0;
}

int store_url_parse(struct store_url *url, const char *text, struct err *err)
{
	size_t i, n;

	memset(url, 0, sizeof(*url));
	if (strnlen(text, STORE_URL_MAX) == STORE_URL_MAX)
		return url_refuse(err, "is longer than 1023 bytes");
	for (i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++) {
		n = strlen(schemes[i].prefix);
		if (strncmp(text, schemes[i].prefix, n))
			continue;
		url->scheme = schemes[i].scheme;
		return url->scheme == STORE_DIR ? parse_dir(url, text + n, err) :
						  parse_remote(url, text + n, err);
	}
	/* A path has a slash before any colon: else it is a scheme that is misspelt or unknown. */
	if (*text != '/' && *text != '.')
		return url_refuse(err,
				  "has no scheme that is known, and a path begins with / or .");
	url->scheme = STORE_DIR;
	return parse_dir(url, text, err);
}

const char *store_url_get(const struct store_url *url, const char *name)
{
	unsigned int i;

	for (i = 0; i < url->parameters; i++)
		if (!strcmp(url->parameter[i].name, name))
			return url->parameter[i].value;
	return NULL;
}

int store_url_only(const struct store_url *url, const char *const *known, struct err *err)
{
	const char *const *name;
	unsigned int i;

	for (i = 0; i < url->parameters; i++) {
		for (name = known; *name && strcmp(*name, url->parameter[i].name); name++)
			;
		if (!*name)
			return err_set(err, -EINVAL,
				       "the store's URL has the parameter \"%s\", which "
				       "this kind of store does not have",
				       url->parameter[i].name);
	}
	return 0;
}
