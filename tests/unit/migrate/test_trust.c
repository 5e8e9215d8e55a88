// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Who is let in, and who is given the guest: over TCP nobody without a secret, with a secret
 * nobody who has not got it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "migrate/listen.h"
#include "steps.h"

static struct migration_trust trust_of(const char *text)
{
	struct migration_trust trust = { .insecure = false };
	struct err err;

	if (secret_derive(&trust.secret, text, strlen(text), &err) < 0)
		fail_msg("%s", err.text);
	return trust;
}

/* A world whose destination listens at a port with this trust. */
struct town {
	struct world w;
	struct sockaddr_in at;
	char uri[64];
};

/* Any free port's address. */
static struct sockaddr_in free_address(void)
{
	struct sockaddr_in addr = { .sin_family = AF_INET,
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(addr);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&addr, len), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
	close(fd);
	return addr;
}

static bool town_new(struct town *t, const struct migration_trust *trust)
{
	struct migration_params params;
	struct err err;

	if (!world_new(&t->w))
		return false;
	migration_free(t->w.to.migration);
	assert_int_equal(migration_new(&t->w.to.migration, &t->w.to.machine, &err), 0);
	migration_params_get(t->w.to.migration, &params);
	params.link_timeout_ms = 5000;
	assert_int_equal(migration_params_set(t->w.to.migration, &params, &err), 0);
	t->at = free_address();
	snprintf(t->uri, sizeof(t->uri), "tcp:127.0.0.1:%d", ntohs(t->at.sin_port));
	if (migration_incoming(t->w.to.migration, t->uri, trust, &err) < 0)
		fail_msg("%s", err.text);
	return true;
}

#define NEEDS_TOWN(t, trust) do { if (!town_new(t, trust)) skip(); } while (0)

static int connect_from(const struct town *t, const char *from)
{
	struct sockaddr_in addr = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(inet_pton(AF_INET, from, &addr.sin_addr), 1);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(connect(fd, (const struct sockaddr *)&t->at, sizeof(t->at)), 0);
	return fd;
}

static void migrate(struct town *t, const struct migration_trust *trust)
{
	struct err err;

	if (migration_outgoing(t->w.from.migration, t->uri, false, trust, &err) < 0)
		fail_msg("%s", err.text);
}

/* Postcopy with nearly all pages still at the source, and the link cut. */
static void begin_and_pause(struct town *t, const struct migration_trust *trust)
{
	struct err err;

	limit(&t->w, TRICKLE);
	migrate(t, trust);
	until_active(&t->w);
	assert_int_equal(migration_pause(t->w.from.migration, &err), 0);
	until_paused(&t->w);
}

/* Nothing was placed, nothing runs that should not, and the real source gets in. */
static void check_unharmed(struct town *t, const struct migration_trust *trust)
{
	struct memory_stats stats;

	memory_stats(t->w.to.machine.mem, &stats);
	assert_int_equal(stats.missing, WORLD_PAGES);
	assert_false(t->w.to.machine.ran);
	assert_int_equal(t->w.from.machine.state, RUN_STATE_RUNNING);
	migrate(t, trust);
	until_completed(&t->w);
	world_free(&t->w);
}

static void until_source_says(struct town *t, const char *words)
{
	world_until(&t->w, world_status(&t->w.from) == MIGRATION_FAILED);
	if (!strstr(query(&t->w.from).error, words))
		fail_msg("\"%s\" says nothing of \"%s\"", query(&t->w.from).error, words);
}

/* ---- at the start ---- */

static void check_refused(int r, const struct err *err)
{
	assert_int_equal(r, -EINVAL);
	if (!strstr(err->text, "--secret-file") || !strstr(err->text, "--insecure") ||
	    !strstr(err->text, "x-postern-secret-file"))
		fail_msg("this does not say what to do: \"%s\"", err->text);
}

static void test_tcp_without_trust_is_refused_and_says_what_to_do(void **state)
{
	const struct migration_trust nothing = { .insecure = false };
	char uri[32];
	struct world w;
	struct err err;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)state;
	NEEDS(&w);
	check_refused(migration_outgoing(w.from.migration, "tcp:127.0.0.1:1", false, NULL, &err),
		      &err);
	check_refused(
		migration_outgoing(w.from.migration, "tcp:127.0.0.1:1", false, &nothing, &err),
		&err);
	limit(&w, TRICKLE);
	world_migrate(&w, false);
	until_active(&w);
	assert_int_equal(migration_pause(w.from.migration, &err), 0);
	until_paused(&w);
	check_refused(migration_outgoing(w.from.migration, "tcp:127.0.0.1:1", true, NULL, &err),
		      &err);
	check_refused(migration_recover(w.to.migration, "tcp:127.0.0.1:0", NULL, &err), &err);
	/* Somebody else listens for us, and lets anybody in all the same. */
	assert_int_equal(listen(fd, 1), 0);
	snprintf(uri, sizeof(uri), "fd:%d", fd);
	check_refused(migration_recover(w.to.migration, uri, NULL, &err), &err);
	close(fd);
	limit(&w, 0);
	world_migrate(&w, true);
	until_completed(&w);
	world_free(&w);
}

static void test_a_destination_at_a_port_is_not_made_without_trust(void **state)
{
	struct world w;
	struct err err;

	(void)state;
	NEEDS(&w);
	migration_free(w.to.migration);
	assert_int_equal(migration_new(&w.to.migration, &w.to.machine, &err), 0);
	check_refused(migration_incoming(w.to.migration, "tcp:127.0.0.1:0", NULL, &err), &err);
	assert_int_equal(world_status(&w.to), MIGRATION_NONE);
	/* As the machine was started. */
	migration_trust(w.to.migration, &world_open);
	assert_int_equal(migration_incoming(w.to.migration, "tcp:127.0.0.1:0", NULL, &err), 0);
	world_free(&w);
}

/* ---- both sides ---- */

static void test_who_has_the_secret_arrives_and_recovers(void **state)
{
	struct migration_trust trust = trust_of("a secret");
	struct town t;
	struct err err;

	(void)state;
	NEEDS_TOWN(&t, &trust);
	begin_and_pause(&t, &trust);
	/* With what it began with. */
	assert_int_equal(migration_outgoing(t.w.from.migration, t.uri, true, NULL, &err), 0);
	limit(&t.w, 0);
	until_completed(&t.w);
	assert_int_equal(query(&t.w.to).recoveries, 1);
	world_free(&t.w);
}

static void test_a_resume_needs_the_secret_too(void **state)
{
	struct migration_trust trust = trust_of("a secret"), other = trust_of("another secret");
	struct town t;
	struct err err;

	(void)state;
	NEEDS_TOWN(&t, &trust);
	begin_and_pause(&t, &trust);
	assert_int_equal(migration_outgoing(t.w.from.migration, t.uri, true, &other, &err), 0);
	world_until(&t.w, world_status(&t.w.from) == MIGRATION_POSTCOPY_PAUSED);
	assert_non_null(strstr(query(&t.w.from).error, "does not have this destination's secret"));
	assert_int_equal(world_status(&t.w.to), MIGRATION_POSTCOPY_PAUSED);
	/* The destination is given that one too. */
	assert_int_equal(migration_recover(t.w.to.migration, t.uri, &other, &err), 0);
	limit(&t.w, 0);
	assert_int_equal(migration_outgoing(t.w.from.migration, t.uri, true, NULL, &err), 0);
	until_completed(&t.w);
	world_free(&t.w);
}

static void test_another_secret_or_none_does_not_get_in(void **state)
{
	struct migration_trust trust = trust_of("a secret"), other = trust_of("another secret");
	struct town t;

	(void)state;
	NEEDS_TOWN(&t, &trust);
	migrate(&t, &other);
	until_source_says(&t, "the source does not have this destination's secret");
	migrate(&t, &world_open);
	until_source_says(&t, "takes a guest only from who has its secret");
	check_unharmed(&t, &trust);
}

static unsigned int lines_of_refusal;

static void count_refusals(enum log_level level, const char *line)
{
	(void)level;
	lines_of_refusal += strstr(line, "refused a connection: ") != NULL;
}

/* It has three connections, and each is. */
static void test_a_source_that_is_refused_is_logged_once(void **state)
{
	struct migration_trust trust = trust_of("a secret"), other = trust_of("another secret");
	struct town t;

	(void)state;
	NEEDS_TOWN(&t, &trust);
	lines_of_refusal = 0;
	log_set_handler(count_refusals);
	migrate(&t, &other);
	until_source_says(&t, "the source does not have this destination's secret");
	assert_int_equal(lines_of_refusal, 1);
	/* It tries again: that is another attempt. */
	migrate(&t, &other);
	until_source_says(&t, "the source does not have this destination's secret");
	assert_int_equal(lines_of_refusal, 2);
	log_set_handler(NULL);
	check_unharmed(&t, &trust);
}

static void test_a_secret_is_not_shown_to_a_destination_without_one(void **state)
{
	struct migration_trust trust = trust_of("a secret");
	struct town t;

	(void)state;
	NEEDS_TOWN(&t, &world_open);
	migrate(&t, &trust);
	until_source_says(&t, "this destination has none");
	check_unharmed(&t, &world_open);
}

/* ---- a destination that is none ---- */

/* Takes three connections and answers the preface of each; then what comes is counted. */
struct impostor {
	int listening, fd[WIRE_CHANNELS];
	unsigned int n;
	uint8_t answer[HANDSHAKE_BYTES], last[HANDSHAKE_BYTES];
	bool answered[WIRE_CHANNELS];
	size_t got;
};

static bool impostor_step(struct impostor *im)
{
	uint8_t bytes[4096];
	unsigned int i;
	ssize_t got;

	if (im->n < WIRE_CHANNELS) {
		int fd = accept4(im->listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0)
			im->fd[im->n++] = fd;
	}
	for (i = 0; i < im->n; i++) {
		got = recv(im->fd[i], bytes, sizeof(bytes), MSG_DONTWAIT);
		if (got <= 0)
			continue;
		im->got += (size_t)got;
		if (send(im->fd[i], im->answered[i] ? im->last : im->answer, HANDSHAKE_BYTES,
			 MSG_NOSIGNAL) < 0)
			return true;
		im->answered[i] = true;
	}
	return false;
}

static void check_impostor(const struct challenge *challenge, const char *says, size_t bytes)
{
	struct migration_trust trust = trust_of("a secret"), other = trust_of("another secret");
	struct preface preface = { .version = WIRE_MAJOR };
	struct impostor im = { 0 };
	struct town t;
	unsigned int i;

	NEEDS_TOWN(&t, &trust);
	t.at = free_address();
	snprintf(t.uri, sizeof(t.uri), "tcp:127.0.0.1:%d", ntohs(t.at.sin_port));
	im.listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(im.listening, (struct sockaddr *)&t.at, sizeof(t.at)), 0);
	assert_int_equal(listen(im.listening, 4), 0);
	challenge_encode(challenge, im.answer);
	proof_encode(&other.secret, PROOF_OF_DESTINATION, &preface, challenge, im.last);
	migrate(&t, &trust);
	world_until(&t.w, impostor_step(&im) || world_status(&t.w.from) == MIGRATION_FAILED);
	until_source_says(&t, says);
	assert_int_equal(t.w.from.machine.state, RUN_STATE_RUNNING);
	/* Prefaces and proofs, and no word of the guest. */
	assert_true(im.got <= bytes);
	for (i = 0; i < im.n; i++)
		close(im.fd[i]);
	close(im.listening);
	world_free(&t.w);
}

static void test_the_guest_is_not_given_to_who_has_no_secret(void **state)
{
	struct challenge challenge = { .version = WIRE_MAJOR, .type = PROOF_HMAC_SHA256 };

	(void)state;
	check_impostor(&challenge, "the destination does not have this source's secret",
		       3 * (PREFACE_BYTES + HANDSHAKE_BYTES));
	/* Nor does it talk the source out of it. */
	challenge.type = PROOF_NONE;
	check_impostor(&challenge, "wants no proof", 3 * PREFACE_BYTES);
	challenge.version = 1;
	check_impostor(&challenge, "version 1", 3 * PREFACE_BYTES);
}

/* ---- crowds ---- */

/* Waits until the other side has closed it. */
static void until_closed(struct town *t, int fd)
{
	uint8_t bytes[4096];
	ssize_t got;

	world_until(&t->w, (got = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT)) == 0 ||
				   (got < 0 && errno != EAGAIN));
	close(fd);
}

/*
 * As many as are kept and twice that again, from one address; one from another address keeps its
 * place, without a word.
 */
static void test_a_crowd_from_elsewhere_takes_nobodys_place(void **state)
{
	struct migration_trust trust = trust_of("a secret");
	int crowd[3 * LISTENER_CLIENTS_MAX], i, mine, turns;
	struct town t;
	uint8_t byte;

	(void)state;
	NEEDS_TOWN(&t, &trust);
	mine = connect_from(&t, "127.0.0.1");
	for (i = 0; i < 3 * LISTENER_CLIENTS_MAX; i++) {
		crowd[i] = connect_from(&t, "127.0.0.2");
		/* It is let in before there are too many who wait for that. */
		turns = 0;
		world_until(&t.w, turns++ >= 3);
		if (i >= LISTENER_CLIENTS_MAX)
			until_closed(&t, crowd[i - LISTENER_CLIENTS_MAX]);
	}
	assert_int_equal(recv(mine, &byte, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
	migrate(&t, &trust);
	until_completed(&t.w);
	for (i = 2 * LISTENER_CLIENTS_MAX; i < 3 * LISTENER_CLIENTS_MAX; i++)
		close(crowd[i]);
	close(mine);
	world_free(&t.w);
}

/*
 * What says nothing, half a preface, no proof, or garbage for one, is over within the time that
 * there is, or at once.
 */
static void test_a_handshake_that_does_not_go_on_is_ended(void **state)
{
	struct preface preface = { .version = WIRE_MAJOR, .type = PROOF_HMAC_SHA256 };
	struct migration_trust trust = trust_of("a secret");
	uint8_t bytes[PREFACE_BYTES], answer[HANDSHAKE_BYTES];
	int silent, half, unproven, wrong;
	ssize_t got = 0;
	struct town t;

	(void)state;
	NEEDS_TOWN(&t, &trust);
	preface_encode(&preface, bytes);
	silent = connect_from(&t, "127.0.0.1");
	half = connect_from(&t, "127.0.0.1");
	assert_int_equal(send(half, bytes, 20, 0), 20);
	unproven = connect_from(&t, "127.0.0.1");
	assert_int_equal(send(unproven, bytes, sizeof(bytes), 0), sizeof(bytes));
	wrong = connect_from(&t, "127.0.0.1");
	assert_int_equal(send(wrong, bytes, sizeof(bytes), 0), sizeof(bytes));
	world_until(&t.w, (got = recv(wrong, answer, sizeof(answer), MSG_DONTWAIT)) != -1);
	assert_int_equal(got, sizeof(answer));
	assert_int_equal(
		send(wrong, "PSTPROOFthis is no proof of anything....", HANDSHAKE_BYTES, 0),
		HANDSHAKE_BYTES);
	until_closed(&t, wrong);
	until_closed(&t, unproven);
	until_closed(&t, half);
	until_closed(&t, silent);
	check_unharmed(&t, &trust);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tcp_without_trust_is_refused_and_says_what_to_do),
		cmocka_unit_test(test_a_destination_at_a_port_is_not_made_without_trust),
		cmocka_unit_test(test_who_has_the_secret_arrives_and_recovers),
		cmocka_unit_test(test_a_resume_needs_the_secret_too),
		cmocka_unit_test(test_another_secret_or_none_does_not_get_in),
		cmocka_unit_test(test_a_source_that_is_refused_is_logged_once),
		cmocka_unit_test(test_a_secret_is_not_shown_to_a_destination_without_one),
		cmocka_unit_test(test_the_guest_is_not_given_to_who_has_no_secret),
		cmocka_unit_test(test_a_crowd_from_elsewhere_takes_nobodys_place),
		cmocka_unit_test(test_a_handshake_that_does_not_go_on_is_ended),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
