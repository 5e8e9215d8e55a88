// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * qcow2.c - a qcow2 image, by a qemu-nbd of our own: it alone reads the format,
 * which is a hostile one, in a process of its own that can reach no file but
 * the image's (base/helper.h). Which those are is what the user says; they are
 * opened here (qcow2_image.h), and it opens them again by their descriptors. It
 * is told of nothing that a header names.
 *
 * The socket is made here, in a directory that nobody else can enter, and both
 * are removed as soon as we are connected, which is before qemu-nbd runs: it is
 * handed the listening socket (systemd's protocol, LISTEN_FDS), and finds us
 * waiting. So there is no moment at which another could connect, and nothing is
 * left behind. qemu-nbd ends when its one client goes, and with SIGTERM when we
 * die.
 *
 * qemu-nbd locks the image, and keeps what it has read of its tables. So on the
 * destination of a migration it is started only when the machine is about to
 * run; the size that the guest's configuration needs before that is read from
 * the image's header here.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/helper.h"
#include "base/log.h"
#include "device/disk/nbd.h"
#include "device/disk/qcow2_image.h"

#define PROGRAM "qemu-nbd"
#define END_PATIENCE_NS (2 * NS_PER_SEC)
#define ARGUMENTS_MAX 16

struct qcow2 {
	struct disk_config config;	/* a copy */
	struct loop *loop;
	bool uring, unconfined_reported;
	struct helper *child;		/* NULL: none */
	bool ending;			/* it was told to */
	int64_t asked_ns;		/* when */
};

/* Does io_uring work, for others than root, too (Linux 6.6: a sysctl)? */
static bool uring_works(void)
{
	int fd = open("/proc/sys/kernel/io_uring_disabled", O_RDONLY | O_CLOEXEC);
	struct io_uring ring;
	char setting = '0';

	if (fd >= 0 && read(fd, &setting, 1) != 1)
		setting = '0';
	if (fd >= 0)
		close(fd);
	if (setting != '0' || io_uring_queue_init(1, &ring, 0) < 0)
		return false;
	io_uring_queue_exit(&ring);
	return true;
}

/* ---- the child ---- */

/* It ends by itself when its client has gone, in good order; SIGTERM asks for the same. */
static void child_end(struct qcow2 *q)
{
	if (!q->child || q->ending)
		return;
	helper_ask_to_end(q->child);
	q->ending = true;
	q->asked_ns = clock_now_ns();
}

/* Is one that was told to end still there? What takes too long is killed. */
static bool ending(struct qcow2 *q)
{
	bool late = clock_now_ns() - q->asked_ns > END_PATIENCE_NS;

	if (!q->child)
		return false;
	if (late)
		helper_kill(q->child);
	if (helper_runs(q->child))
		return true;
	helper_free(q->child, 0);
	q->child = NULL;
	q->ending = false;
	return false;
}

/* What the child has said first, if anything: what follows are hints. */
static bool words_read(struct qcow2 *q, char *to, size_t room)
{
	char *text = q->child ? helper_said(q->child) : NULL;

	if (!text || !*text) {
		free(text);
		return false;
	}
	text[strcspn(text, "\n")] = '\0';
	snprintf(to, room, "%s", text);
	free(text);
	return *to;
}

static int child_start(struct qcow2 *q, const struct qcow2_image *image, int listener,
		       struct err *err)
{
	/* io_uring where it works; the kernel's older interface needs direct I/O. */
	const char *aio = q->uring	? "--aio=io_uring" :
			  image->direct ? "--aio=native" :
					  "--aio=threads";
	char json[QCOW2_JSON_BYTES];
	const char *words[ARGUMENTS_MAX] = {
		PROGRAM, image->direct ? "--cache=none" : "--cache=writeback", aio, "--discard=unmap", "--shared=1",
	};
	int fds[1 + QCOW2_FILES_MAX] = { listener };
	struct helper_config config = {
		.program = PROGRAM, .package = "qemu-utils", .words = (char *const *)words, .fds = fds, .n_fds = 1 + image->n,
		.flags = HELPER_CONFINED | HELPER_LISTENS,
	};
	unsigned int i, n = 5;
	int r;

	if (image->readonly)
		words[n++] = "--read-only";
	words[n++] = "--";
	qcow2_image_describe(image, HELPER_FD + 1, json);
	words[n] = json;
	for (i = 0; i < image->n; i++) {
		bool writable = !image->readonly && i < (image->data_file ? 2 : 1);

		fds[1 + i] = image->fd[i];
		*(writable ? &config.writable : &config.readable) |= 1u << (1 + i);
	}
	r = helper_start(&q->child, q->loop, &config, err);
	if (r < 0)
		return r == -ENOENT ? err_prefix(err, r, "qcow2") : r;
	if (!helper_is_confined(q->child) && !q->unconfined_reported)
		log_warn(
			"disk %s: its %s can open other files: there is neither Landlock nor a namespace for it here",
			q->config.path, PROGRAM);
	q->unconfined_reported = true;
	return 0;
}

/* ---- the socket ---- */

/* A listening socket and one that is connected to it. */
static int sockets_new(int *listener, int *client, struct err *err)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	const char *base = getenv("XDG_RUNTIME_DIR");
	char dir[80];
	int r = 0;

	if (!base || strlen(base) > 50 || access(base, W_OK) < 0)
		base = "/tmp";
	snprintf(dir, sizeof(dir), "%s/postern-nbd-XXXXXX", base);
	if (!mkdtemp(dir))
		return err_errno(err, -errno, "a directory for the socket to %s: %s", PROGRAM, dir);
	snprintf(at.sun_path, sizeof(at.sun_path), "%s/socket", dir);
	*listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	*client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (*listener < 0 || *client < 0 ||
	    bind(*listener, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(*listener, 1) < 0 ||
	    connect(*client, (struct sockaddr *)&at, sizeof(at)) < 0)
		r = err_errno(err, -errno, "the socket to %s", PROGRAM);
	unlink(at.sun_path);
	rmdir(dir);
	if (!r)
		return 0;
	if (*listener >= 0)
		close(*listener);
	if (*client >= 0)
		close(*client);
	return r;
}

/* ---- for nbd.c ---- */

/*
 * Not before the last one has gone, with all that it was asked to do: it could
 * undo what the next one does, and has the image locked.
 */
static int qcow2_connect(void *arg, int *wait, struct err *err)
{
	struct qcow2 *q = arg;
	struct qcow2_image image;
	int listener = -1, client = -1, r;

	(void)wait;
	child_end(q);
	if (ending(q))
		return err_set(err, -EAGAIN, "the last %s has not ended yet", PROGRAM);
	r = qcow2_image_open(&image, &q->config, err);
	if (r < 0)
		return r;
	r = sockets_new(&listener, &client, err);
	if (!r) {
		r = child_start(q, &image, listener, err);
		/* The child has its own: when it dies, so does the connection. */
		close(listener);
		if (r < 0)
			close(client);
	}
	qcow2_image_close(&image);
	return r < 0 ? r : client;
}

static void qcow2_lost(void *arg, char *why, size_t room)
{
	struct qcow2 *q = arg;

	if (why)
		words_read(q, why, room);
	child_end(q);
}

/*
 * For who lets another machine have the image: all is flushed. Half of the time
 * to end by itself, half to be killed.
 */
static void qcow2_end(void *arg)
{
	struct qcow2 *q = arg;

	child_end(q);
	if (!q->child || helper_wait(q->child, END_PATIENCE_NS))
		return;
	helper_kill(q->child);
	/* The kernel does something for it that takes so long. The image stays locked meanwhile. */
	if (!helper_wait(q->child, END_PATIENCE_NS))
		log_error(
			"disk %s: its %s does not end, though killed: let nobody else write to the image before it has",
			q->config.path, PROGRAM);
}

static void qcow2_free(void *arg)
{
	struct qcow2 *q = arg;

	child_end(q);
	/* Then it still writes; it has all that it needs for that, and nobody is to wait for it. */
	if (q->child && !helper_wait(q->child, END_PATIENCE_NS)) {
		log_warn("disk %s: its %s is still busy", q->config.path, PROGRAM);
		helper_leave(q->child);
	} else {
		helper_free(q->child, 0);
	}
	disk_config_fini(&q->config);
	free(q);
}

/* What it needs of the configuration whenever it is opened. */
static int config_copy(struct disk_config *to, const struct disk_config *from, struct err *err)
{
	bool all = true;
	unsigned int i;

	*to = (struct disk_config){ .format = from->format, .readonly = from->readonly, .path = strdup(from->path) };
	for (i = 0; i < from->backings; i++, to->backings++)
		all &= (to->backing[i] = strdup(from->backing[i])) != NULL;
	if (from->data_file)
		all &= (to->data_file = strdup(from->data_file)) != NULL;
	return all && to->path ? 0 : err_set(err, -ENOMEM, "no memory for a disk");
}

int qcow2_open(struct disk **out, const struct disk_config *config, const struct disk_env *env,
	       struct err *err)
{
	struct qcow2 *q = calloc(1, sizeof(*q));
	struct nbd_origin origin = {
		.connect = qcow2_connect, .lost = qcow2_lost, .end = qcow2_end, .free = qcow2_free, .arg = q,
		.export_name = "", .ours = true,
	};
	struct qcow2_image image = { 0 };
	int r;

	if (!q)
		return err_set(err, -ENOMEM, "no memory for a disk");
	q->loop = env->loop;
	r = config_copy(&q->config, config, err);
	if (!r)
		r = qcow2_image_open(&image, &q->config, err);
	if (r < 0) {
		qcow2_free(q);
		return r;
	}
	origin.bytes = image.bytes;
	qcow2_image_close(&image);
	q->uring = uring_works();
	return nbd_open_at(out, config, env, &origin, err);
}
