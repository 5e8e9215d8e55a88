/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Addresses. A guest physical address, a guest virtual address and a guest frame number are
 * distinct types, so that the compiler catches a mix-up; a host virtual address is a pointer.
 */
#ifndef POSTERN_BASE_TYPES_H
#define POSTERN_BASE_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_SHIFT 12
#define PAGE_BYTES ((uint64_t)1 << PAGE_SHIFT)
#define HUGE_BYTES ((uint64_t)2 << 20)
#define HUGE_PAGES (HUGE_BYTES / PAGE_BYTES)

/* Guest physical address, in bytes. */
typedef struct { uint64_t v; } gpa_t;
/* Guest virtual address, in bytes. */
typedef struct { uint64_t v; } gva_t;
/* Guest frame number: a guest physical address in units of PAGE_BYTES. */
typedef struct { uint64_t v; } gfn_t;

#ifdef __cplusplus	/* has no compound literals */
#define GPA(x) (gpa_t{ (uint64_t)(x) })
#define GVA(x) (gva_t{ (uint64_t)(x) })
#define GFN(x) (gfn_t{ (uint64_t)(x) })
#else
#define GPA(x) ((gpa_t){ (x) })
#define GVA(x) ((gva_t){ (x) })
#define GFN(x) ((gfn_t){ (x) })
#endif

static inline gfn_t gpa_to_gfn(gpa_t gpa)
{
	return GFN(gpa.v >> PAGE_SHIFT);
}

static inline gpa_t gfn_to_gpa(gfn_t gfn)
{
	return GPA(gfn.v << PAGE_SHIFT);
}

static inline uint64_t gpa_offset(gpa_t gpa)
{
	return gpa.v & (PAGE_BYTES - 1);
}

#endif
