/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * libpostern: guest memory that arrives late, for KVM virtual machine monitors.
 *
 * The library owns a guest's RAM and the state of each of its pages. It asks a
 * page source of yours for pages that somebody waits for, gives every thread of
 * yours one door to guest memory (gup) in which it says how long it may wait,
 * and brings vCPUs out of KVM_RUN while they wait for a page, on every kernel.
 * docs/library.md tells how a VMM integrates it; examples/lazy_file.c is a
 * whole one.
 *
 * In this order: addresses; errors; where log lines go; the histogram; the page
 * source's interface; memory and the states of its pages; gup, the one way to
 * guest memory; threads that wait; kick, eject and the wait in user space.
 *
 * Conventions. Functions that return int or int64_t return 0 or a count, or a
 * negative errno. `struct postern_err *err` may be NULL. Where nothing else is
 * said any thread may call a function, and several at a time. Times are
 * nanoseconds of CLOCK_MONOTONIC. What is passed by pointer is not kept, and
 * structures are zero-initialised but for what you set.
 */
