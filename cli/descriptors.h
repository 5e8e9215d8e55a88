/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The process's descriptors as a whole: which of them a program that it starts
 * gets to see. No thread opens any meanwhile.
 */
#ifndef POSTERN_CLI_DESCRIPTORS_H
#define POSTERN_CLI_DESCRIPTORS_H

#include "base/err.h"

/*
 * Programs that are started from now on do not inherit those that are open,
 * from `first` on. 0, or a negative errno: /proc is missing.
 */
int descriptors_withhold(int first, struct err *err);
/* Closes all from `first` on. Likewise. */
int descriptors_close(int first, struct err *err);

#endif
