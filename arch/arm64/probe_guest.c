// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// The guests of kvm/probe.c: a few instructions at 0x1000, with the MMU off,
// that write to a doorbell where the board has nothing. The one that probes
// kernel mode goes from EL1 to EL0 the way a kernel does.
#include <string.h>

#include "arch/arch.h"

#define PROBE_CODE 0x1000

/* x0: the doorbell. Position-independent; touch's address is the last 8 bytes. */
__asm__(".pushsection .rodata\n"
	".balign 8\n"
	"probe_touch_start:\n"
	"	movz	x0, #0x0a00, lsl #16\n"
	"	ldr	x2, 2f\n"
	"1:	ldrb	w1, [x2]\n"
	"	strb	w1, [x0]\n"
	"	b	1b\n"
	".balign 8\n"
	"2:	.quad	0\n"
	"probe_touch_end:\n"
	".balign 8\n"
	"probe_kernel_start:\n"
	"	movz	x0, #0x0a00, lsl #16\n"
	"	mov	w4, #5\n"
	"1:	movz	w3, #0x86a0\n"		/* 100000: ARCH_PROBE_LOOP_INSNS instructions */
	"	movk	w3, #1, lsl #16\n"
	"2:	subs	w3, w3, #1\n"
	"	b.ne	2b\n"
	"	mov	w1, #0x4c\n"
	"	strb	w1, [x0]\n"
	"	subs	w4, w4, #1\n"
	"	b.ne	1b\n"
	"	adr	x5, 3f\n"
	"	msr	elr_el1, x5\n"
	"	mov	x5, #0x3c0\n"		/* EL0, interrupts masked */
	"	msr	spsr_el1, x5\n"
	"	isb\n"
	"	eret\n"
	"3:	mov	w1, #0x5a\n"
	"	strb	w1, [x0]\n"
	"	b	3b\n"
	"probe_kernel_end:\n"
	".popsection");
/*
 * Hidden: addressed directly. By way of the GOT a label that is local to the
 * assembly would be its section.
 */
#define LABEL extern const uint8_t __attribute__((visibility("hidden")))
LABEL probe_touch_start[], probe_touch_end[];
LABEL probe_kernel_start[], probe_kernel_end[];

static int probe_write(struct arch_boot *boot, struct memory *mem, const void *code, size_t bytes,
		       struct err *err)
{
	int r = gup_write(mem, GPA(PROBE_CODE), code, bytes, GUP_NOWAIT, NULL);

	*boot = (struct arch_boot){ .cpus = 1, .entry = PROBE_CODE };
	return r ? err_errno(err, r, "loading the probe's guest") : 0;
}

int arch_probe_load(struct arch_boot *boot, struct memory *mem, gpa_t touch, struct err *err)
{
	size_t bytes = (size_t)(probe_touch_end - probe_touch_start);
	uint8_t code[64];

	memcpy(code, probe_touch_start, bytes);
	memcpy(code + bytes - sizeof(touch.v), &touch.v, sizeof(touch.v));
	return probe_write(boot, mem, code, bytes, err);
}

int arch_probe_load_kernel_mode(struct arch_boot *boot, struct memory *mem, struct err *err)
{
	return probe_write(boot, mem, probe_kernel_start,
			   (size_t)(probe_kernel_end - probe_kernel_start), err);
}
