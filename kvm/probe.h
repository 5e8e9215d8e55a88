/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What this host's KVM can do, found by trying, not by reading a version.
 */
#ifndef POSTERN_KVM_PROBE_H
#define POSTERN_KVM_PROBE_H

#include "base/err.h"
#include "memory/eject.h"

/*
 * Lets a one-instruction guest wait for a missing page and sends its vCPU a
 * signal. *way becomes WAY_OUT_KERNEL when KVM_RUN comes back with -EINTR
 * within 200 ms, WAY_OUT_EJECT when it takes the eject; *us, if not NULL, how
 * long the way that worked took. Takes some milliseconds (some 200 ms on
 * kernels that need the eject).
 */
int probe_way_out(enum way_out *way, int64_t *us, struct err *err);

/*
 * Can this KVM run kernel-mode code as a stock kernel needs it? Some KVMs
 * without hardware virtualisation run user mode only. *can tells; *why, of
 * `size` bytes, what the guest did.
 */
int probe_kernel_mode(bool *can, char *why, size_t size, struct err *err);

#endif
