/* SPDX-License-Identifier: GPL-2.0-only */
/* Copyright The postern authors */
/*
 * Where KVM itself writes the time that was stolen from a guest into the guest's memory.
 */
#ifndef POSTERN_INTR_STEAL_H
#define POSTERN_INTR_STEAL_H

/*
 * Watches these updates, as long as there are records, of which there are so
 * many. Where it cannot it says so: they wait as without.
 */
void steal_start(unsigned int records);

/* No update is cut any more. Those that have not ended yet end as they would without the module. */
void steal_stop(void);

/* Probe hits that the kernel did not pass on. */
unsigned long steal_missed(void);

#endif
