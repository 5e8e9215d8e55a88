/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Linux kernel images by the boot protocol for x86 (Linux:
 * Documentation/arch/x86/boot.rst). Pure functions over the file's bytes.
 */
#ifndef POSTERN_ARCH_X86_BZIMAGE_H
#define POSTERN_ARCH_X86_BZIMAGE_H

#include "base/err.h"
#include "base/types.h"

/* Where the set-up header lies, in the file and in struct boot_params. */
#define BZIMAGE_HEADER 0x1f1u
/* Room for it in struct boot_params, up to edd_mbr_sig_buffer. */
#define BZIMAGE_HEADER_MAX 0x9fu
/* So many of a file's first bytes hold all of the header. */
#define BZIMAGE_HEAD_MAX (BZIMAGE_HEADER + BZIMAGE_HEADER_MAX)
/* The 64-bit entry, from the load address. */
#define BZIMAGE_ENTRY_64 0x200u

struct bzimage {
	uint16_t version;		/* of the protocol: 0x20c and later */
	uint32_t header_bytes;		/* of the header, from BZIMAGE_HEADER on */
	uint64_t payload;		/* offset in the file of what is loaded */
	uint64_t payload_bytes;
	bool relocatable;
	uint64_t alignment;		/* of the load address, a power of two */
	uint64_t preferred;		/* load address */
	uint64_t init_bytes;		/* RAM that the kernel needs from the load address on before it reads the memory map */
	uint64_t initrd_max;		/* highest address that the initial RAM disk may use */
	uint32_t cmdline_max;		/* bytes without the terminating zero */
};

/* Does it look like one (boot flag and "HdrS", and the version behind them)? */
bool bzimage_is(const uint8_t *data, size_t len);

/*
 * Checks the header; data: the first len bytes of file_len, BZIMAGE_HEAD_MAX
 * where the file has as many. -EINVAL and what is wrong: truncated, too old, no
 * 64-bit entry, sizes that cannot be. After success [payload, payload +
 * payload_bytes) lies in the file, init_bytes >= payload_bytes, and no sum of
 * two of the sizes and addresses overflows.
 */
int bzimage_parse(struct bzimage *image, const uint8_t *data, size_t len, uint64_t file_len,
		  struct err *err);

/*
 * The load address in RAM that ends at ram_end: the preferred one, else, when
 * relocatable, the lowest suitable from 1 MiB on. -ENOSPC: *need gets where RAM
 * must end.
 */
int bzimage_place(const struct bzimage *image, uint64_t ram_end, uint64_t *load, uint64_t *need);

#endif
