/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What /proc/self/pagemap tells by PAGEMAP_SCAN (Linux 6.7), which is newer
 * than Debian 12's headers: Linux' include/uapi/linux/fs.h.
 */
#ifndef POSTERN_MEMORY_PAGEMAP_H
#define POSTERN_MEMORY_PAGEMAP_H

#include <linux/fs.h>
#include <linux/types.h>
#include <sys/ioctl.h>

#ifndef PAGEMAP_SCAN
struct page_region {
	__u64 start, end, categories;
};

struct pm_scan_arg {
	__u64 size, flags, start, end, walk_end, vec, vec_len, max_pages;
	__u64 category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan_arg)
#define PAGE_IS_FILE (1 << 2)
#define PAGE_IS_PRESENT (1 << 3)
#define PAGE_IS_SWAPPED (1 << 4)
#define PAGE_IS_HUGE (1 << 6)
#endif

#endif
