/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * This host's KVM, opened and asked what a VM's making needs to know of it. That
 * takes a third of a millisecond on x86, and is the same for each VM: so who
 * makes several asks once, and who makes one has it asked while memory slots are
 * made, which need nothing of it.
 */
#ifndef POSTERN_KVM_HOST_H
#define POSTERN_KVM_HOST_H

#include "base/err.h"

struct vm_host;

/*
 * Errors with advice: -ENOENT, -EACCES: no usable /dev/kvm; -ENOTSUP: it is not
 * what is needed. Any thread; nothing changes it afterwards.
 */
int vm_host_new(struct vm_host **out, struct err *err);
/*
 * The same, but not asked yet: vm_host_ask does that, or waits for another thread that does; once
 * it has succeeded it is nothing. Errors are KVM's, and each call tries anew. vm_new calls it.
 */
int vm_host_open(struct vm_host **out, struct err *err);
int vm_host_ask(struct vm_host *host, struct err *err);
/* No VM has it any more. NULL is nothing. */
void vm_host_free(struct vm_host *host);
/*
 * Makes an empty VM of KVM's default type, for the one machine that will be made here: its memory
 * need not be known for that. Where it cannot be made nothing happens, and vm_new says why.
 */
void vm_host_prepare(struct vm_host *host);
/* That VM's descriptor, the caller's from now on, once; -1: there is none of this type. */
int vm_host_take_vm(struct vm_host *host, unsigned long type);
/* /dev/kvm. */
int vm_host_fd(const struct vm_host *host);
/* What the architecture has asked (arch_host_ask); after vm_host_ask. */
const void *vm_host_asked(const struct vm_host *host);

#endif
