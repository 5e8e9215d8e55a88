// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// postern doctor: what this host can do, each line with what to do about it.
// What can be found by trying is tried (the way out, kernel mode), not read
// from a version.
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "cli/cli.h"
#include "kvm/probe.h"

/* Newer than Debian 12's headers; values of Linux' include/uapi/linux/userfaultfd.h. */
#ifndef UFFD_FEATURE_MOVE
#define UFFD_FEATURE_MOVE (1 << 16)
#endif

enum verdict {
	DOCTOR_GOOD,
	DOCTOR_NOTE,	/* works, could be better */
	DOCTOR_BAD,	/* something that postern is for does not work here */
};

struct finding {
	enum verdict verdict;
	const char *name;	/* of the check, stable: for scripts */
	char found[200];
	char advice[300];	/* empty: nothing to do */
};

struct doctor {
	struct finding finding[32];
	unsigned int n;
};

static const char *const verdict_names[] = { "good", "note", "bad" };

/* Adds a line and returns it, for its advice to be filled in. */
static struct finding *doctor_add(struct doctor *d, enum verdict verdict, const char *name,
				  const char *fmt, ...) __attribute__((format(printf, 4, 5)));

static struct finding *doctor_add(struct doctor *d, enum verdict verdict, const char *name,
				  const char *fmt, ...)
{
	static struct finding overflow;
	struct finding *f = d->n < 32 ? &d->finding[d->n++] : &overflow;
	va_list ap;

	*f = (struct finding){ .verdict = verdict, .name = name };
	va_start(ap, fmt);
	vsnprintf(f->found, sizeof(f->found), fmt, ap);
	va_end(ap);
	return f;
}

static void advise(struct finding *f, const char *advice)
{
	snprintf(f->advice, sizeof(f->advice), "%s", advice);
}

/* The first line of a file; "" if it cannot be read. */
static void read_line(const char *path, char *line, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, line, size - 1);

	line[n > 0 ? n : 0] = 0;
	line[strcspn(line, "\n")] = 0;
	if (fd >= 0)
		close(fd);
}

/* ---- checks ---- */

static void check_host(struct doctor *d)
{
	struct utsname uts;
	struct sysinfo info;

	uname(&uts);
	sysinfo(&info);
	doctor_add(d, DOCTOR_GOOD, "host",
		   "Linux %s, %s, %ld CPUs, %lu MiB of memory, %lu MiB free", uts.release,
		   uts.machine, sysconf(_SC_NPROCESSORS_ONLN), info.totalram * info.mem_unit >> 20,
		   info.freeram * info.mem_unit >> 20);
}

/* Returns whether there is a KVM to try things on. */
static bool check_kvm(struct doctor *d)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0) {
		advise(doctor_add(d, DOCTOR_BAD, "kvm", "/dev/kvm: %s", strerror(errno)),
		       errno == ENOENT ?
			       "load kvm_intel or kvm_amd (on arm64: start the kernel at EL2); enable virtualisation in the firmware, or nested virtualisation in the hypervisor" :
			       "add this user to the group kvm");
		return false;
	}
	doctor_add(d, DOCTOR_GOOD, "kvm", "API version %d, up to %d vCPUs recommended, %d possible",
		   ioctl(fd, KVM_GET_API_VERSION, 0),
		   ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_NR_VCPUS),
		   ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS));
	close(fd);
	return true;
}

static void check_kernel_mode(struct doctor *d)
{
	char why[160];
	struct err err;
	bool can;

	if (probe_kernel_mode(&can, why, sizeof(why), &err) < 0)
		doctor_add(d, DOCTOR_BAD, "stock-kernel", "%s", err.text);
	else if (can)
		doctor_add(d, DOCTOR_GOOD, "stock-kernel", "a stock guest kernel can run: %s", why);
	else
		advise(doctor_add(d, DOCTOR_NOTE, "stock-kernel",
				  "a stock guest kernel cannot run: %s", why),
		       "this KVM has no hardware virtualisation beneath it: only guests in user mode (tests/bare) run well; for stock kernels use another host, or lab/run");
}

static void check_features(struct doctor *d, uint64_t features)
{
	static const struct {
		uint64_t bit;
		const char *name;
	} known[] = {
		{ UFFD_FEATURE_THREAD_ID, "thread-id" },
		{ UFFD_FEATURE_MISSING_SHMEM, "missing-shmem" },
		{ UFFD_FEATURE_MINOR_SHMEM, "minor-shmem" },
		{ UFFD_FEATURE_PAGEFAULT_FLAG_WP, "write-protect" },
		{ UFFD_FEATURE_EVENT_REMOVE, "remove" },
		{ UFFD_FEATURE_MOVE, "move" },
	};
	char text[160] = "";
	size_t i;

	for (i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (features & known[i].bit)
			snprintf(text + strlen(text), sizeof(text) - strlen(text), " %s",
				 known[i].name);
	if (!(features & UFFD_FEATURE_THREAD_ID))
		advise(doctor_add(d, DOCTOR_BAD, "userfaultfd-features", "without thread-id:%s",
				  text),
		       "Linux 4.14 or later tells which thread waits, which the eject needs");
	else
		doctor_add(d, DOCTOR_GOOD, "userfaultfd-features", "%s", text + 1);
}

/* Returns whether late memory is possible. */
static bool check_userfaultfd(struct doctor *d)
{
	struct uffdio_api api = { .api = UFFD_API };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	bool device = false;

#ifdef USERFAULTFD_IOC_NEW
	int dev;

	if (fd < 0 && errno == EPERM && (dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC)) >= 0) {
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		device = true;
		close(dev);
	}
#endif
	if (fd < 0) {
		advise(doctor_add(d, DOCTOR_BAD, "userfaultfd", "%s", strerror(errno)),
		       errno == EPERM ?
			       "run as root, set sysctl vm.unprivileged_userfaultfd=1, or give access to /dev/userfaultfd (Linux 6.1 and later)" :
			       "a kernel with CONFIG_USERFAULTFD is needed for anything that arrives late");
		return false;
	}
	doctor_add(d, DOCTOR_GOOD, "userfaultfd", "allowed%s",
		   device ? " through /dev/userfaultfd" : "");
	if (!ioctl(fd, UFFDIO_API, &api))
		check_features(d, api.features);
	close(fd);
	return true;
}

static void check_way_out(struct doctor *d)
{
	enum way_out way;
	struct err err;
	int64_t us;

	if (probe_way_out(&way, &us, &err) < 0)
		advise(doctor_add(d, DOCTOR_BAD, "way-out", "%s", err.text),
		       "without a way out, stop hangs for as long as a page is missing; please report this kernel");
	else if (way == WAY_OUT_KERNEL)
		doctor_add(d, DOCTOR_GOOD, "way-out",
			   "kernel: a vCPU that waits for a page answered a signal in %" PRId64 " us", us);
	else
		doctor_add(d, DOCTOR_GOOD, "way-out",
			   "eject: this kernel ignores signals in guest page faults; the eject took %" PRId64 " us", us);
}

static void check_huge_pages(struct doctor *d)
{
	char line[128];

	read_line("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof(line));
	if (strstr(line, "[never]") || !line[0])
		advise(doctor_add(d, DOCTOR_NOTE, "huge-pages", "transparent huge pages are off"),
		       "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled makes guest memory several times cheaper to fault in");
	else
		doctor_add(d, DOCTOR_GOOD, "huge-pages", "transparent huge pages: %s", line);
}

static void check_limits(struct doctor *d)
{
	struct rlimit files, core;
	char line[64];

	getrlimit(RLIMIT_NOFILE, &files);
	getrlimit(RLIMIT_CORE, &core);
	read_line("/proc/sys/vm/max_map_count", line, sizeof(line));
	if (files.rlim_max < 1024)
		advise(doctor_add(d, DOCTOR_NOTE, "limits", "at most %ju open files",
				  (uintmax_t)files.rlim_max),
		       "ulimit -n 1024 or more leaves room for QMP clients and connections");
	else
		doctor_add(d, DOCTOR_GOOD, "limits", "%ju open files, %s mappings, core files %s",
			   (uintmax_t)files.rlim_max, line, core.rlim_cur ? "on" : "off");
	read_line("/proc/sys/vm/overcommit_memory", line, sizeof(line));
	if (!strcmp(line, "2"))
		advise(doctor_add(d, DOCTOR_NOTE, "overcommit", "strict (vm.overcommit_memory=2)"),
		       "guest memory counts in full against the commit limit; 0 or 1 lets it come as it is used");
}

/* ---- output ---- */

static void print_text(const struct doctor *d)
{
	unsigned int i;

	for (i = 0; i < d->n; i++) {
		printf("%-4s  %-21s %s\n", verdict_names[d->finding[i].verdict], d->finding[i].name,
		       d->finding[i].found);
		if (d->finding[i].advice[0])
			printf("      %-21s -> %s\n", "", d->finding[i].advice);
	}
}

static void doctor_print_json(const struct doctor *d)
{
	json_t *list = json_array();
	unsigned int i;
	char *text;

	for (i = 0; i < d->n; i++)
		json_array_append_new(
			list, json_pack("{s:s, s:s, s:s, s:s}", "name", d->finding[i].name,
					"verdict", verdict_names[d->finding[i].verdict], "found",
					d->finding[i].found, "advice", d->finding[i].advice));
	text = json_dumps(list, JSON_INDENT(2));
	if (text)
		puts(text);
	free(text);
	json_decref(list);
}

int cmd_doctor(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	static char name[] = "postern doctor";
	struct doctor d = { 0 };
	bool json = false, kvm, late;
	unsigned int i;
	int c;

	argv[0] = name;
	while ((c = getopt_long(argc, argv, "jh", options, NULL)) != -1) {
		if (c == 'h') {
			puts("usage: postern doctor [--json]\n\n"
			     "Shows what this host can do, and what to do about what it cannot.\n"
			     "Exit status: 0 all that postern is for works, 1 something does not.");
			return 0;
		}
		if (c != 'j')
			return 2;
		json = true;
	}
	if (optind < argc) {
		fputs("postern doctor: only --json is allowed\n", stderr);
		return 2;
	}
	check_host(&d);
	kvm = check_kvm(&d);
	if (kvm)
		check_kernel_mode(&d);
	late = check_userfaultfd(&d);
	if (kvm && late)
		check_way_out(&d);
	check_huge_pages(&d);
	check_limits(&d);
	if (json)
		doctor_print_json(&d);
	else
		print_text(&d);
	for (i = 0; i < d.n; i++)
		if (d.finding[i].verdict == DOCTOR_BAD)
			return 1;
	return 0;
}
