// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// The QMP client against servers of every kind, each a script on a thread: what
// it sends is fixed, and it hears but does not judge what the client says. The
// resolver is this file's own: "slow" is a host whose name server is silent
// until the test lets go.
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/lookup.h"
#include "control/qmp_remote.h"

#define HELLO "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n"
#define TAKEN "{\"return\": {}, \"id\": 1}\r\n"
#define SHORT_MS 100

static int resolver_gate = -1;	/* a look-up of "slow" waits until it counts */
static _Atomic int resolver_asked;

int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
		struct addrinfo **found)
{
	struct pollfd gate = { .fd = resolver_gate, .events = POLLIN };

	(void)port;
	(void)found;
	if (hints->ai_flags & AI_NUMERICHOST || !strcmp(host, "nobody"))
		return EAI_NONAME;
	resolver_asked++;
	poll(&gate, 1, -1);
	return EAI_AGAIN;
}

void freeaddrinfo(struct addrinfo *found)
{
	(void)found;
}

struct setup {
	char dir[32], address[64];
	int listener;
	pthread_mutex_t lock;	/* of the next two */
	char *script;		/* what each client is sent */
	bool stays;		/* does not close after the script */
	pthread_t thread;
	bool joined;
	char heard[4096];	/* of the last client */
	size_t heard_bytes;
};

static void script_send(struct setup *s, int fd)
{
	char *script;
	bool stays;

	pthread_mutex_lock(&s->lock);
	script = strdup(s->script);
	stays = s->stays;
	pthread_mutex_unlock(&s->lock);
	/* A client may have gone already. */
	if (!script || send(fd, script, strlen(script), MSG_NOSIGNAL) < 0 || !stays)
		shutdown(fd, SHUT_WR);
	free(script);
}

static void *serve(void *arg)
{
	struct setup *s = arg;
	ssize_t n;
	int fd;

	while ((fd = accept(s->listener, NULL, NULL)) >= 0) {
		s->heard_bytes = 0;
		script_send(s, fd);
		/* Until the client has gone. */
		do {
			n = recv(fd, s->heard + s->heard_bytes,
				 sizeof(s->heard) - s->heard_bytes - 1, 0);
			s->heard_bytes += n > 0 ? (size_t)n : 0;
		} while (n > 0 && s->heard_bytes < sizeof(s->heard) - 1);
		close(fd);
	}
	return NULL;
}

static int set_up(void **state)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct setup *s = calloc(1, sizeof(*s));

	if (!s)
		return -1;
	strcpy(s->dir, "/tmp/test-remote.XXXXXX");
	if (!mkdtemp(s->dir))
		return -1;
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/qmp", s->dir);
	snprintf(s->address, sizeof(s->address), "unix:%s/qmp", s->dir);
	s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(s->listener, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
	    listen(s->listener, 4) < 0)
		return -1;
	pthread_mutex_init(&s->lock, NULL);
	s->script = strdup("");
	*state = s;
	return s->script ? pthread_create(&s->thread, NULL, serve, s) : -1;
}

/* The server has ended: what it heard can be looked at. */
static void join(struct setup *s)
{
	if (s->joined)
		return;
	s->joined = true;
	shutdown(s->listener, SHUT_RDWR);
	pthread_join(s->thread, NULL);
}

static int tear_down(void **state)
{
	struct setup *s = *state;

	join(s);
	close(s->listener);
	unlink(s->address + strlen("unix:"));
	rmdir(s->dir);
	pthread_mutex_destroy(&s->lock);
	free(s->script);
	free(s);
	return 0;
}

/* What the next client is sent. */
static void play(struct setup *s, const char *script, bool stays)
{
	char *copy = strdup(script);

	assert_non_null(copy);
	pthread_mutex_lock(&s->lock);
	free(s->script);
	s->script = copy;
	s->stays = stays;
	pthread_mutex_unlock(&s->lock);
}

static struct qmp_remote *open_fine(struct setup *s, const char *more, bool stays)
{
	char script[8192];
	struct qmp_remote *remote = NULL;
	struct err err = { 0 };

	snprintf(script, sizeof(script), "%s%s%s", HELLO, TAKEN, more);
	play(s, script, stays);
	if (qmp_remote_open(&remote, s->address, 5000, &err) < 0)
		fail_msg("%s", err.text);
	return remote;
}

/* The error of opening against this script. */
static void open_fails(struct setup *s, const char *script, bool stays, int code, const char *says)
{
	struct qmp_remote *remote = NULL;
	struct err err = { 0 };

	play(s, script, stays);
	assert_int_equal(
		qmp_remote_open(&remote, s->address, code == -ETIMEDOUT ? SHORT_MS : 5000, &err),
		code);
	assert_null(remote);
	if (!strstr(err.text, says) || !strstr(err.text, s->dir))
		fail_msg("\"%s\" says nothing of \"%s\", or where", err.text, says);
}

static void test_greetings_that_are_none(void **state)
{
	struct setup *s = *state;

	open_fails(s, "", false, -ECONNRESET, "closed");
	open_fails(s, "", true, -ETIMEDOUT, "in time");
	open_fails(s, "   \r\n\t ", true, -ETIMEDOUT, "in time");
	open_fails(s, "{\"QMP\": {}", true, -ETIMEDOUT, "in time");
	open_fails(s, "{\"QMP\": 5}\n", true, -EPROTO, "greeting");
	open_fails(s, "{\"event\": \"STOP\"}\n", true, -EPROTO, "greeting");
	open_fails(s, "[]\n", true, -EPROTO, "no object");
	open_fails(s, "HTTP/1.1 200 OK\r\n", true, -EPROTO, "no QMP");
	open_fails(s, "{\"a\": 1, \"a\": 2}\n", true, -EPROTO, "duplicate");
	open_fails(s, "{\"QMP\": {\"\xff\": 1}}\n", true, -EPROTO, "no QMP");
}

static void test_negotiations_that_fail(void **state)
{
	struct setup *s = *state;

	open_fails(s, HELLO, false, -ECONNRESET, "closed");
	open_fails(s, HELLO "{\"return\": {}, \"id\": 2}\r\n", true, -EPROTO,
		   "neither an event nor the answer");
	open_fails(s, HELLO "{\"return\": {}}\r\n", true, -EPROTO,
		   "neither an event nor the answer");
	open_fails(s, HELLO "{\"return\": {}, \"id\": \"1\"}\r\n", true, -EPROTO, "neither");
	open_fails(s, HELLO "{\"error\": 5, \"id\": 1}\r\n", true, -EPROTO, "neither");
}

static void test_a_refusal_is_the_servers_words(void **state)
{
	struct setup *s = *state;
	struct qmp_remote *remote;
	struct err err;

	/* An error that comes before the server has seen an id has none. */
	play(s, HELLO "{\"error\": {\"class\": \"GenericError\", \"desc\": \"go away\"}}\r\n",
	     true);
	assert_int_equal(qmp_remote_open(&remote, s->address, 5000, &err), -EREMOTEIO);
	assert_string_equal(err.text, "go away");
	play(s, HELLO "{\"error\": {\"desc\": {}}, \"id\": 1}\r\n", true);
	assert_int_equal(qmp_remote_open(&remote, s->address, 5000, &err), -EREMOTEIO);
	assert_string_equal(err.text, "an error without a text");
}

static void test_calls_and_events_in_their_order(void **state)
{
	struct setup *s = *state;
	struct qmp_remote *remote =
		open_fine(s,
			  "{\"event\": \"A\"}{\"event\": \"B\"}\r\n{\"return\": [7], \"id\": 2}"
			  "{\"event\": \"C\"}\r\n{\"error\": {\"desc\": \"no\"}, \"id\": 3}\r\n",
			  true);
	static const char *const names[] = { "A", "B", "C" };
	json_t *result = NULL, *event;
	struct err err;
	int i;

	assert_int_equal(qmp_remote_call(remote, "one", json_pack("{s:i}", "x", 1), &result, &err),
			 0);
	assert_int_equal(json_integer_value(json_array_get(result, 0)), 7);
	json_decref(result);
	assert_int_equal(qmp_remote_call(remote, "two", NULL, NULL, &err), -EREMOTEIO);
	for (i = 0; i < 3; i++) {
		assert_int_equal(qmp_remote_event(remote, 0, &event, &err), 1);
		assert_string_equal(json_string_value(json_object_get(event, "event")), names[i]);
		json_decref(event);
	}
	assert_int_equal(qmp_remote_event(remote, 1, &event, &err), 0);
	qmp_remote_free(remote);
	join(s);
	s->heard[s->heard_bytes] = '\0';
	assert_string_equal(s->heard, "{\"execute\":\"qmp_capabilities\",\"id\":1}\n"
				      "{\"execute\":\"one\",\"arguments\":{\"x\":1},\"id\":2}\n"
				      "{\"execute\":\"two\",\"id\":3}\n");
}

static void test_an_id_of_the_callers_is_kept(void **state)
{
	struct setup *s = *state;
	struct qmp_remote *remote =
		open_fine(s, "{\"return\": {}, \"id\": {\"a\": [null]}}\n", true);
	json_t *reply = NULL;
	struct err err;

	assert_int_equal(qmp_remote_ask(remote,
					json_pack("{s:s,s:{s:[n]}}", "execute", "x", "id", "a"),
					&reply, &err),
			 0);
	assert_non_null(json_object_get(reply, "return"));
	json_decref(reply);
	qmp_remote_free(remote);
}

static void test_a_server_that_goes_away_or_falls_silent(void **state)
{
	struct setup *s = *state;
	struct qmp_remote *remote = open_fine(s, "{\"return\": {}, \"id", false);
	int64_t began;
	struct err err;
	json_t *event;

	assert_int_equal(qmp_remote_call(remote, "x", NULL, NULL, &err), -ECONNRESET);
	qmp_remote_free(remote);
	remote = open_fine(s, "", false);
	assert_int_equal(qmp_remote_event(remote, -1, &event, &err), -ECONNRESET);
	qmp_remote_free(remote);
	remote = open_fine(s, "{\"event\": \"half", true);
	began = clock_now_ns();
	assert_int_equal(qmp_remote_event(remote, SHORT_MS, &event, &err), 0);
	assert_true(clock_now_ns() - began >= SHORT_MS * NS_PER_MS);
	qmp_remote_free(remote);
}

static void test_events_without_end_are_given_up(void **state)
{
	struct setup *s = *state;
	static char flood[8192];
	struct qmp_remote *remote;
	struct err err;
	int i;

	flood[0] = '\0';
	for (i = 0; i < 300; i++)
		strcat(flood, "{\"event\": \"STOP\"}\r\n");
	remote = open_fine(s, flood, true);
	assert_int_equal(qmp_remote_call(remote, "x", NULL, NULL, &err), -EPROTO);
	assert_non_null(strstr(err.text, "without end"));
	qmp_remote_free(remote);
}

static void test_what_is_no_event_where_one_is_due(void **state)
{
	struct setup *s = *state;
	struct qmp_remote *remote = open_fine(s, "{\"event\": 5}\r\n", true);
	struct err err;
	json_t *event;

	assert_int_equal(qmp_remote_event(remote, -1, &event, &err), -EPROTO);
	qmp_remote_free(remote);
}

static void test_an_interruption_ends_every_wait(void **state)
{
	struct setup *s = *state;
	struct qmp_remote *remote = open_fine(s, "", true);
	int fd = eventfd(1, EFD_CLOEXEC);
	struct err err;
	json_t *event;

	qmp_remote_interrupt_by(remote, fd);
	assert_int_equal(qmp_remote_event(remote, -1, &event, &err), -EINTR);
	assert_int_equal(qmp_remote_call(remote, "x", NULL, NULL, &err), -EINTR);
	qmp_remote_free(remote);
	close(fd);
}

static void test_addresses_that_are_none(void **state)
{
	static const struct {
		const char *address;
		int code;
	} bad[] = {
		{ "", -EINVAL }, { "unix:", -EINVAL }, { "unix:/nowhere/at/all", -ENOENT }, { "tcp:", -EINVAL }, { "tcp:host", -EINVAL },
		{ "tcp:host:", -EINVAL }, { "tcp:nobody:1", -EHOSTUNREACH },
		{ "/far/too/long/0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
		  -EINVAL },
	};
	struct qmp_remote *remote;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		err = (struct err){ 0 };
		assert_int_equal(qmp_remote_open(&remote, bad[i].address, 1000, &err), bad[i].code);
		assert_true(err.text[0]);
	}
}

/* Until every look-up of "slow" has ended: the resolver is this test's, and so is its gate. */
static void let_go(void)
{
	eventfd_write(resolver_gate, 1);
}

static void test_a_name_server_that_is_silent_costs_the_timeout(void **state)
{
	const struct address slow = { .host = "slow", .port = "1" };
	struct addresses found;
	struct qmp_remote *remote;
	int fd = eventfd(1, EFD_CLOEXEC), before = resolver_asked;
	int64_t began = clock_now_ns();
	struct err err;

	(void)state;
	assert_int_equal(qmp_remote_open(&remote, "tcp:slow:4444", SHORT_MS, &err), -ETIMEDOUT);
	assert_non_null(strstr(err.text, "slow"));
	assert_true(clock_now_ns() - began >= SHORT_MS * NS_PER_MS);
	assert_true(clock_now_ns() - began < 20 * NS_PER_SEC);
	assert_int_equal(lookup_wait(&found, &slow, INT64_MAX, fd, &err), -EINTR);
	let_go();
	/* Now it has an answer, an error of its own. */
	assert_int_equal(lookup_wait(&found, &slow, INT64_MAX, -1, &err), -EHOSTUNREACH);
	/* One that was given up may not have begun before; it begins, and ends, all the same. */
	while (resolver_asked < before + 3 && clock_now_ns() - began < 20 * NS_PER_SEC)
		poll(NULL, 0, 1);
	assert_int_equal(resolver_asked, before + 3);
	close(fd);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	static const struct CMUnitTest tests[] = {
		TEST(test_greetings_that_are_none), TEST(test_negotiations_that_fail), TEST(test_a_refusal_is_the_servers_words),
		TEST(test_calls_and_events_in_their_order), TEST(test_an_id_of_the_callers_is_kept),
		TEST(test_a_server_that_goes_away_or_falls_silent), TEST(test_events_without_end_are_given_up),
		TEST(test_what_is_no_event_where_one_is_due), TEST(test_an_interruption_ends_every_wait),
		cmocka_unit_test(test_addresses_that_are_none),
		cmocka_unit_test(test_a_name_server_that_is_silent_costs_the_timeout),
	};

	resolver_gate = eventfd(0, EFD_CLOEXEC);
	return cmocka_run_group_tests_name("qmp_remote", tests, NULL, NULL);
}
