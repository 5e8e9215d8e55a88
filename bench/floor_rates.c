// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * floor_rates.c - `floors rates`: how fast bulk can come, in GB/s, one line a
 * figure ("name value").
 *
 * 	copy_4k copy_64k copy_2m	UFFDIO_COPY into missing memory, so much at a time, one thread
 * 	move_2m				UFFDIO_MOVE of filled huge pages (absent before Linux 6.8)
 * 	tcp_stream			one TCP connection over the loopback, from another process, 1 MiB at a time
 * 	memcpy				into memory that is there
 *
 * Each is done REPEATS times over the same amount; the first time warms memory
 * and is not counted, of the others the median is printed.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/types.h"
#include "floors.h"

#define RATE_BYTES (UINT64_C(128) << 20)
#define STREAM_BYTES (UINT64_C(512) << 20)
#define STREAM_CHUNK (UINT64_C(1) << 20)
#define STREAM_BUFFER (4 << 20)
#define REPEATS 4

/* Linux 6.8; older headers lack it. */
#ifndef UFFDIO_MOVE
#define UFFD_FEATURE_MOVE (1 << 16)
#define _UFFDIO_MOVE (0x05)
#define UFFDIO_MOVE _IOWR(UFFDIO, _UFFDIO_MOVE, struct uffdio_move)
struct uffdio_move {
	__u64 dst;
	__u64 src;
	__u64 len;
	__u64 mode;
	__s64 move;
};
#endif

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* values[0] was the warm-up. */
static void print_median(const char *name, double *values)
{
	qsort(values + 1, REPEATS - 1, sizeof(*values), by_value);
	printf("%s %.3f\n", name, values[1 + (REPEATS - 1) / 2]);
}

static double gb_per_second(uint64_t bytes, int64_t start_ns)
{
	return (double)bytes / (double)(clock_now_ns() - start_ns);
}

/* `to` holds what `from` held, or the figure would be a lie. */
static void check(const uint8_t *to)
{
	uint64_t at;

	for (at = 0; at < RATE_BYTES; at += PAGE_BYTES)
		if (to[at] != 1 || to[at + PAGE_BYTES - 1] != 1) {
			errno = EIO;
			floor_die("the data did not arrive");
		}
}

static void copy_rate(const char *name, uint64_t batch)
{
	uint8_t *from = floor_map(RATE_BYTES, false), *to = floor_map(RATE_BYTES, false);
	int uffd = floor_uffd(O_NONBLOCK, 0, NULL), i;
	double rate[REPEATS];
	int64_t start;
	uint64_t at;

	madvise(from, RATE_BYTES, MADV_HUGEPAGE);
	memset(from, 1, RATE_BYTES);
	floor_register(uffd, to, RATE_BYTES);
	for (i = 0; i < REPEATS; i++) {
		start = clock_now_ns();
		for (at = 0; at < RATE_BYTES; at += batch) {
			struct uffdio_copy copy = {
				.dst = (uintptr_t)to + at, .src = (uintptr_t)from + at, .len = batch,
			};

			if (ioctl(uffd, UFFDIO_COPY, &copy) < 0)
				floor_die("UFFDIO_COPY");
		}
		rate[i] = gb_per_second(RATE_BYTES, start);
		check(to);
		madvise(to, RATE_BYTES, MADV_DONTNEED);
	}
	print_median(name, rate);
	close(uffd);
	munmap(from, RATE_BYTES);
	munmap(to, RATE_BYTES);
}

static void move_one(int uffd, uint8_t *to, uint8_t *from)
{
	uint64_t done = 0;

	while (done < HUGE_BYTES) {
		struct uffdio_move move = {
			.dst = (uintptr_t)to + done, .src = (uintptr_t)from + done, .len = HUGE_BYTES - done,
		};

		if (!ioctl(uffd, UFFDIO_MOVE, &move))
			return;
		if (errno != EAGAIN)
			floor_die("UFFDIO_MOVE");
		done += move.move > 0 ? (uint64_t)move.move : 0;
	}
}

static void move_rate(void)
{
	uint8_t *from, *to;
	double rate[REPEATS];
	uint64_t features, at;
	int64_t start;
	int uffd, i;

	uffd = floor_uffd(O_NONBLOCK, 0, &features);
	close(uffd);
	if (!(features & UFFD_FEATURE_MOVE))
		return;
	uffd = floor_uffd(O_NONBLOCK, UFFD_FEATURE_MOVE, NULL);
	from = floor_map(RATE_BYTES, false);
	to = floor_map(RATE_BYTES, false);
	madvise(from, RATE_BYTES, MADV_HUGEPAGE);
	madvise(to, RATE_BYTES, MADV_HUGEPAGE);
	floor_register(uffd, to, RATE_BYTES);
	for (i = 0; i < REPEATS; i++) {
		memset(from, 1, RATE_BYTES);
		start = clock_now_ns();
		for (at = 0; at < RATE_BYTES; at += HUGE_BYTES)
			move_one(uffd, to + at, from + at);
		rate[i] = gb_per_second(RATE_BYTES, start);
		check(to);
		madvise(to, RATE_BYTES, MADV_DONTNEED);
	}
	print_median("move_2m", rate);
	close(uffd);
	munmap(from, RATE_BYTES);
	munmap(to, RATE_BYTES);
}

static double stream_once(uint8_t *buffer)
{
	int near, far, size = STREAM_BUFFER;
	uint64_t got = 0;
	int64_t start;
	ssize_t n;
	pid_t pid;

	floor_tcp_pair(&near, &far);
	setsockopt(far, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	setsockopt(near, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	start = clock_now_ns();
	pid = fork();
	if (pid < 0)
		floor_die("fork");
	if (!pid) {
		for (got = 0; got < STREAM_BYTES; got += STREAM_CHUNK)
			if (!floor_send(far, buffer, STREAM_CHUNK))
				_exit(1);
		_exit(0);
	}
	close(far);
	while ((n = recv(near, buffer, STREAM_CHUNK, 0)) > 0)
		got += (uint64_t)n;
	close(near);
	waitpid(pid, NULL, 0);
	if (got != STREAM_BYTES)
		floor_die("the stream ended early");
	return gb_per_second(got, start);
}

static void stream_rate(void)
{
	uint8_t *buffer = floor_map(STREAM_CHUNK * 2, false);
	double rate[REPEATS];
	int i;

	memset(buffer, 1, STREAM_CHUNK);
	for (i = 0; i < REPEATS; i++)
		rate[i] = stream_once(buffer);
	print_median("tcp_stream", rate);
	munmap(buffer, STREAM_CHUNK * 2);
}

static void memcpy_rate(void)
{
	uint8_t *from = floor_map(RATE_BYTES, false), *to = floor_map(RATE_BYTES, false);
	double rate[REPEATS];
	int64_t start;
	int i;

	madvise(from, RATE_BYTES, MADV_HUGEPAGE);
	madvise(to, RATE_BYTES, MADV_HUGEPAGE);
	memset(from, 1, RATE_BYTES);
	memset(to, 1, RATE_BYTES);
	for (i = 0; i < REPEATS; i++) {
		start = clock_now_ns();
		memcpy(to, from, RATE_BYTES);
		rate[i] = gb_per_second(RATE_BYTES, start);
	}
	print_median("memcpy", rate);
	munmap(from, RATE_BYTES);
	munmap(to, RATE_BYTES);
}

int floor_rates(int argc, char **argv)
{
	(void)argc, (void)argv;
	copy_rate("copy_4k", PAGE_BYTES);
	copy_rate("copy_64k", 16 * PAGE_BYTES);
	copy_rate("copy_2m", HUGE_BYTES);
	move_rate();
	stream_rate();
	memcpy_rate();
	return 0;
}
