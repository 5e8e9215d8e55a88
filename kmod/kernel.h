/* SPDX-License-Identifier: GPL-2.0-only */
/* Copyright The postern authors */
/*
 * What differs between kernels and architectures: which function handles a
 * guest page fault, in which part of it KVM asks for the host's page, which one
 * writes stolen time, and whether the kernel does by itself what this module is
 * for.
 */
#ifndef POSTERN_INTR_KERNEL_H
#define POSTERN_INTR_KERNEL_H

#include <linux/kprobes.h>
#include <linux/kvm_host.h>
#include <linux/version.h>

#undef pr_fmt
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#if !defined(CONFIG_KRETPROBES) || !defined(CONFIG_USERFAULTFD)
#error "needs a kernel with CONFIG_KRETPROBES and CONFIG_USERFAULTFD"
#endif

#if defined(CONFIG_X86_64)

/*
 * Linux 6.2, and kernels with its changes put back into older ones: their
 * headers name the error pfn of an interrupted fault.
 */
#if defined(KVM_PFN_ERR_SIGPENDING) || LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
#define KERNEL_DOES_IT	1
#define FAULT_FUNCTION	NULL
#else
#define KERNEL_DOES_IT	0
/*
 * By reference, not by name: so the kernel's loader compares the checksum of
 * its prototype and of every structure in that with the headers this was built
 * with, loads kvm.ko first and keeps it loaded.
 */
#define FAULT_FUNCTION	((kprobe_opcode_t *)kvm_mmu_page_fault)
#endif
#define FAULT_NAME	NULL
/* Not helped; README.md has why. */
#define STEAL_NAME	NULL
/*
 * Exits that end in emulation reach guest memory from the same function; only
 * in these does KVM look for the page of the fault.
 */
#define FAULTIN_NAMES	{ "kvm_faultin_pfn", "try_async_pf", "kvm_faultin_pfn.isra.0", "try_async_pf.isra.0", \
			  "kvm_faultin_pfn.constprop.0", "try_async_pf.constprop.0", NULL }

#elif defined(CONFIG_ARM64)

#define KERNEL_DOES_IT	0
#define FAULT_FUNCTION	NULL
/*
 * KVM is built in and does not export it. No emulation here: the one
 * get_user_pages in it is for the page of the fault.
 */
#define FAULT_NAME	"kvm_handle_guest_abort"
#define FAULTIN_NAMES	{ NULL }
/* Reads and writes guest memory by get_user and put_user, before the guest is entered. */
#define STEAL_NAME	"kvm_update_stolen_time"

#else
#error "x86-64 and arm64 only"
#endif

#endif
