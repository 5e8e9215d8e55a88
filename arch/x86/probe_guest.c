// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// The guest of kvm/probe.c: a few bytes of ring-3 code at 0x1000, with an identity map of the first GiB in 2 MiB pages.
#include <string.h>

#include "arch/arch.h"

#define PROBE_CODE 0x1000
#define PROBE_PML4 0x2000
#define PROBE_PDPT 0x3000
#define PROBE_PD 0x4000
#define PROBE_STACK 0x8000

#define PTE_PRESENT_RW_USER 0x07ull
#define PTE_LARGE 0x80ull

int arch_probe_load(struct arch_boot *boot, struct memory *mem, gpa_t touch, struct err *err)
{
	uint8_t code[] = {
		0x48, 0xbb, 0, 0, 0, 0, 0, 0, 0, 0,	/* movabs $touch,%rbx */
		0x8a, 0x03,				/* mov (%rbx),%al */
		0xe6, 0x80,				/* out %al,$0x80 */
		0xeb, 0xfa,				/* back to the mov */
	};
	uint64_t pml4 = PROBE_PDPT | PTE_PRESENT_RW_USER, pdpt = PROBE_PD | PTE_PRESENT_RW_USER;
	uint64_t pd[512];
	unsigned int i;
	int r;

	memcpy(code + 2, &touch.v, sizeof(touch.v));
	for (i = 0; i < 512; i++)
		pd[i] = ((uint64_t)i << 21) | PTE_LARGE | PTE_PRESENT_RW_USER;
	r = gup_write(mem, GPA(PROBE_CODE), code, sizeof(code), GUP_NOWAIT, NULL);
	if (!r)
		r = gup_write(mem, GPA(PROBE_PML4), &pml4, sizeof(pml4), GUP_NOWAIT, NULL);
	if (!r)
		r = gup_write(mem, GPA(PROBE_PDPT), &pdpt, sizeof(pdpt), GUP_NOWAIT, NULL);
	if (!r)
		r = gup_write(mem, GPA(PROBE_PD), pd, sizeof(pd), GUP_NOWAIT, NULL);
	if (r)
		return err_errno(err, r, "loading the probe's guest");
	*boot = (struct arch_boot){
		.bare = true, .cpus = 1, .entry = PROBE_CODE, .stack = PROBE_STACK,
		.page_table = PROBE_PML4,
	};
	return 0;
}
