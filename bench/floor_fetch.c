// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * floor_fetch.c - late pages with the least that they can cost: one thread
 * reads the userfaultfd and resolves.
 *
 * Locally: UFFDIO_COPY of 4 KiB from a reference copy. Remotely: a request of
 * 64 bytes over TCP to another process, which sends 4096 bytes from the same
 * copy; then UFFDIO_COPY. No states, no checksums, no second connection, no
 * bulk.
 */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/types.h"
#include "floors.h"

struct floor_fetch {
	uint8_t *reference;	/* shared with the server process */
	uint64_t reference_pages;
	int socket;		/* to the server process */
	int uffd;
	int handler_cpu;
	pid_t server;
	_Atomic pid_t handler_tid;	/* 0 until it runs */
	pthread_t handler;
	bool started;
	bool watched;
	uint8_t *start;
	uint64_t pages;
	/* Written by the main thread while the guest is paused, then only by the handler. */
	uint8_t *present;	/* one byte a page */
	_Atomic bool remote;
	_Atomic uint64_t came, messages;
};

static void serve(const struct floor_fetch *fetch, int socket)
{
	struct floor_request request;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (floor_receive(socket, &request, sizeof(request)) &&
	       request.page < fetch->reference_pages)
		if (!floor_send(socket, fetch->reference + request.page * PAGE_BYTES, PAGE_BYTES))
			break;
	_exit(0);
}

struct floor_fetch *floor_fetch_new(uint64_t most_bytes)
{
	struct floor_fetch *fetch = calloc(1, sizeof(*fetch));
	int far;
	pid_t pid;

	if (!fetch)
		floor_die("calloc");
	fetch->uffd = -1;
	fetch->handler_cpu = -1;
	fetch->reference = floor_map(most_bytes, true);
	fetch->reference_pages = most_bytes / PAGE_BYTES;
	floor_tcp_pair(&fetch->socket, &far);
	pid = fork();
	if (pid < 0)
		floor_die("fork");
	if (!pid) {
		close(fetch->socket);
		serve(fetch, far);
	}
	close(far);
	fetch->server = pid;
	return fetch;
}

void floor_fetch_place(struct floor_fetch *fetch, int handler_cpu, int server_cpu)
{
	pid_t tid = atomic_load(&fetch->handler_tid);

	fetch->handler_cpu = handler_cpu;
	if (tid)
		floor_place(tid, handler_cpu);
	floor_place(fetch->server, server_cpu);
}

/* ---- the handler ---- */

static void copy_in(struct floor_fetch *fetch, uint64_t page, const void *data)
{
	struct uffdio_copy copy = {
		.dst = (uintptr_t)fetch->start + page * PAGE_BYTES,
		.src = (uintptr_t)data,
		.len = PAGE_BYTES,
	};
	struct uffdio_range range = { .start = copy.dst, .len = PAGE_BYTES };

	if (!ioctl(fetch->uffd, UFFDIO_COPY, &copy))
		return;
	/* Reported twice: it is there, the second waiter needs only the wake-up. */
	if (errno != EEXIST || ioctl(fetch->uffd, UFFDIO_WAKE, &range) < 0)
		floor_die("UFFDIO_COPY");
}

static void resolve(struct floor_fetch *fetch, uint64_t page)
{
	static _Thread_local _Alignas(4096) uint8_t buffer[4096];
	struct floor_request request = { .page = page };

	if (!atomic_load_explicit(&fetch->remote, memory_order_relaxed)) {
		copy_in(fetch, page, fetch->reference + page * PAGE_BYTES);
		return;
	}
	if (!floor_send(fetch->socket, &request, sizeof(request)) ||
	    !floor_receive(fetch->socket, buffer, sizeof(buffer)))
		floor_die("the server process is gone");
	copy_in(fetch, page, buffer);
}

static void *handle(void *arg)
{
	struct floor_fetch *fetch = arg;
	struct uffd_msg msg;
	uint64_t page;

	floor_place(gettid(), fetch->handler_cpu);
	atomic_store(&fetch->handler_tid, gettid());
	for (;;) {
		/* A blocking read: one system call fewer than poll and read. */
		if (read(fetch->uffd, &msg, sizeof(msg)) != sizeof(msg)) {
			if (errno == EAGAIN || errno == EINTR)
				continue;
			floor_die("read of the userfaultfd");
		}
		page = (msg.arg.pagefault.address - (uintptr_t)fetch->start) / PAGE_BYTES;
		if (msg.event != UFFD_EVENT_PAGEFAULT || page >= fetch->pages)
			continue;
		resolve(fetch, page);
		atomic_fetch_add_explicit(&fetch->messages, 1, memory_order_relaxed);
		if (!fetch->present[page]) {
			fetch->present[page] = 1;
			atomic_fetch_add_explicit(&fetch->came, 1, memory_order_relaxed);
		}
	}
	return NULL;
}

/* ---- taking away, giving back; the guest is paused ---- */

/* The guest may have written to what it has. */
static void save(struct floor_fetch *fetch)
{
	uint64_t i, run;

	for (i = 0; i < fetch->pages; i += run) {
		for (run = 0; i + run < fetch->pages && fetch->present[i + run]; run++)
			;
		memcpy(fetch->reference + i * PAGE_BYTES, fetch->start + i * PAGE_BYTES,
		       run * PAGE_BYTES);
		run += !run;
	}
}

static void begin(struct floor_fetch *fetch, uint8_t *start, uint64_t pages)
{
	if (pages > fetch->reference_pages) {
		errno = EINVAL;
		floor_die("more pages than the guest has");
	}
	fetch->start = start;
	fetch->pages = pages;
	fetch->present = malloc(pages);
	if (!fetch->present)
		floor_die("malloc");
	memset(fetch->present, 1, pages);
	fetch->uffd = floor_uffd(0, 0, NULL);
	if (pthread_create(&fetch->handler, NULL, handle, fetch))
		floor_die("pthread_create");
	fetch->started = true;
}

static void drop(struct floor_fetch *fetch)
{
	if (madvise(fetch->start, fetch->pages * PAGE_BYTES, MADV_DONTNEED) < 0)
		floor_die("MADV_DONTNEED");
}

void floor_fetch_late(struct floor_fetch *fetch, uint8_t *start, uint64_t pages, bool remote)
{
	if (!fetch->started)
		begin(fetch, start, pages);
	if (fetch->start != start || fetch->pages != pages) {
		errno = EINVAL;
		floor_die("another range than before");
	}
	save(fetch);
	memset(fetch->present, 0, pages);
	atomic_store(&fetch->came, 0);
	atomic_store(&fetch->messages, 0);
	atomic_store(&fetch->remote, remote);
	if (!fetch->watched)
		floor_register(fetch->uffd, start, pages * PAGE_BYTES);
	fetch->watched = true;
	drop(fetch);
}

void floor_fetch_whole(struct floor_fetch *fetch)
{
	struct uffdio_range range = { .start = (uintptr_t)fetch->start,
				      .len = fetch->pages * PAGE_BYTES };

	if (!fetch->watched)
		return;
	save(fetch);
	if (ioctl(fetch->uffd, UFFDIO_UNREGISTER, &range) < 0)
		floor_die("UFFDIO_UNREGISTER");
	fetch->watched = false;
	drop(fetch);
	memcpy(fetch->start, fetch->reference, range.len);
	memset(fetch->present, 1, fetch->pages);
}

void floor_fetch_count(struct floor_fetch *fetch, uint64_t *pages, uint64_t *messages)
{
	*pages = atomic_load(&fetch->came);
	*messages = atomic_load(&fetch->messages);
}
