// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Processes that save, compact, delete and collect images in one folder, beside
 * each other, and are killed at any moment. Whatever is a whole image then is right
 * in every page; what is not, gc finds, and leaves nothing behind. What an image
 * holds follows from its name: "b7" is made from 7, "b7-3" from that and 3 on top;
 * "b7-3.c" is the same, compacted.
 *
 * POSTERN_SEED repeats a run (as far as timing lets it), POSTERN_ROUNDS makes it longer.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "image/operations.h"
#include "model.h"
#include "../tsan.h"

#define IMAGES_MAX 64
#define WORKERS 2

struct names {
	char name[IMAGES_MAX][64];
	unsigned int n;
};

static void on_image(void *arg, const char *name)
{
	struct names *names = arg;

	if (names->n < IMAGES_MAX)
		snprintf(names->name[names->n++], 64, "%s", name);
}

/* What an image of that name holds. */
static void model_of(struct model *model, const char *name)
{
	char *end;
	uint64_t seed = strtoull(name + 1, &end, 10);

	model_init(model, 2, 0, seed);
	model_fill(model, seed % 2);
	while (*end == '-') {
		memset(model->changed, 0, model->pages);
		model->state = strtoull(end + 1, &end, 10);
		model_touch(model, 40);
	}
}

/* ---- a worker ---- */

/* May two who know nothing of each other meet this? */
static bool is_fair(int r)
{
	return !r || r == -ENOENT || r == -EEXIST || r == -EBUSY || r == -ESTALE;
}

static void insist(int r, const char *what, const char *name, const struct err *err)
{
	if (is_fair(r))
		return;
	fprintf(stderr, "%s %s: %d: %s\n", what, name, r, err->text);
	_exit(1);
}

static void do_save(struct store *store, struct model *random)
{
	static const struct image_writer_config config = { .pack_bytes = 1 << 20 };
	struct model model;
	char name[64];
	struct err err;

	snprintf(name, sizeof(name), "b%u", (unsigned int)model_random(random, 100));
	model_of(&model, name);
	insist(model_save(&model, store, name, NULL, &config, &err), "save", name, &err);
	model_fini(&model);
}

static void do_save_child(struct store *store, struct model *random, const char *parent_name)
{
	struct image *parent;
	struct model model;
	char name[64];
	struct err err;
	int r;

	if (strchr(parent_name, '.') || strlen(parent_name) > 40)
		return;
	r = image_open(&parent, store, NULL, parent_name, NULL, &err);
	insist(r, "open", parent_name, &err);
	if (r)
		return;
	snprintf(name, sizeof(name), "%s-%u", parent_name, (unsigned int)model_random(random, 9));
	model_of(&model, name);
	insist(model_save(&model, store, name, parent, NULL, &err), "save", name, &err);
	model_fini(&model);
	image_free(parent);
}

static void do_compact(struct store *store, const char *name)
{
	char to[80];
	struct err err;

	if (strchr(name, '.'))
		return;
	snprintf(to, sizeof(to), "%s.c", name);
	insist(image_compact(store, NULL, name, to, NULL, &err), "compact", name, &err);
}

static void do_one(struct store *store, struct model *random)
{
	struct image_gc_result result;
	struct names names = { .n = 0 };
	const char *name;
	struct err err;

	if (image_list(store, NULL, on_image, &names, &err))
		insist(-EIO, "list", "", &err);
	name = names.n ? names.name[model_random(random, names.n)] : "";
	if (!names.n || model_random(random, 6) == 0)
		do_save(store, random);
	else if (names.n > 12 || model_random(random, 5) == 0)
		insist(image_delete(store, NULL, name, &err), "delete", name, &err);
	else if (model_random(random, 4) == 0)
		insist(image_gc(store, NULL, NULL, &result, &err), "gc", "", &err);
	else if (model_random(random, 3) == 0)
		do_compact(store, name);
	else
		do_save_child(store, random, name);
}

_Noreturn static void worker(const char *folder, uint64_t seed)
{
	struct model random = { .state = seed };
	struct store *store;
	struct err err;

	if (store_open(&store, folder, NULL, &err))
		_exit(1);
	for (;;)
		do_one(store, &random);
}

/* ---- who watches ---- */

static void check_one(struct store *store, const char *name)
{
	struct image *image;
	struct model model;
	struct err err;

	if (image_open(&image, store, NULL, name, NULL, &err))
		fail_msg("%s: %s", name, err.text);
	model_of(&model, name);
	model_compare(&model, image);
	model_fini(&model);
	image_free(image);
}

static unsigned int check_all(struct store *store)
{
	struct names names = { .n = 0 };
	struct err err;
	unsigned int i;

	assert_int_equal(image_list(store, NULL, on_image, &names, &err), 0);
	for (i = 0; i < names.n; i++)
		check_one(store, names.name[i]);
	return names.n;
}

/* All workers are dead: gc cleans up after them, and finds nothing more. */
static uint64_t check_gc(struct store *store)
{
	struct image_gc_result result, again;
	struct err err;

	if (image_gc(store, NULL, NULL, &result, &err))
		fail_msg("%s", err.text);
	assert_int_equal(image_gc(store, NULL, NULL, &again, &err), 0);
	assert_int_equal(again.objects, 0);
	assert_int_equal(again.claims, 0);
	return result.objects + result.claims;
}

static void reap(pid_t child, bool killed)
{
	int status;

	assert_int_equal(waitpid(child, &status, 0), child);
	if (killed ? !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL : status)
		fail_msg("a worker has ended by itself: status 0x%x", status);
}

static void run_round(const char *folder, struct model *random)
{
	struct timespec pause = { 0, (long)(1000000 + model_random(random, 250000000)) };
	pid_t child[WORKERS];
	unsigned int i;

	for (i = 0; i < WORKERS; i++) {
		uint64_t seed = model_random(random, UINT64_MAX);

		child[i] = fork();
		if (!child[i])
			worker(folder, seed);
	}
	/* Any moment is as good as another: it is waited for none. */
	nanosleep(&pause, NULL);
	for (i = 0; i < WORKERS; i++) {
		kill(child[i], SIGKILL);
		reap(child[i], true);
	}
}

static void remove_folder(const char *folder)
{
	pid_t child = fork();

	if (!child) {
		execlp("rm", "rm", "-rf", folder, (char *)NULL);
		_exit(1);
	}
	reap(child, false);
}

static void test_whoever_is_killed_whenever_images_are_whole(void **state)
{
	const char *seed = getenv("POSTERN_SEED"), *rounds = getenv("POSTERN_ROUNDS");
	struct model random = { .state =
					seed ? strtoull(seed, NULL, 0) : (uint64_t)clock_now_ns() };
	unsigned int n = rounds ? (unsigned int)atoi(rounds) : 12, i, images = 0;
	char folder[] = "/tmp/postern-test-XXXXXX";
	uint64_t removed = 0;
	struct store *store;
	struct err err;

	(void)state;
	skip_if_no_children();
	print_message("POSTERN_SEED=%llu\n", (unsigned long long)random.state);
	assert_non_null(mkdtemp(folder));
	assert_int_equal(store_open(&store, folder, NULL, &err), 0);
	for (i = 0; i < n; i++) {
		run_round(folder, &random);
		images += check_all(store);
		removed += check_gc(store);
		check_all(store);
	}
	print_message("%u rounds, %u images looked at, %llu objects of the dead removed\n", n,
		      images, (unsigned long long)removed);
	assert_true(images && removed);
	store_free(store);
	remove_folder(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_whoever_is_killed_whenever_images_are_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
