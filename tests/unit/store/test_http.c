// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The store at a plain web server, against servers of all manners: docs/stores.md's table, row by
 * row. Nothing here may take longer than its time-out, end the process, or bring a byte that the
 * object does not have.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"
#include "store/http.h"
#include "tests/own_dir.h"
#include "web_server.h"

#define OBJECT_BYTES 100000u

/* ---- the object, a server that has it, and a store there ---- */

static uint8_t object_byte(uint64_t at)
{
	return (uint8_t)((at * 2654435761u) >> 13);
}

static void object_part(uint8_t *to, uint64_t first, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		to[i] = object_byte(first + i);
}

static bool is_part(const uint8_t *data, uint64_t first, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		if (data[i] != object_byte(first + i))
			return false;
	return true;
}

/* As a good server does it. Fields: more of them, each with its line's end. */
static void send_range(struct web_client *client, const char *fields)
{
	uint64_t first, last;
	uint8_t *body;
	size_t n;

	assert_true(web_client_range(client, &first, &last));
	if (first >= OBJECT_BYTES) {
		web_client_say(client, "HTTP/1.1 416 x\r\nContent-Range: bytes */%u\r\n"
			       "Content-Length: 0\r\n\r\n", OBJECT_BYTES);
		return;
	}
	last = last < OBJECT_BYTES ? last : OBJECT_BYTES - 1;
	n = last - first + 1;
	body = malloc(n);
	object_part(body, first, n);
	web_client_say(client, "HTTP/1.1 206 Partial Content\r\n%sContent-Length: %zu\r\n"
		       "Content-Range: bytes %llu-%llu/%u\r\n\r\n", fields, n,
		       (unsigned long long)first, (unsigned long long)last, OBJECT_BYTES);
	web_client_send(client, body, n);
	free(body);
}

static void answer_well(struct web_client *client, void *arg)
{
	(void)arg;
	if (web_client_is(client, "GET", "/base/image/pack-0"))
		send_range(client, "ETag: \"v1\"\r\n");
	else
		web_client_say(client, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
}

/* What `arg` says, whatever is asked. */
static void answer_text(struct web_client *client, void *arg)
{
	const char *text = arg;

	web_client_send(client, text, strlen(text));
}

static void answer_text_and_close(struct web_client *client, void *arg)
{
	answer_text(client, arg);
	web_client_close(client, false);
}

static struct store *open_store(unsigned int port, const char *more, const char *credentials)
{
	struct store_url url;
	struct store *store;
	struct err err;
	char text[256];

	snprintf(text, sizeof(text), "http://127.0.0.1:%u/base?timeout=%s", port, more);
	assert_int_equal(store_url_parse(&url, text, &err), 0);
	if (http_store_new(&store, &url, credentials, &err) < 0)
		fail_msg("%s", err.text);
	return store;
}

struct both {
	struct web_server *server;
	struct store *store;
	struct err err;
	uint8_t data[OBJECT_BYTES + 16];
};

static struct both *both_new(web_server_answer *answer, const char *arg)
{
	struct both *both = calloc(1, sizeof(*both));

	both->server = web_server_new(0, answer, (void *)(uintptr_t)arg);
	both->store = open_store(web_server_port(both->server), "2", NULL);
	return both;
}

static void both_free(struct both *both)
{
	store_free(both->store);
	web_server_free(both->server);
	free(both);
}

static int64_t get(struct both *both, uint64_t offset, size_t len, unsigned int flags)
{
	memset(&both->err, 0, sizeof(both->err));
	memset(both->data, 0x5a, sizeof(both->data));
	return store_get(both->store, NULL, "image/pack-0", offset, both->data, len, flags,
			 &both->err);
}

/* The error is this, says that, and nothing was written behind what was asked for. */
static void expect_error(struct both *both, int64_t result, int code, const char *text)
{
	if (result != code || both->err.code != code || !strstr(both->err.text, text))
		fail_msg("%d and \"%s\" were expected: %d, \"%s\"", code, text, (int)result,
			 both->err.text);
	assert_non_null(strstr(both->err.text, "image/pack-0"));
	assert_non_null(strstr(both->err.text, "http://127.0.0.1:"));
}

/* One request, one answer, one error. */
static void expect_answer(const char *answer, int code, const char *text)
{
	struct both *both = both_new(answer_text_and_close, answer);
	int64_t r = get(both, 100, 50, 0);

	expect_error(both, r, code, text);
	both_free(both);
}

/* ---- what works ---- */

static void a_range_is_read(void **state)
{
	struct both *both = both_new(answer_well, NULL);

	(void)state;
	assert_int_equal(get(both, 100, 50, 0), 50);
	assert_true(is_part(both->data, 100, 50));
	assert_int_equal(both->data[50], 0x5a);
	assert_int_equal(get(both, 0, OBJECT_BYTES, STORE_URGENT), OBJECT_BYTES);
	assert_true(is_part(both->data, 0, OBJECT_BYTES));
	assert_int_equal(get(both, OBJECT_BYTES - 1, 1, 0), 1);
	both_free(both);
}

static void an_objects_end_is_told(void **state)
{
	struct both *both = both_new(answer_well, NULL);

	(void)state;
	assert_int_equal(get(both, OBJECT_BYTES - 10, 20, STORE_UP_TO), 10);
	assert_true(is_part(both->data, OBJECT_BYTES - 10, 10));
	assert_int_equal(get(both, OBJECT_BYTES, 20, STORE_UP_TO), 0);
	assert_int_equal(get(both, OBJECT_BYTES + 1000, 20, STORE_UP_TO), 0);
	assert_int_equal(get(both, 10, 0, 0), 0);
	expect_error(both, get(both, OBJECT_BYTES - 10, 20, 0), -EBADMSG, "it has 100000 bytes");
	expect_error(both, get(both, OBJECT_BYTES, 20, 0), -EBADMSG, "ends before byte 100000");
	both_free(both);
}

static void connections_are_kept(void **state)
{
	struct both *both = both_new(answer_well, NULL);
	unsigned int i;

	(void)state;
	for (i = 0; i < 50; i++)
		assert_int_equal(get(both, i, 50, i % 2 ? STORE_URGENT : 0), 50);
	/* One of each lane. */
	assert_int_equal(web_server_connections(both->server), 2);
	both_free(both);
}

static void what_is_not_there_is_told(void **state)
{
	struct both *both = both_new(answer_well, NULL);

	(void)state;
	assert_int_equal(store_get(both->store, NULL, "other", 0, both->data, 1, 0, &both->err),
			 -ENOENT);
	assert_non_null(strstr(both->err.text, "\"other\": the server says 404 Not Found"));
	assert_int_equal(store_delete(both->store, NULL, "other", &both->err), 0);
	both_free(both);
}

static void ignore_name(void *arg, const char *object, uint64_t bytes)
{
	(void)arg, (void)object, (void)bytes;
	fail();
}

static void there_is_no_list(void **state)
{
	struct both *both = both_new(answer_well, NULL);

	(void)state;
	assert_int_equal(store_list(both->store, NULL, "", 0, ignore_name, NULL, &both->err),
			 -ENOTSUP);
	assert_non_null(strstr(both->err.text, "use an S3 store or a folder"));
	assert_int_equal(web_server_requests(both->server), 0);
	both_free(both);
}

/* ---- other bytes than were asked for ---- */

/* All of the object, from its beginning, with its length or without. */
static void answer_all(struct web_client *client, void *arg)
{
	uint8_t *body = malloc(OBJECT_BYTES);

	object_part(body, 0, OBJECT_BYTES);
	if (arg) {
		web_client_say(client, "HTTP/1.1 200 OK\r\nContent-Length: %u\r\n\r\n",
			       OBJECT_BYTES);
		web_client_send(client, body, OBJECT_BYTES);
	} else {
		web_client_say(client, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
		web_client_send(client, body, OBJECT_BYTES);
		web_client_close(client, false);
	}
	free(body);
}

static void a_part_is_taken_out_of_everything(void **state)
{
	const char *with_length[] = { "", NULL };
	struct both *both;
	unsigned int i;

	(void)state;
	for (i = 0; i < 2; i++) {
		both = both_new(answer_all, with_length[i]);
		assert_int_equal(get(both, 5000, 50, 0), 50);
		assert_true(is_part(both->data, 5000, 50));
		assert_int_equal(both->data[50], 0x5a);
		assert_int_equal(get(both, 0, OBJECT_BYTES + 10, STORE_UP_TO), OBJECT_BYTES);
		assert_true(is_part(both->data, 0, OBJECT_BYTES));
		assert_int_equal(get(both, OBJECT_BYTES - 5, 50, STORE_UP_TO), 5);
		assert_int_equal(get(both, OBJECT_BYTES + 5, 50, STORE_UP_TO), 0);
		assert_int_equal(get(both, OBJECT_BYTES - 5, 50, 0), -EBADMSG);
		expect_error(both, get(both, 5 << 20, 50, 0), -EBADMSG,
			     "the server ignores ranges");
		both_free(both);
	}
}

static void other_bytes_are_refused(void **state)
{
	(void)state;
	expect_answer("HTTP/1.1 206 x\r\nContent-Length: 50\r\n\r\n", -EBADMSG,
		      "without saying which");
	expect_answer("HTTP/1.1 206 x\r\nContent-Range: bytes 0-49/500\r\n\r\n", -EBADMSG,
		      "bytes 0 to 49 instead of 100 to 149");
	expect_answer("HTTP/1.1 206 x\r\nContent-Range: bytes 100-150/500\r\n\r\n", -EBADMSG,
		      "instead of");
	expect_answer("HTTP/1.1 206 x\r\nContent-Range: bytes 100-140/500\r\n\r\n", -EBADMSG,
		      "only 41 of 50 bytes");
	expect_answer(
		"HTTP/1.1 206 x\r\nContent-Range: bytes 100-149/500\r\nContent-Length: 51\r\n\r\n",
		-EBADMSG, "contradicts itself");
	expect_answer("HTTP/1.1 206 x\r\nContent-Range: bytes 149-100/500\r\n\r\n", -EBADMSG,
		      "malformed");
	expect_answer("HTTP/1.1 206 x\r\nContent-Range: bytes 100-149/99999999999999999999\r\n\r\n",
		      -EBADMSG, "malformed");
	expect_answer("HTTP/1.1 206 x\r\nContent-Range: bytes 100-149/500\r\n"
		      "Content-Encoding: gzip\r\n\r\n", -EBADMSG, "compression");
	expect_answer("HTTP/1.1 204 x\r\n\r\n", -EBADMSG, "204 to a GET");
	expect_answer("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", -EBADMSG, "it has 99 bytes");
	expect_answer("hello\r\n", -EBADMSG, "HTTP/0.9");
}

static void more_than_asked_for_is_refused(void **state)
{
	(void)state;
	expect_answer("HTTP/1.1 206 x\r\nContent-Range: bytes 100-149/500\r\n"
		      "Transfer-Encoding: chunked\r\n\r\n"
		      "33\r\n012345678901234567890123456789012345678901234567890\r\n0\r\n\r\n",
		      -EBADMSG, "more than was asked for");
	expect_answer("HTTP/1.1 206 x\r\nContent-Range: bytes 100-149/500\r\n"
		      "Transfer-Encoding: chunked\r\n\r\n3\r\n012\r\n0\r\n\r\n",
		      -EBADMSG, "3 of 50 bytes");
}

/* arg: what is sent, again and again, after the first line. */
static void answer_endlessly(struct web_client *client, void *arg)
{
	const char *again = arg;

	if (*again != 'H')
		web_client_say(client, "HTTP/1.1 206 x\r\n");
	while (web_client_send(client, again, strlen(again)))
		;
}

static void endless_headers_are_refused(void **state)
{
	const char *again[] = { "X-More: of the same\r\n", "HTTP/1.1 103 Early Hints\r\n\r\n",
				"endless" };
	struct both *both;
	unsigned int i;

	(void)state;
	for (i = 0; i < 3; i++) {
		both = both_new(answer_endlessly, again[i]);
		expect_error(both, get(both, 100, 50, 0), -EBADMSG,
			     i == 2 ? "" : "64 KiB of headers");
		both_free(both);
	}
}

/* ---- servers that are away, late, or refuse ---- */

static void answer_half(struct web_client *client, void *arg)
{
	uint8_t half[25];

	object_part(half, 100, 25);
	web_client_say(client, "HTTP/1.1 206 x\r\nContent-Range: bytes 100-149/500\r\n"
		       "Content-Length: 50\r\n\r\n");
	web_client_send(client, half, sizeof(half));
	web_client_close(client, arg);
}

static void a_body_that_is_cut_may_be_asked_for_again(void **state)
{
	const char *reset[] = { NULL, "" };
	struct both *both;
	unsigned int i;

	(void)state;
	for (i = 0; i < 2; i++) {
		both = both_new(answer_half, reset[i]);
		expect_error(both, get(both, 100, 50, 0), -EAGAIN, "");
		both_free(both);
	}
}

static void answer_never(struct web_client *client, void *arg)
{
	(void)arg;
	web_client_hang(client);
}

static void a_server_that_never_answers_is_given_up(void **state)
{
	struct both *both = both_new(answer_never, NULL);
	int64_t from = clock_now_ns();

	(void)state;
	expect_error(both, get(both, 100, 50, 0), -EAGAIN, "");
	assert_in_range((clock_now_ns() - from) / NS_PER_MS, 1500, 5000);
	both_free(both);
}

/* A byte now and then, so that it is never silent for long. */
static void answer_slowly(struct web_client *client, void *arg)
{
	const struct timespec pause = { 0, 50 * NS_PER_MS };

	(void)arg;
	web_client_say(client, "HTTP/1.1 206 x\r\nContent-Range: bytes 100-149/500\r\n"
		       "Content-Length: 50\r\n\r\n");
	while (web_client_send(client, "x", 1))
		nanosleep(&pause, NULL);
}

static void answer_slow_head(struct web_client *client, void *arg)
{
	const struct timespec pause = { 0, 50 * NS_PER_MS };

	(void)arg;
	while (web_client_send(client, "H", 1))
		nanosleep(&pause, NULL);
}

static void a_server_that_trickles_is_given_up(void **state)
{
	web_server_answer *answers[] = { answer_slowly, answer_slow_head };
	struct both *both;
	unsigned int i;

	(void)state;
	for (i = 0; i < 2; i++) {
		both = both_new(answers[i], NULL);
		expect_error(both, get(both, 100, 50, 0), i ? -EBADMSG : -EAGAIN, "");
		both_free(both);
	}
}

static void a_server_may_die_and_come_back(void **state)
{
	struct both *both = both_new(answer_well, NULL);
	unsigned int port = web_server_port(both->server);

	(void)state;
	assert_int_equal(get(both, 100, 50, 0), 50);
	web_server_free(both->server);
	expect_error(both, get(both, 100, 50, 0), -EAGAIN, "onnect");
	both->server = web_server_new(port, answer_well, NULL);
	assert_int_equal(get(both, 100, 50, 0), 50);
	both_free(both);
}

static void statuses_have_their_meaning(void **state)
{
	(void)state;
	expect_answer("HTTP/1.1 401 x\r\nContent-Length: 0\r\n\r\n", -EACCES,
		      "401 Unauthorized: give cred");
	expect_answer("HTTP/1.1 403 x\r\nContent-Length: 0\r\n\r\n", -EACCES, "403 Forbidden");
	expect_answer("HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n", -ENOENT, "404 Not Found");
	expect_answer("HTTP/1.1 416 x\r\nContent-Length: 0\r\n\r\n", -EBADMSG,
		      "ends before byte 100");
	expect_answer("HTTP/1.1 429 x\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", -EAGAIN,
		      "429 Too Many Requests: it is busy, try again later (in 7 s, it says)");
	expect_answer("HTTP/1.1 503 x\r\nRetry-After: 99999999\r\nContent-Length: 0\r\n\r\n",
		      -EAGAIN, "(in 3600 s, it says)");
	expect_answer("HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n", -EAGAIN, "500");
	expect_answer("HTTP/1.1 418 x\r\nContent-Length: 0\r\n\r\n", -EPROTO, "418");
	expect_answer("HTTP/1.1 412 x\r\nContent-Length: 0\r\n\r\n", -ESTALE, "was replaced");
	expect_answer("HTTP/1.1 503 x\r\n\r\nall is lost", -EAGAIN, "503");
}

/* Busy once, and says for how long. */
static void answer_later(struct web_client *client, void *arg)
{
	(void)arg;
	if (client->number)
		send_range(client, "");
	else
		web_client_say(client,
			       "HTTP/1.1 503 x\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n");
}

static void a_busy_server_is_asked_again_when_it_says(void **state)
{
	struct both *both = both_new(answer_later, NULL);
	int64_t from = clock_now_ns();
	char url[64];

	(void)state;
	store_free(both->store);
	snprintf(url, sizeof(url), "http://127.0.0.1:%u", web_server_port(both->server));
	assert_int_equal(store_open(&both->store, url, NULL, &both->err), 0);
	assert_int_equal(get(both, 100, 50, 0), 50);
	assert_in_range((clock_now_ns() - from) / NS_PER_MS, 1000, 9000);
	assert_int_equal(web_server_requests(both->server), 2);
	both_free(both);
}

/* ---- redirects ---- */

/* "/base/..." leads to arg, and anything else is the object. */
static void answer_elsewhere(struct web_client *client, void *arg)
{
	const char *path = strchr(client->head, ' ');

	if (path && !strncmp(path, " /base/", 7))
		web_client_say(client,
			       "HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n",
			       (const char *)arg);
	else
		send_range(client, "");
}

static void a_redirect_is_followed(void **state)
{
	struct both *both = both_new(answer_elsewhere, "/elsewhere/7");

	(void)state;
	assert_int_equal(get(both, 100, 50, 0), 50);
	assert_true(is_part(both->data, 100, 50));
	assert_int_equal(web_server_requests(both->server), 2);
	both_free(both);
}

static void redirects_are_bounded(void **state)
{
	struct both *both = both_new(answer_elsewhere, "/base/again");

	(void)state;
	expect_error(both, get(both, 100, 50, 0), -EPROTO, "too many redirects");
	assert_int_equal(web_server_requests(both->server), 6);
	both_free(both);
	both = both_new(answer_elsewhere, "file:///etc/passwd");
	expect_error(both, get(both, 100, 50, 0), -EPROTO, "sends to file:///etc/passwd, which is no");
	both_free(both);
	both = both_new(answer_elsewhere, "/elsewhere?token=geheim");
	assert_int_equal(store_put(both->store, NULL, "image/pack-0", "x", 1, 0, &both->err),
			 -EPROTO);
	assert_non_null(strstr(both->err.text, "/elsewhere, which is not followed here"));
	assert_null(strstr(both->err.text, "geheim"));
	both_free(both);
}

/* Refuses who has no login, and counts who shows one. */
struct guarded {
	const char *leads_to;
	_Atomic unsigned int shown;
};

static void answer_guarded(struct web_client *client, void *arg)
{
	struct guarded *guarded = arg;
	char login[128];

	if (web_client_field(client, "Authorization", login, sizeof(login))) {
		assert_string_equal(login, "Basic bWU6Z2VoZWlt");
		guarded->shown++;
	} else if (guarded->leads_to) {
		web_client_say(client, "HTTP/1.1 401 x\r\nContent-Length: 0\r\n\r\n");
		return;
	}
	if (guarded->leads_to && *guarded->leads_to)
		web_client_say(client,
			       "HTTP/1.1 307 x\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n",
			       guarded->leads_to);
	else
		send_range(client, "");
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

/* A login goes to the host that it is for, and no further. */
static void no_login_leaves_its_host(void **state)
{
	struct own_dir dir = own_dir_new();
	struct guarded first = { "", 0 }, second = { NULL, 0 };
	struct web_server *other = web_server_new(0, answer_guarded, &second);
	struct both *both = calloc(1, sizeof(*both));
	char path[64], to[64];

	(void)state;
	snprintf(path, sizeof(path), "%s/login", dir.path);
	write_file(path, "[default]\nuser = me\npassword = geheim\n");
	both->server = web_server_new(0, answer_guarded, &first);
	both->store = open_store(web_server_port(both->server), "2", path);
	assert_null(strstr(store_label(both->store), "geheim"));
	assert_int_equal(get(both, 100, 50, 0), 50);
	assert_int_equal(first.shown, 1);
	snprintf(to, sizeof(to), "http://127.0.0.1:%u/there", web_server_port(other));
	first.leads_to = to;
	assert_int_equal(get(both, 100, 50, 0), 50);
	assert_int_equal(first.shown, 2);
	assert_int_equal(second.shown, 0);
	assert_int_equal(web_server_requests(other), 1);
	/* Nor does a server choose with which one another is asked. */
	snprintf(to, sizeof(to), "http://me:geheim@127.0.0.1:%u/there", web_server_port(other));
	assert_int_equal(get(both, 100, 50, 0), 50);
	assert_int_equal(second.shown, 0);
	assert_int_equal(web_server_requests(other), 2);
	/* libcurl makes a URL of it that has the login in it. */
	first.leads_to = "/again";
	expect_error(both, get(both, 100, 50, 0), -EPROTO, "/again, after too many redirects");
	assert_null(strstr(both->err.text, "geheim"));
	both_free(both);
	web_server_free(other);
	unlink(path);
	own_dir_free(&dir);
}

static void a_password_is_not_sent_in_clear_text(void **state)
{
	struct own_dir dir = own_dir_new();
	struct store_url url;
	struct store *store;
	struct err err;
	char path[64];

	(void)state;
	snprintf(path, sizeof(path), "%s/login", dir.path);
	write_file(path, "[default]\ntoken = geheim\n");
	assert_int_equal(store_url_parse(&url, "http://127.example.com/base", &err), 0);
	assert_int_equal(http_store_new(&store, &url, path, &err), -EACCES);
	assert_non_null(strstr(err.text, "use https"));
	assert_null(strstr(err.text, "geheim"));
	unlink(path);
	own_dir_free(&dir);
}

/* ---- versions ---- */

static void answer_versions(struct web_client *client, void *arg)
{
	const char *const *fields = arg;
	char match[64];

	if (client->number && web_client_field(client, "If-Match", match, sizeof(match)))
		assert_string_equal(match, "\"v1\"");
	send_range(client, fields[client->number]);
}

static void an_object_that_changes_is_told(void **state)
{
	const char *const etags[] = { "ETag: \"v1\"\r\n", "ETag: \"v1\"\r\n", "ETag: \"v2\"\r\n",
				      "ETag: \"v1\"\r\n" };
	const char *const times[] = { "Last-Modified: Mon\r\n", "Last-Modified: Mon\r\n",
				      "Last-Modified: Tue\r\n", "Last-Modified: Mon\r\n" };
	const char *const weak[] = { "ETag: W/\"1\"\r\n", "ETag: W/\"1\"\r\n", "ETag: W/\"2\"\r\n",
				     "ETag: W/\"1\"\r\n" };
	const char *const *all[] = { etags, times, weak };
	struct both *both;
	unsigned int i;

	(void)state;
	for (i = 0; i < 3; i++) {
		both = both_new(answer_versions, (const char *)all[i]);
		assert_int_equal(get(both, 100, 50, 0), 50);
		assert_int_equal(get(both, 200, 50, 0), 50);
		expect_error(both, get(both, 100, 50, 0), -ESTALE, "was replaced");
		assert_int_equal(get(both, 200, 50, 0), 50);
		both_free(both);
	}
}

/*
 * What is read whole is nobody's other half: it may be of any version, and is
 * the one from then on.
 */
static void an_object_read_whole_may_be_another(void **state)
{
	const char *const etags[] = { "ETag: \"v1\"\r\n", "ETag: \"v2\"\r\n", "ETag: \"v2\"\r\n" };
	struct both *both = both_new(answer_versions, (const char *)etags);
	struct web_server *server;

	(void)state;
	server = both->server;
	assert_int_equal(get(both, 100, 50, 0), 50);
	assert_int_equal(get(both, 0, OBJECT_BYTES + 1, STORE_UP_TO), OBJECT_BYTES);
	assert_int_equal(web_server_requests(server), 2);
	both_free(both);
}

/* ---- writing ---- */

/* A server with one object, that knows conditions or does not. */
struct shelf {
	pthread_mutex_t lock;
	bool there, knows, says_so;
	uint8_t *data;
	size_t len;
	unsigned int puts, heads;
};

static void shelf_put(struct web_client *client, struct shelf *shelf)
{
	char text[16];
	bool condition = web_client_field(client, "If-None-Match", text, sizeof(text));

	shelf->puts++;
	if (condition && shelf->says_so) {
		web_client_say(client, "HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\n\r\n");
		return;
	}
	if (condition && shelf->knows && shelf->there) {
		web_client_say(client, "HTTP/1.1 412 x\r\nContent-Length: 0\r\n\r\n");
		return;
	}
	free(shelf->data);
	shelf->data = malloc(client->body_len + 1);
	memcpy(shelf->data, client->body, client->body_len);
	shelf->len = client->body_len;
	shelf->there = true;
	web_client_say(client, "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
}

static void answer_shelf(struct web_client *client, void *arg)
{
	struct shelf *shelf = arg;
	bool was;

	pthread_mutex_lock(&shelf->lock);
	if (!strncmp(client->head, "PUT ", 4)) {
		shelf_put(client, shelf);
	} else if (!strncmp(client->head, "DELETE ", 7)) {
		was = shelf->there;
		/* Before it is said: the test looks as soon as it hears. */
		shelf->there = false;
		web_client_say(client, "HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n",
			       was ? "204 x" : "404 x");
	} else {
		shelf->heads += !strncmp(client->head, "HEAD ", 5);
		web_client_say(client, "HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n",
			       shelf->there ? "200 x" : "404 x");
	}
	pthread_mutex_unlock(&shelf->lock);
}

/* The server's thread has done all that goes with its last answer. */
static void shelf_settle(struct shelf *shelf)
{
	pthread_mutex_lock(&shelf->lock);
	pthread_mutex_unlock(&shelf->lock);
}

static struct both *shelf_both(struct shelf *shelf, bool knows)
{
	memset(shelf, 0, sizeof(*shelf));
	pthread_mutex_init(&shelf->lock, NULL);
	shelf->knows = knows;
	return both_new(answer_shelf, (const char *)shelf);
}

static void shelf_free(struct both *both, struct shelf *shelf)
{
	both_free(both);
	free(shelf->data);
	pthread_mutex_destroy(&shelf->lock);
}

static void an_object_is_written_and_removed(void **state)
{
	struct shelf shelf;
	struct both *both = shelf_both(&shelf, true);
	size_t len = 3 << 20;
	uint8_t *data = malloc(len);

	(void)state;
	object_part(data, 0, len);
	assert_int_equal(store_put(both->store, NULL, "a", data, len, 0, &both->err), (int64_t)len);
	shelf_settle(&shelf);
	assert_int_equal(shelf.len, len);
	assert_memory_equal(shelf.data, data, len);
	assert_int_equal(store_put(both->store, NULL, "a", data, 0, 0, &both->err), 0);
	shelf_settle(&shelf);
	assert_int_equal(shelf.len, 0);
	assert_int_equal(shelf.heads, 0);
	assert_int_equal(store_delete(both->store, NULL, "a", &both->err), 0);
	shelf_settle(&shelf);
	assert_false(shelf.there);
	assert_int_equal(store_delete(both->store, NULL, "a", &both->err), 0);
	free(data);
	shelf_free(both, &shelf);
}

static void a_new_object_is_not_written_over_another(void **state)
{
	struct shelf shelf;
	struct both *both = shelf_both(&shelf, true);

	(void)state;
	assert_int_equal(store_put(both->store, NULL, "a", "one", 3, STORE_NEW, &both->err), 3);
	shelf_settle(&shelf);
	assert_memory_equal(shelf.data, "one", 3);
	/* Once more, to learn whether the server knows the condition. */
	assert_int_equal(shelf.puts, 2);
	assert_int_equal(store_put(both->store, NULL, "a", "two", 3, STORE_NEW, &both->err),
			 -EEXIST);
	shelf_settle(&shelf);
	assert_int_equal(shelf.puts, 2);
	assert_int_equal(store_delete(both->store, NULL, "a", &both->err), 0);
	assert_int_equal(store_put(both->store, NULL, "a", "two", 3, STORE_NEW, &both->err), 3);
	shelf_settle(&shelf);
	assert_int_equal(shelf.puts, 3);
	shelf_free(both, &shelf);
}

static char warned[512];

static void keep_warning(enum log_level level, const char *message)
{
	if (level == LOG_WARN)
		snprintf(warned, sizeof(warned), "%s", message);
}

static void a_server_that_writes_over_all_the_same_is_told_of(void **state)
{
	bool says_so[] = { false, true };
	struct shelf shelf;
	struct both *both;
	unsigned int i;

	(void)state;
	log_set_handler(keep_warning);
	for (i = 0; i < 2; i++) {
		warned[0] = 0;
		both = shelf_both(&shelf, false);
		shelf.says_so = says_so[i];
		assert_int_equal(store_put(both->store, NULL, "a", "one", 3, STORE_NEW, &both->err),
				 3);
		shelf_settle(&shelf);
		assert_memory_equal(shelf.data, "one", 3);
		assert_non_null(strstr(warned, "although it is told not to"));
		warned[0] = 0;
		/* It still asks first. */
		assert_int_equal(store_put(both->store, NULL, "a", "two", 3, STORE_NEW, &both->err),
				 -EEXIST);
		assert_int_equal(warned[0], 0);
		shelf_free(both, &shelf);
	}
	log_set_handler(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_range_is_read),
		cmocka_unit_test(an_objects_end_is_told),
		cmocka_unit_test(connections_are_kept),
		cmocka_unit_test(what_is_not_there_is_told),
		cmocka_unit_test(there_is_no_list),
		cmocka_unit_test(a_part_is_taken_out_of_everything),
		cmocka_unit_test(other_bytes_are_refused),
		cmocka_unit_test(more_than_asked_for_is_refused),
		cmocka_unit_test(endless_headers_are_refused),
		cmocka_unit_test(a_body_that_is_cut_may_be_asked_for_again),
		cmocka_unit_test(a_server_that_never_answers_is_given_up),
		cmocka_unit_test(a_server_that_trickles_is_given_up),
		cmocka_unit_test(a_server_may_die_and_come_back),
		cmocka_unit_test(statuses_have_their_meaning),
		cmocka_unit_test(a_busy_server_is_asked_again_when_it_says),
		cmocka_unit_test(a_redirect_is_followed),
		cmocka_unit_test(redirects_are_bounded),
		cmocka_unit_test(no_login_leaves_its_host),
		cmocka_unit_test(a_password_is_not_sent_in_clear_text),
		cmocka_unit_test(an_object_that_changes_is_told),
		cmocka_unit_test(an_object_read_whole_may_be_another),
		cmocka_unit_test(an_object_is_written_and_removed),
		cmocka_unit_test(a_new_object_is_not_written_over_another),
		cmocka_unit_test(a_server_that_writes_over_all_the_same_is_told_of),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
