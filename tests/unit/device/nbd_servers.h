/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * NBD servers as other programs are them: nbdkit with an image of its own, which
 * is killed and started again. Where a program is not installed the test is
 * skipped.
 */
#ifndef POSTERN_TESTS_DEVICE_NBD_SERVERS_H
#define POSTERN_TESTS_DEVICE_NBD_SERVERS_H

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "disks.h"

#define SERVER_BYTES "4194304"

struct server {
	char dir[64], socket[80], image[80], uri[160];
	pid_t pid;
};

static inline void run(const char *const *argv, pid_t *pid)
{
	*pid = fork();
	assert_true(*pid >= 0);
	if (!*pid) {
		/* It complains of every client that goes without a word. */
		dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), 2);
		execvp(argv[0], (char *const *)argv);
		_exit(127);
	}
}

static inline int run_to_end(const char *const *argv)
{
	int status;
	pid_t pid;

	run(argv, &pid);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static inline bool have(const char *program)
{
	char text[64];

	snprintf(text, sizeof(text), "command -v %s >/dev/null", program);
	return system(text) == 0;
}

static inline void need(const char *program)
{
	if (have(program))
		return;
	print_message("skipped: %s is not installed\n", program);
	skip();
}

static inline bool listens(const struct server *s)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), r;

	strcpy(at.sun_path, s->socket);
	r = connect(fd, (struct sockaddr *)&at, sizeof(at));
	close(fd);
	return r == 0;
}

static inline void server_start_with(struct server *s, const char *const *words)
{
	char file[96];
	const char *argv[16] = { "nbdkit", "-f", "-U", s->socket };
	int64_t end = clock_now_ns() + 20 * NS_PER_SEC;
	unsigned int n = 4;

	snprintf(file, sizeof(file), "file=%s", s->image);
	while (*words)
		argv[n++] = *words++;
	argv[n++] = file;
	unlink(s->socket);
	run(argv, &s->pid);
	while (!listens(s))
		assert_true(clock_now_ns() < end);
}

/* extra: parameters that are nbdkit's, or NULL. */
static inline void server_start(struct server *s, const char *filter, const char *extra)
{
	const char *words[4] = { NULL };
	unsigned int n = 0;

	if (filter)
		words[n++] = filter;
	words[n++] = "file";
	words[n] = extra;
	server_start_with(s, words);
}

static inline void server_kill(struct server *s)
{
	kill(s->pid, SIGKILL);
	waitpid(s->pid, NULL, 0);
}

static inline void server_new(struct server *s)
{
	int fd;

	strcpy(s->dir, "/tmp/postern-nbd-test-XXXXXX");
	assert_non_null(mkdtemp(s->dir));
	snprintf(s->socket, sizeof(s->socket), "%s/s", s->dir);
	snprintf(s->image, sizeof(s->image), "%s/image", s->dir);
	snprintf(s->uri, sizeof(s->uri), "nbd+unix:///?socket=%s", s->socket);
	fd = open(s->image, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(fd, atol(SERVER_BYTES)), 0);
	close(fd);
}

static inline void server_free(struct server *s)
{
	unlink(s->socket);
	unlink(s->image);
	assert_int_equal(rmdir(s->dir), 0);
}

/* An nbdkit, and the disk behind it. */
static inline void server_disk(struct server *s, struct disks *d)
{
	need("nbdkit");
	server_new(s);
	server_start(s, NULL, NULL);
	disks_open(d, s->uri, false);
}

static inline void server_disk_end(struct server *s, struct disks *d)
{
	disks_close(d);
	server_kill(s);
	server_free(s);
}

#endif
