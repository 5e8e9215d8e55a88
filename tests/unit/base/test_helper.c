// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Helpers say themselves what they have: each is a shell with a script. What a
 * user who is not root gets, on kernels with and without Landlock, is tried in
 * a process of its own that first becomes such a user, or loses that system
 * call.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/helper.h"
#include "base/log.h"

#define PATIENCE_NS (30 * NS_PER_SEC)

/* ThreadSanitizer makes fork of vfork: a child cannot tell its parent what it was refused. */
static void skip_without_vfork(void)
{
#ifdef __SANITIZE_THREAD__
	print_message("skipped: no vfork under ThreadSanitizer\n");
	skip();
#endif
}

static int start(struct helper **out, struct loop *loop, const char *script,
		 struct helper_config config, struct err *err)
{
	char *words[] = { "sh", "-c", (char *)script, NULL };

	config.program = "sh";
	config.words = words;
	return helper_start(out, loop, &config, err);
}

/* Runs a script to its end; what it has said, to be freed. */
static char *run(const char *script, struct helper_config config)
{
	struct helper *h = NULL;
	struct err err = { 0 };
	char *said;

	if (start(&h, NULL, script, config, &err) < 0)
		fail_msg("%s", err.text);
	if (!helper_wait(h, PATIENCE_NS))
		fail_msg("%s: it does not end", script);
	said = helper_said(h);
	assert_non_null(said);
	helper_free(h, 0);
	return said;
}

static bool says(const char *script, struct helper_config config, const char *words)
{
	char *said = run(script, config);
	bool right = !strcmp(said, words);

	if (!right)
		print_error("%s: said \"%s\", not \"%s\"\n", script, said, words);
	free(said);
	return right;
}

static void expect(const char *script, struct helper_config config, const char *words)
{
	assert_true(says(script, config, words));
}

/* ---- what it has ---- */

static void it_has_the_descriptors_that_it_is_given_and_no_other(void **state)
{
	int pipes[2], fds[2], i;
	struct stat st;
	char name[64];

	(void)state;
	assert_int_equal(pipe(pipes), 0);
	/*
	 * Neither in order nor close-on-exec, and one stands where another is
	 * to go.
	 */
	fds[0] = fcntl(pipes[1], F_DUPFD, 20);
	assert_int_equal(dup2(pipes[0], 4), 4);
	fds[1] = 4;
	expect("cd /proc/self/fd; for i in *; do test -e $i && printf '%s ' $i; done; test -p 3 "
	       "&& test -p 4 && echo pipes; "
	       "readlink 0", (struct helper_config){ .fds = fds, .n_fds = 2 },
		       "0 1 2 3 4 pipes\n/dev/null\n");
	expect("echo well >&3", (struct helper_config){ .fds = fds, .n_fds = 1 }, "");
	assert_int_equal(read(pipes[0], name, sizeof(name)), 5);
	for (i = 0; i < 2; i++)
		assert_int_equal(fstat(fds[i], &st), 0);
	close(fds[0]);
	close(fds[1]);
}

static void its_environment_is_clean(void **state)
{
	char *said;

	(void)state;
	setenv("SECRET_TOKEN", "x", 1);
	setenv("LD_PRELOAD_NOT", "x", 1);
	setenv("LISTEN_FDS", "7", 1);
	said = run("env | grep -v -e ^PWD= -e ^_= -e ^OLDPWD= -e ^SHLVL= | sort",
		   (struct helper_config){ 0 });
	assert_string_equal(said,
			    "LC_ALL=C\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n");
	free(said);
	expect("echo $LISTEN_FDS; test $LISTEN_PID = $$ && echo its own",
	       (struct helper_config){ .flags = HELPER_LISTENS }, "1\nits own\n");
	unsetenv("LISTEN_FDS");
}

static void it_has_no_rights(void **state)
{
	const char *script = "grep -E '^(NoNewPrivs|CapPrm|CapEff|CapInh|CapAmb)' "
			     "/proc/self/status | tr -d '\\t'; id -u; id -G";
	char *said = run(script, (struct helper_config){ 0 }), words[256];

	(void)state;
	snprintf(words, sizeof(words),
		 "CapInh:0000000000000000\nCapPrm:0000000000000000\nCapEff:0000000000000000\n"
				       "CapAmb:0000000000000000\nNoNewPrivs:1\n%u\n",
					       geteuid() ? geteuid() : 65534);
	assert_memory_equal(said, words, strlen(words));
	if (!geteuid())
		assert_string_equal(said + strlen(words), "65534\n");
	free(said);
	if (geteuid()) {
		print_message("partly skipped: no root here, who has low ports to give\n");
		return;
	}
	said = run("sed -n 's/^CapEff:.//p' /proc/self/status",
		   (struct helper_config){ .flags = HELPER_LOW_PORTS });
	assert_string_equal(said, "0000000000000400\n");
	free(said);
}

static void signals_are_as_a_program_expects_them(void **state)
{
	/* struct kernel_sigaction: what does the handling comes first. */
	const uint64_t ignore[4] = { (uintptr_t)SIG_IGN }, plain[4] = { 0 };
	sigset_t some, before;

	(void)state;
	signal(SIGPIPE, SIG_IGN);
	/* libc's own, which some of those who start us ignore as they do all. */
	assert_int_equal(syscall(SYS_rt_sigaction, 32, ignore, NULL, NSIG / 8), 0);
	sigemptyset(&some);
	sigaddset(&some, SIGTERM);
	sigprocmask(SIG_BLOCK, &some, &before);
	expect("grep -E '^Sig(Blk|Ign)' /proc/self/status | tr -d '\\t'",
	       (struct helper_config){ 0 },
	       "SigBlk:0000000000000000\nSigIgn:0000000000000000\n");
	sigprocmask(SIG_SETMASK, &before, NULL);
	syscall(SYS_rt_sigaction, 32, plain, NULL, NSIG / 8);
	signal(SIGPIPE, SIG_DFL);
}

/* ---- what it says, and how it ends ---- */

static void what_it_says_is_bounded_and_holds_nobody_up(void **state)
{
	char *said;

	(void)state;
	said = run("printf 'first\\n\\033[2J\\n'; i=0; while test $i -lt 5000; do echo "
		   "0123456789; i=$((i+1)); done 2>&-", (struct helper_config){ 0 });
	assert_memory_equal(said, "first\n?[2J\n0123456789\n", 22);
	assert_in_range(strlen(said), HELPER_SAID_BYTES - 64, HELPER_SAID_BYTES);
	free(said);
}

static void note(void *arg)
{
	++*(int *)arg;
}

static bool is_zombie_or_there(pid_t pid)
{
	return kill(pid, 0) == 0;
}

static pid_t child_of_ours(void)
{
	FILE *file = fopen("/proc/thread-self/children", "re");
	int pid = 0;

	assert_non_null(file);
	if (fscanf(file, "%d", &pid) != 1)
		pid = 0;
	fclose(file);
	return pid;
}

static void who_ends_is_reaped_by_the_loop(void **state)
{
	struct loop *loop;
	struct helper *h;
	struct err err;
	char text[64];
	int ended, i;
	pid_t pid;

	(void)state;
	assert_int_equal(loop_new(&loop, &err), 0);
	for (i = 0; i < 20; i++) {
		ended = 0;
		assert_int_equal(start(&h, loop, i % 2 ? "exit 3" : "kill -9 $$",
				       (struct helper_config){ .ended = note, .arg = &ended },
					       &err), 0);
		pid = child_of_ours();
		assert_true(pid > 0);
		while (!ended)
			uv_run(loop_uv(loop), UV_RUN_NOWAIT);
		assert_false(is_zombie_or_there(pid));
		assert_false(helper_runs(h));
		helper_describe_end(h, text, sizeof(text));
		assert_string_equal(text, i % 2 ? "ended with status 3" : "was ended by signal 9");
		helper_free(h, 0);
		assert_int_equal(ended, 1);
	}
	assert_true(loop_free(loop));
}

static void who_does_not_end_is_killed(void **state)
{
	struct helper *h;
	struct err err;
	char *said;
	pid_t pid;

	(void)state;
	assert_int_equal(start(&h, NULL,
			       "trap 'echo asked' TERM; echo up; while :; do sleep 1 & wait; done",
				       (struct helper_config){ 0 }, &err), 0);
	pid = child_of_ours();
	do
		said = helper_said(h);
	while (!strstr(said, "up") && (free(said), true));
	free(said);
	helper_ask_to_end(h);
	do
		said = helper_said(h);
	while (!strstr(said, "asked") && (free(said), true));
	free(said);
	assert_true(helper_runs(h));
	helper_free(h, NS_PER_MS);
	assert_false(is_zombie_or_there(pid));
}

/* Whoever starts it is killed: it ends, too. */
static void it_ends_with_its_parent(void **state)
{
	int alive[2], status;
	struct helper *h;
	struct err err;
	char byte;
	pid_t pid;

	(void)state;
	assert_int_equal(pipe(alive), 0);
	pid = fork();
	if (!pid) {
		const struct helper_config config = { .fds = &alive[1], .n_fds = 1 };

		if (start(&h, NULL, "echo up >&3; exec sleep 1000", config, &err) < 0)
			_exit(1);
		pause();
	}
	close(alive[1]);
	assert_int_equal(read(alive[0], &byte, 1), 1);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	/* The pipe's last writer. */
	while (read(alive[0], &byte, 1) > 0)
		;
	close(alive[0]);
}

static void who_is_missing_is_named(void **state)
{
	char *words[] = { "none", NULL }, name[] = "/tmp/postern-helper-XXXXXX";
	struct helper_config config = { .program = "postern-no-such-program",
		.package = "some-package", .words = words };
	struct helper *h;
	struct err err;
	int fd;

	(void)state;
	skip_without_vfork();
	assert_int_equal(helper_start(&h, NULL, &config, &err), -ENOENT);
	assert_string_equal(err.text,
			    "the program postern-no-such-program is missing: apt install "
			    "some-package");
	fd = mkstemp(name);
	assert_true(fd >= 0);
	close(fd);
	config.program = name;
	assert_int_equal(helper_start(&h, NULL, &config, &err), -EACCES);
	assert_non_null(strstr(err.text, name));
	assert_non_null(strstr(err.text, "executing it"));
	unlink(name);
	assert_int_equal(child_of_ours(), 0);
}

/* ---- what it can reach ---- */

struct files {
	char dir[64], mine[96], other[96], socket[96];
	int fd, listener;
};

static void files_make(struct files *f)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };

	strcpy(f->dir, "/tmp/postern-helper-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	/* Anybody may: it is not for modes that it cannot. */
	assert_int_equal(chmod(f->dir, 0777), 0);
	snprintf(f->mine, sizeof(f->mine), "%s/mine", f->dir);
	snprintf(f->other, sizeof(f->other), "%s/other", f->dir);
	snprintf(f->socket, sizeof(f->socket), "%s/socket", f->dir);
	f->fd = open(f->other, O_CREAT | O_RDWR | O_CLOEXEC, 0666);
	assert_true(f->fd >= 0);
	assert_int_equal(fchmod(f->fd, 0666), 0);
	assert_int_equal(write(f->fd, "other\n", 6), 6);
	close(f->fd);
	f->fd = open(f->mine, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	assert_int_equal(write(f->fd, "mine\n", 5), 5);
	strcpy(at.sun_path, f->socket);
	f->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(f->listener, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(listen(f->listener, 1), 0);
	assert_int_equal(chmod(f->socket, 0777), 0);
}

static void files_free(struct files *f)
{
	close(f->fd);
	close(f->listener);
	unlink(f->mine);
	unlink(f->other);
	unlink(f->socket);
	assert_int_equal(rmdir(f->dir), 0);
}

/*
 * What is not as it should be; NULL: nothing. expect_gone: what it may not open
 * is not even there, sockets neither.
 */
static const char *files_look(const struct files *f, bool expect_confined, bool expect_gone)
{
	static const char *const open_words = "mine\nwritten\nread another\nwrote another\nmade "
					      "another\npasswd\n";
	struct helper_config config = { .fds = &f->fd, .n_fds = 1, .flags = HELPER_CONFINED,
		.writable = 1 };
	struct helper *h = NULL;
	struct err err = { 0 };
	char script[1024];
	bool confined;

	if (start(&h, NULL, ":", config, &err) < 0)
		return "no start";
	confined = helper_is_confined(h);
	helper_free(h, PATIENCE_NS);
	if (confined != expect_confined)
		return "what it says of itself";
	/*
	 * It opens its own anew, to read and to write; nothing else, not even
	 * what anybody may.
	 */
	snprintf(script, sizeof(script),
		 "read x < /proc/self/fd/3 && echo $x; echo more >> /proc/self/fd/3 && echo "
		 "written; "
		 "(read x < %s) 2>&- && echo read another; (echo x >> %s) 2>&- && echo wrote "
		 "another; "
		 "(echo x > %s/new) 2>&- && echo made another; (read x < /etc/passwd) 2>&- && "
		 "echo passwd",
		 f->other, f->other, f->dir);
	if (!says(script, config, expect_confined ? "mine\nwritten\n" : open_words))
		return "what it reaches";
	snprintf(script, sizeof(script), "%s/new", f->dir);
	unlink(script);
	if (!expect_confined)
		return NULL;
	snprintf(script, sizeof(script), "test -e %s && echo a socket", f->socket);
	if (expect_gone && !says(script, config, ""))
		return "a socket";
	config.writable = 0;
	config.readable = 1;
	if (!says("read x < /proc/self/fd/3 && echo $x; (echo more >> /proc/self/fd/3) 2>&- || "
		  "echo for reading", config,
		  "mine\nfor reading\n"))
		return "a file for reading";
	config.readable = 0;
	lseek(f->fd, 0, SEEK_SET);
	return says("(read x < /proc/self/fd/3) 2>&- || echo not again; read x <&3; echo $x",
		    config, "not again\nmine\n")
		       ? NULL : "a file that it may not open";
}

static void a_confined_one_reaches_its_own_files_alone(void **state)
{
	struct files f;

	(void)state;
	skip_without_vfork();
	files_make(&f);
	assert_null(files_look(&f, true, false));
	files_free(&f);
}

/* In a process that is somebody else, perhaps on a kernel that lacks things. */
static void look_as_user(const struct files *f, bool landlock, bool namespaces, bool mounts)
{
	scmp_filter_ctx filter;
	const char *why;
	int status;
	pid_t pid;

	assert_int_equal(fchown(f->fd, 12345, 12345), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		filter = seccomp_init(SCMP_ACT_ALLOW);
		if (!landlock)
			seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS),
					 SCMP_SYS(landlock_create_ruleset), 0);
		if (!namespaces)
			seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(unshare), 0);
		if (!mounts)
			seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(mount), 0);
		if (setgroups(0, NULL) || setresgid(12345, 12345, 12345) || setresuid(12345, 12345,
				12345) || prctl(PR_SET_DUMPABLE, 1) ||
		    seccomp_load(filter))
			_exit(2);
		why = files_look(f, landlock || (namespaces && mounts), namespaces && mounts);
		if (why)
			print_error("landlock %d, namespaces %d, mounts %d: %s\n", landlock,
				    namespaces, mounts, why);
		_exit(why != NULL);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static bool user_namespaces_work(void)
{
	int status;
	pid_t pid = fork();

	if (!pid)
		_exit(setresuid(12345, 12345, 12345) || unshare(CLONE_NEWUSER | CLONE_NEWNS));
	waitpid(pid, &status, 0);
	return !status;
}

static void a_user_without_rights_confines_as_well(void **state)
{
	bool landlock, namespaces;
	struct files f;

	(void)state;
	skip_without_vfork();
	if (geteuid()) {
		print_message("skipped: no root here, who can be another user\n");
		skip();
	}
	files_make(&f);
	landlock = syscall(SYS_landlock_create_ruleset, NULL, 0, 1) >= 1;
	namespaces = user_namespaces_work();
	if (!landlock)
		print_message("partly skipped: this kernel has no Landlock\n");
	if (!namespaces)
		print_message("partly skipped: users may not have namespaces here\n");
	if (landlock)
		look_as_user(&f, true, false, false);
	if (namespaces)
		look_as_user(&f, false, true, true);
	if (landlock && namespaces)
		look_as_user(&f, true, true, true);
	/*
	 * As where a security module lets users have namespaces, and do nothing
	 * in them.
	 */
	if (landlock && namespaces)
		look_as_user(&f, true, true, false);
	look_as_user(&f, false, false, false);
	files_free(&f);
}

/*
 * Past the modes of files, but nowhere else: neither by a socket nor by a name.
 */
static void who_opens_roots_files_reaches_no_socket(void **state)
{
	struct files f;
	struct helper_config config = { .fds = &f.fd, .n_fds = 1, .flags = HELPER_CONFINED,
		.writable = 1 };
	char script[256];

	(void)state;
	if (geteuid()) {
		print_message("skipped: no root here\n");
		skip();
	}
	files_make(&f);
	snprintf(script, sizeof(script),
		 "for i in %s /dev/zero /sys /tmp /etc/passwd /proc/1; do test -e $i && echo $i; "
		 "done; id -u", f.socket);
	expect(script, config, "65534\n");
	files_free(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_has_the_descriptors_that_it_is_given_and_no_other),
		cmocka_unit_test(its_environment_is_clean),
		cmocka_unit_test(it_has_no_rights),
		cmocka_unit_test(signals_are_as_a_program_expects_them),
		cmocka_unit_test(what_it_says_is_bounded_and_holds_nobody_up),
		cmocka_unit_test(who_ends_is_reaped_by_the_loop),
		cmocka_unit_test(who_does_not_end_is_killed),
		cmocka_unit_test(it_ends_with_its_parent),
		cmocka_unit_test(who_is_missing_is_named),
		cmocka_unit_test(a_confined_one_reaches_its_own_files_alone),
		cmocka_unit_test(a_user_without_rights_confines_as_well),
		cmocka_unit_test(who_opens_roots_files_reaches_no_socket),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
