/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Static probes (USDT, provider "postern") for bpftrace, perf, SystemTap and
 * gdb: one macro a probe, listed with its arguments in docs/observe.md. Where
 * the build has <sys/sdt.h> (POSTERN_PROBES) a probe is one nop and a note in
 * the ELF file that says where its arguments lie; elsewhere it is nothing.
 * Arguments must be at hand: they are taken from where they are, and nothing is
 * computed for a probe alone save a maximum. No probe is a promise about the
 * code; names and arguments stay.
 *
 * gfn: a guest page number. tid: the kernel's thread id. vcpu: its index, -1: a
 * thread that is none.
 */
#ifndef POSTERN_BASE_PROBE_H
#define POSTERN_BASE_PROBE_H

#ifdef POSTERN_PROBES
#include <sys/sdt.h>
#define PROBE1(name, a) DTRACE_PROBE1(postern, name, a)
#define PROBE2(name, a, b) DTRACE_PROBE2(postern, name, a, b)
#define PROBE3(name, a, b, c) DTRACE_PROBE3(postern, name, a, b, c)
#else
/* The arguments are looked at by the compiler and by nobody else. */
#define PROBE1(name, a) do { if (0) (void)(a); } while (0)
#define PROBE2(name, a, b) do { if (0) { (void)(a); (void)(b); } } while (0)
#define PROBE3(name, a, b, c) do { if (0) { (void)(a); (void)(b); (void)(c); } } while (0)
#endif

/*
 * A thread waits inside the kernel for a page that is not there (uint64_t gfn,
 * pid_t tid, int vcpu). On the fault thread.
 */
#define PROBE_FAULT(gfn, tid, vcpu) PROBE3(fault, gfn, tid, vcpu)
/*
 * Pages have come in (uint64_t gfn, uint64_t pages, int64_t latency_ns): so
 * many new ones, the first of those offered being gfn; since when the one that
 * was waited for longest has been waited for, 0: none was. Whoever waited is
 * awake. On the thread that brought them.
 */
#define PROBE_FILL(gfn, pages, latency_ns) PROBE3(fill, gfn, pages, latency_ns)
/* A thread that may wait is to come out (int vcpu, pid_t tid): once until it has noticed. */
#define PROBE_KICK(vcpu, tid) PROBE2(kick, vcpu, tid)
/* A thread is taken out of its wait inside the kernel (uint64_t gfn, pid_t tid, int vcpu). */
#define PROBE_EJECT(gfn, tid, vcpu) PROBE3(eject, gfn, tid, vcpu)
/* A vCPU has stopped, runs again (int vcpu). On its thread. */
#define PROBE_PARK(vcpu) PROBE1(park, vcpu)
#define PROBE_RESUME(vcpu) PROBE1(resume, vcpu)
/*
 * A device's queue waits for a page, goes on (int fd: the queue's eventfd,
 * which tells queues apart; uint64_t gfn).
 */
#define PROBE_QUEUE_PARK(fd, gfn) PROBE2(queue_park, fd, gfn)
#define PROBE_QUEUE_RESUME(fd, gfn) PROBE2(queue_resume, fd, gfn)

#endif
