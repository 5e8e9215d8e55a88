// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "snapshot/boot_fetch.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/cond.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/thread.h"

/* The guest's first moments are its own: there is no thread before. */
#define DELAY_MS 30
#define PAUSE_NS (100 * NS_PER_MS)
#define PAUSE_MAX_NS (5 * NS_PER_SEC)

struct boot_fetch {
	struct machine *machine;
	struct image *image;
	const struct host_record *record;
	/* The main thread's. */
	uv_timer_t *later; /* begins it */
	pthread_t thread;
	bool begun; /* the thread is to be joined */
	bool awaited; /* machine_boot_found is due */

	pthread_mutex_t lock;		/* guards the rest */
	pthread_cond_t changed;
	bool done;
	bool gone;
	unsigned int refs;		/* this, and what was posted */
	struct boot_files files;	/* the thread's until it is done */
	struct err err;			/* until it is done: of the last attempt, or none */
};

static void fetch_put(struct boot_fetch *fetch)
{
	bool last;

	pthread_mutex_lock(&fetch->lock);
	last = !--fetch->refs;
	pthread_mutex_unlock(&fetch->lock);
	if (!last)
		return;
	boot_files_fini(&fetch->files);
	pthread_cond_destroy(&fetch->changed);
	pthread_mutex_destroy(&fetch->lock);
	free(fetch);
}

/* ---- the thread ---- */

static int fetch_write(int fd, const uint8_t *data, size_t len)
{
	ssize_t n;

	while (len) {
		n = write(fd, data, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		data += n;
		len -= (size_t)n;
	}
	return fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) <
			       0 ?
		       -errno :
		       0;
}

static int fetch_keep(struct boot_file *file, const char *what, const struct buf *data,
		      struct err *err)
{
	int r;

	file->path = strdup(what);
	file->fd = memfd_create(what, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	r = !file->path	 ? -ENOMEM :
	    file->fd < 0 ? -errno :
			   fetch_write(file->fd, data->data, data->len);
	return r < 0 ? err_errno(err, r, "keeping the image's %s", what) : 0;
}

static bool is_gone(struct boot_fetch *fetch)
{
	bool gone;

	pthread_mutex_lock(&fetch->lock);
	gone = fetch->gone;
	pthread_mutex_unlock(&fetch->lock);
	return gone;
}

/* Damage does not heal by asking again. */
static bool fetch_is_over(int r)
{
	return r == -EBADMSG || r == -ENOMEM || r == -EPROTO;
}

static void wait_a_little(struct boot_fetch *fetch, int64_t ns)
{
	int64_t until = clock_now_ns() + ns;

	pthread_mutex_lock(&fetch->lock);
	while (!fetch->gone && clock_now_ns() < until)
		cond_wait(&fetch->changed, &fetch->lock, until);
	pthread_mutex_unlock(&fetch->lock);
}

/* Who wants to know meanwhile is told why it has not come. */
static void fetch_note(struct boot_fetch *fetch, const struct err *err)
{
	pthread_mutex_lock(&fetch->lock);
	fetch->err = *err;
	pthread_mutex_unlock(&fetch->lock);
}

static int fetch_file(struct boot_fetch *fetch, struct boot_file *file, const char *what,
		      struct err *err)
{
	int64_t pause = PAUSE_NS;
	struct buf data = { 0 };
	uint64_t bytes;
	int r;

	/* None will ever come. */
	if (!image_has_object(fetch->image, what, &bytes))
		return err_set(err, -EBADMSG, "image %s has no object %s",
			       image_name(fetch->image), what);
	while ((r = image_get_object(fetch->image, what, &data, err)) < 0 && !fetch_is_over(r) &&
	       !is_gone(fetch)) {
		log_warn("what the guest reboots with has not come: %s; it is tried again",
			 err->text);
		fetch_note(fetch, err);
		data.len = 0;
		wait_a_little(fetch, pause);
		pause = pause * 2 < PAUSE_MAX_NS ? pause * 2 : PAUSE_MAX_NS;
	}
	if (r >= 0)
		r = fetch_keep(file, what, &data, err);
	buf_fini(&data);
	return r;
}

static int copy_line(char **to, const char *from, struct err *err)
{
	*to = from ? strdup(from) : NULL;
	return from && !*to ? err_set(err, -ENOMEM, "no memory for the command line") : 0;
}

static int fetch_all(struct boot_fetch *fetch, struct err *err)
{
	struct boot_files *files = &fetch->files;
	uint64_t bytes;
	int r;

	files->type = BOOT_FILES;
	r = copy_line(&files->cmdline, fetch->record->cmdline, err);
	if (!r)
		r = fetch_file(fetch, &files->kernel, IMAGE_BOOT_KERNEL, err);
	if (!r && image_has_object(fetch->image, IMAGE_BOOT_INITRD, &bytes))
		r = fetch_file(fetch, &files->initrd, IMAGE_BOOT_INITRD, err);
	return r;
}

/* ---- the main thread ---- */

static void fetch_tell(struct boot_fetch *fetch)
{
	if (fetch->awaited)
		machine_boot_found(fetch->machine, &fetch->files,
				   fetch->err.code ? &fetch->err : NULL);
	fetch->awaited = false;
}

static void fetch_on_done(void *arg)
{
	struct boot_fetch *fetch = arg;
	struct err err;

	if (!is_gone(fetch)) {
		if (fetch->err.code)
			log_error("what the guest reboots with cannot be had: %s", fetch->err.text);
		fetch_tell(fetch);
		if (!fetch->err.code && machine_boot_take(fetch->machine, &fetch->files, &err) < 0)
			log_error("%s", err.text);
	}
	fetch_put(fetch);
}

static void *fetch_main(void *arg)
{
	struct boot_fetch *fetch = arg;
	struct err err = { 0 };
	int r;

	pthread_setname_np(pthread_self(), "boot-fetch");
	thread_is_bulk();
	r = fetch_all(fetch, &err);
	pthread_mutex_lock(&fetch->lock);
	fetch->err = r < 0 ? err : (struct err){ 0 };
	fetch->done = true;
	fetch->refs++;
	pthread_mutex_unlock(&fetch->lock);
	loop_post(machine_loop(fetch->machine), fetch_on_done, fetch);
	return NULL;
}

static void fetch_begin(uv_timer_t *later)
{
	struct boot_fetch *fetch = later->data;
	int r = thread_start(&fetch->thread, fetch_main, fetch);

	fetch->begun = !r;
	if (!r)
		return;
	pthread_mutex_lock(&fetch->lock);
	err_errno(&fetch->err, r, "starting a thread for what the guest reboots with");
	fetch->done = true;
	fetch->refs++;
	pthread_mutex_unlock(&fetch->lock);
	fetch_on_done(fetch);
}

bool boot_fetch_is_done(struct boot_fetch *fetch, struct err *err)
{
	bool done;

	pthread_mutex_lock(&fetch->lock);
	done = fetch->done;
	*err = fetch->err;
	pthread_mutex_unlock(&fetch->lock);
	return done;
}

int boot_fetch_await(struct boot_fetch *fetch, struct err *err)
{
	fetch->awaited = !boot_fetch_is_done(fetch, err) || !err->code;
	return fetch->awaited ? 0 : err->code;
}

int boot_fetch_new(struct boot_fetch **out, struct machine *machine, struct image *image,
		   const struct host_record *record, struct err *err)
{
	struct boot_fetch *fetch = calloc(1, sizeof(*fetch));
	uv_loop_t *loop = loop_uv(machine_loop(machine));

	if (fetch)
		fetch->later = malloc(sizeof(*fetch->later));
	if (!fetch || !fetch->later) {
		free(fetch);
		return err_set(err, -ENOMEM, "no memory for what the guest reboots with");
	}
	fetch->machine = machine;
	fetch->image = image;
	fetch->record = record;
	fetch->refs = 1;
	boot_files_init(&fetch->files);
	pthread_mutex_init(&fetch->lock, NULL);
	cond_init(&fetch->changed);
	uv_timer_init(loop, fetch->later);
	fetch->later->data = fetch;
	/* From now, not from when the loop last looked: it may not have run yet. */
	uv_update_time(loop);
	uv_timer_start(fetch->later, fetch_begin, DELAY_MS, 0);
	*out = fetch;
	return 0;
}

void boot_fetch_free(struct boot_fetch *fetch)
{
	if (!fetch)
		return;
	pthread_mutex_lock(&fetch->lock);
	fetch->gone = true;
	pthread_cond_broadcast(&fetch->changed);
	pthread_mutex_unlock(&fetch->lock);
	loop_close((uv_handle_t *)fetch->later, fetch->later);
	if (fetch->begun)
		pthread_join(fetch->thread, NULL);
	fetch_put(fetch);
}
