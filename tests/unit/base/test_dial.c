// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Connecting by name, on the loopback. The resolver is this file's own; a black
// hole is a listener whose queue is full: Linux then drops who connects.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/dial.h"
#include "base/lookup.h"

#define LONG_MS 30000
#define HOSTS_MAX 18

/* Of "name"; "nobody" has none, and "slow" waits for the gate first. */
static struct sockaddr_in hosts[HOSTS_MAX];
/* A lookup that was given up goes on while the next test begins. */
static _Atomic unsigned int nhosts;
static int gate;
static _Atomic int asked;

int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
		struct addrinfo **found)
{
	int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
		(int (*)(const char *, const char *, const struct addrinfo *,
			 struct addrinfo **))dlsym(RTLD_NEXT, "getaddrinfo");
	struct pollfd open = { .fd = gate, .events = POLLIN };
	unsigned int i;

	if (hints->ai_flags & AI_NUMERICHOST)
		return real(host, port, hints, found);
	asked++;
	if (!strcmp(host, "nobody"))
		return EAI_NONAME;
	if (!strcmp(host, "slow"))
		poll(&open, 1, -1);
	*found = calloc(nhosts, sizeof(**found));
	for (i = 0; i < nhosts; i++)
		(*found)[i] =
			(struct addrinfo){ .ai_family = AF_INET,
					   .ai_addr = (struct sockaddr *)&hosts[i],
					   .ai_addrlen = sizeof(hosts[i]),
					   .ai_next = i + 1 < nhosts ? &(*found)[i + 1] : NULL };
	return 0;
}

void freeaddrinfo(struct addrinfo *found)
{
	void (*real)(struct addrinfo *) =
		(void (*)(struct addrinfo *))dlsym(RTLD_NEXT, "freeaddrinfo");

	if (found && found->ai_addr == (struct sockaddr *)&hosts[0])
		free(found);
	else
		real(found);
}

/* ---- servers: 127.0.0.N, all at one port ---- */

static in_port_t port;

static struct sockaddr_in host_at(unsigned int n)
{
	return (struct sockaddr_in){ .sin_family = AF_INET,
				     .sin_port = port,
				     .sin_addr.s_addr = htonl(0x7f000000u + n) };
}

static int server(unsigned int n, int backlog)
{
	struct sockaddr_in at = host_at(n);
	socklen_t len = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(fd, backlog) < 0)
		fail_msg("127.0.0.%u: %s", n, strerror(errno));
	getsockname(fd, (struct sockaddr *)&at, &len);
	port = at.sin_port;
	return fd;
}

struct hole {
	int fd[4];
};

static void hole_open(struct hole *hole, unsigned int n)
{
	struct sockaddr_in at;
	size_t i;

	hole->fd[0] = server(n, 0);
	at = host_at(n);
	for (i = 1; i < 4; i++) {
		hole->fd[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		connect(hole->fd[i], (struct sockaddr *)&at, sizeof(at));
	}
}

static void hole_close(struct hole *hole)
{
	size_t i;

	for (i = 0; i < 4; i++)
		close(hole->fd[i]);
}

static struct address named(const char *host)
{
	struct address address = { .type = ADDRESS_TCP };

	snprintf(address.host, sizeof(address.host), "%s", host);
	snprintf(address.port, sizeof(address.port), "%hu", ntohs(port));
	return address;
}

static int dial(const char *host, const struct addresses *known, int timeout_ms, int interrupt_fd,
		struct err *err)
{
	struct address address = named(host);
	struct dial *d;
	int r;

	*err = (struct err){ 0 };
	assert_int_equal(dial_new(&d, &address, known, timeout_ms, err), 0);
	r = dial_wait(d, interrupt_fd, err);
	dial_free(d);
	return r;
}

static void says(const struct err *err, const char *what)
{
	if (!strstr(err->text, what))
		fail_msg("\"%s\" does not say \"%s\"", err->text, what);
}

/* The only host of `n` that answers is the last. */
static void hosts_are(unsigned int n)
{
	for (nhosts = 0; nhosts < n; nhosts++)
		hosts[nhosts] = host_at(nhosts + 1);
}

/* Who has been reached. */
static unsigned int reached(int fd)
{
	struct sockaddr_in at = { 0 };
	socklen_t len = sizeof(at);

	assert_true(fd >= 0);
	assert_int_equal(getpeername(fd, (struct sockaddr *)&at, &len), 0);
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	close(fd);
	return ntohl(at.sin_addr.s_addr) & 0xff;
}

/* ---- tests ---- */

static void the_first_address_is_a_black_hole(void **state)
{
	struct hole hole;
	struct err err;
	int fd;

	(void)state;
	port = 0;
	fd = server(2, 4);
	hole_open(&hole, 1);
	hosts_are(2);
	assert_int_equal(reached(dial("name", NULL, LONG_MS, -1, &err)), 2);
	/*
	 * Each address gets a share of the time, also where that is less than
	 * is usual between two attempts.
	 */
	assert_int_equal(reached(dial("name", NULL, 240, -1, &err)), 2);
	close(fd);
	hole_close(&hole);
}

/* dial(), of an address that was of no use. */
static unsigned int reached_after(unsigned int n)
{
	struct address address = named("name");
	struct sockaddr_storage at = { 0 };
	struct sockaddr_in host = host_at(n);
	struct dial *d;
	struct err err;
	int fd;

	memcpy(&at, &host, sizeof(host));
	assert_int_equal(dial_new(&d, &address, NULL, LONG_MS, &err), 0);
	dial_put_last(d, &at, sizeof(host));
	fd = dial_wait(d, -1, &err);
	dial_free(d);
	return reached(fd);
}

static void one_that_was_of_no_use_is_tried_last(void **state)
{
	int fd[3];
	unsigned int i;

	(void)state;
	port = 0;
	for (i = 0; i < 3; i++)
		fd[i] = server(i + 1, 4);
	hosts_are(3);
	assert_int_equal(reached_after(1), 2);
	assert_int_equal(reached_after(2), 1);
	assert_int_equal(reached_after(7), 1);
	/* Nothing else is left. */
	close(fd[1]);
	close(fd[2]);
	assert_int_equal(reached_after(1), 1);
	close(fd[0]);
}

static void those_that_refuse_are_passed_over(void **state)
{
	struct err err;
	int fd;

	(void)state;
	port = 0;
	fd = server(9, 4);
	hosts_are(9);
	assert_int_equal(reached(dial("name", NULL, LONG_MS, -1, &err)), 9);
	close(fd);
}

static void the_error_has_every_address_and_what_became_of_it(void **state)
{
	struct hole hole, other;
	struct err err;

	(void)state;
	port = 0;
	hole_open(&hole, 1);
	hole_open(&other, 3);
	hosts_are(4);
	assert_int_equal(dial("name", NULL, 300, -1, &err), -ETIMEDOUT);
	says(&err, "name port ");
	says(&err, "127.0.0.1, 127.0.0.3: no answer within 300 ms");
	says(&err, "127.0.0.2, 127.0.0.4: Connection refused");
	hosts[0] = hosts[1];
	nhosts = 1;
	assert_int_equal(dial("name", NULL, LONG_MS, -1, &err), -ECONNREFUSED);
	says(&err, ": 127.0.0.2: Connection refused");
	assert_int_equal(dial("127.0.0.2", NULL, LONG_MS, -1, &err), -ECONNREFUSED);
	assert_null(strstr(err.text, "127.0.0.2 port 1: 127.0.0.2"));
	says(&err, "127.0.0.2 port ");
	hole_close(&hole);
	hole_close(&other);
}

static void more_addresses_than_an_error_has_room_for_are_counted(void **state)
{
	struct addresses known = { 0 };
	struct sockaddr_in6 *at;
	struct err err;
	unsigned int i;

	(void)state;
	port = htons(1);
	/* Addresses of a local network that there is no way to, each as long as can be. */
	for (; known.n < ADDRESSES_MAX; known.n++) {
		at = (struct sockaddr_in6 *)&known.at[known.n];
		*at = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_port = port };
		for (i = 0; i < 16; i++)
			at->sin6_addr.s6_addr[i] = (uint8_t)(0xfe - i);
		at->sin6_addr.s6_addr[15] = (uint8_t)(known.n + 0x11);
		known.len[known.n] = sizeof(*at);
	}
	/* Whatever they end with, it is every one or a count. */
	assert_true(dial("nobody", &known, 200, -1, &err) < 0);
	assert_true(strlen(err.text) < sizeof(err.text) - 1);
	says(&err, " more");
}

static void a_name_that_is_none(void **state)
{
	struct addresses known = { .n = 1 };
	struct sockaddr_in at;
	struct err err;
	int fd;

	(void)state;
	port = 0;
	fd = server(1, 4);
	hosts_are(0);
	assert_int_equal(dial("nobody", NULL, LONG_MS, -1, &err), -EHOSTUNREACH);
	says(&err, "nobody: ");
	/* Where it was before it may still be. */
	at = host_at(1);
	memcpy(&known.at[0], &at, sizeof(at));
	known.len[0] = sizeof(at);
	assert_int_equal(reached(dial("nobody", &known, LONG_MS, -1, &err)), 1);
	close(fd);
}

/* Every look-up that was begun ends when the gate opens. */
static void gate_open_until(int n)
{
	eventfd_write(gate, 1);
	while (asked < n)
		poll(NULL, 0, 1);
}

static void a_resolver_that_is_silent(void **state)
{
	struct addresses known = { .n = 1 }, found;
	struct address slow;
	struct sockaddr_in at;
	struct err err;
	int fd, now = eventfd(1, EFD_CLOEXEC), before = asked;

	(void)state;
	port = 0;
	fd = server(1, 4);
	hosts_are(1);
	slow = named("slow");
	assert_int_equal(dial("slow", NULL, 50, -1, &err), -ETIMEDOUT);
	says(&err, "slow: its address was not found within 50 ms");
	assert_int_equal(dial("slow", NULL, -1, now, &err), -EINTR);
	assert_int_equal(lookup_wait(&found, &slow, clock_now_ns() + 50 * NS_PER_MS, -1, &err),
			 -ETIMEDOUT);
	assert_int_equal(lookup_wait(&found, &slow, INT64_MAX, now, &err), -EINTR);
	at = host_at(1);
	memcpy(&known.at[0], &at, sizeof(at));
	known.len[0] = sizeof(at);
	assert_int_equal(reached(dial("slow", &known, 400, -1, &err)), 1);
	gate_open_until(before + 5);
	assert_int_equal(reached(dial("slow", NULL, LONG_MS, -1, &err)), 1);
	close(now);
	close(fd);
}

static void a_dial_is_interrupted_and_taken_back(void **state)
{
	struct address address;
	int now = eventfd(1, EFD_CLOEXEC);
	struct pollfd ready;
	struct hole hole;
	struct dial *d;
	struct err err;

	(void)state;
	port = 0;
	hole_open(&hole, 1);
	hosts_are(1);
	assert_int_equal(dial("127.0.0.1", NULL, -1, now, &err), -EINTR);
	assert_int_equal(dial("name", NULL, -1, now, &err), -EINTR);
	address = named("127.0.0.1");
	assert_int_equal(dial_new(&d, &address, NULL, LONG_MS, &err), 0);
	ready = (struct pollfd){ .fd = dial_fd(d), .events = POLLIN };
	assert_int_equal(poll(&ready, 1, LONG_MS), 1);
	assert_int_equal(dial_step(d, &err), -EINPROGRESS);
	/* Nothing is to be done until somebody answers, or the time is over. */
	assert_int_equal(poll(&ready, 1, 0), 0);
	assert_int_equal(dial_time_out(d, &err), -ETIMEDOUT);
	says(&err, "127.0.0.1 port ");
	says(&err, "no answer within 30000 ms");
	dial_free(d);
	close(now);
	hole_close(&hole);
}

static void what_cannot_be_connected_to_is_refused(void **state)
{
	static const char *const bad[] = { "tcp:*:80", "tcp:localhost:0" };
	struct address address;
	struct dial *d = NULL;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		assert_int_equal(address_parse(&address, bad[i], &err), 0);
		assert_int_equal(dial_new(&d, &address, NULL, LONG_MS, &err), -EINVAL);
		assert_null(d);
	}
}

static void a_unix_socket_whose_queue_is_full_is_waited_for(void **state)
{
	struct address address = { .type = ADDRESS_UNIX };
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	char dir[] = "/tmp/test-dial.XXXXXX";
	int fd, crowd[2], r;
	struct dial *d;
	struct err err;
	size_t i;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(address.path, sizeof(address.path), "%s/s", dir);
	strcpy(at.sun_path, address.path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(listen(fd, 0), 0);
	for (i = 0; i < 2; i++) {
		crowd[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		connect(crowd[i], (struct sockaddr *)&at, sizeof(at));
	}
	assert_int_equal(dial_new(&d, &address, NULL, 50, &err), 0);
	assert_int_equal(dial_wait(d, -1, &err), -ETIMEDOUT);
	says(&err, address.path);
	dial_free(d);
	assert_int_equal(dial_new(&d, &address, NULL, LONG_MS, &err), 0);
	assert_int_equal(dial_step(d, &err), -EINPROGRESS);
	for (i = 0; i < 2; i++)
		close(crowd[i]);
	close(accept(fd, NULL, NULL));
	r = dial_wait(d, -1, &err);
	assert_true(r >= 0);
	close(r);
	dial_free(d);
	close(fd);
	unlink(at.sun_path);
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_first_address_is_a_black_hole),
		cmocka_unit_test(those_that_refuse_are_passed_over),
		cmocka_unit_test(one_that_was_of_no_use_is_tried_last),
		cmocka_unit_test(the_error_has_every_address_and_what_became_of_it),
		cmocka_unit_test(more_addresses_than_an_error_has_room_for_are_counted),
		cmocka_unit_test(a_name_that_is_none),
		cmocka_unit_test(a_resolver_that_is_silent),
		cmocka_unit_test(a_dial_is_interrupted_and_taken_back),
		cmocka_unit_test(what_cannot_be_connected_to_is_refused),
		cmocka_unit_test(a_unix_socket_whose_queue_is_full_is_waited_for),
	};

	gate = eventfd(0, EFD_CLOEXEC);
	return cmocka_run_group_tests_name("dial", tests, NULL, NULL);
}
