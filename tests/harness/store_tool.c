// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * A store's verbs as a program, for tests against real servers:
 *
 *   store-tool [OPTION...] URL get OBJECT OFFSET LEN     to standard output
 *   store-tool [OPTION...] URL up-to OBJECT OFFSET LEN   the same, as many bytes as there are
 *   store-tool [OPTION...] URL put|new OBJECT            from standard input
 *   store-tool [OPTION...] URL delete OBJECT
 *   store-tool [OPTION...] URL list|shallow PREFIX       "OBJECT BYTES" a line
 *   store-tool [OPTION...] URL time OBJECT LEN COUNT     microseconds of COUNT urgent gets in turn
 *   store-tool [OPTION...] URL flood OBJECT LEN COUNT    MB/s of COUNT gets, 8 at a time
 *   store-tool [OPTION...] URL beside OBJECT LEN COUNT   as time, beside a flood of 1 MiB gets
 *
 * Options: --credentials FILE, --attempts N, --attempt-ms N, --deadline-ms N. Exits with 1 and the
 * error, "NAME-OF-ERRNO TEXT", on standard error.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/cond.h"
#include "store/store.h"

#define AT_ONCE 8u
#define FLOOD_BYTES (1u << 20)

static int report(int64_t r, const struct err *err)
{
	if (r >= 0)
		return 0;
	fprintf(stderr, "%s %s\n", strerrorname_np((int)-r), err->text);
	return 1;
}

static int tool_get(struct store *store, char **words, unsigned int flags)
{
	size_t len = strtoull(words[2], NULL, 0);
	uint8_t *data = malloc(len + 1);
	struct err err;
	int64_t r = store_get(store, NULL, words[0], strtoull(words[1], NULL, 0), data, len, flags,
			      &err);

	if (r > 0 && fwrite(data, 1, (size_t)r, stdout) != (size_t)r)
		return 1;
	free(data);
	return report(r, &err);
}

static int tool_put(struct store *store, char **words, unsigned int flags)
{
	struct buf buf = { 0 };
	struct err err;
	uint8_t *room;
	size_t n;
	int64_t r;

	do {
		room = buf_reserve(&buf, 1 << 20);
		if (!room)
			return 1;
		n = fread(room, 1, 1 << 20, stdin);
		buf.len += n;
	} while (n);
	r = store_put(store, NULL, words[0], buf.data, buf.len, flags, &err);
	buf_fini(&buf);
	return report(r, &err);
}

static void print_name(void *arg, const char *object, uint64_t bytes)
{
	(void)arg;
	printf("%s %" PRIu64 "\n", object, bytes);
}

static int tool_list(struct store *store, char **words, unsigned int flags)
{
	struct err err;

	return report(store_list(store, NULL, words[0], flags, print_name, NULL, &err), &err);
}

static int tool_delete(struct store *store, char **words, unsigned int flags)
{
	struct err err;

	(void)flags;
	return report(store_delete(store, NULL, words[0], &err), &err);
}

/* ---- measurements ---- */

static int compare_times(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

static int tool_time(struct store *store, char **words, unsigned int flags)
{
	size_t len = strtoull(words[1], NULL, 0), count = strtoull(words[2], NULL, 0), i;
	int64_t *ns = calloc(count + 1, sizeof(*ns)), from, r = 0;
	uint8_t *data = malloc(len + 1);
	struct err err;

	(void)flags;
	for (i = 0; i < count && r >= 0; i++) {
		from = clock_now_ns();
		r = store_get(store, NULL, words[0], i * 65536 % (32 << 20), data, len,
			      STORE_URGENT, &err);
		ns[i] = clock_now_ns() - from;
	}
	qsort(ns, count, sizeof(*ns), compare_times);
	if (r >= 0)
		printf("p50 %" PRId64 " us, p99 %" PRId64 " us, longest %" PRId64 " us\n",
		       ns[count / 2] / 1000, ns[count * 99 / 100] / 1000, ns[count - 1] / 1000);
	free(ns);
	free(data);
	return report(r, &err);
}

struct flood {
	struct store *store;
	const char *object;
	size_t len;
	pthread_mutex_t lock;
	pthread_cond_t ended;
	size_t left, under_way;
	bool endless;
	struct err err;
	struct store_request request[AT_ONCE];
};

static void flood_begin(struct flood *flood, struct store_request *request)
{
	void *data = request->data;

	*request = (struct store_request){ .verb = STORE_GET, .object = flood->object, .data = data,
					   .len = flood->len, .done = request->done, .arg = flood };
	store_begin(flood->store, request);
}

static void flood_done(struct store_request *request)
{
	struct flood *flood = request->arg;
	bool more;

	pthread_mutex_lock(&flood->lock);
	if (request->result < 0) {
		flood->err = request->err;
		flood->left = 0;
	}
	more = flood->left;
	flood->left -= more && !flood->endless;
	flood->under_way -= !more;
	pthread_cond_broadcast(&flood->ended);
	pthread_mutex_unlock(&flood->lock);
	if (more)
		flood_begin(flood, request);
}

static void flood_start(struct flood *flood, struct store *store, const char *object, size_t len,
			size_t count)
{
	unsigned int i;

	memset(flood, 0, sizeof(*flood));
	flood->store = store;
	flood->object = object;
	flood->len = len;
	pthread_mutex_init(&flood->lock, NULL);
	cond_init(&flood->ended);
	flood->left = count ? count : 1;
	flood->endless = !count;
	flood->under_way = AT_ONCE;
	for (i = 0; i < AT_ONCE; i++) {
		flood->request[i].data = malloc(len);
		flood->request[i].done = flood_done;
		flood_begin(flood, &flood->request[i]);
	}
}

static void flood_end(struct flood *flood)
{
	unsigned int i;

	pthread_mutex_lock(&flood->lock);
	while (flood->under_way)
		pthread_cond_wait(&flood->ended, &flood->lock);
	pthread_mutex_unlock(&flood->lock);
	for (i = 0; i < AT_ONCE; i++)
		free(flood->request[i].data);
}

static int tool_flood(struct store *store, char **words, unsigned int flags)
{
	size_t len = strtoull(words[1], NULL, 0), count = strtoull(words[2], NULL, 0);
	int64_t from = clock_now_ns();
	struct flood flood;
	double seconds;

	(void)flags;
	flood_start(&flood, store, words[0], len, count);
	flood_end(&flood);
	seconds = (double)(clock_now_ns() - from) / 1e9;
	printf("%.0f MB/s, %.0f gets/s\n", (double)(len * count) / seconds / 1e6,
	       (double)count / seconds);
	return report(flood.err.code, &flood.err);
}

static int tool_beside(struct store *store, char **words, unsigned int flags)
{
	struct flood flood;
	int r;

	flood_start(&flood, store, words[0], FLOOD_BYTES, 0);
	r = tool_time(store, words, flags);
	pthread_mutex_lock(&flood.lock);
	flood.left = 0;
	pthread_mutex_unlock(&flood.lock);
	flood_end(&flood);
	return r | report(flood.err.code, &flood.err);
}

static const struct {
	const char *name;
	int words;
	int (*run)(struct store *store, char **words, unsigned int flags);
	unsigned int flags;
} verbs[] = {
	{ "get", 3, tool_get, 0 },
	{ "up-to", 3, tool_get, STORE_UP_TO },
	{ "put", 1, tool_put, 0 },
	{ "new", 1, tool_put, STORE_NEW },
	{ "delete", 1, tool_delete, 0 },
	{ "list", 1, tool_list, 0 },
	{ "shallow", 1, tool_list, STORE_SHALLOW },
	{ "time", 3, tool_time, 0 },
	{ "flood", 3, tool_flood, 0 },
	{ "beside", 3, tool_beside, 0 },
};

static int run(const char *url, char **words, int n, const struct store_options *options)
{
	struct store *store;
	struct err err;
	size_t i;
	int r;

	for (i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
		if (n != verbs[i].words + 1 || strcmp(words[0], verbs[i].name))
			continue;
		r = store_open(&store, url, options, &err);
		if (r < 0)
			return report(r, &err);
		r = verbs[i].run(store, words + 1, verbs[i].flags);
		store_free(store);
		return r;
	}
	fprintf(stderr, "store-tool: no such verb\n");
	return 2;
}

int main(int argc, char **argv)
{
	static const struct option names[] = {
		{ "credentials", required_argument, NULL, 'c' },
		{ "attempts", required_argument, NULL, 'a' },
		{ "attempt-ms", required_argument, NULL, 'm' },
		{ "deadline-ms", required_argument, NULL, 'd' },
		{ NULL, 0, NULL, 0 },
	};
	struct store_options options = { 0 };
	int c;

	while ((c = getopt_long(argc, argv, "+", names, NULL)) != -1) {
		switch (c) {
		case 'c':
			options.credentials = optarg;
			break;
		case 'a':
			options.attempts = (unsigned int)strtoul(optarg, NULL, 0);
			break;
		case 'm':
			options.attempt_ms = (unsigned int)strtoul(optarg, NULL, 0);
			break;
		case 'd':
			options.deadline_ms = (unsigned int)strtoul(optarg, NULL, 0);
			break;
		default:
			return 2;
		}
	}
	if (argc - optind < 3)
		return 2;
	return run(argv[optind], argv + optind + 1, argc - optind - 1, &options);
}
