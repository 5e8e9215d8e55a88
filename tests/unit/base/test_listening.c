// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/dial.h"
#include "base/listening.h"
#include "base/path.h"

#define LONG_MS 30000

static bool has_ipv6(void)
{
	struct sockaddr_in6 at = { .sin6_family = AF_INET6, .sin6_addr = in6addr_loopback };
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool has = fd >= 0 && !bind(fd, (struct sockaddr *)&at, sizeof(at));

	if (fd >= 0)
		close(fd);
	return has;
}

static int try_open(struct listening *l, const char *text, struct err *err)
{
	struct address address;

	*err = (struct err){ 0 };
	assert_int_equal(address_parse(&address, text, err), 0);
	return listening_open(l, &address, 0, 4, err);
}

static void open_fine(struct listening *l, const char *text)
{
	struct err err;

	if (try_open(l, text, &err) < 0)
		fail_msg("%s", err.text);
}

/* The port of door i. */
static unsigned int port_of(const struct listening *l, unsigned int i)
{
	char text[SOCKADDR_TEXT_BYTES];

	listening_print(l, i, text);
	return (unsigned int)atoi(strstr(text, " port ") + strlen(" port "));
}

/* A client comes to this host, and in. */
static void visit(struct listening *l, const char *host)
{
	struct pollfd listening = { .fd = l->fd, .events = POLLIN };
	struct address address = { .type = ADDRESS_TCP };
	struct dial *d;
	struct err err;
	int fd, client;

	snprintf(address.host, sizeof(address.host), "%s", host);
	snprintf(address.port, sizeof(address.port), "%u", port_of(l, 0));
	assert_int_equal(dial_new(&d, &address, NULL, LONG_MS, &err), 0);
	fd = dial_wait(d, -1, &err);
	dial_free(d);
	if (fd < 0)
		fail_msg("%s", err.text);
	assert_int_equal(poll(&listening, 1, LONG_MS), 1);
	client = listening_accept(l);
	assert_true(client >= 0);
	assert_int_equal(listening_accept(l), -EAGAIN);
	close(client);
	close(fd);
}

static void loopbacks_and_any_are_of_both_families(void **state)
{
	static const char *const both[] = { "tcp::0", "tcp:localhost:0", "tcp:*:0" };
	struct listening l;
	size_t i;

	(void)state;
	if (!has_ipv6())
		skip();
	for (i = 0; i < sizeof(both) / sizeof(*both); i++) {
		open_fine(&l, both[i]);
		assert_int_equal(l.n, 2);
		assert_int_equal(port_of(&l, 0), port_of(&l, 1));
		visit(&l, "127.0.0.1");
		visit(&l, "::1");
		visit(&l, "127.0.0.1");
		listening_close(&l);
	}
	/* Alone it is what Linux makes of it. */
	open_fine(&l, "tcp:[::]:0");
	assert_int_equal(l.n, 1);
	visit(&l, "127.0.0.1");
	visit(&l, "::1");
	listening_close(&l);
}

static void the_loopback_is_no_other_address(void **state)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000002) };
	struct listening l;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)state;
	open_fine(&l, "tcp::0");
	at.sin_port = htons((in_port_t)port_of(&l, 0));
	assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof(at)), -1);
	assert_int_equal(errno, ECONNREFUSED);
	close(fd);
	listening_close(&l);
}

static void an_address_in_use_fails_all_of_them(void **state)
{
	struct listening mine, theirs;
	char text[64];
	struct err err;

	(void)state;
	open_fine(&theirs, "tcp:127.0.0.1:0");
	snprintf(text, sizeof(text), "tcp:localhost:%u", port_of(&theirs, 0));
	assert_int_equal(try_open(&mine, text, &err), -EADDRINUSE);
	assert_int_equal(mine.fd, -1);
	assert_non_null(strstr(err.text, text));
	assert_non_null(strstr(err.text, "127.0.0.1 port "));
	listening_close(&mine);
	listening_close(&theirs);
}

static void an_address_that_is_not_ours_is_an_error(void **state)
{
	struct listening l;
	struct err err;

	(void)state;
	assert_int_equal(try_open(&l, "tcp:192.0.2.1:0", &err), -EADDRNOTAVAIL);
	assert_non_null(strstr(err.text, "192.0.2.1"));
	assert_int_equal(try_open(&l, "tcp:a.name.example:0", &err), -EINVAL);
	assert_non_null(strstr(err.text, "a.name.example"));
}

/* A directory, and a socket's address in it. */
static void dir_make(char *dir, char *address, char *path)
{
	strcpy(dir, "/tmp/test-listening.XXXXXX");
	assert_non_null(mkdtemp(dir));
	sprintf(path, "%s/s", dir);
	sprintf(address, "unix:%s", path);
}

static void a_unix_socket_is_its_owners_alone(void **state)
{
	static const mode_t masks[] = { 0, 022, 0777 };
	char dir[32], address[64], path[48];
	struct listening l;
	struct stat st;
	size_t i;

	(void)state;
	dir_make(dir, address, path);
	for (i = 0; i < sizeof(masks) / sizeof(*masks); i++) {
		mode_t old = umask(masks[i]);

		open_fine(&l, address);
		umask(old);
		assert_int_equal(lstat(path, &st), 0);
		assert_int_equal(st.st_mode & 0777, 0600 & ~masks[i]);
		listening_close(&l);
		assert_int_equal(lstat(path, &st), -1);
	}
	rmdir(dir);
}

static void a_stale_socket_goes_and_others_stay(void **state)
{
	char dir[32], address[64], path[48], other[48];
	struct listening l, second;
	struct stat st;
	struct err err;
	FILE *file;

	(void)state;
	dir_make(dir, address, path);
	open_fine(&l, address);
	assert_int_equal(try_open(&second, address, &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, path));
	/*
	 * Somebody removes the file, and another takes the name: the first
	 * one's end does not take that along.
	 */
	assert_int_equal(unlink(path), 0);
	open_fine(&second, address);
	listening_close(&l);
	assert_int_equal(lstat(path, &st), 0);
	/* Its owner dies: the file stays. */
	close(second.fd);
	assert_int_equal(lstat(path, &st), 0);
	open_fine(&l, address);
	listening_close(&l);
	assert_int_equal(lstat(path, &st), -1);
	file = fopen(path, "w");
	assert_non_null(file);
	fclose(file);
	assert_int_equal(try_open(&l, address, &err), -EEXIST);
	/* A link is no socket either, wherever it leads. */
	sprintf(other, "%s/link", dir);
	assert_int_equal(symlink("s", other), 0);
	sprintf(address, "unix:%s", other);
	assert_int_equal(try_open(&l, address, &err), -EEXIST);
	unlink(other);
	unlink(path);
	rmdir(dir);
}

/*
 * listen(2), as the linker has it (--wrap): the first one waits, with its
 * socket bound, until a second has tried for a while.
 */
static struct race {
	const char *address;	/* NULL: nothing is special */
	bool begun;		/* set by the first one, before the second's thread */
	pthread_t thread;
	struct listening second;
	struct err err;
	int result;
} race;

int __real_listen(int fd, int backlog);
int __wrap_listen(int fd, int backlog);

static void *race_main(void *arg)
{
	struct race *r = arg;

	r->result = try_open(&r->second, r->address, &r->err);
	return NULL;
}

int __wrap_listen(int fd, int backlog)
{
	const struct timespec moment = { .tv_nsec = 5 * NS_PER_MS };

	if (race.address && !race.begun) {
		race.begun = true;
		assert_int_equal(pthread_create(&race.thread, NULL, race_main, &race), 0);
		nanosleep(&moment, NULL);
	}
	return __real_listen(fd, backlog);
}

static void a_socket_that_is_just_being_made_is_not_stale(void **state)
{
	char dir[32], address[64], path[48];
	struct listening first;

	(void)state;
	dir_make(dir, address, path);
	race.address = address;
	open_fine(&first, address);
	assert_int_equal(pthread_join(race.thread, NULL), 0);
	race.address = NULL;
	assert_int_equal(race.result, -EADDRINUSE);
	assert_true(path_is(path, &first.made));
	listening_close(&first);
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(loopbacks_and_any_are_of_both_families),
		cmocka_unit_test(the_loopback_is_no_other_address),
		cmocka_unit_test(an_address_in_use_fails_all_of_them),
		cmocka_unit_test(an_address_that_is_not_ours_is_an_error),
		cmocka_unit_test(a_unix_socket_is_its_owners_alone),
		cmocka_unit_test(a_stale_socket_goes_and_others_stay),
		cmocka_unit_test(a_socket_that_is_just_being_made_is_not_stale),
	};

	return cmocka_run_group_tests_name("listening", tests, NULL, NULL);
}
