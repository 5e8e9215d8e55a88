// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * start.S - the bare guest's two ways in, its note, its page tables and stacks.
 *
 * entry: ring 3 of 64-bit mode, as bare.h says. No segment is loaded there: there is no
 * descriptor table.
 *
 * start32: 32-bit protected mode from a multiboot loader (`qemu -kernel`), on one cpu. The
 * header's address fields are needed because loaders refuse a 64-bit ELF without them; the
 * file is one piece for that reason, byte n of the image at file offset 0x1000 + n. Goes to
 * 64-bit mode and to ring 3 by REX.W SYSEXIT, since some KVMs interpret ring 0 and know
 * neither IRETQ nor SYSRET. SYSEXIT of 64-bit mode does not exist on AMD, but KVM emulates
 * it there; QEMU's own emulation has it only for a CPU whose vendor is Intel (-cpu
 * Nehalem).
 */
#define STACK_BYTES 8192
#define MAX_CPUS 128			/* those behind the 16th only wait */
#define PRESENT_USER 0x27		/* present, writable, user, accessed */
#define LARGE 0xe7			/* the same, dirty, 2 MiB */

	.section .head,"ax"
	.code32
	.globl _start
_start:
	.long 0x1badb002, 0x00010003, -(0x1badb002 + 0x00010003)
	.long _start, _start, _load_end, _bss_end, start32

start32:
	cli
	cld
	movl %ebx,%esi			/* multiboot information */
	lgdt gdt_pointer
	movl %cr4,%eax
	orl $0x620,%eax			/* PAE, OSFXSR, OSXMMEXCPT */
	movl %eax,%cr4
	movl $pml4,%eax
	movl %eax,%cr3
	movl $0xc0000080,%ecx		/* EFER.LME */
	rdmsr
	orl $0x100,%eax
	wrmsr
	movl $0x174,%ecx		/* SYSENTER_CS: SYSEXIT takes CS from +32, SS from +40 */
	movl $0x10,%eax
	xorl %edx,%edx
	wrmsr
	movl %cr0,%eax
	orl $0x80010023,%eax		/* PG, WP, NE, MP, PE */
	andl $0x9fffffff,%eax		/* not CD, NW */
	movl %eax,%cr0
	ljmp $0x10,$start64

	.code64
start64:
	movl $0x18,%eax
	movl %eax,%ss
	movl $0x2b,%eax
	movl %eax,%ds
	movl %eax,%es
	movq $stack_top,%rsp
	pushq $0x3002			/* IOPL 3 */
	popfq
	movq $entry_pc,%rdx
	movq $stack_top,%rcx
	sysexitq

entry_pc:
	movl $0x2b,%eax			/* SYSEXIT left 0x3b */
	movl %eax,%ss
	xorl %ebp,%ebp
	movl %esi,%edi
	call bare_main_pc
	ud2

	.globl entry
entry:
	xorl %ebp,%ebp
	call bare_main
	ud2

	.section .note.postern,"a",@note
	.balign 4
	.long 8, 56, 1
	.asciz "postern"
	.long 1, MAX_CPUS
	.quad pml4, entry, stack_top, STACK_BYTES, cfg, stats

	.data
	.balign 16
gdt:	.quad 0
	.quad 0x00cf9b000000ffff	/* 08 code, 32-bit */
	.quad 0x00af9b000000ffff	/* 10 code, 64-bit */
	.quad 0x00cf93000000ffff	/* 18 data */
	.quad 0x00cffb000000ffff	/* 20 code, 32-bit, ring 3 */
	.quad 0x00cff3000000ffff	/* 28 data, ring 3 */
	.quad 0x00affb000000ffff	/* 30 code, 64-bit, ring 3 */
	.quad 0x00cff3000000ffff	/* 38 data, ring 3 */
gdt_pointer:
	.word gdt_pointer - gdt - 1
	.long gdt

/* One to one: 20 GiB; main.c goes on, where there is more RAM, up to 1.5 TiB */
	.section .pagetable,"aw"
	.balign 4096
pml4:	.quad pdpt + PRESENT_USER, pdpt + 4096 + PRESENT_USER, pdpt + 8192 + PRESENT_USER
	.fill 509,8,0
	.globl pdpt
pdpt:
	.set i,0
	.rept 20
	.quad pd + i * 4096 + PRESENT_USER
	.set i,i + 1
	.endr
	.fill 3 * 512 - 20,8,0
pd:
	.set i,0
	.rept 20 * 512
	.quad (i << 21) | LARGE
	.set i,i + 1
	.endr

	.section .bss
	.balign 4096
	.skip MAX_CPUS * STACK_BYTES
stack_top:

	.section .note.GNU-stack,"",@progbits
