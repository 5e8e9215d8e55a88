/* SPDX-License-Identifier: GPL-2.0-only */
/* Copyright The postern authors */
/*
 * Where a guest page fault begins and ends.
 */
#ifndef POSTERN_INTR_FAULT_H
#define POSTERN_INTR_FAULT_H

/*
 * Watches guest page faults, as long as there are records, of which there are
 * so many. 0, or an errno, having said why.
 */
int fault_start(unsigned int records);

/* No fault is cut any more. Faults that have not ended yet end as they would without the module. */
void fault_stop(void);

/* Probe hits that the kernel did not pass on. */
unsigned long fault_missed(void);

#endif
