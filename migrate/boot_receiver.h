/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The destination's end of boot_sender.h: what comes is hostile. It goes to
 * memory files, which are sealed when they are whole, and becomes boot files
 * when all of it has come and each file has its checksum. Nothing of it is
 * looked into here: that is the loader's matter, at each reset, as with any
 * other kernel.
 */
#ifndef POSTERN_MIGRATE_BOOT_RECEIVER_H
#define POSTERN_MIGRATE_BOOT_RECEIVER_H

#include "machine/boot_files.h"
#include "migrate/message.h"

/* Of BootData: each but the last of a file has so many bytes. */
#define BOOT_PIECE_BYTES ((size_t)256 << 10)
/* Of a command line, and of what goes behind it: no kernel takes more. */
#define BOOT_LINE_MAX 65535u

struct boot_receiver {
	/* whole once take_end has returned 0; the owner may move them away */
	struct boot_files files;
	bool begun;
	uint64_t bytes[2], done[2];	/* of kernel and initial RAM disk */
	uint64_t sum[2];		/* XXH3, of each once it is whole */
	struct XXH3_state_s *hash;	/* of the one that comes */
};

void boot_receiver_init(struct boot_receiver *receiver);
void boot_receiver_fini(struct boot_receiver *receiver);
/*
 * type: what Hello said, BOOT_FILES or BOOT_DISK; limit_bytes: of both files
 * together, the guest's memory. Errors: what cannot be, or -E2BIG.
 */
int boot_receiver_take_boot(struct boot_receiver *receiver, const Postern__Wire__Boot *boot,
			    enum boot_type type, uint64_t limit_bytes,
			    struct err *err);
/* -EBADMSG: not the bytes that are due; or what the system says when it has no memory for them. */
int boot_receiver_take_data(struct boot_receiver *receiver, const Postern__Wire__BootData *data,
			    struct err *err);
/* -EBADMSG: bytes are missing, or are not what was sent. */
int boot_receiver_take_end(struct boot_receiver *receiver, const Postern__Wire__BootEnd *end,
			   struct err *err);

#endif
