/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * A share's keeper: a process that has the memfd of an image's pages, hands it
 * to whoever joins (share.h), and sees to it that a member which is killed
 * spoils it for nobody (memory_retire). It reads no image and touches no page.
 */
#ifndef POSTERN_CONTROL_SHARE_KEEPER_H
#define POSTERN_CONTROL_SHARE_KEEPER_H

#include <stdint.h>

#include "base/err.h"
#include "control/share_message.h"

/* Members at a time. */
#define SHARE_MEMBERS_MAX 4096u
/* How long it waits for the next member once the last one has gone, or for the first. */
#define SHARE_LINGER_MS 2000

struct share_keeper_config {
	int listener;		/* listens, SOCK_SEQPACKET */
	int memfd;
	uint8_t image[SHARE_IMAGE_BYTES];
	uint64_t len_bytes;
	const char *path;	/* of the socket: removed at the end */
	int linger_ms;
};

/*
 * Keeps it until nobody has been a member for linger_ms. All descriptors are the
 * caller's. 0, or what poll(2) fails with: the process should end then, and its
 * members go on. The process' one thread.
 */
int share_keeper_run(const struct share_keeper_config *config, struct err *err);

#endif
