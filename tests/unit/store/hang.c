// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// A FUSE server of few words: what it is asked is answered at once, or held. See hang.h.
#include "hang.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROOT 1
#define SLOW 2
#define WRITTEN 3
#define BUFFER_BYTES (1 << 20)

static void answer(int fd, uint64_t unique, int error, const void *data, size_t len)
{
	struct fuse_out_header head = {
		.len = (uint32_t)(sizeof(head) + len),
		.error = -error,
		.unique = unique,
	};
	struct iovec iov[] = { { &head, sizeof(head) }, { (void *)data, len } };

	/* Fails where the asker is gone. */
	if (writev(fd, iov, 2) < 0 && errno != ENOENT && errno != ENODEV)
		abort();
}

static struct fuse_attr attr_of(uint64_t node)
{
	return (struct fuse_attr){
		.ino = node,
		.size = node == SLOW ? HANG_BYTES : 0,
		.mode = node == ROOT ? S_IFDIR | 0700 : S_IFREG | 0600,
		.nlink = 1,
		.uid = geteuid(),
		.gid = getegid(),
		.blksize = 4096,
	};
}

static struct fuse_entry_out entry_of(uint64_t node)
{
	/* What was written is found by its name until that is used for something else. */
	return (struct fuse_entry_out){
		.nodeid = node,
		.entry_valid = node == WRITTEN ? 1000 : 0,
		.attr = attr_of(node),
	};
}

static void answer_init(int fd, const struct fuse_in_header *in)
{
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION,
		.minor = FUSE_KERNEL_MINOR_VERSION,
		.max_readahead = 65536,
		.max_background = 64,
		.congestion_threshold = 64,
		.max_write = 65536,
	};

	answer(fd, in->unique, 0, &out, sizeof(out));
}

static void answer_created(int fd, const struct fuse_in_header *in)
{
	struct {
		struct fuse_entry_out entry;
		struct fuse_open_out open;
	} out = { .entry = entry_of(WRITTEN) };

	answer(fd, in->unique, 0, &out, sizeof(out));
}

static void answer_read(int fd, const struct fuse_in_header *in, const struct fuse_read_in *read)
{
	static uint8_t zeros[HANG_BYTES];
	uint64_t left = read->offset < HANG_BYTES ? HANG_BYTES - read->offset : 0;

	answer(fd, in->unique, 0, zeros, left < read->size ? left : read->size);
}

static void answer_one(int fd, const struct fuse_in_header *in)
{
	const void *body = in + 1;
	struct fuse_attr_out attr = { .attr = attr_of(in->nodeid) };
	struct fuse_entry_out entry = entry_of(SLOW);
	struct fuse_open_out opened = { 0 };
	struct fuse_write_out written = { 0 };

	switch (in->opcode) {
	case FUSE_INIT:
		answer_init(fd, in);
		return;
	case FUSE_LOOKUP:
		if (strcmp(body, "slow"))
			answer(fd, in->unique, ENOENT, NULL, 0);
		else
			answer(fd, in->unique, 0, &entry, sizeof(entry));
		return;
	case FUSE_GETATTR:
		answer(fd, in->unique, 0, &attr, sizeof(attr));
		return;
	case FUSE_OPEN:
	case FUSE_OPENDIR:
		answer(fd, in->unique, 0, &opened, sizeof(opened));
		return;
	case FUSE_READ:
		answer_read(fd, in, body);
		return;
	case FUSE_CREATE:
		answer_created(fd, in);
		return;
	case FUSE_WRITE:
		written.size = ((const struct fuse_write_in *)body)->size;
		answer(fd, in->unique, 0, &written, sizeof(written));
		return;
	case FUSE_READDIR:
	case FUSE_RELEASE:
	case FUSE_RELEASEDIR:
	case FUSE_FLUSH:
	case FUSE_FSYNC:
	case FUSE_FSYNCDIR:
	case FUSE_UNLINK:
	case FUSE_RENAME:
		answer(fd, in->unique, 0, NULL, 0);
		return;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		return;
	default:
		answer(fd, in->unique, ENOSYS, NULL, 0);
	}
}

/* Nothing is to be held any more. With the lock held. */
static void let_go(struct hang *hang)
{
	unsigned int i;

	for (i = 0; i < hang->held; i++)
		answer(hang->fd, hang->unique[i], EIO, NULL, 0);
	hang->held = 0;
	pthread_cond_broadcast(&hang->cond);
}

static bool hold(struct hang *hang, const struct fuse_in_header *in)
{
	bool held;

	pthread_mutex_lock(&hang->lock);
	if (!hang->opcode)
		let_go(hang);
	held = hang->opcode == in->opcode && hang->held < HANG_REQUESTS;
	if (held) {
		hang->unique[hang->held++] = in->unique;
		pthread_cond_broadcast(&hang->cond);
	}
	pthread_mutex_unlock(&hang->lock);
	return held;
}

static void serve(struct hang *hang)
{
	struct fuse_in_header *in = malloc(BUFFER_BYTES);
	ssize_t n;

	/* Ends when it is unmounted. */
	while (in &&
	       ((n = read(hang->fd, in, BUFFER_BYTES)) > 0 || errno == EINTR || errno == ENOENT)) {
		if (n <= 0 || hold(hang, in))
			continue;
		answer_one(hang->fd, in);
	}
	_exit(0);
}

/* Mounts of ours that nobody else sees, and that end with this process. */
static bool own_mounts(void)
{
	if (unshare(CLONE_NEWNS) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
		return false;
	return !mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
}

static struct hang *shared_new(const char *path)
{
	struct hang *hang = mmap(NULL, sizeof(*hang), PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_mutexattr_t lock;
	pthread_condattr_t cond;

	if (hang == MAP_FAILED)
		abort();
	hang->path = path;
	pthread_mutexattr_init(&lock);
	pthread_mutexattr_setpshared(&lock, PTHREAD_PROCESS_SHARED);
	pthread_mutex_init(&hang->lock, &lock);
	pthread_condattr_init(&cond);
	pthread_condattr_setpshared(&cond, PTHREAD_PROCESS_SHARED);
	pthread_cond_init(&hang->cond, &cond);
	return hang;
}

struct hang *hang_start(const char *path, const char **why)
{
	struct hang *hang = shared_new(path);
	char options[128];
	pid_t pid;

	*why = "no mounts of our own here";
	if (!own_mounts())
		return NULL;
	*why = "no FUSE here";
	hang->fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (hang->fd < 0)
		return NULL;
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=%u,group_id=%u", hang->fd,
		 (unsigned int)geteuid(), (unsigned int)getegid());
	if (mount("hang", path, "fuse.hang", MS_NOSUID | MS_NODEV, options) < 0) {
		close(hang->fd);
		return NULL;
	}
	pid = fork();
	if (pid < 0)
		abort();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		serve(hang);
	}
	hang->pid = pid;
	/* The server's alone: so that its death ends the file system. */
	close(hang->fd);
	return hang;
}

void hang_on(struct hang *hang, uint32_t opcode)
{
	pthread_mutex_lock(&hang->lock);
	hang->opcode = opcode;
	pthread_mutex_unlock(&hang->lock);
}

void hang_wait(struct hang *hang, unsigned int n)
{
	pthread_mutex_lock(&hang->lock);
	while (hang->held < n)
		pthread_cond_wait(&hang->cond, &hang->lock);
	pthread_mutex_unlock(&hang->lock);
}

unsigned int hang_held(struct hang *hang)
{
	unsigned int held;

	pthread_mutex_lock(&hang->lock);
	held = hang->held;
	pthread_mutex_unlock(&hang->lock);
	return held;
}

void hang_release(struct hang *hang)
{
	struct stat st;

	pthread_mutex_lock(&hang->lock);
	hang->opcode = 0;
	pthread_mutex_unlock(&hang->lock);
	/* The server lets go when the next request comes, which is this at the latest. */
	stat(hang->path, &st);
	pthread_mutex_lock(&hang->lock);
	while (hang->held)
		pthread_cond_wait(&hang->cond, &hang->lock);
	pthread_mutex_unlock(&hang->lock);
}

void hang_stop(struct hang *hang)
{
	umount2(hang->path, MNT_DETACH);
	kill(hang->pid, SIGKILL);
	waitpid(hang->pid, NULL, 0);
	munmap(hang, sizeof(*hang));
}
