/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What the members of a share and its keeper say to each other (share.h): whole
 * messages over a SOCK_SEQPACKET socket of this host and this user, each with a
 * descriptor at most. One that is not understood ends the connection. Pure.
 *
 *   member   HELLO     which image, how much memory
 *   keeper   WELCOME   with the memfd; or REFUSED, and why
 *   member   GUARD     with its userfaultfd: whose waits are to be ended, should it be killed
 *   keeper   GUARDED
 *   member   BYE       it ends in order, and nobody waits any more
 */
#ifndef POSTERN_CONTROL_SHARE_MESSAGE_H
#define POSTERN_CONTROL_SHARE_MESSAGE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "memory/memory.h"

#define SHARE_IMAGE_BYTES 16
#define SHARE_TEXT_BYTES 200

enum share_kind {
	SHARE_HELLO = 1,
	SHARE_WELCOME,
	SHARE_REFUSED,
	SHARE_GUARD,
	SHARE_GUARDED,
	SHARE_BYE,
	SHARE_KINDS,
};

/* As it is on the socket: of one host, so in its byte order. What a kind does not use is zero. */
struct share_message {
	uint32_t magic;
	uint16_t version, kind;
	uint8_t image[SHARE_IMAGE_BYTES];	/* HELLO */
	uint64_t len_bytes;			/* HELLO */
	int32_t error;				/* REFUSED: a negative errno */
	uint32_t n;				/* GUARD: regions */
	struct {
		uint64_t host, pages;
	} region[MEMORY_REGIONS_MAX];
	char text[SHARE_TEXT_BYTES];		/* REFUSED */
};

void share_message_init(struct share_message *msg, enum share_kind kind);
/*
 * Hostile input, n bytes at `data`, into *msg. -EBADMSG: no message; -EPROTO: of
 * another version. GUARD's regions are counted and are whole pages; a text ends.
 */
int share_message_read(struct share_message *msg, const void *data, size_t n, struct err *err);
/* GUARD's regions, as memory has them. Returns their pages in all. */
uint64_t share_message_regions(const struct share_message *msg, struct memory_region *regions);

/* Sends one, with a descriptor unless fd is -1. 0 or a negative errno. */
int share_message_send(int sock, const struct share_message *msg, int fd);
/*
 * Receives one. *fd: its descriptor, the caller's, or -1. 0; -EPIPE: the other
 * side has gone; -EBADMSG, -EPROTO; a negative errno.
 */
int share_message_receive(int sock, struct share_message *msg, int *fd, struct err *err);

#endif
