// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "store/credentials.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- the file's format ---- */

static void trim(const char **at, size_t *len)
{
	while (*len && isblank((unsigned char)**at))
		++*at, --*len;
	while (*len && isspace((unsigned char)(*at)[*len - 1]))
		--*len;
}

static bool span_is(const char *at, size_t len, const char *word)
{
	return len == strlen(word) && !memcmp(at, word, len);
}

/* "[name]", or AWS's other form "[profile name]". */
static bool is_section(const char *at, size_t len, const char *section)
{
	at++, len -= 2;
	trim(&at, &len);
	if (len > 8 && !memcmp(at, "profile ", 8)) {
		at += 8, len -= 8;
		trim(&at, &len);
	}
	return span_is(at, len, section);
}

/* The value where a line is "name = value", or NULL. */
static const char *value_of(const char *at, size_t len, const char *name, size_t *value_len)
{
	const char *equals = memchr(at, '=', len), *value;
	size_t name_len = equals ? (size_t)(equals - at) : 0;

	if (!equals)
		return NULL;
	value = equals + 1;
	trim(&at, &name_len);
	if (!span_is(at, name_len, name))
		return NULL;
	*value_len = len - (size_t)(value - at);
	trim(&value, value_len);
	return value;
}

int credentials_find(const char *text, size_t len, const char *section, const char *name, char *out,
		     size_t size)
{
	const char *end = text + len, *next, *value;
	bool inside = false;
	size_t n, value_len;

	out[0] = 0;
	for (; text < end; text = next) {
		next = memchr(text, '\n', (size_t)(end - text));
		next = next ? next + 1 : end;
		n = (size_t)(next - text);
		trim(&text, &n);
		if (!n || *text == '#' || *text == ';')
			continue;
		if (*text == '[' && n >= 2 && text[n - 1] == ']') {
			inside = is_section(text, n, section);
			continue;
		}
		value = inside ? value_of(text, n, name, &value_len) : NULL;
		if (!value)
			continue;
		if (value_len >= size)
			return -EMSGSIZE;
		memcpy(out, value, value_len);
		out[value_len] = 0;
		return 0;
	}
	return 0;
}

/* ---- reading ---- */

static int credentials_read_all(int fd, char *to, size_t *len)
{
	ssize_t n;

	for (*len = 0; *len <= CREDENTIALS_FILE_MAX; *len += (size_t)n) {
		n = read(fd, to + *len, CREDENTIALS_FILE_MAX + 1 - *len);
		if (n < 0)
			return -errno;
		if (!n)
			return 0;
	}
	return -EFBIG;
}

/* malloc'd, CREDENTIALS_FILE_MAX + 1 bytes. A plain file: no other keeps the caller waiting. */
static int credentials_read_file(const char *path, char **text, size_t *len, struct err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), r;
	struct stat st;

	if (fd < 0)
		return err_errno(err, -errno, "cannot open the file of credentials %s", path);
	*text = malloc(CREDENTIALS_FILE_MAX + 1);
	if (!*text)
		r = -ENOMEM;
	else if (fstat(fd, &st) < 0)
		r = -errno;
	else
		r = S_ISREG(st.st_mode) ? credentials_read_all(fd, *text, len) : -EINVAL;
	close(fd);
	if (!r)
		return 0;
	free(*text);
	return err_errno(err, r,
			 "cannot read the file of credentials %s, a plain one of at most %u KiB",
			 path, CREDENTIALS_FILE_MAX >> 10);
}

/* A field of a login, and what it is called. */
struct field {
	const char *name;
	char *out;
	size_t size;
};

static int take_from_file(const char *path, const char *section, const struct field *fields,
			  size_t n, struct err *err)
{
	size_t len = 0, i;
	char *text = NULL;
	int r = credentials_read_file(path, &text, &len, err);

	if (r < 0)
		return r;
	for (i = 0; !r && i < n; i++)
		if (credentials_find(text, len, section, fields[i].name, fields[i].out,
				     fields[i].size))
			r = err_set(err, -EINVAL, "%s: %s is too long", path, fields[i].name);
	explicit_bzero(text, len);
	free(text);
	return r;
}

static int take_from_environment(const struct field *fields, size_t n, struct err *err)
{
	const char *value;
	size_t i;

	for (i = 0; i < n; i++) {
		value = getenv(fields[i].name);
		value = value ? value : "";
		if (strlen(value) >= fields[i].size)
			return err_set(err, -EINVAL, "the environment's %s is too long",
				       fields[i].name);
		strcpy(fields[i].out, value);
	}
	return 0;
}

/* What a header could not hold would end it, and begin another. */
static int login_check(struct web_login *login, const char *where, struct err *err)
{
	const char *parts[] = { login->user, login->secret, login->session };
	size_t i;

	for (i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		if (parts[i][strcspn(parts[i], "\r\n")])
			return err_set(err, -EINVAL, "%s has credentials of more than one line",
				       where);
	if (login->user[0] && !login->secret[0])
		return err_set(err, -EINVAL, "%s has half of the credentials only", where);
	return 0;
}

/* ---- both kinds ---- */

static int aws_from_file(struct web_login *login, const char *path, struct err *err)
{
	const struct field fields[] = {
		{ "aws_access_key_id", login->user, sizeof(login->user) },
		{ "aws_secret_access_key", login->secret, sizeof(login->secret) },
		{ "aws_session_token", login->session, sizeof(login->session) },
	};
	const char *profile = getenv("AWS_PROFILE");
	int r = take_from_file(path, profile && *profile ? profile : "default", fields, 3, err);

	if (!r && !login->user[0])
		r = err_set(err, -EINVAL, "%s has no aws_access_key_id in [%s]", path,
			    profile && *profile ? profile : "default");
	return r ? r : login_check(login, path, err);
}

/* Where AWS's own tools keep it; false: nowhere. */
static bool aws_usual_file(char *path, size_t size)
{
	const char *named = getenv("AWS_SHARED_CREDENTIALS_FILE"), *home = getenv("HOME");
	int n;

	if (named && *named)
		return (size_t)snprintf(path, size, "%s", named) < size;
	n = home ? snprintf(path, size, "%s/.aws/credentials", home) : -1;
	return n > 0 && (size_t)n < size && !access(path, R_OK);
}

static int aws_take(struct web_login *login, const char *file, struct err *err)
{
	const struct field fields[] = {
		{ "AWS_ACCESS_KEY_ID", login->user, sizeof(login->user) },
		{ "AWS_SECRET_ACCESS_KEY", login->secret, sizeof(login->secret) },
		{ "AWS_SESSION_TOKEN", login->session, sizeof(login->session) },
	};
	char path[4096];
	int r;

	if (file)
		return aws_from_file(login, file, err);
	r = take_from_environment(fields, 3, err);
	if (r || login->user[0])
		return r ? r : login_check(login, "the environment", err);
	return aws_usual_file(path, sizeof(path)) ? aws_from_file(login, path, err) : 0;
}

int credentials_aws(struct web_login *login, const char *file, struct err *err)
{
	int r = aws_take(login, file, err);

	login->kind = !r && login->user[0] ? WEB_AWS : WEB_ANONYMOUS;
	return r;
}

int credentials_http(struct web_login *login, const char *file, struct err *err)
{
	char token[sizeof(login->secret)] = "";
	const struct field in_file[] = {
		{ "user", login->user, sizeof(login->user) },
		{ "password", login->secret, sizeof(login->secret) },
		{ "token", token, sizeof(token) },
	};
	const struct field in_environment[] = {
		{ "POSTERN_HTTP_USER", login->user, sizeof(login->user) },
		{ "POSTERN_HTTP_PASSWORD", login->secret, sizeof(login->secret) },
		{ "POSTERN_HTTP_TOKEN", token, sizeof(token) },
	};
	int r = file ? take_from_file(file, "default", in_file, 3, err)
		     : take_from_environment(in_environment, 3, err);

	login->kind = login->user[0] ? WEB_BASIC : WEB_ANONYMOUS;
	if (token[0]) {
		login->kind = WEB_BEARER;
		memcpy(login->secret, token, sizeof(token));
		login->user[0] = 0;
	}
	explicit_bzero(token, sizeof(token));
	return r ? r : login_check(login, file ? file : "the environment", err);
}
