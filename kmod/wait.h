/* SPDX-License-Identifier: GPL-2.0-only */
/* Copyright The postern authors */
/*
 * Where a thread would wait for a page of userfaultfd's.
 */
#ifndef POSTERN_INTR_WAIT_H
#define POSTERN_INTR_WAIT_H

/*
 * From now on waits of threads with a marked record end on any signal. 0, or an
 * errno, having said why.
 */
int wait_start(void);

/*
 * Waits are the kernel's own again; returns when no thread is in our code. What
 * sleeps, sleeps on: a signal that comes is then answered when the page is
 * there.
 */
void wait_stop(void);

/* Probe hits that the kernel did not pass on. */
unsigned long wait_missed(void);

#endif
