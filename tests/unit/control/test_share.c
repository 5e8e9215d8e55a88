// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Shares: members are this process and children of it, which may be killed; the
// keeper is this program, run again.
#include "control/share.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "../../own_dir.h"
#include "base/clock.h"
#include "control/rundir.h"
#include "../tsan.h"

#define LEN (UINT64_C(4) << 20)

static const uint8_t IMAGE[SHARE_IMAGE_BYTES] = "an image of mine";
static const uint8_t OTHER[SHARE_IMAGE_BYTES] = "another image !!";

#define wait_until(condition) \
	do { \
		for (int wait_left = 100000; !(condition); wait_left--) { \
			assert_true(wait_left > 0); \
			usleep(100); \
		} \
	} while (0)

static struct share *join(const char *name)
{
	struct share *share;
	struct err err;

	if (share_join(&share, name, IMAGE, LEN, &err) < 0)
		fail_msg("%s", err.text);
	return share;
}

static ino_t inode(const struct share *share)
{
	struct stat st;

	assert_int_equal(fstat(share_memfd(share), &st), 0);
	assert_int_equal(st.st_size, LEN);
	return st.st_ino;
}

/* The process that keeps this share; 0: there is none. */
static pid_t keeper_of(const char *name)
{
	char path[RUNDIR_PATH_MAX], file[PATH_MAX], line[512];
	struct dirent *entry;
	pid_t found = 0;
	DIR *proc = opendir("/proc");
	ssize_t n;
	int fd;

	assert_int_equal(rundir_share_path(path, name, NULL), 0);
	assert_non_null(proc);
	while ((entry = readdir(proc))) {
		snprintf(file, sizeof(file), "/proc/%s/cmdline", entry->d_name);
		fd = open(file, O_RDONLY | O_CLOEXEC);
		n = fd < 0 ? 0 : read(fd, line, sizeof(line) - 1);
		if (fd >= 0)
			close(fd);
		line[n > 0 ? n : 0] = '\0';
		if (n > 0 &&
		    memmem(line, (size_t)n, SHARE_KEEPER_COMMAND, strlen(SHARE_KEEPER_COMMAND)) &&
		    memmem(line, (size_t)n, path, strlen(path) + 1))
			found = (pid_t)atoi(entry->d_name);
	}
	closedir(proc);
	return found;
}

/* ---- members ---- */

static void members_have_one_memfd(void **state)
{
	struct share *a = join("one"), *b = join("one"), *c = join("two");
	struct share *d = NULL;
	struct err err;

	(void)state;
	assert_int_equal(inode(a), inode(b));
	assert_int_not_equal(inode(a), inode(c));
	assert_int_equal(share_join(&d, "one", OTHER, LEN, &err), -ESTALE);
	assert_non_null(strstr(err.text, "another image"));
	assert_int_equal(share_join(&d, "one", IMAGE, LEN / 2, &err), -ESTALE);
	assert_int_equal(share_join(&d, "../one", IMAGE, LEN, &err), -EINVAL);
	assert_int_equal(share_join(&d, "", IMAGE, LEN, &err), -EINVAL);
	assert_null(d);
	share_leave(a);
	share_leave(b);
	share_leave(c);
	share_leave(NULL);
}

static void many_join_at_once_and_one_starts_it(void **state)
{
	enum { N = 16 };
	pid_t child[N];
	unsigned int i;
	int pipes[2], status;
	ino_t first = 0, own;

	(void)state;
	skip_if_no_children();
	assert_int_equal(pipe(pipes), 0);
	for (i = 0; i < N; i++) {
		child[i] = fork();
		assert_true(child[i] >= 0);
		if (child[i])
			continue;
		own = inode(join("many"));
		_exit(write(pipes[1], &own, sizeof(own)) != sizeof(own) || !pause());
	}
	for (i = 0; i < N; i++) {
		assert_int_equal(read(pipes[0], &own, sizeof(own)), sizeof(own));
		assert_true(!i || own == first);
		first = own;
	}
	for (i = 0; i < N; i++) {
		kill(child[i], SIGKILL);
		assert_int_equal(waitpid(child[i], &status, 0), child[i]);
		assert_true(WIFSIGNALED(status));
	}
	close(pipes[0]);
	close(pipes[1]);
}

/* Some time after the last member, and nothing is left; and then it begins anew. */
static void the_keeper_ends_after_its_members(void **state)
{
	struct share *a = join("short");
	char path[RUNDIR_PATH_MAX], lock[RUNDIR_PATH_MAX + 8];

	(void)state;
	assert_int_equal(rundir_share_path(path, "short", NULL), 0);
	snprintf(lock, sizeof(lock), "%s.lock", path);
	assert_int_equal(access(lock, F_OK), 0);
	wait_until(keeper_of("short"));
	share_leave(a);
	wait_until(!keeper_of("short"));
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(access(lock, F_OK), -1);
	a = join("short");
	assert_int_equal(lseek(share_memfd(a), 0, SEEK_DATA), -1);
	share_leave(a);
}

/* ---- guarding ---- */

static struct memory *guarded(struct share *share)
{
	const struct memory_range range = { GPA(0), LEN };
	struct memory *mem;
	struct err err;

	assert_int_equal(memory_new(&mem, &range, 1, &err), 0);
	assert_int_equal(memory_set_backing(mem, share_memfd(share), &err), 0);
	if (memory_watch(mem, NULL, &err) < 0) {
		print_message("skipped: %s\n", err.text);
		skip();
	}
	if (share_guard(share, mem, &err) < 0)
		fail_msg("%s", err.text);
	return mem;
}

static void unguard(struct share *share, struct memory *mem)
{
	share_stop(share);
	memory_free(mem);
	share_leave(share);
}

static uint8_t *host_of(struct memory *mem)
{
	unsigned int n;

	return memory_regions(mem, &n)[0].host;
}

static uint64_t faults_of(struct memory *mem)
{
	struct memory_stats stats;

	memory_stats(mem, &stats);
	return stats.faults;
}

/* Guarded, says where its memory is, and once somebody waits for a page there. */
static void child_main(int out)
{
	struct share *share = join("guard");
	struct memory *mem = guarded(share);
	uint8_t *host = host_of(mem);

	if (write(out, &host, sizeof(host)) != sizeof(host))
		_exit(1);
	while (!faults_of(mem))
		usleep(100);
	if (write(out, "w", 1) != 1)
		_exit(1);
	pause();
	_exit(1);
}

struct peeker {
	pid_t of;
	uint8_t *at;
	_Atomic ssize_t got;
};

static void *peeker_main(void *arg)
{
	struct peeker *p = arg;
	uint8_t byte;
	struct iovec to = { &byte, 1 }, from = { p->at, 1 };

	p->got = process_vm_readv(p->of, &to, 1, &from, 1, 0);
	return NULL;
}

static void a_member_that_is_killed_leaves_no_zeros(void **state)
{
	struct share *own = join("guard");
	struct peeker p = { 0 };
	pthread_t thread;
	int pipes[2];
	char byte;

	(void)state;
	skip_if_no_children();
	unguard(join("guard2"), guarded(join("guard2")));
	assert_int_equal(pipe(pipes), 0);
	p.of = fork();
	assert_true(p.of >= 0);
	if (!p.of)
		child_main(pipes[1]);
	assert_int_equal(read(pipes[0], &p.at, sizeof(p.at)), sizeof(p.at));
	p.at += 77 * PAGE_BYTES;
	assert_int_equal(pthread_create(&thread, NULL, peeker_main, &p), 0);
	assert_int_equal(read(pipes[0], &byte, 1), 1);
	kill(p.of, SIGKILL);
	/* The keeper ends its wait: it gets a page of the dead one's alone. */
	pthread_join(thread, NULL);
	assert_int_equal(p.got, 1);
	assert_int_equal(waitpid(p.of, NULL, 0), p.of);
	assert_int_equal(lseek(share_memfd(own), 0, SEEK_DATA), -1);
	share_leave(own);
	close(pipes[0]);
	close(pipes[1]);
}

/* A connection that ends is no death: the guest of one that lives does not get zeros. */
static void a_member_that_lives_is_not_retired(void **state)
{
	struct share *share = join("alive"), *other = join("alive");
	struct memory *mem = guarded(share);
	struct peeker p = { .of = getpid(), .at = host_of(mem) + PAGE_BYTES, .got = -100 };
	uint8_t page[PAGE_BYTES] __attribute__((aligned(4096)));
	pthread_t thread;
	pid_t keeper = keeper_of("alive");

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, peeker_main, &p), 0);
	wait_until(faults_of(mem));
	/* Its connection ends, but the keeper has the userfaultfd: once for each keeper. */
	share_stop(share);
	assert_int_equal(kill(keeper, SIGKILL), 0);
	wait_until(!keeper_of("alive"));
	share_leave(other);
	assert_int_equal(p.got, -100);
	memset(page, 5, sizeof(page));
	assert_int_equal(memory_fill(mem, GFN(1), 1, page), 1);
	pthread_join(thread, NULL);
	assert_int_equal(p.got, 1);
	memory_free(mem);
	share_leave(share);
}

static void a_keeper_that_dies_is_replaced(void **state)
{
	struct share *share = join("again"), *late;
	struct memory *mem = guarded(share);
	ino_t was = inode(share);
	pid_t keeper;

	(void)state;
	wait_until((keeper = keeper_of("again")));
	assert_int_equal(kill(keeper, SIGKILL), 0);
	wait_until(keeper_of("again") && keeper_of("again") != keeper);
	late = join("again");
	assert_int_equal(inode(late), was);
	share_leave(late);
	unguard(share, mem);
}

/* ---- what is said ---- */

static void messages_are_checked(void **state)
{
	struct memory_region region[MEMORY_REGIONS_MAX];
	struct share_message msg, got;
	struct err err;

	(void)state;
	share_message_init(&msg, SHARE_GUARD);
	msg.n = 2;
	msg.region[0].host = 0x7000;
	msg.region[0].pages = 3;
	msg.region[1].pages = 4;
	memset(msg.text, 'x', sizeof(msg.text));
	assert_int_equal(share_message_read(&got, &msg, sizeof(msg), &err), 0);
	assert_int_equal(share_message_regions(&got, region), 7);
	assert_int_equal((uintptr_t)region[0].host, 0x7000);
	assert_int_equal(strlen(got.text), sizeof(got.text) - 1);
	assert_int_equal(share_message_read(&got, &msg, sizeof(msg) - 1, &err), -EBADMSG);
	assert_int_equal(share_message_read(&got, &msg, 0, &err), -EBADMSG);
	msg.region[0].host = 0x7001;
	assert_int_equal(share_message_read(&got, &msg, sizeof(msg), &err), -EBADMSG);
	msg.region[0].host = 0x7000;
	msg.region[0].pages = UINT64_MAX;
	assert_int_equal(share_message_read(&got, &msg, sizeof(msg), &err), -EBADMSG);
	msg.region[0].pages = 1;
	msg.n = MEMORY_REGIONS_MAX + 1;
	assert_int_equal(share_message_read(&got, &msg, sizeof(msg), &err), -EBADMSG);
	msg.n = 1;
	msg.version++;
	assert_int_equal(share_message_read(&got, &msg, sizeof(msg), &err), -EPROTO);
	msg.version--;
	msg.kind = SHARE_KINDS;
	assert_int_equal(share_message_read(&got, &msg, sizeof(msg), &err), -EBADMSG);
	msg.kind = 0;
	assert_int_equal(share_message_read(&got, &msg, sizeof(msg), &err), -EBADMSG);
	msg.magic = 0;
	assert_int_equal(share_message_read(&got, &msg, sizeof(msg), &err), -EBADMSG);
}

static int stranger_connect(const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	assert_int_equal(rundir_share_path(address.sun_path, name, NULL), 0);
	assert_int_equal(connect(sock, (struct sockaddr *)&address, sizeof(address)), 0);
	return sock;
}

/* Whoever talks nonsense is turned away, at once, and nobody else notices. */
static void strangers_are_turned_away(void **state)
{
	struct share *share = join("strange"), *other;
	struct share_message msg;
	struct pollfd p = { .events = POLLIN };
	unsigned int i;
	char byte;

	(void)state;
	for (i = 0; i < 4; i++) {
		p.fd = stranger_connect("strange");
		share_message_init(&msg, i == 1 ? SHARE_GUARD : SHARE_WELCOME);
		if (i == 0)
			assert_int_equal(send(p.fd, "hello?", 6, 0), 6);
		else if (i < 3)
			assert_int_equal(share_message_send(p.fd, &msg, i == 1 ? 0 : -1), 0);
		else
			shutdown(p.fd, SHUT_WR);
		assert_int_equal(poll(&p, 1, 10000), 1);
		assert_int_equal(read(p.fd, &byte, 1), 0);
		close(p.fd);
	}
	other = join("strange");
	assert_int_equal(inode(other), inode(share));
	share_leave(other);
	share_leave(share);
}

/* ---- */

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(messages_are_checked),
		cmocka_unit_test(members_have_one_memfd),
		cmocka_unit_test(many_join_at_once_and_one_starts_it),
		cmocka_unit_test(the_keeper_ends_after_its_members),
		cmocka_unit_test(a_member_that_is_killed_leaves_no_zeros),
		cmocka_unit_test(a_member_that_lives_is_not_retired),
		cmocka_unit_test(a_keeper_that_dies_is_replaced),
		cmocka_unit_test(strangers_are_turned_away),
	};
	char command[64];
	struct own_dir dir;
	struct err err;
	int r;

	if (argc > 1 && !strcmp(argv[1], SHARE_KEEPER_COMMAND))
		return share_keep_main(argc - 1, argv + 1, &err) < 0;
	dir = own_dir_new();
	setenv("POSTERN_RUNTIME_DIR", dir.path, 1);
	r = cmocka_run_group_tests(tests, NULL, NULL);
	/* Locks stay for ever, as they should; and keepers for a moment. */
	snprintf(command, sizeof(command), "rm -rf %s", dir.path);
	return system(command) || r;
}
