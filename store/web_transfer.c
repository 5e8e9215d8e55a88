// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * One exchange as a transfer of libcurl's: what is asked, what may come, and what came of it.
 *
 * libcurl is told to follow nothing, to decode nothing and to add no credentials of its own. It
 * bounds neither the head as a whole nor the interim answers before it; the callbacks here do, and
 * end a transfer by taking less than they were given.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/web_internal.h"

/* A head and the 64 KiB that somebody waits for, by one call. */
#define BUFFER_BYTES (96L << 10)
/* Of an error's or a useless body, until the connection is given up. */
#define DROP_MAX (256u << 10)

void web_exchange_init(struct web_exchange *x, enum web_method method)
{
	memset(x, 0, sizeof(*x));
	x->method = method;
}

static void free_headers(struct web_exchange *x)
{
	const struct curl_lib *lib;

	if (x->headers && !curl_lib_load(&lib, NULL))
		lib->curl_slist_free_all(x->headers);
	x->headers = NULL;
}

void web_exchange_fini(struct web_exchange *x)
{
	free_headers(x);
	buf_fini(&x->error);
	free(x->redirect);
	free(x->url);
	memset(x, 0, sizeof(*x));
}

int web_exchange_header(struct web_exchange *x, const char *format, ...)
{
	const struct curl_lib *lib;
	struct curl_slist *longer;
	char line[sizeof(((struct web_login *)0)->session) + 64];
	va_list ap;
	int n, r = curl_lib_load(&lib, &x->err);

	if (r < 0)
		return r;
	va_start(ap, format);
	n = vsnprintf(line, sizeof(line), format, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= sizeof(line) || strpbrk(line, "\r\n"))
		return err_set(&x->err, -EINVAL, "a header that cannot be sent");
	longer = lib->curl_slist_append(x->headers, line);
	explicit_bzero(line, sizeof(line));
	if (!longer)
		return err_set(&x->err, -ENOMEM, "no memory for a request");
	x->headers = longer;
	return 0;
}

/* Ends the transfer with this; r is 0 where all that was wanted has come. */
static size_t transfer_stop(struct web_exchange *x, int r)
{
	x->stopped = true;
	x->result = r;
	return 0;
}

static bool is_success(const struct web_exchange *x)
{
	return x->answer.status >= 200 && x->answer.status <= 299;
}

static size_t on_header(char *line, size_t size, size_t n, void *arg)
{
	struct web_exchange *x = arg;
	int r = web_answer_line(&x->answer, line, size * n);

	if (r == -EMSGSIZE)
		return transfer_stop(x, err_set(&x->err, -EBADMSG,
						"the server sends more than %u KiB of headers",
						WEB_HEAD_MAX >> 10));
	if (r < 0)
		return transfer_stop(x, err_set(&x->err, r, "the server's answer is malformed"));
	if (r && is_success(x) && x->head) {
		r = x->head(x);
		if (r < 0)
			return transfer_stop(x, r);
	}
	return size * n;
}

/* A body that nobody asked for: its beginning may say what is wrong. */
static size_t drop_body(struct web_exchange *x, const char *data, size_t n)
{
	size_t room = WEB_ERROR_MAX - x->error.len;

	if (!is_success(x) && buf_append(&x->error, data, n < room ? n : room) < 0)
		return transfer_stop(x, err_set(&x->err, -ENOMEM, "no memory for an answer"));
	return x->taken > DROP_MAX ? transfer_stop(x, 0) : n;
}

static size_t on_body(char *data, size_t size, size_t n, void *arg)
{
	struct web_exchange *x = arg;
	int r;

	n *= size;
	x->taken += n;
	if (!is_success(x) || !x->take)
		return drop_body(x, data, n);
	r = x->take(x, (const uint8_t *)data, n);
	return r ? transfer_stop(x, r < 0 ? r : 0) : n;
}

static size_t on_read(char *to, size_t size, size_t n, void *arg)
{
	struct web_exchange *x = arg;
	uint64_t left = x->body_len - x->sent;

	n *= size;
	n = n < left ? n : left;
	if (n)
		memcpy(to, (const char *)x->body + x->sent, n);
	x->sent += n;
	return n;
}

/* Where a kept connection turns out to be dead, libcurl begins again with another. */
static int on_seek(void *arg, curl_off_t offset, int origin)
{
	struct web_exchange *x = arg;

	if (origin != SEEK_SET || offset < 0 || (uint64_t)offset > x->body_len)
		return CURL_SEEKFUNC_FAIL;
	x->sent = (uint64_t)offset;
	return CURL_SEEKFUNC_OK;
}

/* ---- setting up ---- */

/* Options are set one after the other; the first that fails is what is told. */
struct transfer_setup {
	const struct curl_lib *lib;
	CURL *easy;
	CURLcode code;
};

#define SET(s, option, value)                                                                      \
	((s)->code = (s)->code ? (s)->code                                                         \
			       : (s)->lib->curl_easy_setopt((s)->easy, option, value))

static void set_method(struct transfer_setup *s, struct web_exchange *x)
{
	switch (x->method) {
	case WEB_GET:
		SET(s, CURLOPT_HTTPGET, 1L);
		break;
	case WEB_HEAD:
		SET(s, CURLOPT_NOBODY, 1L);
		break;
	case WEB_PUT:
		SET(s, CURLOPT_UPLOAD, 1L);
		SET(s, CURLOPT_INFILESIZE_LARGE, (curl_off_t)x->body_len);
		SET(s, CURLOPT_READFUNCTION, on_read);
		SET(s, CURLOPT_READDATA, (void *)x);
		SET(s, CURLOPT_SEEKFUNCTION, on_seek);
		SET(s, CURLOPT_SEEKDATA, (void *)x);
		break;
	case WEB_POST:
		SET(s, CURLOPT_POST, 1L);
		SET(s, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)x->body_len);
		SET(s, CURLOPT_POSTFIELDS, x->body_len ? (const char *)x->body : "");
		break;
	case WEB_DELETE:
		SET(s, CURLOPT_CUSTOMREQUEST, "DELETE");
		break;
	}
}

static void set_login(struct transfer_setup *s, const struct web_login *login)
{
	char provider[sizeof(login->region) + 16];

	if (!login || login->kind == WEB_ANONYMOUS)
		return;
	if (login->kind == WEB_BEARER) {
		SET(s, CURLOPT_HTTPAUTH, (long)CURLAUTH_BEARER);
		SET(s, CURLOPT_XOAUTH2_BEARER, login->secret);
		return;
	}
	SET(s, CURLOPT_USERNAME, login->user);
	SET(s, CURLOPT_PASSWORD, login->secret);
	if (login->kind == WEB_BASIC) {
		SET(s, CURLOPT_HTTPAUTH, (long)CURLAUTH_BASIC);
		return;
	}
	snprintf(provider, sizeof(provider), "aws:amz:%s:s3", login->region);
	SET(s, CURLOPT_AWS_SIGV4, provider);
}

/* libcurl 7.88 signs this header as it stands, adds none itself, and servers insist on it. */
static int sign_headers(struct web_exchange *x)
{
	int r;

	if (!x->login || x->login->kind != WEB_AWS)
		return 0;
	r = web_exchange_header(x, "x-amz-content-sha256: UNSIGNED-PAYLOAD");
	if (!r && x->login->session[0])
		r = web_exchange_header(x, "x-amz-security-token: %s", x->login->session);
	return r;
}

/* None of the waits is without an end. */
static void set_times(struct transfer_setup *s, const struct web_exchange *x,
		      unsigned int patience_ms)
{
	uint64_t all_ms = patience_ms + x->bytes * 1000 / WEB_SLOWEST;

	SET(s, CURLOPT_CONNECTTIMEOUT_MS, (long)patience_ms);
	SET(s, CURLOPT_LOW_SPEED_LIMIT, 1L);
	SET(s, CURLOPT_LOW_SPEED_TIME, (long)(patience_ms + 999) / 1000);
	SET(s, CURLOPT_TIMEOUT_MS, (long)all_ms);
	SET(s, CURLOPT_TCP_KEEPALIVE, 1L);
}

static void set_manners(struct transfer_setup *s, const char *url)
{
	/* A login or a body never goes from an encrypted connection to a bare one. */
	const char *protocols = strncmp(url, "https:", 6) ? "http,https" : "https";

	SET(s, CURLOPT_NOSIGNAL, 1L);
	SET(s, CURLOPT_QUICK_EXIT, 1L);
	SET(s, CURLOPT_PROTOCOLS_STR, protocols);
	SET(s, CURLOPT_FOLLOWLOCATION, 0L);
	SET(s, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	SET(s, CURLOPT_PATH_AS_IS, 1L);
	SET(s, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
	SET(s, CURLOPT_USERAGENT, "postern/" POSTERN_VERSION);
	/* Of a host that had no address libcurl 7.88 keeps the buffer, and takes no size for
	 * the next request; it is as large as before then. */
	s->lib->curl_easy_setopt(s->easy, CURLOPT_BUFFERSIZE, BUFFER_BYTES);
}

static void set_callbacks(struct transfer_setup *s, struct web_exchange *x)
{
	SET(s, CURLOPT_HEADERFUNCTION, on_header);
	SET(s, CURLOPT_HEADERDATA, (void *)x);
	SET(s, CURLOPT_WRITEFUNCTION, on_body);
	SET(s, CURLOPT_WRITEDATA, (void *)x);
	SET(s, CURLOPT_ERRORBUFFER, x->reason);
}

/* Forgets what an earlier round left. */
static void exchange_restart(struct web_exchange *x)
{
	free_headers(x);
	memset(&x->answer, 0, sizeof(x->answer));
	memset(&x->err, 0, sizeof(x->err));
	free(x->redirect);
	x->redirect = NULL;
	x->error.len = 0;
	x->result = 0;
	x->retry_after_s = 0;
	x->taken = x->sent = 0;
	x->stopped = false;
	x->reason[0] = 0;
}

int web_transfer_begin(const struct curl_lib *lib, CURL *easy, struct web_exchange *x,
		       const struct web_settings *settings)
{
	struct transfer_setup s = { lib, easy, CURLE_OK };
	int r;

	_Static_assert(sizeof(x->reason) == CURL_ERROR_SIZE, "libcurl writes so much");
	exchange_restart(x);
	r = x->prepare ? x->prepare(x) : 0;
	if (!r)
		r = sign_headers(x);
	if (r < 0)
		return r;
	lib->curl_easy_reset(easy);
	SET(&s, CURLOPT_URL, x->url);
	set_method(&s, x);
	set_login(&s, x->login);
	set_manners(&s, x->url);
	set_times(&s, x, settings->patience_ms);
	set_callbacks(&s, x);
	if (x->range[0])
		SET(&s, CURLOPT_RANGE, x->range);
	if (x->headers)
		SET(&s, CURLOPT_HTTPHEADER, x->headers);
	if (settings->ca_file)
		SET(&s, CURLOPT_CAINFO, settings->ca_file);
	if (!s.code)
		return 0;
	return err_set(&x->err, s.code == CURLE_OUT_OF_MEMORY ? -ENOMEM : -ENOSYS,
		       "libcurl cannot do what is needed: %s", lib->curl_easy_strerror(s.code));
}

/* ---- what came of it ---- */

static int code_errno(CURLcode code)
{
	switch (code) {
	case CURLE_OUT_OF_MEMORY:
		return -ENOMEM;
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CACERT_BADFILE:
	case CURLE_SSL_ISSUER_ERROR:
	case CURLE_SSL_CERTPROBLEM:
		return -EACCES;
	case CURLE_UNSUPPORTED_PROTOCOL:
	case CURLE_WEIRD_SERVER_REPLY:
	case CURLE_BAD_CONTENT_ENCODING:
		return -EBADMSG;
	case CURLE_URL_MALFORMAT:
		return -EINVAL;
	case CURLE_COULDNT_RESOLVE_HOST:
	case CURLE_COULDNT_RESOLVE_PROXY:
	case CURLE_COULDNT_CONNECT:
	case CURLE_OPERATION_TIMEDOUT:
	case CURLE_PARTIAL_FILE:
	case CURLE_GOT_NOTHING:
	case CURLE_SEND_ERROR:
	case CURLE_RECV_ERROR:
	case CURLE_SSL_CONNECT_ERROR:
	case CURLE_PROXY:
	case CURLE_AGAIN:
		return -EAGAIN;
	default:
		return -EIO;
	}
}

static void take_reason(const struct curl_lib *lib, struct web_exchange *x, CURLcode code)
{
	const char *reason = x->reason[0] ? x->reason : lib->curl_easy_strerror(code);
	char *at;

	/* A line of some 100 KiB is all the memory that libcurl has for one. */
	if (code == CURLE_OUT_OF_MEMORY && !x->answer.whole)
		x->result =
			err_set(&x->err, -EBADMSG, "the server's answer has no head, or no end");
	else
		x->result = err_set(&x->err, code_errno(code), "%s", reason);
	/* It may hold what the server sent. */
	for (at = x->err.text; *at; at++)
		if (*at < ' ' || *at > '~')
			*at = '?';
}

/*
 * Of a Location that is relative libcurl makes a URL with the login that was asked with in it:
 * neither errors may show that, nor the next server see it. Nor is a login taken that a server
 * names. A copy; NULL: no memory.
 */
static char *url_without_login(const char *url)
{
	const char *scheme = strstr(url, "://"), *host = scheme ? scheme + 3 : url;
	const char *at = memrchr(host, '@', strcspn(host, "/?#"));
	char *copy;

	if (asprintf(&copy, "%.*s%s", (int)(host - url), url, at ? at + 1 : host) < 0)
		return NULL;
	return copy;
}

static void take_info(const struct curl_lib *lib, CURL *easy, struct web_exchange *x)
{
	curl_off_t after = 0;
	char *redirect = NULL;

	lib->curl_easy_getinfo(easy, CURLINFO_RETRY_AFTER, &after);
	x->retry_after_s = after < 0 ? 0 : after > 3600 ? 3600 : (unsigned int)after;
	lib->curl_easy_getinfo(easy, CURLINFO_REDIRECT_URL, &redirect);
	if (redirect && strlen(redirect) < WEB_ERROR_MAX)
		x->redirect = url_without_login(redirect);
}

void web_transfer_end(const struct curl_lib *lib, CURL *easy, struct web_exchange *x, CURLcode code)
{
	if (!x->stopped && code)
		take_reason(lib, x, code);
	else if (!x->stopped && !x->answer.whole)
		x->result = err_set(&x->err, -EBADMSG, "the server's answer has no head");
	take_info(lib, easy, x);
	free_headers(x);
}

/* Scheme, host or port of a URL, as libcurl understands them: freed by curl_free; NULL: none. */
static char *url_part(const struct curl_lib *lib, const char *text, CURLUPart part)
{
	CURLU *url = lib->curl_url();
	char *found = NULL;

	if (url && !lib->curl_url_set(url, CURLUPART_URL, text, 0))
		lib->curl_url_get(url, part, &found, CURLU_DEFAULT_PORT);
	lib->curl_url_cleanup(url);
	return found;
}

bool web_same_origin(const char *a, const char *b)
{
	static const CURLUPart parts[] = { CURLUPART_SCHEME, CURLUPART_HOST, CURLUPART_PORT };
	const struct curl_lib *lib;
	char *x, *y;
	bool same = !curl_lib_load(&lib, NULL);
	size_t i;

	for (i = 0; same && i < sizeof(parts) / sizeof(parts[0]); i++) {
		x = url_part(lib, a, parts[i]);
		y = url_part(lib, b, parts[i]);
		same = x && y && !strcasecmp(x, y);
		lib->curl_free(x);
		lib->curl_free(y);
	}
	return same;
}
