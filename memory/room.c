// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// Who waits for room for a copy of what he is about to write (span.h): sleepers
// in gup and tickets, which stand in the same book as those that wait for a page
// (wait.c), and vCPUs that were held back, which wait here.
//
// Nobody is left behind: who is to wait says under wait_lock that room is
// wanted, and looks whether there is some after that; whoever makes room looks
// whether it is wanted after that, and comes here.
#include "base/clock.h"
#include "memory/internal.h"
#include "memory/span.h"

/*
 * Room for so many is made before those who wait are woken: less would wake
 * them for a single copy each.
 */
#define ROOM_BATCH 16u

bool memory_spans_has_room(struct memory *mem)
{
	return atomic_load(&mem->spans.used) < atomic_load(&mem->spans.high);
}

bool memory_room_is_wanted(struct memory *mem)
{
	atomic_store(&mem->spans.room_wanted, true);
	return !memory_spans_has_room(mem);
}

void memory_room_came(struct memory *mem)
{
	unsigned int high = atomic_load(&mem->spans.high);

	if (atomic_load(&mem->spans.room_wanted) &&
	    atomic_load(&mem->spans.used) + ROOM_BATCH <= high)
		memory_wake_room(mem);
}

/* ---- vCPUs ---- */

void memory_hold_back(struct memory *mem, pid_t tid)
{
	struct memory_thread *thread;

	pthread_mutex_lock(&mem->wait_lock);
	for (thread = mem->threads; thread; thread = thread->next)
		if (atomic_load(&thread->tid) == tid)
			break;
	if (thread && thread->send_signal && memory_room_is_wanted(mem)) {
		atomic_store(&thread->held_back, true);
		/* With wait_lock held: see memory_eject_overdue. */
		thread->send_signal(thread->signal_arg);
	}
	pthread_mutex_unlock(&mem->wait_lock);
}

void memory_thread_throttle(struct memory_thread *thread)
{
	struct memory *mem = thread->mem;
	int64_t start;

	if (!atomic_load(&thread->held_back))
		return;
	start = clock_now_ns();
	pthread_mutex_lock(&mem->wait_lock);
	thread->throttled = true;
	while (atomic_load(&thread->held_back) && !memory_wait_is_off(mem, thread))
		pthread_cond_wait(&mem->room, &mem->wait_lock);
	thread->throttled = false;
	pthread_mutex_unlock(&mem->wait_lock);
	count_add(&mem->spans.n_throttled, 1);
	count_add(&mem->spans.throttled_ns, (uint64_t)(clock_now_ns() - start));
}

void memory_room_kick(struct memory *mem)
{
	pthread_cond_broadcast(&mem->room);
}

void memory_room_let_go(struct memory *mem)
{
	struct memory_thread *thread;

	atomic_store(&mem->spans.room_wanted, false);
	for (thread = mem->threads; thread; thread = thread->next)
		atomic_store(&thread->held_back, false);
	pthread_cond_broadcast(&mem->room);
}
