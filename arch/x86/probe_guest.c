// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// The guests of kvm/probe.c: a few bytes of code at 0x1000, with an identity
// map of the first GiB in 2 MiB pages. One starts in ring 3 and touches a page;
// one starts in ring 0 and does what only some KVMs can: iretq, wrmsr of the
// system-call registers, sysret.
#include <string.h>

#include "arch/arch.h"

#define PROBE_CODE 0x1000
#define PROBE_PML4 0x2000
#define PROBE_PDPT 0x3000
#define PROBE_PD 0x4000
#define PROBE_STACK 0x8000

#define PTE_PRESENT_RW_USER 0x07ull
#define PTE_LARGE 0x80ull

/* Loads the page tables; the code goes to PROBE_CODE. */
static int probe_write(struct memory *mem, const void *code, size_t bytes, struct err *err)
{
	uint64_t pml4 = PROBE_PDPT | PTE_PRESENT_RW_USER, pdpt = PROBE_PD | PTE_PRESENT_RW_USER;
	uint64_t pd[512];
	unsigned int i;
	int r;

	for (i = 0; i < 512; i++)
		pd[i] = ((uint64_t)i << 21) | PTE_LARGE | PTE_PRESENT_RW_USER;
	r = gup_write(mem, GPA(PROBE_CODE), code, bytes, GUP_NOWAIT, NULL);
	if (!r)
		r = gup_write(mem, GPA(PROBE_PML4), &pml4, sizeof(pml4), GUP_NOWAIT, NULL);
	if (!r)
		r = gup_write(mem, GPA(PROBE_PDPT), &pdpt, sizeof(pdpt), GUP_NOWAIT, NULL);
	if (!r)
		r = gup_write(mem, GPA(PROBE_PD), pd, sizeof(pd), GUP_NOWAIT, NULL);
	return r ? err_errno(err, r, "loading the probe's guest") : 0;
}

int arch_probe_load(struct arch_boot *boot, struct memory *mem, gpa_t touch, struct err *err)
{
	uint8_t code[] = {
		0x48, 0xbb, 0, 0, 0, 0, 0, 0, 0, 0,	/* movabs $touch,%rbx */
		0x8a, 0x03,				/* mov (%rbx),%al */
		0xe6, 0x80,				/* out %al,$0x80 */
		0xeb, 0xfa,				/* back to the mov */
	};

	memcpy(code + 2, &touch.v, sizeof(touch.v));
	*boot = (struct arch_boot){
		.bare = true, .cpus = 1, .entry = PROBE_CODE, .stack = PROBE_STACK,
		.page_table = PROBE_PML4,
	};
	return probe_write(mem, code, sizeof(code), err);
}

/*
 * Position-independent, so that it can be copied to PROBE_CODE; the descriptor
 * table's base is that address.
 */
__asm__(".pushsection .rodata\n"
	".balign 8\n"
	"probe_kernel_start:\n"
	"	lgdt 3f(%rip)\n"
	"	movl $0x8000, %esp\n"
	"	pushq $0x18\n"
	"	pushq $0x8000\n"
	"	pushfq\n"
	"	pushq $0x10\n"
	"	leaq 1f(%rip), %rax\n"
	"	pushq %rax\n"
	"	iretq\n"
	"1:	movl $5, %ebx\n"
	"5:	movl $100000, %ecx\n"		/* ARCH_PROBE_LOOP_INSNS instructions */
	"6:	decl %ecx\n"
	"	jnz 6b\n"
	"	movb $0x4c, %al\n"
	"	outb %al, $0x80\n"
	"	decl %ebx\n"
	"	jnz 5b\n"
	"	movl $0xc0000080, %ecx\n"	/* EFER.SCE, and STAR for SYSRET: what a kernel leaves by */
	"	rdmsr\n"
	"	orl $1, %eax\n"
	"	wrmsr\n"
	"	movl $0xc0000081, %ecx\n"
	"	xorl %eax, %eax\n"
	"	movl $0x00200010, %edx\n"
	"	wrmsr\n"
	"	leaq 4f(%rip), %rcx\n"
	"	movl $0x3002, %r11d\n"		/* IOPL 3: port I/O from user mode */
	"	sysretq\n"
	"4:	movb $0x5a, %al\n"
	"	outb %al, $0x80\n"
	"	jmp 4b\n"
	".balign 8\n"
	"2:	.quad 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff\n"
	"3:	.word 31\n"
	"	.quad 0x1000 + 2b - probe_kernel_start\n"
	"probe_kernel_end:\n"
	".popsection");
extern const uint8_t probe_kernel_start[], probe_kernel_end[];

int arch_probe_load_kernel_mode(struct arch_boot *boot, struct memory *mem, struct err *err)
{
	*boot = (struct arch_boot){
		.cpus = 1, .entry = PROBE_CODE, .stack = PROBE_STACK, .page_table = PROBE_PML4,
	};
	return probe_write(mem, probe_kernel_start, (size_t)(probe_kernel_end - probe_kernel_start),
			   err);
}
