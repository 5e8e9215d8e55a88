/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The source's kernel, initial RAM disk and command line on their way to the
 * destination: Boot, BootData, BootEnd (docs/wire.md).
 *
 * The guest runs meanwhile. Files are read by libuv's threads, a piece at a
 * time, and the next only when the connection has taken the last: so neither a
 * slow disk nor a slow peer holds the loop up, and no more than a piece is in
 * memory. Main thread.
 */
#ifndef POSTERN_MIGRATE_BOOT_SENDER_H
#define POSTERN_MIGRATE_BOOT_SENDER_H

#include "base/loop.h"
#include "machine/boot_files.h"
#include "migrate/boot_receiver.h"
#include "migrate/link.h"

struct boot_sender;

/*
 * Opens the files, and begins. link and files outlive it. failed: a file could
 * not be read to its end; once, from the loop. Errors name the file, and say
 * what to do.
 */
int boot_sender_new(struct boot_sender **out, struct loop *loop, struct link *link,
		    const struct boot_files *files,
		    void (*failed)(void *arg, const struct err *err), void *arg, struct err *err);
/* The connection has taken all. */
void boot_sender_go_on(struct boot_sender *sender);
/* How many bytes of the files have been given to the connection. */
uint64_t boot_sender_sent(const struct boot_sender *sender);
/* BootEnd has been sent. */
bool boot_sender_is_done(const struct boot_sender *sender);
/* No callback comes after this; never waits for a read that is under way. NULL is nothing. */
void boot_sender_free(struct boot_sender *sender);

#endif
