// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Watching late memory: the userfaultfd, the fault thread that reads who waits
// for which page, and the source that is asked. A range is unregistered only
// when every page is PRESENT, and the userfaultfd closed only when no vCPU runs
// any more: either too early would show zeros to whoever waits.
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "memory/internal.h"

/* ---- asking the source ---- */

void memory_ask(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n)
{
	state_byte *state = mem->state[region];
	uint64_t i = offset, end = offset + n, start, k;
	struct page_source *source;

	for (k = offset; k < end; k = (k / HUGE_PAGES + 1) * HUGE_PAGES)
		memory_begin(mem, region, k);
	pthread_rwlock_rdlock(&mem->source_lock);
	source = mem->source;
	while (source && i < end) {
		for (start = i; i < end && state_ask(&state[i]); i++)
			;
		if (i == start) {
			i++;
			continue;
		}
		count_add(&mem->n_requested, i - start);
		count_add(&mem->n_requests, i - start);
		if (!source->ops->request(source, GFN(mem->region[region].first.v + start),
					  i - start))
			continue;
		/* Gone: they are MISSING again, and WAITED makes the next source be asked. */
		for (k = start; k < i; k++)
			if (state_unask(&state[k]))
				count_sub(&mem->n_requested, 1);
		break;
	}
	pthread_rwlock_unlock(&mem->source_lock);
}

/*
 * Calls fn for each page whose byte, masked, is `want`. Eight bytes at a time:
 * most words are all MISSING or all PRESENT, and this runs while the guest is
 * paused.
 */
static void scan(struct memory *mem, uint8_t mask, uint8_t want,
		 void (*fn)(struct memory *mem, unsigned int region, uint64_t offset))
{
	uint64_t ones = UINT64_C(0x0101010101010101), word, i, k;
	unsigned int r;

	for (r = 0; r < mem->regions; r++)
		for (i = memory_next_begun(mem, r, 0); i < mem->region[r].pages;
		     i = memory_next_begun(mem, r, i + 8)) {
			/* A hint only: fn looks again. Regions are multiples of 512 pages. */
			word = __atomic_load_n((uint64_t *)(void *)&mem->state[r][i],
					       __ATOMIC_RELAXED);
			word = (word & ones * mask) ^ ones * want;
			/* Is any byte of it zero? */
			if (!((word - ones) & ~word & ones << 7))
				continue;
			for (k = i; k < i + 8; k++)
				if ((state_load(&mem->state[r][k]) & mask) == want)
					fn(mem, r, k);
		}
}

static void ask_one(struct memory *mem, unsigned int region, uint64_t offset)
{
	memory_ask(mem, region, offset, 1);
}

static void unask_one(struct memory *mem, unsigned int region, uint64_t offset)
{
	if (state_unask(&mem->state[region][offset]))
		count_sub(&mem->n_requested, 1);
}

void memory_attach(struct memory *mem, struct page_source *source)
{
	pthread_rwlock_wrlock(&mem->source_lock);
	mem->source = source;
	pthread_rwlock_unlock(&mem->source_lock);
	/*
	 * Who began to wait before the line above has set WAITED already (it is
	 * set before the source is asked), who begins now asks by himself.
	 */
	scan(mem, STATE_MASK | STATE_WAITED, PAGE_MISSING | STATE_WAITED, ask_one);
}

void memory_detach(struct memory *mem)
{
	pthread_rwlock_wrlock(&mem->source_lock);
	mem->source = NULL;
	pthread_rwlock_unlock(&mem->source_lock);
	scan(mem, STATE_MASK, PAGE_REQUESTED, unask_one);
	memory_rooms_flush(mem);
}

/* ---- the fault thread ---- */

void memory_wake_kernel(struct memory *mem, unsigned int region, uint64_t offset, uint64_t n)
{
	struct uffdio_range range = {
		.start = (uintptr_t)mem->region[region].host + offset * PAGE_BYTES,
		.len = n * PAGE_BYTES,
	};

	if (ioctl(mem->uffd, UFFDIO_WAKE, &range) < 0)
		log_error("UFFDIO_WAKE: errno %d", errno);
}

static void fault_handle(struct memory *mem, const struct uffd_msg *msg, uint64_t returns)
{
	pid_t tid = (pid_t)msg->arg.pagefault.feat.ptid;
	struct memory_thread *kicked = NULL;
	unsigned int region;
	uint64_t offset;
	gfn_t gfn;

	if (!memory_find_host(mem, msg->arg.pagefault.address, &region, &offset)) {
		log_error("page fault at a host address outside guest RAM");
		return;
	}
	if (memory_span_fault(mem, msg, region, offset, returns))
		return;
	gfn = GFN(mem->region[region].first.v + offset);
	count_add(&mem->n_faults, 1);
	memory_check_access(mem, tid, gfn, returns);
	/*
	 * WAITED first, then the wait is noted, then the source is asked:
	 * whatever fills the page from here on finds WAITED and ends the wait.
	 * The same fault may be reported several times under a long stall; a
	 * report for a page that has come meanwhile only needs the wake-up.
	 */
	memory_begin(mem, region, offset);
	if (!state_set_waited_by_kernel(&mem->state[region][offset])) {
		memory_wake_kernel(mem, region, offset, 1);
		return;
	}
	memory_note_wait(mem, tid, gfn, &kicked);
	if (state_of(state_load(&mem->state[region][offset])) == PAGE_PRESENT) {
		/* Filled between WAITED and the note: the filler may not have seen the note. */
		memory_wake(mem, gfn, 1, true);
		return;
	}
	if (kicked && memory_eject(mem, kicked, gfn))
		return;
	if (memory_look(mem, region, offset, 1))
		return;
	memory_ask(mem, region, offset, 1);
}

static void fault_give_up(struct memory *mem, int error)
{
	log_error("userfaultfd: errno %d: page faults are not served any more", -error);
	memory_spans_fail(mem, error);
	if (mem->events.watch_failed)
		mem->events.watch_failed(mem->events.arg, error);
}

static void *fault_loop(void *arg)
{
	struct memory *mem = arg;
	struct pollfd fds[2] = {
		{ .fd = mem->uffd, .events = POLLIN },
		{ .fd = mem->stop_fd, .events = POLLIN },
	};
	struct uffd_msg msgs[16];
	uint64_t returns;
	ssize_t got, i;
	int error = 0;

	pthread_setname_np(pthread_self(), "fault");
	thread_is_urgent();
	for (;;) {
		if (poll(fds, 2, memory_eject_overdue(mem)) < 0 && errno != EINTR) {
			error = -errno;
			break;
		}
		if (fds[1].revents)
			break;
		returns = memory_returns(mem);
		got = read(mem->uffd, msgs, sizeof(msgs));
		if (got < 0 && errno != EAGAIN && errno != EINTR) {
			error = -errno;
			break;
		}
		for (i = 0; i < got / (ssize_t)sizeof(msgs[0]); i++)
			if (msgs[i].event == UFFD_EVENT_PAGEFAULT)
				fault_handle(mem, &msgs[i], returns);
	}
	if (error)
		fault_give_up(mem, error);
	return NULL;
}

/* ---- set-up and end ---- */

static int uffd_open_device(void)
{
	int fd = -1, dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

	if (dev < 0)
		return -errno;
#ifdef USERFAULTFD_IOC_NEW
	fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
#else
	errno = ENOSYS;
#endif
	fd = fd < 0 ? -errno : fd;
	close(dev);
	return fd;
}

/* Newer than Debian 12's headers: Linux' include/uapi/linux/userfaultfd.h. */
#ifndef UFFD_FEATURE_MOVE
#define UFFD_FEATURE_MOVE (1 << 16)
#endif

#define UFFD_FEATURES_NEEDED UFFD_FEATURE_THREAD_ID

/*
 * Which features there are, asked of a descriptor of its own: the hand-shake
 * can be done only once.
 */
static uint64_t uffd_features(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		fd = uffd_open_device();
	if (fd < 0)
		return 0;
	if (ioctl(fd, UFFDIO_API, &api) < 0)
		api.features = 0;
	close(fd);
	return api.features;
}

/*
 * With the number of a descriptor that was opened before the VM's were: a
 * process that is killed closes in that order, and a worker of KVM's that waits
 * for a page holds up the end of its VM (memory_free).
 */
static int uffd_take_place(struct memory *mem, int fd)
{
	int r;

	if (mem->uffd_place < 0)
		return fd;
	r = dup3(fd, mem->uffd_place, O_CLOEXEC);
	if (r < 0)
		return fd;
	mem->uffd_place = -1;
	close(fd);
	return r;
}

int memory_uffd_open(uint64_t features, uint64_t *there, struct err *err)
{
	struct uffdio_api api = { .api = UFFD_API };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	int r;

	if (fd < 0 && errno == EPERM) {
		fd = uffd_open_device();
		if (fd < 0)
			return err_set(err, -EPERM,
				       "this user may not handle kernel page faults, which KVM's are: run as root, or "
				       "allow it with sysctl vm.unprivileged_userfaultfd=1 or access to /dev/userfaultfd");
	} else if (fd < 0) {
		return err_errno(err, -errno,
				 "userfaultfd (is the kernel built with CONFIG_USERFAULTFD?)");
	}
	*there = uffd_features();
	api.features = features & (*there | UFFD_FEATURES_NEEDED);
	if (ioctl(fd, UFFDIO_API, &api) < 0) {
		r = -errno;
		close(fd);
		return err_errno(
			err, r,
			"userfaultfd does not tell which thread waits (Linux 4.14 and later do)");
	}
	return fd;
}

static int uffd_open(struct memory *mem, struct err *err)
{
	uint64_t there = 0;
	int fd = memory_uffd_open(UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_PAGEFAULT_FLAG_WP, &there,
				  err);

	if (fd < 0)
		return fd;
	/* Neither takes a page of a file. */
	if (!memory_is_backed(mem)) {
		mem->can_move = there & UFFD_FEATURE_MOVE;
		mem->can_protect = there & UFFD_FEATURE_PAGEFAULT_FLAG_WP;
	}
	return uffd_take_place(mem, fd);
}

static int uffd_register(struct memory *mem, struct err *err)
{
	unsigned int i;

	for (i = 0; i < mem->regions; i++) {
		struct uffdio_register reg = {
			.range = {
				.start = (uintptr_t)mem->region[i].host,
				.len = mem->region[i].pages * PAGE_BYTES,
			},
			.mode = UFFDIO_REGISTER_MODE_MISSING | (mem->can_protect ? UFFDIO_REGISTER_MODE_WP : 0),
		};

		if (ioctl(mem->uffd, UFFDIO_REGISTER, &reg) < 0)
			return err_errno(err, -errno, "userfaultfd: registering guest RAM");
	}
	return 0;
}

/* What was touched before would not be missing to the kernel. */
static int memory_empty(struct memory *mem, struct err *err)
{
	unsigned int i;

	for (i = 0; i < mem->regions; i++)
		if (madvise(mem->region[i].host, mem->region[i].pages * PAGE_BYTES, MADV_DONTNEED) <
		    0)
			return err_errno(err, -errno, "emptying guest RAM");
	return 0;
}

/* So much at a time: the kernel lets nobody fault meanwhile. */
#define UNREGISTER_BYTES (UINT64_C(64) << 20)

static void unregister_region(struct memory *mem, const struct memory_region *region)
{
	uint64_t len = region->pages * PAGE_BYTES, at;

	for (at = 0; at < len; at += UNREGISTER_BYTES) {
		struct uffdio_range range = {
			.start = (uintptr_t)region->host + at,
			.len = len - at < UNREGISTER_BYTES ? len - at : UNREGISTER_BYTES,
		};

		if (ioctl(mem->uffd, UFFDIO_UNREGISTER, &range) < 0)
			log_warn("UFFDIO_UNREGISTER: errno %d", errno);
	}
}

void memory_unregister(struct memory *mem)
{
	unsigned int i;

	for (i = 0; i < mem->regions; i++)
		unregister_region(mem, &mem->region[i]);
}

static int fault_thread_start(struct memory *mem, struct err *err)
{
	int r = thread_start(&mem->fault_thread, fault_loop, mem);

	return r < 0 ? err_errno(err, r, "fault thread") : 0;
}

void memory_pagemap_open(struct memory *mem)
{
	if (mem->pagemap < 0)
		mem->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
}

static void uffd_close(struct memory *mem)
{
	int uffd = atomic_exchange(&mem->uffd, -1);

	close(mem->stop_fd);
	mem->stop_fd = -1;
	close(uffd);
}

/* The userfaultfd, and what its thread needs. */
static int uffd_start(struct memory *mem, struct err *err)
{
	int uffd = uffd_open(mem, err), r;

	if (uffd < 0)
		return uffd;
	mem->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (mem->stop_fd < 0) {
		r = err_errno(err, -errno, "eventfd");
		close(uffd);
		return r;
	}
	memory_pagemap_open(mem);
	mem->uffd = uffd;
	return 0;
}

int memory_watch_writes(struct memory *mem, struct err *err)
{
	int r;

	if (mem->uffd < 0) {
		r = uffd_start(mem, err);
		if (r < 0)
			return r;
		r = fault_thread_start(mem, err);
		if (r < 0) {
			uffd_close(mem);
			return r;
		}
	}
	if (atomic_load(&mem->spans.unserved))
		return err_set(err, -EIO, "page faults are not served any more");
	if (memory_is_backed(mem))
		return err_set(err, -ENOTSUP,
			       "writes to memory that clones share cannot be reported");
	if (!mem->can_protect)
		return err_set(err, -ENOTSUP,
			       "this kernel cannot report writes (no write protection by "
			       "userfaultfd; Linux 5.7 and later have it on x86)");
	if (mem->pagemap < 0)
		return err_set(err, -ENOTSUP, "/proc/self/pagemap cannot be opened");
	return uffd_register(mem, err);
}

int memory_watch(struct memory *mem, const struct memory_events *events, struct err *err)
{
	int ret;

	ret = uffd_start(mem, err);
	if (ret < 0)
		return ret;
	ret = memory_empty(mem, err);
	if (!ret)
		ret = uffd_register(mem, err);
	if (!ret && memory_is_backed(mem))
		ret = memory_backing_watch(mem, err);
	if (ret < 0)
		goto err_open;
	if (events)
		mem->events = *events;
	/* Nobody else looks yet. */
	memory_make_missing(mem);
	atomic_store(&mem->n_missing, mem->pages);
	atomic_store(&mem->late, true);
	ret = fault_thread_start(mem, err);
	if (ret < 0)
		goto err_open;
	return 0;

err_open:
	if (memory_is_backed(mem))
		memory_backing_leave(mem);
	uffd_close(mem);
	return ret;
}

int memory_watch_fd(const struct memory *mem)
{
	return mem->uffd;
}

void memory_unwatch(struct memory *mem)
{
	uint64_t one = 1;

	if (mem->uffd < 0)
		return;
	if (write(mem->stop_fd, &one, sizeof(one)) < 0)
		log_error("fault thread cannot be told to stop: errno %d", errno);
	pthread_join(mem->fault_thread, NULL);
	if (memory_is_backed(mem))
		memory_backing_leave(mem);
	uffd_close(mem);
}
