// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "base/address.h"

static void good_ones_are_taken_apart(void **state)
{
	static const struct {
		const char *text, *host, *port, *printed;
	} good[] = {
		{ "tcp:host:4444", "host", "4444", NULL },
		{ "tcp::0", "", "0", NULL },
		{ "tcp:*:22", "*", "22", NULL },
		{ "tcp:127.0.0.1:65535", "127.0.0.1", "65535", NULL },
		{ "tcp:[::1]:7", "::1", "7", NULL },
		{ "tcp:[fe80::1%eth0]:7", "fe80::1%eth0", "7", NULL },
		{ "tcp:[::ffff:1.2.3.4]:7", "::ffff:1.2.3.4", "7", NULL },
		{ "tcp:h:007", "h", "7", "tcp:h:7" },
	};
	char text[ADDRESS_TEXT_BYTES];
	struct address address;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(good) / sizeof(*good); i++) {
		assert_int_equal(address_parse(&address, good[i].text, &err), 0);
		assert_int_equal(address.type, ADDRESS_TCP);
		assert_string_equal(address.host, good[i].host);
		assert_string_equal(address.port, good[i].port);
		address_print(&address, text);
		assert_string_equal(text, good[i].printed ? good[i].printed : good[i].text);
	}
	assert_int_equal(address_parse(&address, "unix:/a/b:c", &err), 0);
	assert_int_equal(address.type, ADDRESS_UNIX);
	assert_string_equal(address.path, "/a/b:c");
}

static void bad_ones_are_refused_with_what_is_wrong(void **state)
{
	static const struct {
		const char *text, *says;
	} bad[] = {
		{ "", "expected" }, { "tcp", "expected" }, { "tcp:", "HOST:PORT" }, { "tcp:host", "HOST:PORT" }, { "tcp:host:", "port" },
		{ "tcp:host:x", "port" }, { "tcp:host:65536", "port" }, { "tcp:host:-1", "port" }, { "tcp:host:+1", "port" },
		{ "tcp:host: 1", "port" }, { "tcp:host:1 ", "port" }, { "tcp:host:99999999999999999999", "port" },
		{ "tcp:::1:4444", "brackets" }, { "tcp:[::1]", "IPV6" }, { "tcp:[::1:4444", "IPV6" }, { "tcp:[::1]4444", "IPV6" },
		{ "tcp:[]:1", "no IPv6" }, { "tcp:[*]:1", "no IPv6" }, { "tcp:[host]:1", "no IPv6" }, { "tcp:[1.2.3.4]:1", "no IPv6" },
		{ "tcp:[fe80::1%]:1", "no IPv6" }, { "tcp:[fe80::1%0123456789abcdefg]:1", "no IPv6" },
		{ "unix:", "PATH" }, { "TCP:h:1", "expected" }, { "/path", "expected" },
	};
	char text[700];
	struct address address;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		if (address_parse(&address, bad[i].text, &err) != -EINVAL ||
		    !strstr(err.text, bad[i].says))
			fail_msg("'%s': %s", bad[i].text, err.text);
	}
	memset(text, 'a', sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;
	memcpy(text, "unix:", 5);
	text[5 + ADDRESS_PATH_BYTES] = 0;
	assert_int_equal(address_parse(&address, text, &err), -EINVAL);
	text[5 + ADDRESS_PATH_BYTES - 1] = 0;
	assert_int_equal(address_parse(&address, text, &err), 0);
	memset(text, 'a', sizeof(text) - 1);
	memcpy(text, "tcp:", 4);
	strcpy(text + 4 + ADDRESS_HOST_BYTES, ":1");
	assert_int_equal(address_parse(&address, text, &err), -EINVAL);
	strcpy(text + 4 + ADDRESS_HOST_BYTES - 1, ":1");
	assert_int_equal(address_parse(&address, text, &err), 0);
}

/* What an address stands for, in one line. */
static const char *known(const char *text)
{
	static char line[ADDRESSES_MAX * SOCKADDR_TEXT_BYTES];
	char one[SOCKADDR_TEXT_BYTES];
	struct address address;
	struct addresses found;
	unsigned int i;

	assert_int_equal(address_parse(&address, text, NULL), 0);
	*line = 0;
	addresses_known(&found, &address);
	for (i = 0; i < found.n; i++) {
		sockaddr_print(&found.at[i], found.len[i], true, one);
		strcat(strcat(line, i ? "; " : ""), one);
	}
	return line;
}

static void some_need_no_resolver(void **state)
{
	(void)state;
	assert_string_equal(known("tcp::22"), "::1 port 22; 127.0.0.1 port 22");
	assert_string_equal(known("tcp:localhost:22"), "::1 port 22; 127.0.0.1 port 22");
	assert_string_equal(known("tcp:LocalHost:22"), "::1 port 22; 127.0.0.1 port 22");
	assert_string_equal(known("tcp:*:22"), ":: port 22; 0.0.0.0 port 22");
	assert_string_equal(known("tcp:[::]:22"), ":: port 22");
	assert_string_equal(known("tcp:192.0.2.7:22"), "192.0.2.7 port 22");
	assert_string_equal(known("tcp:[2001:db8::7]:22"), "2001:db8::7 port 22");
	assert_string_equal(known("unix:/a"), "unix:/a");
	assert_string_equal(known("tcp:localhost.example.org:22"), "");
}

#define ANSWERS_MAX 32

/*
 * A resolver's answer: "4" and "6" are addresses of that family, numbered from
 * 1 on; "=" is the one before once more.
 */
static void take(struct addresses *to, const char *answers)
{
	static struct addrinfo list[ANSWERS_MAX];
	static struct sockaddr_in in4[ANSWERS_MAX];
	static struct sockaddr_in6 in6[ANSWERS_MAX];
	size_t i, n = strlen(answers);

	assert_true(n <= ANSWERS_MAX);
	for (i = 0; i < n; i++) {
		in4[i] = (struct sockaddr_in){ .sin_family = AF_INET,
					       .sin_addr.s_addr = htonl((uint32_t)i + 1) };
		in6[i] = (struct sockaddr_in6){ .sin6_family = AF_INET6,
						.sin6_addr.s6_addr[15] = (uint8_t)(i + 1) };
		list[i] = (struct addrinfo){ .ai_family = AF_INET,
					     .ai_addr = (struct sockaddr *)&in4[i],
					     .ai_addrlen = sizeof(in4[i]) };
		if (answers[i] == '6')
			list[i] = (struct addrinfo){ .ai_family = AF_INET6,
						     .ai_addr = (struct sockaddr *)&in6[i],
						     .ai_addrlen = sizeof(in6[i]) };
		else if (answers[i] == '=')
			list[i] = list[i - 1];
		list[i].ai_next = i + 1 < n ? &list[i + 1] : NULL;
	}
	addresses_take(to, n ? list : NULL);
}

static unsigned int number(const struct addresses *a, unsigned int i)
{
	if (a->at[i].ss_family == AF_INET)
		return ntohl(((const struct sockaddr_in *)&a->at[i])->sin_addr.s_addr);
	return ((const struct sockaddr_in6 *)&a->at[i])->sin6_addr.s6_addr[15];
}

static void the_families_take_turns(void **state)
{
	static const struct {
		const char *answers;
		unsigned int order[8];
	} cases[] = {
		{ "", { 0 } },
		{ "444", { 1, 2, 3 } },
		{ "6644", { 1, 3, 2, 4 } },
		{ "4466", { 1, 3, 2, 4 } },
		{ "66664", { 1, 5, 2, 3, 4 } },
		{ "4666", { 1, 2, 3, 4 } },
		{ "6=4=4", { 1, 3, 5 } },
	};
	struct addresses found;
	size_t i;
	unsigned int k;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		take(&found, cases[i].answers);
		for (k = 0; k < found.n; k++)
			assert_int_equal(number(&found, k), cases[i].order[k]);
		assert_int_equal(cases[i].order[k], 0);
	}
	/* More than there is room for. */
	take(&found, "44444444444444444444444444666666");
	assert_int_equal(found.n, ADDRESSES_MAX);
	assert_int_equal(number(&found, 1), 27);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_ones_are_taken_apart),
		cmocka_unit_test(bad_ones_are_refused_with_what_is_wrong),
		cmocka_unit_test(some_need_no_resolver),
		cmocka_unit_test(the_families_take_turns),
	};

	return cmocka_run_group_tests_name("address", tests, NULL, NULL);
}
