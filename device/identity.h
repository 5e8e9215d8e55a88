/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What tells a guest that it is not the only one any more: a clone, or one that
 * was restored, must not go on with the random numbers, keys and clocks of the
 * other. Two pages that it reads, and an interrupt when they change:
 *
 *   - the VM generation ID ("Virtual Machine Generation ID", Microsoft, 2018):
 *     16 random bytes, which change when the machine goes on as another. Linux
 *     (drivers/virt/vmgenid.c) reseeds its random numbers then, Windows does more;
 *   - vmclock (Linux' include/uapi/linux/vmclock-abi.h, version 1): a counter of
 *     the same, and a marker that also changes when the guest goes on elsewhere, so
 *     that what it knew of its clocks is void. What time it is is not told there.
 *
 * The boards say where the pages are, and tell the guest by ACPI or device tree.
 */
#ifndef POSTERN_DEVICE_IDENTITY_H
#define POSTERN_DEVICE_IDENTITY_H

#include <stdint.h>

#include "base/err.h"
#include "base/types.h"
#include "device/device.h"

#define IDENTITY_PAGES 2
/* Where in them. */
#define IDENTITY_GENERATION_AT 0
#define IDENTITY_CLOCK_AT PAGE_BYTES
#define IDENTITY_ID_BYTES 16

struct identity;

extern const struct device_ops identity_device_ops;

/*
 * With a new generation ID. pages: IDENTITY_PAGES of memory, at a page's
 * boundary, which the guest reads; what it writes there is not believed. They
 * outlive it. line: edge triggered. -ENOMEM, or what getrandom(2) fails with.
 */
int identity_new(struct identity **out, void *pages, const struct irq_line *line, struct err *err);
void identity_free(struct identity *identity);
/* The generation ID as the guest sees it. Any thread. */
void identity_id(struct identity *identity, uint8_t id[IDENTITY_ID_BYTES]);

/*
 * Both after a state was loaded, on the main thread, before the guest runs; and
 * the guest is told. The guest goes on elsewhere, as the machine that it was.
 */
void identity_disrupt(struct identity *identity);
/*
 * It goes on as another machine than the one whose state that was. 0, or what
 * getrandom(2) fails with: nothing has changed.
 */
int identity_renew(struct identity *identity, struct err *err);

#endif
