/* SPDX-License-Identifier: GPL-2.0-only */
/* Copyright The postern authors */
/*
 * Whether this kernel's probes can do what the module asks of them.
 */
#ifndef POSTERN_INTR_TRIAL_H
#define POSTERN_INTR_TRIAL_H

/* 0, or an errno, having said why. */
int trial_run(void);

#endif
