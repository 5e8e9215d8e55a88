/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The way out of a wait for a page: kick and eject.
 *
 * To bring a thread (wait.h) out:
 *
 *   - it waits in gup: woken, gup returns -EINTR;
 *   - it waits inside KVM_RUN and the kernel's guest faults are interruptible
 *     (WAY_OUT_KERNEL): the caller's signal does it, nothing is needed here;
 *   - it waits inside KVM_RUN on a kernel that ignores signals there
 *     (WAY_OUT_EJECT): mprotect(page, PROT_NONE), UFFDIO_WAKE; the fault is
 *     retried, finds no permission, KVM_RUN returns -EFAULT with the guest's
 *     state untouched; when the last ejected thread is out the protection is
 *     restored.
 *
 * A kick is a loop, not an event: between "not waiting" and "waiting" a thread
 * may slip past any single attempt, so whoever wants it out repeats
 * memory_thread_kick (and its signal) until it is.
 */
#ifndef POSTERN_MEMORY_EJECT_H
#define POSTERN_MEMORY_EJECT_H

#include "memory/wait.h"

enum way_out {
	WAY_OUT_AUTO,	/* find out by trying, once */
	WAY_OUT_KERNEL,
	WAY_OUT_EJECT,
};

/*
 * How memory_thread_kick gets threads out of KVM_RUN; WAY_OUT_AUTO is not
 * accepted. Until it is set: WAY_OUT_EJECT, which works on every kernel. Any
 * thread; from WAY_OUT_EJECT to WAY_OUT_KERNEL also while vCPUs run. An eject
 * that is under way comes to its end.
 */
void memory_set_way_out(struct memory *mem, enum way_out way);
enum way_out memory_way_out(const struct memory *mem);

/*
 * What makes the thread leave KVM_RUN although nobody kicked it, a signal: used
 * when an eject did not find it where it was believed to be. It is called on
 * any thread, while the thread is bound and never after memory_thread_unbind
 * has returned, so that pthread_kill in it always has a thread to send to. It
 * must not sleep nor call anything of this library. Set before the thread is
 * bound.
 */
void memory_thread_set_signal(struct memory_thread *thread, void (*send_signal)(void *arg),
			      void *arg);

/* What a kick found. */
enum kick_result {
	KICK_SIGNAL,	/* not known to wait, or the kernel listens: the caller sends its signal */
	KICK_DONE,	/* woken or ejected: a signal is not needed */
};

/* Brings the thread out, once. Any thread. The kick stays pending until memory_thread_clear. */
enum kick_result memory_thread_kick(struct memory_thread *thread);
/* The thread has noticed the kick and may wait again. */
void memory_thread_clear(struct memory_thread *thread);

/*
 * Around KVM_RUN, on the thread itself. memory_thread_left says that KVM_RUN
 * has returned, with what (0 or a negative errno): it ends this thread's eject
 * if there was one. Returns true when a -EFAULT was an eject's doing (this
 * thread's or, for the same page, another's): the access is retried by the next
 * KVM_RUN; it has then waited until the protection is restored. False: -EFAULT
 * is a real error.
 */
void memory_thread_enter(struct memory_thread *thread);
bool memory_thread_left(struct memory_thread *thread, int result);

/*
 * On the thread itself, before memory_thread_enter, and not with an instruction that
 * is to be finished: waits, in user space, while a snapshot has no room for
 * copies of what this thread writes (snapshot.h). Ends when there is some, by
 * a kick, or when memory shuts down. Whoever takes no snapshots needs no call.
 */
void memory_thread_throttle(struct memory_thread *thread);

/*
 * After memory_thread_left has returned true, before the next KVM_RUN: waits
 * for the page that the thread was ejected from here, in user space, where
 * every signal and every debugger reaches it. Ends when the page is there, by a
 * kick, or when memory shuts down; returns at once when there is nothing to
 * wait for. On WAY_OUT_EJECT every wait that lasts longer than some
 * milliseconds is moved here, for in the kernel such a thread could not be
 * attached to (ptrace), stopped (SIGSTOP) or dumped.
 */
void memory_thread_wait_page(struct memory_thread *thread);

/*
 * memory_thread_set_signal and memory_thread_wait_page by their names in 0.1,
 * for one release more.
 */
void memory_thread_set_nudge(struct memory_thread *thread, void (*send_signal)(void *arg),
			     void *arg)
	__attribute__((deprecated("use memory_thread_set_signal")));
void memory_thread_sit_out(struct memory_thread *thread)
	__attribute__((deprecated("use memory_thread_wait_page")));

#endif
