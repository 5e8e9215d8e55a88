/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The commands of `postern snapshot` on images in a store, without a machine.
 */
#ifndef POSTERN_CLI_SNAPSHOT_STORE_H
#define POSTERN_CLI_SNAPSHOT_STORE_H

#include "cli/snapshot.h"

/*
 * Carries out the command. For ctl_end: 0; -EREMOTEIO: the store refused, or an
 * image is damaged; -EINVAL: no such place can be; -EINTR: a signal came.
 */
int snapshot_store_run(const struct snapshot_options *options, struct err *err);

#endif
