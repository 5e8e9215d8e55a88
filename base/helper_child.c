// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "base/helper_child.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <signal.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NOBODY 65534
/* Above every descriptor that a child is given. */
#define OUT_OF_THE_WAY (HELPER_FD + HELPER_FDS_MAX)

/* ---- Landlock ---- */

/* What later kernels than the headers' know. */
#define FS_TRUNCATE (UINT64_C(1) << 14)		/* from version 3 on */
#define FS_IOCTL_DEV (UINT64_C(1) << 15)	/* 5 */
#define NET_TCP UINT64_C(3)			/* 4: bind, connect */
#define SCOPES UINT64_C(3)			/* 6: abstract sockets, signals */

struct ruleset {
	uint64_t fs, net, scoped;
};

/* The accesses to files that a version of Landlock can forbid: all. */
static uint64_t handled_of(int version)
{
	uint64_t all = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1;

	all |= version >= 2 ? LANDLOCK_ACCESS_FS_REFER : 0;
	all |= version >= 3 ? FS_TRUNCATE : 0;
	return all | (version >= 5 ? FS_IOCTL_DEV : 0);
}

static void allow(int ruleset, int fd, uint64_t access)
{
	struct landlock_path_beneath_attr rule = { .parent_fd = fd, .allowed_access = access };
	struct stat st;

	/* A rule for a file may name a file's accesses alone. */
	if (fstat(fd, &st) < 0)
		return;
	if (!S_ISDIR(st.st_mode))
		rule.allowed_access &= LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE |
				       LANDLOCK_ACCESS_FS_WRITE_FILE |
				       FS_TRUNCATE | FS_IOCTL_DEV;
	/* What is not allowed for this fails later, and says so. */
	syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
}

static void allow_path(int ruleset, const char *path, uint64_t access)
{
	int fd = open(path, O_PATH | O_CLOEXEC);

	if (fd < 0)
		return;
	allow(ruleset, fd, access);
	close(fd);
}

int helper_landlock_new(const struct helper_config *config, const char *path)
{
	static const char *const system[] = { "/usr", "/lib", "/lib64", "/bin", "/sbin",
		"/etc/ld.so.cache" };
	const uint64_t run = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE |
			     LANDLOCK_ACCESS_FS_READ_DIR;
	const uint64_t write = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE |
			       FS_TRUNCATE | FS_IOCTL_DEV;
	int version = (int)syscall(SYS_landlock_create_ruleset, NULL, 0,
				   LANDLOCK_CREATE_RULESET_VERSION), fd;
	struct ruleset attr = { 0 };
	unsigned int i;

	if (version < 1)
		return -1;
	attr.fs = handled_of(version);
	attr.net = version >= 4 ? NET_TCP : 0;
	attr.scoped = version >= 6 ? SCOPES : 0;
	fd = (int)syscall(SYS_landlock_create_ruleset, &attr,
			  version >= 6 ? 24 : version >= 4 ? 16 : 8, 0);
	if (fd < 0)
		return -1;
	for (i = 0; i < sizeof(system) / sizeof(system[0]); i++)
		allow_path(fd, system[i], run & attr.fs);
	allow_path(fd, path, run & attr.fs);
	allow_path(fd, "/dev/null", write & attr.fs);
	for (i = 0; i < config->n_fds; i++)
		if ((config->readable | config->writable) >> i & 1)
			allow(fd, config->fds[i],
			      (config->writable >> i & 1
			       ? write : LANDLOCK_ACCESS_FS_READ_FILE | FS_IOCTL_DEV) & attr.fs);
	return fd;
}

/* ---- the child ---- */

static void __attribute__((noreturn)) fail(struct helper_birth *birth, const char *step, int error)
{
	birth->error = error;
	birth->step = step;
	_exit(127);
}

/*
 * Signals that somebody has us ignore would stay ignored; also 32 and 33, which
 * libc has for itself and does not let sigaction touch.
 */
static void signals_reset(void)
{
	/* struct kernel_sigaction, whatever its order: SIG_DFL is 0. */
	const uint64_t plain[4] = { 0 };
	sigset_t none;
	int i;

	for (i = 1; i < NSIG; i++)
		syscall(SYS_rt_sigaction, i, plain, NULL, NSIG / 8);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static int descriptors_set(const struct helper_birth *birth)
{
	const struct helper_config *config = birth->config;
	int high[HELPER_FDS_MAX], said = fcntl(birth->said, F_DUPFD_CLOEXEC, OUT_OF_THE_WAY);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	unsigned int i;

	/*
	 * Any may stand where another is to go: all are moved out of the way
	 * first.
	 */
	null = null < 0 ? -1 : fcntl(null, F_DUPFD_CLOEXEC, OUT_OF_THE_WAY);
	for (i = 0; i < config->n_fds; i++) {
		high[i] = fcntl(config->fds[i], F_DUPFD_CLOEXEC, OUT_OF_THE_WAY);
		if (high[i] < 0)
			return -errno;
	}
	if (said < 0 || null < 0 || dup2(null, 0) < 0 || dup2(said, 1) < 0 || dup2(said, 2) < 0)
		return -errno;
	for (i = 0; i < config->n_fds; i++)
		if (dup2(high[i], HELPER_FD + (int)i) < 0)
			return -errno;
	return 0;
}

/*
 * The others, but Landlock's, which are closed when the program begins. Before
 * Linux 5.11: they are all close-on-exec anyway.
 */
static void child_withhold_descriptors(unsigned int n)
{
	syscall(SYS_close_range, HELPER_FD + n, ~0U, 1U << 2 /* CLOSE_RANGE_CLOEXEC */);
}

/*
 * None that it has not now can come to it later. Takes a right that goes with
 * root.
 */
static void capabilities_bound(uint64_t keep)
{
	unsigned int i;

	for (i = 0; i < 64 && prctl(PR_CAPBSET_READ, i, 0, 0, 0) >= 0; i++)
		if (!(keep >> i & 1))
			prctl(PR_CAPBSET_DROP, i, 0, 0, 0);
}

static void capabilities_set(uint64_t keep)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	unsigned int i;

	for (i = 0; i < 2; i++)
		data[i].effective = data[i].permitted = data[i].inheritable =
			(uint32_t)(keep >> 32 * i);
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	/* One that we do not have ourselves cannot be kept: then none is. */
	if (syscall(SYS_capset, &head, data) < 0) {
		data[0] = data[1] = (struct __user_cap_data_struct){ 0 };
		syscall(SYS_capset, &head, data);
	}
	for (i = 0; i < 64; i++)
		if (keep >> i & 1)
			prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i, 0, 0);
}

/*
 * A root that may not become another user (a container's) stays what it is,
 * without capabilities.
 */
static void user_change(void)
{
	prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
	if (syscall(SYS_setresgid, NOBODY, NOBODY, NOBODY) == 0) {
		syscall(SYS_setgroups, 0, NULL);
		syscall(SYS_setresuid, NOBODY, NOBODY, NOBODY);
	}
}

static int rights_drop(struct helper_birth *birth)
{
	const struct helper_config *config = birth->config;
	bool files = config->flags & HELPER_CONFINED && config->readable | config->writable;
	bool low = birth->root && config->flags & HELPER_LOW_PORTS;
	uint64_t keep = low ? UINT64_C(1) << CAP_NET_BIND_SERVICE : 0;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	if (birth->root && files && birth->jailed)
		keep |= UINT64_C(1) << CAP_DAC_OVERRIDE;
	capabilities_bound(keep);
	/*
	 * Files that are root's, and no namespace in which others may be let
	 * past their modes: then it stays root without capabilities.
	 */
	if (birth->root && (!files || birth->jailed))
		user_change();
	capabilities_set(keep);
	if (birth->landlock >= 0) {
		if (syscall(SYS_landlock_restrict_self, birth->landlock, 0) < 0)
			return -errno;
		birth->locked = true;
	}
	return 0;
}

static void child_pid_write(char *at)
{
	char digits[16], *d = digits + sizeof(digits);
	pid_t pid = getpid();

	for (*--d = '\0'; pid; pid /= 10)
		*--d = (char)('0' + pid % 10);
	while ((*at++ = *d++))
		;
}

void __attribute__((noreturn)) helper_child(struct helper_birth *birth)
{
	const struct helper_config *config = birth->config;
	int r;

	setpgid(0, 0);
	child_pid_write(birth->pid_at);
	r = descriptors_set(birth);
	if (r < 0)
		fail(birth, "its descriptors", r);
	if (config->flags & HELPER_CONFINED)
		birth->jailed = helper_jail(birth) == 0;
	r = rights_drop(birth);
	if (r < 0)
		fail(birth, "giving up its rights", r);
	child_withhold_descriptors(config->n_fds);
	/* A change of user takes this away. */
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != birth->parent)
		_exit(127);
	signals_reset();
	execve(birth->jailed ? birth->jail_path : birth->path, config->words, birth->envp);
	fail(birth, "executing it", -errno);
}
