/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * The pages of its own that a nested guest's state names, and which KVM reads
 * or writes on its behalf: to be there before the state is set (early.c sends
 * them early, nested_check sees to it that they have come).
 */
#ifndef POSTERN_ARCH_X86_NESTED_PAGES_H
#define POSTERN_ARCH_X86_NESTED_PAGES_H

#include <linux/kvm.h>
#include <stdint.h>

#include "base/err.h"
#include "memory/memory.h"

/*
 * Calls fn for each range of guest physical memory that the state names, RAM or
 * not; they may repeat. state->size says how much of it there is. Stops at a
 * result that is not 0, and returns it.
 */
int nested_pages(const struct kvm_nested_state *state,
		 int (*fn)(void *arg, uint64_t gpa, uint64_t len_bytes), void *arg);
/* Have they all come? 0, or -EBADMSG naming the page. */
int nested_check(const struct memory *mem, const struct kvm_nested_state *state, struct err *err);

#endif
