// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * qcow2.c - a qcow2 image, by a qemu-nbd of our own: it alone reads the format, which is a hostile one, in a process of its own.
 *
 * The socket is made here, in a directory that nobody else can enter, and both are removed as soon as we are connected, which is before
 * qemu-nbd runs: it is handed the listening socket (systemd's protocol, LISTEN_FDS), and finds us waiting. So there is no moment at which
 * another could connect, and nothing is left behind. qemu-nbd ends when its one client goes, and with SIGTERM when we die.
 *
 * qemu-nbd locks the image, and keeps what it has read of its tables. So on the destination of a migration it is started only when the
 * machine is about to run; the size that the guest's configuration needs before that is read from the image's header here.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "device/disk/nbd.h"

#define PROGRAM "qemu-nbd"
/* Of those that were told to end: more than that are waited for. */
#define ENDING_MAX 4
#define END_PATIENCE_NS (2 * NS_PER_SEC)
/* The first that LISTEN_FDS means. */
#define LISTEN_FD 3
#define ARGUMENTS_MAX 16

struct qcow2 {
	char *path;			/* absolute: no protocol of QEMU's, whatever it is called */
	char program[512];
	bool readonly, direct, uring;
	pid_t child, ending[ENDING_MAX];	/* 0: none */
	int said;			/* its standard error, a file in memory; -1: none */
};

/* ---- the image ---- */

/* The disk's size, out of the header (QEMU's docs/interop/qcow2.txt): magic, version, ..., at 24 the size. */
static int header_read(struct qcow2 *q, uint64_t *bytes, struct err *err)
{
	int fd = open(q->path, (q->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK);
	uint8_t header[32];
	struct stat st;
	ssize_t n;

	if (fd < 0)
		return err_errno(err, -errno, "opening it");
	n = fstat(fd, &st) < 0 || (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) ? -1 : pread(fd, header, sizeof(header), 0);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	close(fd);
	if (n < (ssize_t)sizeof(header) || memcmp(header, "QFI\xfb", 4) != 0)
		return err_set(err, -EINVAL, "it is no qcow2 image");
	memcpy(bytes, header + 24, sizeof(*bytes));
	*bytes = be64toh(*bytes) & ~(uint64_t)(DISK_SECTOR_BYTES - 1);
	if (!*bytes || *bytes > INT64_MAX)
		return err_set(err, -EINVAL, "its header says that the disk has %llu bytes", (unsigned long long)*bytes);
	fd = open(q->path, (q->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_DIRECT);
	q->direct = fd >= 0;
	if (fd >= 0)
		close(fd);
	return 0;
}

/* As a shell would find it. */
static int program_find(char *path, size_t room, struct err *err)
{
	const char *at = getenv("PATH"), *end;

	for (at = at ? at : "/usr/bin:/bin"; *at; at = *end ? end + 1 : end) {
		end = strchrnul(at, ':');
		if (end > at && (size_t)snprintf(path, room, "%.*s/%s", (int)(end - at), at, PROGRAM) < room && !access(path, X_OK))
			return 0;
	}
	return err_set(err, -ENOENT, "qcow2 needs the program %s: apt install qemu-utils", PROGRAM);
}

static bool uring_works(void)
{
	struct io_uring ring;

	if (io_uring_queue_init(1, &ring, 0) < 0)
		return false;
	io_uring_queue_exit(&ring);
	return true;
}

/* ---- the child ---- */

static void children_reap(struct qcow2 *q)
{
	unsigned int i;

	for (i = 0; i < ENDING_MAX; i++)
		if (q->ending[i] && waitpid(q->ending[i], NULL, WNOHANG) != 0)
			q->ending[i] = 0;
}

/* It ends by itself when its client has gone, in good order; SIGTERM asks for the same. */
static void child_end(struct qcow2 *q)
{
	unsigned int i;

	children_reap(q);
	if (!q->child)
		return;
	for (i = 0; i < ENDING_MAX && q->ending[i]; i++)
		;
	kill(q->child, i < ENDING_MAX ? SIGTERM : SIGKILL);
	if (i < ENDING_MAX)
		q->ending[i] = q->child;
	else
		waitpid(q->child, NULL, 0);
	q->child = 0;
}

/* What the child has said first, if anything: what follows are hints. */
static bool words_read(struct qcow2 *q, char *to, size_t room)
{
	char text[512];
	ssize_t n = q->said >= 0 ? pread(q->said, text, sizeof(text) - 1, 0) : 0;

	if (n <= 0)
		return false;
	text[n] = '\0';
	text[strcspn(text, "\n")] = '\0';
	snprintf(to, room, "%s", text);
	return *to;
}

/*
 * In the child, which shares our memory until it executes: nothing but system calls. fork would copy the page tables of a whole guest,
 * and posix_spawn knows nothing of the parent's death.
 */
static void __attribute__((noreturn)) child_run(char *const *argv, char *const *envp, char *pid_at, int listener, int said, pid_t parent)
{
	sigset_t none;
	pid_t pid = getpid();
	char digits[16], *d = digits + sizeof(digits);
	int fd;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	/* A terminal's Ctrl-C is for us, who then end it in order. */
	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		_exit(1);
	for (*--d = '\0'; pid; pid /= 10)
		*--d = (char)('0' + pid % 10);
	while ((*pid_at++ = *d++))
		;
	fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	/* The listener is above 2 for sure, and said may be anything above 2: a copy out of the way first. */
	said = fcntl(said, F_DUPFD_CLOEXEC, LISTEN_FD + 1);
	if (fd < 0 || said < 0 || dup2(fd, 0) < 0 || dup2(said, 1) < 0 || dup2(said, 2) < 0)
		_exit(1);
	if (listener == LISTEN_FD)
		fcntl(listener, F_SETFD, 0);
	else
		dup2(listener, LISTEN_FD);
	execve(argv[0], argv, envp);
	_exit(1);
}

extern char **environ;

/* Our environment but for what the protocol sets. To be freed; *pid_at: where the child writes its process number. */
static char **environment(char **pid_at)
{
	static char fds[] = "LISTEN_FDS=1";
	size_t n = 0, k = 0, i;
	char **envp;

	while (environ[n])
		n++;
	envp = calloc(n + 3, sizeof(*envp));
	if (!envp)
		return NULL;
	envp[k] = malloc(64);
	if (!envp[k]) {
		free(envp);
		return NULL;
	}
	strcpy(envp[k], "LISTEN_PID=");
	*pid_at = envp[k++] + strlen("LISTEN_PID=");
	envp[k++] = fds;
	for (i = 0; i < n; i++)
		if (strncmp(environ[i], "LISTEN_", 7) != 0)
			envp[k++] = environ[i];
	return envp;
}

static int child_start(struct qcow2 *q, int listener, struct err *err)
{
	/* io_uring where it works; the kernel's older interface needs direct I/O. */
	const char *aio = q->uring ? "--aio=io_uring" : q->direct ? "--aio=native" : "--aio=threads";
	const char *argv[ARGUMENTS_MAX] = {
		q->program, "--format=qcow2", q->direct ? "--cache=none" : "--cache=writeback", aio, "--discard=unmap",
		"--shared=1",
	};
	pid_t parent = getpid(), pid;
	unsigned int n = 6;
	char **envp, *pid_at;

	if (q->readonly)
		argv[n++] = "--read-only";
	argv[n++] = "--";
	argv[n] = q->path;
	if (q->said >= 0)
		close(q->said);
	q->said = memfd_create("qemu-nbd", MFD_CLOEXEC);
	envp = environment(&pid_at);
	if (q->said < 0 || !envp) {
		if (envp)
			free(envp[0]);
		free(envp);
		return err_set(err, -ENOMEM, "no memory for %s", PROGRAM);
	}
	pid = vfork();
	if (!pid)
		child_run((char *const *)argv, envp, pid_at, listener, q->said, parent);
	free(envp[0]);
	free(envp);
	if (pid < 0)
		return err_errno(err, -errno, "starting %s", PROGRAM);
	q->child = pid;
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
	if (*listener < 0 || *client < 0 || bind(*listener, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(*listener, 1) < 0 ||
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

static int qcow2_connect(void *arg, struct err *err)
{
	struct qcow2 *q = arg;
	int listener = -1, client = -1, r;

	child_end(q);
	r = sockets_new(&listener, &client, err);
	if (r < 0)
		return r;
	r = child_start(q, listener, err);
	/* The child has its own: when it dies, so does the connection. */
	close(listener);
	if (r < 0) {
		close(client);
		return r;
	}
	return client;
}

static void qcow2_lost(void *arg, char *why, size_t room)
{
	struct qcow2 *q = arg;

	if (why)
		words_read(q, why, room);
	child_end(q);
}

static bool ending(struct qcow2 *q)
{
	unsigned int i, n = 0;

	children_reap(q);
	for (i = 0; i < ENDING_MAX; i++)
		n += q->ending[i] != 0;
	return n;
}

static void qcow2_free(void *arg)
{
	int64_t deadline = clock_now_ns() + END_PATIENCE_NS;
	const struct timespec moment = { .tv_nsec = NS_PER_MS };
	struct qcow2 *q = arg;

	child_end(q);
	while (ending(q) && clock_now_ns() < deadline)
		nanosleep(&moment, NULL);
	/* It still writes; it has all that it needs for that, and nobody is to wait for it. */
	if (ending(q))
		log_warn("disk %s: its %s is still busy", q->path, PROGRAM);
	if (q->said >= 0)
		close(q->said);
	free(q->path);
	free(q);
}

int qcow2_open(struct disk **out, const struct disk_config *config, const struct disk_env *env, struct err *err)
{
	struct qcow2 *q = calloc(1, sizeof(*q));
	struct nbd_origin origin = {
		.connect = qcow2_connect, .lost = qcow2_lost, .free = qcow2_free, .arg = q,
		.export_name = "", .choices = 1, .ours = true,
	};
	int r;

	if (!q)
		return err_set(err, -ENOMEM, "no memory for a disk");
	q->said = -1;
	q->readonly = config->readonly;
	q->path = realpath(config->path, NULL);
	r = q->path ? header_read(q, &origin.bytes, err) : err_errno(err, -errno, "opening it");
	if (!r)
		r = program_find(q->program, sizeof(q->program), err);
	if (r < 0) {
		qcow2_free(q);
		return r;
	}
	q->uring = uring_works();
	return nbd_open_at(out, config, env, &origin, err);
}
