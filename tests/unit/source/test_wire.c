// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Wire source and sender against each other, over socket pairs, with plain
 * memory on both sides and threads that touch it through gup; links that are
 * cut; and peers that send what they must not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/conn_socket.h"
#include "memory/gup.h"
#include "source/retry.h"
#include "source/stack.h"
#include "source/wire.h"
#include "tests/unit/toy_conn.h"
#include "wire/sender.h"

#define LOW_BYTES (UINT64_C(24) << 20)
#define HIGH_BASE (UINT64_C(1) << 32)
#define HIGH_BYTES (UINT64_C(8) << 20)

static const struct memory_range ranges[] = {
	{ GPA(0), LOW_BYTES },
	{ GPA(HIGH_BASE), HIGH_BYTES },
};

/* What one side has learnt. */
struct side {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	_Atomic unsigned int lost;
	bool complete;
	struct err err;
};

static void side_lost(void *arg, const struct err *err)
{
	struct side *side = arg;

	pthread_mutex_lock(&side->lock);
	side->lost++;
	side->err = *err;
	pthread_cond_broadcast(&side->changed);
	pthread_mutex_unlock(&side->lock);
}

static void side_complete(void *arg)
{
	struct side *side = arg;

	pthread_mutex_lock(&side->lock);
	side->complete = true;
	pthread_cond_broadcast(&side->changed);
	pthread_mutex_unlock(&side->lock);
}

/* Waits for the condition about `side`; fails the test after 30 s. */
#define side_wait(side, condition) \
	do { \
		struct timespec until; \
		clock_gettime(CLOCK_REALTIME, &until); \
		until.tv_sec += 30; \
		pthread_mutex_lock(&(side)->lock); \
		while (!(condition)) \
			assert_int_equal(pthread_cond_timedwait(&(side)->changed, &(side)->lock, &until), 0); \
		pthread_mutex_unlock(&(side)->lock); \
	} while (0)

struct fixture {
	struct memory *from, *to;
	struct sender *sender;
	struct wire_source *source;
	struct side at_from, at_to;
	int fd_from[2], fd_to[2];	/* urgent, bulk */
	struct conn *from_conn[2], *to_conn[2]; /* of these */
	struct toy_wrapper toys;
	bool is_toy;
	_Atomic int64_t heard_from, heard_to;
};

static void page_pattern(uint8_t *page, uint64_t gfn)
{
	uint64_t i, *word = (uint64_t *)(void *)page;

	for (i = 0; i < PAGE_BYTES / 8; i++)
		word[i] = gfn * 0x9e3779b97f4a7c15u + i;
}

/* Every third page stays zero. */
static bool has_pattern(uint64_t gfn)
{
	return gfn % 3 != 0;
}

static void for_each_page(void (*fn)(struct memory *mem, uint64_t gfn), struct memory *mem)
{
	size_t i;
	uint64_t gfn;

	for (i = 0; i < 2; i++)
		for (gfn = ranges[i].base.v / PAGE_BYTES;
		     gfn < (ranges[i].base.v + ranges[i].len_bytes) / PAGE_BYTES; gfn++)
			fn(mem, gfn);
}

static void write_page(struct memory *mem, uint64_t gfn)
{
	uint8_t page[PAGE_BYTES];

	if (!has_pattern(gfn))
		return;
	page_pattern(page, gfn);
	assert_int_equal(gup_write(mem, gfn_to_gpa(GFN(gfn)), page, sizeof(page), 0, NULL), 0);
}

static bool page_is_right(struct memory *mem, uint64_t gfn)
{
	uint8_t should[PAGE_BYTES] = { 0 }, is[PAGE_BYTES];

	if (has_pattern(gfn))
		page_pattern(should, gfn);
	return !gup_read(mem, gfn_to_gpa(GFN(gfn)), is, sizeof(is), 0, NULL) &&
	       !memcmp(is, should, sizeof(is));
}

static void check_page(struct memory *mem, uint64_t gfn)
{
	assert_true(page_is_right(mem, gfn));
}

static void connect_pair(int *a, int *b)
{
	int fd[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	*a = fd[0];
	*b = fd[1];
}

static struct conn *conn_of(struct fixture *f, int fd)
{
	struct conn *conn, *inner;

	assert_int_equal(conn_socket_new(&conn, fd, NULL), 0);
	inner = conn;
	if (f->is_toy)
		assert_int_equal(f->toys.wrapper.wrap(&f->toys.wrapper, &conn, inner, false, NULL),
				 0);
	return conn;
}

static void fixture_connect(struct fixture *f)
{
	int i;

	for (i = 0; i < 2; i++) {
		connect_pair(&f->fd_from[i], &f->fd_to[i]);
		f->from_conn[i] = conn_of(f, f->fd_from[i]);
		f->to_conn[i] = conn_of(f, f->fd_to[i]);
	}
}

static void fixture_close(struct fixture *f)
{
	int i;

	for (i = 0; i < 2; i++) {
		conn_free(f->from_conn[i]);
		conn_free(f->to_conn[i]);
	}
}

static void start_sender(struct fixture *f)
{
	struct stream_pair pair = { f->from_conn[0], f->from_conn[1], &f->heard_from, side_lost,
				    &f->at_from };

	f->at_from.lost = 0;
	assert_int_equal(sender_start(f->sender, &pair, NULL), 0);
}

/* Is nothing stacked on it? */
static bool source_is_alone(struct fixture *f)
{
	return wire_source_page_source(f->source)->sink == memory_sink(f->to);
}

static void start_source(struct fixture *f)
{
	struct stream_pair pair = { f->to_conn[0], f->to_conn[1], &f->heard_to, side_lost,
				    &f->at_to };

	f->at_to.lost = 0;
	assert_int_equal(wire_source_start(f->source, &pair, NULL), 0);
	if (source_is_alone(f))
		memory_attach(f->to, wire_source_page_source(f->source));
}

static void end_source(struct fixture *f)
{
	wire_source_stop(f->source);
	if (source_is_alone(f))
		memory_detach(f->to);
}

static int setup_with(void **state, bool is_toy)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct memory_events events = { .complete = side_complete, .arg = &f->at_to };
	struct err err;

	f->is_toy = is_toy;
	toy_wrapper_init(&f->toys);
	pthread_mutex_init(&f->at_from.lock, NULL);
	pthread_cond_init(&f->at_from.changed, NULL);
	pthread_mutex_init(&f->at_to.lock, NULL);
	pthread_cond_init(&f->at_to.changed, NULL);
	assert_int_equal(memory_new(&f->from, ranges, 2, &err), 0);
	assert_int_equal(memory_new(&f->to, ranges, 2, &err), 0);
	if (memory_watch(f->to, &events, &err) < 0) {
		print_message("skipped: %s\n", err.text);
		memory_shut(f->from);
		memory_free(f->from);
		memory_shut(f->to);
		memory_free(f->to);
		free(f);
		*state = NULL;
		return 0;
	}
	for_each_page(write_page, f->from);
	assert_int_equal(sender_new(&f->sender, f->from, &err), 0);
	assert_int_equal(wire_source_new(&f->source, f->to, &err), 0);
	fixture_connect(f);
	*state = f;
	return 0;
}

static int setup(void **state)
{
	return setup_with(state, false);
}

/* Over connections that read ahead, say hello first, and whose descriptors can only be polled. */
static int setup_toy(void **state)
{
	return setup_with(state, true);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	if (!f)
		return 0;
	end_source(f);
	wire_source_free(f->source);
	sender_free(f->sender);
	memory_shut(f->to);
	memory_free(f->to);
	memory_shut(f->from);
	memory_free(f->from);
	fixture_close(f);
	assert_int_equal(f->toys.made, f->toys.freed);
	free(f);
	return 0;
}

/* Reads pages in a random order until all is here. */
struct reader {
	pthread_t thread;
	struct fixture *f;
	unsigned int seed;
	unsigned int reads, wrong;
	int failed;	/* gup's error, if any */
};

static void *reader_main(void *arg)
{
	struct reader *reader = arg;
	struct memory *mem = reader->f->to;

	for (reader->reads = 0; reader->reads < 3000; reader->reads++) {
		uint64_t index =
			(uint64_t)rand_r(&reader->seed) % ((LOW_BYTES + HIGH_BYTES) / PAGE_BYTES);
		uint64_t gfn = index < LOW_BYTES / PAGE_BYTES ? index :
			       index - LOW_BYTES / PAGE_BYTES + HIGH_BASE / PAGE_BYTES;

		if (!page_is_right(mem, gfn))
			reader->wrong++;
	}
	return NULL;
}

static void readers_start(struct reader *reader, unsigned int n, struct fixture *f)
{
	unsigned int i;

	for (i = 0; i < n; i++) {
		reader[i] = (struct reader){ .f = f, .seed = i + 1 };
		assert_int_equal(pthread_create(&reader[i].thread, NULL, reader_main, &reader[i]),
				 0);
	}
}

static void readers_join(struct reader *reader, unsigned int n)
{
	unsigned int i;

	for (i = 0; i < n; i++) {
		pthread_join(reader[i].thread, NULL);
		assert_int_equal(reader[i].wrong, 0);
		assert_int_equal(reader[i].reads, 3000);
	}
}

#define NEEDS(f) do { if (!(f)) skip(); } while (0)

static void test_all_pages_arrive_while_threads_read(void **state)
{
	struct fixture *f = *state;
	struct reader reader[3];
	struct sender_stats sent;
	struct wire_source_stats got;

	NEEDS(f);
	start_source(f);
	readers_start(reader, 3, f);
	start_sender(f);
	side_wait(&f->at_to, f->at_to.complete);
	readers_join(reader, 3);
	for_each_page(check_page, f->to);
	sender_stats(f->sender, &sent);
	wire_source_stats(f->source, &got);
	assert_int_equal(sent.unsent, 0);
	assert_true(sent.pages_normal + sent.pages_zero >= sent.pages);
	assert_true(sent.pages_zero >= sent.pages / 3);
	assert_int_equal(f->at_from.lost, 0);
	assert_int_equal(f->at_to.lost, 0);
	assert_true(got.bytes <= sent.bytes);
}

static void test_urgent_pages_do_not_wait_for_a_limited_bulk(void **state)
{
	struct fixture *f = *state;
	struct reader reader[2];
	struct sender_stats sent;
	struct memory_stats left;
	int64_t start;

	NEEDS(f);
	sender_limit(f->sender, 1);	/* a byte a second, after the first burst */
	start_source(f);
	start_sender(f);
	readers_start(reader, 2, f);
	readers_join(reader, 2);
	memory_stats(f->to, &left);
	assert_true(left.missing > 0);	/* so it was not the bulk that brought them */
	sender_stats(f->sender, &sent);
	assert_true(sent.pages_urgent > 2000);
	/* And the limit can be lifted while the thread sleeps on it. */
	start = clock_now_ns();
	sender_limit(f->sender, 0);
	side_wait(&f->at_to, f->at_to.complete);
	assert_true(clock_now_ns() - start < 20 * NS_PER_SEC);
	for_each_page(check_page, f->to);
}

/* As recovery does it: what the destination lacks is what is to be sent. */
static void remark(struct fixture *f)
{
	const struct memory_region *regions;
	unsigned int i, n;
	uint64_t p;

	regions = memory_regions(f->to, &n);
	for (i = 0; i < n; i++)
		for (p = 0; p < regions[i].pages; p++) {
			gfn_t gfn = GFN(regions[i].first.v + p);
			bool here = memory_page_state(f->to, gfn) == PAGE_PRESENT;

			assert_int_equal(sender_mark_reported(f->sender, gfn, 1, &(uint8_t){ !here }, NULL), !here);
		}
}

static void test_links_cut_again_and_again_lose_nothing(void **state)
{
	struct fixture *f = *state;
	struct reader reader[3];
	struct memory_stats stats;
	int round;

	NEEDS(f);
	readers_start(reader, 3, f);
	for (round = 0; round < 8; round++) {
		uint64_t had;

		sender_limit(f->sender, 4000000);
		memory_stats(f->to, &stats);
		had = stats.filled;
		start_source(f);
		start_sender(f);
		/* Some pages come, then the link is cut, each time from another end. */
		do
			memory_stats(f->to, &stats);
		while (stats.filled < had + 200 && stats.missing > 0);
		shutdown(round & 1 ? f->fd_from[round / 2 & 1] : f->fd_to[round / 2 & 1],
			 SHUT_RDWR);
		end_source(f);
		sender_stop(f->sender);
		memory_stats(f->to, &stats);
		assert_int_equal(stats.requested, 0);
		fixture_close(f);
		fixture_connect(f);
		remark(f);
	}
	sender_limit(f->sender, 0);
	start_source(f);
	start_sender(f);
	side_wait(&f->at_to, f->at_to.complete);
	readers_join(reader, 3);
	for_each_page(check_page, f->to);
}

static void stop_source(void *source)
{
	wire_source_stop(source);
}

/* With a retry between the source and memory the links go and come, and memory need not know. */
static void test_a_stack_on_it_bridges_cut_links(void **state)
{
	const struct retry_config config = {
		.deadline_ns = 20 * NS_PER_MS, .deadline_max_ns = 100 * NS_PER_MS, .tries = 1, .pages_max = 64,
	};
	struct fixture *f = *state;
	struct reader reader[3];
	struct memory_stats stats;
	struct stack *stack;
	struct layer *layer;
	struct retry *retry;
	struct retry_stats retried;
	int round;

	NEEDS(f);
	assert_int_equal(retry_new(&retry, &config, NULL), 0);
	layer = retry_layer(retry);
	assert_int_equal(stack_new(&stack, memory_sink(f->to), &layer, 1,
				   wire_source_page_source(f->source), NULL),
			 0);
	assert_int_equal(stack_own(stack, stop_source, NULL, f->source), 0);
	memory_attach(f->to, stack_top(stack));
	readers_start(reader, 3, f);
	/* Nobody is there yet. */
	do
		retry_stats(retry, &retried);
	while (!retried.again);
	for (round = 0; round < 4; round++) {
		uint64_t had;

		sender_limit(f->sender, 4000000);
		memory_stats(f->to, &stats);
		had = stats.filled;
		start_source(f);
		start_sender(f);
		do
			memory_stats(f->to, &stats);
		while (stats.filled < had + 200 && stats.missing > 0);
		shutdown(f->fd_to[round & 1], SHUT_RDWR);
		end_source(f);
		sender_stop(f->sender);
		fixture_close(f);
		fixture_connect(f);
		remark(f);
	}
	sender_limit(f->sender, 0);
	start_source(f);
	start_sender(f);
	side_wait(&f->at_to, f->at_to.complete);
	readers_join(reader, 3);
	for_each_page(check_page, f->to);
	retry_stats(retry, &retried);
	assert_true(retried.asked > 0);
	assert_int_equal(retried.lost, 0);
	memory_detach(f->to);
	stack_free(stack);
}

static void test_a_cut_is_reported_once_with_its_connection(void **state)
{
	struct fixture *f = *state;

	NEEDS(f);
	start_source(f);
	shutdown(f->fd_from[1], SHUT_RDWR);
	side_wait(&f->at_to, f->at_to.lost);
	assert_non_null(strstr(f->at_to.err.text, "bulk connection"));
	shutdown(f->fd_from[0], SHUT_RDWR);
	end_source(f);
	assert_int_equal(f->at_to.lost, 1);
}

static void send_all(int fd, const void *data, size_t len)
{
	assert_int_equal(send(fd, data, len, MSG_NOSIGNAL), (ssize_t)len);
}

/* What the source sends here must be refused by the destination, and its memory stay as it was. */
static void expect_refused(struct fixture *f, const void *data, size_t len, const char *word)
{
	struct memory_stats stats;

	start_source(f);
	send_all(f->fd_from[1], data, len);
	side_wait(&f->at_to, f->at_to.lost);
	if (!strstr(f->at_to.err.text, word))
		fail_msg("'%s' lacks '%s'", f->at_to.err.text, word);
	end_source(f);
	memory_stats(f->to, &stats);
	assert_int_equal(stats.filled, 0);
	fixture_close(f);
	fixture_connect(f);
}

static void test_garbage_from_the_source_is_refused(void **state)
{
	struct fixture *f = *state;
	struct frame not_ram = { .type = FRAME_ZERO,
				 .count = 1,
				 .gfn = GFN(LOW_BYTES / PAGE_BYTES) };
	struct frame over_the_end = { .type = FRAME_ZERO,
				      .count = 2,
				      .gfn = GFN(LOW_BYTES / PAGE_BYTES - 1) };
	struct frame request = { .type = FRAME_REQUEST, .count = 1 };
	struct frame message = { .type = FRAME_MESSAGE, .payload_bytes = 1 };
	static uint8_t bytes[FRAME_BYTES + FRAME_PAGES_BYTES(1)];
	_Alignas(64) static uint8_t page[PAGE_BYTES];

	NEEDS(f);
	memset(bytes, 'x', sizeof(bytes));
	expect_refused(f, bytes, FRAME_BYTES, "no frame");
	frame_encode(&not_ram, bytes);
	expect_refused(f, bytes, FRAME_BYTES, "not this guest's RAM");
	frame_encode(&over_the_end, bytes);
	expect_refused(f, bytes, FRAME_BYTES, "not this guest's RAM");
	frame_encode(&request, bytes);
	expect_refused(f, bytes, FRAME_BYTES, "REQUEST");
	frame_encode(&message, bytes);
	expect_refused(f, bytes, FRAME_BYTES, "message");
	frame_encode_pages(bytes, GFN(5), 1, page);
	memcpy(bytes + FRAME_BYTES + FRAME_SUMS_BYTES(1), page, PAGE_BYTES);
	bytes[sizeof(bytes) - 1] ^= 1;
	expect_refused(f, bytes, sizeof(bytes), "damaged page 0x5");
}

static void test_garbage_from_the_destination_is_refused(void **state)
{
	struct fixture *f = *state;
	const struct frame bad[] = {
		{ .type = FRAME_REQUEST, .count = 1, .gfn = GFN(LOW_BYTES / PAGE_BYTES) },
		{ .type = FRAME_REQUEST, .count = 2, .gfn = GFN(LOW_BYTES / PAGE_BYTES - 1) },
		{ .type = FRAME_REQUEST, .count = 512, .gfn = GFN(FRAME_GFN_LIMIT - 512) },
		{ .type = FRAME_ZERO, .count = 1 },
		{ .type = FRAME_LOST, .count = 1 },
	};
	size_t i;

	NEEDS(f);
	for (i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		uint8_t head[FRAME_BYTES];

		frame_encode(&bad[i], head);
		start_sender(f);
		send_all(f->fd_to[0], head, sizeof(head));
		side_wait(&f->at_from, f->at_from.lost);
		assert_non_null(
			strstr(f->at_from.err.text, i < 3 ? "RAM" : "from the destination"));
		sender_stop(f->sender);
		fixture_close(f);
		fixture_connect(f);
	}
}

/*
 * A source that reads no requests: request() must go on returning at once, and
 * in the end give the link up.
 */
static void test_requests_never_block(void **state)
{
	struct fixture *f = *state;
	struct page_source *source = (struct page_source *)f->source;
	int64_t longest = 0;
	uint64_t i;
	int r = 0;

	NEEDS(f);
	start_source(f);
	for (i = 0; i < 1000000 && !r; i++) {
		int64_t start = clock_now_ns();

		r = source->ops->request(source, GFN(i % 4096), 1);
		if (clock_now_ns() - start > longest)
			longest = clock_now_ns() - start;
	}
	assert_int_equal(r, -ENOTCONN);
	assert_true(longest < NS_PER_SEC);
	side_wait(&f->at_to, f->at_to.lost);
	assert_non_null(strstr(f->at_to.err.text, "does not take requests"));
	assert_int_equal(source->ops->request(source, GFN(1), 1), -ENOTCONN);
}

/* Requests that had to queue are sent on, in order, once the source reads again. */
static void test_queued_requests_are_sent_later(void **state)
{
	struct fixture *f = *state;
	struct page_source *source = (struct page_source *)f->source;
	struct wire_source_stats stats;
	uint64_t i, sent = 0;

	NEEDS(f);
	start_source(f);
	do {
		assert_int_equal(source->ops->request(source, GFN(sent % 4096), 1), 0);
		sent++;
		wire_source_stats(f->source, &stats);
	} while (stats.queued_max < 100 * FRAME_BYTES);
	for (i = 0; i < sent; i++) {
		uint8_t head[FRAME_BYTES];
		struct frame frame;

		assert_int_equal(stream_receive(f->from_conn[0], head, sizeof(head), NULL, NULL),
				 0);
		assert_int_equal(frame_decode(&frame, head, NULL), 0);
		assert_int_equal(frame.gfn.v, i % 4096);
	}
	assert_int_equal(f->at_to.lost, 0);
}

/* Neither side's stop may wait for a far end that does nothing. */
static void test_stop_does_not_wait_for_the_far_end(void **state)
{
	struct fixture *f = *state;
	struct pollfd begun = { .fd = f->fd_to[1], .events = POLLIN };
	struct sender_stats stats;
	int64_t start;

	NEEDS(f);
	start_sender(f);
	/*
	 * It has begun; and then nothing fits any more, so that its next send,
	 * or the one that it is in, is stuck.
	 */
	assert_int_equal(poll(&begun, 1, 30000), 1);
	while (send(f->fd_from[1], "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1)
		;
	assert_true(errno == EAGAIN || errno == EWOULDBLOCK);
	sender_stats(f->sender, &stats);
	assert_true(stats.unsent > 0);
	start = clock_now_ns();
	sender_stop(f->sender);
	assert_true(clock_now_ns() - start < NS_PER_SEC);
	fixture_close(f);
	fixture_connect(f);
	start_source(f);
	start = clock_now_ns();
	end_source(f);
	assert_true(clock_now_ns() - start < NS_PER_SEC);
	assert_int_equal(f->at_from.lost, 0);
	assert_int_equal(f->at_to.lost, 0);
}

/*
 * What a destination says of any range of pages, against a bit a page; it
 * cannot have what was never sent.
 */
static void test_what_a_destination_says_it_has(void **state)
{
	enum { PAGES = 300 };
	struct fixture *f = *state;
	struct sender_stats stats;
	bool given[PAGES] = { false }, sent[PAGES] = { false }, lie;
	uint8_t bits[PAGES / 8 + 1];
	unsigned int round, first, n, i, missing, unsent, seed = 1;
	struct err err;
	int64_t r;

	NEEDS(f);
	for (round = 0; round < 20000; round++) {
		first = (unsigned int)rand_r(&seed) % PAGES;
		n = 1 + (unsigned int)rand_r(&seed) % (PAGES - first);
		if (rand_r(&seed) % 8 == 0) {
			n = n < 20 ? n : 20;
			assert_int_equal(sender_mark_given(f->sender, GFN(first), n), 0);
			for (i = first; i < first + n; i++)
				given[i] = sent[i] = true;
		}
		for (i = missing = 0, lie = false, memset(bits, 0, sizeof(bits)); i < n; i++) {
			/* Mostly the truth. */
			bool here = given[first + i] ? rand_r(&seed) % 2 : rand_r(&seed) % 400 == 0;

			bits[i / 8] |= (uint8_t)(!here << i % 8);
			lie |= here && !given[first + i];
			missing += !here;
		}
		r = sender_mark_reported(f->sender, GFN(first), n, bits, &err);
		assert_int_equal(r, lie ? -EBADMSG : (int64_t)missing);
		if (lie)	/* how far it got is left open: once more, and true */
			memset(bits, 0xff, sizeof(bits));
		if (lie)
			assert_int_equal(sender_mark_reported(f->sender, GFN(first), n, bits, NULL),
					 n);
		for (i = 0; i < n; i++)
			sent[first + i] = !(bits[i / 8] >> i % 8 & 1);
		sender_stats(f->sender, &stats);
		for (i = unsent = missing = 0; i < PAGES; i++) {
			unsent += !sent[i];
			missing += !given[i];
		}
		assert_int_equal(stats.unsent, stats.pages - PAGES + unsent);
		assert_int_equal(stats.never_sent, stats.pages - PAGES + missing);
	}
	assert_int_equal(
		sender_mark_reported(f->sender, GFN(LOW_BYTES / PAGE_BYTES - 1), 2, bits, NULL),
		-EFAULT);
	assert_int_equal(sender_mark_reported(f->sender, GFN(UINT64_MAX), 1, bits, NULL), -EFAULT);
	assert_int_equal(sender_mark_given(f->sender, GFN(LOW_BYTES / PAGE_BYTES), 1), -EFAULT);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TOY(name)                                               \
	{                                                       \
#name " (toy)", name, setup_toy, teardown, NULL \
	}
	const struct CMUnitTest tests[] = {
		T(test_what_a_destination_says_it_has),
		T(test_all_pages_arrive_while_threads_read),
		T(test_urgent_pages_do_not_wait_for_a_limited_bulk),
		T(test_links_cut_again_and_again_lose_nothing),
		T(test_a_stack_on_it_bridges_cut_links),
		T(test_a_cut_is_reported_once_with_its_connection),
		T(test_garbage_from_the_source_is_refused),
		T(test_garbage_from_the_destination_is_refused),
		T(test_requests_never_block),
		T(test_queued_requests_are_sent_later),
		T(test_stop_does_not_wait_for_the_far_end),
		TOY(test_all_pages_arrive_while_threads_read),
		TOY(test_urgent_pages_do_not_wait_for_a_limited_bulk),
		TOY(test_links_cut_again_and_again_lose_nothing),
		TOY(test_a_stack_on_it_bridges_cut_links),
		TOY(test_a_cut_is_reported_once_with_its_connection),
		TOY(test_requests_never_block),
		TOY(test_queued_requests_are_sent_later),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
