/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What a restored guest reboots with, fetched from its image while it runs already: a kernel and an
 * initial RAM disk are larger than all that it needs to run. A thread reads them into memory files;
 * a store that is away is asked again. Main thread.
 */
#ifndef POSTERN_SNAPSHOT_BOOT_FETCH_H
#define POSTERN_SNAPSHOT_BOOT_FETCH_H

#include "image/image.h"
#include "machine/machine.h"
#include "snapshot/host.h"

struct boot_fetch;

/*
 * Begins. When all is there the machine gets it (machine_boot_take). image and record outlive it,
 * and it ends before the machine does.
 */
int boot_fetch_new(struct boot_fetch **out, struct machine *machine, struct image *image,
		   const struct host_record *record, struct err *err);
/*
 * A reset waits: machine_boot_found comes as soon as it is there, from the loop. Or a negative
 * errno: it cannot be had, and is not tried any more.
 */
int boot_fetch_await(struct boot_fetch *fetch, struct err *err);
/*
 * Is it over? *err says how it failed, or has code 0; before, how the last attempt did.
 */
bool boot_fetch_is_done(struct boot_fetch *fetch, struct err *err);
/* The image's scope is cancelled. NULL is nothing. */
void boot_fetch_free(struct boot_fetch *fetch);

#endif
