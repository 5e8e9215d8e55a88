// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * disk_child.c - `postern disk-child`: looks for a kernel on a disk whose every
 * byte may be hostile, in a process that has nothing to lose: five descriptors,
 * no privileges, little memory and time, and no system calls but those that
 * reading, writing and memory take. It goes when its parent goes. Nobody but
 * disk_boot.c starts it.
 */
#include <grp.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/dynamic.h"
#include "base/size.h"
#include "cli/cli.h"
#include "cli/descriptors.h"
#include "cli/disk_child.h"

#define NOBODY 65534
#define CPU_SECONDS 60
#define MEMORY_BYTES (UINT64_C(1) << 30)

/* A sanitizer maps its shadow, which is large. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SHADOWED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SHADOWED 1
#endif
#endif

#define SECCOMP_FUNCTIONS(f) f(seccomp_init) f(seccomp_rule_add) f(seccomp_load) f(seccomp_release)

struct seccomp_library {
	DYNAMIC_TABLE(SECCOMP_FUNCTIONS)
};

static int disk_pread(void *arg, uint64_t offset, void *to, size_t len)
{
	char *at = to;
	ssize_t n;

	(void)arg;
	while (len) {
		n = pread(DISK_CHILD_DISK, at, len, (off_t)offset);
		if (n <= 0)
			return n ? -errno : -EIO;
		at += n;
		offset += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

static void limit(int resource, uint64_t value)
{
	const struct rlimit both = { .rlim_cur = value, .rlim_max = value };

	setrlimit(resource, &both);
}

/*
 * RLIMIT_AS does not count what is written to memory files; they need not be
 * larger than the guest that they are for.
 */
static int privileges_drop(uint64_t memory_bytes, struct err *err)
{
	limit(RLIMIT_CORE, 0);
	limit(RLIMIT_CPU, CPU_SECONDS);
	limit(RLIMIT_FSIZE, memory_bytes < DISK_INITRD_MAX ? memory_bytes : DISK_INITRD_MAX);
#ifndef SHADOWED
	limit(RLIMIT_AS, MEMORY_BYTES);
#endif
	if (!geteuid() && (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
			   setresuid(NOBODY, NOBODY, NOBODY)))
		return err_errno(err, -errno, "the reader of disks cannot give up root's rights");
	/* A change of user takes these away. */
	prctl(PR_SET_DUMPABLE, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return err_errno(err, -errno, "the reader of disks cannot give up its rights");
	return 0;
}

/* What libc's memory, files that are open already, and the end of a process take. */
static int syscalls_drop(struct err *err)
{
	static const int allowed[] = {
		SCMP_SYS(read), SCMP_SYS(pread64), SCMP_SYS(write), SCMP_SYS(pwrite64), SCMP_SYS(brk), SCMP_SYS(mmap),
		SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(getrandom), SCMP_SYS(futex),
		SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday), SCMP_SYS(time), SCMP_SYS(exit), SCMP_SYS(exit_group),
		SCMP_SYS(rt_sigreturn), SCMP_SYS(sigaltstack),	/* the latter: AddressSanitizer's end of a process */
	};
	static const char *const names[] = { DYNAMIC_NAMES(SECCOMP_FUNCTIONS) };
	static const struct dynamic_library library = { "libseccomp.so.2", "libseccomp2",
							"the reader of disks" };
	struct seccomp_library lib;
	scmp_filter_ctx filter;
	size_t i;
	int r = dynamic_load(&lib, names, sizeof(names) / sizeof(names[0]), &library, err);

	if (r < 0)
		return r;
	filter = lib.seccomp_init(SCMP_ACT_KILL_PROCESS);
	r = filter ? 0 : -ENOMEM;
	for (i = 0; i < sizeof(allowed) / sizeof(allowed[0]) && !r; i++)
		r = lib.seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[i], 0);
	if (!r)
		r = lib.seccomp_load(filter);
	lib.seccomp_release(filter);
	return r ? err_errno(err, r, "the reader of disks cannot give up system calls (seccomp)") :
		   0;
}

/* The first partition with a kernel; if there is none, what the first was like. */
static int search(struct disk_files_reader *reader, struct disk_report *report, uint64_t size,
		  uint64_t memory_bytes, struct err *err)
{
	const struct disk_reader disk = { .size_bytes = size, .read = disk_pread };
	struct disk_partition partitions[DISK_PARTITIONS_MAX];
	struct err other = { 0 };
	int i, r, n = disk_partitions(partitions, &disk, err);

	if (n < 0)
		return n;
	r = -ENOENT;
	for (i = 0; i < n && r == -ENOENT; i++) {
		r = disk_files_copy(reader, &report->files, &disk, &partitions[i],
				    DISK_CHILD_KERNEL, DISK_CHILD_INITRD, memory_bytes, &other);
		memcpy(report->uuid, partitions[i].uuid, sizeof(report->uuid));
		if (!i || r != -ENOENT)
			*err = other;
	}
	return r;
}

int cmd_disk_child(int argc, char **argv)
{
	struct disk_files_reader *reader = NULL;
	struct disk_report report = { 0 };
	struct err err = { 0 };
	uint64_t memory_bytes;
	off_t size;
	int r;

	if (argc != 2 || size_parse(&memory_bytes, argv[1]) < 0)
		return CLI_USAGE;
	/* The machine's process has others, and what its user has handed to it. */
	r = descriptors_close(DISK_CHILD_FDS, &err);
	size = r ? 0 : lseek(DISK_CHILD_DISK, 0, SEEK_END);
	if (!r)
		r = size < 0 ? err_errno(&err, -errno, "its size") :
			       privileges_drop(memory_bytes, &err);
	if (!r && !(reader = disk_files_reader_new(&err)))
		r = err.code;
	if (!r)
		r = syscalls_drop(&err);
	if (!r)
		r = search(reader, &report, (uint64_t)size, memory_bytes, &err);
	report.code = r;
	snprintf(report.text, sizeof(report.text), "%.255s", err.text);
	/* No exit handlers: they may want other system calls. */
	_exit(pwrite(DISK_CHILD_REPORT, &report, sizeof(report), 0) == sizeof(report) ? CLI_OK :
											CLI_FAILED);
}
