// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The QMP server's protocol: who is heard, negotiation, requests, their ids and
 * numbers, clients that are slow, silent or too many, and its sockets.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "qmp_session.h"
#include "tests/unit/crowd.h"

static void test_negotiation(void **state)
{
	struct setup *s = *state;

	ask(s, "", "{\"QMP\":{\"version\":{\"qemu\":{\"major\":7,\"minor\":2,\"micro\":0},"
		   "\"package\":\"postern " POSTERN_VERSION "\"},\"capabilities\":[\"oob\"]}}");
	ask_error(s, "{\"execute\":\"query-status\"}", "CommandNotFound",
		  "Expecting capabilities negotiation with 'qmp_capabilities'");
	ask_error(s, "{\"execute\":\"nonsense\"}", "CommandNotFound",
		  "Expecting capabilities negotiation with 'qmp_capabilities'");
	ask_error(s, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"magic\"]}}",
		  "GenericError", "Parameter 'enable[0]' does not accept value 'magic'");
	ask_error(s, "{\"exec-oob\":\"qmp_capabilities\"}", "GenericError",
		  "QMP input member 'exec-oob' is unexpected");
	/* Events are for those who have negotiated. */
	fake_set_state(s->machine, RUN_STATE_RUNNING);
	ask(s, "{\"execute\":\"qmp_capabilities\",\"id\":7}", "{\"return\":{},\"id\":7}");
	ask_error(s, "{\"execute\":\"qmp_capabilities\"}", "CommandNotFound",
		  "Capabilities negotiation is already complete, command ignored");
	/* Not asked for, so not there. */
	ask_error(s, "{\"exec-oob\":\"migrate-pause\"}", "GenericError",
		  "QMP input member 'exec-oob' is unexpected");
}

static void test_requests(void **state)
{
	struct setup *s = *state;

	ask(s, "{\"execute\":\"query-kvm\",\"id\":{\"a\":[1,null]}}",
	    "{\"return\":{\"enabled\":true,\"present\":true},\"id\":{\"a\":[1,null]}}");
	ask(s, "{\"execute\":\"nope\",\"id\":\"x\"}",
	    "{\"error\":{\"class\":\"CommandNotFound\",\"desc\":\"The command nope has not been found\"},\"id\":\"x\"}");
	ask_error(s, "{}", "GenericError", "QMP input lacks member 'execute'");
	ask_error(s, "[]", "GenericError", "QMP input must be a JSON object");
	ask_error(s, "\"x\"", "GenericError", "QMP input must be a JSON object");
	ask_error(s, "{\"execute\":1}", "GenericError",
		  "QMP input member 'execute' must be a string");
	ask_error(s, "{\"execute\":\"stop\",\"exec-oob\":\"stop\"}", "GenericError",
		  "QMP input member 'exec-oob' clashes with 'execute'");
	ask_error(s, "{\"execute\":\"stop\",\"arguments\":1}", "GenericError",
		  "QMP input member 'arguments' must be an object");
	ask_error(s, "{\"execute\":\"stop\",\"foo\":1}", "GenericError",
		  "QMP input member 'foo' is unexpected");
	ask_error(s, "{\"exec-oob\":\"stop\"}", "GenericError",
		  "The command stop does not support OOB");
	ask(s, "{\"exec-oob\":\"migrate-pause\",\"id\":1}", "{\"return\":{},\"id\":1}");
}

/* Whatever an id is, it comes back as it was written: no number in it is too large. */
static void test_ids_come_back_as_they_were(void **state)
{
	static const char *const ids[] = {
		"9223372036854775808", "18446744073709551615", "18446744073709551616", "-9223372036854775809", "1e400", "-1E+999", "1.10",
		"123456789012345678901234567890123456789012345678901234567890", "[1e400,{\"a b\":[18446744073709551615,-1]}]", "\"1e400 \\\" id\"",
		"{\"id\":1e400}", "null", "\"\"",
	};
	struct setup *s = *state;
	char say[256], wanted[256], *end;
	size_t i;

	for (i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
		snprintf(say, sizeof(say), "{\"execute\":\"query-name\",\"id\": %s}", ids[i]);
		snprintf(wanted, sizeof(wanted), "{\"return\": {\"name\": \"fake\"}, \"id\": %s}",
			 ids[i]);
		send_text(s, say);
		end = receive_line(s);
		assert_string_equal(s->line, wanted);
		drop_line(s, end);
	}
	/* However the member is written, wherever it stands, and on one line. */
	send_text(s, "{ \"\\u0069d\" : [ 1e400 ,\n\t2 ] , \"execute\":\"nope\"}");
	end = receive_line(s);
	assert_string_equal(
		s->line,
		"{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"The command nope has not been found\"}, "
		"\"id\": [1e400,2]}");
	drop_line(s, end);
}

/*
 * QEMU's integers have 64 bits without a sign. What is beyond is an error of
 * the command, with its id.
 */
static void test_numbers_of_arguments(void **state)
{
	static const char *const beyond[] = {
		"18446744073709551616", "-1", "-9223372036854775809", "-0.5", "1e400", "[1e400]"
	};
	struct setup *s = *state;
	char say[256], wanted[256], *end;
	size_t i;

	ask(s,
	    "{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"max-bandwidth\":9223372036854775808,"
	    "\"downtime-limit\":5,\"max-postcopy-bandwidth\":18446744073709551615},\"id\":1}",
	    "{\"return\":{},\"id\":1}");
	assert_true(s->migration.params.max_bandwidth == UINT64_C(1) << 63);
	assert_int_equal(s->migration.params.downtime_limit_ms, 5);
	assert_true(s->migration.params.max_postcopy_bandwidth == UINT64_MAX);
	for (i = 0; i < sizeof(beyond) / sizeof(beyond[0]); i++) {
		/* A number that is out of range stands before it, and one after. */
		snprintf(
			say, sizeof(say),
			"{\"id\":[1e999],\"execute\":\"migrate-set-parameters\",\"arguments\":{\"max-bandwidth\":%s}}",
			beyond[i]);
		send_text(s, say);
		end = receive_line(s);
		snprintf(
			wanted, sizeof(wanted),
			"{\"error\": {\"class\": \"GenericError\", \"desc\": \"%s\"}, \"id\": [1e999]}",
			i < 3 ? "Parameter 'max-bandwidth' expects uint64" :
				"Invalid parameter type for 'max-bandwidth', expected: integer");
		assert_string_equal(s->line, wanted);
		drop_line(s, end);
	}
	assert_true(s->migration.params.max_bandwidth == UINT64_C(1) << 63);
	/* 2^40 and 2^32 are no small numbers. */
	ask_error(
		s,
		"{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"downtime-limit\":1099511627776}}",
		"GenericError",
		"Parameter 'downtime-limit' expects an integer in the range of 0 to 2000000 ms");
	ask_error(
		s,
		"{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"x-postern-link-timeout\":4294972296}}",
		"GenericError",
		"Parameter 'x-postern-link-timeout' expects an integer in the range of 100 to 600000 ms");
	ask_error(
		s,
		"{\"execute\":\"query-postern-map\",\"arguments\":{\"cells\":18446744073709551615}}",
		"GenericError", "Parameter 'cells' expects an integer in the range of 1 to 4096");
	ask_error(
		s,
		"{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"help\",\"cpu-index\":4294967296}}",
		"GenericError", "Parameter 'cpu-index' expects a CPU number");
}

/*
 * What a web page can have a browser of this host send: its first bytes are a
 * method, whatever follows.
 */
static void test_what_does_not_begin_as_a_client_is_not_heard(void **state)
{
	static const char commands[] =
		"{\"execute\":\"qmp_capabilities\"}\r\n{\"execute\":\"system_powerdown\"}\r\n";
	static const char *const beginnings[] = {
		"POST / HTTP/1.1\r\nHost: 127.0.0.1:4444\r\nContent-Type: text/plain\r\nContent-Length: 70\r\n\r\n", "GET / HTTP/1.1\r\n\r\n",
		"OPTIONS / HTTP/1.1\r\n\r\n", "\r\nPOST / HTTP/1.0\r\n\r\n", "x", "\"", "[]", "1", "}", "\x16\x03\x01\x02", "$qSupported#37",
		"\xff", "{]", "{\"execute\":1e}", "{}[]", "{} POST / HTTP/1.1\r\n\r\n", "{\x01}",
	};
	struct setup *s = *state;
	size_t i;
	int fd;

	for (i = 0; i < sizeof(beginnings) / sizeof(beginnings[0]); i++) {
		fd = fake_connect(s->machine, s->path);
		assert_true(write(fd, beginnings[i], strlen(beginnings[i])) > 0);
		assert_true(write(fd, commands, strlen(commands)) > 0);
		fake_expect_closed(s->machine, fd);
		assert_int_equal(s->machine->powerdowns, 0);
	}
	/* White space is no beginning, and who has negotiated may err. */
	ask(s, " \t\r\n {\"execute\":\"query-name\"}", "{\"return\":{\"name\":\"fake\"}}");
	ask_error(s, "GET\n", "GenericError", "JSON parse error, invalid token near 'GET'");
	send_text(s, "{\"execute\":\"system_powerdown\"}");
	expect_event(s, "POWERDOWN", "");
	ask(s, "", "{\"return\":{}}");
	assert_int_equal(s->machine->powerdowns, 1);
}

/*
 * However many commands a client sends at once, the loop carries out some a
 * turn: others are answered meanwhile, and none is lost.
 */
static void test_a_flood_of_commands_has_its_turn_like_others(void **state)
{
	static const char command[] = "{\"execute\":\"system_powerdown\"}";
	unsigned int i;
	struct setup *s = *state;
	int other = fake_connect(s->machine, s->path);
	struct pollfd p = { .fd = other, .events = POLLIN };

	s->machine->powerdown_ns = LOOP_TURN_NS / 4;
	for (i = 0; i < FAKE_FLOOD; i++)
		send_text(s, command);
	fake_expect_turns(s->machine, &s->machine->powerdowns);
	/* The other has its greeting, which waited for no more than that. */
	assert_int_equal(poll(&p, 1, 0), 1);
	close(other);
	for (i = 0; i < FAKE_FLOOD; i++) {
		expect_event(s, "POWERDOWN", "");
		ask(s, "", "{\"return\":{}}");
	}
	assert_int_equal(s->machine->powerdowns, FAKE_FLOOD);
}

/* However many there are: who comes is let in, and who has negotiated stays. */
static void test_who_says_nothing_keeps_nobody_out(void **state)
{
	struct setup *s = *state;
	int first = s->fd, silent[80];
	size_t i, n = sizeof(silent) / sizeof(silent[0]);

	for (i = 0; i < n; i++) {
		silent[i] = fake_connect(s->machine, s->path);
		fake_pump(s->machine, silent[i], NULL, NULL);
	}
	connect_client(s);
	json_decref(receive(s));
	ask(s, "{\"execute\":\"qmp_capabilities\"}", "{\"return\":{}}");
	close(s->fd);
	s->fd = first;
	json_decref(ask_return(s, "{\"execute\":\"query-status\"}"));
	for (i = 0; i < n; i++)
		close(silent[i]);
}

static void test_bad_json(void **state)
{
	struct setup *s = *state;
	json_t *reply;

	/* Balanced, but no JSON: nothing is discarded. */
	send_text(s, "{\"execute\":}{\"execute\":\"query-name\"}");
	reply = receive(s);
	assert_string_equal(
		json_string_value(json_object_get(json_object_get(reply, "error"), "class")),
		"GenericError");
	json_decref(reply);
	ask(s, "", "{\"return\":{\"name\":\"fake\"}}");
	/* Cut short, and given up by 0xff. */
	send_text(s, "{\"execute\":\"st\xff");
	reply = receive(s);
	assert_non_null(json_object_get(reply, "error"));
	json_decref(reply);
	ask(s, "{\"execute\":\"query-name\"}", "{\"return\":{\"name\":\"fake\"}}");
	/* Two in one write, one in two. */
	send_text(s, "{\"execute\":\"query-name\",\"id\":1}{\"execute\":\"query-na");
	ask(s, "", "{\"return\":{\"name\":\"fake\"},\"id\":1}");
	ask(s, "me\",\"id\":2}", "{\"return\":{\"name\":\"fake\"},\"id\":2}");
}

static void test_arguments(void **state)
{
	struct setup *s = *state;

	ask_error(s, "{\"execute\":\"migrate\"}", "GenericError", "Parameter 'uri' is missing");
	ask_error(s, "{\"execute\":\"migrate\",\"arguments\":{}}", "GenericError",
		  "Parameter 'uri' is missing");
	ask_error(s, "{\"execute\":\"migrate\",\"arguments\":{\"uri\":1}}", "GenericError",
		  "Invalid parameter type for 'uri', expected: string");
	ask_error(
		s,
		"{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"tcp:x:1\",\"resume\":\"yes\"}}",
		"GenericError", "Invalid parameter type for 'resume', expected: boolean");
	ask_error(s, "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"tcp:x:1\",\"x\":1}}",
		  "GenericError", "Parameter 'x' is unexpected");
	ask_error(s, "{\"execute\":\"stop\",\"arguments\":{\"x\":1}}", "GenericError",
		  "Parameter 'x' is unexpected");
	ask_error(s,
		  "{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"max-bandwidth\":-1}}",
		  "GenericError", "Parameter 'max-bandwidth' expects uint64");
	ask_error(s,
		  "{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"max-bandwidth\":1.5}}",
		  "GenericError", "Invalid parameter type for 'max-bandwidth', expected: integer");
	ask_error(s, "{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"tls-creds\":\"\"}}",
		  "GenericError", "Parameter 'tls-creds' is unexpected");
	/* What stands before it would be another place. */
	ask_error(s,
		  "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"tcp:x:1\\u0000:2\"}}",
		  "GenericError", "Parameter 'uri' has a character that no text has: NUL");
	ask_error(s,
		  "{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":"
		  "[{\"capability\":\"postcopy-ram\\u0000\",\"state\":true}]}}",
		  "GenericError", "Parameter 'capabilities' has a character that no text has: NUL");
	ask_error(s, "{\"execute\":\"stop\\u0000\"}", "GenericError",
		  "QMP input member 'execute' has a character that no text has: NUL");
	assert_string_equal(s->migration.last, "");
	ask_error(s,
		  "{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":1}}",
		  "GenericError", "Invalid parameter type for 'capabilities', expected: array");
}

/* A client that never reads is dropped; another is answered all the while. */
static void test_slow_client(void **state)
{
	struct setup *s = *state;
	int slow = fake_connect(s->machine, s->path), small = 4096;
	static const char command[] = "{\"execute\":\"query-commands\"}";
	int64_t end = clock_now_ns() + 30 * NS_PER_SEC;
	struct pollfd p = { .fd = slow, .events = 0 };
	ssize_t n;

	setsockopt(slow, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	fcntl(slow, F_SETFL, O_NONBLOCK);
	n = write(slow, "{\"execute\":\"qmp_capabilities\"}", 30);
	assert_int_equal(n, 30);
	do {
		n = send(slow, command, sizeof(command) - 1, MSG_NOSIGNAL);
		if (n < 0 && errno != EAGAIN)
			break;
		if (n < 0)
			uv_run(loop_uv(s->machine->loop), UV_RUN_NOWAIT);
		assert_true(clock_now_ns() < end);
	} while (poll(&p, 1, 0) == 0);
	ask(s, "{\"execute\":\"query-name\"}", "{\"return\":{\"name\":\"fake\"}}");
	close(slow);
}

static void test_socket(void **state)
{
	struct setup *s = *state;
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	char path[128], spec[160];
	struct stat st;
	struct err err;
	int fd;

	assert_int_equal(stat(s->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	/* In use, by this very server. */
	assert_int_equal(qmp_listen(s->qmp, s->spec, &err), -EADDRINUSE);
	/* Left behind by the dead. */
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/stale", s->dir);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd);
	snprintf(spec, sizeof(spec), "unix:%s", addr.sun_path);
	assert_int_equal(qmp_listen(s->qmp, spec, &err), 0);
	/* No socket at all. */
	snprintf(path, sizeof(path), "%s/file", s->dir);
	snprintf(spec, sizeof(spec), "unix:%s", path);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	close(fd);
	assert_int_equal(qmp_listen(s->qmp, spec, &err), -EEXIST);
	unlink(path);
	assert_int_equal(qmp_listen(s->qmp, "unix:", &err), -EINVAL);
	assert_int_equal(qmp_listen(s->qmp, "tcp:127.0.0.1", &err), -EINVAL);
	assert_int_equal(qmp_listen(s->qmp, "serial:1", &err), -EINVAL);
	assert_int_equal(qmp_listen(s->qmp, "unix:/tmp/x,wait=on", &err), -EINVAL);
	assert_non_null(strstr(err.text, "wait=on"));
	assert_int_equal(qmp_listen(s->qmp, "tcp:127.0.0.1:0", &err), 0);
}

/*
 * More answers than the socket holds, for a client that has closed its sending
 * side: it hears each, and then the end.
 */
static void test_a_client_that_has_said_all_hears_all(void **state)
{
	static const char command[] = "{\"execute\":\"query-commands\"}\n";
	char all[400 * (sizeof(command) - 1) + 1], byte;
	struct setup *s = *state;
	unsigned int i;
	json_t *reply;

	for (i = 0; i < 400; i++)
		memcpy(all + i * (sizeof(command) - 1), command, sizeof(command));
	send_text(s, all);
	assert_int_equal(shutdown(s->fd, SHUT_WR), 0);
	/* All of it is taken before anything is read. */
	for (i = 0; i < 200; i++)
		uv_run(loop_uv(s->machine->loop), UV_RUN_NOWAIT);
	for (i = 0; i < 400; i++) {
		reply = receive(s);
		assert_true(json_is_array(json_object_get(reply, "return")));
		json_decref(reply);
	}
	fake_pump(s->machine, s->fd, NULL, NULL);
	assert_int_equal(read(s->fd, &byte, 1), 0);
}

/* There is no descriptor for another client: it waits, and the loop does not run in circles. */
static void test_a_client_waits_for_a_descriptor(void **state)
{
	struct setup *s = *state;
	json_t *greeting;
	int first = s->fd;

	connect_client(s);
	assert_in_range(turns_without_descriptor(loop_uv(s->machine->loop), s->fd), 1, 20);
	greeting = receive(s);
	assert_non_null(json_object_get(greeting, "QMP"));
	json_decref(greeting);
	close(first);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up_negotiated, tear_down)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_negotiation, set_up, tear_down),
		TEST(test_requests),
		TEST(test_bad_json),
		TEST(test_arguments),
		TEST(test_slow_client),
		TEST(test_a_client_that_has_said_all_hears_all),
		TEST(test_a_client_waits_for_a_descriptor),
		TEST(test_socket),
		TEST(test_ids_come_back_as_they_were),
		TEST(test_numbers_of_arguments),
		TEST(test_what_does_not_begin_as_a_client_is_not_heard),
		TEST(test_a_flood_of_commands_has_its_turn_like_others),
		TEST(test_who_says_nothing_keeps_nobody_out),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
