// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Guest RAM that is a private mapping of a memfd which clones share. Clones are
// several memories of this process, or of a child that is killed.
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "memory/internal.h"

#define PAGES 1024

struct world {
	int memfd;
	struct memory *mem[2];
	struct counting_source source[2];
};

static uint8_t *host_of(struct memory *mem, uint64_t gfn)
{
	return mem->region[0].host + gfn * PAGE_BYTES;
}

static int backing_open(uint64_t pages)
{
	struct err err;
	int fd = memory_backing_new(pages * PAGE_BYTES, &err);

	assert_true(fd >= 0);
	return fd;
}

static void world_open(struct world *w)
{
	unsigned int i;

	w->memfd = backing_open(PAGES);
	for (i = 0; i < 2; i++) {
		w->mem[i] = memory_backed_for_test(2, 2, w->memfd, NULL);
		counting_source_init(&w->source[i]);
		memory_attach(w->mem[i], &w->source[i].source);
	}
}

static void world_close(struct world *w)
{
	memory_free(w->mem[0]);
	memory_free(w->mem[1]);
	close(w->memfd);
}

/* Does the memfd hold this page? */
static bool holds(int memfd, uint64_t page)
{
	return lseek(memfd, (off_t)(page * PAGE_BYTES), SEEK_DATA) == (off_t)(page * PAGE_BYTES);
}

static void fill(struct memory *mem, uint64_t gfn, int64_t want)
{
	_Alignas(PAGE_BYTES) uint8_t page[PAGE_BYTES];

	page_pattern(page, GFN(gfn));
	assert_int_equal(memory_fill(mem, GFN(gfn), 1, page), want);
}

/* Its content, looked at beside gup; it must not wait. */
static void assert_there(struct memory *mem, uint64_t gfn, bool zero)
{
	uint8_t want[PAGE_BYTES] = { 0 };
	struct memory_stats before, after;

	if (!zero)
		page_pattern(want, GFN(gfn));
	memory_stats(mem, &before);
	assert_memory_equal(host_of(mem, gfn), want, PAGE_BYTES);
	memory_stats(mem, &after);
	assert_int_equal(before.faults, after.faults);
}

static uint64_t faults(struct memory *mem)
{
	struct memory_stats stats;

	memory_stats(mem, &stats);
	return stats.faults;
}

static void assert_written(struct memory *mem, const uint64_t *gfn, unsigned int n)
{
	uint8_t bits[512 / 8] = { 0 }, want[512 / 8] = { 0 };
	unsigned int i;

	for (i = 0; i < n; i++)
		want[gfn[i] / 8] |= (uint8_t)(1u << gfn[i] % 8);
	assert_int_equal(memory_written(mem, GFN(0), 512, bits), n);
	assert_memory_equal(bits, want, sizeof(bits));
}

/* ---- pages ---- */

static void test_what_one_brought_the_other_has_without_an_event(void **unused)
{
	struct world w;
	uint64_t word;

	(void)unused;
	world_open(&w);
	fill(w.mem[0], 3, 1);
	assert_there(w.mem[0], 3, false);
	assert_there(w.mem[1], 3, false);
	assert_int_equal(faults(w.mem[0]) + faults(w.mem[1]), 0);
	/* Nobody has told its byte; gup looks, and asks no source. */
	assert_int_equal(memory_page_state(w.mem[1], GFN(3)), PAGE_MISSING);
	assert_int_equal(gup_read(w.mem[1], GPA(3 * PAGE_BYTES + 8), &word, 8, GUP_NOWAIT, NULL),
			 0);
	assert_int_equal(word, UINT64_C(4) * UINT64_C(0x9e3779b97f4a7c15) + 1);
	assert_int_equal(memory_page_state(w.mem[1], GFN(3)), PAGE_PRESENT);
	assert_int_equal(w.source[1].requests, 0);
	/* One that comes once more is a duplicate. */
	fill(w.mem[1], 3, 0);
	/* The other region is behind the first one in the memfd. */
	assert_false(holds(w.memfd, 512 + 7));
	fill(w.mem[0], GPA(UINT64_C(4) << 30).v / PAGE_BYTES + 7, 1);
	assert_true(holds(w.memfd, 512 + 7));
	world_close(&w);
}

struct toucher {
	struct memory *mem;
	uint64_t gfn, got;
	bool writes;
	_Atomic pid_t tid;
	_Atomic bool done;
	pthread_t thread;
};

static void *toucher_main(void *arg)
{
	struct toucher *t = arg;
	volatile uint64_t *at = (volatile uint64_t *)(void *)host_of(t->mem, t->gfn);

	atomic_store(&t->tid, gettid());
	if (t->writes)
		at[0] = 77;
	t->got = at[1];
	atomic_store(&t->done, true);
	return NULL;
}

static void touch(struct toucher *t, struct memory *mem, uint64_t gfn, bool writes)
{
	*t = (struct toucher){ .mem = mem, .gfn = gfn, .writes = writes };
	assert_int_equal(pthread_create(&t->thread, NULL, toucher_main, t), 0);
}

static void touch_end(struct toucher *t)
{
	pthread_join(t->thread, NULL);
	assert_int_equal(t->got, (t->gfn + 1) * UINT64_C(0x9e3779b97f4a7c15) + 1);
}

static void test_a_hole_is_asked_for_and_filled_for_all(void **unused)
{
	struct toucher t[2];
	struct world w;
	unsigned int i;

	(void)unused;
	world_open(&w);
	for (i = 0; i < 2; i++)
		touch(&t[i], w.mem[i], 9, i);
	wait_until(w.source[0].requests == 1 && w.source[1].requests == 1);
	assert_false(t[0].done || t[1].done);
	/* Each is woken by whoever brings it to him: the one who is late finds it there. */
	fill(w.mem[0], 9, 1);
	touch_end(&t[0]);
	assert_true(holds(w.memfd, 9));
	fill(w.mem[1], 9, 1);
	touch_end(&t[1]);
	assert_int_equal(*(uint64_t *)(void *)host_of(w.mem[1], 9), 77);
	assert_there(w.mem[0], 9, false);
	assert_written(w.mem[0], NULL, 0);
	assert_written(w.mem[1], (uint64_t[]){ 9 }, 1);
	world_close(&w);
}

static void test_a_write_copies_one_page(void **unused)
{
	const uint64_t own[] = { 0, 5, 511 };
	struct world w;
	uint64_t i, word = 1;

	(void)unused;
	world_open(&w);
	for (i = 0; i < 512; i++)
		fill(w.mem[0], i, 1);
	for (i = 0; i < 3; i++)
		assert_int_equal(
			gup_write(w.mem[1], GPA(own[i] * PAGE_BYTES), &word, 8, GUP_NOWAIT, NULL),
			0);
	for (i = 0; i < 512; i++)
		assert_there(w.mem[0], i, false);
	assert_written(w.mem[0], NULL, 0);
	assert_written(w.mem[1], own, 3);
	/* As harvests have it, too. */
	uint8_t bits[512 / 8] = { 0 };
	assert_int_equal(memory_harvest_dirty(w.mem[1], GFN(0), 512, bits), 3);
	world_close(&w);
}

/* As a source of many pages brings them, which knows nothing of memfds. */
static void test_pages_come_by_room_and_commit(void **unused)
{
	struct page_sink *sink;
	struct world w;
	uint8_t *data;
	void *room;
	uint64_t i, at;
	int64_t n;

	(void)unused;
	world_open(&w);
	sink = memory_sink(w.mem[0]);
	fill(w.mem[1], 100, 1);
	for (at = 0; at < 512; at += (uint64_t)n) {
		n = sink->ops->room(sink, GFN(at), 128, &room);
		assert_int_equal(n, 128);
		data = room;
		for (i = 0; i < 128; i++)
			page_pattern(data + i * PAGE_BYTES, GFN(at + i));
		assert_int_equal(sink->ops->commit(sink, GFN(at), 128, room), 128);
	}
	for (i = 0; i < 512; i++) {
		assert_int_equal(memory_page_state(w.mem[0], GFN(i)), PAGE_PRESENT);
		assert_there(w.mem[1], i, false);
	}
	world_close(&w);
}

static void test_zeros_take_no_memory(void **unused)
{
	struct page_sink *sink;
	struct world w;
	uint64_t i;

	(void)unused;
	world_open(&w);
	sink = memory_sink(w.mem[0]);
	assert_int_equal(memory_fill(w.mem[0], GFN(2), 3, NULL), 3);
	assert_int_equal(sink->ops->commit(sink, GFN(512 - 64), 64, NULL), 64);
	for (i = 2; i < 5; i++)
		assert_there(w.mem[0], i, true);
	assert_there(w.mem[0], 511, true);
	assert_int_equal(lseek(w.memfd, 0, SEEK_DATA), -1);
	assert_int_equal(errno, ENXIO);
	/* The other one asks for itself. */
	assert_int_equal(memory_page_state(w.mem[1], GFN(2)), PAGE_MISSING);
	world_close(&w);
}

static void test_a_lost_page_that_another_has_is_there(void **unused)
{
	struct memory_stats stats;
	struct world w;
	uint64_t word;

	(void)unused;
	world_open(&w);
	assert_int_equal(memory_lose(w.mem[1], GFN(4)), 0);
	assert_int_equal(gup_read(w.mem[1], GPA(4 * PAGE_BYTES), &word, 8, GUP_NOWAIT, NULL), -EIO);
	fill(w.mem[0], 4, 1);
	assert_int_equal(memory_refresh(w.mem[1], GFN(0), 512), 1);
	assert_int_equal(memory_refresh(w.mem[1], GFN(0), 512), 0);
	assert_int_equal(memory_refresh(w.mem[1], GFN(512), 1), -EFAULT);
	assert_int_equal(gup_read(w.mem[1], GPA(4 * PAGE_BYTES), &word, 8, GUP_NOWAIT, NULL), 0);
	memory_stats(w.mem[1], &stats);
	assert_int_equal(stats.lost, 0);
	assert_int_equal(stats.missing, PAGES - 1);
	world_close(&w);
}

static void on_complete(void *arg)
{
	atomic_fetch_add((_Atomic int *)arg, 1);
}

static void test_it_completes_and_is_watched_on(void **unused)
{
	_Atomic int completed = 0;
	const struct memory_events events = { .complete = on_complete, .arg = (void *)&completed };
	int memfd = backing_open(512);
	struct memory *a = memory_backed_for_test(2, 0, memfd, NULL);
	struct memory *b = memory_backed_for_test(2, 0, memfd, &events);
	uint64_t i, word;

	(void)unused;
	for (i = 0; i < 511; i++)
		fill(a, i, 1);
	assert_int_equal(memory_fill(b, GFN(511), 1, NULL), 1);
	assert_true(memory_is_late(b));
	/* By gup, which holds the map lock: nobody takes it alone for that. */
	memory_map_lock(b);
	struct gup_span span;
	assert_int_equal(gup(b, GPA(0), 511 * PAGE_BYTES, GUP_NOWAIT, NULL, &span), 0);
	gup_put(b, &span);
	memory_map_unlock(b);
	assert_false(memory_is_late(b));
	assert_int_equal(completed, 1);
	/* What is given up then is zero, and not the image's. */
	assert_int_equal(memory_discard(b, GFN(3), 1), 1);
	assert_there(b, 3, true);
	assert_int_equal(gup_read(b, GPA(3 * PAGE_BYTES), &word, 8, GUP_NOWAIT, NULL), 0);
	assert_int_equal(word, 0);
	memory_free(a);
	memory_free(b);
	close(memfd);
}

/* ---- what is given up ---- */

static void test_what_is_given_up_reads_as_zeros(void **unused)
{
	struct world w;
	uint64_t i, word = 5;

	(void)unused;
	world_open(&w);
	for (i = 0; i < 16; i++)
		fill(w.mem[0], i, 1);
	/*
	 * Also of pages that another brought, written or not; not of one that
	 * nobody has, nor of one that is held.
	 */
	assert_int_equal(gup_write(w.mem[1], GPA(8 * PAGE_BYTES), &word, 8, GUP_NOWAIT, NULL), 0);
	struct gup_span span;
	assert_int_equal(gup(w.mem[1], GPA(12 * PAGE_BYTES), 1, GUP_NOWAIT, NULL, &span), 0);
	assert_int_equal(memory_discard(w.mem[1], GFN(4), 16), 11);
	gup_put(w.mem[1], &span);
	for (i = 0; i < 16; i++) {
		assert_there(w.mem[1], i, i >= 4 && i != 12);
		assert_there(w.mem[0], i, false);
	}
	assert_int_equal(memory_page_state(w.mem[1], GFN(17)), PAGE_MISSING);
	assert_written(w.mem[1], (uint64_t[]){ 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15 }, 11);
	/* A copy that comes once more changes nothing; who writes has a page of his own again. */
	fill(w.mem[1], 5, 0);
	assert_there(w.mem[1], 5, true);
	assert_int_equal(gup_write(w.mem[1], GPA(5 * PAGE_BYTES), &word, 8, GUP_NOWAIT, NULL), 0);
	assert_int_equal(*(uint64_t *)(void *)host_of(w.mem[1], 5), 5);
	assert_there(w.mem[0], 5, false);
	world_close(&w);
}

/* A guest that touches what it gives up gets the image's data, its own or zeros; never stuck. */
static void *balloon_guest(void *arg)
{
	struct toucher *t = arg;
	volatile uint64_t *at = (volatile uint64_t *)(void *)host_of(t->mem, 0);
	unsigned int i = 0;

	while (!atomic_load(&t->done)) {
		uint64_t word = at[(i++ % 64) * PAGE_BYTES / 8 + 1];

		assert_true(!word ||
			    word == (at - at) + ((i - 1) % 64 + 1) * UINT64_C(0x9e3779b97f4a7c15) +
					    1);
	}
	return NULL;
}

static void test_it_is_given_up_while_the_guest_touches_it(void **unused)
{
	struct toucher t = { 0 };
	struct world w;
	uint64_t i;

	(void)unused;
	world_open(&w);
	for (i = 0; i < 64; i++)
		fill(w.mem[0], i, 1);
	t.mem = w.mem[0];
	assert_int_equal(pthread_create(&t.thread, NULL, balloon_guest, &t), 0);
	for (i = 0; i < 200; i++)
		assert_true(memory_discard(w.mem[0], GFN(0), 64) >= 0);
	atomic_store(&t.done, true);
	pthread_join(t.thread, NULL);
	assert_int_equal(memory_discard(w.mem[0], GFN(0), 64), 64);
	assert_there(w.mem[0], 63, true);
	world_close(&w);
}

static void test_it_does_not_get_out_of_date(void **unused)
{
	struct memory_stats stats;
	struct world w;
	uint64_t word = 1;

	(void)unused;
	world_open(&w);
	fill(w.mem[0], 1, 1);
	assert_int_equal(memory_fill(w.mem[0], GFN(2), 1, NULL), 1);
	assert_int_equal(memory_invalidate(w.mem[0], GFN(0), 512), -EINVAL);
	assert_int_equal(memory_invalidate(w.mem[0], GFN(512), 1), -EFAULT);
	assert_int_equal(gup_write(w.mem[0], GPA(PAGE_BYTES), &word, 8, GUP_NOWAIT, NULL), 0);
	memory_detach(w.mem[0]);
	assert_int_equal(memory_take_back(w.mem[0]), 0);
	assert_written(w.mem[0], NULL, 0);
	memory_stats(w.mem[0], &stats);
	assert_int_equal(stats.missing, PAGES);
	/* As nobody had used it: what is in the memfd counts as come. */
	assert_int_equal(gup_read(w.mem[0], GPA(PAGE_BYTES), &word, 8, GUP_NOWAIT, NULL), 0);
	assert_there(w.mem[0], 1, false);
	assert_int_equal(gup_read(w.mem[0], GPA(2 * PAGE_BYTES), &word, 8, GUP_NOWAIT, NULL),
			 -EAGAIN);
	world_close(&w);
}

/* ---- holes ---- */

/* Reads a page of another process' memory, as a debugger or a worker of the kernel's does. */
struct peeker {
	pid_t of;
	uint8_t *at;
	_Atomic ssize_t got;
	pthread_t thread;
};

static void *peeker_main(void *arg)
{
	struct peeker *p = arg;
	uint8_t byte = 7;
	struct iovec to = { &byte, 1 }, from = { p->at, 1 };

	atomic_store(&p->got, process_vm_readv(p->of, &to, 1, &from, 1, 0));
	return NULL;
}

static void peek(struct peeker *p, pid_t of, uint8_t *at)
{
	*p = (struct peeker){ .of = of, .at = at, .got = -100 };
	assert_int_equal(pthread_create(&p->thread, NULL, peeker_main, p), 0);
}

static void test_the_end_makes_no_zeros_of_holes(void **unused)
{
	struct peeker p;
	struct world w;

	(void)unused;
	world_open(&w);
	peek(&p, getpid(), host_of(w.mem[0], 33));
	wait_until(w.source[0].requests == 1);
	memory_shut(w.mem[0]);
	pthread_join(p.thread, NULL);
	assert_false(holds(w.memfd, 33));
	world_close(&w);
}

/* What a clone hands over to whoever is to end its waits, should it be killed. */
struct handed {
	struct memory_region region[MEMORY_REGIONS_MAX];
	unsigned int n;
};

static void child_main(int memfd, int sock)
{
	struct memory *mem = memory_backed_for_test(2, 2, memfd, NULL);
	struct handed handed = { 0 };
	union {
		struct cmsghdr head;
		uint8_t space[CMSG_SPACE(sizeof(int))];
	} control = { .head = { CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS } };
	struct iovec data = { &handed, sizeof(handed) };
	struct msghdr msg = {
		.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control),
	};
	int fd = memory_watch_fd(mem);

	memcpy(handed.region, memory_regions(mem, &handed.n), sizeof(handed.region));
	memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
	if (sendmsg(sock, &msg, 0) != sizeof(handed))
		_exit(1);
	while (faults(mem) == 0)
		wait_a_little();
	if (write(sock, "w", 1) != 1)
		_exit(1);
	pause();
	_exit(1);
}

static int handed_receive(int sock, struct handed *handed)
{
	union {
		struct cmsghdr head;
		uint8_t space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec data = { handed, sizeof(*handed) };
	struct msghdr msg = {
		.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control),
	};
	int fd;

	assert_int_equal(recvmsg(sock, &msg, 0), sizeof(*handed));
	assert_int_equal(control.head.cmsg_type, SCM_RIGHTS);
	memcpy(&fd, CMSG_DATA(&control.head), sizeof(fd));
	return fd;
}

static void test_who_is_killed_makes_no_zeros_of_holes(void **unused)
{
	int memfd = backing_open(PAGES), sock[2], uffd;
	struct handed handed;
	struct peeker p;
	char byte;
	pid_t child;

	(void)unused;
	/* Where userfaultfd is not allowed, this skips. */
	memory_free(memory_backed_for_test(2, 2, memfd, NULL));
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sock), 0);
	child = fork();
	assert_true(child >= 0);
	if (!child)
		child_main(memfd, sock[1]);
	close(sock[1]);
	uffd = handed_receive(sock[0], &handed);
	peek(&p, child, handed.region[1].host + 5 * PAGE_BYTES);
	assert_int_equal(read(sock[0], &byte, 1), 1);
	kill(child, SIGKILL);
	/* The socket is at its end when it is gone; the reader still waits. */
	assert_int_equal(read(sock[0], &byte, 1), 0);
	assert_int_equal(p.got, -100);
	assert_int_equal(memory_retire(uffd, handed.region, handed.n), 0);
	pthread_join(p.thread, NULL);
	assert_int_equal(p.got, 1);
	assert_int_equal(waitpid(child, NULL, 0), child);
	assert_int_equal(lseek(memfd, 0, SEEK_DATA), -1);
	/* Once more, and of what it never had: nothing is left to be done. */
	handed.region[0].host += 4096 * PAGE_BYTES;
	assert_int_equal(memory_retire(uffd, handed.region, handed.n), 0);
	close(uffd);
	close(sock[0]);
	close(memfd);
}

/* ---- what is refused ---- */

static void assert_refused(int memfd, const char *why)
{
	struct memory *mem = memory_for_test(4, 0, false, NULL);
	struct err err;

	assert_true(memfd >= 0);
	assert_int_equal(memory_set_backing(mem, memfd, &err), -EINVAL);
	assert_non_null(strstr(err.text, why));
	assert_false(memory_is_backed(mem));
	/* It is as it was. */
	host_of(mem, 0)[0] = 1;
	memory_free(mem);
	close(memfd);
}

static void test_other_memfds_are_refused(void **unused)
{
	int fd[2], huge;
	struct err err;

	(void)unused;
	assert_refused(backing_open(PAGES * 2), "another image's");
	assert_refused(memfd_create("unsealed", MFD_ALLOW_SEALING), "sealed");
	assert_refused(open("/proc/self/stat", O_RDONLY | O_CLOEXEC), "no memfd");
	assert_int_equal(pipe(fd), 0);
	close(fd[1]);
	assert_refused(fd[0], "no memfd");
	huge = memfd_create("huge", MFD_HUGETLB | MFD_ALLOW_SEALING);
	if (huge >= 0)
		assert_refused(huge, "small pages");
	fd[0] = memfd_create("full", MFD_ALLOW_SEALING);
	assert_int_equal(ftruncate(fd[0], PAGES * PAGE_BYTES), 0);
	assert_int_equal(fcntl(fd[0], F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), 0);
	assert_refused(fd[0], "filled");
	assert_int_equal(memory_backing_new(0, &err), -EINVAL);
	assert_int_equal(memory_backing_new(HUGE_BYTES + 1, &err), -EINVAL);
	assert_int_equal(memory_backing_new(UINT64_C(1) << 63, &err), -EINVAL);
}

static void test_it_is_set_once_and_first(void **unused)
{
	struct memory *anonymous = memory_for_test(4, 0, true, NULL);
	uint8_t bits[1];
	struct world w;
	struct err err;

	(void)unused;
	world_open(&w);
	assert_int_equal(memory_set_backing(w.mem[0], w.memfd, &err), -EINVAL);
	assert_int_equal(memory_set_backing(anonymous, w.memfd, &err), -EINVAL);
	assert_int_equal(memory_written(anonymous, GFN(0), 8, bits), -EINVAL);
	assert_int_equal(memory_written(w.mem[0], GFN(512), 1, bits), -EFAULT);
	memory_free(anonymous);
	world_close(&w);
}

/* Is what lies at this address left out of core dumps, and kept from a child? */
static bool is_private(const void *at)
{
	FILE *maps = fopen("/proc/self/smaps", "re");
	unsigned long start = 0, end = 0;
	bool dump = true, fork = true, here = false;
	char line[512];

	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			here = (unsigned long)at >= start && (unsigned long)at < end;
		if (here && !strncmp(line, "VmFlags:", 8)) {
			dump = !strstr(line, " dd");
			fork = !strstr(line, " dc");
		}
	}
	fclose(maps);
	return !dump && !fork;
}

static void test_it_is_no_part_of_a_core_dump(void **unused)
{
	struct world w;

	(void)unused;
	world_open(&w);
	assert_true(is_private(host_of(w.mem[0], 0)));
	assert_true(is_private(w.mem[0]->region[1].host));
	assert_true(is_private(w.mem[0]->backing_map));
	assert_int_equal(memory_set_dumpable(w.mem[0]), 0);
	assert_false(is_private(host_of(w.mem[0], 0)));
	assert_true(is_private(w.mem[0]->backing_map));
	world_close(&w);
}

/* ---- many at once ---- */

#define RACERS 4

struct racer {
	struct memory *mem;
	unsigned int seed;
	pthread_t thread;
	_Atomic uint64_t fresh;
};

static void *racer_main(void *arg)
{
	struct racer *r = arg;
	_Alignas(PAGE_BYTES) uint8_t page[PAGE_BYTES];
	uint64_t i, gfn;

	for (i = 0; i < 512; i++) {
		gfn = (i * 167 + r->seed * 31) % 512;
		page_pattern(page, GFN(gfn));
		r->fresh += (uint64_t)memory_fill(r->mem, GFN(gfn), 1, page);
	}
	return NULL;
}

static void test_they_race_for_each_page(void **unused)
{
	struct racer racer[RACERS];
	struct memory_stats stats;
	struct world w;
	unsigned int i;
	uint64_t k;

	(void)unused;
	world_open(&w);
	for (i = 0; i < RACERS; i++) {
		racer[i] = (struct racer){ .mem = w.mem[i % 2], .seed = i };
		assert_int_equal(pthread_create(&racer[i].thread, NULL, racer_main, &racer[i]), 0);
	}
	for (i = 0; i < RACERS; i++)
		pthread_join(racer[i].thread, NULL);
	for (i = 0; i < 2; i++) {
		assert_int_equal(racer[i].fresh + racer[i + 2].fresh, 512);
		memory_stats(w.mem[i], &stats);
		assert_int_equal(stats.missing, PAGES - 512);
		for (k = 0; k < 512; k++)
			assert_there(w.mem[i], k, false);
	}
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_one_brought_the_other_has_without_an_event),
		cmocka_unit_test(test_a_hole_is_asked_for_and_filled_for_all),
		cmocka_unit_test(test_a_write_copies_one_page),
		cmocka_unit_test(test_pages_come_by_room_and_commit),
		cmocka_unit_test(test_zeros_take_no_memory),
		cmocka_unit_test(test_a_lost_page_that_another_has_is_there),
		cmocka_unit_test(test_it_completes_and_is_watched_on),
		cmocka_unit_test(test_what_is_given_up_reads_as_zeros),
		cmocka_unit_test(test_it_is_given_up_while_the_guest_touches_it),
		cmocka_unit_test(test_it_does_not_get_out_of_date),
		cmocka_unit_test(test_the_end_makes_no_zeros_of_holes),
		cmocka_unit_test(test_who_is_killed_makes_no_zeros_of_holes),
		cmocka_unit_test(test_other_memfds_are_refused),
		cmocka_unit_test(test_it_is_set_once_and_first),
		cmocka_unit_test(test_it_is_no_part_of_a_core_dump),
		cmocka_unit_test(test_they_race_for_each_page),
	};

	return cmocka_run_group_tests_name("backing", tests, NULL, NULL);
}
