// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * chardev_stdio.c - standard input and output.
 *
 * Terminals and pipes are opened anew, so that "non-blocking", a property of
 * the open file and thus shared with the shell and with whoever else writes
 * there, stays ours. Where that cannot be (sockets) the property is put back at
 * the end.
 *
 * The terminal is made raw, signals included: Ctrl-C is the guest's. Its old
 * settings are kept in a static variable, one of the few: a signal handler that
 * ends the process must find them, and a process has but one terminal.
 */
#include "device/chardev_backend.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <unistd.h>

#define ESCAPE 0x01	/* Ctrl-A */

static struct {
	volatile sig_atomic_t raw;	/* `saved` is valid and the terminal is not as it was */
	bool used;			/* by the one chardev that may */
	struct termios saved;
} terminal;

void chardev_restore_terminal(void)
{
	int saved_errno = errno;
	sigset_t ttou, old;

	if (!terminal.raw)
		return;
	/* In the background tcsetattr would stop us, unless this signal is blocked. */
	sigemptyset(&ttou);
	sigaddset(&ttou, SIGTTOU);
	pthread_sigmask(SIG_BLOCK, &ttou, &old);
	tcsetattr(STDIN_FILENO, TCSANOW, &terminal.saved);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	terminal.raw = 0;
	errno = saved_errno;
}

static void terminal_raw(void)
{
	struct termios raw = terminal.saved;

	raw.c_iflag &=
		~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
	raw.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | IEXTEN | ISIG);
	raw.c_cflag = (raw.c_cflag & ~(tcflag_t)(CSIZE | PARENB)) | CS8;
	raw.c_cc[VMIN] = 1;
	raw.c_cc[VTIME] = 0;
	terminal.raw = 1;
	tcsetattr(STDIN_FILENO, TCSANOW, &raw);
}

/* In the background nobody types, and touching the terminal would stop the process. */
static bool terminal_ours(void)
{
	return isatty(STDIN_FILENO) && tcgetpgrp(STDIN_FILENO) == getpgrp();
}

/* Whoever stopped us has made the terminal theirs. */
static void on_cont(uv_signal_t *signal, int signum)
{
	(void)signal;
	(void)signum;
	if (terminal_ours() && terminal.raw)
		terminal_raw();
}

static void on_cont_closed(uv_handle_t *handle)
{
	chardev_put(handle->data);
}

static int reopen(int fd, int flags, int *restore_flags)
{
	char path[32];
	struct stat st;
	int copy;

	*restore_flags = -1;
	if (fstat(fd, &st) < 0)
		return -errno;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (isatty(fd) || S_ISFIFO(st.st_mode)) {
		copy = open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		if (copy >= 0)
			return copy;
	}
	copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (copy < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		*restore_flags = fcntl(fd, F_GETFL);
	return copy;
}

static int stream_open(struct chardev_stream **out, struct chardev *c, int fd, int flags,
		       const char *what, struct err *err)
{
	int restore_flags, r;
	int copy = reopen(fd, flags, &restore_flags);

	if (copy < 0)
		return err_errno(err, copy, "%s", what);
	r = chardev_stream_new(out, c, copy, NULL, err);
	if (r < 0)
		return err_prefix(err, r, "%s", what);
	(*out)->restore_flags = restore_flags;
	return 0;
}

/* Nothing ever comes of it: reading it would take libuv's threads, which wait for each other's start. */
static bool is_null_device(int fd)
{
	struct stat st;

	return !fstat(fd, &st) && S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3);
}

static int stdio_open(struct chardev *c, struct err *err)
{
	int r = 0;

	if (terminal.used)
		return err_set(err, -EBUSY, "standard input and output are in use already");
	if (!is_null_device(STDIN_FILENO))
		r = stream_open(&c->in, c, STDIN_FILENO, O_RDONLY, "standard input", err);
	if (!r)
		r = stream_open(&c->out, c, STDOUT_FILENO, O_WRONLY, "standard output", err);
	if (!r)
		r = uv_signal_init(loop_uv(c->loop), &c->cont);
	if (r < 0)
		return r;
	c->cont.data = c;
	chardev_get(c);
	uv_unref((uv_handle_t *)&c->cont);
	terminal.used = true;
	c->made_path = true;	/* `terminal` is this one's */
	if (terminal_ours() && tcgetattr(STDIN_FILENO, &terminal.saved) == 0) {
		terminal_raw();
		uv_signal_start(&c->cont, on_cont, SIGCONT);
	}
	return 0;
}

static void stdio_close(struct chardev *c)
{
	if (!c->made_path)
		return;
	c->made_path = false;
	chardev_restore_terminal();
	terminal.used = false;
	uv_close((uv_handle_t *)&c->cont, on_cont_closed);
}

static void stdio_help(struct chardev *c)
{
	static const char text[] = "\r\nCtrl-A x  end postern\r\n"
				   "Ctrl-A a  send Ctrl-A\r\n"
				   "Ctrl-A h  this help\r\n";

	chardev_write(c, (const uint8_t *)text, sizeof(text) - 1);
}

static size_t stdio_filter(struct chardev *c, uint8_t *data, size_t len)
{
	size_t i, left = 0;

	for (i = 0; i < len; i++) {
		if (!c->escape) {
			if (data[i] == ESCAPE)
				c->escape = true;
			else
				data[left++] = data[i];
			continue;
		}
		c->escape = false;
		switch (data[i]) {
		case 'x':
			if (c->ops.quit)
				c->ops.quit(c->ops.arg);
			break;
		case 'h':
		case '?':
			stdio_help(c);
			break;
		case 'a':
		case ESCAPE:
			data[left++] = ESCAPE;
			break;
		}
	}
	return left;
}

const struct chardev_backend chardev_stdio_backend = {
	.open = stdio_open,
	.close = stdio_close,
	.filter = stdio_filter,
};
