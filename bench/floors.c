// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * floors.c - what a late page costs at least, on this host: the measuring rod
 * of bench/bench, which runs this program.
 *
 * 	floors tsc			frequency of the TSC, in kHz
 * 	floors hold MIB			touches that much memory and holds it until its input ends
 * 	floors rates			GB/s of UFFDIO_COPY, UFFDIO_MOVE, a TCP stream over the loopback
 * 	floors kick WAY N CPUS		us to pause vCPUs that wait for a page, N times; WAY: kernel or eject
 * 	floors store FOLDER [ROUNDS]	us to get 64 KiB of an object, beside a pread; see floor_store.c
 * 	floors cipher [ROUNDS]		us to open a frame of an encrypted image; see floor_cipher.c
 * 	floors serve ...		the bare guest over raw userfaultfd; see floor_guest.c
 */
#include "floors.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/types.h"

void floor_die(const char *what)
{
	fprintf(stderr, "floors: %s: %s\n", what, strerror(errno));
	_exit(1);
}

void floor_die_err(const struct err *err)
{
	fprintf(stderr, "floors: %s\n", err->text);
	_exit(1);
}

uint8_t *floor_map(uint64_t len_bytes, bool shared)
{
	uint8_t *p =
		mmap(NULL, len_bytes + HUGE_BYTES, PROT_READ | PROT_WRITE,
		     (shared ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t head;

	if (p == MAP_FAILED)
		floor_die("mmap");
	head = (HUGE_BYTES - (uintptr_t)p % HUGE_BYTES) % HUGE_BYTES;
	if (head)
		munmap(p, head);
	munmap(p + head + len_bytes, HUGE_BYTES - head);
	return p + head;
}

int floor_uffd(int flags, uint64_t wanted, uint64_t *features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = wanted };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | flags);

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0)
		floor_die("userfaultfd");
	if (features)
		*features = api.features;
	return fd;
}

void floor_register(int uffd, void *start, uint64_t len_bytes)
{
	struct uffdio_register reg = {
		.range = { .start = (uintptr_t)start, .len = len_bytes },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	if (ioctl(uffd, UFFDIO_REGISTER, &reg) < 0)
		floor_die("UFFDIO_REGISTER");
}

void floor_tcp_pair(int *a, int *b)
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	socklen_t len = sizeof(at);

	*a = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0 || *a < 0 || bind(listener, (struct sockaddr *)&at, len) < 0 ||
	    listen(listener, 1) < 0 || getsockname(listener, (struct sockaddr *)&at, &len) < 0 ||
	    connect(*a, (struct sockaddr *)&at, len) < 0)
		floor_die("TCP over the loopback");
	*b = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (*b < 0)
		floor_die("accept");
	close(listener);
	if (setsockopt(*a, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0 ||
	    setsockopt(*b, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0)
		floor_die("TCP_NODELAY");
}

bool floor_send(int fd, const void *data, uint64_t len_bytes)
{
	const uint8_t *at = data;
	ssize_t n;

	while (len_bytes) {
		n = send(fd, at, len_bytes, MSG_NOSIGNAL);
		if (n <= 0)
			return false;
		at += n;
		len_bytes -= (uint64_t)n;
	}
	return true;
}

bool floor_receive(int fd, void *data, uint64_t len_bytes)
{
	uint8_t *at = data;
	ssize_t n;

	while (len_bytes) {
		n = recv(fd, at, len_bytes, 0);
		if (n <= 0)
			return false;
		at += n;
		len_bytes -= (uint64_t)n;
	}
	return true;
}

void floor_place(pid_t tid, int cpu)
{
	cpu_set_t set;

	/* The kernel leaves out what there is not. */
	memset(&set, cpu < 0 ? 0xff : 0, sizeof(set));
	if (cpu >= 0)
		CPU_SET((size_t)cpu, &set);
	if (sched_setaffinity(tid, sizeof(set), &set) < 0)
		floor_die("sched_setaffinity");
}

static uint64_t tsc_now(void)
{
	return __builtin_ia32_rdtsc();
}

static int print_tsc(void)
{
	int64_t start = clock_now_ns(), now;
	uint64_t from = tsc_now();

	do
		now = clock_now_ns();
	while (now - start < 500 * NS_PER_MS);
	printf("%.0f\n", (double)(tsc_now() - from) * 1e6 / (double)(now - start));
	return 0;
}

/* Touches that much memory, says so, and holds it until its input ends. */
static int hold(uint64_t bytes)
{
	uint8_t *p = floor_map(bytes, false);
	uint64_t i;
	char c;

	madvise(p, bytes, MADV_HUGEPAGE);
	for (i = 0; i < bytes; i += PAGE_BYTES)
		p[i] = 1;
	puts("ready");
	fflush(stdout);
	while (read(STDIN_FILENO, &c, 1) > 0)
		;
	return 0;
}

static int usage(void)
{
	fprintf(stderr, "usage: floors tsc | hold MIB | rates | kick kernel|eject N CPUS |\n"
			"       floors store FOLDER [ROUNDS] | cipher [ROUNDS] |\n"
			"       floors serve KERNEL MIB SERIAL-FD\n");
	return 2;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!strcmp(what, "tsc"))
		return print_tsc();
	if (!strcmp(what, "hold") && argc == 3)
		return hold((strtoull(argv[2], NULL, 10) << 20) & ~(HUGE_BYTES - 1));
	if (!strcmp(what, "rates"))
		return floor_rates(argc - 1, argv + 1);
	if (!strcmp(what, "store"))
		return floor_store(argc - 1, argv + 1);
	if (!strcmp(what, "cipher"))
		return floor_cipher(argc - 1, argv + 1);
	if (!strcmp(what, "kick") && argc == 5)
		return floor_kick(argc - 1, argv + 1);
	if (!strcmp(what, "serve") && argc == 5)
		return floor_serve(argc - 1, argv + 1);
	return usage();
}
